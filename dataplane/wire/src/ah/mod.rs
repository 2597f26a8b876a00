//! The authentication header (RFC 4302 2). How much of what follows its fixed part is IV, ICV and padding is its SA's to say.

mod covered;

pub use covered::{Covered, MAX_COVERED, NotCovered};

use crate::{Malformed, NoRoom, Protocol, esp::Spi, put, split_header};

/// The length of the fixed part: all but IV, ICV and padding.
pub const FIXED_LEN: usize = 12;

/// A checked view of AH and of what follows it. Nothing in it is authentic yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    fixed: &'a [u8; FIXED_LEN],
    data: &'a [u8],
    payload: &'a [u8],
}

/// The SPI of a header that may have lost its end behind the first 8 bytes, as those that ICMP errors quote (RFC 792), and its
/// sequence number, if that is left. `None` when less is there.
pub fn quoted(bytes: &[u8]) -> Option<(Spi, Option<u32>)> {
    let [_, _, _, _, a, b, c, d, rest @ ..] = bytes else {
        return None;
    };
    let sequence = rest.first_chunk().copied().map(u32::from_be_bytes);
    Some((Spi(u32::from_be_bytes([*a, *b, *c, *d])), sequence))
}

impl<'a> Packet<'a> {
    /// Checks the lengths.
    ///
    /// # Errors
    ///
    /// The bytes end before the header does, or the header says that it is shorter than its fixed part.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = split_header::<FIXED_LEN>(bytes)?;
        // RFC 4302 2.2: "This 8-bit field specifies the length of AH in 32-bit words (4-byte units), minus "2"."
        let stated = (usize::from(fixed[1]) + 2) * 4;
        let data_len = stated
            .checked_sub(FIXED_LEN)
            .ok_or(Malformed::HeaderLength(stated))?;
        let (data, payload) = rest
            .split_at_checked(data_len)
            .ok_or(Malformed::Truncated {
                needed: stated,
                found: bytes.len(),
            })?;
        Ok(Self {
            fixed,
            data,
            payload,
        })
    }

    /// What follows AH.
    #[inline]
    pub fn next_header(&self) -> Protocol {
        Protocol(self.fixed[0])
    }

    /// The SPI.
    #[inline]
    pub fn spi(&self) -> Spi {
        let [_, _, _, _, a, b, c, d, ..] = *self.fixed;
        Spi(u32::from_be_bytes([a, b, c, d]))
    }

    /// The low half of the sequence number, which is all that is sent.
    #[inline]
    pub fn sequence(&self) -> u32 {
        let [.., a, b, c, d] = *self.fixed;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The header without IV, ICV and padding.
    #[inline]
    pub fn fixed(&self) -> &'a [u8; FIXED_LEN] {
        self.fixed
    }

    /// IV, ICV and padding.
    #[inline]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The whole header's length.
    #[inline]
    pub fn header_len(&self) -> usize {
        FIXED_LEN + self.data.len()
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The fixed part as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// What follows AH.
    pub next_header: Protocol,
    /// The length of IV, ICV and padding: a multiple of four up to 1,016.
    pub data_len: usize,
    /// The SPI.
    pub spi: Spi,
    /// The low half of the sequence number.
    pub sequence: u32,
}

impl Repr {
    /// The fixed part of a packet's header.
    #[inline]
    pub fn parse(packet: &Packet<'_>) -> Self {
        Self {
            next_header: packet.next_header(),
            data_len: packet.data.len(),
            spi: packet.spi(),
            sequence: packet.sequence(),
        }
    }

    /// The fixed part's bytes. RFC 4302 2.3: the reserved field "MUST be set to "zero" by the sender".
    #[inline]
    pub const fn bytes(&self) -> [u8; FIXED_LEN] {
        let words = ((FIXED_LEN + self.data_len) / 4 - 2) as u8;
        let [a, b, c, d] = self.spi.0.to_be_bytes();
        let [e, f, g, h] = self.sequence.to_be_bytes();
        [self.next_header.0, words, 0, 0, a, b, c, d, e, f, g, h]
    }

    /// Writes the fixed part at the start of `buffer`.
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
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            match Packet::new_checked(&bytes) {
                Ok(packet) => {
                    prop_assert_eq!(packet.payload(), &bytes[packet.header_len()..]);
                    prop_assert_eq!(packet.header_len(), (usize::from(bytes[1]) + 2) * 4);
                }
                Err(_) => prop_assert!(bytes.len() < 12 || bytes[1] == 0 || bytes.len() < (usize::from(bytes[1]) + 2) * 4),
            }
        }

        #[test]
        fn what_a_quote_left_is_told(spi: u32, sequence: u32, left in 0usize..=12) {
            let repr = Repr { next_header: Protocol::TCP, data_len: 12, spi: Spi(spi), sequence };
            let mut bytes = [0; FIXED_LEN];
            repr.emit(&mut bytes).unwrap();
            let told = (left >= 8).then(|| (Spi(spi), (left == 12).then_some(sequence)));
            prop_assert_eq!(quoted(&bytes[..left]), told);
        }

        #[test]
        fn what_is_emitted_is_parsed(next: u8, spi: u32, sequence: u32, words in 0usize..20, rest in prop::collection::vec(any::<u8>(), 0..50)) {
            let data_len = words * 4;
            let repr = Repr { next_header: Protocol(next), data_len, spi: Spi(spi), sequence };
            let mut bytes = vec![0; FIXED_LEN];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(vec![7; data_len]);
            bytes.extend(&rest);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&packet), repr);
            prop_assert_eq!(&packet.fixed()[..], &bytes[..12]);
            prop_assert_eq!(packet.data(), vec![7; data_len]);
            prop_assert_eq!(packet.payload(), &rest);
        }
    }
}
