//! Where the text of a packet lies: in one buffer or in two, whole or in segments.

use crate::engine::Text;
use arrayvec::ArrayVec;

/// The most that segments hold, ICV included, and that a packet of AES-GMAC has altogether: a jumbo frame and room to spare.
pub const MAX_SEGMENTED: usize = 16_384 + 64;

/// The buffers of a job, of which all lengths are right.
pub(crate) enum Buffers<'a> {
    /// In one piece.
    Whole(Text<'a>),
    /// From segments into others.
    Segments {
        source: &'a [&'a [u8]],
        out: &'a mut [&'a mut [u8]],
    },
    /// Within segments, together as long as the ciphertext and its ICV.
    SegmentsInPlace(&'a mut [&'a mut [u8]]),
}

impl<'a> Buffers<'a> {
    /// The bytes of the source and of the destination.
    #[inline(always)]
    pub(crate) fn lengths(&self) -> (usize, usize) {
        match self {
            Self::Whole(text) => (text.source_len(), text.room()),
            Self::Segments { source, out } => {
                (source.iter().map(|segment| segment.len()).sum(), total(out))
            }
            Self::SegmentsInPlace(segments) => (total(segments), total(segments)),
        }
    }

    /// Whether source and destination are the same.
    #[inline(always)]
    pub(crate) fn are_one(&self) -> bool {
        matches!(
            self,
            Self::Whole(Text::InPlace(_)) | Self::SegmentsInPlace(_)
        )
    }

    /// Whether they are in segments.
    #[inline(always)]
    pub(crate) fn are_segments(&self) -> bool {
        matches!(self, Self::Segments { .. } | Self::SegmentsInPlace(_))
    }

    /// The text in one piece, when it is in no segments.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn text(&mut self) -> Option<Text<'_>> {
        match self {
            Self::Whole(text) => Some(text.again()),
            Self::Segments { .. } | Self::SegmentsInPlace(_) => None,
        }
    }

    /// Gives the text to `work` in one piece. Segments pass through a buffer on the stack, `length` bytes long: as long as
    /// the ciphertext and its ICV.
    pub(crate) fn with_text<T>(
        &mut self,
        length: usize,
        work: impl FnOnce(Text<'_>) -> Option<T>,
    ) -> Option<T> {
        match self {
            Self::Whole(text) => work(text.again()),
            Self::Segments { source, out } => {
                let mut gathered = gather(source.iter().copied())?;
                fill(&mut gathered, length)?;
                let done = work(Text::InPlace(&mut gathered))?;
                scatter(&gathered, out);
                Some(done)
            }
            Self::SegmentsInPlace(segments) => {
                let mut gathered = gather(segments.iter().map(|segment| &**segment))?;
                let done = work(Text::InPlace(&mut gathered))?;
                scatter(&gathered, segments);
                Some(done)
            }
        }
    }

    /// Leaves nothing behind.
    #[inline]
    pub(crate) fn clear(&mut self) {
        match self {
            Self::Whole(Text::Apart { out, .. } | Text::InPlace(out)) => out.fill(0),
            Self::Segments { out, .. } | Self::SegmentsInPlace(out) => {
                out.iter_mut().for_each(|segment| segment.fill(0));
            }
        }
    }
}

fn total(segments: &[&mut [u8]]) -> usize {
    segments.iter().map(|segment| segment.len()).sum()
}

/// Segments in one piece.
type Gathered = ArrayVec<u8, MAX_SEGMENTED>;

/// `None` when they are longer than any.
pub(crate) fn gather<'a>(segments: impl IntoIterator<Item = &'a [u8]>) -> Option<Gathered> {
    let mut gathered = Gathered::new();
    for segment in segments {
        gathered.try_extend_from_slice(segment).ok()?;
    }
    Some(gathered)
}

/// Appends zeros up to a length.
fn fill(gathered: &mut Gathered, length: usize) -> Option<()> {
    while gathered.len() < length {
        gathered.try_push(0).ok()?;
    }
    Some(())
}

/// The start of what was gathered, as far as there is room.
fn scatter(mut gathered: &[u8], segments: &mut [&mut [u8]]) {
    for segment in segments {
        let Some((here, rest)) = gathered.split_at_checked(segment.len()) else {
            return;
        };
        segment.copy_from_slice(here);
        gathered = rest;
    }
}
