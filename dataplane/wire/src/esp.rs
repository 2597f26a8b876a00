//! The head of an ESP packet (RFC 4303 2) with the explicit IV of the AEADs (RFC 4106 3.1).

use crate::{Malformed, NoRoom, put, split_header};
use core::fmt;

/// The length of SPI and sequence number.
pub const HEADER_LEN: usize = 8;
/// The length of the explicit IV.
pub const IV_LEN: usize = 8;

/// A security parameters index as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(pub u32);

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A checked view of an ESP packet: long enough for SPI, sequence number and IV. Nothing in it is authentic yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    iv: &'a [u8; IV_LEN],
    ciphertext: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks the length.
    ///
    /// # Errors
    ///
    /// The packet ends before its IV does.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = split_header(bytes)?;
        let (iv, ciphertext) = split_header(rest)?;
        Ok(Self {
            header,
            iv,
            ciphertext,
        })
    }

    /// The SPI.
    #[inline]
    pub fn spi(&self) -> Spi {
        let [a, b, c, d, ..] = *self.header;
        Spi(u32::from_be_bytes([a, b, c, d]))
    }

    /// The low half of the sequence number, which is all that is sent.
    #[inline]
    pub fn sequence(&self) -> u32 {
        let [.., a, b, c, d] = *self.header;
        u32::from_be_bytes([a, b, c, d])
    }

    /// SPI and sequence number as they are on the wire: the additional data without ESN (RFC 4106 5).
    #[inline]
    pub fn header(&self) -> [u8; HEADER_LEN] {
        *self.header
    }

    /// The explicit IV.
    #[inline]
    pub fn iv(&self) -> [u8; IV_LEN] {
        *self.iv
    }

    /// What follows the IV: ciphertext and ICV.
    #[inline]
    pub fn ciphertext(&self) -> &'a [u8] {
        self.ciphertext
    }
}

/// The head as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// The SPI.
    pub spi: Spi,
    /// The low half of the sequence number.
    pub sequence: u32,
    /// The explicit IV.
    pub iv: [u8; IV_LEN],
}

impl Repr {
    /// The head of a packet.
    #[inline]
    pub fn parse(packet: &Packet<'_>) -> Self {
        Self {
            spi: packet.spi(),
            sequence: packet.sequence(),
            iv: packet.iv(),
        }
    }

    /// The head's bytes.
    #[inline]
    pub const fn bytes(&self) -> [u8; HEADER_LEN + IV_LEN] {
        let [a, b, c, d] = self.spi.0.to_be_bytes();
        let [e, f, g, h] = self.sequence.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = self.iv;
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Writes the head at the start of `buffer`.
    ///
    /// # Errors
    ///
    /// The buffer is too short.
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) -> Result<(), NoRoom> {
        put(self.bytes(), buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            match Packet::new_checked(&bytes) {
                Ok(packet) => prop_assert_eq!(packet.ciphertext(), &bytes[16..]),
                Err(_) => prop_assert!(bytes.len() < 16),
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(spi: u32, sequence: u32, iv: [u8; 8], rest in prop::collection::vec(any::<u8>(), 0..50)) {
            let repr = Repr { spi: Spi(spi), sequence, iv };
            let mut bytes = vec![0; 16];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&rest);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&packet), repr);
            prop_assert_eq!(&packet.header()[..], &bytes[..8]);
            prop_assert_eq!(packet.ciphertext(), &rest);
        }
    }
}
