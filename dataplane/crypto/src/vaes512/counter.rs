//! Counter blocks (SP 800-38D 6.5, 7.1): nonce and a 32-bit big-endian count. Block 1 masks the tag, the text begins at 2.
//!
//! They differ in a column that no nonce reaches, and AES's first round mixes no columns: what it makes of the count is the
//! same for all packets of a key. A burst of one key computes it once, in [`Firsts`], and each packet adds its own part.

use super::{pace::in_order, schedule::Schedule};
use crate::{MAX_PLAINTEXT, MAX_TRAILER, gcm::Block};
use core::{arch::x86_64::*, marker::PhantomData, mem::MaybeUninit};
use zeroize::ZeroizeOnDrop;

/// The first count in the tables: with it, four blocks from count 2 lie in a cache line. Below 1 they fill lanes that no text
/// uses.
const FIRST: isize = -2;
/// Enough for the longest text and the vector behind its end.
const ALL: usize = (MAX_PLAINTEXT + MAX_TRAILER).div_ceil(16) + 16;

#[repr(align(64))]
struct Counts([Block; ALL]);

/// Adding one of these to a block is cheaper than counting: one instruction. A packet touches as much of the table as it is
/// long.
static COUNTS: Counts = {
    let mut table = [[0; 16]; ALL];
    let mut at = 0;
    while at < table.len() {
        let [a, b, c, d] = ((FIRST + at as isize) as i32).to_be_bytes();
        table[at] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d];
        at += 1;
    }
    Counts(table)
};

/// The counter blocks of a packet before AES's first or second round, but for what their counts add.
#[derive(Clone, Copy)]
pub(super) struct Counter<'a> {
    base: __m512i,
    /// What the first count adds.
    table: *const Block,
    _firsts: PhantomData<&'a Firsts>,
}

impl<'a> Counter<'a> {
    /// Before the first round.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn new(schedule: &Schedule, iv: u64) -> Self {
        // RFC 4106 4: salt, IV, count. The salt is in the first round key. VPSHUFB, and so that the compiler leaves it at
        // that: any other way to the zeros is slower.
        let order = _mm_set_epi8(-1, -1, -1, -1, 7, 6, 5, 4, 3, 2, 1, 0, -1, -1, -1, -1);
        let iv = in_order(_mm512_set1_epi64(iv as i64));
        let iv = _mm512_shuffle_epi8(iv, in_order(_mm512_broadcast_i32x4(order)));
        Self {
            base: _mm512_xor_si512(iv, schedule.round_key(0)),
            table: COUNTS.0.as_ptr(),
            _firsts: PhantomData,
        }
    }

    /// Before the second round.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn second(schedule: &Schedule, iv: u64, firsts: &'a Firsts) -> Self {
        let all_but_count = _mm512_broadcast_i32x4(_mm_set_epi32(0, -1, -1, -1));
        let nonce = _mm512_and_si512(Self::new(schedule, iv).base, all_but_count);
        Self {
            base: _mm512_aesenc_epi128(nonce, _mm512_set1_epi8(OF_ZEROS)),
            table: firsts.table.as_ptr().cast(),
            _firsts: PhantomData,
        }
    }

    /// Four blocks from `count`.
    ///
    /// # Safety
    ///
    /// The first count is at least -2, and the last at most eight blocks behind the longest text; or there are `Firsts` of it.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn blocks(self, count: isize) -> __m512i {
        debug_assert!((FIRST..=FIRST + ALL as isize - 4).contains(&count));
        // SAFETY: the caller's promise keeps these within the table.
        let counts =
            unsafe { _mm512_loadu_si512(self.table.wrapping_offset(count - FIRST).cast()) };
        _mm512_xor_si512(self.base, counts)
    }

    /// Block 1, whose cipher masks the tag, before the first round.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn tag_block(self) -> __m128i {
        let count = _mm_set_epi32(1 << 24, 0, 0, 0);
        _mm_xor_si128(_mm512_castsi512_si128(self.base), count)
    }

    /// Block 1, before the first or second round.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn tag_block_of_either(self) -> __m128i {
        // SAFETY: both tables have it.
        let count = unsafe { _mm_loadu_si128(self.table.wrapping_offset(1 - FIRST).cast()) };
        _mm_xor_si128(_mm512_castsi512_si128(self.base), count)
    }
}

/// What AES's first round makes of zeros, if the round key is zeros: SubBytes gives 0x63 (FIPS 197 5.1.1), and the rest leaves
/// equal bytes as they are.
const OF_ZEROS: i8 = 0x63;

/// What AES's first round makes of the counts under a key. It tells of the key, and is wiped.
///
/// Invariant: the first `made` vectors are written.
#[repr(align(64))]
pub(super) struct Firsts {
    table: [MaybeUninit<__m512i>; Self::VECTORS],
    made: usize,
}

impl Firsts {
    /// The longest text of which the table has all blocks, and the vector behind its end.
    pub(super) const LONGEST: usize = 9216;
    const VECTORS: usize = Self::LONGEST / 64 + 2;

    /// Enough for texts of up to so many bytes, at most [`LONGEST`](Self::LONGEST).
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn new(schedule: &Schedule, longest: usize) -> Self {
        let mut firsts = Self {
            table: [const { MaybeUninit::uninit() }; Self::VECTORS],
            made: 0,
        };
        let (whitening, key) = (schedule.round_key(0), schedule.round_key(1));
        let count_only = _mm512_broadcast_i32x4(_mm_set_epi32(-1, 0, 0, 0));
        let counter = Counter {
            base: _mm512_and_si512(whitening, count_only),
            table: COUNTS.0.as_ptr(),
            _firsts: PhantomData,
        };
        for (at, slot) in firsts
            .table
            .iter_mut()
            .take(longest.div_ceil(16) / 4 + 2)
            .enumerate()
        {
            // SAFETY: shorter than the longest text.
            let blocks = unsafe { counter.blocks(4 * at as isize + FIRST) };
            slot.write(_mm512_aesenc_epi128(blocks, key));
            firsts.made = at + 1;
        }
        firsts
    }
}

impl Drop for Firsts {
    fn drop(&mut self) {
        // SAFETY: they were made where the features are.
        unsafe { self.wipe() };
    }
}

impl ZeroizeOnDrop for Firsts {}

impl Firsts {
    /// A vector at a time.
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn wipe(&mut self) {
        for slot in self.table.iter_mut().take(self.made) {
            // SAFETY: writes to the slot of the reference; volatile, so that it is not left out.
            unsafe { slot.as_mut_ptr().write_volatile(_mm512_setzero_si512()) };
        }
    }
}
