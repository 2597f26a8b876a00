//! Counter blocks (SP 800-38D 6.5, 7.1): nonce and a 32-bit big-endian count. Block 1 masks the tag, the text begins at 2.

use super::{
    ghash::{Block, XOR3},
    pace::in_order,
    schedule::Schedule,
};
use core::arch::x86_64::*;

/// The first count in [`SMALL`]. Below 1 they fill lanes that no text uses.
const FIRST: i32 = -2;

/// The counts of a packet's first strip.
static SMALL: [Block; 24] = {
    let mut table = [[0; 16]; 24];
    let mut at = 0;
    while at < table.len() {
        let [a, b, c, d] = (FIRST + at as i32).to_be_bytes();
        table[at] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d];
        at += 1;
    }
    table
};

/// What all counter blocks of a packet have in common, with the first round key added.
#[derive(Clone, Copy)]
pub(super) struct Counter {
    iv: __m512i,
    first_key: __m512i,
}

impl Counter {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn new(schedule: &Schedule, iv: u64) -> Self {
        // RFC 4106 4: salt, IV, count. The salt is in the first round key. VPSHUFB, and so that the compiler leaves it at
        // that: any other way to the zeros is slower.
        let order = _mm_set_epi8(-1, -1, -1, -1, 7, 6, 5, 4, 3, 2, 1, 0, -1, -1, -1, -1);
        let iv = in_order(_mm512_set1_epi64(iv as i64));
        Self {
            iv: _mm512_shuffle_epi8(iv, in_order(_mm512_broadcast_i32x4(order))),
            first_key: schedule.round_key(0),
        }
    }

    /// Four blocks from `count` (at least -2), after AES's first step.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn small(&self, count: i32) -> __m512i {
        let at = (count - FIRST) as usize;
        // SAFETY: a strip has at most 16 blocks, so `count` is at most 18, and 18 + 4 is within the table.
        let counts = unsafe { _mm512_loadu_si512(SMALL.as_ptr().add(at).cast()) };
        _mm512_ternarylogic_epi64(self.iv, self.first_key, counts, XOR3)
    }

    /// Four blocks with the counts of `counts`' top words, in the machine's byte order.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn large(&self, counts: __m512i) -> __m512i {
        let order = _mm_set_epi8(
            12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        );
        let counts = _mm512_shuffle_epi8(counts, _mm512_broadcast_i32x4(order));
        _mm512_ternarylogic_epi64(self.iv, self.first_key, counts, XOR3)
    }

    /// Block 1, whose cipher masks the tag, after AES's first step.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn tag_block(&self) -> __m128i {
        _mm_ternarylogic_epi64(
            _mm512_castsi512_si128(self.iv),
            _mm512_castsi512_si128(self.first_key),
            _mm_set_epi32(1 << 24, 0, 0, 0),
            XOR3,
        )
    }
}

/// The counts of four blocks from `count`, for [`Counter::large`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn counts(count: usize) -> __m512i {
    let lanes = _mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0);
    _mm512_add_epi32(_mm512_set1_epi32(count as i32), lanes)
}
