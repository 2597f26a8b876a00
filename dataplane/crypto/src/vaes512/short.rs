//! Packets of up to 256 bytes, four at a time: their ciphers run side by side, each with its own key, and their hashes
//! are reduced in the four lanes of one vector.

use super::{
    burst::{BURST, Packets},
    counter::Counter,
    ghash::{Sums, reflect},
    pace::{block_in_order, each, in_order},
    packet::Packet,
    schedule::Schedule,
    text::{self, Shape},
};
use crate::gcm::load_block;
use core::arch::x86_64::*;

/// Packets in a group.
const N: usize = 4;
/// How many groups ahead keys are fetched: a key that is not in the cache takes as long to come.
const AHEAD: usize = 3;

/// What is to be hashed of `N` packets that go together.
#[derive(Clone, Copy)]
struct Hashed<'a, const V: usize> {
    packets: [&'a Packet<'a>; N],
    /// Lanes before the text, of which the last takes the additional data.
    before: [usize; N],
    ciphertext: [[__m512i; V]; N],
    /// In each packet's lane, the cipher of its first counter block.
    masks: __m512i,
}

/// Seals or opens groups of one kind: each packet has `V` vectors; with `FULL`, their first lanes are text. A forged one has a
/// bit in the result, by its place.
///
/// Opening hashes a group while deciphering it; sealing cannot, and hashes a group while it enciphers the next.
///
/// # Safety
///
/// There is a packet at each of the places. Each has more than `4 * V - 4` blocks (or none) and at most `4 * V`, exactly that
/// many when `FULL`, and a key of `ROUNDS` rounds; the CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<
    const SEAL: bool,
    const ROUNDS: usize,
    const V: usize,
    const FULL: bool,
>(
    all: &Packets<'_>,
    groups: &[[u8; N]],
) -> u64 {
    let zero = _mm512_setzero_si512();
    let mut forged = 0;
    let mut prior: Option<Hashed<'_, V>> = None;
    let mut latest: *const Schedule = core::ptr::null();
    let mut fetch = |places: Option<&[u8; N]>| {
        for place in places.into_iter().flatten() {
            // SAFETY: there are packets at these places.
            let packet = unsafe { all[usize::from(*place) % BURST].assume_init_ref() };
            if !core::ptr::eq(packet.schedule, latest) {
                latest = packet.schedule;
                let highest = 4 * V + if FULL { 2 } else { 1 };
                packet.schedule.prefetch(ROUNDS, highest);
            }
        }
    };
    (0..AHEAD).for_each(|at| fetch(groups.get(at)));
    for (places, later) in groups.iter().zip(AHEAD..) {
        fetch(groups.get(later));
        // SAFETY: there are packets at these places.
        let packets =
            places.map(|place| unsafe { all[usize::from(place) % BURST].assume_init_ref() });
        let mut masks_of = [(0, 0); N];
        let mut group = Hashed {
            packets,
            before: [0; N],
            ciphertext: [[zero; V]; N],
            masks: zero,
        };
        let mut blocks = [[zero; V]; N];
        let mut first = [_mm_setzero_si128(); N];
        each!(i < N, {
            let packet = packets[i];
            let shape = Shape::new(
                V,
                if FULL {
                    4 * V
                } else {
                    text::blocks(packet.length)
                },
                packet.length,
            );
            group.before[i] = if FULL { 0 } else { shape.before };
            masks_of[i] = (shape.first, shape.last);
            let counter = Counter::new(packet.schedule, packet.iv);
            each!(v < V, {
                let count = 4 * v as i32 + 2 - group.before[i] as i32;
                // SAFETY: at least -2, and below 20.
                blocks[i][v] = unsafe { counter.blocks(count) };
            });
            first[i] = counter.tag_block();
        });
        let span = |i: usize, v: usize| {
            let from = if v == 0 && !FULL { masks_of[i].0 } else { !0 };
            let until = if v == V - 1 { masks_of[i].1 } else { !0 };
            (
                64 * v as isize - 16 * group.before[i] as isize,
                from & until,
            )
        };
        let load = |i: usize, v: usize| {
            let (offset, mask) = span(i, v);
            // SAFETY: the mask has the text's bytes in this vector.
            unsafe {
                if v == V - 1 {
                    text::load_with_trailer(packets[i], offset, mask)
                } else if v == 0 && !FULL {
                    text::load(packets[i].source, offset, mask)
                } else {
                    text::load_whole(packets[i].source, offset)
                }
            }
        };
        if !SEAL {
            each!(i < N, {
                each!(v < V, {
                    group.ciphertext[i][v] = load(i, v);
                });
            });
        }

        macro_rules! aes {
            ($from:expr, $until:expr) => {
                for round in $from..$until {
                    each!(p < N, {
                        let key = packets[p].schedule.round_key(round);
                        each!(w < V, {
                            blocks[p][w] = in_order(_mm512_aesenc_epi128(blocks[p][w], key));
                        });
                        if FULL {
                            first[p] = block_in_order(_mm_aesenc_si128(
                                first[p],
                                _mm512_castsi512_si128(key),
                            ));
                        }
                    });
                }
            };
        }
        let hashed = if SEAL { prior.unwrap_or(group) } else { group };
        let mut sums = [Sums::zero(); N];
        // GHASH is in the first half of AES's rounds, the reduction, one long chain, spread over the second: whatever waits
        // for a result outside of AES would fill the scheduler and keep the next rounds out.
        let mut sum = rest::<V, FULL>(&hashed);
        sum.pace();
        let mut done = 1;
        each!(i < N, {
            each!(v < V, {
                let until = 1 + ROUNDS * (V * i + v + 1) / (2 * N * V);
                aes!(done, until);
                done = until;
                add_product::<V, FULL>(&hashed, &mut sums[i], i, v);
                sums[i].pace();
            });
        });
        aes!(done, done + 1);
        sum.add_sums(Sums::gather(sums));
        sum.pace();
        aes!(done + 1, done + 2);
        sum.fold_low();
        sum.pace();
        aes!(done + 2, done + 3);
        let hashes = in_order(sum.fold_middle());
        aes!(done + 3, ROUNDS);
        let tags = reflect(hashes);
        if SEAL && prior.is_some() {
            write(&hashed, _mm512_xor_si512(tags, hashed.masks));
        }

        each!(i < N, {
            let key = packets[i].schedule.round_key(ROUNDS);
            each!(v < V, {
                let (offset, mask) = span(i, v);
                let taken = if SEAL {
                    load(i, v)
                } else {
                    group.ciphertext[i][v]
                };
                let given = _mm512_aesenclast_epi128(blocks[i][v], _mm512_xor_si512(key, taken));
                let partial = v == V - 1 || (v == 0 && !FULL);
                // SAFETY: the mask has the text's bytes in this vector.
                unsafe {
                    if partial {
                        text::store(packets[i], offset, mask, given);
                    } else {
                        text::store_whole(packets[i], offset, given);
                    }
                }
                if SEAL {
                    group.ciphertext[i][v] = if partial {
                        _mm512_maskz_mov_epi8(mask, given)
                    } else {
                        given
                    };
                }
                if v == 0 && !FULL {
                    let mask = text::block_before(given, group.before[i]);
                    group.masks = text::with_lane(group.masks, mask, i);
                }
            });
            if FULL {
                let mask = _mm_aesenclast_si128(first[i], _mm512_castsi512_si128(key));
                group.masks = text::with_lane(group.masks, mask, i);
            }
        });
        if SEAL {
            prior = Some(group);
        } else {
            forged |= compare(&group, places, _mm512_xor_si512(tags, group.masks));
        }
    }
    if let Some(prior) = prior {
        let mut sums = [Sums::zero(); N];
        each!(i < N, {
            each!(v < V, {
                add_product::<V, FULL>(&prior, &mut sums[i], i, v);
            });
        });
        let mut sum = rest::<V, FULL>(&prior);
        sum.add_sums(Sums::gather(sums));
        write(&prior, _mm512_xor_si512(reflect(sum.reduce()), prior.masks));
    }
    forged
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn add_product<const V: usize, const FULL: bool>(
    hashed: &Hashed<'_, V>,
    sums: &mut Sums,
    i: usize,
    v: usize,
) {
    let (packet, mut text) = (hashed.packets[i], hashed.ciphertext[i][v]);
    if v == 0 && !FULL {
        text = text::with_block(text, load_block(&packet.additional), hashed.before[i] - 1);
    }
    sums.add(reflect(text), packet.schedule.powers(4 * (V - v) + 1));
}

/// What GHASH takes besides the text, for all packets at once: lengths, and additional data that has no place before the
/// text.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn rest<const V: usize, const FULL: bool>(hashed: &Hashed<'_, V>) -> Sums {
    let packets = &hashed.packets;
    let zero = _mm512_setzero_si512();
    let (mut lengths, mut powers) = (zero, zero);
    each!(i < N, {
        lengths = text::with_lane(lengths, text::lengths(packets[i]), i);
        powers = text::with_lane(powers, packets[i].schedule.power(1), i);
    });
    let mut sum = Sums::zero();
    sum.add(lengths, powers);
    if FULL {
        let (mut additional, mut powers) = (zero, zero);
        each!(i < N, {
            additional = text::with_lane(additional, load_block(&packets[i].additional), i);
            powers = text::with_lane(powers, packets[i].schedule.power(4 * V + 2), i);
        });
        sum.add(reflect(additional), powers);
    }
    sum
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn write<const V: usize>(group: &Hashed<'_, V>, tags: __m512i) {
    let tags = [
        _mm512_castsi512_si128(tags),
        _mm512_extracti32x4_epi32(tags, 1),
        _mm512_extracti32x4_epi32(tags, 2),
        _mm512_extracti32x4_epi32(tags, 3),
    ];
    for (packet, tag) in group.packets.iter().zip(tags) {
        // SAFETY: by the packet's invariant the tag has room behind the text.
        unsafe { _mm_storeu_si128(packet.out.add(packet.length).cast(), tag) };
    }
}

/// Compares the tags in constant time, all bytes at once.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn compare<const V: usize>(group: &Hashed<'_, V>, places: &[u8; N], tags: __m512i) -> u64 {
    let mut expected = _mm512_setzero_si512();
    each!(i < N, {
        let packet = group.packets[i];
        // SAFETY: by the packet's invariant the tag follows the text.
        let tag = unsafe { _mm_loadu_si128(packet.source.add(packet.length).cast()) };
        expected = text::with_lane(expected, tag, i);
    });
    let differs = u32::from(_mm512_cmpneq_epi64_mask(tags, expected));
    let mut forged = 0;
    if differs != 0 {
        each!(i < N, {
            forged |= u64::from(differs >> (2 * i) & 3 != 0) << places[i];
        });
    }
    forged
}
