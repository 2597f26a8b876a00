//! The engine on the RustCrypto crates: the reference. It copies what it seals, since `aes-gcm` takes the plaintext in
//! one piece.

use super::{Opening, Sealing};
use crate::{Algorithm, algorithm::ICV_LEN};
use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit,
    aead::{
        consts::{U12, U16},
        inout::InOutBuf,
    },
};
use zeroize::ZeroizeOnDrop;

/// The key schedules wipe themselves.
pub(crate) enum Cipher {
    Aes128Gcm(Box<Aes128Gcm>),
    Aes256Gcm(Box<Aes256Gcm>),
}

impl Cipher {
    pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        Some(match algorithm {
            Algorithm::Aes128Gcm16 => Self::Aes128Gcm(schedule(key)?),
            Algorithm::Aes256Gcm16 => Self::Aes256Gcm(schedule(key)?),
        })
    }

    #[inline]
    pub(super) fn seal(&self, packet: Sealing<'_>) -> Option<()> {
        match self {
            Self::Aes128Gcm(cipher) => seal(&**cipher, packet),
            Self::Aes256Gcm(cipher) => seal(&**cipher, packet),
        }
    }

    #[inline]
    pub(super) fn open(&self, packet: Opening<'_>) -> Option<()> {
        match self {
            Self::Aes128Gcm(cipher) => open(&**cipher, packet),
            Self::Aes256Gcm(cipher) => open(&**cipher, packet),
        }
    }
}

fn schedule<C: KeyInit + ZeroizeOnDrop>(key: &[u8]) -> Option<Box<C>> {
    C::new_from_slice(key).ok().map(Box::new)
}

fn seal<C: AeadInOut<NonceSize = U12, TagSize = U16>>(
    cipher: &C,
    packet: Sealing<'_>,
) -> Option<()> {
    let (text, icv) = packet.out.split_last_chunk_mut::<ICV_LEN>()?;
    let (start, end) = text.split_at_mut_checked(packet.plaintext.len())?;
    start.copy_from_slice(packet.plaintext);
    end.get_mut(..packet.trailer.len())?
        .copy_from_slice(packet.trailer);
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
    let (text, icv) = packet.ciphertext.split_last_chunk::<ICV_LEN>()?;
    let buffers = InOutBuf::new(text, packet.out).ok()?;
    cipher
        .decrypt_inout_detached(&packet.nonce.into(), packet.aad, buffers, &(*icv).into())
        .ok()
}
