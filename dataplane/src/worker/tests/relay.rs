//! A hub between two spokes: what comes by one tunnel and leaves by the other.

use super::*;
use esplanade_wire::icmp;

const HUB: u8 = 3;
const TO_B: PolicyId = PolicyId(8 << 8);

/// From one site's prefix up to another's, the hub's own included.
fn between(first: u8, last: u8) -> Selector {
    Selector {
        last: prefix(last).last,
        ..prefix(first)
    }
}

/// The commands of a tunnel whose policy is another than that of the two sites.
fn tunnel_for(
    gateway: &Gateway,
    peer: u8,
    tunnel: &Tunnel,
    turn: u8,
    policy: &Policy,
) -> Vec<Command> {
    let mut commands = gateway.tunnel(peer, tunnel, turn);
    commands.truncate(4);
    for command in &mut commands {
        match command {
            Command::SetPolicy(set) => *set = policy.clone(),
            Command::InstallInbound(sa) => sa.policy = policy.id,
            Command::InstallOutbound(sa) => sa.policy = policy.id,
            Command::SelectOutbound { policy: of, .. } => *of = policy.id,
            _ => {}
        }
    }
    commands
}

fn knows_hub() -> Command {
    Command::SetNeighbor {
        port: PortId(OUTSIDE),
        address: outer(HUB).into(),
        mac: gateway_mac(HUB, OUTSIDE).0,
    }
}

/// A spoke, the hub of so many workers, of which the last has the tunnel to B, and the other spoke.
fn star(workers: u16) -> (Gateway, Gateway, Gateway) {
    let (mut a, mut hub, mut b) = (
        Gateway::new(A, 1),
        Gateway::new(HUB, workers),
        Gateway::new(B, 1),
    );
    let near = Tunnel::default();
    let far = Tunnel {
        owner: workers - 1,
        ..Tunnel::default()
    };
    // The hub's own prefix is behind B's.
    let from_a = Policy {
        remote: between(B, HUB),
        ..protect(A, B)
    };
    let to_a = Policy {
        local: between(B, HUB),
        ..protect(B, A)
    };
    let to_b = Policy {
        id: TO_B,
        ..protect(A, B)
    };
    a.tell_all(&[knows_hub()]);
    b.tell_all(&[knows_hub()]);
    let commands = tunnel_for(&a, HUB, &near, 0, &from_a);
    a.tell_all(&commands);
    let commands = tunnel_for(&hub, A, &near, 0, &to_a);
    hub.tell_all(&commands);
    let commands = tunnel_for(&hub, B, &far, 1, &to_b);
    hub.tell_all(&commands);
    let commands = tunnel_for(&b, HUB, &near, 1, &protect(B, A));
    b.tell_all(&commands);
    for gateway in [&mut a, &mut hub, &mut b] {
        assert_eq!(gateway.events(), []);
    }
    (a, hub, b)
}

/// What leaves the hub's outside ports for these frames.
fn through(hub: &mut Gateway, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    assert!(hub.unprotect(frames).is_empty());
    hub.round();
    hub.outside.iter_mut().flat_map(drain).collect()
}

#[test]
fn spokes_speak_through_the_hub_each_way_and_a_hop_older() {
    for workers in [1, 2] {
        let (mut a, mut hub, mut b) = star(workers);
        for round in 0..10 {
            let sent: Vec<_> = (0..50).map(|n| greeting(A, B, 20 + n)).collect();
            let relayed = through(&mut hub, &a.protect(&sent));
            assert_eq!(relayed.len(), 50, "{workers} workers, round {round}");
            assert!(!relayed.iter().any(|frame| shows_marker(frame)));
            let arrived = b.unprotect(&relayed);
            let lengths: Vec<_> = arrived.iter().map(|frame| ip(frame).total_len()).collect();
            assert_eq!(lengths, (48..98).collect::<Vec<_>>());
            assert!(arrived.iter().all(|frame| ip(frame).ttl() == 61));
            assert_eq!(ip(&arrived[0]).payload(), datagram(20));
            let relayed = through(&mut hub, &b.protect(&[greeting(B, A, 30)]));
            assert_eq!(a.unprotect(&relayed).len(), 1);
        }
        assert_eq!(hub.count(Counter::InRelayed), 510);
        assert_eq!(hub.count(Counter::OutPackets), 510);
        for gateway in [&mut a, &mut hub, &mut b] {
            gateway.audit();
        }
    }
}

#[test]
fn a_route_to_the_outside_changes_nothing_and_no_policy_ends_it() {
    let (mut a, mut hub, _) = star(1);
    hub.tell_all(&[Command::SetRoute {
        prefix: Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap(),
        port: Some(PortId(OUTSIDE)),
        gateway: Some(outer(B).into()),
        mtu: 0,
        unreachable: false,
    }]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert_eq!(through(&mut hub, &wire).len(), 1);
    hub.tell_all(&[Command::RemovePolicy { id: TO_B }]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert!(through(&mut hub, &wire).is_empty());
    assert_eq!(hub.count(Counter::InHairpin), 1);
    let discard = Policy {
        id: TO_B,
        action: PolicyAction::Discard,
        ..protect(A, B)
    };
    hub.tell_all(&[Command::SetPolicy(discard)]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert!(through(&mut hub, &wire).is_empty());
    assert_eq!(hub.count(Counter::OutPolBlock), 1);
    hub.audit();
}

#[test]
fn what_the_hub_cannot_send_on_is_told_by_the_tunnel_that_it_came_by() {
    let (mut a, mut hub, _) = star(1);
    // The path to B is narrower than that to A.
    let narrow = Tunnel {
        path_mtu: 1300,
        ..Tunnel::default()
    };
    let id = SaId::from_parts(outbound_id(HUB).slot() + 20, 0x300).unwrap();
    hub.tell_all(&[Command::RemoveSa { sa: id }]);
    let to_b = Policy {
        id: TO_B,
        ..protect(A, B)
    };
    let commands = tunnel_for(&hub, B, &narrow, 1, &to_b);
    hub.tell_all(&commands);
    let old = ipv4::Repr {
        ttl: 2,
        ..header(A, B)
    };
    for (sent, expected) in [
        (greeting(A, B, 1300), icmp::Error::TooBig { mtu: 1246 }),
        (packet(old, &datagram(10)), icmp::Error::TtlExceeded),
    ] {
        let wire = a.protect(&[sent]);
        let answers = through(&mut hub, &wire);
        assert_eq!(answers.len(), 1, "{expected:?}");
        let arrived = a.unprotect(&answers);
        assert_eq!(arrived.len(), 1, "{expected:?}");
        let told = ip(&arrived[0]);
        assert_eq!(told.source(), Ipv4Addr::new(10, HUB, 0, 254));
        assert_eq!(told.destination(), host(A));
        let message = icmp::Message::new_checked(Family::V4, told.payload()).unwrap();
        assert_eq!(message.error().unwrap().unwrap().0, expected);
    }
    assert_eq!(hub.count(Counter::IcmpSent), 2);
    // B covers nothing of the hub's own: there is no tunnel by which it could be told.
    let (_, mut hub, mut b) = star(1);
    let old = ipv4::Repr {
        ttl: 2,
        ..header(B, A)
    };
    let wire = b.protect(&[packet(old, &datagram(10))]);
    assert!(through(&mut hub, &wire).is_empty());
    assert_eq!(hub.count(Counter::IcmpSuppressed), 1);
    hub.audit();
    a.audit();
}

#[test]
fn a_relayed_packet_waits_for_its_next_hop_like_any_other() {
    let (mut a, mut hub, mut b) = star(1);
    hub.tell_all(&[Command::RemoveNeighbor {
        port: PortId(OUTSIDE),
        address: outer(B).into(),
    }]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert!(through(&mut hub, &wire).is_empty());
    assert_eq!(hub.count(Counter::NeighborHeld), 1);
    hub.tell_all(&[Command::SetNeighbor {
        port: PortId(OUTSIDE),
        address: outer(B).into(),
        mac: gateway_mac(B, OUTSIDE).0,
    }]);
    let relayed = drain(&mut hub.outside[0]);
    assert_eq!(b.unprotect(&relayed).len(), 1);
    // One that waits too long ends, and its frame comes back.
    hub.tell_all(&[Command::RemoveNeighbor {
        port: PortId(OUTSIDE),
        address: outer(B).into(),
    }]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    through(&mut hub, &wire);
    hub.now += Duration::from_secs(4);
    hub.round();
    assert_eq!(hub.count(Counter::NeighborUnresolved), 1);
    hub.audit();
}

#[test]
fn a_tunnel_that_is_not_up_is_asked_for_by_what_would_be_relayed() {
    let (mut a, mut hub, _) = star(1);
    let id = SaId::from_parts(outbound_id(HUB).slot() + 20, 0x300).unwrap();
    hub.tell_all(&[Command::RemoveSa { sa: id }]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert!(through(&mut hub, &wire).is_empty());
    assert_eq!(hub.count(Counter::OutNoStates), 1);
    let wanted = hub.events();
    let is_acquire =
        |event: &Event| matches!(event, Event::Acquire { policy, .. } if *policy == TO_B);
    assert!(wanted.iter().any(is_acquire), "{wanted:?}");
    hub.audit();
}
