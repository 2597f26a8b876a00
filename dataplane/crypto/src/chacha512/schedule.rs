//! What the kernels need of a key (RFC 7634 2): ChaCha20's key and the salt. There is nothing to expand.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A key, in the words that ChaCha20 takes. It fills a cache line.
#[repr(C, align(64))]
pub(crate) struct Schedule {
    /// RFC 8439 2.3: "The next eight words (4-11) are taken from the 256-bit key by reading the bytes in little-endian
    /// order, in 4-byte chunks."
    pub(super) key: [u32; 8],
    /// The first word of the nonce.
    pub(super) salt: u32,
    _rest: [u32; 7],
}

const _: () = assert!(size_of::<Schedule>() == 64);

impl Schedule {
    /// `None` when the CPU lacks the instructions or the key is not of 32 bytes.
    pub(crate) fn new(key: &[u8], salt: [u8; 4]) -> Option<Box<Self>> {
        let (words, []) = key.as_chunks::<4>() else {
            return None;
        };
        if !super::is_available() || words.len() != 8 {
            return None;
        }
        let mut schedule = Box::new(Self {
            key: [0; 8],
            salt: u32::from_le_bytes(salt),
            _rest: [0; 7],
        });
        for (slot, word) in schedule.key.iter_mut().zip(words) {
            *slot = u32::from_le_bytes(*word);
        }
        Some(schedule)
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.key.zeroize();
        self.salt.zeroize();
    }
}

impl ZeroizeOnDrop for Schedule {}
