//! The measurement of one gateway on this machine's own test-bed: how fast it seals beside how fast it
//! forwards, what it loses at half of that, how long packets take, and what ten rekeys cost.
//!
//! One namespace is the gateway with one worker on one core; the other is a tester in the manner of
//! RFC 2544, generator and receiver on one thread on another core. What is compared is interleaved.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use esplanade_bpf::Steering;
use esplanade_channel::{Polling, Prefix};
use esplanade_dataplane::port::{Interface, Losses, Settings, xdp::XdpPort};
use serde::Serialize;

use crate::driven::{Driven, Place};
use crate::testbed::{
    self, HOST_A, HOST_B, INSIDE, INSIDE_A, Layout, Namespace, OUTSIDE, OUTSIDE_A, OUTSIDE_B, link,
};
use crate::traffic::esp::Either;
use crate::traffic::frame::{Route, Template};
use crate::traffic::tester::{Generator, Load, Receiver, Tally, Wanted, run, steer};

/// The core of the gateway's worker, and that of the tester.
const WORKER_CORE: u16 = 1;
const TESTER_CORE: usize = 0;
/// 20 ms of the fastest that a veth carries.
const RING_FRAMES: u32 = 32_768;
const PORT: u16 = 9_000;
/// The gateway looks at the kernel's own counters about once a second.
const COUNTERS_LAG: Duration = Duration::from_millis(1_200);
const TESTER_OUT: &str = "out";
const TESTER_IN: &str = "in";

/// What is measured, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of the Ethernet frames before they are sealed, their check sequence not counted.
    pub frames: Vec<usize>,
    /// How long a throughput is measured each time.
    pub trial: Duration,
    /// How often sealing and forwarding are measured, in turns.
    pub rounds: u32,
    /// How long half the throughput is held.
    pub hold: Duration,
    /// How often that is tried when something was lost.
    pub tries: u32,
    /// How many rekeys happen under load.
    pub rekeys: u32,
    /// Where JSON lines go.
    pub json: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            frames: vec![64, 128, 256, 512, 1024, 1280, 1400],
            trial: Duration::from_secs(1),
            rounds: 3,
            hold: Duration::from_secs(10),
            tries: 3,
            rekeys: 10,
            json: None,
        }
    }
}

/// What was found out for one frame size.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Always `testbed`.
    pub bench: &'static str,
    /// Bytes of the frame before it is sealed.
    pub bytes: usize,
    /// Sealing, in million packets a second: the median of the rounds.
    pub gateway_mpps: f64,
    /// Forwarding, in million packets a second: the median of the rounds.
    pub forward_mpps: f64,
    /// The first by the second.
    pub ratio: f64,
    /// How far the sealing rounds spread: (highest - lowest) / median.
    pub gateway_spread: f64,
    /// How far the forwarding rounds spread.
    pub forward_spread: f64,
    /// The share of its time that the worker had something to do while it sealed at full load.
    pub gateway_load: f64,
    /// The same while it forwarded.
    pub forward_load: f64,
    /// The share of packets lost at half the throughput, the best of the tries.
    pub loss: f64,
    /// Packets lost of those sent at half the throughput.
    pub lost: u64,
    /// Packets sent at half the throughput.
    pub sent: u64,
    /// Every counter that explains a loss, ours and the kernel's, with how much it moved.
    pub lost_at: Vec<(String, u64)>,
    /// Latency at half the throughput.
    pub p50_us: f64,
    /// Latency at half the throughput.
    pub p99_us: f64,
    /// Latency at half the throughput.
    pub p999_us: f64,
    /// Packets lost over the rekeys at half the throughput.
    pub rekey_lost: u64,
    /// Every counter that explains such a loss.
    pub rekey_lost_at: Vec<(String, u64)>,
    /// How many rekeys that were.
    pub rekeys: u32,
}

/// Measures and prints a table; returns its rows.
pub fn run_testbed(options: &Options) -> Result<Vec<Row>> {
    let bench = Bench::new()?;
    let mut json = match &options.json {
        None => None,
        Some(path) => {
            Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
    };
    let place = bench.place()?;
    let mut gateway = Driven::start(
        &bench.gateway,
        place,
        Some(WORKER_CORE),
        Polling::Busy,
        RING_FRAMES,
        &bench.log_dir,
    )?;
    print_conditions(options, &gateway);
    let rows = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                pin(TESTER_CORE);
                let mut tester = Tester::open(&bench)?;
                print_head();
                let mut rows = Vec::new();
                for bytes in &options.frames {
                    let row = measure(&mut tester, &mut gateway, *bytes, options)?;
                    print_row(&row);
                    if let Some(json) = &mut json {
                        writeln!(json, "{}", serde_json::to_string(&row)?)?;
                    }
                    rows.push(row);
                }
                anyhow::Ok(rows)
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    gateway.stop()?;
    Ok(rows)
}

fn pin(core: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        println!("The tester could not be pinned to core {core}; expect wider spreads.");
    }
}

/// The two namespaces, joined by two veth pairs.
struct Bench {
    tester: Namespace,
    gateway: Namespace,
    log_dir: PathBuf,
    _turn: testbed::Turn,
}

impl Bench {
    fn new() -> Result<Self> {
        let turn = testbed::Turn::take()?;
        testbed::cleanup::install();
        testbed::cleanup::remove_leftovers();
        let tester = Namespace::new("tester")?;
        let gateway = Namespace::new("gateway")?;
        let layout = Layout::default();
        link((&tester, TESTER_OUT), (&gateway, INSIDE), &layout)?;
        link((&tester, TESTER_IN), (&gateway, OUTSIDE), &layout)?;
        gateway.ip(&format!(
            "addr add {INSIDE_A}/16 dev {INSIDE}\naddr add {OUTSIDE_A}/24 dev {OUTSIDE}\n"
        ))?;
        Ok(Self {
            tester,
            gateway,
            log_dir: testbed::fresh_log_dir()?,
            _turn: turn,
        })
    }

    fn place(&self) -> Result<Place> {
        let prefix = |address: Ipv4Addr| Prefix::new(IpAddr::V4(address), 16).context("a prefix");
        Ok(Place {
            inside: INSIDE_A,
            local: prefix(HOST_A)?,
            remote: prefix(HOST_B)?,
            outside: OUTSIDE_A,
            peer: OUTSIDE_B,
            host: (HOST_A, self.tester.interface(TESTER_OUT)?.mac),
            peer_mac: self.tester.interface(TESTER_IN)?.mac,
        })
    }
}

/// Generator and receiver in the tester's namespace.
struct Tester {
    /// Packets received so far that were none of ours.
    foreign: u64,
    generator: Generator<XdpPort>,
    receiver: Receiver<XdpPort, Either>,
    route: Route,
    _steering: Steering,
}

impl Tester {
    fn open(bench: &Bench) -> Result<Self> {
        let source = bench.tester.interface(TESTER_OUT)?;
        let sink = bench.tester.interface(TESTER_IN)?;
        let route = Route {
            source_mac: source.mac,
            destination_mac: bench.gateway.interface(INSIDE)?.mac,
            source: SocketAddrV4::new(HOST_A, PORT),
            destination: SocketAddrV4::new(HOST_B, PORT),
            flows: 16,
        };
        let settings = |interface: Interface| Settings {
            interface,
            queue: 0,
            frames: RING_FRAMES,
            force_copy: false,
        };
        let wanted = Wanted {
            from: esplanade_bpf::Prefix::new(HOST_A, 16),
            to: esplanade_bpf::Prefix::new(HOST_B, 16),
            esp_to: Some(OUTSIDE_B),
        };
        let (out, into, steering) = bench.tester.enter(|| {
            let out = XdpPort::open(&settings(source))?;
            let into = XdpPort::open(&settings(sink.clone()))?;
            let steering = steer(&sink, into.socket(), wanted)?;
            Ok((out, into, steering))
        })?;
        Ok(Self {
            foreign: 0,
            generator: Generator::new(out, Template::new(&route, 512)?),
            receiver: Receiver::new(into, Either::default())?,
            route,
            _steering: steering,
        })
    }

    fn run(&mut self, load: Load) -> Result<(u64, Tally)> {
        run(&mut self.generator, &mut self.receiver, load, |_, _| {})
    }
}

fn measure(
    tester: &mut Tester,
    gateway: &mut Driven,
    bytes: usize,
    options: &Options,
) -> Result<Row> {
    tester
        .generator
        .set_template(Template::new(&tester.route, bytes)?);
    let full = Load {
        rate: None,
        duration: options.trial,
    };
    let (mut sealing, mut forwarding) = (Rounds::default(), Rounds::default());
    for _ in 0..options.rounds.max(1) {
        gateway.forward()?;
        forwarding.add(tester, gateway, full)?;
        let sa = gateway.seal()?;
        tester.receiver.reader().expect(sa)?;
        sealing.add(tester, gateway, full)?;
    }
    let (gateway_mpps, forward_mpps) = (sealing.median(), forwarding.median());
    let half = gateway_mpps * 1e6 / 2.0;
    let held = hold(tester, gateway, half, options)?;
    let rekeyed = rekey_under_load(tester, gateway, half, options)?;
    Ok(Row {
        bench: "testbed",
        bytes,
        gateway_mpps,
        forward_mpps,
        ratio: if forward_mpps > 0.0 {
            gateway_mpps / forward_mpps
        } else {
            0.0
        },
        gateway_spread: sealing.spread(),
        forward_spread: forwarding.spread(),
        gateway_load: sealing.load(),
        forward_load: forwarding.load(),
        loss: held.lost as f64 / held.sent.max(1) as f64,
        lost: held.lost,
        sent: held.sent,
        lost_at: held.lost_at,
        p50_us: held.tally.latency_us(50.0),
        p99_us: held.tally.latency_us(99.0),
        p999_us: held.tally.latency_us(99.9),
        rekey_lost: rekeyed.lost,
        rekey_lost_at: rekeyed.lost_at,
        rekeys: options.rekeys,
    })
}

/// The throughputs and worker loads of one kind, round by round.
#[derive(Debug, Default)]
struct Rounds {
    mpps: Vec<f64>,
    load: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, tester: &mut Tester, gateway: &Driven, load: Load) -> Result<()> {
        let before = gateway.times();
        let (_, tally) = run(&mut tester.generator, &mut tester.receiver, load, |_, _| {})?;
        // The worker idles while stragglers are waited for; its load is of the time under load.
        let share = load.duration.as_secs_f64() / gateway.seconds_since(before).max(1e-9);
        self.load
            .push((gateway.load_since(before) / share).min(1.0));
        self.mpps.push(tally.mpps());
        Ok(())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.mpps.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }

    fn spread(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.first(), sorted.last(), self.median()) {
            (Some(lowest), Some(highest), median) if median > 0.0 => (highest - lowest) / median,
            _ => 0.0,
        }
    }

    fn load(&self) -> f64 {
        self.load.iter().sum::<f64>() / self.load.len().max(1) as f64
    }
}

/// What holding a rate came to.
struct Held {
    sent: u64,
    lost: u64,
    lost_at: Vec<(String, u64)>,
    tally: Tally,
}

/// Half the throughput for a while; the best of a few tries, since the machine has other work too.
fn hold(tester: &mut Tester, gateway: &Driven, rate: f64, options: &Options) -> Result<Held> {
    let mut best: Option<Held> = None;
    for _ in 0..options.tries.max(1) {
        std::thread::sleep(COUNTERS_LAG);
        let before = Reasons::read(tester, gateway);
        let (sent, tally) = tester.run(Load {
            rate: Some(rate),
            duration: options.hold,
        })?;
        let lost = sent.saturating_sub(tally.packets);
        tester.foreign += tally.foreign;
        std::thread::sleep(COUNTERS_LAG);
        let lost_at = Reasons::read(tester, gateway).since(&before);
        let held = Held {
            sent,
            lost,
            lost_at,
            tally,
        };
        if best.as_ref().is_none_or(|best| held.lost < best.lost) {
            best = Some(held);
        }
        if best.as_ref().is_some_and(|best| best.lost == 0) {
            break;
        }
    }
    best.context("at least one try")
}

/// Where packets can get lost, with what got lost there so far.
struct Reasons(Vec<(String, u64)>);

impl Reasons {
    fn read(tester: &Tester, gateway: &Driven) -> Self {
        let Losses {
            receive_ring_full,
            fill_ring_empty,
            receive_dropped,
            ..
        } = tester.receiver.losses();
        let ours = [
            ("tester: receive ring full", receive_ring_full),
            ("tester: fill ring empty", fill_ring_empty),
            ("tester: dropped by the kernel", receive_dropped),
            ("tester: not recognized", tester.foreign),
        ];
        let ours = ours
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let theirs = gateway.losses().into_iter();
        Self(
            theirs
                .map(|(name, value)| (format!("gateway: {name}"), value))
                .chain(ours)
                .collect(),
        )
    }

    fn since(self, before: &Self) -> Vec<(String, u64)> {
        let earlier = |name: &str| {
            before
                .0
                .iter()
                .find(|(known, _)| known == name)
                .map_or(0, |(_, value)| *value)
        };
        self.0
            .into_iter()
            .map(|(name, value)| {
                let moved = value.saturating_sub(earlier(&name));
                (name, moved)
            })
            .filter(|(_, moved)| *moved > 0)
            .collect()
    }
}

/// As [`hold`], with rekeys in between.
fn rekey_under_load(
    tester: &mut Tester,
    gateway: &mut Driven,
    rate: f64,
    options: &Options,
) -> Result<Held> {
    let pause = Duration::from_millis(200);
    let load = Load {
        rate: Some(rate),
        duration: pause * (options.rekeys + 1),
    };
    let mut best: Option<Held> = None;
    for _ in 0..options.tries.max(1) {
        let before = Reasons::read(tester, gateway);
        let mut done = 0;
        let mut failure = None;
        let (sent, tally) = run(
            &mut tester.generator,
            &mut tester.receiver,
            load,
            |elapsed, reader| {
                if done < options.rekeys && elapsed > pause * (done + 1) {
                    done += 1;
                    if let Err(error) = gateway.rekey().and_then(|sa| reader.expect(sa)) {
                        failure.get_or_insert(error);
                    }
                }
            },
        )?;
        gateway.settle()?;
        if let Some(error) = failure {
            return Err(error);
        }
        std::thread::sleep(COUNTERS_LAG);
        tester.foreign += tally.foreign;
        let lost_at = Reasons::read(tester, gateway).since(&before);
        let lost = sent.saturating_sub(tally.packets);
        let held = Held {
            sent,
            lost,
            lost_at,
            tally,
        };
        if held.lost == 0 {
            return Ok(held);
        }
        if best.as_ref().is_none_or(|best| held.lost < best.lost) {
            best = Some(held);
        }
    }
    best.context("at least one try")
}

fn print_conditions(options: &Options, gateway: &Driven) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']))
        .unwrap_or("unknown CPU");
    println!(
        "One gateway, one worker on core {WORKER_CORE}, busy polling; generator and receiver on core \
         {TESTER_CORE}.\n{model}, Linux {}; veth, {}; AES-128-GCM by {}.\n\
         Throughput: median of {} rounds of {} s, sealing and forwarding in turns. Loss and latency: {} s \
         at half the sealing throughput, best of {}.",
        kernel.trim(),
        gateway.ports(),
        gateway.engine(),
        options.rounds,
        options.trial.as_secs_f32(),
        options.hold.as_secs_f32(),
        options.tries,
    );
}

fn print_head() {
    println!(
        "\n{:>6}  {:>18}  {:>18}  {:>5}  {:>11}  {:>8} {:>8} {:>8}  {:>11}",
        "bytes",
        "seal Mpps (load)",
        "fwd Mpps (load)",
        "ratio",
        "lost at 0.5",
        "p50 us",
        "p99 us",
        "p99.9",
        "rekey loss"
    );
}

fn print_row(row: &Row) {
    let rate = |mpps: f64, spread: f64, load: f64| {
        format!("{mpps:.3} ±{:.0}% ({:.0}%)", spread * 50.0, load * 100.0)
    };
    println!(
        "{:>6}  {:>18}  {:>18}  {:>5.2}  {:>11}  {:>8.1} {:>8.1} {:>8.1}  {:>11}",
        row.bytes,
        rate(row.gateway_mpps, row.gateway_spread, row.gateway_load),
        rate(row.forward_mpps, row.forward_spread, row.forward_load),
        row.ratio,
        row.lost,
        row.p50_us,
        row.p99_us,
        row.p999_us,
        format!("{} of {}x", row.rekey_lost, row.rekeys),
    );
    for (when, reasons) in [
        ("at half load", &row.lost_at),
        ("rekeying", &row.rekey_lost_at),
    ] {
        for (reason, count) in reasons {
            println!("        {when}: {count} at {reason}");
        }
    }
    let _ = std::io::stdout().flush();
}
