//! What algorithms are called.

use crate::{Algorithm, Encryption, Hmac, Integrity, IvForm};
use core::{fmt, str::FromStr};

/// There is no algorithm of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no algorithm is called {name:?}; the nearest name is {nearest:?}")]
pub struct UnknownAlgorithm {
    /// What was asked for.
    pub name: String,
    /// What was perhaps meant.
    pub nearest: String,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AesGcm(key, form) => write!(f, "aes-{}-gcm-16{form}", key.bits()),
            Self::ChaCha20Poly1305(form) => write!(f, "chacha20-poly1305{form}"),
            Self::AesCcm(key, form) => write!(f, "aes-{}-ccm-16{form}", key.bits()),
            Self::AesGmac(key) => write!(f, "aes-{}-gmac", key.bits()),
            Self::EncryptThenMac(encryption, mac) => write!(f, "{encryption}-{mac}"),
        }
    }
}

impl fmt::Display for IvForm {
    /// As the end of an algorithm's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Explicit => "",
            Self::Implicit => "-iiv",
        })
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AesCbc(key) => write!(f, "aes-{}-cbc", key.bits()),
            Self::Null => f.write_str("null"),
        }
    }
}

impl fmt::Display for Hmac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha2_256 => "hmac-sha2-256-128",
            Self::Sha2_384 => "hmac-sha2-384-192",
            Self::Sha2_512 => "hmac-sha2-512-256",
            Self::Sha1 => "hmac-sha1-96",
        })
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hmac(mac) => write!(f, "{mac}"),
            Self::AesGmac(key) => write!(f, "aes-{}-gmac", key.bits()),
        }
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        find(name, &Self::ALL)
    }
}

impl FromStr for Integrity {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        find(name, &Self::ALL)
    }
}

/// The one of this name among all that there are.
fn find<T: Copy + fmt::Display>(name: &str, all: &[T]) -> Result<T, UnknownAlgorithm> {
    let found = all.iter().find(|algorithm| algorithm.to_string() == name);
    found.copied().ok_or_else(|| UnknownAlgorithm {
        name: name.into(),
        nearest: all
            .iter()
            .map(T::to_string)
            .min_by_key(|known| strsim::damerau_levenshtein(known, name))
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
        for integrity in Integrity::ALL {
            assert_eq!(integrity.to_string().parse(), Ok(integrity));
        }
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        let error = "aes-128-cbc-hmac-sha256-128"
            .parse::<Algorithm>()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no algorithm is called \"aes-128-cbc-hmac-sha256-128\"; the nearest name is \
             \"aes-128-cbc-hmac-sha2-256-128\""
        );
        let error = "hmac-sha1".parse::<Integrity>().unwrap_err();
        assert_eq!(error.nearest, "hmac-sha1-96");
    }
}
