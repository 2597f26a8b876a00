//! Inbound processing (RFC 4301 5.2): ESP from outside ports, through its SA and back to plain packets.
//!
//! Each stage takes the whole burst, and asks for the memory that the next one needs of each packet: headers; SA; replay
//! pre-check; one batch through the crypto engine, from the received frames into frames of the ports that they will
//! probably leave by; then, for what is authentic and in burst order, the replay window and the inner header; selectors;
//! next hop and transmission.

use super::{
    core::{Arrived, Batch, Core, Via, grow_old},
    forward::forward,
    leave::leave_with,
    moving,
    packet::{self, ETHERNET, EspAt, Ip, Refused},
    pmtu,
    reassembly::{self, Outcome},
    reports::{EventSink, sa_id},
    single,
    stopwatch::{Stage, Stopwatch},
    tables::Tables,
};
use crate::port::{BURST, Port, RxFrame, TxFrame};
use arrayvec::ArrayVec;
use esplanade_channel::{Counter, Event};
use esplanade_crypto::{Aad, OpenJob, OpeningKey, ReceivedIv, Verdict, open_batch};
use esplanade_ipsec::{
    esp,
    id::SaId,
    replay::{Candidate, Replayed},
    sa::{InboundSa, Mode, Opener},
    sad::{Place, Whereabouts},
    spd::{Action, PolicyId, Probe},
};
use esplanade_wire::{Ecn, Protocol, ip::Family};

/// An ESP packet in the stages before it is opened.
#[derive(Debug)]
struct Sealed {
    /// `None` once the packet has left the stages by another door.
    arrived: Option<Arrived>,
    esp: EspAt,
    /// The outer header.
    outer: Ip,
    sa: SaId,
    /// The place of the SA's record.
    place: Option<Place>,
}

impl Sealed {
    #[inline]
    fn drop<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, reason: Counter) {
        if let Some(arrived) = self.arrived.take() {
            core.blame_inbound(self.sa, reason);
            core.drop(arrived, reason);
        }
    }
}

/// A packet that passed the pre-check, from there to the end. It stays where it is while stages fill it in: moving it would
/// cost more than most stages.
#[derive(Debug)]
struct Opening {
    /// Which of the sealed packets it is.
    packet: usize,
    sa: SaId,
    place: Place,
    outer_ecn: Ecn,
    /// The number that it claims, until that is committed.
    candidate: Option<Candidate>,
    /// The frame to be sent, with the plain packet behind the Ethernet header's place; `None` once it is gone.
    target: Option<TxFrame>,
    target_port: u8,
    /// The length of payload and trailer.
    plaintext: usize,
    /// The plain packet's header, once it is authentic.
    inner: Option<Inner>,
}

/// What is known of an authentic packet.
#[derive(Debug)]
struct Inner {
    ip: Ip,
    policy: PolicyId,
    probe: Probe,
}

impl Opening {
    #[inline]
    fn drop<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, reason: Counter) {
        if let Some(target) = self.target.take() {
            core.tally.one(reason);
            core.blame_inbound(self.sa, reason);
            // What was not authentic was seen before its frame went back.
            if reason != Counter::InStateProtoError {
                core.see_unsent(self.target_port, reason, &target, self.plaintext);
            }
            core.discard(self.target_port, target);
        }
    }
}

/// The inbound half of the pipeline.
#[derive(Debug, Default)]
pub struct Inbound {
    sealed: Batch<Sealed>,
    opening: Batch<Opening>,
}

impl Inbound {
    /// Takes a packet from an outside port.
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
            Err(why) => core.drop(from.of(frame), why.inbound_counter()),
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
        let ip = match ip {
            Ok(ip) => ip,
            Err(why) => return core.drop(from.of(frame), why.inbound_counter()),
        };
        if ip.is_fragment {
            return self.gather(core, from.of(frame), &{ ip });
        }
        if ip.protocol == Protocol::AH {
            return single::inbound::ah(core, from.of(frame), &{ ip });
        }
        let esp = match packet::find_esp(&frame, &ip) {
            Ok(Some(esp)) => esp,
            Ok(None) => return plain(core, from.of(frame), &{ ip }),
            Err(why) => return core.drop(from.of(frame), why.inbound_counter()),
        };
        core.tally.one(Counter::InEspPackets);
        core.tally.add(Counter::InEspBytes, ip.length as u64);
        let Some(sa) = SaId::new(esp.spi) else {
            return core.drop(from.of(frame), Counter::InNoStates);
        };
        if self.sealed.is_full() {
            return core.drop(from.of(frame), Counter::NoTxFrame);
        }
        core.tables.inbound.prefetch_slot(sa);
        self.sealed.push(Sealed {
            arrived: Some(from.of(frame)),
            esp,
            outer: ip,
            sa,
            place: None,
        });
    }

    #[cold]
    #[inline(never)]
    fn gather<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, arrived: Arrived, ip: &Ip) {
        match reassembly::take(core, arrived, ip) {
            Outcome::Plain(arrived) => plain(core, arrived, ip),
            // It is no fragment any more.
            Outcome::Whole(arrived) => {
                let (frame, from) = arrived.apart();
                self.enter(core, frame, from);
            }
            Outcome::Gone => {}
        }
    }

    /// Takes the packets that entered through all stages.
    pub fn run<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>) {
        let Self { sealed, opening } = self;
        if sealed.is_empty() {
            return;
        }
        sealed.iter_mut().for_each(|packet| find_sa(core, packet));
        core.stopwatch.was(Stage::Sa);
        for (number, packet) in sealed.iter_mut().enumerate() {
            check(core, opening, packet, number);
        }
        core.stopwatch.was(Stage::Fit);
        let verdicts = open(&core.tables, &mut core.stopwatch, sealed, opening);
        if core.capture.is_on() {
            see_forged(core, sealed, opening, &verdicts);
        }
        for arrived in sealed.iter_mut().filter_map(|packet| packet.arrived.take()) {
            core.finish(arrived);
        }
        core.stopwatch.was(Stage::Transmit);
        for (packet, verdict) in opening.iter_mut().zip(verdicts) {
            commit(core, sealed, packet, verdict);
        }
        sealed.clear();
        core.stopwatch.was(Stage::Commit);
        opening.iter_mut().for_each(|packet| admit(core, packet));
        core.stopwatch.was(Stage::Policy);
        opening.iter_mut().for_each(|packet| deliver(core, packet));
        opening.clear();
        core.stopwatch.was(Stage::Transmit);
    }
}

/// Shows packets that failed authentication to who watches, as they came.
#[cold]
fn see_forged<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sealed: &[Sealed],
    opening: &[Opening],
    verdicts: &[Verdict],
) {
    for (packet, verdict) in opening.iter().zip(verdicts) {
        let arrived = sealed.get(packet.packet).and_then(|of| of.arrived.as_ref());
        if let (Some(arrived), false) = (arrived, *verdict == Verdict::Authentic) {
            core.see_drop(arrived.port, Counter::InStateProtoError, &arrived.frame);
        }
    }
}

/// A packet from outside without ESP. RFC 4301 5.2 step 3: it passes only where a policy says bypass.
#[cold]
fn plain<P: Port, E: EventSink>(core: &mut Core<P, E>, arrived: Arrived, ip: &Ip) {
    let Some(arrived) = pmtu::take(core, arrived, ip) else {
        return;
    };
    let decision = core.tables.spd.lookup(&ip.flow_in());
    let Some(decision) = decision else {
        return core.drop(arrived, Counter::InNotOurs);
    };
    let reason = match decision.action {
        Action::Bypass => return forward(core, arrived, ip, Counter::InBypassPackets),
        Action::Protect => Counter::InNoPols,
        Action::Discard => Counter::InPolBlock,
    };
    core.blame(None, decision.policy, reason);
    core.drop(arrived, reason);
}

/// RFC 4301 4.4.2: the SPI alone finds a unicast SA.
#[inline(always)]
fn find_sa<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Sealed) {
    match core.tables.inbound.locate(packet.sa) {
        Whereabouts::Here(place) => {
            core.tables.inbound.prefetch(place);
            packet.place = Some(place);
        }
        Whereabouts::Owned { by } => {
            if let Some(arrived) = packet.arrived.take() {
                core.lend(arrived, by, Counter::InStateInvalid);
            }
        }
        Whereabouts::Unknown { stale } => {
            let reason = unknown(core, packet.sa, stale);
            packet.drop(core, reason);
        }
    }
}

/// Why there is no SA of this SPI.
#[cold]
pub(super) fn unknown<P: Port, E: EventSink>(core: &Core<P, E>, sa: SaId, stale: bool) -> Counter {
    match core.tables.outbound.locate(sa) {
        Whereabouts::Unknown { .. } if stale => Counter::InNoStatesStale,
        Whereabouts::Unknown { .. } => Counter::InNoStates,
        _ => Counter::InStateInvalid,
    }
}

/// Whether an SA takes packets, and this one, which is for its address or is not.
#[inline(always)]
pub(super) fn finish_check(
    events: &mut impl EventSink,
    sa: &mut InboundSa,
    is_for_it: bool,
) -> Result<(), Counter> {
    if sa.expired {
        remind_of_end(events, sa);
        return Err(Counter::InStateExpired);
    }
    if !is_for_it {
        return Err(Counter::InStateMismatch);
    }
    Ok(())
}

/// What can be checked before authentication, and the frame to decrypt into.
#[inline(always)]
fn check<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    opening: &mut Batch<Opening>,
    packet: &mut Sealed,
    number: usize,
) {
    let Some(place) = packet.place else {
        return;
    };
    let Some(sa) = core.tables.inbound.records.get_mut(place) else {
        return packet.drop(core, Counter::InStateInvalid);
    };
    let is_for_it = packet.outer.is_for(sa.local);
    if let Err(reason) = finish_check(&mut core.events, sa, is_for_it) {
        return packet.drop(core, reason);
    }
    // RFC 4301 4.4.2.1: an SA is of one protocol.
    if sa.ah.is_some() {
        return packet.drop(core, Counter::InNoStates);
    }
    let candidate = match sa.window.check(packet.esp.sequence) {
        Ok(candidate) => candidate,
        Err(why) => {
            let reason = replayed(core, place, why);
            return packet.drop(core, reason);
        }
    };
    sa.window.prefetch(&candidate);
    let sealed = packet.esp.payload.len();
    let text = sealed.checked_sub(sa.shape.iv());
    let Some(plaintext) = text.and_then(|text| sa.shape.opened_len(text)) else {
        return packet.drop(core, Counter::InHdrError);
    };
    if sa.mode == Mode::Transport {
        if let Some(arrived) = &packet.arrived {
            let sealed = single::inbound::Sealed {
                arrived,
                esp: &packet.esp,
                sa: packet.sa,
                place,
                candidate,
                plaintext,
            };
            single::inbound::esp(core, sealed);
        }
        return;
    }
    let target_port = sa.exit_port;
    if opening.last().is_none_or(|last| last.place != place)
        && let Some(key) = core.tables.inbound.keys.get(place).and_then(Opener::esp)
    {
        key.prefetch(plaintext);
    }
    // Without a frame there is no more to do, and the reason is counted.
    if let Some(target) = core.allocate(target_port, ETHERNET + plaintext) {
        opening.push(Opening {
            packet: number,
            sa: packet.sa,
            place,
            outer_ecn: packet.outer.ecn,
            candidate: Some(candidate),
            target: Some(target),
            target_port,
            plaintext,
            inner: None,
        });
    } else if let Some(arrived) = &packet.arrived {
        core.blame_inbound(packet.sa, Counter::NoTxFrame);
        core.see_refused(arrived.port, &arrived.frame);
    }
}

/// Opens all that passed the checks, in one batch. What could not be tried counts as forged.
#[inline]
fn open(
    tables: &Tables,
    stopwatch: &mut Stopwatch,
    sealed: &[Sealed],
    opening: &mut Batch<Opening>,
) -> [Verdict; BURST] {
    let inbound = &tables.inbound;
    let mut jobs: Batch<OpenJob<'_>> = ArrayVec::new();
    let mut untried = 0_u64;
    for (index, packet) in opening.iter_mut().enumerate() {
        let sa = inbound.records.get(packet.place);
        let key = inbound.keys.get(packet.place).and_then(Opener::esp);
        if let (Some(sa), Some(key), Some(of)) = (sa, key, sealed.get(packet.packet))
            && open_job(&mut jobs, sa, key, of, packet).is_some()
        {
            continue;
        }
        untried |= 1 << index;
    }
    stopwatch.was(Stage::Prepare);
    let mut verdicts = [Verdict::Forged; BURST];
    if let Some(verdicts) = verdicts.get_mut(..jobs.len()) {
        open_batch(&mut jobs, verdicts);
    }
    stopwatch.was(Stage::Crypto);
    if untried != 0 {
        make_room(&mut verdicts, untried);
    }
    verdicts
}

/// Adds the job that decrypts a packet into its frame. `None` when the lengths are not those of the SA's packets.
#[inline(always)]
fn open_job<'a>(
    jobs: &mut Batch<OpenJob<'a>>,
    sa: &InboundSa,
    key: &'a OpeningKey,
    sealed: &'a Sealed,
    packet: &'a mut Opening,
) -> Option<()> {
    let frame = &sealed.arrived.as_ref()?.frame;
    let carried = frame.get(sealed.esp.payload.clone())?;
    let (iv, ciphertext) = carried.split_at_checked(sa.shape.iv())?;
    let number = packet.candidate.as_ref()?.number();
    let iv = ReceivedIv::new(key.algorithm(), iv, number)?;
    let aad = Aad::new(sealed.esp.spi, number, sa.window.is_extended());
    let out = packet
        .target
        .as_mut()?
        .get_mut(ETHERNET..ETHERNET + packet.plaintext)?;
    let add = |job| jobs.push(job);
    OpenJob::with(key, iv, aad, ciphertext, out, add).ok()
}

/// Moves verdicts to the packets that they are of, around those of which there was no job.
#[cold]
fn make_room(verdicts: &mut [Verdict; BURST], untried: u64) {
    for at in (0..BURST).filter(|at| untried >> at & 1 != 0) {
        if let Some(behind) = verdicts.get_mut(at..) {
            behind.rotate_right(1);
        }
        if let Some(verdict) = verdicts.get_mut(at) {
            *verdict = Verdict::Forged;
        }
    }
}

/// What is authentic is taken out of its trailer.
#[inline(always)]
fn commit<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sealed: &[Sealed],
    packet: &mut Opening,
    verdict: Verdict,
) {
    let (id, place) = (packet.sa, packet.place);
    let (Some(candidate), Some(target)) = (packet.candidate.take(), &packet.target) else {
        return packet.drop(core, Counter::InStateInvalid);
    };
    match authentic(core, id, place, candidate, verdict) {
        Ok(News::Nothing) => {}
        Ok(News::Source) => {
            if let Some(of) = sealed.get(packet.packet) {
                moving::hear(core, place, &of.outer);
            }
        }
        Err(reason) => return packet.drop(core, reason),
    }
    let text = target
        .get(ETHERNET..ETHERNET + packet.plaintext)
        .unwrap_or_default();
    let trailer = esp::check_trailer(text);
    account(core, id, place, trailer.map_or(0, |(payload, _)| payload));
    let Ok((payload, next)) = trailer else {
        return packet.drop(core, Counter::InTrailerError);
    };
    let payload = text.get(..payload).unwrap_or_default();
    // Each family goes on by itself, so that what is read of IPv4 stays in registers.
    let inner = match Family::of_protocol(next) {
        Some(Family::V4) => note_inner(core, place, packet::read_v4(payload)),
        Some(Family::V6) => note_inner(core, place, packet::read_v6(payload)),
        None if next == Protocol::NONE => Err(Counter::InDummy),
        None => Err(packet::not_of_tunnel_mode(next)),
    };
    match inner {
        Ok(inner) => packet.inner = Some(inner),
        Err(reason) => packet.drop(core, reason),
    }
}

/// The header of an authentic packet, once it is asked which policy it is of.
#[inline(always)]
fn note_inner<P: Port, E: EventSink>(
    core: &Core<P, E>,
    place: Place,
    ip: Result<Ip, Refused>,
) -> Result<Inner, Counter> {
    let ip = ip.map_err(Refused::inner_counter)?;
    let sa = core.tables.inbound.records.get(place);
    Ok(Inner {
        policy: sa.ok_or(Counter::InStateInvalid)?.policy,
        probe: core.tables.spd.probe(ip.key_in()),
        ip,
    })
}

/// What an authentic packet tells of its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing that matters.
    Nothing,
    /// Where it is: the packet is newer than all before it, and the peer is followed.
    Source,
}

/// RFC 4303 3.4.3: "The receive window is updated only if the integrity verification succeeds." Gives the reason to drop the
/// packet otherwise.
#[inline(always)]
pub(super) fn authentic<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    id: SaId,
    place: Place,
    candidate: Candidate,
    verdict: Verdict,
) -> Result<News, Counter> {
    let records = &mut core.tables.inbound.records;
    let sa = records.get_mut(place).ok_or(Counter::InStateInvalid)?;
    if verdict != Verdict::Authentic {
        sa.cold.forged += 1;
        Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, id);
        return Err(Counter::InStateProtoError);
    }
    let newest = candidate.number() > sa.window.highest();
    if let Err(why) = sa.window.commit(candidate) {
        return Err(replayed(core, place, why));
    }
    if !sa.announced.first_packet
        && let Some(sa_id) = sa_id(id)
    {
        sa.announced.first_packet = core.events.send(&Event::FirstPacket { sa: sa_id });
    }
    sa.used_ms = core.now_ms;
    Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, id);
    Ok(if newest && sa.follows {
        News::Source
    } else {
        News::Nothing
    })
}

/// Counts the bytes of an authentic packet with its SA, and looks at what that brings to an end.
#[inline(always)]
pub(super) fn account<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    id: SaId,
    place: Place,
    payload: usize,
) {
    let Some(sa) = core.tables.inbound.records.get_mut(place) else {
        return;
    };
    if sa.usage.count(payload) {
        let (usage, announced) = (&mut sa.usage, &mut sa.announced);
        sa.expired |= grow_old(&mut core.events, id, usage, &sa.cold, announced);
    }
}

/// Counts a replay with its SA, and gives the counter that it is dropped under: late or duplicate.
#[cold]
pub(super) fn replayed<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    place: Place,
    why: Replayed,
) -> Counter {
    if let Some(sa) = core.tables.inbound.records.get_mut(place) {
        sa.cold.replayed += 1;
        Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, sa.id);
    }
    match why {
        Replayed::Late => Counter::InStateSeqErrorLate,
        Replayed::Duplicate => Counter::InStateSeqError,
    }
}

/// Tells that an SA has ended, if that could not be told when it did.
#[cold]
fn remind_of_end(events: &mut impl EventSink, sa: &mut InboundSa) {
    if !sa.announced.hard_lifetime
        && let Some(sa_id) = sa_id(sa.id)
    {
        sa.announced.hard_lifetime = events.send(&Event::HardLifetime { sa: sa_id });
    }
}

/// RFC 4301 5.2 step 4: the packet must match the selectors of the SA that it came by. Then its header becomes what it would
/// be had the tunnel been one hop.
#[inline(always)]
fn admit<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Opening) {
    let (Some(inner), Some(target)) = (&packet.inner, &mut packet.target) else {
        return;
    };
    let Inner { ip, policy, probe } = inner;
    core.tables.fib.prefetch(ip.destination());
    let spd = &mut core.tables.spd;
    let covers = spd.covers(*policy, *probe, ip.key_in(), || ip.flow_in());
    let admitted = if covers {
        one_hop_on(target, ip, packet.outer_ecn)
    } else {
        Err(Counter::InTmplMismatch)
    };
    if let Err(reason) = admitted {
        packet.drop(core, reason);
    }
}

#[inline]
pub(super) fn one_hop_on(target: &mut TxFrame, inner: &Ip, outer_ecn: Ecn) -> Result<(), Counter> {
    let ecn = Ecn::decapsulate(outer_ecn, inner.ecn).ok_or(Counter::InEcnError)?;
    if ecn != inner.ecn {
        packet::set_ecn(target, ecn);
    }
    Ok(())
}

/// Sends on what may pass.
#[inline(always)]
fn deliver<P: Port, E: EventSink>(core: &mut Core<P, E>, packet: &mut Opening) {
    if let (Some(inner), Some(target)) = (&packet.inner, packet.target.take()) {
        leave_with(core, target, packet.target_port, packet.sa, &inner.ip);
    }
}
