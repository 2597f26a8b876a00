//! Packets that reach a worker which does not own their SA.

use super::*;

/// Two gateways of two workers each; the second worker owns the SAs and the first gets the packets.
fn lending_pair() -> (Gateway, Gateway) {
    let tunnel = Tunnel {
        owner: 1,
        ..Tunnel::default()
    };
    let (mut a, mut b) = (Gateway::new(A, 2), Gateway::new(B, 2));
    a.tell_all(&a.tunnel(B, &tunnel, 0));
    b.tell_all(&b.tunnel(A, &tunnel, 0));
    (a, b)
}

#[test]
fn the_owner_gets_them_in_order_and_gives_the_frames_back() {
    let (mut a, mut b) = lending_pair();
    for round in 0..20 {
        let sent: Vec<_> = (0..50).map(|n| greeting(A, B, 20 + n)).collect();
        assert!(a.protect(&sent).is_empty(), "the first worker has no key");
        let wire = drain(&mut a.outside[1]);
        assert_eq!(wire.len(), 50, "round {round}");
        // They reach the owner or the other, as the NIC likes.
        assert!(b.unprotect(&wire).is_empty());
        let arrived = drain(&mut b.inside[1]);
        let lengths: Vec<_> = arrived.iter().map(|frame| ip(frame).total_len()).collect();
        assert_eq!(lengths, (48..98).collect::<Vec<_>>());
    }
    assert_eq!(a.count(Counter::HandoffSent), 1000);
    assert_eq!(a.count(Counter::HandoffReceived), 1000);
    assert_eq!(b.count(Counter::InPackets), 1000);
    a.audit();
    b.audit();
}

#[test]
fn only_the_owner_has_the_key_and_writes_the_record() {
    let (a, _) = lending_pair();
    let id = esplanade_ipsec::id::SaId::new(outbound_id(A).value()).unwrap();
    assert!(a.workers[0].core.tables.outbound.get(id).is_none());
    assert!(a.workers[1].core.tables.outbound.get(id).is_some());
    let record = a.channel.sa_record(outbound_id(A)).unwrap();
    assert_eq!(record.owner, WorkerId(1));
    assert!(record.selected);
}

#[test]
fn what_the_owner_cannot_take_is_dropped_and_counted() {
    let (mut a, _) = lending_pair();
    let packet = frame(host_mac(A), gateway_mac(A, INSIDE), &greeting(A, B, 10));
    // The owner stands still.
    let mut sent = 0;
    for _ in 0..60 {
        for _ in 0..64 {
            sent += u64::from(a.inside[0].send(&packet));
        }
        a.now += Duration::from_millis(1);
        a.workers[0].round(a.now);
        a.inside[0].flush();
    }
    // As many are out as the port has frames; the rest wait on the wire.
    assert!(sent >= u64::from(FRAMES));
    assert_eq!(a.count(Counter::HandoffSent), u64::from(FRAMES));
    for _ in 0..20 {
        a.round();
        for far in &mut a.outside {
            drain(far);
        }
    }
    assert_eq!(a.count(Counter::OutPackets), sent);
    a.audit();
}

#[test]
fn a_stranger_as_owner_is_a_drop() {
    let mut a = Gateway::new(A, 2);
    let tunnel = Tunnel {
        owner: 7,
        ..Tunnel::default()
    };
    a.tell_all(&a.tunnel(B, &tunnel, 0));
    assert!(a.protect(&[greeting(A, B, 10)]).is_empty());
    assert_eq!(a.count(Counter::HandoffFull), 1);
    a.audit();
}
