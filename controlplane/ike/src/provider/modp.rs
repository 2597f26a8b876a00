//! The 2048-bit MODP group (RFC 3526 3) with constant-time big integers.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use crypto_bigint::modular::ConstMontyForm;
use crypto_bigint::{U512, U2048, const_monty_params};
use zeroize::Zeroizing;

use super::{KeyExchange, KeyExchangeError};
use crate::secret::Secret;
use crate::suite::KeyExchangeMethod;

/// Octets of a public value. RFC 7296 3.4: "The length of the Diffie-Hellman public value for
/// MODP groups MUST be equal to the length of the prime modulus over which the exponentiation
/// was performed, prepending zero bits to the value if necessary."
const VALUE_LEN: usize = 256;

/// Octets of a private exponent: more than twice the 220 to 320 bits that RFC 3526 8 asks for.
const EXPONENT_LEN: usize = 64;

const PRIME_HEX: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
    020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
    98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
    9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
    3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF\
    ";

const_monty_params!(Prime, U2048, PRIME_HEX, "The prime of RFC 3526 3.");

type Element = ConstMontyForm<Prime, { U2048::LIMBS }>;

pub(super) struct Modp2048 {
    exponent: Zeroizing<U512>,
    public: Vec<u8>,
}

impl Modp2048 {
    pub(super) fn generate() -> Result<Self, KeyExchangeError> {
        let mut octets = Zeroizing::new([0; EXPONENT_LEN]);
        SystemRandom::new()
            .fill(octets.as_mut_slice())
            .map_err(|_| KeyExchangeError::Generation)?;
        let exponent = Zeroizing::new(U512::from_be_slice(octets.as_slice()));
        let generator = Element::new(&U2048::from_u8(2));
        let public = generator.pow(&*exponent).retrieve().to_be_bytes();
        Ok(Self {
            exponent,
            public: public.as_ref().to_vec(),
        })
    }
}

/// The peer's public value y, if 1 < y < p - 1 (RFC 6989 2.1).
fn public_value(octets: &[u8]) -> Option<U2048> {
    if octets.len() != VALUE_LEN {
        return None;
    }
    let value = U2048::from_be_slice(octets);
    let last = U2048::from_be_hex(PRIME_HEX).wrapping_sub(&U2048::ONE);
    (value > U2048::ONE && value < last).then_some(value)
}

impl KeyExchange for Modp2048 {
    fn method(&self) -> KeyExchangeMethod {
        KeyExchangeMethod::Modp2048
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyExchangeError> {
        let peer = public_value(peer).ok_or(KeyExchangeError::InvalidPublicValue)?;
        let shared = Zeroizing::new(Element::new(&peer).pow(&*self.exponent).retrieve());
        // RFC 7296 2.14: "g^ir is represented as a string of octets in big endian order padded
        // with zeros if necessary to make it the length of the modulus"
        Ok(Secret::new(shared.to_be_bytes().as_ref().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_at_the_edges_of_the_group_are_refused() {
        let prime = U2048::from_be_hex(PRIME_HEX);
        let octets = |value: &U2048| value.to_be_bytes().as_ref().to_vec();
        let minus = |n: u8| prime.wrapping_sub(&U2048::from_u8(n));
        for bad in [U2048::ZERO, U2048::ONE, minus(1), prime, U2048::MAX] {
            assert_eq!(public_value(&octets(&bad)), None);
        }
        for good in [U2048::from_u8(2), minus(2)] {
            assert_eq!(public_value(&octets(&good)), Some(good));
        }
    }
}
