//! Every mix of IPv4 and IPv6, inside and outside.

use super::*;
use esplanade_wire::{Dscp, Ecn, esp, icmp, ip, ipv6};

const MIXES: [(Family, Family); 4] = [
    (Family::V4, Family::V4),
    (Family::V4, Family::V6),
    (Family::V6, Family::V4),
    (Family::V6, Family::V6),
];

pub fn over(outer: Family) -> Tunnel {
    Tunnel {
        outer,
        ..Tunnel::default()
    }
}

pub fn header_v6(from: u8, to: u8) -> ipv6::Repr {
    ipv6::Repr::new(host_v6(from), host_v6(to), Protocol::UDP, 0)
}

pub fn packet_v6(header: ipv6::Repr, payload: &[u8]) -> Vec<u8> {
    let payload_len = payload.len() as u16;
    let header = ipv6::Repr {
        payload_len,
        ..header
    };
    [&header.bytes(), payload].concat()
}

/// A datagram in a packet of either family.
pub fn greeting_of(inner: Family, from: u8, to: u8, length: usize) -> Vec<u8> {
    match inner {
        Family::V4 => greeting(from, to, length),
        Family::V6 => packet_v6(header_v6(from, to), &datagram(length)),
    }
}

/// The packet of a frame, whose ethertype agrees with it.
pub fn any_ip(frame: &[u8]) -> ip::Packet<'_> {
    let ethertype = ethernet::Frame::new_checked(frame).unwrap().ethertype();
    let packet = ip::Packet::new_checked(&frame[14..]).unwrap();
    assert_eq!(ethertype, packet.family().ethertype());
    if let ip::Packet::V4(packet) = packet {
        assert!(packet.checksum_is_right());
    }
    packet
}

pub fn v6(frame: &[u8]) -> ipv6::Packet<'_> {
    match any_ip(frame) {
        ip::Packet::V6(packet) => packet,
        ip::Packet::V4(_) => panic!("IPv4"),
    }
}

fn ttl(packet: ip::Packet<'_>) -> u8 {
    match packet {
        ip::Packet::V4(packet) => packet.ttl(),
        ip::Packet::V6(packet) => packet.hop_limit(),
    }
}

#[test]
fn each_mix_carries_packets_both_ways() {
    for (inner, outer) in MIXES {
        for udp in [false, true] {
            let (mut a, mut b) = pair(&Tunnel { udp, ..over(outer) });
            let sent: Vec<_> = (0..30).map(|n| greeting_of(inner, A, B, n * 40)).collect();
            let wire = a.protect(&sent);
            assert_eq!(wire.len(), 30, "{inner:?} in {outer:?}");
            for frame in &wire {
                assert!(!shows_marker(frame));
                let outside = any_ip(frame);
                let ends = (outside.source(), outside.destination());
                assert_eq!(ends, (outer_of(outer, A), outer_of(outer, B)));
                assert_eq!(ttl(outside), 64);
                let expected = if udp { Protocol::UDP } else { Protocol::ESP };
                assert_eq!(outside.upper().unwrap().protocol, expected);
            }
            let arrived = b.unprotect(&wire);
            assert_eq!(arrived.len(), 30, "{inner:?} in {outer:?}");
            for (sent, arrived) in sent.iter().zip(&arrived) {
                let (sent, arrived) = (ip::Packet::new_checked(sent).unwrap(), any_ip(arrived));
                assert_eq!(arrived.upper().unwrap(), sent.upper().unwrap());
                let ends = (arrived.source(), arrived.destination());
                assert_eq!(ends, (sent.source(), sent.destination()));
                assert_eq!(ttl(arrived), 62);
            }
            let wire = b.protect(&[greeting_of(inner, B, A, 5)]);
            assert_eq!(a.unprotect(&wire).len(), 1);
            assert_eq!(a.count(Counter::OutPackets), 30);
            assert_eq!(b.count(Counter::InPackets), 30);
            a.audit();
            b.audit();
        }
    }
}

#[test]
fn one_child_carries_both_families() {
    let (mut a, mut b) = pair(&over(Family::V6));
    let mixed: Vec<_> = (0..20)
        .map(|n| greeting_of(Family::ALL[n % 2], A, B, 10 + n))
        .collect();
    let wire = a.protect(&mixed);
    let arrived = b.unprotect(&wire);
    let families: Vec<_> = arrived.iter().map(|frame| any_ip(frame).family()).collect();
    assert_eq!(families, Family::ALL.repeat(10));
    // Another's addresses of one family do not come in under the selectors of the other.
    b.tell_all(&[Command::RemovePolicy { id: POLICY_V6 }]);
    assert_eq!(b.unprotect(&a.protect(&mixed)).len(), 10);
    assert_eq!(b.count(Counter::InTmplMismatch), 10);
    b.audit();
}

#[test]
fn outer_headers_of_ipv6_are_right() {
    let (mut a, _) = pair(&over(Family::V6));
    let wire = a.protect(&[greeting(A, B, 100), greeting_of(Family::V6, A, B, 7)]);
    let mut labels = Vec::new();
    for (number, frame) in (1u32..).zip(&wire) {
        let outside = v6(frame);
        assert_eq!(outside.next_header(), Protocol::ESP);
        let packet = esp::Packet::new_checked(outside.payload()).unwrap();
        assert_eq!(packet.spi().0, inbound_id(B).value());
        assert_eq!(packet.sequence(), number);
        labels.push(outside.flow_label());
    }
    // 128 inner bytes, 2 of padding, 2 of trailer, 16 each around.
    assert_eq!(v6(&wire[0]).payload().len(), 16 + 128 + 4 + 16);
    // RFC 6437 2: one label for all packets of the SA, and never 0.
    assert!(labels[0] != 0 && labels[0] == labels[1], "{labels:?}");
}

#[test]
fn the_outer_udp_checksum_over_ipv6_is_full_or_zero_and_both_come_in() {
    let tunnel = Tunnel {
        udp: true,
        ..over(Family::V6)
    };
    let (mut a, mut b) = pair(&tunnel);
    for full in [true, false] {
        a.tell_all(&[Command::SetPort {
            port: PortId(OUTSIDE),
            mac: gateway_mac(A, OUTSIDE).0,
            mtu: 1500,
            address: None,
            address_v6: None,
            mss_clamp: true,
            udp_checksum: full,
            partial_checksums: false,
        }]);
        let wire = a.protect(&[greeting(A, B, 100), greeting_of(Family::V6, A, B, 33)]);
        for frame in &wire {
            let outside = v6(frame);
            let datagram = udp::Datagram::new_checked(outside.payload()).unwrap();
            assert_eq!(datagram.checksum() != 0, full);
            let mut again = outside.payload().to_vec();
            again[6..8].fill(0);
            udp::fill_checksum_v6(&mut again, outside.source(), outside.destination()).unwrap();
            if full {
                assert_eq!(again, outside.payload());
            }
        }
        assert_eq!(b.unprotect(&wire).len(), 2);
    }
    a.audit();
    b.audit();
}

#[test]
fn traffic_class_and_congestion_cross_the_families() {
    let (dscp, ecn) = (Dscp::new(46).unwrap(), Ecn::Ect0);
    for (inner, outer) in MIXES {
        let (mut a, mut b) = pair(&Tunnel {
            dscp: None,
            ..over(outer)
        });
        let sent = match inner {
            Family::V4 => packet(
                ipv4::Repr {
                    dscp,
                    ecn,
                    ..header(A, B)
                },
                &datagram(9),
            ),
            Family::V6 => packet_v6(
                ipv6::Repr {
                    dscp,
                    ecn,
                    flow_label: 0x12345,
                    ..header_v6(A, B)
                },
                &datagram(9),
            ),
        };
        let marks = |frame: &[u8]| match any_ip(frame) {
            ip::Packet::V4(packet) => (packet.dscp(), packet.ecn()),
            ip::Packet::V6(packet) => (packet.dscp(), packet.ecn()),
        };
        let mut wire = a.protect(&[sent.clone(), sent]);
        assert_eq!(marks(&wire[0]), (dscp, ecn), "{inner:?} in {outer:?}");
        ip::set_ecn(&mut wire[1][14..], Ecn::Ce).unwrap();
        let arrived = b.unprotect(&wire);
        assert_eq!(marks(&arrived[0]), (dscp, ecn));
        assert_eq!(marks(&arrived[1]), (dscp, Ecn::Ce));
        if inner == Family::V6 {
            assert_eq!(v6(&arrived[0]).flow_label(), 0x12345);
        }
        // RFC 6040 4.2: congestion, and an inner header that knows no ECN.
        let mut wire = a.protect(&[greeting_of(inner, A, B, 1)]);
        ip::set_ecn(&mut wire[0][14..], Ecn::Ce).unwrap();
        assert!(b.unprotect(&wire).is_empty());
        assert_eq!(b.count(Counter::InEcnError), 1);
    }
}

/// The ICMPv6 error that waits at the inside, and what it is about.
fn answer(gateway: &mut Gateway) -> (icmp::Error, Vec<u8>) {
    let frames = drain(&mut gateway.inside[0]);
    assert_eq!(frames.len(), 1);
    let ends = ethernet::Frame::new_checked(&frames[0]).unwrap();
    assert_eq!(ends.destination(), host_mac(gateway.site));
    let outside = v6(&frames[0]);
    assert_eq!(outside.source(), gateway_v6(gateway.site));
    assert_eq!(outside.destination(), host_v6(gateway.site));
    assert_eq!(outside.next_header(), Protocol::ICMPV6);
    assert!(outside.as_bytes().len() <= 1280);
    let message = icmp::Message::new_checked(Family::V6, outside.payload()).unwrap();
    assert!(message.checksum_is_right(outside.source().into(), outside.destination().into()));
    let (error, about) = message.error().unwrap().unwrap();
    (error, about.as_bytes().to_vec())
}

#[test]
fn too_big_is_told_with_the_mtu_that_fits() {
    for (outer, udp, mtu) in [
        (Family::V4, false, 1446),
        (Family::V4, true, 1438),
        (Family::V6, false, 1426),
        (Family::V6, true, 1418),
    ] {
        let (mut a, mut b) = pair(&Tunnel { udp, ..over(outer) });
        let big = greeting_of(Family::V6, A, B, usize::from(mtu) - 47);
        assert!(a.protect(std::slice::from_ref(&big)).is_empty());
        let (error, quoted) = answer(&mut a);
        assert_eq!(error, icmp::Error::TooBig { mtu });
        assert_eq!(quoted, big[..1280 - 48]);
        let fits = a.protect(&[greeting_of(Family::V6, A, B, usize::from(mtu) - 48)]);
        assert!(any_ip(&fits[0]).as_bytes().len() <= 1500);
        assert_eq!(b.unprotect(&fits).len(), 1);
        assert_eq!(a.count(Counter::OutTooBig), 1);
        a.audit();
    }
}

/// Puts outer fragments together again, in the plainest way.
fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let first = any_ip(&fragments[0]);
    let protocol = match first {
        ip::Packet::V4(packet) => packet.protocol(),
        ip::Packet::V6(packet) => packet.chain().unwrap().protocol,
    };
    let mut payload: Vec<u8> = Vec::new();
    for fragment in fragments {
        let upper = any_ip(fragment).upper().unwrap();
        assert!(upper.is_fragment);
        assert_eq!(upper.fragment_offset, payload.len());
        payload.extend(upper.payload);
    }
    let length = payload.len() as u16;
    let mut bytes = match (first.source(), first.destination()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ipv4::Repr::new(from, to, protocol, length).bytes().to_vec()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ipv6::Repr::new(from, to, protocol, length).bytes().to_vec()
        }
        _ => panic!("two families"),
    };
    bytes.extend(payload);
    frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &bytes)
}

#[test]
fn a_path_below_1280_carries_1280_in_outer_fragments() {
    for (outer, udp) in [
        (Family::V4, false),
        (Family::V4, true),
        (Family::V6, false),
        (Family::V6, true),
    ] {
        let (mut a, mut b) = pair(&Tunnel {
            udp,
            path_mtu: 1280,
            df: DfPolicy::Set,
            ..over(outer)
        });
        // RFC 8200 5: nobody may be told less than 1280.
        assert!(
            a.protect(&[greeting_of(Family::V6, A, B, 1280 - 47)])
                .is_empty()
        );
        let (error, _) = answer(&mut a);
        assert_eq!(error, icmp::Error::TooBig { mtu: 1280 });

        let whole = greeting_of(Family::V6, A, B, 1280 - 48);
        let wire = a.protect(&[whole.clone(), greeting_of(Family::V6, A, B, 100)]);
        assert_eq!(wire.len(), 3, "two fragments and what came after");
        assert!(
            wire.iter()
                .all(|frame| any_ip(frame).as_bytes().len() <= 1280)
        );
        assert_eq!(a.count(Counter::OutFragmented), 1);
        assert_eq!(a.count(Counter::OutPackets), 2);
        let arrived = b.unprotect(&[reassemble(&wire[..2]), wire[2].clone()]);
        assert_eq!(arrived.len(), 2);
        assert_eq!(v6(&arrived[0]).payload(), &whole[40..]);
        // IPv4 is told what fits, as ever.
        a.protect(&[greeting(A, B, 1280 - 28)]);
        assert_eq!(a.count(Counter::OutTooBig), 2);
        a.audit();
        b.audit();
    }
}

#[test]
fn errors_are_not_told_about_errors_groups_or_by_nobody() {
    let (mut a, _) = pair(&Tunnel::default());
    let with = |protocol, payload: &[u8]| {
        packet_v6(
            ipv6::Repr {
                next_header: protocol,
                ..header_v6(A, B)
            },
            payload,
        )
    };
    let mut unreachable = vec![1, 0, 0, 0];
    unreachable.resize(1470, 0);
    assert!(
        a.protect(&[with(Protocol::ICMPV6, &unreachable)])
            .is_empty()
    );
    assert_eq!(a.count(Counter::IcmpSuppressed), 1);

    // RFC 4443 2.4 (e.4) and (e.5), but for Packet Too Big.
    let to_all = |packet: &[u8]| frame(host_mac(A), MacAddress::BROADCAST, packet);
    let last_leg = packet_v6(
        ipv6::Repr {
            hop_limit: 1,
            ..header_v6(A, B)
        },
        &datagram(10),
    );
    assert!(a.inside[0].send(&to_all(&last_leg)));
    assert!(a.inside[0].send(&to_all(&greeting_of(Family::V6, A, B, 1460))));
    a.round();
    assert_eq!(a.count(Counter::IcmpSuppressed), 2);
    assert_eq!(answer(&mut a).0, icmp::Error::TooBig { mtu: 1446 });

    assert!(a.protect(&[last_leg]).is_empty());
    assert_eq!(answer(&mut a).0, icmp::Error::TtlExceeded);
    assert_eq!(a.count(Counter::OutTtlExpired), 2);

    let big = greeting_of(Family::V6, A, B, 1460);
    for _ in 0..4 {
        a.protect(&vec![big.clone(); 50]);
    }
    assert!(a.count(Counter::IcmpRateLimited) > 100);
    a.audit();
}

#[test]
fn a_syn_announces_what_fits_behind_any_headers() {
    for outer in Family::ALL {
        let (mut a, mut b) = pair(&over(outer));
        let segment = &syn(A, B, 1460)[20..];
        let plain = packet_v6(
            ipv6::Repr {
                next_header: Protocol::TCP,
                ..header_v6(A, B)
            },
            segment,
        );
        let options = [&[6, 0, 1, 4, 0, 0, 0, 0], segment].concat();
        let hidden = packet_v6(
            ipv6::Repr {
                next_header: Protocol::DESTINATION_OPTIONS,
                ..header_v6(A, B)
            },
            &options,
        );
        let arrived = b.unprotect(&a.protect(&[plain, hidden]));
        let inner_mtu = if outer == Family::V4 { 1446 } else { 1426 };
        for frame in &arrived {
            let upper = any_ip(frame).upper().unwrap();
            let segment = tcp::Segment::new_checked(upper.payload).unwrap();
            assert_eq!(segment.mss(), Some(inner_mtu - 60));
        }
        assert_eq!(a.count(Counter::OutMssClamped), 2);
    }
}

#[test]
fn neighbours_of_ipv6_are_asked_for_and_waited_for() {
    let (mut a, mut b) = pair(&over(Family::V6));
    let address = outer_of(Family::V6, B);
    a.tell_all(&[Command::RemoveNeighbor {
        port: PortId(OUTSIDE),
        address,
    }]);
    assert!(a.protect(&[greeting_of(Family::V6, A, B, 10)]).is_empty());
    let port = PortId(OUTSIDE);
    assert_eq!(a.events(), [Event::NeighborMissing { port, address }]);
    a.tell_all(&[Command::SetNeighbor {
        port,
        address,
        mac: gateway_mac(B, OUTSIDE).0,
    }]);
    let wire = drain(&mut a.outside[0]);
    assert_eq!(b.unprotect(&wire).len(), 1);
    a.audit();
}

#[test]
fn plain_ipv6_from_outside_does_not_come_in() {
    let (_, mut b) = pair(&over(Family::V6));
    let plain = frame(
        gateway_mac(A, OUTSIDE),
        gateway_mac(B, OUTSIDE),
        &greeting_of(Family::V6, A, B, 10),
    );
    assert!(b.unprotect(std::slice::from_ref(&plain)).is_empty());
    assert_eq!(b.count(Counter::InNoPols), 1);
    let bypass = Policy {
        action: PolicyAction::Bypass,
        ..protect_v6(B, A)
    };
    b.tell_all(&[Command::SetPolicy(bypass)]);
    let arrived = b.unprotect(&[plain]);
    assert_eq!(v6(&arrived[0]).hop_limit(), 63);
    b.audit();
}

#[test]
fn an_sa_between_the_families_is_refused() {
    let mut a = Gateway::new(A, 1);
    a.tell_all(&[Command::SetPolicy(protect(A, B))]);
    for command in a.tunnel(B, &Tunnel::default(), 0) {
        let mixed = match command {
            Command::InstallInbound(sa) => Command::InstallInbound(InboundSa {
                remote: outer_of(Family::V6, B),
                ..sa
            }),
            Command::InstallOutbound(sa) => Command::InstallOutbound(OutboundSa {
                local: outer_of(Family::V6, A),
                ..sa
            }),
            _ => continue,
        };
        a.tell_all(&[mixed]);
        let sequence = a.channel.sender(WorkerId(0)).unwrap().pushed();
        let reason = esplanade_channel::CommandError::Malformed;
        assert_eq!(a.events(), [Event::CommandFailed { sequence, reason }]);
    }
}
