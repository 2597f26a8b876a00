//! AES-GCM (NIST SP 800-38D, RFC 4106) on AVX2 with VAES and VPCLMULQDQ: 256-bit vectors, sixteen registers, no masks. For
//! CPUs without AVX-512: Intel's from Alder Lake, AMD's Zen 3.
#![allow(
    unsafe_code,
    reason = "the kernels read and write packets through pointers"
)]

mod burst;
mod counter;
mod end;
mod ghash;
mod pace;
mod packet;
mod schedule;
mod strips;
mod text;

pub(crate) use burst::{Job, open, run, seal};
pub(crate) use packet::Packet;
pub(crate) use schedule::Schedule;

/// Whether this CPU runs the kernels.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
}
