//! What the benches without a wire share: packets of mixed lengths, the median of many turns with their spread, lines of JSON,
//! and what this CPU can do.

mod machine;
mod results;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::Serialize;

pub use machine::{Machine, ticks, ticks_per_nanosecond};
pub use results::{JsonLines, Summary};

/// The lengths of packets in bytes: all the same, or a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Bytes {
    /// All the same.
    Length(usize),
    /// A mixture of this name.
    Mixture(&'static str),
}

impl Bytes {
    /// 7:4:1 of 64, 570 and 1420 bytes.
    pub const IMIX: Self = Self::Mixture("imix");

    /// One after the other.
    pub fn lengths(self, packets: usize) -> Vec<usize> {
        const IMIX: [usize; 12] = [64, 570, 64, 64, 1420, 64, 570, 64, 570, 64, 570, 64];
        match self {
            Self::Length(length) => vec![length; packets],
            Self::Mixture(_) => IMIX.into_iter().cycle().take(packets).collect(),
        }
    }
}

impl FromStr for Bytes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if Self::IMIX.to_string() == text {
            return Ok(Self::IMIX);
        }
        let length = text
            .parse()
            .with_context(|| format!("{text:?} is neither a number of bytes nor {}", Self::IMIX))?;
        Ok(Self::Length(length))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => f.pad(&length.to_string()),
            Self::Mixture(name) => f.pad(name),
        }
    }
}

/// The mean of some lengths.
pub fn mean(lengths: &[usize]) -> f64 {
    lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
}

/// Keeps this thread on a core.
///
/// # Errors
///
/// There is no such core, or it is not ours.
pub fn pin(core: usize) -> Result<()> {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        bail!("cannot run on core {core}");
    }
    Ok(())
}

/// Bytes of memory that this process has.
///
/// # Errors
///
/// The kernel does not say.
pub fn resident() -> Result<f64> {
    const PAGE: f64 = 4096.0;
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).context("no resident pages")?;
    Ok(PAGE * pages.parse::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let lengths = Bytes::IMIX.lengths(24);
        let count = |wanted| lengths.iter().filter(|length| **length == wanted).count();
        assert_eq!([count(64), count(570), count(1420)], [14, 8, 2]);
        assert!((mean(&lengths) - 4148.0 / 12.0).abs() < 1e-9);
    }

    #[test]
    fn lengths_are_read_as_they_are_shown() {
        for bytes in [Bytes::Length(1420), Bytes::IMIX] {
            assert_eq!(bytes.to_string().parse::<Bytes>().unwrap(), bytes);
        }
        assert_eq!(Bytes::Length(64).lengths(3), [64; 3]);
        let error = "tiny".parse::<Bytes>().unwrap_err().to_string();
        assert_eq!(error, "\"tiny\" is neither a number of bytes nor imix");
    }

    #[test]
    fn json_has_a_number_or_a_name() {
        let json = serde_json::to_string(&[Bytes::Length(64), Bytes::IMIX]).unwrap();
        assert_eq!(json, r#"[64,"imix"]"#);
    }
}
