//! Counter blocks (SP 800-38D 6.5, 7.1): nonce and a 32-bit big-endian count. Block 1 masks the tag, the text begins at 2.

use super::schedule::Schedule;
use crate::gcm::{Block, load_block};
use core::arch::x86_64::*;

/// Blocks in a strip.
const STRIP: i32 = 8;

/// The counts 0 to 7.
static COUNTS: [Block; STRIP as usize] = {
    let mut table = [[0; 16]; STRIP as usize];
    let mut at = 0;
    while at < table.len() {
        table[at][15] = at as u8;
        at += 1;
    }
    table
};

/// The counter blocks of a strip and those that follow it, with the first round key added. In eight consecutive blocks that
/// begin with a multiple of eight, only three bits change: one block and an addition give them all.
#[derive(Clone, Copy)]
pub(super) struct Counter {
    /// Count 0.
    start: __m256i,
    /// The multiple of eight below the strip's first count.
    below: __m256i,
    /// The multiple of eight within the strip.
    within: __m256i,
    /// Which that is, in each lane's top word.
    count: __m256i,
}

impl Counter {
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn new(schedule: &Schedule, iv: u64) -> Self {
        // RFC 4106 4: salt, IV, count. The salt is in the first round key.
        let order = _mm_set_epi8(-1, -1, -1, -1, 7, 6, 5, 4, 3, 2, 1, 0, -1, -1, -1, -1);
        let iv = _mm256_shuffle_epi8(
            _mm256_set1_epi64x(iv as i64),
            _mm256_broadcastsi128_si256(order),
        );
        let start = _mm256_xor_si256(iv, schedule.first_key());
        let mut counter = Self {
            start,
            below: start,
            within: start,
            count: _mm256_setzero_si256(),
        };
        counter.advance();
        counter
    }

    /// To the next strip.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn advance(&mut self) {
        let order = _mm256_broadcastsi128_si256(_mm_set_epi8(
            12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        ));
        let eight = _mm256_broadcastsi128_si256(_mm_set_epi32(STRIP, 0, 0, 0));
        self.count = _mm256_add_epi32(self.count, eight);
        self.below = self.within;
        self.within = _mm256_xor_si256(self.start, _mm256_shuffle_epi8(self.count, order));
    }

    /// A vector of two blocks, after AES's first step: one of the strip's four, or of three behind it.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn blocks(&self, vector: usize) -> __m256i {
        let (base, low) = match vector {
            0..3 => (self.below, 2 * vector + 2),
            _ => (self.within, 2 * vector - 6),
        };
        let counts: &[Block] = &COUNTS[low..low + 2];
        // SAFETY: reads the 32 bytes of the slice.
        _mm256_xor_si256(base, unsafe { _mm256_loadu_si256(counts.as_ptr().cast()) })
    }

    /// Block 1, whose cipher masks the tag, after AES's first step.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn tag_block(&self) -> __m128i {
        _mm_xor_si128(_mm256_castsi256_si128(self.start), load_block(&COUNTS[1]))
    }
}
