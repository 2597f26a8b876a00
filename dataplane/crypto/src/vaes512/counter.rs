//! Counter blocks (SP 800-38D 6.5, 7.1): nonce and a 32-bit big-endian count. Block 1 masks the tag, the text begins at 2.

use super::{pace::in_order, schedule::Schedule};
use crate::{MAX_PLAINTEXT, MAX_TRAILER, gcm::Block};
use core::arch::x86_64::*;

/// The first count in [`COUNTS`]. Below 1 they fill lanes that no text uses.
const FIRST: isize = -4;
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

/// The counter blocks of a packet after AES's first step, but for their counts.
#[derive(Clone, Copy)]
pub(super) struct Counter(__m512i);

impl Counter {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn new(schedule: &Schedule, iv: u64) -> Self {
        // RFC 4106 4: salt, IV, count. The salt is in the first round key. VPSHUFB, and so that the compiler leaves it at
        // that: any other way to the zeros is slower.
        let order = _mm_set_epi8(-1, -1, -1, -1, 7, 6, 5, 4, 3, 2, 1, 0, -1, -1, -1, -1);
        let iv = in_order(_mm512_set1_epi64(iv as i64));
        let iv = _mm512_shuffle_epi8(iv, in_order(_mm512_broadcast_i32x4(order)));
        Self(_mm512_xor_si512(iv, schedule.round_key(0)))
    }

    /// Four blocks from `count`.
    ///
    /// # Safety
    ///
    /// The first count is at least -4, and the last at most eight blocks behind the longest text.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) unsafe fn blocks(self, count: isize) -> __m512i {
        debug_assert!((FIRST..=FIRST + ALL as isize - 4).contains(&count));
        let counts = COUNTS.0.as_ptr().wrapping_offset(count - FIRST);
        // SAFETY: the caller's promise keeps these within the table.
        let counts = unsafe { _mm512_loadu_si512(counts.cast()) };
        _mm512_xor_si512(self.0, counts)
    }

    /// Block 1, whose cipher masks the tag.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn tag_block(self) -> __m128i {
        let count = _mm_set_epi32(1 << 24, 0, 0, 0);
        _mm_xor_si128(_mm512_castsi512_si128(self.0), count)
    }
}
