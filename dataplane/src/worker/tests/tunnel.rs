//! A tunnel's packets from host to host, and what they look like on the wire.

use super::*;
use esplanade_channel::{SaState, Sequence};
use esplanade_wire::{Dscp, Ecn, esp};

#[test]
fn packets_arrive_as_they_were_sent_but_for_the_ttl() {
    for tunnel in algorithms::every_kind() {
        let (mut a, mut b) = pair(&tunnel);
        let sent: Vec<_> = (1..=40).map(|n| greeting(A, B, n * 31)).collect();
        let wire = a.protect(&sent);
        assert_eq!(wire.len(), 40, "{tunnel:?}");
        let shown = wire.iter().any(|frame| shows_marker(frame));
        assert_eq!(shown, !algorithms::encrypts(tunnel.algorithm));
        let arrived = b.unprotect(&wire);
        assert_eq!(arrived.len(), 40);
        for (sent, arrived) in sent.iter().zip(&arrived) {
            let header = ethernet::Frame::new_checked(arrived).unwrap();
            assert_eq!(header.destination(), host_mac(B));
            assert_eq!(header.source(), gateway_mac(B, INSIDE));
            let (sent, arrived) = (ipv4::Packet::new_checked(sent).unwrap(), ip(arrived));
            assert_eq!(arrived.payload(), sent.payload());
            assert_eq!(arrived.ttl(), 62);
            assert_eq!(arrived.total_len(), sent.total_len());
        }
        // And the other way.
        let wire = b.protect(&[greeting(B, A, 5)]);
        assert_eq!(a.unprotect(&wire).len(), 1);
        assert_eq!(a.count(Counter::OutPackets), 40);
        assert_eq!(b.count(Counter::InPackets), 40);
        assert_eq!(b.count(Counter::OutPackets), 1);
        assert_eq!(a.events(), [Event::FirstPacket { sa: inbound_id(A) }]);
        assert_eq!(b.events(), [Event::FirstPacket { sa: inbound_id(B) }]);
        a.audit();
        b.audit();
    }
}

#[test]
fn outer_headers_are_right() {
    let (mut a, _) = pair(&Tunnel::default());
    let frames = a.protect(&[greeting(A, B, 100), greeting(A, B, 100)]);
    let header = ethernet::Frame::new_checked(&frames[0]).unwrap();
    assert_eq!(header.destination(), gateway_mac(B, OUTSIDE));
    assert_eq!(header.source(), gateway_mac(A, OUTSIDE));
    for (number, frame) in (1u32..).zip(&frames) {
        let outside = ip(frame);
        assert_eq!(
            (outside.source(), outside.destination()),
            (outer(A), outer(B))
        );
        assert_eq!((outside.protocol(), outside.ttl()), (Protocol::ESP, 64));
        assert!(outside.dont_fragment(), "copied");
        // 128 inner bytes, 2 of padding, 2 of trailer, 16 each around.
        assert_eq!(outside.total_len(), 20 + 16 + 128 + 4 + 16);
        let esp = esp::Packet::new_checked(outside.payload()).unwrap();
        assert_eq!(esp.spi().0, inbound_id(B).value());
        assert_eq!(esp.sequence(), number);
        let (iv, _) = esp.split_iv().unwrap();
        assert_eq!(*iv, u64::from(number).to_be_bytes());
    }
    assert_ne!(
        ip(&frames[0]).identification(),
        ip(&frames[1]).identification()
    );
}

#[test]
fn udp_encapsulation_has_ports_and_no_checksum() {
    let (mut a, _) = pair(&Tunnel {
        udp: true,
        ..Tunnel::default()
    });
    let frames = a.protect(&[greeting(A, B, 100)]);
    let outside = ip(&frames[0]);
    assert_eq!(outside.protocol(), Protocol::UDP);
    let datagram = udp::Datagram::new_checked(outside.payload()).unwrap();
    assert_eq!(
        (datagram.source_port(), datagram.destination_port()),
        (4500, 4500)
    );
    // RFC 3948 2.1: "the IPv4 UDP Checksum SHOULD be transmitted as a zero value"
    assert_eq!(datagram.checksum(), 0);
    assert_eq!(datagram.payload().len() + 8, outside.payload().len());
}

#[test]
fn dscp_ecn_and_df_follow_the_rules() {
    let inner = ipv4::Repr {
        dscp: Dscp::new(46).unwrap(),
        ecn: Ecn::Ect0,
        dont_fragment: false,
        ..header(A, B)
    };
    let cases = [
        (DfPolicy::Copy, Some(0), false, 0),
        (DfPolicy::Set, None, true, 46),
        (DfPolicy::Clear, None, false, 46),
        (DfPolicy::Copy, Some(10), false, 10),
    ];
    for (df, dscp, expected_df, expected_dscp) in cases {
        let (mut a, mut b) = pair(&Tunnel {
            df,
            dscp,
            ..Tunnel::default()
        });
        let frames = a.protect(&[packet(inner, &datagram(10))]);
        let outside = ip(&frames[0]);
        assert_eq!(outside.dont_fragment(), expected_df);
        assert_eq!(outside.dscp().value(), expected_dscp);
        assert_eq!(outside.ecn(), Ecn::Ect0);
        let arrived = b.unprotect(&frames);
        assert_eq!(ip(&arrived[0]).dscp().value(), 46);
        assert_eq!(ip(&arrived[0]).ecn(), Ecn::Ect0);
    }
}

#[test]
fn congestion_on_the_way_is_told_or_drops_the_packet() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let knows_ecn = ipv4::Repr {
        ecn: Ecn::Ect1,
        ..header(A, B)
    };
    let mut frames = a.protect(&[packet(knows_ecn, &datagram(10)), greeting(A, B, 10)]);
    for frame in &mut frames {
        ipv4::set_ecn(&mut frame[14..], Ecn::Ce).unwrap();
    }
    let arrived = b.unprotect(&frames);
    assert_eq!(arrived.len(), 1);
    assert_eq!(ip(&arrived[0]).ecn(), Ecn::Ce);
    assert_eq!(b.count(Counter::InEcnError), 1);
    b.audit();
}

#[test]
fn extended_numbers_cross_two_to_the_32() {
    for udp in [false, true] {
        let (mut a, mut b) = pair(&Tunnel {
            udp,
            ..Tunnel::default()
        });
        skip(&mut a, &mut b, (1 << 32) - 20);
        let mut wire = a.protect(&vec![greeting(A, B, 10); 60]);
        // Some late, across the boundary.
        wire.rotate_left(7);
        wire.reverse();
        assert_eq!(b.unprotect(&wire).len(), 60);
        assert_eq!(b.unprotect(&wire).len(), 0);
        assert_eq!(b.count(Counter::InStateSeqError), 60);
        a.audit();
        b.audit();
    }
}

/// Puts the tunnel from A to B shortly before a number.
pub fn skip(a: &mut Gateway, b: &mut Gateway, number: u64) {
    let tables = &mut a.workers[0].core.tables;
    let id = esplanade_ipsec::id::SaId::new(outbound_id(A).value()).unwrap();
    tables
        .outbound
        .get_mut(id)
        .unwrap()
        .sequence
        .skip_to(number);
    let tables = &mut b.workers[0].core.tables;
    let id = esplanade_ipsec::id::SaId::new(inbound_id(B).value()).unwrap();
    tables
        .inbound
        .get_mut(id)
        .unwrap()
        .window
        .skip_to(number - 1);
}

#[test]
fn numbers_of_32_bits_end_and_are_never_repeated() {
    let (mut a, mut b) = pair(&Tunnel {
        esn: false,
        ..Tunnel::default()
    });
    skip(&mut a, &mut b, u64::from(u32::MAX) - 4);
    let wire = a.protect(&vec![greeting(A, B, 10); 10]);
    assert_eq!(wire.len(), 5);
    assert_eq!(b.unprotect(&wire).len(), 5);
    assert_eq!(a.count(Counter::OutStateSeqError), 1);
    assert_eq!(a.count(Counter::OutStateExpired), 4);
    let sa = outbound_id(A);
    let expected = [Event::SequenceNearEnd { sa }, Event::HardLifetime { sa }];
    assert_eq!(a.events(), expected);
    assert!(a.protect(&[greeting(A, B, 10)]).is_empty());
    a.audit();
}

#[test]
fn lifetimes_are_announced_and_kept() {
    let (mut a, mut b) = pair(&Tunnel {
        lifetime: Lifetime {
            soft_packets: 3,
            hard_packets: 6,
            ..Lifetime::default()
        },
        ..Tunnel::default()
    });
    let wire = a.protect(&vec![greeting(A, B, 10); 4]);
    assert_eq!(a.events(), [Event::SoftLifetime { sa: outbound_id(A) }]);
    assert_eq!(b.unprotect(&wire).len(), 4);
    let sa = inbound_id(B);
    assert_eq!(
        b.events(),
        [Event::FirstPacket { sa }, Event::SoftLifetime { sa }]
    );
    assert_eq!(a.protect(&vec![greeting(A, B, 10); 4]).len(), 2);
    assert_eq!(a.events(), [Event::HardLifetime { sa: outbound_id(A) }]);
    assert_eq!(a.count(Counter::OutStateExpired), 2);
    a.audit();
}

#[test]
fn a_rekey_loses_nothing() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let old = a.protect(&vec![greeting(A, B, 10); 5]);
    // B, who answers, has the new inbound SA before A sends on it.
    b.tell_all(&b.tunnel(A, &Tunnel::default(), 1));
    a.tell_all(&a.tunnel(B, &Tunnel::default(), 1));
    let new = a.protect(&vec![greeting(A, B, 10); 5]);
    assert_ne!(old[0][34..38], new[0][34..38], "another SPI");
    let mixed: Vec<_> = new.iter().chain(&old).cloned().collect();
    assert_eq!(b.unprotect(&mixed).len(), 10);
    b.tell_all(&[Command::RemoveSa { sa: inbound_id(B) }]);
    assert!(b.unprotect(&old).is_empty());
    assert_eq!(b.count(Counter::InNoStates), 5);
    b.audit();
}

#[test]
fn records_tell_what_happened() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&vec![greeting(A, B, 10); 5]);
    b.unprotect(&wire);
    b.unprotect(&wire[..2]);
    a.now += Duration::from_secs(1);
    b.now += Duration::from_secs(1);
    a.round();
    b.round();
    let out = a.channel.sa_record(outbound_id(A)).unwrap();
    assert!(out.selected);
    assert_eq!(out.spi, inbound_id(B).value());
    assert_eq!(out.label.as_str(), "site/lan");
    assert_eq!((out.statistics.packets, out.statistics.sequence), (5, 6));
    assert_eq!(out.statistics.bytes, 5 * 38);
    let inward = b.channel.sa_record(inbound_id(B)).unwrap();
    assert_eq!(inward.state, SaState::Mature);
    assert_eq!((inward.window, inward.esn), (1024, true));
    assert_eq!(
        (inward.statistics.packets, inward.statistics.sequence),
        (5, 5)
    );
    assert_eq!(inward.statistics.replays, 2);
    assert!(inward.statistics.last_used_ms > 0);
    b.tell_all(&[Command::RemoveSa { sa: inbound_id(B) }]);
    assert_eq!(b.channel.sa_record(inbound_id(B)), None);
}

#[test]
fn a_wrong_guess_of_the_port_costs_a_copy_once() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let id = esplanade_ipsec::id::SaId::new(inbound_id(B).value()).unwrap();
    let tables = &mut b.workers[0].core.tables;
    tables.inbound.get_mut(id).unwrap().exit_port = OUTSIDE;
    let sent = greeting(A, B, 333);
    let wire = a.protect(std::slice::from_ref(&sent));
    let arrived = b.unprotect(&wire);
    assert_eq!(ip(&arrived[0]).payload(), &sent[20..]);
    let tables = &b.workers[0].core.tables;
    assert_eq!(tables.inbound.get(id).unwrap().exit_port, INSIDE);
    b.audit();
}

#[test]
fn commands_are_acknowledged_in_order() {
    let (a, _) = pair(&Tunnel::default());
    let mut channel = a.channel;
    let sender = channel.sender(WorkerId(0)).unwrap();
    assert_eq!(sender.applied(), sender.pushed());
    assert!(sender.applied() > Sequence(0));
}
