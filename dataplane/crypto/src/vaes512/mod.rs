//! AES-GCM (NIST SP 800-38D, RFC 4106) on AVX-512 with VAES and VPCLMULQDQ.
#![allow(
    unsafe_code,
    reason = "the kernels read and write packets through pointers"
)]

mod burst;
mod counter;
mod ghash;
mod pace;
mod packet;
mod schedule;
mod short;
mod single;
mod text;

pub(crate) use burst::{Job, open, run, seal};
pub(crate) use packet::{Head, Packet};
pub(crate) use schedule::Schedule;

/// Whether this CPU runs the kernels.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("bmi2")
}
