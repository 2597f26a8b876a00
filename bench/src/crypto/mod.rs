//! Packet crypto by itself: what sealing and opening a packet costs with each of our engines, beside their peers, and what
//! this CPU's ports would allow.
//!
//! All candidates are measured in turns, in one process, pinned to a core. A turn times what a user does for a packet: from
//! its key, its number and its text to its ICV. Keys are made before. What a candidate makes of a batch is compared with what
//! our fastest engine makes of it, once before it is timed.

mod candidate;
mod engine;
mod peers;
mod plan;
mod plot;
mod report;
mod workload;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use esplanade_crypto::{Algorithm, EngineKind};

use crate::timing::{Bytes, JsonLines, Machine, Summary, pin};
use candidate::{Candidate, Direction, candidates};
use engine::Engine;
use peers::{IPSEC_MB, Libraries, Peers};
use plan::{Case, Plan};
use report::{Row, Table};
use workload::{BATCH, Workload};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The algorithms: any that ESP has here [default: aes-128-gcm,aes-256-gcm,chacha20-poly1305].
    #[arg(long, alias = "algorithms", value_delimiter = ',', value_parser = plan::algorithm)]
    algorithm: Vec<Algorithm>,
    /// Bytes of the packets; `imix` is 7:4:1 of 64, 570 and 1420 [default: 64,128,256,512,1024,1420,8900,imix].
    #[arg(long, value_delimiter = ',')]
    bytes: Vec<Bytes>,
    /// How many SAs take turns, packet by packet [default: 1,1000,10000].
    #[arg(long, value_delimiter = ',')]
    sas: Vec<usize>,
    /// Where the result goes [default: apart,in-place].
    #[arg(long, value_enum, value_delimiter = ',')]
    place: Vec<plan::Place>,
    /// Whether the frames stay in the second-level cache: one batch in the same frames again and again, or so many batches that
    /// their frames are twice as large as that cache [default: within-l2,beyond-l2].
    #[arg(long, value_enum, value_delimiter = ',')]
    frames: Vec<plan::Frames>,
    /// The candidates [default: all that there are].
    #[arg(long, value_delimiter = ',', value_parser = candidate::engine)]
    engine: Vec<String>,
    /// Leave the building of our engines' jobs out of their time: what the kernels take, not what a user pays. The rows say so.
    #[arg(long)]
    batch_only: bool,
    /// Packets in a batch, at most 64.
    #[arg(long, default_value_t = BATCH)]
    batch: usize,
    /// How often each candidate has its turn, at most [default: 31].
    #[arg(long)]
    rounds: Option<usize>,
    /// How long it may take: each measurement has its share, and ends with fewer rounds when that is over [default: 180].
    #[arg(long)]
    seconds: Option<f64>,
    /// For a first look: defaults that take 20 seconds at most, with 64, 1420 bytes and imix, 1 and 10000 SAs, apart, within
    /// the cache, in 11 rounds.
    #[arg(long)]
    quick: bool,
    /// The core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    #[command(flatten)]
    libraries: Libraries,
    /// Write the results as JSON lines as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the throughput of sealing as SVG: one SA, apart, within the cache, of the first algorithm.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// How long a candidate's turn is, at least.
const TURN: Duration = Duration::from_micros(200);
/// The fewest rounds, however little time there is.
const FEWEST: usize = 3;

/// Measures, and tells.
///
/// # Errors
///
/// Something asked for is not to be had, or a candidate seals something else than the others, or does not open it.
pub fn run(options: &Options) -> Result<()> {
    let plan = Plan::new(options)?;
    pin(options.core)?;
    let machine = Machine::measure();
    println!("{machine}");
    let peers = Peers::load(&options.libraries);
    println!("{plan}");
    let began = Instant::now();
    let mut run = Run {
        machine: &machine,
        plan: &plan,
        table: Table::default(),
        json: JsonLines::create(options.json.as_deref())?,
        rows: Vec::new(),
        cut_short: 0,
    };
    for algorithm in &plan.algorithms {
        for sas in &plan.sas {
            let mut candidates = candidates(
                *algorithm,
                *sas,
                &options.engine,
                options.batch_only,
                &peers,
            )?;
            for case in plan.cases(*algorithm, *sas) {
                run.measure(&case, &mut candidates)?;
            }
        }
    }
    println!("\nTook {:.0} s.", began.elapsed().as_secs_f64());
    if run.cut_short > 0 {
        println!(
            "{} measurements had fewer than {} rounds for want of time.",
            run.cut_short, plan.rounds
        );
    }
    run.json.finish()?;
    if let Some(path) = &options.plot {
        plot::draw(&run.rows, path).with_context(|| format!("cannot draw {}", path.display()))?;
    }
    Ok(())
}

/// What was measured, and what it is measured with.
struct Run<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    table: Table,
    json: JsonLines,
    rows: Vec<Row>,
    /// How many measurements had not all their rounds.
    cut_short: usize,
}

impl Run<'_> {
    /// All candidates with one kind of traffic, both ways.
    fn measure(&mut self, case: &Case, candidates: &mut [Box<dyn Candidate>]) -> Result<()> {
        let lengths = case.lengths();
        let room = if case.beyond_l2 {
            2 * self.machine.l2
        } else {
            0
        };
        let mut workload = Workload::new(case.algorithm, &lengths, case.sas, case.in_place, room);
        compare(case, &mut workload, candidates)?;
        for direction in [Direction::Seal, Direction::Open] {
            let times = self.rounds(direction, &mut workload, candidates)?;
            let results: Vec<_> = times.iter().map(|times| Summary::of(times)).collect();
            let named = || candidates.iter().map(|candidate| candidate.name());
            let reference = named()
                .zip(&results)
                .find(|(name, _)| *name == IPSEC_MB)
                .map(|(_, result)| result.median);
            for (engine, result) in named().zip(&results) {
                let row = Row::new(engine, case, direction, *result);
                self.table.print(&row, case, self.machine, reference);
                self.json.write(&row)?;
                self.rows.push(row);
            }
        }
        Ok(())
    }

    /// Nanoseconds a packet of each candidate's turns.
    fn rounds(
        &mut self,
        direction: Direction,
        workload: &mut Workload,
        candidates: &mut [Box<dyn Candidate>],
    ) -> Result<Vec<Vec<f64>>> {
        let began = Instant::now();
        let mut times = vec![Vec::with_capacity(self.plan.rounds); candidates.len()];
        for round in 0..self.plan.rounds {
            if round >= FEWEST && began.elapsed() >= self.plan.share {
                self.cut_short += 1;
                break;
            }
            for (candidate, times) in candidates.iter_mut().zip(&mut times) {
                times.push(turn(candidate.as_mut(), direction, workload, self.machine)?);
            }
        }
        Ok(times)
    }
}

/// Every candidate seals what our fastest engine seals, and gets the text back.
fn compare(
    case: &Case,
    workload: &mut Workload,
    candidates: &mut [Box<dyn Candidate>],
) -> Result<()> {
    let algorithm = case.algorithm;
    let keys = case.sas.min(BATCH);
    let mut ours = Engine::new(EngineKind::best_for(algorithm), algorithm, keys, false)?;
    let expected = workload.outcome(&mut ours)?;
    for candidate in candidates {
        ensure!(
            workload.outcome(candidate.as_mut())? == expected,
            "{} does not make of {case} what {} makes of it",
            candidate.name(),
            ours.name()
        );
    }
    Ok(())
}

/// Nanoseconds a packet of one candidate's turn.
fn turn(
    candidate: &mut dyn Candidate,
    direction: Direction,
    workload: &mut Workload,
    machine: &Machine,
) -> Result<f64> {
    let (mut taken, mut passes) = (Duration::ZERO, 0);
    while taken < TURN {
        taken += match direction {
            Direction::Seal => workload.seal(candidate)?,
            Direction::Open => workload.open(candidate)?,
        };
        passes += 1;
    }
    let readings = (passes * workload.batches()) as f64 * machine.clock_reading;
    Ok((taken.as_nanos() as f64 - readings) / (passes * workload.packets()) as f64)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn measured(arguments: &str) -> Result<Vec<serde_json::Value>> {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let (process, run_number) = (std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let json =
            std::env::temp_dir().join(format!("esplanade-crypto-{process}-{run_number}.jsonl"));
        let arguments = format!(
            "crypto --rounds 1 --batch 3 --json {} {arguments}",
            json.display()
        );
        run(&Cli::parse_from(arguments.split_whitespace()).options)?;
        let text = std::fs::read_to_string(&json)?;
        std::fs::remove_file(json)?;
        let lines = text.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    }

    /// What is there everywhere.
    const CRATES: [&str; 5] = ["aws-lc-rs", "portable", "aws-lc", "ring", "rustcrypto"];

    #[test]
    fn a_tiny_run_needs_nothing_but_the_crates() {
        let rows = measured(
            "--algorithm aes-128-gcm,chacha20-poly1305 --bytes 64,imix --sas 1,5 --frames within-l2 \
             --ipsec-mb absent.so --openssl absent.so",
        )
        .unwrap();
        let of = |engine| rows.iter().filter(|row| row["engine"] == engine).count();
        // Two algorithms, two lengths, two numbers of SAs, two places and two directions.
        assert_eq!(CRATES.map(of), [32; CRATES.len()]);
        assert_eq!(["ipsec-mb", "openssl"].map(of), [0; 2]);
    }

    #[test]
    fn frames_beyond_the_cache_are_told_from_those_within() {
        let rows = measured("--algorithm aes-256-gcm --bytes 8900 --sas 2 --engine ring").unwrap();
        let beyond: Vec<_> = rows.iter().map(|row| row["beyond_l2"] == true).collect();
        assert_eq!(beyond, [false, false, false, false, true, true, true, true]);
    }

    #[test]
    fn libraries_seal_as_we_do_where_they_are() {
        let rows =
            measured("--bytes 1,64,1421 --sas 3 --engine ipsec-mb,openssl --frames within-l2")
                .unwrap();
        assert_eq!(rows.len() % 36, 0);
    }

    #[test]
    fn what_has_an_hmac_is_measured_in_whole_blocks() {
        let rows = measured(
            "--algorithm aes-128-cbc-hmac-sha2-256-128,aes-256-gmac --bytes 570 --sas 1 --place apart \
             --frames within-l2 --engine aws-lc-rs",
        )
        .unwrap();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0]["algorithm"], "aes-128-cbc-hmac-sha2-256-128");
        assert_eq!(rows[0]["bytes"], 570);
    }

    #[test]
    fn a_candidate_that_seals_something_else_is_found() {
        struct Wrong(Engine);
        impl Candidate for Wrong {
            fn name(&self) -> &'static str {
                "wrong"
            }
            fn seal(&mut self, packets: &mut workload::Packets<'_>) -> Result<Duration> {
                for packet in packets.iter_mut() {
                    packet.number += 1;
                }
                self.0.seal(packets)
            }
            fn open(&mut self, packets: &mut workload::Packets<'_>) -> Result<Duration> {
                for packet in packets.iter_mut() {
                    packet.number += 1;
                }
                self.0.open(packets)
            }
        }
        let case = Case {
            algorithm: Algorithm::AES_128_GCM_16,
            sas: 1,
            bytes: Bytes::Length(64),
            in_place: false,
            beyond_l2: false,
            batch: 2,
            batch_only: false,
        };
        let mut workload = Workload::new(case.algorithm, &case.lengths(), 1, false, 0);
        let engine = || Engine::new(EngineKind::AwsLc, case.algorithm, 1, false).unwrap();
        let mut right: [Box<dyn Candidate>; 1] = [Box::new(engine())];
        compare(&case, &mut workload, &mut right).unwrap();
        let mut wrong: [Box<dyn Candidate>; 1] = [Box::new(Wrong(engine()))];
        let error = compare(&case, &mut workload, &mut wrong).unwrap_err();
        assert!(
            error.to_string().starts_with("wrong does not make of"),
            "{error}"
        );
    }
}
