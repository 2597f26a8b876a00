//! What becomes of each kind of packet, asked of the kernel itself (BPF_PROG_TEST_RUN). Needs root.

mod common;
mod errors;
mod fragments;
mod ipv6;
mod tagged;

use common::{Live, Packet, TAKEN, expect, root};
use esplanade_bpf::{Prefix, Role, Verdict, Vlan};
use std::net::Ipv4Addr;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LOCAL_HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 7);
const REMOTE_HOST: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 7);
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

fn steering(role: Role) -> Live {
    let mut steering = Live::new(role);
    steering.add_local(GATEWAY).unwrap();
    steering
        .add_protected(
            Prefix::new(Ipv4Addr::new(10, 1, 0, 0), 16),
            Prefix::new(Ipv4Addr::new(10, 2, 0, 0), 16),
        )
        .unwrap();
    steering
}

#[test]
fn esp_and_ah_to_us_are_taken_on_both_sides() {
    if !root() {
        return;
    }
    for role in [Role::Inside, Role::Outside] {
        let steering = steering(role);
        for protocol in [50, 51] {
            let mut packet = Packet::new(PEER, GATEWAY, protocol, &[1; 40]);
            expect(&steering, &packet.bytes(), TAKEN);
            packet.options = 8;
            expect(&steering, &packet.bytes(), TAKEN);
            let transit = Packet::new(PEER, STRANGER, protocol, &[1; 40]);
            expect(&steering, &transit.bytes(), Verdict::PassNotOurs);
        }
    }
}

#[test]
fn udp_4500_is_told_apart_by_its_length_and_first_word() {
    if !root() {
        return;
    }
    let steering = steering(Role::Outside);
    let to_us = |port, payload: &[u8]| Packet::udp(PEER, GATEWAY, port, payload).bytes();
    // RFC 3948 2.2: "The SPI field in the ESP header MUST NOT be a zero value."
    expect(&steering, &to_us(4500, &[0, 0, 0, 9, 0, 0, 0, 1]), TAKEN);
    expect(&steering, &to_us(4500, &[1; 100]), TAKEN);
    expect(&steering, &to_us(4500, &[0; 100]), Verdict::PassIke);
    // RFC 3948 2.3: a keepalive is one octet 0xFF; the padding of the frame behind it is not its payload.
    expect(&steering, &to_us(4500, &[0xff]), Verdict::PassIke);
    expect(&steering, &to_us(4500, &[1; 7]), Verdict::PassIke);
    expect(&steering, &to_us(4500, &[]), Verdict::PassIke);
    expect(&steering, &to_us(500, &[1; 100]), Verdict::PassIke);
    let mut with_options = Packet::udp(PEER, GATEWAY, 4500, &[1; 20]);
    with_options.options = 40;
    expect(&steering, &with_options.bytes(), TAKEN);
    let transit = Packet::udp(PEER, STRANGER, 4500, &[1; 100]);
    expect(&steering, &transit.bytes(), Verdict::PassNotOurs);
}

#[test]
fn plain_packets_are_taken_in_the_right_direction() {
    if !root() {
        return;
    }
    let (inside, outside) = (steering(Role::Inside), steering(Role::Outside));
    let out = Packet::new(LOCAL_HOST, REMOTE_HOST, 6, &[0; 20]);
    expect(&inside, &out.bytes(), TAKEN);
    expect(&outside, &out.bytes(), Verdict::PassNotOurs);
    expect(&inside, &out.fragment(0x2000).bytes(), TAKEN);
    let back = Packet::new(REMOTE_HOST, LOCAL_HOST, 1, &[0; 20]);
    expect(&outside, &back.bytes(), TAKEN);
    expect(&inside, &back.bytes(), Verdict::PassNotOurs);
    let half = Packet::new(LOCAL_HOST, STRANGER, 1, &[0; 20]);
    expect(&inside, &half.bytes(), Verdict::PassNotOurs);
    let other_half = Packet::new(STRANGER, REMOTE_HOST, 1, &[0; 20]);
    expect(&inside, &other_half.bytes(), Verdict::PassNotOurs);
}

const EVERYTHING: (Ipv4Addr, u8) = (Ipv4Addr::UNSPECIFIED, 0);
const LAN: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 1, 0, 0), 16);

fn prefix((address, length): (Ipv4Addr, u8)) -> Prefix {
    Prefix::new(address, length)
}

/// A gateway whose default route leads through its tunnel.
fn default_route(role: Role) -> Live {
    let mut steering = Live::new(role);
    steering.add_local(GATEWAY).unwrap();
    steering
        .add_protected(prefix(LAN), prefix(EVERYTHING))
        .unwrap();
    steering
}

#[test]
fn with_a_remote_of_everything_what_stays_inside_passes() {
    if !root() {
        return;
    }
    const INSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
    const NEIGHBOR: Ipv4Addr = Ipv4Addr::new(10, 1, 5, 5);
    const LAN_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 1, 255, 255);
    let mut inside = default_route(Role::Inside);
    let to = |destination| Packet::new(LOCAL_HOST, destination, 6, &[0; 20]).bytes();
    for destination in [INSIDE_ADDRESS, NEIGHBOR, LAN_BROADCAST] {
        expect(&inside, &to(destination), TAKEN);
    }
    // An address of the gateway is known by itself: it need not be of an attached network.
    let gateway = Prefix::new(INSIDE_ADDRESS, 32);
    inside.add_inside(gateway).unwrap();
    expect(&inside, &to(INSIDE_ADDRESS), Verdict::PassInside);
    expect(&inside, &to(NEIGHBOR), TAKEN);
    inside.add_inside(prefix(LAN)).unwrap();
    for destination in [INSIDE_ADDRESS, NEIGHBOR, LAN_BROADCAST] {
        expect(&inside, &to(destination), Verdict::PassInside);
    }
    expect(&inside, &to(REMOTE_HOST), TAKEN);
    expect(&inside, &to(STRANGER), TAKEN);
    // Our outer address, asked from inside, is the gateway's as well.
    expect(&inside, &to(GATEWAY), Verdict::PassNotOurs);

    inside.remove_inside(prefix(LAN)).unwrap();
    inside.remove_inside(gateway).unwrap();
    for destination in [INSIDE_ADDRESS, NEIGHBOR, LAN_BROADCAST] {
        expect(&inside, &to(destination), TAKEN);
    }
}

#[test]
fn what_is_inside_is_no_exception_for_what_comes_from_outside() {
    if !root() {
        return;
    }
    let mut outside = default_route(Role::Outside);
    outside.add_inside(prefix(LAN)).unwrap();
    let gateway = Ipv4Addr::new(10, 1, 0, 1);
    for (source, destination) in [
        (STRANGER, LOCAL_HOST),
        (STRANGER, gateway),
        // Whoever claims to be a host of ours as well.
        (Ipv4Addr::new(10, 1, 0, 8), LOCAL_HOST),
    ] {
        let packet = Packet::new(source, destination, 6, &[0; 20]);
        expect(&outside, &packet.bytes(), TAKEN);
    }
}

#[test]
fn a_protected_prefix_as_long_as_an_inside_network_counts_more() {
    if !root() {
        return;
    }
    let mut steering = default_route(Role::Inside);
    steering.add_inside(prefix(LAN)).unwrap();
    let moved = Ipv4Addr::new(10, 1, 9, 9);
    let packet = Packet::new(LOCAL_HOST, moved, 6, &[0; 20]).bytes();
    expect(&steering, &packet, Verdict::PassInside);
    for remote in [prefix(LAN), Prefix::new(moved, 24)] {
        steering.add_protected(prefix(LAN), remote).unwrap();
        expect(&steering, &packet, TAKEN);
        steering.remove_protected(prefix(LAN), remote).unwrap();
        expect(&steering, &packet, Verdict::PassInside);
    }
}

#[test]
fn a_lan_gets_its_broadcasts_and_multicasts() {
    if !root() {
        return;
    }
    let mut inside = default_route(Role::Inside);
    let dhcp = Packet::udp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, 67, &[0; 200]);
    expect(&inside, &dhcp.bytes(), Verdict::PassNotOurs);
    let ospf = Packet::new(LOCAL_HOST, Ipv4Addr::new(224, 0, 0, 5), 89, &[0; 20]);
    expect(&inside, &ospf.bytes(), Verdict::PassNotOurs);
    let discovery = Ipv4Addr::new(239, 255, 255, 250);
    let ssdp = Packet::udp(LOCAL_HOST, discovery, 1900, &[0; 20]).bytes();
    expect(&inside, &ssdp, Verdict::PassInside);
    // What routers may forward does not leave in the clear.
    for group in [
        [224, 0, 1, 1],
        [232, 1, 2, 3],
        [239, 192, 0, 1],
        [239, 254, 255, 255],
    ] {
        let packet = Packet::udp(LOCAL_HOST, Ipv4Addr::from(group), 5004, &[0; 20]);
        expect(&inside, &packet.bytes(), TAKEN);
    }
    // Whoever protects a group says so.
    let group = Prefix::new(discovery, 32);
    inside.add_protected(prefix(LAN), group).unwrap();
    expect(&inside, &ssdp, TAKEN);
    // RFC 826: no IPv4.
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    expect(&inside, &arp, Verdict::PassNotOurs);
}

#[test]
fn plaintext_to_a_covered_address_of_ours_is_taken_whatever_it_is() {
    if !root() {
        return;
    }
    let outside = covered();
    for protocol in [1, 6, 17, 89] {
        let packet = || Packet::new(STRANGER, GATEWAY, protocol, &[0; 64]);
        expect(&outside, &packet().bytes(), TAKEN);
        expect(&outside, &packet().fragment(0x2000).bytes(), TAKEN);
    }
    // DNS from afar, whole and in its first fragment.
    let dns = || Packet::udp(STRANGER, GATEWAY, 53, &[1; 40]);
    expect(&outside, &dns().bytes(), TAKEN);
    expect(&outside, &dns().fragment(0x2000).bytes(), TAKEN);
    // The next ones go where it went, those of a packet that nobody knows pass.
    let later = || dns().fragment(0x0010);
    expect(&outside, &later().bytes(), TAKEN);
    expect(&outside, &later().id(2).bytes(), Verdict::PassFragment);
}

#[test]
fn what_a_peer_needs_to_reach_us_passes_to_a_covered_address() {
    if !root() {
        return;
    }
    let outside = covered();
    // RFC 4301 5.2: "IKE traffic MUST have an explicit BYPASS entry in the SPD".
    let ike = Packet::udp(STRANGER, GATEWAY, 500, &[1; 100]);
    expect(&outside, &ike.bytes(), Verdict::PassIke);
    let marked = Packet::udp(STRANGER, GATEWAY, 4500, &[0; 100]);
    expect(&outside, &marked.bytes(), Verdict::PassIke);
    let part = ike.fragment(0x2000);
    expect(&outside, &part.bytes(), Verdict::PassFragment);
    for protocol in [50, 51] {
        let esp = Packet::new(STRANGER, GATEWAY, protocol, &[1; 40]);
        expect(&outside, &esp.bytes(), TAKEN);
    }
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    expect(&outside, &arp, Verdict::PassNotOurs);
}

#[test]
fn an_address_of_ours_is_covered_by_both_ends_of_one_pair_only() {
    if !root() {
        return;
    }
    let ssh = Packet::new(STRANGER, GATEWAY, 6, &[0; 20]).bytes();
    let from_peer = Packet::new(PEER, GATEWAY, 6, &[0; 20]).bytes();
    let ours = Prefix::new(GATEWAY, 24);
    // The pair of everything does not cover our address; the one that does covers another far side.
    let mut outside = default_route(Role::Outside);
    outside
        .add_protected(ours, Prefix::new(REMOTE_HOST, 16))
        .unwrap();
    expect(&outside, &ssh, Verdict::PassNotOurs);
    let from_there = Packet::new(REMOTE_HOST, GATEWAY, 6, &[0; 20]).bytes();
    expect(&outside, &from_there, TAKEN);

    // In whichever order address and pair come and go.
    let pair = (ours, Prefix::new(STRANGER, 24));
    outside.add_protected(pair.0, pair.1).unwrap();
    expect(&outside, &ssh, TAKEN);
    expect(&outside, &from_peer, Verdict::PassNotOurs);
    outside.remove_local(GATEWAY).unwrap();
    outside.add_local(GATEWAY).unwrap();
    expect(&outside, &ssh, TAKEN);
    outside.add_protected(pair.0, pair.1).unwrap();
    outside.remove_protected(pair.0, pair.1).unwrap();
    expect(&outside, &ssh, TAKEN);
    outside.remove_protected(pair.0, pair.1).unwrap();
    expect(&outside, &ssh, Verdict::PassNotOurs);
    expect(&outside, &from_there, TAKEN);
    // Another address of the same network is not ours, and then any two prefixes will do.
    let behind = Packet::new(STRANGER, Ipv4Addr::new(192, 0, 2, 77), 6, &[0; 20]);
    expect(&outside, &behind.bytes(), TAKEN);
}

/// A gateway whose own outer address lies behind a tunnel of everything.
fn covered() -> Live {
    let mut steering = default_route(Role::Outside);
    let ours = Prefix::new(GATEWAY, 24);
    steering.add_protected(ours, prefix(EVERYTHING)).unwrap();
    steering
}

#[test]
fn what_is_for_the_gateway_passes_from_inside_whatever_the_selectors() {
    if !root() {
        return;
    }
    let mut steering = default_route(Role::Inside);
    steering
        .add_protected(prefix(EVERYTHING), prefix(EVERYTHING))
        .unwrap();
    let ike = Packet::udp(PEER, GATEWAY, 500, &[1; 100]);
    expect(&steering, &ike.bytes(), Verdict::PassIke);
    let ssh = Packet::new(LOCAL_HOST, GATEWAY, 6, &[0; 20]);
    expect(&steering, &ssh.bytes(), Verdict::PassNotOurs);
    let plain = Packet::new(LOCAL_HOST, STRANGER, 6, &[0; 20]);
    expect(&steering, &plain.bytes(), TAKEN);
}

#[test]
fn malformed_and_foreign_packets_pass() {
    if !root() {
        return;
    }
    let steering = steering(Role::Inside);
    let mut short_header = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    short_header[14] = 0x44;
    expect(&steering, &short_header, Verdict::PassMalformed);
    let mut version = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    version[14] = 0x65;
    expect(&steering, &version, Verdict::PassMalformed);
    let cut = &Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes()[..30];
    expect(&steering, cut, Verdict::PassMalformed);
    let cut = &Packet::udp(PEER, GATEWAY, 4500, &[1; 40]).bytes()[..40];
    expect(&steering, cut, Verdict::PassMalformed);
    let cut = &Packet::udp(PEER, GATEWAY, 4500, &[1; 40]).bytes()[..44];
    expect(&steering, cut, Verdict::PassMalformed);
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    expect(&steering, &arp, Verdict::PassNotOurs);
}

#[test]
fn an_interface_that_is_no_port_passes_everything() {
    if !root() {
        return;
    }
    let mut steering = Live::new(Role::Outside);
    steering.set_port(0, 3, Role::Outside, Vlan::NONE).unwrap();
    steering.add_local(GATEWAY).unwrap();
    let esp = Packet::new(PEER, GATEWAY, 50, &[1; 40]);
    expect(&steering, &esp.bytes(), Verdict::PassNotOurs);
}

#[test]
fn what_is_ours_is_dropped_where_no_dataplane_listens() {
    if !root() {
        return;
    }
    let mut deaf = Live::deaf(Role::Outside);
    deaf.add_local(GATEWAY).unwrap();
    deaf.add_protected(prefix(LAN), prefix(EVERYTHING)).unwrap();
    let esp = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    let in_udp = Packet::udp(PEER, GATEWAY, 4500, &[1; 40]).bytes();
    let plain = Packet::new(STRANGER, LOCAL_HOST, 6, &[0; 20]).bytes();
    for packet in [esp, in_udp, plain] {
        expect(&deaf, &packet, Verdict::DropNoSocket);
    }
    let ike = Packet::udp(PEER, GATEWAY, 4500, &[0; 100]).bytes();
    expect(&deaf, &ike, Verdict::PassIke);
}

#[test]
fn removal_undoes_addition() {
    if !root() {
        return;
    }
    let mut steering = steering(Role::Inside);
    let local = Prefix::new(Ipv4Addr::new(10, 1, 0, 0), 16);
    let remote = Prefix::new(Ipv4Addr::new(10, 2, 0, 0), 16);
    let plain = Packet::new(LOCAL_HOST, REMOTE_HOST, 6, &[0; 20]).bytes();
    steering.add_protected(local, remote).unwrap();
    steering.remove_protected(local, remote).unwrap();
    expect(&steering, &plain, TAKEN);
    steering.remove_protected(local, remote).unwrap();
    expect(&steering, &plain, Verdict::PassNotOurs);
    steering.remove_protected(local, remote).unwrap();

    let esp = Packet::new(PEER, GATEWAY, 50, &[1; 40]).bytes();
    expect(&steering, &esp, TAKEN);
    steering.remove_local(GATEWAY).unwrap();
    steering.remove_local(GATEWAY).unwrap();
    expect(&steering, &esp, Verdict::PassNotOurs);
}
