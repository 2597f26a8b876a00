//! Out through an SA of AH, or of ESP in transport mode.

use super::super::{
    core::Core,
    fragment,
    outbound::{Plain, Ready, Source, draw_iv, enqueue, finish, take_number},
    packet::{self, ETHERNET, Ip},
    reports::EventSink,
    way::Way,
};
use crate::port::{Port, TxFrame};
use esplanade_channel::Counter;
use esplanade_crypto::{Aad, SealJob, seal_batch};
use esplanade_ipsec::{
    ah, esp,
    sa::{Mode, OutboundSa, Sealer},
    sequence::SequenceNumber,
};
use esplanade_wire::{
    Protocol,
    ah::Covered,
    esp::{self as esp_wire, Spi},
    ip::Family,
    splice::Place,
    udp,
};

/// What a packet is on its way out.
struct Leaving<'a> {
    /// The whole packet, header first.
    inner: &'a [u8],
    ip: &'a Ip,
    way: Way,
    identification: u16,
}

/// Sends one of the plain packets, or a fragment of it, by an SA that is not plain ESP in tunnel mode.
#[cold]
pub fn send<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    ready: &mut super::super::core::Batch<Ready>,
    number: usize,
    source: Source,
    length: usize,
    way: Way,
) {
    let Some((of, sa)) = plain
        .get(number)
        .zip(core.tables.outbound.records.get(way.place))
    else {
        return finish(core, source);
    };
    if sa.ah.is_none() && sa.mode == Mode::Tunnel {
        return pad(core, plain, ready, number, source, length, way);
    }
    let bytes = match &source {
        Source::Received => of.frame(),
        Source::Built { frame, .. } => frame,
    };
    let inner = bytes.get(ETHERNET..ETHERNET + length).unwrap_or_default();
    let leaving = Leaving {
        inner,
        ip: &of.ip,
        way,
        identification: core.next_identification(),
    };
    protect(core, &leaving);
    finish(core, source);
}

/// Pads a packet for TFC, in a frame of ours.
///
/// RFC 4303 2.7: the padding is "added after the end of the Payload Data field and before the Padding field", which the
/// length in the inner header lets the receiver tell apart.
fn pad<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    plain: &[Plain],
    ready: &mut super::super::core::Batch<Ready>,
    number: usize,
    source: Source,
    length: usize,
    way: Way,
) {
    let tfc = core.tables.outbound.records.get(way.place).map(|sa| sa.tfc);
    let padded = tfc.map_or(length, |tfc| tfc.padded(length, way.inner_mtu));
    if padded == length {
        return enqueue(core, plain, ready, number, source, length, way.place);
    }
    let port = way.next_hop.port;
    let Some(mut frame) = core.allocate(port, ETHERNET + padded) else {
        return finish(core, source);
    };
    let bytes = match &source {
        Source::Received => plain.get(number).map_or(&[][..], Plain::frame),
        Source::Built { frame, .. } => frame,
    };
    let (from, to) = (
        bytes.get(ETHERNET..ETHERNET + length),
        frame.get_mut(ETHERNET..ETHERNET + padded),
    );
    if let (Some(from), Some((to, padding))) =
        (from, to.and_then(|to| to.split_at_mut_checked(length)))
    {
        to.copy_from_slice(from);
        padding.fill(0);
    }
    core.tally
        .add(Counter::OutTfcBytes, (padded - length) as u64);
    finish(core, source);
    let built = Source::Built { frame, port };
    enqueue(core, plain, ready, number, built, padded, way.place);
}

fn protect<P: Port, E: EventSink>(core: &mut Core<P, E>, leaving: &Leaving<'_>) {
    let Some(sa) = core.tables.outbound.records.get(leaving.way.place) else {
        return refuse(core, leaving, Counter::OutStateInvalid);
    };
    let ip = leaving.ip;
    // In transport mode the header's own addresses are the SA's.
    if sa.mode == Mode::Transport && (ip.source() != sa.local || ip.destination() != sa.remote) {
        return refuse(core, leaving, Counter::OutStateModeError);
    }
    let Some(total) = total_len(sa, leaving) else {
        return refuse(core, leaving, Counter::OutHdrError);
    };
    let port = leaving.way.next_hop.port;
    let Some(mut target) = core.allocate(port, ETHERNET + total) else {
        return core.see_plain_refused(port, leaving.inner);
    };
    let number = take_number(core, leaving.way.place, leaving.inner.len());
    if number.is_none() {
        core.see_plain_refused(port, leaving.inner);
    }
    let written = number.and_then(|number| {
        let space = target.get_mut(ETHERNET..ETHERNET + total)?;
        let written = write(core, leaving, number, space);
        if written.is_none() {
            refuse(core, leaving, Counter::OutStateProtoError);
        }
        written
    });
    match written {
        Some(bytes) => transmit(core, leaving, target, total, bytes),
        None => core.discard(port, target),
    }
}

fn refuse<P: Port, E: EventSink>(core: &mut Core<P, E>, leaving: &Leaving<'_>, reason: Counter) {
    core.tally.one(reason);
    core.blame_outbound(leaving.way.place, reason);
    core.see_plain(leaving.way.next_hop.port, reason, leaving.inner);
}

/// The length of the packet that will leave.
fn total_len(sa: &OutboundSa, leaving: &Leaving<'_>) -> Option<usize> {
    let inner = leaving.inner;
    match (sa.ah, sa.mode) {
        (Some(ah), Mode::Tunnel) => Some(outer_len(sa) + ah.header_len() + inner.len()),
        (Some(ah), Mode::Transport) => Some(ah.header_len() + inner.len()),
        (None, _) => {
            let place = Place::of(inner).ok()?;
            let payload = inner.len().checked_sub(place.at())?;
            Some(place.at() + sa.shape.outer_len(payload) - outer_len(sa))
        }
    }
}

/// The length of an outer header.
fn outer_len(sa: &OutboundSa) -> usize {
    Family::of(sa.local).header_len()
}

/// Writes the packet into a space of its length, and gives the counter of its bytes.
fn write<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    leaving: &Leaving<'_>,
    number: SequenceNumber,
    space: &mut [u8],
) -> Option<Counter> {
    let place = leaving.way.place;
    let sa = core.tables.outbound.records.get(place)?;
    match core.tables.outbound.keys.get(place)? {
        Sealer::Ah(key) => {
            authenticate(sa, key, leaving, number, space)?;
            Some(Counter::OutAhBytes)
        }
        Sealer::Esp(key) => {
            let drawn = key
                .algorithm()
                .has_unpredictable_iv()
                .then(|| draw_iv(&mut core.ivs));
            encrypt(sa, key, drawn, leaving, number, space)?;
            Some(Counter::OutEspBytes)
        }
    }
}

/// AH in front of the whole packet or of its payload (RFC 4302 3.1).
fn authenticate(
    sa: &OutboundSa,
    key: &esplanade_crypto::IntegrityKey,
    leaving: &Leaving<'_>,
    number: SequenceNumber,
    space: &mut [u8],
) -> Option<()> {
    let shape = sa.ah?;
    let total = space.len();
    let (at, next, payload) = match sa.mode {
        Mode::Tunnel => {
            let at = outer_len(sa);
            let header = packet::tunnel_header(
                sa,
                leaving.ip,
                leaving.identification,
                Protocol::AH,
                (total - at) as u16,
                leaving.way.next_hop.mtu,
            )?;
            header.emit(space).ok()?;
            (at, leaving.ip.family().protocol(), leaving.inner)
        }
        Mode::Transport => {
            let place = Place::of(leaving.inner).ok()?;
            let (headers, payload) = leaving.inner.split_at_checked(place.at())?;
            space.get_mut(..place.at())?.copy_from_slice(headers);
            place.rewrite(space, Protocol::AH, total)?;
            (place.at(), place.next(), payload)
        }
    };
    let (headers, authenticated) = space.split_at_mut_checked(at)?;
    let (header, rest) = authenticated.split_at_mut_checked(shape.header_len())?;
    shape.write(header, next, Spi(sa.spi), number.low());
    (rest.len() == payload.len()).then(|| rest.copy_from_slice(payload))?;
    let covered = Covered::of(headers).ok()?;
    ah::sign(key, shape, number, sa.extended, &covered, authenticated).ok()
}

/// ESP behind the packet's own header, in UDP or not (RFC 4303 3.1.1, RFC 3948 3.2).
fn encrypt(
    sa: &OutboundSa,
    key: &esplanade_crypto::SealingKey,
    drawn: Option<esplanade_crypto::Iv>,
    leaving: &Leaving<'_>,
    number: SequenceNumber,
    space: &mut [u8],
) -> Option<()> {
    let total = space.len();
    let place = Place::of(leaving.inner).ok()?;
    let (headers, payload) = leaving.inner.split_at_checked(place.at())?;
    space.get_mut(..place.at())?.copy_from_slice(headers);
    let outer = match sa.cold.encapsulation {
        Some(_) => Protocol::UDP,
        None => Protocol::ESP,
    };
    place.rewrite(space, outer, total)?;
    let mut rest = space.get_mut(place.at()..)?;
    if let Some(ports) = sa.cold.encapsulation {
        let udp = udp::Repr {
            source_port: ports.local,
            destination_port: ports.remote,
            payload_len: (total - place.at() - udp::HEADER_LEN) as u16,
        };
        udp.emit(rest).ok()?;
        rest = rest.get_mut(udp::HEADER_LEN..)?;
    }
    let head = esp_wire::Repr {
        spi: Spi(sa.spi),
        sequence: number.low(),
    };
    head.emit(rest).ok()?;
    let rest = rest.get_mut(esp::ESP..)?;
    encrypt_into(sa, key, drawn, number, payload, place.next(), rest)?;
    if leaving.way.udp_checksum {
        packet::fill_udp_checksum(space, place.at());
    }
    Some(())
}

/// Writes IV, ciphertext and ICV of one packet.
pub(super) fn encrypt_into(
    sa: &OutboundSa,
    key: &esplanade_crypto::SealingKey,
    drawn: Option<esplanade_crypto::Iv>,
    number: SequenceNumber,
    payload: &[u8],
    next: Protocol,
    space: &mut [u8],
) -> Option<()> {
    let aad = if sa.extended {
        Aad::extended(sa.spi, number.number())
    } else {
        Aad::plain(sa.spi, number.low())
    };
    let iv = drawn.unwrap_or_else(|| number.into_iv());
    let (carried, out) = space.split_at_mut_checked(sa.shape.iv())?;
    packet::write_iv(carried, &iv, key.algorithm());
    let trailer = sa.shape.trailer(payload.len(), next);
    let job = SealJob::new(key, iv, aad, payload, trailer, out).ok()?;
    seal_batch(&mut [job]);
    Some(())
}

fn transmit<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    leaving: &Leaving<'_>,
    mut target: TxFrame,
    total: usize,
    bytes: Counter,
) {
    let next_hop = &leaving.way.next_hop;
    let written = target.get(ETHERNET..).and_then(Family::of_packet);
    packet::write_ethernet(&mut target, next_hop, written.unwrap_or(Family::V4));
    target.set_len(ETHERNET + total);
    let gone = if total <= usize::from(next_hop.mtu) {
        core.transmit(next_hop.port, target)
    } else {
        fragment::cut_outer(core, target, ETHERNET + total, next_hop)
    };
    if gone {
        core.tally.one(Counter::OutPackets);
        core.tally
            .add(Counter::OutBytes, leaving.inner.len() as u64);
        core.tally.add(bytes, total as u64);
    }
}
