//! ICMP for IPv4 (RFC 792): a checked view, and the errors that a router sends (RFC 1812 4.3.2), "fragmentation needed"
//! with the next hop's MTU (RFC 1191 4) above all.

use crate::{
    Dscp, Malformed, NoRoom, Protocol,
    checksum::{Sum, checksum},
    ipv4, split_header,
};
use core::net::Ipv4Addr;

/// The length of a header.
pub const HEADER_LEN: usize = 8;
/// RFC 1812 4.3.2.3: "the ICMP datagram SHOULD contain as much of the original datagram as possible without the length
/// of the ICMP datagram exceeding 576 bytes."
pub const MAX_ERROR_LEN: usize = 576;

const DESTINATION_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const FRAGMENTATION_NEEDED: u8 = 4;

/// A checked view of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    header: &'a [u8; HEADER_LEN],
    bytes: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks the length. The checksum is not looked at: see [`Self::checksum_is_right`].
    ///
    /// # Errors
    ///
    /// The header is not whole.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = split_header(bytes)?;
        Ok(Self {
            header,
            bytes,
            payload,
        })
    }

    /// Whether the message agrees with its checksum.
    pub fn checksum_is_right(&self) -> bool {
        checksum(self.bytes) == 0
    }

    /// The type.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// The code.
    #[inline]
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether it reports an error, and so must never be answered with one (RFC 1812 4.3.2.7).
    #[inline]
    pub fn is_error(&self) -> bool {
        /// Source quench, redirect and parameter problem.
        const OTHER_ERRORS: [u8; 3] = [4, 5, 12];
        matches!(self.kind(), DESTINATION_UNREACHABLE | TIME_EXCEEDED)
            || OTHER_ERRORS.contains(&self.kind())
    }

    /// The error, when it is one that we know, and the packet that it is about.
    ///
    /// # Errors
    ///
    /// What is quoted is no IPv4 packet.
    pub fn error(&self) -> Option<Result<(Error, ipv4::Packet<'a>), Malformed>> {
        let error = Error::from_parts(self.header)?;
        Some(ipv4::Packet::new_quoted(self.payload).map(|quoted| (error, quoted)))
    }
}

/// An error that a router reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// No route to the network.
    NetworkUnreachable,
    /// A route, but nobody at its end.
    HostUnreachable,
    /// Too long for the next hop, and not to be fragmented.
    FragmentationNeeded {
        /// The longest packet that would pass; 0 from a router older than RFC 1191.
        mtu: u16,
    },
    /// Policy forbids it.
    AdministrativelyProhibited,
    /// The TTL ran out on the way.
    TtlExceeded,
}

impl Error {
    fn from_parts(header: &[u8; HEADER_LEN]) -> Option<Self> {
        let error = match (header[0], header[1]) {
            (DESTINATION_UNREACHABLE, 0) => Self::NetworkUnreachable,
            (DESTINATION_UNREACHABLE, 1) => Self::HostUnreachable,
            (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED) => Self::FragmentationNeeded {
                mtu: u16::from_be_bytes([header[6], header[7]]),
            },
            (DESTINATION_UNREACHABLE, 13) => Self::AdministrativelyProhibited,
            (TIME_EXCEEDED, 0) => Self::TtlExceeded,
            _ => return None,
        };
        Some(error)
    }

    /// Type, code and the last word of the header.
    const fn parts(self) -> (u8, u8, u16) {
        match self {
            Self::NetworkUnreachable => (DESTINATION_UNREACHABLE, 0, 0),
            Self::HostUnreachable => (DESTINATION_UNREACHABLE, 1, 0),
            Self::FragmentationNeeded { mtu } => {
                (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, mtu)
            }
            Self::AdministrativelyProhibited => (DESTINATION_UNREACHABLE, 13, 0),
            Self::TtlExceeded => (TIME_EXCEEDED, 0, 0),
        }
    }

    /// The length of the whole IPv4 packet that reports the error about `about`.
    pub fn packet_len(about: &ipv4::Packet<'_>) -> usize {
        (ipv4::HEADER_LEN + HEADER_LEN + about.as_bytes().len()).min(MAX_ERROR_LEN)
    }

    /// Writes the IPv4 packet that reports the error about `about` to its sender, from address `from`, into `buffer`, and
    /// gives its length. Whether it may be sent is [`may_be_answered`]'s to say.
    ///
    /// # Errors
    ///
    /// The buffer is too short.
    pub fn emit(
        self,
        about: &ipv4::Packet<'_>,
        from: Ipv4Addr,
        buffer: &mut [u8],
    ) -> Result<usize, NoRoom> {
        let needed = Self::packet_len(about);
        let no_room = NoRoom { needed };
        let packet = buffer.get_mut(..needed).ok_or(no_room)?;
        let (outer, message) = packet.split_first_chunk_mut().ok_or(no_room)?;
        let (header, quote) = message
            .split_first_chunk_mut::<HEADER_LEN>()
            .ok_or(no_room)?;

        let quoted = about.as_bytes().get(..quote.len()).ok_or(no_room)?;
        quote.copy_from_slice(quoted);
        let (kind, code, last_word) = self.parts();
        let [last_high, last_low] = last_word.to_be_bytes();
        *header = [kind, code, 0, 0, 0, 0, last_high, last_low];
        let sum = Sum::ZERO.add_bytes(header).add_bytes(quote);
        [header[2], header[3]] = sum.complement().to_be_bytes();

        let ip = ipv4::Repr {
            dscp: Dscp::CS6,
            dont_fragment: false,
            // At most MAX_ERROR_LEN.
            ..ipv4::Repr::new(
                from,
                about.source(),
                Protocol::ICMP,
                (needed - ipv4::HEADER_LEN) as u16,
            )
        };
        *outer = ip.bytes();
        Ok(needed)
    }
}

/// Whether an error about this packet may be sent.
///
/// RFC 1812 4.3.2.7: "An ICMP error message MUST NOT be sent as the result of receiving: an ICMP error message, [...] a
/// packet destined to an IP broadcast or IP multicast address, [...] a packet whose source address has a network prefix
/// of zero or is an invalid source address, [...] any fragment of a datagram other then the first fragment".
pub fn may_be_answered(packet: &ipv4::Packet<'_>) -> bool {
    let (source, destination) = (packet.source(), packet.destination());
    let is_error = packet.protocol() == Protocol::ICMP
        && Message::new_checked(packet.payload()).map_or(true, |message| message.is_error());
    /// This network, loopback, multicast and what is reserved behind it: the martians of RFC 1812 5.3.7.
    const fn is_no_host(address: Ipv4Addr) -> bool {
        matches!(address.octets(), [0 | 127 | 224.., ..])
    }
    let names_one_host =
        !is_no_host(source) && !destination.is_broadcast() && !destination.is_multicast();
    names_one_host && packet.fragment_offset() == 0 && !is_error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::Repr;
    use proptest::prelude::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

    fn packet(protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let repr = Repr::new(
            [10, 1, 0, 5].into(),
            [10, 2, 0, 5].into(),
            protocol,
            payload.len() as u16,
        );
        [&repr.bytes(), payload].concat()
    }

    fn errors() -> impl Strategy<Value = Error> {
        prop_oneof![
            Just(Error::NetworkUnreachable),
            Just(Error::HostUnreachable),
            any::<u16>().prop_map(|mtu| Error::FragmentationNeeded { mtu }),
            Just(Error::AdministrativelyProhibited),
            Just(Error::TtlExceeded),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            kind in 0u8..16, code in 0u8..16, bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut bytes = bytes;
            if let Some(start) = bytes.get_mut(..2) {
                start.copy_from_slice(&[kind, code]);
            }
            if let Ok(message) = Message::new_checked(&bytes) {
                let _ = (message.error(), message.checksum_is_right(), message.is_error());
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(error in errors(), payload in prop::collection::vec(any::<u8>(), 0..1500)) {
            let original = packet(Protocol::UDP, &payload);
            let about = ipv4::Packet::new_checked(&original).unwrap();
            let mut buffer = vec![0xaa; 600];
            let length = error.emit(&about, HERE, &mut buffer).unwrap();
            prop_assert!(length <= MAX_ERROR_LEN);
            prop_assert!(buffer[length..].iter().all(|byte| *byte == 0xaa));

            let reply = ipv4::Packet::new_checked(&buffer).unwrap();
            prop_assert_eq!(reply.total_len(), length);
            prop_assert!(reply.checksum_is_right());
            prop_assert_eq!((reply.source(), reply.destination()), (HERE, about.source()));
            prop_assert!(!may_be_answered(&reply));
            let message = Message::new_checked(reply.payload()).unwrap();
            prop_assert!(message.checksum_is_right());
            let (parsed, quoted) = message.error().unwrap().unwrap();
            prop_assert_eq!(parsed, error);
            prop_assert!(original.starts_with(quoted.as_bytes()));
            // RFC 792: "The internet header plus the first 64 bits of the original datagram's data."
            prop_assert!(quoted.as_bytes().len() >= original.len().min(28));

            let mut short = vec![0xaa; length - 1];
            prop_assert_eq!(error.emit(&about, HERE, &mut short), Err(NoRoom { needed: length }));
        }
    }

    #[test]
    fn who_may_be_answered() {
        let answered = |bytes: &[u8]| may_be_answered(&ipv4::Packet::new_checked(bytes).unwrap());
        assert!(answered(&packet(Protocol::UDP, &[0; 8])));
        assert!(answered(&packet(Protocol::ICMP, &[8, 0, 0, 0, 0, 0, 0, 0])));
        assert!(!answered(&packet(
            Protocol::ICMP,
            &[3, 1, 0, 0, 0, 0, 0, 0]
        )));
        assert!(!answered(&packet(Protocol::ICMP, &[3])));
        for (at, value) in [(7, 1), (12, 0), (12, 127), (12, 224), (12, 255), (16, 239)] {
            let mut bytes = packet(Protocol::UDP, &[0; 8]);
            bytes[at] = value;
            assert!(!answered(&bytes), "byte {at} = {value}");
        }
        let mut broadcast = packet(Protocol::UDP, &[0; 8]);
        broadcast[16..20].fill(255);
        assert!(!answered(&broadcast));
    }
}
