//! Several SAs of one tunnel: each worker its own (RFC 9611), and classes of DSCPs apart (RFC 4301 4.1).

use super::*;
use esplanade_wire::{Dscp, esp};

/// The commands of the SAs of a tunnel from `site`, one more than `shares`: the first is for everything, and each other for its
/// share. The one at `turn` is `owners[turn]`'s.
fn group(gateway: &Gateway, peer: u8, shares: &[Share], owners: &[u16]) -> Vec<Command> {
    let all = std::iter::once(&Share::ALL).chain(shares);
    let mut commands = Vec::new();
    for (turn, (share, owner)) in (0..).zip(all.zip(owners)) {
        let tunnel = Tunnel {
            owner: *owner,
            window: 64,
            ..Tunnel::default()
        };
        for mut command in gateway.tunnel(peer, &tunnel, turn) {
            if let Command::SelectOutbound { share: of, .. } = &mut command {
                *of = *share;
            }
            commands.push(command);
        }
    }
    commands
}

fn of_worker(worker: u16) -> Share {
    Share {
        worker: Some(WorkerId(worker)),
        ..Share::ALL
    }
}

fn of_dscps(dscps: u64) -> Share {
    Share {
        dscps,
        ..Share::ALL
    }
}

fn marked(dscp: u8, length: usize) -> Vec<u8> {
    let header = ipv4::Repr {
        dscp: Dscp::new(dscp).unwrap(),
        ..header(A, B)
    };
    packet(header, &datagram(length))
}

/// Which of the group's SAs each frame left by, and its number.
fn left_by(frames: &[Vec<u8>]) -> Vec<(u32, u32)> {
    let turn = |spi: u32| (SaId::new(spi).unwrap().slot() - inbound_id(B).slot()) / 20;
    let of = |frame: &Vec<u8>| {
        let outside = ip(frame);
        let esp = esp::Packet::new_checked(outside.payload()).unwrap();
        (turn(esp.spi().0), esp.sequence())
    };
    frames.iter().map(of).collect()
}

/// What leaves by each worker, after a packet came to each.
fn one_to_each(a: &mut Gateway) -> Vec<Vec<(u32, u32)>> {
    let frame = frame(host_mac(A), gateway_mac(A, INSIDE), &greeting(A, B, 10));
    for inside in &mut a.inside {
        assert!(inside.send(&frame));
    }
    a.round();
    a.round();
    let left = a.outside.iter_mut().map(drain);
    left.map(|frames| left_by(&frames)).collect()
}

/// RFC 9611 1: "each resource uses its own Child SA"; who has none uses the fallback.
#[test]
fn each_worker_sends_by_its_own_sa_and_the_rest_by_the_first() {
    let mut a = Gateway::new(A, 3);
    let commands = group(&a, B, &[of_worker(0), of_worker(1)], &[1, 0, 1]);
    a.tell_all(&commands);
    assert_eq!(a.events(), []);
    assert_eq!(
        one_to_each(&mut a),
        [vec![(1, 1)], vec![(2, 1), (0, 1)], vec![]]
    );
    assert_eq!(a.count(Counter::HandoffSent), 1, "of the third worker");
    let selected: Vec<bool> = a.channel.sa_records().map(|sa| sa.selected).collect();
    assert_eq!(selected.iter().filter(|selected| **selected).count(), 3);

    // What one worker loses, the first SA carries.
    let own = SaId::from_parts(outbound_id(A).slot() + 20, outbound_id(A).tag()).unwrap();
    a.tell_all(&[Command::RemoveSa { sa: own }]);
    let left = one_to_each(&mut a);
    assert_eq!(left[1].len(), 3);
    assert_eq!(left[1][0], (2, 2), "its own, first");
    assert_eq!(a.events(), []);
    a.audit();
}

/// A rekeyed SA takes its predecessor's share, and no other.
#[test]
fn a_share_has_one_sa_at_a_time() {
    let mut a = Gateway::new(A, 2);
    let shares = [of_worker(0), of_worker(0)];
    a.tell_all(&group(&a, B, &shares, &[1, 0, 0]));
    assert_eq!(one_to_each(&mut a), [vec![(2, 1)], vec![(0, 1)]]);
    let records: Vec<_> = a.channel.sa_records().collect();
    let selected: Vec<u32> = records
        .iter()
        .filter(|record| record.selected)
        .map(|record| record.sa.slot() / 20)
        .collect();
    assert_eq!(selected, [0, 2]);
    a.audit();
}

#[test]
fn classes_leave_by_their_own_sas() {
    let mut a = Gateway::new(A, 1);
    let mut b = Gateway::new(B, 1);
    // Expedited forwarding, and the first class of assured forwarding.
    let shares = [of_dscps(1 << 46), of_dscps(1 << 10 | 1 << 12 | 1 << 14)];
    a.tell_all(&group(&a, B, &shares, &[0; 3]));
    b.tell_all(&group(&b, A, &shares, &[0; 3]));
    let packets: Vec<_> = [0, 46, 10, 12, 14, 8, 46]
        .map(|dscp| marked(dscp, 30))
        .into();
    let wire = a.protect(&packets);
    let expected = [(0, 1), (1, 1), (2, 1), (2, 2), (2, 3), (0, 2), (1, 2)];
    assert_eq!(left_by(&wire), expected);
    assert_eq!(b.unprotect(&wire).len(), 7);

    // RFC 4301 4.1: "If different classes of traffic (...) are sent on the same SA, and if the receiver is employing the
    // optional anti-replay feature (...), this could result in inappropriate discarding of lower priority packets".
    let slow = a.protect(&[marked(0, 30)]);
    for _ in 0..4 {
        let fast = a.protect(&vec![marked(46, 30); 32]);
        assert_eq!(b.unprotect(&fast).len(), 32);
    }
    assert_eq!(b.unprotect(&slow).len(), 1);
    assert_eq!(b.count(Counter::InStateSeqErrorLate), 0);
    a.audit();
    b.audit();
}

/// A class goes before a core: its order is what the class is for.
#[test]
fn a_class_goes_before_a_worker() {
    let own_class = Share {
        dscps: 1 << 46,
        ..of_worker(0)
    };
    for (shares, left) in [
        ([of_worker(0), of_dscps(1 << 46)], [(1, 1), (2, 1)]),
        ([of_dscps(1 << 46), of_worker(0)], [(2, 1), (1, 1)]),
        ([own_class, of_dscps(1 << 46)], [(0, 1), (1, 1)]),
    ] {
        let mut a = Gateway::new(A, 2);
        a.tell_all(&group(&a, B, &shares, &[0; 3]));
        assert_eq!(a.events(), []);
        let wire = a.protect(&[marked(0, 10), marked(46, 10)]);
        assert_eq!(left_by(&wire), left, "{shares:?}");
        a.audit();
    }
}
