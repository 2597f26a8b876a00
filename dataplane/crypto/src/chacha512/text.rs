//! Enciphers and deciphers: the same thing. Sixteen blocks of one packet go together while there are so many; what is left
//! of the packets waits until it is sixteen blocks, whosoever they are.

use super::{
    chacha::{BLOCK, LANES, States, counts, load, turn},
    packet::Packet,
};
use core::arch::x86_64::*;

/// RFC 8439 2.8: "the ChaCha20 encryption function is called to encrypt the plaintext, using the same key and nonce, and with
/// the initial counter set to 1."
const FIRST_COUNT: u32 = 1;

/// Where the key stream is made.
#[repr(C, align(64))]
pub(super) struct KeyStream {
    /// Of sixteen blocks of one packet.
    whole: States,
    /// Of sixteen blocks of any.
    pub(super) mixed: States,
    /// The key stream of the latter.
    stream: [[u8; BLOCK]; LANES],
}

impl KeyStream {
    pub(super) const fn new() -> Self {
        Self {
            whole: States::new(),
            mixed: States::new(),
            stream: [[0; BLOCK]; LANES],
        }
    }
}

/// Blocks that wait: packets, which of their blocks, and the counts of these.
struct Waiting<'a> {
    blocks: [(&'a Packet<'a>, usize); LANES],
    count: usize,
    counts: [u32; LANES],
}

/// Enciphers or deciphers the packets.
///
/// # Safety
///
/// The CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
pub(super) unsafe fn run<'a>(
    key_stream: &mut KeyStream,
    mut packets: impl Iterator<Item = &'a Packet<'a>>,
) {
    let Some(first) = packets.next() else {
        return;
    };
    let mut waiting = Waiting {
        blocks: [(first, 0); LANES],
        count: 0,
        counts: [0; LANES],
    };
    for packet in core::iter::once(first).chain(packets) {
        let whole = packet.body / (LANES * BLOCK);
        // SAFETY: so many whole blocks are in the packet's body.
        unsafe { whole_groups(key_stream, packet, whole) };
        for block in LANES * whole..packet.length.div_ceil(BLOCK) {
            fetch(packet, block * BLOCK);
            waiting.blocks[waiting.count] = (packet, block);
            waiting.counts[waiting.count] = FIRST_COUNT + block as u32;
            waiting.count += 1;
            if waiting.count == LANES {
                // SAFETY: the blocks are in their packets.
                unsafe { mixed_group(key_stream, &waiting) };
                waiting.count = 0;
            }
        }
    }
    if waiting.count > 0 {
        // SAFETY: the blocks are in their packets.
        unsafe { mixed_group(key_stream, &waiting) };
    }
}

/// The packet's first blocks, in groups of sixteen.
///
/// # Safety
///
/// So many whole blocks are in the packet's body.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
unsafe fn whole_groups(key_stream: &mut KeyStream, packet: &Packet<'_>, groups: usize) {
    let states = &mut key_stream.whole;
    if groups > 0 {
        states.set_all(packet.schedule, &packet.start);
    }
    for first in (0..groups).map(|group| LANES * group) {
        for block in first..first + LANES {
            fetch(packet, block * BLOCK);
        }
        states.set_counts(counts(FIRST_COUNT + first as u32));
        for (block, stream) in (first..).zip(turn(&states.stream())) {
            // SAFETY: the caller's promise.
            unsafe { whole_block(packet, block * BLOCK, stream) };
        }
    }
}

/// The blocks that wait.
///
/// # Safety
///
/// So many blocks as are counted are in their packets.
#[inline(never)]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
unsafe fn mixed_group(key_stream: &mut KeyStream, waiting: &Waiting<'_>) {
    let states = &mut key_stream.mixed;
    states.set_starts(&waiting.blocks.map(|(packet, _)| &packet.start));
    states.set_keys(&waiting.blocks.map(|(packet, _)| packet.schedule));
    states.set_counts(load(&waiting.counts));
    for (row, stream) in key_stream.stream.iter_mut().zip(turn(&states.stream())) {
        // SAFETY: writes the 64 bytes of the reference.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), stream) };
    }
    for ((packet, block), stream) in waiting.blocks[..waiting.count]
        .iter()
        .zip(&key_stream.stream)
    {
        let offset = block * BLOCK;
        // SAFETY: reads the 64 bytes of the reference; the block is in the packet.
        unsafe {
            let stream = _mm512_loadu_si512(stream.as_ptr().cast());
            if offset + BLOCK <= packet.body {
                whole_block(packet, offset, stream);
            } else {
                last_block(packet, offset, stream);
            }
        }
    }
}

/// Fetches a block's place: it is needed once the key stream is there.
#[inline]
fn fetch(packet: &Packet<'_>, offset: usize) {
    // SAFETY: a prefetch touches nothing, and every CPU with AVX-512 has it.
    unsafe {
        _mm_prefetch(packet.source.wrapping_add(offset).cast(), _MM_HINT_T0);
        _mm_prefetch(packet.out.wrapping_add(offset).cast(), _MM_HINT_ET0);
    }
}

/// # Safety
///
/// All 64 bytes from `offset` are of the packet's body.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
unsafe fn whole_block(packet: &Packet<'_>, offset: usize, stream: __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        let text = _mm512_loadu_si512(packet.source.add(offset).cast());
        _mm512_storeu_si512(
            packet.out.add(offset).cast(),
            _mm512_xor_si512(text, stream),
        );
    }
}

/// A block in which the body ends, or which begins behind it.
///
/// # Safety
///
/// `offset` is less than the packet's length.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
unsafe fn last_block(packet: &Packet<'_>, offset: usize, stream: __m512i) {
    let mask = _bzhi_u64(!0, (packet.length - offset).min(BLOCK) as u32);
    let body = packet.body as isize - offset as isize;
    let body_mask = _bzhi_u64(mask, body.max(0) as u32);
    // SAFETY: what is in the masks is of the body, of the trailer, and of the room for both; the rest is not touched.
    unsafe {
        let text = _mm512_maskz_loadu_epi8(body_mask, packet.source.wrapping_add(offset).cast());
        let trailer = packet.trailer.wrapping_offset(-body).cast();
        let text = _mm512_mask_loadu_epi8(text, mask & !body_mask, trailer);
        let out = packet.out.wrapping_add(offset).cast();
        _mm512_mask_storeu_epi8(out, mask, _mm512_xor_si512(text, stream));
    }
}
