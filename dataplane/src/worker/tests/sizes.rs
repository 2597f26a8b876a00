//! Packets that do not fit: ICMP, fragments, TCP's segment size; and packets that have lived long enough.

use super::*;
use esplanade_wire::icmp;

/// The ICMP error that waits at the inside, and what it is about.
pub(super) fn answer(gateway: &mut Gateway) -> (icmp::Error, Vec<u8>) {
    let frames = drain(&mut gateway.inside[0]);
    assert_eq!(frames.len(), 1);
    let header = ethernet::Frame::new_checked(&frames[0]).unwrap();
    assert_eq!(header.destination(), host_mac(gateway.site));
    assert_eq!(header.source(), gateway_mac(gateway.site, INSIDE));
    let outside = ip(&frames[0]);
    assert_eq!(outside.source(), Ipv4Addr::new(10, gateway.site, 0, 254));
    assert_eq!(outside.destination(), host(gateway.site));
    let message = icmp::Message::new_checked(Family::V4, outside.payload()).unwrap();
    assert!(message.checksum_is_right(outside.source().into(), outside.destination().into()));
    let (error, quoted) = message.error().unwrap().unwrap();
    (error, quoted.as_bytes().to_vec())
}

#[test]
fn too_big_with_df_is_answered_with_the_mtu_of_the_tunnel() {
    for (udp, path_mtu, mtu) in [(false, 0, 1446), (true, 0, 1438), (false, 1400, 1346)] {
        let (mut a, mut b) = pair(&Tunnel {
            udp,
            path_mtu,
            ..Tunnel::default()
        });
        let big = greeting(A, B, usize::from(mtu) - 28 + 1);
        assert!(a.protect(std::slice::from_ref(&big)).is_empty());
        let (error, quoted) = answer(&mut a);
        assert_eq!(error, icmp::Error::TooBig { mtu });
        assert_eq!(quoted, big[..quoted.len()]);
        let fits = a.protect(&[greeting(A, B, usize::from(mtu) - 28)]);
        assert_eq!(b.unprotect(&fits).len(), 1);
        assert_eq!(a.count(Counter::OutTooBig), 1);
        assert_eq!(a.count(Counter::IcmpSent), 1);
        a.audit();
    }
}

#[test]
fn icmp_errors_are_limited_and_never_about_icmp_errors() {
    let (mut a, _) = pair(&Tunnel::default());
    let big = greeting(A, B, 1470);
    for _ in 0..4 {
        assert!(a.protect(&vec![big.clone(); 50]).is_empty());
    }
    assert_eq!(a.count(Counter::OutTooBig), 200);
    assert_eq!(
        a.count(Counter::IcmpSent) + a.count(Counter::IcmpRateLimited),
        200
    );
    assert!(a.count(Counter::IcmpSent) <= 51);

    let unreachable = ipv4::Repr {
        protocol: Protocol::ICMP,
        ..header(A, B)
    };
    let mut payload = vec![3, 1, 0, 0];
    payload.resize(1470, 0);
    a.protect(&[packet(unreachable, &payload)]);
    assert_eq!(a.count(Counter::IcmpSuppressed), 1);
    a.audit();
}

#[test]
fn too_big_without_df_goes_in_fragments() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let may_fragment = ipv4::Repr {
        dont_fragment: false,
        identification: 77,
        ..header(A, B)
    };
    let whole = datagram(1472);
    let sent = packet(may_fragment, &whole);
    let wire = a.protect(&[sent, greeting(A, B, 10)]);
    assert_eq!(wire.len(), 3, "two fragments and what came after");
    assert!(wire.iter().all(|frame| ip(frame).total_len() <= 1500));
    let arrived = b.unprotect(&wire);
    assert_eq!(arrived.len(), 3);
    let mut payload: Vec<u8> = Vec::new();
    for frame in &arrived[..2] {
        let fragment = ip(frame);
        assert_eq!(fragment.fragment_offset(), payload.len());
        assert_eq!((fragment.identification(), fragment.ttl()), (77, 62));
        payload.extend(fragment.payload());
    }
    assert_eq!(payload, whole);
    a.audit();
    b.audit();
}

#[test]
fn too_big_without_df_goes_in_fragments_of_what_was_sealed_where_that_is_wanted() {
    for (outer, udp) in [(Family::V4, false), (Family::V4, true), (Family::V6, false)] {
        let (mut a, mut b) = pair(&Tunnel {
            outer,
            udp,
            df: DfPolicy::Set,
            fragment_sealed: true,
            ..Tunnel::default()
        });
        let may_fragment = ipv4::Repr {
            dont_fragment: false,
            ..header(A, B)
        };
        let sent = packet(may_fragment, &datagram(1472));
        let wire = a.protect(&[sent, greeting(A, B, 10)]);
        assert_eq!(wire.len(), 3, "two fragments and what came after");
        assert_eq!(a.count(Counter::OutFragmented), 1);
        assert_eq!(a.count(Counter::OutPackets), 2);
        let arrived = b.unprotect(&wire);
        assert_eq!(arrived.len(), 2, "{outer:?}");
        // The receiving host has nothing to put together.
        assert!(!ip(&arrived[0]).is_fragment());
        assert_eq!(ip(&arrived[0]).payload(), datagram(1472));
        assert_eq!(b.count(Counter::InReassembled), 1);
        // What must not be fragmented is not.
        assert!(a.protect(&[greeting(A, B, 1472)]).is_empty());
        assert_eq!(
            answer(&mut a).0,
            icmp::Error::TooBig {
                mtu: match (outer, udp) {
                    (Family::V4, false) => 1446,
                    (Family::V4, true) => 1438,
                    _ => 1426,
                }
            }
        );
        a.audit();
        b.audit();
    }
}

#[test]
fn a_whole_burst_of_fragmented_packets_keeps_its_order() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let sent: Vec<_> = (0..64)
        .map(|identification| {
            let may_fragment = ipv4::Repr {
                dont_fragment: false,
                identification,
                ..header(A, B)
            };
            packet(may_fragment, &datagram(1472))
        })
        .collect();
    let wire = a.protect(&sent);
    assert_eq!(wire.len(), 128);
    let mut arrived = b.unprotect(&wire);
    b.round();
    arrived.extend(drain(&mut b.inside[0]));
    let order: Vec<_> = arrived
        .iter()
        .map(|frame| ip(frame).identification())
        .collect();
    let expected: Vec<_> = (0..64).flat_map(|id| [id, id]).collect();
    assert_eq!(order, expected);
    a.audit();
}

#[test]
fn a_syn_announces_what_fits_in_both_directions() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&[syn(A, B, 1460), syn(A, B, 500)]);
    let arrived = b.unprotect(&wire);
    let mss = |frame: &Vec<u8>| {
        let segment = tcp::Segment::new_checked(ip(frame).payload()).unwrap();
        segment.mss().unwrap()
    };
    assert_eq!(mss(&arrived[0]), 1446 - 40);
    assert_eq!(mss(&arrived[1]), 500);
    assert_eq!(a.count(Counter::OutMssClamped), 1);

    // A peer that does not clamp: what it announces is lowered where it arrives, once we know our way to it.
    let quiet = Command::SetPort {
        port: PortId(INSIDE),
        mac: gateway_mac(A, INSIDE).0,
        mtu: 1500,
        address: None,
        address_v6: None,
        mss_clamp: false,
        udp_checksum: true,
        partial_checksums: false,
    };
    a.tell_all(&[quiet]);
    b.protect(&[greeting(B, A, 1)]);
    let wire = a.protect(&[syn(A, B, 1460)]);
    let arrived = b.unprotect(&wire);
    assert_eq!(mss(&arrived[0]), 1446 - 40);
}

#[test]
fn a_packet_that_lived_long_enough_ends_here() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let last_leg = |ttl| {
        packet(
            ipv4::Repr {
                ttl,
                ..header(A, B)
            },
            &datagram(10),
        )
    };
    assert!(a.protect(&[last_leg(1)]).is_empty());
    assert_eq!(a.count(Counter::OutTtlExpired), 1);
    let (error, _) = answer(&mut a);
    assert_eq!(error, icmp::Error::TtlExceeded);
    let wire = a.protect(&[last_leg(2), last_leg(3)]);
    let arrived = b.unprotect(&wire);
    assert_eq!(arrived.len(), 1);
    assert_eq!(ip(&arrived[0]).ttl(), 1);
    assert_eq!(b.count(Counter::InTtlExpired), 1);
    a.audit();
    b.audit();
}
