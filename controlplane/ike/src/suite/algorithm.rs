//! The algorithms: their names, their transform numbers and the lengths of their keys.

use std::fmt;

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

            /// The names of all.
            pub fn names() -> impl Iterator<Item = &'static str> {
                Self::ALL.iter().map(|algorithm| algorithm.name())
            }

            /// The algorithm with this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|algorithm| algorithm.name() == name)
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
        P384 = 20, None, "ecp384";
        /// The NIST curve P-256.
        P256 = 19, None, "ecp256";
        /// The NIST curve P-521.
        P521 = 21, None, "ecp521";
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

    /// Whether it hides anything.
    pub const fn hides(self) -> bool {
        !matches!(
            self,
            Self::Aes256Gmac | Self::Aes192Gmac | Self::Aes128Gmac | Self::Null
        )
    }

    /// Octets of keying material: the key, and for combined modes a salt behind it (RFC 4106 8.1,
    /// RFC 7634 2, RFC 4309 7.1, RFC 4543 5.4).
    pub(super) const fn keymat_len(self) -> usize {
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
    pub(super) const fn keymat_len(self) -> usize {
        match self {
            Self::HmacSha512 => 64,
            Self::HmacSha384 => 48,
            Self::HmacSha256 => 32,
            Self::HmacSha1 => 20,
        }
    }
}

impl AhIntegrity {
    /// Octets of keying material (RFC 4868 2.1.1, RFC 2404 3; RFC 4543 5.4: the key and a salt).
    pub(super) const fn keymat_len(self) -> usize {
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
