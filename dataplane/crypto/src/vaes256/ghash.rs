//! GHASH (SP 800-38D 6.4): sums of products in GF(2^128), reduced once for many blocks.

use super::{
    pace::in_order,
    schedule::{POWERS, Schedule},
};
use crate::gcm::{load_block, polynomial, reflect_one, reflection};
use core::arch::x86_64::*;

/// Blocks in the byte order of the field's elements, or back.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) fn reflect(blocks: __m256i) -> __m256i {
    _mm256_shuffle_epi8(blocks, _mm256_broadcastsi128_si256(reflection()))
}

/// One product, reduced.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let mut sums = Sums::zero();
    sums.add_one(a, b);
    _mm256_castsi256_si128(sums.reduce())
}

/// Sums of unreduced products, one in each lane.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    low: __m256i,
    middle: __m256i,
    high: __m256i,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self {
            low: zero,
            middle: zero,
            high: zero,
        }
    }

    /// Adds a product in each lane: four multiplications of 64 bits.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn add(&mut self, blocks: __m256i, powers: __m256i) {
        let add = |sum, product| _mm256_xor_si256(sum, product);
        self.low = add(self.low, _mm256_clmulepi64_epi128(blocks, powers, 0x00));
        self.middle = add(self.middle, _mm256_clmulepi64_epi128(blocks, powers, 0x01));
        self.middle = add(self.middle, _mm256_clmulepi64_epi128(blocks, powers, 0x10));
        self.high = add(self.high, _mm256_clmulepi64_epi128(blocks, powers, 0x11));
    }

    /// Adds one product.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn add_one(&mut self, block: __m128i, power: __m128i) {
        self.add(_mm256_zextsi128_si256(block), _mm256_zextsi128_si256(power));
    }

    /// Nothing that is paced later comes before.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn pace(&mut self) {
        self.low = in_order(self.low);
        self.middle = in_order(self.middle);
        self.high = in_order(self.high);
    }

    /// Reduces each lane to an element: two multiplications.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn reduce(self) -> __m256i {
        fold(self.high, fold(self.middle, self.low))
    }

    /// The sum of both lanes, as an element.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn total(self) -> __m128i {
        let sums = self.reduce();
        _mm_xor_si128(
            _mm256_castsi256_si128(sums),
            _mm256_extracti128_si256(sums, 1),
        )
    }
}

/// Adds the lower 64 bits of `from`, times the polynomial, and the upper as they are.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
fn fold(into: __m256i, from: __m256i) -> __m256i {
    let polynomial = _mm256_broadcastsi128_si256(polynomial());
    let folded = _mm256_clmulepi64_epi128(polynomial, from, 0x01);
    let swapped = _mm256_shuffle_epi32(from, 0x4e);
    _mm256_xor_si256(_mm256_xor_si256(into, swapped), folded)
}

/// Additional data of any length as the one block that stands for it: the hash of all but the last block, plus the last. All of
/// a packet of AES-GMAC passes here.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) fn digest(schedule: &Schedule, data: &[u8]) -> __m128i {
    let (whole, last) = data.split_at(data.len().saturating_sub(1) / 16 * 16);
    let mut hash = _mm_setzero_si128();
    for strip in whole.as_chunks::<16>().0.chunks(POWERS) {
        let mut sums = Sums::zero();
        let (pairs, single) = strip.as_chunks::<2>();
        for (pair, highest) in pairs.iter().zip((2..=strip.len()).rev().step_by(2)) {
            // SAFETY: reads the 32 bytes of the pair, and there are so many powers.
            unsafe {
                let blocks = _mm256_loadu_si256(pair.as_ptr().cast());
                sums.add(reflect(blocks), schedule.powers(highest));
            }
        }
        if let [block] = single {
            let element = reflect_one(load_block(block));
            sums.add_one(element, schedule.power(1));
        }
        sums.add_one(hash, schedule.power(strip.len()));
        hash = sums.total();
    }
    let mut block = [0; 16];
    block[..last.len()].copy_from_slice(last);
    _mm_xor_si128(reflect_one(hash), load_block(&block))
}
