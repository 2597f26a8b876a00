//! The storage that rings and records are made of: words of 64 bits, each an atomic of its own. A misbehaving
//! peer can make them say anything, but never a data race.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// One word. There are two kinds, so that loom runs the code that production runs.
pub trait Word {
    /// Reads it.
    fn load(&self, ordering: Ordering) -> u64;
    /// Writes it.
    fn store(&self, value: u64, ordering: Ordering);
    /// A fence of the same kind of atomics.
    fn fence(ordering: Ordering);
}

impl Word for AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        self.load(ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        self.store(value, ordering);
    }

    fn fence(ordering: Ordering) {
        fence(ordering);
    }
}

#[cfg(loom)]
impl Word for loom::sync::atomic::AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        self.load(ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        self.store(value, ordering);
    }

    fn fence(ordering: Ordering) {
        loom::sync::atomic::fence(ordering);
    }
}

/// A run of words that both sides see.
pub trait Words {
    /// Its kind of word.
    type Word: Word;
    /// The words; always the same ones, and always as many.
    fn words(&self) -> &[Self::Word];
}

impl<W: Word> Words for std::sync::Arc<[W]> {
    type Word = W;

    fn words(&self) -> &[W] {
        self
    }
}
