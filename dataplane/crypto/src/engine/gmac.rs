//! AES-GMAC (RFC 4543): AES-GCM of nothing, with everything as additional data. That has to be in one piece, so the packet is
//! put together on the stack.

use super::{Cipher, Opening, Sealing, Text};
use crate::{algorithm::ICV_LEN, buffers::gather};

/// One packet's nonce, and what of it is authenticated before the text. RFC 4543 3.3: SPI and sequence number, and by 3.5,
/// figure 4, the IV too.
pub(crate) struct Head<'a> {
    pub(crate) nonce: [u8; 12],
    pub(crate) aad: &'a [u8],
    pub(crate) iv: &'a [u8],
}

/// `None` leaves anything in the buffer.
pub(crate) fn seal(cipher: &Cipher, head: &Head<'_>, trailer: &[u8], text: Text<'_>) -> Option<()> {
    let assembled = text.assemble(trailer, ICV_LEN)?;
    let (text, icv) = assembled.split_last_chunk_mut::<ICV_LEN>()?;
    compute(cipher, head.nonce, [head.aad, head.iv, text], icv)
}

/// `None` is a forged packet.
pub(crate) fn open(cipher: &Cipher, head: &Head<'_>, text: Text<'_>) -> Option<()> {
    let check = |text, icv| verify(cipher, head.nonce, [head.aad, head.iv, text], icv);
    match text {
        Text::Apart { source, out } => {
            let (text, icv) = source.split_last_chunk::<ICV_LEN>()?;
            check(text, icv)?;
            out.get_mut(..text.len())?.copy_from_slice(text);
            Some(())
        }
        Text::InPlace(buffer) => {
            let (text, icv) = buffer.split_last_chunk::<ICV_LEN>()?;
            check(text, icv)
        }
    }
}

/// The ICV of all parts, which hold no more than may be gathered.
pub(crate) fn compute<'a>(
    cipher: &Cipher,
    nonce: [u8; 12],
    parts: impl IntoIterator<Item = &'a [u8]>,
    icv: &mut [u8; ICV_LEN],
) -> Option<()> {
    cipher.seal(Sealing {
        nonce,
        aad: &gather(parts)?,
        trailer: &[],
        text: Text::InPlace(icv),
    })
}

/// Whether that is the ICV, in constant time.
pub(crate) fn verify<'a>(
    cipher: &Cipher,
    nonce: [u8; 12],
    parts: impl IntoIterator<Item = &'a [u8]>,
    icv: &[u8; ICV_LEN],
) -> Option<()> {
    let mut icv = *icv;
    cipher.open(Opening {
        nonce,
        aad: &gather(parts)?,
        text: Text::InPlace(&mut icv),
    })
}
