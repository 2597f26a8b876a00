//! HMAC (RFC 2104), truncated: both padded keys are hashed when the key is built, and what a packet needs starts from there.

use super::EngineKind;
use crate::Hmac;
use aws_lc_rs::{constant_time, hmac as aws_lc};
use hmac::{KeyInit, Mac as _};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

/// A keyed HMAC of one of the engines, which wipes itself.
pub(crate) enum Mac {
    Sha1(Box<hmac::Hmac<Sha1>>),
    Sha256(Box<hmac::Hmac<Sha256>>),
    Sha384(Box<hmac::Hmac<Sha384>>),
    Sha512(Box<hmac::Hmac<Sha512>>),
    AwsLc(Box<aws_lc::Key>),
}

impl Mac {
    /// `None` when the engine does not do it.
    pub(crate) fn new(engine: EngineKind, mac: Hmac, key: &[u8]) -> Option<Self> {
        match (engine, mac) {
            (EngineKind::Portable, Hmac::Sha1) => keyed(key).map(Self::Sha1),
            (EngineKind::Portable, Hmac::Sha2_256) => keyed(key).map(Self::Sha256),
            (EngineKind::Portable, Hmac::Sha2_384) => keyed(key).map(Self::Sha384),
            (EngineKind::Portable, Hmac::Sha2_512) => keyed(key).map(Self::Sha512),
            (EngineKind::AwsLc, _) => {
                let key = aws_lc::Key::new(aws_lc_algorithm(mac), key);
                Some(Self::AwsLc(Box::new(key)))
            }
            _ => None,
        }
    }

    pub(crate) const fn engine(&self) -> EngineKind {
        match self {
            Self::AwsLc(_) => EngineKind::AwsLc,
            _ => EngineKind::Portable,
        }
    }

    /// Fills `icv` with the start of the HMAC of all parts; `None` when it is longer.
    pub(crate) fn compute<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        icv: &mut [u8],
    ) -> Option<()> {
        match self {
            Self::Sha1(keyed) => truncate(&hash(&**keyed, parts).finalize().into_bytes(), icv),
            Self::Sha256(keyed) => truncate(&hash(&**keyed, parts).finalize().into_bytes(), icv),
            Self::Sha384(keyed) => truncate(&hash(&**keyed, parts).finalize().into_bytes(), icv),
            Self::Sha512(keyed) => truncate(&hash(&**keyed, parts).finalize().into_bytes(), icv),
            Self::AwsLc(key) => truncate(sign(key, parts).as_ref(), icv),
        }
    }

    /// Whether the HMAC of all parts begins with `icv`, in constant time.
    pub(crate) fn verify<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        icv: &[u8],
    ) -> Option<()> {
        match self {
            Self::Sha1(keyed) => hash(&**keyed, parts).verify_truncated_left(icv).ok(),
            Self::Sha256(keyed) => hash(&**keyed, parts).verify_truncated_left(icv).ok(),
            Self::Sha384(keyed) => hash(&**keyed, parts).verify_truncated_left(icv).ok(),
            Self::Sha512(keyed) => hash(&**keyed, parts).verify_truncated_left(icv).ok(),
            Self::AwsLc(key) => {
                let tag = sign(key, parts);
                let expected = tag.as_ref().get(..icv.len())?;
                constant_time::verify_slices_are_equal(expected, icv).ok()
            }
        }
    }
}

fn keyed<M: KeyInit>(key: &[u8]) -> Option<Box<M>> {
    M::new_from_slice(key).ok().map(Box::new)
}

fn hash<'a, M: hmac::Mac + Clone>(keyed: &M, parts: impl Iterator<Item = &'a [u8]>) -> M {
    let mut hash = keyed.clone();
    for part in parts {
        hash.update(part);
    }
    hash
}

const fn aws_lc_algorithm(mac: Hmac) -> aws_lc::Algorithm {
    match mac {
        Hmac::Sha1 => aws_lc::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Hmac::Sha2_256 => aws_lc::HMAC_SHA256,
        Hmac::Sha2_384 => aws_lc::HMAC_SHA384,
        Hmac::Sha2_512 => aws_lc::HMAC_SHA512,
    }
}

fn sign<'a>(key: &aws_lc::Key, parts: impl Iterator<Item = &'a [u8]>) -> aws_lc::Tag {
    let mut context = aws_lc::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    context.sign()
}

fn truncate(hash: &[u8], icv: &mut [u8]) -> Option<()> {
    icv.copy_from_slice(hash.get(..icv.len())?);
    Some(())
}
