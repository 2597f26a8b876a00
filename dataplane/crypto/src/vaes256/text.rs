//! Text in vectors of two blocks. Without masks, the end of a text is put together from pieces of 16 bytes, each moved to
//! its place in the vector, and nothing beyond the text's ends is read or written: pieces overlap instead.

use super::packet::Packet;
use core::arch::x86_64::*;

/// The bytes of a vector.
pub(super) const VECTOR: usize = 32;
/// The bytes of a block, and of a piece.
const BLOCK: usize = 16;

/// VPSHUFB's indices of a block's bytes, and before and behind them those that give zeros.
static PLACES: [u8; 80] = {
    let mut places = [0x80; 80];
    let mut at = 0;
    while at < BLOCK {
        places[VECTOR + at] = at as u8;
        at += 1;
    }
    places
};

/// As many bytes that are kept, as many that are not.
static KEPT: [u8; 2 * VECTOR] = {
    let mut kept = [0; 2 * VECTOR];
    let mut at = 0;
    while at < VECTOR {
        kept[at] = 0xff;
        at += 1;
    }
    kept
};

/// How many vectors a text has.
#[inline]
pub(super) const fn vectors(length: usize) -> usize {
    length.div_ceil(VECTOR)
}

/// How many blocks a text has.
#[inline]
pub(super) const fn blocks(length: usize) -> usize {
    length.div_ceil(BLOCK)
}

/// A block with its first byte at `at` of a vector of zeros, as far as it is within.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
fn placed(block: __m128i, at: isize) -> __m256i {
    let from = VECTOR as isize - at.clamp(-(BLOCK as isize), VECTOR as isize);
    // SAFETY: reads 32 of 80 bytes, from 0 at least and 48 at most.
    let places = unsafe { _mm256_loadu_si256(PLACES.as_ptr().offset(from).cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(block), places)
}

/// A block moved by as many bytes towards its start, or if negative towards its end; at most 16.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
fn moved(block: __m128i, by: isize) -> __m128i {
    debug_assert!(by.unsigned_abs() <= BLOCK);
    // SAFETY: reads 16 of 80 bytes, from 16 at least and 48 at most.
    let places = unsafe { _mm_loadu_si128(PLACES.as_ptr().offset(VECTOR as isize + by).cast()) };
    _mm_shuffle_epi8(block, places)
}

/// The first `count` bytes of a vector, and zeros.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) fn first_bytes(vector: __m256i, count: usize) -> __m256i {
    let from = VECTOR - count.min(VECTOR);
    // SAFETY: reads 32 of 64 bytes, from 32 at most.
    let kept = unsafe { _mm256_loadu_si256(KEPT.as_ptr().add(from).cast()) };
    _mm256_and_si256(vector, kept)
}

/// The vector of text that begins at `at`, all of it of the packet's body.
///
/// # Safety
///
/// It is.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn load(packet: &Packet<'_>, at: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(packet.source.add(at).cast()) }
}

/// The vector of text that begins at `at`: what is left of the body, the trailer, and zeros.
///
/// # Safety
///
/// `at` is within the text.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn load_end<const SEAL: bool>(packet: &Packet<'_>, at: usize) -> __m256i {
    // SAFETY: each read is of the body, by the branch that it is in.
    unsafe {
        if at + VECTOR <= packet.body {
            return load(packet, at);
        }
        let mut vector = _mm256_setzero_si256();
        if at < packet.body {
            let (last, start) = last_piece(packet);
            vector = placed(last, start - at as isize);
            if at + BLOCK <= packet.body {
                let first = _mm_loadu_si128(packet.source.add(at).cast());
                vector = _mm256_or_si256(vector, _mm256_zextsi128_si256(first));
            }
        }
        if SEAL {
            vector = _mm256_or_si256(vector, trailer(packet, at));
        }
        vector
    }
}

/// The trailer, where it is in the vector that begins at `at`.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
fn trailer(packet: &Packet<'_>, at: usize) -> __m256i {
    const SECOND: usize = crate::MAX_TRAILER - BLOCK;
    let from = packet.body as isize - at as isize;
    let load = |start: usize| {
        let piece: &[u8] = &packet.trailer[start..start + BLOCK];
        // SAFETY: reads the 16 bytes of the slice.
        unsafe { _mm_loadu_si128(piece.as_ptr().cast()) }
    };
    let first = placed(load(0), from);
    if packet.length - packet.body <= BLOCK {
        return first;
    }
    _mm256_or_si256(first, placed(load(SECOND), from + SECOND as isize))
}

/// The last 16 bytes of the body and where they start, or all of a shorter one and zeros.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
fn last_piece(packet: &Packet<'_>) -> (__m128i, isize) {
    if packet.body < BLOCK {
        // SAFETY: the body is of that length.
        let body = unsafe { core::slice::from_raw_parts(packet.source, packet.body) };
        return (load_short(body), 0);
    }
    let start = packet.body - BLOCK;
    // SAFETY: reads the last 16 bytes of the body.
    let piece = unsafe { _mm_loadu_si128(packet.source.add(start).cast()) };
    (piece, start as isize)
}

/// Less than a block, and zeros.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
fn load_short(bytes: &[u8]) -> __m128i {
    let overlapped = |first: u64, last: u64, width: usize| {
        u128::from(first) | u128::from(last) << (8 * (bytes.len() - width))
    };
    let block = if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        overlapped(u64::from_le_bytes(*first), u64::from_le_bytes(*last), 8)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let [first, last] = [first, last].map(|four| u64::from(u32::from_le_bytes(*four)));
        overlapped(first, last, 4)
    } else {
        let mut block = 0;
        for byte in bytes.iter().rev() {
            block = block << 8 | u128::from(*byte);
        }
        block
    };
    _mm_set_epi64x((block >> 64) as i64, block as i64)
}

/// The first bytes of a block, fewer than it has.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
fn store_short(block: __m128i, to: &mut [u8]) {
    let low = _mm_cvtsi128_si64(block) as u64;
    let high = _mm_extract_epi64(block, 1) as u64;
    let block = u128::from(high) << 64 | u128::from(low);
    let length = to.len();
    let behind = |width: usize| block >> (8 * (length - width));
    if length >= 8 {
        let (first, last) = (low.to_le_bytes(), (behind(8) as u64).to_le_bytes());
        to[..8].copy_from_slice(&first);
        to[length - 8..].copy_from_slice(&last);
    } else if length >= 4 {
        let (first, last) = ((low as u32).to_le_bytes(), (behind(4) as u32).to_le_bytes());
        to[..4].copy_from_slice(&first);
        to[length - 4..].copy_from_slice(&last);
    } else {
        for (to, byte) in to.iter_mut().zip(low.to_le_bytes()) {
            *to = byte;
        }
    }
}

/// Writes the vector of text that begins at `at`.
///
/// # Safety
///
/// All of it is of the text.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn store(packet: &Packet<'_>, at: usize, vector: __m256i) {
    // SAFETY: the caller's promise.
    unsafe { _mm256_storeu_si256(packet.out.add(at).cast(), vector) }
}

/// Writes the last vector of text, which begins at `at`; `before` is the one before it. When sealing, writes on into the room
/// for the ICV.
///
/// # Safety
///
/// It is the last, and `at` is within the text. If there is a vector before, it was written.
#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn store_end<const SEAL: bool>(
    packet: &Packet<'_>,
    at: usize,
    vector: __m256i,
    before: __m256i,
) {
    let left = packet.length - at;
    let [first, second] = both(vector);
    // SAFETY: each write is of the text, or when sealing at most of 15 bytes more, by the branch that it is in.
    unsafe {
        if left == VECTOR || (SEAL && left > BLOCK) {
            store(packet, at, vector);
            return;
        }
        if left >= BLOCK || SEAL {
            _mm_storeu_si128(packet.out.add(at).cast(), first);
        }
        if left == BLOCK || SEAL {
            return;
        }
        if packet.length < BLOCK {
            let out = core::slice::from_raw_parts_mut(packet.out, packet.length);
            store_short(first, out);
            return;
        }
        // The last 16 bytes, of which some are written already.
        let (start, end, of_end) = if left > BLOCK {
            (first, second, left - BLOCK)
        } else {
            (both(before)[1], first, left)
        };
        let last = _mm_or_si128(
            moved(start, of_end as isize),
            moved(end, of_end as isize - BLOCK as isize),
        );
        _mm_storeu_si128(packet.out.add(packet.length - BLOCK).cast(), last);
    }
}

#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
fn both(vector: __m256i) -> [__m128i; 2] {
    [
        _mm256_castsi256_si128(vector),
        _mm256_extracti128_si256(vector, 1),
    ]
}
