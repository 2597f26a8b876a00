//! ML-KEM (FIPS 203) as a key exchange: the initiator's public value is its encapsulation key, the
//! responder's the ciphertext.

use aws_lc_rs::kem::{
    Algorithm, AlgorithmId, DecapsulationKey, EncapsulationKey, ML_KEM_512, ML_KEM_768, ML_KEM_1024,
};

use super::{KeyExchange, KeyExchangeError};
use crate::secret::Secret;
use crate::suite::KeyExchangeMethod;

/// The parameter set of a method, if it is one of ML-KEM.
pub(super) const fn algorithm(
    method: KeyExchangeMethod,
) -> Option<&'static Algorithm<AlgorithmId>> {
    match method {
        KeyExchangeMethod::MlKem512 => Some(&ML_KEM_512),
        KeyExchangeMethod::MlKem768 => Some(&ML_KEM_768),
        KeyExchangeMethod::MlKem1024 => Some(&ML_KEM_1024),
        _ => None,
    }
}

/// The initiator's side.
pub(super) struct Initiator {
    method: KeyExchangeMethod,
    private: DecapsulationKey,
    public: Vec<u8>,
}

impl Initiator {
    pub(super) fn generate(
        method: KeyExchangeMethod,
        algorithm: &'static Algorithm<AlgorithmId>,
    ) -> Result<Self, KeyExchangeError> {
        let failed = |_| KeyExchangeError::Generation;
        let private = DecapsulationKey::generate(algorithm).map_err(failed)?;
        let public = private
            .encapsulation_key()
            .and_then(|key| Ok(key.key_bytes()?.as_ref().to_vec()))
            .map_err(failed)?;
        Ok(Self {
            method,
            private,
            public,
        })
    }
}

impl KeyExchange for Initiator {
    fn method(&self) -> KeyExchangeMethod {
        self.method
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    /// FIPS 203 7.3 has the length of the ciphertext checked; one that is forged gives a secret that
    /// the peer does not have.
    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyExchangeError> {
        let shared = self.private.decapsulate(peer.into());
        let shared = shared.map_err(|_| KeyExchangeError::InvalidPublicValue)?;
        Ok(Secret::from(shared.as_ref()))
    }
}

/// The responder's side: the ciphertext for the initiator's encapsulation key, and the secret in it.
/// FIPS 203 7.2 has the length of the key and its modulus checked, which aws-lc does.
pub(super) fn respond(
    algorithm: &'static Algorithm<AlgorithmId>,
    peer: &[u8],
) -> Result<(Vec<u8>, Secret), KeyExchangeError> {
    let invalid = || KeyExchangeError::InvalidPublicValue;
    let key = EncapsulationKey::new(algorithm, peer).map_err(|_| invalid())?;
    let (ciphertext, shared) = key.encapsulate().map_err(|_| invalid())?;
    Ok((ciphertext.as_ref().to_vec(), Secret::from(shared.as_ref())))
}
