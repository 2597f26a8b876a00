//! Poly1305's arithmetic (RFC 8439 2.5) on eight numbers at once, one in each lane, by multiplications of 52 bits.
//!
//! A number modulo 2^130 - 5 is three limbs of 44, 44 and 42 bits, a little more between reductions. A product of limbs comes
//! in two halves, of which the upper weighs 2^52: 2^8 times a limb. What passes 2^132 comes back five times, and four
//! times for the two bits above 2^130: a limb times twenty.

use core::arch::x86_64::*;

/// Eight numbers.
#[derive(Clone, Copy)]
pub(super) struct Numbers([__m512i; 3]);

/// Eight numbers to multiply by: their limbs, and the upper two times twenty.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    limbs: [__m512i; 3],
    wrapped: [__m512i; 2],
}

/// Sums of products, not reduced: lower and upper halves for each limb. There is room for those of eight products.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    low: [__m512i; 3],
    high: [__m512i; 3],
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
fn mask(bits: u32) -> __m512i {
    _mm512_set1_epi64((1 << bits) - 1)
}

impl Numbers {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn zero() -> Self {
        Self([_mm512_setzero_si512(); 3])
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn one() -> Self {
        let zero = _mm512_setzero_si512();
        Self([_mm512_set1_epi64(1), zero, zero])
    }

    /// Blocks of 16 bytes, by their halves, each with `top` times 2^128 added (RFC 8439 2.5: "Add one bit beyond the number
    /// of octets").
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn from_blocks([low, high]: [__m512i; 2], top: __m512i) -> Self {
        Self([
            _mm512_and_si512(low, mask(44)),
            _mm512_and_si512(_mm512_shrdi_epi64::<44>(low, high), mask(44)),
            _mm512_shrdi_epi64::<24>(high, top),
        ])
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn plus(self, other: Self) -> Self {
        let ([a, b, c], [d, e, f]) = (self.0, other.0);
        Self([
            _mm512_add_epi64(a, d),
            _mm512_add_epi64(b, e),
            _mm512_add_epi64(c, f),
        ])
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn times(self, factors: &Factors) -> Self {
        let mut sums = Sums::zero();
        sums.add(self, factors);
        sums.reduce()
    }

    /// The others' numbers in the lanes of the mask.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn replaced(self, lanes: __mmask8, others: Self) -> Self {
        let ([a, b, c], [d, e, f]) = (self.0, others.0);
        Self([
            _mm512_mask_mov_epi64(a, lanes, d),
            _mm512_mask_mov_epi64(b, lanes, e),
            _mm512_mask_mov_epi64(c, lanes, f),
        ])
    }

    /// The sum with `low` and `high`, as 128 bits. RFC 8439 2.5: "the value of the secret key "s" is added to the
    /// accumulator, and the 128 least significant bits are serialized".
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn plus_modulo_2_128(self, [low, high]: [__m512i; 2]) -> [__m512i; 2] {
        let carried = |[a, b, c]: [__m512i; 3]| {
            let b = _mm512_add_epi64(b, _mm512_srli_epi64::<44>(a));
            let c = _mm512_add_epi64(c, _mm512_srli_epi64::<44>(b));
            [
                _mm512_and_si512(a, mask(44)),
                _mm512_and_si512(b, mask(44)),
                c,
            ]
        };
        // All bits from 2^130 go round; then once more, for the carry that this may cause.
        let mut limbs = carried(self.0);
        for _ in 0..2 {
            let [a, b, c] = limbs;
            let top = _mm512_srli_epi64::<42>(c);
            let five = _mm512_add_epi64(top, _mm512_slli_epi64::<2>(top));
            limbs = carried([_mm512_add_epi64(a, five), b, _mm512_and_si512(c, mask(42))]);
        }
        // Less 2^130 - 5, if that is not negative.
        let [a, b, c] = limbs;
        let [d, e, f] = carried([_mm512_add_epi64(a, _mm512_set1_epi64(5)), b, c]);
        let over = _mm512_test_epi64_mask(f, _mm512_set1_epi64(1 << 42));
        let [a, b, c] = Self([a, b, c]).replaced(over, Self([d, e, f])).0;

        let text_low = _mm512_or_si512(a, _mm512_slli_epi64::<44>(b));
        let text_high = _mm512_or_si512(_mm512_srli_epi64::<20>(b), _mm512_slli_epi64::<24>(c));
        let sum_low = _mm512_add_epi64(text_low, low);
        let carry = _mm512_cmplt_epu64_mask(sum_low, low);
        let sum_high = _mm512_add_epi64(text_high, high);
        let one = _mm512_set1_epi64(1);
        [
            sum_low,
            _mm512_mask_add_epi64(sum_high, carry, sum_high, one),
        ]
    }
}

impl Factors {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn zero() -> Self {
        Self {
            limbs: [_mm512_setzero_si512(); 3],
            wrapped: [_mm512_setzero_si512(); 2],
        }
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn new(numbers: Numbers) -> Self {
        let twenty = |limb| {
            let four = _mm512_slli_epi64::<2>(limb);
            _mm512_add_epi64(four, _mm512_slli_epi64::<2>(four))
        };
        let limbs = numbers.0;
        Self {
            limbs,
            wrapped: [twenty(limbs[1]), twenty(limbs[2])],
        }
    }

    pub(super) fn numbers(&self) -> Numbers {
        Numbers(self.limbs)
    }
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            low: [zero; 3],
            high: [zero; 3],
        }
    }

    /// Adds products.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn add(&mut self, numbers: Numbers, factors: &Factors) {
        let [a, b, c] = numbers.0;
        let [r, s, t] = factors.limbs;
        let [s20, t20] = factors.wrapped;
        self.add_limb(a, [r, s, t]);
        self.add_limb(b, [t20, r, s]);
        self.add_limb(c, [s20, t20, r]);
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn add_limb(&mut self, limb: __m512i, by: [__m512i; 3]) {
        self.low[0] = _mm512_madd52lo_epu64(self.low[0], limb, by[0]);
        self.low[1] = _mm512_madd52lo_epu64(self.low[1], limb, by[1]);
        self.low[2] = _mm512_madd52lo_epu64(self.low[2], limb, by[2]);
        self.high[0] = _mm512_madd52hi_epu64(self.high[0], limb, by[0]);
        self.high[1] = _mm512_madd52hi_epu64(self.high[1], limb, by[1]);
        self.high[2] = _mm512_madd52hi_epu64(self.high[2], limb, by[2]);
    }

    /// Carries, until no limb has more than a few bits too many.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn reduce(self) -> Numbers {
        let (low, high) = (self.low, self.high);
        let add = |a, b, c| _mm512_add_epi64(_mm512_add_epi64(a, b), c);
        let second = add(
            low[1],
            _mm512_slli_epi64::<8>(high[0]),
            _mm512_srli_epi64::<44>(low[0]),
        );
        let third = add(
            low[2],
            _mm512_slli_epi64::<8>(high[1]),
            _mm512_srli_epi64::<44>(second),
        );
        let top = _mm512_add_epi64(
            _mm512_slli_epi64::<10>(high[2]),
            _mm512_srli_epi64::<42>(third),
        );
        let first = add(
            _mm512_and_si512(low[0], mask(44)),
            top,
            _mm512_slli_epi64::<2>(top),
        );
        Numbers([
            _mm512_and_si512(first, mask(44)),
            _mm512_add_epi64(
                _mm512_and_si512(second, mask(44)),
                _mm512_srli_epi64::<44>(first),
            ),
            _mm512_and_si512(third, mask(42)),
        ])
    }
}
