//! Which AEADs there are, and how long their parts are (RFC 4106).

use core::fmt;

/// An AEAD of ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-GCM with a 128-bit key, explicit IV and 16-byte ICV (RFC 4106).
    Aes128Gcm16,
    /// AES-GCM with a 256-bit key, explicit IV and 16-byte ICV (RFC 4106).
    Aes256Gcm16,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Aes128Gcm16, Self::Aes256Gcm16];

    /// The length of the key without the salt.
    #[inline]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 => 16,
            Self::Aes256Gcm16 => 32,
        }
    }

    /// The length of the salt, which follows the key in the key material.
    ///
    /// RFC 4106 4: "The salt field is a four-octet value that is assigned at the beginning of the security association".
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
        8
    }

    /// The length of the integrity check value.
    #[inline]
    pub const fn icv_len(self) -> usize {
        ICV_LEN
    }
}

/// The ICV of every algorithm so far.
pub(crate) const ICV_LEN: usize = 16;

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm16 => "aes-128-gcm-16",
            Self::Aes256Gcm16 => "aes-256-gcm-16",
        })
    }
}
