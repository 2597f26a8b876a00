//! What a worker, or the steward, holds of the segment. None of it blocks or allocates.

use crate::{
    Command, CommandError, Counter, Event, Full, Ledger, PacketSender, PortCounter, PortId, SaId,
    SaRecord, SaState, SaStatistics, Sequence,
    mapping::Region,
    record::{
        COMMAND_WORDS, EVENT_WORDS, SA_ID_AT, SA_WORDS, STATE_AT, STATISTICS_AT, decode_command,
        encode_event, encode_sa, encode_state, encode_statistics, is_selected, with_selected,
    },
    ring::{Consumer, Producer},
    seqlock::SeqlockTable,
    words::{Word, Words},
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, atomic::Ordering};
use zeroize::Zeroize;

/// One worker's end, or the steward's.
#[derive(Debug)]
pub struct WorkerEnd {
    /// What the control plane says.
    pub commands: CommandReceiver,
    /// What the control plane is told.
    pub events: EventSender,
    /// What is counted.
    pub counters: CounterWriter,
    /// Packets for who watches; the steward has none.
    pub packets: Option<PacketSender>,
    /// Drops by SA and policy; the steward has none.
    pub ledger: Option<Ledger>,
    /// What can be read back of SAs. Each worker writes the records of the SAs that it owns, and no others.
    pub sa_table: SaWriter,
    /// The sign of life.
    pub heartbeat: Heartbeat,
    /// Readable when commands or borrowed frames came while asleep.
    pub wake: WakeReceiver,
}

/// A command, with the number by which its acknowledgement goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Which of this ring's commands it is.
    pub sequence: Sequence,
    /// The command, or why its record was refused: to be told with [`Event::CommandFailed`].
    pub command: Result<Command, CommandError>,
}

/// The taking end of a command ring.
#[derive(Debug)]
pub struct CommandReceiver {
    pub(crate) ring: Consumer<Region, COMMAND_WORDS>,
    pub(crate) counters: CounterWriter,
    pub(crate) corrupt: bool,
}

impl CommandReceiver {
    /// The next command, if there is one. Its slot, keys and all, is wiped; [`CommandReceiver::applied`] gives it back.
    ///
    /// Records that make no sense are counted here, and so is a ring with a count that cannot be.
    pub fn receive(&mut self) -> Option<Received> {
        let mut words = [0; COMMAND_WORDS];
        let taken = match self.ring.take(&mut words) {
            Ok(taken) => {
                self.corrupt = false;
                taken
            }
            Err(_) => {
                if !self.corrupt {
                    self.counters.add(Counter::CommandRingCorrupt, 1);
                }
                self.corrupt = true;
                None
            }
        };
        let sequence = taken?;
        let command = decode_command(&words);
        words.zeroize();
        if command.is_err() {
            self.counters.add(Counter::CommandsMalformed, 1);
        }
        Some(Received { sequence, command })
    }

    /// Says that all commands received so far are obeyed, or refused with an event.
    pub fn applied(&mut self) {
        self.ring.applied();
    }
}

/// The pushing end of an event ring.
#[derive(Debug)]
pub struct EventSender {
    pub(crate) ring: Producer<Region, EVENT_WORDS>,
    pub(crate) counters: CounterWriter,
    pub(crate) waker: Waker,
    pub(crate) pending: bool,
}

impl EventSender {
    /// Pushes an event; [`EventSender::flush`] wakes the control plane.
    ///
    /// # Errors
    ///
    /// [`Full`]: the event is lost, and counted.
    pub fn push(&mut self, event: &Event) -> Result<(), Full> {
        let mut words = [0; EVENT_WORDS];
        encode_event(event, &mut words);
        // A full ring is a control plane that sleeps, too.
        self.pending = true;
        match self.ring.push(&words) {
            Ok(_) => Ok(()),
            Err(full) => {
                self.counters.add(Counter::EventsLost, 1);
                Err(full)
            }
        }
    }

    /// Wakes the control plane if something was pushed since the last time: a system call, and only then.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.waker.wake();
        }
    }
}

/// A block of counters and its one writer: a load and a store, no locked instruction.
#[derive(Debug, Clone)]
pub struct CounterWriter {
    pub(crate) block: Region,
}

impl CounterWriter {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, amount: u64) {
        self.add_at(counter.index(), amount);
    }

    /// Sets a counter to a total that is counted elsewhere.
    pub fn set(&self, counter: Counter, total: u64) {
        if let Some(word) = self.block.words().get(counter.index()) {
            word.store(total, Ordering::Relaxed);
        }
    }

    /// Adds to a counter of a port.
    pub fn add_port(&self, port: PortId, counter: PortCounter, amount: u64) {
        self.add_at(port_index(port, counter), amount);
    }

    fn add_at(&self, index: usize, amount: u64) {
        if let Some(word) = self.block.words().get(index) {
            let total = word.load(Ordering::Relaxed).wrapping_add(amount);
            word.store(total, Ordering::Relaxed);
        }
    }
}

/// Where a port's counter is in a block.
pub(crate) fn port_index(port: PortId, counter: PortCounter) -> usize {
    Counter::COUNT + usize::from(port.0) * PortCounter::COUNT + counter.index()
}

/// The writing side of the SA table.
#[derive(Debug)]
pub struct SaWriter {
    pub(crate) table: SeqlockTable<Region, SA_WORDS>,
}

impl SaWriter {
    /// Writes a whole record into its slot.
    pub fn publish(&self, record: &SaRecord) {
        self.table
            .write(slot(record.sa), STATISTICS_AT, &encode_sa(record));
    }

    /// Writes what traffic has changed of an SA that was published; of another it writes nothing.
    pub fn update(&self, sa: SaId, state: SaState, statistics: &SaStatistics) {
        if !self.holds(sa) {
            return;
        }
        let selected = is_selected(self.table.peek(slot(sa), STATE_AT));
        let [a, b, c, d, e, f] = encode_statistics(statistics);
        let words = [
            a,
            b,
            c,
            d,
            e,
            f,
            encode_state(state, selected, statistics.path_mtu),
        ];
        self.table.write(slot(sa), STATISTICS_AT, &words);
    }

    /// Says whether an outbound SA is the one that its policies use; of an SA that was not published it says nothing.
    pub fn select(&self, sa: SaId, selected: bool) {
        if !self.holds(sa) {
            return;
        }
        let before = self.table.peek(slot(sa), STATE_AT);
        self.table
            .write(slot(sa), STATE_AT, &[with_selected(before, selected)]);
    }

    /// Frees the slot of an SA; of another's slot it leaves the record.
    pub fn clear(&self, sa: SaId) {
        if self.holds(sa) {
            self.table
                .write(slot(sa), STATISTICS_AT, &[0; SA_WORDS - 1]);
        }
    }

    fn holds(&self, sa: SaId) -> bool {
        self.table.peek(slot(sa), SA_ID_AT) == u64::from(sa.value())
    }
}

fn slot(sa: SaId) -> usize {
    sa.slot() as usize
}

/// A worker's sign of life.
#[derive(Debug)]
pub struct Heartbeat {
    pub(crate) word: Region,
}

impl Heartbeat {
    /// Says that the worker was alive at `now_ms`, in milliseconds of the monotonic clock.
    pub fn beat(&self, now_ms: u64) {
        if let Some(word) = self.word.words().first() {
            Word::store(word, now_ms, Ordering::Relaxed);
        }
    }
}

/// Wakes a worker, the steward or the control plane, whichever it belongs to.
#[derive(Debug, Clone)]
pub struct Waker {
    pub(crate) eventfd: Arc<OwnedFd>,
}

impl Waker {
    /// Wakes it; a second time before it woke changes nothing. One system call, which does not block.
    pub fn wake(&self) {
        // The only failure of a non-blocking eventfd is a count that is full, and then the sleeper is awake already.
        let _ = rustix::io::write(&*self.eventfd, &1_u64.to_ne_bytes());
    }
}

/// What a worker sleeps on.
#[derive(Debug)]
pub struct WakeReceiver {
    pub(crate) eventfd: Arc<OwnedFd>,
}

impl WakeReceiver {
    /// Readable when there is a reason to wake.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// Makes it unreadable again; to be called before looking for what there is to do.
    pub fn drain(&self) {
        drain(&self.eventfd);
    }
}

/// Takes the count of a non-blocking eventfd.
pub(crate) fn drain(eventfd: &OwnedFd) {
    let mut count = [0; 8];
    // Nothing to read is as good.
    let _ = rustix::io::read(eventfd, &mut count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Connection, ControlChannel, CopyMode, Direction, Epoch, Facts, Label, Mode, PolicyId,
        Polling, PortFacts, PortMode, PortSetup, Role, Segment, Setup, Transform, UdpPorts,
        WorkerId, WorkerSetup,
    };
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::net::Ipv4Addr;

    fn joined() -> (ControlChannel, Connection, WorkerEnd) {
        let setup = Setup {
            workers: vec![WorkerSetup { core: None }],
            ports: vec![PortSetup {
                vlan: None,
                interface: "wan0".to_owned(),
                role: Role::Outside,
            }],
            polling: Polling::Busy,
            sa_capacity: 4,
            engine: None,
            ring_frames: 1,
        };
        let facts = Facts {
            epoch: Epoch(1),
            engine: "portable".to_owned(),
            ports: vec![PortFacts {
                mode: PortMode::Native,
                copy: CopyMode::Copy,
                queues: 1,
            }],
        };
        let (segment, _) = Segment::create(&setup, &facts).unwrap();
        let (channel, connection) = segment.connect_locally().unwrap();
        (channel, connection, segment.worker(WorkerId(0)).unwrap())
    }

    fn record(sa: SaId) -> SaRecord {
        SaRecord {
            sa,
            spi: 0xc000_0001,
            direction: Direction::Outbound,
            policy: PolicyId(512),
            owner: WorkerId(0),
            state: SaState::Mature,
            selected: false,
            label: Label::new("site-b/lan"),
            transform: Transform::AES_128_GCM_16,
            local: Ipv4Addr::new(192, 0, 2, 1).into(),
            remote: Ipv4Addr::new(192, 0, 2, 2).into(),
            encapsulation: Some(UdpPorts {
                local: 4500,
                remote: 4500,
            }),
            mode: Mode::Transport,
            esn: true,
            window: 0,
            statistics: SaStatistics::default(),
        }
    }

    #[test]
    fn an_sa_can_be_read_back_as_it_changes() {
        let (channel, _connection, worker) = joined();
        let table = &worker.sa_table;
        let sa = SaId::from_parts(2, 5).unwrap();
        let last = SaId::from_parts(2, 6).unwrap();
        table.publish(&record(sa));
        table.select(sa, true);
        let statistics = SaStatistics {
            packets: 3,
            bytes: 300,
            sequence: 4,
            last_used_ms: 99,
            ..SaStatistics::default()
        };
        table.update(sa, SaState::Dying, &statistics);
        // Another SA of the same slot is not there.
        table.update(last, SaState::Dead, &SaStatistics::default());
        table.select(last, false);
        table.clear(last);
        let expected = SaRecord {
            selected: true,
            state: SaState::Dying,
            statistics,
            ..record(sa)
        };
        assert_eq!(channel.sa_records().collect::<Vec<_>>(), [expected]);
        assert_eq!(channel.sa_record(sa), Some(expected));
        assert_eq!(channel.sa_record(last), None);
        table.clear(sa);
        assert_eq!(channel.sa_records().count(), 0);
        // A slot beyond the table is nobody's.
        table.publish(&record(SaId::from_parts(4, 0).unwrap()));
        assert_eq!(channel.sa_records().count(), 0);
    }

    #[test]
    fn a_full_event_ring_loses_events_and_says_how_many() {
        let (mut channel, _connection, mut worker) = joined();
        let event = Event::FirstPacket {
            sa: SaId::from_parts(1, 0).unwrap(),
        };
        for _ in 0..crate::EVENT_SLOTS {
            worker.events.push(&event).unwrap();
        }
        assert_eq!(worker.events.push(&event), Err(Full));
        assert_eq!(channel.counters().total(Counter::EventsLost), 1);
        assert_eq!(channel.next_event(), Some((WorkerId(0), Ok(event))));
        assert_eq!(worker.events.push(&event), Ok(()));
    }

    #[test]
    fn sleepers_wake_for_commands_and_for_events() {
        let (mut channel, _connection, mut worker) = joined();
        let ready = |fd: BorrowedFd<'_>| {
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
        };
        assert!(!ready(worker.wake.fd()));
        channel.wake(WorkerId(0));
        channel.senders()[0].wake();
        assert!(ready(worker.wake.fd()));
        worker.wake.drain();
        assert!(!ready(worker.wake.fd()));
        worker.events.flush();
        assert!(!ready(channel.event_fd()), "nothing was pushed");
        let sa = SaId::from_parts(1, 0).unwrap();
        worker.events.push(&Event::SoftLifetime { sa }).unwrap();
        worker.events.flush();
        assert!(ready(channel.event_fd()));
        channel.drain_event_fd();
        assert!(!ready(channel.event_fd()));
    }
}
