//! The shared memory as the dataplane makes it: one segment for one life and one setup.

use crate::{
    CopyMode, Epoch, Facts, MAX_ENGINE_NAME, NotLocked, PacketSender, PortFacts, PortMode, Setup,
    SetupError, Waker, WorkerEnd, WorkerId,
    layout::{LAYOUT_HASH, Layout, MAGIC, VERSION, header},
    ledger::Ledger,
    mapping::{self, MapError, Mapping},
    ring::{Consumer, Producer},
    seqlock::SeqlockTable,
    words::{Word, Words},
    worker::{CommandReceiver, CounterWriter, EventSender, Heartbeat, SaWriter, WakeReceiver},
};
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    process::getpid,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Why there is no segment, or no end of it.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The setup is not one that can be.
    #[error("{0}")]
    Setup(#[from] SetupError),
    /// No memory.
    #[error("{0}")]
    Map(#[from] MapError),
    /// No eventfd.
    #[error("the kernel gives no eventfd to wake workers by: {0}")]
    Eventfd(Errno),
    /// As many facts as ports are needed.
    #[error("the setup has {ports} ports and there are facts of {facts}; this is a bug")]
    Facts {
        /// Ports of the setup.
        ports: usize,
        /// Ports of the facts.
        facts: usize,
    },
    /// No such ring, or its end is taken.
    #[error("ring {ring} of {rings} does not exist, or its end is taken; this is a bug")]
    NoEnd {
        /// The ring asked for.
        ring: u16,
        /// How many there are, the steward's included.
        rings: usize,
    },
}

/// The segment. Dropping it ends nothing: the memory lives as long as anybody has it mapped.
#[derive(Debug)]
pub struct Segment {
    memfd: OwnedFd,
    mapping: Arc<Mapping>,
    layout: Layout,
    setup: Setup,
    /// One for each ring.
    wakes: Vec<Arc<OwnedFd>>,
    events: Arc<OwnedFd>,
    /// Whether a ring's end was given to its worker.
    taken: Vec<AtomicBool>,
}

impl Segment {
    /// Makes the segment that `setup` asks for, with what came of it. Memory that could not be locked comes with a
    /// warning.
    ///
    /// # Errors
    ///
    /// When the setup is not valid or the kernel refuses.
    pub fn create(setup: &Setup, facts: &Facts) -> Result<(Self, Option<NotLocked>), SegmentError> {
        setup.check()?;
        if facts.ports.len() != setup.ports.len() {
            return Err(SegmentError::Facts {
                ports: setup.ports.len(),
                facts: facts.ports.len(),
            });
        }
        let layout = Layout::new(setup);
        let memfd = mapping::create(layout.words())?;
        let (mapping, warning) = Mapping::open(&memfd, layout.words())?;
        write_header(layout.header(&mapping).words(), facts);
        let wakes = (0..layout.rings())
            .map(|_| new_eventfd())
            .collect::<Result<_, _>>()?;
        let segment = Self {
            memfd,
            mapping,
            layout,
            setup: setup.clone(),
            wakes,
            events: new_eventfd()?,
            taken: (0..layout.rings())
                .map(|_| AtomicBool::new(false))
                .collect(),
        };
        Ok((segment, warning))
    }

    /// The setup that it was made for.
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The end of one worker, or of the steward ([`Setup::steward`]); each can be had once.
    ///
    /// # Errors
    ///
    /// When there is none, or it was had.
    pub fn worker(&self, ring: WorkerId) -> Result<WorkerEnd, SegmentError> {
        let none = || SegmentError::NoEnd {
            ring: ring.0,
            rings: self.layout.rings(),
        };
        let index = usize::from(ring.0);
        let wake = self.wakes.get(index).ok_or_else(none)?;
        let taken = self.taken.get(index).ok_or_else(none)?;
        if taken.swap(true, Ordering::Relaxed) {
            return Err(none());
        }
        let (layout, mapping) = (&self.layout, &self.mapping);
        let counters = CounterWriter {
            block: layout.counters(mapping, ring),
        };
        Ok(WorkerEnd {
            commands: CommandReceiver {
                ring: Consumer::attach(layout.command_ring(mapping, ring)).ok_or_else(none)?,
                counters: counters.clone(),
                corrupt: false,
            },
            events: EventSender {
                ring: Producer::attach(layout.event_ring(mapping, ring)).ok_or_else(none)?,
                counters: counters.clone(),
                waker: Waker {
                    eventfd: Arc::clone(&self.events),
                },
                pending: false,
            },
            counters,
            packets: layout
                .capture_ring(mapping, ring)
                .and_then(PacketSender::attach),
            ledger: layout.ledger(mapping, ring).map(Ledger::new),
            sa_table: SaWriter {
                table: SeqlockTable::new(layout.sa_table(mapping)),
            },
            heartbeat: Heartbeat {
                word: layout.heartbeat(mapping, ring),
            },
            wake: WakeReceiver {
                eventfd: Arc::clone(wake),
            },
        })
    }

    /// What wakes a worker, or the steward; `None` when there is no such one.
    pub fn waker(&self, ring: WorkerId) -> Option<Waker> {
        let eventfd = Arc::clone(self.wakes.get(usize::from(ring.0))?);
        Some(Waker { eventfd })
    }

    /// What a control plane is handed: the memory, the rings' eventfds in order, the eventfd of events.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let wakes = self.wakes.iter().map(|fd| fd.as_fd());
        std::iter::once(self.memfd.as_fd())
            .chain(wakes)
            .chain([self.events.as_fd()])
            .collect()
    }
}

fn new_eventfd() -> Result<Arc<OwnedFd>, SegmentError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map(Arc::new)
        .map_err(SegmentError::Eventfd)
}

fn write_header<W: Word>(words: &[W], facts: &Facts) {
    let store = |at: usize, value: u64| {
        if let Some(word) = words.get(at) {
            word.store(value, Ordering::Relaxed);
        }
    };
    store(header::VERSION, VERSION.into());
    store(header::HASH, LAYOUT_HASH);
    store(header::EPOCH, facts.epoch.0);
    store(
        header::PID,
        getpid().as_raw_nonzero().get().cast_unsigned().into(),
    );
    let end = facts.engine.floor_char_boundary(MAX_ENGINE_NAME);
    let mut engine = [0; header::ENGINE_WORDS * 8];
    for (to, from) in engine.iter_mut().zip(facts.engine.bytes().take(end)) {
        *to = from;
    }
    for (i, word) in engine.as_chunks().0.iter().enumerate() {
        store(header::ENGINE + i, u64::from_le_bytes(*word));
    }
    for (i, port) in facts.ports.iter().enumerate() {
        let word = port.mode as u64 | (port.copy as u64) << 8 | u64::from(port.queues) << 16;
        store(header::PORTS + i, word);
    }
    store(header::MAGIC, MAGIC);
}

/// What a control plane reads of the header.
#[derive(Debug)]
pub(crate) struct Header {
    pub facts: Facts,
    pub pid: u32,
}

/// Reads a header back; `Err` gives the version and hash when they are not ours, `Ok(None)` when it makes no sense.
pub(crate) fn read_header<W: Word>(
    words: &[W],
    ports: usize,
) -> Result<Option<Header>, (u32, u64)> {
    let load = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
    if load(header::MAGIC) != MAGIC {
        return Ok(None);
    }
    if load(header::VERSION) != u64::from(VERSION) || load(header::HASH) != LAYOUT_HASH {
        return Err((load(header::VERSION) as u32, load(header::HASH)));
    }
    let mut engine = Vec::with_capacity(header::ENGINE_WORDS * 8);
    for i in 0..header::ENGINE_WORDS {
        engine.extend(load(header::ENGINE + i).to_le_bytes());
    }
    engine.retain(|byte| *byte != 0);
    let facts = (0..ports)
        .map(|i| port_facts(load(header::PORTS + i)))
        .collect::<Option<Vec<_>>>();
    let (Ok(engine), Some(ports)) = (String::from_utf8(engine), facts) else {
        return Ok(None);
    };
    Ok(Some(Header {
        facts: Facts {
            epoch: Epoch(load(header::EPOCH)),
            engine,
            ports,
        },
        pid: load(header::PID) as u32,
    }))
}

fn port_facts(word: u64) -> Option<PortFacts> {
    let modes = [PortMode::Native, PortMode::Generic, PortMode::Tap];
    let copies = [CopyMode::Copy, CopyMode::ZeroCopy];
    Some(PortFacts {
        mode: modes.into_iter().find(|m| *m as u64 == word & 0xff)?,
        copy: copies.into_iter().find(|c| *c as u64 == word >> 8 & 0xff)?,
        queues: u16::try_from(word >> 16).ok()?,
    })
}
