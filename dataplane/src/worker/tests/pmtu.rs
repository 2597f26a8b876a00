//! What routers on the way to the peer say of its path: who is believed, what follows, and for how long.

use super::{sizes::answer, *};
use esplanade_crypto::Hmac;
use esplanade_ipsec::pmtu::LIFETIME_MS;
use esplanade_wire::{icmp, ip as wire_ip};

/// A router on the way, of either family.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 9).into(),
        Family::V6 => "2001:db8:fffe::9".parse().unwrap(),
    }
}

/// The frame in which a router reports an error about the packet of a frame.
fn error_about(frame_on_wire: &[u8], error: icmp::Error) -> Vec<u8> {
    let about = wire_ip::Packet::new_checked(&frame_on_wire[14..]).unwrap();
    let mut bytes = vec![0; icmp::Error::packet_len(&about)];
    let length = error.emit(&about, router(about.family()), &mut bytes);
    assert_eq!(length, Some(bytes.len()));
    frame(
        MacAddress([2, 0, 0, 9, 9, 9]),
        gateway_mac(A, OUTSIDE),
        &bytes,
    )
}

fn too_big(frame_on_wire: &[u8], mtu: u16) -> Vec<u8> {
    error_about(frame_on_wire, icmp::Error::TooBig { mtu })
}

fn path_mtu(gateway: &mut Gateway) -> u16 {
    for _ in 0..30 {
        gateway.round();
    }
    let record = gateway
        .channel
        .sa_record(outbound_id(gateway.site))
        .unwrap();
    record.statistics.path_mtu
}

fn kinds() -> Vec<(&'static str, Tunnel, u16)> {
    let udp = Tunnel {
        udp: true,
        ..Tunnel::default()
    };
    let six = Tunnel {
        outer: Family::V6,
        ..Tunnel::default()
    };
    let ah = Tunnel {
        ah: Some(Integrity::Hmac(Hmac::Sha2_256)),
        ..Tunnel::default()
    };
    // What of 1300 bytes is left for the inner packet.
    vec![
        ("esp", Tunnel::default(), 1246),
        ("udp", udp, 1238),
        ("v6", six, 1226),
        ("ah", ah, 1252),
    ]
}

#[test]
fn a_path_that_is_narrower_than_its_first_link_is_found_and_told_inside() {
    for (what, tunnel, inner) in kinds() {
        let (mut a, mut b) = pair(&tunnel);
        let long = greeting(A, B, 1350);
        let wire = a.protect(std::slice::from_ref(&long));
        assert_eq!(wire.len(), 1, "{what}");
        assert_eq!(path_mtu(&mut a), 1500, "{what}");
        a.unprotect(&[too_big(&wire[0], 1300)]);
        assert_eq!(a.count(Counter::PathMtuLowered), 1, "{what}");
        assert_eq!(path_mtu(&mut a), 1300, "{what}");
        // What does not fit is answered, what fits passes, and a connection announces what fits.
        assert!(a.protect(std::slice::from_ref(&long)).is_empty(), "{what}");
        let (error, _) = answer(&mut a);
        assert_eq!(error, icmp::Error::TooBig { mtu: inner }, "{what}");
        let fits = a.protect(&[greeting(A, B, usize::from(inner) - 28)]);
        assert_eq!(b.unprotect(&fits).len(), 1, "{what}");
        assert!(fits[0].len() <= 14 + 1300, "{what}");
        let opening = a.protect(&[syn(A, B, 1460)]);
        let arrived = b.unprotect(&opening);
        let segment = tcp::Segment::new_checked(ip(&arrived[0]).payload()).unwrap();
        assert_eq!(segment.mss(), Some(inner - 40), "{what}");
        // The same again says nothing new, nor does a wider path.
        a.unprotect(&[too_big(&wire[0], 1300), too_big(&wire[0], 1400)]);
        assert_eq!(a.count(Counter::PathMtuKnown), 2, "{what}");
        assert_eq!(path_mtu(&mut a), 1300, "{what}");
        a.audit();
        b.audit();
    }
}

#[test]
fn what_was_told_holds_for_ten_minutes_and_for_the_next_sa() {
    let (mut a, _) = pair(&Tunnel::default());
    let long = greeting(A, B, 1350);
    let wire = a.protect(std::slice::from_ref(&long));
    a.unprotect(&[too_big(&wire[0], 1400)]);
    a.now += Duration::from_millis(LIFETIME_MS / 2);
    // Told again: it holds from here.
    a.unprotect(&[too_big(&wire[0], 1400)]);
    let next = a.tunnel(B, &Tunnel::default(), 1);
    a.tell_all(&next);
    assert!(a.protect(std::slice::from_ref(&long)).is_empty());
    a.now += Duration::from_millis(LIFETIME_MS - 3_000);
    assert!(a.protect(std::slice::from_ref(&long)).is_empty());
    a.now += Duration::from_secs(4);
    a.round();
    assert_eq!(a.protect(&[long]).len(), 1);
    a.audit();
}

#[test]
fn what_no_sa_of_ours_sent_is_refused() {
    for (what, tunnel, _) in kinds() {
        let (mut a, _) = pair(&tunnel);
        let wire = a.protect(&[greeting(A, B, 1350)]);
        let about = wire[0].clone();
        let (header, udp) = match tunnel.outer {
            Family::V4 => (20, usize::from(tunnel.udp) * 8),
            Family::V6 => (40, 0),
        };
        // AH's SPI and sequence number are 4 bytes further in.
        let spi = 14 + header + udp + usize::from(tunnel.ah.is_some()) * 4;
        let mut changes = vec![
            ("spi", spi + 3),
            ("sequence", spi + 7),
            ("peer", 14 + header - 1),
        ];
        if tunnel.udp {
            changes.push(("port", 14 + header + 3));
        }
        let forged: Vec<_> = changes
            .iter()
            .map(|(_, at)| {
                let mut about = about.clone();
                about[*at] ^= 0x40;
                too_big(&about, 1300)
            })
            .collect();
        a.unprotect(&forged);
        let refused = a.count(Counter::PathMtuRefused);
        assert_eq!(refused, changes.len() as u64, "{what}: {changes:?}");
        assert_eq!(path_mtu(&mut a), 1500, "{what}");
        // One whose own checksum is wrong is no error of anybody.
        let mut damaged = too_big(&about, 1300);
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        a.unprotect(&[damaged]);
        assert_eq!(a.count(Counter::PathMtuRefused), refused, "{what}");
        assert_eq!(a.count(Counter::InNotOurs), 1, "{what}");
        // An SA that is gone sent nothing, as far as we know.
        a.tell_all(&[Command::RemoveSa { sa: outbound_id(A) }]);
        a.unprotect(&[too_big(&about, 1300)]);
        assert_eq!(a.count(Counter::PathMtuRefused), refused + 1, "{what}");
        a.audit();
    }
}

#[test]
fn an_error_for_a_host_behind_us_that_speaks_esp_itself_passes_where_policy_lets_it() {
    let (mut a, _) = pair(&Tunnel::default());
    let bypass = Policy {
        id: PolicyId(9 << 8),
        priority: 1,
        action: PolicyAction::Bypass,
        remote: Selector {
            first: router(Family::V4),
            last: router(Family::V4),
            ports: (0, u16::MAX),
        },
        ..protect(A, B)
    };
    a.tell_all(&[Command::SetPolicy(bypass)]);
    let esp_of_a_host = ipv4::Repr {
        protocol: Protocol::ESP,
        ..header(A, B)
    };
    let about = packet(esp_of_a_host, &[7; 1400]);
    let about = frame(host_mac(A), gateway_mac(A, INSIDE), &about);
    let passed = a.unprotect(&[
        too_big(&about, 1300),
        error_about(&about, icmp::Error::TtlExceeded),
    ]);
    assert_eq!(passed.len(), 2);
    assert_eq!(a.count(Counter::InBypassPackets), 2);
    a.audit();
}

#[test]
fn no_path_becomes_narrower_than_paths_are() {
    let (mut a, _) = pair(&Tunnel::default());
    let wire = a.protect(&[greeting(A, B, 1350)]);
    // RFC 1191 5: a router that names none means the plateau below what it could not send.
    a.unprotect(&[too_big(&wire[0], 0)]);
    assert_eq!(path_mtu(&mut a), 1006);
    a.unprotect(&[too_big(&wire[0], 68)]);
    assert_eq!(path_mtu(&mut a), 576);
    let (mut a, _) = pair(&Tunnel {
        outer: Family::V6,
        ..Tunnel::default()
    });
    let wire = a.protect(&[greeting(A, B, 1350)]);
    a.unprotect(&[too_big(&wire[0], 1279)]);
    assert_eq!(a.count(Counter::PathMtuRefused), 1);
    assert_eq!(path_mtu(&mut a), 1500);
}

#[test]
fn the_owner_of_the_sa_hears_of_it_whichever_worker_gets_the_error() {
    let mut a = Gateway::new(A, 2);
    let tunnel = Tunnel {
        owner: 1,
        ..Tunnel::default()
    };
    a.tell_all(&a.tunnel(B, &tunnel, 0));
    let long = greeting(A, B, 1350);
    a.protect(std::slice::from_ref(&long));
    let wire = drain(&mut a.outside[1]);
    a.unprotect(&[too_big(&wire[0], 1300)]);
    a.round();
    assert_eq!(a.count(Counter::PathMtuLowered), 1);
    assert_eq!(path_mtu(&mut a), 1300);
    a.protect(&[long]);
    a.round();
    assert!(drain(&mut a.outside[1]).is_empty());
    a.audit();
}

#[test]
fn other_errors_are_counted_and_a_flood_leaves_traffic_alone() {
    let (mut a, mut b) = pair(&Tunnel::default());
    let wire = a.protect(&[greeting(A, B, 1000)]);
    a.unprotect(&[
        error_about(&wire[0], icmp::Error::HostUnreachable),
        error_about(&wire[0], icmp::Error::TtlExceeded),
    ]);
    assert_eq!(a.count(Counter::IcmpAboutOurs), 2);
    let flood = vec![too_big(&wire[0], 1500); 60];
    for n in 0..20 {
        a.unprotect(&flood);
        let wire = a.protect(&[greeting(A, B, 1000 + n)]);
        assert_eq!(b.unprotect(&wire).len(), 1);
    }
    let (known, limited) = (
        a.count(Counter::PathMtuKnown),
        a.count(Counter::IcmpAboutOursLimited),
    );
    assert_eq!(known + limited, 1200);
    assert!((100..200).contains(&known), "{known}");
    a.audit();
    b.audit();
}
