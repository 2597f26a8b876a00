//! Key exchange (RFC 7296 2.12, 3.4) and signatures, passed into the endpoint because they draw
//! randomness of their own. [`SystemProvider`] is the one for use; a test may bring another.

mod ml_kem;
mod modp;

use aws_lc_rs::agreement::{
    ECDH_P256, ECDH_P384, ECDH_P521, EphemeralPrivateKey, UnparsedPublicKey, X25519,
    agree_ephemeral,
};
use aws_lc_rs::rand::SystemRandom;

use esplanade_pki::{Certificate, PrivateKey, Scheme, SignatureError};

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

/// Makes key exchanges, and signatures.
pub trait Provider: Send + Sync {
    /// Draws the private value of an initiator.
    fn generate(&self, method: KeyExchangeMethod)
    -> Result<Box<dyn KeyExchange>, KeyExchangeError>;

    /// Answers the Key Exchange Data of an initiator: our own, and the shared secret.
    fn respond(
        &self,
        method: KeyExchangeMethod,
        peer: &[u8],
    ) -> Result<(Vec<u8>, Secret), KeyExchangeError>;

    /// Signs a message.
    fn sign(
        &self,
        key: &PrivateKey,
        scheme: Scheme,
        message: &[u8],
    ) -> Result<Vec<u8>, SignatureError>;

    /// Checks a signature by the key of a certificate.
    fn verify(
        &self,
        certificate: &Certificate,
        scheme: Scheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError>;
}

/// An initiator's side of a key exchange: a private value, used once.
pub trait KeyExchange: Send {
    /// The method.
    fn method(&self) -> KeyExchangeMethod;
    /// The Key Exchange Data of our KE payload.
    fn public_value(&self) -> &[u8];
    /// The shared secret with the responder's Key Exchange Data.
    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyExchangeError>;
}

/// X25519, the NIST curves and ML-KEM by aws-lc-rs; MODP groups by constant-time big integers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemProvider;

impl Provider for SystemProvider {
    fn generate(
        &self,
        method: KeyExchangeMethod,
    ) -> Result<Box<dyn KeyExchange>, KeyExchangeError> {
        if let Some(algorithm) = ml_kem::algorithm(method) {
            return Ok(Box::new(ml_kem::Initiator::generate(method, algorithm)?));
        }
        Ok(match method {
            KeyExchangeMethod::Modp2048 => Box::new(modp::Private::generate(&modp::MODP2048)?),
            KeyExchangeMethod::Modp3072 => Box::new(modp::Private::generate(&modp::MODP3072)?),
            KeyExchangeMethod::Modp4096 => Box::new(modp::Private::generate(&modp::MODP4096)?),
            _ => Box::new(Ecdh::generate(method)?),
        })
    }

    fn respond(
        &self,
        method: KeyExchangeMethod,
        peer: &[u8],
    ) -> Result<(Vec<u8>, Secret), KeyExchangeError> {
        if let Some(algorithm) = ml_kem::algorithm(method) {
            return ml_kem::respond(algorithm, peer);
        }
        // Both sides of a Diffie-Hellman exchange do the same.
        let ours = self.generate(method)?;
        let public = ours.public_value().to_vec();
        Ok((public, ours.agree(peer)?))
    }

    fn sign(
        &self,
        key: &PrivateKey,
        scheme: Scheme,
        message: &[u8],
    ) -> Result<Vec<u8>, SignatureError> {
        key.sign(scheme, message)
    }

    fn verify(
        &self,
        certificate: &Certificate,
        scheme: Scheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        certificate.verify(scheme, message, signature)
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
            KeyExchangeMethod::P521 => &ECDH_P521,
            _ => &X25519,
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
            let initiator = SystemProvider.generate(method).unwrap();
            let public = initiator.public_value().to_vec();
            let (answer, responder) = SystemProvider.respond(method, &public).unwrap();
            let initiator = initiator.agree(&answer).unwrap();
            assert_eq!(initiator, responder, "{method}");
            assert!(!responder.expose().is_empty());
        }
    }

    /// RFC 8031 2, RFC 5903 7, RFC 3526, and FIPS 203 8 table 3.
    #[test]
    fn public_values_have_the_lengths_of_their_groups() {
        for (method, there, back) in [
            (KeyExchangeMethod::X25519, 32, 32),
            (KeyExchangeMethod::P256, 64, 64),
            (KeyExchangeMethod::P384, 96, 96),
            (KeyExchangeMethod::P521, 132, 132),
            (KeyExchangeMethod::Modp2048, 256, 256),
            (KeyExchangeMethod::Modp3072, 384, 384),
            (KeyExchangeMethod::Modp4096, 512, 512),
            (KeyExchangeMethod::MlKem512, 800, 768),
            (KeyExchangeMethod::MlKem768, 1184, 1088),
            (KeyExchangeMethod::MlKem1024, 1568, 1568),
        ] {
            let initiator = SystemProvider.generate(method).unwrap();
            let (answer, _) = SystemProvider
                .respond(method, initiator.public_value())
                .unwrap();
            let lengths = (initiator.public_value().len(), answer.len());
            assert_eq!(lengths, (there, back), "{method}");
        }
    }

    /// For ML-KEM this is FIPS 203 7.2's check of the modulus: no coefficient of 12 ones is below it.
    #[test]
    fn bad_values_of_an_initiator_are_refused() {
        for &method in KeyExchangeMethod::ALL {
            let good = SystemProvider.generate(method).unwrap();
            let len = good.public_value().len();
            // Of X25519 any 32 octets are a point; zero gives the secret that RFC 8031 2.4 refuses.
            let fill = if method == KeyExchangeMethod::X25519 {
                0
            } else {
                0xff
            };
            for bad in [vec![], vec![fill; len], vec![1; len - 1], vec![1; len + 1]] {
                let refused = SystemProvider.respond(method, &bad).map(|_| ());
                assert_eq!(
                    refused,
                    Err(KeyExchangeError::InvalidPublicValue),
                    "{method}"
                );
            }
        }
    }

    #[test]
    fn bad_values_of_a_responder_are_refused() {
        for &method in KeyExchangeMethod::ALL {
            let public = SystemProvider.generate(method).unwrap();
            let (answer, _) = SystemProvider
                .respond(method, public.public_value())
                .unwrap();
            let mut bad = vec![vec![], answer[1..].to_vec()];
            // Any ciphertext of ML-KEM decapsulates to something.
            if ml_kem::algorithm(method).is_none() {
                bad.push(vec![0; answer.len()]);
            }
            for bad in bad {
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
