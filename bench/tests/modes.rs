//! AH, transport mode, the gateways' own traffic and traffic flow confidentiality, between two Esplanade gateways.

mod common;

use common::{UP, bed, eventually, ready, tell, two_gateways_of};
use esplanade_bench::gateway::{Gateway, Site, TUNNEL};
use esplanade_bench::testbed::{HOST_B, OUTSIDE_A, OUTSIDE_B, Testbed};

const TAP: &str = "esp0";

fn sites(change: impl Fn(Site) -> Site) -> (Site, Site) {
    (change(Site::a()), change(Site::b()))
}

/// A child between the two gateways themselves.
fn between(site: Site, lines: &[&str]) -> Site {
    Site {
        local_prefix: format!("{}/32", site.local),
        remote_prefix: format!("{}/32", site.remote),
        tap: Some(TAP),
        child: lines.iter().map(|line| (*line).to_owned()).collect(),
        ..site
    }
}

/// Two gateways whose tunnel is up, and over which no host can speak to warm it up.
fn started<'a>(bed: &'a Testbed, a: &Site, b: &Site) -> (Gateway<'a>, Gateway<'a>) {
    let b = Gateway::start(&bed.gateway_b, b, bed.log_dir()).expect("gateway B");
    let a = Gateway::start(&bed.gateway_a, a, bed.log_dir()).expect("gateway A");
    a.wait_until_up(UP).expect("the tunnel at A");
    b.wait_until_up(UP).expect("the tunnel at B");
    (a, b)
}

fn all_are(gateway: &Gateway<'_>, protocol: &str, mode: &str) {
    let sas = gateway.sas().expect("sas");
    assert!(!sas.is_empty());
    for sa in sas {
        assert_eq!(
            (sa.protocol.as_str(), sa.mode.as_str()),
            (protocol, mode),
            "{sa:?}"
        );
        assert_eq!((sa.replay_drops, sa.auth_failures), (0, 0), "{sa:?}");
    }
}

#[test]
fn ah_carries_a_tunnel_and_is_rekeyed() {
    if !ready() {
        return;
    }
    let bed = bed();
    for esp in ["sha256-x25519", "aes128gmac"] {
        let (a, b) = sites(|site| Site {
            esp: esp.to_owned(),
            child: vec!["protocol: ah".to_owned()],
            ..site
        });
        let (a, b) = two_gateways_of(&bed, &a, &b);
        assert_eq!(bed.ping(5).expect("ping"), 5, "{esp}");
        tell(&a, &["rekey", "--child", TUNNEL]);
        assert_eq!(bed.ping(5).expect("ping"), 5, "{esp}");
        for gateway in [&a, &b] {
            all_are(gateway, "ah", "tunnel");
            assert!(gateway.counter("InAhPackets").expect("a counter") >= 10);
            assert_eq!(gateway.counter("InEspPackets").expect("a counter"), 0);
        }
        a.stop().expect("an orderly end");
        b.stop().expect("an orderly end");
    }
}

#[test]
fn the_gateways_speak_to_each_other_in_transport_mode() {
    if !ready() {
        return;
    }
    let bed = bed();
    for (esp, lines, protocol, counter) in [
        (
            "aes256gcm16-x25519",
            &["mode: transport"][..],
            "esp",
            "InEspPackets",
        ),
        (
            "sha256",
            &["mode: transport", "protocol: ah"],
            "ah",
            "InAhPackets",
        ),
    ] {
        let (a, b) = sites(|site| {
            let esp = esp.to_owned();
            between(Site { esp, ..site }, lines)
        });
        let (a, b) = started(&bed, &a, &b);
        // The routes follow the TAP as soon as it is up.
        eventually("a way through the TAP", || {
            bed.gateway_a
                .ping(OUTSIDE_B, 1)
                .is_ok_and(|answered| answered == 1)
        });
        assert_eq!(
            bed.gateway_a.ping(OUTSIDE_B, 5).expect("ping"),
            5,
            "{protocol}"
        );
        assert_eq!(
            bed.gateway_b.ping(OUTSIDE_A, 5).expect("ping"),
            5,
            "{protocol}"
        );
        // IKE goes on beside it.
        tell(&a, &["rekey", "--child", TUNNEL]);
        assert_eq!(
            bed.gateway_a.ping(OUTSIDE_B, 5).expect("ping"),
            5,
            "{protocol}"
        );
        for gateway in [&a, &b] {
            all_are(gateway, protocol, "transport");
            assert!(gateway.counter(counter).expect("a counter") >= 10);
        }
        a.stop().expect("an orderly end");
        b.stop().expect("an orderly end");
    }
}

#[test]
fn a_gateways_own_traffic_goes_through_its_tunnel() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, b) = sites(|site| Site {
        tap: Some(TAP),
        ..site
    });
    let (a, _b) = two_gateways_of(&bed, &a, &b);
    let before = a.counter("OutPackets").expect("a counter");
    eventually("a way through the TAP", || {
        bed.gateway_a
            .ping(HOST_B, 1)
            .is_ok_and(|answered| answered == 1)
    });
    assert_eq!(bed.gateway_a.ping(HOST_B, 5).expect("ping"), 5);
    assert!(a.counter("OutPackets").expect("a counter") >= before + 6);
    assert_eq!(bed.ping(3).expect("ping"), 3, "the hosts' goes on");
}

#[test]
fn padding_and_dummies_hide_what_passes() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, b) = sites(|site| Site {
        child: vec!["tfc: { size: mtu, dummies: 50 }".to_owned()],
        ..site
    });
    let (a, b) = two_gateways_of(&bed, &a, &b);
    assert_eq!(bed.ping(5).expect("ping"), 5);
    for gateway in [&a, &b] {
        // Ten packets and more, of which each has grown by over a kilobyte.
        let padding = gateway.counter("OutTfcBytes").expect("a counter");
        assert!(padding > 5_000, "{padding}");
        eventually("dummy packets", || {
            gateway.counter("InDummy").is_ok_and(|dummies| dummies > 10)
        });
    }
}
