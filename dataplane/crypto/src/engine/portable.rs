//! The engine on the RustCrypto crates: the reference. It copies what it seals, since they take the plaintext in one
//! piece.

use super::{Opening, Sealing, Text};
use crate::{AesKey, Algorithm, algorithm::ICV_LEN};
use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, AesGcm, KeyInit,
    aead::{
        consts::{U12, U16},
        inout::InOutBuf,
    },
    aes::Aes192,
};
use chacha20poly1305::ChaCha20Poly1305;
use zeroize::ZeroizeOnDrop;

/// The key schedules wipe themselves.
pub(crate) enum Cipher {
    Aes128Gcm(Box<Aes128Gcm>),
    Aes192Gcm(Box<AesGcm<Aes192, U12>>),
    Aes256Gcm(Box<Aes256Gcm>),
    ChaCha20Poly1305(Box<ChaCha20Poly1305>),
}

/// The same for whichever schedule a cipher has.
macro_rules! with_schedule {
    ($cipher:expr, $schedule:ident => $work:expr) => {
        match $cipher {
            Cipher::Aes128Gcm($schedule) => $work,
            Cipher::Aes192Gcm($schedule) => $work,
            Cipher::Aes256Gcm($schedule) => $work,
            Cipher::ChaCha20Poly1305($schedule) => $work,
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

fn schedule<C: KeyInit + ZeroizeOnDrop>(key: &[u8]) -> Option<Box<C>> {
    C::new_from_slice(key).ok().map(Box::new)
}

fn seal<C: AeadInOut<NonceSize = U12, TagSize = U16>>(
    cipher: &C,
    packet: Sealing<'_>,
) -> Option<()> {
    let assembled = packet.text.assemble(packet.trailer, ICV_LEN)?;
    let (text, icv) = assembled.split_last_chunk_mut::<ICV_LEN>()?;
    let tag = cipher
        .encrypt_inout_detached(&packet.nonce.into(), packet.aad, text.into())
        .ok()?;
    *icv = tag.into();
    Some(())
}

fn open<C: AeadInOut<NonceSize = U12, TagSize = U16>>(
    cipher: &C,
    packet: Opening<'_>,
) -> Option<()> {
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
        .decrypt_inout_detached(&packet.nonce.into(), packet.aad, buffers, &icv.into())
        .ok()
}
