//! How a worker waits: busily, or asleep after a while without packets until something wakes it.

use super::Worker;
use crate::port::Port;
use arrayvec::ArrayVec;
use esplanade_channel::{Counter, MAX_PORTS, Polling};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::BorrowedFd,
};
use std::time::Duration;

/// How long a worker spins without packets before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// The first sleep after work: something may still wait for a kick.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest sleep: a worker that says nothing for longer looks dead.
const LONGEST: Duration = Duration::from_millis(100);

/// When to sleep, and how long.
#[derive(Debug)]
pub struct Rest {
    polling: Polling,
    idle_since: Option<Duration>,
    next: Duration,
}

impl Rest {
    /// Not tired yet.
    pub fn new(polling: Polling) -> Self {
        Self {
            polling,
            idle_since: None,
            next: SHORTEST,
        }
    }

    /// Whether a round with this much work was the last before a sleep.
    #[inline]
    pub fn is_due(&mut self, work: usize, now: Duration) -> bool {
        if self.polling == Polling::Busy {
            return false;
        }
        if work > 0 {
            self.idle_since = None;
            self.next = SHORTEST;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        now.saturating_sub(since) >= SPIN
    }

    /// How long the next sleep is.
    fn duration(&mut self) -> Duration {
        let duration = self.next;
        self.next = (self.next * 2).min(LONGEST);
        duration
    }
}

impl<P: Port> Worker<P> {
    /// Sleeps until a port, the control plane or another worker wants something, or a moment has passed.
    #[cold]
    pub(super) fn sleep(&mut self) {
        if !self.core.handoff.fall_asleep() {
            return;
        }
        let mut timeout = self.rest.duration();
        if let Some(wait_ms) = self.core.dummies.wait_ms(self.core.now_ms) {
            timeout = timeout.min(Duration::from_millis(wait_ms));
        }
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds: ArrayVec<PollFd<'_>, { MAX_PORTS + 2 }> = ArrayVec::new();
        let ports = self.core.ports.iter().filter_map(Port::poll_fd);
        let others = [self.wake.fd(), self.core.handoff.bell_fd()];
        for fd in others.into_iter().chain(ports).take(fds.capacity()) {
            fds.push(poll_in(fd));
        }
        // An interrupted sleep is a short one.
        let _ = poll(&mut fds, Some(&timeout));
        drop(fds);
        self.core.handoff.awake();
        self.wake.drain();
        self.core.tally.one(Counter::Sleeps);
    }
}

fn poll_in(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_busy_worker_never_sleeps() {
        let mut rest = Rest::new(Polling::Busy);
        assert!(!rest.is_due(0, MS));
        assert!(!rest.is_due(0, 1000 * MS));
    }

    #[test]
    fn an_adaptive_one_spins_first_and_sleeps_longer_each_time() {
        let mut rest = Rest::new(Polling::Adaptive);
        assert!(!rest.is_due(0, MS));
        assert!(!rest.is_due(0, MS + SPIN / 2));
        assert!(rest.is_due(0, MS + SPIN));
        assert_eq!(rest.duration(), SHORTEST);
        assert_eq!(rest.duration(), 2 * SHORTEST);
        assert!(!rest.is_due(1, 5 * MS));
        assert!(!rest.is_due(0, 6 * MS));
        assert_eq!(rest.duration(), SHORTEST);
        for _ in 0..20 {
            rest.duration();
        }
        assert_eq!(rest.duration(), LONGEST);
    }
}
