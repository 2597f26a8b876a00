//! What an attacker on the wire can send: counted under a reason, never a crash, never let through.

mod common;

use std::net::SocketAddrV4;
use std::time::Duration;

use common::{bed, eventually, ready, two_gateways};
use esplanade_bench::gateway::{Gateway, Site};
use esplanade_bench::testbed::{HOST, HOST_A, HOST_B, OUTSIDE_A, OUTSIDE_B, Testbed, kill};
use esplanade_bench::traffic::inject;
use esplanade_bench::traffic::transfer::noise;
use esplanade_bench::wire_tap::{Depth, WireTap};

#[test]
fn replayed_forged_truncated_and_unknown_esp_is_counted_and_dropped() {
    if !ready() {
        return;
    }
    let bed = bed();
    let wire = bed.wire.as_ref().expect("a bridge");
    let (a, b) = two_gateways(&bed);
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Whole, b"").expect("a listener");
    assert_eq!(bed.ping(5).expect("ping"), 5);
    let seen = tap.stop().expect("what was seen");
    let to_a: Vec<Vec<u8>> = seen
        .samples
        .into_iter()
        .filter(|sample| sample.source == OUTSIDE_B)
        .map(|sample| sample.bytes)
        .collect();
    assert!(to_a.len() >= 5, "five answers");
    let delivered = a.counter("InPackets").expect("a counter");

    let expect = |counter: &str, packets: Vec<Vec<u8>>| {
        let before = a.counter(counter).expect("a counter");
        let count = packets.len() as u64;
        inject::esp(&bed.gateway_b, OUTSIDE_A, &packets).expect("an injection");
        eventually(&format!("{counter} to count {count}"), || {
            a.counter(counter).is_ok_and(|now| now >= before + count)
        });
    };
    let changed = |change: &dyn Fn(&mut Vec<u8>)| -> Vec<Vec<u8>> {
        let mut packets = to_a.clone();
        packets.iter_mut().for_each(change);
        packets
    };
    expect("InStateSeqError", to_a.clone());
    // A sequence number ahead of all others passes the first look at the window; the ICV does not.
    expect(
        "InStateProtoError",
        changed(&|packet| packet[4..8].copy_from_slice(&1_000_000_u32.to_be_bytes())),
    );
    expect(
        "InNoStates",
        changed(&|packet| packet[..4].copy_from_slice(&[0xef, 0xff, 0xff, 0x01])),
    );
    expect(
        "InHdrError",
        changed(&|packet| {
            packet[4..8].copy_from_slice(&1_000_001_u32.to_be_bytes());
            packet.truncate(20);
        }),
    );
    inject::esp(
        &bed.gateway_b,
        OUTSIDE_A,
        &[vec![], vec![1], vec![0; 7], noise(1_400, 7)],
    )
    .expect("an injection");

    assert_eq!(
        a.counter("InPackets").expect("a counter"),
        delivered,
        "none was let through"
    );
    assert_eq!(
        bed.ping(5).expect("ping"),
        5,
        "and the tunnel does not mind"
    );
    assert_eq!(b.counter("InStateProtoError").expect("a counter"), 0);
}

#[test]
fn malformed_ike_and_ike_from_strangers_is_counted_and_harms_nobody() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, _b) = two_gateways(&bed);
    let ids = (
        a.dataplane_id().expect("an id"),
        a.control_plane_id().expect("an id"),
    );
    let mut messages: Vec<Vec<u8>> = (0..200)
        .map(|seed| noise(seed * 7 % 1_300, seed as u64))
        .collect();
    // A header of IKE_SA_INIT that promises more than there is.
    let mut header = noise(28, 9);
    header[8..16].fill(0);
    header[16..28].copy_from_slice(&[33, 0x20, 34, 0x08, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    messages.push(header);
    for port in [500, 4500] {
        let to = SocketAddrV4::new(OUTSIDE_A, port);
        inject::udp(&bed.gateway_b, to, &messages).expect("an injection");
        let marked: Vec<Vec<u8>> = messages
            .iter()
            .map(|message| [&[0; 4][..], message].concat())
            .collect();
        inject::udp(&bed.gateway_b, to, &marked).expect("an injection");
    }
    eventually("malformed IKE to be counted", || {
        a.counters().is_ok_and(|counters| {
            counters
                .iter()
                .filter(|row| row.plane == "ike" && row.name.to_lowercase().contains("malformed"))
                .map(|row| row.value)
                .sum::<u64>()
                > 100
        })
    });
    assert_eq!(bed.ping(5).expect("ping"), 5);
    let now = (
        a.dataplane_id().expect("an id"),
        a.control_plane_id().expect("an id"),
    );
    assert_eq!(now, ids, "neither plane was restarted");
}

#[test]
fn plaintext_of_a_protected_prefix_from_outside_is_dropped() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, _b) = two_gateways(&bed);
    let before = a.counter("InNoPols").expect("a counter");
    around_the_tunnel(&bed, "10.2.0.77");
    eventually("it to be counted", || {
        a.counter("InNoPols").is_ok_and(|now| now >= before + 3)
    });
}

#[test]
fn plaintext_of_a_protected_prefix_from_outside_is_dropped_while_both_planes_are_dead() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (mut a, _b) = two_gateways(&bed);
    let (data, control) = (
        a.dataplane_id().expect("an id"),
        a.control_plane_id().expect("an id"),
    );
    a.supervisor().kill().expect("an end");
    kill(data);
    kill(control);
    let filters = bed
        .gateway_a
        .run(&[
            "sysctl",
            "-a",
            "-r",
            r"^net\.ipv4\.(ip_forward|conf\.(all|eth2)\.rp_filter)$",
        ])
        .expect("sysctl")
        .stdout;
    assert_eq!(
        filters,
        "net.ipv4.conf.all.rp_filter = 0\nnet.ipv4.conf.eth2.rp_filter = 0\nnet.ipv4.ip_forward = 1\n"
    );
    let plaintext_inside = |from: &str| {
        let tap = WireTap::start(&bed.host_a, HOST, Depth::Whole, b"").expect("a listener");
        around_the_tunnel(&bed, from);
        let seen = tap.stop().expect("what was seen");
        assert_eq!(seen.missed, 0, "{seen:?}");
        seen.other
    };
    // What no tunnel protects is the kernel's to forward: the way is open, and the listener sees.
    assert!(plaintext_inside("10.9.0.77") >= 3);
    assert_eq!(plaintext_inside("10.2.0.77"), 0);
    assert_eq!(
        bed.gateway_b.ping(OUTSIDE_A, 2).expect("ping"),
        2,
        "what is for the gateway itself arrives"
    );
}

/// Has a router on the wire send three pings of this source, which should have come through the tunnel, to host A. None
/// is answered.
fn around_the_tunnel(bed: &Testbed, forged: &str) {
    bed.gateway_b
        .ip(&format!(
            "addr add {forged}/32 dev lo\n\
             route replace 10.1.0.0/16 via {OUTSIDE_A} table 99\n\
             rule add from {forged} lookup 99 pref 1\n"
        ))
        .expect("a route around the tunnel");
    let to = HOST_A.to_string();
    let said = bed
        .gateway_b
        .run(&[
            "ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", "-I", forged, &to,
        ])
        .expect("ping");
    assert!(said.stdout.contains(" 0 received"), "{}", said.stdout);
}

#[test]
fn a_wrong_secret_and_a_wrong_proposal_are_said_in_words() {
    if !ready() {
        return;
    }
    let bed = bed();
    let cases = [
        (
            Site {
                secret: "something else".to_owned(),
                ..Site::b()
            },
            "AUTHENTICATION_FAILED",
        ),
        (
            Site {
                ike: "aes128gcm16-sha256-modp2048".to_owned(),
                ..Site::b()
            },
            "NO_PROPOSAL_CHOSEN",
        ),
    ];
    for (site_b, notify) in cases {
        let b = Gateway::start(&bed.gateway_b, &site_b, bed.log_dir()).expect("gateway B");
        let a = Gateway::start(&bed.gateway_a, &Site::a(), bed.log_dir()).expect("gateway A");
        eventually("A to know why the tunnel is down", || {
            a.status()
                .is_ok_and(|status| status.tunnels[0].trouble.is_some())
        });
        let trouble = a.status().expect("status").tunnels[0]
            .trouble
            .clone()
            .unwrap_or_default();
        println!("{notify}: {trouble}");
        assert!(!trouble.is_empty());
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(bed.host_a.ping(HOST_B, 1).expect("ping"), 0);
        a.stop().expect("an end");
        b.stop().expect("an end");
    }
}
