//! Packets longer than 256 bytes, one at a time.

use super::{
    burst::{BURST, Packets},
    counter::{self, Counter},
    ghash::{Sums, reflect, reflect_one, sum_lanes},
    pace::{block_in_order, each, in_order},
    packet::Packet,
    schedule::Schedule,
    text::{self, Shape},
};
use core::arch::x86_64::*;

/// What the first strip leaves for the rest.
struct Head {
    hash: __m128i,
    /// The cipher of the first counter block.
    mask: __m128i,
}

/// Seals or opens long packets; a forged one has a bit in the result, by its index.
///
/// # Safety
///
/// Each job of `order` has more than 16 blocks and a key of `ROUNDS` rounds; the CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const ROUNDS: usize>(
    packets: &Packets<'_>,
    places: &[u8],
) -> u64 {
    let mut forged = 0;
    for place in places {
        // SAFETY: the caller's promise.
        let differs =
            unsafe { one::<ROUNDS, SEAL>(packets[usize::from(*place) % BURST].assume_init_ref()) };
        forged |= u64::from(differs) << place;
    }
    forged
}

type Strip = [__m512i; 4];

/// # Safety
///
/// The packet has more than 16 blocks and keys of `ROUNDS` rounds; the CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
#[inline]
unsafe fn one<const ROUNDS: usize, const SEAL: bool>(packet: &Packet<'_>) -> u32 {
    let counter = Counter::new(packet.schedule, packet.iv);
    let blocks = text::blocks(packet.length);
    let in_head = (blocks - 1) % 16 + 1;
    let strips = (blocks - in_head) / 16;
    // SAFETY: the head has as many blocks as its form takes.
    let head = unsafe {
        match in_head {
            1..4 => head::<ROUNDS, SEAL, 1, false>(packet, &counter, in_head),
            4 => head::<ROUNDS, SEAL, 1, true>(packet, &counter, in_head),
            5..8 => head::<ROUNDS, SEAL, 2, false>(packet, &counter, in_head),
            8 => head::<ROUNDS, SEAL, 2, true>(packet, &counter, in_head),
            9..12 => head::<ROUNDS, SEAL, 3, false>(packet, &counter, in_head),
            12 => head::<ROUNDS, SEAL, 3, true>(packet, &counter, in_head),
            13..16 => head::<ROUNDS, SEAL, 4, false>(packet, &counter, in_head),
            _ => head::<ROUNDS, SEAL, 4, true>(packet, &counter, in_head),
        }
    };

    let schedule = packet.schedule;
    let mut counts = [counter::counts(in_head + 2); 4];
    each!(v < 4, {
        counts[v] = _mm512_add_epi32(counts[v], _mm512_set1_epi32(4 * v as i32));
    });
    let mut offset = 16 * in_head as isize;
    let mut hash = head.hash;
    let zero = _mm512_setzero_si512();
    let last = text::last_mask(packet.length);
    let mut given = [zero; 4];

    if SEAL {
        if strips > 1 {
            // SAFETY: a whole strip, not the last.
            let taken = unsafe { load_strip(packet, offset) };
            given = encipher::<ROUNDS, false>(
                schedule,
                &counter,
                &mut counts,
                taken,
                given,
                _mm512_zextsi128_si512(hash),
                &mut Sums::zero(),
            );
            // SAFETY: as above.
            unsafe { store_strip(packet, offset, given) };
            offset += 256;
            for _ in 2..strips {
                // SAFETY: as above.
                let taken = unsafe { load_strip(packet, offset) };
                let mut sums = Sums::zero();
                given = encipher::<ROUNDS, true>(
                    schedule,
                    &counter,
                    &mut counts,
                    taken,
                    given,
                    _mm512_zextsi128_si512(hash),
                    &mut sums,
                );
                hash = sum_lanes(sums.reduce());
                // SAFETY: as above.
                unsafe { store_strip(packet, offset, given) };
                offset += 256;
            }
            // SAFETY: the last strip.
            let taken = unsafe { load_last_strip::<SEAL>(packet, offset, last) };
            let mut sums = Sums::zero();
            given = encipher::<ROUNDS, true>(
                schedule,
                &counter,
                &mut counts,
                taken,
                given,
                _mm512_zextsi128_si512(hash),
                &mut sums,
            );
            hash = sum_lanes(sums.reduce());
        } else {
            // SAFETY: the last strip.
            let taken = unsafe { load_last_strip::<SEAL>(packet, offset, last) };
            given = encipher::<ROUNDS, false>(
                schedule,
                &counter,
                &mut counts,
                taken,
                given,
                _mm512_zextsi128_si512(hash),
                &mut Sums::zero(),
            );
        }
        // SAFETY: the last strip.
        unsafe { store_last_strip(packet, offset, last, given) };
        given[3] = _mm512_maskz_mov_epi8(last, given[3]);
        let mut sums = Sums::zero();
        for v in [1, 2, 3, 0] {
            let element = reflect(given[v]);
            let element = if v == 0 {
                _mm512_xor_si512(element, _mm512_zextsi128_si512(hash))
            } else {
                element
            };
            sums.add(element, schedule.powers(17 - 4 * v));
        }
        hash = finish(packet, sums);
    } else {
        for _ in 1..strips {
            // SAFETY: a whole strip, not the last.
            let taken = unsafe { load_strip(packet, offset) };
            let hashed = taken;
            let mut sums = Sums::zero();
            given = encipher_hash::<ROUNDS, 16>(
                schedule,
                &counter,
                &mut counts,
                taken,
                hashed,
                _mm512_zextsi128_si512(hash),
                &mut sums,
            );
            hash = sum_lanes(sums.reduce());
            // SAFETY: as above.
            unsafe { store_strip(packet, offset, given) };
            offset += 256;
        }
        // SAFETY: the last strip.
        let taken = unsafe { load_last_strip::<SEAL>(packet, offset, last) };
        let hashed = taken;
        let mut sums = Sums::zero();
        given = encipher_hash::<ROUNDS, 17>(
            schedule,
            &counter,
            &mut counts,
            taken,
            hashed,
            _mm512_zextsi128_si512(hash),
            &mut sums,
        );
        // SAFETY: the last strip.
        unsafe { store_last_strip(packet, offset, last, given) };
        hash = finish(packet, sums);
    }

    let tag = _mm_xor_si128(reflect_one(hash), head.mask);
    if SEAL {
        // SAFETY: by the packet's invariant the tag has room behind the text.
        unsafe { _mm_storeu_si128(packet.out.add(packet.length).cast(), tag) };
        return 0;
    }
    // SAFETY: by the packet's invariant the tag follows the text.
    let expected = unsafe { _mm_loadu_si128(packet.source.add(packet.length).cast()) };
    u32::from(_mm_cmpneq_epi64_mask(tag, expected) != 0)
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn finish(packet: &Packet<'_>, mut sums: Sums) -> __m128i {
    let lengths = text::with_lengths(packet, _mm512_setzero_si512(), 0);
    sums.add(lengths, _mm512_zextsi128_si512(packet.schedule.power(1)));
    sum_lanes(sums.reduce())
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn load_strip(packet: &Packet<'_>, offset: isize) -> Strip {
    // SAFETY: the caller's promise.
    unsafe {
        [
            text::load_whole(packet, offset),
            text::load_whole(packet, offset + 64),
            text::load_whole(packet, offset + 128),
            text::load_whole(packet, offset + 192),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn load_last_strip<const SEAL: bool>(
    packet: &Packet<'_>,
    offset: isize,
    mask: __mmask64,
) -> Strip {
    // SAFETY: the caller's promise.
    unsafe {
        [
            text::load_whole(packet, offset),
            text::load_whole(packet, offset + 64),
            text::load_whole(packet, offset + 128),
            text::load_last(packet, offset + 192, mask),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn store_strip(packet: &Packet<'_>, offset: isize, strip: Strip) {
    each!(v < 4, {
        // SAFETY: the caller's promise.
        unsafe { text::store_whole(packet, offset + 64 * v as isize, strip[v]) };
    });
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn store_last_strip(packet: &Packet<'_>, offset: isize, mask: __mmask64, strip: Strip) {
    each!(v < 3, {
        // SAFETY: the caller's promise.
        unsafe { text::store_whole(packet, offset + 64 * v as isize, strip[v]) };
    });
    // SAFETY: the caller's promise.
    unsafe { text::store(packet, offset + 192, mask, strip[3]) };
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encipher<const ROUNDS: usize, const HASH: bool>(
    schedule: &Schedule,
    counter: &Counter,
    counts: &mut Strip,
    taken: Strip,
    hashed: Strip,
    hash: __m512i,
    sums: &mut Sums,
) -> Strip {
    if HASH {
        encipher_hash::<ROUNDS, 16>(schedule, counter, counts, taken, hashed, hash, sums)
    } else {
        encipher_hash::<ROUNDS, 0>(schedule, counter, counts, taken, hashed, hash, sums)
    }
}

/// The rounds of AES from one to before another.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn aes_rounds(state: &mut Strip, schedule: &Schedule, from: usize, to: usize) {
    for round in from..to {
        let key = schedule.round_key(round);
        each!(v < 4, {
            state[v] = in_order(_mm512_aesenc_epi128(state[v], key));
        });
    }
}

/// AES of a strip, with GHASH of another between its rounds.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn encipher_hash<const ROUNDS: usize, const POWER: usize>(
    schedule: &Schedule,
    counter: &Counter,
    counts: &mut Strip,
    taken: Strip,
    hashed: Strip,
    hash: __m512i,
    sums: &mut Sums,
) -> Strip {
    let mut state = [_mm512_setzero_si512(); 4];
    each!(v < 4, {
        state[v] = counter.large(counts[v]);
        counts[v] = _mm512_add_epi32(counts[v], _mm512_set1_epi32(16));
    });
    // Each product's four multiplications stand after a fifth of AES: both run on the same two ports.
    let mut done = 1;
    let pause = (ROUNDS - 2) / 4;
    aes_rounds(&mut state, schedule, done, done + 1);
    done += 1;
    // The first vector comes last: the hash of the strip before is added to it.
    for v in [1, 2, 3, 0] {
        aes_rounds(&mut state, schedule, done, done + pause);
        done += pause;
        if POWER > 0 {
            let elements = reflect(hashed[v]);
            let elements = if v == 0 {
                _mm512_xor_si512(elements, hash)
            } else {
                elements
            };
            sums.add(elements, schedule.powers(POWER - 4 * v));
            sums.pace();
        }
    }
    aes_rounds(&mut state, schedule, done, ROUNDS);
    let key = schedule.round_key(ROUNDS);
    each!(v < 4, {
        state[v] = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(key, taken[v]));
    });
    state
}

/// The first strip: 1 to 16 blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn head<const ROUNDS: usize, const SEAL: bool, const V: usize, const FULL: bool>(
    packet: &Packet<'_>,
    counter: &Counter,
    blocks: usize,
) -> Head {
    let schedule = packet.schedule;
    let shape = Shape::new(V, if FULL { 4 * V } else { blocks }, packet.length);
    let before = if FULL { 0 } else { shape.before };
    let offset = |v: usize| 64 * v as isize - 16 * before as isize;
    let mut state = [_mm512_setzero_si512(); V];
    each!(v < V, {
        state[v] = counter.small(4 * v as i32 + 2 - before as i32);
    });
    let mut tag_block = counter.tag_block();
    for round in 1..ROUNDS {
        let key = schedule.round_key(round);
        each!(v < V, {
            state[v] = in_order(_mm512_aesenc_epi128(state[v], key));
        });
        if FULL {
            tag_block = block_in_order(_mm_aesenc_si128(tag_block, _mm512_castsi512_si128(key)));
        }
    }
    let key = schedule.round_key(ROUNDS);
    let mut mask = _mm_aesenclast_si128(tag_block, _mm512_castsi512_si128(key));
    let mut sums = Sums::zero();
    each!(v < V, {
        let is_first = v == 0 && !FULL;
        // SAFETY: the mask holds the text's bytes in this vector.
        let taken = unsafe {
            if is_first {
                text::load(packet, offset(v), shape.first)
            } else {
                text::load_whole(packet, offset(v))
            }
        };
        let given = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(key, taken));
        // SAFETY: as above, and `out` is as long.
        unsafe {
            if is_first {
                text::store(packet, offset(v), shape.first, given)
            } else {
                text::store_whole(packet, offset(v), given)
            }
        }
        let mut hashed = if SEAL { given } else { taken };
        if is_first {
            mask =
                _mm512_castsi512_si128(_mm512_maskz_compress_epi64(3 << (2 * (before - 1)), given));
            hashed = text::with_additional(
                packet,
                _mm512_maskz_mov_epi8(shape.first, hashed),
                before - 1,
            );
        }
        sums.add(reflect(hashed), schedule.powers(4 * (V - v)));
    });
    if FULL {
        let additional = reflect(text::with_additional(packet, _mm512_setzero_si512(), 0));
        sums.add(
            additional,
            _mm512_zextsi128_si512(schedule.power(4 * V + 1)),
        );
    }
    Head {
        hash: sum_lanes(sums.reduce()),
        mask,
    }
}
