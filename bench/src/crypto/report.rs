//! A line for each measurement, for people and for programs.

use serde::Serialize;

use super::candidate::Direction;
use super::plan::{Case, name};
use crate::timing::{Bytes, Machine, Summary, mean};

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    bench: &'static str,
    pub engine: &'static str,
    pub algorithm: String,
    pub direction: Direction,
    pub bytes: Bytes,
    pub sas: usize,
    pub in_place: bool,
    pub beyond_l2: bool,
    batch: usize,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    batch_only: bool,
    pub ns_per_packet: f64,
    /// The distance of the quartiles, as a share of the median.
    spread: f64,
}

impl Row {
    pub fn new(engine: &'static str, case: &Case, direction: Direction, result: Summary) -> Self {
        Self {
            bench: "crypto",
            engine,
            algorithm: name(case.algorithm),
            direction,
            bytes: case.bytes,
            sas: case.sas,
            in_place: case.in_place,
            beyond_l2: case.beyond_l2,
            batch: case.batch,
            batch_only: case.batch_only,
            ns_per_packet: result.median,
            spread: result.spread,
        }
    }
}

/// Lines under headings.
#[derive(Default)]
pub struct Table {
    heading: String,
}

impl Table {
    /// One more line. `reference` is what Intel's library needs.
    pub fn print(&mut self, row: &Row, case: &Case, machine: &Machine, reference: Option<f64>) {
        let heading = heading(case);
        if self.heading != heading {
            println!("\n{heading}\n{COLUMNS}");
            self.heading = heading;
        }
        println!("{}", line(row, case, machine, reference));
    }
}

const COLUMNS: &str =
    "      bytes engine            ns    +-  cycles/B   Gbit/s  x ipsec-mb  of bound";

fn heading(case: &Case) -> String {
    format!(
        "{}, {}, frames {} the L2 cache, {} {}, batches of {}{}",
        name(case.algorithm),
        if case.in_place {
            "in place"
        } else {
            "out of place"
        },
        if case.beyond_l2 { "beyond" } else { "within" },
        case.sas,
        if case.sas == 1 { "SA" } else { "SAs" },
        case.batch,
        if case.batch_only {
            ", our jobs built before"
        } else {
            ""
        },
    )
}

fn line(row: &Row, case: &Case, machine: &Machine, reference: Option<f64>) -> String {
    let lengths = case.lengths();
    let (mean, nanoseconds) = (mean(&lengths), row.ns_per_packet);
    let bounds = lengths
        .iter()
        .map(|length| machine.bound(case.algorithm, *length));
    let bound = bounds
        .sum::<Option<f64>>()
        .map(|sum| sum / lengths.len() as f64);
    let share =
        |of: Option<f64>| of.map_or("-".to_owned(), |of| format!("{:.2}", of / nanoseconds));
    format!(
        "{} {:>6} {:<10} {nanoseconds:>9.1} {:>3.0} % {:>9.2} {:>8.1} {:>12} {:>9}",
        row.direction.name(),
        row.bytes,
        row.engine,
        50.0 * row.spread,
        nanoseconds / machine.cycle / mean,
        8.0 * mean / nanoseconds,
        share(reference),
        share(bound),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use esplanade_crypto::Algorithm;

    fn case() -> Case {
        Case {
            algorithm: Algorithm::AES_128_GCM_16,
            sas: 1,
            bytes: Bytes::Length(100),
            in_place: false,
            beyond_l2: false,
            batch: 64,
            batch_only: false,
        }
    }

    fn row() -> Row {
        let result = Summary {
            median: 20.0,
            spread: 0.1,
        };
        Row::new("vaes512", &case(), Direction::Seal, result)
    }

    #[test]
    fn json_has_the_names_that_others_read() {
        assert_eq!(
            serde_json::to_string(&row()).unwrap(),
            "{\"bench\":\"crypto\",\"engine\":\"vaes512\",\"algorithm\":\"aes-128-gcm\",\"direction\":\"seal\",\
             \"bytes\":100,\"sas\":1,\"in_place\":false,\"beyond_l2\":false,\"batch\":64,\"ns_per_packet\":20.0,\"spread\":0.1}"
        );
    }

    #[test]
    fn a_line_has_all_that_follows_from_the_time() {
        let machine = Machine::of_one_gigahertz();
        assert_eq!(
            line(&row(), &case(), &machine, Some(30.0)),
            "seal    100 vaes512         20.0   5 %      0.20     40.0         1.50         -"
        );
        assert_eq!(
            heading(&case()),
            "aes-128-gcm, out of place, frames within the L2 cache, 1 SA, batches of 64"
        );
    }
}
