//! What all stages of the pipeline share: tables, ports, counters, limits, and what becomes of a frame.

use super::{
    capture::Capture,
    handoff::{Handoff, Lent},
    held::{Held, Neighbor, Packet},
    limit::TokenBucket,
    links::{Link, Links},
    moving::Moved,
    packet::{self, ETHERNET, Ip},
    reassembly::Reassembly,
    relay::{self, Relayed},
    reports::{EventSink, Reports},
    single::dummies::Dummies,
    stopwatch::Stopwatch,
    tables::Tables,
    tally::Tally,
};
use crate::{
    fib::Unroutable,
    port::{BURST, Port, RxFrame, TxFrame},
};
use arrayvec::ArrayVec;
use esplanade_channel::{Counter, Event, Heading, Ledger, Role};
use esplanade_crypto::IvGenerator;
use esplanade_ipsec::{
    id::SaId,
    sa::{Age, Announced, ColdSa, NextHop, Usage},
};
use esplanade_wire::{icmp, ip};

/// ICMP errors that a worker sends a second, and at once.
const ICMP_PER_SECOND: u64 = 100;
const ICMP_AT_ONCE: u64 = 50;
/// ICMP errors about our packets that a worker looks into a second, and at once.
const TOLD_PER_SECOND: u64 = 1000;
const TOLD_AT_ONCE: u64 = 100;

/// Where a packet that enters a half of the pipeline comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was received.
    Wire,
    /// It came out of a tunnel, and lies in a frame to be sent.
    Relayed,
    /// It was put together of fragments, in a frame to be sent.
    Reassembled,
}

/// A received frame on its way through the pipeline.
#[derive(Debug)]
pub struct Arrived {
    /// The frame.
    pub frame: RxFrame,
    /// The port that it came from.
    pub port: u8,
    /// The worker that it is borrowed from.
    pub lender: Option<u16>,
    /// Where its packet comes from, which says what kind of frame it is.
    pub origin: Origin,
}

impl Arrived {
    /// The frame, and where it comes from.
    pub fn apart(self) -> (RxFrame, Via) {
        let Self {
            frame,
            port,
            lender,
            origin,
        } = self;
        let from = Via {
            port,
            lender,
            origin,
        };
        (frame, from)
    }
}

impl From<Lent> for Arrived {
    /// A frame of our own.
    fn from(lent: Lent) -> Self {
        let Lent {
            frame,
            port,
            origin,
        } = lent;
        Self {
            frame,
            port,
            lender: None,
            origin,
        }
    }
}

/// What is known of a frame beside itself.
#[derive(Debug, Clone, Copy)]
pub struct Via {
    /// The port that it came from.
    pub port: u8,
    /// The worker that it is borrowed from.
    pub lender: Option<u16>,
    /// Where its packet comes from.
    pub origin: Origin,
}

impl Via {
    /// A frame that came so. The two go separately as far as they can: what is put together in memory has to be there whole
    /// before it can be copied.
    #[inline(always)]
    pub fn of(self, frame: RxFrame) -> Arrived {
        let Self {
            port,
            lender,
            origin,
        } = self;
        Arrived {
            frame,
            port,
            lender,
            origin,
        }
    }
}

/// An inbound packet that its SA lets in, behind the Ethernet header's place of a frame to be sent.
#[derive(Debug)]
pub struct Admitted {
    /// The frame.
    pub target: TxFrame,
    /// The port whose frame it is: probably the one that the packet leaves by.
    pub target_port: u8,
    /// The SA that it came by.
    pub sa: SaId,
    /// Its header.
    pub inner: Ip,
}

/// The shared state of a worker's stages.
#[derive(Debug)]
pub struct Core<P, E> {
    /// What decisions are made by.
    pub tables: Tables,
    /// The queues.
    pub ports: Vec<P>,
    /// Which port is what on which queue.
    pub links: Links,
    /// Which side each port is on.
    pub roles: Vec<Role>,
    /// What was counted since the last burst.
    pub tally: Tally,
    /// Where events go.
    pub events: E,
    /// Limits of events.
    pub reports: Reports,
    /// Frames lent to and from other workers.
    pub handoff: Handoff,
    /// Packets that wait for their next hop's link address.
    pub held: Held,
    /// Packets from one tunnel that go out by another, or that we answer by their own.
    pub relayed: Relayed,
    /// Packets of which not all fragments are there.
    pub reassembly: Reassembly,
    /// The SAs that send dummy packets.
    pub dummies: Dummies,
    /// IVs for the SAs whose packets need one that nobody foresees.
    pub ivs: IvGenerator,
    /// SAs whose statistics changed since they were last published.
    pub dirty: Vec<SaId>,
    /// SAs whose peer has moved in this round.
    pub moved: Moved,
    /// Packets for who watches.
    pub capture: Capture,
    /// Drops by SA and by policy.
    pub ledger: Option<Ledger>,
    /// What the stages cost, when somebody asks.
    pub stopwatch: Stopwatch,
    /// Monotonic time.
    pub now_ms: u64,
    /// The identification of the latest outer header; IPv4 takes the lower half.
    pub identification: u32,
    icmp_limit: TokenBucket,
    /// What bounds the work that errors of others make.
    pub told_limit: TokenBucket,
}

impl<P: Port, E: EventSink> Core<P, E> {
    /// A worker's state at its start.
    pub fn new(
        tables: Tables,
        ports: Vec<P>,
        (roles, links): (Vec<Role>, &[Link]),
        events: E,
        handoff: Handoff,
        ivs: IvGenerator,
        sa_capacity: u32,
    ) -> Self {
        // Workers share addresses, and fragments are told apart by addresses and this: each has its own range of IPv6's 32 bits.
        let identification = u32::from(tables.worker()) << 24;
        Self {
            tally: Tally::new(roles.len()),
            links: Links::new(links, roles.len()),
            tables,
            ports,
            roles,
            events,
            reports: Reports::default(),
            handoff,
            held: Held::default(),
            relayed: Relayed::default(),
            reassembly: Reassembly::default(),
            dummies: Dummies::default(),
            ivs,
            moved: Moved::default(),
            dirty: Vec::with_capacity(sa_capacity as usize),
            capture: Capture::new(None),
            ledger: None,
            stopwatch: Stopwatch::default(),
            now_ms: 0,
            icmp_limit: TokenBucket::new(ICMP_PER_SECOND, ICMP_AT_ONCE),
            told_limit: TokenBucket::new(TOLD_PER_SECOND, TOLD_AT_ONCE),
            identification,
        }
    }

    /// Gives a frame back to its port or its lender.
    #[inline(always)]
    pub fn finish(&mut self, arrived: Arrived) {
        let Arrived {
            frame,
            port,
            lender,
            origin,
        } = arrived;
        let lent = Lent {
            frame,
            port,
            origin,
        };
        match lender {
            Some(worker) => self.give_back(worker, lent),
            None => self.take_home(lent),
        }
    }

    /// Gives a frame of ours back to its port.
    #[inline(always)]
    pub fn take_home(&mut self, lent: Lent) {
        if let Some(port) = self.queue_of(lent.port) {
            if lent.origin != Origin::Wire {
                port.discard(lent.frame.into_built());
            } else {
                port.release(Some(lent.frame));
            }
        }
    }

    #[inline(never)]
    fn give_back(&mut self, lender: u16, lent: Lent) {
        self.handoff.give_back(lender, lent);
    }

    /// Ends a packet's way for a reason.
    #[cold]
    #[inline(never)]
    pub fn drop(&mut self, arrived: Arrived, reason: Counter) {
        self.tally.one(reason);
        self.see_drop(arrived.port, reason, &arrived.frame);
        self.finish(arrived);
    }

    /// Lends a packet to the worker that owns its SA. One that is borrowed already is not lent on: the
    /// workers disagree for the moment that a command takes to reach them all.
    pub fn lend(&mut self, arrived: Arrived, owner: u16, when_lost: Counter) {
        if arrived.lender.is_some() {
            return self.drop(arrived, when_lost);
        }
        let Arrived {
            frame,
            port,
            origin,
            ..
        } = arrived;
        let lent = Lent {
            frame,
            port,
            origin,
        };
        match self.handoff.lend(owner, lent) {
            Ok(()) => self.tally.one(Counter::HandoffSent),
            Err(lent) => self.drop(Arrived::from(lent), Counter::HandoffFull),
        }
    }

    /// An empty frame of a port with room for a packet of `length` bytes; counts why there is none.
    #[inline(always)]
    pub fn allocate(&mut self, port: u8, length: usize) -> Option<TxFrame> {
        match self.take_frame(port) {
            Some(frame) if frame.len() >= length => Some(frame),
            Some(frame) => {
                self.refuse_room(port, frame);
                None
            }
            None => {
                self.tally.one(Counter::NoTxFrame);
                self.capture.because(Counter::NoTxFrame);
                None
            }
        }
    }

    /// An empty frame of a port, if there is one.
    #[inline(always)]
    pub fn take_frame(&mut self, port: u8) -> Option<TxFrame> {
        let link = self.links.of(port);
        let mut frame = self.ports.get_mut(usize::from(link.queue))?.allocate()?;
        if link.vlan != 0 {
            frame.leave_room_for_tag();
        }
        Some(frame)
    }

    /// The queue of a port.
    #[inline(always)]
    fn queue_of(&mut self, port: u8) -> Option<&mut P> {
        let queue = self.links.of(port).queue;
        self.ports.get_mut(usize::from(queue))
    }

    #[cold]
    fn refuse_room(&mut self, port: u8, frame: TxFrame) {
        self.discard(port, frame);
        self.tally.one(Counter::PacketTooBig);
        self.capture.because(Counter::PacketTooBig);
    }

    /// Gives an allocated frame back unsent.
    #[inline]
    pub fn discard(&mut self, port: u8, frame: TxFrame) {
        if let Some(port) = self.queue_of(port) {
            port.discard(frame);
        }
    }

    /// Sends a frame of this port. `false`, and counted, when the port has no room even after a kick.
    #[inline(always)]
    pub fn transmit(&mut self, number: u8, mut frame: TxFrame) -> bool {
        let length = frame.packet_len() as u64;
        self.see(number, Heading::Out, frame.packet());
        let link = self.links.of(number);
        if link.vlan != 0 && !frame.tag(link.vlan) {
            // It would leave in another VLAN.
            self.refuse_room(number, frame);
            return false;
        }
        let Some(port) = self.ports.get_mut(usize::from(link.queue)) else {
            return false;
        };
        if let Err(frame) = port.transmit(frame)
            && !self.transmit_again(number, frame)
        {
            return false;
        }
        self.tally.sent(number, length);
        true
    }

    #[cold]
    fn transmit_again(&mut self, number: u8, frame: TxFrame) -> bool {
        let Some(port) = self.queue_of(number) else {
            return false;
        };
        port.flush();
        let Err(frame) = port.transmit(frame) else {
            return true;
        };
        let length = frame.packet_len().saturating_sub(ETHERNET);
        self.see_unsent(number, Counter::TxRingFull, &frame, length);
        self.discard(number, frame);
        self.tally.one(Counter::TxRingFull);
        false
    }

    /// Ends the way of a packet that has no next hop, for now or for good. One whose next hop's link address is not
    /// known waits for it, and the control plane is asked.
    #[cold]
    pub fn strand(&mut self, packet: Packet, why: Unroutable) {
        let (port, address) = match why {
            Unroutable::NoRoute => return self.drop_packet(packet, Counter::NoRoute),
            Unroutable::Unreachable => return self.drop_packet(packet, Counter::RouteUnreachable),
            Unroutable::NotOurs => return self.drop_packet(packet, Counter::RouteElsewhere),
            Unroutable::NeighborMissing { port, address } => (port, address),
        };
        let now_ms = self.now_ms;
        self.reports
            .neighbor_missing(&mut self.events, port, address, now_ms);
        self.tally.one(Counter::NeighborHeld);
        let neighbor = Neighbor { port, address };
        if let Some(evicted) = self.held.hold(neighbor, packet, now_ms) {
            self.drop_packet(evicted, Counter::NeighborUnresolved);
        }
    }

    /// Ends a packet's way for a reason, whatever frame it is in.
    #[cold]
    pub fn drop_packet(&mut self, packet: Packet, reason: Counter) {
        match packet {
            Packet::Received(arrived) => self.drop(arrived, reason),
            Packet::Admitted(admitted) => {
                self.tally.one(reason);
                self.blame_inbound(admitted.sa, reason);
                let length = admitted.inner.length;
                self.see_unsent(admitted.target_port, reason, &admitted.target, length);
                self.discard(admitted.target_port, admitted.target);
            }
        }
    }

    /// Which side a port is on.
    #[inline]
    pub fn role(&self, port: u8) -> Option<Role> {
        self.roles.get(usize::from(port)).copied()
    }

    /// The identification of the next outer header.
    #[inline]
    pub fn next_identification(&mut self) -> u16 {
        self.identification = self.identification.wrapping_add(1);
        self.identification as u16
    }

    /// Answers a packet with an ICMP error out of the port that it came from, if it may have one. It goes back to the
    /// neighbour that the packet came from, which knows the way to the sender.
    #[cold]
    pub fn answer(&mut self, arrived: &Arrived, error: icmp::Error) {
        if arrived.origin == Origin::Relayed {
            let about = arrived.frame.get(ETHERNET..).unwrap_or_default();
            return relay::answer(self, arrived.port, about, error);
        }
        let about = arrived.frame.get(ETHERNET..).unwrap_or_default();
        let about = ip::Packet::new_checked(about)
            .ok()
            .filter(|about| icmp::may_be_answered(about, error));
        let port = arrived.port;
        let from = about.and_then(|about| {
            let facts = self.tables.fib.port(port)?;
            Some((about, facts.mac, facts.address(about.family())?))
        });
        // RFC 1812 4.3.2.7, RFC 4443 2.4 (e.4) and (e.5): nothing about what the link carried to a group.
        let to = packet::macs(&arrived.frame).filter(|(_, to)| {
            let family = from.map(|(about, ..)| about.family());
            !to.is_multicast()
                || family.is_some_and(|family| icmp::is_told_to_groups(family, error))
        });
        let (Some((about, source, address)), Some((destination, _))) = (from, to) else {
            return self.tally.one(Counter::IcmpSuppressed);
        };
        if !self.may_answer() {
            return;
        }
        let length = ETHERNET + icmp::Error::packet_len(&about);
        let Some(mut answer) = self.allocate(port, length) else {
            return;
        };
        let next_hop = NextHop {
            destination,
            source,
            mtu: 0,
            port,
        };
        packet::write_ethernet(&mut answer, &next_hop, about.family());
        let space = answer.get_mut(ETHERNET..).unwrap_or_default();
        match error.emit(&about, address, space) {
            Some(length) => {
                answer.set_len(ETHERNET + length);
                if self.transmit(port, answer) {
                    self.tally.one(Counter::IcmpSent);
                }
            }
            None => self.discard(port, answer),
        }
    }

    /// Whether we have not sent too many ICMP errors of late; counts one that we do not send.
    pub fn may_answer(&mut self) -> bool {
        let may = self.icmp_limit.take(self.now_ms);
        if !may {
            self.tally.one(Counter::IcmpRateLimited);
        }
        may
    }

    /// Notes that an SA's statistics changed; `dirty` is the SA's own mark.
    #[inline(always)]
    pub fn touch(list: &mut Vec<SaId>, dirty: &mut bool, id: SaId) {
        // The list has room for every slot, and an SA is in it once.
        if !*dirty && list.len() < list.capacity() {
            *dirty = true;
            list.push(id);
        }
    }
}

/// Looks at the lifetime of an SA whose alarm rang, and tells the control plane once for each limit.
/// Gives whether the SA has ended.
#[cold]
pub fn grow_old(
    events: &mut impl EventSink,
    id: SaId,
    usage: &mut Usage,
    cold: &ColdSa,
    announced: &mut Announced,
) -> bool {
    let age = usage.assess(&cold.lifetime);
    let Some(sa) = super::reports::sa_id(id) else {
        return false;
    };
    let (mark, event) = match age {
        Age::Fresh => return false,
        Age::Soft => (&mut announced.soft_lifetime, Event::SoftLifetime { sa }),
        Age::Hard => (&mut announced.hard_lifetime, Event::HardLifetime { sa }),
    };
    if !*mark {
        *mark = events.send(&event);
        if !*mark {
            usage.ring_again();
        }
    }
    age == Age::Hard
}

/// As many packets as a stage works on at once.
pub type Batch<T> = ArrayVec<T, BURST>;
