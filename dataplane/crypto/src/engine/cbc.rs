//! AES in CBC mode (RFC 3602), on the RustCrypto crates. aws-lc-rs offers it with padding of its own only, which is not ESP's.

use super::Text;
use crate::{AesKey, Encryption};
use aes_gcm::aes::{Aes128, Aes192, Aes256};
use cbc::{
    Decryptor, Encryptor,
    cipher::{
        Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt,
        InnerIvInit, KeyInit, consts::U16, inout::InOutBuf,
    },
};

/// The cipher's block.
const BLOCK: usize = 16;

/// A cipher without integrity. The key schedules wipe themselves.
pub(crate) enum Cipher {
    Aes128(Box<Aes128>),
    Aes192(Box<Aes192>),
    Aes256(Box<Aes256>),
    Null,
}

impl Cipher {
    pub(super) fn new(encryption: Encryption, key: &[u8]) -> Option<Self> {
        Some(match encryption {
            Encryption::AesCbc(AesKey::Bits128) => Self::Aes128(schedule(key)?),
            Encryption::AesCbc(AesKey::Bits192) => Self::Aes192(schedule(key)?),
            Encryption::AesCbc(AesKey::Bits256) => Self::Aes256(schedule(key)?),
            Encryption::Null => Self::Null,
        })
    }

    /// In place; `None` when the text is not in blocks.
    pub(super) fn encrypt(&self, iv: &[u8], text: &mut [u8]) -> Option<()> {
        match self {
            Self::Aes128(cipher) => encrypt(&**cipher, iv, text),
            Self::Aes192(cipher) => encrypt(&**cipher, iv, text),
            Self::Aes256(cipher) => encrypt(&**cipher, iv, text),
            Self::Null => Some(()),
        }
    }

    /// The ciphertext is as long as the plaintext; `None` when it is not in blocks.
    pub(super) fn decrypt(&self, iv: &[u8], text: Text<'_>) -> Option<()> {
        match self {
            Self::Aes128(cipher) => decrypt(&**cipher, iv, text),
            Self::Aes192(cipher) => decrypt(&**cipher, iv, text),
            Self::Aes256(cipher) => decrypt(&**cipher, iv, text),
            Self::Null => {
                if let Text::Apart { source, out } = text {
                    out.get_mut(..source.len())?.copy_from_slice(source);
                }
                Some(())
            }
        }
    }
}

fn schedule<C: KeyInit>(key: &[u8]) -> Option<Box<C>> {
    C::new_from_slice(key).ok().map(Box::new)
}

fn iv(bytes: &[u8]) -> Option<Array<u8, U16>> {
    <[u8; BLOCK]>::try_from(bytes).ok().map(Array)
}

fn encrypt<C>(cipher: &C, iv_bytes: &[u8], text: &mut [u8]) -> Option<()>
where
    C: BlockCipherEncrypt<BlockSize = U16>,
{
    let (blocks, rest) = InOutBuf::from(text).into_chunks();
    Encryptor::inner_iv_init(cipher, &iv(iv_bytes)?).encrypt_blocks_inout(blocks);
    rest.is_empty().then_some(())
}

fn decrypt<C>(cipher: &C, iv_bytes: &[u8], text: Text<'_>) -> Option<()>
where
    C: BlockCipherDecrypt<BlockSize = U16>,
{
    let buffers = match text {
        Text::Apart { source, out } => InOutBuf::new(source, out).ok()?,
        Text::InPlace(buffer) => buffer.into(),
    };
    let (blocks, rest) = buffers.into_chunks();
    Decryptor::inner_iv_init(cipher, &iv(iv_bytes)?).decrypt_blocks_inout(blocks);
    rest.is_empty().then_some(())
}
