//! Commands on their way to the dataplane: in order, through rings that may be full, to an acknowledgement.
//!
//! A ring's tail is the acknowledgement: what it has passed is applied, and its slot, with any key in it, wiped. What
//! does not fit waits here, and its keys are wiped as it leaves.

use std::collections::VecDeque;

use esplanade_channel::{Command, Full, Sequence};

use super::{
    concern::{Concern, History},
    picture::Commands,
};

/// The rings of a channel: one for each worker and, after them, the steward's.
pub(super) trait Rings {
    /// Puts a command into a ring.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was put.
    fn push(&mut self, ring: usize, command: &Command) -> Result<Sequence, Full>;
    /// The last command that was put into a ring, by whomever.
    fn pushed(&mut self, ring: usize) -> Sequence;
    /// The last command of a ring that was applied.
    fn applied(&mut self, ring: usize) -> Sequence;
    /// Wakes who reads the ring.
    fn wake(&mut self, ring: usize);
}

/// A moment in the stream of commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark(Vec<u64>);

/// Sends commands in order.
#[derive(Debug)]
pub(super) struct Courier<R> {
    rings: R,
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    /// What had been put into the ring when it became ours.
    start: u64,
    /// Commands given to us since.
    given: u64,
    /// Boxed, so that a queue that grows leaves no copy of a key behind.
    waiting: VecDeque<Box<Command>>,
    /// What was put into the ring.
    sent: History,
}

impl Lane {
    /// Puts a command into the ring if there is room.
    fn push(&mut self, rings: &mut impl Rings, ring: usize, command: &Command) -> bool {
        let Ok(sequence) = rings.push(ring, command) else {
            return false;
        };
        self.sent.remember(sequence.0, command.into());
        true
    }
}

impl<R: Rings> Courier<R> {
    /// A courier for `workers` rings and the steward's.
    pub(super) fn new(mut rings: R, workers: usize) -> Self {
        let lanes = (0..=workers).map(|ring| Lane {
            start: rings.pushed(ring).0,
            given: 0,
            waiting: VecDeque::new(),
            sent: History::default(),
        });
        let lanes = lanes.collect();
        Self { rings, lanes }
    }

    /// The rings.
    pub(super) fn rings(&mut self) -> &mut R {
        &mut self.rings
    }

    /// How many workers there are.
    pub(super) fn workers(&self) -> usize {
        self.lanes.len() - 1
    }

    /// Sends a command to every worker.
    pub(super) fn tell_workers(&mut self, command: &Command) {
        for ring in 0..self.workers() {
            self.give(ring, command);
        }
    }

    /// Sends what a picture's change takes.
    pub(super) fn tell(&mut self, commands: &Commands) {
        for command in &commands.workers {
            self.tell_workers(command);
        }
        let steward = self.workers();
        for command in &commands.steward {
            self.give(steward, command);
        }
    }

    fn give(&mut self, ring: usize, command: &Command) {
        let Some(lane) = self.lanes.get_mut(ring) else {
            return;
        };
        lane.given += 1;
        if !lane.waiting.is_empty() || !lane.push(&mut self.rings, ring, command) {
            lane.waiting.push_back(Box::new(command.clone()));
        }
        self.rings.wake(ring);
    }

    /// Moves what waits into rings that have room again.
    pub(super) fn pump(&mut self) {
        for (ring, lane) in self.lanes.iter_mut().enumerate() {
            let mut moved = false;
            while let Some(command) = lane.waiting.pop_front() {
                if !lane.push(&mut self.rings, ring, &command) {
                    lane.waiting.push_front(command);
                    break;
                }
                moved = true;
            }
            if moved {
                self.rings.wake(ring);
            }
        }
    }

    /// This moment: everything sent so far comes before it.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.lanes.iter().map(|lane| lane.given).collect())
    }

    /// Whether everything sent before `mark` is applied.
    pub(super) fn reached(&mut self, mark: &Mark) -> bool {
        let mut lanes = self.lanes.iter().zip(&mark.0).enumerate();
        lanes.all(|(ring, (lane, given))| {
            // Before our first command is applied, the ring may still be at those of another control plane.
            let applied = self.rings.applied(ring).0.checked_sub(lane.start);
            *given == 0 || applied.is_some_and(|applied| applied >= *given)
        })
    }

    /// What a command of a ring was about.
    pub(super) fn concern(&self, ring: usize, sequence: Sequence) -> Option<Concern> {
        self.lanes.get(ring)?.sent.find(sequence.0)
    }

    /// Whether anything waits for room in a ring.
    pub(super) fn is_waiting(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.waiting.is_empty())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use esplanade_channel::PolicyId;

    /// Rings of two places each, emptied by hand.
    #[derive(Debug, Default)]
    pub(in crate::daemon) struct Hand {
        pub(in crate::daemon) pushed: Vec<Vec<Command>>,
        pub(in crate::daemon) applied: Vec<u64>,
        pub(in crate::daemon) room: usize,
    }

    impl Hand {
        pub(in crate::daemon) fn new(rings: usize, room: usize) -> Self {
            Self {
                pushed: vec![Vec::new(); rings],
                applied: vec![0; rings],
                room,
            }
        }
    }

    impl Rings for Hand {
        fn push(&mut self, ring: usize, command: &Command) -> Result<Sequence, Full> {
            if self.pushed[ring].len() as u64 - self.applied[ring] >= self.room as u64 {
                return Err(Full);
            }
            self.pushed[ring].push(command.clone());
            Ok(Sequence(self.pushed[ring].len() as u64))
        }

        fn pushed(&mut self, ring: usize) -> Sequence {
            Sequence(self.pushed[ring].len() as u64)
        }

        fn applied(&mut self, ring: usize) -> Sequence {
            Sequence(self.applied[ring])
        }

        fn wake(&mut self, _ring: usize) {}
    }

    fn command(number: u64) -> Command {
        Command::RemovePolicy {
            id: PolicyId(number),
        }
    }

    fn courier(workers: usize) -> Courier<Hand> {
        Courier::new(Hand::new(workers + 1, 2), workers)
    }

    #[test]
    fn a_full_ring_keeps_the_order() {
        let mut courier = courier(1);
        for number in 0..4 {
            courier.tell_workers(&command(number));
        }
        assert!(courier.is_waiting());
        courier.rings().applied[0] = 1;
        courier.pump();
        courier.tell_workers(&command(4));
        courier.rings().applied[0] = 3;
        courier.pump();
        assert!(!courier.is_waiting());
        let last = courier.concern(0, Sequence(5));
        assert_eq!(last, Some(Concern::Policy(PolicyId(4))));
        let pushed = &courier.rings().pushed[0];
        assert_eq!(*pushed, (0..5).map(command).collect::<Vec<_>>());
    }

    #[test]
    fn a_mark_is_reached_when_every_ring_has_applied() {
        let mut courier = courier(2);
        let before = courier.mark();
        courier.tell_workers(&command(1));
        let after = courier.mark();
        assert!(courier.reached(&before) && !courier.reached(&after));
        courier.rings().applied[0] = 1;
        assert!(!courier.reached(&after));
        courier.rings().applied[1] = 1;
        assert!(courier.reached(&after));
    }

    #[test]
    fn a_mark_counts_what_still_waits() {
        let mut courier = courier(1);
        for number in 0..3 {
            courier.tell_workers(&command(number));
        }
        let mark = courier.mark();
        courier.rings().applied[0] = 2;
        assert!(!courier.reached(&mark));
        courier.pump();
        courier.rings().applied[0] = 3;
        assert!(courier.reached(&mark));
    }

    #[test]
    fn the_steward_has_a_ring_of_its_own() {
        let mut courier = courier(1);
        courier.tell(&Commands {
            workers: vec![command(1)],
            steward: vec![command(2)],
        });
        assert_eq!(courier.rings().pushed, [vec![command(1)], vec![command(2)]]);
    }
}
