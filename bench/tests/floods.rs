//! What good traffic gets while somebody floods its gateway: the share of it that arrives is printed beside what arrives without
//! a flood, and is a figure to look at, not one to fail by. What must hold is that each flood is counted by its name, that none of
//! it comes through, and that the tunnel is as before when it is over.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{bed, eventually, ready, tell, two_gateways_of};
use esplanade_bench::gateway::{Site, TUNNEL};
use esplanade_bench::testbed::{HOST_A, OUTSIDE_A, OUTSIDE_B, Testbed};
use esplanade_bench::traffic::{inject, stream::Stream};
use esplanade_bench::wire_tap::{Depth, WireTap};

/// Datagrams of good traffic a second, a rate that the hosts' kernels carry beside a flood.
const RATE: u32 = 2_000;
const LENGTH: usize = 400;
const A_WHILE: Duration = Duration::from_millis(800);

/// The share of a stream from B's host to A's that arrives.
fn share(bed: &Testbed) -> f64 {
    let stream = Stream::start(&bed.host_b, (&bed.host_a, HOST_A), RATE, LENGTH).expect("a stream");
    std::thread::sleep(A_WHILE);
    let outcome = stream.stop().expect("what became of it");
    outcome.received as f64 / outcome.sent as f64
}

/// A stream beside packets that somebody sends as fast as one thread can; with how many that were.
fn beside(bed: &Testbed, flood: impl Fn() -> u64 + Sync) -> (f64, u64) {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let share = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                sent.fetch_add(flood(), Ordering::Relaxed);
            }
        });
        let share = share(bed);
        stop.store(true, Ordering::Relaxed);
        share
    });
    (share, sent.into_inner())
}

#[test]
fn good_traffic_has_its_share_beside_each_flood() {
    if !ready() {
        return;
    }
    let bed = bed();
    // Without ESN, what is older than the window is late, and not taken for a number yet to come (RFC 4303 A2.2).
    let (site_a, site_b) = (
        Site {
            esn: false,
            ..Site::a()
        },
        Site {
            esn: false,
            ..Site::b()
        },
    );
    let (a, _b) = two_gateways_of(&bed, &site_a, &site_b);
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Whole, b"").expect("a listener");
    assert_eq!(bed.ping(5).expect("ping"), 5);
    let samples = tap.stop().expect("what was seen").samples.into_iter();
    let to_a = samples.filter(|sample| sample.source == OUTSIDE_B);
    let valid: Vec<Vec<u8>> = to_a.map(|sample| sample.bytes).collect();
    assert!(!valid.is_empty());
    let sequence = AtomicU64::new(1 << 20);
    let many = |change: &dyn Fn(&mut Vec<u8>)| -> Vec<Vec<u8>> {
        let mut packets: Vec<Vec<u8>> = valid.iter().cycle().take(64).cloned().collect();
        packets.iter_mut().for_each(change);
        packets
    };
    let send = |packets: &[Vec<u8>]| {
        // A queue that is full is a flood too.
        let _ = inject::esp(&bed.gateway_b, OUTSIDE_A, packets);
        packets.len() as u64
    };

    let alone = share(&bed);
    println!(
        "good traffic alone: {:.1} % of {RATE} packets a second arrive",
        100.0 * alone
    );
    assert!(alone > 0.0);
    type Flood<'a> = Box<dyn Fn() -> u64 + Sync + 'a>;
    let floods: [(&str, &str, Flood<'_>); 4] = [
        (
            "bad ICV",
            "InStateProtoError",
            Box::new(|| {
                send(&many(&|packet| {
                    let number = sequence.fetch_add(1, Ordering::Relaxed) as u32;
                    packet[4..8].copy_from_slice(&number.to_be_bytes());
                }))
            }),
        ),
        (
            "replays",
            "InStateSeqErrorLate",
            Box::new(|| send(&many(&|_| {}))),
        ),
        (
            "unknown SPI",
            "InNoStates",
            Box::new(|| {
                send(&many(&|packet| {
                    packet[..4].copy_from_slice(&[0xef, 0xff, 0xff, 1])
                }))
            }),
        ),
        (
            "fragments that never complete",
            "InFragmentLimit",
            Box::new(|| {
                let packets = many(&|_| {});
                let count = packets.len() as u64;
                let first = sequence.fetch_add(count, Ordering::Relaxed) as u16;
                let from = (&bed.gateway_b, OUTSIDE_B);
                let _ = inject::first_fragments(from.0, from.1, OUTSIDE_A, first, &packets);
                count
            }),
        ),
    ];
    for (name, counter, flood) in floods {
        let count = || a.counter(counter).expect("a counter");
        let before = count();
        let (beside, sent) = beside(&bed, flood);
        println!(
            "beside {name}: {:.1} % arrive, {:.2} of what does alone ({sent} packets of the flood)",
            100.0 * beside,
            beside / alone
        );
        assert!(sent > 0);
        assert!(count() > before, "{name} is counted");
        assert_eq!(bed.ping(3).expect("ping"), 3, "after {name}");
    }

    // The drops are the SA's and the tunnel's, and the tunnel keeps them, and what was carried, when the SA is replaced.
    let totals = || a.status().expect("a status").tunnels[0].totals.clone();
    let of_sas = || {
        let sas = a.sas().expect("SAs").into_iter();
        sas.filter_map(|sa| sa.drops.get("InStateSeqErrorLate").copied())
            .sum::<u64>()
    };
    let before = totals();
    for reason in ["InStateProtoError", "InStateSeqErrorLate"] {
        assert!(before.drops.contains_key(reason), "{before:?}");
    }
    assert!(
        before.in_packets > 100 && before.out_packets > 5,
        "{before:?}"
    );
    assert!(of_sas() > 0);
    tell(&a, &["rekey", TUNNEL]);
    eventually("the old SA to go", || of_sas() == 0);
    assert_eq!(bed.ping(1).expect("ping"), 1);
    let after = totals();
    assert!(after.in_packets > before.in_packets && after.in_bytes > before.in_bytes);
    assert!(
        after.drops["InStateSeqErrorLate"] >= before.drops["InStateSeqErrorLate"],
        "{after:?}"
    );
}
