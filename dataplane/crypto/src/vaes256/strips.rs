//! Packets that are more than an end: strips of eight blocks, then the end.
//!
//! GHASH of a strip stands between the rounds of AES of another, since they run on different ports. Opening has the
//! ciphertext and hashes the strip that it deciphers; sealing hashes the strip before.

use super::{
    counter::Counter,
    end::{self, End},
    ghash::{Sums, multiply, reflect},
    pace::{each, each_round, each_two_more, in_order},
    packet::Packet,
    schedule::Schedule,
    text::{self, VECTOR},
};
use crate::gcm::reflect_one;
use core::arch::x86_64::*;

/// The vectors of a strip.
const STRIP: usize = 4;

/// Which strip GHASH takes along with AES of another: none, the first or second of a pair that is reduced together, one
/// left over from the pairs, or the last one, by itself. Each has code of its own, and one place where that is used: only so does it become one loop.
type Hashed = u8;
const NONE: Hashed = 0;
const FIRST: Hashed = 1;
const SECOND: Hashed = 2;
const ODD: Hashed = 3;
const LAST: Hashed = 4;

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
        schedule: packet.schedule,
        source: packet.source,
        out: packet.out,
        counter: Counter::new(packet.schedule, packet.iv),
        at: 0,
        hash: multiply(reflect_one(packet.additional), packet.schedule.power(1)),
    };
    // SAFETY: there are so many strips, and of vectors behind them.
    unsafe {
        // Sealing hashes one strip less along with AES, since it begins with a strip that has none before.
        let along = if SEAL {
            way.strip::<SEAL, NONE>(Sums::zero());
            strips - 1
        } else {
            strips
        };
        for _ in 0..along / 2 {
            let sums = way.strip::<SEAL, FIRST>(Sums::zero());
            way.hash = way.strip::<SEAL, SECOND>(sums).total();
        }
        let mut sums = Sums::zero();
        let odd = along % 2 == 1;
        if odd {
            sums = way.strip::<SEAL, ODD>(sums);
        }
        if SEAL {
            way.hash = way.hash_last(sums, odd).total();
        } else if odd {
            way.hash = sums.total();
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
    schedule: &'a Schedule,
    source: *const u8,
    out: *mut u8,
    counter: Counter,
    at: usize,
    /// Of all before the strips that are summed up.
    hash: __m128i,
}

impl Way<'_> {
    /// The next strip. GHASH stands between the rounds of AES: when opening, of the same strip; when sealing, of the one
    /// before.
    ///
    /// # Safety
    ///
    /// There is a strip left, all of it of the body; to be hashed when sealing, also one before.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    unsafe fn strip<const SEAL: bool, const HASHED: Hashed>(&mut self, mut sums: Sums) -> Sums {
        let (schedule, at) = (self.schedule, self.at);
        let mut state = [_mm256_setzero_si256(); STRIP];
        each!(v < STRIP, {
            state[v] = self.counter.blocks(v);
        });
        self.counter.advance();
        macro_rules! aes {
            ($key:expr) => {
                let key = $key;
                each!(v < STRIP, {
                    state[v] = in_order(_mm256_aesenc_epi128(state[v], key));
                });
            };
        }
        each_two_more!(schedule.twos_more(), BEFORE, {
            let [first, second] = schedule.two_keys::<BEFORE>();
            aes!(first);
            aes!(second);
        });
        each_round!(round, {
            aes!(schedule.round_key(round));
            if HASHED != NONE && round % 2 == 1 {
                // The first vector comes last, since it waits for the hash of the strips before.
                let v = (round / 2 + 1) % STRIP;
                // SAFETY: when opening, this is text; when sealing, of the strip before.
                unsafe { self.add_product::<SEAL, HASHED>(&mut sums, v) };
                sums.pace();
            }
        });
        let key = schedule.last_key();
        each!(v < STRIP, {
            // SAFETY: the caller's promise.
            unsafe {
                let taken = _mm256_loadu_si256(self.source.add(at + VECTOR * v).cast());
                let given = _mm256_aesenclast_epi128(state[v], _mm256_xor_si256(key, taken));
                _mm256_storeu_si256(self.out.add(at + VECTOR * v).cast(), given);
            }
        });
        self.at += VECTOR * STRIP;
        sums
    }

    /// GHASH of the strip that was sealed last, the second of a pair if it is `paired`.
    ///
    /// # Safety
    ///
    /// There was one.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    unsafe fn hash_last(&mut self, mut sums: Sums, paired: bool) -> Sums {
        if paired {
            self.hash = _mm_setzero_si128();
        }
        each!(v < STRIP, {
            // SAFETY: the strip before was sealed.
            unsafe { self.add_product::<true, LAST>(&mut sums, v) };
        });
        sums
    }

    /// # Safety
    ///
    /// When opening, there is a strip left; when sealing, there is one before.
    #[inline]
    #[target_feature(enable = "avx2,vaes,vpclmulqdq")]
    unsafe fn add_product<const SEAL: bool, const HASHED: Hashed>(
        &self,
        sums: &mut Sums,
        v: usize,
    ) {
        let at = self.at + VECTOR * v;
        // SAFETY: the caller's promise.
        let ciphertext = unsafe {
            if SEAL {
                _mm256_loadu_si256(self.out.add(at - VECTOR * STRIP).cast())
            } else {
                _mm256_loadu_si256(self.source.add(at).cast())
            }
        };
        let mut elements = reflect(ciphertext);
        if v == 0 && HASHED != SECOND {
            elements = _mm256_xor_si256(elements, _mm256_zextsi128_si256(self.hash));
        }
        // What is sealed with one left over is the last strip, and pairs with it.
        let another_follows = HASHED == FIRST || (HASHED == ODD && SEAL);
        let highest = 2 * (STRIP - v) + if another_follows { 2 * STRIP } else { 0 };
        // SAFETY: there are so many powers.
        let powers = unsafe { self.schedule.powers(highest) };
        sums.add(elements, powers);
    }
}
