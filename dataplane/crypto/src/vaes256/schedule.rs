//! What a kernel needs of a key: round keys (FIPS 197 5.2) and the powers of the hash key (SP 800-38D 6.3).

use super::ghash;
use crate::gcm::{self, Block};
use core::arch::x86_64::*;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The most round keys, those of AES-256.
const ROUND_KEYS: usize = 15;
/// The rounds that AES has with every length of key, but for the last.
pub(super) const ROUNDS: usize = 9;
/// A cache line.
const LINE: usize = 64;
/// The highest power of H that a kernel multiplies by: 14 blocks, the block of the lengths, and additional data before them.
pub(super) const POWERS: usize = 16;

/// A key, in eight cache lines.
#[repr(C, align(64))]
pub(crate) struct Schedule {
    /// Aligned at their end, so that the last ten have the same places with every length of key. The first holds the salt
    /// too: AES begins by adding this key to the counter block, whose salt never changes.
    round_keys: [Block; ROUND_KEYS],
    /// Where the first one is.
    first: u8,
    _rest: [u8; 15],
    /// From the highest to H itself, so that consecutive blocks meet consecutive powers.
    powers: [Block; POWERS],
}

const _: () = assert!(size_of::<Schedule>() == 8 * LINE);

impl Schedule {
    /// `None` when the CPU lacks the instructions or no AES key is that long.
    pub(crate) fn new(key: &[u8], salt: [u8; 4]) -> Option<Box<Self>> {
        if !super::is_available() || !matches!(key.len(), 16 | 24 | 32) {
            return None;
        }
        let rounds = key.len() / 4 + 6;
        let mut schedule = Box::new(Self {
            round_keys: [[0; 16]; ROUND_KEYS],
            first: (ROUND_KEYS - 1 - rounds) as u8,
            _rest: [0; 15],
            powers: [[0; 16]; POWERS],
        });
        // SAFETY: the features were just found.
        unsafe { schedule.expand(key, salt) };
        Some(schedule)
    }

    /// Fetches what a kernel reads.
    #[inline]
    pub(super) fn prefetch(&self) {
        let start = core::ptr::from_ref(self).cast::<i8>();
        for line in 0..size_of::<Self>() / LINE {
            // SAFETY: the CPU has SSE, and the lines are of this schedule.
            unsafe { _mm_prefetch(start.wrapping_add(LINE * line), _MM_HINT_T0) };
        }
    }

    /// The rounds that it has more than AES-128, in twos: none, one or two.
    #[inline]
    pub(super) fn twos_more(&self) -> usize {
        (ROUND_KEYS - 2 - ROUNDS - usize::from(self.first)) / 2
    }

    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    fn key(&self, at: usize) -> __m256i {
        _mm256_broadcastsi128_si256(gcm::load_block(&self.round_keys[at]))
    }

    /// What is added to the counter block, in both lanes.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn first_key(&self) -> __m256i {
        let at = usize::from(self.first);
        debug_assert!(at < ROUND_KEYS);
        // SAFETY: it was made from the number of rounds.
        _mm256_broadcastsi128_si256(gcm::load_block(unsafe {
            self.round_keys.get_unchecked(at)
        }))
    }

    /// The keys of the last or last but one of [`Self::twos_more`], which come first.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn two_keys<const BEFORE: usize>(&self) -> [__m256i; 2] {
        let at = ROUND_KEYS - 3 - ROUNDS - 2 * BEFORE;
        [self.key(at), self.key(at + 1)]
    }

    /// The key of one of nine rounds, in both lanes.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn round_key(&self, round: usize) -> __m256i {
        self.key(ROUND_KEYS - 1 - ROUNDS + round)
    }

    /// The key of the last round, in both lanes.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn last_key(&self) -> __m256i {
        self.key(ROUND_KEYS - 1)
    }

    /// The power of H.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn power(&self, power: usize) -> __m128i {
        gcm::load_block(&self.powers[(POWERS - power) % POWERS])
    }

    /// Two consecutive powers, from `highest` down.
    ///
    /// # Safety
    ///
    /// `highest` is at least 2 and at most [`POWERS`].
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) unsafe fn powers(&self, highest: usize) -> __m256i {
        debug_assert!((2..=POWERS).contains(&highest));
        // SAFETY: reads two of the powers, by the caller's promise.
        unsafe { _mm256_loadu_si256(self.powers.as_ptr().add(POWERS - highest).cast()) }
    }

    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    fn expand(&mut self, key: &[u8], salt: [u8; 4]) {
        let first = usize::from(self.first);
        let keys = &mut self.round_keys[first..];
        gcm::expand_round_keys(keys, key);
        let h = gcm::hash_key(keys);
        let mut power = h;
        for slot in self.powers.iter_mut().rev() {
            gcm::store_block(slot, power);
            power = ghash::multiply(power, h);
        }
        for (byte, salt) in keys.as_flattened_mut().iter_mut().zip(salt) {
            *byte ^= salt;
        }
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.round_keys.zeroize();
        self.powers.zeroize();
    }
}

impl ZeroizeOnDrop for Schedule {}
