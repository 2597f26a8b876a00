//! Integrity without encryption, for AH (RFC 4302): keys, and jobs over segments, so that what a router may change on the way
//! is given as zeros without a copy (3.3.3.1).

use crate::{
    AesKey, Algorithm, EngineKind, Hmac, Iv, IvForm, JobError, KeyError, ReceivedIv, Verdict,
    algorithm::ICV_LEN,
    buffers::MAX_SEGMENTED,
    engine::{Cipher, Mac, gmac},
    iv,
    key::NONCE_LEN,
};
use core::fmt;
use zeroize::Zeroize;

/// An integrity algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// An HMAC.
    Hmac(Hmac),
    /// AES-GMAC (RFC 4543 4).
    AesGmac(AesKey),
}

impl Integrity {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Hmac(Hmac::Sha2_256),
        Self::Hmac(Hmac::Sha2_384),
        Self::Hmac(Hmac::Sha2_512),
        Self::Hmac(Hmac::Sha1),
        Self::AesGmac(AesKey::Bits128),
        Self::AesGmac(AesKey::Bits192),
        Self::AesGmac(AesKey::Bits256),
    ];

    /// Whether it is on unless the operator says otherwise: RFC 8221 6 says MUST or SHOULD of it, and not MUST-.
    pub const fn is_default(self) -> bool {
        matches!(self, Self::Hmac(Hmac::Sha2_256 | Hmac::Sha2_512))
    }

    /// The length of the key material that IKE derives for one direction: the key, and for GMAC a salt (RFC 4543 5.4).
    #[inline]
    pub const fn key_material_len(self) -> usize {
        match self {
            Self::Hmac(mac) => mac.key_len(),
            Self::AesGmac(key) => key.bytes() + 4,
        }
    }

    /// The length of the IV that each packet carries before the ICV (RFC 4543 4).
    #[inline]
    pub const fn iv_len(self) -> usize {
        match self {
            Self::Hmac(_) => 0,
            Self::AesGmac(_) => 8,
        }
    }

    /// The length of the integrity check value.
    #[inline]
    pub const fn icv_len(self) -> usize {
        match self {
            Self::Hmac(mac) => mac.icv_len(),
            Self::AesGmac(_) => ICV_LEN,
        }
    }

    /// The transform of ESP whose keys and whose engines are the same.
    const fn as_esp(self) -> Algorithm {
        match self {
            Self::Hmac(mac) => Algorithm::EncryptThenMac(crate::Encryption::Null, mac),
            Self::AesGmac(key) => Algorithm::AesGmac(key),
        }
    }
}

/// What computes.
enum Keyed {
    Hmac(Mac),
    Gmac(Cipher, [u8; 4]),
}

/// The key of an SA of AH, in either direction. It is wiped when dropped, and shows nothing secret.
pub struct IntegrityKey {
    keyed: Keyed,
    integrity: Integrity,
}

const _: () = assert!(size_of::<IntegrityKey>() <= 64);

impl IntegrityKey {
    /// The key of an engine, or of the fastest that does the algorithm if that one does not.
    ///
    /// # Errors
    ///
    /// The length is not the algorithm's.
    pub fn new(
        engine: EngineKind,
        integrity: Integrity,
        key_material: &[u8],
    ) -> Result<Self, KeyError> {
        let algorithm = integrity.as_esp();
        let engine = engine.or_best_for(algorithm);
        let expected = integrity.key_material_len();
        let found = key_material.len();
        if found != expected {
            return Err(KeyError::Length {
                algorithm,
                expected,
                found,
            });
        }
        let keyed = match integrity {
            Integrity::Hmac(mac) => Mac::new(engine, mac, key_material).map(Keyed::Hmac),
            Integrity::AesGmac(aes) => key_material.split_last_chunk().and_then(|(key, salt)| {
                let gcm = Algorithm::AesGcm(aes, IvForm::Explicit);
                Some(Keyed::Gmac(Cipher::new(engine, gcm, key, *salt)?, *salt))
            }),
        };
        Ok(Self {
            keyed: keyed.ok_or(KeyError::Refused { engine, algorithm })?,
            integrity,
        })
    }

    /// What it is for.
    #[inline]
    pub fn integrity(&self) -> Integrity {
        self.integrity
    }

    /// Whose it is.
    #[inline]
    pub fn engine(&self) -> EngineKind {
        match &self.keyed {
            Keyed::Hmac(mac) => mac.engine(),
            Keyed::Gmac(cipher, _) => cipher.engine(),
        }
    }
}

impl Drop for IntegrityKey {
    /// Cipher and HMAC wipe themselves.
    fn drop(&mut self) {
        if let Keyed::Gmac(_, salt) = &mut self.keyed {
            salt.zeroize();
        }
    }
}

impl fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntegrityKey")
            .field("integrity", &self.integrity)
            .field("engine", &self.engine())
            .finish_non_exhaustive()
    }
}

#[inline]
fn nonce(salt: &[u8; 4], iv: &iv::Bytes) -> [u8; NONCE_LEN] {
    let ([a, b, c, d], [e, f, g, h, i, j, k, l]) = (*salt, iv.number());
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

/// A packet whose ICV is to be computed.
pub struct ComputeJob<'a> {
    key: &'a IntegrityKey,
    iv: Iv,
    segments: &'a [&'a [u8]],
    icv: &'a mut [u8],
}

impl<'a> ComputeJob<'a> {
    /// Computes the ICV of all segments, one after the other, into `icv`. The IV is the sequence number's, for an HMAC too.
    ///
    /// # Errors
    ///
    /// One of the lengths, or the IV is of another kind.
    pub fn new(
        key: &'a IntegrityKey,
        iv: Iv,
        segments: &'a [&'a [u8]],
        icv: &'a mut [u8],
    ) -> Result<Self, JobError> {
        check(key.integrity, iv.bytes(), segments, icv.len())?;
        Ok(Self {
            key,
            iv,
            segments,
            icv,
        })
    }

    fn run(&mut self) {
        let segments = self.segments.iter().copied();
        let computed = match &self.key.keyed {
            Keyed::Hmac(mac) => mac.compute(segments, self.icv),
            Keyed::Gmac(cipher, salt) => self
                .icv
                .as_mut_array()
                .and_then(|icv| gmac::compute(cipher, nonce(salt, self.iv.bytes()), segments, icv)),
        };
        // The lengths are right, so no engine has a reason to refuse.
        if computed.is_none() {
            self.icv.fill(0);
        }
    }
}

/// A packet whose ICV is to be verified.
pub struct VerifyJob<'a> {
    key: &'a IntegrityKey,
    iv: ReceivedIv,
    segments: &'a [&'a [u8]],
    icv: &'a [u8],
}

impl<'a> VerifyJob<'a> {
    /// Compares the ICV of all segments, one after the other, with `icv`, in constant time. The IV is the one that the packet
    /// carries, or for an HMAC its sequence number.
    ///
    /// # Errors
    ///
    /// One of the lengths, or the IV is of another kind.
    pub fn new(
        key: &'a IntegrityKey,
        iv: impl Into<ReceivedIv>,
        segments: &'a [&'a [u8]],
        icv: &'a [u8],
    ) -> Result<Self, JobError> {
        let iv = iv.into();
        check(key.integrity, iv.bytes(), segments, icv.len())?;
        Ok(Self {
            key,
            iv,
            segments,
            icv,
        })
    }

    fn run(&self) -> Verdict {
        let segments = self.segments.iter().copied();
        let verified = match &self.key.keyed {
            Keyed::Hmac(mac) => mac.verify(segments, self.icv),
            Keyed::Gmac(cipher, salt) => self
                .icv
                .as_array()
                .and_then(|icv| gmac::verify(cipher, nonce(salt, self.iv.bytes()), segments, icv)),
        };
        match verified {
            Some(()) => Verdict::Authentic,
            None => Verdict::Forged,
        }
    }
}

fn check(
    integrity: Integrity,
    iv: &iv::Bytes,
    segments: &[&[u8]],
    icv: usize,
) -> Result<(), JobError> {
    let algorithm = integrity.as_esp();
    if !iv.fits(algorithm) {
        return Err(JobError::WrongIv { algorithm });
    }
    let expected = integrity.icv_len();
    if icv != expected {
        return Err(JobError::OutLength {
            expected,
            found: icv,
        });
    }
    let found = segments.iter().map(|segment| segment.len()).sum();
    if found > MAX_SEGMENTED {
        return Err(JobError::TooLong {
            found,
            most: MAX_SEGMENTED,
        });
    }
    Ok(())
}

/// Computes all ICVs. Cannot fail.
pub fn compute_batch(jobs: &mut [ComputeJob<'_>]) {
    jobs.iter_mut().for_each(ComputeJob::run);
}

/// Verifies all and tells of each, in order, whether it is authentic. A verdict without a job is [`Verdict::Forged`].
pub fn verify_batch(jobs: &[VerifyJob<'_>], verdicts: &mut [Verdict]) {
    verdicts.fill(Verdict::Forged);
    for (job, verdict) in jobs.iter().zip(verdicts) {
        *verdict = job.run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IvGenerator;

    #[test]
    fn wrong_lengths_and_ivs_are_refused_by_name() {
        let integrity = Integrity::Hmac(Hmac::Sha2_256);
        let new = |length| IntegrityKey::new(EngineKind::Portable, integrity, &vec![1; length]);
        assert!(matches!(
            new(31),
            Err(KeyError::Length {
                expected: 32,
                found: 31,
                ..
            })
        ));
        let key = new(32).unwrap();
        let number = Iv::from_sequence(1);
        let error = ComputeJob::new(&key, number, &[], &mut [0; 12]).err();
        let expected = JobError::OutLength {
            expected: 16,
            found: 12,
        };
        assert_eq!(error, Some(expected));
        let drawn = IvGenerator::new([1; 32]).generate();
        let error = ComputeJob::new(&key, drawn, &[], &mut [0; 16]).err();
        let algorithm = integrity.as_esp();
        assert_eq!(error, Some(JobError::WrongIv { algorithm }));
        let long = [0; MAX_SEGMENTED];
        let error = VerifyJob::new(&key, [0; 8], &[&long, &[0]], &[0; 16]).err();
        let expected = JobError::TooLong {
            found: MAX_SEGMENTED + 1,
            most: MAX_SEGMENTED,
        };
        assert_eq!(error, Some(expected));
        let shown = "IntegrityKey { integrity: Hmac(Sha2_256), engine: Portable, .. }";
        assert_eq!(format!("{key:?}"), shown);
    }
}
