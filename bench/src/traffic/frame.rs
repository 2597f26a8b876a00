//! The frames that the generator sends: UDP with a mark at the head of the payload that says which
//! packet it is and when it left.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use esplanade_wire::ethernet::{self, EtherType, Frame, MacAddress};
use esplanade_wire::udp::{self, Datagram};
use esplanade_wire::{NoRoom, Protocol, ipv4};

/// Bytes before the mark: Ethernet, IPv4 without options, UDP.
pub const HEADERS: usize = BEFORE_UDP + udp::HEADER_LEN;
/// The shortest frame that holds a mark.
pub const SHORTEST: usize = HEADERS + MARK;
/// The longest frame of a link with the usual MTU.
pub const LONGEST: usize = ethernet::HEADER_LEN + 1500;

const BEFORE_UDP: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
const MARK: usize = 20;
const MAGIC: [u8; 4] = *b"ESPL";

/// From whom to whom the frames go.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The sender's hardware address.
    pub source_mac: [u8; 6],
    /// The hardware address of the sender's next hop.
    pub destination_mac: [u8; 6],
    /// Sender; the port is that of the first flow.
    pub source: SocketAddrV4,
    /// Receiver.
    pub destination: SocketAddrV4,
    /// How many source ports take turns.
    pub flows: u16,
}

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its number; the first is 0.
    pub number: u64,
    /// When it left, by the monotonic clock, in nanoseconds.
    pub left: u64,
}

/// A frame that is finished but for its mark and its flow.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    first_port: u16,
    flows: u16,
}

impl Template {
    /// A frame of `length` bytes, its check sequence not counted.
    pub fn new(route: &Route, length: usize) -> Result<Self> {
        ensure!(
            (SHORTEST..=LONGEST).contains(&length),
            "a frame is {SHORTEST} to {LONGEST} bytes long, not {length}"
        );
        let datagram = u16::try_from(length - BEFORE_UDP)?;
        let ethernet = ethernet::Repr::untagged(
            MacAddress(route.destination_mac),
            MacAddress(route.source_mac),
            EtherType::IPV4,
        );
        let (from, to) = (*route.source.ip(), *route.destination.ip());
        let ip = ipv4::Repr::new(from, to, Protocol::UDP, datagram);
        let mut bytes = vec![0; length];
        ethernet.emit(&mut bytes)?;
        ip.emit(&mut bytes[ethernet::HEADER_LEN..])?;
        let template = Self {
            bytes,
            first_port: route.source.port(),
            flows: route.flows.max(1),
        };
        Ok(template.finished(route.destination.port(), datagram)?)
    }

    /// With UDP's header, and the head of the payload.
    fn finished(mut self, port: u16, datagram: u16) -> Result<Self, NoRoom> {
        let udp = udp::Repr {
            source_port: self.first_port,
            destination_port: port,
            payload_len: datagram - udp::HEADER_LEN as u16,
        };
        udp.emit(&mut self.bytes[BEFORE_UDP..])?;
        self.bytes[HEADERS..HEADERS + MAGIC.len()].copy_from_slice(&MAGIC);
        Ok(self)
    }

    /// The length of the frame.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the frame with its mark into a buffer; returns its length, or `None` when the buffer is
    /// too small.
    #[inline]
    pub fn write(&self, buffer: &mut [u8], mark: Mark) -> Option<usize> {
        let length = self.bytes.len();
        let frame = buffer.get_mut(..length)?;
        frame.copy_from_slice(&self.bytes);
        let flow = (mark.number % u64::from(self.flows)) as u16;
        // UDP begins with the source port.
        let port = self.first_port.wrapping_add(flow).to_be_bytes();
        frame
            .get_mut(BEFORE_UDP..)?
            .get_mut(..2)?
            .copy_from_slice(&port);
        let payload = frame.get_mut(HEADERS + MAGIC.len()..)?;
        payload
            .get_mut(..8)?
            .copy_from_slice(&mark.number.to_be_bytes());
        payload
            .get_mut(8..16)?
            .copy_from_slice(&mark.left.to_be_bytes());
        Some(length)
    }
}

/// The mark of an Ethernet frame, if it is one of ours.
#[inline]
pub fn mark_of_frame(frame: &[u8]) -> Option<Mark> {
    let frame = Frame::new_checked(frame).ok()?;
    if frame.ethertype() != EtherType::IPV4 {
        return None;
    }
    mark_of_packet(frame.payload())
}

/// The mark of an IPv4 packet, if it is one of ours.
#[inline]
pub fn mark_of_packet(packet: &[u8]) -> Option<Mark> {
    let packet = ipv4::Packet::new_checked(packet).ok()?;
    if packet.protocol() != Protocol::UDP || packet.is_fragment() {
        return None;
    }
    let payload = Datagram::new_checked(packet.payload())
        .ok()?
        .payload()
        .strip_prefix(&MAGIC)?;
    let number = u64::from_be_bytes(*payload.first_chunk()?);
    let left = u64::from_be_bytes(*payload.get(8..)?.first_chunk()?);
    Some(Mark { number, left })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source: "10.1.0.2:9000".parse().expect("an address"),
            destination: "10.2.0.2:9001".parse().expect("an address"),
            flows: 4,
        }
    }

    #[test]
    fn a_mark_comes_out_as_it_went_in() {
        for length in [SHORTEST, 512, LONGEST] {
            let template = Template::new(&route(), length).expect("a template");
            let mut buffer = [0; 2048];
            let mark = Mark {
                number: 5,
                left: 12_345,
            };
            assert_eq!(template.write(&mut buffer, mark), Some(length));
            assert_eq!(mark_of_frame(&buffer[..length]), Some(mark));
            let packet =
                ipv4::Packet::new_checked(&buffer[ethernet::HEADER_LEN..length]).expect("IPv4");
            assert!(packet.checksum_is_right());
            assert_eq!(packet.ports(), Some((9001, 9001)), "the second flow");
        }
    }

    #[test]
    fn what_is_not_ours_has_no_mark() {
        assert_eq!(mark_of_frame(&[0; 200]), None);
        assert_eq!(mark_of_frame(&[0; 10]), None);
        assert!(Template::new(&route(), SHORTEST - 1).is_err());
        assert!(Template::new(&route(), LONGEST + 1).is_err());
    }
}
