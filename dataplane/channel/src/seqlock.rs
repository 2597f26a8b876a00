//! A table of records that one thread writes and anybody reads without holding it up: each record carries a count
//! that is odd while it is written, and a reader that sees it change reads again.

use crate::words::{Word, Words};
use std::sync::atomic::Ordering;

/// How often a reader tries before it says [`Busy`].
///
/// Under loom each attempt multiplies the interleavings.
pub const READ_ATTEMPTS: usize = if cfg!(loom) { 2 } else { 64 };

/// The record was being written at every attempt to read it, or there is none of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record could not be read whole")]
pub struct Busy;

/// A table of records of `RECORD` words, of which the first is the count.
///
/// Invariant of use: at any time one thread writes a record.
#[derive(Debug, Clone)]
pub struct SeqlockTable<S, const RECORD: usize> {
    storage: S,
}

impl<S: Words, const RECORD: usize> SeqlockTable<S, RECORD> {
    /// The table in `storage`.
    pub const fn new(storage: S) -> Self {
        Self { storage }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.storage.words().len() / RECORD
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn record(&self, index: usize) -> Option<(&S::Word, &[S::Word])> {
        let first = index.checked_mul(RECORD)?;
        let record = self
            .storage
            .words()
            .get(first..first.checked_add(RECORD)?)?;
        record.split_first()
    }

    /// One word of a record, by itself; 0 when there is none. The writer's own look at what it wrote, or a reader's
    /// glance before it reads the whole.
    pub fn peek(&self, index: usize, at: usize) -> u64 {
        self.record(index)
            .and_then(|(_, words)| words.get(at.checked_sub(1)?))
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Whether a record was ever written.
    pub fn is_touched(&self, index: usize) -> bool {
        self.record(index)
            .is_some_and(|(count, _)| count.load(Ordering::Relaxed) != 0)
    }

    /// Writes `words` into a record from word `at` on, the count being word 0. What does not fit is left out.
    pub fn write(&self, index: usize, at: usize, words: &[u64]) {
        let Some((count, record)) = self.record(index) else {
            return;
        };
        let Some(record) = at.checked_sub(1).and_then(|at| record.get(at..)) else {
            return;
        };
        let odd = count.load(Ordering::Relaxed) | 1;
        count.store(odd, Ordering::Relaxed);
        // No word is written before the count is odd.
        S::Word::fence(Ordering::Release);
        for (to, from) in record.iter().zip(words) {
            to.store(*from, Ordering::Relaxed);
        }
        count.store(odd.wrapping_add(1), Ordering::Release);
    }

    /// Reads a record; its count comes as word 0.
    ///
    /// # Errors
    ///
    /// [`Busy`] after [`READ_ATTEMPTS`] attempts.
    pub fn read(&self, index: usize, words: &mut [u64; RECORD]) -> Result<(), Busy> {
        let (count, record) = self.record(index).ok_or(Busy)?;
        for _ in 0..READ_ATTEMPTS {
            let before = count.load(Ordering::Acquire);
            if before & 1 == 0 {
                let [first, rest @ ..] = &mut words[..] else {
                    return Err(Busy);
                };
                *first = before;
                for (to, from) in rest.iter_mut().zip(record) {
                    *to = from.load(Ordering::Relaxed);
                }
                // No word is read after the count is read again.
                S::Word::fence(Ordering::Acquire);
                if count.load(Ordering::Relaxed) == before {
                    return Ok(());
                }
            }
            std::hint::spin_loop();
        }
        Err(Busy)
    }
}
