//! The configured peers (the PAD of RFC 4301 4.4.3), who of them is wanted up, and when a failed
//! negotiation is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{PeerConfig, Settings};
use crate::identity::Identity;
use crate::suite::IkeProposal;

/// A peer and what is wanted of it.
pub(crate) struct Peer {
    pub(crate) config: Arc<PeerConfig>,
    /// It is to be up; failures are tried again.
    pub(crate) wanted: bool,
    /// The children that are to be up with it.
    pub(crate) children: BTreeSet<Arc<str>>,
    /// Where a peer without a fixed address was last known to be.
    pub(crate) last_remote: Option<std::net::SocketAddr>,
    /// Children that the peer has deleted, until they are tried again.
    pub(crate) deleted: BTreeSet<Arc<str>>,
    failures: u32,
    pub(crate) retry_at: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig) -> Self {
        let children = config
            .children
            .iter()
            .filter(|c| c.start)
            .map(|c| c.name.as_str().into());
        Self {
            wanted: config.start,
            children: children.collect(),
            last_remote: None,
            deleted: BTreeSet::new(),
            failures: 0,
            retry_at: None,
            config: Arc::new(config),
        }
    }

    /// Something failed: try again later, if that is wanted.
    pub(crate) fn failed(&mut self, now: Instant, settings: &Settings, jitter: Duration) {
        if self.wanted && self.config.keep_trying {
            let wait = settings
                .retry_initial
                .saturating_mul(1 << self.failures.min(16));
            self.failures += 1;
            self.retry_at = Some(now + wait.min(settings.retry_max) + jitter);
        } else {
            self.wanted &= self.config.start;
        }
    }

    /// Whether it is for us to bring this child up.
    pub(crate) fn starts(&self, child: &str) -> bool {
        self.children.contains(child) && self.config.child(child).is_some_and(|c| c.start)
    }

    /// The next pause is the first again.
    pub(crate) fn relent(&mut self) {
        self.failures = 0;
    }

    /// All that was wanted stands.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.retry_at = None;
        self.wanted = self.config.start;
    }
}

/// All peers by name.
#[derive(Default)]
pub(crate) struct Peers {
    all: BTreeMap<String, Peer>,
}

fn matches(configured: IpAddr, actual: IpAddr) -> bool {
    configured == actual
        || (configured.is_unspecified() && configured.is_ipv4() == actual.is_ipv4())
}

impl Peers {
    pub(crate) fn get(&self, name: &str) -> Option<&Peer> {
        self.all.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Peer> {
        self.all.get_mut(name)
    }

    pub(crate) fn insert(&mut self, peer: Peer) {
        self.all.insert(peer.config.name.clone(), peer);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.all.remove(name);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.all.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.all.values_mut()
    }

    /// The peers that may call from this address, those with a fixed address first.
    pub(crate) fn at(&self, local: IpAddr, remote: IpAddr) -> Vec<Arc<PeerConfig>> {
        let here = |p: &&Peer| matches(p.config.local, local) && matches(p.config.remote, remote);
        let mut found: Vec<_> = self.iter().filter(here).map(|p| p.config.clone()).collect();
        found.sort_by_key(|p| (p.remote.is_unspecified(), p.local.is_unspecified()));
        found
    }

    /// The peer that calls itself `theirs`, asks for `ours` and takes this suite.
    pub(crate) fn identified(
        &self,
        (local, remote): (IpAddr, IpAddr),
        theirs: &Identity,
        ours: Option<&Identity>,
        suite: IkeProposal,
    ) -> Option<Arc<PeerConfig>> {
        self.at(local, remote).into_iter().find(|p| {
            p.remote_id.accepts(theirs)
                && ours.is_none_or(|ours| p.local_id == *ours)
                && p.ike_proposals.contains(&suite)
        })
    }
}
