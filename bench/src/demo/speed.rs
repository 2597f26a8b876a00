//! What the demonstration measures: throughput by frame size beside plain forwarding, latency, and
//! rekeys under load. Everything shares this machine's few cores, so the ratio says more than the rate.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use esplanade_channel::{Polling, Prefix};

use super::TUNNEL;
use super::narrator::Narrator;
use crate::driven::{Driven, Place};
use crate::gateway::Gateway;
use crate::testbed::{
    HOST, HOST_A, HOST_B, INSIDE_A, INSIDE_B, OUTSIDE, OUTSIDE_A, OUTSIDE_B, Testbed,
};
use crate::traffic::path::Path;
use crate::traffic::search::{Search, throughput};
use crate::traffic::tester::{Load, Tally, run};

/// Bytes of an Ethernet frame before it is sealed, its check sequence not counted.
const FRAMES: [usize; 3] = [64, 512, 1400];
const LATENCY_TIME: Duration = Duration::from_secs(2);
/// Half the throughput is what RFC 2544 users look at first; the machine has other work to do.
const LATENCY_SHARE: f64 = 0.5;
const REKEY_TIME: Duration = Duration::from_secs(4);
/// As the gateways have it when their configuration does not say.
const RING_FRAMES: u32 = 4_096;
/// A gateway looks at the kernel's own counters about once a second.
const COUNTERS_LAG: Duration = Duration::from_millis(1_200);
/// The counters of packets that found a ring full.
const NO_ROOM: [&str; 4] = ["RxRingFull", "RxFillEmpty", "NoTxFrame", "TxRingFull"];

/// Packets a second through the tunnel, for each of [`FRAMES`].
pub type Rates = Vec<f64>;

/// Throughput, latency and rekeys through the tunnel.
pub fn tunnel(
    narrator: &mut Narrator,
    bed: &Testbed,
    a: &Gateway<'_>,
    b: &Gateway<'_>,
) -> Result<Rates> {
    narrator.step("UDP through the tunnel with our own AF_XDP generator, host A to host B");
    let mut path = Path::open(bed)?;
    let rates = measure(narrator, &mut path)?;
    let half = rates.last().copied().unwrap_or(0.0) * LATENCY_SHARE;

    narrator.step(&format!(
        "Latency at half of that, {:.0} kpps of 1400 bytes",
        half / 1e3
    ));
    path.set_frame(1400)?;
    let load = Load {
        rate: Some(half),
        duration: LATENCY_TIME,
    };
    let (_, tally) = run(&mut path.generator, &mut path.receiver, load, |_, _| {})?;
    narrator.result("latency", &percentiles(&tally));

    rekeys(narrator, &mut path, [a, b], half)?;
    Ok(rates)
}

fn rekeys(
    narrator: &mut Narrator,
    path: &mut Path,
    gateways: [&Gateway<'_>; 2],
    rate: f64,
) -> Result<()> {
    narrator.step("Rekeying under that load: the child SA three times, the IKE SA once");
    let [a, _] = gateways;
    std::thread::sleep(COUNTERS_LAG);
    let late_before = came_too_late(path, gateways)?;
    let load = Load {
        rate: Some(rate),
        duration: REKEY_TIME,
    };
    let (sent, tally) = std::thread::scope(|scope| {
        let rekeying = scope.spawn(|| {
            for layer in ["--child", "--ike", "--child", "--child"] {
                std::thread::sleep(REKEY_TIME / 6);
                a.command(&["rekey", layer, TUNNEL])?.ok()?;
            }
            anyhow::Ok(())
        });
        let outcome = run(&mut path.generator, &mut path.receiver, load, |_, _| {});
        rekeying
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome
    })?;
    std::thread::sleep(COUNTERS_LAG);
    let late = came_too_late(path, gateways)? - late_before;
    let lost = sent.saturating_sub(tally.packets);
    if lost > 0 {
        narrator.fact(&format!(
            "{late} packets were lost because a worker got its core too late: this machine is busy"
        ));
    }
    // Whatever a rekey loses is lost for want of an SA or of a key, not for want of time.
    let by_rekeying = lost.saturating_sub(late);
    narrator.check(by_rekeying == 0, || {
        format!("{by_rekeying} of {sent} packets lost while rekeying")
    });
    narrator.result(
        "rekeys",
        &format!("4 under load, {lost} of {sent} packets lost"),
    );
    Ok(())
}

/// Packets that found no room, because whoever was to make room was not running.
fn came_too_late(path: &Path, gateways: [&Gateway<'_>; 2]) -> Result<u64> {
    let losses = path.receiver.losses();
    let mut late = losses.receive_ring_full + losses.fill_ring_empty;
    for gateway in gateways {
        let counters = gateway.counters()?;
        late += counters
            .iter()
            .filter(|row| NO_ROOM.contains(&row.name.as_str()))
            .map(|row| row.value)
            .sum::<u64>();
    }
    Ok(late)
}

/// The same with plain forwarding, and both side by side.
pub fn beside_forwarding(
    narrator: &mut Narrator,
    bed: &Testbed,
    through_tunnel: &Rates,
) -> Result<()> {
    narrator.step(
        "The same through plain AF_XDP forwarding: same ports, program and workers, no IPsec",
    );
    let mut a = forwarder(bed, true)?;
    let mut b = forwarder(bed, false)?;
    a.forward()?;
    b.forward()?;
    let mut path = Path::open(bed)?;
    let plain = measure(narrator, &mut path)?;
    for ((length, tunnel), plain) in FRAMES.iter().zip(through_tunnel).zip(&plain) {
        let gbps = |rate: &f64| rate * *length as f64 * 8.0 / 1e9;
        narrator.result(
            &format!("UDP, {length} bytes"),
            &format!(
                "{:.3} Mpps ({:.2} Gbit/s) of {:.3} Mpps forwarding: ratio {:.2}",
                tunnel / 1e6,
                gbps(tunnel),
                plain / 1e6,
                if *plain > 0.0 { tunnel / plain } else { 0.0 }
            ),
        );
    }
    a.stop()?;
    b.stop()
}

fn measure(narrator: &Narrator, path: &mut Path) -> Result<Rates> {
    FRAMES
        .iter()
        .map(|length| {
            path.set_frame(*length)?;
            let rate = throughput(&mut path.generator, &mut path.receiver, Search::default())?;
            narrator.fact(&format!(
                "{length:5} bytes  {:7.3} Mpps  {:6.2} Gbit/s",
                rate / 1e6,
                rate * *length as f64 * 8.0 / 1e9
            ));
            Ok(rate)
        })
        .collect()
}

fn percentiles(tally: &Tally) -> String {
    format!(
        "p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
        tally.latency_us(50.0),
        tally.latency_us(90.0),
        tally.latency_us(99.0),
        tally.latency_us(99.9),
        tally.latency_us(100.0)
    )
}

fn forwarder(bed: &Testbed, is_a: bool) -> Result<Driven> {
    let prefix = |address: Ipv4Addr| Prefix::new(IpAddr::V4(address), 16).context("a prefix");
    let (namespace, place, core) = if is_a {
        let place = Place {
            inside: INSIDE_A,
            local: prefix(HOST_A)?,
            remote: prefix(HOST_B)?,
            outside: OUTSIDE_A,
            peer: OUTSIDE_B,
            host: (HOST_A, bed.host_a.interface(HOST)?.mac),
            peer_mac: bed.gateway_b.interface(OUTSIDE)?.mac,
        };
        (&bed.gateway_a, place, None)
    } else {
        let place = Place {
            inside: INSIDE_B,
            local: prefix(HOST_B)?,
            remote: prefix(HOST_A)?,
            outside: OUTSIDE_B,
            peer: OUTSIDE_A,
            host: (HOST_B, bed.host_b.interface(HOST)?.mac),
            peer_mac: bed.gateway_a.interface(OUTSIDE)?.mac,
        };
        (&bed.gateway_b, place, None)
    };
    Driven::start(
        namespace,
        place,
        core,
        Polling::Adaptive,
        RING_FRAMES,
        bed.log_dir(),
    )
}
