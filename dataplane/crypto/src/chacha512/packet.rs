//! A job as the kernels see it.

use super::schedule::Schedule;
use crate::engine::Text;
use core::marker::PhantomData;

/// One packet to seal or to open.
///
/// Invariant: `source` is `body` bytes long, and when opening followed by the ICV; `trailer` is `length - body` bytes long,
/// and empty when opening; `out` is `length` bytes long, and when sealing followed by room for the ICV. All of them live
/// as long as `'a`, and nothing else writes to them. `out` is apart from the others, or begins where `source` does: a
/// kernel reads a block of text for the last time before it writes there.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(super) schedule: &'a Schedule,
    /// The last words of ChaCha20's state: the count, here zero, and the nonce, which is salt and IV (RFC 7634 2).
    pub(super) start: [u32; 4],
    pub(super) additional: &'a [u8],
    pub(super) source: *const u8,
    pub(super) body: usize,
    pub(super) trailer: *const u8,
    pub(super) length: usize,
    pub(super) out: *mut u8,
    _buffers: PhantomData<(&'a [u8], &'a mut [u8])>,
}

/// The ICV's length.
pub(super) const ICV: usize = 16;

#[inline]
fn start(schedule: &Schedule, [a, b, c, d, e, f, g, h]: [u8; 8]) -> [u32; 4] {
    let iv = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
    [0, schedule.salt, iv[0], iv[1]]
}

impl<'a> Packet<'a> {
    /// A packet to seal; `None` when its lengths do not fit each other.
    #[inline]
    pub(crate) fn to_seal(
        schedule: &'a Schedule,
        iv: [u8; 8],
        additional: &'a [u8],
        trailer: &'a [u8],
        text: Text<'a>,
    ) -> Option<Self> {
        let (source, body, out, length) = match text {
            Text::Apart { source, out } => {
                let length = out.len().checked_sub(ICV)?;
                (source.as_ptr(), source.len(), out.as_mut_ptr(), length)
            }
            Text::InPlace(buffer) => {
                let length = buffer.len().checked_sub(ICV)?;
                let body = length.checked_sub(trailer.len())?;
                let out = buffer.as_mut_ptr();
                (out.cast_const(), body, out, length)
            }
        };
        (length == body + trailer.len()).then_some(Self {
            schedule,
            start: start(schedule, iv),
            additional,
            source,
            body,
            trailer: trailer.as_ptr(),
            length,
            out,
            _buffers: PhantomData,
        })
    }

    /// A packet to open; `None` when its lengths do not fit each other.
    #[inline]
    pub(crate) fn to_open(
        schedule: &'a Schedule,
        iv: [u8; 8],
        additional: &'a [u8],
        text: Text<'a>,
    ) -> Option<Self> {
        let (source, length, out) = match text {
            Text::Apart { source, out } => {
                let length = source.len().checked_sub(ICV)?;
                if out.len() != length {
                    return None;
                }
                (source.as_ptr(), length, out.as_mut_ptr())
            }
            Text::InPlace(buffer) => {
                let length = buffer.len().checked_sub(ICV)?;
                let out = buffer.as_mut_ptr();
                (out.cast_const(), length, out)
            }
        };
        Some(Self {
            schedule,
            start: start(schedule, iv),
            additional,
            source,
            body: length,
            // Empty, but near: a masked load stumbles over an address without memory, even if it reads nothing there.
            trailer: source.wrapping_add(length),
            length,
            out,
            _buffers: PhantomData,
        })
    }

    /// The ciphertext: what was made of it when sealing, what arrived when opening.
    #[inline]
    pub(super) fn ciphertext<const SEAL: bool>(&self) -> *const u8 {
        if SEAL { self.out } else { self.source }
    }
}
