//! What is done to the packets of a child SA.

use std::fmt;

use super::algorithm::{AhIntegrity, EspEncryption, EspIntegrity};
use crate::wire::proposal::protocol;

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
