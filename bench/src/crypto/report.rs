//! A line for each measurement, for people and for programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use esplanade_crypto::Algorithm;
use serde::Serialize;

use super::candidate::Direction;
use super::machine::Machine;
use super::median;

/// One measurement.
#[derive(Debug, Serialize)]
pub struct Row {
    bench: &'static str,
    pub engine: &'static str,
    #[serde(skip)]
    kind: Algorithm,
    pub algorithm: String,
    pub direction: &'static str,
    pub bytes: Bytes,
    pub sas: usize,
    in_place: bool,
    batch: usize,
    pub ns_per_packet: f64,
    /// The distance of the quartiles, as a share of the median.
    spread: f64,
}

/// A length, or a mixture.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Bytes {
    Length(usize),
    Mixture(String),
}

impl Row {
    pub fn new(
        engine: &'static str,
        kind: Algorithm,
        direction: Direction,
        bytes: &str,
        sas: usize,
        batch: usize,
        times: &mut [f64],
    ) -> Self {
        let ns_per_packet = median(times);
        let quartile = |part: usize| {
            times
                .get(times.len() * part / 4)
                .copied()
                .unwrap_or(f64::NAN)
        };
        Self {
            bench: "crypto",
            engine,
            kind,
            algorithm: kind.to_string(),
            direction: match direction {
                Direction::Seal => "seal",
                Direction::Open => "open",
            },
            bytes: bytes
                .parse()
                .map_or_else(|_| Bytes::Mixture(bytes.to_owned()), Bytes::Length),
            sas,
            in_place: false,
            batch,
            ns_per_packet,
            spread: (quartile(3) - quartile(1)) / ns_per_packet,
        }
    }

    /// A line of the table. `reference` is what Intel's library needs.
    pub fn print(&self, machine: &Machine, lengths: &[usize], reference: Option<f64>) {
        let packets = lengths.len() as f64;
        let mean = lengths.iter().sum::<usize>() as f64 / packets;
        let bytes = match &self.bytes {
            Bytes::Length(length) => length.to_string(),
            Bytes::Mixture(name) => name.clone(),
        };
        let ratio = reference.map_or(String::new(), |reference| {
            format!("  x{:.2}", reference / self.ns_per_packet)
        });
        let bounds: Option<f64> = lengths
            .iter()
            .map(|length| machine.bound(self.kind, *length))
            .sum();
        let of_bound = bounds.map_or(String::new(), |sum| {
            format!("  {:.2} of the bound", sum / packets / self.ns_per_packet)
        });
        println!(
            "{} {} {bytes:>5} B {:>5} SAs  {:<10} {:8.1} ns +-{:2.0} %  {:5.2} cycles/B  {:6.1} Gbit/s{ratio}{of_bound}",
            self.algorithm,
            self.direction,
            self.sas,
            self.engine,
            self.ns_per_packet,
            50.0 * self.spread,
            self.ns_per_packet / machine.cycle / mean,
            8.0 * mean / self.ns_per_packet,
        );
    }
}

/// JSON lines.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_json(rows: &[Row], path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for row in rows {
        serde_json::to_writer(&mut file, row)?;
        writeln!(file)?;
    }
    Ok(file.flush()?)
}
