//! The keys of an SA: key schedule and salt, wiped when dropped.

use crate::{
    AdditionalData, Algorithm, EngineKind, IvForm,
    engine::{Cipher, EncryptThenMac, Opening, Sealing, Text, gmac},
    iv,
};
use core::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Why a key was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key material has another length than the algorithm's.
    #[error("{algorithm} takes {expected} bytes of key material, not {found}")]
    Length {
        /// For which algorithm.
        algorithm: Algorithm,
        /// What it takes.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// The engine does not do the algorithm, or would not take the key.
    #[error("the engine {engine} does not take a key for {algorithm}")]
    Refused {
        /// Which engine.
        engine: EngineKind,
        /// Which algorithm.
        algorithm: Algorithm,
    },
}

/// The length of the longest salt.
pub(crate) const SALT_LEN: usize = 4;
/// Salt and explicit IV (RFC 4106 4).
pub(crate) const NONCE_LEN: usize = 12;

/// What a key does to a packet.
enum Transform {
    Aead(Cipher),
    /// AES-GCM that encrypts nothing.
    Gmac(Box<Cipher>),
    EncryptThenMac(Box<EncryptThenMac>),
}

impl Transform {
    /// `None` when the engine does not do the algorithm. `rest` is what follows the cipher's key: salt or integrity key.
    fn new(engine: EngineKind, algorithm: Algorithm, key: &[u8], rest: &[u8]) -> Option<Self> {
        if !engine.does(algorithm) {
            return None;
        }
        Some(match algorithm {
            Algorithm::EncryptThenMac(encryption, mac) => {
                let keys = (key, rest);
                let made = EncryptThenMac::new(engine, encryption, mac, keys)?;
                Self::EncryptThenMac(Box::new(made))
            }
            Algorithm::AesGmac(aes) => {
                let gcm = Algorithm::AesGcm(aes, IvForm::Explicit);
                Self::Gmac(Box::new(Cipher::new(engine, gcm, key, salt(rest))?))
            }
            _ => Self::Aead(Cipher::new(engine, algorithm, key, salt(rest))?),
        })
    }

    const fn engine(&self) -> EngineKind {
        match self {
            Self::Aead(cipher) => cipher.engine(),
            Self::Gmac(cipher) => cipher.engine(),
            Self::EncryptThenMac(both) => both.engine(),
        }
    }
}

/// A salt at the end of the longest, where the start of a nonce is.
fn salt(bytes: &[u8]) -> [u8; SALT_LEN] {
    let mut salt = [0; SALT_LEN];
    for (to, from) in salt.iter_mut().rev().zip(bytes.iter().rev()) {
        *to = *from;
    }
    salt
}

/// What both directions have.
struct Key {
    transform: Transform,
    salt: [u8; SALT_LEN],
    algorithm: Algorithm,
    /// Of AES in GCM, for the kernels that sort packets by them, so that nothing has to be asked of the algorithm.
    #[cfg(target_arch = "x86_64")]
    rounds: u8,
}

impl Key {
    fn new(
        engine: EngineKind,
        algorithm: Algorithm,
        key_material: &[u8],
    ) -> Result<Self, KeyError> {
        let expected = algorithm.key_material_len();
        // RFC 4106 8.1: "the remaining four octets are used as the salt value in the nonce."
        let (key, rest) = key_material
            .split_at_checked(algorithm.key_len())
            .filter(|_| key_material.len() == expected)
            .ok_or(KeyError::Length {
                algorithm,
                expected,
                found: key_material.len(),
            })?;
        let transform = Transform::new(engine, algorithm, key, rest)
            .ok_or(KeyError::Refused { engine, algorithm })?;
        let salt = match algorithm.salt_len() {
            0 => [0; SALT_LEN],
            _ => salt(rest),
        };
        Ok(Self {
            transform,
            salt,
            algorithm,
            #[cfg(target_arch = "x86_64")]
            rounds: algorithm.gcm_rounds(),
        })
    }

    #[inline]
    fn nonce(&self, iv: [u8; 8]) -> [u8; NONCE_LEN] {
        let [a, b, c, d] = self.salt;
        let [e, f, g, h, i, j, k, l] = iv;
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// `None` leaves anything in the buffer.
    fn seal(
        &self,
        iv: &iv::Bytes,
        aad: &AdditionalData<'_>,
        trailer: &[u8],
        text: Text<'_>,
    ) -> Option<()> {
        match &self.transform {
            Transform::Aead(cipher) => cipher.seal(Sealing {
                nonce: self.nonce(iv.number()),
                aad: aad.as_bytes(),
                trailer,
                text,
            }),
            Transform::Gmac(cipher) => gmac::seal(cipher, &self.gmac_head(iv, aad), trailer, text),
            Transform::EncryptThenMac(both) => {
                both.seal(iv.on_wire(self.algorithm), aad, trailer, text)
            }
        }
    }

    /// `None` is a forged packet, and leaves anything in the buffer.
    fn open(&self, iv: &iv::Bytes, aad: &AdditionalData<'_>, text: Text<'_>) -> Option<()> {
        match &self.transform {
            Transform::Aead(cipher) => cipher.open(Opening {
                nonce: self.nonce(iv.number()),
                aad: aad.as_bytes(),
                text,
            }),
            Transform::Gmac(cipher) => gmac::open(cipher, &self.gmac_head(iv, aad), text),
            Transform::EncryptThenMac(both) => both.open(iv.on_wire(self.algorithm), aad, text),
        }
    }

    fn gmac_head<'a>(&self, iv: &'a iv::Bytes, aad: &'a AdditionalData<'_>) -> gmac::Head<'a> {
        gmac::Head {
            nonce: self.nonce(iv.number()),
            aad: aad.as_bytes(),
            iv: iv.on_wire(self.algorithm),
        }
    }

    /// The key schedule of the AVX-512 kernels, when it is theirs, and its rounds.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn vaes512(&self) -> Option<(&crate::vaes512::Schedule, u8)> {
        match &self.transform {
            Transform::Aead(cipher) => cipher.vaes512().map(|schedule| (schedule, self.rounds)),
            _ => None,
        }
    }

    /// The key schedule of the AVX2 kernels, when it is theirs.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn vaes256(&self) -> Option<&crate::vaes256::Schedule> {
        match &self.transform {
            Transform::Aead(cipher) => cipher.vaes256(),
            _ => None,
        }
    }

    /// All that may be shown.
    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("algorithm", &self.algorithm)
            .field("engine", &self.transform.engine())
            .finish_non_exhaustive()
    }
}

impl Drop for Key {
    /// The transform wipes itself.
    fn drop(&mut self) {
        self.salt.zeroize();
    }
}

impl ZeroizeOnDrop for Key {}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// It fits in a cache line; the key schedule lies behind a pointer. It is wiped when dropped, and shows nothing secret.
        pub struct $name(Key);

        const _: () = assert!(size_of::<$name>() <= 64);

        impl $name {
            /// The key of an engine, from the key material: the cipher's key, then the salt or the integrity key.
            ///
            /// # Errors
            ///
            /// The length is not the algorithm's, or the engine does not do the algorithm.
            pub fn new(engine: EngineKind, algorithm: Algorithm, key_material: &[u8]) -> Result<Self, KeyError> {
                Key::new(engine, algorithm, key_material).map(Self)
            }

            /// What it is for.
            #[inline]
            pub fn algorithm(&self) -> Algorithm {
                self.0.algorithm
            }

            /// Asks for the memory behind the key that a text of so many bytes takes, and does not wait for it: for who has
            /// more keys than the caches hold.
            #[inline]
            pub fn prefetch(&self, text: usize) {
                #[cfg(target_arch = "x86_64")]
                if let Some((schedule, rounds)) = self.vaes512() {
                    schedule.prefetch_for(usize::from(rounds), text);
                }
                #[cfg(not(target_arch = "x86_64"))]
                let _ = text;
            }

            /// Whose it is.
            #[inline]
            pub fn engine(&self) -> EngineKind {
                self.0.transform.engine()
            }

            /// The key schedule of the AVX-512 kernels, when it is theirs, and its rounds.
            #[cfg(target_arch = "x86_64")]
            #[inline]
            pub(crate) fn vaes512(&self) -> Option<(&crate::vaes512::Schedule, u8)> {
                self.0.vaes512()
            }

            /// What the kernels of ChaCha20-Poly1305 need, when it is theirs.
            #[cfg(target_arch = "x86_64")]
            #[inline]
            pub(crate) fn chacha512(&self) -> Option<&crate::chacha512::Schedule> {
                match &self.0.transform {
                    Transform::Aead(cipher) => cipher.chacha512(),
                    _ => None,
                }
            }

            /// The key schedule of the AVX2 kernels, when it is theirs.
            #[cfg(target_arch = "x86_64")]
            #[inline]
            pub(crate) fn vaes256(&self) -> Option<&crate::vaes256::Schedule> {
                self.0.vaes256()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.describe(stringify!($name), f)
            }
        }

        impl ZeroizeOnDrop for $name {}
    };
}

key! {
    /// The key of an outbound SA.
    SealingKey
}
key! {
    /// The key of an inbound SA.
    OpeningKey
}

impl SealingKey {
    /// `None` leaves anything in the buffer.
    pub(crate) fn seal(
        &self,
        iv: &iv::Bytes,
        aad: &AdditionalData<'_>,
        trailer: &[u8],
        text: Text<'_>,
    ) -> Option<()> {
        self.0.seal(iv, aad, trailer, text)
    }
}

impl OpeningKey {
    /// `None` is a forged packet, and leaves anything in the buffer.
    pub(crate) fn open(
        &self,
        iv: &iv::Bytes,
        aad: &AdditionalData<'_>,
        text: Text<'_>,
    ) -> Option<()> {
        self.0.open(iv, aad, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_is_refused_by_name() {
        for engine in EngineKind::available() {
            for algorithm in Algorithm::ALL.into_iter().filter(|kind| engine.does(*kind)) {
                for found in (0..120).filter(|length| *length != algorithm.key_material_len()) {
                    let error = SealingKey::new(*engine, algorithm, &vec![1; found]).unwrap_err();
                    let expected = algorithm.key_material_len();
                    assert_eq!(
                        error,
                        KeyError::Length {
                            algorithm,
                            expected,
                            found
                        }
                    );
                }
            }
        }
        let error =
            OpeningKey::new(EngineKind::Portable, Algorithm::AES_128_GCM_16, &[1; 16]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "aes-128-gcm-16 takes 20 bytes of key material, not 16"
        );
    }

    #[test]
    fn nothing_secret_is_shown() {
        for engine in EngineKind::available() {
            let key = SealingKey::new(*engine, Algorithm::AES_256_GCM_16, &[0xab; 36]).unwrap();
            let shown = format!("{key:?}");
            assert_eq!(
                shown,
                format!(
                    "SealingKey {{ algorithm: AesGcm(Bits256, Explicit), engine: {engine:?}, .. }}"
                )
            );
        }
    }
}
