//! The tags of eight packets at once (RFC 8439 2.8).

use super::{
    chacha::BLOCK,
    hash::{Hashes, PART, Powers, SIDE_BY_SIDE, strip},
    one_time::OneTimeKeys,
    packet::{ICV, Packet},
};
use core::arch::x86_64::*;

/// The tags of up to eight packets, which come by increasing length. Their one-time keys begin at a lane of `keys`.
///
/// RFC 8439 2.8: "the Poly1305 function is called with the Poly1305 key calculated above, and a message constructed as a
/// concatenation of" the additional data and the ciphertext, both padded with zeros to whole blocks, and their lengths.
///
/// # Safety
///
/// The packets' ciphertexts are there; the CPU has the features.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
pub(super) unsafe fn tags<const SEAL: bool>(
    keys: &OneTimeKeys,
    lane: usize,
    powers: &mut Powers,
    packets: &[&Packet<'_>],
) -> [[u8; ICV]; SIDE_BY_SIDE] {
    let Some(longest) = packets.last() else {
        return [[0; ICV]; SIDE_BY_SIDE];
    };
    let [r, s] = keys.halves(lane);
    powers.set(r);
    let mut hashes = Hashes::new(powers);
    add_additional_data(&mut hashes, packets);

    // Lanes without a text, or at their text's end, go with the longest, and are left out.
    let mut texts = [longest.ciphertext::<SEAL>(); SIDE_BY_SIDE];
    let mut lengths = [0; SIDE_BY_SIDE];
    let mut additional = [0; SIDE_BY_SIDE];
    for (lane, packet) in packets.iter().enumerate() {
        texts[lane] = packet.ciphertext::<SEAL>();
        lengths[lane] = packet.length as u64;
        additional[lane] = packet.additional.len() as u64;
    }
    let mut still = texts;
    let mut offset = 0;
    for (lane, packet) in packets.iter().enumerate() {
        while offset + BLOCK <= packet.length {
            // SAFETY: the packets from this one on are no shorter, and those before are replaced.
            let strip = unsafe { strip(still.map(|text| text.add(offset))) };
            hashes.add_strip(!0 << lane, strip);
            offset += BLOCK;
        }
        still[lane] = longest.ciphertext::<SEAL>();
    }
    if lengths.iter().any(|length| length % BLOCK as u64 != 0) {
        // SAFETY: as long are the texts.
        unsafe { add_rests(&mut hashes, &texts, &lengths) };
    }
    let one = _mm512_set1_epi64(1);
    hashes.add_block([load(&additional), load(&lengths)], one);
    hashes.finish(s)
}

/// Hashes the additional data, of which ESP's is one block. They end together, so that what is before them is zeros.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
fn add_additional_data(hashes: &mut Hashes<'_>, packets: &[&Packet<'_>]) {
    let blocks = |packet: &Packet<'_>| packet.additional.len().div_ceil(PART);
    let most = packets.iter().map(|packet| blocks(packet)).max();
    for left in (0..most.unwrap_or(0)).rev() {
        let (mut low, mut high) = ([0; SIDE_BY_SIDE], [0; SIDE_BY_SIDE]);
        let mut ones = [0; SIDE_BY_SIDE];
        for (lane, packet) in packets.iter().enumerate() {
            let Some(at) = blocks(packet).checked_sub(left + 1) else {
                continue;
            };
            let data = &packet.additional[PART * at..];
            let mask = _bzhi_u32(!0, data.len().min(PART) as u32) as u16;
            // SAFETY: what is in the mask is of the data.
            let block = unsafe { _mm_maskz_loadu_epi8(mask, data.as_ptr().cast()) };
            low[lane] = _mm_cvtsi128_si64(block) as u64;
            high[lane] = _mm_extract_epi64(block, 1) as u64;
            ones[lane] = 1;
        }
        hashes.add_block([load(&low), load(&high)], load(&ones));
    }
}

/// Hashes what is behind each text's last whole strip.
///
/// # Safety
///
/// As long are the texts.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
unsafe fn add_rests(
    hashes: &mut Hashes<'_>,
    texts: &[*const u8; SIDE_BY_SIDE],
    lengths: &[u64; SIDE_BY_SIDE],
) {
    let mut parts = [0; SIDE_BY_SIDE];
    let mut rests = [[0_u8; BLOCK]; SIDE_BY_SIDE];
    for (lane, rest) in rests.iter_mut().enumerate() {
        let length = lengths[lane] as usize % BLOCK;
        let blocks = length.div_ceil(PART);
        // The last block is at the strip's end.
        let before = BLOCK - PART * blocks;
        let mask = _bzhi_u64(!0, (before + length) as u32) & !_bzhi_u64(!0, before as u32);
        let start = (lengths[lane] as usize - length).wrapping_sub(before);
        // SAFETY: what is in the mask is of the text; writes the 64 bytes of the reference.
        unsafe {
            let text = _mm512_maskz_loadu_epi8(mask, texts[lane].wrapping_add(start).cast());
            _mm512_storeu_si512(rest.as_mut_ptr().cast(), text);
        }
        parts[lane] = blocks as u64;
    }
    // SAFETY: so long they are.
    let strip = unsafe { strip(rests.each_ref().map(|rest| rest.as_ptr())) };
    hashes.add_parts(load(&parts), strip);
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
fn load(lanes: &[u64; SIDE_BY_SIDE]) -> __m512i {
    // SAFETY: reads the 64 bytes of the reference.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}
