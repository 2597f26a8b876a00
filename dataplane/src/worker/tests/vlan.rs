//! Ports that are VLANs of an interface, which share its queues.

use super::*;
use esplanade_channel::PortCounter;

/// A third port, inside, without a tag on the interface that carries A's hosts in a VLAN.
const PLAIN: u8 = 2;
const INNER: u16 = 100;
const OUTER: u16 = 200;

/// A gateway whose hosts are in a VLAN and untagged on one interface, and whose peers are in a VLAN on the other.
fn tagged() -> Gateway {
    let roles = [Role::Inside, Role::Outside, Role::Inside];
    let link = |queue, vlan| Link { queue, vlan };
    let links = [link(0, INNER), link(1, OUTER), link(0, 0)];
    let mut a = Gateway::with_links(A, 1, &roles, &links);
    let port = PortId(PLAIN);
    a.tell_all(&[
        Command::SetPort {
            port,
            mac: gateway_mac(A, PLAIN).0,
            mtu: 1500,
            address: Some(Ipv4Addr::new(10, 9, 0, 254)),
            address_v6: None,
            mss_clamp: true,
            udp_checksum: true,
            partial_checksums: false,
        },
        Command::SetRoute {
            prefix: Prefix::new(elsewhere().into(), 16).unwrap(),
            port: Some(port),
            gateway: None,
            mtu: 0,
            unreachable: false,
        },
        Command::SetNeighbor {
            port,
            address: elsewhere().into(),
            mac: [2, 9, 9, 9, 9, 9],
        },
    ]);
    a
}

/// A host on the untagged port.
fn elsewhere() -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, 1)
}

fn tag(frame: &[u8], vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    let mut frame = frame.to_vec();
    frame.splice(12..12, [0x81, 0x00, high, low]);
    frame
}

/// The frame without its tag, which must be this one.
fn untag(frame: &[u8], vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    assert_eq!(frame[12..16], [0x81, 0x00, high, low]);
    let mut frame = frame.to_vec();
    frame.drain(12..16);
    frame
}

fn from_host(packet: &[u8]) -> Vec<u8> {
    frame(host_mac(A), gateway_mac(A, INSIDE), packet)
}

fn sent_inside(a: &mut Gateway, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    for frame in frames {
        assert!(a.inside[0].send(frame));
    }
    a.round();
    drain(&mut a.outside[0])
}

#[test]
fn a_tunnel_joins_vlans() {
    for udp in [false, true] {
        let tunnel = Tunnel {
            udp,
            ..Tunnel::default()
        };
        let (mut a, mut b) = (tagged(), Gateway::new(B, 1));
        a.tell_all(&a.tunnel(B, &tunnel, 0));
        b.tell_all(&b.tunnel(A, &tunnel, 0));
        let plain: Vec<_> = (1..=40).map(|n| greeting(A, B, n * 31)).collect();
        let frames: Vec<_> = plain
            .iter()
            // Seven is a priority, which names no VLAN.
            .map(|packet| tag(&from_host(packet), INNER | 7 << 13))
            .collect();
        let wire = sent_inside(&mut a, &frames);
        assert_eq!(wire.len(), 40);
        let wire: Vec<_> = wire.iter().map(|frame| untag(frame, OUTER)).collect();
        assert_eq!(ethernet_source(&wire[0]), gateway_mac(A, OUTSIDE));
        let arrived = b.unprotect(&wire);
        assert_eq!(arrived.len(), 40);
        for (sent, arrived) in plain.iter().zip(&arrived) {
            let sent = ipv4::Packet::new_checked(sent).unwrap();
            assert_eq!(ip(arrived).payload(), sent.payload());
        }

        let back = b.protect(&[greeting(B, A, 5)]);
        assert!(a.outside[0].send(&tag(&back[0], OUTER)));
        a.round();
        let arrived = drain(&mut a.inside[0]);
        let arrived = untag(&arrived[0], INNER);
        assert_eq!(ip(&arrived).destination(), host(A));

        let counters = a.channel.counters();
        let count = |port, counter| counters.port_total(PortId(port), counter);
        assert_eq!(count(INSIDE, PortCounter::RxPackets), 40);
        assert_eq!(count(INSIDE, PortCounter::TxPackets), 1);
        assert_eq!(count(OUTSIDE, PortCounter::TxPackets), 40);
        assert_eq!(count(PLAIN, PortCounter::RxPackets), 0);
        a.audit();
        b.audit();
    }
}

fn ethernet_source(frame: &[u8]) -> MacAddress {
    ethernet::Frame::new_checked(frame).unwrap().source()
}

/// One interface, two ports: the tag says which, and where a packet leaves.
#[test]
fn what_has_no_tag_is_another_port() {
    let (mut a, mut b) = (tagged(), Gateway::new(B, 1));
    let tunnel = Tunnel::default();
    let wider = |mut policy: Policy, ours: bool| {
        let side = if ours {
            &mut policy.local
        } else {
            &mut policy.remote
        };
        (side.first, side.last) = (
            Ipv4Addr::new(10, 0, 0, 0).into(),
            Ipv4Addr::new(10, 255, 255, 255).into(),
        );
        Command::SetPolicy(policy)
    };
    a.tell_all(&a.tunnel(B, &tunnel, 0));
    a.tell_all(&[wider(protect(A, B), true)]);
    b.tell_all(&b.tunnel(A, &tunnel, 0));
    b.tell_all(&[wider(protect(B, A), false)]);
    let header = ipv4::Repr::new(elsewhere(), host(B), Protocol::UDP, 0);
    let untagged = from_host(&packet(header, &datagram(20)));
    let wire = sent_inside(&mut a, &[untagged]);
    assert_eq!(b.unprotect(&[untag(&wire[0], OUTER)]).len(), 1);
    let counters = a.channel.counters();
    assert_eq!(
        counters.port_total(PortId(PLAIN), PortCounter::RxPackets),
        1
    );

    for (to, vlan) in [(elsewhere(), None), (host(A), Some(INNER))] {
        let header = ipv4::Repr::new(host(B), to, Protocol::UDP, 0);
        let back = b.protect(&[packet(header, &datagram(20))]);
        assert!(a.outside[0].send(&tag(&back[0], OUTER)));
        a.round();
        let arrived = drain(&mut a.inside[0]);
        let arrived = match vlan {
            Some(vlan) => untag(&arrived[0], vlan),
            None => arrived[0].clone(),
        };
        assert_eq!(ip(&arrived).destination(), to);
    }
    a.audit();
    b.audit();
}

#[test]
fn frames_of_no_port_are_dropped() {
    let mut a = tagged();
    a.tell_all(&a.tunnel(B, &Tunnel::default(), 0));
    let packet = from_host(&greeting(A, B, 20));
    let double = tag(&tag(&packet, INNER), 7);
    for frame in [tag(&packet, 101), double, tag(&packet, OUTER)] {
        assert!(sent_inside(&mut a, &[frame]).is_empty());
    }
    assert_eq!(a.count(Counter::InNotOurs), 3);
    // ESP without its VLAN's tag.
    let mut b = Gateway::new(B, 1);
    b.tell_all(&b.tunnel(A, &Tunnel::default(), 0));
    let wire = b.protect(&[greeting(B, A, 5)]);
    assert!(a.outside[0].send(&wire[0]));
    a.round();
    assert!(drain(&mut a.inside[0]).is_empty());
    assert_eq!(a.count(Counter::InNotOurs), 4);
    // Shorter than a tag.
    for length in [12, 13, 14, 15, 17] {
        assert!(a.inside[0].send(&packet[..length]));
        assert!(a.inside[0].send(&tag(&packet, INNER)[..length + 2]));
    }
    a.round();
    assert!(drain(&mut a.outside[0]).is_empty());
    a.audit();
    b.audit();
}
