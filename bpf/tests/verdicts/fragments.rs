//! Fragments of what is ours: the first one decides.

use crate::{
    GATEWAY, PEER,
    common::{Live, Packet, TAKEN, expect, root},
    covered, ipv6,
};
use esplanade_bpf::{Role, Verdict};
use std::{net::IpAddr, thread, time::Duration};

const FIRST: u16 = 0x2000;
const LATER: u16 = 0x2010;
const LAST: u16 = 0x0020;

/// The two ends of both families, and a gateway that has both addresses.
fn ends() -> ([(IpAddr, IpAddr); 2], Live) {
    let mut steering = Live::new(Role::Outside);
    steering.add_local(GATEWAY).unwrap();
    steering.add_local(ipv6::GATEWAY).unwrap();
    let ends = [
        (PEER.into(), GATEWAY.into()),
        (ipv6::PEER.into(), ipv6::GATEWAY.into()),
    ];
    (ends, steering)
}

#[test]
fn every_fragment_of_esp_and_ah_says_so_itself() {
    if !root() {
        return;
    }
    let (ends, steering) = ends();
    for (peer, gateway) in ends {
        for (protocol, verdict) in [(50, Verdict::TakeEsp), (51, Verdict::TakeAh)] {
            let part = || Packet::new(peer, gateway, protocol, &[1; 40]);
            // In any order.
            for field in [LAST, FIRST, LATER] {
                expect(&steering, &part().fragment(field).bytes(), verdict);
            }
            expect(&steering, &part().fragment(0x4000).bytes(), verdict);
        }
    }
}

#[test]
fn the_first_fragment_of_esp_in_udp_decides_for_the_rest() {
    if !root() {
        return;
    }
    let (ends, steering) = ends();
    for (peer, gateway) in ends {
        let part = |field, id| {
            let part = Packet::udp(peer, gateway, 4500, &[1; 40]);
            part.fragment(field).id(id).bytes()
        };
        // What is not known passes.
        expect(&steering, &part(LATER, 7), Verdict::PassFragment);
        expect(&steering, &part(FIRST, 7), Verdict::TakeEspInUdp);
        expect(&steering, &part(LATER, 7), Verdict::TakeEspInUdp);
        expect(&steering, &part(LAST, 7), Verdict::TakeEspInUdp);
        // Another packet, another sender, another protocol.
        expect(&steering, &part(LATER, 8), Verdict::PassFragment);
        let mut other = Packet::udp(peer, gateway, 4500, &[1; 40])
            .fragment(LATER)
            .id(7);
        other.source = if peer.is_ipv4() {
            crate::STRANGER.into()
        } else {
            ipv6::STRANGER.into()
        };
        expect(&steering, &other.bytes(), Verdict::PassFragment);
        let tcp = Packet::new(peer, gateway, 6, &[0; 40])
            .fragment(LATER)
            .id(7);
        expect(&steering, &tcp.bytes(), Verdict::PassNotOurs);
    }
}

#[test]
fn a_fragmented_ike_message_reaches_the_kernel_in_either_order() {
    if !root() {
        return;
    }
    let (ends, steering) = ends();
    for (peer, gateway) in ends {
        for (port, payload) in [(500, [1; 40]), (4500, [0; 40])] {
            let part = |field| {
                let part = Packet::udp(peer, gateway, port, &payload);
                part.fragment(field).id(9).bytes()
            };
            for order in [[FIRST, LATER, LAST], [LAST, LATER, FIRST]] {
                for field in order {
                    expect(&steering, &part(field), Verdict::PassFragment);
                }
            }
            // Even if an ESP packet had the name before.
            let esp = Packet::udp(peer, gateway, 4500, &[1; 40]);
            expect(&steering, &esp.fragment(FIRST).id(9).bytes(), TAKEN);
            expect(&steering, &part(FIRST), Verdict::PassFragment);
            expect(&steering, &part(LAST), Verdict::PassFragment);
        }
    }
}

#[test]
fn names_of_fragmented_packets_are_forgotten() {
    if !root() {
        return;
    }
    let (ends, steering) = ends();
    for (peer, gateway) in ends {
        let part = |field| {
            let part = Packet::udp(peer, gateway, 4500, &[1; 40]);
            part.fragment(field).bytes()
        };
        expect(&steering, &part(FIRST), TAKEN);
        // The kernel's clock cannot be moved.
        thread::sleep(Duration::from_millis(1100));
        expect(&steering, &part(LATER), Verdict::PassFragment);
    }
}

#[test]
fn there_is_room_for_so_many_names() {
    if !root() {
        return;
    }
    let (ends, steering) = ends();
    let (peer, gateway) = ends[1];
    let part = |field, id| {
        let part = Packet::udp(peer, gateway, 4500, &[1; 40]);
        part.fragment(field).id(id).bytes()
    };
    // Twice as many as the map holds: the last is known, none is refused.
    for id in 0..8192 {
        steering.dry_run(&part(FIRST, id)).unwrap();
    }
    expect(&steering, &part(LATER, 8191), Verdict::TakeEspInUdp);
    expect(&steering, &part(LATER, 0), Verdict::PassFragment);
}

#[test]
fn a_first_fragment_too_short_to_tell_passes() {
    if !root() {
        return;
    }
    let (ends, steering) = ends();
    for (peer, gateway) in ends {
        // The UDP header alone, of a datagram of 48 octets.
        let mut part = Packet::udp(peer, gateway, 4500, &[1; 40]).fragment(FIRST);
        part.payload.truncate(8);
        let mut frame = part.bytes();
        frame.truncate(14 + part.ip().len());
        expect(&steering, &frame, Verdict::PassFragment);
        let later = Packet::udp(peer, gateway, 4500, &[1; 40]).fragment(LATER);
        expect(&steering, &later.bytes(), Verdict::PassFragment);
    }
}

#[test]
fn esp_behind_extension_headers_of_the_fragmented_part_is_known_by_its_first_fragment() {
    if !root() {
        return;
    }
    let (_, steering) = ends();
    let part = |field| {
        let part = Packet::new(ipv6::PEER, ipv6::GATEWAY, 50, &[1; 40]);
        part.before(&[0, 43]).behind(&[60]).fragment(field).bytes()
    };
    expect(&steering, &part(LATER), Verdict::PassFragment);
    expect(&steering, &part(FIRST), Verdict::TakeEsp);
    expect(&steering, &part(LATER), Verdict::TakeEsp);
}

#[test]
fn fragments_of_icmp_errors_are_no_errors() {
    if !root() {
        return;
    }
    let outside = covered();
    let part = Packet::new(crate::STRANGER, GATEWAY, 1, &[3; 80]).fragment(FIRST);
    expect(&outside, &part.bytes(), Verdict::TakeUnprotected);
}
