//! A job as the kernels see it.

use super::schedule::Schedule;
use core::marker::PhantomData;

/// One packet to seal or to open.
///
/// Invariant: `source` is `body` bytes long, and when opening followed by the ICV; `trailer` is `length - body` bytes long,
/// at most 18, and empty when opening; `out` is `length` bytes long, and when sealing followed by room for the ICV. All of
/// them live as long as `'a`, and nothing else writes to them.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(super) schedule: &'a Schedule,
    pub(super) iv: u64,
    /// At most 16 bytes for a kernel; longer additional data is replaced by its digest.
    pub(super) additional: &'a [u8],
    pub(super) additional_len: usize,
    pub(super) source: *const u8,
    pub(super) body: usize,
    pub(super) trailer: *const u8,
    pub(super) length: usize,
    pub(super) out: *mut u8,
    _buffers: PhantomData<(&'a [u8], &'a mut [u8])>,
}

/// The longest additional data that fits in a lane.
pub(crate) const MAX_ADDITIONAL: usize = 16;
/// The ICV's length.
const ICV: usize = 16;
/// The longest trailer: it must end within the last four blocks.
const MAX_TRAILER: usize = 48;
const _: () = assert!(crate::MAX_TRAILER <= MAX_TRAILER);

impl<'a> Packet<'a> {
    /// A packet to seal; `None` when `out` is not as long as plaintext, trailer and ICV.
    #[inline]
    pub(crate) fn to_seal(
        schedule: &'a Schedule,
        iv: [u8; 8],
        additional: &'a [u8],
        plaintext: &'a [u8],
        trailer: &'a [u8],
        out: &'a mut [u8],
    ) -> Option<Self> {
        let length = plaintext.len() + trailer.len();
        if out.len() != length + ICV || trailer.len() > MAX_TRAILER {
            return None;
        }
        Some(Self {
            schedule,
            iv: u64::from_ne_bytes(iv),
            additional,
            additional_len: additional.len(),
            source: plaintext.as_ptr(),
            body: plaintext.len(),
            trailer: trailer.as_ptr(),
            length,
            out: out.as_mut_ptr(),
            _buffers: PhantomData,
        })
    }

    /// A packet to open; `None` when `ciphertext` is not as long as `out` and ICV.
    #[inline]
    pub(crate) fn to_open(
        schedule: &'a Schedule,
        iv: [u8; 8],
        additional: &'a [u8],
        ciphertext: &'a [u8],
        out: &'a mut [u8],
    ) -> Option<Self> {
        let length = out.len();
        if ciphertext.len() != length + ICV {
            return None;
        }
        Some(Self {
            schedule,
            iv: u64::from_ne_bytes(iv),
            additional,
            additional_len: additional.len(),
            source: ciphertext.as_ptr(),
            body: length,
            // Empty, but near: a masked load stumbles over an address without memory, even if it reads nothing there.
            trailer: ciphertext.as_ptr().wrapping_add(length),
            length,
            out: out.as_mut_ptr(),
            _buffers: PhantomData,
        })
    }

    /// With the one block that stands for all of its additional data.
    pub(super) fn with_digest<'b>(self, digest: &'b [u8; 16]) -> Packet<'b>
    where
        'a: 'b,
    {
        Packet {
            additional: digest,
            ..self
        }
    }
}
