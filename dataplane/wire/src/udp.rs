//! UDP headers (RFC 768), for ESP in UDP above all (RFC 3948).

use crate::{Malformed, NoRoom, Protocol, checksum::Sum, put, split_header};
use core::net::Ipv6Addr;

/// The length of a header.
pub const HEADER_LEN: usize = 8;
/// Where the checksum is.
pub(crate) const CHECKSUM_AT: usize = 6;

/// A checked view of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Checks the lengths; bytes behind the datagram's end are left out.
    ///
    /// # Errors
    ///
    /// The header is not whole, or its length field does not fit.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = split_header::<HEADER_LEN>(bytes)?;
        let stated = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = stated
            .checked_sub(HEADER_LEN)
            .and_then(|length| rest.get(..length))
            .ok_or(Malformed::Length {
                stated,
                found: bytes.len(),
            })?;
        Ok(Self { header, payload })
    }

    /// The view of a datagram that may have lost its end, as those that ICMP errors quote.
    ///
    /// # Errors
    ///
    /// The header is not whole.
    #[inline]
    pub fn new_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = split_header::<HEADER_LEN>(bytes)?;
        let stated = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let length = stated.saturating_sub(HEADER_LEN).min(rest.len());
        let payload = rest.get(..length).unwrap_or_default();
        Ok(Self { header, payload })
    }

    /// The source port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// The destination port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The checksum, 0 for none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// What it carries.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header as a value, without a checksum.
///
/// RFC 3948 2.1: "the IPv4 UDP Checksum SHOULD be transmitted as a zero value".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// The source port.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
    /// How many bytes follow the header.
    pub payload_len: u16,
}

impl Repr {
    /// The header of a datagram.
    #[inline]
    pub fn parse(datagram: &Datagram<'_>) -> Self {
        Self {
            source_port: datagram.source_port(),
            destination_port: datagram.destination_port(),
            // It came out of a length field of 16 bits.
            payload_len: datagram.payload().len() as u16,
        }
    }

    /// The header's bytes. A payload beyond what the length field can say saturates it.
    #[inline]
    pub const fn bytes(&self) -> [u8; HEADER_LEN] {
        let [a, b] = self.source_port.to_be_bytes();
        let [c, d] = self.destination_port.to_be_bytes();
        let [e, f] = self
            .payload_len
            .saturating_add(HEADER_LEN as u16)
            .to_be_bytes();
        [a, b, c, d, e, f, 0, 0]
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

/// Fills in the checksum of a datagram between these addresses, whose field is zero. `None`, and nothing changed, when this is
/// no datagram.
///
/// RFC 8200 8.1: "if that computation yields a result of zero, it must be changed to hex FFFF for placement in the UDP header."
#[inline]
pub fn fill_checksum_v6(
    datagram: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Option<()> {
    let length = u32::try_from(datagram.len()).ok()?;
    let sum = Sum::pseudo_header_v6(source, destination, Protocol::UDP, length)
        .add_bytes(datagram)
        .complement();
    let header = datagram.first_chunk_mut::<HEADER_LEN>()?;
    [header[6], header[7]] = if sum == 0 {
        [0xff; 2]
    } else {
        sum.to_be_bytes()
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40), length in 0u8..45) {
            let mut bytes = bytes;
            if let Some(field) = bytes.get_mut(4..6) {
                field.copy_from_slice(&[0, length]);
            }
            match Datagram::new_checked(&bytes) {
                Ok(datagram) => prop_assert_eq!(datagram.payload().len() + HEADER_LEN, length.into()),
                Err(_) => prop_assert!(length < 8 || usize::from(length) > bytes.len()),
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            source_port: u16, destination_port: u16, payload in prop::collection::vec(any::<u8>(), 0..100),
            behind in 0usize..20,
        ) {
            let repr = Repr { source_port, destination_port, payload_len: payload.len() as u16 };
            let mut bytes = vec![0; HEADER_LEN];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&payload);
            bytes.extend(vec![0; behind]);
            let datagram = Datagram::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&datagram), repr);
            prop_assert_eq!(datagram.payload(), &payload);
            prop_assert_eq!(datagram.checksum(), 0);
            prop_assert_eq!(Datagram::new_quoted(&bytes), Ok(datagram));
            let cut = &bytes[..HEADER_LEN + payload.len() / 2];
            prop_assert_eq!(Datagram::new_quoted(cut).unwrap().payload(), &payload[..payload.len() / 2]);
        }
    }

    proptest! {
        #[test]
        fn a_filled_checksum_is_right(
            source: [u8; 16], destination: [u8; 16], payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let (source, destination) = (source.into(), destination.into());
            let repr = Repr { source_port: 4500, destination_port: 4500, payload_len: payload.len() as u16 };
            let mut bytes = [&repr.bytes()[..], &payload].concat();
            fill_checksum_v6(&mut bytes, source, destination).unwrap();
            prop_assert_ne!(&bytes[6..8], &[0, 0]);
            let length = bytes.len() as u32;
            let sum = Sum::pseudo_header_v6(source, destination, Protocol::UDP, length).add_bytes(&bytes);
            prop_assert_eq!(sum.complement(), 0);
        }
    }

    #[test]
    fn a_sum_of_zero_is_sent_as_its_other_form() {
        let (a, b) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        // Twice the length, the protocol and the ports fill up to 0xffff.
        let rest = 0xffff - 2 * 10 - 17;
        let mut bytes = [0, 0, 0, 0, 0, 10, 0, 0, (rest >> 8) as u8, rest as u8];
        fill_checksum_v6(&mut bytes, a, b).unwrap();
        assert_eq!(bytes[6..8], [0xff, 0xff]);
    }

    #[test]
    fn short_buffers_are_refused() {
        let repr = Repr {
            source_port: 4500,
            destination_port: 4500,
            payload_len: 0,
        };
        assert_eq!(repr.emit(&mut [0; 7]), Err(NoRoom { needed: 8 }));
    }
}
