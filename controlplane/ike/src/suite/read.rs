//! Reads the words of a proposal, and says what is wrong with them.

use std::str::FromStr;

use super::additional::AdditionalKex;
use super::algorithm::{
    AhIntegrity, Encryption, EspEncryption, EspIntegrity, Integrity, KeyExchangeMethod, Prf,
};
use super::proposal::{ChildProposal, DEFAULT_AH, DEFAULT_ESP, IkeProposal};
use super::protection::{Esp, Protection};

/// Why a proposal's words are none. [`Display`](std::fmt::Display) says what is wrong, [`help`](Self::help) what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// A word names no algorithm.
    #[error("unknown algorithm `{word}`")]
    Unknown {
        /// The word.
        word: String,
        /// All that could stand in its place.
        known: Vec<&'static str>,
    },
    /// A word that must be there is not.
    #[error("`{proposal}` lacks {kind}")]
    Missing {
        /// The whole text.
        proposal: String,
        /// What it lacks.
        kind: String,
        /// A proposal that has it.
        example: String,
    },
    /// There are two of a kind.
    #[error("`{proposal}` names two algorithms for {kind}")]
    Twice {
        /// The whole text.
        proposal: String,
        /// Of which there are two.
        kind: String,
    },
    /// An integrity algorithm stands beside a cipher that needs none.
    #[error("`{cipher}` authenticates by itself")]
    Surplus {
        /// The cipher.
        cipher: &'static str,
        /// The algorithm that has no place here.
        integrity: &'static str,
    },
    /// An additional key exchange has a number that RFC 9370 does not know.
    #[error("`{0}` has no place among the additional key exchanges")]
    NoPlace(String),
    /// The same key exchange comes twice, which RFC 9370 2.2.2 forbids.
    #[error("`{proposal}` exchanges keys by {method} twice")]
    Repeated {
        /// The whole text.
        proposal: String,
        /// The method.
        method: KeyExchangeMethod,
    },
    /// A method of key exchange does not fit where it stands: IKE_SA_INIT cannot be fragmented (RFC 7383 2.1).
    #[error("`{proposal}`: a key of {method} does not fit into the first message")]
    TooLong {
        /// The whole text.
        proposal: String,
        /// The method.
        method: KeyExchangeMethod,
    },
}

impl ProposalError {
    /// What would be right.
    pub fn help(&self) -> String {
        match self {
            Self::Unknown { known, .. } => format!("known here are {}", known.join(", ")),
            Self::Missing { example, .. } => format!("write it like `{example}`"),
            Self::Twice { .. } => {
                "a proposal names one of each kind; write alternatives as further proposals of the list".to_owned()
            }
            Self::Surplus { integrity, .. } => format!("leave `{integrity}` out"),
            Self::NoPlace(_) => {
                format!("number them from ke1 to ke{}", AdditionalKex::MOST)
            }
            Self::Repeated { .. } => {
                "name each method once: several are there so that one of them may fail".to_owned()
            }
            Self::TooLong { method, .. } => {
                format!("make it an additional key exchange: `x25519-ke1_{method}`")
            }
        }
    }
}

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
    ("p256", "ecp256"),
    ("dh19", "ecp256"),
    ("p384", "ecp384"),
    ("dh20", "ecp384"),
    ("p521", "ecp521"),
    ("dh21", "ecp521"),
    ("dh14", "modp2048"),
    ("dh15", "modp3072"),
    ("dh16", "modp4096"),
    ("ml_kem_512", "mlkem512"),
    ("ml_kem_768", "mlkem768"),
    ("ml_kem_1024", "mlkem1024"),
];

/// One word of a proposal.
struct Word<'p> {
    written: &'p str,
    /// The one spelling that the algorithms' names have.
    name: String,
}

impl<'p> Word<'p> {
    fn new(written: &'p str) -> Self {
        let lower = written.trim().to_ascii_lowercase();
        let synonym = SYNONYMS.iter().find(|(synonym, _)| *synonym == lower);
        Self {
            written,
            name: synonym.map_or(lower, |(_, name)| (*name).to_owned()),
        }
    }

    fn unknown(&self, known: Vec<&'static str>) -> ProposalError {
        ProposalError::Unknown {
            word: self.written.to_owned(),
            known,
        }
    }
}

fn words(proposal: &str) -> impl Iterator<Item = Word<'_>> {
    proposal.split('-').map(Word::new)
}

/// Puts a value into its place in the proposal, once.
fn put<T>(
    place: &mut Option<T>,
    value: T,
    kind: impl ToString,
    proposal: &str,
) -> Result<(), ProposalError> {
    if place.replace(value).is_some() {
        return Err(ProposalError::Twice {
            proposal: proposal.to_owned(),
            kind: kind.to_string(),
        });
    }
    Ok(())
}

fn missing(proposal: &str, kind: impl ToString, example: impl ToString) -> ProposalError {
    ProposalError::Missing {
        proposal: proposal.to_owned(),
        kind: kind.to_string(),
        example: example.to_string(),
    }
}

/// The key exchanges that a proposal names.
#[derive(Default)]
struct Exchanges {
    first: Option<KeyExchangeMethod>,
    additional: AdditionalKex,
}

impl Exchanges {
    /// Takes a word like `x25519` or `ke1_mlkem768`; gives whether it was one.
    fn take(&mut self, word: &Word<'_>, proposal: &str) -> Result<bool, ProposalError> {
        if let Some(method) = KeyExchangeMethod::named(&word.name) {
            put(&mut self.first, method, "the key exchange", proposal)?;
            return Ok(true);
        }
        let additional = word.name.strip_prefix("ke").and_then(|rest| {
            let (place, method) = rest.split_once('_')?;
            Some((place.parse::<usize>().ok()?, Word::new(method)))
        });
        let Some((place, word_of_method)) = additional else {
            return Ok(false);
        };
        let slot = self
            .additional
            .place(place)
            .ok_or_else(|| ProposalError::NoPlace(word.written.to_owned()))?;
        let method = KeyExchangeMethod::named(&word_of_method.name)
            .ok_or_else(|| word_of_method.unknown(KeyExchangeMethod::names().collect()))?;
        let kind = format_args!("additional key exchange {place}");
        put(slot, method, kind, proposal)?;
        Ok(true)
    }

    /// RFC 9370 2.2.2 wants each method once.
    fn check(&self, proposal: &str) -> Result<(), ProposalError> {
        match self.additional.repeated(self.first) {
            Some(method) => Err(ProposalError::Repeated {
                proposal: proposal.to_owned(),
                method,
            }),
            None => Ok(()),
        }
    }
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    /// Reads `encryption-hash-kex` or `encryption-integrity-prfhash-kex`.
    fn from_str(proposal: &str) -> Result<Self, ProposalError> {
        const EXAMPLE: &str = "aes256gcm16-sha384-x25519";
        let (mut encryption, mut hash, mut prf) = (None, None, None);
        let mut exchanges = Exchanges::default();
        for word in words(proposal) {
            if let Some(value) = Encryption::named(&word.name) {
                put(&mut encryption, value, "encryption", proposal)?;
            } else if let Some(value) = Integrity::named(&word.name) {
                put(&mut hash, value, "integrity", proposal)?;
            } else if let Some(value) = word.name.strip_prefix("prf").and_then(Prf::named) {
                put(&mut prf, value, "the PRF", proposal)?;
            } else if !exchanges.take(&word, proposal)? {
                let known = Encryption::names().chain(Integrity::names());
                let known = known.chain(["prfsha512", "prfsha384", "prfsha256"]);
                return Err(word.unknown(known.chain(KeyExchangeMethod::names()).collect()));
            }
        }
        let encryption = encryption.ok_or_else(|| missing(proposal, "its encryption", EXAMPLE))?;
        let kex = exchanges
            .first
            .ok_or_else(|| missing(proposal, "its key exchange", EXAMPLE))?;
        exchanges.check(proposal)?;
        if kex == KeyExchangeMethod::MlKem1024 {
            return Err(ProposalError::TooLong {
                proposal: proposal.to_owned(),
                method: kex,
            });
        }
        let integrity = match (encryption.is_aead(), hash, prf) {
            (true, Some(hash), Some(_)) => {
                return Err(ProposalError::Surplus {
                    cipher: encryption.name(),
                    integrity: hash.name(),
                });
            }
            (true, ..) => None,
            (false, hash, _) => {
                let example = format_args!("{encryption}-sha256-x25519");
                let kind = format_args!("its integrity, which `{encryption}` needs");
                Some(hash.ok_or_else(|| missing(proposal, kind, example))?)
            }
        };
        // A hash is the integrity algorithm, and the PRF too if none is named.
        let prf = prf
            .or_else(|| hash.and_then(|hash| Prf::named(hash.name())))
            .ok_or_else(|| missing(proposal, "its PRF", EXAMPLE))?;
        Ok(Self {
            encryption,
            integrity,
            prf,
            kex,
            additional: exchanges.additional,
        })
    }
}

/// What the words of a proposal for a child say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildWords {
    /// What is done to packets.
    pub protection: Protection,
    /// A fresh key exchange at every rekey (perfect forward secrecy), if any.
    pub kex: Option<KeyExchangeMethod>,
    /// Those that follow it.
    pub additional: AdditionalKex,
    /// Whether extended sequence numbers are named, and how.
    pub esn: Option<bool>,
}

impl ChildWords {
    /// Reads `encryption[-integrity][-kex][-esn]`.
    ///
    /// # Errors
    ///
    /// What is wrong with the words.
    pub fn esp(proposal: &str) -> Result<Self, ProposalError> {
        let (mut encryption, mut integrity, mut esn) = (None, None, None);
        let mut exchanges = Exchanges::default();
        for word in words(proposal) {
            if let Some(value) = EspEncryption::named(&word.name) {
                put(&mut encryption, value, "encryption", proposal)?;
            } else if let Some(value) = EspIntegrity::named(&word.name) {
                put(&mut integrity, value, "integrity", proposal)?;
            } else if !exchanges.take(&word, proposal)? && !take_esn(&word, &mut esn, proposal)? {
                let known = EspEncryption::names().chain(EspIntegrity::names());
                return Err(word.unknown(child_words(known)));
            }
        }
        let encryption =
            encryption.ok_or_else(|| missing(proposal, "its encryption", "aes256gcm16-x25519"))?;
        match (encryption.is_combined(), integrity) {
            (true, Some(integrity)) => {
                return Err(ProposalError::Surplus {
                    cipher: encryption.name(),
                    integrity: integrity.name(),
                });
            }
            (false, None) => {
                let kind = format_args!("its integrity, which `{encryption}` needs");
                let example = format_args!("{encryption}-sha256");
                return Err(missing(proposal, kind, example));
            }
            _ => {}
        }
        let esp = Esp {
            encryption,
            integrity,
        };
        Self::new(Protection::Esp(esp), exchanges, esn, proposal)
    }

    /// Reads `integrity[-kex][-esn]`, which is for AH.
    ///
    /// # Errors
    ///
    /// What is wrong with the words.
    pub fn ah(proposal: &str) -> Result<Self, ProposalError> {
        let (mut integrity, mut esn) = (None, None);
        let mut exchanges = Exchanges::default();
        for word in words(proposal) {
            if let Some(value) = AhIntegrity::named(&word.name) {
                put(&mut integrity, value, "integrity", proposal)?;
            } else if !exchanges.take(&word, proposal)? && !take_esn(&word, &mut esn, proposal)? {
                return Err(word.unknown(child_words(AhIntegrity::names())));
            }
        }
        let integrity =
            integrity.ok_or_else(|| missing(proposal, "its integrity", "sha256-x25519"))?;
        Self::new(Protection::Ah(integrity), exchanges, esn, proposal)
    }

    fn new(
        protection: Protection,
        exchanges: Exchanges,
        esn: Option<bool>,
        proposal: &str,
    ) -> Result<Self, ProposalError> {
        exchanges.check(proposal)?;
        let Exchanges { first, additional } = exchanges;
        if first.is_none() && !additional.is_empty() {
            let kind = "the first key exchange, which the additional ones follow";
            let example = format!("{protection}-x25519-ke1_mlkem768");
            return Err(missing(proposal, kind, example.trim_start_matches(AH)));
        }
        Ok(Self {
            protection,
            kex: first,
            additional,
            esn,
        })
    }

    /// [`DEFAULT_ESP`].
    pub fn default_esp() -> Vec<Self> {
        let words = DEFAULT_ESP.split(", ");
        words.filter_map(|words| Self::esp(words).ok()).collect()
    }

    /// [`DEFAULT_AH`].
    pub fn default_ah() -> Vec<Self> {
        let words = DEFAULT_AH.split(", ");
        words.filter_map(|words| Self::ah(words).ok()).collect()
    }

    /// A proposal for each of these answers to "extended sequence numbers?", or one if the words answer it themselves.
    pub fn proposals(self, esn: &[bool]) -> impl Iterator<Item = ChildProposal> {
        let answers = match self.esn {
            Some(own) => vec![own],
            None => esn.to_vec(),
        };
        answers.into_iter().map(move |esn| ChildProposal {
            protection: self.protection,
            kex: self.kex,
            additional: self.additional,
            esn,
        })
    }
}

fn take_esn(
    word: &Word<'_>,
    esn: &mut Option<bool>,
    proposal: &str,
) -> Result<bool, ProposalError> {
    let value = match word.name.as_str() {
        "esn" => true,
        "noesn" => false,
        _ => return Ok(false),
    };
    put(esn, value, "sequence numbers", proposal)?;
    Ok(true)
}

/// What may stand in a child's proposal beside its own algorithms.
fn child_words(own: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    own.chain(KeyExchangeMethod::names())
        .chain(["esn", "noesn"])
        .collect()
}

/// What stands before a proposal for AH where those for ESP could stand, too.
const AH: &str = "ah-";

impl FromStr for ChildProposal {
    type Err = ProposalError;

    /// Reads what a proposal is displayed as; without a word about them, sequence numbers are not extended.
    fn from_str(proposal: &str) -> Result<Self, ProposalError> {
        let words = match proposal.strip_prefix(AH) {
            Some(rest) => ChildWords::ah(rest)?,
            None => ChildWords::esp(proposal)?,
        };
        Ok(Self {
            protection: words.protection,
            kex: words.kex,
            additional: words.additional,
            esn: words.esn.unwrap_or(false),
        })
    }
}
