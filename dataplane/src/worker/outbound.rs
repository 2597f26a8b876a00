//! Outbound processing (RFC 4301 5.1): plain packets from inside ports, through the SPD and an SA, to the wire.
//!
//! Stages over the burst: policy, SA, size, header and sequence number of each packet; then one batch through the
//! crypto engine, from the received frames into frames of the ports that they leave by; then outer headers.

use super::{
    core::{Arrived, Batch, Core, grow_old},
    held::Packet,
    packet::{self, ETHERNET, Ip, Outer},
    reports::{EventSink, sa_id},
};
use crate::{
    fib::Unroutable,
    port::{BURST, Port, TxFrame},
};
use arrayvec::ArrayVec;
use esplanade_channel::{Counter, Event, PolicyId};
use esplanade_crypto::{Aad, Iv, IvGenerator, SealJob, Trailer, seal_batch};
use esplanade_ipsec::{
    esp::Shape,
    id::SaId,
    sa::{NextHop, OutboundSa},
    sad::Whereabouts,
    selector::Flow,
    spd::{Action, Decision},
};
use esplanade_wire::{icmpv4, ipv4};

/// A plain packet that waits for its decision.
#[derive(Debug)]
struct Plain {
    arrived: Arrived,
    ip: Ip,
}

/// Where the plaintext of a packet to be sealed is.
#[derive(Debug)]
enum Source {
    /// In the frame that it came in.
    Received(Arrived),
    /// In a frame of ours: a fragment.
    Built { frame: TxFrame, port: u8 },
}

impl Source {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Received(arrived) => &arrived.frame,
            Self::Built { frame, .. } => frame,
        }
    }
}

/// A packet that has everything but its ciphertext and its outer headers.
#[derive(Debug)]
struct Sealing {
    source: Source,
    /// The length of the inner packet, which begins behind the Ethernet header's place.
    length: usize,
    target: TxFrame,
    next_hop: NextHop,
    sa: SaId,
    /// Spent by the job.
    iv: Option<Iv>,
    aad: Aad,
    trailer: Trailer,
    outer: Outer,
}

/// How an SA's packets go.
#[derive(Debug, Clone, Copy)]
struct Way {
    sa: SaId,
    shape: Shape,
    next_hop: NextHop,
    /// The largest inner packet.
    inner_mtu: u16,
}

/// Why an SA's packets cannot go.
#[derive(Debug)]
enum NoWay {
    /// The SA does not send.
    Sa(Counter),
    /// Its peer cannot be reached, for now or for good.
    Peer(Unroutable),
}

/// The outbound half of the pipeline.
#[derive(Debug, Default)]
pub struct Outbound {
    waiting: Batch<Plain>,
    sealing: Batch<Sealing>,
}

impl Outbound {
    /// Takes a packet from an inside port.
    #[inline]
    pub fn enter<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, arrived: Arrived) {
        match packet::read_frame(&arrived.frame) {
            Ok(ip) if !self.waiting.is_full() => self.waiting.push(Plain { arrived, ip }),
            Ok(_) => core.drop(arrived, Counter::NoTxFrame),
            Err(packet::Refused::Checksum) => core.drop(arrived, Counter::OutBadChecksum),
            Err(_) => core.drop(arrived, Counter::OutHdrError),
        }
    }

    /// Takes the packets that entered through all stages.
    pub fn run<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>) {
        let Self { waiting, sealing } = self;
        for plain in waiting.drain(..) {
            decide(core, sealing, plain);
        }
        seal(core, sealing);
    }
}

/// RFC 4301 5.1: the SPD says what is to be done.
#[inline]
fn decide<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sealing: &mut Batch<Sealing>,
    plain: Plain,
) {
    let Plain { arrived, ip } = plain;
    let flow = ip.flow_out();
    let Some(decision) = core.tables.spd.lookup(&flow) else {
        let reason = if ip.is_later_fragment {
            Counter::OutFragmentNoPorts
        } else {
            Counter::OutNoPols
        };
        return core.drop(arrived, reason);
    };
    match decision.action {
        Action::Discard => core.drop(arrived, Counter::OutPolBlock),
        Action::Bypass => forward(core, arrived, &ip, Counter::OutBypassPackets),
        Action::Protect => protect(core, sealing, arrived, &ip, &flow, decision),
    }
}

#[inline]
fn protect<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sealing: &mut Batch<Sealing>,
    arrived: Arrived,
    ip: &Ip,
    flow: &Flow,
    decision: Decision,
) {
    let selected = core
        .tables
        .spd
        .group(decision.group)
        .and_then(|group| group.outbound)
        .and_then(SaId::new);
    let Some(id) = selected else {
        return acquire(core, arrived, flow, decision);
    };
    match core.tables.outbound.locate(id) {
        Whereabouts::Here => through_sa(core, sealing, arrived, ip, id),
        Whereabouts::Owned { by } => core.lend(arrived, by, Counter::OutStateInvalid),
        Whereabouts::Unknown { .. } => acquire(core, arrived, flow, decision),
    }
}

/// No SA, no packet; but the control plane is told that one is wanted.
#[cold]
fn acquire<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    arrived: Arrived,
    flow: &Flow,
    decision: Decision,
) {
    if let Some(group) = core.tables.spd.group_mut(decision.group) {
        let policy = PolicyId(decision.policy.0);
        let asked = &mut group.acquired_ms;
        core.reports
            .acquire(&mut core.events, policy, asked, flow, core.now_ms);
    }
    core.drop(arrived, Counter::OutNoStates);
}

/// Everything about the packet that does not need its ciphertext.
#[inline]
fn through_sa<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sealing: &mut Batch<Sealing>,
    mut arrived: Arrived,
    ip: &Ip,
    id: SaId,
) {
    // A packet that has to wait is still as it came, and no sequence number is taken for it.
    let way = match way(core, id) {
        Ok(way) => way,
        Err(NoWay::Sa(reason)) => return core.drop(arrived, reason),
        Err(NoWay::Peer(why)) => return core.strand(Packet::Received(arrived), why),
    };
    // RFC 4301 5.1.2.1 (2): "The TTL in the inner header is decremented by the encapsulator prior to forwarding".
    if ip.ttl <= 1 {
        core.answer(&arrived, icmpv4::Error::TtlExceeded);
        return core.drop(arrived, Counter::OutTtlExpired);
    }
    let fits = ip.length <= usize::from(way.inner_mtu);
    if !fits && ip.dont_fragment {
        core.answer(
            &arrived,
            icmpv4::Error::FragmentationNeeded { mtu: way.inner_mtu },
        );
        return core.drop(arrived, Counter::OutTooBig);
    }
    packet::decrement_ttl(&mut arrived.frame);
    let clamps = |port: &crate::fib::PortFacts| port.mss_clamp;
    if ip.is_syn && core.tables.fib.port(arrived.port).is_some_and(clamps) {
        let lowered = packet::clamp_mss(&mut arrived.frame, ip, way.inner_mtu);
        core.tally.add(Counter::OutMssClamped, lowered.into());
    }
    if fits {
        let source = Source::Received(arrived);
        enqueue(core, sealing, source, ip, ip.length, way);
    } else {
        fragment(core, sealing, arrived, ip, way);
    }
}

/// The next hop of an SA's packets and the largest inner packet, remembered in the SA until the FIB changes.
#[inline]
fn way<P: Port, E: EventSink>(core: &mut Core<P, E>, id: SaId) -> Result<Way, NoWay> {
    let generation = core.tables.fib.generation();
    let Some(sa) = core.tables.outbound.get_mut(id) else {
        return Err(NoWay::Sa(Counter::OutStateInvalid));
    };
    if sa.expired {
        remind_of_end(&mut core.events, sa);
        return Err(NoWay::Sa(Counter::OutStateExpired));
    }
    let shape = sa.shape;
    let way = |next_hop, inner_mtu| Way {
        sa: id,
        shape,
        next_hop,
        inner_mtu,
    };
    if sa.next_hop_generation == generation
        && let Some(next_hop) = sa.next_hop
    {
        return Ok(way(next_hop, sa.inner_mtu));
    }
    let next_hop = core.tables.fib.resolve(sa.remote).map_err(NoWay::Peer)?;
    let path_mtu = match sa.path_mtu {
        0 => next_hop.mtu,
        path_mtu => path_mtu.min(next_hop.mtu),
    };
    sa.inner_mtu = shape.inner_mtu(path_mtu);
    sa.next_hop = Some(next_hop);
    sa.next_hop_generation = generation;
    Ok(way(next_hop, sa.inner_mtu))
}

/// Tells that an SA has ended, if that could not be told when it did.
#[cold]
fn remind_of_end(events: &mut impl EventSink, sa: &mut OutboundSa) {
    if !sa.announced.hard_lifetime
        && let Some(sa_id) = sa_id(sa.id)
    {
        sa.announced.hard_lifetime = events.send(&Event::HardLifetime { sa: sa_id });
    }
}

/// Takes the packet's frame and its sequence number, in this order, so that no number is taken in vain.
#[inline]
fn enqueue<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sealing: &mut Batch<Sealing>,
    source: Source,
    ip: &Ip,
    length: usize,
    way: Way,
) {
    let Way {
        sa: id,
        shape,
        next_hop,
        ..
    } = way;
    if sealing.is_full() {
        seal(core, sealing);
    }
    let identification = core.next_identification();
    let Some(target) = core.allocate(next_hop.port, ETHERNET + shape.outer_len(length)) else {
        return finish(core, source);
    };
    let Some(sa) = core.tables.outbound.get_mut(id) else {
        core.discard(next_hop.port, target);
        return finish(core, source);
    };
    let Some(number) = sa.sequence.take() else {
        sa.expired = true;
        remind_of_end(&mut core.events, sa);
        core.tally.one(Counter::OutStateSeqError);
        core.discard(next_hop.port, target);
        return finish(core, source);
    };
    if sa.sequence.is_near_end() && !sa.announced.near_end {
        announce_near_end(&mut core.events, sa);
    }
    if sa.usage.count(length) {
        let (usage, announced) = (&mut sa.usage, &mut sa.announced);
        sa.expired |= grow_old(&mut core.events, id, usage, &sa.cold, announced);
    }
    sa.used_ms = core.now_ms;
    Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, id);

    let aad = if sa.extended {
        Aad::extended(sa.spi, number.number())
    } else {
        Aad::plain(sa.spi, number.low())
    };
    let sequence = number.low();
    let iv = if sa.key.algorithm().has_unpredictable_iv() {
        draw_iv(&mut core.ivs)
    } else {
        number.into_iv()
    };
    let outer = Outer::new(sa, ip, length, identification, sequence);
    let trailer = shape.trailer(length);
    sealing.push(Sealing {
        source,
        length,
        target,
        next_hop,
        sa: id,
        iv: Some(iv),
        aad,
        trailer,
        outer,
    });
}

/// An IV that nobody foresees. The generator stays out of the way of the AEADs, whose IV costs nothing.
#[cold]
fn draw_iv(ivs: &mut IvGenerator) -> Iv {
    ivs.generate()
}

#[cold]
fn announce_near_end(events: &mut impl EventSink, sa: &mut OutboundSa) {
    if let Some(sa_id) = sa_id(sa.id) {
        sa.announced.near_end = events.send(&Event::SequenceNearEnd { sa: sa_id });
    }
}

/// Cuts a packet without DF into fragments that fit, each protected on its own (RFC 4301 7).
#[cold]
fn fragment<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sealing: &mut Batch<Sealing>,
    arrived: Arrived,
    ip: &Ip,
    way: Way,
) {
    let inner = arrived.frame.get(ETHERNET..).unwrap_or_default();
    let cut = ipv4::Packet::new_checked(inner)
        .ok()
        .and_then(|packet| ipv4::fragments(packet, way.inner_mtu.into()));
    let Some(cut) = cut else {
        return core.drop(arrived, Counter::OutTooBigNoDf);
    };
    for piece in cut {
        let length = piece.total_len();
        let port = way.next_hop.port;
        let Some(mut frame) = core.allocate(port, ETHERNET + length) else {
            break;
        };
        let payload = inner.get(piece.payload()).unwrap_or_default();
        packet::write_fragment(&mut frame, piece.header(), payload);
        let source = Source::Built { frame, port };
        enqueue(core, sealing, source, ip, length, way);
    }
    core.finish(arrived);
}

/// Seals all that wait, in one batch, and sends them.
fn seal<P: Port, E: EventSink>(core: &mut Core<P, E>, sealing: &mut Batch<Sealing>) {
    if sealing.is_empty() {
        return;
    }
    let mut sealed = [false; BURST];
    let mut jobs: Batch<SealJob<'_>> = ArrayVec::new();
    for (packet, sealed) in sealing.iter_mut().zip(&mut sealed) {
        if let Some(sa) = core.tables.outbound.get(packet.sa)
            && let Some(job) = seal_job(sa, packet)
        {
            *sealed = true;
            jobs.push(job);
        }
    }
    seal_batch(&mut jobs);
    drop(jobs);
    for (packet, sealed) in sealing.drain(..).zip(sealed) {
        send(core, packet, sealed);
    }
}

/// Writes the IV, and gives the job that writes what follows it.
#[inline]
fn seal_job<'a>(sa: &'a OutboundSa, packet: &'a mut Sealing) -> Option<SealJob<'a>> {
    let (key, shape) = (&sa.key, sa.shape);
    let iv = packet.iv.take()?;
    let plaintext = ETHERNET..ETHERNET + packet.length;
    let plaintext = packet.source.bytes().get(plaintext)?;
    let end = ETHERNET + shape.outer_len(packet.length);
    let rest = packet
        .target
        .get_mut(ETHERNET + shape.head() - shape.iv()..end)?;
    let (space, out) = rest.split_at_mut_checked(shape.iv())?;
    packet::write_iv(space, &iv, key.algorithm());
    SealJob::new(key, iv, packet.aad, plaintext, packet.trailer, out).ok()
}

/// Writes the headers, and sends.
#[inline]
fn send<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: Sealing, sealed: bool) {
    let Sealing {
        source,
        length,
        mut target,
        next_hop,
        outer,
        ..
    } = packet;
    let written = outer.write(&mut target, &next_hop).filter(|_| sealed);
    match written {
        Some(total) => {
            target.set_len(total);
            if core.transmit(next_hop.port, target) {
                core.tally.one(Counter::OutPackets);
                core.tally.add(Counter::OutBytes, length as u64);
                core.tally
                    .add(Counter::OutEspBytes, (total - ETHERNET) as u64);
            }
        }
        None => {
            core.discard(next_hop.port, target);
            core.tally.one(Counter::OutStateProtoError);
        }
    }
    finish(core, source);
}

fn finish<P: Port, E: EventSink>(core: &mut Core<P, E>, source: Source) {
    match source {
        Source::Received(arrived) => core.finish(arrived),
        Source::Built { frame, port } => core.discard(port, frame),
    }
}

/// Sends a packet on as it is: copied, with one less to live.
pub fn forward<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    arrived: Arrived,
    ip: &Ip,
    counter: Counter,
) {
    let next_hop = match core.tables.fib.resolve(ip.destination) {
        Ok(next_hop) => next_hop,
        Err(why) => return core.strand(Packet::Received(arrived), why),
    };
    if ip.ttl <= 1 {
        core.answer(&arrived, icmpv4::Error::TtlExceeded);
        return core.drop(arrived, Counter::OutTtlExpired);
    }
    if ip.length > usize::from(next_hop.mtu) {
        if ip.dont_fragment {
            let error = icmpv4::Error::FragmentationNeeded { mtu: next_hop.mtu };
            core.answer(&arrived, error);
        }
        return core.drop(arrived, Counter::PacketTooBig);
    }
    let total = ETHERNET + ip.length;
    if let Some(mut target) = core.allocate(next_hop.port, total) {
        if let (Some(to), Some(from)) = (target.get_mut(..total), arrived.frame.get(..total)) {
            to.copy_from_slice(from);
        }
        packet::decrement_ttl(&mut target);
        packet::write_ethernet(&mut target, &next_hop);
        target.set_len(total);
        if core.transmit(next_hop.port, target) {
            core.tally.one(counter);
        }
    }
    core.finish(arrived);
}
