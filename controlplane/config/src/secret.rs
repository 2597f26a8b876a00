//! Pre-shared keys: never printed, wiped when dropped.

use std::fmt;

use base64ct::{Base64, Base64Unpadded, Encoding};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::problem::Mistake;

/// Bytes that nobody may see. `Debug` shows only their number; there is no `Display`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret(<{} bytes>)", self.0.len())
    }
}

/// Reads a pre-shared key as strongSwan's secrets do: `0x` and hexadecimal digits, `0s` and Base64, or the text itself.
/// One line end after it is an editor's, not the key's.
pub(crate) fn psk(written: &[u8]) -> Result<Secret, Mistake> {
    let written = written.strip_suffix(b"\n").unwrap_or(written);
    let written = written.strip_suffix(b"\r").unwrap_or(written);
    let bytes = if let Some(digits) = written.strip_prefix(b"0x") {
        hexadecimal(digits).ok_or_else(|| {
            Mistake::new("the pre-shared key begins with `0x` but is not hexadecimal")
        })?
    } else if let Some(text) = written.strip_prefix(b"0s") {
        let text = std::str::from_utf8(text).unwrap_or("?");
        Base64::decode_vec(text)
            .or_else(|_| Base64Unpadded::decode_vec(text))
            .map_err(|_| Mistake::new("the pre-shared key begins with `0s` but is not Base64"))?
    } else {
        written.to_vec()
    };
    if bytes.is_empty() {
        return Err(Mistake::new("the pre-shared key is empty"));
    }
    Ok(Secret(bytes))
}

fn hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let digits = Zeroizing::new(std::str::from_utf8(digits).ok()?.to_ascii_lowercase());
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_strongswan_reads_it() {
        assert_eq!(psk(b"plain text\n").unwrap().expose(), b"plain text");
        assert_eq!(psk(b"0x00fF10").unwrap().expose(), [0, 255, 16]);
        assert_eq!(psk(b"0sAQID\n").unwrap().expose(), [1, 2, 3]);
        assert_eq!(psk(b"0sAQI=").unwrap().expose(), [1, 2]);
        for wrong in [
            b"".as_slice(),
            b"\n",
            b"0x123",
            b"0xzz",
            b"0s***",
            b"0x",
            b"0s\xff",
        ] {
            assert!(psk(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn debug_does_not_tell() {
        let words = format!("{:?}", psk(b"correct horse").unwrap());
        assert_eq!(words, "Secret(<13 bytes>)");
    }
}
