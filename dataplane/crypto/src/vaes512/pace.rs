//! Keeps instructions in the order in which they stand in the source.
//!
//! The kernels interleave independent chains of AES and GHASH so that each instruction's latency passes under the others.
//! The compiler sees no reason for that order and, to save registers, runs one chain after the other. A value that goes
//! through here is computed before what goes through here later; nothing is emitted.

use core::arch::{asm, x86_64::*};

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn in_order(mut vector: __m512i) -> __m512i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(zmm_reg) vector, options(nomem, nostack, preserves_flags)) };
    vector
}

#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi2")]
pub(super) fn block_in_order(mut block: __m128i) -> __m128i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(xmm_reg) block, options(nomem, nostack, preserves_flags)) };
    block
}

/// A body for each index below a constant of at most four, written out: the optimizer keeps in registers only what is
/// indexed by constants.
macro_rules! each {
    ($at:ident < $end:expr, $body:block) => {
        each!(@ $at, $end, $body, 0 1 2 3)
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

/// The same for at most nine.
macro_rules! each_to_9 {
    ($at:ident < $end:expr, $body:block) => {
        each!(@ $at, $end, $body, 0 1 2 3 4 5 6 7 8)
    };
}
pub(super) use {each, each_to_9};
