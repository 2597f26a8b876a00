//! ChaCha20 (RFC 8439 2.3) on sixteen blocks at once, one in each lane. Each lane has its own key, nonce and count, so that
//! the blocks may belong to one packet or to sixteen.

use super::schedule::Schedule;
use core::arch::{asm, x86_64::*};

/// Blocks at once.
pub(super) const LANES: usize = 16;
/// A block of ChaCha20.
pub(super) const BLOCK: usize = 64;

/// One word of each lane's state in a vector.
pub(super) type Words = [__m512i; 16];

/// The states from which sixteen blocks are made, word by word.
#[repr(C, align(64))]
pub(super) struct States([[u32; LANES]; 16]);

/// RFC 8439 2.3: "The first four words (0-3) are constants".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
/// The word of the count; the nonce's three follow.
const COUNT: usize = 12;

/// A quarter round (RFC 8439 2.1) on each of four columns or diagonals, side by side.
macro_rules! quarter_rounds {
    ($v:ident, $([$a:literal $b:literal $c:literal $d:literal])*) => {
        $(step!($v, $a += $b, $d, 16);)*
        $(step!($v, $c += $d, $b, 12);)*
        $(step!($v, $a += $b, $d, 8);)*
        $(step!($v, $c += $d, $b, 7);)*
    };
}

/// Adds, mixes and rotates. Rotations run on one port only, the others on two: they all find their ports free in this order
/// only, which the compiler would change.
macro_rules! step {
    ($v:ident, $sum:literal += $b:literal, $mixed:literal, $bits:literal) => {
        $v[$sum] = in_order(_mm512_add_epi32($v[$sum], $v[$b]));
        let mixed = _mm512_xor_si512($v[$mixed], $v[$sum]);
        $v[$mixed] = in_order(_mm512_rol_epi32::<$bits>(mixed));
    };
}

/// What goes through here is computed before what goes through here later; nothing is emitted.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
fn in_order(mut vector: __m512i) -> __m512i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(zmm_reg) vector, options(nomem, nostack, preserves_flags)) };
    vector
}

impl States {
    pub(super) const fn new() -> Self {
        let mut words = [[0; LANES]; 16];
        let mut at = 0;
        while at < CONSTANTS.len() {
            words[at] = [CONSTANTS[at]; LANES];
            at += 1;
        }
        Self(words)
    }

    /// Gives each lane the last words of its state: a count, and the nonce.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn set_starts(&mut self, starts: &[&[u32; 4]; LANES]) {
        let four = |first: usize| {
            let [a, b, c, d] = [0, 4, 8, 12].map(|lane| load_start(starts[first + lane]));
            let low = _mm512_inserti32x4(_mm512_castsi128_si512(a), b, 1);
            _mm512_inserti32x4(_mm512_inserti32x4(low, c, 2), d, 3)
        };
        let words = turn_words([four(0), four(1), four(2), four(3)]);
        for (row, words) in self.0[COUNT..].iter_mut().zip(words) {
            store(row, words);
        }
    }

    /// Gives the lanes their counts.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn set_counts(&mut self, counts: __m512i) {
        store(&mut self.0[COUNT], counts);
    }

    /// Gives all lanes the same key and nonce.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn set_all(&mut self, schedule: &Schedule, start: &[u32; 4]) {
        self.set_key(schedule);
        for (row, word) in self.0[COUNT..].iter_mut().zip(start) {
            store(row, _mm512_set1_epi32(*word as i32));
        }
    }

    /// Gives all lanes the same key.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn set_key(&mut self, schedule: &Schedule) {
        for (row, word) in self.0[CONSTANTS.len()..].iter_mut().zip(&schedule.key) {
            store(row, _mm512_set1_epi32(*word as i32));
        }
    }

    /// Gives each lane the key of its own.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn set_keys(&mut self, schedules: &[&Schedule; LANES]) {
        let [first, ..] = schedules;
        if schedules.iter().all(|other| core::ptr::eq(*other, *first)) {
            return self.set_key(first);
        }
        // Two keys in a vector: [a0..a3, a4..a7, b0..b3, b4..b7].
        let pair = |a: usize, b: usize| {
            let [a, b] = [a, b].map(|at| load_key(&schedules[at].key));
            _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1)
        };
        let front = turn_words([pair(0, 4), pair(1, 5), pair(2, 6), pair(3, 7)]);
        let back = turn_words([pair(8, 12), pair(9, 13), pair(10, 14), pair(11, 15)]);
        let rows = &mut self.0[CONSTANTS.len()..COUNT];
        for (at, (front, back)) in front.into_iter().zip(back).enumerate() {
            store(&mut rows[at], _mm512_shuffle_i64x2(front, back, 0x88));
            store(&mut rows[at + 4], _mm512_shuffle_i64x2(front, back, 0xdd));
        }
    }

    /// The key stream, word by word.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    pub(super) fn stream(&self) -> Words {
        let mut v = [_mm512_setzero_si512(); 16];
        for (word, row) in v.iter_mut().zip(&self.0) {
            *word = load(row);
        }
        // RFC 8439 2.3: "ChaCha20 runs 20 rounds, alternating between 'column rounds' and 'diagonal rounds'."
        for _ in 0..10 {
            quarter_rounds!(v, [0 4 8 12] [1 5 9 13] [2 6 10 14] [3 7 11 15]);
            quarter_rounds!(v, [0 5 10 15] [1 6 11 12] [2 7 8 13] [3 4 9 14]);
        }
        // "At the end of 20 rounds [...] we add the original input words to the output words".
        for (word, row) in v.iter_mut().zip(&self.0) {
            *word = _mm512_add_epi32(*word, load(row));
        }
        v
    }
}

/// From vectors of words to vectors of blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
pub(super) fn turn(words: &Words) -> Words {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *words;
    // Of each four words, those of the blocks 0, 4, 8, 12, then 1, 5, 9, 13 and so on.
    let q0 = turn_words([a, b, c, d]);
    let q1 = turn_words([e, f, g, h]);
    let q2 = turn_words([i, j, k, l]);
    let q3 = turn_words([m, n, o, p]);
    let [r0, r4, r8, r12] = turn_lanes([q0[0], q1[0], q2[0], q3[0]]);
    let [r1, r5, r9, r13] = turn_lanes([q0[1], q1[1], q2[1], q3[1]]);
    let [r2, r6, r10, r14] = turn_lanes([q0[2], q1[2], q2[2], q3[2]]);
    let [r3, r7, r11, r15] = turn_lanes([q0[3], q1[3], q2[3], q3[3]]);
    [
        r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15,
    ]
}

/// Consecutive counts.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
pub(super) fn counts(first: u32) -> __m512i {
    let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    _mm512_add_epi32(_mm512_set1_epi32(first as i32), lanes)
}

/// Transposes four by four words of 32 bits within each lane of 128 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
fn turn_words([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (low_ab, high_ab) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (low_cd, high_cd) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(low_ab, low_cd),
        _mm512_unpackhi_epi64(low_ab, low_cd),
        _mm512_unpacklo_epi64(high_ab, high_cd),
        _mm512_unpackhi_epi64(high_ab, high_cd),
    ]
}

/// Transposes four by four lanes of 128 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
fn turn_lanes([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (front_ab, back_ab) = (
        _mm512_shuffle_i64x2(a, b, 0x44),
        _mm512_shuffle_i64x2(a, b, 0xee),
    );
    let (front_cd, back_cd) = (
        _mm512_shuffle_i64x2(c, d, 0x44),
        _mm512_shuffle_i64x2(c, d, 0xee),
    );
    [
        _mm512_shuffle_i64x2(front_ab, front_cd, 0x88),
        _mm512_shuffle_i64x2(front_ab, front_cd, 0xdd),
        _mm512_shuffle_i64x2(back_ab, back_cd, 0x88),
        _mm512_shuffle_i64x2(back_ab, back_cd, 0xdd),
    ]
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
pub(super) fn load(row: &[u32; LANES]) -> __m512i {
    // SAFETY: reads the 64 bytes of the reference.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
fn load_key(key: &[u32; 8]) -> __m256i {
    // SAFETY: reads the 32 bytes of the reference.
    unsafe { _mm256_loadu_si256(key.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
fn load_start(start: &[u32; 4]) -> __m128i {
    // SAFETY: reads the 16 bytes of the reference.
    unsafe { _mm_loadu_si128(start.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
pub(super) fn store(row: &mut [u32; LANES], words: __m512i) {
    // SAFETY: writes the 64 bytes of the reference.
    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8439 2.3.2, and its block.
    const KEY: [u8; 32] = {
        let mut key = [0; 32];
        let mut at = 0;
        while at < key.len() {
            key[at] = at as u8;
            at += 1;
        }
        key
    };
    const START: [u32; 4] = [1, 0x0900_0000, 0x4a00_0000, 0];
    const WORDS: [u32; 16] = [
        0xe4e7_f110,
        0x1559_3bd1,
        0x1fdd_0f50,
        0xc471_20a3,
        0xc7f4_d1c7,
        0x0368_c033,
        0x9aaa_2204,
        0x4e6c_d4c3,
        0x4664_82d2,
        0x09aa_9f07,
        0x05d7_c214,
        0xa202_8bd9,
        0xd19c_12b5,
        0xb94e_16de,
        0xe883_d0cb,
        0x4e3c_50a2,
    ];

    /// The key stream of a lane, word by word and as it is turned, where the other lanes differ.
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn lane_of_mixed(lane: usize, this: &Schedule, other: &Schedule) -> [[u32; 16]; 2] {
        let mut states = States::new();
        let (mut schedules, mut starts) = ([other; LANES], [&[5, 6, 7, 8]; LANES]);
        (schedules[lane], starts[lane]) = (this, &START);
        states.set_starts(&starts);
        states.set_keys(&schedules);
        lane_of(&states, lane)
    }

    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn lane_of_one_packet(lane: usize, this: &Schedule) -> [[u32; 16]; 2] {
        let mut states = States::new();
        states.set_all(this, &START);
        states.set_counts(counts(1_u32.wrapping_sub(lane as u32)));
        lane_of(&states, lane)
    }

    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn lane_of(states: &States, lane: usize) -> [[u32; 16]; 2] {
        let words = states.stream();
        let mut rows = [[0; LANES]; 16];
        for (row, words) in rows.iter_mut().zip(words) {
            store(row, words);
        }
        let mut block = [0; LANES];
        store(&mut block, turn(&words)[lane]);
        [rows.map(|row| row[lane]), block]
    }

    #[test]
    fn the_block_of_the_rfc_in_each_lane() {
        let (Some(this), Some(other)) = (
            Schedule::new(&KEY, [9; 4]),
            Schedule::new(&[0x42; 32], [1; 4]),
        ) else {
            return;
        };
        for lane in 0..LANES {
            // SAFETY: a schedule exists only where the features do.
            unsafe {
                assert_eq!(lane_of_mixed(lane, &this, &other), [WORDS; 2], "{lane}");
                assert_eq!(lane_of_one_packet(lane, &this), [WORDS; 2], "{lane}");
            }
        }
    }
}
