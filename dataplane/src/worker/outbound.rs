//! Outbound processing (RFC 4301 5.1): plain packets from inside ports, through the SPD and an SA, to the wire.
//!
//! Each stage takes the whole burst, and asks for the memory that the next one needs of each packet: headers; policy;
//! outbound SA; size and hop limit; sequence number and outer headers; one batch through the crypto engine, from the received
//! frames into frames of the ports that they leave by; transmission.

use super::{
    core::{Arrived, Batch, Core, Origin, grow_old},
    forward::forward,
    fragment,
    held::Packet,
    packet::{self, ETHERNET, Ip, Outer},
    reassembly,
    reports::{EventSink, sa_id},
    single,
    stopwatch::Stage,
};
use crate::{
    fib::Unroutable,
    port::{Port, TxFrame},
};
use arrayvec::ArrayVec;
use esplanade_channel::{Counter, Event, PolicyId, Role};
use esplanade_crypto::{Aad, Iv, IvGenerator, SealJob, SealingKey, seal_batch};
use esplanade_ipsec::{
    id::SaId,
    sa::{Mode, NextHop, OutboundSa, Sealer},
    sad::{Place, Whereabouts},
    sequence::SequenceNumber,
    spd::{Action, Decision, Probe},
};
use esplanade_wire::{icmp, ip::Family};

/// A plain packet in the stages before it is sealed.
#[derive(Debug)]
pub(super) struct Plain {
    /// `None` once the packet has left the stages by another door.
    arrived: Option<Arrived>,
    pub(super) ip: Ip,
    probe: Probe,
    /// The policy, when it says protect.
    decision: Option<Decision>,
    /// The SA that the policy uses.
    selected: Option<SaId>,
    /// The place of its record.
    place: Option<Place>,
}

impl Plain {
    fn drop<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, reason: Counter) {
        if let Some(arrived) = self.arrived.take() {
            if let Some(decision) = self.decision {
                core.blame(self.selected, decision.policy, reason);
            }
            core.drop(arrived, reason);
        }
    }

    fn strand<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, why: Unroutable) {
        if let Some(arrived) = self.arrived.take() {
            core.strand(Packet::Received(arrived), why);
        }
    }

    /// The frame, of a packet that is still in the stages.
    pub(super) fn frame(&self) -> &[u8] {
        self.arrived.as_ref().map_or(&[], |arrived| &arrived.frame)
    }
}

/// Where the plaintext of a packet to be sealed is.
#[derive(Debug)]
pub(super) enum Source {
    /// In the frame that it came in.
    Received,
    /// In a frame of ours: a fragment.
    Built { frame: TxFrame, port: u8 },
}

/// A packet that fits its SA, with the frame that it will leave in.
#[derive(Debug)]
pub(super) struct Ready {
    /// Which of the plain packets it is, or is of.
    packet: usize,
    source: Source,
    /// The length of the inner packet, which begins behind the Ethernet header's place.
    length: usize,
    way: Way,
    /// `None` once it is gone.
    target: Option<TxFrame>,
    /// The length of the frame's packet, once it is sealed.
    sealed: Option<usize>,
}

/// How an SA's packets go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// The place of the SA.
    pub(super) place: Place,
    /// Where to, and the path's MTU.
    pub(super) next_hop: NextHop,
    /// The largest inner packet.
    pub(super) inner_mtu: u16,
    /// The packets go one by one, or are padded.
    pub(super) special: bool,
    /// They go in transport mode.
    pub(super) is_transport: bool,
    /// Those that may be fragmented are so once they are sealed.
    pub(super) fragment_sealed: bool,
    /// Whether the outer UDP checksum is to be filled in.
    pub(super) udp_checksum: bool,
}

/// Why an SA's packets cannot go.
#[derive(Debug)]
pub(super) enum NoWay {
    /// The SA does not send.
    Sa(Counter),
    /// Its peer cannot be reached, for now or for good.
    Peer(Unroutable),
}

/// The outbound half of the pipeline.
#[derive(Debug, Default)]
pub struct Outbound {
    plain: Batch<Plain>,
    ready: Batch<Ready>,
}

impl Outbound {
    /// Takes a packet from an inside port.
    #[inline]
    pub fn enter<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, arrived: Arrived) {
        match packet::read_frame(&arrived.frame) {
            Ok(ip) if !self.plain.is_full() => {
                let probe = core.tables.spd.probe(&ip.flow_out());
                self.plain.push(Plain {
                    arrived: Some(arrived),
                    ip,
                    probe,
                    decision: None,
                    selected: None,
                    place: None,
                });
            }
            Ok(_) => core.drop(arrived, Counter::NoTxFrame),
            Err(why) => core.drop(arrived, why.outbound_counter()),
        }
    }

    /// Whether a packet more would find no room.
    pub fn is_full(&self) -> bool {
        self.plain.is_full()
    }

    /// Takes the packets that entered through all stages.
    pub fn run<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>) {
        let Self { plain, ready } = self;
        if plain.is_empty() {
            return;
        }
        plain.iter_mut().for_each(|packet| decide(core, packet));
        plain.iter_mut().for_each(|packet| select(core, packet));
        core.stopwatch.was(Stage::Policy);
        plain.iter_mut().for_each(|packet| find_sa(core, packet));
        core.stopwatch.was(Stage::Sa);
        for number in 0..plain.len() {
            fit(core, plain, ready, number);
        }
        core.stopwatch.was(Stage::Fit);
        send_ready(core, plain, ready);
        for packet in &mut *plain {
            if let Some(arrived) = packet.arrived.take() {
                core.finish(arrived);
            }
        }
        plain.clear();
        core.stopwatch.was(Stage::Transmit);
    }
}

/// RFC 4301 5.1: the SPD says what is to be done.
#[inline]
fn decide<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Plain) {
    let ip = &packet.ip;
    let decision = core.tables.spd.finish(packet.probe, || ip.flow_out());
    match decision.map(|decision| decision.action) {
        Some(Action::Protect) => {
            if let Some(decision) = decision {
                core.tables.spd.prefetch_group(decision.group);
            }
            packet.decision = decision;
        }
        Some(Action::Discard) => {
            packet.decision = decision;
            packet.drop(core, Counter::OutPolBlock);
            packet.decision = None;
        }
        Some(Action::Bypass) => {
            if let Some(arrived) = packet.arrived.take() {
                forward(core, arrived, &packet.ip, Counter::OutBypassPackets);
            }
        }
        None if packet.ip.is_later_fragment => packet.drop(core, Counter::OutFragmentNoPorts),
        None => packet.drop(core, Counter::OutNoPols),
    }
}

/// RFC 4301 4.4.1: a policy that protects names the outbound SA in use.
#[inline]
fn select<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Plain) {
    let Some(decision) = packet.decision else {
        return;
    };
    let group = core.tables.spd.group(decision.group);
    packet.selected = group.and_then(|group| group.outbound).and_then(SaId::new);
    match packet.selected {
        Some(sa) => core.tables.outbound.prefetch_slot(sa),
        None => acquire(core, packet, decision),
    }
}

/// The SA is here, or its owner gets the packet.
#[inline]
fn find_sa<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Plain) {
    let (Some(sa), Some(decision)) = (packet.selected, packet.decision) else {
        return;
    };
    match core.tables.outbound.locate(sa) {
        Whereabouts::Here(place) => {
            core.tables.outbound.prefetch(place);
            packet.place = Some(place);
        }
        Whereabouts::Owned { by } => {
            if let Some(arrived) = packet.arrived.take() {
                core.lend(arrived, by, Counter::OutStateInvalid);
            }
        }
        Whereabouts::Unknown { .. } => acquire(core, packet, decision),
    }
}

/// No SA, no packet; but the control plane is told that one is wanted.
#[cold]
fn acquire<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Plain, decision: Decision) {
    if let Some(group) = core.tables.spd.group_mut(decision.group) {
        let policy = PolicyId(decision.policy.0);
        let asked = &mut group.acquired_ms;
        let flow = packet.ip.flow_out();
        core.reports
            .acquire(&mut core.events, policy, asked, &flow, core.now_ms);
    }
    packet.drop(core, Counter::OutNoStates);
}

/// Everything that can keep a packet from its SA: where it goes, how long it may live and how large it may be. A packet that
/// has to wait is still as it came, and no sequence number is taken for it.
#[inline]
fn fit<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &mut Batch<Plain>,
    ready: &mut Batch<Ready>,
    number: usize,
) {
    let Some(packet) = plain.get_mut(number) else {
        return;
    };
    let (Some(place), Some(arrived)) = (packet.place, &mut packet.arrived) else {
        return;
    };
    let ip = &packet.ip;
    let way = match way(core, place) {
        Ok(way) => way,
        Err(NoWay::Sa(reason)) => return packet.drop(core, reason),
        Err(NoWay::Peer(why)) => return packet.strand(core, why),
    };
    // RFC 4303 3.3.4: in transport mode ESP "is applied only to whole IP datagrams (not to IP fragments)".
    if way.is_transport && ip.is_fragment {
        let ip = *ip;
        if let Some(arrived) = packet.arrived.take() {
            reassembly::own(core, arrived, &ip);
        }
        return;
    }
    // RFC 4301 5.1.2.1 (2): "The TTL in the inner header is decremented by the encapsulator prior to forwarding and (...) if
    // it forwards the packet": the gateway's own packets are not forwarded.
    let own = core.role(arrived.port) == Some(Role::Host) && arrived.origin != Origin::Relayed;
    if ip.ttl <= 1 && !own {
        core.answer(arrived, icmp::Error::TtlExceeded);
        return packet.drop(core, Counter::OutTtlExpired);
    }
    let passes_whole = if way.is_transport {
        // What came in fragments may leave so.
        !ip.dont_fragment || arrived.origin == Origin::Reassembled
    } else {
        !way.special && (ip.length <= least_mtu(ip) || (way.fragment_sealed && !ip.dont_fragment))
    };
    let fits = ip.length <= usize::from(way.inner_mtu) || passes_whole;
    if !fits && ip.dont_fragment {
        let mtu = way.inner_mtu.max(least_mtu(ip) as u16);
        core.answer(arrived, icmp::Error::TooBig { mtu });
        return packet.drop(core, Counter::OutTooBig);
    }
    if !own {
        packet::decrement_ttl(&mut arrived.frame);
    }
    let clamps = |port: &crate::fib::PortFacts| port.mss_clamp;
    if ip.is_syn && core.tables.fib.port(arrived.port).is_some_and(clamps) {
        let lowered = packet::clamp_mss(&mut arrived.frame, ip, way.inner_mtu);
        core.tally.add(Counter::OutMssClamped, lowered.into());
    }
    if fits {
        let length = ip.length;
        hand_on(core, plain, ready, number, Source::Received, length, way);
    } else if !fragment::cut(core, plain, ready, number, way)
        && let Some(packet) = plain.get_mut(number)
    {
        packet.drop(core, Counter::OutTooBigNoDf);
    }
}

/// What passes however narrow the path is.
///
/// RFC 8200 5: "On any link that cannot convey a 1280-octet packet in one piece, link-specific fragmentation and reassembly
/// must be provided at a layer below IPv6." Below the inner packet that is the outer one, which is fragmented once it is sealed.
fn least_mtu(ip: &Ip) -> usize {
    match ip.family() {
        Family::V4 => 0,
        Family::V6 => Family::V6.min_mtu().into(),
    }
}

/// The next hop of an SA's packets and the largest inner packet, remembered in the SA until the FIB changes.
#[inline]
pub(super) fn way<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    place: Place,
) -> Result<Way, NoWay> {
    let generation = core.tables.fib.generation();
    let Some(sa) = core.tables.outbound.records.get_mut(place) else {
        return Err(NoWay::Sa(Counter::OutStateInvalid));
    };
    if sa.expired {
        remind_of_end(&mut core.events, sa);
        return Err(NoWay::Sa(Counter::OutStateExpired));
    }
    let way = |next_hop, sa: &OutboundSa| Way {
        place,
        next_hop,
        inner_mtu: sa.inner_mtu,
        special: sa.is_special(),
        is_transport: sa.mode == Mode::Transport,
        fragment_sealed: sa.fragment_sealed,
        udp_checksum: sa.udp_checksum,
    };
    if sa.next_hop_generation == generation
        && let Some(next_hop) = sa.next_hop
    {
        return Ok(way(next_hop, sa));
    }
    let mut next_hop = core.tables.fib.resolve(sa.remote).map_err(NoWay::Peer)?;
    if sa.path_mtu != 0 {
        next_hop.mtu = next_hop.mtu.min(sa.path_mtu);
    }
    if let Some(told) = core.tables.path_mtus.of(sa.remote) {
        next_hop.mtu = next_hop.mtu.min(told);
    }
    sa.inner_mtu = sa.inner_mtu(next_hop.mtu);
    // RFC 3948 2.1 wants zero over IPv4.
    sa.udp_checksum = sa.encapsulation.is_some()
        && sa.remote.is_ipv6()
        && core
            .tables
            .fib
            .port(next_hop.port)
            .is_some_and(|port| port.udp_checksum);
    sa.next_hop = Some(next_hop);
    sa.next_hop_generation = generation;
    Ok(way(next_hop, sa))
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

/// To the stages, or aside.
#[inline]
pub(super) fn hand_on<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    ready: &mut Batch<Ready>,
    packet: usize,
    source: Source,
    length: usize,
    way: Way,
) {
    if way.special {
        single::outbound::send(core, plain, ready, packet, source, length, way);
    } else {
        enqueue(core, plain, ready, packet, source, length, way);
    }
}

/// Takes the packet's frame, so that no sequence number is taken in vain. When there are enough, they go.
#[inline]
pub(super) fn enqueue<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    ready: &mut Batch<Ready>,
    packet: usize,
    source: Source,
    length: usize,
    way: Way,
) {
    if ready.is_full() {
        send_ready(core, plain, ready);
    }
    let outer = core.tables.outbound.records.get(way.place);
    let outer = outer.map_or(0, |sa| sa.shape.outer_len(length));
    match core.allocate(way.next_hop.port, ETHERNET + outer) {
        Some(target) => ready.push(Ready {
            packet,
            source,
            length,
            way,
            target: Some(target),
            sealed: None,
        }),
        None => {
            core.blame_outbound(way.place, Counter::NoTxFrame);
            see_refused(core, plain, packet, &source, length);
            finish(core, source);
        }
    }
}

/// Seals all that are ready, in one batch, and sends them.
pub(super) fn send_ready<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    ready: &mut Batch<Ready>,
) {
    if ready.is_empty() {
        return;
    }
    seal(core, plain, ready);
    if core.capture.is_on() {
        see_unsealed(core, plain, ready);
    }
    let mut sent = Sent::default();
    for packet in &mut *ready {
        send(core, &mut sent, packet);
    }
    ready.clear();
    core.tally.add(Counter::OutPackets, sent.packets);
    core.tally.add(Counter::OutBytes, sent.bytes);
    core.tally.add(Counter::OutEspBytes, sent.esp_bytes);
}

/// Why a packet could not be sealed.
#[cold]
fn unsealed<P: Port, E: EventSink>(core: &Core<P, E>, place: Place) -> Counter {
    match core.tables.outbound.records.get(place) {
        Some(sa) if sa.sequence.is_near_end() => Counter::OutStateSeqError,
        Some(sa) if sa.expired => Counter::OutStateExpired,
        _ => Counter::OutStateProtoError,
    }
}

/// Shows packets that could not be sealed to who watches.
#[cold]
fn see_unsealed<P: Port, E: EventSink>(core: &mut Core<P, E>, plain: &[Plain], ready: &[Ready]) {
    for packet in ready.iter().filter(|packet| packet.sealed.is_none()) {
        let reason = unsealed(core, packet.way.place);
        core.capture.because(reason);
        see_refused(core, plain, packet.packet, &packet.source, packet.length);
    }
}

/// Shows a packet that found no frame or no sequence number to who watches.
#[cold]
fn see_refused<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    packet: usize,
    source: &Source,
    length: usize,
) {
    match (source, plain.get(packet).and_then(|of| of.arrived.as_ref())) {
        (Source::Built { frame, port }, _) => core.see_unplaced(*port, frame, ETHERNET + length),
        (Source::Received, Some(arrived)) => core.see_refused(arrived.port, &arrived.frame),
        (Source::Received, None) => {}
    }
}

/// Counts of a batch.
#[derive(Debug, Default)]
struct Sent {
    packets: u64,
    bytes: u64,
    esp_bytes: u64,
}

/// Takes the sequence numbers, in the order of the burst, writes the outer headers, and has the engine write the rest.
fn seal<P: Port, E: EventSink>(core: &mut Core<P, E>, plain: &[Plain], ready: &mut Batch<Ready>) {
    let Core {
        tables,
        events,
        tally,
        dirty,
        ivs,
        now_ms,
        identification,
        stopwatch,
        ..
    } = core;
    let (records, keys) = (&mut tables.outbound.records, &tables.outbound.keys);
    let mut jobs: Batch<SealJob<'_>> = ArrayVec::new();
    for packet in ready {
        let place = packet.way.place;
        let (Some(sa), Some(key), Some(of)) = (
            records.get_mut(place),
            keys.get(place).and_then(Sealer::esp),
            plain.get(packet.packet),
        ) else {
            continue;
        };
        if sa.expired {
            // By a packet of the same burst.
            tally.one(Counter::OutStateExpired);
            continue;
        }
        let Some(number) = note_use(events, sa, packet.length) else {
            tally.one(Counter::OutStateSeqError);
            continue;
        };
        sa.used_ms = *now_ms;
        Core::<P, E>::touch(dirty, &mut sa.dirty, sa.id);
        *identification = identification.wrapping_add(1);
        let outer = Outer::new(
            sa,
            &of.ip,
            packet.length,
            *identification as u16,
            number.low(),
            packet.way.next_hop.mtu,
        );
        let source = match &packet.source {
            Source::Received => of.frame(),
            Source::Built { frame, .. } => frame,
        };
        let plaintext = source.get(ETHERNET..ETHERNET + packet.length);
        let Some(target) = &mut packet.target else {
            continue;
        };
        let total = outer.and_then(|outer| outer.write(target, &packet.way.next_hop));
        let family = of.ip.family();
        if let (Some(plaintext), Some(total)) = (plaintext, total)
            && let Some(space) = target.get_mut(..total)
            && let Some(job) = seal_job(sa, key, ivs, number, (plaintext, family), space)
        {
            packet.sealed = Some(total);
            jobs.push(job);
        } else {
            tally.one(Counter::OutStateProtoError);
        }
    }
    stopwatch.was(Stage::Prepare);
    seal_batch(&mut jobs);
    stopwatch.was(Stage::Crypto);
}

/// Takes a sequence number for a packet that goes by itself. `None`, and counted, when there is none left.
pub(super) fn take_number<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    place: Place,
    length: usize,
) -> Option<SequenceNumber> {
    let sa = core.tables.outbound.records.get_mut(place)?;
    if sa.expired {
        // By another fragment of the same packet.
        core.tally.one(Counter::OutStateExpired);
        core.capture.because(Counter::OutStateExpired);
        core.blame_outbound(place, Counter::OutStateExpired);
        return None;
    }
    let number = note_use(&mut core.events, sa, length);
    if number.is_none() {
        core.tally.one(Counter::OutStateSeqError);
        core.capture.because(Counter::OutStateSeqError);
    }
    sa.used_ms = core.now_ms;
    Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, sa.id);
    if number.is_none() {
        core.blame_outbound(place, Counter::OutStateSeqError);
    }
    number
}

/// Takes a sequence number, counts a packet with its SA, and looks at what that brings to an end.
#[inline]
fn note_use(
    events: &mut impl EventSink,
    sa: &mut OutboundSa,
    length: usize,
) -> Option<SequenceNumber> {
    let Some(number) = sa.sequence.take() else {
        sa.expired = true;
        remind_of_end(events, sa);
        return None;
    };
    if sa.sequence.is_near_end() && !sa.announced.near_end {
        announce_near_end(events, sa);
    }
    if sa.usage.count(length) {
        let (usage, announced) = (&mut sa.usage, &mut sa.announced);
        sa.expired |= grow_old(events, sa.id, usage, &sa.cold, announced);
    }
    Some(number)
}

#[cold]
fn announce_near_end(events: &mut impl EventSink, sa: &mut OutboundSa) {
    if let Some(sa_id) = sa_id(sa.id) {
        sa.announced.near_end = events.send(&Event::SequenceNearEnd { sa: sa_id });
    }
}

/// Writes the IV behind the headers of a frame, and gives the job that writes what follows it.
#[inline]
fn seal_job<'a>(
    sa: &OutboundSa,
    key: &'a SealingKey,
    ivs: &mut IvGenerator,
    number: SequenceNumber,
    (plaintext, family): (&'a [u8], Family),
    frame: &'a mut [u8],
) -> Option<SealJob<'a>> {
    let shape = sa.shape;
    let algorithm = key.algorithm();
    let aad = if sa.extended {
        Aad::extended(sa.spi, number.number())
    } else {
        Aad::plain(sa.spi, number.low())
    };
    let iv = if algorithm.has_unpredictable_iv() {
        draw_iv(ivs)
    } else {
        number.into_iv()
    };
    let rest = frame.get_mut(ETHERNET + shape.head() - shape.iv()..)?;
    let (space, out) = rest.split_at_mut_checked(shape.iv())?;
    packet::write_iv(space, &iv, algorithm);
    let trailer = shape.trailer(plaintext.len(), family.protocol());
    SealJob::new(key, iv, aad, plaintext, trailer, out).ok()
}

/// An IV that nobody foresees. The generator stays out of the way of the AEADs, whose IV costs nothing.
#[cold]
pub(super) fn draw_iv(ivs: &mut IvGenerator) -> Iv {
    ivs.generate()
}

/// Sends what was sealed.
#[inline]
fn send<P: Port, E: EventSink>(core: &mut Core<P, E>, sent: &mut Sent, packet: &mut Ready) {
    let port = packet.way.next_hop.port;
    match (packet.target.take(), packet.sealed) {
        (Some(mut target), Some(total)) => {
            target.set_len(total);
            if packet.way.udp_checksum {
                let packet = target.get_mut(ETHERNET..total).unwrap_or_default();
                packet::fill_udp_checksum(packet, Family::V6.header_len());
            }
            let next_hop = &packet.way.next_hop;
            let gone = if total - ETHERNET <= usize::from(next_hop.mtu) {
                core.transmit(port, target)
            } else {
                fragment::cut_outer(core, target, total, next_hop)
            };
            if gone {
                sent.packets += 1;
                sent.bytes += packet.length as u64;
                sent.esp_bytes += (total - ETHERNET) as u64;
            }
        }
        (Some(target), None) => {
            let reason = unsealed(core, packet.way.place);
            core.blame_outbound(packet.way.place, reason);
            core.discard(port, target);
        }
        (None, _) => {}
    }
    if let Source::Built { frame, port } = std::mem::replace(&mut packet.source, Source::Received) {
        core.discard(port, frame);
    }
}

/// Gives the frame of a fragment back.
#[inline]
pub(super) fn finish<P: Port, E: EventSink>(core: &mut Core<P, E>, source: Source) {
    if let Source::Built { frame, port } = source {
        core.discard(port, frame);
    }
}
