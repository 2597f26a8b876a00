//! A job as the kernels take it.

use super::schedule::Schedule;
use crate::{Aad, MAX_PLAINTEXT, MAX_TRAILER, Trailer, algorithm::ICV_LEN, engine::Text};
use core::marker::PhantomData;

/// One packet to seal or to open. A job is made into one at once, and the kernels read it where it is: its parts are written
/// long before they are loaded in one piece.
///
/// Invariant: `source` is `body` bytes long, and when opening followed by the ICV; `trailer` is `length - body` bytes long, and
/// empty when opening; `out` is `room` bytes long: `length`, and when sealing or if it is the source, room for the ICV. All
/// of them live as long as `'a`, and nothing else writes to them. `out` is apart from the source, or begins where that does: a
/// kernel reads a vector of text for the last time before it writes there.
///
/// It begins at a cache line, so that no load of a part goes across two: a sixth of what short packets take to seal.
#[repr(align(64))]
pub(crate) struct Packet<'a> {
    pub(super) schedule: &'a Schedule,
    pub(super) source: *const u8,
    pub(super) body: usize,
    pub(super) out: *mut u8,
    pub(super) length: usize,
    /// The bytes of the buffer that `out` begins.
    room: usize,
    pub(super) iv: u64,
    /// The additional data, or what stands for it, as GHASH's first block in two words.
    pub(super) additional: [u64; 2],
    /// GHASH's last block, as an element: the lengths in bits (SP 800-38D 7.1 step 5).
    pub(super) lengths: [u64; 2],
    pub(super) trailer: Trailer,
    /// Of AES; the schedule itself need not be in the cache to sort by them.
    pub(super) rounds: u8,
    _buffers: PhantomData<(&'a [u8], &'a mut [u8])>,
}

/// What a packet is sealed or opened with.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) schedule: &'a Schedule,
    /// The schedule's, for who need not look there.
    pub(crate) rounds: u8,
    pub(crate) iv: [u8; 8],
    /// The additional data, or what stands for it, as GHASH's first block in two words;
    pub(crate) additional: [u64; 2],
    /// and its length in bytes.
    pub(crate) additional_len: usize,
}

impl<'a> Head<'a> {
    /// Of an ESP packet.
    #[inline(always)]
    pub(crate) fn esp((schedule, rounds): (&'a Schedule, u8), iv: [u8; 8], aad: &Aad) -> Self {
        Self {
            schedule,
            rounds,
            iv,
            additional: aad.words(),
            additional_len: aad.as_bytes().len(),
        }
    }
}

/// A trailer must end within the last four blocks.
const _: () = assert!(MAX_TRAILER <= 48);

impl<'a> Packet<'a> {
    /// A packet to seal; the text again when it is longer than any, or the buffers are not as long as plaintext, trailer and
    /// ICV.
    #[inline(always)]
    pub(crate) fn to_seal(
        head: Head<'a>,
        trailer: Trailer,
        mut text: Text<'a>,
    ) -> Result<Self, Text<'a>> {
        let behind = trailer.len() + ICV_LEN;
        let (source, body, out, room) = match &mut text {
            Text::Apart { source, out } => {
                (source.as_ptr(), source.len(), out.as_mut_ptr(), out.len())
            }
            Text::InPlace(buffer) => {
                let (start, room) = (buffer.as_mut_ptr(), buffer.len());
                (start.cast_const(), room.wrapping_sub(behind), start, room)
            }
        };
        if body > MAX_PLAINTEXT || room != body + behind {
            return Err(text);
        }
        Ok(Self::new(head, source, body, trailer, (out, room)))
    }

    /// A packet to open; the text again when it is longer than any, or the buffers are not as long as plaintext and ICV.
    #[inline(always)]
    pub(crate) fn to_open(head: Head<'a>, mut text: Text<'a>) -> Result<Self, Text<'a>> {
        let (source, received, out, room, icv) = match &mut text {
            Text::Apart { source, out } => {
                let (start, room) = (out.as_mut_ptr(), out.len());
                (source.as_ptr(), source.len(), start, room, 0)
            }
            Text::InPlace(buffer) => {
                let (start, received) = (buffer.as_mut_ptr(), buffer.len());
                (start.cast_const(), received, start, received, ICV_LEN)
            }
        };
        let length = room.wrapping_sub(icv);
        if length > MAX_PLAINTEXT + MAX_TRAILER || received != length + ICV_LEN {
            return Err(text);
        }
        Ok(Self::new(head, source, length, Trailer::NONE, (out, room)))
    }

    #[inline(always)]
    fn new(
        head: Head<'a>,
        source: *const u8,
        body: usize,
        trailer: Trailer,
        (out, room): (*mut u8, usize),
    ) -> Self {
        let length = body + trailer.len();
        Self {
            schedule: head.schedule,
            source,
            body,
            out,
            length,
            room,
            iv: u64::from_ne_bytes(head.iv),
            additional: head.additional,
            lengths: [8 * length as u64, 8 * head.additional_len as u64],
            trailer,
            rounds: head.rounds,
            _buffers: PhantomData,
        }
    }

    /// The bytes of its text.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Leaves zeros where the text of a forged packet would be, and all over if it was opened in place.
    pub(crate) fn clear(&mut self) {
        // SAFETY: by the invariant.
        unsafe { self.out.write_bytes(0, self.room) };
    }
}
