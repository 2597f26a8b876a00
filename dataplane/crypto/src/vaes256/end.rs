//! The end of a packet, or all of a short one: up to seven vectors of text, then the tag. Several packets go side by side,
//! each with its own key, so that one's latencies pass under the others' work.

use super::{
    counter::Counter,
    ghash::{Sums, reflect},
    pace::{block_in_order, each, each_round, each_two_more, in_order},
    packet::Packet,
    schedule::ROUNDS,
    text::{self, VECTOR},
};
use crate::gcm::reflect_one;
use core::arch::x86_64::*;

/// The most vectors of an end: the counter has no more, nor has the schedule higher powers of H.
pub(super) const MOST: usize = 7;

/// Where a packet's end begins.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    packet: &'a Packet<'a>,
    counter: Counter,
    /// The bytes before it.
    at: usize,
    /// The hash of all before it, or the additional data, if there is nothing else.
    prior: __m128i,
    /// Which power of H that is multiplied by.
    power: usize,
}

impl<'a> End<'a> {
    /// All of a packet.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn whole(packet: &'a Packet<'a>) -> Self {
        let counter = Counter::new(packet.schedule, packet.iv);
        let additional = reflect_one(packet.additional);
        let mut end = Self::behind(packet, counter, 0, additional);
        end.power += 1;
        end
    }

    /// What is behind `at` bytes with the hash `prior`.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    pub(super) fn behind(
        packet: &'a Packet<'a>,
        counter: Counter,
        at: usize,
        prior: __m128i,
    ) -> Self {
        Self {
            packet,
            counter,
            at,
            prior,
            power: text::blocks(packet.length - at) + 1,
        }
    }

    /// Where the vector begins.
    #[inline]
    fn vector(&self, v: usize) -> usize {
        self.at + VECTOR * v
    }

    /// Adds the product of a vector of text.
    ///
    /// # Safety
    ///
    /// It is one of the end's.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    unsafe fn add_product(&self, sums: &mut Sums, v: usize, ciphertext: __m256i) {
        let highest = text::blocks(self.packet.length - self.at) + 1 - 2 * v;
        // SAFETY: blocks have powers from the second on.
        let powers = unsafe { self.packet.schedule.powers(highest) };
        sums.add(reflect(ciphertext), powers);
    }

    /// The products of what was before, and of the lengths.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    fn rest(&self) -> Sums {
        let schedule = self.packet.schedule;
        let mut sums = Sums::zero();
        sums.add(
            _mm256_set_m128i(self.packet.lengths, self.prior),
            _mm256_set_m128i(schedule.power(1), schedule.power(self.power)),
        );
        sums
    }
}

/// Seals or opens what is left of packets; a forged one has a bit in the result, by its place.
///
/// # Safety
///
/// Each end has `V` vectors of text, and all keys the same number of rounds; the CPU has the features.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn run<const SEAL: bool, const N: usize, const V: usize>(
    ends: [&End<'_>; N],
) -> u32 {
    let mut state = [[_mm256_setzero_si256(); V]; N];
    let mut text = state;
    let mut mask = [_mm_setzero_si128(); N];
    each!(i < N, {
        each!(v < V, {
            state[i][v] = ends[i].counter.blocks(v);
        });
        mask[i] = ends[i].counter.tag_block();
    });
    each!(i < N, {
        each!(v < V, {
            // SAFETY: the vectors are the text's; those before the last are of the body, but for a trailer.
            text[i][v] = unsafe {
                if v + 1 == V || (SEAL && v + 2 == V) {
                    text::load_end::<SEAL>(ends[i].packet, ends[i].vector(v))
                } else {
                    text::load(ends[i].packet, ends[i].vector(v))
                }
            };
        });
    });
    let mut sums = [Sums::zero(); N];
    each!(i < N, {
        sums[i] = ends[i].rest();
    });
    macro_rules! aes {
        ($i:ident, $key:expr) => {
            let key = $key;
            each!(v < V, {
                state[$i][v] = in_order(_mm256_aesenc_epi128(state[$i][v], key));
            });
            mask[$i] = block_in_order(_mm_aesenc_si128(mask[$i], _mm256_castsi256_si128(key)));
        };
    }
    let twos_more = ends[0].packet.schedule.twos_more();
    each_two_more!(twos_more, BEFORE, {
        let keys = ends.map(|end| end.packet.schedule.two_keys::<BEFORE>());
        each!(n < 2, {
            each!(i < N, {
                aes!(i, keys[i][n]);
            });
        });
    });
    each_round!(round, {
        each!(i < N, {
            aes!(i, ends[i].packet.schedule.round_key(round));
        });
        if !SEAL {
            each!(i < N, {
                each!(v < V, {
                    if (i * V + v) * ROUNDS / (N * V) == round {
                        // SAFETY: there are so many vectors.
                        unsafe { ends[i].add_product(&mut sums[i], v, text[i][v]) };
                        sums[i].pace();
                    }
                });
            });
        }
    });
    each!(i < N, {
        let packet = ends[i].packet;
        let key = packet.schedule.last_key();
        mask[i] = _mm_aesenclast_si128(mask[i], _mm256_castsi256_si128(key));
        each!(v < V, {
            let at = ends[i].vector(v);
            let given = _mm256_aesenclast_epi128(state[i][v], _mm256_xor_si256(key, text[i][v]));
            // SAFETY: as for the loads.
            unsafe {
                if v + 1 == V {
                    let before = if V > 1 {
                        state[i][(v + V - 1) % V]
                    } else {
                        given
                    };
                    text::store_end::<SEAL>(packet, at, given, before);
                } else {
                    text::store(packet, at, given);
                }
            }
            state[i][v] = given;
        });
    });
    let mut forged = 0;
    each!(i < N, {
        let packet = ends[i].packet;
        if SEAL {
            each!(v < V, {
                let mut ciphertext = state[i][v];
                if v + 1 == V {
                    ciphertext = text::first_bytes(ciphertext, packet.length - ends[i].vector(v));
                }
                // SAFETY: there are so many vectors.
                unsafe { ends[i].add_product(&mut sums[i], v, ciphertext) };
            });
        }
        let tag = _mm_xor_si128(reflect_one(sums[i].total()), mask[i]);
        // SAFETY: by the packet's invariant there is room for the tag behind the text, or the tag.
        unsafe {
            if SEAL {
                _mm_storeu_si128(packet.out.add(packet.length).cast(), tag);
            } else {
                let expected = _mm_loadu_si128(packet.source.add(packet.length).cast());
                let same = _mm_movemask_epi8(_mm_cmpeq_epi8(tag, expected));
                forged |= u32::from(same != 0xffff) << i;
            }
        }
    });
    forged
}
