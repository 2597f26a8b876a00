//! Packet AEADs in batches, with engines chosen at run time.
//!
//! A *key* ([`SealingKey`], [`OpeningKey`]) is built once for an SA, by a named engine, from the key material that IKE
//! derived. A *job* ([`SealJob`], [`OpenJob`]) is one packet: everything that can be wrong with its lengths is refused
//! when it is built. A *batch* ([`seal_batch`], [`open_batch`]) is a burst of jobs, each with a key of its own; it
//! cannot fail, allocates nothing, and a packet that is not authentic leaves nothing but zeros behind.
//!
//! The engines differ in speed only: [`EngineKind::Portable`] is the reference, [`EngineKind::AwsLc`] the fast portable one,
//! [`EngineKind::Vaes256`] a faster one for AES-GCM, and [`EngineKind::Vaes512`] the fastest, where the CPU has the
//! instructions.

#![deny(unsafe_code)]

mod additional_data;
mod algorithm;
mod batch;
mod buffers;
mod engine;
mod iv;
mod job;
mod key;
mod trailer;
#[cfg(target_arch = "x86_64")]
mod vaes256;
#[cfg(target_arch = "x86_64")]
mod vaes512;

pub use additional_data::{Aad, AdditionalData};
pub use algorithm::{AesKey, Algorithm, IvForm};
pub use batch::{open_batch, seal_batch};
pub use buffers::MAX_SEGMENTED;
pub use engine::{EngineKind, UnknownEngine};
pub use iv::Iv;
pub use job::{JobError, MAX_PLAINTEXT, OpenJob, SealJob, Verdict};
pub use key::{KeyError, OpeningKey, SealingKey};
pub use trailer::{MAX_TRAILER, Trailer};
