//! What the stages read from headers, and what they write into them. Offsets within packets are `esplanade-wire`'s; here
//! is only which header follows which.

use crate::port::TxFrame;
use esplanade_channel::Counter;
use esplanade_crypto::{Algorithm, Iv};
use esplanade_ipsec::{
    esp,
    sa::{DfPolicy, NextHop, OutboundSa},
    selector::{Flow, FlowKey},
};
use esplanade_wire::{
    Dscp, Ecn, Malformed, Protocol, esp as esp_wire,
    ethernet::{self, MacAddress},
    ip::{self, Family, Marks},
    ipv4, ipv6, tcp,
    template::{Fill, Template},
    udp,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

/// Where the IP packet begins in our frames.
pub const ETHERNET: usize = ethernet::HEADER_LEN;
/// ESP in UDP (RFC 3948 2.1).
const NAT_TRAVERSAL: u16 = 4500;

/// Why a packet was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not IP, or behind VLAN tags.
    NotIp,
    /// Shorter than its headers claim.
    Truncated,
    /// A header that makes no sense.
    Header,
    /// The header's checksum is wrong.
    Checksum,
    /// IPv6's extension headers are too many, or out of order.
    Extensions,
    /// A fragment of an ESP packet.
    Fragment,
}

impl Refused {
    /// What counts it when it came from outside.
    pub fn inbound_counter(self) -> Counter {
        match self {
            Self::NotIp => Counter::InNotOurs,
            Self::Truncated => Counter::InTruncated,
            Self::Header => Counter::InHdrError,
            Self::Checksum => Counter::InBadChecksum,
            Self::Extensions => Counter::InExtensions,
            Self::Fragment => Counter::InFragment,
        }
    }

    /// What counts it when it came from inside.
    pub fn outbound_counter(self) -> Counter {
        match self {
            Self::Checksum => Counter::OutBadChecksum,
            Self::Extensions => Counter::OutExtensions,
            _ => Counter::OutHdrError,
        }
    }

    /// What counts it when it was decrypted.
    pub fn inner_counter(self) -> Counter {
        match self {
            Self::Extensions => Counter::InExtensions,
            _ => Counter::InTrailerError,
        }
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Truncated { .. } => Self::Truncated,
            Malformed::Length { stated, found } if stated > found => Self::Truncated,
            Malformed::Version(_) => Self::NotIp,
            Malformed::ExtensionHeaders => Self::Extensions,
            Malformed::Length { .. } | Malformed::HeaderLength(_) => Self::Header,
        }
    }
}

/// An address of some family in two words, IPv4's in the lower. An `IpAddr` is put together byte by byte, and who copies it
/// soon after has to wait for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words {
    high: u64,
    low: u64,
}

impl Words {
    #[inline(always)]
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address),
            IpAddr::V6(address) => Self::v6(address),
        }
    }

    #[inline(always)]
    fn v4(address: Ipv4Addr) -> Self {
        Self {
            high: 0,
            low: address.to_bits().into(),
        }
    }

    #[inline(always)]
    fn v6(address: Ipv6Addr) -> Self {
        let bits = address.to_bits();
        Self {
            high: (bits >> 64) as u64,
            low: bits as u64,
        }
    }

    #[inline(always)]
    fn address(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::from_bits(self.low as u32).into(),
            Family::V6 => {
                Ipv6Addr::from_bits(u128::from(self.high) << 64 | u128::from(self.low)).into()
            }
        }
    }
}

/// What the stages need to know of an IP header and the ports behind it: fields that fit into registers, and stay there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Of its addresses.
    family: Family,
    source: Words,
    destination: Words,
    /// The length of the packet.
    pub length: usize,
    /// The length of the header, with options and extension headers.
    pub header: usize,
    /// What it carries, behind extension headers.
    pub protocol: Protocol,
    /// How many more routers may forward it: TTL or hop limit.
    pub ttl: u8,
    /// The differentiated services code point.
    pub dscp: Dscp,
    /// The ECN field.
    pub ecn: Ecn,
    /// Whether it must not be fragmented, as IPv6 never must.
    pub dont_fragment: bool,
    /// Whether it is a fragment.
    pub is_fragment: bool,
    /// Whether it is a fragment and not the first.
    pub is_later_fragment: bool,
    /// Whether it opens a TCP connection.
    pub is_syn: bool,
    /// Source and destination port; type and code for ICMP.
    ports: Option<(u16, u16)>,
}

impl Ip {
    /// What a dummy packet says of itself in the outer header: nothing.
    pub fn dummy() -> Self {
        Self {
            family: Family::V4,
            source: Words::v4(Ipv4Addr::UNSPECIFIED),
            destination: Words::v4(Ipv4Addr::UNSPECIFIED),
            length: 0,
            header: 0,
            protocol: Protocol::NONE,
            ttl: 64,
            dscp: Dscp::DEFAULT,
            ecn: Ecn::NotEct,
            dont_fragment: true,
            is_fragment: false,
            is_later_fragment: false,
            is_syn: false,
            ports: None,
        }
    }

    /// Its family.
    #[inline(always)]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Who sent it.
    #[inline(always)]
    pub fn source(&self) -> IpAddr {
        self.source.address(self.family)
    }

    /// The source port of a datagram; `None` when it is none.
    #[inline(always)]
    pub fn udp_source(&self) -> Option<u16> {
        let ports = self.ports.filter(|_| self.protocol == Protocol::UDP);
        ports.map(|(source, _)| source)
    }

    /// Whom it is for, of the same family.
    #[inline(always)]
    pub fn destination(&self) -> IpAddr {
        self.destination.address(self.family)
    }

    /// Whether it is for this address.
    #[inline(always)]
    pub fn is_for(&self, address: IpAddr) -> bool {
        self.family == Family::of(address) && self.destination == Words::of(address)
    }

    /// The flow of a packet that goes from the protected side to the peer's.
    #[inline]
    pub fn flow_out(&self) -> Flow {
        Flow {
            local: self.source(),
            remote: self.destination(),
            protocol: self.protocol.0,
            ports: self.ports,
        }
    }

    /// The flow of a packet that comes from the peer's side.
    #[inline]
    pub fn flow_in(&self) -> Flow {
        self.flow_out().reversed()
    }

    /// The key of [`flow_out`](Self::flow_out) in the flow cache.
    #[inline(always)]
    pub fn key_out(&self) -> FlowKey {
        self.key(self.source, self.destination, self.ports)
    }

    /// The key of [`flow_in`](Self::flow_in) in the flow cache.
    #[inline(always)]
    pub fn key_in(&self) -> FlowKey {
        let ports = self
            .ports
            .map(|(source, destination)| (destination, source));
        self.key(self.destination, self.source, ports)
    }

    #[inline(always)]
    fn key(&self, local: Words, remote: Words, ports: Option<(u16, u16)>) -> FlowKey {
        match self.family {
            Family::V4 => FlowKey::v4(local.low as u32, remote.low as u32, self.protocol.0, ports),
            Family::V6 => {
                let words = [local.high, local.low, remote.high, remote.low];
                FlowKey::v6(words, self.protocol.0, ports)
            }
        }
    }
}

/// What selectors see of the upper layer, and whether it opens a TCP connection.
#[inline(always)]
fn look_above(protocol: Protocol, payload: &[u8]) -> (Option<(u16, u16)>, bool) {
    match (protocol, payload) {
        (Protocol::ICMP | Protocol::ICMPV6, [kind, code, ..]) => {
            // RFC 7296 3.13.1: "ICMP Type and Code values are treated as a single 16-bit integer port number".
            let number = u16::from_be_bytes([*kind, *code]);
            (Some((number, number)), false)
        }
        (protocol, [a, b, c, d, ..]) if protocol.has_ports() => {
            let ports = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            let is_syn = protocol == Protocol::TCP
                && tcp::Segment::new_checked(payload)
                    .is_ok_and(|segment| segment.flags().contains(tcp::Flags::SYN));
            (Some(ports), is_syn)
        }
        _ => (None, false),
    }
}

/// Reads a packet of this family.
///
/// # Errors
///
/// It is none.
#[inline]
pub fn read(family: Family, bytes: &[u8]) -> Result<Ip, Refused> {
    match family {
        Family::V4 => read_v4(bytes),
        Family::V6 => read_v6(bytes),
    }
}

/// Reads a packet of IPv4. It is inlined everywhere, so that what it finds is never put into memory to be copied.
///
/// # Errors
///
/// It is none.
#[inline(always)]
pub fn read_v4(bytes: &[u8]) -> Result<Ip, Refused> {
    let packet = ipv4::Packet::new_checked(bytes)?;
    if !packet.checksum_is_right() {
        return Err(Refused::Checksum);
    }
    let is_later_fragment = packet.fragment_offset() != 0;
    let (ports, is_syn) = if is_later_fragment {
        (None, false)
    } else {
        look_above(packet.protocol(), packet.payload())
    };
    Ok(Ip {
        family: Family::V4,
        source: Words::v4(packet.source()),
        destination: Words::v4(packet.destination()),
        length: packet.total_len(),
        header: packet.header_len(),
        protocol: packet.protocol(),
        ttl: packet.ttl(),
        dscp: packet.dscp(),
        ecn: packet.ecn(),
        dont_fragment: packet.dont_fragment(),
        is_fragment: packet.is_fragment(),
        is_later_fragment,
        is_syn,
        ports,
    })
}

/// Reads a packet of IPv6.
///
/// # Errors
///
/// It is none.
#[inline(never)]
pub fn read_v6(bytes: &[u8]) -> Result<Ip, Refused> {
    let packet = ipv6::Packet::new_checked(bytes)?;
    let chain = packet.chain()?;
    let is_later_fragment = chain.fragment_offset() != 0;
    let (ports, is_syn) = if is_later_fragment {
        (None, false)
    } else {
        let payload = packet.as_bytes().get(chain.offset..);
        look_above(chain.protocol, payload.unwrap_or_default())
    };
    Ok(Ip {
        family: Family::V6,
        source: Words::v6(packet.source()),
        destination: Words::v6(packet.destination()),
        length: packet.total_len(),
        header: chain.offset,
        protocol: chain.protocol,
        ttl: packet.hop_limit(),
        dscp: packet.dscp(),
        ecn: packet.ecn(),
        // RFC 8200 5: "unlike IPv4, fragmentation in IPv6 is performed only by source nodes, not by routers".
        dont_fragment: true,
        is_fragment: chain.is_fragment(),
        is_later_fragment,
        is_syn,
        ports,
    })
}

/// Reads the IP packet of a frame.
///
/// # Errors
///
/// It has none.
pub fn read_frame(frame: &[u8]) -> Result<Ip, Refused> {
    let (family, packet) = unwrap(frame)?;
    read(family, packet)
}

/// The packet within a frame, and its family.
///
/// # Errors
///
/// The frame has none.
#[inline(always)]
pub fn unwrap(frame: &[u8]) -> Result<(Family, &[u8]), Refused> {
    let frame = ethernet::Frame::new_checked(frame)?;
    match Family::of_ethertype(frame.ethertype()) {
        Some(family) if frame.header_len() == ETHERNET => Ok((family, frame.payload())),
        _ => Err(Refused::NotIp),
    }
}

/// The Ethernet addresses of a frame's sender and receiver.
pub fn macs(frame: &[u8]) -> Option<(MacAddress, MacAddress)> {
    let frame = ethernet::Frame::new_checked(frame).ok()?;
    Some((frame.source(), frame.destination()))
}

/// An ESP packet within a frame; nothing in it is authentic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspAt {
    /// The SPI.
    pub spi: u32,
    /// The half of the sequence number that is sent.
    pub sequence: u32,
    /// Where IV, ciphertext and ICV lie in the frame.
    pub payload: Range<usize>,
}

/// Finds the ESP packet of a frame whose IP header was read, plain or in UDP. `None` when it carries something else.
///
/// # Errors
///
/// It is ESP, but not a whole packet of it.
#[inline(always)]
pub fn find_esp(frame: &[u8], ip: &Ip) -> Result<Option<EspAt>, Refused> {
    let payload_at = ETHERNET + ip.header;
    let payload = frame
        .get(payload_at..ETHERNET + ip.length)
        .ok_or(Refused::Truncated)?;
    let (esp_at, bytes) = match ip.protocol {
        Protocol::ESP if ip.is_fragment => return Err(Refused::Fragment),
        Protocol::ESP => (payload_at, payload),
        Protocol::UDP if ip.ports.is_some_and(|ports| ports.1 == NAT_TRAVERSAL) => {
            if ip.is_fragment {
                return Err(Refused::Fragment);
            }
            let datagram = udp::Datagram::new_checked(payload)?;
            // RFC 3948 2.2 and 2.3: IKE's marker, where the SPI would be, and keepalives are not ours.
            match datagram.payload() {
                [0, 0, 0, 0, ..] | [_] => return Ok(None),
                bytes => (payload_at + udp::HEADER_LEN, bytes),
            }
        }
        _ => return Ok(None),
    };
    let packet = esp_wire::Packet::new_checked(bytes)?;
    Ok(Some(EspAt {
        spi: packet.spi().0,
        sequence: packet.sequence(),
        payload: esp_at + esp::ESP..esp_at + bytes.len(),
    }))
}

/// Takes one from the TTL or hop limit of a frame's packet, which has more than one.
#[inline]
pub fn decrement_ttl(frame: &mut [u8]) {
    if let Some(packet) = frame.get_mut(ETHERNET..) {
        ip::decrement_ttl(packet);
    }
}

/// Sets the ECN field of a frame's packet.
#[inline]
pub fn set_ecn(frame: &mut [u8], ecn: Ecn) {
    if let Some(packet) = frame.get_mut(ETHERNET..) {
        ip::set_ecn(packet, ecn);
    }
}

/// Lowers the MSS that a frame's SYN announces to what an inner packet of `mtu` bytes holds. Gives whether it did.
#[cold]
pub fn clamp_mss(frame: &mut [u8], ip: &Ip, mtu: u16) -> bool {
    // RFC 9293 3.7.1: the MSS leaves out both headers, but not their options.
    let headers = (ip.family().header_len() + tcp::HEADER_LEN) as u16;
    frame
        .get_mut(ETHERNET + ip.header..ETHERNET + ip.length)
        .and_then(|segment| tcp::clamp_mss(segment, mtu.saturating_sub(headers)))
        .is_some()
}

/// Writes the Ethernet header of a packet of this family towards a next hop.
#[inline]
pub fn write_ethernet(frame: &mut [u8], next_hop: &NextHop, family: Family) {
    let ethertype = family.ethertype();
    let header = ethernet::Repr::untagged(next_hop.destination, next_hop.source, ethertype);
    // Every frame that can be sent has room for it.
    let _ = header.emit(frame);
}

/// Writes the Ethernet header of a packet of this family that no link carried: from no neighbour, to none.
pub fn write_link(frame: &mut [u8], port: u8, family: Family) {
    let nowhere = NextHop {
        destination: MacAddress::default(),
        source: MacAddress::default(),
        mtu: 0,
        port,
    };
    write_ethernet(frame, &nowhere, family);
}

/// Writes what packets of the algorithm carry of an IV into a space of that length.
#[cold]
pub fn write_iv(space: &mut [u8], iv: &Iv, algorithm: Algorithm) {
    for (to, from) in space.iter_mut().zip(iv.on_wire(algorithm)) {
        *to = *from;
    }
}

/// Fills in the checksum of the UDP datagram `at` a place in a packet of IPv6.
#[cold]
pub fn fill_udp_checksum(packet: &mut [u8], at: usize) {
    let Ok(view) = ipv6::Packet::new_checked(packet) else {
        return;
    };
    let (source, destination) = (view.source(), view.destination());
    if let Some(datagram) = packet.get_mut(at..) {
        udp::fill_checksum_v6(datagram, source, destination);
    }
}

/// Writes a fragment as a packet: where it would lie had it been received.
#[cold]
pub fn write_fragment(frame: &mut TxFrame, header: &[u8], payload: &[u8]) {
    let space = frame.get_mut(ETHERNET..).unwrap_or_default();
    for (to, from) in space.iter_mut().zip(header.iter().chain(payload)) {
        *to = *from;
    }
}

/// Why what an SA in tunnel mode brought is no packet: it is of transport mode, or of nothing that we carry.
#[cold]
pub fn not_of_tunnel_mode(next: Protocol) -> Counter {
    if next.has_ports() || matches!(next, Protocol::ICMP | Protocol::ICMPV6) {
        Counter::InStateModeError
    } else {
        Counter::InNextHeader
    }
}

/// What an outer header shows of the inner one: DSCP and ECN.
#[inline(always)]
fn shown(sa: &OutboundSa, inner: &Ip) -> (Dscp, Ecn) {
    let dscp = sa.dscp.unwrap_or(inner.dscp);
    // RFC 6040 4.1: "In normal mode, an encapsulator compliant with this specification MUST construct the outer encapsulating
    // IP header by copying the two-bit ECN field of the incoming IP header."
    (dscp, inner.ecn)
}

/// The DF bit of an outer packet of `total` bytes.
#[inline(always)]
fn is_kept_whole(sa: &OutboundSa, inner: &Ip, total: usize, path_mtu: u16) -> bool {
    total <= usize::from(path_mtu)
        && match sa.df {
            DfPolicy::Copy => inner.dont_fragment,
            DfPolicy::Set => true,
            DfPolicy::Clear => false,
        }
}

/// The outer header of a packet in tunnel mode (RFC 4301 5.1.2.1), on a path of this MTU. `None` for an SA between the
/// families, which is never installed.
#[inline]
pub fn tunnel_header(
    sa: &OutboundSa,
    inner: &Ip,
    identification: u16,
    protocol: Protocol,
    payload: u16,
    path_mtu: u16,
) -> Option<ip::Repr> {
    let total = Family::of(sa.local).header_len() + usize::from(payload);
    let (dscp, ecn) = shown(sa, inner);
    let marks = Marks {
        dscp,
        ecn,
        identification,
        dont_fragment: is_kept_whole(sa, inner, total, path_mtu),
        flow_label: esp::flow_label(sa.spi),
    };
    ip::Repr::new(sa.local, sa.remote, protocol, payload, marks)
}

/// The headers of a tunnel's packets that go to this next hop. `None` for an SA between the families, which is never
/// installed.
pub fn template(sa: &OutboundSa, next_hop: &NextHop) -> Option<Template> {
    let protocol = match sa.cold.encapsulation {
        Some(_) => Protocol::UDP,
        None => Protocol::ESP,
    };
    let marks = Marks {
        dscp: Dscp::DEFAULT,
        ecn: Ecn::NotEct,
        identification: 0,
        dont_fragment: false,
        flow_label: esp::flow_label(sa.spi),
    };
    let ip = ip::Repr::new(sa.local, sa.remote, protocol, 0, marks)?;
    let udp = sa.cold.encapsulation.map(|ports| udp::Repr {
        source_port: ports.local,
        destination_port: ports.remote,
        payload_len: 0,
    });
    let ethertype = ip.family().ethertype();
    let ethernet = ethernet::Repr::untagged(next_hop.destination, next_hop.source, ethertype);
    let spi = esp_wire::Spi(sa.spi);
    Some(Template::new(&ethernet, ip, udp, spi))
}

/// Writes the headers of a packet through this SA, Ethernet's included, but not the IV. The inner packet has this header and
/// this length. Gives the length of the frame's packet; `None` when the way of the SA's packets is not known.
#[inline(always)]
pub fn write_outer(
    sa: &OutboundSa,
    inner: &Ip,
    length: usize,
    identification: u16,
    sequence: u32,
    frame: &mut [u8],
) -> Option<usize> {
    // Within the port's MTU, or IPv6's least, and so within 16 bits.
    let total = sa.shape.outer_len(length);
    let (dscp, ecn) = shown(sa, inner);
    let fill = Fill {
        total: total as u16,
        dscp,
        ecn,
        identification,
        dont_fragment: is_kept_whole(sa, inner, total, sa.next_hop?.mtu),
        sequence,
    };
    sa.template.emit(frame, &fill)?;
    Some(ETHERNET + total)
}
