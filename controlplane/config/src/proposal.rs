//! Cryptographic proposals (RFC 7296 3.3) in strongSwan's keywords: `aes256gcm16-sha384-x25519`. strongSwan has none for the
//! implicit IVs of RFC 8750, which are `aes256gcm16iiv` here.
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
    /// The 521-bit NIST curve (RFC 5903).
    Ecp521,
    /// The 2048-bit MODP group (RFC 3526), group 14.
    Modp2048,
    /// The 3072-bit MODP group (RFC 3526), group 15.
    Modp3072,
    /// The 4096-bit MODP group (RFC 3526), group 16.
    Modp4096,
    /// ML-KEM-512 (FIPS 203).
    MlKem512,
    /// ML-KEM-768 (FIPS 203).
    MlKem768,
    /// ML-KEM-1024 (FIPS 203).
    MlKem1024,
}

/// The key exchanges that follow the first one (RFC 9370): one method, or none, for each of `ke1` to `ke7`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdditionalKeyExchanges([Option<KeyExchange>; 7]);

impl AdditionalKeyExchanges {
    /// Each that there is, with its place from 1 on.
    pub fn iter(&self) -> impl Iterator<Item = (usize, KeyExchange)> + '_ {
        let placed = (1..).zip(self.0);
        placed.filter_map(|(place, method)| Some((place, method?)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Takes a word like `ke1_mlkem768`; `None` if it is none.
    fn take(&mut self, written: &str, proposal: &str) -> Option<Result<(), Mistake>> {
        let lower = written.trim().to_ascii_lowercase();
        let (place, name) = lower.strip_prefix("ke")?.split_once('_')?;
        let place: usize = place.parse().ok()?;
        let Some(slot) = place.checked_sub(1).and_then(|at| self.0.get_mut(at)) else {
            let mistake = Mistake::new(format!(
                "`{written}` has no place among the additional key exchanges"
            ));
            return Some(Err(mistake.help("number them from ke1 to ke7")));
        };
        Some(
            word(name, |word| matches!(word, Word::KeyExchange(_))).and_then(|word| match word {
                Word::KeyExchange(method) => put(
                    slot,
                    method,
                    &format!("additional key exchange {place}"),
                    proposal,
                ),
                _ => Ok(()),
            }),
        )
    }

    /// A child needs no key exchange, but the additional ones need a first.
    fn check_for_child(
        &self,
        first: Option<KeyExchange>,
        proposal: &str,
        algorithm: &str,
    ) -> Result<(), Mistake> {
        self.check(first, proposal)?;
        if first.is_none() && !self.is_empty() {
            return Err(Mistake::new(format!(
                "`{proposal}` lacks the first key exchange, which the additional ones follow"
            ))
            .help(format!("write it like `{algorithm}-x25519-ke1_mlkem768`")));
        }
        Ok(())
    }

    /// RFC 9370 wants each method once.
    fn check(&self, first: Option<KeyExchange>, proposal: &str) -> Result<(), Mistake> {
        let mut seen: Vec<KeyExchange> = first.into_iter().collect();
        for (_, method) in self.iter() {
            if seen.contains(&method) {
                return Err(
                    Mistake::new(format!("`{proposal}` exchanges keys by {method} twice")).help(
                        "name each method once: several are there so that one of them may fail",
                    ),
                );
            }
            seen.push(method);
        }
        Ok(())
    }
}

impl fmt::Display for AdditionalKeyExchanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, method) in self.iter() {
            write!(f, "-ke{place}_{method}")?;
        }
        Ok(())
    }
}

/// How a child SA encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EspEncryption {
    /// AES-GCM with a 128-bit key and a 16-byte tag (RFC 4106).
    Aes128Gcm16,
    /// AES-GCM with a 192-bit key and a 16-byte tag (RFC 4106).
    Aes192Gcm16,
    /// AES-GCM with a 256-bit key and a 16-byte tag (RFC 4106).
    Aes256Gcm16,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// AES-GCM with a 128-bit key and an IV that is not sent (RFC 8750).
    Aes128Gcm16Iiv,
    /// AES-GCM with a 192-bit key and an IV that is not sent (RFC 8750).
    Aes192Gcm16Iiv,
    /// AES-GCM with a 256-bit key and an IV that is not sent (RFC 8750).
    Aes256Gcm16Iiv,
    /// ChaCha20-Poly1305 with an IV that is not sent (RFC 8750).
    ChaCha20Poly1305Iiv,
    /// AES-CCM with a 128-bit key and a 16-byte tag (RFC 4309).
    Aes128Ccm16,
    /// AES-CCM with a 192-bit key and a 16-byte tag (RFC 4309).
    Aes192Ccm16,
    /// AES-CCM with a 256-bit key and a 16-byte tag (RFC 4309).
    Aes256Ccm16,
    /// AES-CBC with a 128-bit key (RFC 3602); needs an [`EspIntegrity`].
    Aes128Cbc,
    /// AES-CBC with a 192-bit key (RFC 3602); needs an [`EspIntegrity`].
    Aes192Cbc,
    /// AES-CBC with a 256-bit key (RFC 3602); needs an [`EspIntegrity`].
    Aes256Cbc,
    /// AES-GMAC with a 128-bit key (RFC 4543), which encrypts nothing.
    Aes128Gmac,
    /// AES-GMAC with a 192-bit key (RFC 4543), which encrypts nothing.
    Aes192Gmac,
    /// AES-GMAC with a 256-bit key (RFC 4543), which encrypts nothing.
    Aes256Gmac,
    /// None (RFC 2410); needs an [`EspIntegrity`].
    Null,
}

impl EspEncryption {
    /// Whether it authenticates too, and so goes without an [`EspIntegrity`].
    const fn is_combined(self) -> bool {
        !matches!(
            self,
            Self::Aes128Cbc | Self::Aes192Cbc | Self::Aes256Cbc | Self::Null
        )
    }

    /// Whether it hides anything.
    pub const fn hides(self) -> bool {
        !matches!(
            self,
            Self::Aes128Gmac | Self::Aes192Gmac | Self::Aes256Gmac | Self::Null
        )
    }
}

impl EspEncryption {
    /// The algorithm of AH that bears the same name.
    const fn as_ah(self) -> Option<AhIntegrity> {
        match self {
            Self::Aes128Gmac => Some(AhIntegrity::Aes128Gmac),
            Self::Aes192Gmac => Some(AhIntegrity::Aes192Gmac),
            Self::Aes256Gmac => Some(AhIntegrity::Aes256Gmac),
            _ => None,
        }
    }
}

/// How a child SA whose cipher does not do so itself authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EspIntegrity {
    /// HMAC-SHA-1-96 (RFC 2404).
    HmacSha1,
    /// HMAC-SHA-256-128 (RFC 4868).
    HmacSha256,
    /// HMAC-SHA-384-192 (RFC 4868).
    HmacSha384,
    /// HMAC-SHA-512-256 (RFC 4868).
    HmacSha512,
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
    /// How they agree on further ones, in IKE_INTERMEDIATE.
    pub additional: AdditionalKeyExchanges,
}

/// What a child SA of ESP may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EspProposal {
    /// How it encrypts.
    pub encryption: EspEncryption,
    /// How it authenticates; `None` for a cipher that does so itself.
    pub integrity: Option<EspIntegrity>,
    /// A fresh key exchange at every rekey (perfect forward secrecy), if any.
    pub key_exchange: Option<KeyExchange>,
    /// The key exchanges that follow it.
    pub additional: AdditionalKeyExchanges,
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub esn: bool,
}

/// How a child SA of AH authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AhIntegrity {
    /// An HMAC.
    Hmac(EspIntegrity),
    /// AES-GMAC with a 128-bit key (RFC 4543 4).
    Aes128Gmac,
    /// AES-GMAC with a 192-bit key (RFC 4543 4).
    Aes192Gmac,
    /// AES-GMAC with a 256-bit key (RFC 4543 4).
    Aes256Gmac,
}

impl AhIntegrity {
    fn word(self) -> Word {
        match self {
            Self::Hmac(hmac) => Word::EspIntegrity(hmac),
            Self::Aes128Gmac => Word::EspEncryption(EspEncryption::Aes128Gmac),
            Self::Aes192Gmac => Word::EspEncryption(EspEncryption::Aes192Gmac),
            Self::Aes256Gmac => Word::EspEncryption(EspEncryption::Aes256Gmac),
        }
    }
}

/// What a child SA of AH may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AhProposal {
    /// How it authenticates.
    pub integrity: AhIntegrity,
    /// A fresh key exchange at every rekey (perfect forward secrecy), if any.
    pub key_exchange: Option<KeyExchange>,
    /// Those that follow it.
    pub additional: AdditionalKeyExchanges,
    /// Extended sequence numbers (RFC 4302 2.5.1).
    pub esn: bool,
}

/// What a child SA may use: all of a child's are of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildProposal {
    /// Of ESP.
    Esp(EspProposal),
    /// Of AH.
    Ah(AhProposal),
}

/// What one keyword of a proposal stands for; of some, one thing for IKE and another for ESP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Encryption(Encryption),
    /// strongSwan reads a hash as the integrity algorithm, and as the PRF too if none is named.
    Hash(Integrity),
    Prf(Prf),
    EspEncryption(EspEncryption),
    EspIntegrity(EspIntegrity),
    KeyExchange(KeyExchange),
    Esn(bool),
}

impl Word {
    fn is_for_ike(&self) -> bool {
        matches!(
            self,
            Self::Encryption(_) | Self::Hash(_) | Self::Prf(_) | Self::KeyExchange(_)
        )
    }

    fn is_for_esp(&self) -> bool {
        matches!(
            self,
            Self::EspEncryption(_) | Self::EspIntegrity(_) | Self::KeyExchange(_) | Self::Esn(_)
        )
    }

    fn is_for_ah(&self) -> bool {
        match self {
            Self::EspEncryption(encryption) => encryption.as_ah().is_some(),
            other => other.is_for_esp(),
        }
    }

    /// How it is written.
    fn name(self) -> &'static str {
        let known = WORDS.iter().find(|(_, word)| *word == self);
        known.map_or("", |(name, _)| name)
    }
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
    (
        "aes128gcm16",
        Word::EspEncryption(EspEncryption::Aes128Gcm16),
    ),
    (
        "aes192gcm16",
        Word::EspEncryption(EspEncryption::Aes192Gcm16),
    ),
    (
        "aes256gcm16",
        Word::EspEncryption(EspEncryption::Aes256Gcm16),
    ),
    (
        "chacha20poly1305",
        Word::EspEncryption(EspEncryption::ChaCha20Poly1305),
    ),
    ("aes128", Word::EspEncryption(EspEncryption::Aes128Cbc)),
    ("aes192", Word::EspEncryption(EspEncryption::Aes192Cbc)),
    ("aes256", Word::EspEncryption(EspEncryption::Aes256Cbc)),
    (
        "aes128ccm16",
        Word::EspEncryption(EspEncryption::Aes128Ccm16),
    ),
    (
        "aes192ccm16",
        Word::EspEncryption(EspEncryption::Aes192Ccm16),
    ),
    (
        "aes256ccm16",
        Word::EspEncryption(EspEncryption::Aes256Ccm16),
    ),
    (
        "aes128gcm16iiv",
        Word::EspEncryption(EspEncryption::Aes128Gcm16Iiv),
    ),
    (
        "aes192gcm16iiv",
        Word::EspEncryption(EspEncryption::Aes192Gcm16Iiv),
    ),
    (
        "aes256gcm16iiv",
        Word::EspEncryption(EspEncryption::Aes256Gcm16Iiv),
    ),
    (
        "chacha20poly1305iiv",
        Word::EspEncryption(EspEncryption::ChaCha20Poly1305Iiv),
    ),
    ("aes128gmac", Word::EspEncryption(EspEncryption::Aes128Gmac)),
    ("aes192gmac", Word::EspEncryption(EspEncryption::Aes192Gmac)),
    ("aes256gmac", Word::EspEncryption(EspEncryption::Aes256Gmac)),
    ("null", Word::EspEncryption(EspEncryption::Null)),
    ("sha256", Word::EspIntegrity(EspIntegrity::HmacSha256)),
    ("sha384", Word::EspIntegrity(EspIntegrity::HmacSha384)),
    ("sha512", Word::EspIntegrity(EspIntegrity::HmacSha512)),
    ("sha1", Word::EspIntegrity(EspIntegrity::HmacSha1)),
    ("x25519", Word::KeyExchange(KeyExchange::X25519)),
    ("ecp256", Word::KeyExchange(KeyExchange::Ecp256)),
    ("ecp384", Word::KeyExchange(KeyExchange::Ecp384)),
    ("ecp521", Word::KeyExchange(KeyExchange::Ecp521)),
    ("modp2048", Word::KeyExchange(KeyExchange::Modp2048)),
    ("modp3072", Word::KeyExchange(KeyExchange::Modp3072)),
    ("modp4096", Word::KeyExchange(KeyExchange::Modp4096)),
    ("mlkem512", Word::KeyExchange(KeyExchange::MlKem512)),
    ("mlkem768", Word::KeyExchange(KeyExchange::MlKem768)),
    ("mlkem1024", Word::KeyExchange(KeyExchange::MlKem1024)),
    ("esn", Word::Esn(true)),
    ("noesn", Word::Esn(false)),
];

/// Other spellings of the same: strongSwan's, libreswan's and the registry's.
const SYNONYMS: &[(&str, &str)] = &[
    ("aes128gcm", "aes128gcm16"),
    ("aes192gcm", "aes192gcm16"),
    ("aes256gcm", "aes256gcm16"),
    ("aes128gcm128", "aes128gcm16"),
    ("aes192gcm128", "aes192gcm16"),
    ("aes256gcm128", "aes256gcm16"),
    ("aes_gcm128", "aes128gcm16"),
    ("aes_gcm256", "aes256gcm16"),
    ("chacha20_poly1305", "chacha20poly1305"),
    ("aes128ccm", "aes128ccm16"),
    ("aes192ccm", "aes192ccm16"),
    ("aes256ccm", "aes256ccm16"),
    ("aes128ccm128", "aes128ccm16"),
    ("aes192ccm128", "aes192ccm16"),
    ("aes256ccm128", "aes256ccm16"),
    ("aes128cbc", "aes128"),
    ("aes192cbc", "aes192"),
    ("aes256cbc", "aes256"),
    ("sha", "sha1"),
    ("sha2_256", "sha256"),
    ("sha2_384", "sha384"),
    ("sha2_512", "sha512"),
    ("curve25519", "x25519"),
    ("dh31", "x25519"),
    ("dh19", "ecp256"),
    ("dh20", "ecp384"),
    ("dh21", "ecp521"),
    ("dh14", "modp2048"),
    ("dh15", "modp3072"),
    ("dh16", "modp4096"),
    ("ml_kem_512", "mlkem512"),
    ("ml_kem_768", "mlkem768"),
    ("ml_kem_1024", "mlkem1024"),
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
    let mut additional = AdditionalKeyExchanges::default();
    for part in written.split('-') {
        if let Some(taken) = additional.take(part, written) {
            taken?;
            continue;
        }
        match word(part, Word::is_for_ike)? {
            Word::Encryption(value) => put(&mut encryption, value, "encryption", written)?,
            Word::Hash(value) => put(&mut hash, value, "integrity", written)?,
            Word::Prf(value) => put(&mut prf, value, "the PRF", written)?,
            Word::KeyExchange(value) => put(&mut key_exchange, value, "the key exchange", written)?,
            Word::EspEncryption(_) | Word::EspIntegrity(_) | Word::Esn(_) => {}
        }
    }
    let lacks = |kind: &str, example: &str| {
        Mistake::new(format!("`{written}` lacks {kind}")).help(format!("write it like `{example}`"))
    };
    let encryption =
        encryption.ok_or_else(|| lacks("its encryption", "aes256gcm16-sha384-x25519"))?;
    let key_exchange =
        key_exchange.ok_or_else(|| lacks("its key exchange", "aes256gcm16-sha384-x25519"))?;
    additional.check(Some(key_exchange), written)?;
    if key_exchange == KeyExchange::MlKem1024 {
        // RFC 7383 2.1: IKE_SA_INIT cannot be fragmented.
        return Err(Mistake::new(format!(
            "`{written}`: a key of ML-KEM-1024 does not fit into the first message"
        ))
        .help("make it an additional key exchange: `x25519-ke1_mlkem1024`"));
    }
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
        additional,
    })
}

/// What the words of a proposal for ESP say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EspWords {
    pub encryption: EspEncryption,
    pub integrity: Option<EspIntegrity>,
    pub key_exchange: Option<KeyExchange>,
    pub additional: AdditionalKeyExchanges,
    /// Whether extended sequence numbers are named, and how.
    pub esn: Option<bool>,
}

/// Reads a proposal for ESP.
pub(crate) fn esp(written: &str) -> Result<EspWords, Mistake> {
    let (mut encryption, mut integrity, mut key_exchange, mut esn) = (None, None, None, None);
    let mut additional = AdditionalKeyExchanges::default();
    for part in written.split('-') {
        if let Some(taken) = additional.take(part, written) {
            taken?;
            continue;
        }
        match word(part, Word::is_for_esp)? {
            Word::EspEncryption(value) => put(&mut encryption, value, "encryption", written)?,
            Word::EspIntegrity(value) => put(&mut integrity, value, "integrity", written)?,
            Word::KeyExchange(value) => put(&mut key_exchange, value, "the key exchange", written)?,
            Word::Esn(value) => put(&mut esn, value, "sequence numbers", written)?,
            Word::Encryption(_) | Word::Hash(_) | Word::Prf(_) => {}
        }
    }
    let encryption = encryption.ok_or_else(|| {
        Mistake::new(format!("`{written}` lacks its encryption"))
            .help("write it like `aes256gcm16-x25519`")
    })?;
    let name = Word::EspEncryption(encryption).name();
    match (encryption.is_combined(), integrity) {
        (true, Some(integrity)) => {
            let hash = Word::EspIntegrity(integrity).name();
            return Err(Mistake::new(format!("`{name}` authenticates by itself"))
                .help(format!("leave `{hash}` out")));
        }
        (false, None) => {
            return Err(Mistake::new(format!(
                "`{written}` lacks its integrity, which `{name}` needs"
            ))
            .help(format!("write it like `{name}-sha256`")));
        }
        _ => {}
    }
    additional.check_for_child(key_exchange, written, name)?;
    Ok(EspWords {
        encryption,
        integrity,
        key_exchange,
        additional,
        esn,
    })
}

/// What the words of a proposal for AH say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AhWords {
    pub integrity: AhIntegrity,
    pub key_exchange: Option<KeyExchange>,
    pub additional: AdditionalKeyExchanges,
    /// Whether extended sequence numbers are named, and how.
    pub esn: Option<bool>,
}

/// Reads a proposal for AH.
pub(crate) fn ah(written: &str) -> Result<AhWords, Mistake> {
    let (mut integrity, mut key_exchange, mut esn) = (None, None, None);
    let mut additional = AdditionalKeyExchanges::default();
    for part in written.split('-') {
        if let Some(taken) = additional.take(part, written) {
            taken?;
            continue;
        }
        let algorithm = match word(part, Word::is_for_ah)? {
            Word::EspEncryption(value) => value.as_ah(),
            Word::EspIntegrity(value) => Some(AhIntegrity::Hmac(value)),
            Word::KeyExchange(value) => {
                put(&mut key_exchange, value, "the key exchange", written)?;
                None
            }
            Word::Esn(value) => {
                put(&mut esn, value, "sequence numbers", written)?;
                None
            }
            Word::Encryption(_) | Word::Hash(_) | Word::Prf(_) => None,
        };
        if let Some(algorithm) = algorithm {
            put(&mut integrity, algorithm, "integrity", written)?;
        }
    }
    let integrity = integrity.ok_or_else(|| {
        Mistake::new(format!("`{written}` lacks its integrity"))
            .help("write it like `sha256-x25519`")
    })?;
    let name = integrity.word().name();
    additional.check_for_child(key_exchange, written, name)?;
    Ok(AhWords {
        integrity,
        key_exchange,
        additional,
        esn,
    })
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
            Self::Ecp521 => "ecp521",
            Self::Modp2048 => "modp2048",
            Self::Modp3072 => "modp3072",
            Self::Modp4096 => "modp4096",
            Self::MlKem512 => "mlkem512",
            Self::MlKem768 => "mlkem768",
            Self::MlKem1024 => "mlkem1024",
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
        write!(f, "-{}{}", self.key_exchange, self.additional)
    }
}

impl fmt::Display for ChildProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esp(proposal) => proposal.fmt(f),
            Self::Ah(proposal) => proposal.fmt(f),
        }
    }
}

impl fmt::Display for AhProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.integrity.word().name())?;
        if let Some(key_exchange) = self.key_exchange {
            write!(f, "-{key_exchange}{}", self.additional)?;
        }
        f.write_str(if self.esn { "-esn" } else { "-noesn" })
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Word::EspEncryption(self.encryption).name())?;
        if let Some(integrity) = self.integrity {
            write!(f, "-{}", Word::EspIntegrity(integrity).name())?;
        }
        if let Some(key_exchange) = self.key_exchange {
            write!(f, "-{key_exchange}{}", self.additional)?;
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
        let gcm = EspWords {
            encryption: EspEncryption::Aes256Gcm16,
            integrity: None,
            key_exchange: Some(KeyExchange::X25519),
            additional: AdditionalKeyExchanges::default(),
            esn: Some(false),
        };
        assert_eq!(esp("aes256gcm16-x25519-noesn"), Ok(gcm));
        let short = esp("aes192gcm").unwrap();
        assert_eq!(short.encryption, EspEncryption::Aes192Gcm16);
        assert_eq!((short.key_exchange, short.esn), (None, None));
        let cbc = esp("AES128-SHA2_256").unwrap();
        assert_eq!(cbc.encryption, EspEncryption::Aes128Cbc);
        assert_eq!(cbc.integrity, Some(EspIntegrity::HmacSha256));
        assert!(esp("x25519").is_err() && esp("aes256gcm16-esn-noesn").is_err());
    }

    #[test]
    fn esp_proposals_are_written_as_they_are_read() {
        for (name, word) in WORDS {
            let Word::EspEncryption(encryption) = word else {
                continue;
            };
            let integrity = (!encryption.is_combined()).then_some(EspIntegrity::HmacSha384);
            let proposal = EspProposal {
                encryption: *encryption,
                integrity,
                key_exchange: Some(KeyExchange::Ecp256),
                additional: AdditionalKeyExchanges::default(),
                esn: true,
            };
            let written = proposal.to_string();
            assert!(written.starts_with(name) && written.ends_with("-ecp256-esn"));
            let read = esp(&written).unwrap();
            assert_eq!((read.encryption, read.integrity), (*encryption, integrity));
        }
    }

    #[test]
    fn esp_proposals_with_too_much_or_too_little_are_told_apart() {
        let mistake = |written| esp(written).unwrap_err();
        let surplus = mistake("chacha20poly1305-sha256");
        assert_eq!(surplus.what, "`chacha20poly1305` authenticates by itself");
        assert_eq!(surplus.help.as_deref(), Some("leave `sha256` out"));
        let missing = mistake("aes256-x25519");
        assert!(
            missing
                .what
                .contains("lacks its integrity, which `aes256` needs")
        );
        assert_eq!(
            missing.help.as_deref(),
            Some("write it like `aes256-sha256`")
        );
        let unknown = mistake("chacha20poly1350");
        assert!(
            unknown
                .help
                .unwrap()
                .contains("did you mean `chacha20poly1305`?")
        );
        // Those of IKE alone are none of ESP's.
        assert!(esp("aes256gcm16-prfsha256").is_err());
        assert!(ike("chacha20poly1305-sha256-x25519").is_err());
    }

    #[test]
    fn additional_key_exchanges() {
        let hybrid = ike("aes256gcm16-sha384-x25519-ke1_mlkem768-ke3_dh21").unwrap();
        assert_eq!(
            hybrid.to_string(),
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke3_ecp521"
        );
        assert_eq!(ike(&hybrid.to_string()), Ok(hybrid));
        let child = esp("aes256gcm16-x25519-ke1_mlkem1024").unwrap();
        let methods: Vec<_> = child.additional.iter().collect();
        assert_eq!(methods, [(1, KeyExchange::MlKem1024)]);
        for (wrong, what) in [
            ("aes256gcm16-sha384-x25519-ke1_x25519", "by x25519 twice"),
            (
                "aes256gcm16-sha384-x25519-ke1_mlkem512-ke1_mlkem768",
                "two algorithms for additional",
            ),
            ("aes256gcm16-sha384-x25519-ke8_mlkem768", "has no place"),
            (
                "aes256gcm16-sha384-x25519-ke1_mlkem76",
                "unknown algorithm `mlkem76`",
            ),
            (
                "aes256gcm16-sha384-mlkem1024",
                "does not fit into the first message",
            ),
            ("aes256gcm16-sha384-ke1_mlkem768", "lacks its key exchange"),
        ] {
            let mistake = ike(wrong).unwrap_err();
            assert!(mistake.what.contains(what), "{wrong}: {}", mistake.what);
        }
        assert!(ike("aes256gcm16-sha384-mlkem768").is_ok());
        let alone = esp("aes256gcm16-ke1_mlkem768").unwrap_err();
        assert!(alone.what.contains("lacks the first key exchange"));
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
