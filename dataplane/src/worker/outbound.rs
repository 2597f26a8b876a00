//! Outbound processing (RFC 4301 5.1): plain packets from inside ports, through the SPD and an SA, to the wire.
//!
//! Each stage takes the whole burst, and asks for the memory that the next one needs of each packet: headers; policy;
//! outbound SA; size and hop limit; sequence number and outer headers; one batch through the crypto engine, from the received
//! frames into frames of the ports that they leave by; transmission.

use super::{
    core::{Arrived, Batch, Core, Origin, Via, grow_old},
    forward::forward,
    fragment,
    held::Packet,
    packet::{self, ETHERNET, Ip, Refused},
    reassembly,
    reports::{EventSink, sa_id},
    single,
    stopwatch::Stage,
    way::{NoWay, Way, remind_of_end, settle, way},
};
use crate::{
    fib::Unroutable,
    port::{Port, RxFrame, TxFrame},
};
use arrayvec::ArrayVec;
use esplanade_channel::{Counter, Event, PolicyId, Role};
use esplanade_crypto::{Aad, Iv, IvGenerator, SealJob, SealingKey, seal_batch};
use esplanade_ipsec::{
    id::SaId,
    sa::{Mode, OutboundSa, Sealer},
    sad::{Place, Whereabouts},
    sequence::SequenceNumber,
    spd::{Action, GroupIndex, Probe},
};
use esplanade_wire::{icmp, ip::Family};

/// A plain packet in the stages before it is sealed.
#[derive(Debug)]
pub(super) struct Plain {
    /// `None` once the packet has left the stages by another door.
    arrived: Option<Arrived>,
    pub(super) ip: Ip,
    probe: Probe,
    /// The group of the policy, when that says protect.
    group: Option<GroupIndex>,
    /// The SA that the policy uses.
    selected: Option<SaId>,
    /// The place of its record.
    place: Option<Place>,
}

impl Plain {
    #[cold]
    fn drop<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, reason: Counter) {
        if let Some(arrived) = self.arrived.take() {
            // Which policy it is, the cache knows; none if there is none.
            let (ip, spd) = (&self.ip, &mut core.tables.spd);
            if let Some(decision) = spd.finish(self.probe, ip.key_out(), || ip.flow_out()) {
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
    /// `None` once it is gone.
    target: Option<TxFrame>,
    source: Source,
    /// Which of the plain packets it is, or is of.
    packet: u32,
    /// The place of its SA, which knows where to.
    place: Place,
    /// The length of the inner packet, which begins behind the Ethernet header's place.
    length: u32,
    /// The length of the frame's packet once it is sealed, before that 0.
    sealed: u32,
}

const _: () = assert!(size_of::<Ready>() <= 72);

/// The outbound half of the pipeline.
#[derive(Debug, Default)]
pub struct Outbound {
    plain: Batch<Plain>,
    ready: Batch<Ready>,
}

impl Outbound {
    /// Takes a packet from an inside port.
    #[inline(always)]
    pub fn enter<P: Port, E: EventSink>(
        &mut self,
        core: &mut Core<P, E>,
        frame: RxFrame,
        from: Via,
    ) {
        // Each family goes on by itself, so that what is read of IPv4 stays in registers.
        match packet::unwrap(&frame) {
            Ok((Family::V4, bytes)) => self.take(core, packet::read_v4(bytes), frame, from),
            Ok((Family::V6, bytes)) => self.take(core, packet::read_v6(bytes), frame, from),
            Err(why) => core.drop(from.of(frame), why.outbound_counter()),
        }
    }

    #[inline(always)]
    fn take<P: Port, E: EventSink>(
        &mut self,
        core: &mut Core<P, E>,
        ip: Result<Ip, Refused>,
        frame: RxFrame,
        from: Via,
    ) {
        match ip {
            Ok(ip) if !self.plain.is_full() => {
                let probe = core.tables.spd.probe(ip.key_out());
                self.plain.push(Plain {
                    arrived: Some(from.of(frame)),
                    ip,
                    probe,
                    group: None,
                    selected: None,
                    place: None,
                });
            }
            Ok(_) => core.drop(from.of(frame), Counter::NoTxFrame),
            Err(why) => core.drop(from.of(frame), why.outbound_counter()),
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
        for arrived in plain.iter_mut().filter_map(|packet| packet.arrived.take()) {
            core.finish(arrived);
        }
        plain.clear();
        core.stopwatch.was(Stage::Transmit);
    }
}

/// RFC 4301 5.1: the SPD says what is to be done.
#[inline(always)]
fn decide<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Plain) {
    let (spd, ip) = (&mut core.tables.spd, &packet.ip);
    let decision = spd.finish(packet.probe, ip.key_out(), || ip.flow_out());
    match decision.map(|decision| (decision.action, decision.group)) {
        Some((Action::Protect, group)) => {
            spd.prefetch_group(group);
            packet.group = Some(group);
        }
        Some((Action::Discard, _)) => packet.drop(core, Counter::OutPolBlock),
        Some((Action::Bypass, _)) => {
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
    let Some(index) = packet.group else {
        return;
    };
    let borrowed = packet
        .arrived
        .as_ref()
        .is_some_and(|arrived| arrived.lender.is_some());
    let spd = &core.tables.spd;
    let outbound = spd.outbound(index, packet.ip.dscp.value(), borrowed);
    packet.selected = outbound.and_then(SaId::new);
    match packet.selected {
        Some(sa) => core.tables.outbound.prefetch_slot(sa),
        None => acquire(core, packet, index),
    }
}

/// The SA is here, or its owner gets the packet.
#[inline]
fn find_sa<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Plain) {
    let (Some(sa), Some(group)) = (packet.selected, packet.group) else {
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
        Whereabouts::Unknown { .. } => acquire(core, packet, group),
    }
}

/// No SA, no packet; but the control plane is told that one is wanted.
#[cold]
fn acquire<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Plain, group: GroupIndex) {
    // The group knows no more than its number: which policy asked, the cache does.
    let (ip, spd) = (&packet.ip, &mut core.tables.spd);
    let decision = spd.finish(packet.probe, ip.key_out(), || ip.flow_out());
    if let (Some(group), Some(decision)) = (spd.group_mut(group), decision) {
        let policy = PolicyId(decision.policy.0);
        let asked = &mut group.acquired_ms;
        let flow = ip.flow_out();
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
    let generation = core.tables.fib.generation();
    let known = core.tables.outbound.records.get(place);
    if !known.is_some_and(|sa| !sa.expired && sa.next_hop_generation == generation)
        && let Err(why) = settle(core, place)
    {
        return match why {
            NoWay::Sa(reason) => packet.drop(core, reason),
            NoWay::Peer(why) => packet.strand(core, why),
        };
    }
    let Some(sa) = core.tables.outbound.records.get(place) else {
        return;
    };
    let (inner_mtu, special) = (sa.inner_mtu, sa.is_special());
    let is_transport = sa.mode == Mode::Transport;
    // RFC 4303 3.3.4: in transport mode ESP "is applied only to whole IP datagrams (not to IP fragments)".
    if is_transport && ip.is_fragment {
        let ip = *ip;
        if let Some(arrived) = packet.arrived.take() {
            reassembly::own(core, arrived, &ip);
        }
        return;
    }
    let fragment_sealed = sa.fragment_sealed;
    // RFC 4301 5.1.2.1 (2): "The TTL in the inner header is decremented by the encapsulator prior to forwarding and (...) if
    // it forwards the packet": the gateway's own packets are not forwarded.
    let own = core.role(arrived.port) == Some(Role::Host) && arrived.origin != Origin::Relayed;
    if ip.ttl <= 1 && !own {
        core.answer(arrived, icmp::Error::TtlExceeded);
        return packet.drop(core, Counter::OutTtlExpired);
    }
    let passes_whole = if is_transport {
        // What came in fragments may leave so.
        !ip.dont_fragment || arrived.origin == Origin::Reassembled
    } else {
        !special && (ip.length <= least_mtu(ip) || (fragment_sealed && !ip.dont_fragment))
    };
    let fits = ip.length <= usize::from(inner_mtu) || passes_whole;
    if !fits && ip.dont_fragment {
        let mtu = inner_mtu.max(least_mtu(ip) as u16);
        core.answer(arrived, icmp::Error::TooBig { mtu });
        return packet.drop(core, Counter::OutTooBig);
    }
    if !own {
        packet::decrement_ttl(&mut arrived.frame);
    }
    let clamps = |port: &crate::fib::PortFacts| port.mss_clamp;
    if ip.is_syn && core.tables.fib.port(arrived.port).is_some_and(clamps) {
        let lowered = packet::clamp_mss(&mut arrived.frame, ip, inner_mtu);
        core.tally.add(Counter::OutMssClamped, lowered.into());
    }
    if fits && !special {
        let length = ip.length;
        enqueue(core, plain, ready, number, Source::Received, length, place);
    } else {
        fit_aside(core, plain, ready, number, place, fits);
    }
}

/// A packet that is cut, or that goes by itself.
#[cold]
fn fit_aside<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &mut Batch<Plain>,
    ready: &mut Batch<Ready>,
    number: usize,
    place: Place,
    fits: bool,
) {
    let (Ok(way), Some(packet)) = (way(core, place), plain.get(number)) else {
        return;
    };
    if fits {
        let length = packet.ip.length;
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
        enqueue(core, plain, ready, packet, source, length, way.place);
    }
}

/// Takes the packet's frame, so that no sequence number is taken in vain. When there are enough, they go.
#[inline(always)]
pub(super) fn enqueue<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    ready: &mut Batch<Ready>,
    packet: usize,
    source: Source,
    length: usize,
    place: Place,
) {
    if ready.is_full() {
        send_ready(core, plain, ready);
    }
    let sa = core.tables.outbound.records.get(place);
    let Some((outer, next_hop)) =
        sa.and_then(|sa| Some((sa.shape.outer_len(length), sa.next_hop?)))
    else {
        return finish(core, source);
    };
    if ready.last().is_none_or(|last| last.place != place)
        && let Some(key) = core.tables.outbound.keys.get(place).and_then(Sealer::esp)
    {
        key.prefetch(length);
    }
    match core.allocate(next_hop.port, ETHERNET + outer) {
        Some(target) => ready.push(Ready {
            target: Some(target),
            source,
            packet: packet as u32,
            place,
            length: length as u32,
            sealed: 0,
        }),
        None => {
            core.blame_outbound(place, Counter::NoTxFrame);
            match source {
                Source::Received => see_refused(core, plain, packet, &Source::Received, length),
                Source::Built { frame, port } => {
                    let source = Source::Built { frame, port };
                    see_refused(core, plain, packet, &source, length);
                    finish(core, source);
                }
            }
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
    for packet in ready.iter().filter(|packet| packet.sealed == 0) {
        let reason = unsealed(core, packet.place);
        core.capture.because(reason);
        let (number, length) = (packet.packet as usize, packet.length as usize);
        see_refused(core, plain, number, &packet.source, length);
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
        let (place, length) = (packet.place, packet.length as usize);
        let (Some(sa), Some(key), Some(of)) = (
            records.get_mut(place),
            keys.get(place).and_then(Sealer::esp),
            plain.get(packet.packet as usize),
        ) else {
            continue;
        };
        if sa.expired {
            // By a packet of the same burst.
            tally.one(Counter::OutStateExpired);
            continue;
        }
        let Some(number) = note_use(events, sa, length) else {
            tally.one(Counter::OutStateSeqError);
            continue;
        };
        sa.used_ms = *now_ms;
        Core::<P, E>::touch(dirty, &mut sa.dirty, sa.id);
        *identification = identification.wrapping_add(1);
        let source = match &packet.source {
            Source::Received => of.frame(),
            Source::Built { frame, .. } => frame,
        };
        let plaintext = source.get(ETHERNET..ETHERNET + length);
        let Some(target) = &mut packet.target else {
            continue;
        };
        let (id, low) = (*identification as u16, number.low());
        let total = packet::write_outer(sa, &of.ip, length, id, low, target);
        let family = of.ip.family();
        if let (Some(plaintext), Some(total)) = (plaintext, total)
            && let Some(space) = target.get_mut(..total)
            && let text = (plaintext, family)
            && seal_job(&mut jobs, sa, key, ivs, number, text, space).is_some()
        {
            packet.sealed = total as u32;
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
#[inline(always)]
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

/// Writes the IV behind the headers of a frame, and adds the job that writes what follows it.
#[inline(always)]
fn seal_job<'a>(
    jobs: &mut Batch<SealJob<'a>>,
    sa: &OutboundSa,
    key: &'a SealingKey,
    ivs: &mut IvGenerator,
    number: SequenceNumber,
    (plaintext, family): (&'a [u8], Family),
    frame: &'a mut [u8],
) -> Option<()> {
    let shape = sa.shape;
    let algorithm = key.algorithm();
    let aad = Aad::new(sa.spi, number.number(), sa.extended);
    let rest = frame.get_mut(ETHERNET + shape.head() - shape.iv()..)?;
    let (space, out) = rest.split_at_mut_checked(shape.iv())?;
    let trailer = shape.trailer(plaintext.len(), family.protocol());
    if algorithm.has_unpredictable_iv() {
        let iv = draw_iv(ivs);
        packet::write_iv(space, &iv, algorithm);
        jobs.push(SealJob::new(key, iv, aad, plaintext, trailer, out).ok()?);
        return Some(());
    }
    let iv = number.into_iv();
    // An implicit one (RFC 8750) has no space.
    if let Ok(space) = <&mut [u8; 8]>::try_from(space) {
        *space = iv.explicit();
    }
    let add = |job| jobs.push(job);
    SealJob::with(key, iv, aad, plaintext, trailer, out, add).ok()
}

/// An IV that nobody foresees. The generator stays out of the way of the AEADs, whose IV costs nothing.
#[cold]
pub(super) fn draw_iv(ivs: &mut IvGenerator) -> Iv {
    ivs.generate()
}

/// Sends what was sealed.
#[inline(always)]
fn send<P: Port, E: EventSink>(core: &mut Core<P, E>, sent: &mut Sent, packet: &mut Ready) {
    let sa = core.tables.outbound.records.get(packet.place);
    let total = packet.sealed as usize;
    if let (Some(mut target), Some((next_hop, udp_checksum))) = (
        packet.target.take(),
        sa.and_then(|sa| Some((sa.next_hop?, sa.udp_checksum))),
    ) {
        if total == 0 {
            let reason = unsealed(core, packet.place);
            core.blame_outbound(packet.place, reason);
            core.discard(next_hop.port, target);
        } else {
            target.set_len(total);
            if udp_checksum {
                let packet = target.get_mut(ETHERNET..total).unwrap_or_default();
                packet::fill_udp_checksum(packet, Family::V6.header_len());
            }
            let gone = if total - ETHERNET <= usize::from(next_hop.mtu) {
                core.transmit(next_hop.port, target)
            } else {
                fragment::cut_outer(core, target, total, &next_hop)
            };
            if gone {
                sent.packets += 1;
                sent.bytes += u64::from(packet.length);
                sent.esp_bytes += (total - ETHERNET) as u64;
            }
        }
    }
    if let Source::Built { .. } = packet.source {
        finish(
            core,
            std::mem::replace(&mut packet.source, Source::Received),
        );
    }
}

/// Gives the frame of a fragment back.
#[inline(always)]
pub(super) fn finish<P: Port, E: EventSink>(core: &mut Core<P, E>, source: Source) {
    if let Source::Built { frame, port } = source {
        core.discard(port, frame);
    }
}
