//! A cipher and an HMAC, in the order of ESP.
//!
//! RFC 4303 3.3.2.1: "encryption is performed first, before the integrity algorithm is applied, and the encryption does not
//! encompass the ICV field." 2.8: the ICV is "computed over the ESP header, Payload, and ESP trailer fields. Implicit ESP
//! trailer fields (integrity padding and high-order ESN bits, if applicable) are included".

use super::{EngineKind, Text, cbc, mac::Mac};
use crate::{AdditionalData, Encryption, Hmac, additional_data::Authenticated};

/// Both keys, and how long the ICV is.
pub(crate) struct EncryptThenMac {
    cipher: cbc::Cipher,
    mac: Mac,
    icv_len: usize,
}

impl EncryptThenMac {
    /// `None` when the engine does not do it.
    pub(crate) fn new(
        engine: EngineKind,
        encryption: Encryption,
        mac: Hmac,
        keys: (&[u8], &[u8]),
    ) -> Option<Self> {
        Some(Self {
            cipher: cbc::Cipher::new(encryption, keys.0)?,
            mac: Mac::new(engine, mac, keys.1)?,
            icv_len: mac.icv_len(),
        })
    }

    pub(crate) const fn engine(&self) -> EngineKind {
        self.mac.engine()
    }

    /// `None` leaves anything in the buffer.
    pub(crate) fn seal(
        &self,
        iv: &[u8],
        aad: &AdditionalData<'_>,
        trailer: &[u8],
        text: Text<'_>,
    ) -> Option<()> {
        let assembled = text.assemble(trailer, self.icv_len)?;
        let length = assembled.len().checked_sub(self.icv_len)?;
        let (text, icv) = assembled.split_at_mut_checked(length)?;
        self.cipher.encrypt(iv, text)?;
        self.mac.compute(parts(&aad.authenticated(), iv, text), icv)
    }

    /// `None` is a forged packet, of which nothing was decrypted.
    pub(crate) fn open(&self, iv: &[u8], aad: &AdditionalData<'_>, text: Text<'_>) -> Option<()> {
        let verify = |text, icv| self.mac.verify(parts(&aad.authenticated(), iv, text), icv);
        let length = text.source_len().checked_sub(self.icv_len)?;
        let text = match text {
            Text::Apart { source, out } => {
                let (text, icv) = source.split_at_checked(length)?;
                verify(text, icv)?;
                Text::Apart { source: text, out }
            }
            Text::InPlace(buffer) => {
                let (text, icv) = buffer.split_at_mut_checked(length)?;
                verify(text, icv)?;
                Text::InPlace(text)
            }
        };
        self.cipher.decrypt(iv, text)
    }
}

/// What the ICV covers, in order: SPI and sequence number, IV, ciphertext, and the half of the sequence number that is not
/// sent.
fn parts<'a>(
    aad: &Authenticated<'a>,
    iv: &'a [u8],
    text: &'a [u8],
) -> impl Iterator<Item = &'a [u8]> {
    let [first, second] = aad.before;
    [first, second, iv, text, aad.behind].into_iter()
}
