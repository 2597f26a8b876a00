//! Signature schemes of IKE: their AlgorithmIdentifiers (RFC 7427 appendix A, RFC 8420), their
//! hashes, and the algorithms that check them.

use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::aws_lc_rs as algorithms;

use crate::certificate::PublicKeyKind;

/// Hash algorithms of IKE (RFC 7427 7, RFC 8420 2).
pub mod hash {
    /// SHA2-256.
    pub const SHA2_256: u16 = 2;
    /// SHA2-384.
    pub const SHA2_384: u16 = 3;
    /// SHA2-512.
    pub const SHA2_512: u16 = 4;
    /// None: the message itself is signed, as Ed25519 does.
    pub const IDENTITY: u16 = 5;

    /// All that are taken here. SHA-1 (1) is not.
    pub const ALL: [u16; 4] = [SHA2_256, SHA2_384, SHA2_512, IDENTITY];
}

/// How an RSA key signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RsaPadding {
    /// RSASSA-PSS, which RFC 8247 4.2 demands.
    #[default]
    Pss,
    /// RSASSA-PKCS1-v1_5, for peers that know nothing else.
    Pkcs1,
}

/// Declares the schemes: variant, name, hash, AlgorithmIdentifier.
macro_rules! schemes {
    ($($(#[$meta:meta])* $variant:ident = $name:expr, $hash:expr, $der:expr;)*) => {
        /// How something is signed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Scheme { $($(#[$meta])* $variant,)* }

        impl Scheme {
            /// Every scheme.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its hash, by the number that RFC 7427 7 gives it.
            pub const fn hash(self) -> u16 {
                match self { $(Self::$variant => $hash,)* }
            }

            /// Its AlgorithmIdentifier as it is written (RFC 7427 appendix A).
            pub const fn identifier(self) -> &'static [u8] {
                match self { $(Self::$variant => $der,)* }
            }
        }
    };
}

/// sha256WithRSAEncryption and its siblings differ in one octet (RFC 7427 A.1).
macro_rules! rsa_pkcs1 {
    ($last:expr) => {
        &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, $last, 0x05,
            0x00,
        ]
    };
}

/// RSASSA-PSS with one hash and a salt of its length (RFC 7427 A.4).
macro_rules! rsa_pss {
    ($hash:expr, $salt:expr) => {
        &[
            0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30,
            0x34, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
            0x02, $hash, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
            0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65,
            0x03, 0x04, 0x02, $hash, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, $salt,
        ]
    };
}

/// ecdsa-with-SHA256 and its siblings (RFC 7427 A.3).
macro_rules! ecdsa {
    ($last:expr) => {
        &[
            0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, $last,
        ]
    };
}

schemes! {
    /// RSASSA-PSS with SHA2-256.
    RsaPssSha256 = "RSASSA-PSS with SHA-256", hash::SHA2_256, rsa_pss!(1, 32);
    /// RSASSA-PSS with SHA2-384.
    RsaPssSha384 = "RSASSA-PSS with SHA-384", hash::SHA2_384, rsa_pss!(2, 48);
    /// RSASSA-PSS with SHA2-512.
    RsaPssSha512 = "RSASSA-PSS with SHA-512", hash::SHA2_512, rsa_pss!(3, 64);
    /// RSASSA-PKCS1-v1_5 with SHA2-256.
    RsaPkcs1Sha256 = "RSA PKCS#1 v1.5 with SHA-256", hash::SHA2_256, rsa_pkcs1!(0x0b);
    /// RSASSA-PKCS1-v1_5 with SHA2-384.
    RsaPkcs1Sha384 = "RSA PKCS#1 v1.5 with SHA-384", hash::SHA2_384, rsa_pkcs1!(0x0c);
    /// RSASSA-PKCS1-v1_5 with SHA2-512.
    RsaPkcs1Sha512 = "RSA PKCS#1 v1.5 with SHA-512", hash::SHA2_512, rsa_pkcs1!(0x0d);
    /// ECDSA with SHA2-256.
    EcdsaSha256 = "ECDSA with SHA-256", hash::SHA2_256, ecdsa!(2);
    /// ECDSA with SHA2-384.
    EcdsaSha384 = "ECDSA with SHA-384", hash::SHA2_384, ecdsa!(3);
    /// ECDSA with SHA2-512.
    EcdsaSha512 = "ECDSA with SHA-512", hash::SHA2_512, ecdsa!(4);
    /// Ed25519 (RFC 8420).
    Ed25519 = "Ed25519", hash::IDENTITY, &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
}

impl Scheme {
    /// The scheme with this AlgorithmIdentifier, if it is taken here.
    pub fn from_identifier(der: &[u8]) -> Option<Self> {
        let known = Self::ALL.iter().copied().find(|s| s.identifier() == der);
        // Some leave the NULL of RSA PKCS#1 v1.5 out.
        known.or_else(|| {
            let (head, oid) = der.split_first_chunk::<2>()?;
            let pkcs1 = [
                Self::RsaPkcs1Sha256,
                Self::RsaPkcs1Sha384,
                Self::RsaPkcs1Sha512,
            ];
            let same = |s: &Self| s.identifier().get(2..13) == Some(oid) && *head == [0x30, 11];
            pkcs1.into_iter().find(same)
        })
    }

    /// What checks its signatures by a key of this kind; `None` where they do not go together.
    pub(crate) fn verifier(
        self,
        key: PublicKeyKind,
    ) -> Option<&'static dyn SignatureVerificationAlgorithm> {
        use PublicKeyKind::{Ed25519, P256, P384, P521, Rsa};
        Some(match (self, key) {
            (Self::RsaPssSha256, Rsa) => algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            (Self::RsaPssSha384, Rsa) => algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
            (Self::RsaPssSha512, Rsa) => algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
            (Self::RsaPkcs1Sha256, Rsa) => algorithms::RSA_PKCS1_2048_8192_SHA256,
            (Self::RsaPkcs1Sha384, Rsa) => algorithms::RSA_PKCS1_2048_8192_SHA384,
            (Self::RsaPkcs1Sha512, Rsa) => algorithms::RSA_PKCS1_2048_8192_SHA512,
            (Self::EcdsaSha256, P256) => algorithms::ECDSA_P256_SHA256,
            (Self::EcdsaSha384, P256) => algorithms::ECDSA_P256_SHA384,
            (Self::EcdsaSha512, P256) => algorithms::ECDSA_P256_SHA512,
            (Self::EcdsaSha256, P384) => algorithms::ECDSA_P384_SHA256,
            (Self::EcdsaSha384, P384) => algorithms::ECDSA_P384_SHA384,
            (Self::EcdsaSha512, P384) => algorithms::ECDSA_P384_SHA512,
            (Self::EcdsaSha256, P521) => algorithms::ECDSA_P521_SHA256,
            (Self::EcdsaSha384, P521) => algorithms::ECDSA_P521_SHA384,
            (Self::EcdsaSha512, P521) => algorithms::ECDSA_P521_SHA512,
            (Self::Ed25519, Ed25519) => algorithms::ED25519,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_tell_schemes_apart() {
        for scheme in Scheme::ALL {
            let der = scheme.identifier();
            assert_eq!(usize::from(der[1]) + 2, der.len(), "{scheme}");
            assert_eq!(Scheme::from_identifier(der), Some(*scheme));
        }
        // sha1WithRSAEncryption and ecdsa-with-SHA1 are nobody's.
        assert_eq!(Scheme::from_identifier(rsa_pkcs1!(0x05)), None);
        let sha1 = [
            0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01,
        ];
        assert_eq!(Scheme::from_identifier(&sha1), None);
        let mut short = Scheme::RsaPkcs1Sha256.identifier()[..13].to_vec();
        short[1] = 11;
        assert_eq!(
            Scheme::from_identifier(&short),
            Some(Scheme::RsaPkcs1Sha256)
        );
        assert!(!hash::ALL.contains(&1));
    }
}
