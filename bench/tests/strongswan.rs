//! Esplanade and strongSwan: each version, each as initiator, traffic both ways, rekeys from both sides, other ciphers.

mod common;

use std::time::Duration;

use common::{UP, bed, eventually, ready, tell};
use esplanade_bench::gateway::{Gateway, Site, TUNNEL};
use esplanade_bench::peer::strongswan::{CONNECTION, Connection, Proof, StrongSwan, Version};
use esplanade_bench::testbed::{HOST_A, HOST_B, Testbed};
use esplanade_bench::traffic::stream::Stream;
use esplanade_bench::traffic::transfer::{noise, transfer};
use esplanade_bench::wire_tap::{Depth, WireTap};
use esplanade_controlplane::api::Sa;

/// The other end of gateway A's tunnel.
fn peer_of(site: &Site) -> Connection {
    Connection {
        name: CONNECTION.to_owned(),
        local: site.remote,
        remote: site.local,
        local_id: site.remote_id.clone(),
        remote_id: site.local_id.clone(),
        proof: Proof::Key(site.secret.clone()),
        local_prefix: site.remote_prefix.clone(),
        remote_prefix: site.local_prefix.clone(),
        ike: "aes256gcm16-prfsha384-x25519".to_owned(),
        esp: site.esp.clone(),
    }
}

/// Who starts something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Esplanade,
    StrongSwan,
}

fn talk(version: Version, initiator: Side) {
    if !ready() {
        return;
    }
    if let Some(reason) = version.unavailable() {
        println!("SKIPPED: {reason}");
        return;
    }
    let bed = bed();
    // kernel-libipsec has no extended sequence numbers.
    let site = Site {
        initiates: false,
        esn: false,
        ..Site::a()
    };
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Whole, b"").expect("a listener");
    let a = Gateway::start(&bed.gateway_a, &site, bed.log_dir()).expect("gateway A");
    let b = StrongSwan::start(version, &bed.gateway_b, &peer_of(&site), bed.log_dir())
        .expect("strongSwan");
    match initiator {
        Side::Esplanade => {
            a.command(&["initiate", TUNNEL])
                .and_then(|said| said.ok())
                .expect("initiate");
        }
        Side::StrongSwan => b.initiate().expect("initiate"),
    }
    a.wait_until_up(UP).expect("the tunnel");
    bed.warm_up().expect("traffic");
    assert_eq!(bed.ping(10).expect("ping"), 10, "{}", b.log());
    assert_eq!(
        bed.host_b.ping(HOST_A, 10).expect("ping"),
        10,
        "{}",
        b.log()
    );
    let bytes = noise(500_000, 3);
    let delivery = transfer(&bed.host_a, (&bed.host_b, HOST_B), &bytes).expect("a transfer");
    assert!(delivery.bytes == bytes, "what arrives is what was sent");
    let delivery = transfer(&bed.host_b, (&bed.host_a, HOST_A), &bytes).expect("a transfer");
    assert!(delivery.bytes == bytes, "what arrives is what was sent");

    let there = Stream::start(&bed.host_a, (&bed.host_b, HOST_B), 200, 100).expect("a stream");
    let back = Stream::start(&bed.host_b, (&bed.host_a, HOST_A), 200, 100).expect("a stream");
    for (layer, side) in [
        ("--child", Side::Esplanade),
        ("--child", Side::StrongSwan),
        ("--ike", Side::Esplanade),
        ("--ike", Side::StrongSwan),
        ("--child", Side::StrongSwan),
        ("--child", Side::Esplanade),
    ] {
        rekey(&a, &b, layer, side);
        std::thread::sleep(Duration::from_millis(300));
    }
    for (direction, stream) in [("there", there), ("back", back)] {
        let outcome = stream.stop().expect("an outcome");
        assert_eq!(
            (outcome.lost(), outcome.repeated),
            (0, 0),
            "{direction}: {outcome:?}\n{}",
            b.log()
        );
    }

    let seen = tap.stop().expect("what was seen");
    assert!(seen.only_protected(), "{seen:?}");
    assert_eq!(seen.repeated_nonces, 0, "{seen:?}");
    match version {
        Version::Five => assert_eq!(seen.esp_in_udp, seen.esp, "{seen:?}"),
        Version::Six => assert_eq!(seen.esp_in_udp, 0, "{seen:?}"),
    }

    // Each hears the other's goodbye.
    match initiator {
        Side::Esplanade => {
            b.terminate().expect("terminate");
            eventually("Esplanade to hear of it", || {
                a.sas().is_ok_and(|sas| sas.is_empty())
            });
        }
        Side::StrongSwan => {
            a.stop().expect("an orderly end");
            eventually("strongSwan to hear of it", || {
                b.children().is_ok_and(|children| children.is_empty())
            });
        }
    }
}

fn rekey(a: &Gateway<'_>, b: &StrongSwan<'_>, layer: &str, side: Side) {
    let (children, ike) = (
        b.children().expect("children"),
        b.ike_sas().expect("IKE SAs"),
    );
    match (side, layer) {
        (Side::Esplanade, layer) => {
            a.command(&["rekey", layer, TUNNEL])
                .and_then(|said| said.ok())
                .expect("a rekey");
        }
        (Side::StrongSwan, "--ike") => b.rekey_ike().expect("a rekey"),
        (Side::StrongSwan, _) => b.rekey_child().expect("a rekey"),
    }
    eventually(&format!("{layer} to be rekeyed by {side:?}"), || {
        if layer == "--ike" {
            b.ike_sas().is_ok_and(|now| now.len() == 1 && now != ike)
        } else {
            b.children().is_ok_and(|now| {
                now.iter()
                    .any(|sa| sa.installed && children.iter().all(|old| old.inbound != sa.inbound))
            })
        }
    });
}

/// Brings the tunnel up with each of these proposals in turn, has traffic pass both ways, and rekeys from both sides.
fn agree(version: Version, initiator: Side, proposals: &[&str]) {
    if !ready() {
        return;
    }
    if let Some(reason) = version.unavailable() {
        println!("SKIPPED: {reason}");
        return;
    }
    let bed = bed();
    for esp in proposals {
        let site = Site {
            initiates: false,
            esn: false,
            esp: (*esp).to_owned(),
            ..Site::a()
        };
        let a = Gateway::start(&bed.gateway_a, &site, bed.log_dir()).expect("gateway A");
        let b = StrongSwan::start(version, &bed.gateway_b, &peer_of(&site), bed.log_dir())
            .expect("strongSwan");
        match initiator {
            Side::Esplanade => tell(&a, &["initiate", TUNNEL]),
            Side::StrongSwan => b.initiate().expect("initiate"),
        }
        a.wait_until_up(UP).expect("the tunnel");
        bed.warm_up().expect("traffic");
        let bytes = noise(100_000, 5);
        for side in [Side::Esplanade, Side::StrongSwan] {
            assert_eq!(bed.ping(3).expect("ping"), 3, "{esp}: {}", b.log());
            let there = transfer(&bed.host_a, (&bed.host_b, HOST_B), &bytes).expect("a transfer");
            let back = transfer(&bed.host_b, (&bed.host_a, HOST_A), &bytes).expect("a transfer");
            assert!(there.bytes == bytes && back.bytes == bytes, "{esp}");
            rekey(&a, &b, "--child", side);
            // strongSwan removes the old outbound SA a moment before it adds the new one.
            eventually("the old pair to go", || {
                b.children().is_ok_and(|children| children.len() == 1)
            });
        }
        assert_eq!(bed.ping(3).expect("ping"), 3, "{esp}: {}", b.log());
        let sas = a.sas().expect("sas");
        let named = |sa: &Sa| esp.starts_with(&sa.algorithm);
        assert!(
            sas.iter().all(|sa| named(sa) && sa.auth_failures == 0),
            "{sas:?}"
        );
        a.stop().expect("an orderly end");
    }
}

/// What both sides have; RFC 8221 is behind most of it.
const CIPHERS: [&str; 5] = [
    "chacha20poly1305-x25519",
    "aes192gcm16-ecp256",
    "aes128-sha256-x25519",
    "aes256-sha512",
    "aes128ccm16",
];

#[test]
fn esplanade_initiates_to_strongswan_5_with_other_ciphers() {
    agree(Version::Five, Side::Esplanade, &CIPHERS);
}

#[test]
fn strongswan_5_initiates_to_esplanade_with_other_ciphers() {
    agree(Version::Five, Side::StrongSwan, &CIPHERS);
}

#[test]
fn esplanade_initiates_to_strongswan_6_with_other_ciphers() {
    agree(Version::Six, Side::Esplanade, &CIPHERS);
}

#[test]
fn strongswan_6_initiates_to_esplanade_with_other_ciphers() {
    agree(Version::Six, Side::StrongSwan, &CIPHERS);
}

#[test]
fn esplanade_initiates_to_strongswan_5() {
    talk(Version::Five, Side::Esplanade);
}

#[test]
fn strongswan_5_initiates_to_esplanade() {
    talk(Version::Five, Side::StrongSwan);
}

#[test]
fn esplanade_initiates_to_strongswan_6() {
    talk(Version::Six, Side::Esplanade);
}

#[test]
fn strongswan_6_initiates_to_esplanade() {
    talk(Version::Six, Side::StrongSwan);
}
