//! IPv6's extension headers and fragments, and bytes of IPv6 that nobody should have sent.

use super::{
    families::{any_ip, greeting_of, header_v6, over, packet_v6, v6},
    *,
};
use esplanade_wire::ipv6;
use proptest::prelude::*;

/// Extension headers of 8 bytes, in this order, before a datagram.
fn behind(headers: &[Protocol]) -> Vec<u8> {
    let mut payload = Vec::new();
    for at in 0..headers.len() {
        let next = headers.get(at + 1).copied().unwrap_or(Protocol::UDP);
        payload.extend([next.0, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(datagram(20));
    let next_header = headers.first().copied().unwrap_or(Protocol::UDP);
    packet_v6(
        ipv6::Repr {
            next_header,
            ..header_v6(A, B)
        },
        &payload,
    )
}

/// Only datagrams to port 2000 are protected.
fn only_port_2000(site: u8, peer: u8) -> Policy {
    let mut policy = protect_v6(site, peer);
    policy.protocol = Some(Protocol::UDP.0);
    policy.remote.ports = (2000, 2000);
    policy
}

#[test]
fn selectors_look_behind_extension_headers() {
    let (mut a, _) = pair(&Tunnel::default());
    a.tell_all(&[Command::SetPolicy(only_port_2000(A, B))]);
    let some = [
        behind(&[]),
        behind(&[Protocol::HOP_BY_HOP, Protocol::DESTINATION_OPTIONS]),
        behind(&[Protocol::ROUTING; 8]),
    ];
    assert_eq!(a.protect(&some).len(), 3);
    let mut elsewhere = behind(&[Protocol::ROUTING]);
    elsewhere[51] ^= 1;
    assert!(a.protect(&[elsewhere]).is_empty());
    assert_eq!(a.count(Counter::OutNoPols), 1);
    // RFC 4301 4.4.1.1: AH and ESP are next layer protocols.
    assert!(a.protect(&[behind(&[Protocol::AH])]).is_empty());
    assert_eq!(a.count(Counter::OutNoPols), 2);
    a.audit();
}

#[test]
fn floods_of_extension_headers_are_refused_both_ways() {
    let (mut a, mut b) = pair(&over(Family::V6));
    let flood = behind(&[Protocol::DESTINATION_OPTIONS; 9]);
    let late = behind(&[Protocol::DESTINATION_OPTIONS, Protocol::HOP_BY_HOP]);
    assert!(a.protect(&[flood.clone(), late.clone()]).is_empty());
    assert_eq!(a.count(Counter::OutExtensions), 2);
    let outside = |packet: &[u8]| frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), packet);
    assert!(b.unprotect(&[outside(&flood), outside(&late)]).is_empty());
    assert_eq!(b.count(Counter::InExtensions), 2);

    let mut cut = behind(&[Protocol::HOP_BY_HOP]);
    cut[41] = 200;
    assert!(a.protect(&[cut]).is_empty());
    let mut jumbo = behind(&[Protocol::HOP_BY_HOP]);
    // RFC 2675: the length is in an option.
    jumbo[4..6].fill(0);
    jumbo[42..44].copy_from_slice(&[0xc2, 4]);
    assert!(a.protect(&[jumbo]).is_empty());
    assert_eq!(a.count(Counter::OutHdrError), 2);

    // ESP behind headers that routers may have read is still ESP.
    let wire = a.protect(&[greeting_of(Family::V6, A, B, 10)]).remove(0);
    let sealed = v6(&wire);
    let options = [&[50, 0, 1, 4, 0, 0, 0, 0], sealed.payload()].concat();
    let hidden = packet_v6(
        ipv6::Repr {
            next_header: Protocol::HOP_BY_HOP,
            ..ipv6::Repr::parse(&sealed)
        },
        &options,
    );
    assert_eq!(b.unprotect(&[outside(&hidden)]).len(), 1);
    a.audit();
    b.audit();
}

#[test]
fn inner_fragments_of_ipv6_show_their_ports_only_in_the_first() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let fragment = |offset: u16, more: bool, payload: &[u8]| {
        let field = (offset | u16::from(more)).to_be_bytes();
        let head = [17, 0, field[0], field[1], 0, 0, 0, 5];
        packet_v6(
            ipv6::Repr {
                next_header: Protocol::FRAGMENT,
                ..header_v6(A, B)
            },
            &[&head[..], payload].concat(),
        )
    };
    let pieces = [
        fragment(0, true, &datagram(56)),
        fragment(64, false, &[7; 30]),
    ];
    let arrived = b.unprotect(&a.protect(&pieces));
    assert_eq!(arrived.len(), 2);
    a.tell_all(&[Command::SetPolicy(only_port_2000(A, B))]);
    assert_eq!(a.protect(&pieces).len(), 1);
    assert_eq!(a.count(Counter::OutFragmentNoPorts), 1);
    a.audit();
}

#[test]
fn types_and_codes_of_icmpv6_are_selected() {
    let (mut a, _) = pair(&Tunnel::default());
    let mut policy = protect_v6(A, B);
    policy.protocol = Some(Protocol::ICMPV6.0);
    // RFC 7296 3.13.1: echo requests, of any code.
    policy.local.ports = (128 << 8, 128 << 8 | 255);
    policy.remote.ports = policy.local.ports;
    a.tell_all(&[Command::SetPolicy(policy)]);
    let message = |kind| {
        packet_v6(
            ipv6::Repr {
                next_header: Protocol::ICMPV6,
                ..header_v6(A, B)
            },
            &[kind, 3, 0, 0, 0, 0, 0, 0],
        )
    };
    assert_eq!(a.protect(&[message(128), message(129)]).len(), 1);
    assert_eq!(a.count(Counter::OutNoPols), 1);
}

/// What RFC 4301 says of one packet of A's inside, in the plainest way: bits compared one by one, headers walked by hand.
fn is_protected(packet: &[u8]) -> bool {
    let net = |address: &[u8], site: u8| address[..6] == [0x20, 1, 0x0d, 0xb8, 0, site];
    if packet[0] >> 4 != 6 || !net(&packet[8..24], A) || !net(&packet[24..40], B) {
        return false;
    }
    let end = 40 + usize::from(packet[4]) * 256 + usize::from(packet[5]);
    let (mut next, mut at) = (packet[6], 40);
    for walked in 0..9 {
        match next {
            0 | 43 | 44 | 60 if walked == 8 || next == 0 && walked > 0 => return false,
            0 | 43 | 44 | 60 => {
                if end < at + 8 {
                    return false;
                }
                let later = next == 44 && (packet[at + 2], packet[at + 3] & 0xf8) != (0, 0);
                let length = if next == 44 {
                    8
                } else {
                    8 + 8 * usize::from(packet[at + 1])
                };
                if later || end < at + length {
                    return false;
                }
                next = packet[at];
                at += length;
            }
            17 => return end >= at + 4 && packet[at + 2..at + 4] == 2000u16.to_be_bytes(),
            _ => return false,
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_plain_oracle_agrees_which_packets_are_protected(
        packets in prop::collection::vec(
            (
                prop::collection::vec(prop::sample::select(vec![0u8, 43, 60]), 0..11),
                any::<prop::sample::Index>(), prop::option::weighted(0.7, any::<u8>()), 0u8..8,
            ),
            1..40,
        ),
        outer in prop::sample::select(&Family::ALL[..]),
    ) {
        let (mut a, mut b) = pair(&over(outer));
        a.tell_all(&[Command::SetPolicy(only_port_2000(A, B))]);
        for (headers, at, byte, cut) in packets {
            let headers: Vec<_> = headers.into_iter().map(Protocol).collect();
            let mut packet = behind(&headers);
            if let Some(byte) = byte {
                // The hop limit is another matter.
                let at = 8 + at.index(packet.len() - 8);
                packet[at] = byte;
                // Other hosts' link addresses are not known.
                packet[30..40].copy_from_slice(&host_v6(B).octets()[6..]);
            }
            let length = (packet.len() - 40) as u16 - u16::from(cut);
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            let wire = a.protect(std::slice::from_ref(&packet));
            prop_assert_eq!(!wire.is_empty(), is_protected(&packet), "{:x?}", packet);
            drain(&mut a.inside[0]);
            let arrived = b.unprotect(&wire);
            prop_assert_eq!(arrived.len(), wire.len());
        }
        a.audit();
        b.audit();
    }

    #[test]
    fn no_bytes_of_ipv6_crash_leak_a_frame_or_show_plaintext_outside(
        outer in prop::sample::select(&Family::ALL[..]), udp: bool,
        damage in prop::collection::vec((0usize..6, any::<prop::sample::Index>(), any::<u8>(), 0usize..4), 0..60),
    ) {
        let (mut a, mut b) = pair(&Tunnel { udp, ..over(outer) });
        let plain = [
            greeting_of(Family::V6, B, A, 40),
            greeting_of(Family::V6, B, A, 1460),
            behind(&[Protocol::HOP_BY_HOP, Protocol::FRAGMENT, Protocol::ROUTING]),
        ];
        let plain: Vec<_> = plain
            .iter()
            .map(|packet| frame(host_mac(B), gateway_mac(B, INSIDE), packet))
            .collect();
        let sealed = a.protect(&[
            greeting_of(Family::V6, A, B, 40), greeting(A, B, 40), greeting_of(Family::V6, A, B, 1300),
        ]);
        for (which, at, byte, cut) in damage {
            let inside = which < 3;
            let mut frame = if inside { plain[which].clone() } else { sealed[which - 3].clone() };
            let at = at.index(frame.len().min(100));
            frame[at] = byte;
            frame.truncate(frame.len() - cut * 9);
            let port = if inside { &mut b.inside[0] } else { &mut b.outside[0] };
            prop_assert!(port.send(&frame));
        }
        b.round();
        for frame in drain(&mut b.outside[0]) {
            prop_assert!(!shows_marker(&frame));
            let outside = any_ip(&frame);
            prop_assert_eq!(outside.source(), outer_of(outer, B));
            prop_assert_eq!(outside.destination(), outer_of(outer, A));
        }
        b.audit();
        a.audit();
    }
}
