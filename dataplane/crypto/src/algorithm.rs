//! Which transforms of ESP and AH there are, and how long their parts are.

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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bits128, Self::Bits192, Self::Bits256];

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

/// A cipher that needs an integrity algorithm beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// AES in CBC mode (RFC 3602).
    AesCbc(AesKey),
    /// None at all (RFC 2410).
    Null,
}

/// An HMAC, truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hmac {
    /// HMAC-SHA2-256-128 (RFC 4868).
    Sha2_256,
    /// HMAC-SHA2-384-192 (RFC 4868).
    Sha2_384,
    /// HMAC-SHA2-512-256 (RFC 4868).
    Sha2_512,
    /// HMAC-SHA1-96 (RFC 2404).
    Sha1,
}

impl Hmac {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha2_256, Self::Sha2_384, Self::Sha2_512, Self::Sha1];

    /// The length of the key, which is that of the hash (RFC 4868 2.1.1, RFC 2404 3).
    #[inline]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Sha2_256 => 32,
            Self::Sha2_384 => 48,
            Self::Sha2_512 => 64,
            Self::Sha1 => 20,
        }
    }

    /// The length of the integrity check value.
    #[inline]
    pub const fn icv_len(self) -> usize {
        match self {
            Self::Sha2_256 => 16,
            Self::Sha2_384 => 24,
            Self::Sha2_512 => 32,
            Self::Sha1 => 12,
        }
    }
}

/// A transform of ESP, or two that go together, with all that IKE negotiates about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-GCM with a 16-byte ICV (RFC 4106, RFC 8750).
    AesGcm(AesKey, IvForm),
    /// ChaCha20-Poly1305 (RFC 7634, RFC 8750).
    ChaCha20Poly1305(IvForm),
    /// AES-CCM with a 16-byte ICV (RFC 4309, RFC 8750).
    AesCcm(AesKey, IvForm),
    /// AES-GMAC, which authenticates and does not encrypt (RFC 4543, ENCR_NULL_AUTH_AES_GMAC).
    AesGmac(AesKey),
    /// A cipher, and then an HMAC (RFC 4303 3.3.2.1).
    EncryptThenMac(Encryption, Hmac),
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
    pub const ALL: [Self; 33] = {
        let mut all = [Self::CHACHA20_POLY1305; 33];
        all[1] = Self::ChaCha20Poly1305(Implicit);
        let mut at = 2;
        let mut key = 0;
        while key < AesKey::ALL.len() {
            let aes = AesKey::ALL[key];
            all[at] = Self::AesGcm(aes, Explicit);
            all[at + 1] = Self::AesGcm(aes, Implicit);
            all[at + 2] = Self::AesCcm(aes, Explicit);
            all[at + 3] = Self::AesCcm(aes, Implicit);
            all[at + 4] = Self::AesGmac(aes);
            at += 5;
            key += 1;
        }
        let mut hmac = 0;
        while hmac < Hmac::ALL.len() {
            let mac = Hmac::ALL[hmac];
            all[at] = Self::EncryptThenMac(Encryption::AesCbc(Bits128), mac);
            all[at + 1] = Self::EncryptThenMac(Encryption::AesCbc(Bits192), mac);
            all[at + 2] = Self::EncryptThenMac(Encryption::AesCbc(Bits256), mac);
            all[at + 3] = Self::EncryptThenMac(Encryption::Null, mac);
            at += 4;
            hmac += 1;
        }
        assert!(at == all.len());
        all
    };

    /// Whether it is on unless the operator says otherwise: RFC 8221 5 and 6 say MUST or SHOULD of it, and it encrypts.
    /// The others are there for those who ask by name: 192-bit keys ("remain at the MAY level"), CCM with its long ICV,
    /// implicit IVs and SHA-384 (not mentioned), GMAC (MAY), SHA-1 (MUST-, "an industry-wide trend to deprecate its usage"),
    /// and NULL, which is a MUST to have, not to use.
    pub const fn is_default(self) -> bool {
        match self {
            Self::AesGcm(key, Explicit) => !matches!(key, Bits192),
            Self::ChaCha20Poly1305(form) => matches!(form, Explicit),
            Self::EncryptThenMac(Encryption::AesCbc(key), mac) => {
                !matches!(key, Bits192) && matches!(mac, Hmac::Sha2_256 | Hmac::Sha2_512)
            }
            Self::AesGcm(_, Implicit) | Self::AesCcm(..) | Self::AesGmac(_) => false,
            Self::EncryptThenMac(Encryption::Null, _) => false,
        }
    }

    /// The length of the cipher's key, without salt or integrity key.
    #[inline]
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesGcm(key, _) | Self::AesCcm(key, _) | Self::AesGmac(key) => key.bytes(),
            Self::ChaCha20Poly1305(_) => 32,
            Self::EncryptThenMac(Encryption::AesCbc(key), _) => key.bytes(),
            Self::EncryptThenMac(Encryption::Null, _) => 0,
        }
    }

    /// The length of the salt, which follows the key in the key material.
    ///
    /// RFC 4106 4: "The salt field is a four-octet value that is assigned at the beginning of the security association".
    /// RFC 4309 4: "The salt field is 24 bits."
    #[inline]
    pub const fn salt_len(self) -> usize {
        match self {
            Self::AesGcm(..) | Self::ChaCha20Poly1305(_) | Self::AesGmac(_) => 4,
            Self::AesCcm(..) => 3,
            Self::EncryptThenMac(..) => 0,
        }
    }

    /// The length of the integrity key, which follows the cipher's.
    #[inline]
    pub const fn integrity_key_len(self) -> usize {
        match self {
            Self::EncryptThenMac(_, mac) => mac.key_len(),
            _ => 0,
        }
    }

    /// The length of the key material that IKE derives for one direction.
    ///
    /// RFC 4106 8.1: key and salt. RFC 7296 2.17: "the encryption key (if any) MUST be taken from the first bits and the
    /// integrity key (if any) MUST be taken from the remaining bits."
    #[inline]
    pub const fn key_material_len(self) -> usize {
        self.key_len() + self.salt_len() + self.integrity_key_len()
    }

    /// The length of the IV that each packet carries.
    #[inline]
    pub const fn iv_len(self) -> usize {
        match self {
            Self::AesGcm(_, form) | Self::ChaCha20Poly1305(form) | Self::AesCcm(_, form) => {
                match form {
                    Explicit => 8,
                    Implicit => 0,
                }
            }
            Self::AesGmac(_) => 8,
            Self::EncryptThenMac(Encryption::AesCbc(_), _) => 16,
            Self::EncryptThenMac(Encryption::Null, _) => 0,
        }
    }

    /// The length of the integrity check value.
    #[inline]
    pub const fn icv_len(self) -> usize {
        match self {
            Self::EncryptThenMac(_, mac) => mac.icv_len(),
            _ => ICV_LEN,
        }
    }

    /// Payload and trailer together end on so many bytes.
    ///
    /// RFC 4303 2.4: "the resulting ciphertext terminates on a 4-byte boundary", and for CBC, on one of the cipher's blocks.
    #[inline]
    pub const fn alignment(self) -> usize {
        match self {
            Self::EncryptThenMac(Encryption::AesCbc(_), _) => 16,
            _ => 4,
        }
    }

    /// Whether its IVs must be unpredictable, or are the sequence number.
    #[inline]
    pub const fn has_unpredictable_iv(self) -> bool {
        matches!(self, Self::EncryptThenMac(Encryption::AesCbc(_), _))
    }

    /// The rounds of AES-GCM's cipher, 0 for what is not AES-GCM.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn gcm_rounds(self) -> u8 {
        match self {
            Self::AesGcm(key, _) => key.rounds() as u8,
            _ => 0,
        }
    }
}

/// The ICV of the AEADs.
pub(crate) const ICV_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_different() {
        for (at, algorithm) in Algorithm::ALL.iter().enumerate() {
            assert!(!Algorithm::ALL[..at].contains(algorithm), "{algorithm}");
        }
    }

    #[test]
    fn rfc_8221_decides_what_is_on() {
        let names: Vec<_> = Algorithm::ALL
            .iter()
            .filter(|algorithm| algorithm.is_default())
            .map(Algorithm::to_string)
            .collect();
        let expected = [
            "chacha20-poly1305",
            "aes-128-gcm-16",
            "aes-256-gcm-16",
            "aes-128-cbc-hmac-sha2-256-128",
            "aes-256-cbc-hmac-sha2-256-128",
            "aes-128-cbc-hmac-sha2-512-256",
            "aes-256-cbc-hmac-sha2-512-256",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn key_material_is_as_long_as_the_rfcs_say() {
        let lengths = [
            ("aes-128-gcm-16", 20),                // RFC 4106 8.1
            ("aes-192-gcm-16", 28),                // RFC 4106 8.1
            ("chacha20-poly1305", 36),             // RFC 7634 2
            ("aes-128-ccm-16", 19),                // RFC 4309 7.1
            ("aes-256-ccm-16", 35),                // RFC 4309 7.1
            ("aes-192-gmac", 28),                  // RFC 4543 5.4
            ("null-hmac-sha1-96", 20),             // RFC 2404 3
            ("aes-128-cbc-hmac-sha2-256-128", 48), // RFC 3602 2.1, RFC 4868 2.1.1
            ("aes-256-cbc-hmac-sha2-512-256", 96), // RFC 3602 2.1, RFC 4868 2.1.1
        ];
        for (name, length) in lengths {
            let algorithm: Algorithm = name.parse().unwrap();
            assert_eq!(algorithm.key_material_len(), length, "{name}");
        }
    }
}
