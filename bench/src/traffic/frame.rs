//! The frames that the generator sends: UDP with a mark at the head of the payload that says which
//! packet it is and when it left.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};

/// Bytes before the mark: Ethernet, IPv4 without options, UDP.
pub const HEADERS: usize = ETHERNET + IPV4 + UDP;
/// The shortest frame that holds a mark.
pub const SHORTEST: usize = HEADERS + MARK;
/// The longest frame of a link with the usual MTU.
pub const LONGEST: usize = ETHERNET + 1500;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
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
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(route.destination_mac);
        bytes.extend(route.source_mac);
        bytes.extend([0x08, 0x00]);
        let total = u16::try_from(length - ETHERNET)?.to_be_bytes();
        // Version and length, DSCP, total length, identification, DF, TTL, UDP, checksum.
        bytes.extend([0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0]);
        bytes.extend(route.source.ip().octets());
        bytes.extend(route.destination.ip().octets());
        let checksum = checksum(&bytes[ETHERNET..]).to_be_bytes();
        bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum);
        bytes.extend(route.source.port().to_be_bytes());
        bytes.extend(route.destination.port().to_be_bytes());
        bytes.extend(u16::try_from(length - ETHERNET - IPV4)?.to_be_bytes());
        // RFC 768: an all zero checksum means that the sender made none.
        bytes.extend([0, 0]);
        bytes.extend(MAGIC);
        bytes.resize(length, 0);
        Ok(Self {
            bytes,
            first_port: route.source.port(),
            flows: route.flows.max(1),
        })
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
        let port = self.first_port.wrapping_add(flow).to_be_bytes();
        frame
            .get_mut(ETHERNET + IPV4..)?
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
    mark_of_packet(frame.get(ETHERNET..)?)
}

/// The mark of an IPv4 packet, if it is one of ours.
#[inline]
pub fn mark_of_packet(packet: &[u8]) -> Option<Mark> {
    let payload = packet.get(IPV4 + UDP..)?.strip_prefix(&MAGIC)?;
    let number = u64::from_be_bytes(*payload.first_chunk()?);
    let left = u64::from_be_bytes(*payload.get(8..)?.first_chunk()?);
    Some(Mark { number, left })
}

/// The IPv4 header checksum (RFC 791 3.1).
fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in header.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
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
            assert_eq!(
                checksum(&buffer[ETHERNET..ETHERNET + IPV4]),
                0,
                "the checksum holds"
            );
            assert_eq!(buffer[34..36], 9001_u16.to_be_bytes(), "the second flow");
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
