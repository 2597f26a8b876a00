//! The algorithms that we negotiate, their transform numbers (IANA "IKEv2 parameters") and the
//! names by which an operator writes them: `aes256gcm16-sha384-x25519`.

use crate::wire::proposal::protocol;

use std::fmt;
use std::str::FromStr;

/// Declares an enum of algorithms with a name, an IANA number and an optional key length each.
macro_rules! algorithms {
    ($(#[$meta:meta])* $type:ident { $($(#[$vmeta:meta])* $variant:ident = $id:expr, $bits:expr, $name:expr;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $($(#[$vmeta])* $variant,)* }

        impl $type {
            /// Every algorithm of this kind, strongest first where that has a meaning.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The transform ID of IANA's registry.
            pub const fn id(self) -> u16 {
                match self { $(Self::$variant => $id,)* }
            }

            /// The Key Length attribute in bits, where the transform carries one.
            pub const fn key_bits(self) -> Option<u16> {
                match self { $(Self::$variant => $bits,)* }
            }

            /// The name used in configuration and in messages.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The algorithm with this transform ID and key length.
            pub fn from_wire(id: u16, bits: Option<u16>) -> Option<Self> {
                Self::ALL.iter().copied().find(|a| a.id() == id && a.key_bits() == bits)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

algorithms! {
    /// Encryption of IKE messages (transform type 1; RFC 5282, RFC 3602).
    Encryption {
        /// AES-GCM with a 16-octet ICV and a 256-bit key.
        Aes256Gcm16 = 20, Some(256), "aes256gcm16";
        /// AES-GCM with a 16-octet ICV and a 128-bit key.
        Aes128Gcm16 = 20, Some(128), "aes128gcm16";
        /// AES-CBC with a 256-bit key.
        Aes256Cbc = 12, Some(256), "aes256";
        /// AES-CBC with a 128-bit key.
        Aes128Cbc = 12, Some(128), "aes128";
    }
}

algorithms! {
    /// Integrity of IKE messages whose encryption is not an AEAD (transform type 3; RFC 4868).
    Integrity {
        /// HMAC-SHA2-512, truncated to 256 bits.
        HmacSha512 = 14, None, "sha512";
        /// HMAC-SHA2-384, truncated to 192 bits.
        HmacSha384 = 13, None, "sha384";
        /// HMAC-SHA2-256, truncated to 128 bits.
        HmacSha256 = 12, None, "sha256";
    }
}

algorithms! {
    /// Pseudo-random function (transform type 2; RFC 4868).
    Prf {
        /// PRF_HMAC_SHA2_512.
        HmacSha512 = 7, None, "sha512";
        /// PRF_HMAC_SHA2_384.
        HmacSha384 = 6, None, "sha384";
        /// PRF_HMAC_SHA2_256.
        HmacSha256 = 5, None, "sha256";
    }
}

algorithms! {
    /// Key exchange method (transform types 4 and 6 to 12; RFC 8031, RFC 5903, RFC 3526, FIPS 203).
    KeyExchangeMethod {
        /// Curve25519.
        X25519 = 31, None, "x25519";
        /// The NIST curve P-384.
        P384 = 20, None, "p384";
        /// The NIST curve P-256.
        P256 = 19, None, "p256";
        /// The NIST curve P-521.
        P521 = 21, None, "p521";
        /// The 2048-bit MODP group.
        Modp2048 = 14, None, "modp2048";
        /// The 3072-bit MODP group.
        Modp3072 = 15, None, "modp3072";
        /// The 4096-bit MODP group.
        Modp4096 = 16, None, "modp4096";
        /// ML-KEM-512.
        MlKem512 = 35, None, "mlkem512";
        /// ML-KEM-768.
        MlKem768 = 36, None, "mlkem768";
        /// ML-KEM-1024.
        MlKem1024 = 37, None, "mlkem1024";
    }
}

algorithms! {
    /// Encryption of a child SA (transform type 1 of ESP).
    EspEncryption {
        /// AES-GCM with a 16-octet ICV and a 256-bit key (RFC 4106).
        Aes256Gcm16 = 20, Some(256), "aes256gcm16";
        /// AES-GCM with a 16-octet ICV and a 192-bit key (RFC 4106).
        Aes192Gcm16 = 20, Some(192), "aes192gcm16";
        /// AES-GCM with a 16-octet ICV and a 128-bit key (RFC 4106).
        Aes128Gcm16 = 20, Some(128), "aes128gcm16";
        /// ChaCha20-Poly1305 (RFC 7634), which RFC 7634 5 gives no Key Length attribute.
        ChaCha20Poly1305 = 28, None, "chacha20poly1305";
        /// AES-GCM with a 256-bit key and an IV that is not sent (RFC 8750).
        Aes256Gcm16Iiv = 30, Some(256), "aes256gcm16iiv";
        /// AES-GCM with a 192-bit key and an IV that is not sent (RFC 8750).
        Aes192Gcm16Iiv = 30, Some(192), "aes192gcm16iiv";
        /// AES-GCM with a 128-bit key and an IV that is not sent (RFC 8750).
        Aes128Gcm16Iiv = 30, Some(128), "aes128gcm16iiv";
        /// ChaCha20-Poly1305 with an IV that is not sent (RFC 8750).
        ChaCha20Poly1305Iiv = 31, None, "chacha20poly1305iiv";
        /// AES-CCM with a 16-octet ICV and a 256-bit key (RFC 4309).
        Aes256Ccm16 = 16, Some(256), "aes256ccm16";
        /// AES-CCM with a 16-octet ICV and a 192-bit key (RFC 4309).
        Aes192Ccm16 = 16, Some(192), "aes192ccm16";
        /// AES-CCM with a 16-octet ICV and a 128-bit key (RFC 4309).
        Aes128Ccm16 = 16, Some(128), "aes128ccm16";
        /// AES-CBC with a 256-bit key (RFC 3602).
        Aes256Cbc = 12, Some(256), "aes256";
        /// AES-CBC with a 192-bit key (RFC 3602).
        Aes192Cbc = 12, Some(192), "aes192";
        /// AES-CBC with a 128-bit key (RFC 3602).
        Aes128Cbc = 12, Some(128), "aes128";
        /// AES-GMAC with a 256-bit key, which encrypts nothing (RFC 4543).
        Aes256Gmac = 21, Some(256), "aes256gmac";
        /// AES-GMAC with a 192-bit key, which encrypts nothing (RFC 4543).
        Aes192Gmac = 21, Some(192), "aes192gmac";
        /// AES-GMAC with a 128-bit key, which encrypts nothing (RFC 4543).
        Aes128Gmac = 21, Some(128), "aes128gmac";
        /// No encryption (RFC 2410).
        Null = 11, None, "null";
    }
}

algorithms! {
    /// Integrity of a child SA whose encryption does not authenticate (transform type 3 of ESP).
    EspIntegrity {
        /// HMAC-SHA2-512, truncated to 256 bits (RFC 4868).
        HmacSha512 = 14, None, "sha512";
        /// HMAC-SHA2-384, truncated to 192 bits (RFC 4868).
        HmacSha384 = 13, None, "sha384";
        /// HMAC-SHA2-256, truncated to 128 bits (RFC 4868).
        HmacSha256 = 12, None, "sha256";
        /// HMAC-SHA-1, truncated to 96 bits (RFC 2404).
        HmacSha1 = 2, None, "sha1";
    }
}

impl Encryption {
    /// Whether this is a combined mode, which takes no integrity transform (RFC 5282).
    pub const fn is_aead(self) -> bool {
        matches!(self, Self::Aes256Gcm16 | Self::Aes128Gcm16)
    }
}

impl EspEncryption {
    /// Whether this is a combined mode, which takes no integrity transform.
    pub const fn is_combined(self) -> bool {
        !matches!(
            self,
            Self::Aes256Cbc | Self::Aes192Cbc | Self::Aes128Cbc | Self::Null
        )
    }

    /// Octets of keying material: the key, and for combined modes a salt behind it (RFC 4106 8.1,
    /// RFC 7634 2, RFC 4309 7.1, RFC 4543 5.4).
    const fn keymat_len(self) -> usize {
        let key = match self.key_bits() {
            Some(bits) => bits as usize / 8,
            None => 32,
        };
        match self {
            Self::Null => 0,
            Self::Aes256Cbc | Self::Aes192Cbc | Self::Aes128Cbc => key,
            Self::Aes256Ccm16 | Self::Aes192Ccm16 | Self::Aes128Ccm16 => key + 3,
            _ => key + 4,
        }
    }
}

impl EspIntegrity {
    /// Octets of keying material (RFC 4868 2.1.1, RFC 2404 3).
    const fn keymat_len(self) -> usize {
        match self {
            Self::HmacSha512 => 64,
            Self::HmacSha384 => 48,
            Self::HmacSha256 => 32,
            Self::HmacSha1 => 20,
        }
    }
}

/// What ESP does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Esp {
    /// How they are encrypted.
    pub encryption: EspEncryption,
    /// How they are authenticated; `None` exactly when the encryption is a combined mode.
    pub integrity: Option<EspIntegrity>,
}

impl Esp {
    /// A combined mode.
    pub const fn combined(encryption: EspEncryption) -> Self {
        Self {
            encryption,
            integrity: None,
        }
    }

    /// A cipher with an HMAC.
    pub const fn with(encryption: EspEncryption, integrity: EspIntegrity) -> Self {
        Self {
            encryption,
            integrity: Some(integrity),
        }
    }

    /// Octets of keying material of one direction.
    ///
    /// RFC 7296 2.17: "the encryption key (if any) MUST be taken from the first bits and the
    /// integrity key (if any) MUST be taken from the remaining bits."
    pub fn keymat_len(self) -> usize {
        self.encryption.keymat_len() + self.integrity.map_or(0, EspIntegrity::keymat_len)
    }

    /// The numbers of its transforms: encryption, its Key Length attribute in bits (0 for none),
    /// and integrity (0, NONE, with a combined mode).
    pub fn numbers(self) -> (u16, u16, u16) {
        let bits = self.encryption.key_bits().unwrap_or(0);
        let integrity = self.integrity.map_or(0, EspIntegrity::id);
        (self.encryption.id(), bits, integrity)
    }

    /// What has these [`numbers`](Self::numbers), if we know it.
    pub fn from_numbers((encryption, bits, integrity): (u16, u16, u16)) -> Option<Self> {
        let bits = (bits != 0).then_some(bits);
        let encryption = EspEncryption::from_wire(encryption, bits)?;
        let integrity = match integrity {
            0 => None,
            id => Some(EspIntegrity::from_wire(id, None)?),
        };
        (encryption.is_combined() == integrity.is_none()).then_some(Self {
            encryption,
            integrity,
        })
    }
}

impl fmt::Display for Esp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encryption)?;
        match self.integrity {
            Some(integrity) => write!(f, "-{integrity}"),
            None => Ok(()),
        }
    }
}

/// Additional key exchanges (RFC 9370): one method, or none, for each of ADDKE1 to ADDKE7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdditionalKex([Option<KeyExchangeMethod>; AdditionalKex::MOST]);

impl AdditionalKex {
    /// How many there can be.
    pub const MOST: usize = 7;

    /// None but this one, as ADDKE1.
    pub const fn first(method: KeyExchangeMethod) -> Self {
        let none = None;
        Self([Some(method), none, none, none, none, none, none])
    }

    /// Puts a method at a place, from 1 to 7; gives what was there. Other places are ignored.
    pub fn put(&mut self, place: usize, method: KeyExchangeMethod) -> Option<KeyExchangeMethod> {
        let slot = place.checked_sub(1).and_then(|at| self.0.get_mut(at))?;
        slot.replace(method)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.methods().next().is_none()
    }

    /// Each place with its method, if it has one.
    pub fn places(&self) -> impl Iterator<Item = Option<KeyExchangeMethod>> + '_ {
        self.0.iter().copied()
    }

    /// The methods in the order in which they are done.
    pub fn methods(&self) -> impl Iterator<Item = KeyExchangeMethod> + '_ {
        self.0.iter().copied().flatten()
    }

    /// The method that is named twice, the first key exchange included. RFC 9370 has the responder's
    /// choice refused then.
    fn repeated(&self, kex: Option<KeyExchangeMethod>) -> Option<KeyExchangeMethod> {
        let all: Vec<_> = kex.into_iter().chain(self.methods()).collect();
        let twice = |m: &KeyExchangeMethod| all.iter().filter(|other| *other == m).count() > 1;
        all.iter().copied().find(twice)
    }

    /// Reads `ke1_mlkem768`: the place and the method.
    fn word(part: &str) -> Option<(usize, KeyExchangeMethod)> {
        let (place, method) = part.strip_prefix("ke")?.split_once('_')?;
        let place = place
            .parse()
            .ok()
            .filter(|p| (1..=Self::MOST).contains(p))?;
        Some((place, method_named(method)?))
    }
}

impl fmt::Display for AdditionalKex {
    /// `-ke1_mlkem768`, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, method) in (1..).zip(self.0) {
            if let Some(method) = method {
                write!(f, "-ke{place}_{method}")?;
            }
        }
        Ok(())
    }
}

algorithms! {
    /// Integrity of a child SA of AH (transform type 3 of AH).
    AhIntegrity {
        /// HMAC-SHA2-512, truncated to 256 bits (RFC 4868).
        HmacSha512 = 14, None, "sha512";
        /// HMAC-SHA2-384, truncated to 192 bits (RFC 4868).
        HmacSha384 = 13, None, "sha384";
        /// HMAC-SHA2-256, truncated to 128 bits (RFC 4868).
        HmacSha256 = 12, None, "sha256";
        /// AES-GMAC with a 256-bit key (RFC 4543 5.4, which numbers each length by itself).
        Aes256Gmac = 11, None, "aes256gmac";
        /// AES-GMAC with a 192-bit key (RFC 4543).
        Aes192Gmac = 10, None, "aes192gmac";
        /// AES-GMAC with a 128-bit key (RFC 4543).
        Aes128Gmac = 9, None, "aes128gmac";
        /// HMAC-SHA-1, truncated to 96 bits (RFC 2404).
        HmacSha1 = 2, None, "sha1";
    }
}

impl AhIntegrity {
    /// Octets of keying material (RFC 4868 2.1.1, RFC 2404 3; RFC 4543 5.4: the key and a salt).
    const fn keymat_len(self) -> usize {
        match self {
            Self::HmacSha512 => 64,
            Self::HmacSha384 => 48,
            Self::HmacSha256 => 32,
            Self::Aes256Gmac => 36,
            Self::Aes192Gmac => 28,
            Self::Aes128Gmac | Self::HmacSha1 => 20,
        }
    }
}

/// How the packets of a child SA are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protection {
    /// By ESP (RFC 4303).
    Esp(Esp),
    /// By AH (RFC 4302).
    Ah(AhIntegrity),
}

impl Protection {
    /// Octets of keying material of one direction.
    pub fn keymat_len(self) -> usize {
        match self {
            Self::Esp(esp) => esp.keymat_len(),
            Self::Ah(integrity) => integrity.keymat_len(),
        }
    }

    /// The numbers of its transforms, as [`Esp::numbers`] has them; AH's encryption is 0, which is
    /// reserved.
    pub fn numbers(self) -> (u16, u16, u16) {
        match self {
            Self::Esp(esp) => esp.numbers(),
            Self::Ah(integrity) => (0, 0, integrity.id()),
        }
    }

    /// What has these [`numbers`](Self::numbers), if we know it.
    pub fn from_numbers(numbers: (u16, u16, u16)) -> Option<Self> {
        match numbers {
            (0, 0, integrity) => AhIntegrity::from_wire(integrity, None).map(Self::Ah),
            numbers => Esp::from_numbers(numbers).map(Self::Esp),
        }
    }

    /// The Protocol ID of RFC 7296 3.3.1.
    pub(crate) const fn protocol(self) -> u8 {
        match self {
            Self::Esp(_) => protocol::ESP,
            Self::Ah(_) => protocol::AH,
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esp(esp) => esp.fmt(f),
            Self::Ah(integrity) => write!(f, "ah-{integrity}"),
        }
    }
}

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
    /// What we offer when the configuration names nothing.
    pub fn defaults() -> Vec<Self> {
        use KeyExchangeMethod as Kex;
        let gcm = |encryption, prf, kex| Self {
            encryption,
            integrity: None,
            prf,
            kex,
            additional: AdditionalKex::default(),
        };
        let strong = |kex| gcm(Encryption::Aes256Gcm16, Prf::HmacSha384, kex);
        let light = |kex| gcm(Encryption::Aes128Gcm16, Prf::HmacSha256, kex);
        vec![
            // RFC 7296 3.3.6 has a peer that knows no additional key exchanges refuse the whole
            // proposal: this one stands on its own.
            Self {
                additional: AdditionalKex::first(Kex::MlKem768),
                ..strong(Kex::X25519)
            },
            strong(Kex::X25519),
            strong(Kex::P256),
            light(Kex::X25519),
            light(Kex::P256),
            Self {
                encryption: Encryption::Aes256Cbc,
                integrity: Some(Integrity::HmacSha256),
                ..light(Kex::Modp2048)
            },
        ]
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
    /// What we offer when the configuration names nothing: what RFC 8221 5 and 6 say MUST or
    /// SHOULD of, without NULL.
    pub fn defaults() -> Vec<Self> {
        use {EspEncryption as E, EspIntegrity as I};
        [
            Esp::combined(E::Aes256Gcm16),
            Esp::combined(E::Aes128Gcm16),
            Esp::combined(E::ChaCha20Poly1305),
            Esp::with(E::Aes256Cbc, I::HmacSha512),
            Esp::with(E::Aes256Cbc, I::HmacSha256),
            Esp::with(E::Aes128Cbc, I::HmacSha256),
        ]
        .into_iter()
        .flat_map(|esp| {
            [true, false].map(|esn| Self {
                protection: Protection::Esp(esp),
                kex: None,
                additional: AdditionalKex::default(),
                esn,
            })
        })
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

/// Why a proposal's text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// A part names no algorithm.
    #[error("`{0}` is no algorithm known here")]
    Unknown(String),
    /// A part that must be there is not.
    #[error("`{proposal}` names no {missing}")]
    Missing {
        /// The whole text.
        proposal: String,
        /// What it lacks.
        missing: &'static str,
    },
    /// A part comes twice.
    #[error("`{0}` comes twice, or does not belong into this proposal")]
    Surplus(String),
    /// A method of key exchange does not fit where it stands.
    #[error(
        "`{0}` does not fit into IKE_SA_INIT; write it as an additional key exchange, such as `x25519-ke1_{0}`"
    )]
    TooLong(KeyExchangeMethod),
}

fn named<A: Copy + 'static>(
    all: &'static [A],
    name: fn(A) -> &'static str,
    part: &str,
) -> Option<A> {
    all.iter().copied().find(|&a| name(a) == part)
}

fn method_named(part: &str) -> Option<KeyExchangeMethod> {
    match part {
        "curve25519" => Some(KeyExchangeMethod::X25519),
        "ecp256" => Some(KeyExchangeMethod::P256),
        "ecp384" => Some(KeyExchangeMethod::P384),
        "ecp521" => Some(KeyExchangeMethod::P521),
        _ => named(KeyExchangeMethod::ALL, KeyExchangeMethod::name, part),
    }
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    /// Reads `encryption-hash-kex` or `encryption-integrity-prfhash-kex`.
    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let missing = |missing| missing_from(text, missing);
        let (mut encryption, mut hash, mut prf, mut kex) = (None, None, None, None);
        let mut additional = AdditionalKex::default();
        for part in text.split('-') {
            let surplus = if let Some(e) = named(Encryption::ALL, Encryption::name, part) {
                encryption.replace(e).is_some()
            } else if let Some(h) = named(Integrity::ALL, Integrity::name, part) {
                hash.replace(h).is_some()
            } else if let Some(p) = part
                .strip_prefix("prf")
                .and_then(|p| named(Prf::ALL, Prf::name, p))
            {
                prf.replace(p).is_some()
            } else if let Some(k) = method_named(part) {
                kex.replace(k).is_some()
            } else if let Some((place, k)) = AdditionalKex::word(part) {
                additional.put(place, k).is_some()
            } else {
                return Err(ProposalError::Unknown(part.to_owned()));
            };
            if surplus {
                return Err(ProposalError::Surplus(part.to_owned()));
            }
        }
        let encryption = encryption.ok_or_else(|| missing("encryption"))?;
        let prf = match (prf, hash) {
            (Some(_), Some(hash)) if encryption.is_aead() => {
                return Err(ProposalError::Surplus(hash.name().to_owned()));
            }
            (Some(prf), _) => prf,
            (None, Some(hash)) => {
                named(Prf::ALL, Prf::name, hash.name()).ok_or_else(|| missing("hash"))?
            }
            (None, None) => return Err(missing("hash (such as sha384)")),
        };
        let integrity = if encryption.is_aead() {
            None
        } else {
            Some(hash.ok_or_else(|| missing("integrity algorithm (such as sha256)"))?)
        };
        let kex = kex.ok_or_else(|| missing("key exchange (such as x25519)"))?;
        if let Some(twice) = additional.repeated(Some(kex)) {
            return Err(ProposalError::Surplus(twice.name().to_owned()));
        }
        // RFC 7383 2.1: IKE_SA_INIT cannot be fragmented.
        if kex == KeyExchangeMethod::MlKem1024 {
            return Err(ProposalError::TooLong(kex));
        }
        Ok(Self {
            encryption,
            integrity,
            prf,
            kex,
            additional,
        })
    }
}

impl FromStr for ChildProposal {
    type Err = ProposalError;

    /// Reads `encryption[-integrity][-kex][-esn]`, or `ah-integrity[-kex][-esn]`.
    fn from_str(text: &str) -> Result<Self, ProposalError> {
        if let Some(rest) = text.strip_prefix("ah-") {
            return read_ah(text, rest);
        }
        let missing = |missing| missing_from(text, missing);
        let (mut encryption, mut integrity) = (None, None);
        let mut common = Common::default();
        for part in text.split('-') {
            let surplus = if let Some(e) = named(EspEncryption::ALL, EspEncryption::name, part) {
                encryption.replace(e).is_some()
            } else if let Some(i) = named(EspIntegrity::ALL, EspIntegrity::name, part) {
                integrity.replace(i).is_some()
            } else {
                common.read(part)?
            };
            if surplus {
                return Err(ProposalError::Surplus(part.to_owned()));
            }
        }
        let encryption = encryption.ok_or_else(|| missing("encryption (such as aes256gcm16)"))?;
        match (encryption.is_combined(), integrity) {
            (true, Some(integrity)) => {
                return Err(ProposalError::Surplus(integrity.name().to_owned()));
            }
            (false, None) => return Err(missing("integrity algorithm (such as sha256)")),
            _ => {}
        }
        let esp = Esp {
            encryption,
            integrity,
        };
        common.proposal(text, Protection::Esp(esp))
    }
}

/// What the proposals of ESP and AH have in common.
#[derive(Default)]
struct Common {
    kex: Option<KeyExchangeMethod>,
    additional: AdditionalKex,
    esn: bool,
}

impl Common {
    /// Takes a part of a proposal. Gives whether there was such a one before.
    fn read(&mut self, part: &str) -> Result<bool, ProposalError> {
        if let Some(method) = method_named(part) {
            Ok(self.kex.replace(method).is_some())
        } else if let Some((place, method)) = AdditionalKex::word(part) {
            Ok(self.additional.put(place, method).is_some())
        } else if part == "esn" {
            Ok(std::mem::replace(&mut self.esn, true))
        } else {
            Err(ProposalError::Unknown(part.to_owned()))
        }
    }

    fn proposal(self, text: &str, protection: Protection) -> Result<ChildProposal, ProposalError> {
        let Self {
            kex,
            additional,
            esn,
        } = self;
        if let Some(twice) = additional.repeated(kex) {
            return Err(ProposalError::Surplus(twice.name().to_owned()));
        }
        if kex.is_none() && !additional.is_empty() {
            return Err(missing_from(text, "first key exchange (such as x25519)"));
        }
        Ok(ChildProposal {
            protection,
            kex,
            additional,
            esn,
        })
    }
}

fn missing_from(proposal: &str, missing: &'static str) -> ProposalError {
    ProposalError::Missing {
        proposal: proposal.to_owned(),
        missing,
    }
}

/// Reads what follows `ah-`.
fn read_ah(text: &str, rest: &str) -> Result<ChildProposal, ProposalError> {
    let mut integrity = None;
    let mut common = Common::default();
    for part in rest.split('-') {
        let surplus = if let Some(i) = named(AhIntegrity::ALL, AhIntegrity::name, part) {
            integrity.replace(i).is_some()
        } else {
            common.read(part)?
        };
        if surplus {
            return Err(ProposalError::Surplus(part.to_owned()));
        }
    }
    let integrity =
        integrity.ok_or_else(|| missing_from(text, "integrity algorithm (such as sha256)"))?;
    common.proposal(text, Protection::Ah(integrity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_read_back_what_they_print() {
        for proposal in IkeProposal::defaults() {
            assert_eq!(proposal.to_string().parse(), Ok(proposal));
        }
        for proposal in ChildProposal::defaults() {
            assert_eq!(proposal.to_string().parse(), Ok(proposal));
        }
        let mixed: IkeProposal = "aes128-sha256-prfsha512-modp2048".parse().unwrap();
        assert_eq!(mixed.prf, Prf::HmacSha512);
        assert_eq!(mixed.to_string().parse(), Ok(mixed));
        let pfs: ChildProposal = "aes128gcm16-ecp384-esn".parse().unwrap();
        assert_eq!(pfs.to_string(), "aes128gcm16-p384-esn");
        let hybrid = "aes128gcm16-x25519-ke1_mlkem768-ke3_p521-esn";
        let read: ChildProposal = hybrid.parse().unwrap();
        assert_eq!(read.to_string(), hybrid);
        let methods: Vec<_> = read.additional.methods().collect();
        assert_eq!(
            methods,
            [KeyExchangeMethod::MlKem768, KeyExchangeMethod::P521]
        );
    }

    #[test]
    fn esp_algorithms_are_known_by_name_and_by_number() {
        for encryption in EspEncryption::ALL {
            let integrity: &[_] = if encryption.is_combined() {
                &[None]
            } else {
                &[
                    Some(EspIntegrity::HmacSha512),
                    Some(EspIntegrity::HmacSha384),
                    Some(EspIntegrity::HmacSha256),
                    Some(EspIntegrity::HmacSha1),
                ]
            };
            for integrity in integrity {
                let esp = Esp {
                    encryption: *encryption,
                    integrity: *integrity,
                };
                let esp = Protection::Esp(esp);
                assert_eq!(Protection::from_numbers(esp.numbers()), Some(esp));
                let read: ChildProposal = esp.to_string().parse().unwrap();
                assert_eq!(read.protection, esp);
            }
        }
        for integrity in AhIntegrity::ALL {
            let ah = Protection::Ah(*integrity);
            assert_eq!(Protection::from_numbers(ah.numbers()), Some(ah));
            let read: ChildProposal = ah.to_string().parse().unwrap();
            assert_eq!(read.protection, ah);
        }
        let pfs: ChildProposal = "ah-sha256-x25519-esn".parse().unwrap();
        assert_eq!(pfs.to_string(), "ah-sha256-x25519-esn");
        for none in [
            (12, 128, 0),
            (20, 128, 12),
            (20, 0, 0),
            (28, 256, 0),
            (0, 0, 0),
        ] {
            assert_eq!(Protection::from_numbers(none), None, "{none:?}");
        }
    }

    #[test]
    fn keying_material_is_as_long_as_the_rfcs_say() {
        for (name, octets) in [
            ("aes128gcm16", 20),      // RFC 4106 8.1
            ("aes192gcm16iiv", 28),   // RFC 8750 3
            ("chacha20poly1305", 36), // RFC 7634 2
            ("aes128ccm16", 19),      // RFC 4309 7.1
            ("aes256gmac", 36),       // RFC 4543 5.4
            ("aes128-sha256", 48),    // RFC 3602, RFC 4868 2.1.1
            ("aes256-sha512", 96),    // RFC 3602, RFC 4868 2.1.1
            ("null-sha1", 20),        // RFC 2410, RFC 2404 3
            ("ah-sha1", 20),          // RFC 2404 3
            ("ah-sha384", 48),        // RFC 4868 2.1.1
            ("ah-aes128gmac", 20),    // RFC 4543 5.4
        ] {
            let proposal: ChildProposal = name.parse().unwrap();
            assert_eq!(proposal.protection.keymat_len(), octets, "{name}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| text.parse::<IkeProposal>().unwrap_err().to_string();
        assert_eq!(
            error("aes257-sha256-x25519"),
            "`aes257` is no algorithm known here"
        );
        assert!(error("aes256gcm16-x25519").contains("names no hash"));
        assert!(error("aes256gcm16-sha384").contains("names no key exchange"));
        assert!(error("aes256gcm16-sha384-sha384-x25519").contains("comes twice"));
        assert!(error("aes256gcm16-sha384-x25519-ke1_x25519").contains("`x25519` comes twice"));
        let twice = "aes256gcm16-sha384-x25519-ke1_mlkem512-ke1_mlkem768";
        assert!(error(twice).contains("comes twice"));
        assert!(error("aes256gcm16-sha384-x25519-ke8_mlkem768").contains("no algorithm"));
        assert!(error("aes256gcm16-sha384-mlkem1024").contains("x25519-ke1_mlkem1024"));
        assert!("aes256gcm16-sha384-mlkem768".parse::<IkeProposal>().is_ok());
        let error = |text: &str| text.parse::<ChildProposal>().unwrap_err().to_string();
        assert!(error("aes128").contains("names no integrity"));
        assert!(error("aes128gcm16-sha256").contains("does not belong"));
        assert!(error("sha256").contains("names no encryption"));
        assert!(error("aes128gcm16-ke1_mlkem768").contains("names no first key exchange"));
        assert!(error("ah-x25519").contains("names no integrity"));
        assert!(error("ah-sha256-sha1").contains("comes twice"));
        assert!(error("ah-aes256gcm16").contains("no algorithm known"));
    }
}
