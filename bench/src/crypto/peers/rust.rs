//! The peers that are crates.

use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, AesGcm, KeyInit,
    aead::{
        consts::{U12, U16},
        inout::InOutBuf,
    },
    aes::Aes192,
};
use chacha20poly1305::ChaCha20Poly1305;
use esplanade_crypto::{AesKey, Algorithm, IvForm};

use super::{ICV, Library, aad, nonce};
use crate::crypto::candidate::Direction;
use crate::crypto::workload::Text;

/// aws-lc-rs, which seals from one buffer into another.
pub struct AwsLc;

impl Library for AwsLc {
    const NAME: &'static str = "aws-lc";
    type Key = aws_lc_rs::aead::LessSafeKey;

    fn key(&self, algorithm: Algorithm, key: &[u8], _: Direction) -> Option<Self::Key> {
        use aws_lc_rs::aead::{
            AES_128_GCM, AES_192_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey,
        };
        let algorithm = match algorithm {
            Algorithm::AesGcm(AesKey::Bits128, IvForm::Explicit) => &AES_128_GCM,
            Algorithm::AesGcm(AesKey::Bits192, IvForm::Explicit) => &AES_192_GCM,
            Algorithm::AesGcm(AesKey::Bits256, IvForm::Explicit) => &AES_256_GCM,
            Algorithm::ChaCha20Poly1305(IvForm::Explicit) => &CHACHA20_POLY1305,
            _ => return None,
        };
        UnboundKey::new(algorithm, key).ok().map(LessSafeKey::new)
    }

    #[inline]
    fn seal(&mut self, key: &mut Self::Key, number: u64, text: &mut Text<'_>) -> Option<()> {
        use aws_lc_rs::aead::{Aad, Nonce};
        let (nonce, aad) = (
            Nonce::assume_unique_for_key(nonce(number)),
            Aad::from(aad(number)),
        );
        match text {
            Text::Apart { source, out } => {
                let (body, icv) = out.split_last_chunk_mut::<ICV>()?;
                key.seal_out_of_place_scatter(nonce, aad, source, body, &[], icv)
                    .ok()
            }
            Text::InPlace(frame) => {
                let (body, icv) = frame.split_last_chunk_mut::<ICV>()?;
                key.seal_in_place_scatter(nonce, aad, body, &[], icv).ok()
            }
        }
    }

    #[inline]
    fn open(&mut self, key: &mut Self::Key, number: u64, text: &mut Text<'_>) -> Option<()> {
        use aws_lc_rs::aead::{Aad, Nonce};
        let (nonce, aad) = (
            Nonce::assume_unique_for_key(nonce(number)),
            Aad::from(aad(number)),
        );
        match text {
            Text::Apart { source, out } => {
                let (body, icv) = source.split_last_chunk::<ICV>()?;
                key.open_separate_gather(nonce, aad, body, icv, out).ok()
            }
            Text::InPlace(frame) => key.open_in_place(nonce, aad, frame).ok().map(drop),
        }
    }
}

/// ring, which works in place only: what is apart is copied first.
pub struct Ring;

impl Library for Ring {
    const NAME: &'static str = "ring";
    type Key = ring::aead::LessSafeKey;

    fn key(&self, algorithm: Algorithm, key: &[u8], _: Direction) -> Option<Self::Key> {
        use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
        let algorithm = match algorithm {
            Algorithm::AesGcm(AesKey::Bits128, IvForm::Explicit) => &AES_128_GCM,
            Algorithm::AesGcm(AesKey::Bits256, IvForm::Explicit) => &AES_256_GCM,
            Algorithm::ChaCha20Poly1305(IvForm::Explicit) => &CHACHA20_POLY1305,
            _ => return None,
        };
        UnboundKey::new(algorithm, key).ok().map(LessSafeKey::new)
    }

    #[inline]
    fn seal(&mut self, key: &mut Self::Key, number: u64, text: &mut Text<'_>) -> Option<()> {
        use ring::aead::{Aad, Nonce};
        let (nonce, aad) = (
            Nonce::assume_unique_for_key(nonce(number)),
            Aad::from(aad(number)),
        );
        let frame = match text {
            Text::Apart { source, out } => {
                out.get_mut(..source.len())?.copy_from_slice(source);
                out
            }
            Text::InPlace(frame) => frame,
        };
        let (body, icv) = frame.split_last_chunk_mut::<ICV>()?;
        let tag = key.seal_in_place_separate_tag(nonce, aad, body).ok()?;
        icv.copy_from_slice(tag.as_ref());
        Some(())
    }

    #[inline]
    fn open(&mut self, key: &mut Self::Key, number: u64, text: &mut Text<'_>) -> Option<()> {
        use ring::aead::{Aad, Nonce};
        let (nonce, aad) = (
            Nonce::assume_unique_for_key(nonce(number)),
            Aad::from(aad(number)),
        );
        match text {
            Text::Apart { source, out } => {
                let (body, icv) = source.split_last_chunk::<ICV>()?;
                out.copy_from_slice(body);
                key.open_in_place_separate_tag(nonce, aad, (*icv).into(), out, 0..)
                    .ok()
                    .map(drop)
            }
            Text::InPlace(frame) => key.open_in_place(nonce, aad, frame).ok().map(drop),
        }
    }
}

/// The crates aes-gcm and chacha20poly1305.
pub struct RustCrypto;

/// One of its ciphers.
pub enum Cipher {
    Aes128Gcm(Box<Aes128Gcm>),
    Aes192Gcm(Box<AesGcm<Aes192, U12>>),
    Aes256Gcm(Box<Aes256Gcm>),
    ChaCha20Poly1305(Box<ChaCha20Poly1305>),
}

impl Library for RustCrypto {
    const NAME: &'static str = "rustcrypto";
    type Key = Cipher;

    fn key(&self, algorithm: Algorithm, key: &[u8], _: Direction) -> Option<Cipher> {
        Some(match algorithm {
            Algorithm::AesGcm(AesKey::Bits128, IvForm::Explicit) => Cipher::Aes128Gcm(cipher(key)?),
            Algorithm::AesGcm(AesKey::Bits192, IvForm::Explicit) => Cipher::Aes192Gcm(cipher(key)?),
            Algorithm::AesGcm(AesKey::Bits256, IvForm::Explicit) => Cipher::Aes256Gcm(cipher(key)?),
            Algorithm::ChaCha20Poly1305(IvForm::Explicit) => Cipher::ChaCha20Poly1305(cipher(key)?),
            _ => return None,
        })
    }

    #[inline]
    fn seal(&mut self, key: &mut Cipher, number: u64, text: &mut Text<'_>) -> Option<()> {
        match key {
            Cipher::Aes128Gcm(cipher) => seal(&**cipher, number, text),
            Cipher::Aes192Gcm(cipher) => seal(&**cipher, number, text),
            Cipher::Aes256Gcm(cipher) => seal(&**cipher, number, text),
            Cipher::ChaCha20Poly1305(cipher) => seal(&**cipher, number, text),
        }
    }

    #[inline]
    fn open(&mut self, key: &mut Cipher, number: u64, text: &mut Text<'_>) -> Option<()> {
        match key {
            Cipher::Aes128Gcm(cipher) => open(&**cipher, number, text),
            Cipher::Aes192Gcm(cipher) => open(&**cipher, number, text),
            Cipher::Aes256Gcm(cipher) => open(&**cipher, number, text),
            Cipher::ChaCha20Poly1305(cipher) => open(&**cipher, number, text),
        }
    }
}

fn cipher<C: KeyInit>(key: &[u8]) -> Option<Box<C>> {
    C::new_from_slice(key).ok().map(Box::new)
}

fn seal<C: AeadInOut<NonceSize = U12, TagSize = U16>>(
    cipher: &C,
    number: u64,
    text: &mut Text<'_>,
) -> Option<()> {
    let (buffers, icv) = match text {
        Text::Apart { source, out } => {
            let (body, icv) = out.split_last_chunk_mut::<ICV>()?;
            (InOutBuf::new(source, body).ok()?, icv)
        }
        Text::InPlace(frame) => {
            let (body, icv) = frame.split_last_chunk_mut::<ICV>()?;
            (body.into(), icv)
        }
    };
    let tag = cipher
        .encrypt_inout_detached(&nonce(number).into(), &aad(number), buffers)
        .ok()?;
    *icv = tag.into();
    Some(())
}

fn open<C: AeadInOut<NonceSize = U12, TagSize = U16>>(
    cipher: &C,
    number: u64,
    text: &mut Text<'_>,
) -> Option<()> {
    let (buffers, icv) = match text {
        Text::Apart { source, out } => {
            let (body, icv) = source.split_last_chunk::<ICV>()?;
            (InOutBuf::new(body, out).ok()?, *icv)
        }
        Text::InPlace(frame) => {
            let (body, icv) = frame.split_last_chunk_mut::<ICV>()?;
            (body.into(), *icv)
        }
    };
    cipher
        .decrypt_inout_detached(&nonce(number).into(), &aad(number), buffers, &icv.into())
        .ok()
}
