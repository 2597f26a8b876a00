//! IPv6 (RFC 8200): a checked view, the fixed header as a value, the way over the extension headers, fragments, and what a
//! router changes in place.

mod chain;
mod fragment;
mod rewrite;

pub use chain::{Chain, FRAGMENT_LEN, FragmentHeader, MAX_HEADERS};
pub use fragment::{Fragment, Fragments, fragments};
pub use rewrite::{decrement_hop_limit, set_ecn};

use crate::{
    Dscp, Ecn, Malformed, NoRoom, Protocol,
    ecn::{split_traffic_class, traffic_class},
    put, split_header,
};
use core::net::Ipv6Addr;

/// The length of the fixed header.
pub const HEADER_LEN: usize = 40;

/// A checked view of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    bytes: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version and length. Bytes behind the packet's end are left out.
    ///
    /// # Errors
    ///
    /// It is not IPv6, or shorter than it says.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest, stated) = lengths(bytes)?;
        Self::cut(header, bytes, stated).ok_or(Malformed::Length {
            stated,
            found: rest,
        })
    }

    /// The view of a packet that may have lost its end, as those that ICMP errors quote (RFC 4443 3).
    ///
    /// # Errors
    ///
    /// It is not IPv6, or the header is not whole.
    #[inline]
    pub fn new_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest, stated) = lengths(bytes)?;
        Self::cut(header, bytes, stated.min(rest)).ok_or(Malformed::Length {
            stated,
            found: rest,
        })
    }

    #[inline]
    fn cut(header: &'a [u8; HEADER_LEN], bytes: &'a [u8], payload_len: usize) -> Option<Self> {
        let bytes = bytes.get(..HEADER_LEN + payload_len)?;
        let payload = bytes.get(HEADER_LEN..)?;
        Some(Self {
            header,
            bytes,
            payload,
        })
    }

    #[inline]
    fn traffic_class(&self) -> (Dscp, Ecn) {
        split_traffic_class(self.header[0] << 4 | self.header[1] >> 4)
    }

    /// The differentiated services code point.
    #[inline]
    pub fn dscp(&self) -> Dscp {
        self.traffic_class().0
    }

    /// The ECN field.
    #[inline]
    pub fn ecn(&self) -> Ecn {
        self.traffic_class().1
    }

    /// The flow label.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 15, self.header[2], self.header[3]])
    }

    /// What follows the fixed header.
    #[inline]
    pub fn next_header(&self) -> Protocol {
        Protocol(self.header[6])
    }

    /// How many more routers may forward it.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        let [_, _, _, _, _, _, _, _, rest @ ..] = self.header;
        rest.first_chunk::<16>()
            .map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        self.header
            .last_chunk::<16>()
            .map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
    }

    /// What follows the fixed header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The length that the header states, its own included; a quoted packet may have less.
    #[inline]
    pub fn total_len(&self) -> usize {
        HEADER_LEN + usize::from(u16::from_be_bytes([self.header[4], self.header[5]]))
    }

    /// The packet's own bytes, without what lay behind it.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// The header, how many bytes follow it, and how many it says, once the version makes sense.
#[inline]
fn lengths(bytes: &[u8]) -> Result<(&[u8; HEADER_LEN], usize, usize), Malformed> {
    let (header, rest) = split_header::<HEADER_LEN>(bytes)?;
    if header[0] >> 4 != 6 {
        return Err(Malformed::Version(header[0] >> 4));
    }
    let stated = usize::from(u16::from_be_bytes([header[4], header[5]]));
    Ok((header, rest.len(), stated))
}

/// A fixed header as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Who sends it.
    pub source: Ipv6Addr,
    /// Whom it is for.
    pub destination: Ipv6Addr,
    /// What follows the header.
    pub next_header: Protocol,
    /// How many bytes follow the header.
    pub payload_len: u16,
    /// The differentiated services code point.
    pub dscp: Dscp,
    /// The ECN field.
    pub ecn: Ecn,
    /// The flow label: its low 20 bits.
    pub flow_label: u32,
    /// How many more routers may forward it.
    pub hop_limit: u8,
}

impl Repr {
    /// A header with the common defaults: no DSCP, no ECN, no flow label, 64 hops to go.
    #[inline]
    pub const fn new(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        next_header: Protocol,
        payload_len: u16,
    ) -> Self {
        Self {
            source,
            destination,
            next_header,
            payload_len,
            dscp: Dscp::DEFAULT,
            ecn: Ecn::NotEct,
            flow_label: 0,
            hop_limit: 64,
        }
    }

    /// The header of a packet.
    #[inline]
    pub fn parse(packet: &Packet<'_>) -> Self {
        Self {
            source: packet.source(),
            destination: packet.destination(),
            next_header: packet.next_header(),
            // It came out of a length field of 16 bits.
            payload_len: packet.payload().len() as u16,
            dscp: packet.dscp(),
            ecn: packet.ecn(),
            flow_label: packet.flow_label(),
            hop_limit: packet.hop_limit(),
        }
    }

    /// The header's bytes.
    #[inline]
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let class = u32::from(traffic_class(self.dscp, self.ecn));
        let first = 6 << 28 | class << 20 | (self.flow_label & 0x000f_ffff);
        let mut header = [0; HEADER_LEN];
        let (fixed, addresses) = header.split_at_mut(8);
        fixed.copy_from_slice(&[
            (first >> 24) as u8,
            (first >> 16) as u8,
            (first >> 8) as u8,
            first as u8,
            (self.payload_len >> 8) as u8,
            self.payload_len as u8,
            self.next_header.0,
            self.hop_limit,
        ]);
        let (source, destination) = addresses.split_at_mut(16);
        source.copy_from_slice(&self.source.octets());
        destination.copy_from_slice(&self.destination.octets());
        header
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
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80), length in 0u8..50) {
            let mut bytes = bytes;
            if let Some(start) = bytes.get_mut(..6) {
                start.copy_from_slice(&[0x60, 0, 0, 0, 0, length]);
            }
            match Packet::new_checked(&bytes) {
                Ok(packet) => {
                    prop_assert_eq!(packet.payload().len(), length.into());
                    prop_assert_eq!(packet.as_bytes().len(), packet.total_len());
                }
                Err(_) => prop_assert!(bytes.len() < HEADER_LEN + usize::from(length)),
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            source: [u8; 16], destination: [u8; 16], next_header: u8, class: u8, flow_label in 0u32..1 << 20,
            hop_limit: u8, payload in prop::collection::vec(any::<u8>(), 0..100), behind in 0usize..9,
        ) {
            let (dscp, ecn) = split_traffic_class(class);
            let repr = Repr {
                source: source.into(), destination: destination.into(), next_header: Protocol(next_header),
                payload_len: payload.len() as u16, dscp, ecn, flow_label, hop_limit,
            };
            let mut bytes = vec![0; HEADER_LEN];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&payload);
            bytes.extend(vec![0; behind]);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&packet), repr);
            prop_assert_eq!(packet.payload(), &payload);

            let mut rewritten = repr.bytes();
            set_ecn(&mut rewritten, Ecn::Ce).unwrap();
            let mut expected = Repr { ecn: Ecn::Ce, ..repr };
            prop_assert_eq!(rewritten, expected.bytes());
            match decrement_hop_limit(&mut rewritten) {
                Some(left) => {
                    prop_assert_eq!(left, hop_limit - 1);
                    expected.hop_limit = left;
                }
                None => prop_assert!(hop_limit <= 1),
            }
            prop_assert_eq!(rewritten, expected.bytes());

            let cut = &bytes[..HEADER_LEN + payload.len() / 2];
            let quoted = Packet::new_quoted(cut).unwrap();
            prop_assert_eq!((quoted.as_bytes(), quoted.total_len()), (cut, HEADER_LEN + payload.len()));
        }
    }

    #[test]
    fn a_known_header() {
        let repr = Repr {
            dscp: Dscp::new(46).unwrap(),
            ecn: Ecn::Ect0,
            flow_label: 0xabcde,
            ..Repr::new(
                "2001:db8::1".parse().unwrap(),
                "2001:db8::2".parse().unwrap(),
                Protocol::UDP,
                16,
            )
        };
        let mut expected = [0; HEADER_LEN];
        expected[..12]
            .copy_from_slice(&[0x6b, 0xaa, 0xbc, 0xde, 0, 16, 17, 64, 0x20, 1, 0x0d, 0xb8]);
        expected[24..28].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        (expected[23], expected[39]) = (1, 2);
        assert_eq!(repr.bytes(), expected);
    }

    #[test]
    fn ipv4_is_told_apart() {
        assert_eq!(Packet::new_checked(&[0x45; 60]), Err(Malformed::Version(4)));
    }
}
