//! A job as the kernels see it.

use super::schedule::Schedule;
use crate::{algorithm::ICV_LEN, engine::Text, gcm::Block};
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
    pub(super) authenticated: Authenticated<'a>,
    _buffers: PhantomData<(&'a [u8], &'a mut [u8])>,
}

/// What GHASH takes besides the text.
#[derive(Clone, Copy)]
pub(crate) struct Authenticated<'a> {
    /// The additional data, or what stands for it, as one block.
    pub(crate) additional: &'a Block,
    /// The last block, as an element: the lengths in bits (SP 800-38D 7.1 step 5).
    pub(crate) lengths: &'a [u64; 2],
}

/// The longest trailer: it must end within the last four blocks.
const MAX_TRAILER: usize = 48;
const _: () = assert!(crate::MAX_TRAILER <= MAX_TRAILER);

impl<'a> Packet<'a> {
    /// A packet to seal, with the key and its rounds; `None` when the buffers are not as long as plaintext, trailer and ICV.
    #[inline]
    pub(crate) fn to_seal(
        key: (&'a Schedule, usize),
        iv: [u8; 8],
        authenticated: Authenticated<'a>,
        trailer: &'a [u8],
        text: Text<'a>,
    ) -> Option<Self> {
        let (source, body, out, room) = match text {
            Text::Apart { source, out } => {
                (source.as_ptr(), source.len(), out.as_mut_ptr(), out.len())
            }
            Text::InPlace(buffer) => {
                let (start, room) = (buffer.as_mut_ptr(), buffer.len());
                let body = room.checked_sub(trailer.len() + ICV_LEN)?;
                (start.cast_const(), body, start, room)
            }
        };
        let length = body + trailer.len();
        if room != length + ICV_LEN || trailer.len() > MAX_TRAILER {
            return None;
        }
        Some(Self {
            schedule: key.0,
            rounds: key.1,
            iv: u64::from_ne_bytes(iv),
            source,
            body,
            trailer: trailer.as_ptr(),
            length,
            out,
            authenticated,
            _buffers: PhantomData,
        })
    }

    /// A packet to open, with the key and its rounds; `None` when the buffers are not as long as plaintext and ICV.
    #[inline]
    pub(crate) fn to_open(
        key: (&'a Schedule, usize),
        iv: [u8; 8],
        authenticated: Authenticated<'a>,
        text: Text<'a>,
    ) -> Option<Self> {
        let (source, received, out, length) = match text {
            Text::Apart { source, out } => {
                (source.as_ptr(), source.len(), out.as_mut_ptr(), out.len())
            }
            Text::InPlace(buffer) => {
                let (start, received) = (buffer.as_mut_ptr(), buffer.len());
                let length = received.checked_sub(ICV_LEN)?;
                (start.cast_const(), received, start, length)
            }
        };
        if received != length + ICV_LEN {
            return None;
        }
        Some(Self {
            schedule: key.0,
            rounds: key.1,
            iv: u64::from_ne_bytes(iv),
            source,
            body: length,
            // Empty, but near: a masked load stumbles over an address without memory, even if it reads nothing there.
            trailer: source.wrapping_add(length),
            length,
            out,
            authenticated,
            _buffers: PhantomData,
        })
    }
}
