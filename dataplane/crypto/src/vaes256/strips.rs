//! Packets that are more than an end: strips of eight blocks, then the end.
//!
//! GHASH of a strip stands between the rounds of AES of another, since they run on different ports. Opening has the
//! ciphertext and hashes the strip that it deciphers; sealing hashes the strip before.

use super::{
    counter::Counter,
    end::{self, End},
    ghash::{Sums, element, multiply, reflect, reflect_one},
    pace::{each, each_round, in_order},
    packet::Packet,
    text::{self, VECTOR},
};
use core::arch::x86_64::*;

/// The vectors of a strip.
const STRIP: usize = 4;

/// Seals or opens a packet, and tells whether it is forged.
///
/// # Safety
///
/// It has more vectors than a strip and one; the CPU has the features.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn run<const SEAL: bool>(packet: &Packet<'_>) -> bool {
    let vectors = text::vectors(packet.length);
    // The end has two vectors at least, so that no strip holds any of the trailer.
    let strips = (vectors - 2) / STRIP;
    let mut way = Way {
        packet,
        counter: Counter::new(packet.schedule, packet.iv),
        at: 0,
        hash: multiply(
            reflect_one(element(packet.additional)),
            packet.schedule.power(1),
        ),
    };
    // SAFETY: there are so many strips, and of vectors behind them.
    unsafe {
        if SEAL {
            way.strip::<SEAL, false>();
        } else {
            way.strip::<SEAL, true>();
        }
        for _ in 1..strips {
            way.strip::<SEAL, true>();
        }
        if SEAL {
            way.hash_last();
        }
        let end = End::behind(packet, way.counter, way.at, way.hash);
        let forged = match vectors - STRIP * strips {
            2 => end::run::<SEAL, 1, 2>([&end]),
            3 => end::run::<SEAL, 1, 3>([&end]),
            4 => end::run::<SEAL, 1, 4>([&end]),
            _ => end::run::<SEAL, 1, 5>([&end]),
        };
        forged != 0
    }
}

/// The way through a packet.
struct Way<'a> {
    packet: &'a Packet<'a>,
    counter: Counter,
    at: usize,
    hash: __m128i,
}

impl Way<'_> {
    /// The next strip. With `HASH`, GHASH stands between the rounds of AES: when opening, of the same strip; when sealing, of
    /// the one before.
    ///
    /// # Safety
    ///
    /// There is a strip left, all of it of the body; to be hashed when sealing, also one before.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    unsafe fn strip<const SEAL: bool, const HASH: bool>(&mut self) {
        let (packet, schedule, at) = (self.packet, self.packet.schedule, self.at);
        let mut state = [_mm256_setzero_si256(); STRIP];
        each!(v < STRIP, {
            state[v] = self.counter.blocks(v);
        });
        self.counter.advance();
        for round in 0..schedule.more_rounds() {
            let key = schedule.key_of_more(round);
            each!(v < STRIP, {
                state[v] = in_order(_mm256_aesenc_epi128(state[v], key));
            });
        }
        let mut sums = Sums::zero();
        each_round!(round, {
            let key = schedule.round_key(round);
            each!(v < STRIP, {
                state[v] = in_order(_mm256_aesenc_epi128(state[v], key));
            });
            if HASH && round % 2 == 1 {
                // The first vector comes last, since it waits for the hash of the strip before.
                // SAFETY: when opening, this is text; when sealing, the strip before.
                unsafe { self.add_product::<SEAL>(&mut sums, (round / 2 + 1) % STRIP) };
                sums.pace();
            }
        });
        let key = schedule.last_key();
        each!(v < STRIP, {
            // SAFETY: the caller's promise.
            unsafe {
                let taken = text::load(packet, at + VECTOR * v);
                let given = _mm256_aesenclast_epi128(state[v], _mm256_xor_si256(key, taken));
                text::store(packet, at + VECTOR * v, given);
            }
        });
        self.at += VECTOR * STRIP;
        if HASH {
            self.hash = sums.total();
        }
    }

    /// GHASH of the strip that was sealed last.
    ///
    /// # Safety
    ///
    /// There was one.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    unsafe fn hash_last(&mut self) {
        let mut sums = Sums::zero();
        each!(v < STRIP, {
            // SAFETY: the strip before was sealed.
            unsafe { self.add_product::<true>(&mut sums, v) };
        });
        self.hash = sums.total();
    }

    /// # Safety
    ///
    /// When opening, there is a strip left; when sealing, there is one before.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    unsafe fn add_product<const SEAL: bool>(&self, sums: &mut Sums, v: usize) {
        let at = self.at + VECTOR * v;
        // SAFETY: the caller's promise.
        let ciphertext = unsafe {
            if SEAL {
                _mm256_loadu_si256(self.packet.out.add(at - VECTOR * STRIP).cast())
            } else {
                text::load(self.packet, at)
            }
        };
        let mut elements = reflect(ciphertext);
        if v == 0 {
            elements = _mm256_xor_si256(elements, _mm256_zextsi128_si256(self.hash));
        }
        // SAFETY: there are so many powers.
        let powers = unsafe { self.packet.schedule.powers(2 * (STRIP - v)) };
        sums.add(elements, powers);
    }
}
