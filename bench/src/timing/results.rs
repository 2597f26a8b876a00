//! What many turns come to, and where it is written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// Many turns of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one.
    pub median: f64,
    /// The distance of the quartiles, as a share of the median.
    pub spread: f64,
}

impl Summary {
    /// Of at least one turn.
    pub fn of(turns: &[f64]) -> Self {
        let mut sorted = turns.to_vec();
        sorted.sort_by(f64::total_cmp);
        let part = |quarter: usize| {
            let at = sorted.len() * quarter / 4;
            sorted.get(at).copied().unwrap_or(f64::NAN)
        };
        let median = part(2);
        Self {
            median,
            spread: (part(3) - part(1)) / median,
        }
    }
}

/// A file with a line of JSON for each measurement, or none.
#[derive(Debug)]
pub struct JsonLines(Option<BufWriter<File>>);

impl JsonLines {
    /// A new file, if one is wanted.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let file = path.map(|path| {
            File::create(path)
                .map(BufWriter::new)
                .with_context(|| format!("cannot write {}", path.display()))
        });
        file.transpose().map(Self)
    }

    /// One more line.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&mut self, row: &impl Serialize) -> Result<()> {
        if let Some(file) = &mut self.0 {
            writeln!(file, "{}", serde_json::to_string(row)?)?;
        }
        Ok(())
    }

    /// Nothing more.
    ///
    /// # Errors
    ///
    /// The last lines cannot be written.
    pub fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), |mut file| Ok(file.flush()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_beside_its_quartiles() {
        let summary = Summary::of(&[4.0, 1.0, 100.0, 3.0, 2.0]);
        assert_eq!(summary.median, 3.0);
        assert!((summary.spread - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(Summary::of(&[7.0]).spread, 0.0);
    }
}
