//! A job as the kernels see it.

use super::{ghash, schedule::Schedule};
use crate::AdditionalData;
use core::marker::PhantomData;

/// One packet to seal or to open.
///
/// Invariant: `source` is `body` bytes long, and when opening followed by the ICV; `trailer` is `length - body` bytes long,
/// at most 18, and empty when opening; `out` is `length` bytes long, and when sealing followed by room for the ICV. All of
/// them live as long as `'a`, and nothing else writes to them. `out` is apart from the others, or begins where `source` does:
/// a kernel reads a vector of text for the last time before it writes there.
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

/// Where the parts of a packet lie, by the same invariant.
struct Places {
    source: *const u8,
    body: usize,
    trailer: *const u8,
    length: usize,
    out: *mut u8,
}

impl<'a> Packet<'a> {
    /// A packet to seal, with the key and its rounds; `None` when `out` is not as long as plaintext, trailer and ICV.
    #[inline]
    pub(crate) fn to_seal(
        key: (&'a Schedule, usize),
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
        let places = Places {
            source: plaintext.as_ptr(),
            body: plaintext.len(),
            trailer: trailer.as_ptr(),
            length,
            out: out.as_mut_ptr(),
        };
        Some(Self::at(key, iv, additional, places))
    }

    /// The same in place: `buffer` is as long as plaintext, trailer and ICV, and begins with the plaintext.
    pub(super) fn to_seal_in_place(
        key: (&'a Schedule, usize),
        iv: [u8; 8],
        additional: &AdditionalData<'_>,
        trailer: &'a [u8],
        buffer: &'a mut [u8],
    ) -> Option<Self> {
        let length = buffer.len().checked_sub(ICV)?;
        let body = length.checked_sub(trailer.len())?;
        if trailer.len() > MAX_TRAILER {
            return None;
        }
        let out = buffer.as_mut_ptr();
        let places = Places {
            source: out,
            body,
            trailer: trailer.as_ptr(),
            length,
            out,
        };
        Some(Self::at(key, iv, additional, places))
    }

    /// A packet to open, with the key and its rounds; `None` when `ciphertext` is not as long as `out` and ICV.
    #[inline]
    pub(crate) fn to_open(
        key: (&'a Schedule, usize),
        iv: [u8; 8],
        additional: &AdditionalData<'_>,
        ciphertext: &'a [u8],
        out: &'a mut [u8],
    ) -> Option<Self> {
        let length = out.len();
        if ciphertext.len() != length + ICV {
            return None;
        }
        let places = Places::to_open(ciphertext.as_ptr(), length, out.as_mut_ptr());
        Some(Self::at(key, iv, additional, places))
    }

    /// The same in place: `buffer` holds ciphertext and ICV.
    pub(super) fn to_open_in_place(
        key: (&'a Schedule, usize),
        iv: [u8; 8],
        additional: &AdditionalData<'_>,
        buffer: &'a mut [u8],
    ) -> Option<Self> {
        let length = buffer.len().checked_sub(ICV)?;
        let out = buffer.as_mut_ptr();
        let places = Places::to_open(out, length, out);
        Some(Self::at(key, iv, additional, places))
    }

    #[inline]
    fn at(
        (schedule, rounds): (&'a Schedule, usize),
        iv: [u8; 8],
        additional: &AdditionalData<'_>,
        places: Places,
    ) -> Self {
        let (additional, additional_bits) = one_block(schedule, additional);
        Self {
            schedule,
            rounds,
            iv: u64::from_ne_bytes(iv),
            source: places.source,
            body: places.body,
            trailer: places.trailer,
            length: places.length,
            out: places.out,
            additional,
            lengths: [8 * places.length as u64, additional_bits],
            _buffers: PhantomData,
        }
    }
}

impl Places {
    #[inline]
    fn to_open(source: *const u8, length: usize, out: *mut u8) -> Self {
        Self {
            source,
            body: length,
            // Empty, but near: a masked load stumbles over an address without memory, even if it reads nothing there.
            trailer: source.wrapping_add(length),
            length,
            out,
        }
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
