//! Packet crypto in batches, with engines chosen at run time.
//!
//! A *key* ([`SealingKey`], [`OpeningKey`]) is built once for an SA, by a named engine, from the key material that IKE
//! derived. A *job* ([`SealJob`], [`OpenJob`]) is one packet: everything that can be wrong with its IV and its buffers is
//! refused when it is built. A *batch* ([`seal_batch`], [`open_batch`]) is a burst of jobs, each with a key of its own; it
//! cannot fail, allocates nothing, and a packet that is not authentic leaves nothing but zeros behind. AH has the same without
//! encryption: [`IntegrityKey`], [`ComputeJob`], [`VerifyJob`].
//!
//! An [`Algorithm`] is an AEAD, or a cipher with an HMAC; the interface is one. The engines differ in speed, and in what they
//! [do](EngineKind::does): [`EngineKind::Portable`] is the reference and does everything, [`EngineKind::AwsLc`] is the fast
//! portable one, [`EngineKind::Vaes256`] a faster one for AES-GCM, and [`EngineKind::Vaes512`] the fastest, where the CPU has
//! the instructions.

#![deny(unsafe_code)]

mod additional_data;
mod algorithm;
mod batch;
mod buffers;
#[cfg(target_arch = "x86_64")]
mod chacha512;
mod engine;
#[cfg(target_arch = "x86_64")]
mod gcm;
mod integrity;
mod iv;
mod job;
mod key;
mod name;
mod prefetch;
pub mod sequence;
mod trailer;
#[cfg(target_arch = "x86_64")]
mod vaes256;
#[cfg(target_arch = "x86_64")]
mod vaes512;

pub use additional_data::{Aad, AdditionalData};
pub use algorithm::{AesKey, Algorithm, Encryption, Hmac, IvForm};
pub use batch::{open_batch, seal_batch};
pub use buffers::MAX_SEGMENTED;
pub use engine::{EngineKind, UnknownEngine};
pub use integrity::{ComputeJob, Integrity, IntegrityKey, VerifyJob, compute_batch, verify_batch};
pub use iv::{Iv, IvGenerator, ReceivedIv};
pub use job::{JobError, MAX_PLAINTEXT, OpenJob, SealJob, Verdict};
pub use key::{KeyError, OpeningKey, SealingKey};
pub use name::UnknownAlgorithm;
pub use prefetch::prefetch;
pub use trailer::{MAX_TRAILER, Trailer};
