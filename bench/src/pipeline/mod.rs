//! The whole worker by itself, without a wire: from a received frame through parsing, SPD or SPI lookup, SA, crypto, outer
//! header and next hop to a frame that is ready to be sent.
//!
//! Two gateways stand back to back in one thread: bursts of plain packets go into the first, what comes out into the
//! second, and what comes out there is what went in. Only the two workers' own rounds are timed, the copying between them
//! is not; every packet is counted, and a sample is compared byte by byte. So the second gateway never sees a number twice,
//! and no SA has to be renewed to be measured for as long as one likes.

mod gateway;
mod lane;
mod plot;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use esplanade_channel as channel;
use esplanade_crypto::{Algorithm, EngineKind};
use esplanade_dataplane::huge_pages;
use esplanade_dataplane::port::BURST;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::timing::{
    Bytes, JsonLines, Machine, Summary, mean, pin, resident, ticks_per_nanosecond,
};
use gateway::{Gateway, Keys, MAX_NETWORKS, MAX_PAIRS, MAX_POLICIES_OF_SA, Site, Size};
use lane::Lane;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Bytes of the inner IP packets; `imix` is 7:4:1 of 64, 570 and 1420.
    #[arg(long, value_delimiter = ',', default_value = "64,512,1420,imix")]
    bytes: Vec<Bytes>,
    /// What to compare; the first is what the others are held against.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "one,aes-256,sas,policies,workers,shared,million"
    )]
    scenario: Vec<Scenario>,
    /// How often each measurement has its turn; all scenarios take turns.
    #[arg(long, default_value_t = 101)]
    rounds: usize,
    /// The crypto engine; without it the fastest.
    #[arg(long)]
    engine: Option<EngineKind>,
    /// The core to run on; more workers take those behind it.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Write the results as JSON lines as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw packets a second over packet length, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What stands in the gateways. Flows take turns in random order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One tunnel, AES-128-GCM.
    One,
    /// The same with AES-256-GCM.
    #[value(name = "aes-256")]
    Aes256,
    /// 10,000 tunnels with a policy each.
    Sas,
    /// 10,000 policies of 40 tunnels, and 100,000 flows.
    Policies,
    /// Two workers, each with tunnels of its own.
    Workers,
    /// Two workers that share one tunnel, with a pair of SAs each (RFC 9611).
    Shared,
    /// 1,000,000 SAs: 500,000 tunnels with a policy each.
    Million,
}

impl Scenario {
    fn algorithm(self) -> (channel::Transform, Algorithm, &'static str) {
        match self {
            Self::Aes256 => (
                channel::Transform::AES_256_GCM_16,
                Algorithm::AES_256_GCM_16,
                "aes-256-gcm",
            ),
            _ => (
                channel::Transform::AES_128_GCM_16,
                Algorithm::AES_128_GCM_16,
                "aes-128-gcm",
            ),
        }
    }

    fn size(self) -> Size {
        let (tunnels, policies, workers) = match self {
            Self::One | Self::Aes256 => (1, 1, 1),
            Self::Sas => (10_000, 1, 1),
            Self::Policies => (40, 250, 1),
            Self::Workers => (2, 1, 2),
            Self::Shared => (1, 1, 2),
            Self::Million => (500_000, 1, 1),
        };
        Size {
            tunnels,
            policies,
            workers,
            shared: self == Self::Shared,
        }
    }

    /// Of all workers together.
    fn flows(self) -> u32 {
        match self {
            Self::Policies => 100_000,
            other => other.size().tunnels * u32::from(other.size().workers),
        }
    }
}

const _: () = assert!(MAX_NETWORKS >= 500_000 && MAX_PAIRS >= 500_000 && MAX_POLICIES_OF_SA >= 250);

/// One measurement.
#[derive(Debug, Serialize)]
struct Row<'a> {
    bench: &'static str,
    direction: &'static str,
    engine: &'static str,
    algorithm: &'static str,
    bytes: Bytes,
    /// In each direction, over all workers.
    sas: u32,
    policies: u32,
    flows: u32,
    workers: u16,
    /// Whether the workers share one tunnel.
    shared: bool,
    mpps: f64,
    gbps: f64,
    /// Of one worker.
    cycles_per_packet: f64,
    /// Cycles a packet.
    stages: Map<String, Value>,
    /// Packets a second, as a multiple of the first scenario's.
    ratio: f64,
    /// The distance of the quartiles, as a share of the median.
    spread: f64,
    machine: &'a str,
}

/// How long a turn is, at least.
const TURN: Duration = Duration::from_micros(200);
/// The same when several workers have it together: it must be long beside the start of a thread.
const JOINT_TURN: Duration = Duration::from_millis(2);
/// Passes in which the stages are timed.
const STAGE_PASSES: usize = 101;
/// What an SA of one direction may take, in the worker and in the shared memory; so many SAs show it.
const BYTES_AN_SA: f64 = 2048.0;
const ENOUGH_PAIRS: u32 = 10_000;

/// Measures, and tells.
///
/// # Errors
///
/// Something asked for is not to be had, or a packet did not come out as it went in.
pub fn run(options: &Options) -> Result<()> {
    // As the dataplane does.
    huge_pages::ask();
    ensure!(options.rounds > 0, "there is at least one round");
    ensure!(!options.scenario.is_empty(), "there is no scenario");
    pin(options.core)?;
    let engine = options.engine.unwrap_or_else(EngineKind::best);
    let machine = Machine::measure();
    println!("{machine}; engine {engine}\n");
    let mut json = JsonLines::create(options.json.as_deref())?;
    let mut points = Vec::new();
    let mut beds = Vec::new();
    for scenario in &options.scenario {
        beds.push(Bed::new(*scenario, engine)?);
    }
    for bytes in &options.bytes {
        let lengths = bytes.lengths(BURST);
        let mut times = vec![[Vec::new(), Vec::new()]; beds.len()];
        for _ in 0..options.rounds {
            for (bed, times) in beds.iter_mut().zip(&mut times) {
                let turn = bed.turn(options.core, &lengths)?;
                for (times, turn) in times.iter_mut().zip(turn) {
                    times.push((turn - machine.clock_reading / BURST as f64).max(0.0));
                }
            }
        }
        let mut first = [f64::NAN; 2];
        for (bed, times) in beds.iter_mut().zip(&times) {
            let stages = bed.stages(&lengths, machine.cycle)?;
            let directions = ["outbound", "inbound"].into_iter().zip(times);
            for (((direction, times), stages), first) in directions.zip(stages).zip(&mut first) {
                let Summary { median, spread } = Summary::of(times);
                if first.is_nan() {
                    *first = median;
                }
                let size = bed.scenario.size();
                let row = Row {
                    bench: "pipeline",
                    direction,
                    engine: engine.name(),
                    algorithm: bed.scenario.algorithm().2,
                    bytes: *bytes,
                    sas: size.pairs(),
                    policies: size.tunnels * size.policies,
                    flows: bed.scenario.flows(),
                    workers: size.workers,
                    shared: size.shared,
                    mpps: 1e3 / median,
                    gbps: 8.0 * mean(&lengths) / median,
                    cycles_per_packet: median * f64::from(size.workers) / machine.cycle,
                    stages,
                    ratio: *first / median,
                    spread,
                    machine: &machine.name,
                };
                row.print();
                json.write(&row)?;
                if let (Bytes::Length(length), "outbound") = (*bytes, direction) {
                    points.push((bed.scenario, length, row.mpps));
                }
            }
        }
    }
    if let Some(path) = &options.plot {
        plot::draw(&points, path)?;
    }
    json.finish()
}

impl Row<'_> {
    fn print(&self) {
        let of = match (self.workers, self.shared) {
            (1, _) => String::new(),
            (workers, false) => format!(", {workers} workers"),
            (workers, true) => format!(" shared by {workers} workers"),
        };
        println!(
            "{:<8} {} {:>4} B {:>6} SAs, {:>6} policies, {:>6} flows{of}: {:6.2} Mpps +-{:2.0} %  {:6.1} Gbit/s  {:5.0} cycles  x{:.2}",
            self.direction,
            self.algorithm,
            self.bytes,
            self.sas,
            self.policies,
            self.flows,
            self.mpps,
            50.0 * self.spread,
            self.gbps,
            self.cycles_per_packet,
            self.ratio,
        );
        let stages = self.stages.iter().map(|(name, cycles)| {
            let cycles = cycles.as_f64().unwrap_or(f64::NAN);
            format!("{name} {cycles:.0}")
        });
        println!("         {}", stages.collect::<Vec<_>>().join(", "));
    }
}

/// Two gateways back to back.
struct Bed {
    scenario: Scenario,
    lanes: Vec<Lane>,
    _gateways: [Gateway; 2],
}

impl Bed {
    fn new(scenario: Scenario, engine: EngineKind) -> Result<Self> {
        let size = scenario.size();
        let before = resident()?;
        let mut a = Gateway::new(Site::A, engine, size)?;
        let mut b = Gateway::new(Site::B, engine, size)?;
        let mut random = File::open("/dev/urandom").context("no random numbers")?;
        let (transform, algorithm, _) = scenario.algorithm();
        for tunnel in 0..size.tunnels {
            a.add_policies(tunnel)?;
            b.add_policies(tunnel)?;
        }
        let with_policies = resident()?;
        for pair in 0..size.pairs() {
            let mut bytes = vec![0; 2 * algorithm.key_material_len()];
            random.read_exact(&mut bytes)?;
            let (first, second) = bytes.split_at(algorithm.key_material_len());
            let keys = Keys::new(first, second)?;
            a.add_pair(pair, transform, &keys)?;
            b.add_pair(pair, transform, &keys)?;
        }
        let in_all = resident()?;
        if size.pairs() >= ENOUGH_PAIRS {
            // Two gateways, and two directions of each pair.
            let sas = 4.0 * f64::from(size.pairs());
            let (an_sa, a_policy) = (
                (in_all - with_policies) / sas,
                2.0 * (with_policies - before) / sas,
            );
            println!(
                "{sas} SAs in two gateways: {an_sa:.0} bytes an SA; their policies, {a_policy:.0} bytes each\n"
            );
            ensure!(
                an_sa <= BYTES_AN_SA,
                "an SA takes {an_sa:.0} bytes, more than {BYTES_AN_SA}"
            );
        }
        let nodes = a.workers.drain(..).zip(b.workers.drain(..));
        let mut lanes: Vec<_> = (0u16..)
            .zip(nodes)
            .map(|(number, (a, b))| Lane::new(a, b, number, size, scenario.flows()))
            .collect();
        for lane in &mut lanes {
            lane.warm_up()?;
        }
        Ok(Self {
            scenario,
            lanes,
            _gateways: [a, b],
        })
    }

    /// Nanoseconds a packet, outbound and inbound, of all workers together.
    fn turn(&mut self, core: usize, lengths: &[usize]) -> Result<[f64; 2]> {
        if let [lane] = &mut self.lanes[..] {
            // The other scenarios had the caches since the last turn.
            lane.warm_up()?;
            return lane.turn(lengths, TURN, || {});
        }
        let workers = self.lanes.len();
        let (start, done) = (Barrier::new(workers), AtomicUsize::new(0));
        let turns = std::thread::scope(|scope| {
            let threads: Vec<_> = (core..)
                .zip(&mut self.lanes)
                .map(|(core, lane)| {
                    let (start, done) = (&start, &done);
                    scope.spawn(move || {
                        let pinned = pin(core);
                        start.wait();
                        let turn = lane.turn(lengths, JOINT_TURN, || {
                            done.fetch_add(1, Ordering::Relaxed);
                        });
                        // The others are not done: until they are, this core stays as busy.
                        while turn.is_ok() && done.load(Ordering::Relaxed) < workers {
                            lane.turn(lengths, Duration::ZERO, || {})?;
                        }
                        pinned.and(turn)
                    })
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<[f64; 2]>>| {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a worker's thread panicked"))?
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let rate = |direction: fn(&[f64; 2]) -> f64| {
            1.0 / turns.iter().map(|turn| 1.0 / direction(turn)).sum::<f64>()
        };
        Ok([rate(|turn| turn[0]), rate(|turn| turn[1])])
    }

    /// Cycles a packet by stage, outbound and inbound, of the first worker.
    fn stages(&mut self, lengths: &[usize], cycle: f64) -> Result<[Map<String, Value>; 2]> {
        let lane = self.lanes.first_mut().context("no worker")?;
        let ticks = lane.stages(lengths, STAGE_PASSES)?;
        let scale = 1.0 / (ticks_per_nanosecond() * cycle);
        Ok(ticks.map(|stages| {
            let stages = stages.into_iter().filter(|(_, ticks)| *ticks > 0.0);
            let rounded = |ticks: f64| Value::from((ticks * scale * 10.0).round() / 10.0);
            stages
                .map(|(stage, ticks)| (stage.name().to_owned(), rounded(ticks)))
                .collect()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_pairs_of_sas_stay_within_their_bound() {
        Bed::new(Scenario::Sas, EngineKind::best()).unwrap();
    }

    #[test]
    fn packets_go_through_both_gateways_as_they_are() {
        for scenario in [
            Scenario::One,
            Scenario::Aes256,
            Scenario::Workers,
            Scenario::Shared,
        ] {
            let mut bed = Bed::new(scenario, EngineKind::best()).unwrap();
            for bytes in [Bytes::Length(64), Bytes::Length(1420), Bytes::IMIX] {
                let lengths = bytes.lengths(BURST);
                for lane in &mut bed.lanes {
                    lane.pass(&lengths, true).unwrap();
                }
                let [outbound, inbound] = bed.stages(&lengths, 1.0).unwrap();
                assert!(outbound.contains_key("crypto") && !outbound.contains_key("commit"));
                assert!(inbound.contains_key("crypto") && inbound.contains_key("commit"));
            }
        }
    }
}
