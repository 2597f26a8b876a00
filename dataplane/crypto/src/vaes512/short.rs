//! Packets of up to 256 bytes, four at a time: their ciphers run side by side, each with its own key, and their hashes
//! are reduced in the four lanes of one vector.

use super::{
    burst::{Job, Jobs},
    counter::Counter,
    ghash::{Sums, reflect},
    pace::{block_in_order, each, in_order},
    packet::Packet,
    schedule::Schedule,
    text::{self, Shape},
};
use core::arch::x86_64::*;

/// Packets in a group.
const N: usize = 4;
/// How many groups ahead keys are fetched: a key that is not in the cache takes as long to come.
const AHEAD: usize = 3;

/// What is to be hashed of `N` packets that go together.
#[derive(Clone, Copy)]
struct Hashed<'a, const V: usize> {
    schedules: [&'a Schedule; N],
    /// If lanes are free before the text, the last of them has the additional data.
    ciphertext: [[__m512i; V]; N],
    /// In each packet's lane, the additional data that has no place before the text,
    additional: __m512i,
    /// the block of the lengths,
    lengths: __m512i,
    /// and the cipher of its first counter block.
    masks: __m512i,
    /// Where the tags go.
    tags: [*mut u8; N],
}

/// Seals or opens groups of one kind: each packet has `V` vectors; with `FULL`, their first lanes are text; and with `ONE_KEY`,
/// all have the same key. A forged one has a bit in the result, by its place.
///
/// Opening hashes a group while deciphering it; sealing cannot, and hashes a group while it enciphers the next.
///
/// # Safety
///
/// At each of the places, which are all different, there is a job that has given a packet. Each has more than `4 * V - 4` blocks
/// (or none) and at most `4 * V`, exactly that many when `FULL`, and a key of `ROUNDS` rounds; the CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<
    J: Job,
    const ROUNDS: usize,
    const V: usize,
    const FULL: bool,
    const ONE_KEY: bool,
>(
    jobs: &Jobs<'_, J>,
    groups: &[[u8; N]],
) -> u64 {
    let zero = _mm512_setzero_si512();
    let mut forged = 0;
    let mut prior: Option<Hashed<'_, V>> = None;
    let mut latest: *const Schedule = core::ptr::null();
    let mut fetch = |places: Option<&[u8; N]>| {
        for place in places.into_iter().flatten().filter(|_| !ONE_KEY) {
            // SAFETY: the caller's promise.
            let schedule = unsafe { jobs.packet(*place).schedule };
            if !core::ptr::eq(schedule, latest) {
                latest = schedule;
                let highest = 4 * V + if FULL { 2 } else { 1 };
                schedule.prefetch(ROUNDS, highest);
            }
        }
    };
    (0..AHEAD).for_each(|at| fetch(groups.get(at)));
    for (places, later) in groups.iter().zip(AHEAD..) {
        fetch(groups.get(later));
        // SAFETY: the caller's promise.
        let packets = unsafe {
            [
                jobs.packet(places[0]),
                jobs.packet(places[1]),
                jobs.packet(places[2]),
                jobs.packet(places[3]),
            ]
        };
        let [a, b, c, d] = &packets;
        let schedules = if ONE_KEY {
            [a.schedule; N]
        } else {
            [a.schedule, b.schedule, c.schedule, d.schedule]
        };
        let mut before = [0; N];
        let mut masks_of = [(0, 0); N];
        let mut group = Hashed {
            schedules,
            ciphertext: [[zero; V]; N],
            additional: zero,
            lengths: zero,
            masks: zero,
            tags: [core::ptr::null_mut(); N],
        };
        let mut blocks = [[zero; V]; N];
        let mut first = [_mm_setzero_si128(); N];
        let mut firsts = zero;
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
            before[i] = if FULL { 0 } else { shape.before };
            masks_of[i] = (shape.first, shape.last);
            let counter = Counter::new(schedules[i], packet.iv);
            each!(v < V, {
                let count = 4 * v as isize + 2 - before[i] as isize;
                // SAFETY: at least -2, and below 20.
                blocks[i][v] = unsafe { counter.blocks(count) };
            });
            group.lengths = text::with_lane(group.lengths, text::lengths(packet), i);
            if FULL {
                group.additional = text::with_lane(group.additional, text::additional(packet), i);
            }
            if J::SEAL {
                // SAFETY: by the packet's invariant the tag has room behind the text.
                group.tags[i] = unsafe { packet.out.add(packet.length) };
            }
            if FULL && ONE_KEY {
                firsts = text::with_lane(firsts, counter.tag_block(), i);
            } else {
                first[i] = counter.tag_block();
            }
        });
        let span = |i: usize, v: usize| {
            let from = if v == 0 && !FULL { masks_of[i].0 } else { !0 };
            let until = if v == V - 1 { masks_of[i].1 } else { !0 };
            (64 * v as isize - 16 * before[i] as isize, from & until)
        };
        let load = |i: usize, v: usize| {
            let (offset, mask) = span(i, v);
            // SAFETY: the mask has the text's bytes in this vector.
            unsafe {
                if v == V - 1 && J::SEAL {
                    text::load_with_trailer(packets[i], offset, mask)
                } else if v == V - 1 || (v == 0 && !FULL) {
                    text::load(packets[i].source, offset, mask)
                } else {
                    text::load_whole(packets[i].source, offset)
                }
            }
        };
        // What of the text is hashed, the additional data before it.
        let hashed_text = |i: usize, v: usize, text: __m512i| {
            if v == 0 && !FULL {
                text::with_block(text, text::additional(packets[i]), before[i] - 1)
            } else {
                text
            }
        };
        let mut taken = [[zero; V]; N];
        if !J::SEAL {
            each!(i < N, {
                each!(v < V, {
                    taken[i][v] = load(i, v);
                    group.ciphertext[i][v] = hashed_text(i, v, taken[i][v]);
                });
            });
        }

        macro_rules! aes {
            ($from:expr, $until:expr) => {
                for round in $from..$until {
                    each!(p < N, {
                        let key = schedules[p].round_key(round);
                        each!(w < V, {
                            blocks[p][w] = in_order(_mm512_aesenc_epi128(blocks[p][w], key));
                        });
                        if FULL && !ONE_KEY {
                            first[p] = block_in_order(_mm_aesenc_si128(
                                first[p],
                                _mm512_castsi512_si128(key),
                            ));
                        }
                    });
                    if FULL && ONE_KEY {
                        let key = schedules[0].round_key(round);
                        firsts = in_order(_mm512_aesenc_epi128(firsts, key));
                    }
                }
            };
        }
        let hashed = if J::SEAL {
            prior.unwrap_or(group)
        } else {
            group
        };
        let mut sums = [Sums::zero(); N];
        // GHASH is in the first half of AES's rounds, the reduction, one long chain, spread over the second: whatever waits
        // for a result outside of AES would fill the scheduler and keep the next rounds out.
        let mut sum = rest::<V, FULL, ONE_KEY>(&hashed);
        sum.pace();
        let mut done = 1;
        each!(i < N, {
            each!(v < V, {
                let until = 1 + ROUNDS * (V * i + v + 1) / (2 * N * V);
                aes!(done, until);
                done = until;
                add_product(&hashed, &mut sums[i], i, v);
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
        if J::SEAL && prior.is_some() {
            // SAFETY: by the packets' invariant.
            unsafe { write(hashed.tags, _mm512_xor_si512(tags, hashed.masks)) };
        }

        each!(i < N, {
            let key = schedules[i].round_key(ROUNDS);
            each!(v < V, {
                let (offset, mask) = span(i, v);
                let taken = if J::SEAL { load(i, v) } else { taken[i][v] };
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
                if J::SEAL {
                    let text = if partial {
                        _mm512_maskz_mov_epi8(mask, given)
                    } else {
                        given
                    };
                    group.ciphertext[i][v] = hashed_text(i, v, text);
                }
                if v == 0 && !FULL {
                    let mask = text::block_in(given, before[i] - 1);
                    group.masks = text::with_lane(group.masks, mask, i);
                }
            });
            if FULL && !ONE_KEY {
                let mask = _mm_aesenclast_si128(first[i], _mm512_castsi512_si128(key));
                group.masks = text::with_lane(group.masks, mask, i);
            }
        });
        if FULL && ONE_KEY {
            let key = schedules[0].round_key(ROUNDS);
            group.masks = _mm512_aesenclast_epi128(firsts, key);
        }
        if J::SEAL {
            prior = Some(group);
        } else {
            forged |= compare(&packets, places, _mm512_xor_si512(tags, group.masks));
        }
    }
    if let Some(prior) = prior {
        let mut sums = [Sums::zero(); N];
        each!(i < N, {
            each!(v < V, {
                add_product(&prior, &mut sums[i], i, v);
            });
        });
        let mut sum = rest::<V, FULL, ONE_KEY>(&prior);
        sum.add_sums(Sums::gather(sums));
        let tags = _mm512_xor_si512(reflect(sum.reduce()), prior.masks);
        // SAFETY: by the packets' invariant.
        unsafe { write(prior.tags, tags) };
    }
    forged
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn add_product<const V: usize>(hashed: &Hashed<'_, V>, sums: &mut Sums, i: usize, v: usize) {
    let powers = hashed.schedules[i].powers(4 * V + 1);
    // SAFETY: the last of at most four vectors has 5 as its highest.
    let powers = unsafe { powers.of_vector(v) };
    sums.add(reflect(hashed.ciphertext[i][v]), powers);
}

/// What GHASH takes besides the text, for all packets at once: lengths, and additional data that has no place before the
/// text.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn rest<const V: usize, const FULL: bool, const ONE_KEY: bool>(hashed: &Hashed<'_, V>) -> Sums {
    let powers = |power: usize| {
        if ONE_KEY {
            return _mm512_broadcast_i32x4(hashed.schedules[0].power(power));
        }
        let mut powers = _mm512_setzero_si512();
        each!(i < N, {
            powers = text::with_lane(powers, hashed.schedules[i].power(power), i);
        });
        powers
    };
    let mut sum = Sums::zero();
    sum.add(hashed.lengths, powers(1));
    if FULL {
        sum.add(reflect(hashed.additional), powers(4 * V + 2));
    }
    sum
}

/// Writes tags.
///
/// # Safety
///
/// There is room for them.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn write(to: [*mut u8; N], tags: __m512i) {
    let tags = [
        _mm512_castsi512_si128(tags),
        _mm512_extracti32x4_epi32(tags, 1),
        _mm512_extracti32x4_epi32(tags, 2),
        _mm512_extracti32x4_epi32(tags, 3),
    ];
    for (to, tag) in to.into_iter().zip(tags) {
        // SAFETY: the caller's promise.
        unsafe { _mm_storeu_si128(to.cast(), tag) };
    }
}

/// Compares the tags in constant time, all bytes at once.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn compare(packets: &[&Packet<'_>; N], places: &[u8; N], tags: __m512i) -> u64 {
    let mut expected = _mm512_setzero_si512();
    each!(i < N, {
        let packet = packets[i];
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
