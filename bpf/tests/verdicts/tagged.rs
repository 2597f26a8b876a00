//! VLAN tags (IEEE 802.1Q): a port is an interface, or a VLAN on it.

use crate::{
    GATEWAY, LOCAL_HOST, PEER, REMOTE_HOST,
    common::{Live, Packet, TAKEN, expect, root},
    ipv6,
};
use esplanade_bpf::{Prefix, Role, Verdict, Vlan};

/// The priority and drop eligibility of a tag say nothing of its VLAN.
const PRIORITY: u16 = 0xf000;

fn port(role: Role, outer: u16, inner: u16) -> Live {
    let mut steering = Live::in_vlan(role, Vlan { outer, inner });
    steering.add_local(GATEWAY).unwrap();
    steering.add_local(ipv6::GATEWAY).unwrap();
    let prefix = |address| Prefix::new(address, 16);
    steering
        .add_protected(prefix(LOCAL_HOST), prefix(REMOTE_HOST))
        .unwrap();
    steering
}

/// One packet of each family that is ours.
fn ours() -> [Packet; 3] {
    [
        Packet::new(PEER, GATEWAY, 50, &[1; 40]),
        Packet::udp(PEER, GATEWAY, 4500, &[1; 40]),
        Packet::new(ipv6::PEER, ipv6::GATEWAY, 50, &[1; 40]),
    ]
}

#[test]
fn frames_of_another_vlan_are_not_the_ports() {
    if !root() {
        return;
    }
    let frames: [&[u16]; 6] = [&[], &[5], &[5 | PRIORITY], &[6], &[100, 5], &[5, 100]];
    for (outer, inner, own) in [
        (0, 0, &[0][..]),
        (5, 0, &[1, 2]),
        (100, 5, &[4]),
        (5, 100, &[5]),
    ] {
        let port = port(Role::Outside, outer, inner);
        for (at, tags) in frames.iter().enumerate() {
            for packet in ours() {
                let frame = packet.tagged(tags).bytes();
                if own.contains(&at) {
                    expect(&port, &frame, TAKEN);
                } else {
                    expect(&port, &frame, Verdict::PassNotOurs);
                }
            }
        }
    }
}

#[test]
fn a_tag_for_the_priority_only_is_no_vlan() {
    if !root() {
        return;
    }
    let untagged = port(Role::Outside, 0, 0);
    let tagged = port(Role::Outside, 5, 0);
    for packet in ours() {
        let priority = packet.clone().tagged(&[PRIORITY]).bytes();
        expect(&untagged, &priority, TAKEN);
        let behind = packet.tagged(&[PRIORITY, 5]).bytes();
        expect(&tagged, &behind, TAKEN);
    }
}

#[test]
fn three_tags_are_too_many() {
    if !root() {
        return;
    }
    for (outer, inner) in [(0, 0), (5, 0), (5, 6)] {
        let port = port(Role::Outside, outer, inner);
        let [esp, ..] = ours();
        let frame = esp.tagged(&[5, 6, 7]).bytes();
        expect(&port, &frame, Verdict::PassNotOurs);
    }
}

/// The VLANs of an interface share its sockets, so the dataplane has to see whose a frame is.
#[test]
fn the_dataplane_gets_the_frames_of_a_vlan_with_their_last_tag() {
    if !root() {
        return;
    }
    let priority_and = 5 | PRIORITY;
    for (vlan, tags, seen) in [
        ((0, 0), &[][..], &[][..]),
        ((0, 0), &[PRIORITY], &[]),
        ((5, 0), &[5], &[5]),
        ((5, 0), &[priority_and], &[priority_and]),
        ((5, 0), &[PRIORITY, 5], &[5]),
        ((100, 5), &[100, priority_and], &[priority_and]),
    ] {
        let port = port(Role::Outside, vlan.0, vlan.1);
        for packet in ours() {
            let frame = packet.clone().tagged(tags).bytes();
            let left = expect(&port, &frame, TAKEN);
            let mut wanted = packet.tagged(seen).bytes();
            // What a short frame was padded with comes along.
            wanted.resize(left.len(), 0xa5);
            assert_eq!(left, wanted, "{vlan:?} {tags:?}");
        }
        // The kernel gets them with their tags.
        let ike = Packet::udp(PEER, GATEWAY, 500, &[1; 40])
            .tagged(tags)
            .bytes();
        assert_eq!(expect(&port, &ike, Verdict::PassIke), ike);
    }
}

/// Two VLANs and what has no tag, on one interface: a verdict for each by its side, and the kernel keeps the rest.
#[test]
fn an_interface_may_be_several_ports() {
    if !root() {
        return;
    }
    let live = port(Role::Outside, 0, 0);
    let vlan = |outer| Vlan { outer, inner: 0 };
    live.set_port(crate::common::LOOPBACK, 4, Role::Inside, vlan(5))
        .unwrap();
    live.set_port(crate::common::LOOPBACK, 5, Role::Outside, vlan(6))
        .unwrap();
    let out = Packet::new(LOCAL_HOST, REMOTE_HOST, 6, &[0; 40]);
    // The other ports have no socket here.
    for (tags, verdict) in [
        (&[][..], Verdict::PassNotOurs),
        (&[5], Verdict::DropNoSocket),
        (&[6], Verdict::PassNotOurs),
        (&[7], Verdict::PassNotOurs),
    ] {
        expect(&live, &out.clone().tagged(tags).bytes(), verdict);
    }
    let [esp, ..] = ours();
    for (tags, verdict) in [
        (&[][..], Verdict::TakeEsp),
        (&[6], Verdict::DropNoSocket),
        (&[7], Verdict::PassNotOurs),
    ] {
        expect(&live, &esp.clone().tagged(tags).bytes(), verdict);
    }
}

#[test]
fn plain_packets_are_taken_from_the_ports_vlan() {
    if !root() {
        return;
    }
    let inside = port(Role::Inside, 5, 0);
    let out = Packet::new(LOCAL_HOST, REMOTE_HOST, 6, &[0; 40]);
    expect(
        &inside,
        &out.clone().tagged(&[5]).bytes(),
        Verdict::TakeProtect,
    );
    for tags in [&[][..], &[6], &[5, 6]] {
        let frame = out.clone().tagged(tags).bytes();
        expect(&inside, &frame, Verdict::PassNotOurs);
    }
}
