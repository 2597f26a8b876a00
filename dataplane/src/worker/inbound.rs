//! Inbound processing (RFC 4301 5.2): ESP from outside ports, through its SA and back to plain packets.
//!
//! Stages over the burst: SA and replay pre-check of each packet; one batch through the crypto engine, from the
//! received frames into frames of the ports that they will probably leave by; then, for what is
//! authentic and in burst order, the replay window, the selectors and the next hop.

use super::{
    core::{Admitted, Arrived, Batch, Core, grow_old},
    held::Packet,
    outbound::forward,
    packet::{self, ETHERNET, EspAt, Ip},
    reports::{EventSink, sa_id},
};
use crate::port::{BURST, Port, TxFrame};
use arrayvec::ArrayVec;
use esplanade_channel::{Counter, Event, Role};
use esplanade_crypto::{Aad, OpenJob, ReceivedIv, Verdict, open_batch};
use esplanade_ipsec::{
    esp,
    id::SaId,
    replay::{Candidate, Replayed},
    sa::InboundSa,
    sad::Whereabouts,
    spd::{Action, PolicyId},
};
use esplanade_wire::{Ecn, Protocol};
use std::{net::Ipv4Addr, ops::Range};

/// An ESP packet whose SA is here.
#[derive(Debug)]
struct Arriving {
    arrived: Arrived,
    esp: EspAt,
    outer_destination: Ipv4Addr,
    outer_ecn: Ecn,
    sa: SaId,
}

/// A packet that passed the pre-check: not authenticated yet.
#[derive(Debug)]
struct Opening {
    arrived: Arrived,
    outer_ecn: Ecn,
    sa: SaId,
    candidate: Candidate,
    aad: Aad,
    iv: ReceivedIv,
    /// Where ciphertext and ICV lie in the frame.
    sealed: Range<usize>,
    target: TxFrame,
    target_port: u8,
    /// The length of payload and trailer.
    plaintext: usize,
}

/// An authenticated plain packet, behind the Ethernet header's place of a frame to be sent.
#[derive(Debug)]
struct Opened {
    target: TxFrame,
    target_port: u8,
    sa: SaId,
    /// The length of the payload.
    payload: usize,
    outer_ecn: Ecn,
}

/// The inbound half of the pipeline.
#[derive(Debug, Default)]
pub struct Inbound {
    waiting: Batch<Arriving>,
    opening: Batch<Opening>,
}

impl Inbound {
    /// Takes a packet from an outside port.
    #[inline]
    pub fn enter<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>, arrived: Arrived) {
        let ip = match packet::read_frame(&arrived.frame) {
            Ok(ip) => ip,
            Err(why) => return core.drop(arrived, why.inbound_counter()),
        };
        match packet::find_esp(&arrived.frame, &ip) {
            Ok(Some(esp)) => self.find_sa(core, arrived, &ip, esp),
            Ok(None) => plain(core, arrived, &ip),
            Err(why) => core.drop(arrived, why.inbound_counter()),
        }
    }

    /// RFC 4301 4.4.2: the SPI alone finds a unicast SA.
    #[inline]
    fn find_sa<P: Port, E: EventSink>(
        &mut self,
        core: &mut Core<P, E>,
        arrived: Arrived,
        ip: &Ip,
        esp: EspAt,
    ) {
        core.tally.one(Counter::InEspPackets);
        core.tally.add(Counter::InEspBytes, ip.length as u64);
        let Some(sa) = SaId::new(esp.spi) else {
            return core.drop(arrived, Counter::InNoStates);
        };
        match core.tables.inbound.locate(sa) {
            Whereabouts::Here if !self.waiting.is_full() => self.waiting.push(Arriving {
                arrived,
                esp,
                outer_destination: ip.destination,
                outer_ecn: ip.ecn,
                sa,
            }),
            Whereabouts::Here => core.drop(arrived, Counter::NoTxFrame),
            Whereabouts::Owned { by } => core.lend(arrived, by, Counter::InStateInvalid),
            Whereabouts::Unknown { stale } => {
                let reason = match core.tables.outbound.locate(sa) {
                    Whereabouts::Unknown { .. } if stale => Counter::InNoStatesStale,
                    Whereabouts::Unknown { .. } => Counter::InNoStates,
                    _ => Counter::InStateInvalid,
                };
                core.drop(arrived, reason);
            }
        }
    }

    /// Takes the packets that entered through all stages.
    pub fn run<P: Port, E: EventSink>(&mut self, core: &mut Core<P, E>) {
        let Self { waiting, opening } = self;
        for arriving in waiting.drain(..) {
            if let Some(prepared) = prepare(core, arriving) {
                opening.push(prepared);
            }
        }
        if opening.is_empty() {
            return;
        }
        let verdicts = open(core, opening);
        for (packet, verdict) in opening.drain(..).zip(verdicts) {
            if let Some(opened) = commit(core, packet, verdict) {
                deliver(core, opened);
            }
        }
    }
}

/// A packet from outside without ESP. RFC 4301 5.2 step 3: it passes only where a policy says bypass.
#[cold]
fn plain<P: Port, E: EventSink>(core: &mut Core<P, E>, arrived: Arrived, ip: &Ip) {
    let decision = core.tables.spd.lookup(&ip.flow_in());
    match decision.map(|decision| decision.action) {
        Some(Action::Bypass) => forward(core, arrived, ip, Counter::InBypassPackets),
        Some(Action::Protect) => core.drop(arrived, Counter::InNoPols),
        Some(Action::Discard) => core.drop(arrived, Counter::InPolBlock),
        None => core.drop(arrived, Counter::InNotOurs),
    }
}

/// What can be checked before authentication, and the frame to decrypt into.
#[inline]
fn prepare<P: Port, E: EventSink>(core: &mut Core<P, E>, arriving: Arriving) -> Option<Opening> {
    let Arriving {
        arrived,
        esp,
        outer_destination,
        outer_ecn,
        sa: id,
    } = arriving;
    let Some(sa) = core.tables.inbound.get_mut(id) else {
        core.drop(arrived, Counter::InStateInvalid);
        return None;
    };
    if sa.expired {
        remind_of_end(&mut core.events, sa);
        core.drop(arrived, Counter::InStateExpired);
        return None;
    }
    if outer_destination != sa.local {
        core.drop(arrived, Counter::InStateMismatch);
        return None;
    }
    let candidate = match sa.window.check(esp.sequence) {
        Ok(candidate) => candidate,
        Err(why) => {
            replayed(core, id, why);
            core.finish(arrived);
            return None;
        }
    };
    let Some((iv, sealed, plaintext)) = take_apart(sa, &arrived.frame, &esp, &candidate) else {
        core.drop(arrived, Counter::InHdrError);
        return None;
    };
    let aad = if sa.window.is_extended() {
        Aad::extended(esp.spi, candidate.number())
    } else {
        Aad::plain(esp.spi, esp.sequence)
    };
    let target_port = sa.exit_port;
    let Some(target) = core.allocate(target_port, ETHERNET + plaintext) else {
        core.finish(arrived);
        return None;
    };
    Some(Opening {
        arrived,
        outer_ecn,
        sa: id,
        candidate,
        aad,
        iv,
        sealed,
        target,
        target_port,
        plaintext,
    })
}

/// The IV of a packet, where ciphertext and ICV lie in its frame, and the length of what is to be decrypted. `None` when the
/// lengths are not those of the SA's packets.
#[inline]
fn take_apart(
    sa: &InboundSa,
    frame: &[u8],
    esp: &EspAt,
    candidate: &Candidate,
) -> Option<(ReceivedIv, Range<usize>, usize)> {
    let Range { start, end } = esp.payload;
    let sealed = start + sa.shape.iv()..end;
    let plaintext = sa.shape.opened_len(end.checked_sub(sealed.start)?)?;
    let carried = frame.get(start..sealed.start)?;
    let iv = ReceivedIv::new(sa.key.algorithm(), carried, candidate.number())?;
    Some((iv, sealed, plaintext))
}

/// Opens all that were prepared, in one batch. What could not be tried counts as forged.
#[inline]
fn open<P: Port, E: EventSink>(
    core: &Core<P, E>,
    opening: &mut Batch<Opening>,
) -> [Verdict; BURST] {
    let mut verdicts = [Verdict::Forged; BURST];
    let mut jobs: Batch<OpenJob<'_>> = ArrayVec::new();
    let mut tried: Batch<usize> = ArrayVec::new();
    for (index, packet) in opening.iter_mut().enumerate() {
        let key = core.tables.inbound.get(packet.sa).map(|sa| &sa.key);
        let ciphertext = packet.arrived.frame.get(packet.sealed.clone());
        let out = packet.target.get_mut(ETHERNET..ETHERNET + packet.plaintext);
        if let (Some(key), Some(ciphertext), Some(out)) = (key, ciphertext, out)
            && let Ok(job) = OpenJob::new(key, packet.iv, packet.aad, ciphertext, out)
        {
            jobs.push(job);
            tried.push(index);
        }
    }
    let mut found = [Verdict::Forged; BURST];
    if let Some(found) = found.get_mut(..jobs.len()) {
        open_batch(&mut jobs, found);
    }
    for (index, verdict) in tried.into_iter().zip(found) {
        if let Some(to) = verdicts.get_mut(index) {
            *to = verdict;
        }
    }
    verdicts
}

/// RFC 4303 3.4.3: "The receive window is updated only if the integrity verification succeeds."
#[inline]
fn commit<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    packet: Opening,
    verdict: Verdict,
) -> Option<Opened> {
    let Opening {
        arrived,
        outer_ecn,
        sa: id,
        candidate,
        target,
        target_port,
        plaintext,
        ..
    } = packet;
    core.finish(arrived);
    let Some(sa) = core.tables.inbound.get_mut(id) else {
        core.discard(target_port, target);
        return None;
    };
    if verdict != Verdict::Authentic {
        sa.forged += 1;
        Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, id);
        core.tally.one(Counter::InStateProtoError);
        core.discard(target_port, target);
        return None;
    }
    if let Err(why) = sa.window.commit(candidate) {
        replayed(core, id, why);
        core.discard(target_port, target);
        return None;
    }
    if !sa.announced.first_packet
        && let Some(sa_id) = sa_id(id)
    {
        sa.announced.first_packet = core.events.send(&Event::FirstPacket { sa: sa_id });
    }
    sa.used_ms = core.now_ms;
    Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, id);

    let trailer = target
        .get(ETHERNET..ETHERNET + plaintext)
        .ok_or(esp::TrailerError::Short)
        .and_then(esp::check_trailer);
    let (payload, reason) = match trailer {
        Ok((payload, esp::NEXT_IPV4)) => (payload, None),
        Ok((payload, esp::NEXT_NONE)) => (payload, Some(Counter::InDummy)),
        Ok((payload, next)) if is_transport(Protocol(next)) => {
            (payload, Some(Counter::InStateModeError))
        }
        Ok((payload, _)) => (payload, Some(Counter::InNextHeader)),
        Err(_) => (0, Some(Counter::InTrailerError)),
    };
    if sa.usage.count(payload) {
        let (usage, announced) = (&mut sa.usage, &mut sa.announced);
        sa.expired |= grow_old(&mut core.events, id, usage, &sa.cold, announced);
    }
    if let Some(reason) = reason {
        core.tally.one(reason);
        core.discard(target_port, target);
        return None;
    }
    Some(Opened {
        target,
        target_port,
        sa: id,
        payload,
        outer_ecn,
    })
}

/// Whether a next header is one of transport mode.
fn is_transport(next: Protocol) -> bool {
    next.has_ports() || next == Protocol::ICMP
}

/// Counts a replay, late or duplicate, with the SA and with the worker.
fn replayed<P: Port, E: EventSink>(core: &mut Core<P, E>, id: SaId, why: Replayed) {
    if let Some(sa) = core.tables.inbound.get_mut(id) {
        sa.replayed += 1;
        Core::<P, E>::touch(&mut core.dirty, &mut sa.dirty, id);
    }
    core.tally.one(match why {
        Replayed::Late => Counter::InStateSeqErrorLate,
        Replayed::Duplicate => Counter::InStateSeqError,
    });
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

/// Checks the inner packet and sends it on if it may pass.
#[inline]
fn deliver<P: Port, E: EventSink>(core: &mut Core<P, E>, opened: Opened) {
    let Opened {
        mut target,
        target_port,
        sa,
        payload,
        outer_ecn,
    } = opened;
    match admit(core, sa, &mut target, payload, outer_ecn) {
        Ok(inner) => leave(
            core,
            Admitted {
                target,
                target_port,
                sa,
                inner,
            },
        ),
        Err(reason) => {
            core.tally.one(reason);
            core.discard(target_port, target);
        }
    }
}

/// Sends an admitted packet to its next hop.
#[inline]
pub fn leave<P: Port, E: EventSink>(core: &mut Core<P, E>, admitted: Admitted) {
    let next_hop = match core.tables.fib.resolve(admitted.inner.destination) {
        Ok(next_hop) => next_hop,
        Err(why) => return core.strand(Packet::Admitted(admitted), why),
    };
    let Admitted {
        mut target,
        target_port: port,
        sa,
        inner,
    } = admitted;
    let reason = if core.role(next_hop.port) != Some(Role::Inside) {
        Some(Counter::InHairpin)
    } else if inner.length > usize::from(next_hop.mtu) {
        Some(Counter::PacketTooBig)
    } else {
        None
    };
    if let Some(reason) = reason {
        core.tally.one(reason);
        return core.discard(port, target);
    }
    if inner.is_syn {
        clamp(core, sa, next_hop.port, &mut target, &inner);
    }
    let total = ETHERNET + inner.length;
    let Some(mut target) = move_to_port(core, sa, target, port, next_hop.port, total) else {
        return;
    };
    packet::write_ethernet(&mut target, &next_hop);
    target.set_len(total);
    if core.transmit(next_hop.port, target) {
        core.tally.one(Counter::InPackets);
        core.tally.add(Counter::InBytes, inner.length as u64);
    }
}

/// RFC 4301 5.2 step 4: the packet must match the selectors of the SA that it came by. Then the inner header becomes
/// what it would be had the tunnel been one hop.
#[inline]
fn admit<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    id: SaId,
    target: &mut TxFrame,
    payload: usize,
    outer_ecn: Ecn,
) -> Result<Ip, Counter> {
    let bytes = target
        .get_mut(ETHERNET..ETHERNET + payload)
        .ok_or(Counter::InTrailerError)?;
    let ip = packet::read(bytes).map_err(|_| Counter::InTrailerError)?;
    let sa = core.tables.inbound.get(id).ok_or(Counter::InStateInvalid)?;
    if !core.tables.spd.covers(sa.policy, &ip.flow_in()) {
        return Err(Counter::InTmplMismatch);
    }
    let ecn = Ecn::decapsulate(outer_ecn, ip.ecn).ok_or(Counter::InEcnError)?;
    if ip.ttl <= 1 {
        return Err(Counter::InTtlExpired);
    }
    if ecn != ip.ecn {
        packet::set_ecn(target, ecn);
    }
    packet::decrement_ttl(target);
    Ok(ip)
}

/// Lowers the MSS that the far end announces to what our own packets to it may have.
#[cold]
fn clamp<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    id: SaId,
    exit: u8,
    target: &mut TxFrame,
    ip: &Ip,
) {
    let clamps = |port: &crate::fib::PortFacts| port.mss_clamp;
    if !core.tables.fib.port(exit).is_some_and(clamps) {
        return;
    }
    let policy = core.tables.inbound.get(id).map(|sa| sa.policy);
    let outbound = policy
        .and_then(|policy: PolicyId| core.tables.spd.selected(policy))
        .and_then(SaId::new)
        .and_then(|id| core.tables.outbound.get(id));
    if let Some(inner_mtu) = outbound.map(|sa| sa.inner_mtu).filter(|mtu| *mtu > 0) {
        packet::clamp_mss(target, ip, inner_mtu);
    }
}

/// Copies the packet into a frame of the port that it really leaves by, when the guess was wrong, and guesses
/// better from now on.
#[inline]
fn move_to_port<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    id: SaId,
    target: TxFrame,
    from: u8,
    to: u8,
    length: usize,
) -> Option<TxFrame> {
    if from == to {
        return Some(target);
    }
    if let Some(sa) = core.tables.inbound.get_mut(id) {
        sa.exit_port = to;
    }
    let moved = core.allocate(to, length).map(|mut moved| {
        if let (Some(to), Some(from)) = (moved.get_mut(..length), target.get(..length)) {
            to.copy_from_slice(from);
        }
        moved
    });
    core.discard(from, target);
    moved
}
