//! What each stage costs, for the bench that asks. While nobody does, a stage pays one branch a burst.

/// A part of the worker's round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Commands, packets from the ports and from other workers.
    Receive,
    /// Headers of received packets.
    Headers,
    /// The SPD: what is to be done with a plain packet, or whether an SA may carry it.
    Policy,
    /// The SAD; inbound, the replay pre-check.
    Sa,
    /// Next hop, size and hop limit, and the frame to write into.
    Fit,
    /// Sequence numbers, outer headers and the jobs of the crypto engine.
    Prepare,
    /// The crypto engine.
    Crypto,
    /// The replay window, the trailer and the inner header of what is authentic.
    Commit,
    /// Inner headers as they leave, Ethernet headers, transmission, and frames given back.
    Transmit,
    /// Counters and the shared tables.
    Flush,
}

impl Stage {
    /// Each, in order.
    pub const ALL: [Self; 10] = [
        Self::Receive,
        Self::Headers,
        Self::Policy,
        Self::Sa,
        Self::Fit,
        Self::Prepare,
        Self::Crypto,
        Self::Commit,
        Self::Transmit,
        Self::Flush,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Headers => "headers",
            Self::Policy => "policy",
            Self::Sa => "sa",
            Self::Fit => "fit",
            Self::Prepare => "prepare",
            Self::Crypto => "crypto",
            Self::Commit => "commit",
            Self::Transmit => "transmit",
            Self::Flush => "flush",
        }
    }
}

/// Time by stage, in the units of its clock.
#[derive(Debug, Default)]
pub struct Stopwatch {
    clock: Option<fn() -> u64>,
    latest: u64,
    spent: [u64; Stage::ALL.len()],
}

impl Stopwatch {
    /// Times stages from now on, by a clock that counts upwards; without one no more.
    pub fn run_by(&mut self, clock: Option<fn() -> u64>) {
        *self = Self {
            clock,
            ..Self::default()
        };
        self.start();
    }

    /// The time of each stage since [`run_by`](Self::run_by).
    pub fn spent(&self) -> impl Iterator<Item = (Stage, u64)> {
        Stage::ALL.into_iter().zip(self.spent)
    }

    /// What comes next begins now.
    #[inline]
    pub(super) fn start(&mut self) {
        if let Some(clock) = self.clock {
            self.latest = clock();
        }
    }

    /// What came since the last call was this stage.
    #[inline]
    pub(super) fn was(&mut self, stage: Stage) {
        if let Some(clock) = self.clock {
            let now = clock();
            if let Some(spent) = self.spent.get_mut(stage as usize) {
                *spent += now.wrapping_sub(self.latest);
            }
            self.latest = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });

    #[test]
    fn time_goes_to_the_stage_that_ends() {
        let mut watch = Stopwatch::default();
        watch.was(Stage::Sa);
        watch.run_by(Some(|| NOW.replace(NOW.get() + 7)));
        watch.was(Stage::Receive);
        watch.was(Stage::Flush);
        watch.was(Stage::Receive);
        let spent = watch.spent().filter(|(_, spent)| *spent > 0);
        assert_eq!(
            spent.collect::<Vec<_>>(),
            [(Stage::Receive, 14), (Stage::Flush, 7)]
        );
    }

    #[test]
    fn stages_are_numbered_as_listed() {
        for (at, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, at);
        }
    }
}
