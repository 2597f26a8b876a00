//! The throughput of a path in the manner of RFC 2544 26.1: the highest rate at which it loses (next to)
//! nothing, found by raising the rate until it does and halving the way back.

use std::time::Duration;

use anyhow::Result;
use esplanade_dataplane::port::Port;

use super::tester::{Generator, Load, Reader, Receiver, run};

/// How a search goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// The first rate that is tried, in packets a second.
    pub from: f64,
    /// How long each rate is held.
    pub trial: Duration,
    /// The share that may be lost.
    pub tolerance: f64,
    /// How often the way between the last good and the first bad rate is halved.
    pub halvings: u32,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            from: 50_000.0,
            trial: Duration::from_millis(300),
            tolerance: 0.005,
            halvings: 3,
        }
    }
}

/// How much faster each trial is while nothing is lost.
const GROWTH: f64 = 1.7;
/// No port on this machine is faster.
const FASTEST: f64 = 20e6;

/// The highest rate found, in packets a second; 0 when even the first lost too much.
pub fn throughput<P: Port, Q: Port, R: Reader>(
    generator: &mut Generator<P>,
    receiver: &mut Receiver<Q, R>,
    search: Search,
) -> Result<f64> {
    let mut once = |rate: f64| -> Result<Trial> {
        let load = Load {
            rate: Some(rate),
            duration: search.trial,
        };
        let (sent, tally) = run(generator, receiver, load, |_, _| {})?;
        let lost = sent.saturating_sub(tally.packets) as f64 / sent.max(1) as f64;
        Ok(Trial {
            offered: sent as f64 / search.trial.as_secs_f64(),
            lost,
        })
    };
    // One bad moment of a machine that does other things too is not the path's end.
    find(search, |rate| {
        let trial = once(rate)?;
        if trial.lost > search.tolerance {
            once(rate)
        } else {
            Ok(trial)
        }
    })
}

/// What became of one rate.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// The rate that the generator reached.
    offered: f64,
    /// The share that was lost.
    lost: f64,
}

fn find(search: Search, mut probe: impl FnMut(f64) -> Result<Trial>) -> Result<f64> {
    // The path may have to warm up: neighbours, caches, a worker that sleeps.
    probe(search.from / 10.0)?;
    let (mut good, mut bad) = (0.0, None);
    let mut rate = search.from;
    while rate < FASTEST {
        let trial = probe(rate)?;
        if trial.lost > search.tolerance {
            bad = Some(rate);
            break;
        }
        good = trial.offered;
        if trial.offered < rate * 0.9 {
            // The generator is at its own end.
            return Ok(good);
        }
        rate *= GROWTH;
    }
    let Some(mut bad) = bad else { return Ok(good) };
    for _ in 0..search.halvings {
        let middle = f64::midpoint(good, bad);
        let trial = probe(middle)?;
        if trial.lost > search.tolerance {
            bad = middle;
        } else {
            good = trial.offered.min(middle);
        }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that carries so much, and a sender that manages so much.
    fn path(capacity: f64, sender: f64) -> impl FnMut(f64) -> Result<Trial> {
        move |rate| {
            let offered = rate.min(sender);
            Ok(Trial {
                offered,
                lost: (1.0 - capacity / offered).max(0.0),
            })
        }
    }

    #[test]
    fn the_search_closes_in_on_the_capacity() {
        for capacity in [60_000.0, 400_000.0, 3_000_000.0] {
            let search = Search {
                halvings: 6,
                ..Search::default()
            };
            let found = find(search, path(capacity, f64::MAX)).expect("a rate");
            assert!(
                (0.97..=1.01).contains(&(found / capacity)),
                "{found} of {capacity}"
            );
        }
    }

    #[test]
    fn a_slow_sender_and_a_dead_path_end_the_search() {
        let found = find(Search::default(), path(f64::MAX, 700_000.0)).expect("a rate");
        assert!((found - 700_000.0).abs() < 1.0, "{found}");
        let search = Search {
            halvings: 6,
            ..Search::default()
        };
        assert!(find(search, path(10.0, f64::MAX)).expect("a rate") < 1_000.0);
    }
}
