//! Transport mode's place in a packet: which headers stay in front, and how they change when AH, ESP or UDP comes behind
//! them or goes (RFC 4302 3.1.1, RFC 4303 3.1.1, RFC 3948 3.2).

use crate::{
    Malformed, Protocol,
    checksum::{Sum, checksum, update_by},
    ip::Family,
    ipv4, ipv6, tcp, udp,
};
use core::net::IpAddr;

/// A place in a packet where a header of IPsec goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    at: u16,
    next_at: u16,
    next: Protocol,
}

/// IPv4's fields: total length, protocol, checksum. IPv6's: payload length.
const V4_PROTOCOL: u16 = 9;
const V6_NEXT_HEADER: u16 = 6;

impl Place {
    /// In a packet of either family, whose end may be missing.
    ///
    /// # Errors
    ///
    /// It is no IP, or its headers are not whole.
    #[inline]
    pub fn of(bytes: &[u8]) -> Result<Self, Malformed> {
        match Family::of_packet(bytes) {
            Some(Family::V6) => Self::in_ipv6(bytes),
            _ => ipv4::Packet::new_quoted(bytes).map(|packet| Self::in_ipv4(&packet)),
        }
    }

    /// Where the header goes in an IPv4 packet: behind the options. The packet is a view that was checked.
    #[inline]
    pub fn in_ipv4(packet: &ipv4::Packet<'_>) -> Self {
        Self {
            at: packet.header_len() as u16,
            next_at: V4_PROTOCOL,
            next: packet.protocol(),
        }
    }

    /// Where the header goes in an IPv6 packet, whose end may be missing.
    ///
    /// RFC 4303 3.1.1: "ESP is viewed as an end-to-end payload, and thus should appear after hop-by-hop, routing, and
    /// fragmentation extension headers. Destination options extension header(s) could appear before, after, or both before
    /// and after the ESP header": before it stay those that a routing header follows.
    ///
    /// # Errors
    ///
    /// It is not IPv6, or its header or one of its extension headers is cut short.
    pub fn in_ipv6(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::walk_ipv6(bytes, None)
    }

    /// Where a header of IPsec stood in a packet that came, of either family, whose end may be missing: behind `front` bytes. A
    /// sender that is not us may have left destination options before it. `None` when no header ends there.
    pub fn behind(bytes: &[u8], front: usize) -> Option<Self> {
        let place = match Family::of_packet(bytes) {
            Some(Family::V6) => Self::walk_ipv6(bytes, Some(front)),
            _ => Self::of(bytes),
        };
        place.ok().filter(|place| place.at() == front)
    }

    /// Goes from header to header, at most to the one that ends at `until`.
    fn walk_ipv6(bytes: &[u8], until: Option<usize>) -> Result<Self, Malformed> {
        let packet = ipv6::Packet::new_quoted(bytes)?;
        let mut place = Self {
            at: ipv6::HEADER_LEN as u16,
            next_at: V6_NEXT_HEADER,
            next: packet.next_header(),
        };
        let mut ahead = place;
        loop {
            if until == Some(ahead.at()) {
                return Ok(ahead);
            }
            if !ahead.next.is_before_transport() {
                return Ok(place);
            }
            let next_at = ahead.at;
            let rest = bytes.get(usize::from(next_at)..).unwrap_or_default();
            let [next, words, ..] = *rest else {
                return Err(Malformed::Truncated {
                    needed: 2,
                    found: rest.len(),
                });
            };
            // RFC 8200 4.5: the fragment header's second byte is reserved.
            let words = if ahead.next == Protocol::FRAGMENT {
                0
            } else {
                usize::from(words)
            };
            let length = (words + 1) * 8;
            if rest.len() < length {
                return Err(Malformed::Truncated {
                    needed: length,
                    found: rest.len(),
                });
            }
            let stays = ahead.next != Protocol::DESTINATION_OPTIONS;
            ahead = Self {
                // Within a packet of 16 bits' length.
                at: next_at.saturating_add(length as u16),
                next_at,
                next: Protocol(next),
            };
            if stays {
                place = ahead;
            }
        }
    }

    /// The length of the headers that stay in front.
    #[inline]
    pub fn at(&self) -> usize {
        usize::from(self.at)
    }

    /// What comes behind them.
    #[inline]
    pub fn next(&self) -> Protocol {
        self.next
    }

    /// Makes the headers in front say that `next` follows them, in a packet of `total` bytes. `None`, and nothing of use
    /// written, when these are not the headers of this place or the length does not fit.
    #[inline]
    pub fn rewrite(&self, packet: &mut [u8], next: Protocol, total: usize) -> Option<()> {
        *packet.get_mut(usize::from(self.next_at))? = next.0;
        match packet.first()? >> 4 {
            4 => {
                let header = packet.get_mut(..self.at())?;
                let [high, low] = u16::try_from(total).ok()?.to_be_bytes();
                for (at, byte) in [(2, high), (3, low), (10, 0), (11, 0)] {
                    *header.get_mut(at)? = byte;
                }
                let [high, low] = checksum(header).to_be_bytes();
                *header.get_mut(10)? = high;
                *header.get_mut(11)? = low;
            }
            _ => {
                let length = u16::try_from(total.checked_sub(ipv6::HEADER_LEN)?).ok()?;
                let [high, low] = length.to_be_bytes();
                *packet.get_mut(4)? = high;
                *packet.get_mut(5)? = low;
            }
        }
        Some(())
    }
}

impl Protocol {
    /// Whether this extension header of IPv6 may stand before AH and ESP in transport mode.
    const fn is_before_transport(self) -> bool {
        matches!(
            self,
            Self::HOP_BY_HOP | Self::ROUTING | Self::FRAGMENT | Self::DESTINATION_OPTIONS
        )
    }
}

/// Makes the checksum of a transport header right again after the addresses below it have changed from `old` to `new`, each
/// source and destination. Gives whether there was one to change.
///
/// RFC 3948 3.1.2: "Subtract the IP source address in the received packet from the checksum. Add the real IP source address
/// received via IKE to the checksum", seen from the receiver, whose packet has the addresses that the NAT made.
pub fn fix_checksum(
    protocol: Protocol,
    segment: &mut [u8],
    old: (IpAddr, IpAddr),
    new: (IpAddr, IpAddr),
) -> bool {
    let at = match protocol {
        Protocol::TCP => tcp::CHECKSUM_AT,
        Protocol::UDP | Protocol::UDP_LITE => udp::CHECKSUM_AT,
        Protocol::ICMPV6 => 2,
        _ => return false,
    };
    let Some(field) = segment
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    else {
        return false;
    };
    let before = u16::from_be_bytes(*field);
    // RFC 768: "An all zero transmitted checksum value means that the transmitter generated no checksum".
    if protocol == Protocol::UDP && before == 0 {
        return false;
    }
    let sum = |(source, destination)| add(add(Sum::ZERO, source), destination);
    let mut after = update_by(before, sum(old), sum(new));
    if protocol == Protocol::UDP && after == 0 {
        after = 0xffff;
    }
    *field = after.to_be_bytes();
    true
}

fn add(sum: Sum, address: IpAddr) -> Sum {
    match address {
        IpAddr::V4(address) => sum.add_bytes(&address.octets()),
        IpAddr::V6(address) => sum.add_bytes(&address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    #[test]
    fn in_ipv4_it_goes_behind_the_options() {
        let mut bytes = vec![
            0x46, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 0,
        ];
        bytes.extend([1, 2, 3, 4]);
        let place = Place::in_ipv4(&ipv4::Packet::new_checked(&bytes).unwrap());
        assert_eq!((place.at(), place.next()), (24, Protocol::UDP));
        place.rewrite(&mut bytes, Protocol::ESP, 28 + 40).unwrap();
        bytes.extend([0; 40]);
        let packet = ipv4::Packet::new_checked(&bytes).unwrap();
        assert!(packet.checksum_is_right());
        assert_eq!((packet.protocol(), packet.total_len()), (Protocol::ESP, 68));
        place.rewrite(&mut bytes, Protocol::UDP, 28).unwrap();
        let packet = ipv4::Packet::new_checked(&bytes).unwrap();
        assert!(packet.checksum_is_right());
        assert_eq!(
            (packet.protocol(), packet.payload()),
            (Protocol::UDP, &[1, 2, 3, 4][..])
        );
        assert_eq!(place.rewrite(&mut bytes, Protocol::UDP, 65_536), None);
        assert_eq!(place.rewrite(&mut bytes[..9], Protocol::UDP, 28), None);
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 64];
        bytes.extend([0x20; 32]);
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn in_ipv6_it_goes_behind_what_routers_read() {
        let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
        let routing = |next| [next, 0, 4, 0, 0, 0, 0, 0];
        let place = |next, headers: &[[u8; 8]]| {
            let mut rest = headers.concat();
            rest.extend([1, 2, 3, 4]);
            let place = Place::in_ipv6(&v6(next, &rest)).unwrap();
            (place.at(), usize::from(place.next_at), place.next().0)
        };
        assert_eq!(place(6, &[]), (40, 6, 6));
        assert_eq!(place(0, &[options(6)]), (48, 40, 6));
        // Destination options for the end, and for the stops of a routing header.
        assert_eq!(place(0, &[options(60), options(6)]), (48, 40, 60));
        let all = [options(60), options(43), routing(60), options(6)];
        assert_eq!(place(0, &all), (64, 56, 60));
        assert_eq!(place(44, &[[6, 9, 0, 0, 0, 0, 0, 1]]), (48, 40, 6));

        // What came may have them before IPsec as well, and what stands behind that is no header of ours to read.
        let mut came = v6(60, &[options(50), [17, 0, 9, 9, 9, 9, 9, 9]].concat());
        let behind = Place::behind(&came, 48).unwrap();
        assert_eq!((behind.at(), behind.next()), (48, Protocol::ESP));
        behind.rewrite(&mut came, Protocol::UDP, 48 + 8).unwrap();
        assert_eq!((came[6], came[40]), (60, 17));
        assert_eq!(
            Place::behind(&came, 40).map(|place| place.next().0),
            Some(60)
        );
        for nowhere in [0, 39, 41, 47, 49, 56, 57] {
            assert_eq!(Place::behind(&v6(60, &options(50)), nowhere), None);
        }

        let mut bytes = v6(0, &options(17));
        bytes.extend([1, 2, 3, 4]);
        bytes[5] += 4;
        let place = Place::in_ipv6(&bytes).unwrap();
        // Its end may be missing.
        assert_eq!(Place::of(&bytes[..48]).unwrap(), place);
        place.rewrite(&mut bytes, Protocol::AH, 80).unwrap();
        assert_eq!((bytes[6], bytes[40], bytes[5]), (0, 51, 40));
        assert!(Place::in_ipv6(&v6(0, &[6])).is_err());
        assert!(Place::in_ipv6(&v6(0, &[6, 1, 0, 0, 0, 0, 0, 0])).is_err());
    }

    proptest! {
        #[test]
        fn a_checksum_survives_a_nat(old: (u32, u32), new: (u32, u32), body in prop::collection::vec(any::<u8>(), 20..60), kind in 0usize..2) {
            let (protocol, at) = [(Protocol::TCP, 16), (Protocol::UDP, 6)][kind];
            let addresses = |(source, destination): (u32, u32)| (Ipv4Addr::from(source), Ipv4Addr::from(destination));
            let right = |body: &[u8], of| {
                let (source, destination) = addresses(of);
                Sum::pseudo_header_v4(source, destination, protocol, body.len() as u16).add_bytes(body).complement() == 0
            };
            let mut body = body;
            body[at..at + 2].fill(0);
            let (source, destination) = addresses(old);
            let sum = Sum::pseudo_header_v4(source, destination, protocol, body.len() as u16).add_bytes(&body).complement();
            let sum = if sum == 0 { 0xffff } else { sum };
            body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(right(&body, old));
            let any = |(source, destination): (Ipv4Addr, Ipv4Addr)| (source.into(), destination.into());
            prop_assert!(fix_checksum(protocol, &mut body, any(addresses(old)), any(addresses(new))));
            prop_assert!(right(&body, new));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..120), protocol: u8, total: usize) {
            let mut bytes = bytes;
            if let Ok(place) = Place::in_ipv6(&bytes) {
                prop_assert!(place.at() <= bytes.len());
                let _ = place.rewrite(&mut bytes, Protocol::AH, total);
            }
            let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let _ = fix_checksum(Protocol(protocol), &mut bytes, (here, here), (here, here));
        }
    }

    #[test]
    fn what_has_no_checksum_gets_none() {
        let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut datagram = [1; 8];
        datagram[6..].fill(0);
        for protocol in [Protocol::UDP, Protocol::ICMP, Protocol::SCTP] {
            assert!(!fix_checksum(
                protocol,
                &mut datagram,
                (one, two),
                (two, one)
            ));
        }
        assert!(!fix_checksum(
            Protocol::TCP,
            &mut datagram,
            (one, two),
            (two, one)
        ));
        assert_eq!(datagram[6..], [0, 0]);
    }
}
