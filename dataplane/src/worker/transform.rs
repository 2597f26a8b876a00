//! The numbers by which the channel names what an SA does to its packets: those of IANA's registry "IKEv2 parameters",
//! transform types 1 and 3.

use esplanade_channel::Transform;
use esplanade_crypto::{AesKey, Algorithm, Encryption, Hmac, Integrity, IvForm};
use esplanade_ipsec::sa::Protection;

/// Transform type 1.
mod encr {
    pub const NULL: u16 = 11;
    pub const AES_CBC: u16 = 12;
    pub const AES_CCM_16: u16 = 16;
    pub const AES_GCM_16: u16 = 20;
    pub const NULL_AUTH_AES_GMAC: u16 = 21;
    pub const CHACHA20_POLY1305: u16 = 28;
    pub const AES_GCM_16_IIV: u16 = 30;
    pub const CHACHA20_POLY1305_IIV: u16 = 31;
}

/// The numbers of an algorithm. `None` for one that has none: RFC 8750 5 numbers AES-CCM's implicit IV with the ICV of 8
/// octets only.
pub fn numbers(algorithm: Algorithm) -> Option<Transform> {
    use IvForm::{Explicit, Implicit};
    let combined = |encryption, bits: usize| Some(Transform::combined(encryption, bits as u16));
    match algorithm {
        Algorithm::AesGcm(key, Explicit) => combined(encr::AES_GCM_16, key.bits()),
        Algorithm::AesGcm(key, Implicit) => combined(encr::AES_GCM_16_IIV, key.bits()),
        Algorithm::ChaCha20Poly1305(Explicit) => combined(encr::CHACHA20_POLY1305, 0),
        Algorithm::ChaCha20Poly1305(Implicit) => combined(encr::CHACHA20_POLY1305_IIV, 0),
        Algorithm::AesCcm(key, Explicit) => combined(encr::AES_CCM_16, key.bits()),
        Algorithm::AesCcm(_, Implicit) => None,
        Algorithm::AesGmac(key) => combined(encr::NULL_AUTH_AES_GMAC, key.bits()),
        Algorithm::EncryptThenMac(encryption, mac) => {
            let (encryption, bits) = match encryption {
                Encryption::AesCbc(key) => (encr::AES_CBC, key.bits()),
                Encryption::Null => (encr::NULL, 0),
            };
            Some(Transform {
                integrity: auth(mac),
                ..Transform::combined(encryption, bits as u16)
            })
        }
    }
}

/// Transform type 3.
const fn auth(mac: Hmac) -> u16 {
    match mac {
        Hmac::Sha1 => 2,
        Hmac::Sha2_256 => 12,
        Hmac::Sha2_384 => 13,
        Hmac::Sha2_512 => 14,
    }
}

/// The numbers of what an SA does, as [`numbers`] has them.
pub fn numbers_of(protection: Protection) -> Option<Transform> {
    match protection {
        Protection::Esp(algorithm) => numbers(algorithm),
        Protection::Ah(integrity) => Some(Transform::authentication(ah_auth(integrity))),
    }
}

/// Transform type 3 with AH, where each length of AES-GMAC's key has a number (RFC 4543 5.4).
const fn ah_auth(integrity: Integrity) -> u16 {
    match integrity {
        Integrity::Hmac(mac) => auth(mac),
        Integrity::AesGmac(AesKey::Bits128) => 9,
        Integrity::AesGmac(AesKey::Bits192) => 10,
        Integrity::AesGmac(AesKey::Bits256) => 11,
    }
}

/// The integrity algorithm of AH of these numbers; `None` when there is none here.
pub fn integrity(transform: Transform) -> Option<Integrity> {
    Integrity::ALL
        .into_iter()
        .find(|known| Transform::authentication(ah_auth(*known)) == transform)
}

/// The algorithm of these numbers; `None` when there is none here.
pub fn algorithm(transform: Transform) -> Option<Algorithm> {
    Algorithm::ALL
        .into_iter()
        .find(|algorithm| numbers(*algorithm) == Some(transform))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_algorithm() {
        let mut without = Vec::new();
        for known in Algorithm::ALL {
            match numbers(known) {
                Some(transform) => assert_eq!(algorithm(transform), Some(known)),
                None => without.push(known),
            }
        }
        let is_implicit_ccm = |kind: &_| matches!(kind, Algorithm::AesCcm(_, IvForm::Implicit));
        assert!(without.len() == 3 && without.iter().all(is_implicit_ccm));
        assert_eq!(
            numbers(Algorithm::AES_128_GCM_16),
            Some(Transform::AES_128_GCM_16)
        );
        assert_eq!(
            numbers(Algorithm::AES_256_GCM_16),
            Some(Transform::AES_256_GCM_16)
        );
        for known in Integrity::ALL {
            let transform = numbers_of(Protection::Ah(known)).unwrap();
            assert!(transform.is_authentication());
            assert_eq!(integrity(transform), Some(known));
            assert_eq!(algorithm(transform), None);
        }
        assert_eq!(integrity(Transform::AES_128_GCM_16), None);
        assert_eq!(algorithm(Transform::combined(20, 512)), None);
        assert_eq!(algorithm(Transform::combined(12, 128)), None, "no HMAC");
    }
}
