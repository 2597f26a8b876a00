use super::*;
use core::net::{Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;

fn here(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 1, 0, 1).into(),
        Family::V6 => "2001:db8::1".parse().unwrap(),
    }
}

fn hosts(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => ([10, 1, 0, 5].into(), [10, 2, 0, 5].into()),
        Family::V6 => (
            "2001:db8:1::5".parse().unwrap(),
            "2001:db8:2::5".parse().unwrap(),
        ),
    }
}

fn between(source: IpAddr, destination: IpAddr, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let marks = Marks {
        dscp: Dscp::DEFAULT,
        ecn: Ecn::NotEct,
        identification: 0,
        dont_fragment: true,
        flow_label: 0,
    };
    let length = payload.len() as u16;
    let repr = ip::Repr::new(source, destination, protocol, length, marks).unwrap();
    let mut bytes = vec![0; repr.header_len()];
    repr.emit(&mut bytes).unwrap();
    bytes.extend(payload);
    bytes
}

fn packet(family: Family, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = hosts(family);
    between(source, destination, protocol, payload)
}

fn families() -> impl Strategy<Value = Family> {
    prop::sample::select(&Family::ALL[..])
}

fn errors() -> impl Strategy<Value = Error> {
    prop_oneof![
        Just(Error::NetworkUnreachable),
        Just(Error::HostUnreachable),
        any::<u16>().prop_map(|mtu| Error::TooBig { mtu }),
        Just(Error::AdministrativelyProhibited),
        Just(Error::TtlExceeded),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        family in families(), kind in 0u8..16, code in 0u8..16, bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut bytes = bytes;
        if let Some(start) = bytes.get_mut(..2) {
            start.copy_from_slice(&[kind, code]);
        }
        if let Ok(message) = Message::new_checked(family, &bytes) {
            let (source, destination) = hosts(family);
            let _ = (message.error(), message.checksum_is_right(source, destination), message.is_error());
        }
    }

    #[test]
    fn what_is_emitted_is_parsed(
        family in families(), error in errors(), payload in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        let original = packet(family, Protocol::UDP, &payload);
        let about = ip::Packet::new_checked(&original).unwrap();
        let mut buffer = vec![0xaa; 1300];
        let length = error.emit(&about, here(family), &mut buffer).unwrap();
        let longest = if family == Family::V4 { 576 } else { 1280 };
        prop_assert!(length <= longest);
        prop_assert!(buffer[length..].iter().all(|byte| *byte == 0xaa));

        let reply = ip::Packet::new_checked(&buffer).unwrap();
        prop_assert_eq!(reply.as_bytes().len(), length);
        if let ip::Packet::V4(reply) = reply {
            prop_assert!(reply.checksum_is_right());
        }
        prop_assert_eq!((reply.source(), reply.destination()), (here(family), about.source()));
        prop_assert!(!may_be_answered(&reply, error));
        let upper = reply.upper().unwrap();
        prop_assert_eq!(upper.protocol, family.icmp());
        let message = Message::new_checked(family, upper.payload).unwrap();
        prop_assert!(message.checksum_is_right(reply.source(), reply.destination()));
        let (parsed, quoted) = message.error().unwrap().unwrap();
        prop_assert_eq!(parsed, error);
        prop_assert!(original.starts_with(quoted.as_bytes()));
        // RFC 792: "The internet header plus the first 64 bits of the original datagram's data."
        prop_assert!(quoted.as_bytes().len() >= original.len().min(28));

        let mut short = vec![0xaa; length - 1];
        prop_assert_eq!(error.emit(&about, here(family), &mut short), None);
        let other = Family::ALL.into_iter().find(|other| *other != family).unwrap();
        prop_assert_eq!(error.emit(&about, here(other), &mut buffer), None);
    }
}

const ECHO: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0];

fn answered(bytes: &[u8], error: Error) -> bool {
    may_be_answered(&ip::Packet::new_checked(bytes).unwrap(), error)
}

#[test]
fn who_may_be_answered_in_ipv4() {
    let answered = |bytes: &[u8]| answered(bytes, Error::TtlExceeded);
    let packet = |protocol, payload: &[u8]| packet(Family::V4, protocol, payload);
    assert!(answered(&packet(Protocol::UDP, &[0; 8])));
    assert!(answered(&packet(Protocol::ICMP, &ECHO)));
    let unreachable = [3, 1, 0, 0, 0, 0, 0, 0];
    assert!(!answered(&packet(Protocol::ICMP, &unreachable)));
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

#[test]
fn who_may_be_answered_in_ipv6() {
    let (gone, big) = (Error::TtlExceeded, Error::TooBig { mtu: 1280 });
    let packet = |protocol, payload: &[u8]| packet(Family::V6, protocol, payload);
    assert!(answered(&packet(Protocol::UDP, &[0; 8]), gone));
    let echo = [128, 0, 0, 0, 0, 0, 0, 0];
    assert!(answered(&packet(Protocol::ICMPV6, &echo), gone));
    for kind in [1, 2, 3, 4, 100, 127, 137] {
        let message = [kind, 0, 0, 0, 0, 0, 0, 0];
        assert!(
            !answered(&packet(Protocol::ICMPV6, &message), big),
            "{kind}"
        );
        let behind_options = [&[58, 0, 1, 4, 0, 0, 0, 0], &message[..]].concat();
        let hidden = packet(Protocol::HOP_BY_HOP, &behind_options);
        assert!(!answered(&hidden, big), "{kind} behind options");
    }
    assert!(!answered(&packet(Protocol::ICMPV6, &[128]), gone));
    assert!(!answered(&packet(Protocol::HOP_BY_HOP, &[17]), gone));
    let later = [17, 0, 5, 0, 0, 0, 0, 1, 0, 0];
    assert!(!answered(&packet(Protocol::FRAGMENT, &later), big));
    let first = [17, 0, 0, 1, 0, 0, 0, 1, 0, 0];
    assert!(answered(&packet(Protocol::FRAGMENT, &first), big));

    let (host, _) = hosts(Family::V6);
    let to = |source: IpAddr, destination: &str| {
        between(source, destination.parse().unwrap(), Protocol::UDP, &[0; 8])
    };
    // RFC 4443 2.4 (e.3) and (e.6).
    assert!(!answered(&to(host, "ff0e::1"), gone));
    assert!(answered(&to(host, "ff0e::1"), big));
    for source in [Ipv6Addr::UNSPECIFIED, "ff02::1".parse().unwrap()] {
        assert!(
            !answered(&to(source.into(), "2001:db8:2::5"), big),
            "{source}"
        );
    }
}

#[test]
fn a_known_packet_too_big() {
    let original = packet(Family::V6, Protocol::UDP, &[0; 8]);
    let about = ip::Packet::new_checked(&original).unwrap();
    let mut buffer = [0; 200];
    let error = Error::TooBig { mtu: 1406 };
    let length = error.emit(&about, here(Family::V6), &mut buffer).unwrap();
    assert_eq!(length, 40 + 8 + 48);
    assert_eq!(buffer[..8], [0x6c, 0, 0, 0, 0, 56, 58, 64]);
    assert_eq!(buffer[40..42], [2, 0]);
    assert_eq!(buffer[44..48], [0, 0, 0x05, 0x7e]);
    assert_eq!(buffer[48..length], original);
}

#[test]
fn an_mtu_beyond_16_bits_is_the_highest() {
    let mut bytes = vec![2, 9, 0, 0, 0, 1, 0x11, 0x70];
    bytes.extend(packet(Family::V6, Protocol::UDP, &[0; 8]));
    let message = Message::new_checked(Family::V6, &bytes).unwrap();
    let (error, _) = message.error().unwrap().unwrap();
    assert_eq!(error, Error::TooBig { mtu: u16::MAX });
}

#[test]
fn a_quote_of_the_other_family_is_none() {
    let mut bytes = vec![2, 0, 0, 0, 0, 0, 5, 0];
    bytes.extend(packet(Family::V4, Protocol::UDP, &[0; 8]));
    let message = Message::new_checked(Family::V6, &bytes).unwrap();
    assert_eq!(message.error(), Some(Err(Malformed::Version(4))));
}
