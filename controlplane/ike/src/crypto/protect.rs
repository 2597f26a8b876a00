//! The Encrypted payload: AES-GCM after RFC 5282, AES-CBC with HMAC-SHA2 after RFC 7296 3.14.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use rand_chacha::rand_core::Rng;

use super::Failed;
use crate::suite::{Encryption, Integrity};
use crate::wire::header::Header;
use crate::wire::message::{Encrypted, emit_protected_head};
use crate::wire::payload::Fragment;

const GCM_IV_LEN: usize = 8;
const GCM_ICV_LEN: usize = 16;
const GCM_SALT_LEN: usize = 4;
const CBC_BLOCK: usize = 16;

impl Encryption {
    /// Octets of keying material, the salt included (RFC 5282 7.1).
    pub(crate) const fn keymat_len(self) -> usize {
        match self {
            Self::Aes256Gcm16 => 32 + GCM_SALT_LEN,
            Self::Aes128Gcm16 => 16 + GCM_SALT_LEN,
            Self::Aes256Cbc => 32,
            Self::Aes128Cbc => 16,
        }
    }
}

impl Integrity {
    /// Octets of the key (RFC 4868 2.1.1).
    pub(crate) const fn key_len(self) -> usize {
        self.icv_len() * 2
    }

    /// Octets of the truncated tag.
    const fn icv_len(self) -> usize {
        match self {
            Self::HmacSha256 => 16,
            Self::HmacSha384 => 24,
            Self::HmacSha512 => 32,
        }
    }

    const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }
}

/// The keys of one direction.
pub(crate) enum DirectionKey {
    Gcm {
        key: Box<LessSafeKey>,
        salt: [u8; GCM_SALT_LEN],
    },
    Cbc {
        encrypt: Box<EncryptingKey>,
        decrypt: Box<DecryptingKey>,
        mac: Box<hmac::Key>,
        icv_len: usize,
    },
}

impl DirectionKey {
    /// Keys from SK_e (with its salt) and SK_a.
    pub(crate) fn new(
        encryption: Encryption,
        integrity: Option<Integrity>,
        sk_e: &[u8],
        sk_a: &[u8],
    ) -> Result<Self, Failed> {
        let failed = |_| Failed;
        match (encryption, integrity) {
            (Encryption::Aes256Gcm16 | Encryption::Aes128Gcm16, _) => {
                let (key, salt) = sk_e.split_last_chunk().ok_or(Failed)?;
                let algorithm = if key.len() == 32 {
                    &AES_256_GCM
                } else {
                    &AES_128_GCM
                };
                let key = UnboundKey::new(algorithm, key).map_err(failed)?;
                Ok(Self::Gcm {
                    key: Box::new(LessSafeKey::new(key)),
                    salt: *salt,
                })
            }
            (Encryption::Aes256Cbc | Encryption::Aes128Cbc, Some(integrity)) => {
                let algorithm = if sk_e.len() == 32 { &AES_256 } else { &AES_128 };
                let key = || UnboundCipherKey::new(algorithm, sk_e).map_err(failed);
                Ok(Self::Cbc {
                    encrypt: Box::new(EncryptingKey::cbc(key()?).map_err(failed)?),
                    decrypt: Box::new(DecryptingKey::cbc(key()?).map_err(failed)?),
                    mac: Box::new(hmac::Key::new(integrity.algorithm(), sk_a)),
                    icv_len: integrity.icv_len(),
                })
            }
            (Encryption::Aes256Cbc | Encryption::Aes128Cbc, None) => Err(Failed),
        }
    }

    /// Octets of plaintext that `room` octets of initialization vector, ciphertext and integrity
    /// check value hold at most.
    pub(crate) const fn capacity(&self, room: usize) -> usize {
        match self {
            Self::Gcm { .. } => room.saturating_sub(GCM_IV_LEN + 1 + GCM_ICV_LEN),
            Self::Cbc { icv_len, .. } => {
                let room = room.saturating_sub(CBC_BLOCK + *icv_len);
                (room - room % CBC_BLOCK).saturating_sub(1)
            }
        }
    }

    /// A whole message, or a fragment, with `inner` encrypted. `number` must never repeat under this
    /// key.
    pub(crate) fn seal(
        &self,
        header: Header,
        (first, mut inner): (u8, Vec<u8>),
        fragment: Option<Fragment>,
        number: u64,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, Failed> {
        match self {
            Self::Gcm { key, salt } => {
                // RFC 7296 3.14: the Pad Length is there even when, as here, no padding is needed.
                inner.push(0);
                let len = GCM_IV_LEN + inner.len() + GCM_ICV_LEN;
                let mut message = emit_protected_head(header, first, len, fragment);
                // RFC 5282 3.1: "Common approaches to IV generation include incrementing a counter
                // for each packet".
                let iv = number.to_be_bytes();
                let aad = Aad::from(message.as_slice());
                let tag = key
                    .seal_in_place_separate_tag(nonce(*salt, iv), aad, &mut inner)
                    .map_err(|_| Failed)?;
                message.extend(iv);
                message.extend(inner);
                message.extend(tag.as_ref());
                Ok(message)
            }
            Self::Cbc {
                encrypt,
                mac,
                icv_len,
                ..
            } => {
                let pad = (CBC_BLOCK - (inner.len() + 1) % CBC_BLOCK) % CBC_BLOCK;
                inner.resize(inner.len() + pad, 0);
                inner.push(u8::try_from(pad).unwrap_or(0));
                let len = CBC_BLOCK + inner.len() + icv_len;
                let mut message = emit_protected_head(header, first, len, fragment);
                let mut iv = [0; CBC_BLOCK];
                rng.fill_bytes(&mut iv);
                let context = EncryptionContext::Iv128(FixedLength::from(iv));
                encrypt
                    .less_safe_encrypt(&mut inner, context)
                    .map_err(|_| Failed)?;
                message.extend(iv);
                message.extend(inner);
                let tag = hmac::sign(mac, &message);
                message.extend(tag.as_ref().get(..*icv_len).ok_or(Failed)?);
                Ok(message)
            }
        }
    }

    /// The payloads within a message, if it is authentic.
    pub(crate) fn open(&self, datagram: &[u8], encrypted: Encrypted) -> Result<Vec<u8>, Failed> {
        let (head, body) = datagram.split_at_checked(encrypted.body_at).ok_or(Failed)?;
        let mut inner = match self {
            Self::Gcm { key, salt } => {
                let (iv, sealed) = body.split_first_chunk().ok_or(Failed)?;
                let mut inner = sealed.to_vec();
                let len = key
                    .open_in_place(nonce(*salt, *iv), Aad::from(head), &mut inner)
                    .map_err(|_| Failed)?
                    .len();
                inner.truncate(len);
                inner
            }
            Self::Cbc {
                decrypt,
                mac,
                icv_len,
                ..
            } => {
                let icv_at = datagram.len().checked_sub(*icv_len).ok_or(Failed)?;
                let (covered, icv) = datagram.split_at_checked(icv_at).ok_or(Failed)?;
                let tag = hmac::sign(mac, covered);
                let expected = tag.as_ref().get(..*icv_len).ok_or(Failed)?;
                aws_lc_rs::constant_time::verify_slices_are_equal(expected, icv)
                    .map_err(|_| Failed)?;
                let sealed = body
                    .get(..body.len().saturating_sub(*icv_len))
                    .ok_or(Failed)?;
                let (iv, sealed) = sealed.split_first_chunk::<CBC_BLOCK>().ok_or(Failed)?;
                if sealed.is_empty() || sealed.len() % CBC_BLOCK != 0 {
                    return Err(Failed);
                }
                let mut inner = sealed.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(*iv));
                decrypt.decrypt(&mut inner, context).map_err(|_| Failed)?;
                inner
            }
        };
        // RFC 7296 3.14: "The sender SHOULD set the Pad Length to the minimum value (...), but
        // the recipient MUST accept any length that results in proper alignment."
        let pad = inner.pop().ok_or(Failed)?;
        let len = inner.len().checked_sub(pad.into()).ok_or(Failed)?;
        inner.truncate(len);
        Ok(inner)
    }
}

/// RFC 5282 4: the nonce is the salt and the IV.
fn nonce(salt: [u8; GCM_SALT_LEN], iv: [u8; GCM_IV_LEN]) -> Nonce {
    let mut octets = [0; GCM_SALT_LEN + GCM_IV_LEN];
    octets
        .iter_mut()
        .zip(salt.into_iter().chain(iv))
        .for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::{ExchangeType, VERSION};
    use crate::wire::message::Message;
    use crate::wire::payload::{Payload, emit_chain, parse_chain};
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        let header = Header {
            initiator_spi: 1,
            responder_spi: 2,
            next_payload: 0,
            version: VERSION,
            exchange: ExchangeType::Informational,
            initiator: true,
            response: false,
            higher_version: false,
            message_id: 7,
        };
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        for &encryption in Encryption::ALL {
            for &integrity in Integrity::ALL {
                let integrity = (!encryption.is_aead()).then_some(integrity);
                let sk_a = vec![3; integrity.map_or(0, Integrity::key_len)];
                let sk_e = vec![9; encryption.keymat_len()];
                let key = DirectionKey::new(encryption, integrity, &sk_e, &sk_a).unwrap();
                for len in 0..20 {
                    let payloads = [Payload::Vendor(vec![5; len]), Payload::DeleteIke];
                    let (first, inner) = emit_chain(&payloads);
                    let content = (first, inner.clone());
                    let sealed = key.seal(header, content, None, 1, &mut rng).unwrap();
                    assert!(key.capacity(sealed.len() - 32) >= inner.len());
                    assert!(key.capacity(sealed.len() - 33) < inner.len());
                    let message = Message::parse(&sealed).unwrap();
                    let opened = key.open(&sealed, message.encrypted.unwrap()).unwrap();
                    assert_eq!(parse_chain(first, &opened).unwrap().payloads, payloads);
                    for at in [0, 20, 30, 33, sealed.len() - 1] {
                        let mut forged = sealed.clone();
                        forged[at] ^= 1;
                        assert!(key.open(&forged, message.encrypted.unwrap()).is_err());
                    }
                }
            }
        }
    }
}
