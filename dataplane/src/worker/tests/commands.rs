//! What the control plane asks for, and what it is asked for: policies, routes, neighbours, SAs that are missing.

use super::*;
use esplanade_channel::CommandError;

#[test]
fn without_an_sa_nothing_leaves_but_one_is_asked_for() {
    let mut a = Gateway::new(A, 1);
    a.tell_all(&[Command::SetPolicy(protect(A, B))]);
    assert!(a.protect(&vec![greeting(A, B, 10); 20]).is_empty());
    assert_eq!(a.count(Counter::OutNoStates), 20);
    let acquire = Event::Acquire {
        policy: POLICY,
        source: host(A).into(),
        destination: host(B).into(),
        protocol: 17,
        ports: (1000, 2000),
    };
    assert_eq!(a.events(), [acquire]);
    a.now += Duration::from_secs(2);
    a.protect(&vec![greeting(A, B, 10); 20]);
    assert_eq!(a.events(), [acquire]);
    a.audit();
}

#[test]
fn an_sa_that_is_gone_is_asked_for_again() {
    let (mut a, _) = pair(&Tunnel::default());
    assert_eq!(a.protect(&[greeting(A, B, 10)]).len(), 1);
    a.tell_all(&[Command::RemoveSa { sa: outbound_id(A) }]);
    assert!(a.protect(&[greeting(A, B, 10)]).is_empty());
    assert!(matches!(a.events()[..], [Event::Acquire { .. }]));
}

#[test]
fn policies_are_obeyed_in_their_order() {
    let (mut a, _) = pair(&Tunnel::default());
    let narrow = |id, priority, action, ports| {
        let mut policy = protect(A, B);
        policy.remote.ports = ports;
        Command::SetPolicy(Policy {
            id: PolicyId(id),
            priority,
            action,
            protocol: Some(17),
            ..policy
        })
    };
    a.tell_all(&[
        narrow(100 << 8, 1, PolicyAction::Discard, (2000, 2000)),
        narrow(101 << 8, 2, PolicyAction::Bypass, (0, u16::MAX)),
    ]);
    assert!(a.protect(&[greeting(A, B, 10)]).is_empty());
    assert_eq!(a.count(Counter::OutPolBlock), 1);
    a.tell_all(&[Command::RemovePolicy {
        id: PolicyId(100 << 8),
    }]);
    // Bypassed, but there is no plain route to the peer's prefix.
    assert!(a.protect(&[greeting(A, B, 10)]).is_empty());
    assert_eq!(a.count(Counter::NoRoute), 1);
    a.tell_all(&[Command::SetRoute {
        prefix: Prefix::new(host(B).into(), 16).unwrap(),
        port: Some(PortId(OUTSIDE)),
        gateway: Some(outer(B).into()),
        mtu: 0,
        unreachable: false,
    }]);
    let plain = a.protect(&[greeting(A, B, 40)]);
    assert!(shows_marker(&plain[0]), "a bypass policy says so");
    assert_eq!(ip(&plain[0]).ttl(), 63);
    assert_eq!(a.count(Counter::OutBypassPackets), 1);
    a.tell_all(&[Command::RemovePolicy {
        id: PolicyId(101 << 8),
    }]);
    assert!(!shows_marker(&a.protect(&[greeting(A, B, 40)])[0]));
    a.tell_all(&[Command::BeginSync, Command::EndSync]);
    assert!(a.protect(&[greeting(A, B, 10)]).is_empty());
    assert_eq!(a.count(Counter::OutNoPols), 1);
    a.audit();
}

#[test]
fn a_missing_neighbour_is_asked_for() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let neighbor = |address: Ipv4Addr| (PortId(OUTSIDE), address.into());
    let (port, address) = neighbor(outer(B));
    a.tell_all(&[Command::RemoveNeighbor { port, address }]);
    assert!(a.protect(&vec![greeting(A, B, 10); 3]).is_empty());
    assert_eq!(a.events(), [Event::NeighborMissing { port, address }]);
    let mac = [2, 9, 9, 9, 9, 9];
    a.tell_all(&[Command::SetNeighbor { port, address, mac }]);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert_eq!(wire.len(), 3 + 1);
    assert_eq!(wire[3][..6], mac, "the SA's remembered next hop is stale");

    let port = PortId(INSIDE);
    let address = host(B).into();
    b.tell_all(&[Command::RemoveNeighbor { port, address }]);
    assert!(b.unprotect(&wire).is_empty());
    let missing = Event::NeighborMissing { port, address };
    assert_eq!(
        b.events(),
        [Event::FirstPacket { sa: inbound_id(B) }, missing]
    );
    b.now += Duration::from_secs(5);
    a.audit();
    b.audit();
}

#[test]
fn routes_that_refuse_lead_elsewhere_or_outside_again() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let route = |port, unreachable| Command::SetRoute {
        prefix: Prefix::new(host(B).into(), 24).unwrap(),
        port,
        gateway: None,
        mtu: 0,
        unreachable,
    };
    let cases = [
        (route(None, true), Counter::RouteUnreachable),
        (route(None, false), Counter::RouteElsewhere),
        (route(Some(PortId(OUTSIDE)), false), Counter::InHairpin),
    ];
    let address = host(B).into();
    let (port, mac) = (PortId(OUTSIDE), [2; 6]);
    b.tell_all(&[Command::SetNeighbor { port, address, mac }]);
    for (command, counter) in cases {
        b.tell_all(&[command]);
        let wire = a.protect(&[greeting(A, B, 10)]);
        assert!(b.unprotect(&wire).is_empty());
        assert_eq!(b.count(counter), 1, "{counter}");
        assert!(drain(&mut b.outside[0]).is_empty(), "no plaintext outside");
    }
    b.audit();
}

#[test]
fn what_cannot_be_obeyed_is_told() {
    let (mut a, _) = pair(&Tunnel::default());
    let tunnel = a.tunnel(B, &Tunnel::default(), 0);
    let Command::InstallInbound(inbound) = tunnel[1].clone() else {
        panic!();
    };
    let beyond = SaId::from_parts(64, 0x300).unwrap();
    let other = SaId::from_parts(inbound.sa.slot(), 0x301).unwrap();
    let refused = [
        (
            Command::SetLocalAddress {
                address: outer(A).into(),
            },
            CommandError::WrongRing,
        ),
        (Command::RemoveSa { sa: beyond }, CommandError::UnknownSa),
        (
            Command::InstallInbound(InboundSa {
                sa: beyond,
                ..inbound.clone()
            }),
            CommandError::NoSuchSlot,
        ),
        (
            Command::InstallInbound(InboundSa {
                sa: other,
                ..inbound.clone()
            }),
            CommandError::SlotTaken,
        ),
        (
            Command::SelectOutbound {
                policy: POLICY,
                sa: inbound.sa,
                share: Share::ALL,
            },
            CommandError::UnknownSa,
        ),
        (
            Command::RemovePolicy { id: PolicyId(5) },
            CommandError::UnknownPolicy,
        ),
        (
            Command::SetPort {
                port: PortId(9),
                mac: [0; 6],
                mtu: 1500,
                address: None,
                address_v6: None,
                mss_clamp: false,
                udp_checksum: false,
                partial_checksums: false,
            },
            CommandError::NoSuchPort,
        ),
    ];
    for (command, expected) in refused {
        a.tell_all(std::slice::from_ref(&command));
        let sequence = a.channel.sender(WorkerId(0)).unwrap().pushed();
        let reason = expected;
        let failed = Event::CommandFailed { sequence, reason };
        assert_eq!(a.events(), [failed], "{command:?}");
    }
}

#[test]
fn installing_again_changes_nothing() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&vec![greeting(A, B, 10); 3]);
    assert_eq!(b.unprotect(&wire).len(), 3);
    a.tell_all(&a.tunnel(B, &Tunnel::default(), 0));
    b.tell_all(&b.tunnel(A, &Tunnel::default(), 0));
    assert!(b.unprotect(&wire).is_empty(), "the window is as it was");
    let next = a.protect(&[greeting(A, B, 10)]);
    assert_eq!(
        next[0][38..42],
        4u32.to_be_bytes(),
        "the counter is as it was"
    );
    assert_eq!(b.unprotect(&next).len(), 1);
    assert_eq!(a.events(), []);
}

#[test]
fn a_sleeping_worker_is_woken_by_commands_and_told_to_stop() {
    let mut a = Gateway::new(A, 1);
    let mut worker = a.workers.remove(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| worker.run(&stop));
        while a.count(Counter::Sleeps) == 0 {
            std::thread::yield_now();
        }
        let sender = a.channel.sender(WorkerId(0)).unwrap();
        let sequence = sender.push(&Command::SetPolicy(protect(A, B))).unwrap();
        sender.wake();
        while sender.applied() < sequence {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        sender.wake();
    });
    assert!(a.count(Counter::TimeIdle) > 0);
    assert!(a.channel.heartbeat(WorkerId(0)) > 0);
}
