//! Which transforms of ESP there are, what they are called, and how long their parts are.

use core::fmt;

/// The length of an AES key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AesKey {
    /// 128 bits.
    Bits128 = 16,
    /// 192 bits.
    Bits192 = 24,
    /// 256 bits.
    Bits256 = 32,
}

impl AesKey {
    /// In bytes.
    #[inline]
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// In bits.
    #[inline]
    pub const fn bits(self) -> usize {
        8 * self.bytes()
    }

    /// The rounds of the cipher (FIPS 197 5).
    #[inline]
    pub const fn rounds(self) -> usize {
        self.bytes() / 4 + 6
    }
}

/// Whether packets carry the IV that an AEAD takes from the sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IvForm {
    /// They do, in 8 bytes (RFC 4106 3.1).
    Explicit,
    /// They do not: the receiver takes the sequence number (RFC 8750).
    Implicit,
}

/// A transform of ESP, with all that IKE negotiates about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-GCM with a 16-byte ICV (RFC 4106, RFC 8750).
    AesGcm(AesKey, IvForm),
    /// ChaCha20-Poly1305 (RFC 7634, RFC 8750).
    ChaCha20Poly1305(IvForm),
}

use AesKey::{Bits128, Bits192, Bits256};
use IvForm::{Explicit, Implicit};

impl Algorithm {
    /// AES-GCM with a 128-bit key and explicit IV.
    pub const AES_128_GCM_16: Self = Self::AesGcm(Bits128, Explicit);
    /// AES-GCM with a 192-bit key and explicit IV.
    pub const AES_192_GCM_16: Self = Self::AesGcm(Bits192, Explicit);
    /// AES-GCM with a 256-bit key and explicit IV.
    pub const AES_256_GCM_16: Self = Self::AesGcm(Bits256, Explicit);
    /// ChaCha20-Poly1305 with explicit IV.
    pub const CHACHA20_POLY1305: Self = Self::ChaCha20Poly1305(Explicit);

    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AES_128_GCM_16,
        Self::AES_192_GCM_16,
        Self::AES_256_GCM_16,
        Self::CHACHA20_POLY1305,
        Self::AesGcm(Bits128, Implicit),
        Self::AesGcm(Bits192, Implicit),
        Self::AesGcm(Bits256, Implicit),
        Self::ChaCha20Poly1305(Implicit),
    ];

    /// The length of the key without the salt.
    #[inline]
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesGcm(key, _) => key.bytes(),
            Self::ChaCha20Poly1305(_) => 32,
        }
    }

    /// The length of the salt, which follows the key in the key material.
    ///
    /// RFC 4106 4: "The salt field is a four-octet value that is assigned at the beginning of the security association".
    /// RFC 7634 2: "a 32-bit Salt".
    #[inline]
    pub const fn salt_len(self) -> usize {
        4
    }

    /// The length of the key material that IKE derives for one direction (RFC 4106 8.1): key and salt.
    #[inline]
    pub const fn key_material_len(self) -> usize {
        self.key_len() + self.salt_len()
    }

    /// The length of the IV that each packet carries.
    #[inline]
    pub const fn iv_len(self) -> usize {
        match self {
            Self::AesGcm(_, form) | Self::ChaCha20Poly1305(form) => match form {
                Explicit => 8,
                Implicit => 0,
            },
        }
    }

    /// The length of the integrity check value.
    #[inline]
    pub const fn icv_len(self) -> usize {
        ICV_LEN
    }

    /// Of AES, for the kernels that sort packets by them.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) const fn aes_rounds(self) -> usize {
        match self {
            Self::AesGcm(key, _) => key.rounds(),
            Self::ChaCha20Poly1305(_) => 0,
        }
    }
}

/// The ICV of the AEADs.
pub(crate) const ICV_LEN: usize = 16;

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self {
            Self::AesGcm(key, form) => {
                write!(f, "aes-{}-gcm-16", key.bits())?;
                form
            }
            Self::ChaCha20Poly1305(form) => {
                f.write_str("chacha20-poly1305")?;
                form
            }
        };
        match form {
            Explicit => Ok(()),
            Implicit => f.write_str("-iiv"),
        }
    }
}
