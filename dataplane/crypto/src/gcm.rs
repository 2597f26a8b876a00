//! What AES-GCM's kernels of every width have in common: single blocks, AES's round keys and the hash key.
#![allow(
    unsafe_code,
    reason = "a block is read and written through a pointer to a vector"
)]

use core::arch::x86_64::*;

/// A block of AES, or an element of GHASH's field.
pub(crate) type Block = [u8; 16];

#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(crate) fn load_block(block: &Block) -> __m128i {
    // SAFETY: reads the 16 bytes of the reference.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(crate) fn store_block(to: &mut Block, block: __m128i) {
    // SAFETY: writes the 16 bytes of the reference.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), block) }
}

/// A block in the byte order of the field's elements, or back.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(crate) fn reflect_one(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, reflection())
}

/// The shuffle that reflects a block.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(crate) fn reflection() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

/// The upper half of the field's polynomial, and 1.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(crate) fn polynomial() -> __m128i {
    _mm_set_epi64x(0xc200_0000_0000_0000_u64 as i64, 1)
}

/// The round keys of a key, of which there are as many as its length asks for (FIPS 197 5.2). The substitution is
/// AESENCLAST's, on a word in all columns, so that ShiftRows changes nothing: no table, no secret address.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(crate) fn expand_round_keys(keys: &mut [Block], key: &[u8]) {
    fn word(words: &[Block], at: usize) -> u32 {
        let [a, b, c, d] = words[at / 4].as_chunks::<4>().0[at % 4];
        u32::from_le_bytes([a, b, c, d])
    }
    let length = key.len() / 4;
    keys.as_flattened_mut()[..key.len()].copy_from_slice(key);
    let substitute = |word: u32| {
        let word = _mm_set1_epi32(word as i32);
        _mm_cvtsi128_si32(_mm_aesenclast_si128(word, _mm_setzero_si128())) as u32
    };
    let mut round_constant = 1;
    for at in length..4 * keys.len() {
        let mut next = word(keys, at - 1);
        if at % length == 0 {
            next = substitute(next.rotate_right(8)) ^ round_constant;
            round_constant =
                (round_constant << 1) ^ if round_constant & 0x80 != 0 { 0x11b } else { 0 };
        } else if length > 6 && at % length == 4 {
            next = substitute(next);
        }
        next ^= word(keys, at - length);
        keys.as_flattened_mut()[4 * at..4 * at + 4].copy_from_slice(&next.to_le_bytes());
    }
}

/// The hash key under these round keys, the cipher of the zero block (SP 800-38D 7.1 step 1), times x, so that products come
/// out aligned.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(crate) fn hash_key(round_keys: &[Block]) -> __m128i {
    let [whitening, middle @ .., last] = round_keys else {
        return _mm_setzero_si128();
    };
    let mut h = load_block(whitening);
    for round_key in middle {
        h = _mm_aesenc_si128(h, load_block(round_key));
    }
    let h = reflect_one(_mm_aesenclast_si128(h, load_block(last)));
    let carries = _mm_srli_epi64(h, 63);
    let shifted = _mm_or_si128(_mm_slli_epi64(h, 1), _mm_bslli_si128(carries, 8));
    // All ones when the top bit was shifted out: the polynomial is added by mask, not by branch.
    let overflow = _mm_shuffle_epi32(_mm_srai_epi32(h, 31), 0xff);
    _mm_xor_si128(shifted, _mm_and_si128(overflow, polynomial()))
}
