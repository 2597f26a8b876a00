//! One packet to seal or to open, with its lengths checked.

mod facts;
#[cfg(target_arch = "x86_64")]
mod kernels;

#[cfg(target_arch = "x86_64")]
use crate::vaes512;
use crate::{
    AdditionalData, Algorithm, Iv, OpeningKey, ReceivedIv, SealingKey, Trailer, buffers::Buffers,
    engine::Text,
};
use core::fmt;
use facts::Facts;

/// The longest plaintext: IP's longest packet.
pub const MAX_PLAINTEXT: usize = 65_535;

/// Why a job was not made.
///
/// That a source overlaps a destination without being the same buffer is not among the reasons: the borrow checker says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The text is longer than any packet, or than segments may hold.
    #[error("a text of {found} bytes is longer than the {most} bytes that such a job takes")]
    TooLong {
        /// How long it is.
        found: usize,
        /// The most.
        most: usize,
    },
    /// There is no room for what comes behind the text.
    #[error(
        "a buffer of {found} bytes cannot hold the {behind} bytes of trailer and integrity check value"
    )]
    TooShort {
        /// How long it is.
        found: usize,
        /// The length of the trailer, if there is one to be added, and of the ICV.
        behind: usize,
    },
    /// A cipher in CBC mode takes whole blocks.
    #[error("{algorithm} takes whole blocks of 16 bytes, of which {found} bytes of text are none")]
    NotInBlocks {
        /// Which algorithm.
        algorithm: Algorithm,
        /// The length of plaintext and trailer, or of the ciphertext.
        found: usize,
    },
    /// The IV is of the wrong kind.
    #[error(
        "{algorithm} takes an IV that is {}",
        if algorithm.has_unpredictable_iv() { "drawn, not a sequence number" } else { "a sequence number, not drawn" }
    )]
    WrongIv {
        /// For which algorithm.
        algorithm: Algorithm,
    },
    /// The buffer for the result has another length than the result.
    #[error("the result takes exactly {expected} bytes, the buffer has {found}")]
    OutLength {
        /// The result's length.
        expected: usize,
        /// The buffer's length.
        found: usize,
    },
}

/// Whether a packet is what its sender sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a forged packet leaves zeros where its plaintext would be"]
pub enum Verdict {
    /// It is: the plaintext is in the job's buffer.
    Authentic,
    /// It is not: the job's buffer is all zeros.
    Forged,
}

/// A packet to be sealed. Nothing of it shows but lengths.
pub struct SealJob<'a>(ToSeal<'a>);

/// A packet to be sealed, as those take it that seal it.
#[allow(
    clippy::large_enum_variant,
    reason = "a batch lies in one piece of memory"
)]
enum ToSeal<'a> {
    /// The kernels that most packets are for: they find all they need prepared.
    #[cfg(target_arch = "x86_64")]
    Vaes512(vaes512::Packet<'a>),
    /// All others.
    Other {
        key: &'a SealingKey,
        iv: Iv,
        aad: AdditionalData<'a>,
        trailer: Trailer,
        buffers: Buffers<'a>,
    },
}

impl<'a> SealJob<'a> {
    /// Seals `plaintext` and `trailer` under `key` into `out`, which takes the ciphertext and the ICV: exactly as long as
    /// all three. The IV is the caller's to write.
    ///
    /// # Errors
    ///
    /// One of the lengths; the IV is spent.
    #[inline(always)]
    pub fn new(
        key: &'a SealingKey,
        iv: Iv,
        aad: impl Into<AdditionalData<'a>>,
        plaintext: &'a [u8],
        trailer: Trailer,
        out: &'a mut [u8],
    ) -> Result<Self, JobError> {
        let source = plaintext;
        Self::whole(key, iv, aad, Text::Apart { source, out }, trailer, |job| {
            job
        })
    }

    /// Like [`new`](Self::new), for who makes many: gives the job to `take` instead of returning it, so that it can be made
    /// where it will lie.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and then nothing is taken.
    #[inline(always)]
    pub fn with<R>(
        key: &'a SealingKey,
        iv: Iv,
        aad: impl Into<AdditionalData<'a>>,
        plaintext: &'a [u8],
        trailer: Trailer,
        out: &'a mut [u8],
        take: impl FnOnce(Self) -> R,
    ) -> Result<R, JobError> {
        let source = plaintext;
        Self::whole(key, iv, aad, Text::Apart { source, out }, trailer, take)
    }

    /// The same in one buffer, which begins with the plaintext and has room behind it for the trailer and the ICV, and no
    /// more.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    #[inline(always)]
    pub fn in_place(
        key: &'a SealingKey,
        iv: Iv,
        aad: impl Into<AdditionalData<'a>>,
        buffer: &'a mut [u8],
        trailer: Trailer,
    ) -> Result<Self, JobError> {
        Self::whole(key, iv, aad, Text::InPlace(buffer), trailer, |job| job)
    }

    /// Like [`in_place`](Self::in_place), as [`with`](Self::with).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and then nothing is taken.
    #[inline(always)]
    pub fn in_place_with<R>(
        key: &'a SealingKey,
        iv: Iv,
        aad: impl Into<AdditionalData<'a>>,
        buffer: &'a mut [u8],
        trailer: Trailer,
        take: impl FnOnce(Self) -> R,
    ) -> Result<R, JobError> {
        Self::whole(key, iv, aad, Text::InPlace(buffer), trailer, take)
    }

    /// The same from segments into others, which may be cut elsewhere: a jumbo frame is three. They hold up to
    /// [`MAX_SEGMENTED`](crate::MAX_SEGMENTED) bytes, and are copied on the way.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), of the lengths of all segments together.
    #[inline]
    pub fn in_segments(
        key: &'a SealingKey,
        iv: Iv,
        aad: impl Into<AdditionalData<'a>>,
        source: &'a [&'a [u8]],
        trailer: Trailer,
        out: &'a mut [&'a mut [u8]],
    ) -> Result<Self, JobError> {
        let buffers = Buffers::Segments { source, out };
        Self::other(key, iv, aad.into(), buffers, trailer)
    }

    /// The same [in place](Self::in_place) of [segments](Self::in_segments).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), of the lengths of all segments together.
    #[inline]
    pub fn in_place_of_segments(
        key: &'a SealingKey,
        iv: Iv,
        aad: impl Into<AdditionalData<'a>>,
        segments: &'a mut [&'a mut [u8]],
        trailer: Trailer,
    ) -> Result<Self, JobError> {
        let buffers = Buffers::SegmentsInPlace(segments);
        Self::other(key, iv, aad.into(), buffers, trailer)
    }

    #[inline(always)]
    fn whole<R>(
        key: &'a SealingKey,
        iv: Iv,
        aad: impl Into<AdditionalData<'a>>,
        text: Text<'a>,
        trailer: Trailer,
        take: impl FnOnce(Self) -> R,
    ) -> Result<R, JobError> {
        let aad = aad.into();
        #[cfg(target_arch = "x86_64")]
        let text = match (key.vaes512(), &aad, iv.bytes().is_drawn()) {
            (Some(key), AdditionalData::Esp(aad), false) => {
                let head = vaes512::Head::esp(key, iv.explicit(), aad);
                match vaes512::Packet::to_seal(head, trailer, text) {
                    Ok(packet) => return Ok(take(Self(ToSeal::Vaes512(packet)))),
                    Err(text) => text,
                }
            }
            _ => text,
        };
        Self::other(key, iv, aad, Buffers::Whole(text), trailer.apart()).map(take)
    }

    #[inline(never)]
    fn other(
        key: &'a SealingKey,
        iv: Iv,
        aad: AdditionalData<'a>,
        buffers: Buffers<'a>,
        trailer: Trailer,
    ) -> Result<Self, JobError> {
        Facts::new(key.algorithm(), iv.bytes(), &aad, &buffers).check_seal(trailer.len())?;
        Ok(Self(ToSeal::Other {
            key,
            iv,
            aad,
            trailer,
            buffers,
        }))
    }

    /// Does it, if no kernel takes it with others.
    #[inline]
    pub(crate) fn run(&mut self) {
        let (key, iv, aad, trailer, buffers) = match &mut self.0 {
            #[cfg(target_arch = "x86_64")]
            ToSeal::Vaes512(_) => return,
            ToSeal::Other {
                key,
                iv,
                aad,
                trailer,
                buffers,
            } => (key, iv, aad, trailer, buffers),
        };
        let (_, length) = buffers.lengths();
        let sealed = buffers.with_text(length, |text| {
            key.seal(iv.bytes(), aad, trailer.as_bytes(), text)
        });
        // The lengths are right, so no engine has a reason to refuse. If one did, half a plaintext must not go out.
        if sealed.is_none() {
            buffers.clear();
        }
    }

    /// The bytes of the result.
    fn out_len(&self) -> usize {
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            ToSeal::Vaes512(packet) => packet.len() + crate::algorithm::ICV_LEN,
            ToSeal::Other { buffers, .. } => buffers.lengths().1,
        }
    }
}

impl fmt::Debug for SealJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealJob")
            .field("out_len", &self.out_len())
            .finish_non_exhaustive()
    }
}

/// A packet to be opened. Nothing of it shows but lengths.
pub struct OpenJob<'a>(ToOpen<'a>);

/// A packet to be opened, as those take it that open it.
#[allow(
    clippy::large_enum_variant,
    reason = "a batch lies in one piece of memory"
)]
enum ToOpen<'a> {
    /// The kernels that most packets are for: they find all they need prepared.
    #[cfg(target_arch = "x86_64")]
    Vaes512(vaes512::Packet<'a>),
    /// All others.
    Other {
        key: &'a OpeningKey,
        iv: ReceivedIv,
        aad: AdditionalData<'a>,
        buffers: Buffers<'a>,
    },
}

impl<'a> OpenJob<'a> {
    /// Opens `ciphertext`, its ICV included, under `key` into `out`, which takes the plaintext: exactly as long as the
    /// ciphertext without its ICV. The IV is the one that the packet carries, or if that is implicit (RFC 8750), its
    /// sequence number.
    ///
    /// # Errors
    ///
    /// One of the lengths.
    #[inline(always)]
    pub fn new(
        key: &'a OpeningKey,
        iv: impl Into<ReceivedIv>,
        aad: impl Into<AdditionalData<'a>>,
        ciphertext: &'a [u8],
        out: &'a mut [u8],
    ) -> Result<Self, JobError> {
        let source = ciphertext;
        Self::whole(
            key,
            iv.into(),
            aad.into(),
            Text::Apart { source, out },
            |job| job,
        )
    }

    /// Like [`new`](Self::new), for who makes many: gives the job to `take` instead of returning it, so that it can be made
    /// where it will lie.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and then nothing is taken.
    #[inline(always)]
    pub fn with<R>(
        key: &'a OpeningKey,
        iv: impl Into<ReceivedIv>,
        aad: impl Into<AdditionalData<'a>>,
        ciphertext: &'a [u8],
        out: &'a mut [u8],
        take: impl FnOnce(Self) -> R,
    ) -> Result<R, JobError> {
        let source = ciphertext;
        Self::whole(
            key,
            iv.into(),
            aad.into(),
            Text::Apart { source, out },
            take,
        )
    }

    /// The same in one buffer, of the ciphertext and its ICV: the plaintext is left at its start, and if it is forged,
    /// zeros all over.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    #[inline(always)]
    pub fn in_place(
        key: &'a OpeningKey,
        iv: impl Into<ReceivedIv>,
        aad: impl Into<AdditionalData<'a>>,
        buffer: &'a mut [u8],
    ) -> Result<Self, JobError> {
        Self::whole(key, iv.into(), aad.into(), Text::InPlace(buffer), |job| job)
    }

    /// Like [`in_place`](Self::in_place), as [`with`](Self::with).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and then nothing is taken.
    #[inline(always)]
    pub fn in_place_with<R>(
        key: &'a OpeningKey,
        iv: impl Into<ReceivedIv>,
        aad: impl Into<AdditionalData<'a>>,
        buffer: &'a mut [u8],
        take: impl FnOnce(Self) -> R,
    ) -> Result<R, JobError> {
        Self::whole(key, iv.into(), aad.into(), Text::InPlace(buffer), take)
    }

    /// The same from segments into others, which may be cut elsewhere: a jumbo frame is three. They hold up to
    /// [`MAX_SEGMENTED`](crate::MAX_SEGMENTED) bytes, and are copied on the way.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), of the lengths of all segments together.
    #[inline]
    pub fn in_segments(
        key: &'a OpeningKey,
        iv: impl Into<ReceivedIv>,
        aad: impl Into<AdditionalData<'a>>,
        source: &'a [&'a [u8]],
        out: &'a mut [&'a mut [u8]],
    ) -> Result<Self, JobError> {
        let buffers = Buffers::Segments { source, out };
        Self::other(key, iv.into(), aad.into(), buffers)
    }

    /// The same [in place](Self::in_place) of [segments](Self::in_segments).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), of the lengths of all segments together.
    #[inline]
    pub fn in_place_of_segments(
        key: &'a OpeningKey,
        iv: impl Into<ReceivedIv>,
        aad: impl Into<AdditionalData<'a>>,
        segments: &'a mut [&'a mut [u8]],
    ) -> Result<Self, JobError> {
        let buffers = Buffers::SegmentsInPlace(segments);
        Self::other(key, iv.into(), aad.into(), buffers)
    }

    #[inline(always)]
    fn whole<R>(
        key: &'a OpeningKey,
        iv: ReceivedIv,
        aad: AdditionalData<'a>,
        text: Text<'a>,
        take: impl FnOnce(Self) -> R,
    ) -> Result<R, JobError> {
        #[cfg(target_arch = "x86_64")]
        let text = match (key.vaes512(), &aad, iv.bytes().is_drawn()) {
            (Some(key), AdditionalData::Esp(aad), false) => {
                let head = vaes512::Head::esp(key, iv.bytes().number(), aad);
                match vaes512::Packet::to_open(head, text) {
                    Ok(packet) => return Ok(take(Self(ToOpen::Vaes512(packet)))),
                    Err(text) => text,
                }
            }
            _ => text,
        };
        Self::other(key, iv, aad, Buffers::Whole(text)).map(take)
    }

    #[inline(never)]
    fn other(
        key: &'a OpeningKey,
        iv: ReceivedIv,
        aad: AdditionalData<'a>,
        buffers: Buffers<'a>,
    ) -> Result<Self, JobError> {
        Facts::new(key.algorithm(), iv.bytes(), &aad, &buffers).check_open()?;
        Ok(Self(ToOpen::Other {
            key,
            iv,
            aad,
            buffers,
        }))
    }

    /// Does it, if no kernel takes it with others.
    #[inline]
    pub(crate) fn run(&mut self) -> Verdict {
        let (key, iv, aad, buffers) = match &mut self.0 {
            #[cfg(target_arch = "x86_64")]
            ToOpen::Vaes512(_) => return Verdict::Forged,
            ToOpen::Other {
                key,
                iv,
                aad,
                buffers,
            } => (key, iv, aad, buffers),
        };
        let (length, _) = buffers.lengths();
        match buffers.with_text(length, |text| key.open(iv.bytes(), aad, text)) {
            Some(()) => Verdict::Authentic,
            None => {
                buffers.clear();
                Verdict::Forged
            }
        }
    }

    /// Leaves nothing behind.
    #[inline]
    pub(crate) fn refuse(&mut self) {
        match &mut self.0 {
            #[cfg(target_arch = "x86_64")]
            ToOpen::Vaes512(packet) => packet.clear(),
            ToOpen::Other { buffers, .. } => buffers.clear(),
        }
    }

    /// The bytes of the ciphertext and its ICV.
    fn ciphertext_len(&self) -> usize {
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            ToOpen::Vaes512(packet) => packet.len() + crate::algorithm::ICV_LEN,
            ToOpen::Other { buffers, .. } => buffers.lengths().0,
        }
    }
}

impl fmt::Debug for OpenJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenJob")
            .field("ciphertext_len", &self.ciphertext_len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{facts::too_long, *};
    use crate::{Aad, EngineKind, buffers::MAX_SEGMENTED};

    const ALGORITHM: Algorithm = Algorithm::AES_128_GCM_16;

    fn sealing_key() -> SealingKey {
        SealingKey::new(EngineKind::best_for(ALGORITHM), ALGORITHM, &[1; 20]).unwrap()
    }

    fn opening_key() -> OpeningKey {
        OpeningKey::new(EngineKind::best_for(ALGORITHM), ALGORITHM, &[1; 20]).unwrap()
    }

    #[test]
    fn wrong_lengths_to_seal_are_refused_by_name() {
        let (key, aad, iv) = (sealing_key(), Aad::plain(1, 1), || Iv::from_sequence(1));
        let trailer = Trailer::for_payload(10, 4);
        for found in [0, 27, 29] {
            let mut out = vec![0; found];
            let error = SealJob::new(&key, iv(), aad, &[0; 10], trailer, &mut out).unwrap_err();
            let expected = JobError::OutLength {
                expected: 28,
                found,
            };
            assert_eq!(error, expected);
            let error = SealJob::in_segments(
                &key,
                iv(),
                aad,
                &[&[0; 3], &[0; 7]],
                trailer,
                &mut [&mut out],
            )
            .unwrap_err();
            assert_eq!(error, expected);
        }
        let long = vec![0; MAX_PLAINTEXT + 1];
        let error = SealJob::new(&key, iv(), aad, &long, trailer, &mut []).unwrap_err();
        assert_eq!(error, too_long(65_536, MAX_PLAINTEXT));
        let error = SealJob::in_place(&key, iv(), aad, &mut vec![0; 65_554], trailer).unwrap_err();
        assert_eq!(error, too_long(65_536, MAX_PLAINTEXT));
        let error = SealJob::in_place(&key, iv(), aad, &mut [0; 17], trailer).unwrap_err();
        let expected = JobError::TooShort {
            found: 17,
            behind: 18,
        };
        assert_eq!(error, expected);
        let error = SealJob::in_place_of_segments(
            &key,
            iv(),
            aad,
            &mut [&mut [0; MAX_SEGMENTED], &mut [0]],
            trailer,
        )
        .unwrap_err();
        assert_eq!(error, too_long(MAX_SEGMENTED + 1, MAX_SEGMENTED));
    }

    #[test]
    fn cbc_takes_blocks_and_an_unpredictable_iv() {
        let algorithm = "aes-256-cbc-hmac-sha2-512-256".parse().unwrap();
        let (engine, aad) = (EngineKind::best_for(algorithm), Aad::plain(1, 1));
        let key = SealingKey::new(engine, algorithm, &[1; 96]).unwrap();
        let mut generator = crate::IvGenerator::new([1; 32]);
        let seal = |iv, length| {
            let (plaintext, mut out) = (vec![0; length], vec![0; length + 18 + 32]);
            let trailer = Trailer::new(&[0; 18]).unwrap();
            SealJob::new(&key, iv, aad, &plaintext, trailer, &mut out).err()
        };
        assert_eq!(seal(generator.generate(), 14), None);
        let found = 33;
        let in_pieces = JobError::NotInBlocks { algorithm, found };
        assert_eq!(seal(generator.generate(), 15), Some(in_pieces));
        let error = seal(Iv::from_sequence(1), 14).unwrap();
        assert_eq!(error, JobError::WrongIv { algorithm });
        assert_eq!(
            error.to_string(),
            "aes-256-cbc-hmac-sha2-512-256 takes an IV that is drawn, not a sequence number"
        );

        let key = OpeningKey::new(engine, algorithm, &[1; 96]).unwrap();
        let error = OpenJob::in_place(&key, [0; 16], aad, &mut [0; 65]).unwrap_err();
        assert_eq!(error, in_pieces);
        let error = OpenJob::in_place(&key, [0; 8], aad, &mut [0; 64]).unwrap_err();
        assert_eq!(error, JobError::WrongIv { algorithm });

        let (key, iv) = (sealing_key(), generator.generate());
        let error = SealJob::in_place(&key, iv, aad, &mut [0; 16], Trailer::NONE).unwrap_err();
        let algorithm = ALGORITHM;
        assert_eq!(error, JobError::WrongIv { algorithm });
    }

    /// A result of no bytes may lie where the ICV begins.
    #[test]
    fn what_is_forged_is_cleared_within_its_buffer_only() {
        let (key, aad) = (opening_key(), Aad::plain(1, 1));
        let mut buffer = [7; 16];
        let (out, sealed) = buffer.split_at_mut(0);
        let mut jobs = [OpenJob::new(&key, [0; 8], aad, sealed, out).unwrap()];
        let mut verdicts = [Verdict::Authentic];
        crate::open_batch(&mut jobs, &mut verdicts);
        assert_eq!(verdicts, [Verdict::Forged]);
        assert_eq!(buffer, [7; 16]);
    }

    #[test]
    fn wrong_lengths_to_open_are_refused_by_name() {
        let (key, aad, iv) = (opening_key(), Aad::plain(1, 1), [0; 8]);
        let error = OpenJob::new(&key, iv, aad, &[0; 15], &mut []).unwrap_err();
        let short = JobError::TooShort {
            found: 15,
            behind: 16,
        };
        assert_eq!(error, short);
        let error = OpenJob::in_place(&key, iv, aad, &mut [0; 15]).unwrap_err();
        assert_eq!(error, short);
        let error = OpenJob::new(&key, iv, aad, &[0; 20], &mut [0; 5]).unwrap_err();
        let wrong = JobError::OutLength {
            expected: 4,
            found: 5,
        };
        assert_eq!(error, wrong);
        let error =
            OpenJob::in_segments(&key, iv, aad, &[&[0; 20]], &mut [&mut [0; 2], &mut [0; 3]])
                .unwrap_err();
        assert_eq!(error, wrong);
        let error = OpenJob::new(&key, iv, aad, &vec![0; 70_000], &mut []).unwrap_err();
        assert_eq!(error, too_long(69_984, MAX_PLAINTEXT + crate::MAX_TRAILER));
        let error =
            OpenJob::in_place_of_segments(&key, iv, aad, &mut [&mut [0; MAX_SEGMENTED], &mut [0]])
                .unwrap_err();
        assert_eq!(error, too_long(MAX_SEGMENTED + 1, MAX_SEGMENTED));
    }
}
