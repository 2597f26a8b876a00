//! ChaCha20-Poly1305 (RFC 8439, RFC 7634) on AVX-512 with IFMA, across the packets of a burst.
#![allow(
    unsafe_code,
    reason = "the kernels read and write packets through pointers"
)]

mod burst;
mod chacha;
mod hash;
mod one_time;
mod packet;
mod poly;
mod schedule;
mod tags;
mod text;

pub(crate) use burst::{Job, WORTHWHILE, run};
pub(crate) use packet::Packet;
pub(crate) use schedule::Schedule;

/// Whether this CPU runs the kernels.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512ifma")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("bmi2")
}
