//! The keys of an SA: key schedule and salt, wiped when dropped.

use crate::{Algorithm, EngineKind, engine::Cipher};
use core::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Why a key was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key material has another length than the algorithm's.
    #[error("{algorithm} takes {expected} bytes of key material (key and salt), not {found}")]
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

/// The length of the salt of all algorithms so far.
pub(crate) const SALT_LEN: usize = 4;
/// Salt and explicit IV (RFC 4106 4).
pub(crate) const NONCE_LEN: usize = 12;

/// What both directions have.
struct Key {
    cipher: Cipher,
    salt: [u8; SALT_LEN],
    algorithm: Algorithm,
}

impl Key {
    fn new(
        engine: EngineKind,
        algorithm: Algorithm,
        key_material: &[u8],
    ) -> Result<Self, KeyError> {
        let wrong_length = KeyError::Length {
            algorithm,
            expected: algorithm.key_material_len(),
            found: key_material.len(),
        };
        // RFC 4106 8.1: "the remaining four octets are used as the salt value in the nonce."
        let (key, salt) = key_material
            .split_last_chunk()
            .filter(|(key, _)| key.len() == algorithm.key_len())
            .ok_or(wrong_length)?;
        let cipher = Cipher::new(engine, algorithm, key, *salt)
            .ok_or(KeyError::Refused { engine, algorithm })?;
        Ok(Self {
            cipher,
            salt: *salt,
            algorithm,
        })
    }

    #[inline]
    fn nonce(&self, iv: [u8; 8]) -> [u8; NONCE_LEN] {
        let [a, b, c, d] = self.salt;
        let [e, f, g, h, i, j, k, l] = iv;
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// All that may be shown.
    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("algorithm", &self.algorithm)
            .field("engine", &self.cipher.engine())
            .finish_non_exhaustive()
    }
}

impl Drop for Key {
    /// The cipher wipes itself.
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
            /// The key of an engine, from the key material (key, then salt).
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

            /// Whose it is.
            #[inline]
            pub fn engine(&self) -> EngineKind {
                self.0.cipher.engine()
            }

            #[inline]
            pub(crate) fn cipher(&self) -> &Cipher {
                &self.0.cipher
            }

            /// The key schedule of the AVX-512 kernels, when it is theirs, and its rounds.
            #[cfg(target_arch = "x86_64")]
            #[inline]
            pub(crate) fn vaes512(&self) -> Option<(&crate::vaes512::Schedule, usize)> {
                let rounds = self.0.algorithm.aes_rounds();
                self.0.cipher.vaes512().map(|schedule| (schedule, rounds))
            }

            /// The key schedule of the AVX2 kernels, when it is theirs.
            #[cfg(target_arch = "x86_64")]
            #[inline]
            pub(crate) fn vaes256(&self) -> Option<&crate::vaes256::Schedule> {
                self.0.cipher.vaes256()
            }

            #[inline]
            pub(crate) fn nonce(&self, iv: [u8; 8]) -> [u8; NONCE_LEN] {
                self.0.nonce(iv)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_is_refused_by_name() {
        for engine in EngineKind::available() {
            for algorithm in Algorithm::ALL.into_iter().filter(|kind| engine.does(*kind)) {
                for found in (0..80).filter(|length| *length != algorithm.key_material_len()) {
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
            "aes-128-gcm-16 takes 20 bytes of key material (key and salt), not 16"
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
