//! What the stages read from headers, and what they write into them. Offsets within packets are `esplanade-wire`'s; here
//! is only which header follows which.

use crate::port::TxFrame;
use esplanade_channel::Counter;
use esplanade_crypto::{Algorithm, Iv};
use esplanade_ipsec::{
    esp,
    sa::{DfPolicy, NextHop, OutboundSa},
    selector::Flow,
};
use esplanade_wire::{
    Dscp, Ecn, Malformed, Protocol, esp as esp_wire,
    ethernet::{self, MacAddress},
    ip::{self, Family, Marks},
    ipv4, ipv6, tcp, udp,
};
use std::{
    net::{IpAddr, Ipv4Addr},
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

/// What the stages need to know of an IP header and the ports behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for, of the same family.
    pub destination: IpAddr,
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
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
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
    #[inline]
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// The flow of a packet that goes from the protected side to the peer's.
    #[inline]
    pub fn flow_out(&self) -> Flow {
        Flow {
            local: self.source,
            remote: self.destination,
            protocol: self.protocol.0,
            ports: self.ports,
        }
    }

    /// The flow of a packet that comes from the peer's side.
    #[inline]
    pub fn flow_in(&self) -> Flow {
        self.flow_out().reversed()
    }
}

/// What selectors see of the upper layer, and whether it opens a TCP connection.
#[inline]
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

#[inline]
fn read_v4(bytes: &[u8]) -> Result<Ip, Refused> {
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
        source: packet.source().into(),
        destination: packet.destination().into(),
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

fn read_v6(bytes: &[u8]) -> Result<Ip, Refused> {
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
        source: packet.source().into(),
        destination: packet.destination().into(),
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
#[inline]
pub fn read_frame(frame: &[u8]) -> Result<Ip, Refused> {
    let frame = ethernet::Frame::new_checked(frame)?;
    match Family::of_ethertype(frame.ethertype()) {
        Some(family) if frame.header_len() == ETHERNET => read(family, frame.payload()),
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
#[inline]
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
#[inline]
pub fn write_iv(space: &mut [u8], iv: &Iv, algorithm: Algorithm) {
    match <&mut [u8; 8]>::try_from(&mut *space) {
        Ok(space) => *space = iv.explicit(),
        Err(_) => write_other_iv(space, iv.on_wire(algorithm)),
    }
}

/// None, or one of CBC.
#[cold]
fn write_other_iv(space: &mut [u8], iv: &[u8]) {
    for (to, from) in space.iter_mut().zip(iv) {
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
    let marks = Marks {
        dscp: sa.dscp.unwrap_or(inner.dscp),
        // RFC 6040 4.1: "In normal mode, an encapsulator compliant with this specification MUST construct the outer
        // encapsulating IP header by copying the two-bit ECN field of the incoming IP header."
        ecn: inner.ecn,
        identification,
        dont_fragment: total <= usize::from(path_mtu)
            && match sa.df {
                DfPolicy::Copy => inner.dont_fragment,
                DfPolicy::Set => true,
                DfPolicy::Clear => false,
            },
        flow_label: esp::flow_label(sa.spi),
    };
    ip::Repr::new(sa.local, sa.remote, protocol, payload, marks)
}

/// The headers around a sealed packet.
#[derive(Debug)]
pub struct Outer {
    ip: ip::Repr,
    udp: Option<udp::Repr>,
    esp: esp_wire::Repr,
}

impl Outer {
    /// The headers of a packet through this SA, whose inner packet has this header and this length, on a path of this MTU.
    /// `None` for an SA between the families, which is never installed.
    #[inline]
    pub fn new(
        sa: &OutboundSa,
        inner: &Ip,
        length: usize,
        identification: u16,
        sequence: u32,
        path_mtu: u16,
    ) -> Option<Self> {
        // Within the port's MTU, or IPv6's least, and so within 16 bits.
        let total = sa.shape.outer_len(length);
        let payload = (total - Family::of(sa.local).header_len()) as u16;
        let protocol = match sa.encapsulation {
            Some(_) => Protocol::UDP,
            None => Protocol::ESP,
        };
        let ip = tunnel_header(sa, inner, identification, protocol, payload, path_mtu)?;
        let udp = sa.encapsulation.map(|ports| udp::Repr {
            source_port: ports.local,
            destination_port: ports.remote,
            payload_len: payload - esp::UDP as u16,
        });
        let esp = esp_wire::Repr {
            spi: esp_wire::Spi(sa.spi),
            sequence,
        };
        Some(Self { ip, udp, esp })
    }

    /// Writes all headers, Ethernet's included, but not the IV, and gives the length of the frame's packet.
    #[inline]
    pub fn write(&self, frame: &mut [u8], next_hop: &NextHop) -> Option<usize> {
        write_ethernet(frame, next_hop, self.ip.family());
        let mut rest = frame.get_mut(ETHERNET..)?;
        self.ip.emit(rest).ok()?;
        rest = rest.get_mut(self.ip.header_len()..)?;
        if let Some(udp) = &self.udp {
            udp.emit(rest).ok()?;
            rest = rest.get_mut(esp::UDP..)?;
        }
        self.esp.emit(rest).ok()?;
        Some(ETHERNET + self.ip.header_len() + usize::from(self.ip.payload_len()))
    }
}
