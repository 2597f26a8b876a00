//! The control plane's end of the channel.

use crate::{
    Account, Captured, Command, Counter, Epoch, Event, Facts, Full, NotLocked, PortCounter, PortId,
    SaId, SaRecord, Sequence, Setup, Waker, WorkerId,
    capture::PacketReceiver,
    handshake::{ConnectError, is_open},
    layout::{EVENT_SLOTS, LAYOUT_HASH, Layout, VERSION},
    ledger::Ledger,
    mapping::{Mapping, Region},
    record::{
        COMMAND_WORDS, EVENT_WORDS, SA_ID_AT, SA_WORDS, decode_event, decode_sa, encode_command,
    },
    ring::{Consumer, Producer},
    segment::{Header, read_header},
    seqlock::SeqlockTable,
    words::{Word, Words},
    worker::{drain, port_index},
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, atomic::Ordering};
use zeroize::Zeroize;

/// A dataplane, as the control plane has hold of it: one for as long as its socket is open.
#[derive(Debug)]
pub struct ControlChannel {
    socket: OwnedFd,
    event_fd: OwnedFd,
    setup: Setup,
    header: Header,
    layout: Layout,
    mapping: Arc<Mapping>,
    senders: Vec<CommandSender>,
    events: Vec<EventReceiver>,
    packets: Vec<PacketReceiver<Region>>,
    /// The ring that is asked first for the next event, so that none starves the others.
    next: usize,
}

impl ControlChannel {
    /// Takes hold of what a dataplane handed over: the memory, the rings' eventfds in order, the eventfd of events.
    pub(crate) fn attach(
        socket: OwnedFd,
        mut descriptors: Vec<OwnedFd>,
        setup: &Setup,
    ) -> Result<(Self, Option<NotLocked>), ConnectError> {
        let layout = Layout::new(setup);
        let found = descriptors.len();
        let wanted = layout.rings() + 2;
        let none = || ConnectError::Descriptors { found, wanted };
        if found != wanted {
            return Err(none());
        }
        let event_fd = descriptors.pop().ok_or_else(none)?;
        let wakes = descriptors.split_off(1);
        let memfd = descriptors.pop().ok_or_else(none)?;
        let (mapping, warning) = Mapping::open(&memfd, layout.words())?;
        let header = layout.header(&mapping);
        let header = read_header(header.words(), setup.ports.len())
            .map_err(|(version, hash)| ConnectError::Mismatch {
                ours: (VERSION, LAYOUT_HASH),
                theirs: (version, hash),
            })?
            .ok_or(ConnectError::Header)?;
        let mut senders = Vec::with_capacity(layout.rings());
        let mut events = Vec::with_capacity(layout.rings());
        for (wake, ring) in wakes.into_iter().zip(0..) {
            let ring = WorkerId(ring);
            senders.push(CommandSender {
                ring: Producer::attach(layout.command_ring(&mapping, ring))
                    .ok_or(ConnectError::Header)?,
                waker: Waker {
                    eventfd: Arc::new(wake),
                },
            });
            events.push(EventReceiver {
                ring: Consumer::attach(layout.event_ring(&mapping, ring))
                    .ok_or(ConnectError::Header)?,
                corrupt: false,
            });
        }
        let packets = (0..layout.rings() as u16 - 1)
            .map(|worker| layout.capture_ring(&mapping, WorkerId(worker)))
            .map(|ring| PacketReceiver::attach(ring?))
            .collect::<Option<_>>()
            .ok_or(ConnectError::Header)?;
        let channel = Self {
            socket,
            event_fd,
            setup: setup.clone(),
            header,
            layout,
            mapping,
            senders,
            events,
            packets,
            next: 0,
        };
        Ok((channel, warning))
    }

    /// What the dataplane was set up with.
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What came of it.
    pub const fn facts(&self) -> &Facts {
        &self.header.facts
    }

    /// This life of the dataplane: another one means that all SAs are gone.
    pub const fn epoch(&self) -> Epoch {
        self.header.facts.epoch
    }

    /// The dataplane's process id.
    pub const fn dataplane_pid(&self) -> u32 {
        self.header.pid
    }

    /// Where commands to a worker, or to the steward ([`Setup::steward`]), go in; `None` when there is no such one.
    pub fn sender(&mut self, ring: WorkerId) -> Option<&mut CommandSender> {
        self.senders.get_mut(usize::from(ring.0))
    }

    /// All of them, in the order of the rings: the workers, then the steward.
    pub fn senders(&mut self) -> &mut [CommandSender] {
        &mut self.senders
    }

    /// Wakes a worker or the steward to look at its commands.
    pub fn wake(&self, ring: WorkerId) {
        if let Some(sender) = self.senders.get(usize::from(ring.0)) {
            sender.waker.wake();
        }
    }

    /// The next event of any ring and whose it is; `None` when there is none.
    ///
    /// An event whose record makes no sense, or a ring whose count cannot be (said once), is an error: the dataplane
    /// misbehaves.
    pub fn next_event(&mut self) -> Option<(WorkerId, Result<Event, EventError>)> {
        for _ in 0..self.events.len() {
            let index = self.next % self.events.len();
            self.next = index + 1;
            if let Some(event) = self.events.get_mut(index)?.receive() {
                return Some((WorkerId(index as u16), event));
            }
        }
        None
    }

    /// The next packet that a worker has copied, of each worker in its order; `None` when there is none.
    pub fn next_packet(&mut self) -> Option<Captured> {
        self.packets.iter_mut().find_map(PacketReceiver::receive)
    }

    /// Readable when there are events.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.event_fd.as_fd()
    }

    /// Makes [`ControlChannel::event_fd`] unreadable again; to be called before [`ControlChannel::next_event`].
    pub fn drain_event_fd(&self) {
        drain(&self.event_fd);
    }

    /// Readable when the dataplane is gone.
    pub fn socket_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the dataplane is still there.
    pub fn is_open(&self) -> bool {
        is_open(&self.socket)
    }

    /// What was counted. It stays readable when the dataplane is gone.
    pub fn counters(&self) -> Counters {
        let rings = self.layout.rings() as u16;
        let blocks = (0..rings)
            .map(|ring| self.layout.counters(&self.mapping, WorkerId(ring)))
            .collect();
        Counters { blocks }
    }

    /// What each worker has dropped, by SA and by policy, and what SAs that are gone had carried. It stays readable when the
    /// dataplane is gone.
    pub fn accounts(&self) -> Vec<Account> {
        let workers = (0..self.layout.rings() as u16 - 1).map(WorkerId);
        workers
            .filter_map(|worker| self.layout.ledger(&self.mapping, worker))
            .flat_map(|region| Ledger::new(region).accounts().collect::<Vec<_>>())
            .collect()
    }

    /// When a worker or the steward was last alive, in milliseconds of the monotonic clock; 0 for never.
    pub fn heartbeat(&self, ring: WorkerId) -> u64 {
        let region = self.layout.heartbeat(&self.mapping, ring);
        region
            .words()
            .first()
            .map_or(0, |word| Word::load(word, Ordering::Relaxed))
    }

    /// What the dataplane has of an SA; `None` when it has no such one, or its record was being written all the time.
    pub fn sa_record(&self, sa: SaId) -> Option<SaRecord> {
        let record = read_sa(&self.sa_table(), sa.slot() as usize)?;
        (record.sa == sa).then_some(record)
    }

    /// All SAs that the dataplane has. A record that is being written all the time is left out.
    pub fn sa_records(&self) -> impl Iterator<Item = SaRecord> + use<> {
        let table = self.sa_table();
        (0..table.len()).filter_map(move |slot| match table.peek(slot, SA_ID_AT) {
            0 => None,
            _ => read_sa(&table, slot),
        })
    }

    /// How many slots the SA table has up to the last one that had an SA in this life of the dataplane.
    pub fn touched_slots(&self) -> u32 {
        let table = self.sa_table();
        let last = (0..table.len()).rfind(|slot| table.is_touched(*slot));
        // A table has no more slots than an SA's name can tell apart, 2^20.
        last.map_or(0, |last| last as u32 + 1)
    }

    fn sa_table(&self) -> SeqlockTable<Region, SA_WORDS> {
        SeqlockTable::new(self.layout.sa_table(&self.mapping))
    }
}

fn read_sa(table: &SeqlockTable<Region, SA_WORDS>, slot: usize) -> Option<SaRecord> {
    let mut words = [0; SA_WORDS];
    table.read(slot, &mut words).ok()?;
    decode_sa(&words)
}

/// The taking end of an event ring.
#[derive(Debug)]
struct EventReceiver {
    ring: Consumer<Region, EVENT_WORDS>,
    corrupt: bool,
}

impl EventReceiver {
    fn receive(&mut self) -> Option<Result<Event, EventError>> {
        for _ in 0..EVENT_SLOTS {
            let mut words = [0; EVENT_WORDS];
            match self.ring.take(&mut words) {
                Ok(taken) => taken?,
                Err(_) if self.corrupt => return None,
                Err(_) => {
                    self.corrupt = true;
                    return Some(Err(EventError::Corrupt));
                }
            };
            self.ring.applied();
            let kind = words[0];
            // A wiped slot was taken by a control plane that died before it moved the tail.
            if kind != 0 {
                return Some(decode_event(&words).ok_or(EventError::Malformed { kind }));
            }
        }
        None
    }
}

/// Why an event is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Its record makes no sense.
    #[error(
        "the dataplane sent an event (kind {kind}) that makes no sense: restart both planes from the same build"
    )]
    Malformed {
        /// The record's first word.
        kind: u64,
    },
    /// The ring has a count that cannot be; it stays so.
    #[error("an event ring of the dataplane has a count that cannot be: restart the dataplane")]
    Corrupt,
}

/// Where commands to one worker, or to the steward, go in.
#[derive(Debug)]
pub struct CommandSender {
    ring: Producer<Region, COMMAND_WORDS>,
    waker: Waker,
}

impl CommandSender {
    /// Pushes a command. A worker that sleeps looks at it when it is woken with [`CommandSender::wake`].
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was pushed. The worker is behind, or dead.
    pub fn push(&mut self, command: &Command) -> Result<Sequence, Full> {
        let mut words = [0; COMMAND_WORDS];
        encode_command(command, &mut words);
        let pushed = self.ring.push(&words);
        words.zeroize();
        pushed
    }

    /// Wakes the worker to look.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// The last command that was pushed, by whichever control plane.
    pub fn pushed(&self) -> Sequence {
        self.ring.pushed()
    }

    /// The last command that was applied: all up to it are, and their keys are wiped from the ring.
    pub fn applied(&self) -> Sequence {
        self.ring.applied()
    }
}

/// What was counted: the live numbers, not a copy.
#[derive(Debug, Clone)]
pub struct Counters {
    blocks: Vec<Region>,
}

impl Counters {
    /// A worker's counter, or the steward's.
    pub fn get(&self, ring: WorkerId, counter: Counter) -> u64 {
        self.load(ring, counter.index())
    }

    /// The sum over all workers and the steward.
    pub fn total(&self, counter: Counter) -> u64 {
        self.rings()
            .map(|ring| self.get(ring, counter))
            .fold(0, u64::wrapping_add)
    }

    /// A worker's counter of a port; 0 when there is no such port.
    pub fn port(&self, ring: WorkerId, port: PortId, counter: PortCounter) -> u64 {
        self.load(ring, port_index(port, counter))
    }

    /// The sum over all workers.
    pub fn port_total(&self, port: PortId, counter: PortCounter) -> u64 {
        self.rings()
            .map(|ring| self.port(ring, port, counter))
            .fold(0, u64::wrapping_add)
    }

    /// The workers and the steward.
    pub fn rings(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (0..self.blocks.len() as u16).map(WorkerId)
    }

    fn load(&self, ring: WorkerId, index: usize) -> u64 {
        self.blocks
            .get(usize::from(ring.0))
            .and_then(|block| block.words().get(index))
            .map_or(0, |word| Word::load(word, Ordering::Relaxed))
    }
}
