//! Private keys: read from PKCS#8, PKCS#1 or SEC 1, and what they sign.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
    RsaSignatureEncoding,
};

use crate::certificate::{Certificate, PublicKeyKind};
use crate::pem::{self, KeyFormat, PemError};
use crate::scheme::{RsaPadding, Scheme};

/// Octets that are no private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The PEM cannot be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// It is none of RSA (2048 to 8192 bits), ECDSA P-256, P-384, P-521 and Ed25519.
    #[error(
        "it is no RSA key of 2048 bits or more, and none of ECDSA P-256, P-384, P-521 or Ed25519"
    )]
    Unknown,
}

/// Why a signature was not made, or is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The scheme does not go with the key.
    #[error("the signature scheme does not go with the key")]
    Scheme,
    /// It does not verify.
    #[error("the signature does not verify")]
    Wrong,
    /// It could not be made.
    #[error("the signature could not be made")]
    Failed,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>, PublicKeyKind),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A private key. Nothing of it is ever printed; it is wiped when dropped.
pub struct PrivateKey(Pair);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.kind())
    }
}

type Curve = (&'static EcdsaSigningAlgorithm, PublicKeyKind);

const CURVES: [Curve; 3] = [
    (&ECDSA_P256_SHA256_ASN1_SIGNING, PublicKeyKind::P256),
    (&ECDSA_P384_SHA384_ASN1_SIGNING, PublicKeyKind::P384),
    (&ECDSA_P521_SHA512_ASN1_SIGNING, PublicKeyKind::P521),
];

/// RFC 8247 4.1.1: "key lengths of less than 2048 bits (...) MUST NOT" be used.
const LEAST_RSA_OCTETS: usize = 256;

impl PrivateKey {
    /// Reads the first private key of a PEM text: PKCS#8, PKCS#1 or SEC 1, not encrypted.
    ///
    /// # Errors
    ///
    /// There is none, or none that can be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let (format, der) = pem::private_key(text)?;
        let rsa = |pair: RsaKeyPair| {
            (pair.public_modulus_len() >= LEAST_RSA_OCTETS).then(|| Pair::Rsa(Box::new(pair)))
        };
        let pair = match format {
            KeyFormat::Pkcs8 => RsaKeyPair::from_pkcs8(&der)
                .ok()
                .and_then(rsa)
                .or_else(|| ecdsa(|curve| EcdsaKeyPair::from_pkcs8(curve, &der).ok()))
                .or_else(|| {
                    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()?;
                    Some(Pair::Ed25519(Box::new(pair)))
                }),
            KeyFormat::Pkcs1 => RsaKeyPair::from_der(&der).ok().and_then(rsa),
            KeyFormat::Sec1 => ecdsa(|curve| EcdsaKeyPair::from_private_key_der(curve, &der).ok()),
        };
        pair.map(Self).ok_or(KeyError::Unknown)
    }

    /// What kind of key it is.
    pub const fn kind(&self) -> PublicKeyKind {
        match &self.0 {
            Pair::Rsa(_) => PublicKeyKind::Rsa,
            Pair::Ecdsa(_, kind) => *kind,
            Pair::Ed25519(_) => PublicKeyKind::Ed25519,
        }
    }

    /// The octets of its public key.
    pub(crate) fn public_key(&self) -> &[u8] {
        match &self.0 {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ecdsa(pair, _) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    /// Whether the certificate's key is the public half of this one.
    pub fn belongs_to(&self, certificate: &Certificate) -> bool {
        certificate.key_kind() == Some(self.kind()) && certificate.public_key() == self.public_key()
    }

    /// The scheme by which it signs for a peer that takes these hashes, the strongest that suits the
    /// key; `None` where the peer takes none.
    pub fn scheme(&self, hashes: &[u16], padding: RsaPadding) -> Option<Scheme> {
        let schemes: &[Scheme] = match (self.kind(), padding) {
            (PublicKeyKind::Rsa, RsaPadding::Pss) => &[
                Scheme::RsaPssSha256,
                Scheme::RsaPssSha384,
                Scheme::RsaPssSha512,
            ],
            (PublicKeyKind::Rsa, RsaPadding::Pkcs1) => &[
                Scheme::RsaPkcs1Sha256,
                Scheme::RsaPkcs1Sha384,
                Scheme::RsaPkcs1Sha512,
            ],
            (PublicKeyKind::P256, _) => &[Scheme::EcdsaSha256],
            (PublicKeyKind::P384, _) => &[Scheme::EcdsaSha384],
            (PublicKeyKind::P521, _) => &[Scheme::EcdsaSha512],
            (PublicKeyKind::Ed25519, _) => &[Scheme::Ed25519],
        };
        let taken = |scheme: &&Scheme| hashes.contains(&scheme.hash());
        schemes.iter().find(taken).copied()
    }

    /// Signs a message.
    ///
    /// # Errors
    ///
    /// The scheme does not go with the key, or signing failed.
    pub fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let failed = |_| SignatureError::Failed;
        let rng = SystemRandom::new();
        match (&self.0, scheme, rsa_encoding(scheme)) {
            (Pair::Rsa(pair), _, Some(encoding)) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &rng, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            (Pair::Ecdsa(pair, PublicKeyKind::P256), Scheme::EcdsaSha256, _)
            | (Pair::Ecdsa(pair, PublicKeyKind::P384), Scheme::EcdsaSha384, _)
            | (Pair::Ecdsa(pair, PublicKeyKind::P521), Scheme::EcdsaSha512, _) => {
                let signature = pair.sign(&rng, message).map_err(failed)?;
                Ok(signature.as_ref().to_vec())
            }
            (Pair::Ed25519(pair), Scheme::Ed25519, _) => Ok(pair.sign(message).as_ref().to_vec()),
            _ => Err(SignatureError::Scheme),
        }
    }
}

fn ecdsa(read: impl Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>) -> Option<Pair> {
    CURVES
        .into_iter()
        .find_map(|(curve, kind)| Some(Pair::Ecdsa(Box::new(read(curve)?), kind)))
}

const fn rsa_encoding(scheme: Scheme) -> Option<&'static RsaSignatureEncoding> {
    Some(match scheme {
        Scheme::RsaPssSha256 => &RSA_PSS_SHA256,
        Scheme::RsaPssSha384 => &RSA_PSS_SHA384,
        Scheme::RsaPssSha512 => &RSA_PSS_SHA512,
        Scheme::RsaPkcs1Sha256 => &RSA_PKCS1_SHA256,
        Scheme::RsaPkcs1Sha384 => &RSA_PKCS1_SHA384,
        Scheme::RsaPkcs1Sha512 => &RSA_PKCS1_SHA512,
        _ => return None,
    })
}
