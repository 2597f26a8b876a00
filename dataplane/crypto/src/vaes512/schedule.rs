//! What a kernel needs of a key: round keys (FIPS 197 5.2) and the powers of the hash key (SP 800-38D 6.3).

use super::ghash;
use crate::gcm::{self, Block};
use core::arch::x86_64::*;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The most round keys, those of AES-256.
const ROUND_KEYS: usize = 15;
/// A cache line.
const LINE: usize = 64;
/// The highest power of H that a kernel multiplies by: 32 blocks, the length block, and additional data before them.
pub(super) const POWERS: usize = 34;

/// A key, laid out in the order in which cache lines are needed: a packet of AES-128 up to 64 bytes touches five of thirteen.
#[repr(C, align(64))]
pub(crate) struct Schedule {
    /// The first holds the salt too: AES begins by adding this key to the counter block, whose salt never changes.
    round_keys: [Block; ROUND_KEYS],
    /// From the highest down, so that consecutive blocks meet consecutive powers, and beyond H itself to its inverse: a sum
    /// over lanes may have more of them than the text behind it. H to the 33rd begins a cache line.
    powers: [Block; POWERS + 2],
    rounds: u8,
    _rest: [u8; 15],
}

const _: () = assert!(size_of::<Schedule>() == 13 * 64);
const _: () = assert!(core::mem::offset_of!(Schedule, powers) % 64 == 48);

/// The rounds of AES (FIPS 197 5).
#[inline]
const fn rounds(key_len: usize) -> usize {
    key_len / 4 + 6
}

impl Schedule {
    /// `None` when the CPU lacks the instructions or no AES key is that long.
    pub(crate) fn new(key: &[u8], salt: [u8; 4]) -> Option<Box<Self>> {
        if !super::is_available() || !matches!(key.len(), 16 | 24 | 32) {
            return None;
        }
        let mut schedule = Box::new(Self {
            round_keys: [[0; 16]; ROUND_KEYS],
            powers: [[0; 16]; POWERS + 2],
            rounds: rounds(key.len()) as u8,
            _rest: [0; 15],
        });
        // SAFETY: the features were just found.
        unsafe { schedule.expand(key, salt) };
        Some(schedule)
    }

    #[inline]
    pub(super) fn rounds(&self) -> usize {
        usize::from(self.rounds)
    }

    /// Fetches what a kernel reads: the keys of so many rounds, and the powers from `highest` down.
    #[inline]
    pub(super) fn prefetch(&self, rounds: usize, highest: usize) {
        let start = core::ptr::from_ref(self).cast::<i8>();
        let powers = core::mem::offset_of!(Self, powers) + size_of::<Block>() * (POWERS - highest);
        let keys = size_of::<Block>() * (rounds + 1);
        for line in (0..keys.div_ceil(LINE)).chain(powers / LINE..size_of::<Self>() / LINE) {
            // SAFETY: the CPU has SSE, and the lines are of this schedule.
            unsafe { _mm_prefetch(start.wrapping_add(LINE * line), _MM_HINT_T0) };
        }
    }

    /// A round key in all four lanes.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn round_key(&self, round: usize) -> __m512i {
        _mm512_broadcast_i32x4(gcm::load_block(&self.round_keys[round]))
    }

    /// The power of H.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn power(&self, power: usize) -> __m128i {
        gcm::load_block(&self.powers[POWERS - power])
    }

    /// Four consecutive powers, from `highest` down.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn powers(&self, highest: usize) -> __m512i {
        let at = POWERS - highest;
        let powers: &[Block; 4] = self.powers[at..at + 4].try_into().expect("four");
        // SAFETY: reads the 64 bytes of the reference.
        unsafe { _mm512_loadu_si512(powers.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn expand(&mut self, key: &[u8], salt: [u8; 4]) {
        let rounds = self.rounds();
        let keys = &mut self.round_keys[..=rounds];
        gcm::expand_round_keys(keys, key);
        let h = gcm::hash_key(keys);
        let mut power = ghash::inverse(h);
        for slot in self.powers.iter_mut().rev() {
            gcm::store_block(slot, power);
            power = ghash::multiply(power, h);
        }
        for (byte, salt) in self.round_keys[0].iter_mut().zip(salt) {
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
