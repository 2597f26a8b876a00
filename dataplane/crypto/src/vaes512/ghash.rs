//! GHASH (SP 800-38D 6.4): sums of products in GF(2^128), reduced once for many blocks.

use super::{pace::in_order, schedule::Schedule};
use crate::gcm::{polynomial, reflect_one, reflection, store_block};
use core::arch::x86_64::*;

/// Blocks in the byte order of the field's elements, or back.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn reflect(blocks: __m512i) -> __m512i {
    _mm512_shuffle_epi8(blocks, _mm512_broadcast_i32x4(reflection()))
}

/// One product, reduced.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let mut sums = Sums::zero();
    sums.add(_mm512_zextsi128_si512(a), _mm512_zextsi128_si512(b));
    _mm512_castsi512_si128(sums.reduce())
}

/// What times `h` is 1 (and 0 for 0), by Fermat: h to the power of 2^128 - 2.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn inverse(h: __m128i) -> __m128i {
    let mut square = multiply(h, h);
    let mut inverse = square;
    for _ in 2..128 {
        square = multiply(square, square);
        inverse = multiply(inverse, square);
    }
    inverse
}

/// Sums of unreduced products, one in each lane.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            low: zero,
            middle: zero,
            high: zero,
        }
    }

    /// Adds a product in each lane: four multiplications of 64 bits.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add(&mut self, blocks: __m512i, powers: __m512i) {
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128(blocks, powers, 0x00));
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128(blocks, powers, 0x11));
        self.middle = _mm512_ternarylogic_epi64(
            self.middle,
            _mm512_clmulepi64_epi128(blocks, powers, 0x01),
            _mm512_clmulepi64_epi128(blocks, powers, 0x10),
            XOR3,
        );
    }

    /// Nothing that is paced later comes before.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn pace(&mut self) {
        self.low = in_order(self.low);
        self.middle = in_order(self.middle);
        self.high = in_order(self.high);
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn add_sums(&mut self, other: Self) {
        self.low = _mm512_xor_si512(self.low, other.low);
        self.middle = _mm512_xor_si512(self.middle, other.middle);
        self.high = _mm512_xor_si512(self.high, other.high);
    }

    /// Reduces each lane to an element: two multiplications.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn reduce(mut self) -> __m512i {
        self.fold_low();
        self.fold_middle()
    }

    /// The first half of the reduction: nothing is left in the low part.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn fold_low(&mut self) {
        self.middle = fold(self.middle, self.low);
    }

    /// The second half.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn fold_middle(self) -> __m512i {
        fold(self.high, self.middle)
    }

    /// Of four packets, the sum of each one's lanes in a lane of its own.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn gather([a, b, c, d]: [Self; 4]) -> Self {
        Self {
            low: gather_lanes(a.low, b.low, c.low, d.low),
            middle: gather_lanes(a.middle, b.middle, c.middle, d.middle),
            high: gather_lanes(a.high, b.high, c.high, d.high),
        }
    }
}

/// Adds the lower 64 bits of `from`, times the polynomial, and the upper as they are.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn fold(into: __m512i, from: __m512i) -> __m512i {
    let folded = _mm512_clmulepi64_epi128(_mm512_broadcast_i32x4(polynomial()), from, 0x01);
    _mm512_ternarylogic_epi64(
        into,
        _mm512_shuffle_epi32(from, _MM_PERM_BADC),
        folded,
        XOR3,
    )
}

/// `_mm512_ternarylogic_epi64`'s table of a ^ b ^ c.
pub(super) const XOR3: i32 = 0x96;

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn gather_lanes(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    // [a0+a2, a1+a3, b0+b2, b1+b3]: the blend runs on any port, the shuffle on two.
    let pair = |a, b| {
        _mm512_xor_si512(
            _mm512_mask_blend_epi64(0xf0, a, b),
            _mm512_shuffle_i64x2(a, b, 0x4e),
        )
    };
    let (ab, cd) = (pair(a, b), pair(c, d));
    _mm512_xor_si512(
        _mm512_shuffle_i64x2(ab, cd, 0x88),
        _mm512_shuffle_i64x2(ab, cd, 0xdd),
    )
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn sum_lanes(x: __m512i) -> __m128i {
    let half = _mm256_xor_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    _mm_xor_si128(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256(half, 1),
    )
}

/// Additional data of any length as the one block that stands for it, in halves: the hash of all but the last block, plus the last.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn digest(schedule: &Schedule, data: &[u8]) -> [[u8; 8]; 2] {
    /// Vectors that are reduced together.
    const STRIP: usize = 8;
    let vectors = data.len().div_ceil(64);
    // The blocks are aligned at their end, so that the last vector's powers are known; what is before them is zeros.
    let before = 64 * vectors - data.len().next_multiple_of(16);
    let mut hash = _mm512_setzero_si512();
    let mut sums = Sums::zero();
    for left in (1..=vectors).rev() {
        let mut bytes = [0; 64];
        let start = (64 * (vectors - left)).saturating_sub(before);
        let end = (64 * (vectors - left + 1) - before).min(data.len());
        let first = if left == vectors { before } else { 0 };
        bytes[first..first + end - start].copy_from_slice(&data[start..end]);
        // SAFETY: reads the 64 bytes of the array.
        let mut vector = reflect(unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) });
        if left % STRIP == 0 || left == vectors {
            vector = _mm512_xor_si512(vector, hash);
        }
        if left <= STRIP {
            // SAFETY: from 31 on.
            let powers = unsafe { schedule.powers(4 * left - 1).of_vector(0) };
            sums.add(vector, powers);
        } else {
            let power = 4 * ((left - 1) % STRIP + 1);
            sums.add(vector, schedule.same_power(power));
            if left % STRIP == 1 {
                hash = sums.reduce();
                sums = Sums::zero();
            }
        }
    }
    let hash = sum_lanes(sums.reduce());
    let mut digest = [0; 16];
    store_block(&mut digest, reflect_one(hash));
    let (halves, _) = digest.as_chunks();
    [halves[0], halves[1]]
}
