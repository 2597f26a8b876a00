//! Messages that wait until the dataplane has applied the commands issued before them.
//!
//! An answer that makes a peer send by a new SA must not leave before that SA is installed. The wait is bounded: a
//! dataplane that is dead or stuck does not silence IKE.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use esplanade_ike::Transmit;

use super::courier::Mark;

/// The longest that a message is held back.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a dataplane that is awake takes at most. A hundred rekeys in a row have no time for a timer's tick each.
const SOON: Duration = Duration::from_micros(300);

#[derive(Debug)]
struct Held {
    transmit: Transmit,
    mark: Option<Mark>,
    since: Instant,
}

/// Messages in the order in which they leave.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<Held>);

impl Outbox {
    /// Holds a message until `mark` is reached; without one, only until its turn comes.
    pub(super) fn hold(&mut self, transmit: Transmit, mark: Option<Mark>, now: Instant) {
        self.0.push_back(Held {
            transmit,
            mark,
            since: now,
        });
    }

    /// The next message that may leave.
    pub(super) fn release(
        &mut self,
        now: Instant,
        reached: impl FnOnce(&Mark) -> bool,
    ) -> Option<Transmit> {
        let first = self.0.front()?;
        let free = now >= first.since + PATIENCE || first.mark.as_ref().is_none_or(reached);
        if !free {
            return None;
        }
        self.0.pop_front().map(|held| held.transmit)
    }

    /// Whether the next message is worth another look at once.
    pub(super) fn is_imminent(&self, now: Instant) -> bool {
        self.0.front().is_some_and(|first| now < first.since + SOON)
    }

    /// Whether every message has left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esplanade_ike::Path;

    fn message(text: &str) -> Transmit {
        Transmit {
            path: Path {
                local: "192.0.2.1:500".parse().unwrap(),
                remote: "192.0.2.2:500".parse().unwrap(),
            },
            data: text.into(),
            keepalive: false,
        }
    }

    #[test]
    fn a_message_waits_for_its_commands_and_those_behind_it_wait_too() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.hold(message("answer"), Some(Mark::default()), now);
        outbox.hold(message("next"), None, now);
        assert_eq!(outbox.release(now, |_| false), None);
        assert!(outbox.is_imminent(now) && !outbox.is_imminent(now + SOON));
        assert_eq!(outbox.release(now, |_| true), Some(message("answer")));
        assert_eq!(outbox.release(now, |_| false), Some(message("next")));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_stuck_dataplane_does_not_silence_ike() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.hold(message("answer"), Some(Mark::default()), now);
        assert_eq!(
            outbox.release(now + PATIENCE, |_| false),
            Some(message("answer"))
        );
    }
}
