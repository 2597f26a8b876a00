//! What all IKE SAs of a gateway share: settings, peers, child SAs, randomness and the queues
//! towards the outside. IKE SAs ask for changes among each other by [`Signal`]s.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::children::ChildTable;
use crate::config::Settings;
use crate::counters::{Counter, Counters};
use crate::endpoint::SpiAllocator;
use crate::error::{CloseReason, Refusal};
use crate::event::{Event, Path, Transmit};
use crate::peers::Peers;
use crate::pools::Pools;
use crate::provider::Provider;
use crate::sa::{IkeSa, Task};

/// Names an IKE SA within its endpoint; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SaKey(pub(crate) u64);

/// What an IKE SA wants done to others; the endpoint sees to it after each call.
pub(crate) enum Signal {
    /// A new IKE SA, from a rekey.
    Spawn(Box<IkeSa>),
    /// An IKE SA was authenticated.
    Established(SaKey),
    /// The peer of this new IKE SA says that it knows no other.
    InitialContact(SaKey),
    /// An IKE SA that was asked whether its peer lives got an answer.
    Alive(SaKey),
    /// The peer of an IKE SA has shown that it holds it.
    Proven(SaKey),
    /// An IKE SA has been replaced by the peer's, which the peer will confirm by DELETE.
    Superseded(SaKey),
    /// A task goes over to another IKE SA.
    Hand(SaKey, Task),
    /// An IKE SA with this peer came to its end.
    Closed(SaKey, String, CloseReason),
    /// A child could not be negotiated on an IKE SA that stays.
    ChildFailed(SaKey),
    /// The peer has deleted a child SA, installed then, but not its IKE SA.
    ChildDeleted(SaKey, Arc<str>, Instant),
    /// A child is to be made from scratch on this IKE SA.
    ChildWanted(SaKey, Arc<str>),
}

/// The shared part of an endpoint.
pub(crate) struct Gateway {
    pub(crate) settings: Settings,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) spis: Box<dyn SpiAllocator>,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) peers: Peers,
    pub(crate) children: ChildTable,
    pub(crate) pools: Pools,
    pub(crate) counters: Counters,
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) signals: VecDeque<Signal>,
    /// The IKE SAs that were authenticated and have not ended.
    pub(crate) standing: HashSet<SaKey>,
    /// Peers that have lost something, and are forgotten if they are instances and have nothing left.
    pub(crate) idle: Vec<Arc<str>>,
    next_key: u64,
    strangers: RateLimit,
    /// A moment, and the seconds since 1970 that it was.
    wall: Option<(Instant, u64)>,
}

impl Gateway {
    pub(crate) fn new(
        settings: Settings,
        provider: Arc<dyn Provider>,
        spis: Box<dyn SpiAllocator>,
        seed: [u8; 32],
    ) -> Self {
        Self {
            settings,
            provider,
            spis,
            rng: ChaCha20Rng::from_seed(seed),
            peers: Peers::default(),
            children: ChildTable::default(),
            pools: Pools::default(),
            counters: Counters::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            signals: VecDeque::new(),
            standing: HashSet::new(),
            idle: Vec::new(),
            next_key: 0,
            strangers: RateLimit::default(),
            wall: None,
        }
    }

    pub(crate) fn set_wall_clock(&mut self, now: Instant, seconds: u64) {
        self.wall = Some((now, seconds));
    }

    /// Seconds since 1970, where the time of day was told.
    pub(crate) fn wall_clock(&self, now: Instant) -> Option<u64> {
        let (then, seconds) = self.wall?;
        Some(seconds + now.saturating_duration_since(then).as_secs())
    }

    pub(crate) fn new_key(&mut self) -> SaKey {
        self.next_key += 1;
        SaKey(self.next_key)
    }

    /// An IKE SPI. RFC 7296 3.1: "This value MUST NOT be zero."
    pub(crate) fn new_ike_spi(&mut self) -> u64 {
        self.rng.next_u64().max(1)
    }

    /// A nonce. RFC 7296 2.10: "Nonces (...) MUST be at least 128 bits in size, and MUST be at
    /// least half the key size of the negotiated pseudorandom function".
    pub(crate) fn new_nonce(&mut self) -> Vec<u8> {
        self.random(32)
    }

    /// So many random octets.
    pub(crate) fn random(&mut self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.rng.fill_bytes(&mut octets);
        octets
    }

    /// A duration shortened by up to a tenth, so that lifetimes of many SAs do not end together.
    pub(crate) fn jittered(&mut self, duration: Duration) -> Duration {
        let share = self.rng.next_u32() % 1024;
        duration - duration / 10 * share / 1024
    }

    pub(crate) fn count(&mut self, counter: Counter) {
        self.counters.count(counter);
    }

    pub(crate) fn transmit(&mut self, path: Path, data: Vec<u8>) {
        self.count(Counter::Sent);
        self.transmits.push_back(Transmit {
            path,
            data,
            keepalive: false,
        });
    }

    /// Sends all the datagrams of one message.
    pub(crate) fn transmit_all(&mut self, path: Path, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.transmit(path, datagram.clone());
        }
    }

    pub(crate) fn refused(&mut self, peer: Option<&str>, path: Path, reason: Refusal) {
        self.events.push_back(Event::Refused {
            peer: peer.map(str::to_owned),
            remote: path.remote,
            reason,
        });
    }

    /// Whether one more unprotected answer or event about a stranger is within the rate.
    pub(crate) fn admit_stranger(&mut self, now: Instant) -> bool {
        let admitted = self.strangers.admit(now, self.settings.stranger_rate);
        if !admitted {
            self.count(Counter::RateLimited);
        }
        admitted
    }
}

/// At most so many a second.
#[derive(Debug, Default)]
struct RateLimit {
    second: Option<Instant>,
    used: u32,
}

impl RateLimit {
    fn admit(&mut self, now: Instant, rate: u32) -> bool {
        let over = self
            .second
            .is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1));
        if over {
            (self.second, self.used) = (Some(now), 0);
        }
        self.used = self.used.saturating_add(1);
        self.used <= rate
    }
}
