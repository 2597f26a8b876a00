//! The header of an ESP packet (RFC 4303 2). What follows it is laid out as its SA says: an IV of so many bytes, ciphertext,
//! and an ICV of so many bytes.

use crate::{Malformed, NoRoom, put, split_header};
use core::fmt;

/// The length of SPI and sequence number.
pub const HEADER_LEN: usize = 8;

/// A security parameters index as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(pub u32);

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A checked view of an ESP packet: long enough for SPI and sequence number. Nothing in it is authentic yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks the length.
    ///
    /// # Errors
    ///
    /// The packet ends before its header does.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = split_header(bytes)?;
        Ok(Self { header, payload })
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

    /// What follows the header: IV, ciphertext and ICV.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The IV of an SA whose packets carry `N` bytes of it, and behind it ciphertext and ICV. `None` when the packet ends
    /// before its IV does.
    #[inline]
    pub fn split_iv<const N: usize>(&self) -> Option<(&'a [u8; N], &'a [u8])> {
        self.payload.split_first_chunk()
    }
}

/// The header as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// The SPI.
    pub spi: Spi,
    /// The low half of the sequence number.
    pub sequence: u32,
}

impl Repr {
    /// The header of a packet.
    #[inline]
    pub fn parse(packet: &Packet<'_>) -> Self {
        Self {
            spi: packet.spi(),
            sequence: packet.sequence(),
        }
    }

    /// The header's bytes.
    #[inline]
    pub const fn bytes(&self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.spi.0.to_be_bytes();
        let [e, f, g, h] = self.sequence.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// Writes the header at the start of `buffer`.
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
                Ok(packet) => prop_assert_eq!(packet.payload(), &bytes[8..]),
                Err(_) => prop_assert!(bytes.len() < 8),
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(spi: u32, sequence: u32, rest in prop::collection::vec(any::<u8>(), 0..50)) {
            let repr = Repr { spi: Spi(spi), sequence };
            let mut bytes = vec![0; 8];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&rest);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&packet), repr);
            prop_assert_eq!(&packet.header()[..], &bytes[..8]);
            prop_assert_eq!(packet.payload(), &rest);
            match packet.split_iv::<16>() {
                Some((iv, sealed)) => prop_assert_eq!((&iv[..], sealed), rest.split_at(16)),
                None => prop_assert!(rest.len() < 16),
            }
        }
    }
}
