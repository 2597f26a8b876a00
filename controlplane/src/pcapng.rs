//! Writes packets as pcapng (draft-ietf-opsawg-pcapng), which Wireshark and tshark read.
//!
//! One section, an interface for each port, and packets with their direction as a flag and, where there is something to
//! say, a comment.

use std::io::{self, Write};

/// Octets of Ethernet (LINKTYPE_ETHERNET).
const ETHERNET: u32 = 1;
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

/// Options: of any block, of a section, of an interface and of a packet.
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;

/// Which way a packet went on its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    Inbound = 1,
    /// It left.
    Outbound = 2,
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// By the number of its interface, in the order in which they were named.
    pub interface: u32,
    /// Which way it went.
    pub direction: Direction,
    /// How many octets it had, of which `octets` may be the first.
    pub length: u32,
    /// Its octets, from the Ethernet header on.
    pub octets: &'a [u8],
    /// What is to be said of it.
    pub comment: Option<&'a str>,
}

/// A file being written.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the head of a file with these interfaces, each with a name and a description; of each packet at most `snap`
    /// octets will come.
    ///
    /// # Errors
    ///
    /// What the output says.
    pub fn new(output: W, interfaces: &[(&str, &str)], snap: u32) -> io::Result<Self> {
        let mut writer = Self {
            output,
            block: Vec::new(),
        };
        writer.number(BYTE_ORDER);
        writer.block.extend(1_u16.to_le_bytes());
        writer.block.extend(0_u16.to_le_bytes());
        // The section's length is not known beforehand.
        writer.block.extend(u64::MAX.to_le_bytes());
        let application = concat!("esplanade ", env!("CARGO_PKG_VERSION"));
        writer.option(APPLICATION, application.as_bytes());
        writer.finish(SECTION_HEADER)?;
        for (name, description) in interfaces {
            writer.number(ETHERNET);
            writer.number(snap);
            writer.option(NAME, name.as_bytes());
            writer.option(DESCRIPTION, description.as_bytes());
            // Nanoseconds.
            writer.option(RESOLUTION, &[9]);
            writer.finish(INTERFACE)?;
        }
        writer.output.flush()?;
        Ok(writer)
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// What the output says.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        self.number(packet.interface);
        self.number((packet.time_ns >> 32) as u32);
        self.number(packet.time_ns as u32);
        self.number(packet.octets.len() as u32);
        self.number(packet.length);
        self.block.extend(packet.octets);
        self.pad();
        self.option(FLAGS, &(packet.direction as u32).to_le_bytes());
        if let Some(comment) = packet.comment {
            self.option(COMMENT, comment.as_bytes());
        }
        self.finish(ENHANCED_PACKET)
    }

    /// Has the output pass on what it holds back.
    ///
    /// # Errors
    ///
    /// What the output says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn number(&mut self, number: u32) {
        self.block.extend(number.to_le_bytes());
    }

    fn pad(&mut self) {
        let length = self.block.len().next_multiple_of(4);
        self.block.resize(length, 0);
    }

    /// An option of at most 65,535 octets; what is longer is cut.
    fn option(&mut self, code: u16, value: &[u8]) {
        let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
        self.block.extend(code.to_le_bytes());
        self.block.extend((value.len() as u16).to_le_bytes());
        self.block.extend(value);
        self.pad();
    }

    /// Writes the block, which ends with the end of its options, between its lengths.
    fn finish(&mut self, kind: u32) -> io::Result<()> {
        self.number(0);
        let length = (self.block.len() as u32 + 12).to_le_bytes();
        self.output.write_all(&kind.to_le_bytes())?;
        self.output.write_all(&length)?;
        self.output.write_all(&self.block)?;
        self.output.write_all(&length)?;
        self.block.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A block's type and body, and what follows it; both lengths must be right.
    fn block(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let length = word(4)? as usize;
        assert!(length.is_multiple_of(4) && word(length - 4)? as usize == length);
        Some((word(0)?, &bytes[8..length - 4], &bytes[length..]))
    }

    fn options(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut list = Vec::new();
        loop {
            let code = u16::from_le_bytes([bytes[0], bytes[1]]);
            let length = usize::from(u16::from_le_bytes([bytes[2], bytes[3]]));
            if code == 0 {
                assert_eq!(bytes, [0; 4], "the end is the end");
                return list;
            }
            list.push((code, bytes[4..4 + length].to_vec()));
            bytes = &bytes[4 + length.next_multiple_of(4)..];
        }
    }

    proptest! {
        #[test]
        fn a_file_is_read_as_it_was_written(
            names in prop::collection::vec(("[a-z0-9]{1,15}", "[a-z]{0,9}"), 1..5),
            packets in prop::collection::vec(
                (any::<u64>(), 0..5_u32, any::<bool>(), prop::collection::vec(any::<u8>(), 0..300), prop::option::of(".{0,80}")),
                0..20,
            ),
        ) {
            let interfaces: Vec<(&str, &str)> = names.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let mut writer = Writer::new(Vec::new(), &interfaces, 96).unwrap();
            for (time_ns, interface, inbound, octets, comment) in &packets {
                let direction = if *inbound { Direction::Inbound } else { Direction::Outbound };
                let length = octets.len() as u32 + 7;
                let comment = comment.as_deref();
                let packet = Packet { time_ns: *time_ns, interface: *interface, direction, length, octets, comment };
                writer.packet(&packet).unwrap();
            }
            let (kind, body, mut rest) = block(&writer.output).unwrap();
            prop_assert_eq!(kind, SECTION_HEADER);
            prop_assert_eq!(&body[..4], &BYTE_ORDER.to_le_bytes());
            for (name, description) in &interfaces {
                let (kind, body, more) = block(rest).unwrap();
                prop_assert_eq!((kind, &body[..8]), (INTERFACE, &[1, 0, 0, 0, 96, 0, 0, 0][..]));
                let told = options(&body[8..]);
                prop_assert!(told.contains(&(NAME, name.as_bytes().to_vec())));
                prop_assert!(told.contains(&(DESCRIPTION, description.as_bytes().to_vec())));
                prop_assert!(told.contains(&(RESOLUTION, vec![9])));
                rest = more;
            }
            for (time_ns, interface, inbound, octets, comment) in &packets {
                let (kind, body, more) = block(rest).unwrap();
                let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
                prop_assert_eq!((kind, word(0)), (ENHANCED_PACKET, *interface));
                prop_assert_eq!(u64::from(word(4)) << 32 | u64::from(word(8)), *time_ns);
                prop_assert_eq!((word(12) as usize, word(16) as usize), (octets.len(), octets.len() + 7));
                prop_assert_eq!(&body[20..20 + octets.len()], &octets[..]);
                let told = options(&body[20 + octets.len().next_multiple_of(4)..]);
                let mut expected = vec![(FLAGS, vec![if *inbound { 1 } else { 2 }, 0, 0, 0])];
                expected.extend(comment.iter().map(|comment| (COMMENT, comment.clone().into_bytes())));
                prop_assert_eq!(told, expected);
                rest = more;
            }
            prop_assert!(rest.is_empty());
        }
    }
}
