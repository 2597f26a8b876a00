//! Packets of any length, one after the other.
//!
//! A packet's blocks lie in vectors, and behind the last lies one more: with count 1 its cipher masks the tag, and GHASH has
//! the lengths there. Strips of eight vectors follow each other, and a tail of up to nine ends the packet.
//!
//! Whole strips are hashed lane by lane: each lane of the sum goes into the first vector of what follows. Only what is
//! hashed last takes powers of H that differ from lane to lane. GHASH stands between the rounds of AES, since they run on
//! different ports, or with other shares in the same ones: opening has the ciphertext and hashes the strip or tail that it
//! deciphers. Sealing hashes the one before, which may be the end of another packet: whatever waits for AES would fill the
//! scheduler and keep the next rounds out.

use super::{
    burst::{Job, Jobs},
    counter::{Counter, Firsts},
    ghash::{Sums, reflect, sum_lanes},
    pace::{each, each_to_9, in_order},
    packet::Packet,
    schedule::{POWERS, Powers, Schedule},
    text,
};
use crate::gcm::reflect_one;
use core::arch::x86_64::*;

/// Vectors in a strip.
const STRIP: usize = 8;
/// Vectors in a tail, at most. It has two at least if the packet has: text ends in one of the last two, and a trailer lies
/// within them.
pub(super) const TAIL: usize = STRIP + 1;

/// Elements of a strip.
type Strip = [__m512i; STRIP];

/// Seals or opens packets; a forged one has a bit in the result, by its place. With `SHARED`, the first round of all of their
/// counters is there.
///
/// # Safety
///
/// At each of the places, which are all different, there is a job that has given a packet, with a key of `ROUNDS` rounds; if
/// `SHARED`, it is the firsts' key and they are enough for the packet; the CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) unsafe fn run<J: Job, const ROUNDS: usize, const SHARED: bool>(
    jobs: &Jobs<'_, J>,
    places: &[u8],
    firsts: Option<&Firsts>,
) -> u64 {
    let mut forged = 0;
    let mut nowhere = [0; 16];
    let mut pending = Pending::none(&mut nowhere);
    let mut latest: *const Schedule = core::ptr::null();
    for (place, later) in places.iter().zip(1..) {
        // SAFETY: the caller's promise.
        let packet = unsafe { jobs.packet(*place) };
        if let Some(later) = places.get(later).filter(|_| !SHARED) {
            // SAFETY: as above.
            let later = unsafe { jobs.packet(*later).schedule };
            if !core::ptr::eq(later, latest) {
                later.prefetch(ROUNDS, POWERS);
                latest = later;
            }
        }
        let way = Way::new(packet, firsts);
        // SAFETY: the caller's promise.
        unsafe {
            if J::SEAL {
                way.seal::<ROUNDS, SHARED>(&mut pending);
            } else {
                forged |= u64::from(way.open::<ROUNDS, SHARED>()) << place;
            }
        }
    }
    if J::SEAL {
        let mut sums = pending.sums;
        each!(n < 4, {
            pending.add(&mut sums, n);
        });
        // SAFETY: the last packet is enciphered.
        unsafe { pending.write_tag(sum_lanes(sums.reduce())) };
    }
    forged
}

/// What a packet is cut into.
pub(super) struct Shape {
    strips: usize,
    /// The vectors of the tail.
    pub(super) vectors: usize,
}

impl Shape {
    #[inline]
    pub(super) fn new(length: usize) -> Self {
        let vectors = text::blocks(length) / 4 + 1;
        let strips = vectors.saturating_sub(2) / STRIP;
        Self {
            strips,
            vectors: vectors - STRIP * strips,
        }
    }
}

/// The way through a packet.
#[derive(Clone, Copy)]
struct Way<'a> {
    packet: &'a Packet<'a>,
    counter: Counter<'a>,
    strips: usize,
    /// The vectors of the tail.
    vectors: usize,
}

/// Where a packet's hash stands.
#[derive(Clone, Copy)]
struct Hash {
    /// Goes into the first vector that is not hashed yet.
    elements: __m512i,
    /// Is added to what that gives.
    sums: Sums,
}

impl Hash {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn of(elements: __m512i) -> Self {
        Self {
            elements,
            sums: Sums::zero(),
        }
    }
}

/// What was sealed and is not hashed yet: the end of a packet, or a strip before its end.
struct Pending<'a> {
    /// In the packet, too, but what was written across cache lines, or in part, cannot be loaded soon after.
    text: [__m512i; TAIL],
    vectors: usize,
    powers: Powers<'a>,
    /// What is to be added to the products.
    sums: Sums,
    /// The cipher of the packet's first counter block,
    mask: __m128i,
    /// and where its tag goes.
    tag: *mut u8,
}

impl<'a> Pending<'a> {
    /// Nothing, whose tag goes to `nowhere`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn none(nowhere: &mut [u8; 16]) -> Self {
        Self {
            text: [_mm512_setzero_si512(); TAIL],
            vectors: 0,
            powers: Powers::of_nothing(),
            sums: Sums::zero(),
            mask: _mm_setzero_si128(),
            tag: nowhere.as_mut_ptr(),
        }
    }

    /// Adds a quarter of the products, two at a time, of which the second may be of zeros.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn add(&self, sums: &mut Sums, n: usize) {
        let mut add = |v: usize| {
            // SAFETY: there are at most nine vectors, and at most one of zeros behind them.
            let powers = unsafe { self.powers.of_vector(v) };
            sums.add(self.text[v], powers);
        };
        if 2 * n + 1 < self.vectors {
            add(2 * n + 1);
            add(2 * n + 2);
        }
        if n == 3 {
            add(0);
        }
    }

    /// Writes the tag, with the hash.
    ///
    /// # Safety
    ///
    /// All of the packet is hashed.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn write_tag(&self, hash: __m128i) {
        let tag = _mm_xor_si128(reflect_one(hash), self.mask);
        // SAFETY: by the packet's invariant the tag has room behind the text; or it goes nowhere.
        unsafe { _mm_storeu_si128(self.tag.cast(), tag) };
    }
}

/// What GHASH takes between the rounds of AES.
mod hashed {
    /// The ciphertext of what is opened,
    pub(super) const OPENED: u8 = 0;
    /// the strip that was sealed before,
    pub(super) const STRIP: u8 = 1;
    /// or what is pending.
    pub(super) const PENDING: u8 = 2;
}

/// What a step gives.
struct Step<const V: usize> {
    /// Elements of what was sealed.
    text: [__m512i; V],
    /// Products of what was hashed.
    sums: Sums,
    /// The cipher of the first counter block, with the last vector.
    mask: __m128i,
}

impl<'a> Way<'a> {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn new(packet: &'a Packet<'a>, firsts: Option<&'a Firsts>) -> Self {
        let Shape { strips, vectors } = Shape::new(packet.length);
        let counter = match firsts {
            Some(firsts) => Counter::second(packet.schedule, packet.iv, firsts),
            None => Counter::new(packet.schedule, packet.iv),
        };
        Self {
            packet,
            counter,
            strips,
            vectors,
        }
    }

    /// The highest power of H that the tail takes.
    #[inline]
    fn highest(&self) -> usize {
        4 * (self.vectors - 1) + self.lane_behind() + 1
    }

    /// The hash before the text: the product of the additional data.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn start(&self) -> Hash {
        let after = if self.strips > 0 {
            4 * STRIP
        } else {
            self.highest()
        };
        let additional = reflect_one(text::additional(self.packet));
        let power = self.packet.schedule.power(after + 1);
        let mut hash = Hash::of(_mm512_setzero_si512());
        hash.sums.add(
            _mm512_zextsi128_si512(additional),
            _mm512_zextsi128_si512(power),
        );
        hash
    }

    /// Where in the text a vector begins.
    #[inline]
    fn offset(vector: usize) -> isize {
        64 * vector as isize
    }

    /// The bytes of text in one of the packet's last two vectors.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn mask_near_end(&self, vector: usize) -> __mmask64 {
        let left = self.packet.length as isize - Self::offset(vector);
        _bzhi_u64(!0, left.max(0) as u32)
    }

    /// The lane of the last vector that is behind the text.
    #[inline]
    fn lane_behind(&self) -> usize {
        text::blocks(self.packet.length) % 4
    }

    /// Opens a packet, and tells whether it is forged.
    ///
    /// # Safety
    ///
    /// The key has `ROUNDS` rounds.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn open<const ROUNDS: usize, const SHARED: bool>(&self) -> bool {
        let mut hash = self.start();
        for at in 0..self.strips {
            // SAFETY: there are so many strips.
            let step = unsafe {
                self.step::<ROUNDS, SHARED, { hashed::OPENED }, STRIP, false>(
                    STRIP * at,
                    &hash,
                    None,
                    None,
                )
            };
            hash = Hash::of(step.sums.reduce());
        }
        macro_rules! tail {
            ($($vectors:literal)*) => {
                match self.vectors {
                    $($vectors => {
                        // SAFETY: the strips are done.
                        let step = unsafe {
                            self.step::<ROUNDS, SHARED, { hashed::OPENED }, $vectors, true>(STRIP * self.strips, &hash, None, None)
                        };
                        (step.sums, step.mask)
                    })*
                    // SAFETY: a tail has one to nine vectors.
                    _ => unsafe { core::hint::unreachable_unchecked() },
                }
            };
        }
        let (sums, mask) = tail!(1 2 3 4 5 6 7 8 9);
        let tag = _mm_xor_si128(reflect_one(sum_lanes(sums.reduce())), mask);
        // SAFETY: by the packet's invariant the tag follows the text.
        let expected =
            unsafe { _mm_loadu_si128(self.packet.source.add(self.packet.length).cast()) };
        _mm_cmpneq_epi64_mask(tag, expected) != 0
    }

    /// Enciphers a packet and hashes it up to its tail, which is pending then; and before, what is pending.
    ///
    /// # Safety
    ///
    /// The key has `ROUNDS` rounds.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn seal<const ROUNDS: usize, const SHARED: bool>(&self, pending: &mut Pending<'a>) {
        let mut hash = self.start();
        if self.strips > 0 {
            // SAFETY: there is a strip. The packet that is pending is enciphered.
            let mut strip = unsafe {
                let first = self.step::<ROUNDS, SHARED, { hashed::PENDING }, STRIP, false>(
                    0,
                    &hash,
                    None,
                    Some(pending),
                );
                pending.write_tag(sum_lanes(first.sums.reduce()));
                first.text
            };
            for at in 1..self.strips {
                // SAFETY: there are so many strips.
                let step = unsafe {
                    self.step::<ROUNDS, SHARED, { hashed::STRIP }, STRIP, false>(
                        STRIP * at,
                        &hash,
                        Some(&strip),
                        None,
                    )
                };
                hash = Hash::of(step.sums.reduce());
                strip = step.text;
            }
            strip[0] = _mm512_xor_si512(strip[0], hash.elements);
            each_to_9!(v < STRIP, {
                pending.text[v] = strip[v];
            });
            pending.text[STRIP] = _mm512_setzero_si512();
            pending.vectors = STRIP;
            pending.powers = self.packet.schedule.powers(4 * STRIP);
            pending.sums = hash.sums;
        }
        macro_rules! tail {
            ($($vectors:literal)*) => {
                match self.vectors {
                    $($vectors => {
                        // SAFETY: the strips are done.
                        let step = unsafe {
                            self.step::<ROUNDS, SHARED, { hashed::PENDING }, $vectors, true>(
                                STRIP * self.strips, &hash, None, Some(pending)
                            )
                        };
                        each_to_9!(v < $vectors, {
                            pending.text[v] = step.text[v];
                        });
                        if $vectors < TAIL {
                            pending.text[$vectors % TAIL] = _mm512_setzero_si512();
                        }
                        (step.sums, step.mask, step.text[0])
                    })*
                    // SAFETY: a tail has one to nine vectors.
                    _ => unsafe { core::hint::unreachable_unchecked() },
                }
            };
        }
        let (sums, mask, first) = tail!(1 2 3 4 5 6 7 8 9);
        let before = sum_lanes(sums.reduce());
        if self.strips > 0 {
            hash = Hash::of(_mm512_zextsi128_si512(before));
        } else {
            // SAFETY: the packet that was pending is enciphered and hashed.
            unsafe { pending.write_tag(before) };
        }
        pending.text[0] = _mm512_xor_si512(first, hash.elements);
        pending.vectors = self.vectors;
        pending.powers = self.packet.schedule.powers(self.highest());
        pending.sums = hash.sums;
        pending.mask = mask;
        // SAFETY: by the packet's invariant the tag has room behind the text.
        pending.tag = unsafe { self.packet.out.add(self.packet.length) };
    }

    /// AES of the next `V` vectors behind `done`, `LAST` or not, and between its rounds, GHASH of what is [`hashed`].
    ///
    /// # Safety
    ///
    /// There are so many vectors, and the packet ends with them if they are the `LAST`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn step<
        const ROUNDS: usize,
        const SHARED: bool,
        const HASHED: u8,
        const V: usize,
        const LAST: bool,
    >(
        &self,
        done: usize,
        hash: &Hash,
        strip: Option<&Strip>,
        pending: Option<&Pending<'_>>,
    ) -> Step<V> {
        let (packet, lane) = (self.packet, self.lane_behind());
        let seal = HASHED != hashed::OPENED;
        let mut state = [_mm512_setzero_si512(); V];
        each_to_9!(v < V, {
            // SAFETY: a packet has fewer blocks than there are counts.
            state[v] = unsafe { self.counter.blocks((4 * (done + v)) as isize + 2) };
            if LAST && v == V - 1 {
                state[v] = text::replace_block(state[v], self.counter.tag_block_of_either(), lane);
            }
        });
        let mut sums = match pending {
            Some(pending) => pending.sums,
            None => hash.sums,
        };
        let first = if SHARED { 2 } else { 1 };
        each!(n < 4, {
            for round in first + (ROUNDS - first) * n / 4..first + (ROUNDS - first) * (n + 1) / 4 {
                let key = packet.schedule.round_key(round);
                each_to_9!(v < V, {
                    state[v] = in_order(_mm512_aesenc_epi128(state[v], key));
                });
            }
            if HASHED == hashed::OPENED {
                // SAFETY: the caller's promise.
                unsafe { self.add_opened::<V, LAST>(&mut sums, n, done, hash.elements) };
            } else if let Some(pending) = pending {
                pending.add(&mut sums, n);
            } else if let Some(strip) = strip {
                self.add_strip(&mut sums, n, strip, hash.elements);
            }
            sums.pace();
        });
        let mut step = Step {
            text: [_mm512_setzero_si512(); V],
            sums,
            mask: _mm_setzero_si128(),
        };
        let key = packet.schedule.round_key(ROUNDS);
        each_to_9!(v < V, {
            let (offset, partial) = (Self::offset(done + v), LAST && v + 2 >= V);
            // SAFETY: the mask has the text's bytes in this vector.
            unsafe {
                let mask = if partial {
                    self.mask_near_end(done + v)
                } else {
                    !0
                };
                let taken = if seal && partial {
                    text::load_with_trailer(packet, offset, mask)
                } else {
                    self.taken(done + v, partial)
                };
                let given = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(key, taken));
                let mut ciphertext = given;
                if partial {
                    text::store(packet, offset, mask, given);
                    ciphertext = _mm512_maskz_mov_epi8(mask, given);
                } else {
                    text::store_whole(packet, offset, given);
                }
                if seal {
                    step.text[v] = reflect(ciphertext);
                }
                if LAST && v == V - 1 {
                    step.mask = text::block_in(given, lane);
                    if seal {
                        step.text[v] = text::with_block(step.text[v], text::lengths(packet), lane);
                    }
                }
            }
        });
        step
    }

    /// A vector of text, `partial` near the end, but for the trailer.
    ///
    /// # Safety
    ///
    /// The packet has this vector, and all of it if it is not partial.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn taken(&self, vector: usize, partial: bool) -> __m512i {
        let (source, offset) = (self.packet.source, Self::offset(vector));
        // SAFETY: the mask has the text's bytes.
        unsafe {
            if partial {
                text::load(source, offset, self.mask_near_end(vector))
            } else {
                text::load_whole(source, offset)
            }
        }
    }

    /// Adds a quarter of the products of the `V` vectors of ciphertext behind `done`.
    ///
    /// # Safety
    ///
    /// There are so many vectors, and the packet ends with them if they are the `LAST`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    unsafe fn add_opened<const V: usize, const LAST: bool>(
        &self,
        sums: &mut Sums,
        n: usize,
        done: usize,
        hash: __m512i,
    ) {
        let schedule = self.packet.schedule;
        each!(i < 3, {
            if let Some(v) = nth_of_quarter(n, i, V) {
                // SAFETY: the caller's promise; the tail has at most nine vectors.
                unsafe {
                    let mut elements = reflect(self.taken(done + v, LAST && v + 2 >= V));
                    if v == 0 {
                        elements = _mm512_xor_si512(elements, hash);
                    }
                    if !LAST {
                        sums.add(elements, schedule.same_power(4 * (V - v)));
                    } else {
                        if v == V - 1 {
                            let lengths = text::lengths(self.packet);
                            elements = text::with_block(elements, lengths, self.lane_behind());
                        }
                        let powers = schedule.powers(4 * (V - 1) + self.lane_behind() + 1);
                        sums.add(elements, powers.of_vector(v));
                    }
                }
            }
        });
    }

    /// Adds a quarter of the products of a strip that was sealed.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
    fn add_strip(&self, sums: &mut Sums, n: usize, strip: &Strip, hash: __m512i) {
        each!(i < 3, {
            if let Some(v) = nth_of_quarter(n, i, STRIP) {
                let elements = if v == 0 {
                    _mm512_xor_si512(strip[0], hash)
                } else {
                    strip[v]
                };
                sums.add(elements, self.packet.schedule.same_power(4 * (STRIP - v)));
            }
        });
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

const _: () = assert!(POWERS > 4 * TAIL);
