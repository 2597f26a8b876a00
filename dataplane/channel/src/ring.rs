//! A ring of one producer and one consumer, of slots of a fixed number of words.
//!
//! The head counts what was pushed, the tail what was done with: a consumer takes slots out, wipes them, and
//! moves the tail only when it has applied them, so the tail is the acknowledgement. Both counts live in the shared
//! words alone, so a side that comes back goes on where it stopped.
//!
//! Neither side believes the other: a count that cannot be is a full ring to the producer and [`Corrupt`] to the consumer.

use crate::words::{Word, Words};
use std::sync::atomic::Ordering;

/// The words before the slots: head and tail, each alone on two cache lines.
pub const HEADER_WORDS: usize = 32;
const HEAD: usize = 0;
const TAIL: usize = 16;

/// How many slots had been pushed when this one had been: the ring's n-th, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// The ring has no free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring is full")]
pub struct Full;

/// The other side's count cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring is corrupt: the other side counts more slots than there are")]
pub struct Corrupt;

/// The words of a ring of `capacity` slots of `SLOT` words.
pub const fn ring_words<const SLOT: usize>(capacity: usize) -> usize {
    HEADER_WORDS + capacity * SLOT
}

/// What both sides know: where the counts and slots are.
#[derive(Debug)]
struct Ring<S, const SLOT: usize> {
    storage: S,
    capacity: u64,
}

impl<S: Words, const SLOT: usize> Ring<S, SLOT> {
    /// `None` when the storage is not that of a power of two of slots.
    fn new(storage: S) -> Option<Self> {
        let slots = storage.words().len().checked_sub(HEADER_WORDS)? / SLOT;
        let whole = storage.words().len() == ring_words::<SLOT>(slots);
        (whole && slots.is_power_of_two()).then_some(Self {
            storage,
            capacity: slots as u64,
        })
    }

    fn load(&self, at: usize, ordering: Ordering) -> u64 {
        self.storage
            .words()
            .get(at)
            .map_or(0, |word| word.load(ordering))
    }

    fn store(&self, at: usize, value: u64, ordering: Ordering) {
        if let Some(word) = self.storage.words().get(at) {
            word.store(value, ordering);
        }
    }

    fn slot(&self, count: u64) -> &[S::Word] {
        let index = (count & (self.capacity - 1)) as usize;
        let first = HEADER_WORDS + index * SLOT;
        self.storage
            .words()
            .get(first..first + SLOT)
            .unwrap_or_default()
    }
}

/// The side that pushes. There is one for a ring.
#[derive(Debug)]
pub struct Producer<S, const SLOT: usize> {
    ring: Ring<S, SLOT>,
    head: u64,
    /// The tail when last seen; asked anew only when the ring looks full.
    tail: u64,
}

impl<S: Words, const SLOT: usize> Producer<S, SLOT> {
    /// Takes up a ring where its last producer left it; `None` when the storage is not a ring's.
    pub fn attach(storage: S) -> Option<Self> {
        let ring = Ring::new(storage)?;
        let head = ring.load(HEAD, Ordering::Acquire);
        let tail = ring.load(TAIL, Ordering::Acquire);
        Some(Self { ring, head, tail })
    }

    /// Pushes one slot.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was pushed.
    pub fn push(&mut self, words: &[u64; SLOT]) -> Result<Sequence, Full> {
        if self.head.wrapping_sub(self.tail) >= self.ring.capacity {
            // Acquire: the consumer's wiping of the slot comes before our writing it.
            self.tail = self.ring.load(TAIL, Ordering::Acquire);
            if self.head.wrapping_sub(self.tail) >= self.ring.capacity {
                return Err(Full);
            }
        }
        for (to, from) in self.ring.slot(self.head).iter().zip(words) {
            to.store(*from, Ordering::Relaxed);
        }
        self.head = self.head.wrapping_add(1);
        self.ring.store(HEAD, self.head, Ordering::Release);
        Ok(Sequence(self.head))
    }

    /// How many slots are free at least.
    pub fn room(&mut self) -> u64 {
        self.tail = self.ring.load(TAIL, Ordering::Acquire);
        let used = self.head.wrapping_sub(self.tail);
        self.ring.capacity.saturating_sub(used)
    }

    /// The last slot that was pushed.
    pub fn pushed(&self) -> Sequence {
        Sequence(self.head)
    }

    /// The last slot that the consumer has applied.
    pub fn applied(&self) -> Sequence {
        Sequence(self.ring.load(TAIL, Ordering::Acquire))
    }
}

/// The side that takes. There is one for a ring.
#[derive(Debug)]
pub struct Consumer<S, const SLOT: usize> {
    ring: Ring<S, SLOT>,
    /// The head when last seen; asked anew only when the ring looks empty.
    head: u64,
    /// How many were taken; the shared tail follows with [`Consumer::applied`].
    taken: u64,
}

impl<S: Words, const SLOT: usize> Consumer<S, SLOT> {
    /// Takes up a ring where its last consumer left it; `None` when the storage is not a ring's.
    pub fn attach(storage: S) -> Option<Self> {
        let ring = Ring::new(storage)?;
        let taken = ring.load(TAIL, Ordering::Acquire);
        Some(Self {
            ring,
            head: taken,
            taken,
        })
    }

    /// Takes the next slot into `words` and wipes it; `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]: the producer's count makes no sense, and nothing was taken.
    pub fn take(&mut self, words: &mut [u64; SLOT]) -> Result<Option<Sequence>, Corrupt> {
        if self.head == self.taken {
            let head = self.ring.load(HEAD, Ordering::Acquire);
            let tail = self.ring.load(TAIL, Ordering::Relaxed);
            // What was taken and not yet applied still counts.
            if head.wrapping_sub(tail) > self.ring.capacity
                || head.wrapping_sub(self.taken) > self.ring.capacity
            {
                return Err(Corrupt);
            }
            if head == self.taken {
                return Ok(None);
            }
            self.head = head;
        }
        for (to, from) in words.iter_mut().zip(self.ring.slot(self.taken)) {
            *to = from.load(Ordering::Relaxed);
            from.store(0, Ordering::Relaxed);
        }
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(Sequence(self.taken)))
    }

    /// Says that all up to the last slot taken is applied.
    pub fn applied(&mut self) {
        self.ring.store(TAIL, self.taken, Ordering::Release);
    }
}
