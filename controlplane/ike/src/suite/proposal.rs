//! What is offered: suites of one algorithm of each kind.

use std::fmt;

use super::additional::AdditionalKex;
use super::algorithm::{Encryption, Integrity, KeyExchangeMethod, Prf};
use super::protection::Protection;
use super::read::ChildWords;

/// What is offered for an IKE SA unless somebody says otherwise (RFC 8247).
///
/// A peer that knows no additional key exchanges refuses the whole first one (RFC 7296 3.3.6) and takes another.
pub const DEFAULT_IKE: &str = "aes256gcm16-sha384-x25519-ke1_mlkem768, aes256gcm16-sha384-x25519, \
    aes256gcm16-sha384-ecp256, aes128gcm16-sha256-x25519, aes128gcm16-sha256-ecp256, aes256-sha256-modp2048";

/// What is offered for a child of ESP unless somebody says otherwise, with and without extended sequence numbers.
///
/// What RFC 8221 5 and 6 say MUST or SHOULD of, without NULL, which it wants implemented, not used; the rest is for those who
/// ask by name.
pub const DEFAULT_ESP: &str = "aes256gcm16-x25519, aes256gcm16, aes128gcm16-x25519, aes128gcm16, \
    chacha20poly1305-x25519, chacha20poly1305, aes256-sha512, aes256-sha256, aes128-sha256";

/// The same for a child of AH: what RFC 8221 6 says MUST or SHOULD of.
pub const DEFAULT_AH: &str = "sha256-x25519, sha256, sha512-x25519, sha512";

/// One suite offered for an IKE SA. Several are offered in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IkeProposal {
    /// How messages are encrypted.
    pub encryption: Encryption,
    /// How messages are authenticated; `None` exactly when the encryption is an AEAD.
    pub integrity: Option<Integrity>,
    /// The pseudo-random function of the key derivation.
    pub prf: Prf,
    /// The key exchange method.
    pub kex: KeyExchangeMethod,
    /// The key exchanges that follow in IKE_INTERMEDIATE (RFC 9370).
    pub additional: AdditionalKex,
}

impl IkeProposal {
    /// [`DEFAULT_IKE`].
    pub fn defaults() -> Vec<Self> {
        let words = DEFAULT_IKE.split(", ");
        words.filter_map(|words| words.parse().ok()).collect()
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encryption)?;
        match self.integrity {
            Some(integrity) if integrity.name() != self.prf.name() => {
                write!(f, "-{integrity}-prf{}", self.prf)?;
            }
            _ => write!(f, "-{}", self.prf)?,
        }
        write!(f, "-{}{}", self.kex, self.additional)
    }
}

/// One suite offered for a child SA. Several are offered in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChildProposal {
    /// What is done to packets. All proposals of a child are of ESP, or all are of AH.
    pub protection: Protection,
    /// The key exchange that gives the child keys of its own (perfect forward secrecy). It cannot
    /// be had for the child that comes with IKE_AUTH, only for those made or rekeyed later.
    pub kex: Option<KeyExchangeMethod>,
    /// The key exchanges that follow in IKE_FOLLOWUP_KE (RFC 9370), where there is a first.
    pub additional: AdditionalKex,
    /// Extended (64-bit) sequence numbers, exactly: a peer that knows none needs a proposal
    /// without.
    pub esn: bool,
}

impl ChildProposal {
    /// [`DEFAULT_ESP`].
    pub fn defaults() -> Vec<Self> {
        let words = ChildWords::default_esp().into_iter();
        words
            .flat_map(|words| words.proposals(&[true, false]))
            .collect()
    }
}

impl fmt::Display for ChildProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protection)?;
        if let Some(kex) = self.kex {
            write!(f, "-{kex}{}", self.additional)?;
        }
        if self.esn {
            write!(f, "-esn")?;
        }
        Ok(())
    }
}
