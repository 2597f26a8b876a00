//! Keeps instructions in the order in which they stand in the source.
//!
//! The kernels interleave independent chains of AES and GHASH so that each instruction's latency passes under the others.
//! The compiler sees no reason for that order. A value that goes through here is computed before what goes through here
//! later; nothing is emitted.

use core::arch::{asm, x86_64::*};

#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) fn in_order(mut vector: __m256i) -> __m256i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(ymm_reg) vector, options(nomem, nostack, preserves_flags)) };
    vector
}

#[inline]
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
pub(super) fn block_in_order(mut block: __m128i) -> __m128i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(xmm_reg) block, options(nomem, nostack, preserves_flags)) };
    block
}

/// A body for each index below a constant of at most seven, written out: the optimizer keeps in registers only what is
/// indexed by constants.
macro_rules! each {
    ($at:ident < $end:expr, $body:block) => {
        each!(@ $at, $end, $body, 0 1 2 3 4 5 6)
    };
    (@ $at:ident, $end:expr, $body:block, $($index:literal)*) => {
        $(
            #[allow(clippy::reversed_empty_ranges, unused_comparisons)]
            if $index < $end {
                let $at: usize = $index;
                $body
            }
        )*
    };
}

/// A body for each of the nine rounds that AES has with every length of key, written out likewise.
macro_rules! each_round {
    ($at:ident, $body:block) => {
        each!(@ $at, 9, $body, 0 1 2 3 4 5 6 7 8)
    };
}

/// A body for each two rounds that a longer key has more; it knows by a constant how many are still to come.
macro_rules! each_two_more {
    ($twos:expr, $before:ident, $body:block) => {
        if $twos > 1 {
            const $before: usize = 1;
            $body
        }
        if $twos > 0 {
            const $before: usize = 0;
            $body
        }
    };
}
pub(super) use {each, each_round, each_two_more};
