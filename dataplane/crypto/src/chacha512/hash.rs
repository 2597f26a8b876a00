//! Poly1305 (RFC 8439 2.5) of eight messages side by side, one in each lane: four blocks of each in a step, so that their
//! products are reduced together.

use super::{
    chacha::BLOCK,
    poly::{Factors, Numbers, Sums},
};
use core::arch::{asm, x86_64::*};

/// Messages side by side.
pub(super) const SIDE_BY_SIDE: usize = 8;
/// Poly1305's block.
pub(super) const PART: usize = 16;

/// Eight messages' r, r^2, r^3 and r^4.
#[repr(C, align(64))]
pub(super) struct Powers([Factors; BLOCK / PART]);

impl Powers {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn new() -> Self {
        Self([Factors::zero(); BLOCK / PART])
    }

    /// From r, by its halves. RFC 8439 2.5: "r[3], r[7], r[11], and r[15] are required to have their top four bits clear" and
    /// "r[4], r[8], and r[12] are required to have their bottom two bits clear".
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn set(&mut self, [low, high]: [__m512i; 2]) {
        let low = _mm512_and_si512(low, _mm512_set1_epi64(0x0fff_fffc_0fff_ffff));
        let high = _mm512_and_si512(high, _mm512_set1_epi64(0x0fff_fffc_0fff_fffc));
        let first = Numbers::from_blocks([low, high], _mm512_setzero_si512());
        let powers = &mut self.0;
        powers[0] = Factors::new(first);
        powers[1] = Factors::new(first.times(&powers[0]));
        powers[2] = Factors::new(first.times(&powers[1]));
        powers[3] = Factors::new(powers[1].numbers().times(&powers[1]));
    }

    /// The powers, to be read from here each time: the compiler would keep copies in registers and elsewhere.
    #[inline]
    fn in_place(&self) -> &[Factors; BLOCK / PART] {
        let mut at = core::ptr::from_ref(&self.0);
        // SAFETY: no instruction, so it is the same address.
        unsafe {
            asm!("/* {0} */", inout(reg) at, options(readonly, nostack, preserves_flags));
            &*at
        }
    }
}

/// Four blocks of each message, by their halves.
pub(super) type Strip = [[__m512i; 2]; BLOCK / PART];

/// From 64 bytes of each message.
///
/// # Safety
///
/// So many can be read at each of the addresses.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
pub(super) unsafe fn strip([a, b, c, d, e, f, g, h]: [*const u8; SIDE_BY_SIDE]) -> Strip {
    let blocks = |half: usize| {
        // Two messages' 32 bytes in a vector: inserting from memory runs on both ports, a shuffle on one.
        let pair = |one: *const u8, other: *const u8| {
            // SAFETY: the caller's promise.
            let [one, other] = [one, other]
                .map(|text| unsafe { _mm256_loadu_si256(text.add(half * BLOCK / 2).cast()) });
            _mm512_inserti64x4(_mm512_castsi256_si512(one), other, 1)
        };
        let (ac, eg) = (pair(a, c), pair(e, g));
        let (bd, fh) = (pair(b, d), pair(f, h));
        let first = [
            _mm512_shuffle_i64x2(ac, eg, 0x88),
            _mm512_shuffle_i64x2(bd, fh, 0x88),
        ];
        let second = [
            _mm512_shuffle_i64x2(ac, eg, 0xdd),
            _mm512_shuffle_i64x2(bd, fh, 0xdd),
        ];
        [first, second].map(|[even, odd]| {
            [
                _mm512_unpacklo_epi64(even, odd),
                _mm512_unpackhi_epi64(even, odd),
            ]
        })
    };
    let ([first, second], [third, fourth]) = (blocks(0), blocks(1));
    [first, second, third, fourth]
}

/// Eight messages' hashes as they become.
pub(super) struct Hashes<'p> {
    powers: &'p Powers,
    sum: Numbers,
}

impl<'p> Hashes<'p> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn new(powers: &'p Powers) -> Self {
        Self {
            powers,
            sum: Numbers::zero(),
        }
    }

    /// Hashes four blocks in each lane of the mask.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn add_strip(&mut self, lanes: __mmask8, strip: Strip) {
        let one = _mm512_set1_epi64(1);
        let [a, b, c, d] = strip.map(|halves| Numbers::from_blocks(halves, one));
        let [r, r2, r3, r4] = self.powers.in_place();
        let mut sums = Sums::zero();
        sums.add(d, r);
        sums.add(c, r2);
        sums.add(b, r3);
        sums.add(a.plus(self.sum), r4);
        self.sum = self.sum.replaced(lanes, sums.reduce());
    }

    /// Hashes as many blocks as each lane of `parts` says, none to four: those at the strip's end, behind zeros.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn add_parts(&mut self, parts: __m512i, strip: Strip) {
        let mut sums = Sums::zero();
        let mut power_of_sum = Numbers::one();
        let from_the_end = strip.into_iter().rev();
        for (number, (halves, power)) in (1..).zip(from_the_end.zip(self.powers.in_place())) {
            let number = _mm512_set1_epi64(number);
            let one = _mm512_maskz_set1_epi64(_mm512_cmpge_epi64_mask(parts, number), 1);
            sums.add(Numbers::from_blocks(halves, one), power);
            let lanes = _mm512_cmpeq_epi64_mask(parts, number);
            power_of_sum = power_of_sum.replaced(lanes, power.numbers());
        }
        sums.add(self.sum, &Factors::new(power_of_sum));
        self.sum = sums.reduce();
    }

    /// Hashes a block in each lane where `ones` has a one; in the others, where the block and all before are zeros, nothing.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn add_block(&mut self, halves: [__m512i; 2], ones: __m512i) {
        let block = Numbers::from_blocks(halves, ones);
        let [r, ..] = self.powers.in_place();
        self.sum = self.sum.plus(block).times(r);
    }

    /// The tags, from s by its halves.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn finish(self, s: [__m512i; 2]) -> [[u8; PART]; SIDE_BY_SIDE] {
        let [low, high] = self.sum.plus_modulo_2_128(s);
        let even = _mm512_unpacklo_epi64(low, high);
        let odd = _mm512_unpackhi_epi64(low, high);
        let mut tags = [[[0; PART]; 2]; SIDE_BY_SIDE / 2];
        let in_order = [
            _mm512_shuffle_i64x2(even, odd, 0x44),
            _mm512_shuffle_i64x2(even, odd, 0xee),
        ];
        // From [0 2 1 3] to [0 1 2 3].
        for (tags, lanes) in tags.as_chunks_mut::<2>().0.iter_mut().zip(in_order) {
            let lanes = _mm512_shuffle_i64x2(lanes, lanes, 0b11_01_10_00);
            // SAFETY: writes the 64 bytes of the reference.
            unsafe { _mm512_storeu_si512(tags.as_mut_ptr().cast(), lanes) };
        }
        let [[a, b], [c, d], [e, f], [g, h]] = tags;
        [a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// r, s, message and tag; hexadecimal, and zeros behind what is shorter than 16 bytes.
    struct Vector {
        r: &'static str,
        s: &'static str,
        message: &'static [&'static str],
        tag: &'static str,
    }

    const ONES: &str = "ffffffffffffffffffffffffffffffff";

    /// RFC 8439 A.3, test vectors 5 to 11, and 1.
    const VECTORS: [Vector; SIDE_BY_SIDE] = [
        Vector {
            r: "02",
            s: "",
            message: &[ONES],
            tag: "03",
        },
        Vector {
            r: "02",
            s: ONES,
            message: &["02"],
            tag: "03",
        },
        Vector {
            r: "01",
            s: "",
            message: &[ONES, "f0ffffffffffffffffffffffffffffff", "11"],
            tag: "05",
        },
        Vector {
            r: "01",
            s: "",
            message: &[
                ONES,
                "fbfefefefefefefefefefefefefefefe",
                "01010101010101010101010101010101",
            ],
            tag: "",
        },
        Vector {
            r: "02",
            s: "",
            message: &["fdffffffffffffffffffffffffffffff"],
            tag: "faffffffffffffffffffffffffffffff",
        },
        Vector {
            r: "010000000000000004",
            s: "",
            message: &[
                "e33594d7505e43b90000000000000000",
                "3394d7505e4379cd01",
                "",
                "01",
            ],
            tag: "140000000000000055",
        },
        Vector {
            r: "010000000000000004",
            s: "",
            message: &["e33594d7505e43b90000000000000000", "3394d7505e4379cd01", ""],
            tag: "13",
        },
        Vector {
            r: "",
            s: "",
            message: &["", "", "", ""],
            tag: "",
        },
    ];

    fn block(digits: &str) -> [u8; PART] {
        let mut block = [0; PART];
        for (byte, digits) in block.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).unwrap();
            *byte = u8::from_str_radix(digits, 16).unwrap();
        }
        block
    }

    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn lanes(of: impl Fn(&Vector) -> u64) -> __m512i {
        let lanes = VECTORS.each_ref().map(of);
        // SAFETY: reads the 64 bytes of the array.
        unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
    }

    /// A block of each vector, by its halves.
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn halves(of: impl Fn(&Vector) -> [u8; PART]) -> [__m512i; 2] {
        let half = |at: usize| {
            lanes(|vector| u64::from_le_bytes(*of(vector).as_chunks().0.get(at).unwrap()))
        };
        [half(0), half(1)]
    }

    fn tags() -> [[u8; PART]; SIDE_BY_SIDE] {
        VECTORS.each_ref().map(|vector| block(vector.tag))
    }

    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn blocks_one_by_one() {
        let mut powers = Powers::new();
        powers.set(halves(|vector| block(vector.r)));
        let mut hashes = Hashes::new(&powers);
        for left in (0..4).rev() {
            let at = |vector: &Vector| vector.message.len().checked_sub(left + 1);
            hashes.add_block(
                halves(|vector| at(vector).map_or([0; PART], |at| block(vector.message[at]))),
                lanes(|vector| u64::from(at(vector).is_some())),
            );
        }
        assert_eq!(hashes.finish(halves(|vector| block(vector.s))), tags());
    }

    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn blocks_in_strips() {
        let mut powers = Powers::new();
        powers.set(halves(|vector| block(vector.r)));
        let texts = VECTORS.each_ref().map(|vector| {
            let mut text = [[0; PART]; BLOCK / PART];
            let before = text.len() - vector.message.len();
            for (part, digits) in text[before..].iter_mut().zip(vector.message) {
                *part = block(digits);
            }
            text
        });
        let parts = lanes(|vector| vector.message.len() as u64);
        let whole = _mm512_cmpeq_epi64_mask(parts, _mm512_set1_epi64(4));
        // SAFETY: so long are the texts.
        let strip = unsafe { strip(texts.each_ref().map(|text| text.as_ptr().cast())) };
        let rests = strip.map(|halves| halves.map(|half| _mm512_maskz_mov_epi64(!whole, half)));
        let mut hashes = Hashes::new(&powers);
        hashes.add_strip(whole, strip);
        hashes.add_parts(_mm512_maskz_mov_epi64(!whole, parts), rests);
        assert_eq!(hashes.finish(halves(|vector| block(vector.s))), tags());
    }

    #[test]
    fn the_vectors_of_the_rfc_side_by_side() {
        if super::super::is_available() {
            // SAFETY: the features were just found.
            unsafe {
                blocks_one_by_one();
                blocks_in_strips();
            }
        }
    }
}
