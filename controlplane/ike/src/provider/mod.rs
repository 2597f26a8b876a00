//! Key exchange (RFC 7296 2.12, 3.4), passed into the endpoint because it draws randomness of its
//! own. [`SystemProvider`] is the one for use; a test may bring another.

mod modp;

use aws_lc_rs::agreement::{
    ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral,
};
use aws_lc_rs::rand::SystemRandom;

use crate::secret::Secret;
use crate::suite::KeyExchangeMethod;

/// Why a key exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyExchangeError {
    /// The peer's public value is none of its group.
    #[error("the peer's public value is not valid")]
    InvalidPublicValue,
    /// The system gave no randomness.
    #[error("no key could be generated")]
    Generation,
}

/// Makes key exchanges.
pub trait Provider: Send + Sync {
    /// Draws a private value of the method.
    fn generate(&self, method: KeyExchangeMethod)
    -> Result<Box<dyn KeyExchange>, KeyExchangeError>;
}

/// One side of a key exchange: a private value, used once.
pub trait KeyExchange: Send {
    /// The method.
    fn method(&self) -> KeyExchangeMethod;
    /// The Key Exchange Data of our KE payload.
    fn public_value(&self) -> &[u8];
    /// The shared secret with the peer's Key Exchange Data.
    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyExchangeError>;
}

/// X25519, P-256 and P-384 by aws-lc-rs; MODP-2048 by constant-time big integers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemProvider;

impl Provider for SystemProvider {
    fn generate(
        &self,
        method: KeyExchangeMethod,
    ) -> Result<Box<dyn KeyExchange>, KeyExchangeError> {
        Ok(match method {
            KeyExchangeMethod::Modp2048 => Box::new(modp::Modp2048::generate()?),
            _ => Box::new(Ecdh::generate(method)?),
        })
    }
}

struct Ecdh {
    method: KeyExchangeMethod,
    private: EphemeralPrivateKey,
    public: Vec<u8>,
}

/// SEC 1's prefix of an uncompressed point, which IKE leaves out (RFC 5903 7).
const UNCOMPRESSED: u8 = 4;

impl Ecdh {
    fn algorithm(method: KeyExchangeMethod) -> &'static aws_lc_rs::agreement::Algorithm {
        match method {
            KeyExchangeMethod::P256 => &ECDH_P256,
            KeyExchangeMethod::P384 => &ECDH_P384,
            KeyExchangeMethod::X25519 | KeyExchangeMethod::Modp2048 => &X25519,
        }
    }

    fn generate(method: KeyExchangeMethod) -> Result<Self, KeyExchangeError> {
        let algorithm = Self::algorithm(method);
        let private = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())
            .map_err(|_| KeyExchangeError::Generation)?;
        let public = private
            .compute_public_key()
            .map_err(|_| KeyExchangeError::Generation)?;
        // RFC 5903 7: the public value "consists of two components, x and y"
        let public = match (method, public.as_ref()) {
            (KeyExchangeMethod::X25519, octets) => octets.to_vec(),
            (_, octets) => octets.get(1..).unwrap_or_default().to_vec(),
        };
        Ok(Self {
            method,
            private,
            public,
        })
    }
}

impl KeyExchange for Ecdh {
    fn method(&self) -> KeyExchangeMethod {
        self.method
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyExchangeError> {
        let invalid = KeyExchangeError::InvalidPublicValue;
        if peer.len() != self.public.len() {
            return Err(invalid);
        }
        let point = match self.method {
            KeyExchangeMethod::X25519 => peer.to_vec(),
            _ => [&[UNCOMPRESSED], peer].concat(),
        };
        // RFC 8031 2.4: an all-zero result is refused, and so is a point off the curve (RFC 6989):
        // aws-lc does both.
        let peer = UnparsedPublicKey::new(Self::algorithm(self.method), point);
        agree_ephemeral(self.private, peer, invalid, |shared| {
            Ok(Secret::from(shared))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_agree() {
        for &method in KeyExchangeMethod::ALL {
            let (a, b) = (
                SystemProvider.generate(method).unwrap(),
                SystemProvider.generate(method).unwrap(),
            );
            let (public_a, public_b) = (a.public_value().to_vec(), b.public_value().to_vec());
            let (a, b) = (a.agree(&public_b).unwrap(), b.agree(&public_a).unwrap());
            assert_eq!(a, b, "{method}");
            assert!(!a.expose().is_empty());
        }
    }

    #[test]
    fn bad_public_values_are_refused() {
        for &method in KeyExchangeMethod::ALL {
            let len = SystemProvider
                .generate(method)
                .unwrap()
                .public_value()
                .len();
            for bad in [vec![], vec![0; len], vec![0xff; len - 1]] {
                let side = SystemProvider.generate(method).unwrap();
                assert_eq!(
                    side.agree(&bad),
                    Err(KeyExchangeError::InvalidPublicValue),
                    "{method}"
                );
            }
        }
    }
}
