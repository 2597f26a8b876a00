//! A job as the kernels see it.

use super::{ghash, schedule::Schedule};
use crate::{AdditionalData, Trailer, algorithm::ICV_LEN, engine::Text};
use core::{arch::x86_64::*, marker::PhantomData};

/// One packet to seal or to open.
///
/// Invariant: `source` is `body` bytes long, and when opening followed by the ICV; `trailer` has `length - body` bytes and
/// then zeros, and is all zeros when opening; `out` is `length` bytes long, and when sealing followed by room for the ICV.
/// `source` may be `out`. All of them live as long as `'a`, and nothing else writes to them.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(super) schedule: &'a Schedule,
    pub(super) iv: u64,
    pub(super) source: *const u8,
    pub(super) body: usize,
    pub(super) trailer: &'a [u8],
    pub(super) length: usize,
    pub(super) out: *mut u8,
    /// The additional data, or what stands for it, as one block.
    pub(super) additional: __m128i,
    /// The last block that GHASH takes, as an element: the lengths in bits (SP 800-38D 7.1 step 5).
    pub(super) lengths: __m128i,
    _buffers: PhantomData<(&'a [u8], &'a mut [u8])>,
}

impl<'a> Packet<'a> {
    /// A packet to seal; `None` when its lengths do not fit each other.
    #[inline]
    pub(crate) fn to_seal(
        schedule: &'a Schedule,
        iv: [u8; 8],
        additional: &AdditionalData<'_>,
        trailer: &'a Trailer,
        text: Text<'a>,
    ) -> Option<Self> {
        let behind = trailer.len() + ICV_LEN;
        let (source, body, out) = match text {
            Text::Apart { source, out } if out.len() == source.len() + behind => {
                (source.as_ptr(), source.len(), out.as_mut_ptr())
            }
            Text::Apart { .. } => return None,
            Text::InPlace(buffer) => {
                let body = buffer.len().checked_sub(behind)?;
                let out = buffer.as_mut_ptr();
                (out.cast_const(), body, out)
            }
        };
        let length = body + trailer.len();
        let (additional, additional_bits) = one_block(schedule, additional);
        Some(Self {
            schedule,
            iv: u64::from_ne_bytes(iv),
            source,
            body,
            trailer: trailer.padded(),
            length,
            out,
            additional,
            lengths: words([8 * length as u64, additional_bits]),
            _buffers: PhantomData,
        })
    }

    /// A packet to open; `None` when its lengths do not fit each other.
    #[inline]
    pub(crate) fn to_open(
        schedule: &'a Schedule,
        iv: [u8; 8],
        additional: &AdditionalData<'_>,
        text: Text<'a>,
    ) -> Option<Self> {
        let (source, length, out) = match text {
            Text::Apart { source, out } if source.len() == out.len() + ICV_LEN => {
                (source.as_ptr(), out.len(), out.as_mut_ptr())
            }
            Text::Apart { .. } => return None,
            Text::InPlace(buffer) => {
                let length = buffer.len().checked_sub(ICV_LEN)?;
                let out = buffer.as_mut_ptr();
                (out.cast_const(), length, out)
            }
        };
        let (additional, additional_bits) = one_block(schedule, additional);
        Some(Self {
            schedule,
            iv: u64::from_ne_bytes(iv),
            source,
            body: length,
            trailer: Trailer::NONE.padded(),
            length,
            out,
            additional,
            lengths: words([8 * length as u64, additional_bits]),
            _buffers: PhantomData,
        })
    }
}

/// Written by one store: two narrow ones would hold up the kernel's wide load.
#[inline]
fn words([low, high]: [u64; 2]) -> __m128i {
    // SAFETY: every x86-64 has SSE2.
    unsafe { _mm_set_epi64x(high as i64, low as i64) }
}

/// Additional data as one block, and its length in bits.
#[inline]
fn one_block(schedule: &Schedule, additional: &AdditionalData<'_>) -> (__m128i, u64) {
    match additional {
        AdditionalData::Esp(aad) => (words(aad.words()), 8 * aad.as_bytes().len() as u64),
        // SAFETY: a schedule exists only where the features do.
        AdditionalData::Bytes(bytes) => (
            unsafe { ghash::digest(schedule, bytes) },
            8 * bytes.len() as u64,
        ),
    }
}
