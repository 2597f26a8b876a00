//! The pseudo-random function and prf+ (RFC 7296 2.13).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::suite::Prf;

impl Prf {
    const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// Octets of its output, which are its preferred key length too.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// prf(key, parts joined).
    pub(crate) fn compute(self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let mut context = hmac::Context::with_key(&hmac::Key::new(self.algorithm(), key));
        parts.iter().for_each(|part| context.update(part));
        Zeroizing::new(context.sign().as_ref().to_vec())
    }

    /// Whether `tag` is prf(key, parts joined), in constant time.
    pub(crate) fn verify(self, key: &[u8], data: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&hmac::Key::new(self.algorithm(), key), data, tag).is_ok()
    }

    /// `len` octets of prf+(key, parts joined).
    pub(crate) fn expand(self, key: &[u8], parts: &[&[u8]], len: usize) -> Zeroizing<Vec<u8>> {
        let mut output = Zeroizing::new(Vec::with_capacity(len + self.len()));
        let mut block = Zeroizing::new(Vec::new());
        // RFC 7296 2.13: "The prf+ function is not defined beyond 255 times the size of the prf
        // function output."
        for counter in 1..=u8::MAX {
            if output.len() >= len {
                break;
            }
            let mut input = vec![block.as_slice()];
            input.extend(parts);
            let counter = [counter];
            input.push(&counter);
            let next = self.compute(key, &input);
            block = next;
            output.extend_from_slice(&block);
        }
        output.truncate(len);
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    /// RFC 4868 2.7.2.1, test case 2.
    #[test]
    fn vectors_of_rfc_4868() {
        let tag = |prf: Prf| {
            prf.compute(b"Jefe", &[b"what do ya want ", b"for nothing?"])
                .to_vec()
        };
        assert_eq!(
            tag(Prf::HmacSha256),
            hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        );
        assert_eq!(tag(Prf::HmacSha384)[..8], hex("af45d2e376484031")[..]);
        assert_eq!(tag(Prf::HmacSha512)[..8], hex("164b7a7bfcf819e2")[..]);
    }

    #[test]
    fn expansion_is_the_chain_of_the_rfc() {
        let prf = Prf::HmacSha256;
        let one = prf.compute(b"k", &[b"seed", &[1]]);
        let two = prf.compute(b"k", &[&one, b"seed", &[2]]);
        let expected = [one.as_slice(), two.as_slice()].concat();
        assert_eq!(
            prf.expand(b"k", &[b"se", b"ed"], 50).as_slice(),
            &expected[..50]
        );
    }
}
