//! Transport checksums that a sender left to a device which is not there: virtual links carry packets whose checksum field holds
//! the pseudo-header's sum and nothing else (Linux's CHECKSUM_PARTIAL), for the receiving end knows that nothing damaged them.

use crate::{Protocol, checksum::Sum, ip, tcp, udp};
use core::net::IpAddr;

/// Finishes the checksum of a packet's TCP or UDP, when its field holds no more than the sum of the pseudo-header. Gives whether
/// it did.
///
/// A checksum that is right already stays as it is, whatever its value: what it would be finished to is itself.
pub fn finish(packet: &mut [u8]) -> bool {
    let Some((at, sum, protocol)) = unfinished(packet) else {
        return false;
    };
    let field = at + field(protocol).unwrap_or_default();
    let Some(bytes) = packet.get_mut(field..field + 2) else {
        return false;
    };
    // RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
    let sum = match (protocol, sum) {
        (Protocol::UDP, 0) => 0xffff,
        (_, sum) => sum,
    };
    let sum = sum.to_be_bytes();
    let changes = bytes != sum;
    bytes.copy_from_slice(&sum);
    changes
}

/// Where in a segment the checksum is.
const fn field(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::TCP => Some(tcp::CHECKSUM_AT),
        Protocol::UDP => Some(udp::CHECKSUM_AT),
        _ => None,
    }
}

/// Where the segment with an unfinished checksum begins, what the checksum is to be, and the protocol.
fn unfinished(packet: &[u8]) -> Option<(usize, u16, Protocol)> {
    let view = ip::Packet::new_checked(packet).ok()?;
    let upper = view.upper().ok().filter(|upper| !upper.is_fragment)?;
    let protocol = upper.protocol;
    let at = field(protocol)?;
    let stated: [u8; 2] = *upper.payload.get(at..)?.first_chunk()?;
    let length = upper.payload.len();
    let pseudo = match (view.source(), view.destination()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            Sum::pseudo_header_v4(from, to, protocol, u16::try_from(length).ok()?)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            Sum::pseudo_header_v6(from, to, protocol, u32::try_from(length).ok()?)
        }
        _ => return None,
    };
    (u16::from_be_bytes(stated) == !pseudo.complement()).then(|| {
        // The field is among what is summed up, and holds the pseudo-header's part.
        let sum = Sum::ZERO.add_bytes(upper.payload).complement();
        (view.as_bytes().len() - length, sum, protocol)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dscp, Ecn, ip::Marks};
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn packet(six: bool, protocol: Protocol, segment: &[u8]) -> Vec<u8> {
        let (from, to): (IpAddr, IpAddr) = if six {
            let [a, b] = [1, 2].map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
            (a.into(), b.into())
        } else {
            (
                Ipv4Addr::new(10, 1, 0, 1).into(),
                Ipv4Addr::new(10, 2, 0, 1).into(),
            )
        };
        let marks = Marks {
            dscp: Dscp::DEFAULT,
            ecn: Ecn::NotEct,
            identification: 7,
            dont_fragment: true,
            flow_label: 0,
        };
        let header = ip::Repr::new(from, to, protocol, segment.len() as u16, marks).unwrap();
        let mut bytes = vec![0; header.header_len()];
        header.emit(&mut bytes).unwrap();
        bytes.extend(segment);
        bytes
    }

    fn sum_of_pseudo_header(packet: &[u8], protocol: Protocol) -> Sum {
        let view = ip::Packet::new_checked(packet).unwrap();
        let length = view.upper().unwrap().payload.len() as u16;
        match (view.source(), view.destination()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => Sum::pseudo_header_v4(a, b, protocol, length),
            (IpAddr::V6(a), IpAddr::V6(b)) => Sum::pseudo_header_v6(a, b, protocol, length.into()),
            _ => panic!("two families"),
        }
    }

    proptest! {
        #[test]
        fn what_was_left_is_finished_and_what_was_finished_is_left(
            six: bool, is_tcp: bool, segment in prop::collection::vec(any::<u8>(), 20..200), behind in 0usize..9,
        ) {
            let protocol = if is_tcp { Protocol::TCP } else { Protocol::UDP };
            let mut bytes = packet(six, protocol, &segment);
            let header = bytes.len() - segment.len();
            let at = header + field(protocol).unwrap();
            let pseudo = sum_of_pseudo_header(&bytes, protocol);
            bytes[at..at + 2].copy_from_slice(&(!pseudo.complement()).to_be_bytes());
            // Ethernet's padding is none of it.
            let length = bytes.len();
            bytes.extend(vec![0xee; behind]);
            finish(&mut bytes);
            prop_assert_eq!(pseudo.add_bytes(&bytes[header..length]).complement(), 0);
            prop_assert_eq!(&bytes[length..], &vec![0xee; behind]);
            let finished = bytes.clone();
            prop_assert!(!finish(&mut bytes));
            prop_assert_eq!(bytes, finished);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100), six: bool, protocol in 0u8..20) {
            let mut whole = packet(six, Protocol(protocol), &bytes);
            let before = whole.clone();
            if !finish(&mut whole) {
                prop_assert_eq!(whole, before);
            }
            let mut bytes = bytes;
            finish(&mut bytes);
        }
    }

    #[test]
    fn no_checksum_fragments_and_other_protocols_are_left() {
        let segment = [7; 40];
        for (bytes, what) in [
            (packet(false, Protocol::ESP, &segment), "esp"),
            (
                packet(false, Protocol::UDP, &[&segment[..6], &[0, 0]].concat()),
                "none",
            ),
        ] {
            let mut finished = bytes.clone();
            assert!(!finish(&mut finished), "{what}");
            assert_eq!(finished, bytes, "{what}");
        }
        let mut fragment = packet(false, Protocol::UDP, &segment);
        let pseudo = sum_of_pseudo_header(&fragment, Protocol::UDP);
        fragment[26..28].copy_from_slice(&(!pseudo.complement()).to_be_bytes());
        let whole = fragment.clone();
        fragment[6] = 0x20;
        let before = fragment.clone();
        assert!(!finish(&mut fragment));
        assert_eq!(fragment, before);
        let mut whole = whole;
        assert!(finish(&mut whole));
    }
}
