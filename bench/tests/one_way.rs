//! The control plane dies and returns while traffic flows one way only: the receiver's own packets cannot
//! tell its peer anything, and still nothing is lost, until long after the old SAs are gone.

mod common;

use std::time::{Duration, Instant};

use common::{UP, bed, eventually, ready, two_gateways};
use esplanade_bench::gateway::Gateway;
use esplanade_bench::testbed::{HOST_A, HOST_B, Namespace, Testbed, kill};
use esplanade_bench::traffic::stream::Stream;
use esplanade_bench::wire_tap::{Depth, WireTap};

/// How long the traffic is watched after the control plane's return. The old inbound SAs end five seconds
/// after their replacement.
const WATCHED: Duration = Duration::from_secs(20);

/// Which end loses its control plane, and which way traffic flows.
#[derive(Debug, Clone, Copy)]
struct Case {
    initiator_dies: bool,
    towards_the_dead: bool,
}

fn nothing_is_lost(case: Case) {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, b) = two_gateways(&bed);
    let (near, far): (&Gateway<'_>, &Gateway<'_>) = if case.initiator_dies {
        (&a, &b)
    } else {
        (&b, &a)
    };
    let mut hosts: [(&Namespace, _); 2] = [(&bed.host_a, HOST_A), (&bed.host_b, HOST_B)];
    if case.initiator_dies == case.towards_the_dead {
        hosts.reverse();
    }
    let [(from, _), to] = hosts;
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Headers, b"").expect("a listener");
    let stream = Stream::start(from, to, 1_000, 200).expect("a stream");
    std::thread::sleep(Duration::from_millis(500));

    let old_spis = [near, far].map(|gateway| gateway.outbound_spi().expect("an SPI"));
    let old = near.control_plane_id().expect("an id");
    kill(old);
    eventually("a new control plane", || {
        near.control_plane_id().is_ok_and(|id| id != old)
    });
    let returned = Instant::now();
    near.wait_until_up(UP).expect("the tunnel");
    for (gateway, spi) in [near, far].into_iter().zip(old_spis) {
        eventually("each to send by a fresh SA", || {
            gateway.outbound_spi().is_ok_and(|now| now != spi)
        });
    }
    println!(
        "{case:?}: fresh SAs carry the traffic after {:?}",
        returned.elapsed()
    );
    eventually("the old SAs to go where the control plane died", || {
        near.sas().is_ok_and(|sas| sas.len() == 2)
    });
    println!("{case:?}: the old are gone after {:?}", returned.elapsed());
    std::thread::sleep(WATCHED.saturating_sub(returned.elapsed()));

    let outcome = stream.stop().expect("an outcome");
    assert_eq!(
        (outcome.lost(), outcome.repeated),
        (0, 0),
        "{case:?}: {outcome:?}, {:?}, {:?}",
        near.losses(),
        far.losses()
    );
    let seen = tap.stop().expect("what was seen");
    assert_eq!((seen.repeated_nonces, seen.missed), (0, 0), "{seen:?}");
    assert!(seen.only_protected(), "{seen:?}");
}

#[test]
fn towards_an_initiator_that_restarts() {
    nothing_is_lost(Case {
        initiator_dies: true,
        towards_the_dead: true,
    });
}

#[test]
fn from_an_initiator_that_restarts() {
    nothing_is_lost(Case {
        initiator_dies: true,
        towards_the_dead: false,
    });
}

#[test]
fn towards_a_responder_that_restarts() {
    nothing_is_lost(Case {
        initiator_dies: false,
        towards_the_dead: true,
    });
}

#[test]
fn from_a_responder_that_restarts() {
    nothing_is_lost(Case {
        initiator_dies: false,
        towards_the_dead: false,
    });
}
