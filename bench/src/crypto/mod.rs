//! Packet crypto by itself: what sealing and opening a packet costs with each engine, beside Intel's multi-buffer library,
//! and what this CPU's ports would allow.
//!
//! All candidates are measured in turns, in one process, pinned to a core; a round times whole batches and nothing else.
//! What is shown is the median of the rounds and the distance of their quartiles.

mod candidate;
mod ipsec_mb;
mod ipsec_mb_chacha;
mod machine;
mod plot;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use esplanade_crypto::Algorithm;

use candidate::{BATCH, Batch, Buffers, Candidate, Direction, candidates};
pub use machine::Machine;
use report::Row;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Bytes of the packets; `imix` is 7:4:1 of 64, 570 and 1420.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64,128,256,512,1024,1420,8900,imix"
    )]
    bytes: Vec<String>,
    /// The algorithms.
    #[arg(long, value_delimiter = ',', default_values_t = MEASURED)]
    algorithms: Vec<Algorithm>,
    /// How many SAs take turns.
    #[arg(long, value_delimiter = ',', default_value = "1,10000")]
    sas: Vec<usize>,
    /// Packets in a batch, at most 64.
    #[arg(long, default_value_t = BATCH)]
    batch: usize,
    /// How often each candidate has its turn.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// The core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Intel's multi-buffer library (Debian's libipsec-mb2), left out when it is not there.
    #[arg(long, default_value = "libIPSec_MB.so.2")]
    ipsec_mb: PathBuf,
    /// Write the results as JSON lines as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the throughput of sealing under one SA as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What IKE would choose; the others go through the same kernels.
const MEASURED: [Algorithm; 3] = [
    Algorithm::AES_128_GCM_16,
    Algorithm::AES_256_GCM_16,
    Algorithm::CHACHA20_POLY1305,
];

/// How long a candidate's turn is, at least.
const TURN: Duration = Duration::from_micros(200);

/// Measures, and tells.
///
/// # Errors
///
/// Something asked for is not to be had.
pub fn run(options: &Options) -> Result<()> {
    if !(1..=BATCH).contains(&options.batch) || options.rounds == 0 || options.sas.contains(&0) {
        bail!("a batch has 1 to {BATCH} packets, and there is at least one round and one SA");
    }
    if !core_affinity::set_for_current(core_affinity::CoreId { id: options.core }) {
        bail!("cannot run on core {}", options.core);
    }
    let machine = Machine::measure();
    println!("{machine}\n");
    let mut rows = Vec::new();
    for algorithm in options.algorithms.iter().copied() {
        for sas in &options.sas {
            for bytes in &options.bytes {
                let lengths = lengths(bytes, options.batch)?;
                rows.extend(measure(
                    options, &machine, algorithm, *sas, bytes, &lengths,
                )?);
            }
        }
    }
    if let Some(path) = &options.json {
        report::write_json(&rows, path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.plot {
        plot::draw(&rows, path).with_context(|| format!("cannot draw {}", path.display()))?;
    }
    Ok(())
}

/// The packets of a batch.
pub fn lengths(bytes: &str, batch: usize) -> Result<Vec<usize>> {
    const IMIX: [usize; 12] = [64, 570, 64, 64, 1420, 64, 570, 64, 570, 64, 570, 64];
    if bytes == "imix" {
        return Ok(IMIX.into_iter().cycle().take(batch).collect());
    }
    let length = bytes
        .parse()
        .with_context(|| format!("{bytes:?} is no number of bytes"))?;
    Ok(vec![length; batch])
}

/// All candidates with one kind of traffic, both ways.
fn measure(
    options: &Options,
    machine: &Machine,
    algorithm: Algorithm,
    sas: usize,
    bytes: &str,
    lengths: &[usize],
) -> Result<Vec<Row>> {
    let mut candidates = candidates(algorithm, sas, &options.ipsec_mb)?;
    let mut buffers = Buffers::new(lengths);
    let mut rows = Vec::new();
    for direction in [Direction::Seal, Direction::Open] {
        let mut times = vec![Vec::with_capacity(options.rounds); candidates.len()];
        for _ in 0..options.rounds {
            for (candidate, times) in candidates.iter_mut().zip(&mut times) {
                times.push(turn(
                    candidate.as_mut(),
                    direction,
                    lengths,
                    &mut buffers,
                    machine,
                ));
            }
        }
        let reference = candidates
            .iter()
            .zip(&mut times)
            .find(|(candidate, _)| candidate.name() == ipsec_mb::NAME)
            .map(|(_, times)| median(times));
        for (candidate, times) in candidates.iter().zip(&mut times) {
            let row = Row::new(
                candidate.name(),
                algorithm,
                direction,
                bytes,
                sas,
                options.batch,
                times,
            );
            row.print(machine, lengths, reference);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Nanoseconds a packet of one candidate's turn.
fn turn(
    candidate: &mut dyn Candidate,
    direction: Direction,
    lengths: &[usize],
    buffers: &mut Buffers,
    machine: &Machine,
) -> f64 {
    let (mut taken, mut batches) = (Duration::ZERO, 0_u32);
    while taken < TURN {
        let mut batch = Batch { lengths, buffers };
        taken += match direction {
            Direction::Seal => candidate.seal(&mut batch),
            Direction::Open => candidate.open(&mut batch),
        };
        batches += 1;
    }
    let nanoseconds = taken.as_nanos() as f64 - f64::from(batches) * machine.clock_reading;
    nanoseconds / (f64::from(batches) * lengths.len() as f64)
}

/// The middle one.
pub fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
