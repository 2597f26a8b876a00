//! The IKE SAs of an endpoint with the indexes by which they are found. An IKE SA is taken out to
//! be worked on and put back, which brings the indexes up to date.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::gateway::SaKey;
use crate::sa::IkeSa;

struct Entry {
    sa: IkeSa,
    due: Option<Instant>,
    peer: Option<Arc<str>>,
    half_open: bool,
}

/// All IKE SAs.
#[derive(Default)]
pub(super) struct SaTable {
    all: BTreeMap<SaKey, Entry>,
    by_spi: HashMap<u64, SaKey>,
    /// Those that we answered, by the initiator's address and SPI.
    by_initiator: HashMap<(SocketAddr, u64), SaKey>,
    initiators: HashMap<SaKey, (SocketAddr, u64)>,
    by_peer: BTreeSet<(Arc<str>, SaKey)>,
    by_time: BTreeSet<(Instant, SaKey)>,
    half_open: usize,
}

impl SaTable {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) const fn half_open(&self) -> usize {
        self.half_open
    }

    pub(super) fn get(&self, key: SaKey) -> Option<&IkeSa> {
        self.all.get(&key).map(|entry| &entry.sa)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &IkeSa> {
        self.all.values().map(|entry| &entry.sa)
    }

    pub(super) fn keys(&self) -> Vec<SaKey> {
        self.all.keys().copied().collect()
    }

    /// The IKE SAs of a peer, the oldest first.
    pub(super) fn of_peer(&self, peer: &str) -> Vec<SaKey> {
        let key = |key| (Arc::from(peer), SaKey(key));
        self.by_peer
            .range(key(0)..=key(u64::MAX))
            .map(|(_, key)| *key)
            .collect()
    }

    pub(super) fn by_spi(&self, local_spi: u64) -> Option<SaKey> {
        self.by_spi.get(&local_spi).copied()
    }

    pub(super) fn by_initiator(&self, from: SocketAddr, spi: u64) -> Option<SaKey> {
        self.by_initiator.get(&(from, spi)).copied()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.by_time.first().map(|&(due, _)| due)
    }

    pub(super) fn due(&self, now: Instant) -> Vec<SaKey> {
        self.by_time
            .iter()
            .take_while(|(due, _)| *due <= now)
            .map(|&(_, key)| key)
            .collect()
    }

    /// Remembers from where an IKE SA was asked for, so that a repeated request finds it.
    pub(super) fn note_initiator(&mut self, from: SocketAddr, spi: u64, key: SaKey) {
        self.by_initiator.insert((from, spi), key);
        self.initiators.insert(key, (from, spi));
    }

    pub(super) fn put(&mut self, sa: IkeSa) {
        let key = sa.key;
        if sa.is_closed() {
            return self.forget(key);
        }
        let peer = sa.peer.as_ref().map(|peer| peer.name.clone());
        let (due, half_open) = (sa.poll_timeout(), sa.is_half_open());
        self.by_spi.insert(sa.local_spi, key);
        self.by_peer.extend(peer.clone().map(|peer| (peer, key)));
        self.by_time.extend(due.map(|due| (due, key)));
        self.half_open += usize::from(half_open);
        self.all.insert(
            key,
            Entry {
                sa,
                due,
                peer,
                half_open,
            },
        );
    }

    pub(super) fn take(&mut self, key: SaKey) -> Option<IkeSa> {
        let entry = self.all.remove(&key)?;
        self.by_spi.remove(&entry.sa.local_spi);
        if let Some(peer) = entry.peer {
            self.by_peer.remove(&(peer, key));
        }
        if let Some(due) = entry.due {
            self.by_time.remove(&(due, key));
        }
        self.half_open -= usize::from(entry.half_open);
        Some(entry.sa)
    }

    fn forget(&mut self, key: SaKey) {
        if let Some(initiator) = self.initiators.remove(&key) {
            self.by_initiator.remove(&initiator);
        }
    }
}
