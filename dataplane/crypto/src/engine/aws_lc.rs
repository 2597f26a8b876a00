//! The engine on aws-lc: sealing and opening go out of place, without a copy. Key schedules live in aws-lc's own memory,
//! which it wipes when it frees them.

use super::{Opening, Sealing};
use crate::{Algorithm, algorithm::ICV_LEN};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm16 => &AES_128_GCM,
            Algorithm::Aes256Gcm16 => &AES_256_GCM,
        };
        let key = UnboundKey::new(algorithm, key).ok()?;
        Some(Self(LessSafeKey::new(key)))
    }

    #[inline]
    pub(super) fn seal(&self, packet: Sealing<'_>) -> Option<()> {
        let (text, trailer_and_icv) = packet.out.split_at_mut_checked(packet.plaintext.len())?;
        self.0
            .seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(packet.nonce),
                Aad::from(packet.aad),
                packet.plaintext,
                text,
                packet.trailer,
                trailer_and_icv,
            )
            .ok()
    }

    #[inline]
    pub(super) fn open(&self, packet: Opening<'_>) -> Option<()> {
        let (text, icv) = packet.ciphertext.split_last_chunk::<ICV_LEN>()?;
        self.0
            .open_separate_gather(
                Nonce::assume_unique_for_key(packet.nonce),
                Aad::from(packet.aad),
                text,
                icv,
                packet.out,
            )
            .ok()
    }
}
