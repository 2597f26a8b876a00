//! Text in vectors of four blocks.
//!
//! That of short packets is aligned at its end: the last block is always in a last lane, so that each lane's power of H is
//! known at compile time. The lanes before the text have room for what precedes it: the block whose cipher masks the tag is
//! just the counter block before the first, and additional data is what GHASH takes before the text.

use super::packet::Packet;
use core::arch::x86_64::*;

/// Where the vectors of a whole packet, or of its first strip, lie.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Lanes before the first block.
    pub(super) before: usize,
    /// The bytes of text in the first vector.
    pub(super) first: __mmask64,
    /// The bytes of text in the last vector, if that is the packet's last.
    pub(super) last: __mmask64,
}

/// How many blocks a text has.
#[inline]
pub(super) fn blocks(length: usize) -> usize {
    length.div_ceil(16)
}

impl Shape {
    /// The first `blocks` blocks of a packet in `vectors` vectors; with `ends`, they are all it has.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    pub(super) fn new(vectors: usize, blocks: usize, length: usize) -> Self {
        let before = 4 * vectors - blocks;
        let first = !_bzhi_u64(!0, 16 * before as u32);
        Self {
            before,
            first,
            last: !0 >> (length.wrapping_neg() % 16),
        }
    }
}

/// The vector of text that begins at `offset`, which may be before the text.
///
/// # Safety
///
/// `mask` has no bit before the text or behind its end.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn load(from: *const u8, offset: isize, mask: __mmask64) -> __m512i {
    // SAFETY: a masked load reads the bytes of its mask only, and those are the caller's promise.
    unsafe { _mm512_maskz_loadu_epi8(mask, from.wrapping_offset(offset).cast()) }
}

/// A whole vector of text.
///
/// # Safety
///
/// All 64 bytes from `offset` are text.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn load_whole(from: *const u8, offset: isize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(from.wrapping_offset(offset).cast()) }
}

/// A vector of text with what is left of the body, and then the trailer.
///
/// # Safety
///
/// As for [`load`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn load_with_trailer(
    packet: &Packet<'_>,
    offset: isize,
    mask: __mmask64,
) -> __m512i {
    if packet.body == packet.length {
        // SAFETY: the caller's promise.
        return unsafe { load(packet.source, offset, mask) };
    }
    let body = packet.body as isize - offset;
    let body_mask = _bzhi_u64(mask, body.max(0) as u32);
    // SAFETY: the mask is cut at the end of the body.
    let text = unsafe { load(packet.source, offset, body_mask) };
    let trailer = packet.trailer.padded().as_ptr().wrapping_offset(-body);
    // SAFETY: what is in the mask and not of the body is of the trailer, and masked out bytes are not read.
    unsafe { _mm512_mask_loadu_epi8(text, mask & !body_mask, trailer.cast()) }
}

/// # Safety
///
/// As for [`load`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn store(packet: &Packet<'_>, offset: isize, mask: __mmask64, text: __m512i) {
    // SAFETY: the caller's promise.
    unsafe { _mm512_mask_storeu_epi8(packet.out.wrapping_offset(offset).cast(), mask, text) }
}

/// # Safety
///
/// As for [`load_whole`].
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn store_whole(packet: &Packet<'_>, offset: isize, text: __m512i) {
    // SAFETY: the caller's promise.
    unsafe { _mm512_storeu_si512(packet.out.wrapping_offset(offset).cast(), text) }
}

/// All ones in one lane: a table, since moving a mask to a mask register costs as much as AES of four blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn ones_in(lane: usize) -> __m512i {
    static LANES: [[[u64; 2]; 4]; 4] = {
        let mut lanes = [[[0; 2]; 4]; 4];
        let mut at = 0;
        while at < 4 {
            lanes[at][at] = [!0; 2];
            at += 1;
        }
        lanes
    };
    load_table(LANES[lane % 4].as_flattened())
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn load_table(lanes: &[u64]) -> __m512i {
    debug_assert_eq!(lanes.len(), 8);
    // SAFETY: all tables have eight words.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

/// Puts a block into a lane, which is all zeros so far.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn with_block(vector: __m512i, block: __m128i, lane: usize) -> __m512i {
    // vector ^ (block & lane)
    _mm512_ternarylogic_epi64(vector, _mm512_broadcast_i32x4(block), ones_in(lane), 0x78)
}

/// Puts a block into a lane, whatever is there.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn replace_block(vector: __m512i, block: __m128i, lane: usize) -> __m512i {
    // lane ? block : vector
    _mm512_ternarylogic_epi64(vector, _mm512_broadcast_i32x4(block), ones_in(lane), 0xd8)
}

/// The block in a lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn block_in(vector: __m512i, lane: usize) -> __m128i {
    static INDICES: [[u64; 8]; 4] = [
        [0, 1, 0, 1, 0, 1, 0, 1],
        [2, 3, 2, 3, 2, 3, 2, 3],
        [4, 5, 4, 5, 4, 5, 4, 5],
        [6, 7, 6, 7, 6, 7, 6, 7],
    ];
    let lane = load_table(&INDICES[lane % 4]);
    _mm512_castsi512_si128(_mm512_permutexvar_epi64(lane, vector))
}

/// The block of the additional data.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn additional(packet: &Packet<'_>) -> __m128i {
    // SAFETY: reads the 16 bytes of the reference.
    unsafe { _mm_loadu_si128(packet.additional.as_ptr().cast()) }
}

/// The block of the lengths, as an element.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn lengths(packet: &Packet<'_>) -> __m128i {
    // SAFETY: reads the 16 bytes of the reference.
    unsafe { _mm_loadu_si128(packet.lengths.as_ptr().cast()) }
}

/// Puts `block` into a lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn with_lane(vector: __m512i, block: __m128i, lane: usize) -> __m512i {
    _mm512_mask_broadcast_i32x4(vector, 0xf << (4 * lane), block)
}
