//! A worker: one thread that owns one queue of every port, and takes each burst through the pipeline to its end.
//!
//! See `README.md` beside this file for the way of a packet through the modules.

mod capture;
mod core;
mod forward;
mod fragment;
pub mod fuzzing;
mod handoff;
mod held;
mod inbound;
mod leave;
mod ledger;
mod limit;
mod links;
mod moving;
mod outbound;
mod packet;
mod pmtu;
mod publish;
mod reassembly;
mod relay;
mod reports;
mod rest;
mod single;
mod stopwatch;
mod tables;
mod tally;
mod transform;
mod way;

use self::{
    capture::Capture,
    core::{Core, Origin, Via},
    inbound::Inbound,
    outbound::Outbound,
    reports::EventSink,
    rest::Rest,
    tables::Tables,
};
use crate::port::{BURST, Losses, Port, RxFrame};
use arrayvec::ArrayVec;
use esplanade_channel::{
    CommandReceiver, Counter, CounterWriter, Event, EventSender, Heading, Heartbeat, Polling,
    PortId, Role, SaWriter, WakeReceiver, WorkerEnd, WorkerId,
};
use esplanade_crypto::{EngineKind, IvGenerator};
use esplanade_wire::partial;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

pub use handoff::{Handoff, MAX_LENT};
pub use links::Link;
pub use stopwatch::{Stage, Stopwatch};

/// Commands obeyed between two bursts.
const COMMANDS_A_ROUND: usize = 16;
/// How often the ports are asked what was lost below them.
const LOSSES_EVERY: Duration = Duration::from_secs(1);

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its number.
    pub id: WorkerId,
    /// The side of each port, by port number.
    pub roles: Vec<Role>,
    /// What each port is, by number; nothing when each has a queue of its own.
    pub links: Vec<Link>,
    /// How it waits for packets.
    pub polling: Polling,
    /// What seals and opens packets.
    pub engine: EngineKind,
    /// How many SAs fit.
    pub sa_capacity: u32,
}

impl EventSink for EventSender {
    fn send(&mut self, event: &Event) -> bool {
        self.push(event).is_ok()
    }
}

/// A worker. Everything that it needs is allocated when it is made.
#[derive(Debug)]
pub struct Worker<P> {
    core: Core<P, EventSender>,
    inbound: Inbound,
    outbound: Outbound,
    commands: CommandReceiver,
    counters: CounterWriter,
    sa_table: SaWriter,
    heartbeat: Heartbeat,
    wake: WakeReceiver,
    rest: Rest,
    me: WorkerId,
    published_ms: u64,
    /// When the last round ended.
    clock: Duration,
    losses_due: Duration,
}

/// The monotonic clock, as the channel's records use it.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(
        now.tv_sec.try_into().unwrap_or(0),
        now.tv_nsec.try_into().unwrap_or(0),
    )
}

impl<P: Port> Worker<P> {
    /// A worker with its queues, of which [`Settings::links`] says which ports they are, and a generator of IVs that is its own.
    pub fn new(
        settings: Settings,
        ports: Vec<P>,
        end: WorkerEnd,
        handoff: Handoff,
        ivs: IvGenerator,
    ) -> Self {
        let now = now();
        let tables = Tables::new(
            settings.id.0,
            settings.engine,
            settings.roles.len(),
            settings.sa_capacity,
            // Only to spread flows over the cache; no secret.
            now.as_nanos() as u64,
        );
        let mut core = Core::new(
            tables,
            ports,
            (settings.roles, &settings.links),
            end.events,
            handoff,
            ivs,
            settings.sa_capacity,
        );
        core.capture = Capture::new(end.packets);
        core.ledger = end.ledger;
        Self {
            core,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            commands: end.commands,
            counters: end.counters,
            sa_table: end.sa_table,
            heartbeat: end.heartbeat,
            wake: end.wake,
            rest: Rest::new(settings.polling),
            me: settings.id,
            published_ms: 0,
            clock: now,
            losses_due: now,
        }
    }

    /// Its queues: for those that are served by hand, between two rounds.
    pub fn ports_mut(&mut self) -> &mut [P] {
        &mut self.core.ports
    }

    /// What its stages cost, for benches.
    pub fn stopwatch_mut(&mut self) -> &mut Stopwatch {
        &mut self.core.stopwatch
    }

    /// Works until `stop` is set. To be called on the worker's own, pinned thread; whoever sets `stop` also wakes the
    /// worker.
    pub fn run(&mut self, stop: &AtomicBool) {
        self.clock = now();
        while !stop.load(Ordering::Relaxed) {
            let work = self.round(self.clock);
            self.spend(work > 0);
            if self.rest.is_due(work, self.clock) {
                self.sleep();
                self.spend(false);
            }
        }
    }

    /// Books the time since the last time.
    fn spend(&mut self, busy: bool) {
        let now = now();
        let spent = now.saturating_sub(self.clock).as_nanos() as u64;
        let counter = if busy {
            Counter::TimeBusy
        } else {
            Counter::TimeIdle
        };
        self.counters.add(counter, spent);
        self.clock = now;
    }

    /// One round: commands, a burst from each port and from each other worker, and what follows from them. Gives how
    /// many packets and commands there were.
    pub fn round(&mut self, now: Duration) -> usize {
        let now_ms = now.as_millis() as u64;
        self.core.now_ms = now_ms;
        self.core.capture.tick(now);
        self.heartbeat.beat(now_ms);
        self.core.stopwatch.start();
        let commands = self.obey();
        let packets = self.receive() + self.borrow();
        single::dummies::send_due(&mut self.core);
        if !self.core.relayed.is_empty() {
            self.finish_burst();
        }
        self.drop_late();
        reassembly::end_late(&mut self.core);
        pmtu::age(&mut self.core.tables, now_ms);
        for lent in self.core.handoff.take_back() {
            self.core.take_home(lent);
        }
        self.core.ports.iter_mut().for_each(Port::flush);
        self.core.handoff.ring();
        self.core.stopwatch.was(Stage::Transmit);
        if packets > 0 {
            self.core.tally.one(Counter::Bursts);
        }
        let counters = &self.counters;
        self.core.tally.flush(
            |counter, amount| counters.add(counter, amount),
            |port, counter, amount| counters.add_port(PortId(port), counter, amount),
        );
        if !self.core.moved.is_empty() {
            self.publish_moved();
        }
        self.publish_dirty();
        if now >= self.losses_due {
            self.losses_due = now + LOSSES_EVERY;
            self.report_losses();
        }
        self.core.events.flush();
        self.core.stopwatch.was(Stage::Flush);
        commands + packets
    }

    /// Obeys what the control plane says.
    fn obey(&mut self) -> usize {
        let mut obeyed = 0;
        while obeyed < COMMANDS_A_ROUND {
            let Some(received) = self.commands.receive() else {
                break;
            };
            let result = received.command.and_then(|command| self.apply(&command));
            match result {
                Ok(()) => self.core.tally.one(Counter::CommandsApplied),
                Err(reason) => {
                    self.core.tally.one(Counter::CommandsFailed);
                    let sequence = received.sequence;
                    self.core
                        .events
                        .send(&Event::CommandFailed { sequence, reason });
                }
            }
            obeyed += 1;
        }
        if obeyed > 0 {
            self.commands.applied();
        }
        obeyed
    }

    /// A burst from each port.
    fn receive(&mut self) -> usize {
        let mut packets = 0;
        for queue in 0..self.core.ports.len() {
            let mut burst = ArrayVec::new();
            if let Some(port) = self.core.ports.get_mut(queue) {
                port.receive(&mut burst);
            }
            if burst.is_empty() {
                continue;
            }
            packets += burst.len();
            let Some(port) = self.core.links.sole(queue) else {
                self.receive_tagged(queue as u8, burst);
                continue;
            };
            let bytes: usize = burst.iter().map(|frame| frame.len()).sum();
            let tally = &mut self.core.tally;
            tally.on_port(
                port,
                esplanade_channel::PortCounter::RxPackets,
                burst.len() as u64,
            );
            tally.on_port(port, esplanade_channel::PortCounter::RxBytes, bytes as u64);
            self.core.stopwatch.was(Stage::Receive);
            if self
                .core
                .tables
                .fib
                .port(port)
                .is_some_and(|port| port.partial_checksums)
            {
                self.finish_checksums(&mut burst);
            }
            for frame in burst {
                self.core.see(port, Heading::In, &frame);
                let lender = None;
                let from = Via {
                    port,
                    lender,
                    origin: Origin::Wire,
                };
                self.enter(frame, from);
            }
            self.finish_burst();
        }
        packets
    }

    /// A burst of an interface that is several ports, or a VLAN.
    fn receive_tagged(&mut self, queue: u8, burst: ArrayVec<RxFrame, BURST>) {
        use esplanade_channel::PortCounter::{RxBytes, RxPackets};
        self.core.stopwatch.was(Stage::Receive);
        for mut frame in burst {
            let Some(port) = self.core.links.sort(queue, &mut frame) else {
                // XDP takes no others; a reload may have come between.
                self.core.tally.one(Counter::InNotOurs);
                if let Some(port) = self.core.ports.get_mut(usize::from(queue)) {
                    port.release(Some(frame));
                }
                continue;
            };
            self.core.tally.on_port(port, RxPackets, 1);
            self.core.tally.on_port(port, RxBytes, frame.len() as u64);
            let facts = self.core.tables.fib.port(port);
            if facts.is_some_and(|port| port.partial_checksums) {
                self.finish_checksums(std::slice::from_mut(&mut frame));
            }
            self.core.see(port, Heading::In, &frame);
            let from = Via {
                port,
                lender: None,
                origin: Origin::Wire,
            };
            self.enter(frame, from);
        }
        self.finish_burst();
    }

    /// Finishes what a virtual link left of transport checksums, which AF_XDP cannot see.
    #[cold]
    fn finish_checksums(&mut self, burst: &mut [RxFrame]) {
        let packets = burst
            .iter_mut()
            .filter_map(|frame| frame.get_mut(packet::ETHERNET..));
        let finished = packets.filter_map(|packet| partial::finish(packet).then_some(()));
        let finished = finished.count() as u64;
        self.core.tally.add(Counter::ChecksumsFinished, finished);
    }

    /// A burst from each other worker.
    fn borrow(&mut self) -> usize {
        let mut packets = 0;
        for lender in 0..self.core.handoff.workers() {
            let mut burst: ArrayVec<handoff::Lent, BURST> = ArrayVec::new();
            let take = |lent: handoff::Lent| burst.push(lent);
            self.core.handoff.borrow(lender, take, BURST);
            if burst.is_empty() {
                continue;
            }
            packets += burst.len();
            let tally = &mut self.core.tally;
            tally.add(Counter::HandoffReceived, burst.len() as u64);
            self.core.stopwatch.was(Stage::Receive);
            let lender = Some(lender as u16);
            for handoff::Lent {
                frame,
                port,
                origin,
            } in burst
            {
                self.core.see_borrowed(port, &frame);
                let from = Via {
                    port,
                    lender,
                    origin,
                };
                self.enter(frame, from);
            }
            self.finish_burst();
        }
        packets
    }

    #[inline(always)]
    fn enter(&mut self, frame: RxFrame, from: Via) {
        match self.core.role(from.port) {
            _ if from.origin == Origin::Relayed => self.outbound.enter(&mut self.core, frame, from),
            Some(Role::Inside | Role::Host) => self.outbound.enter(&mut self.core, frame, from),
            Some(Role::Outside) => self.inbound.enter(&mut self.core, frame, from),
            None => self.core.drop(from.of(frame), Counter::InNotOurs),
        }
    }

    #[inline]
    fn finish_burst(&mut self) {
        self.core.stopwatch.was(Stage::Headers);
        self.inbound.run(&mut self.core);
        if !self.core.relayed.is_empty() {
            self.relay();
        }
        self.outbound.run(&mut self.core);
    }

    #[cold]
    fn report_losses(&mut self) {
        let mut total = Losses::default();
        for losses in self.core.ports.iter().map(Port::losses) {
            total.receive_ring_full += losses.receive_ring_full;
            total.fill_ring_empty += losses.fill_ring_empty;
            total.receive_dropped += losses.receive_dropped;
            total.invalid_descriptors += losses.invalid_descriptors;
            total.frames_leaked += losses.frames_leaked;
        }
        let counters = &self.counters;
        counters.set(Counter::RxRingFull, total.receive_ring_full);
        counters.set(Counter::RxFillEmpty, total.fill_ring_empty);
        counters.set(Counter::RxDropped, total.receive_dropped);
        counters.set(Counter::InvalidDescriptors, total.invalid_descriptors);
        counters.set(Counter::FramesLeaked, total.frames_leaked);
    }
}

#[cfg(test)]
mod tests;
