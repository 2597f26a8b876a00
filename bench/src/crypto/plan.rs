//! What is measured, in which order, and how long it may take.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use esplanade_crypto::{Algorithm, UnknownAlgorithm};

use super::engine::is_cbc;
use super::workload::BATCH;
use super::{FEWEST, Options};
use crate::timing::Bytes;

/// Where the result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Into another frame.
    Apart,
    /// Over its source.
    InPlace,
}

/// Where the frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(clippy::enum_variant_names, reason = "the cache is what matters")]
pub enum Frames {
    /// They stay in the second-level cache, unless a single batch is larger.
    WithinL2,
    /// They come from behind it.
    BeyondL2,
}

/// All that is measured.
pub struct Plan {
    pub algorithms: Vec<Algorithm>,
    pub sas: Vec<usize>,
    bytes: Vec<Bytes>,
    places: Vec<Place>,
    frames: Vec<Frames>,
    batch: usize,
    batch_only: bool,
    pub rounds: usize,
    /// How long each direction of each case may take.
    pub share: Duration,
    seconds: f64,
}

/// One kind of traffic.
#[derive(Debug, Clone)]
pub struct Case {
    pub algorithm: Algorithm,
    pub sas: usize,
    pub bytes: Bytes,
    pub in_place: bool,
    pub beyond_l2: bool,
    pub batch: usize,
    /// Whether the building of our jobs is left out.
    pub batch_only: bool,
}

const ALGORITHMS: [Algorithm; 3] = [
    Algorithm::AES_128_GCM_16,
    Algorithm::AES_256_GCM_16,
    Algorithm::CHACHA20_POLY1305,
];
const BYTES: [Bytes; 8] = [
    Bytes::Length(64),
    Bytes::Length(128),
    Bytes::Length(256),
    Bytes::Length(512),
    Bytes::Length(1024),
    Bytes::Length(1420),
    Bytes::Length(8900),
    Bytes::IMIX,
];

impl Plan {
    /// What the options say, and defaults for the rest.
    ///
    /// # Errors
    ///
    /// The options cannot be.
    pub fn new(options: &Options) -> Result<Self> {
        let quick = options.quick;
        let mut plan = Self {
            algorithms: or(&options.algorithm, &ALGORITHMS),
            sas: or(
                &options.sas,
                if quick {
                    &[1, 10_000]
                } else {
                    &[1, 1_000, 10_000]
                },
            ),
            bytes: if quick {
                or(
                    &options.bytes,
                    &[Bytes::Length(64), Bytes::Length(1420), Bytes::IMIX],
                )
            } else {
                or(&options.bytes, &BYTES)
            },
            places: or(
                &options.place,
                if quick {
                    &[Place::Apart]
                } else {
                    &[Place::Apart, Place::InPlace]
                },
            ),
            frames: or(
                &options.frames,
                if quick {
                    &[Frames::WithinL2]
                } else {
                    &[Frames::WithinL2, Frames::BeyondL2]
                },
            ),
            batch: options.batch,
            batch_only: options.batch_only,
            rounds: options.rounds.unwrap_or(if quick { 11 } else { 31 }),
            share: Duration::ZERO,
            seconds: options.seconds.unwrap_or(if quick { 20.0 } else { 180.0 }),
        };
        ensure!(
            (1..=BATCH).contains(&plan.batch) && plan.rounds > 0 && !plan.sas.contains(&0),
            "a batch has 1 to {BATCH} packets, and there is at least one round and one SA"
        );
        plan.share = Duration::try_from_secs_f64(plan.seconds / plan.measurements() as f64)?;
        Ok(plan)
    }

    /// Of one algorithm under so many SAs.
    pub fn cases(&self, algorithm: Algorithm, sas: usize) -> impl Iterator<Item = Case> {
        let places = |frames| self.places.iter().map(move |place| (frames, *place));
        let kinds = self.frames.iter().copied().flat_map(places);
        kinds.flat_map(move |(frames, place)| {
            self.bytes.iter().map(move |bytes| Case {
                algorithm,
                sas,
                bytes: *bytes,
                in_place: place == Place::InPlace,
                beyond_l2: frames == Frames::BeyondL2,
                batch: self.batch,
                batch_only: self.batch_only,
            })
        })
    }

    /// How many there are, each with all candidates.
    fn measurements(&self) -> usize {
        let kinds = self.algorithms.len() * self.sas.len() * self.places.len() * self.frames.len();
        2 * kinds * self.bytes.len()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} measurements of up to {} rounds, in about {} s at most (with {FEWEST} rounds each, however long they take)",
            self.measurements(),
            self.rounds,
            self.seconds
        )
    }
}

impl Case {
    /// Of the packets of a batch. CBC takes whole blocks: the trailer would see to that.
    pub fn lengths(&self) -> Vec<usize> {
        let mut lengths = self.bytes.lengths(self.batch);
        if is_cbc(self.algorithm) {
            for length in &mut lengths {
                *length = length.next_multiple_of(self.algorithm.alignment());
            }
        }
        lengths
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (algorithm, bytes, sas) = (name(self.algorithm), self.bytes, self.sas);
        let place = if self.in_place { "in place" } else { "apart" };
        write!(f, "{algorithm} of {bytes} bytes {place} under {sas} SAs")
    }
}

/// What is asked for, or the defaults.
fn or<T: Clone>(asked: &[T], defaults: &[T]) -> Vec<T> {
    let chosen = if asked.is_empty() { defaults } else { asked };
    chosen.to_vec()
}

/// As in the results: 16 bytes of ICV go without saying.
pub fn name(algorithm: Algorithm) -> String {
    algorithm.to_string().replacen("cm-16", "cm", 1)
}

/// By the name in the results, or the full one.
pub fn algorithm(text: &str) -> Result<Algorithm, UnknownAlgorithm> {
    let mut all = Algorithm::ALL.into_iter();
    match all.find(|algorithm| name(*algorithm) == text) {
        Some(algorithm) => Ok(algorithm),
        None => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for known in Algorithm::ALL {
            assert_eq!(algorithm(&name(known)), Ok(known));
            assert_eq!(algorithm(&known.to_string()), Ok(known));
        }
        assert_eq!(name(Algorithm::AES_128_GCM_16), "aes-128-gcm");
        assert!(algorithm("aes-512-gcm").is_err());
    }

    #[test]
    fn cbc_has_whole_blocks() {
        let case = |algorithm| Case {
            algorithm,
            sas: 1,
            bytes: Bytes::IMIX,
            in_place: false,
            beyond_l2: false,
            batch: 5,
            batch_only: false,
        };
        let lengths = case(algorithm("aes-128-cbc-hmac-sha1-96").unwrap()).lengths();
        assert_eq!(lengths, [64, 576, 64, 64, 1424]);
        assert_eq!(case(Algorithm::AES_128_GCM_16).lengths()[1], 570);
    }
}
