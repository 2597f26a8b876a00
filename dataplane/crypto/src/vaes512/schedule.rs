//! What a kernel needs of a key: round keys (FIPS 197 5.2) and the powers of the hash key (SP 800-38D 6.3).

use super::ghash;
use crate::gcm::{self, Block};
use core::{arch::x86_64::*, marker::PhantomData};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The most round keys, those of AES-256.
const ROUND_KEYS: usize = 15;
/// A cache line.
const LINE: usize = 64;
/// The highest power of H that a kernel multiplies by: nine vectors, and the additional data before them.
pub(super) const POWERS: usize = 37;
/// Powers below the first one: what they multiply is zeros, or in lanes without a block.
const BELOW: usize = 7;

/// A key, laid out in the order in which cache lines are needed: a packet of AES-128 up to 64 bytes touches five of fifteen.
#[repr(C, align(64))]
pub(crate) struct Schedule {
    /// The first holds the salt too: AES begins by adding this key to the counter block, whose salt never changes.
    round_keys: [Block; ROUND_KEYS],
    rounds: u8,
    _rest: [u8; 15],
    /// From the highest down, so that consecutive blocks meet consecutive powers, and beyond H itself: a sum over lanes may
    /// have more of them than there are blocks. H to the 33rd begins a cache line.
    powers: [Block; POWERS + BELOW],
}

const _: () = assert!(size_of::<Schedule>() == 15 * LINE);
const _: () = assert!(
    (core::mem::offset_of!(Schedule, powers) + (POWERS - 33) * size_of::<Block>())
        .is_multiple_of(LINE)
);

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
            rounds: rounds(key.len()) as u8,
            _rest: [0; 15],
            powers: [[0; 16]; POWERS + BELOW],
        });
        // SAFETY: the features were just found.
        unsafe { schedule.expand(key, salt) };
        Some(schedule)
    }

    #[inline]
    pub(super) fn rounds(&self) -> u8 {
        self.rounds
    }

    /// Fetches what a kernel reads: the keys of so many rounds, and the powers from `highest` down.
    #[inline]
    pub(super) fn prefetch(&self, rounds: usize, highest: usize) {
        let start = core::ptr::from_ref(self).cast::<i8>();
        let power =
            |power| core::mem::offset_of!(Self, powers) + size_of::<Block>() * (POWERS - power);
        let keys = size_of::<Block>() * (rounds + 1);
        for line in (0..keys.div_ceil(LINE)).chain(power(highest) / LINE..=power(1) / LINE) {
            // SAFETY: the CPU has SSE, and the lines are of this schedule.
            unsafe { _mm_prefetch(start.wrapping_add(LINE * line), _MM_HINT_T0) };
        }
    }

    /// Asks for what a text of so many bytes takes, long before it is needed: for every other line, because the CPU fetches the
    /// neighbour into the second cache by itself, and has few places for lines that it waits for.
    #[inline]
    pub(crate) fn prefetch_for(&self, rounds: usize, text: usize) {
        let blocks = text.div_ceil(size_of::<Block>()) + 1;
        let highest = blocks.next_multiple_of(4).min(POWERS);
        let powers = core::mem::offset_of!(Self, powers) + size_of::<Block>() * (POWERS - highest);
        let keys = size_of::<Block>() * (rounds + 1);
        let start = core::ptr::from_ref(self).cast::<i8>();
        let lines = (0..keys.div_ceil(LINE)).step_by(2);
        for line in lines.chain((powers / LINE..size_of::<Self>() / LINE).step_by(2)) {
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

    /// The power of H in all four lanes.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn same_power(&self, power: usize) -> __m512i {
        _mm512_broadcast_i32x4(self.power(power))
    }

    /// The powers from `highest` down.
    #[inline]
    pub(super) fn powers(&self, highest: usize) -> Powers<'_> {
        debug_assert!((1..=POWERS).contains(&highest));
        Powers {
            first: self.powers.as_ptr().wrapping_add(POWERS - highest),
            _schedule: PhantomData,
        }
    }

    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn expand(&mut self, key: &[u8], salt: [u8; 4]) {
        let keys = &mut self.round_keys[..=usize::from(self.rounds)];
        gcm::expand_round_keys(keys, key);
        let h = gcm::hash_key(keys);
        let inverse = ghash::inverse(h);
        let mut power = inverse;
        for _ in 2..BELOW {
            power = ghash::multiply(power, inverse);
        }
        for slot in self.powers.iter_mut().rev() {
            gcm::store_block(slot, power);
            power = ghash::multiply(power, h);
        }
        for (byte, salt) in self.round_keys[0].iter_mut().zip(salt) {
            *byte ^= salt;
        }
    }
}

/// Consecutive powers of a key.
#[derive(Clone, Copy)]
pub(super) struct Powers<'a> {
    first: *const Block,
    _schedule: PhantomData<&'a Schedule>,
}

impl Powers<'_> {
    /// Zeros, for one vector.
    #[inline]
    pub(super) fn of_nothing() -> Self {
        static ZEROS: [Block; 4] = [[0; 16]; 4];
        Self {
            first: ZEROS.as_ptr(),
            _schedule: PhantomData,
        }
    }

    /// Those of a vector's lanes, where the first vector has the highest powers.
    ///
    /// # Safety
    ///
    /// The highest of all is at most [`POWERS`], and this vector's at least -3.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn of_vector(self, v: usize) -> __m512i {
        // SAFETY: the caller's promise; the key has three more behind that.
        unsafe { _mm512_loadu_si512(self.first.wrapping_add(4 * v).cast()) }
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.round_keys.zeroize();
        self.powers.zeroize();
    }
}

impl ZeroizeOnDrop for Schedule {}
