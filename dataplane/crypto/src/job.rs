//! One packet to seal or to open, with its lengths checked.

#[cfg(target_arch = "x86_64")]
use crate::vaes512;
use crate::{
    AdditionalData, ExplicitIv, OpeningKey, SealingKey, Trailer,
    engine::{Opening, Sealing},
};
use core::fmt;

/// The longest plaintext: IP's longest packet.
pub const MAX_PLAINTEXT: usize = 65_535;

/// Why a job was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The plaintext is longer than any packet.
    #[error(
        "a plaintext of {found} bytes is longer than the {MAX_PLAINTEXT} bytes of the longest packet"
    )]
    TooLong {
        /// How long it is.
        found: usize,
    },
    /// The ciphertext is shorter than the integrity check value.
    #[error("a ciphertext of {found} bytes cannot hold an integrity check value of {icv} bytes")]
    TooShort {
        /// How long it is.
        found: usize,
        /// The length of the ICV.
        icv: usize,
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
pub struct SealJob<'a> {
    key: &'a SealingKey,
    iv: ExplicitIv,
    aad: AdditionalData<'a>,
    plaintext: &'a [u8],
    trailer: Trailer,
    out: &'a mut [u8],
}

impl<'a> SealJob<'a> {
    /// Seals `plaintext` and `trailer` under `key` into `out`, which takes the ciphertext and the ICV: exactly as long as
    /// all three. The IV is the caller's to write.
    ///
    /// # Errors
    ///
    /// One of the lengths; the IV is spent.
    #[inline]
    pub fn new(
        key: &'a SealingKey,
        iv: ExplicitIv,
        aad: impl Into<AdditionalData<'a>>,
        plaintext: &'a [u8],
        trailer: Trailer,
        out: &'a mut [u8],
    ) -> Result<Self, JobError> {
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(JobError::TooLong {
                found: plaintext.len(),
            });
        }
        let expected = plaintext.len() + trailer.len() + key.algorithm().icv_len();
        if out.len() != expected {
            return Err(JobError::OutLength {
                expected,
                found: out.len(),
            });
        }
        Ok(Self {
            key,
            iv,
            aad: aad.into(),
            plaintext,
            trailer,
            out,
        })
    }

    /// Does it.
    #[inline]
    pub(crate) fn run(&mut self) {
        let sealed = self.key.cipher().seal(Sealing {
            nonce: self.key.nonce(self.iv.bytes()),
            aad: self.aad.as_bytes(),
            plaintext: self.plaintext,
            trailer: self.trailer.as_bytes(),
            out: self.out,
        });
        // The lengths are right, so no engine has a reason to refuse. If one did, half a plaintext must not go out.
        if sealed.is_none() {
            self.out.fill(0);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl vaes512::Job for SealJob<'_> {
    const SEAL: bool = true;

    #[inline]
    fn is_ours(&self) -> bool {
        self.key.vaes512().is_some()
    }

    #[inline]
    fn packet(&mut self) -> Option<vaes512::Packet<'_>> {
        let key = self.key.vaes512()?;
        vaes512::Packet::to_seal(
            key,
            self.iv.bytes(),
            &self.aad,
            self.plaintext,
            self.trailer.as_bytes(),
            self.out,
        )
    }
}

impl fmt::Debug for SealJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealJob")
            .field("key", self.key)
            .field("plaintext_len", &self.plaintext.len())
            .finish_non_exhaustive()
    }
}

/// A packet to be opened. Nothing of it shows but lengths.
pub struct OpenJob<'a> {
    key: &'a OpeningKey,
    iv: [u8; 8],
    aad: AdditionalData<'a>,
    ciphertext: &'a [u8],
    out: &'a mut [u8],
}

impl<'a> OpenJob<'a> {
    /// Opens `ciphertext`, its ICV included, under `key` into `out`, which takes the plaintext: exactly as long as the
    /// ciphertext without its ICV.
    ///
    /// # Errors
    ///
    /// One of the lengths.
    #[inline]
    pub fn new(
        key: &'a OpeningKey,
        iv: [u8; 8],
        aad: impl Into<AdditionalData<'a>>,
        ciphertext: &'a [u8],
        out: &'a mut [u8],
    ) -> Result<Self, JobError> {
        let icv = key.algorithm().icv_len();
        let found = ciphertext.len();
        let expected = found
            .checked_sub(icv)
            .ok_or(JobError::TooShort { found, icv })?;
        if expected > MAX_PLAINTEXT + crate::MAX_TRAILER {
            return Err(JobError::TooLong { found: expected });
        }
        if out.len() != expected {
            return Err(JobError::OutLength {
                expected,
                found: out.len(),
            });
        }
        Ok(Self {
            key,
            iv,
            aad: aad.into(),
            ciphertext,
            out,
        })
    }

    /// Does it.
    #[inline]
    pub(crate) fn run(&mut self) -> Verdict {
        let opened = self.key.cipher().open(Opening {
            nonce: self.key.nonce(self.iv),
            aad: self.aad.as_bytes(),
            ciphertext: self.ciphertext,
            out: self.out,
        });
        match opened {
            Some(()) => Verdict::Authentic,
            None => {
                self.refuse();
                Verdict::Forged
            }
        }
    }

    /// Leaves nothing behind.
    #[inline]
    pub(crate) fn refuse(&mut self) {
        self.out.fill(0);
    }
}

#[cfg(target_arch = "x86_64")]
impl vaes512::Job for OpenJob<'_> {
    const SEAL: bool = false;

    #[inline]
    fn is_ours(&self) -> bool {
        self.key.vaes512().is_some()
    }

    #[inline]
    fn packet(&mut self) -> Option<vaes512::Packet<'_>> {
        let key = self.key.vaes512()?;
        vaes512::Packet::to_open(key, self.iv, &self.aad, self.ciphertext, self.out)
    }
}

impl fmt::Debug for OpenJob<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenJob")
            .field("key", self.key)
            .field("ciphertext_len", &self.ciphertext.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Aad, Algorithm, EngineKind};

    #[test]
    fn wrong_lengths_are_refused_by_name() {
        let (engine, algorithm) = (EngineKind::best(), Algorithm::Aes128Gcm16);
        let key = SealingKey::new(engine, algorithm, &[1; 20]).unwrap();
        let aad = Aad::plain(1, 1);
        let iv = || ExplicitIv::from_sequence(1);
        let trailer = Trailer::for_payload(10, 4);
        for found in [0, 27, 29] {
            let mut out = vec![0; found];
            let error = SealJob::new(&key, iv(), aad, &[0; 10], trailer, &mut out).unwrap_err();
            assert_eq!(
                error,
                JobError::OutLength {
                    expected: 28,
                    found
                }
            );
        }
        let long = vec![0; MAX_PLAINTEXT + 1];
        let error = SealJob::new(&key, iv(), aad, &long, trailer, &mut []).unwrap_err();
        assert_eq!(error, JobError::TooLong { found: 65_536 });

        let key = OpeningKey::new(engine, algorithm, &[1; 20]).unwrap();
        let error = OpenJob::new(&key, [0; 8], aad, &[0; 15], &mut []).unwrap_err();
        assert_eq!(error, JobError::TooShort { found: 15, icv: 16 });
        let error = OpenJob::new(&key, [0; 8], aad, &[0; 20], &mut [0; 5]).unwrap_err();
        assert_eq!(
            error,
            JobError::OutLength {
                expected: 4,
                found: 5
            }
        );
        let error = OpenJob::new(&key, [0; 8], aad, &vec![0; 70_000], &mut []).unwrap_err();
        assert_eq!(error, JobError::TooLong { found: 69_984 });
    }
}
