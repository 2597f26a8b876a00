//! Packets of any length, one after the other.
//!
//! A packet's blocks lie in vectors by their counts: the first vector begins with count 0, which is nothing, and count 1,
//! whose cipher masks the tag; its other two lanes are text. As GHASH takes the additional data just before the text, it
//! has its place in the lane of count 1. Strips of eight vectors follow each other, and a tail of up to eight ends the packet.
//!
//! Whole strips are hashed lane by lane: each lane of the sum goes into the first vector of what follows. Only the tail
//! takes powers of H that differ from lane to lane. GHASH of a strip stands between the rounds of AES of another, since
//! they run on different ports, or with other shares in the same ones: opening has the ciphertext and hashes the strip that
//! it deciphers. Sealing hashes the strip before, and what ends a packet along with the beginning of the next: whatever
//! waits for AES would fill the scheduler and keep the next rounds out.

use super::{
    burst::{BURST, Packets},
    counter::Counter,
    ghash::{Sums, reflect, sum_lanes},
    pace::{each, each_to_8, in_order},
    packet::Packet,
    schedule::POWERS,
    text,
};
use crate::gcm::{load_block, reflect_one};
use core::arch::x86_64::*;

/// Which strip is hashed along with AES when sealing: none,
const NOTHING: u8 = 0;
/// the one before,
const OWN: u8 = 1;
/// or the last one of the packet before.
const OTHERS: u8 = 2;

/// Vectors in a strip.
const STRIP: usize = 8;
/// Blocks in a strip.
const STRIP_BLOCKS: usize = 4 * STRIP;
/// The lanes of the first vector before the text.
const BEFORE: usize = 2;
/// The bytes of text in the first vector.
const FIRST: __mmask64 = !0 << (16 * BEFORE);

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
    // Two that take turns: to move what was written in parts would take longer than to hash it.
    let mut ways: [(Option<Way<'_>>, Text); 2] =
        [const { None }; 2].map(|way| (way, [[_mm512_setzero_si512(); STRIP]; 2]));
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
        let way = current.0.insert(Way::new(packet));
        // SAFETY: the strips and the tail are taken in turn, and what is hashed was enciphered before.
        unsafe {
            if SEAL {
                seal::<ROUNDS>(way, &mut current.1, before);
            } else {
                for _ in 0..way.strips {
                    way.hash = way.strip::<ROUNDS, false, OWN>(&mut current.1, None);
                }
                way.tail::<ROUNDS, false>(&mut current.1);
                forged |= u64::from(way.is_forged()) << place;
            }
        }
        if SEAL {
            core::mem::swap(&mut current, &mut before);
        }
    }
    if let (Some(way), text) = before {
        way.hash_strip(text);
        // SAFETY: this packet was enciphered.
        unsafe { way.authenticate(text) };
    }
    forged
}

/// Enciphers a packet, but hashes neither its last strip nor its tail: those of the packet before.
///
/// # Safety
///
/// The key has `ROUNDS` rounds; the packet before was enciphered.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
unsafe fn seal<const ROUNDS: usize>(
    way: &mut Way<'_>,
    text: &mut Text,
    (before, text_before): &mut (Option<Way<'_>>, Text),
) {
    // SAFETY: the strips and the tail are taken in turn, and what is hashed was enciphered before.
    unsafe {
        if way.strips > 0 {
            match before {
                Some(before) if before.strips > 0 => {
                    before.hash =
                        way.strip::<ROUNDS, true, OTHERS>(text, Some((before, text_before)));
                }
                _ => {
                    way.strip::<ROUNDS, true, NOTHING>(text, None);
                }
            }
            for _ in 1..way.strips {
                way.hash = way.strip::<ROUNDS, true, OWN>(text, None);
            }
        }
        way.tail::<ROUNDS, true>(text);
        if let Some(before) = before {
            if way.strips == 0 {
                before.hash_strip(text_before);
            }
            before.authenticate(text_before);
        }
    }
}

/// The way through a packet.
struct Way<'a> {
    packet: &'a Packet<'a>,
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

/// When sealing, the elements of a strip and of the tail that are not hashed yet. They are in the packet, too, but what was
/// written across cache lines, or in part, cannot be loaded soon after.
type Text = [[__m512i; STRIP]; 2];

impl<'a> Way<'a> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn new(packet: &'a Packet<'a>) -> Self {
        let additional = reflect_one(load_block(&packet.additional));
        let zero = _mm256_setzero_si256();
        let before_last = (text::blocks(packet.length) + BEFORE - 1) / 4;
        Self {
            packet,
            counter: Counter::new(packet.schedule, packet.iv),
            strips: before_last / STRIP,
            vectors: before_last % STRIP + 1,
            done: 0,
            hash: _mm512_zextsi256_si512(_mm256_inserti128_si256(zero, additional, 1)),
            mask: _mm_setzero_si128(),
        }
    }

    /// Where in the text a vector begins.
    #[inline]
    fn offset(&self, v: usize) -> isize {
        64 * (self.done + v) as isize - 16 * BEFORE as isize
    }

    /// The bytes of text in the next vector.
    #[inline]
    fn first_mask(&self) -> __mmask64 {
        if self.done == 0 { FIRST } else { !0 }
    }

    /// The bytes of text in the packet's last vector, which is the next but `v`.
    #[inline]
    fn last_mask(&self, v: usize) -> __mmask64 {
        let behind = (16 * BEFORE).wrapping_sub(self.packet.length) % 64;
        let mask = !0 >> behind;
        if v == 0 {
            mask & self.first_mask()
        } else {
            mask
        }
    }

    /// The next strip. Gives the hash of what was hashed along with it.
    ///
    /// # Safety
    ///
    /// It is not the packet's end; when sealing, and it is to `HASH`, there was a strip before, of this packet or another.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn strip<const ROUNDS: usize, const SEAL: bool, const HASH: u8>(
        &mut self,
        text: &mut Text,
        other: Option<(&Way<'_>, &Text)>,
    ) -> __m512i {
        // SAFETY: the caller's promise.
        let hash = unsafe { self.step::<ROUNDS, SEAL, STRIP, HASH, false>(text, other) };
        self.done += STRIP;
        if self.done.is_multiple_of(64) {
            self.counter = Counter::new(self.packet.schedule, self.packet.iv).after(self.done / 64);
        }
        hash
    }

    /// The tail.
    ///
    /// # Safety
    ///
    /// The strips are done.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn tail<const ROUNDS: usize, const SEAL: bool>(&mut self, text: &mut Text) {
        // SAFETY: the caller's promise.
        let hash = unsafe {
            match self.vectors {
                1 => self.step::<ROUNDS, SEAL, 1, NOTHING, true>(text, None),
                2 => self.step::<ROUNDS, SEAL, 2, NOTHING, true>(text, None),
                3 => self.step::<ROUNDS, SEAL, 3, NOTHING, true>(text, None),
                4 => self.step::<ROUNDS, SEAL, 4, NOTHING, true>(text, None),
                5 => self.step::<ROUNDS, SEAL, 5, NOTHING, true>(text, None),
                6 => self.step::<ROUNDS, SEAL, 6, NOTHING, true>(text, None),
                7 => self.step::<ROUNDS, SEAL, 7, NOTHING, true>(text, None),
                _ => self.step::<ROUNDS, SEAL, 8, NOTHING, true>(text, None),
            }
        };
        if !SEAL {
            self.hash = hash;
        }
    }

    /// AES of the next `V` vectors, `LAST` or not, and between its rounds, GHASH: when opening of the same; when sealing of
    /// a strip before, this packet's or the other's, if it is to `HASH`. Gives the hash.
    ///
    /// # Safety
    ///
    /// There are so many vectors, and such a strip.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn step<
        const ROUNDS: usize,
        const SEAL: bool,
        const V: usize,
        const HASH: u8,
        const LAST: bool,
    >(
        &mut self,
        text: &mut Text,
        other: Option<(&Way<'_>, &Text)>,
    ) -> __m512i {
        let packet = self.packet;
        let mut state = [_mm512_setzero_si512(); V];
        each_to_8!(v < V, {
            // SAFETY: strips begin at multiples of eight vectors, of which 64 have counts below 256.
            state[v] = unsafe { self.counter.blocks((4 * (self.done % 64 + v)) as i32) };
        });
        let pairs = match (SEAL, HASH) {
            (false, _) => V.div_ceil(2),
            (true, NOTHING) => 0,
            (true, _) => STRIP / 2,
        };
        let mut sums = if !SEAL && LAST {
            self.lengths()
        } else {
            Sums::zero()
        };
        each!(n < 4, {
            for round in 1 + (ROUNDS - 1) * n / 4..1 + (ROUNDS - 1) * (n + 1) / 4 {
                let key = packet.schedule.round_key(round);
                each_to_8!(v < V, {
                    state[v] = in_order(_mm512_aesenc_epi128(state[v], key));
                });
            }
            if n < pairs && SEAL {
                if let Some((way, text)) = other
                    && HASH == OTHERS
                {
                    way.add_pair::<STRIP, false>(&mut sums, n, |v| text[0][v]);
                } else {
                    self.add_pair::<STRIP, false>(&mut sums, n, |v| text[0][v]);
                }
            } else if n < pairs {
                // SAFETY: the caller's promise.
                let taken = |v| reflect(unsafe { self.taken::<V, LAST>(v) });
                self.add_pair::<V, LAST>(&mut sums, n, taken);
            }
        });
        let key = packet.schedule.round_key(ROUNDS);
        each_to_8!(v < V, {
            let offset = self.offset(v);
            let ends = LAST && v == V - 1;
            let mask = if ends {
                self.last_mask(v)
            } else if v == 0 {
                self.first_mask()
            } else {
                !0
            };
            // The trailer may be longer than the text in the last vector.
            let near_end = if LAST { v + 2 >= V } else { v == V - 1 };
            // SAFETY: the mask has the text's bytes in this vector.
            unsafe {
                let taken = if SEAL && near_end && offset + 64 > packet.body as isize {
                    text::load_with_trailer(packet, offset, mask)
                } else {
                    self.taken::<V, LAST>(v)
                };
                let given = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(key, taken));
                if v == 0 || ends {
                    text::store(packet, offset, mask, given);
                } else {
                    text::store_whole(packet, offset, given);
                }
                if SEAL {
                    let ciphertext = if v == 0 || ends {
                        _mm512_maskz_mov_epi8(mask, given)
                    } else {
                        given
                    };
                    text[usize::from(LAST)][v] = reflect(ciphertext);
                }
                if v == 0 && self.done == 0 {
                    self.mask = _mm512_extracti32x4_epi32(given, 1);
                }
            }
        });
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
        // SAFETY: the masks have the text's bytes.
        unsafe {
            if LAST && v == V - 1 {
                text::load(source, offset, self.last_mask(v))
            } else if v == 0 {
                text::load(source, offset, self.first_mask())
            } else {
                text::load_whole(source, offset)
            }
        }
    }

    /// Adds the products of two of `V` vectors, the `LAST` or not. The first one comes last, since it waits for the hash of
    /// what is before.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn add_pair<const V: usize, const LAST: bool>(
        &self,
        sums: &mut Sums,
        n: usize,
        elements: impl Fn(usize) -> __m512i,
    ) {
        let (schedule, highest) = (self.packet.schedule, self.lanes() + 1);
        each!(i < 2, {
            if 2 * n + i < V {
                let v = (2 * n + i + 1) % V;
                let mut elements = elements(v);
                if v == 0 {
                    elements = _mm512_xor_si512(elements, self.hash);
                }
                let powers = if LAST {
                    schedule.powers(highest - 4 * v)
                } else {
                    _mm512_broadcast_i32x4(schedule.power(4 * (V - v)))
                };
                sums.add(elements, powers);
            }
        });
        sums.pace();
    }

    /// The lanes from the next to the last block.
    #[inline]
    fn lanes(&self) -> usize {
        BEFORE + text::blocks(self.packet.length) - 4 * self.done
    }

    /// The product of the lengths' block.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn lengths(&self) -> Sums {
        let mut sums = Sums::zero();
        sums.add(
            _mm512_zextsi128_si512(text::lengths(self.packet)),
            _mm512_zextsi128_si512(self.packet.schedule.power(1)),
        );
        sums
    }

    /// Hashes the last strip, if there is one.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn hash_strip(&mut self, text: &Text) {
        if self.strips > 0 {
            let mut sums = Sums::zero();
            each!(n < 4, {
                self.add_pair::<STRIP, false>(&mut sums, n, |v| text[0][v]);
            });
            self.hash = sums.reduce();
        }
    }

    /// Hashes the tail, and writes the tag.
    ///
    /// # Safety
    ///
    /// The packet is enciphered.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn authenticate(&mut self, text: &Text) {
        match self.vectors {
            1 => self.hash_tail::<1>(text),
            2 => self.hash_tail::<2>(text),
            3 => self.hash_tail::<3>(text),
            4 => self.hash_tail::<4>(text),
            5 => self.hash_tail::<5>(text),
            6 => self.hash_tail::<6>(text),
            7 => self.hash_tail::<7>(text),
            _ => self.hash_tail::<8>(text),
        }
        // SAFETY: by the packet's invariant the tag has room behind the text.
        unsafe { _mm_storeu_si128(self.packet.out.add(self.packet.length).cast(), self.tag()) };
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn hash_tail<const V: usize>(&mut self, text: &Text) {
        let mut sums = self.lengths();
        each!(n < 4, {
            if 2 * n < V {
                self.add_pair::<V, true>(&mut sums, n, |v| text[1][v]);
            }
        });
        self.hash = sums.reduce();
    }

    /// The tag, once all is hashed.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn tag(&self) -> __m128i {
        _mm_xor_si128(reflect_one(sum_lanes(self.hash)), self.mask)
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

const _: () = assert!(POWERS > STRIP_BLOCKS);
