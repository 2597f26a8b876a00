//! Packets that wait for their next hop's link address.

use super::*;
use crate::worker::held::{FOR_A_NEXT_HOP, MAX_HELD, PATIENCE_MS};
use std::net::IpAddr;

fn forget(port: u8, address: Ipv4Addr) -> Command {
    Command::RemoveNeighbor {
        port: PortId(port),
        address: address.into(),
    }
}

fn set(port: u8, address: Ipv4Addr, mac: MacAddress) -> Command {
    Command::SetNeighbor {
        port: PortId(port),
        address: address.into(),
        mac: mac.0,
    }
}

/// Packets that their lengths tell apart.
fn greetings(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| greeting(A, B, 20 + n)).collect()
}

fn lengths(frames: &[Vec<u8>]) -> Vec<usize> {
    frames.iter().map(|frame| ip(frame).total_len()).collect()
}

fn sequences(wire: &[Vec<u8>]) -> Vec<u32> {
    let number = |frame: &Vec<u8>| u32::from_be_bytes(frame[38..42].try_into().unwrap());
    wire.iter().map(number).collect()
}

/// Another host behind B.
fn neighbour_of_host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, B, 1, number)
}

fn greeting_to(destination: Ipv4Addr) -> Vec<u8> {
    let header = ipv4::Repr::new(host(A), destination, Protocol::UDP, 0);
    packet(header, &datagram(10))
}

#[test]
fn both_ways_they_leave_in_order_once_the_address_is_known() {
    let (mut a, mut b) = pair(&Tunnel::default());
    a.tell_all(&[forget(OUTSIDE, outer(B))]);
    b.tell_all(&[forget(INSIDE, host(B))]);

    assert!(a.protect(&greetings(3)).is_empty());
    assert_eq!(a.count(Counter::NeighborHeld), 3);
    let mac = MacAddress([2, 9, 9, 9, 9, 9]);
    a.tell_all(&[set(OUTSIDE, outer(B), mac)]);
    let wire = drain(&mut a.outside[0]);
    assert_eq!(wire.len(), 3);
    assert_eq!(wire[0][..6], mac.0);
    assert_eq!(
        sequences(&wire),
        [1, 2, 3],
        "numbers are taken as they leave"
    );

    assert!(b.unprotect(&wire).is_empty());
    assert_eq!(b.count(Counter::NeighborHeld), 3);
    assert_eq!(b.count(Counter::InPackets), 0, "not delivered yet");
    b.tell_all(&[set(INSIDE, host(B), mac)]);
    let arrived = drain(&mut b.inside[0]);
    assert_eq!(lengths(&arrived), [48, 49, 50]);
    assert_eq!(arrived[0][..6], mac.0);
    assert_eq!(arrived[0][6..12], gateway_mac(B, INSIDE).0);
    assert_eq!(ip(&arrived[0]).ttl(), 62);
    for gateway in [&mut a, &mut b] {
        assert_eq!(gateway.count(Counter::NeighborUnresolved), 0);
        gateway.audit();
    }
    assert_eq!(b.count(Counter::InPackets), 3);
}

#[test]
fn the_latest_few_for_a_next_hop_are_kept() {
    let (mut a, _) = pair(&Tunnel::default());
    a.tell_all(&[forget(OUTSIDE, outer(B))]);
    assert!(a.protect(&greetings(10)).is_empty());
    assert_eq!(a.count(Counter::NeighborHeld), 10);
    let lost = 10 - FOR_A_NEXT_HOP;
    assert_eq!(a.count(Counter::NeighborUnresolved), lost as u64);
    a.tell_all(&[set(OUTSIDE, outer(B), gateway_mac(B, OUTSIDE))]);
    let wire = drain(&mut a.outside[0]);
    assert_eq!(sequences(&wire), [1, 2, 3, 4], "the lost ones took none");
    // RFC 1122 2.3.2.2: "SHOULD save (rather than discard) at least one (the latest) packet".
    let mut b = Gateway::new(B, 1);
    b.tell_all(&b.tunnel(A, &Tunnel::default(), 0));
    assert_eq!(lengths(&b.unprotect(&wire)), [54, 55, 56, 57]);
    a.audit();
}

#[test]
fn a_full_room_makes_place_for_the_latest() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let hosts: Vec<_> = (0..MAX_HELD as u8 + 10).map(neighbour_of_host).collect();
    for some in hosts.chunks(32) {
        let packets: Vec<_> = some.iter().map(|host| greeting_to(*host)).collect();
        let wire = a.protect(&packets);
        assert!(b.unprotect(&wire).is_empty());
    }
    assert_eq!(b.count(Counter::NeighborUnresolved), 10);
    let mac = host_mac(B);
    let all: Vec<_> = hosts.iter().map(|host| set(INSIDE, *host, mac)).collect();
    for some in all.chunks(16) {
        b.tell_all(some);
    }
    let arrived: Vec<_> = drain(&mut b.inside[0])
        .iter()
        .map(|frame| ip(frame).destination())
        .collect();
    assert_eq!(arrived, hosts[10..]);
    b.audit();
}

#[test]
fn who_waits_too_long_is_dropped() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&greetings(2));
    a.tell_all(&[forget(OUTSIDE, outer(B))]);
    b.tell_all(&[forget(INSIDE, host(B))]);
    assert!(a.protect(&greetings(2)).is_empty());
    assert!(b.unprotect(&wire).is_empty());
    for gateway in [&mut a, &mut b] {
        // The next round is a millisecond later still.
        gateway.now += Duration::from_millis(PATIENCE_MS - 2);
        gateway.round();
        assert_eq!(gateway.count(Counter::NeighborUnresolved), 0);
        gateway.round();
        assert_eq!(gateway.count(Counter::NeighborUnresolved), 2);
        gateway.audit();
    }
    a.tell_all(&[set(OUTSIDE, outer(B), gateway_mac(B, OUTSIDE))]);
    assert!(drain(&mut a.outside[0]).is_empty());
    assert_eq!(sequences(&a.protect(&greetings(1))), [3]);
}

#[test]
fn packets_to_others_pass_by() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let unknown = neighbour_of_host(1);
    let mixed: Vec<_> = greetings(8)
        .into_iter()
        .flat_map(|packet| [packet, greeting_to(unknown)])
        .collect();
    let wire = a.protect(&mixed);
    assert_eq!(
        lengths(&b.unprotect(&wire)),
        (48..56).collect::<Vec<usize>>()
    );
    // The same address on another port is somebody else.
    b.tell_all(&[set(OUTSIDE, unknown, host_mac(B))]);
    assert!(drain(&mut b.inside[0]).is_empty());
    b.tell_all(&[set(INSIDE, unknown, host_mac(B))]);
    assert_eq!(drain(&mut b.inside[0]).len(), FOR_A_NEXT_HOP);
    b.audit();
}

#[test]
fn what_waited_is_judged_as_it_leaves() {
    let (mut a, _) = pair(&Tunnel::default());
    a.tell_all(&[forget(OUTSIDE, outer(B))]);
    assert!(a.protect(&greetings(2)).is_empty());
    a.tell_all(&[
        Command::RemoveSa { sa: outbound_id(A) },
        set(OUTSIDE, outer(B), gateway_mac(B, OUTSIDE)),
    ]);
    assert!(drain(&mut a.outside[0]).is_empty());
    assert_eq!(a.count(Counter::OutNoStates), 2);
    a.audit();
}

#[test]
fn bypassed_packets_wait_as_well() {
    let mut a = Gateway::new(A, 1);
    a.tell_all(&[
        Command::SetPolicy(Policy {
            action: PolicyAction::Bypass,
            ..protect(A, B)
        }),
        Command::SetRoute {
            prefix: Prefix::new(host(B).into(), 16).unwrap(),
            port: Some(PortId(OUTSIDE)),
            gateway: Some(IpAddr::V4(outer(9))),
            mtu: 0,
            unreachable: false,
        },
    ]);
    assert!(a.protect(&greetings(2)).is_empty());
    a.tell_all(&[set(OUTSIDE, outer(9), gateway_mac(B, OUTSIDE))]);
    let plain = drain(&mut a.outside[0]);
    assert_eq!(lengths(&plain), [48, 49]);
    assert_eq!(ip(&plain[0]).ttl(), 63, "decremented once");
    a.audit();
}

#[test]
fn borrowed_frames_wait_and_go_home() {
    let tunnel = Tunnel {
        owner: 1,
        ..Tunnel::default()
    };
    let mut a = Gateway::new(A, 2);
    a.tell_all(&a.tunnel(B, &tunnel, 0));
    a.tell_all(&[forget(OUTSIDE, outer(B))]);
    a.protect(&greetings(6));
    assert_eq!(a.count(Counter::HandoffReceived), 6);
    assert_eq!(a.count(Counter::NeighborHeld), 6);
    a.tell_all(&[set(OUTSIDE, outer(B), gateway_mac(B, OUTSIDE))]);
    assert_eq!(drain(&mut a.outside[1]).len(), FOR_A_NEXT_HOP);
    a.audit();
}
