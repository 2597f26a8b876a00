//! The MODP groups of 2048, 3072 and 4096 bits (RFC 3526 3 to 5) with constant-time big integers.

use std::sync::LazyLock;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U512, U2048, U3072, U4096, Uint};
use zeroize::Zeroizing;

use super::{KeyExchange, KeyExchangeError};
use crate::secret::Secret;
use crate::suite::KeyExchangeMethod;

/// Octets of a private exponent: more than the 260 to 480 bits that RFC 3526 8 asks for.
const EXPONENT_LEN: usize = 64;

/// A group: its prime, ready for arithmetic.
pub(super) struct Group<const LIMBS: usize> {
    method: KeyExchangeMethod,
    params: FixedMontyParams<LIMBS>,
}

impl<const LIMBS: usize> Group<LIMBS> {
    fn new(method: KeyExchangeMethod, prime: &str) -> Self {
        let prime = Odd::<Uint<LIMBS>>::from_be_hex(prime);
        // The prime is public: how long this takes tells nobody anything.
        let params = FixedMontyParams::new_vartime(prime);
        Self { method, params }
    }

    /// Octets of a value. RFC 7296 3.4: "The length of the Diffie-Hellman public value for MODP
    /// groups MUST be equal to the length of the prime modulus over which the exponentiation was
    /// performed, prepending zero bits to the value if necessary."
    fn octets(value: &Uint<LIMBS>) -> Vec<u8> {
        let words = value.as_limbs().iter().rev();
        words.flat_map(|limb| limb.0.to_be_bytes()).collect()
    }

    /// The peer's public value y, if 1 < y < p - 1 (RFC 6989 2.1).
    fn public_value(&self, octets: &[u8]) -> Option<Uint<LIMBS>> {
        if octets.len() != LIMBS * size_of::<crypto_bigint::Word>() {
            return None;
        }
        let value = Uint::from_be_slice(octets);
        let last = self.params.modulus().as_ref().wrapping_sub(&Uint::ONE);
        (value > Uint::ONE && value < last).then_some(value)
    }

    fn power(&self, base: &Uint<LIMBS>, exponent: &U512) -> Uint<LIMBS> {
        FixedMontyForm::new(base, &self.params)
            .pow(exponent)
            .retrieve()
    }
}

/// One side of an exchange in a group.
pub(super) struct Private<const LIMBS: usize> {
    group: &'static Group<LIMBS>,
    exponent: Zeroizing<U512>,
    public: Vec<u8>,
}

impl<const LIMBS: usize> Private<LIMBS> {
    pub(super) fn generate(group: &'static Group<LIMBS>) -> Result<Self, KeyExchangeError> {
        let mut octets = Zeroizing::new([0; EXPONENT_LEN]);
        SystemRandom::new()
            .fill(octets.as_mut_slice())
            .map_err(|_| KeyExchangeError::Generation)?;
        let exponent = Zeroizing::new(U512::from_be_slice(octets.as_slice()));
        let public = Group::octets(&group.power(&Uint::from_u8(2), &exponent));
        Ok(Self {
            group,
            exponent,
            public,
        })
    }
}

impl<const LIMBS: usize> KeyExchange for Private<LIMBS> {
    fn method(&self) -> KeyExchangeMethod {
        self.group.method
    }

    fn public_value(&self) -> &[u8] {
        &self.public
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyExchangeError> {
        let invalid = KeyExchangeError::InvalidPublicValue;
        let peer = self.group.public_value(peer).ok_or(invalid)?;
        let shared = Zeroizing::new(self.group.power(&peer, &self.exponent));
        // RFC 7296 2.14: "g^ir is represented as a string of octets in big endian order padded
        // with zeros if necessary to make it the length of the modulus"
        Ok(Secret::new(Group::octets(&shared)))
    }
}

/// RFC 3526 3.
pub(super) static MODP2048: LazyLock<Group<{ U2048::LIMBS }>> =
    LazyLock::new(|| Group::new(KeyExchangeMethod::Modp2048, PRIME_2048));

/// RFC 3526 4.
pub(super) static MODP3072: LazyLock<Group<{ U3072::LIMBS }>> =
    LazyLock::new(|| Group::new(KeyExchangeMethod::Modp3072, PRIME_3072));

/// RFC 3526 5.
pub(super) static MODP4096: LazyLock<Group<{ U4096::LIMBS }>> =
    LazyLock::new(|| Group::new(KeyExchangeMethod::Modp4096, PRIME_4096));

const PRIME_2048: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
    020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
    98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
    9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
    3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF\
    ";

const PRIME_3072: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
    020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
    98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
    9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
    3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
    A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
    ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
    D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
    08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF\
    ";

const PRIME_4096: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
    020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
    98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB\
    9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718\
    3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
    A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
    ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
    D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2\
    08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
    88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8\
    DBBBC2DB04DE8EF92E8EFC141FBECAA6287C59474E6BC05D99B2964FA090C3A2\
    233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
    93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF\
    ";

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses_the_edges<const LIMBS: usize>(group: &Group<LIMBS>) {
        let prime = *group.params.modulus().as_ref();
        let minus = |n: u8| prime.wrapping_sub(&Uint::from_u8(n));
        for bad in [Uint::ZERO, Uint::ONE, minus(1), prime, Uint::MAX] {
            assert_eq!(group.public_value(&Group::octets(&bad)), None);
        }
        for good in [Uint::from_u8(2), minus(2)] {
            assert_eq!(group.public_value(&Group::octets(&good)), Some(good));
        }
    }

    #[test]
    fn values_at_the_edges_of_the_groups_are_refused() {
        refuses_the_edges(&MODP2048);
        refuses_the_edges(&MODP3072);
        refuses_the_edges(&MODP4096);
    }
}
