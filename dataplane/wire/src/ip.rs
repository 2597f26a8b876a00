//! What IPv4 and IPv6 have in common: a packet and a header of either family.

use crate::{Dscp, Ecn, Malformed, NoRoom, Protocol, ethernet::EtherType, ipv4, ipv6};
use core::net::{IpAddr, Ipv4Addr};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    #[inline]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// That of a packet, by its version field.
    #[inline]
    pub const fn of_packet(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x40..=0x4f, ..] => Some(Self::V4),
            [0x60..=0x6f, ..] => Some(Self::V6),
            _ => None,
        }
    }

    /// That of the packets behind a next header: of ESP in tunnel mode, for one.
    #[inline]
    pub const fn of_protocol(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::IPV4 => Some(Self::V4),
            Protocol::IPV6 => Some(Self::V6),
            _ => None,
        }
    }

    /// That of the packets in a frame.
    #[inline]
    pub const fn of_ethertype(ethertype: EtherType) -> Option<Self> {
        match ethertype {
            EtherType::IPV4 => Some(Self::V4),
            EtherType::IPV6 => Some(Self::V6),
            _ => None,
        }
    }

    /// Its number as a next header.
    #[inline]
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::V4 => Protocol::IPV4,
            Self::V6 => Protocol::IPV6,
        }
    }

    /// Its number in a frame.
    #[inline]
    pub const fn ethertype(self) -> EtherType {
        match self {
            Self::V4 => EtherType::IPV4,
            Self::V6 => EtherType::IPV6,
        }
    }

    /// The protocol of its errors.
    #[inline]
    pub const fn icmp(self) -> Protocol {
        match self {
            Self::V4 => Protocol::ICMP,
            Self::V6 => Protocol::ICMPV6,
        }
    }

    /// The length of a header without options and extensions.
    #[inline]
    pub const fn header_len(self) -> usize {
        match self {
            Self::V4 => ipv4::HEADER_LEN,
            Self::V6 => ipv6::HEADER_LEN,
        }
    }

    /// The MTU that every path has: RFC 791 3.2, RFC 8200 5.
    #[inline]
    pub const fn min_mtu(self) -> u16 {
        match self {
            Self::V4 => 68,
            Self::V6 => 1280,
        }
    }
}

/// A checked view of a packet of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// IPv4.
    V4(ipv4::Packet<'a>),
    /// IPv6.
    V6(ipv6::Packet<'a>),
}

impl<'a> Packet<'a> {
    /// Checks version and lengths.
    ///
    /// # Errors
    ///
    /// It is no IP, or one of its lengths does not fit.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match Family::of_packet(bytes) {
            Some(Family::V6) => ipv6::Packet::new_checked(bytes).map(Self::V6),
            _ => ipv4::Packet::new_checked(bytes).map(Self::V4),
        }
    }

    /// The view of a packet that may have lost its end, as those that ICMP errors quote.
    ///
    /// # Errors
    ///
    /// It is no IP, or the header is not whole.
    #[inline]
    pub fn new_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match Family::of_packet(bytes) {
            Some(Family::V6) => ipv6::Packet::new_quoted(bytes).map(Self::V6),
            _ => ipv4::Packet::new_quoted(bytes).map(Self::V4),
        }
    }

    /// Its family.
    #[inline]
    pub fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(packet) => packet.source().into(),
            Self::V6(packet) => packet.source().into(),
        }
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(packet) => packet.destination().into(),
            Self::V6(packet) => packet.destination().into(),
        }
    }

    /// The packet's own bytes, without what lay behind it.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::V4(packet) => packet.as_bytes(),
            Self::V6(packet) => packet.as_bytes(),
        }
    }

    /// What is behind the IP headers.
    ///
    /// # Errors
    ///
    /// IPv6's extension headers are malformed or too many.
    #[inline]
    pub fn upper(&self) -> Result<Upper<'a>, Malformed> {
        match self {
            Self::V4(packet) => Ok(Upper {
                protocol: packet.protocol(),
                payload: packet.payload(),
                fragment_offset: packet.fragment_offset(),
                is_fragment: packet.is_fragment(),
            }),
            Self::V6(packet) => {
                let chain = packet.chain()?;
                Ok(Upper {
                    protocol: chain.protocol,
                    payload: packet.as_bytes().get(chain.offset..).unwrap_or_default(),
                    fragment_offset: chain.fragment_offset(),
                    is_fragment: chain.is_fragment(),
                })
            }
        }
    }
}

/// What is behind the IP headers of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper<'a> {
    /// What it is.
    pub protocol: Protocol,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Where in the whole packet they begin, in bytes: 0 unless this is a later fragment.
    pub fragment_offset: usize,
    /// Whether there is more of it in other packets.
    pub is_fragment: bool,
}

/// A header of either family as a value, without options and extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repr {
    /// IPv4.
    V4(ipv4::Repr),
    /// IPv6.
    V6(ipv6::Repr),
}

/// What a header says beside addresses, protocol and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The differentiated services code point.
    pub dscp: Dscp,
    /// The ECN field.
    pub ecn: Ecn,
    /// IPv4: what tells the fragments of one packet from those of another.
    pub identification: u16,
    /// IPv4: whether routers must not fragment it.
    pub dont_fragment: bool,
    /// IPv6: the flow label.
    pub flow_label: u32,
}

impl Repr {
    /// A header with 64 hops to go. `None` when the addresses are of two families.
    #[inline]
    pub fn new(
        source: IpAddr,
        destination: IpAddr,
        protocol: Protocol,
        payload_len: u16,
        marks: Marks,
    ) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4(ipv4::Repr {
                dscp: marks.dscp,
                ecn: marks.ecn,
                identification: marks.identification,
                dont_fragment: marks.dont_fragment,
                ..ipv4::Repr::new(source, destination, protocol, payload_len)
            })),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6(ipv6::Repr {
                dscp: marks.dscp,
                ecn: marks.ecn,
                flow_label: marks.flow_label,
                ..ipv6::Repr::new(source, destination, protocol, payload_len)
            })),
            _ => None,
        }
    }

    /// Writes the header at the start of `buffer`.
    ///
    /// # Errors
    ///
    /// The buffer is too short.
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) -> Result<(), NoRoom> {
        match self {
            Self::V4(header) => header.emit(buffer),
            Self::V6(header) => header.emit(buffer),
        }
    }

    /// The length of the header.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.family().header_len()
    }

    /// How many bytes follow the header.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        match self {
            Self::V4(header) => header.payload_len,
            Self::V6(header) => header.payload_len,
        }
    }

    /// Its family.
    #[inline]
    pub fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

/// Takes one from the TTL or hop limit and gives what is left. `None`, and nothing changed, when none would be left or this
/// is no header.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> Option<u8> {
    match Family::of_packet(packet)? {
        Family::V4 => ipv4::decrement_ttl(packet),
        Family::V6 => ipv6::decrement_hop_limit(packet),
    }
}

/// Sets the ECN field. `None`, and nothing changed, when this is no header.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) -> Option<()> {
    match Family::of_packet(packet)? {
        Family::V4 => ipv4::set_ecn(packet, ecn),
        Family::V6 => ipv6::set_ecn(packet, ecn),
    }
}

/// Whether an address can be that of one host elsewhere: not unspecified, loopback, multicast, broadcast, nor what IPv4
/// reserves behind that (the martians of RFC 1812 5.3.7; RFC 4291 2.5.2, 2.5.3 and 2.7).
#[inline]
pub const fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets(), [0 | 127 | 224.., ..]),
        IpAddr::V6(address) => {
            !address.is_multicast() && !address.is_unspecified() && !address.is_loopback()
        }
    }
}

/// Whether an address names a group, IPv4's limited broadcast included.
#[inline]
pub const fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || matches!(address, Ipv4Addr::BROADCAST),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;
    use proptest::prelude::*;

    fn marks() -> impl Strategy<Value = Marks> {
        (0u8..64, 0u8..4, any::<u16>(), any::<bool>(), 0u32..1 << 20).prop_map(
            |(dscp, ecn, identification, dont_fragment, flow_label)| Marks {
                dscp: Dscp::new(dscp).unwrap(),
                ecn: Ecn::from_bits(ecn),
                identification,
                dont_fragment,
                flow_label,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(
            v4: [[u8; 4]; 2], v6: [[u8; 16]; 2], six: bool, protocol in 61u8.., marks in marks(),
            payload in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let [source, destination] = if six {
                v6.map(|address| IpAddr::V6(address.into()))
            } else {
                v4.map(|address| IpAddr::V4(address.into()))
            };
            let repr = Repr::new(source, destination, Protocol(protocol), payload.len() as u16, marks).unwrap();
            let mut bytes = vec![0; repr.header_len()];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&payload);
            let packet = Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(packet.family(), repr.family());
            prop_assert_eq!(packet.family(), Family::of(source));
            prop_assert_eq!((packet.source(), packet.destination()), (source, destination));
            let upper = packet.upper().unwrap();
            prop_assert_eq!(upper.protocol, Protocol(protocol));
            prop_assert_eq!(upper.payload, &payload);
            prop_assert_eq!(packet.as_bytes(), &bytes);

            let mut routed = bytes.clone();
            prop_assert_eq!(decrement_ttl(&mut routed), Some(63));
            set_ecn(&mut routed, Ecn::Ce).unwrap();
            let shown = match Packet::new_checked(&routed).unwrap() {
                Packet::V4(packet) => (packet.ttl(), packet.ecn(), packet.dscp(), packet.checksum_is_right()),
                Packet::V6(packet) => (packet.hop_limit(), packet.ecn(), packet.dscp(), true),
            };
            prop_assert_eq!(shown, (63, Ecn::Ce, marks.dscp, true));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(packet) = Packet::new_checked(&bytes) {
                let _ = (packet.source(), packet.destination(), packet.upper());
            }
            let mut bytes = bytes;
            let _ = (decrement_ttl(&mut bytes), set_ecn(&mut bytes, Ecn::Ce));
        }
    }

    #[test]
    fn headers_of_two_families_are_none() {
        let (four, six) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let marks = Marks {
            dscp: Dscp::DEFAULT,
            ecn: Ecn::NotEct,
            identification: 0,
            dont_fragment: true,
            flow_label: 0,
        };
        assert_eq!(Repr::new(four, six, Protocol::ESP, 0, marks), None);
        assert_eq!(Repr::new(six, four, Protocol::ESP, 0, marks), None);
    }

    #[test]
    fn who_is_one_host() {
        for (address, one, group) in [
            ("10.0.0.1", true, false),
            ("0.0.0.0", false, false),
            ("127.0.0.1", false, false),
            ("224.0.0.1", false, true),
            ("255.255.255.255", false, true),
            ("2001:db8::1", true, false),
            ("fe80::1", true, false),
            ("::", false, false),
            ("::1", false, false),
            ("ff02::1", false, true),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_one_host(address), one, "{address}");
            assert_eq!(is_group(address), group, "{address}");
        }
    }

    #[test]
    fn families_are_told_by_any_of_their_numbers() {
        for family in Family::ALL {
            assert_eq!(Family::of_protocol(family.protocol()), Some(family));
            assert_eq!(Family::of_ethertype(family.ethertype()), Some(family));
        }
        assert_eq!(Family::of_protocol(Protocol::NONE), None);
        assert_eq!(Family::of_ethertype(EtherType::ARP), None);
        assert_eq!(Family::of_packet(&[0x45]), Some(Family::V4));
        assert_eq!(Family::of_packet(&[0x60]), Some(Family::V6));
        assert_eq!(Family::of_packet(&[0x50]), None);
        assert_eq!(Family::of_packet(&[]), None);
    }
}
