//! A peer behind a NAT that forgets its mapping (RFC 7296 2.23), followed by who is behind none.

use super::*;
use esplanade_channel::CommandError;

/// Where the NAT puts A.
const MOVED: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 77), 6789);

fn behind_nat() -> Tunnel {
    Tunnel {
        udp: true,
        follow: true,
        ..Tunnel::default()
    }
}

/// The pair, of which B knows a neighbour where A moves to.
fn pair_behind_nat(tunnel: &Tunnel) -> (Gateway, Gateway) {
    let (a, mut b) = pair(tunnel);
    b.tell_all(&[Command::SetNeighbor {
        port: PortId(OUTSIDE),
        address: MOVED.0.into(),
        mac: [2, 7, 7, 7, 7, 7],
    }]);
    (a, b)
}

/// A frame as it is behind the NAT.
fn translated(frame: &[u8], (address, port): (Ipv4Addr, u16)) -> Vec<u8> {
    let before = ip(frame);
    let mut datagram = before.payload().to_vec();
    datagram[..2].copy_from_slice(&port.to_be_bytes());
    let header = ipv4::Repr {
        source: address,
        ..ipv4::Repr::new(address, before.destination(), before.protocol(), 0)
    };
    let (to, from) = (&frame[..6], &frame[6..12]);
    let mac = |octets: &[u8]| MacAddress(octets.try_into().unwrap());
    super::frame(mac(from), mac(to), &packet(header, &datagram))
}

/// Where B sends to now.
fn sends_to(b: &mut Gateway) -> (Ipv4Addr, u16) {
    let frames = b.protect(&[greeting(B, A, 10)]);
    let outside = ip(&frames[0]);
    let datagram = udp::Datagram::new_checked(outside.payload()).unwrap();
    (outside.destination(), datagram.destination_port())
}

fn moved() -> Event {
    Event::PeerMoved {
        sa: inbound_id(B),
        remote: MOVED.0.into(),
        port: MOVED.1,
    }
}

#[test]
fn a_peer_is_followed_with_the_first_packet_from_elsewhere() {
    let (mut a, mut b) = pair_behind_nat(&behind_nat());
    let wire = a.protect(&[greeting(A, B, 10), greeting(A, B, 20)]);
    assert_eq!(b.unprotect(&wire[..1]).len(), 1);
    assert_eq!(sends_to(&mut b), (outer(A), 4500));
    assert_eq!(b.unprotect(&[translated(&wire[1], MOVED)]).len(), 1);
    assert_eq!(sends_to(&mut b), MOVED);
    assert_eq!(b.count(Counter::PeerMoved), 1);
    let first = Event::FirstPacket { sa: inbound_id(B) };
    assert_eq!(b.events(), [first, moved()], "told once");
    // The records say so too, for a control plane that comes back.
    for sa in [inbound_id(B), outbound_id(B)] {
        let record = b.channel.sa_record(sa).unwrap();
        let ports = record.encapsulation.unwrap();
        assert_eq!(
            (record.remote, ports.remote),
            (MOVED.0.into(), MOVED.1),
            "{sa:?}"
        );
    }
    // And what B sends, A takes.
    let back = b.protect(&[greeting(B, A, 30)]);
    let back: Vec<_> = back.iter().map(|frame| delivered_to_a(frame)).collect();
    assert_eq!(a.unprotect(&back).len(), 1);
    a.audit();
    b.audit();
}

/// What the NAT makes of a frame for its mapping.
fn delivered_to_a(frame: &[u8]) -> Vec<u8> {
    let before = ip(frame);
    let mut datagram = before.payload().to_vec();
    datagram[2..4].copy_from_slice(&4500_u16.to_be_bytes());
    let header = ipv4::Repr::new(before.source(), outer(A), before.protocol(), 0);
    super::frame(
        gateway_mac(B, OUTSIDE),
        gateway_mac(A, OUTSIDE),
        &packet(header, &datagram),
    )
}

/// Outer headers are not authentic, and no kernel has looked at them.
#[test]
fn no_peer_moves_to_where_nobody_can_be() {
    let (mut a, mut b) = pair_behind_nat(&behind_nat());
    let nowhere = [
        (MOVED.0, 0),
        (Ipv4Addr::UNSPECIFIED, MOVED.1),
        (Ipv4Addr::LOCALHOST, MOVED.1),
        (Ipv4Addr::BROADCAST, MOVED.1),
        (Ipv4Addr::new(224, 0, 0, 5), MOVED.1),
        (outer(B), MOVED.1),
    ];
    for (number, whence) in (0..).zip(nowhere) {
        let wire = a.protect(&[greeting(A, B, number)]);
        let _ = b.unprotect(&[translated(&wire[0], whence)]);
        assert_eq!(sends_to(&mut b), (outer(A), 4500), "{whence:?}");
    }
    assert_eq!(b.count(Counter::PeerMoved), 0);
    a.audit();
    b.audit();
}

/// RFC 7296 2.23: "dynamic address update should only be done in response to a new packet; otherwise, an attacker can revert
/// the addresses with old replayed packets."
#[test]
fn only_a_new_authentic_packet_in_udp_moves_a_peer() {
    let (mut a, mut b) = pair_behind_nat(&behind_nat());
    let wire = a.protect(&(0..4).map(|n| greeting(A, B, n)).collect::<Vec<_>>());
    // The second is late, and within the window.
    for number in [0, 2] {
        assert_eq!(b.unprotect(&wire[number..=number]).len(), 1);
    }
    assert_eq!(b.unprotect(&[translated(&wire[1], MOVED)]).len(), 1);
    assert_eq!(sends_to(&mut b), (outer(A), 4500), "an older packet");
    assert!(b.unprotect(&[translated(&wire[2], MOVED)]).is_empty());
    assert_eq!(sends_to(&mut b), (outer(A), 4500), "a replay");
    let mut forged = translated(&wire[3], MOVED);
    *forged.last_mut().unwrap() ^= 1;
    assert!(b.unprotect(&[forged]).is_empty());
    assert_eq!(b.count(Counter::InStateProtoError), 1);
    assert_eq!(sends_to(&mut b), (outer(A), 4500), "a forgery");
    // Plain ESP is taken, and says nothing of the mapping.
    let outside = ip(&wire[3]);
    let header = ipv4::Repr::new(MOVED.0, outer(B), Protocol::ESP, 0);
    let plain = packet(header, &outside.payload()[8..]);
    let plain = super::frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &plain);
    assert_eq!(b.unprotect(&[plain]).len(), 1);
    assert_eq!(sends_to(&mut b), (outer(A), 4500), "plain ESP");
    assert_eq!(b.count(Counter::PeerMoved), 0);
    b.audit();
}

/// The last one of a burst has the last word, whatever order they come in.
#[test]
fn the_newest_of_a_burst_has_the_last_word() {
    let (mut a, mut b) = pair_behind_nat(&behind_nat());
    let wire = a.protect(&(0..3).map(|n| greeting(A, B, n)).collect::<Vec<_>>());
    let burst = [
        translated(&wire[1], MOVED),
        wire[2].clone(),
        translated(&wire[0], MOVED),
    ];
    assert_eq!(b.unprotect(&burst).len(), 3);
    assert_eq!(sends_to(&mut b), (outer(A), 4500));
    assert_eq!(b.count(Counter::PeerMoved), 2);
    b.audit();
}

#[test]
fn who_is_not_to_follow_does_not() {
    let stays = [
        Tunnel {
            follow: false,
            ..behind_nat()
        },
        // RFC 7296 2.23: "dynamic updates can only be done safely if replay protection is enabled"
        Tunnel {
            window: 0,
            esn: false,
            ..behind_nat()
        },
    ];
    for tunnel in stays {
        let (mut a, mut b) = pair_behind_nat(&tunnel);
        let wire = a.protect(&[greeting(A, B, 10)]);
        assert_eq!(b.unprotect(&[translated(&wire[0], MOVED)]).len(), 1);
        assert_eq!(sends_to(&mut b), (outer(A), 4500), "{tunnel:?}");
        assert_eq!(b.count(Counter::PeerMoved), 0);
        b.audit();
    }
}

/// IKE may hear of it first, and has the say over SAs that other workers own.
#[test]
fn the_control_plane_moves_a_peer() {
    let (mut a, mut b) = pair_behind_nat(&behind_nat());
    let command = |sa| Command::MovePeer {
        sa,
        remote: MOVED.0.into(),
        port: MOVED.1,
    };
    b.tell_all(&[command(inbound_id(B)), command(outbound_id(B))]);
    assert_eq!(sends_to(&mut b), MOVED);
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert_eq!(b.unprotect(&[translated(&wire[0], MOVED)]).len(), 1);
    assert_eq!(b.events(), [Event::FirstPacket { sa: inbound_id(B) }]);
    assert_eq!(b.count(Counter::PeerMoved), 0, "known");
    // A router's error about what went to the new address is found to be about this SA.
    let spi = inbound_id(A).value();
    let tables = &b.workers[0].core.tables;
    let found = |peer: Ipv4Addr| tables.peer_spis.find(peer.into(), spi).count();
    assert_eq!((found(MOVED.0), found(outer(A))), (1, 0));

    let refusals = [
        (inbound_id(A), MOVED.0.into(), CommandError::UnknownSa),
        (
            outbound_id(B),
            outer_of(Family::V6, A),
            CommandError::AddressFamily,
        ),
    ];
    for (sa, remote, reason) in refusals {
        b.tell_all(&[Command::MovePeer {
            sa,
            remote,
            port: 1,
        }]);
        let sequence = b.channel.sender(WorkerId(0)).unwrap().pushed();
        assert_eq!(b.events(), [Event::CommandFailed { sequence, reason }]);
    }
    assert_eq!(sends_to(&mut b), MOVED);
    b.audit();
}

/// What an SA of another worker's does is for the control plane to say.
#[test]
fn an_sa_of_another_worker_waits_for_the_control_plane() {
    let mut b = Gateway::new(B, 2);
    let mut a = Gateway::new(A, 1);
    let tunnel = behind_nat();
    a.tell_all(&a.tunnel(B, &tunnel, 0));
    let commands = b.tunnel(A, &tunnel, 0).into_iter().map(|mut command| {
        if let Command::InstallOutbound(sa) = &mut command {
            sa.owner = WorkerId(1);
        }
        command
    });
    b.tell_all(&commands.collect::<Vec<_>>());
    let wire = a.protect(&[greeting(A, B, 10)]);
    assert_eq!(b.unprotect(&[translated(&wire[0], MOVED)]).len(), 1);
    let first = Event::FirstPacket { sa: inbound_id(B) };
    assert_eq!(b.events(), [first, moved()]);
    b.tell_all(&[Command::MovePeer {
        sa: outbound_id(B),
        remote: MOVED.0.into(),
        port: MOVED.1,
    }]);
    assert_eq!(b.events(), []);
    let record = b.channel.sa_record(outbound_id(B)).unwrap();
    assert_eq!(record.remote, IpAddr::from(MOVED.0));
    b.audit();
}

/// A NAT that moves a peer with each packet is followed, and told of no faster than events may be.
#[test]
fn a_restless_nat_does_not_fill_the_event_ring() {
    let (mut a, mut b) = pair_behind_nat(&behind_nat());
    let mut last = 0;
    for turn in 0..1000_u16 {
        let wire = a.protect(&[greeting(A, B, 10)]);
        last = 20_000 + turn;
        b.unprotect(&[translated(&wire[0], (MOVED.0, last))]);
    }
    assert_eq!(sends_to(&mut b), (MOVED.0, last));
    let told = |event: &&Event| matches!(event, Event::PeerMoved { .. });
    let events = b.events();
    let count = events.iter().filter(told).count();
    assert!((100..=300).contains(&count), "{count} in a second");
    // What could not be told then is told with a later packet.
    b.now += Duration::from_secs(1);
    let wire = a.protect(&[greeting(A, B, 10)]);
    b.unprotect(&[translated(&wire[0], (MOVED.0, last))]);
    let told = Event::PeerMoved {
        sa: inbound_id(B),
        remote: MOVED.0.into(),
        port: last,
    };
    assert!(events.last() == Some(&told) || b.events() == [told]);
    b.audit();
}
