//! Two Esplanade gateways between two hosts.

mod common;

use std::time::Duration;

use common::{UP, bed, eventually, ready, tell, two_gateways, two_gateways_of};
use esplanade_bench::gateway::{Site, TUNNEL};
use esplanade_bench::testbed::{Finished, HOST_A, HOST_B, Testbed};
use esplanade_bench::traffic::stream::Stream;
use esplanade_bench::traffic::transfer::{noise, transfer};
use esplanade_bench::wire_tap::{Depth, WireTap};

const MARKER: &[u8] = b"nobody on the wire may read this";

#[test]
fn a_tunnel_carries_traffic_both_ways_and_the_wire_sees_esp_only() {
    if !ready() {
        return;
    }
    let bed = bed();
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Whole, MARKER).expect("a listener");
    let (a, b) = two_gateways(&bed);

    assert_eq!(bed.ping(10).expect("ping"), 10);
    assert_eq!(bed.host_b.ping(HOST_A, 10).expect("ping"), 10);
    let mut secret = noise(200_000, 1);
    secret.splice(1_000..1_000, MARKER.iter().copied());
    let there = transfer(&bed.host_a, (&bed.host_b, HOST_B), &secret).expect("a transfer");
    assert!(there.bytes == secret, "what arrives is what was sent");
    let back = transfer(&bed.host_b, (&bed.host_a, HOST_A), &secret).expect("a transfer");
    assert!(back.bytes == secret, "what arrives is what was sent");

    let seen = tap.stop().expect("what was seen");
    assert!(seen.only_protected(), "{seen:?}");
    assert!(seen.esp > 300 && seen.ike >= 4, "{seen:?}");
    assert_eq!(
        seen.esp_in_udp, 0,
        "nobody translates addresses here: {seen:?}"
    );
    assert_eq!(seen.repeated_nonces, 0, "{seen:?}");
    for gateway in [&a, &b] {
        let sas = gateway.sas().expect("sas");
        assert_eq!(sas.len(), 2, "{sas:?}");
        assert!(
            sas.iter()
                .all(|sa| sa.packets > 100 && sa.replay_drops == 0),
            "{sas:?}"
        );
    }
}

#[test]
fn without_extended_sequence_numbers_and_with_short_keys_it_works_as_well() {
    if !ready() {
        return;
    }
    let bed = bed();
    let other = |site: Site| Site {
        esn: false,
        ike: "aes128-sha256-modp2048".to_owned(),
        esp: "aes128gcm16-ecp256".to_owned(),
        ..site
    };
    let (a, b) = two_gateways_of(&bed, &other(Site::a()), &other(Site::b()));
    assert_eq!(bed.ping(5).expect("ping"), 5);
    tell(&a, &["rekey", "--child", TUNNEL]);
    assert_eq!(bed.ping(5).expect("ping"), 5);
    assert!(b.sas().expect("sas").iter().all(|sa| !sa.esn));
}

#[test]
fn every_kind_of_cipher_carries_traffic_and_is_rekeyed() {
    if !ready() {
        return;
    }
    let bed = bed();
    let bytes = noise(100_000, 4);
    for esp in [
        "chacha20poly1305-x25519",
        "aes192gcm16",
        "aes128-sha256",
        "aes256-sha512-x25519",
        "aes256gcm16iiv",
        "aes128ccm16",
        "aes256gmac",
        "null-sha384",
    ] {
        let other = |site: Site| Site {
            esp: esp.to_owned(),
            ..site
        };
        let (a, b) = two_gateways_of(&bed, &other(Site::a()), &other(Site::b()));
        for gateway in [&a, &b] {
            let there = transfer(&bed.host_a, (&bed.host_b, HOST_B), &bytes).expect("a transfer");
            assert!(there.bytes == bytes, "{esp}");
            tell(gateway, &["rekey", "--child", TUNNEL]);
            assert_eq!(bed.ping(3).expect("ping"), 3, "{esp}");
        }
        for sa in [&a, &b].map(|gateway| gateway.sas().expect("sas")).concat() {
            assert!(esp.starts_with(&sa.algorithm), "{sa:?}");
            assert_eq!((sa.replay_drops, sa.auth_failures), (0, 0), "{sa:?}");
        }
        assert!(
            ping_whole(&bed, 1, 1472).stdout.contains(" 0 received"),
            "{esp}"
        );
        a.stop().expect("an orderly end");
        b.stop().expect("an orderly end");
    }
}

/// Pings host B with packets that may not be fragmented and carry so many bytes.
fn ping_whole(bed: &Testbed, count: u32, bytes: u32) -> Finished {
    let (count, bytes, to) = (count.to_string(), bytes.to_string(), HOST_B.to_string());
    let line = [
        "ping", "-n", "-c", &count, "-W", "1", "-M", "do", "-s", &bytes, &to,
    ];
    bed.host_a.run(&line).expect("ping")
}

#[test]
fn full_size_tcp_flows_and_too_big_packets_are_answered() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, _b) = two_gateways(&bed);
    let bytes = noise(8_000_000, 2);
    let delivery = transfer(&bed.host_a, (&bed.host_b, HOST_B), &bytes).expect("a transfer");
    assert!(delivery.bytes == bytes, "what arrives is what was sent");
    assert!(a.counter("OutMssClamped").expect("a counter") >= 1);

    // 1500 bytes with DF: RFC 1191 3 has the router say what would fit.
    let big = ping_whole(&bed, 1, 1472);
    let said = format!("{}{}", big.stdout, big.stderr);
    let mtu: u32 = said
        .split("mtu")
        .nth(1)
        .map(|rest| rest.trim_start_matches([' ', '=']))
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("no \"fragmentation needed\": {said}"));
    assert!((1400..1500).contains(&mtu), "{said}");
    // What is said to fit does.
    let fitting = ping_whole(&bed, 2, mtu - 28);
    assert!(fitting.stdout.contains(" 2 received"), "{}", fitting.stdout);
}

#[test]
fn rekeys_from_either_side_lose_nothing_and_repeat_no_nonce() {
    if !ready() {
        return;
    }
    let bed = bed();
    let wire = bed.wire.as_ref().expect("a bridge");
    let (a, b) = two_gateways(&bed);
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Headers, b"").expect("a listener");
    let there = Stream::start(&bed.host_a, (&bed.host_b, HOST_B), 2_000, 200).expect("a stream");
    let back = Stream::start(&bed.host_b, (&bed.host_a, HOST_A), 2_000, 200).expect("a stream");

    let mut spi = a.outbound_spi().expect("an SPI");
    for (gateway, layer) in [
        (&a, "--child"),
        (&b, "--child"),
        (&a, "--ike"),
        (&b, "--ike"),
        (&b, "--child"),
        (&a, "--child"),
    ] {
        tell(gateway, &["rekey", layer, TUNNEL]);
        if layer == "--child" {
            eventually("A to send by a new SA", || {
                a.outbound_spi().is_ok_and(|now| now != spi)
            });
            spi = a.outbound_spi().expect("an SPI");
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    for (direction, stream) in [("there", there), ("back", back)] {
        let outcome = stream.stop().expect("an outcome");
        assert_eq!(
            (outcome.lost(), outcome.repeated),
            (0, 0),
            "{direction}: {outcome:?}"
        );
    }
    let seen = tap.stop().expect("what was seen");
    assert_eq!(seen.missed, 0, "{seen:?}");
    assert_eq!(seen.repeated_nonces, 0, "{seen:?}");
    assert!(
        seen.packets_by_spi.len() >= 10,
        "four new pairs and the first: {seen:?}"
    );

    // The old SAs go; an inbound one stays a few seconds for stragglers.
    eventually("the old SAs to go", || {
        [&a, &b]
            .iter()
            .all(|gateway| gateway.sas().is_ok_and(|sas| sas.len() == 2))
    });
}

#[test]
fn a_tunnel_is_taken_down_and_brought_up_by_command() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, b) = two_gateways(&bed);
    tell(&a, &["terminate", TUNNEL]);
    eventually("B to hear of it", || {
        b.sas().is_ok_and(|sas| sas.is_empty())
    });
    assert_eq!(bed.ping(2).expect("ping"), 0, "no tunnel, no traffic");
    // Whoever has the tunnel in his configuration may bring it up.
    tell(&b, &["initiate", TUNNEL]);
    a.wait_until_up(UP).expect("the tunnel at A");
    bed.warm_up().expect("traffic");
    assert_eq!(bed.ping(5).expect("ping"), 5);
}

#[test]
fn the_end_is_clean_and_says_goodbye() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (mut a, b) = two_gateways(&bed);
    a.supervisor()
        .terminate(Duration::from_secs(15))
        .expect("an end");
    eventually("B to hear the goodbye", || {
        b.sas().is_ok_and(|sas| sas.is_empty())
    });
    for interface in ["eth1", "eth2"] {
        let link = bed
            .gateway_a
            .run(&["ip", "-details", "link", "show", interface]);
        let link = link.expect("ip link").stdout;
        assert!(
            !link.contains("xdp"),
            "an XDP program is left behind: {link}"
        );
    }
    let sockets = bed
        .gateway_a
        .run(&["ss", "--xdp", "--no-header"])
        .expect("ss")
        .stdout;
    assert!(
        sockets.trim().is_empty(),
        "an AF_XDP socket is left behind: {sockets}"
    );
    a.restart().expect("a restart");
    a.wait_until_up(UP).expect("the tunnel at A");
    bed.warm_up().expect("traffic");
    assert_eq!(bed.ping(5).expect("ping"), 5);
}

#[test]
fn a_reload_brings_a_change_without_disturbing_what_stays() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, _b) = two_gateways(&bed);
    let spi = a.outbound_spi().expect("an SPI");
    let stream = Stream::start(&bed.host_a, (&bed.host_b, HOST_B), 1_000, 100).expect("a stream");
    tell(&a, &["reload"]);
    let text = std::fs::read_to_string(a.config()).expect("the configuration");
    std::fs::write(a.config(), format!("{text}  no-such-key: 1\n")).expect("a mistake");
    let refused = a.command(&["reload"]).expect("an answer");
    assert!(!refused.status.success(), "{refused:?}");
    std::fs::write(a.config(), text).expect("the configuration");
    let outcome = stream.stop().expect("an outcome");
    assert_eq!(outcome.lost(), 0, "{outcome:?}");
    assert_eq!(a.outbound_spi().expect("an SPI"), spi);
}

#[test]
fn a_reload_adds_a_prefix_although_the_privileges_are_gone() {
    if !ready() {
        return;
    }
    let bed = bed();
    let more = |site: Site, local: &str, remote: &str| Site {
        more: vec![(local.to_owned(), remote.to_owned())],
        ..site
    };
    bed.host_b
        .ip("addr add 10.3.0.2/32 dev lo\n")
        .expect("an address");
    bed.gateway_b
        .ip("route add 10.3.0.0/16 via 10.2.0.2\n")
        .expect("a route");
    bed.gateway_a
        .ip("route add 10.3.0.0/16 via 192.0.2.2\n")
        .expect("a route");
    let (a, b) = two_gateways(&bed);
    let capabilities_of = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a status");
        let line = status
            .lines()
            .find(|line| line.starts_with("CapEff:"))
            .expect("a line");
        let mask = line.split_whitespace().nth(1).expect("a mask").to_owned();
        u64::from_str_radix(&mask, 16).expect("a mask")
    };
    // CAP_NET_BIND_SERVICE is 10, CAP_NET_ADMIN 12 (linux/capability.h).
    assert_eq!(capabilities_of(a.dataplane_id().expect("an id")), 0);
    assert_eq!(
        capabilities_of(a.control_plane_id().expect("an id")) & !(1 << 10 | 1 << 12),
        0
    );

    let to: std::net::Ipv4Addr = "10.3.0.2".parse().expect("an address");
    std::fs::write(
        b.config(),
        more(Site::b(), "10.3.0.0/16", "10.1.0.0/16").yaml(),
    )
    .expect("B");
    std::fs::write(
        a.config(),
        more(Site::a(), "10.1.0.0/16", "10.3.0.0/16").yaml(),
    )
    .expect("A");
    for gateway in [&b, &a] {
        tell(gateway, &["reload"]);
    }
    a.wait_until_up(UP).expect("the new child");
    eventually("traffic through the new child", || {
        bed.host_a.ping(to, 1).is_ok_and(|count| count == 1)
    });
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Headers, b"").expect("a listener");
    assert_eq!(bed.host_a.ping(to, 5).expect("ping"), 5);
    let seen = tap.stop().expect("what was seen");
    assert!(seen.only_protected() && seen.esp == 10, "{seen:?}");
}
