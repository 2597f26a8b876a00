//! Where everything is in the shared memory, and the hash by which two builds know that they agree on it.

use crate::{
    CAPTURE_SLOTS, Counter, PortCounter, Setup, WorkerId, capture::CAPTURE_WORDS, ledger,
    mapping::Mapping, mapping::Region, record, ring::ring_words,
};
use std::sync::Arc;

/// The first word of the segment and of every message: "esplanad".
pub const MAGIC: u64 = u64::from_le_bytes(*b"esplanad");
/// Raised by hand when the meaning of something changes and its shape does not.
pub const VERSION: u32 = 8;
/// The slots of a command ring.
pub const COMMAND_SLOTS: usize = 1024;
/// The slots of an event ring.
pub const EVENT_SLOTS: usize = 1024;

/// Two pairs of cache lines never share: the adjacent-line prefetcher fetches two at a time.
const LINE_WORDS: usize = 16;
const PAGE_WORDS: usize = 512;

/// The words of the header.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`super::VERSION`].
    pub const VERSION: usize = 1;
    /// [`super::layout_hash`].
    pub const HASH: usize = 2;
    /// The dataplane's epoch.
    pub const EPOCH: usize = 3;
    /// The dataplane's process id.
    pub const PID: usize = 4;
    /// The name of the crypto engine, four words of UTF-8.
    pub const ENGINE: usize = 8;
    /// The words of the engine's name.
    pub const ENGINE_WORDS: usize = 4;
    /// A word of facts for each port.
    pub const PORTS: usize = 16;
    /// All of it.
    pub const WORDS: usize = PORTS + crate::MAX_PORTS;
}

/// The words of a worker's block of counters: its own, then those of each port.
const fn counter_words(ports: usize) -> usize {
    (Counter::COUNT + ports * PortCounter::COUNT).next_multiple_of(LINE_WORDS)
}

/// Where things are, given what the setup asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    rings: usize,
    ports: usize,
    sa_capacity: usize,
}

impl Layout {
    pub const fn new(setup: &Setup) -> Self {
        Self {
            rings: setup.workers.len() + 1,
            ports: setup.ports.len(),
            sa_capacity: setup.sa_capacity as usize,
        }
    }

    /// The workers and the steward.
    pub const fn rings(&self) -> usize {
        self.rings
    }

    const fn heartbeats(&self) -> usize {
        header::WORDS.next_multiple_of(LINE_WORDS)
    }

    const fn counter_blocks(&self) -> usize {
        self.heartbeats() + self.rings * LINE_WORDS
    }

    const fn command_rings(&self) -> usize {
        let end = self.counter_blocks() + self.rings * counter_words(self.ports);
        end.next_multiple_of(PAGE_WORDS)
    }

    const fn event_rings(&self) -> usize {
        self.command_rings() + self.rings * ring_words::<{ record::COMMAND_WORDS }>(COMMAND_SLOTS)
    }

    const fn sa_table_start(&self) -> usize {
        let end =
            self.event_rings() + self.rings * ring_words::<{ record::EVENT_WORDS }>(EVENT_SLOTS);
        end.next_multiple_of(PAGE_WORDS)
    }

    const fn capture_rings(&self) -> usize {
        let end = self.sa_table_start() + self.sa_capacity * record::SA_WORDS;
        end.next_multiple_of(PAGE_WORDS)
    }

    const fn ledgers(&self) -> usize {
        let end =
            self.capture_rings() + (self.rings - 1) * ring_words::<CAPTURE_WORDS>(CAPTURE_SLOTS);
        end.next_multiple_of(PAGE_WORDS)
    }

    const fn ledger_words(&self) -> usize {
        ledger::accounts(self.sa_capacity) * ledger::ACCOUNT_WORDS
    }

    /// The words of the whole segment.
    pub const fn words(&self) -> usize {
        let end = self.ledgers() + (self.rings - 1) * self.ledger_words();
        end.next_multiple_of(PAGE_WORDS)
    }

    pub fn header(&self, mapping: &Arc<Mapping>) -> Region {
        Region::new(mapping, 0, header::WORDS)
    }

    pub fn heartbeat(&self, mapping: &Arc<Mapping>, ring: WorkerId) -> Region {
        let first = self.heartbeats() + usize::from(ring.0) * LINE_WORDS;
        Region::new(mapping, first, 1)
    }

    pub fn counters(&self, mapping: &Arc<Mapping>, ring: WorkerId) -> Region {
        let words = counter_words(self.ports);
        let first = self.counter_blocks() + usize::from(ring.0) * words;
        Region::new(mapping, first, words)
    }

    pub fn command_ring(&self, mapping: &Arc<Mapping>, ring: WorkerId) -> Region {
        let words = ring_words::<{ record::COMMAND_WORDS }>(COMMAND_SLOTS);
        let first = self.command_rings() + usize::from(ring.0) * words;
        Region::new(mapping, first, words)
    }

    pub fn event_ring(&self, mapping: &Arc<Mapping>, ring: WorkerId) -> Region {
        let words = ring_words::<{ record::EVENT_WORDS }>(EVENT_SLOTS);
        let first = self.event_rings() + usize::from(ring.0) * words;
        Region::new(mapping, first, words)
    }

    /// Of a worker; the steward has none.
    pub fn capture_ring(&self, mapping: &Arc<Mapping>, worker: WorkerId) -> Option<Region> {
        let words = ring_words::<CAPTURE_WORDS>(CAPTURE_SLOTS);
        let worker = usize::from(worker.0);
        let first = self.capture_rings() + worker * words;
        (worker + 1 < self.rings).then(|| Region::new(mapping, first, words))
    }

    /// Of a worker; the steward has none.
    pub fn ledger(&self, mapping: &Arc<Mapping>, worker: WorkerId) -> Option<Region> {
        let worker = usize::from(worker.0);
        let first = self.ledgers() + worker * self.ledger_words();
        (worker + 1 < self.rings).then(|| Region::new(mapping, first, self.ledger_words()))
    }

    pub fn sa_table(&self, mapping: &Arc<Mapping>) -> Region {
        let words = self.sa_capacity * record::SA_WORDS;
        Region::new(mapping, self.sa_table_start(), words)
    }
}

/// What both builds must agree on: shapes of records, sizes of tables, the lists of counters.
pub const LAYOUT_HASH: u64 = {
    let mut hash = Fnv::new();
    let constants = [
        VERSION as usize,
        header::WORDS,
        LINE_WORDS,
        PAGE_WORDS,
        COMMAND_SLOTS,
        EVENT_SLOTS,
        CAPTURE_SLOTS,
        CAPTURE_WORDS,
        ledger::ACCOUNT_WORDS,
        ledger::REACH,
        crate::ring::HEADER_WORDS,
        crate::MAX_WORKERS,
        crate::MAX_PORTS,
    ];
    hash = hash.numbers(&constants);
    let mut i = 0;
    while i < record::SHAPES.len() {
        hash = hash.numbers(record::SHAPES[i]);
        i += 1;
    }
    i = 0;
    while i < Counter::COUNT {
        hash = hash.bytes(Counter::ALL[i].name().as_bytes());
        i += 1;
    }
    i = 0;
    while i < PortCounter::COUNT {
        hash = hash.bytes(PortCounter::ALL[i].name().as_bytes());
        i += 1;
    }
    hash.0
};

/// Fowler, Noll and Vo's hash 1a of 64 bits, which a compiler can compute.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    const fn bytes(mut self, bytes: &[u8]) -> Self {
        let mut i = 0;
        while i < bytes.len() {
            self.0 = (self.0 ^ bytes[i] as u64).wrapping_mul(0x100_0000_01b3);
            i += 1;
        }
        self
    }

    const fn numbers(mut self, numbers: &[usize]) -> Self {
        let mut i = 0;
        while i < numbers.len() {
            self = self.bytes(&(numbers[i] as u64).to_le_bytes());
            i += 1;
        }
        self
    }
}
