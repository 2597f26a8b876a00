//! The engine on aws-lc: sealing and opening go out of place, without a copy. Key schedules live in aws-lc's own memory,
//! which it wipes when it frees them.

use super::{Opening, Sealing, Text};
use crate::{AesKey, Algorithm, algorithm::ICV_LEN};
use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};

pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        let algorithm = match algorithm {
            Algorithm::AesGcm(AesKey::Bits128, _) => &AES_128_GCM,
            Algorithm::AesGcm(AesKey::Bits192, _) => &AES_192_GCM,
            Algorithm::AesGcm(AesKey::Bits256, _) => &AES_256_GCM,
            Algorithm::ChaCha20Poly1305(_) => &CHACHA20_POLY1305,
            Algorithm::AesCcm(..) | Algorithm::AesGmac(_) | Algorithm::EncryptThenMac(..) => {
                return None;
            }
        };
        let key = UnboundKey::new(algorithm, key).ok()?;
        Some(Self(LessSafeKey::new(key)))
    }

    #[inline]
    pub(super) fn seal(&self, packet: Sealing<'_>) -> Option<()> {
        let nonce = Nonce::assume_unique_for_key(packet.nonce);
        let (aad, trailer) = (Aad::from(packet.aad), packet.trailer);
        match packet.text {
            Text::Apart { source, out } => {
                let (text, behind) = out.split_at_mut_checked(source.len())?;
                self.0
                    .seal_out_of_place_scatter(nonce, aad, source, text, trailer, behind)
            }
            Text::InPlace(buffer) => {
                let body = buffer.len().checked_sub(trailer.len() + ICV_LEN)?;
                let (text, behind) = buffer.split_at_mut_checked(body)?;
                self.0
                    .seal_in_place_scatter(nonce, aad, text, trailer, behind)
            }
        }
        .ok()
    }

    #[inline]
    pub(super) fn open(&self, packet: Opening<'_>) -> Option<()> {
        let nonce = Nonce::assume_unique_for_key(packet.nonce);
        let aad = Aad::from(packet.aad);
        match packet.text {
            Text::Apart { source, out } => {
                let (text, icv) = source.split_last_chunk::<ICV_LEN>()?;
                self.0.open_separate_gather(nonce, aad, text, icv, out).ok()
            }
            Text::InPlace(buffer) => self.0.open_in_place(nonce, aad, buffer).ok().map(|_| ()),
        }
    }
}
