//! Cryptographic proposals (RFC 7296 3.3) in strongSwan's keywords: `aes256gcm16-sha384-x25519`.
//!
//! A proposal names one algorithm of each kind; whoever wants alternatives writes several proposals, the preferred
//! first.

use std::fmt;

use crate::problem::{Mistake, nearest};

/// How an IKE SA encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// AES-GCM with a 128-bit key and a 16-byte tag (RFC 5282).
    Aes128Gcm16,
    /// AES-GCM with a 256-bit key and a 16-byte tag (RFC 5282).
    Aes256Gcm16,
    /// AES-CBC with a 128-bit key (RFC 3602); needs an [`Integrity`].
    Aes128Cbc,
    /// AES-CBC with a 256-bit key (RFC 3602); needs an [`Integrity`].
    Aes256Cbc,
}

/// How an IKE SA that encrypts with AES-CBC authenticates (RFC 4868).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// HMAC-SHA-256-128.
    HmacSha256,
    /// HMAC-SHA-384-192.
    HmacSha384,
    /// HMAC-SHA-512-256.
    HmacSha512,
}

/// How an IKE SA derives its keys (RFC 4868).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prf {
    /// PRF-HMAC-SHA-256.
    HmacSha256,
    /// PRF-HMAC-SHA-384.
    HmacSha384,
    /// PRF-HMAC-SHA-512.
    HmacSha512,
}

/// How two peers agree on a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyExchange {
    /// Curve25519 (RFC 8031).
    X25519,
    /// The 256-bit NIST curve (RFC 5903).
    Ecp256,
    /// The 384-bit NIST curve (RFC 5903).
    Ecp384,
    /// The 2048-bit MODP group (RFC 3526), group 14.
    Modp2048,
}

/// How a child SA encrypts and authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aead {
    /// AES-GCM with a 128-bit key and a 16-byte tag (RFC 4106).
    Aes128Gcm16,
    /// AES-GCM with a 256-bit key and a 16-byte tag (RFC 4106).
    Aes256Gcm16,
}

/// What an IKE SA may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IkeProposal {
    /// How it encrypts.
    pub encryption: Encryption,
    /// How it authenticates; `None` for AES-GCM, which does so itself.
    pub integrity: Option<Integrity>,
    /// How it derives its keys.
    pub prf: Prf,
    /// How its peers agree on a secret.
    pub key_exchange: KeyExchange,
}

/// What a child SA may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EspProposal {
    /// How it encrypts and authenticates.
    pub aead: Aead,
    /// A fresh key exchange at every rekey (perfect forward secrecy), if any.
    pub key_exchange: Option<KeyExchange>,
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub esn: bool,
}

/// What one keyword of a proposal stands for.
#[derive(Clone, Copy)]
enum Word {
    Encryption(Encryption),
    /// strongSwan reads a hash as the integrity algorithm, and as the PRF too if none is named.
    Hash(Integrity),
    Prf(Prf),
    KeyExchange(KeyExchange),
    Esn(bool),
}

const WORDS: &[(&str, Word)] = &[
    ("aes128gcm16", Word::Encryption(Encryption::Aes128Gcm16)),
    ("aes256gcm16", Word::Encryption(Encryption::Aes256Gcm16)),
    ("aes128", Word::Encryption(Encryption::Aes128Cbc)),
    ("aes256", Word::Encryption(Encryption::Aes256Cbc)),
    ("sha256", Word::Hash(Integrity::HmacSha256)),
    ("sha384", Word::Hash(Integrity::HmacSha384)),
    ("sha512", Word::Hash(Integrity::HmacSha512)),
    ("prfsha256", Word::Prf(Prf::HmacSha256)),
    ("prfsha384", Word::Prf(Prf::HmacSha384)),
    ("prfsha512", Word::Prf(Prf::HmacSha512)),
    ("x25519", Word::KeyExchange(KeyExchange::X25519)),
    ("ecp256", Word::KeyExchange(KeyExchange::Ecp256)),
    ("ecp384", Word::KeyExchange(KeyExchange::Ecp384)),
    ("modp2048", Word::KeyExchange(KeyExchange::Modp2048)),
    ("esn", Word::Esn(true)),
    ("noesn", Word::Esn(false)),
];

/// Other spellings of the same: strongSwan's, libreswan's and the registry's.
const SYNONYMS: &[(&str, &str)] = &[
    ("aes128gcm", "aes128gcm16"),
    ("aes256gcm", "aes256gcm16"),
    ("aes128gcm128", "aes128gcm16"),
    ("aes256gcm128", "aes256gcm16"),
    ("aes_gcm128", "aes128gcm16"),
    ("aes_gcm256", "aes256gcm16"),
    ("aes128cbc", "aes128"),
    ("aes256cbc", "aes256"),
    ("sha2_256", "sha256"),
    ("sha2_384", "sha384"),
    ("sha2_512", "sha512"),
    ("curve25519", "x25519"),
    ("dh31", "x25519"),
    ("dh19", "ecp256"),
    ("dh20", "ecp384"),
    ("dh14", "modp2048"),
];

fn word(written: &str, allowed: fn(&Word) -> bool) -> Result<Word, Mistake> {
    let lower = written.trim().to_ascii_lowercase();
    let name = SYNONYMS
        .iter()
        .find(|(synonym, _)| *synonym == lower)
        .map_or(lower.as_str(), |(_, name)| name);
    if let Some((_, word)) = WORDS
        .iter()
        .find(|(known, word)| *known == name && allowed(word))
    {
        return Ok(*word);
    }
    let names: Vec<&str> = WORDS
        .iter()
        .filter(|(_, word)| allowed(word))
        .map(|(name, _)| *name)
        .collect();
    let all = names.join(", ");
    let help = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? Known here are {all}"),
        None => format!("known here are {all}"),
    };
    Err(Mistake::new(format!("unknown algorithm `{written}`")).help(help))
}

/// Puts a value into its place in the proposal, once.
fn put<T>(place: &mut Option<T>, value: T, kind: &str, proposal: &str) -> Result<(), Mistake> {
    if place.replace(value).is_some() {
        return Err(Mistake::new(format!("`{proposal}` names two algorithms for {kind}"))
            .help("a proposal names one of each kind; write alternatives as further proposals of the list"));
    }
    Ok(())
}

/// Reads a proposal for IKE.
pub(crate) fn ike(written: &str) -> Result<IkeProposal, Mistake> {
    let (mut encryption, mut hash, mut prf, mut key_exchange) = (None, None, None, None);
    for part in written.split('-') {
        match word(part, |word| !matches!(word, Word::Esn(_)))? {
            Word::Encryption(value) => put(&mut encryption, value, "encryption", written)?,
            Word::Hash(value) => put(&mut hash, value, "integrity", written)?,
            Word::Prf(value) => put(&mut prf, value, "the PRF", written)?,
            Word::KeyExchange(value) => put(&mut key_exchange, value, "the key exchange", written)?,
            Word::Esn(_) => {}
        }
    }
    let lacks = |kind: &str, example: &str| {
        Mistake::new(format!("`{written}` lacks {kind}")).help(format!("write it like `{example}`"))
    };
    let encryption =
        encryption.ok_or_else(|| lacks("its encryption", "aes256gcm16-sha384-x25519"))?;
    let key_exchange =
        key_exchange.ok_or_else(|| lacks("its key exchange", "aes256gcm16-sha384-x25519"))?;
    let prf = prf
        .or(hash.map(Prf::from))
        .ok_or_else(|| lacks("its PRF", "aes256gcm16-prfsha384-x25519"))?;
    let integrity =
        match encryption {
            Encryption::Aes128Gcm16 | Encryption::Aes256Gcm16 => None,
            Encryption::Aes128Cbc | Encryption::Aes256Cbc => Some(hash.ok_or_else(|| {
                lacks("its integrity, which AES-CBC needs", "aes256-sha256-x25519")
            })?),
        };
    Ok(IkeProposal {
        encryption,
        integrity,
        prf,
        key_exchange,
    })
}

/// Reads a proposal for ESP; the second value says whether extended sequence numbers are named.
pub(crate) fn esp(written: &str) -> Result<(Aead, Option<KeyExchange>, Option<bool>), Mistake> {
    let (mut aead, mut key_exchange, mut esn) = (None, None, None);
    for part in written.split('-') {
        let known = |word: &Word| {
            !matches!(
                word,
                Word::Hash(_)
                    | Word::Prf(_)
                    | Word::Encryption(Encryption::Aes128Cbc | Encryption::Aes256Cbc)
            )
        };
        match word(part, known)? {
            Word::Encryption(Encryption::Aes128Gcm16) => {
                put(&mut aead, Aead::Aes128Gcm16, "encryption", written)?
            }
            Word::Encryption(_) => put(&mut aead, Aead::Aes256Gcm16, "encryption", written)?,
            Word::KeyExchange(value) => put(&mut key_exchange, value, "the key exchange", written)?,
            Word::Esn(value) => put(&mut esn, value, "sequence numbers", written)?,
            Word::Hash(_) | Word::Prf(_) => {}
        }
    }
    let aead = aead.ok_or_else(|| {
        Mistake::new(format!("`{written}` lacks its encryption"))
            .help("write it like `aes256gcm16-x25519`")
    })?;
    Ok((aead, key_exchange, esn))
}

impl From<Integrity> for Prf {
    fn from(hash: Integrity) -> Self {
        match hash {
            Integrity::HmacSha256 => Self::HmacSha256,
            Integrity::HmacSha384 => Self::HmacSha384,
            Integrity::HmacSha512 => Self::HmacSha512,
        }
    }
}

impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X25519 => "x25519",
            Self::Ecp256 => "ecp256",
            Self::Ecp384 => "ecp384",
            Self::Modp2048 => "modp2048",
        })
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.encryption {
            Encryption::Aes128Gcm16 => "aes128gcm16",
            Encryption::Aes256Gcm16 => "aes256gcm16",
            Encryption::Aes128Cbc => "aes128",
            Encryption::Aes256Cbc => "aes256",
        })?;
        f.write_str(match self.integrity {
            None => "",
            Some(Integrity::HmacSha256) => "-sha256",
            Some(Integrity::HmacSha384) => "-sha384",
            Some(Integrity::HmacSha512) => "-sha512",
        })?;
        f.write_str(match self.prf {
            Prf::HmacSha256 => "-prfsha256",
            Prf::HmacSha384 => "-prfsha384",
            Prf::HmacSha512 => "-prfsha512",
        })?;
        write!(f, "-{}", self.key_exchange)
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.aead {
            Aead::Aes128Gcm16 => "aes128gcm16",
            Aead::Aes256Gcm16 => "aes256gcm16",
        })?;
        if let Some(key_exchange) = self.key_exchange {
            write!(f, "-{key_exchange}")?;
        }
        f.write_str(if self.esn { "-esn" } else { "-noesn" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ike_proposals() {
        let gcm = ike("aes256gcm16-sha384-x25519").unwrap();
        assert_eq!((gcm.integrity, gcm.prf), (None, Prf::HmacSha384));
        assert_eq!(gcm.to_string(), "aes256gcm16-prfsha384-x25519");
        let cbc = ike("aes128-sha2_256-dh14").unwrap();
        assert_eq!(cbc.to_string(), "aes128-sha256-prfsha256-modp2048");
        assert_eq!(ike(&cbc.to_string()), Ok(cbc));
        for wrong in [
            "",
            "aes256",
            "aes256-x25519",
            "aes256gcm16-x25519",
            "aes256-prfsha256-x25519",
            "aes256gcm16-sha256",
        ] {
            assert!(ike(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn esp_proposals() {
        assert_eq!(
            esp("aes256gcm16-x25519-noesn"),
            Ok((Aead::Aes256Gcm16, Some(KeyExchange::X25519), Some(false)))
        );
        assert_eq!(esp("aes128gcm"), Ok((Aead::Aes128Gcm16, None, None)));
        assert!(
            esp("aes256-sha256").is_err()
                && esp("x25519").is_err()
                && esp("aes256gcm16-esn-noesn").is_err()
        );
    }

    #[test]
    fn an_unknown_algorithm_suggests_the_nearest() {
        let help = ike("aes256gmc16-sha384-x25519").unwrap_err().help.unwrap();
        assert!(help.contains("did you mean `aes256gcm16`?"), "{help}");
        assert!(
            ike("aes256gcm16-aes128gcm16-sha384-x25519")
                .unwrap_err()
                .what
                .contains("two algorithms")
        );
    }
}
