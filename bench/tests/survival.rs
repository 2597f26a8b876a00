//! What happens when a plane dies: traffic goes on or stops, and never in the clear.

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::{UP, bed, eventually, ready, two_gateways, two_gateways_of};
use esplanade_bench::gateway::{Gateway, Site};
use esplanade_bench::testbed::{HOST_A, HOST_B, Testbed, kill};
use esplanade_bench::traffic::stream::Stream;
use esplanade_bench::wire_tap::{Depth, WireTap};
use rustix::process::Signal;

#[test]
fn the_control_plane_dies_and_returns_and_no_packet_is_lost() {
    lose_the_control_plane(&Site::b(), None);
}

#[test]
fn what_the_peer_narrowed_loses_no_packet_either_and_stays_narrow() {
    let narrow = Site {
        local_prefix: format!("{HOST_B}/32"),
        ..Site::b()
    };
    lose_the_control_plane(&narrow, Some(Ipv4Addr::new(10, 2, 9, 9)));
}

/// Kills A's control plane under traffic, some of which goes beyond what B agreed to.
fn lose_the_control_plane(site_b: &Site, beyond: Option<Ipv4Addr>) {
    if !ready() {
        return;
    }
    let bed = bed();
    let wire = bed.wire.as_ref().expect("a bridge");
    let (a, b) = two_gateways_of(&bed, &Site::a(), site_b);
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Headers, b"").expect("a listener");
    let there = Stream::start(&bed.host_a, (&bed.host_b, HOST_B), 1_000, 200).expect("a stream");
    let back = Stream::start(&bed.host_b, (&bed.host_a, HOST_A), 1_000, 200).expect("a stream");
    let beyond = beyond
        .map(|to| Stream::start(&bed.host_a, (&bed.gateway_b, to), 1_000, 200).expect("a stream"));
    std::thread::sleep(Duration::from_millis(500));

    let old_spi = a.outbound_spi().expect("an SPI");
    let old = a.control_plane_id().expect("an id");
    kill(old);
    eventually("a new control plane", || {
        a.control_plane_id().is_ok_and(|id| id != old)
    });
    a.wait_until_up(UP).expect("a fresh tunnel");
    eventually("A to send by a freshly negotiated SA", || {
        a.outbound_spi().is_ok_and(|spi| spi != old_spi)
    });
    // At B they stay until it finds out that their IKE SA has no other end any more: A has lost its
    // keys, and RFC 7296 2.4 has INITIAL_CONTACT in the first exchanges or not at all.
    eventually("the old SAs to go at A", || {
        a.sas().is_ok_and(|sas| sas.len() == 2)
    });

    for (direction, stream) in [("there", there), ("back", back)] {
        let outcome = stream.stop().expect("an outcome");
        assert_eq!(
            (outcome.lost(), outcome.repeated),
            (0, 0),
            "{direction}: {outcome:?}"
        );
    }
    let seen = tap.stop().expect("what was seen");
    assert_eq!((seen.repeated_nonces, seen.missed), (0, 0), "{seen:?}");
    if let Some(beyond) = beyond {
        beyond.stop().expect("an outcome");
    }
    // RFC 4301 5.2 step 4: B would have dropped what A sent by an SA that was not agreed for it.
    let refused = b.counter("InTmplMismatch").expect("a counter");
    assert_eq!(refused, 0);
}

#[test]
fn the_dataplane_dies_and_traffic_flows_again_within_a_second_of_its_return() {
    if !ready() {
        return;
    }
    let bed = bed();
    let wire = bed.wire.as_ref().expect("a bridge");
    let (a, _b) = two_gateways(&bed);
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Headers, b"").expect("a listener");
    let stream = Stream::start(&bed.host_a, (&bed.host_b, HOST_B), 1_000, 200).expect("a stream");
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..2 {
        let old = a.dataplane_id().expect("an id");
        kill(old);
        eventually("a new dataplane", || {
            a.dataplane_id().is_ok_and(|id| id != old)
        });
        let returned = Instant::now();
        while bed.host_a.ping(HOST_B, 1).expect("ping") == 0 {
            assert!(
                returned.elapsed() < Duration::from_secs(3),
                "no traffic after a return"
            );
        }
        // A ping that was lost was waited for.
        assert!(
            returned.elapsed() < Duration::from_millis(2200),
            "{:?}",
            returned.elapsed()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    let outcome = stream.stop().expect("an outcome");
    assert!(
        outcome.longest_silence < Duration::from_millis(2500),
        "{outcome:?}"
    );
    assert_eq!(outcome.repeated, 0, "{outcome:?}");
    let seen = tap.stop().expect("what was seen");
    assert!(seen.only_protected(), "{seen:?}");
    assert_eq!(
        seen.repeated_nonces, 0,
        "no sequence number twice under one key: {seen:?}"
    );
    assert!(seen.packets_by_spi.len() >= 3, "fresh child SAs: {seen:?}");
}

/// Sends from the protected prefix for a while and says what got onto the wire.
fn listen_while_sending(bed: &Testbed, disaster: impl FnOnce()) -> esplanade_bench::wire_tap::Seen {
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Whole, b"").expect("a listener");
    let stream = Stream::start(&bed.host_a, (&bed.host_b, HOST_B), 2_000, 200).expect("a stream");
    std::thread::sleep(Duration::from_millis(200));
    disaster();
    std::thread::sleep(Duration::from_secs(1));
    stream.stop().expect("an outcome");
    tap.stop().expect("what was seen")
}

/// Kills a gateway's supervisor and both planes.
fn kill_whole(gateway: &mut Gateway<'_>) {
    let planes = [gateway.dataplane_id(), gateway.control_plane_id()];
    let planes = planes.map(|id| id.expect("an id"));
    gateway.supervisor().kill().expect("an end");
    for plane in planes {
        kill(plane);
    }
}

#[test]
fn nothing_leaves_in_the_clear_while_both_planes_are_killed() {
    if !ready() {
        return;
    }
    let bed = bed();
    assert_eq!(
        bed.ping(2).expect("ping"),
        2,
        "the kernel would forward it in the clear"
    );
    let (mut a, b) = two_gateways(&bed);
    let seen = listen_while_sending(&bed, || kill_whole(&mut a));
    assert!(seen.only_protected(), "{seen:?}");
    assert!(
        seen.esp > 100,
        "it was sent through the tunnel before: {seen:?}"
    );

    // What the dead left behind does not stop the next start, which takes the guard over.
    let seen = listen_while_sending(&bed, || a.restart().expect("a restart"));
    assert!(seen.only_protected(), "{seen:?}");
    a.wait_until_up(UP).expect("the tunnel at A");
    b.wait_until_up(UP).expect("the tunnel at B");
    bed.warm_up().expect("traffic");
    assert_eq!(bed.ping(5).expect("ping"), 5);
}

#[test]
fn nothing_leaves_in_the_clear_while_one_plane_is_dead() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (mut a, _b) = two_gateways(&bed);
    for control_plane in [false, true] {
        // A supervisor that is stopped does not start a new one.
        a.supervisor().signal(Signal::STOP);
        let seen = listen_while_sending(&bed, || {
            let id = if control_plane {
                a.control_plane_id()
            } else {
                a.dataplane_id()
            };
            kill(id.expect("an id"));
        });
        a.supervisor().signal(Signal::CONT);
        assert!(seen.only_protected(), "{seen:?}");
        a.wait_until_ready().expect("a return");
        a.wait_until_up(UP).expect("the tunnel");
        eventually("traffic", || bed.ping(1).is_ok_and(|count| count == 1));
    }
}

#[test]
fn the_guard_can_be_switched_off_by_name() {
    if !ready() {
        return;
    }
    let bed = bed();
    let open = Site {
        guard: false,
        ..Site::a()
    };
    let (a, _b) = two_gateways_of(&bed, &open, &Site::b());
    assert!(!a.status().expect("status").control_plane.guard.on);
    let rules = bed.gateway_a.run(&["ip", "rule"]).expect("ip rule").stdout;
    assert!(!rules.contains("4301"), "{rules}");
}

#[test]
fn a_peer_that_vanished_and_returns_is_let_in() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (mut a, b) = two_gateways(&bed);
    // A dies without a word; its successor knows nothing and says INITIAL_CONTACT.
    kill_whole(&mut a);
    a.restart().expect("a restart");
    a.wait_until_up(UP).expect("the tunnel at A");
    bed.warm_up().expect("traffic");
    assert_eq!(bed.ping(5).expect("ping"), 5);
    eventually("B to forget the old SAs", || {
        b.sas().is_ok_and(|sas| sas.len() == 2)
    });
}

#[test]
fn an_upgrade_keeps_the_tunnels() {
    if !ready() {
        return;
    }
    let bed = bed();
    let b = Gateway::start(&bed.gateway_b, &Site::b(), bed.log_dir()).expect("gateway B");
    let mut a =
        Gateway::start_keeping(&bed.gateway_a, &Site::a(), bed.log_dir()).expect("gateway A");
    a.wait_until_up(UP).expect("the tunnel at A");
    b.wait_until_up(UP).expect("the tunnel at B");
    bed.warm_up().expect("traffic");
    let stream = Stream::start(&bed.host_a, (&bed.host_b, HOST_B), 1_000, 200).expect("a stream");
    std::thread::sleep(Duration::from_millis(300));
    a.supervisor()
        .terminate(Duration::from_secs(15))
        .expect("an end");
    std::thread::sleep(Duration::from_secs(1));
    a.restart().expect("a restart");
    a.wait_until_up(UP).expect("the tunnel at A");
    std::thread::sleep(Duration::from_secs(1));
    let outcome = stream.stop().expect("an outcome");
    assert_eq!((outcome.lost(), outcome.repeated), (0, 0), "{outcome:?}");
}
