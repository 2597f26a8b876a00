//! Initialization vectors, as something that can be spent once.
//!
//! Counter-mode AEADs need one that never comes again under the key: the sequence number's. CBC needs one that nobody
//! foresees: a generator's. A job refuses the wrong kind.

use crate::Algorithm;
use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use core::fmt;

/// The longest IV, that of CBC.
pub(crate) const MAX_IV: usize = 16;

/// The IV of one packet to be sealed. It cannot be copied, and a job consumes it: what turns a sequence number into an IV
/// decides that there is one packet for each.
///
/// RFC 4106 3.1: "The IV MUST be chosen by the encryptor in a manner that ensures that the same IV value is used only
/// once for a given key."
#[derive(Debug, PartialEq, Eq)]
pub struct Iv(Bytes);

/// The IV of a packet that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedIv(Bytes);

/// A sequence number's 8 bytes, or a generator's 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes {
    bytes: [u8; MAX_IV],
    unpredictable: bool,
}

impl Bytes {
    #[inline]
    const fn sequence(number: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = number;
        Self {
            bytes: [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0],
            unpredictable: false,
        }
    }

    #[inline]
    const fn block(bytes: [u8; 16]) -> Self {
        Self {
            bytes,
            unpredictable: true,
        }
    }

    /// Whether a generator drew it.
    #[inline]
    pub(crate) const fn is_drawn(&self) -> bool {
        self.unpredictable
    }

    /// Whether it is of the algorithm's kind.
    #[inline]
    pub(crate) const fn fits(&self, algorithm: Algorithm) -> bool {
        self.unpredictable == algorithm.has_unpredictable_iv()
    }

    /// The part of an AEAD's nonce behind the salt.
    #[inline]
    pub(crate) const fn number(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes;
        [a, b, c, d, e, f, g, h]
    }

    /// What a packet of the algorithm carries.
    #[inline]
    pub(crate) fn on_wire(&self, algorithm: Algorithm) -> &[u8] {
        self.bytes.get(..algorithm.iv_len()).unwrap_or_default()
    }
}

impl Iv {
    /// The IV of a sequence number, which [`SequenceNumber`](crate::sequence::SequenceNumber) gives up for it. What has no IV, as
    /// NULL, takes this one too.
    ///
    /// With an implicit IV, the number has to be the packet's own (RFC 8750 3).
    #[inline]
    pub(crate) const fn from_sequence(number: u64) -> Self {
        Self(Bytes::sequence(number.to_be_bytes()))
    }

    /// The 8 bytes that a packet of an AEAD with explicit IV carries.
    #[inline]
    pub const fn explicit(&self) -> [u8; 8] {
        self.0.number()
    }

    /// What a packet of the algorithm carries: as long as its [`iv_len`](Algorithm::iv_len).
    #[inline]
    pub fn on_wire(&self, algorithm: Algorithm) -> &[u8] {
        self.0.on_wire(algorithm)
    }

    #[inline]
    pub(crate) const fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl ReceivedIv {
    /// The IV of a packet: what it carries of it, and its sequence number for an algorithm whose packets carry none. `None`
    /// when it does not carry as much as the algorithm's [`iv_len`](Algorithm::iv_len).
    #[inline]
    pub fn new(algorithm: Algorithm, carried: &[u8], sequence: u64) -> Option<Self> {
        match algorithm.iv_len() {
            0 if carried.is_empty() => Some(sequence.to_be_bytes().into()),
            8 => Some(<[u8; 8]>::try_from(carried).ok()?.into()),
            16 => Some(<[u8; 16]>::try_from(carried).ok()?.into()),
            _ => None,
        }
    }

    #[inline]
    pub(crate) const fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl From<[u8; 8]> for ReceivedIv {
    /// Of an AEAD.
    #[inline]
    fn from(bytes: [u8; 8]) -> Self {
        Self(Bytes::sequence(bytes))
    }
}

impl From<[u8; 16]> for ReceivedIv {
    /// Of CBC.
    #[inline]
    fn from(bytes: [u8; 16]) -> Self {
        Self(Bytes::block(bytes))
    }
}

/// Makes IVs that nobody foresees; each worker has its own. It is wiped when dropped.
///
/// RFC 3602 3: "The IV MUST be chosen at random, and MUST be unpredictable."
pub struct IvGenerator(ChaCha20Rng);

impl IvGenerator {
    /// A generator with a seed that was drawn at random for it alone.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// The next IV.
    #[inline]
    pub fn generate(&mut self) -> Iv {
        let mut bytes = [0; MAX_IV];
        self.0.fill_bytes(&mut bytes);
        Iv(Bytes::block(bytes))
    }
}

impl fmt::Debug for IvGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IvGenerator").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CBC: &str = "aes-128-cbc-hmac-sha2-256-128";

    #[test]
    fn packets_carry_what_the_algorithm_says() {
        let carried = |iv: &Iv, name: &str| iv.on_wire(name.parse().unwrap()).to_vec();
        let number = Iv::from_sequence(0x0102_0304_0506_0708);
        assert_eq!(carried(&number, "aes-128-gcm-16"), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(carried(&number, "aes-128-gcm-16-iiv"), []);
        assert_eq!(carried(&number, "null-hmac-sha1-96"), []);
        let drawn = IvGenerator::new([7; 32]).generate();
        assert_eq!(carried(&drawn, CBC).len(), 16);
    }

    #[test]
    fn a_generator_repeats_neither_itself_nor_another() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..8 {
            let mut generator = IvGenerator::new([seed; 32]);
            for _ in 0..100 {
                let iv = generator.generate();
                assert!(seen.insert(iv.on_wire(CBC.parse().unwrap()).to_vec()));
            }
        }
    }

    #[test]
    fn a_received_iv_has_the_algorithm_s_length() {
        let received = |name: &str, length| {
            let carried = [3; 17];
            ReceivedIv::new(name.parse().unwrap(), &carried[..length], 9)
        };
        for (name, expected) in [
            ("aes-256-gcm-16", 8),
            ("chacha20-poly1305-iiv", 0),
            (CBC, 16),
        ] {
            for length in 0..17 {
                assert_eq!(
                    received(name, length).is_some(),
                    length == expected,
                    "{name}"
                );
            }
        }
        assert_eq!(
            received("aes-128-gcm-16-iiv", 0),
            Some(9u64.to_be_bytes().into())
        );
    }
}
