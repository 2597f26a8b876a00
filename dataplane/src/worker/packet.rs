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
    Dscp, Ecn, Protocol, esp as esp_wire,
    ethernet::{self, EtherType, MacAddress},
    icmpv4, ipv4, tcp, udp,
};
use std::{net::Ipv4Addr, ops::Range};

/// Where the IP packet begins in our frames.
pub const ETHERNET: usize = ethernet::HEADER_LEN;
/// ESP in UDP (RFC 3948 2.1).
const NAT_TRAVERSAL: u16 = 4500;
/// RFC 9293 3.7.1: what the MSS leaves out of an IPv4 packet.
const IP_AND_TCP: u16 = 40;

/// Why a packet was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not IPv4, or behind VLAN tags.
    NotIpv4,
    /// Shorter than its headers claim.
    Truncated,
    /// A header that makes no sense.
    Header,
    /// The header's checksum is wrong.
    Checksum,
    /// A fragment of an ESP packet.
    Fragment,
}

impl Refused {
    /// What counts it when it came from outside.
    pub fn inbound_counter(self) -> Counter {
        match self {
            Self::NotIpv4 => Counter::InNotOurs,
            Self::Truncated => Counter::InTruncated,
            Self::Header => Counter::InHdrError,
            Self::Checksum => Counter::InBadChecksum,
            Self::Fragment => Counter::InFragment,
        }
    }
}

impl From<esplanade_wire::Malformed> for Refused {
    fn from(malformed: esplanade_wire::Malformed) -> Self {
        use esplanade_wire::Malformed;
        match malformed {
            Malformed::Truncated { .. } => Self::Truncated,
            Malformed::Length { stated, found } if stated > found => Self::Truncated,
            Malformed::Version(_) => Self::NotIpv4,
            Malformed::Length { .. } | Malformed::HeaderLength(_) => Self::Header,
        }
    }
}

/// What the stages need to know of an IPv4 header and the ports behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Who sent it.
    pub source: Ipv4Addr,
    /// Whom it is for.
    pub destination: Ipv4Addr,
    /// The length of the packet.
    pub length: usize,
    /// The length of the header.
    pub header: usize,
    /// What it carries.
    pub protocol: Protocol,
    /// How many more routers may forward it.
    pub ttl: u8,
    /// The differentiated services code point.
    pub dscp: Dscp,
    /// The ECN field.
    pub ecn: Ecn,
    /// Whether it must not be fragmented.
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
            source: Ipv4Addr::UNSPECIFIED,
            destination: Ipv4Addr::UNSPECIFIED,
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

    /// The flow of a packet that goes from the protected side to the peer's.
    #[inline]
    pub fn flow_out(&self) -> Flow {
        Flow {
            local: self.source.into(),
            remote: self.destination.into(),
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

/// Reads an IPv4 packet.
///
/// # Errors
///
/// It is none.
#[inline]
pub fn read(bytes: &[u8]) -> Result<Ip, Refused> {
    let packet = ipv4::Packet::new_checked(bytes)?;
    if !packet.checksum_is_right() {
        return Err(Refused::Checksum);
    }
    let is_later_fragment = packet.fragment_offset() != 0;
    let mut is_syn = false;
    let mut ports = packet.ports();
    match packet.protocol() {
        Protocol::TCP if !is_later_fragment => {
            let segment = tcp::Segment::new_checked(packet.payload());
            is_syn = segment.is_ok_and(|segment| segment.flags().contains(tcp::Flags::SYN));
        }
        Protocol::ICMP if !is_later_fragment => {
            // RFC 7296 3.13.1: "ICMP Type and Code values are treated as a single 16-bit integer port number".
            let message = icmpv4::Message::new_checked(packet.payload()).ok();
            ports = message.map(|message| {
                let number = u16::from_be_bytes([message.kind(), message.code()]);
                (number, number)
            });
        }
        _ => {}
    }
    Ok(Ip {
        source: packet.source(),
        destination: packet.destination(),
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

/// Reads the IPv4 packet of a frame.
///
/// # Errors
///
/// It has none.
#[inline]
pub fn read_frame(frame: &[u8]) -> Result<Ip, Refused> {
    let frame = ethernet::Frame::new_checked(frame)?;
    if frame.ethertype() != EtherType::IPV4 || frame.header_len() != ETHERNET {
        return Err(Refused::NotIpv4);
    }
    read(frame.payload())
}

/// The Ethernet address of a frame's sender.
pub fn source_mac(frame: &[u8]) -> Option<MacAddress> {
    let frame = ethernet::Frame::new_checked(frame).ok()?;
    Some(frame.source())
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

/// Takes one from the TTL of a frame's packet, which has more than one.
#[inline]
pub fn decrement_ttl(frame: &mut [u8]) {
    if let Some(packet) = frame.get_mut(ETHERNET..) {
        ipv4::decrement_ttl(packet);
    }
}

/// Sets the ECN field of a frame's packet.
#[inline]
pub fn set_ecn(frame: &mut [u8], ecn: Ecn) {
    if let Some(packet) = frame.get_mut(ETHERNET..) {
        ipv4::set_ecn(packet, ecn);
    }
}

/// Lowers the MSS that a frame's SYN announces to what an inner packet of `mtu` bytes holds. Gives whether it did.
#[cold]
pub fn clamp_mss(frame: &mut [u8], ip: &Ip, mtu: u16) -> bool {
    frame
        .get_mut(ETHERNET + ip.header..ETHERNET + ip.length)
        .and_then(|segment| tcp::clamp_mss(segment, mtu.saturating_sub(IP_AND_TCP)))
        .is_some()
}

/// Writes the Ethernet header towards a next hop.
#[inline]
pub fn write_ethernet(frame: &mut [u8], next_hop: &NextHop) {
    let header = ethernet::Repr::untagged(next_hop.destination, next_hop.source, EtherType::IPV4);
    // Every frame that can be sent has room for it.
    let _ = header.emit(frame);
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

/// Writes a fragment as an inner packet: where it would lie had it been received.
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
    if next.has_ports() || next == Protocol::ICMP {
        Counter::InStateModeError
    } else {
        Counter::InNextHeader
    }
}

/// The outer header of a packet in tunnel mode (RFC 4301 5.1.2.1).
#[inline]
pub fn tunnel_header(
    sa: &OutboundSa,
    inner: &Ip,
    identification: u16,
    protocol: Protocol,
    payload: u16,
) -> ipv4::Repr {
    ipv4::Repr {
        dscp: if sa.copy_dscp {
            inner.dscp
        } else {
            Dscp::DEFAULT
        },
        // RFC 6040 4.1: "In normal mode, an encapsulator compliant with this specification MUST construct the outer
        // encapsulating IP header by copying the two-bit ECN field of the incoming IP header."
        ecn: inner.ecn,
        identification,
        dont_fragment: match sa.df {
            DfPolicy::Copy => inner.dont_fragment,
            DfPolicy::Set => true,
            DfPolicy::Clear => false,
        },
        ..ipv4::Repr::new(sa.local, sa.remote, protocol, payload)
    }
}

/// The headers around a sealed packet.
#[derive(Debug)]
pub struct Outer {
    ip: ipv4::Repr,
    udp: Option<udp::Repr>,
    esp: esp_wire::Repr,
}

impl Outer {
    /// The headers of a packet through this SA, whose inner packet has this header and this length.
    #[inline]
    pub fn new(
        sa: &OutboundSa,
        inner: &Ip,
        length: usize,
        identification: u16,
        sequence: u32,
    ) -> Self {
        // Within the port's MTU, and so within 16 bits.
        let total = sa.shape.outer_len(length);
        let payload = (total - esp::OUTER_IPV4) as u16;
        let protocol = match sa.encapsulation {
            Some(_) => Protocol::UDP,
            None => Protocol::ESP,
        };
        let ip = tunnel_header(sa, inner, identification, protocol, payload);
        let udp = sa.encapsulation.map(|ports| udp::Repr {
            source_port: ports.local,
            destination_port: ports.remote,
            payload_len: payload - esp::UDP as u16,
        });
        let esp = esp_wire::Repr {
            spi: esp_wire::Spi(sa.spi),
            sequence,
        };
        Self { ip, udp, esp }
    }

    /// Writes all headers, Ethernet's included, but not the IV, and gives the length of the frame's packet.
    #[inline]
    pub fn write(&self, frame: &mut [u8], next_hop: &NextHop) -> Option<usize> {
        write_ethernet(frame, next_hop);
        let mut rest = frame.get_mut(ETHERNET..)?;
        self.ip.emit(rest).ok()?;
        rest = rest.get_mut(esp::OUTER_IPV4..)?;
        if let Some(udp) = &self.udp {
            udp.emit(rest).ok()?;
            rest = rest.get_mut(esp::UDP..)?;
        }
        self.esp.emit(rest).ok()?;
        Some(ETHERNET + esp::OUTER_IPV4 + usize::from(self.ip.payload_len))
    }
}
