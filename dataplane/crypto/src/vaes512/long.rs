//! Packets longer than 256 bytes, one after the other, in strips: first the odd blocks, up to a strip of four vectors, then
//! perhaps one strip of four, then strips of eight. So the last strip is whole, and each of its lanes has its power of H.
//!
//! GHASH of a strip stands between the rounds of AES of another: they share two ports, but a multiplication runs on one of
//! them only, so that GHASH by itself takes twice its share. Opening has the ciphertext and hashes the strip that it
//! deciphers; sealing hashes the strip before, and the last one by itself.

use super::{
    burst::{BURST, Packets},
    counter::{self, Counter},
    ghash::{Sums, load_block, reflect, reflect_one, sum_lanes},
    pace::{block_in_order, each, each_of_8, in_order},
    packet::Packet,
    schedule::{POWERS, Schedule},
    text::{self, Shape},
};
use core::arch::x86_64::*;

/// A packet all but sealed: its last strip is not hashed yet, nor the lengths.
struct Unhashed<'a> {
    packet: &'a Packet<'a>,
    /// Vectors in the last strip: four or eight.
    vectors: usize,
    /// The last of them, as elements. The others are in memory, but what a masked store wrote cannot be loaded soon after.
    last: __m512i,
    /// The hash of all before the last strip.
    hash: __m128i,
    /// The cipher of the first counter block.
    mask: __m128i,
}

impl Unhashed<'_> {
    /// Adds the product of a vector of a strip of eight. One of four is the second half of such.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn add_product(&self, sums: &mut Sums, v: usize) {
        let first = 8 - self.vectors;
        if v < first {
            return;
        }
        let mut elements = self.last;
        if v < 7 {
            let offset = 16 * text::blocks(self.packet.length) as isize - 64 * (8 - v as isize);
            // SAFETY: this is ciphertext, written before.
            elements = reflect(unsafe {
                _mm512_loadu_si512(self.packet.out.wrapping_offset(offset).cast())
            });
        }
        if v == first {
            elements = _mm512_xor_si512(elements, _mm512_zextsi128_si512(self.hash));
        }
        sums.add(elements, self.packet.schedule.powers(33 - 4 * v));
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn finish(&self) {
        let mut sums = lengths(self.packet);
        each_of_8!(v, {
            self.add_product(&mut sums, v);
        });
        let tag = _mm_xor_si128(reflect_one(sum_lanes(sums.reduce())), self.mask);
        // SAFETY: by the packet's invariant the tag has room behind the text.
        unsafe { _mm_storeu_si128(self.packet.out.add(self.packet.length).cast(), tag) };
    }
}

/// What the first strip leaves for the rest.
struct Head {
    hash: __m128i,
    mask: __m128i,
}

/// Seals or opens long packets; a forged one has a bit in the result, by its place.
///
/// # Safety
///
/// There is a packet at each of the places, with more than 16 blocks and a key of `ROUNDS` rounds; the CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const ROUNDS: usize>(
    packets: &Packets<'_>,
    places: &[u8],
) -> u64 {
    let mut forged = 0;
    for (place, later) in places.iter().zip(1..) {
        // SAFETY: the caller's promise.
        let packet = unsafe { packets[usize::from(*place) % BURST].assume_init_ref() };
        if let Some(later) = places.get(later) {
            // SAFETY: as above.
            let later = unsafe { packets[usize::from(*later) % BURST].assume_init_ref() };
            if !core::ptr::eq(later.schedule, packet.schedule) {
                later.schedule.prefetch(ROUNDS, POWERS);
            }
        }
        // SAFETY: as above.
        unsafe {
            if SEAL {
                seal::<ROUNDS>(packet).finish();
            } else {
                forged |= u64::from(open::<ROUNDS>(packet)) << place;
            }
        }
    }
    forged
}

/// Where the strips of a packet begin.
struct Strips {
    in_head: usize,
    /// Whether a strip of four vectors follows.
    four: bool,
    eights: usize,
}

impl Strips {
    #[inline]
    fn of(length: usize) -> Self {
        let blocks = text::blocks(length);
        let in_head = (blocks - 1) % 16 + 1;
        let fours = (blocks - in_head) / 16;
        Self {
            in_head,
            four: fours % 2 == 1,
            eights: fours / 2,
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn seal<'a, const ROUNDS: usize>(packet: &'a Packet<'a>) -> Unhashed<'a> {
    let strips = Strips::of(packet.length);
    let mut cipher = Cipher::new(packet, strips.in_head);
    // SAFETY: each strip is taken at its place.
    unsafe {
        let Head { mut hash, mask } =
            some_head::<ROUNDS, true>(packet, &cipher.counter, strips.in_head);
        let mut left = strips.eights;
        if strips.four {
            cipher.four::<ROUNDS, true>(left == 0, hash);
            if left > 0 {
                left -= 1;
                hash = cipher.eight::<ROUNDS, true, 4>(left == 0, hash);
            }
        } else if left > 0 {
            left -= 1;
            cipher.eight::<ROUNDS, true, 0>(left == 0, hash);
        }
        while left > 0 {
            left -= 1;
            hash = cipher.eight::<ROUNDS, true, 8>(left == 0, hash);
        }
        Unhashed {
            packet,
            vectors: if strips.eights > 0 { 8 } else { 4 },
            last: reflect(cipher.given),
            hash,
            mask,
        }
    }
}

/// Whether it is forged.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn open<const ROUNDS: usize>(packet: &Packet<'_>) -> bool {
    let strips = Strips::of(packet.length);
    let mut cipher = Cipher::new(packet, strips.in_head);
    // SAFETY: each strip is taken at its place.
    unsafe {
        let Head { mut hash, mask } =
            some_head::<ROUNDS, false>(packet, &cipher.counter, strips.in_head);
        if strips.four {
            hash = cipher.four::<ROUNDS, false>(strips.eights == 0, hash);
        }
        for left in (0..strips.eights).rev() {
            hash = cipher.eight::<ROUNDS, false, 8>(left == 0, hash);
        }
        let tag = _mm_xor_si128(reflect_one(hash), mask);
        // By the packet's invariant the tag follows the text.
        let expected = _mm_loadu_si128(packet.source.add(packet.length).cast());
        _mm_cmpneq_epi64_mask(tag, expected) != 0
    }
}

/// The product of the lengths' block.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn lengths(packet: &Packet<'_>) -> Sums {
    let mut sums = Sums::zero();
    sums.add(
        _mm512_zextsi128_si512(text::lengths(packet)),
        _mm512_zextsi128_si512(packet.schedule.power(1)),
    );
    sums
}

/// The way through a packet.
struct Cipher<'a> {
    packet: &'a Packet<'a>,
    counter: Counter,
    /// The next four counts.
    counts: __m512i,
    offset: isize,
    last: __mmask64,
    keys: [__m512i; 15],
    /// The packet's last vector of ciphertext.
    given: __m512i,
}

impl<'a> Cipher<'a> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn new(packet: &'a Packet<'a>, in_head: usize) -> Self {
        Self {
            packet,
            counter: Counter::new(packet.schedule, packet.iv),
            counts: counter::counts(in_head + 2),
            offset: 16 * in_head as isize,
            last: text::last_mask(packet.length),
            keys: schedule_keys(packet.schedule),
            given: _mm512_setzero_si512(),
        }
    }

    /// AES of eight vectors, and between its rounds GHASH: when opening, of the same; when sealing, of the `HASHED` before.
    /// Returns the hash including what was hashed, and when opening the last strip, the lengths.
    ///
    /// # Safety
    ///
    /// There are eight vectors of text left, and if it `ends`, no more.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn eight<const ROUNDS: usize, const SEAL: bool, const HASHED: usize>(
        &mut self,
        ends: bool,
        hash: __m128i,
    ) -> __m128i {
        let (packet, schedule, offset) = (self.packet, self.packet.schedule, self.offset);
        let mut state = [_mm512_setzero_si512(); 8];
        each_of_8!(v, {
            let counts = _mm512_add_epi32(self.counts, _mm512_set1_epi32(4 * v as i32));
            state[v] = self.counter.large(counts);
        });
        self.counts = _mm512_add_epi32(self.counts, _mm512_set1_epi32(32));
        self.offset += 512;
        let mut sums = if !SEAL && ends {
            lengths(packet)
        } else {
            Sums::zero()
        };
        let highest = 4 * HASHED + usize::from(!SEAL && ends);
        each_of_8!(n, {
            let (from, until) = (1 + (ROUNDS - 1) * n / 8, 1 + (ROUNDS - 1) * (n + 1) / 8);
            let key = self.keys[from];
            each_of_8!(v, {
                state[v] = in_order(_mm512_aesenc_epi128(state[v], key));
            });
            if until > from + 1 {
                let key = self.keys[from + 1];
                each_of_8!(v, {
                    state[v] = in_order(_mm512_aesenc_epi128(state[v], key));
                });
            }
            // The first vector comes last, since it waits for the hash of the strip before.
            if n >= 8 - HASHED {
                let v = if n == 7 { 0 } else { n + HASHED - 7 };
                let at = offset + 64 * v as isize;
                // SAFETY: when opening, this is text; when sealing, the strip before, written already.
                let hashed = unsafe {
                    if SEAL {
                        _mm512_loadu_si512(
                            packet.out.wrapping_offset(at - 64 * HASHED as isize).cast(),
                        )
                    } else if v == 7 && ends {
                        text::load(packet, at, self.last)
                    } else {
                        text::load_whole(packet, at)
                    }
                };
                let mut elements = reflect(hashed);
                if v == 0 {
                    elements = _mm512_xor_si512(elements, _mm512_zextsi128_si512(hash));
                }
                sums.add(elements, schedule.powers(highest - 4 * v));
                sums.pace();
            }
        });
        let key = self.keys[ROUNDS];
        each_of_8!(v, {
            // SAFETY: the caller's promise.
            unsafe { self.finish(offset + 64 * v as isize, v == 7 && ends, state[v], key) };
        });
        if HASHED == 0 {
            hash
        } else {
            sum_lanes(sums.reduce())
        }
    }

    /// The same for four vectors, but sealing hashes nothing along with them.
    ///
    /// # Safety
    ///
    /// There are four vectors of text left, or four and strips of eight, unless it `ends`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn four<const ROUNDS: usize, const SEAL: bool>(
        &mut self,
        ends: bool,
        hash: __m128i,
    ) -> __m128i {
        let (packet, schedule, offset) = (self.packet, self.packet.schedule, self.offset);
        let mut state = [_mm512_setzero_si512(); 4];
        each!(v < 4, {
            let counts = _mm512_add_epi32(self.counts, _mm512_set1_epi32(4 * v as i32));
            state[v] = self.counter.large(counts);
        });
        self.counts = _mm512_add_epi32(self.counts, _mm512_set1_epi32(16));
        self.offset += 256;
        let mut sums = if !SEAL && ends {
            lengths(packet)
        } else {
            Sums::zero()
        };
        each!(n < 4, {
            let (from, until) = (1 + (ROUNDS - 1) * n / 4, 1 + (ROUNDS - 1) * (n + 1) / 4);
            for round in from..until {
                let key = schedule.round_key(round);
                each!(v < 4, {
                    state[v] = in_order(_mm512_aesenc_epi128(state[v], key));
                });
            }
            if !SEAL {
                let v = (n + 1) % 4;
                let at = offset + 64 * v as isize;
                // SAFETY: this is text.
                let hashed = unsafe {
                    if v == 3 && ends {
                        text::load(packet, at, self.last)
                    } else {
                        text::load_whole(packet, at)
                    }
                };
                let mut elements = reflect(hashed);
                if v == 0 {
                    elements = _mm512_xor_si512(elements, _mm512_zextsi128_si512(hash));
                }
                sums.add(elements, schedule.powers(16 + usize::from(ends) - 4 * v));
                sums.pace();
            }
        });
        let key = schedule.round_key(ROUNDS);
        each!(v < 4, {
            // SAFETY: the caller's promise.
            unsafe { self.finish(offset + 64 * v as isize, v == 3 && ends, state[v], key) };
        });
        if SEAL { hash } else { sum_lanes(sums.reduce()) }
    }

    /// The last round of AES, and the text.
    ///
    /// # Safety
    ///
    /// There is a vector of text at `offset`, the last if it `ends`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn finish(&mut self, offset: isize, ends: bool, state: __m512i, key: __m512i) {
        // SAFETY: the caller's promise.
        unsafe {
            if ends {
                let taken = text::load_last(self.packet, offset, self.last);
                let given = _mm512_aesenclast_epi128(state, _mm512_xor_si512(key, taken));
                text::store(self.packet, offset, self.last, given);
                self.given = _mm512_maskz_mov_epi8(self.last, given);
            } else {
                let taken = text::load_whole(self.packet, offset);
                let given = _mm512_aesenclast_epi128(state, _mm512_xor_si512(key, taken));
                text::store_whole(self.packet, offset, given);
            }
        }
    }
}

/// The first strip, by its form.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn some_head<const ROUNDS: usize, const SEAL: bool>(
    packet: &Packet<'_>,
    counter: &Counter,
    blocks: usize,
) -> Head {
    // SAFETY: the head has as many blocks as its form takes.
    unsafe {
        match blocks {
            1..4 => head::<ROUNDS, SEAL, 1, false>(packet, counter, blocks),
            4 => head::<ROUNDS, SEAL, 1, true>(packet, counter, blocks),
            5..8 => head::<ROUNDS, SEAL, 2, false>(packet, counter, blocks),
            8 => head::<ROUNDS, SEAL, 2, true>(packet, counter, blocks),
            9..12 => head::<ROUNDS, SEAL, 3, false>(packet, counter, blocks),
            12 => head::<ROUNDS, SEAL, 3, true>(packet, counter, blocks),
            13..16 => head::<ROUNDS, SEAL, 4, false>(packet, counter, blocks),
            _ => head::<ROUNDS, SEAL, 4, true>(packet, counter, blocks),
        }
    }
}

/// The first strip: 1 to 16 blocks.
///
/// # Safety
///
/// The packet begins with `blocks` blocks that are in `V` vectors, and fill them when `FULL`.
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
    let mut taken = state;
    each!(v < V, {
        state[v] = counter.small(4 * v as i32 + 2 - before as i32);
        // SAFETY: the mask holds the text's bytes in this vector.
        taken[v] = unsafe {
            if v == 0 && !FULL {
                text::load(packet, offset(v), shape.first)
            } else {
                text::load_whole(packet, offset(v))
            }
        };
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
        let given = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(key, taken[v]));
        // SAFETY: the mask holds the text's bytes in this vector.
        unsafe {
            if is_first {
                text::store(packet, offset(v), shape.first, given);
            } else {
                text::store_whole(packet, offset(v), given);
            }
        }
        let mut hashed = if SEAL { given } else { taken[v] };
        if is_first {
            mask = text::block_before(given, before);
            hashed =
                text::with_additional(packet, _mm512_maskz_mov_epi8(shape.first, hashed), before);
        }
        sums.add(reflect(hashed), schedule.powers(4 * (V - v)));
    });
    if FULL {
        let additional = reflect(_mm512_zextsi128_si512(load_block(&packet.additional)));
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

/// The round keys in registers.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
fn schedule_keys(schedule: &Schedule) -> [__m512i; 15] {
    [
        schedule.round_key(0),
        schedule.round_key(1),
        schedule.round_key(2),
        schedule.round_key(3),
        schedule.round_key(4),
        schedule.round_key(5),
        schedule.round_key(6),
        schedule.round_key(7),
        schedule.round_key(8),
        schedule.round_key(9),
        schedule.round_key(10),
        schedule.round_key(11),
        schedule.round_key(12),
        schedule.round_key(13),
        schedule.round_key(14),
    ]
}
