//! IPv6: what is taken of IPv4, behind extension headers, and what the kernel's IPv6 cannot live without.

use crate::common::{Live, Packet, TAKEN, expect, root};
use esplanade_bpf::{Prefix, Role, Verdict};
use std::net::Ipv6Addr;

const fn address(prefix: u16, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, prefix, 0, 0, 0, 0, last)
}

pub const GATEWAY: Ipv6Addr = address(0, 1);
pub const PEER: Ipv6Addr = address(0, 2);
pub const STRANGER: Ipv6Addr = Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 9);
const LOCAL_HOST: Ipv6Addr = address(0xa, 7);
const REMOTE_HOST: Ipv6Addr = address(0xb, 7);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5);

fn everything() -> Prefix {
    Prefix::new(Ipv6Addr::UNSPECIFIED, 0)
}

fn lan() -> Prefix {
    Prefix::new(LOCAL_HOST, 48)
}

/// Makes a tunnel of everything cover the gateway's outer address.
pub fn cover(steering: &mut Live) {
    steering.add_local(GATEWAY).unwrap();
    let ours = Prefix::new(GATEWAY, 48);
    steering.add_protected(ours, everything()).unwrap();
}

fn steering(role: Role) -> Live {
    let mut steering = Live::new(role);
    steering.add_local(GATEWAY).unwrap();
    let remote = Prefix::new(REMOTE_HOST, 48);
    steering.add_protected(lan(), remote).unwrap();
    steering
}

/// A gateway whose default route leads through its tunnel.
fn default_route(role: Role) -> Live {
    let mut steering = Live::new(role);
    cover(&mut steering);
    steering.add_protected(lan(), everything()).unwrap();
    steering
}

#[test]
fn esp_ah_and_esp_in_udp_to_us_are_taken() {
    if !root() {
        return;
    }
    let steering = steering(Role::Outside);
    let esp = Packet::new(PEER, GATEWAY, 50, &[1; 40]);
    expect(&steering, &esp.bytes(), Verdict::TakeEsp);
    let ah = Packet::new(PEER, GATEWAY, 51, &[1; 40]);
    expect(&steering, &ah.bytes(), Verdict::TakeAh);
    let to_us = |port, payload: &[u8]| Packet::udp(PEER, GATEWAY, port, payload).bytes();
    expect(&steering, &to_us(4500, &[1; 100]), Verdict::TakeEspInUdp);
    expect(&steering, &to_us(4500, &[0; 100]), Verdict::PassIke);
    expect(&steering, &to_us(4500, &[0xff]), Verdict::PassIke);
    expect(&steering, &to_us(500, &[1; 100]), Verdict::PassIke);
    let transit = Packet::new(PEER, STRANGER, 50, &[1; 40]);
    expect(&steering, &transit.bytes(), Verdict::PassNotOurs);
}

#[test]
fn extension_headers_are_walked_a_bounded_way() {
    if !root() {
        return;
    }
    let steering = steering(Role::Outside);
    let behind = |headers: &[u8], protocol| {
        let packet = Packet::new(PEER, GATEWAY, protocol, &[1; 40]);
        packet.behind(headers).bytes()
    };
    // RFC 8200 4.1 has these in this order; mobility, HIP and shim6 may be in front, too.
    for headers in [
        &[0][..],
        &[0, 60, 43],
        &[43, 60],
        &[135],
        &[139, 140],
        &[60; 7],
    ] {
        expect(&steering, &behind(headers, 50), Verdict::TakeEsp);
        expect(&steering, &behind(headers, 51), Verdict::TakeAh);
    }
    let ike = Packet::udp(PEER, GATEWAY, 500, &[1; 100]).behind(&[0, 60]);
    expect(&steering, &ike.bytes(), Verdict::PassIke);
    // More than anybody sends. Where plaintext must not pass, it does not.
    expect(&steering, &behind(&[60; 9], 50), Verdict::PassNotOurs);
    expect(&default_route(Role::Outside), &behind(&[60; 9], 50), TAKEN);
    // RFC 6946: a fragment header that makes no fragment.
    let atomic = Packet::udp(PEER, GATEWAY, 4500, &[1; 40]).behind(&[44, 60]);
    expect(&steering, &atomic.bytes(), Verdict::TakeEspInUdp);
    // A header that ends beyond the packet.
    let mut cut = Packet::new(PEER, GATEWAY, 50, &[])
        .behind(&[60, 60])
        .bytes();
    let header = 14 + 40;
    cut[header + 1] = 200;
    expect(&steering, &cut, Verdict::PassNotOurs);
    cut.truncate(header + 1);
    expect(&steering, &cut, Verdict::PassNotOurs);
}

#[test]
fn plain_packets_are_taken_in_the_right_direction() {
    if !root() {
        return;
    }
    let (inside, outside) = (steering(Role::Inside), steering(Role::Outside));
    let out = Packet::new(LOCAL_HOST, REMOTE_HOST, 6, &[0; 20]);
    expect(&inside, &out.bytes(), Verdict::TakeProtect);
    expect(&outside, &out.bytes(), Verdict::PassNotOurs);
    for fragment in [0x2000, 0x0010] {
        let part = out.clone().fragment(fragment).bytes();
        expect(&inside, &part, Verdict::TakeProtect);
    }
    let nested = out.behind(&[0, 60, 43, 60]).bytes();
    expect(&inside, &nested, Verdict::TakeProtect);
    let back = Packet::new(REMOTE_HOST, LOCAL_HOST, 58, &[0; 20]);
    expect(&outside, &back.bytes(), Verdict::TakeUnprotected);
    expect(&inside, &back.bytes(), Verdict::PassNotOurs);
    let half = Packet::new(LOCAL_HOST, STRANGER, 6, &[0; 20]);
    expect(&inside, &half.bytes(), Verdict::PassNotOurs);
}

#[test]
fn a_prefix_of_one_family_says_nothing_of_the_other() {
    if !root() {
        return;
    }
    let mut steering = Live::new(Role::Inside);
    steering.add_protected(everything(), everything()).unwrap();
    let out = Packet::new(LOCAL_HOST, REMOTE_HOST, 6, &[0; 20]);
    expect(&steering, &out.bytes(), Verdict::TakeProtect);
    let ipv4 = Packet::new(crate::LOCAL_HOST, crate::REMOTE_HOST, 6, &[0; 20]);
    expect(&steering, &ipv4.bytes(), Verdict::PassNotOurs);
}

#[test]
fn with_a_remote_of_everything_what_stays_inside_passes() {
    if !root() {
        return;
    }
    let mut inside = default_route(Role::Inside);
    let to = |destination| Packet::new(LOCAL_HOST, destination, 6, &[0; 20]).bytes();
    let neighbor = address(0xa, 8);
    expect(&inside, &to(neighbor), TAKEN);
    inside.add_inside(lan()).unwrap();
    expect(&inside, &to(neighbor), Verdict::PassInside);
    expect(&inside, &to(STRANGER), TAKEN);
    // RFC 7346 2: the scopes of a site, and those beyond.
    for group in ["ff05::c", "ff15::1", "ff33::2", "ff04::1"] {
        expect(&inside, &to(group.parse().unwrap()), Verdict::PassInside);
    }
    for group in ["ff08::1", "ff0e::1", "ff1e::2"] {
        expect(&inside, &to(group.parse().unwrap()), TAKEN);
    }
    inside.remove_inside(lan()).unwrap();
    expect(&inside, &to(neighbor), TAKEN);
}

#[test]
fn neighbor_and_listener_discovery_always_reach_the_kernel() {
    if !root() {
        return;
    }
    let outside = default_route(Role::Outside);
    let inside = default_route(Role::Inside);
    for kind in 133..=137 {
        let message = |from, to| Packet::new(from, to, 58, &[kind; 24]).hop_limit(255);
        // By unicast, from any router or neighbour to any address of ours.
        for (from, to) in [(STRANGER, GATEWAY), (STRANGER, LOCAL_HOST)] {
            let packet = message(from, to);
            expect(&outside, &packet.bytes(), Verdict::PassNeighbor);
            // RFC 4861 6.1 and 7.1: what was forwarded is none.
            expect(&outside, &packet.hop_limit(254).bytes(), TAKEN);
        }
        let solicited: Ipv6Addr = "ff02::1:ff00:1".parse().unwrap();
        for from in [LOCAL_HOST, Ipv6Addr::UNSPECIFIED, LINK_LOCAL] {
            let packet = message(from, solicited);
            expect(&inside, &packet.bytes(), Verdict::PassNeighbor);
        }
    }
    // RFC 2710 3, RFC 3810 5: behind a router alert.
    let group: Ipv6Addr = "ff0e::1:2".parse().unwrap();
    for kind in [130, 131, 132, 143] {
        let report = Packet::new(LOCAL_HOST, group, 58, &[kind; 24]).behind(&[0]);
        let far = report.clone();
        expect(&inside, &report.hop_limit(1).bytes(), Verdict::PassNeighbor);
        expect(&inside, &far.hop_limit(2).bytes(), TAKEN);
    }
    // An echo is none of these.
    let echo = Packet::new(STRANGER, GATEWAY, 58, &[128; 24]).hop_limit(255);
    expect(&outside, &echo.bytes(), TAKEN);
}

#[test]
fn what_is_of_the_link_reaches_the_kernel() {
    if !root() {
        return;
    }
    let all_routers: Ipv6Addr = "ff02::2".parse().unwrap();
    let interface_local: Ipv6Addr = "ff01::1".parse().unwrap();
    for role in [Role::Inside, Role::Outside] {
        let mut steering = default_route(role);
        steering.add_protected(everything(), everything()).unwrap();
        for (from, to) in [
            (LINK_LOCAL, LINK_LOCAL),
            (LINK_LOCAL, STRANGER),
            (STRANGER, LINK_LOCAL),
            (LOCAL_HOST, all_routers),
            (LOCAL_HOST, interface_local),
        ] {
            // OSPF, DHCP, and whatever else.
            for protocol in [89, 17, 50] {
                let packet = Packet::new(from, to, protocol, &[0; 40]);
                expect(&steering, &packet.bytes(), Verdict::PassNotOurs);
            }
        }
    }
}

#[test]
fn plaintext_to_a_covered_address_of_ours_is_taken_whatever_it_is() {
    if !root() {
        return;
    }
    let outside = default_route(Role::Outside);
    for protocol in [6, 17, 58, 89, 59] {
        let packet = Packet::new(STRANGER, GATEWAY, protocol, &[0; 64]);
        expect(&outside, &packet.bytes(), Verdict::TakeUnprotected);
        let behind = packet.behind(&[0, 60]).bytes();
        expect(&outside, &behind, Verdict::TakeUnprotected);
    }
    let ike = Packet::udp(STRANGER, GATEWAY, 500, &[1; 100]);
    expect(&outside, &ike.bytes(), Verdict::PassIke);
    let inside = default_route(Role::Inside);
    let ssh = Packet::new(LOCAL_HOST, GATEWAY, 6, &[0; 20]);
    expect(&inside, &ssh.bytes(), Verdict::PassNotOurs);
}

#[test]
fn removal_undoes_addition() {
    if !root() {
        return;
    }
    let mut outside = default_route(Role::Outside);
    let ssh = Packet::new(STRANGER, GATEWAY, 6, &[0; 20]).bytes();
    let esp = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    expect(&outside, &ssh, TAKEN);
    let ours = Prefix::new(GATEWAY, 48);
    outside.remove_protected(ours, everything()).unwrap();
    expect(&outside, &ssh, Verdict::PassNotOurs);
    outside.add_protected(ours, everything()).unwrap();
    expect(&outside, &ssh, TAKEN);
    outside.remove_local(GATEWAY).unwrap();
    expect(&outside, &esp, TAKEN);
    outside.remove_protected(ours, everything()).unwrap();
    expect(&outside, &esp, Verdict::PassNotOurs);
}

#[test]
fn malformed_packets_pass() {
    if !root() {
        return;
    }
    let steering = steering(Role::Outside);
    let mut version = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    version[14] = 0x45;
    expect(&steering, &version, Verdict::PassMalformed);
    let cut = &Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes()[..50];
    expect(&steering, cut, Verdict::PassMalformed);
    let cut = &Packet::udp(PEER, GATEWAY, 4500, &[1; 40]).bytes()[..64];
    expect(&steering, cut, Verdict::PassMalformed);
}
