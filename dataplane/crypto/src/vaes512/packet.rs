//! A job as the kernels see it.

use super::{ghash, schedule::Schedule};
use crate::AdditionalData;
use core::marker::PhantomData;

/// One packet to seal or to open.
///
/// Invariant: `source` is `body` bytes long, and when opening followed by the ICV; `trailer` is `length - body` bytes long,
/// at most 18, and empty when opening; `out` is `length` bytes long, and when sealing followed by room for the ICV. All of
/// them live as long as `'a`, and nothing else writes to them.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(super) schedule: &'a Schedule,
    /// Of AES; the schedule itself need not be in the cache to sort by them.
    pub(super) rounds: usize,
    pub(super) iv: u64,
    pub(super) source: *const u8,
    pub(super) body: usize,
    pub(super) trailer: *const u8,
    pub(super) length: usize,
    pub(super) out: *mut u8,
    /// The additional data, or what stands for it, as one block.
    pub(super) additional: ghash::Block,
    /// The last block that GHASH takes, as an element: the lengths in bits (SP 800-38D 7.1 step 5).
    pub(super) lengths: [u64; 2],
    _buffers: PhantomData<(&'a [u8], &'a mut [u8])>,
}

/// The ICV's length.
const ICV: usize = 16;
/// The longest trailer: it must end within the last four blocks.
const MAX_TRAILER: usize = 48;
const _: () = assert!(crate::MAX_TRAILER <= MAX_TRAILER);

impl<'a> Packet<'a> {
    /// A packet to seal, with the key and its rounds; `None` when `out` is not as long as plaintext, trailer and ICV.
    #[inline]
    pub(crate) fn to_seal(
        (schedule, rounds): (&'a Schedule, usize),
        iv: [u8; 8],
        additional: &AdditionalData<'_>,
        plaintext: &'a [u8],
        trailer: &'a [u8],
        out: &'a mut [u8],
    ) -> Option<Self> {
        let length = plaintext.len() + trailer.len();
        if out.len() != length + ICV || trailer.len() > MAX_TRAILER {
            return None;
        }
        let (additional, additional_bits) = one_block(schedule, additional);
        Some(Self {
            schedule,
            rounds,
            iv: u64::from_ne_bytes(iv),
            source: plaintext.as_ptr(),
            body: plaintext.len(),
            trailer: trailer.as_ptr(),
            length,
            out: out.as_mut_ptr(),
            additional,
            lengths: [8 * length as u64, additional_bits],
            _buffers: PhantomData,
        })
    }

    /// A packet to open, with the key and its rounds; `None` when `ciphertext` is not as long as `out` and ICV.
    #[inline]
    pub(crate) fn to_open(
        (schedule, rounds): (&'a Schedule, usize),
        iv: [u8; 8],
        additional: &AdditionalData<'_>,
        ciphertext: &'a [u8],
        out: &'a mut [u8],
    ) -> Option<Self> {
        let length = out.len();
        if ciphertext.len() != length + ICV {
            return None;
        }
        let (additional, additional_bits) = one_block(schedule, additional);
        Some(Self {
            schedule,
            rounds,
            iv: u64::from_ne_bytes(iv),
            source: ciphertext.as_ptr(),
            body: length,
            // Empty, but near: a masked load stumbles over an address without memory, even if it reads nothing there.
            trailer: ciphertext.as_ptr().wrapping_add(length),
            length,
            out: out.as_mut_ptr(),
            additional,
            lengths: [8 * length as u64, additional_bits],
            _buffers: PhantomData,
        })
    }
}

/// Additional data as one block, and its length in bits.
#[inline]
fn one_block(schedule: &Schedule, additional: &AdditionalData<'_>) -> (ghash::Block, u64) {
    match additional {
        AdditionalData::Esp(aad) => (aad.padded(), 8 * aad.as_bytes().len() as u64),
        // SAFETY: a schedule exists only where the features do.
        AdditionalData::Bytes(bytes) => (
            unsafe { ghash::digest(schedule, bytes) },
            8 * bytes.len() as u64,
        ),
    }
}
