//! ESP and AH that reach us in fragments.

use super::{
    families::{any_ip, over},
    *,
};
use crate::worker::reassembly::{FROM_A_SOURCE, MAX_PACKETS, PATIENCE_MS};
use esplanade_crypto::Hmac;
use esplanade_wire::{Ecn, ip as wire_ip, ipv6};

/// A tunnel whose IPv4 packets routers may cut.
fn cuttable(tunnel: Tunnel) -> Tunnel {
    Tunnel {
        df: DfPolicy::Clear,
        ..tunnel
    }
}

/// A frame's packet in fragments of at most `mtu` bytes.
fn cut(sealed: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let whole = any_ip(sealed);
    let bytes = whole.as_bytes();
    let to_b = |header: &[u8], payload: &[u8]| {
        let packet = [header, payload].concat();
        frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &packet)
    };
    match whole {
        wire_ip::Packet::V4(packet) => ipv4::fragments(packet, mtu)
            .unwrap()
            .map(|piece| to_b(piece.header(), &bytes[piece.payload()]))
            .collect(),
        wire_ip::Packet::V6(packet) => ipv6::fragments(packet, mtu, 77)
            .unwrap()
            .map(|piece| to_b(piece.header(), &bytes[piece.payload()]))
            .collect(),
    }
}

fn kinds() -> Vec<(&'static str, Tunnel)> {
    let udp = |outer| Tunnel {
        udp: true,
        ..over(outer)
    };
    let ah = Tunnel {
        ah: Some(Integrity::Hmac(Hmac::Sha2_256)),
        ..Tunnel::default()
    };
    vec![
        ("esp", Tunnel::default()),
        ("udp", udp(Family::V4)),
        ("esp over IPv6", over(Family::V6)),
        ("udp over IPv6", udp(Family::V6)),
        ("ah", ah),
    ]
}

#[test]
fn fragments_in_any_order_make_one_packet() {
    for (what, tunnel) in kinds() {
        let (mut a, mut b) = pair(&cuttable(tunnel));
        for (number, order) in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]]
            .iter()
            .enumerate()
        {
            let sent = greeting(A, B, 1300);
            let pieces = cut(&a.protect(std::slice::from_ref(&sent))[0], 600);
            assert_eq!(pieces.len(), 3, "{what}");
            let mut arrived = Vec::new();
            for at in order {
                // The one before comes twice.
                arrived.extend(b.unprotect(&[pieces[*at].clone(), pieces[*at].clone()]));
                if arrived.is_empty() && *at == order[2] {
                    panic!("{what}: {order:?}");
                }
            }
            assert_eq!(arrived.len(), 1, "{what}: {order:?}");
            assert_eq!(ip(&arrived[0]).payload(), datagram(1300), "{what}");
            assert_eq!(b.count(Counter::InReassembled), number as u64 + 1, "{what}");
            // The last one's double begins another packet.
            b.now += Duration::from_millis(PATIENCE_MS + 1);
            b.round();
            assert_eq!(
                b.count(Counter::InFragmentTimeout),
                number as u64 + 1,
                "{what}"
            );
        }
        a.audit();
        b.audit();
    }
}

#[test]
fn what_lies_over_another_ends_the_packet_and_all_that_comes_of_it() {
    for (what, tunnel) in kinds() {
        let (mut a, mut b) = pair(&cuttable(tunnel));
        let sealed = a.protect(&[greeting(A, B, 1300)]).remove(0);
        let (pieces, others) = (cut(&sealed, 600), cut(&sealed, 504));
        let mixed = [
            pieces[0].clone(),
            others[1].clone(),
            pieces[1].clone(),
            pieces[2].clone(),
            pieces[0].clone(),
        ];
        assert!(b.unprotect(&mixed).is_empty(), "{what}");
        assert_eq!(b.count(Counter::InFragmentOverlap), 4, "{what}");
        // The frame is at home, and after a while another packet may have the name.
        b.audit();
        b.now += Duration::from_millis(PATIENCE_MS + 1);
        b.round();
        assert_eq!(b.count(Counter::InFragmentTimeout), 0, "{what}");
        assert_eq!(b.unprotect(&pieces).len(), 1, "{what}");
        b.audit();
    }
}

#[test]
fn packets_that_stay_in_pieces_end_and_give_their_frames_back() {
    let (mut a, mut b) = pair(&cuttable(Tunnel::default()));
    let pieces = cut(&a.protect(&[greeting(A, B, 1300)])[0], 600);
    b.unprotect(&pieces[..2]);
    b.now += Duration::from_millis(PATIENCE_MS - 10);
    b.round();
    assert_eq!(b.count(Counter::InFragmentTimeout), 0);
    b.now += Duration::from_millis(20);
    b.round();
    assert_eq!(b.count(Counter::InFragmentTimeout), 1);
    assert!(b.unprotect(&pieces[2..]).is_empty());
    b.now += Duration::from_millis(PATIENCE_MS + 1);
    b.round();
    assert_eq!(b.count(Counter::InReassembled), 0);
    b.audit();
}

/// A first fragment of ESP that never gets another.
fn lone(source: Ipv4Addr, identification: u16) -> Vec<u8> {
    let head = ipv4::Repr {
        identification,
        dont_fragment: false,
        ..ipv4::Repr::new(source, outer(B), Protocol::ESP, 0)
    };
    let whole = packet(head, &[7; 600]);
    let whole = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &whole);
    cut(&whole, 400).remove(0)
}

#[test]
fn a_flood_of_fragments_leaves_good_traffic_its_share() {
    let (mut a, mut b) = pair(&cuttable(Tunnel::default()));
    let one = Ipv4Addr::new(198, 51, 100, 1);
    let mut identification = 0;
    for _ in 0..40 {
        let pieces = cut(&a.protect(&[greeting(A, B, 1300)])[0], 600);
        let whole = a.protect(&[greeting(A, B, 100)]);
        let mut burst = pieces[..2].to_vec();
        for _ in 0..40 {
            identification += 1;
            burst.push(lone(one, identification));
        }
        burst.push(pieces[2].clone());
        burst.extend(whole);
        assert_eq!(b.unprotect(&burst).len(), 2);
    }
    let ended = b.count(Counter::InFragmentLimit);
    assert_eq!(ended, 40 * 40 - FROM_A_SOURCE as u64);
    // From everywhere: as many as there is room for, and whole packets pass.
    for n in 0..600_u32 {
        let from = Ipv4Addr::from(u32::from(one) + 1 + n);
        b.unprotect(&[lone(from, 1)]);
    }
    let held = 600 + FROM_A_SOURCE as u64 - (b.count(Counter::InFragmentLimit) - ended);
    assert_eq!(held, MAX_PACKETS as u64);
    let whole = a.protect(&[greeting(A, B, 100)]);
    assert_eq!(b.unprotect(&whole).len(), 1);
    b.now += Duration::from_millis(PATIENCE_MS + 1);
    b.round();
    assert_eq!(b.count(Counter::InFragmentTimeout), MAX_PACKETS as u64);
    a.audit();
    b.audit();
}

#[test]
fn fragments_find_each_other_on_whatever_workers_they_come() {
    let tunnel = Tunnel {
        owner: 2,
        ..cuttable(Tunnel::default())
    };
    let (mut a, mut b) = (Gateway::new(A, 1), Gateway::new(B, 3));
    let near = cuttable(Tunnel::default());
    a.tell_all(&a.tunnel(B, &near, 0));
    b.tell_all(&b.tunnel(A, &tunnel, 0));
    for _ in 0..12 {
        let pieces = cut(&a.protect(&[greeting(A, B, 1300)])[0], 600);
        for (worker, piece) in pieces.iter().enumerate() {
            assert!(b.outside[worker].send(piece));
        }
        for _ in 0..4 {
            b.round();
        }
        let arrived: Vec<_> = b.inside.iter_mut().flat_map(drain).collect();
        assert_eq!(arrived.len(), 1);
        assert_eq!(ip(&arrived[0]).payload(), datagram(1300));
    }
    assert_eq!(b.count(Counter::InReassembled), 12);
    a.audit();
    b.audit();
}

#[test]
fn congestion_that_one_fragment_saw_is_the_packets() {
    for (inner, marked, expected) in [
        (Ecn::Ect0, Ecn::Ce, Some(Ecn::Ce)),
        (Ecn::Ect0, Ecn::Ect0, Some(Ecn::Ect0)),
        (Ecn::NotEct, Ecn::Ce, None),
    ] {
        let (mut a, mut b) = pair(&cuttable(Tunnel::default()));
        let sent = ipv4::Repr {
            ecn: inner,
            ..header(A, B)
        };
        let mut pieces = cut(&a.protect(&[packet(sent, &datagram(1300))])[0], 600);
        wire_ip::set_ecn(&mut pieces[1][14..], marked).unwrap();
        let arrived = b.unprotect(&pieces);
        let shown = arrived.first().map(|frame| ip(frame).ecn());
        assert_eq!(shown, expected, "{inner:?} {marked:?}");
        assert_eq!(b.count(Counter::InEcnError), u64::from(expected.is_none()));
        b.now += Duration::from_millis(PATIENCE_MS + 1);
        b.round();
        b.audit();
    }
}

#[test]
fn what_no_frame_holds_is_dropped_and_other_fragments_go_their_way() {
    let (_, mut b) = pair(&Tunnel::default());
    let head = ipv4::Repr {
        identification: 5,
        dont_fragment: false,
        ..ipv4::Repr::new(outer(A), outer(B), Protocol::ESP, 0)
    };
    let whole = packet(head, &[7; 6000]);
    let whole = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &whole);
    assert!(b.unprotect(&cut(&whole, 1400)).is_empty());
    assert!(b.count(Counter::InFragment) >= 1);
    // Fragments of what is neither ESP nor AH, nor goes to port 4500, are no affair of ours.
    let udp = ipv4::Repr {
        protocol: Protocol::UDP,
        ..head
    };
    let whole = packet(udp, &datagram(1000));
    let whole = frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &whole);
    let first = cut(&whole, 600).remove(0);
    b.unprotect(&[first]);
    assert_eq!(b.count(Counter::InNotOurs), 1);
    b.now += Duration::from_millis(PATIENCE_MS + 1);
    b.round();
    b.audit();
}
