//! IPv4 (RFC 791): a checked view, headers as values, and what a router changes in place.

mod fragment;
mod rewrite;

pub use fragment::{Fragment, Fragments, fragments};
pub use rewrite::{decrement_ttl, set_ecn};

use crate::{
    Dscp, Ecn, Malformed, NoRoom, Protocol,
    checksum::{self, Sum, checksum},
    ecn::{split_traffic_class, traffic_class},
    put, split_header,
};
use core::net::Ipv4Addr;

/// The length of a header without options.
pub const HEADER_LEN: usize = 20;
/// The longest header.
pub const MAX_HEADER_LEN: usize = 60;

/// Of the 16 bits that hold flags and fragment offset.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// A checked view of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    fixed: &'a [u8; HEADER_LEN],
    bytes: &'a [u8],
    header: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks version and lengths. Bytes behind the packet's end (Ethernet's padding) are left out. The checksum is
    /// not looked at: see [`Self::checksum_is_right`].
    ///
    /// # Errors
    ///
    /// It is not IPv4, or one of its lengths does not fit.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, header_len, stated) = lengths(bytes)?;
        Self::cut(fixed, bytes, header_len, stated).ok_or(Malformed::Length {
            stated,
            found: bytes.len(),
        })
    }

    /// The view of a packet that may have lost its end, as those that ICMP errors quote (RFC 792).
    ///
    /// # Errors
    ///
    /// It is not IPv4, or the header is not whole.
    #[inline]
    pub fn new_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, header_len, stated) = lengths(bytes)?;
        Self::cut(fixed, bytes, header_len, stated.min(bytes.len())).ok_or(Malformed::Length {
            stated,
            found: bytes.len(),
        })
    }

    #[inline]
    fn cut(
        fixed: &'a [u8; HEADER_LEN],
        bytes: &'a [u8],
        header_len: usize,
        total_len: usize,
    ) -> Option<Self> {
        let bytes = bytes.get(..total_len)?;
        let (header, payload) = bytes.split_at_checked(header_len)?;
        Some(Self {
            fixed,
            bytes,
            header,
            payload,
        })
    }

    /// Whether the header agrees with its checksum.
    ///
    /// RFC 1812 5.2.2: "If any of these tests fail, the packet MUST be silently discarded."
    #[inline]
    pub fn checksum_is_right(&self) -> bool {
        if self.header.len() == HEADER_LEN {
            return checksum::is_right(self.fixed);
        }
        checksum(self.header) == 0
    }

    /// The differentiated services code point.
    #[inline]
    pub fn dscp(&self) -> Dscp {
        split_traffic_class(self.fixed[1]).0
    }

    /// The ECN field.
    #[inline]
    pub fn ecn(&self) -> Ecn {
        split_traffic_class(self.fixed[1]).1
    }

    /// What tells the fragments of one packet from those of another.
    #[inline]
    pub fn identification(&self) -> u16 {
        u16::from_be_bytes([self.fixed[4], self.fixed[5]])
    }

    #[inline]
    fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.fixed[6], self.fixed[7]])
    }

    /// Whether routers must not fragment it.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    /// Whether it is a fragment and not the last.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    /// Where in the whole packet's payload this one's begins, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_and_offset() & OFFSET_MASK) * 8
    }

    /// Whether it is a fragment: the first, a later one or the last.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// How many more routers may forward it.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// What it carries.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.fixed[9])
    }

    /// The header's checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[10], self.fixed[11]])
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        let [.., a, b, c, d, _, _, _, _] = *self.fixed;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = *self.fixed;
        Ipv4Addr::new(a, b, c, d)
    }

    /// The options, padding included.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        self.header.get(HEADER_LEN..).unwrap_or_default()
    }

    /// The length of header and options.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header.len()
    }

    /// Header and options.
    #[inline]
    pub fn header(&self) -> &'a [u8] {
        self.header
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The length that the header states; a quoted packet may have less.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.fixed[2], self.fixed[3]]))
    }

    /// The packet's own bytes, without what lay behind it.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Source and destination port, where the protocol has them and this is not a later fragment.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        if !self.protocol().has_ports() || self.fragment_offset() != 0 {
            return None;
        }
        let [a, b, c, d] = *self.payload.first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}

/// Fixed header, header length and total length, once version and lengths make sense by themselves.
#[inline]
fn lengths(bytes: &[u8]) -> Result<(&[u8; HEADER_LEN], usize, usize), Malformed> {
    let (fixed, _) = split_header::<HEADER_LEN>(bytes)?;
    if fixed[0] >> 4 != 4 {
        return Err(Malformed::Version(fixed[0] >> 4));
    }
    let header_len = usize::from(fixed[0] & 15) * 4;
    if header_len < HEADER_LEN {
        return Err(Malformed::HeaderLength(header_len));
    }
    let stated = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if stated < header_len {
        return Err(Malformed::Length {
            stated,
            found: bytes.len(),
        });
    }
    Ok((fixed, header_len, stated))
}

/// A header without options as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Who sends it.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub destination: Ipv4Addr,
    /// What it carries.
    pub protocol: Protocol,
    /// How many bytes follow the header.
    pub payload_len: u16,
    /// The differentiated services code point.
    pub dscp: Dscp,
    /// The ECN field.
    pub ecn: Ecn,
    /// What tells the fragments of one packet from those of another.
    pub identification: u16,
    /// Whether routers must not fragment it.
    pub dont_fragment: bool,
    /// How many more routers may forward it.
    pub ttl: u8,
}

impl Repr {
    /// A header with the common defaults: no DSCP, no ECN, identification 0, DF set (RFC 6864 4.1 lets such a
    /// packet have any identification), TTL 64.
    #[inline]
    pub const fn new(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: Protocol,
        payload_len: u16,
    ) -> Self {
        Self {
            source,
            destination,
            protocol,
            payload_len,
            dscp: Dscp::DEFAULT,
            ecn: Ecn::NotEct,
            identification: 0,
            dont_fragment: true,
            ttl: 64,
        }
    }

    /// The header of a packet, without options and the marks of a fragment.
    #[inline]
    pub fn parse(packet: &Packet<'_>) -> Self {
        Self {
            source: packet.source(),
            destination: packet.destination(),
            protocol: packet.protocol(),
            // It came out of a length field of 16 bits.
            payload_len: packet.payload().len() as u16,
            dscp: packet.dscp(),
            ecn: packet.ecn(),
            identification: packet.identification(),
            dont_fragment: packet.dont_fragment(),
            ttl: packet.ttl(),
        }
    }

    /// The header's bytes with their checksum. A payload beyond what the length field can say saturates it.
    #[inline]
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let [length_high, length_low] = self
            .payload_len
            .saturating_add(HEADER_LEN as u16)
            .to_be_bytes();
        let [id_high, id_low] = self.identification.to_be_bytes();
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        let [flags_high, flags_low] = flags.to_be_bytes();
        let [s0, s1, s2, s3] = self.source.octets();
        let [d0, d1, d2, d3] = self.destination.octets();
        let mut header = [
            0x45,
            traffic_class(self.dscp, self.ecn),
            length_high,
            length_low,
            id_high,
            id_low,
            flags_high,
            flags_low,
            self.ttl,
            self.protocol.0,
            0,
            0,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ];
        let [high, low] = Sum::ZERO.add_bytes(&header).complement().to_be_bytes();
        header[10] = high;
        header[11] = low;
        header
    }

    /// Writes the header with its checksum at the start of `buffer`.
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
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn repr() -> impl Strategy<Value = Repr> {
        (
            any::<[u8; 4]>(),
            any::<[u8; 4]>(),
            any::<u8>(),
            any::<u8>(),
            any::<u16>(),
            any::<bool>(),
            any::<u8>(),
        )
            .prop_map(
                |(source, destination, protocol, class, identification, dont_fragment, ttl)| {
                    let (dscp, ecn) = split_traffic_class(class);
                    Repr {
                        source: source.into(),
                        destination: destination.into(),
                        protocol: Protocol(protocol),
                        payload_len: 0,
                        dscp,
                        ecn,
                        identification,
                        dont_fragment,
                        ttl,
                    }
                },
            )
    }

    /// Bytes that get past the version check more often than chance has it.
    fn nearly_a_packet() -> impl Strategy<Value = Vec<u8>> {
        (
            prop::collection::vec(any::<u8>(), 0..120),
            0u8..16,
            0u8..130,
        )
            .prop_map(|(mut bytes, ihl, length)| {
                if let Some(first) = bytes.first_mut() {
                    *first = 0x40 | ihl;
                }
                if let Some(field) = bytes.get_mut(2..4) {
                    field.copy_from_slice(&[0, length]);
                }
                bytes
            })
    }

    fn look_at_all(packet: &Packet<'_>) {
        assert_eq!(packet.header().len(), packet.header_len());
        assert_eq!(packet.options().len() + HEADER_LEN, packet.header_len());
        assert_eq!(
            packet.header_len() + packet.payload().len(),
            packet.as_bytes().len()
        );
        let _ = (
            packet.ports(),
            packet.checksum_is_right(),
            packet.is_fragment(),
        );
        let _ = (packet.source(), packet.destination(), Repr::parse(packet));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..80), nearly_a_packet()]) {
            if let Ok(packet) = Packet::new_checked(&bytes) {
                look_at_all(&packet);
                prop_assert_eq!(packet.as_bytes().len(), packet.total_len());
            }
            if let Ok(packet) = Packet::new_quoted(&bytes) {
                look_at_all(&packet);
                prop_assert!(packet.as_bytes().len() <= packet.total_len());
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            repr in repr(), payload in prop::collection::vec(any::<u8>(), 0..100), behind in 0usize..20,
        ) {
            let repr = Repr { payload_len: payload.len() as u16, ..repr };
            let mut bytes = vec![0; HEADER_LEN];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&payload);
            bytes.extend(vec![0xee; behind]);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&packet), repr);
            prop_assert!(packet.checksum_is_right());
            prop_assert_eq!(packet.payload(), &payload);
            prop_assert!(!packet.is_fragment());
        }
    }

    #[test]
    fn a_known_header() {
        let repr = Repr {
            dont_fragment: true,
            payload_len: 95,
            ..Repr::new(
                [192, 168, 0, 1].into(),
                [192, 168, 0, 199].into(),
                Protocol::UDP,
                0,
            )
        };
        let expected = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0,
            199,
        ];
        assert_eq!(repr.bytes(), expected);
    }

    #[test]
    fn what_is_no_packet_says_why() {
        let mut bytes = Repr::new([1; 4].into(), [2; 4].into(), Protocol::TCP, 0).bytes();
        assert_eq!(
            Packet::new_checked(&bytes[..19]),
            Err(Malformed::Truncated {
                needed: 20,
                found: 19
            })
        );
        bytes[0] = 0x65;
        assert_eq!(Packet::new_checked(&bytes), Err(Malformed::Version(6)));
        bytes[0] = 0x44;
        assert_eq!(
            Packet::new_checked(&bytes),
            Err(Malformed::HeaderLength(16))
        );
        bytes[0] = 0x45;
        bytes[3] = 21;
        let short = Malformed::Length {
            stated: 21,
            found: 20,
        };
        assert_eq!(Packet::new_checked(&bytes), Err(short));
        assert!(Packet::new_quoted(&bytes).is_ok());
        bytes[0] = 0x46;
        assert!(Packet::new_quoted(&bytes).is_err());
    }
}
