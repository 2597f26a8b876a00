//! Packets of any length, one after the other.
//!
//! A packet's blocks lie in vectors, and behind the last lies one more: with count 1 its cipher masks the tag, and GHASH has
//! the lengths there. Strips of eight vectors follow each other, and a tail of up to nine ends the packet.
//!
//! Whole strips are hashed lane by lane: each lane of the sum goes into the first vector of what follows. Only the tail
//! takes powers of H that differ from lane to lane. GHASH stands between the rounds of AES, since they run on different
//! ports, or with other shares in the same ones: opening has the ciphertext and hashes the strip or tail that it deciphers.
//! Sealing hashes the one before, which may be the end of another packet: whatever waits for AES would fill the scheduler
//! and keep the next rounds out.

use super::{
    burst::{BURST, Packets},
    counter::Counter,
    ghash::{Sums, multiply, reflect, sum_lanes},
    pace::{each, each_to_9, in_order},
    packet::Packet,
    schedule::POWERS,
    text,
};
use crate::gcm::reflect_one;
use core::arch::x86_64::*;

/// Vectors in a strip.
const STRIP: usize = 8;
/// Vectors in a tail, at most. It has two at least if the packet has: text ends in one of the last two, and a trailer lies
/// within them.
const TAIL: usize = STRIP + 1;

/// Seals or opens packets; a forged one has a bit in the result, by its place.
///
/// # Safety
///
/// There is a packet at each of the places, with a key of `ROUNDS` rounds; the CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<const SEAL: bool, const ROUNDS: usize>(
    packets: &Packets<'_>,
    places: &[u8],
) -> u64 {
    let mut forged = 0;
    let mut text: Text = [_mm512_setzero_si512(); TAIL];
    // Two that take turns: to move what was written in parts would take longer than to hash it.
    let mut ways: [Option<Way<'_>>; 2] = [const { None }; 2];
    let [mut current, mut before] = ways.each_mut();
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
        let way = current.insert(Way::new(packet));
        // SAFETY: the strips and the tail are taken in turn, and what is hashed was enciphered before.
        unsafe {
            if SEAL {
                way.seal::<ROUNDS>(&mut text, before.as_mut());
                core::mem::swap(&mut current, &mut before);
            } else {
                for _ in 0..way.strips {
                    way.hash = way.step::<ROUNDS, false, STRIP, false, false>(&mut text, None);
                }
                way.hash = way.tail::<ROUNDS, false>(&mut text, None);
                forged |= u64::from(way.is_forged()) << place;
            }
        }
    }
    if let Some(way) = before {
        let mut sums = Sums::zero();
        each!(n < 4, {
            way.add_sealed_tail(&mut sums, n, &text);
        });
        way.hash = sums.reduce();
        // SAFETY: this packet was enciphered.
        unsafe { way.write_tag() };
    }
    forged
}

/// The way through a packet.
#[derive(Clone, Copy)]
struct Way<'a> {
    packet: Packet<'a>,
    counter: Counter,
    strips: usize,
    /// The vectors of the tail.
    vectors: usize,
    /// The vectors that are done.
    done: usize,
    /// The hash so far, which goes into the first vector that is not hashed yet; and the packet's, when all is hashed.
    hash: __m512i,
    /// The cipher of the first counter block.
    mask: __m128i,
}

/// When sealing, the elements of a strip or tail that are not hashed yet. They are in the packet, too, but what was written
/// across cache lines, or in part, cannot be loaded soon after.
type Text = [__m512i; TAIL];

impl<'a> Way<'a> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn new(packet: &Packet<'a>) -> Self {
        let additional = reflect_one(text::additional(packet));
        let vectors = text::blocks(packet.length) / 4 + 1;
        let strips = vectors.saturating_sub(2) / STRIP;
        Self {
            packet: *packet,
            counter: Counter::new(packet.schedule, packet.iv),
            strips,
            vectors: vectors - STRIP * strips,
            done: 0,
            hash: _mm512_zextsi128_si512(multiply(additional, packet.schedule.power(1))),
            mask: _mm_setzero_si128(),
        }
    }

    /// Where in the text a vector begins.
    #[inline]
    fn offset(&self, v: usize) -> isize {
        64 * (self.done + v) as isize
    }

    /// The bytes of text in one of the packet's last two vectors, which is the next but `v`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn mask_near_end(&self, v: usize) -> __mmask64 {
        let left = self.packet.length as isize - self.offset(v);
        _bzhi_u64(!0, left.max(0) as u32)
    }

    /// The lane of the last vector that is behind the text.
    #[inline]
    fn lane_behind(&self) -> usize {
        text::blocks(self.packet.length) % 4
    }

    /// Enciphers a packet and hashes it up to its tail; and before, the tail of another.
    ///
    /// # Safety
    ///
    /// The key has `ROUNDS` rounds; the packet before was enciphered.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn seal<const ROUNDS: usize>(
        &mut self,
        text: &mut Text,
        mut before: Option<&mut Way<'_>>,
    ) {
        for left in (0..=self.strips).rev() {
            let first = self.done == 0;
            // SAFETY: the strips and the tail are taken in turn, and what is hashed was enciphered before.
            let hash = unsafe {
                if left == 0 {
                    self.tail::<ROUNDS, true>(text, before.as_deref())
                } else if first {
                    self.step::<ROUNDS, true, STRIP, false, false>(text, before.as_deref())
                } else {
                    self.step::<ROUNDS, true, STRIP, false, true>(text, None)
                }
            };
            if !first {
                self.hash = hash;
            } else if let Some(before) = before.take() {
                before.hash = hash;
                // SAFETY: that packet was enciphered.
                unsafe { before.write_tag() };
            }
        }
    }

    /// The tail. Gives the hash of what was hashed along with it.
    ///
    /// # Safety
    ///
    /// The strips are done.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn tail<const ROUNDS: usize, const SEAL: bool>(
        &mut self,
        text: &mut Text,
        before: Option<&Way<'_>>,
    ) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            if SEAL && self.strips > 0 {
                self.some_tail::<ROUNDS, SEAL, true>(text, None)
            } else {
                self.some_tail::<ROUNDS, SEAL, false>(text, before)
            }
        }
    }

    /// The tail by its vectors.
    ///
    /// # Safety
    ///
    /// As for [`step`](Self::step).
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn some_tail<const ROUNDS: usize, const SEAL: bool, const OWN: bool>(
        &mut self,
        text: &mut Text,
        before: Option<&Way<'_>>,
    ) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            match self.vectors {
                1 => self.step::<ROUNDS, SEAL, 1, true, OWN>(text, before),
                2 => self.step::<ROUNDS, SEAL, 2, true, OWN>(text, before),
                3 => self.step::<ROUNDS, SEAL, 3, true, OWN>(text, before),
                4 => self.step::<ROUNDS, SEAL, 4, true, OWN>(text, before),
                5 => self.step::<ROUNDS, SEAL, 5, true, OWN>(text, before),
                6 => self.step::<ROUNDS, SEAL, 6, true, OWN>(text, before),
                7 => self.step::<ROUNDS, SEAL, 7, true, OWN>(text, before),
                8 => self.step::<ROUNDS, SEAL, 8, true, OWN>(text, before),
                _ => self.step::<ROUNDS, SEAL, TAIL, true, OWN>(text, before),
            }
        }
    }

    /// AES of the next `V` vectors, `LAST` or not, and between its rounds, GHASH: when opening of the same; when sealing of
    /// the packet's `OWN` strip before, or of the tail of the packet before, if there is one. Gives the hash.
    ///
    /// # Safety
    ///
    /// There are so many vectors, and the packet ends with them if they are the `LAST`; when sealing, what is to be hashed was
    /// enciphered into `text`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn step<
        const ROUNDS: usize,
        const SEAL: bool,
        const V: usize,
        const LAST: bool,
        const OWN: bool,
    >(
        &mut self,
        text: &mut Text,
        before: Option<&Way<'_>>,
    ) -> __m512i {
        // Copies, so that the compiler need not ask whether what is written to the packet changes them.
        let (way, before) = (*self, before.copied());
        let (packet, lane) = (&way.packet, way.lane_behind());
        let mut state = [_mm512_setzero_si512(); V];
        each_to_9!(v < V, {
            // SAFETY: a packet has fewer blocks than there are counts.
            state[v] = unsafe { way.counter.blocks((4 * (way.done + v)) as isize + 2) };
            if LAST && v == V - 1 {
                state[v] = text::replace_block(state[v], way.counter.tag_block(), lane);
            }
        });
        let mut sums = Sums::zero();
        each!(n < 4, {
            for round in 1 + (ROUNDS - 1) * n / 4..1 + (ROUNDS - 1) * (n + 1) / 4 {
                let key = packet.schedule.round_key(round);
                each_to_9!(v < V, {
                    state[v] = in_order(_mm512_aesenc_epi128(state[v], key));
                });
            }
            if !SEAL {
                // SAFETY: the caller's promise.
                unsafe { way.add_opened::<V, LAST>(&mut sums, n) };
            } else if OWN {
                way.add_sealed_strip(&mut sums, n, text);
            } else if let Some(before) = &before {
                before.add_sealed_tail(&mut sums, n, text);
            }
            sums.pace();
        });
        let key = packet.schedule.round_key(ROUNDS);
        each_to_9!(v < V, {
            let (offset, near_end) = (way.offset(v), v + 2 >= V);
            // SAFETY: the mask has the text's bytes in this vector.
            unsafe {
                let mask = if LAST && near_end {
                    way.mask_near_end(v)
                } else {
                    !0
                };
                let taken = if SEAL && LAST && near_end {
                    text::load_with_trailer(packet, offset, mask)
                } else {
                    way.taken::<V, LAST>(v)
                };
                let given = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(key, taken));
                let mut ciphertext = given;
                if LAST && near_end {
                    text::store(packet, offset, mask, given);
                    ciphertext = _mm512_maskz_mov_epi8(mask, given);
                } else {
                    text::store_whole(packet, offset, given);
                }
                if SEAL {
                    text[v] = reflect(ciphertext);
                }
                if LAST && v == V - 1 {
                    self.mask = text::block_in(given, lane);
                    if SEAL {
                        text[v] = text::with_block(text[v], text::lengths(packet), lane);
                    }
                }
            }
        });
        if SEAL && LAST && V < TAIL {
            text[V] = _mm512_setzero_si512();
        }
        self.done += V;
        sums.reduce()
    }

    /// A vector of text of the next `V`, but for the trailer.
    ///
    /// # Safety
    ///
    /// There are so many vectors.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn taken<const V: usize, const LAST: bool>(&self, v: usize) -> __m512i {
        let (source, offset) = (self.packet.source, self.offset(v));
        // SAFETY: the mask has the text's bytes.
        unsafe {
            if LAST && v + 2 >= V {
                text::load(source, offset, self.mask_near_end(v))
            } else {
                text::load_whole(source, offset)
            }
        }
    }

    /// Adds a quarter of the products of the next `V` vectors of ciphertext.
    ///
    /// # Safety
    ///
    /// There are so many vectors, and the packet ends with them if they are the `LAST`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn add_opened<const V: usize, const LAST: bool>(&self, sums: &mut Sums, n: usize) {
        let schedule = self.packet.schedule;
        each!(i < 3, {
            if let Some(v) = nth_of_quarter(n, i, V) {
                // SAFETY: the caller's promise; the tail has at most nine vectors.
                unsafe {
                    let mut elements = reflect(self.taken::<V, LAST>(v));
                    if v == 0 {
                        elements = _mm512_xor_si512(elements, self.hash);
                    }
                    if !LAST {
                        sums.add(elements, schedule.same_power(4 * (V - v)));
                    } else {
                        let lane = self.lane_behind();
                        if v == V - 1 {
                            let lengths = text::lengths(&self.packet);
                            elements = text::with_block(elements, lengths, lane);
                        }
                        let powers = schedule.powers(4 * (V - 1) + lane + 1);
                        sums.add(elements, powers.of_vector(v));
                    }
                }
            }
        });
    }

    /// Adds a quarter of the products of the strip that was sealed last.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn add_sealed_strip(&self, sums: &mut Sums, n: usize, text: &Text) {
        each!(i < 3, {
            if let Some(v) = nth_of_quarter(n, i, STRIP) {
                let powers = self.packet.schedule.same_power(4 * (STRIP - v));
                sums.add(self.sealed(text, v), powers);
            }
        });
    }

    /// Adds a quarter of the products of the tail, which was sealed last: two at a time, of which the second may be of zeros.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn add_sealed_tail(&self, sums: &mut Sums, n: usize, text: &Text) {
        let highest = 4 * (self.vectors - 1) + self.lane_behind() + 1;
        let powers = self.packet.schedule.powers(highest);
        let mut add = |v: usize| {
            // SAFETY: the tail has at most nine vectors, and there is at most one of zeros behind them.
            let powers = unsafe { powers.of_vector(v) };
            sums.add(self.sealed(text, v), powers);
        };
        if 2 * n + 1 < self.vectors {
            add(2 * n + 1);
            add(2 * n + 2);
        }
        if n == 3 {
            add(0);
        }
    }

    /// Elements of a sealed vector, the first one's with the hash of what is before.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn sealed(&self, text: &Text, v: usize) -> __m512i {
        if v == 0 {
            _mm512_xor_si512(text[0], self.hash)
        } else {
            text[v]
        }
    }

    /// The tag, once all is hashed.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn tag(&self) -> __m128i {
        _mm_xor_si128(reflect_one(sum_lanes(self.hash)), self.mask)
    }

    /// Writes the tag of a packet that is hashed.
    ///
    /// # Safety
    ///
    /// The packet is enciphered.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn write_tag(&self) {
        // SAFETY: by the packet's invariant the tag has room behind the text.
        unsafe { _mm_storeu_si128(self.packet.out.add(self.packet.length).cast(), self.tag()) };
    }

    /// Whether the packet has another tag.
    ///
    /// # Safety
    ///
    /// The packet is deciphered.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn is_forged(&self) -> bool {
        // SAFETY: by the packet's invariant the tag follows the text.
        let expected =
            unsafe { _mm_loadu_si128(self.packet.source.add(self.packet.length).cast()) };
        _mm_cmpneq_epi64_mask(self.tag(), expected) != 0
    }
}

/// The vectors of which a quarter of up to nine has the products, two at a time. The first vector comes last, with the fourth
/// quarter, since it waits for the hash of what is before.
#[inline(always)]
const fn nth_of_quarter(n: usize, i: usize, vectors: usize) -> Option<usize> {
    let v = match (n, i) {
        (3, 2) => 0,
        (_, 2) => return None,
        _ => 2 * n + i + 1,
    };
    if v < vectors { Some(v) } else { None }
}

const _: () = assert!(POWERS >= 4 * TAIL);
