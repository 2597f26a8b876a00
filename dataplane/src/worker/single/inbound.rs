//! In by an SA of AH, or of ESP in transport mode.

use super::super::{
    core::{Admitted, Arrived, Core},
    inbound::{account, authentic, finish_check, one_hop_on, replayed, unknown},
    leave::leave,
    packet::{self, ETHERNET, EspAt, Ip},
    reports::EventSink,
};
use crate::port::{Port, TxFrame};
use esplanade_channel::Counter;
use esplanade_crypto::{Aad, OpenJob, ReceivedIv, Verdict, open_batch};
use esplanade_ipsec::{
    ah, esp,
    id::SaId,
    replay::Candidate,
    sa::{InboundSa, Mode, Original},
    sad::{Place, Whereabouts},
    spd::PolicyId,
};
use esplanade_wire::{
    Protocol,
    ah::{Covered, Packet},
    ip::Family,
    splice::{self, fix_checksum},
};

/// Takes a packet of AH.
#[cold]
pub fn ah<P: Port, E: EventSink>(core: &mut Core<P, E>, arrived: Arrived, ip: &Ip) {
    core.tally.one(Counter::InAhPackets);
    core.tally.add(Counter::InAhBytes, ip.length as u64);
    let spi = find_ah(&arrived.frame, ip).map(|ah| ah.spi().0);
    let Some(spi) = spi else {
        return core.drop(arrived, Counter::InHdrError);
    };
    let Some(id) = SaId::new(spi) else {
        return core.drop(arrived, Counter::InNoStates);
    };
    match core.tables.inbound.locate(id) {
        Whereabouts::Here(place) => match verify(core, &arrived, ip, id, place) {
            Ok(verified) => hand_on(core, arrived, ip, id, place, &verified),
            Err(reason) => {
                core.blame_inbound(id, reason);
                core.drop(arrived, reason);
            }
        },
        Whereabouts::Owned { by } => core.lend(arrived, by, Counter::InStateInvalid),
        Whereabouts::Unknown { stale } => {
            let reason = unknown(core, id, stale);
            core.drop(arrived, reason);
        }
    }
}

fn find_ah<'a>(frame: &'a [u8], ip: &Ip) -> Option<Packet<'a>> {
    let bytes = frame.get(ETHERNET + ip.header..ETHERNET + ip.length)?;
    Packet::new_checked(bytes).ok()
}

/// What AH covered.
struct Verified {
    next: Protocol,
    /// Where it begins in the packet.
    at: usize,
}

/// RFC 4302 3.4.2 to 3.4.4: SA, sequence number, ICV, window.
fn verify<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    arrived: &Arrived,
    ip: &Ip,
    id: SaId,
    place: Place,
) -> Result<Verified, Counter> {
    let packet = find_ah(&arrived.frame, ip).ok_or(Counter::InHdrError)?;
    let records = &mut core.tables.inbound.records;
    let sa = records.get_mut(place).ok_or(Counter::InStateInvalid)?;
    let Some(shape) = sa.ah else {
        return Err(Counter::InNoStates);
    };
    finish_check(&mut core.events, sa, ip.is_for(sa.local))?;
    let candidate = match sa.window.check(packet.sequence()) {
        Ok(candidate) => candidate,
        Err(why) => return Err(replayed(core, place, why)),
    };
    let extended = sa.window.is_extended();
    let headers = arrived.frame.get(ETHERNET..ETHERNET + ip.header);
    let covered = Covered::of(headers.unwrap_or_default()).map_err(|_| Counter::InHdrError)?;
    let number = candidate.number();
    let key = core.tables.inbound.keys.get(place);
    let verdict = key.and_then(|key| key.ah()).map_or(Verdict::Forged, |key| {
        ah::verify(key, shape, number, extended, &covered, &packet)
    });
    authentic(core, id, place, candidate, verdict)?;
    let at = ip.header + packet.header_len();
    account(core, id, place, ip.length.saturating_sub(at));
    Ok(Verified {
        next: packet.next_header(),
        at,
    })
}

/// What AH protected goes on, as it was or as it came.
fn hand_on<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    arrived: Arrived,
    ip: &Ip,
    id: SaId,
    place: Place,
    verified: &Verified,
) {
    let Some(sa) = core.tables.inbound.records.get(place) else {
        return core.drop(arrived, Counter::InStateInvalid);
    };
    let (mode, policy, target_port) = (sa.mode, sa.policy, sa.exit_port);
    let front = match (mode, verified.next) {
        (Mode::Tunnel, next) if Family::of_protocol(next).is_some() => 0,
        (Mode::Tunnel, next) => {
            let reason = packet::not_of_tunnel_mode(next);
            core.blame_inbound(id, reason);
            return core.drop(arrived, reason);
        }
        (Mode::Transport, _) => ip.header,
    };
    let payload = arrived
        .frame
        .get(ETHERNET + verified.at..ETHERNET + ip.length)
        .unwrap_or_default();
    let total = front + payload.len();
    let Some(mut target) = core.allocate(target_port, ETHERNET + total) else {
        core.see_refused(arrived.port, &arrived.frame);
        return core.finish(arrived);
    };
    let headers = arrived.frame.get(ETHERNET..ETHERNET + front);
    if let (Some(headers), Some(space)) = (headers, target.get_mut(ETHERNET..ETHERNET + total))
        && let Some((before, behind)) = space.split_at_mut_checked(front)
    {
        before.copy_from_slice(headers);
        behind.copy_from_slice(payload);
    }
    core.finish(arrived);
    if mode == Mode::Transport {
        let place = (front, total);
        return deliver_transport(core, id, target, target_port, place, verified.next);
    }
    let bytes = target.get(ETHERNET..ETHERNET + total).unwrap_or_default();
    let inner = Family::of_protocol(verified.next).map(|family| packet::read(family, bytes));
    match inner {
        Some(Ok(inner)) => {
            let admitted = if covers(core, policy, &inner) {
                one_hop_on(&mut target, &inner, ip.ecn)
            } else {
                Err(Counter::InTmplMismatch)
            };
            deliver(core, id, target, target_port, inner, admitted);
        }
        _ => {
            core.tally.one(Counter::InTrailerError);
            core.blame_inbound(id, Counter::InTrailerError);
            core.see_unsent(target_port, Counter::InTrailerError, &target, total);
            core.discard(target_port, target);
        }
    }
}

/// A packet of ESP in transport mode that passed all checks but its ICV.
pub struct Sealed<'a> {
    pub arrived: &'a Arrived,
    pub esp: &'a EspAt,
    pub sa: SaId,
    pub place: Place,
    /// Where it says that it stands in the SA's order.
    pub candidate: Candidate,
    /// The length of payload and trailer.
    pub plaintext: usize,
}

/// Takes a packet of ESP in transport mode; its frame stays the caller's.
#[cold]
pub fn esp<P: Port, E: EventSink>(core: &mut Core<P, E>, sealed: Sealed<'_>) {
    let Sealed {
        arrived,
        esp: at,
        sa: id,
        place,
        candidate,
        plaintext,
    } = sealed;
    let Ok(outer) = packet::read_frame(&arrived.frame) else {
        core.see_drop(arrived.port, Counter::InHdrError, &arrived.frame);
        return core.tally.one(Counter::InHdrError);
    };
    let records = &core.tables.inbound.records;
    let Some((target_port, original)) = records
        .get(place)
        .map(|sa| (sa.exit_port, sa.cold.original))
    else {
        core.see_drop(arrived.port, Counter::InStateInvalid, &arrived.frame);
        return core.tally.one(Counter::InStateInvalid);
    };
    let front = ETHERNET + outer.header;
    let Some(mut target) = core.allocate(target_port, front + plaintext) else {
        return core.see_refused(arrived.port, &arrived.frame);
    };
    let verdict = open(
        core,
        arrived,
        at,
        place,
        &candidate,
        &mut target,
        front..front + plaintext,
    );
    let opened = authentic(core, id, place, candidate, verdict).and_then(|_| {
        let text = target.get(front..front + plaintext).unwrap_or_default();
        let trailer = esp::check_trailer(text).map_err(|_| Counter::InTrailerError);
        account(core, id, place, trailer.map_or(0, |(payload, _)| payload));
        match trailer? {
            (_, Protocol::NONE) => Err(Counter::InDummy),
            opened => Ok(opened),
        }
    });
    let (payload, next) = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            core.tally.one(reason);
            core.blame_inbound(id, reason);
            core.see_drop(arrived.port, reason, &arrived.frame);
            return core.discard(target_port, target);
        }
    };
    let headers = arrived.frame.get(ETHERNET..front);
    if let (Some(space), Some(headers)) = (target.get_mut(ETHERNET..front), headers) {
        space.copy_from_slice(headers);
    }
    if let (Some(original), Some(segment)) = (original, target.get_mut(front..front + payload)) {
        undo_nat(next, segment, original, &outer);
    }
    let place = (outer.header, outer.header + payload);
    deliver_transport(core, id, target, target_port, place, next);
}

/// RFC 3948 3.1.2: the checksum within was made over the addresses before the NAT.
fn undo_nat(next: Protocol, segment: &mut [u8], original: Original, outer: &Ip) {
    let made = (original.remote, original.local);
    let seen = (outer.source(), outer.destination());
    fix_checksum(next, segment, made, seen);
}

fn open<P: Port, E: EventSink>(
    core: &Core<P, E>,
    arrived: &Arrived,
    at: &EspAt,
    place: Place,
    candidate: &Candidate,
    target: &mut TxFrame,
    to: std::ops::Range<usize>,
) -> Verdict {
    let inbound = &core.tables.inbound;
    let mut verdict = [Verdict::Forged];
    let run = || {
        let sa: &InboundSa = inbound.records.get(place)?;
        let key = inbound.keys.get(place)?.esp()?;
        let carried = arrived.frame.get(at.payload.clone())?;
        let (iv, ciphertext) = carried.split_at_checked(sa.shape.iv())?;
        let iv = ReceivedIv::new(key.algorithm(), iv, candidate.number())?;
        let aad = if sa.window.is_extended() {
            Aad::extended(at.spi, candidate.number())
        } else {
            Aad::plain(at.spi, at.sequence)
        };
        let out = target.get_mut(to)?;
        let job = OpenJob::new(key, iv, aad, ciphertext, out).ok()?;
        open_batch(&mut [job], &mut verdict);
        Some(())
    };
    let _ = run();
    let [verdict] = verdict;
    verdict
}

/// Checks a packet of transport mode, whose payload is in its place behind the headers that came, against its SA's selectors
/// (RFC 4301 5.2 step 4), and sends it on. `front` is the length of those headers, `total` that of the packet.
fn deliver_transport<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    id: SaId,
    mut target: TxFrame,
    target_port: u8,
    (front, total): (usize, usize),
    next: Protocol,
) {
    let inner = target
        .get_mut(ETHERNET..ETHERNET + total)
        .and_then(|bytes| {
            // The length in the header still counts what was taken out.
            let place = splice::Place::behind(bytes, front)?;
            place.rewrite(bytes, next, total)?;
            packet::read(Family::of_packet(bytes)?, bytes).ok()
        });
    let policy = core.tables.inbound.get(id).map(|sa| sa.policy);
    match (inner, policy) {
        (Some(inner), Some(policy)) => {
            let admitted = covers(core, policy, &inner).then_some(());
            let admitted = admitted.ok_or(Counter::InTmplMismatch);
            deliver(core, id, target, target_port, inner, admitted);
        }
        (inner, _) => {
            let reason = match inner {
                None => Counter::InHdrError,
                Some(_) => Counter::InStateInvalid,
            };
            core.tally.one(reason);
            core.blame_inbound(id, reason);
            core.see_unsent(target_port, reason, &target, total);
            core.discard(target_port, target);
        }
    }
}

/// RFC 4301 5.2 step 4: whether the packet matches the selectors of the SA that it came by.
fn covers<P: Port, E: EventSink>(core: &mut Core<P, E>, policy: PolicyId, inner: &Ip) -> bool {
    let (spd, key) = (&mut core.tables.spd, inner.key_in());
    spd.covers(policy, spd.probe(key), key, || inner.flow_in())
}

/// Sends a packet on, or drops it.
fn deliver<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    sa: SaId,
    target: TxFrame,
    target_port: u8,
    inner: Ip,
    admitted: Result<(), Counter>,
) {
    match admitted {
        Ok(()) => leave(
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
            core.blame_inbound(sa, reason);
            core.see_unsent(target_port, reason, &target, inner.length);
            core.discard(target_port, target);
        }
    }
}
