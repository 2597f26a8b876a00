//! The engine on the RustCrypto crates: the reference. It copies what it seals, since they take the plaintext in one
//! piece.

use super::{Opening, Sealing, Text};
use crate::{AesKey, Algorithm, algorithm::ICV_LEN};
use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, AesGcm, KeyInit,
    aead::{
        Nonce,
        consts::{U11, U12, U16},
        inout::InOutBuf,
    },
    aes::{Aes128, Aes192, Aes256},
};
use ccm::Ccm;
use chacha20poly1305::ChaCha20Poly1305;

/// The key schedules wipe themselves.
pub(crate) enum Cipher {
    Aes128Gcm(Box<Aes128Gcm>),
    Aes192Gcm(Box<AesGcm<Aes192, U12>>),
    Aes256Gcm(Box<Aes256Gcm>),
    ChaCha20Poly1305(Box<ChaCha20Poly1305>),
    Aes128Ccm(Box<Ccm<Aes128, U16, U11>>),
    Aes192Ccm(Box<Ccm<Aes192, U16, U11>>),
    Aes256Ccm(Box<Ccm<Aes256, U16, U11>>),
}

/// The same for whichever schedule a cipher has.
macro_rules! with_schedule {
    ($cipher:expr, $schedule:ident => $work:expr) => {
        match $cipher {
            Cipher::Aes128Gcm($schedule) => $work,
            Cipher::Aes192Gcm($schedule) => $work,
            Cipher::Aes256Gcm($schedule) => $work,
            Cipher::ChaCha20Poly1305($schedule) => $work,
            Cipher::Aes128Ccm($schedule) => $work,
            Cipher::Aes192Ccm($schedule) => $work,
            Cipher::Aes256Ccm($schedule) => $work,
        }
    };
}

impl Cipher {
    pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        Some(match algorithm {
            Algorithm::AesGcm(AesKey::Bits128, _) => Self::Aes128Gcm(schedule(key)?),
            Algorithm::AesGcm(AesKey::Bits192, _) => Self::Aes192Gcm(schedule(key)?),
            Algorithm::AesGcm(AesKey::Bits256, _) => Self::Aes256Gcm(schedule(key)?),
            Algorithm::ChaCha20Poly1305(_) => Self::ChaCha20Poly1305(schedule(key)?),
            Algorithm::AesCcm(AesKey::Bits128, _) => Self::Aes128Ccm(schedule(key)?),
            Algorithm::AesCcm(AesKey::Bits192, _) => Self::Aes192Ccm(schedule(key)?),
            Algorithm::AesCcm(AesKey::Bits256, _) => Self::Aes256Ccm(schedule(key)?),
            Algorithm::AesGmac(_) | Algorithm::EncryptThenMac(..) => return None,
        })
    }

    #[inline]
    pub(super) fn seal(&self, packet: Sealing<'_>) -> Option<()> {
        with_schedule!(self, schedule => seal(&**schedule, packet))
    }

    #[inline]
    pub(super) fn open(&self, packet: Opening<'_>) -> Option<()> {
        with_schedule!(self, schedule => open(&**schedule, packet))
    }
}

fn schedule<C: KeyInit>(key: &[u8]) -> Option<Box<C>> {
    C::new_from_slice(key).ok().map(Box::new)
}

/// The end of a nonce, since that of CCM is shorter (RFC 4309 4).
fn nonce<C: AeadInOut>(nonce: &[u8]) -> Option<Nonce<C>> {
    let excess = nonce.len().checked_sub(Nonce::<C>::default().len())?;
    Nonce::<C>::try_from(nonce.get(excess..)?).ok()
}

fn seal<C: AeadInOut<TagSize = U16>>(cipher: &C, packet: Sealing<'_>) -> Option<()> {
    let assembled = packet.text.assemble(packet.trailer, ICV_LEN)?;
    let (text, icv) = assembled.split_last_chunk_mut::<ICV_LEN>()?;
    let tag = cipher
        .encrypt_inout_detached(&nonce::<C>(&packet.nonce)?, packet.aad, text.into())
        .ok()?;
    *icv = tag.into();
    Some(())
}

fn open<C: AeadInOut<TagSize = U16>>(cipher: &C, packet: Opening<'_>) -> Option<()> {
    let (buffers, icv) = match packet.text {
        Text::Apart { source, out } => {
            let (text, icv) = source.split_last_chunk::<ICV_LEN>()?;
            (InOutBuf::new(text, out).ok()?, *icv)
        }
        Text::InPlace(buffer) => {
            let (text, icv) = buffer.split_last_chunk_mut::<ICV_LEN>()?;
            (text.into(), *icv)
        }
    };
    cipher
        .decrypt_inout_detached(
            &nonce::<C>(&packet.nonce)?,
            packet.aad,
            buffers,
            &icv.into(),
        )
        .ok()
}
