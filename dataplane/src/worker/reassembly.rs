//! Fragments of ESP, AH and ESP in UDP, put together again before IPsec looks at them (RFC 4303 3.4.1, RFC 4302 3.4.1); and the
//! gateway's own, before transport mode does (RFC 4303 3.3.4).
//!
//! A packet is put together in a frame to be sent of the port that it comes by, which then takes the inbound half as if it had been
//! received. Fragments of one packet may reach several workers; which of them puts it together follows from what names it.
//! All is bounded: packets in the making, those of one source, pieces, length and time.

use super::{
    core::{Arrived, Core, Origin},
    packet::{ETHERNET, Ip},
    relay,
    reports::EventSink,
};
use crate::port::{Port, TxFrame};
use arrayvec::ArrayVec;
use esplanade_channel::Counter;
use esplanade_ipsec::spd::Action;
use esplanade_wire::{
    Ecn, Protocol, ip,
    reassembly::{Added, Piece, Pieces, finish_header},
    udp,
};
use std::net::IpAddr;

/// The most packets in the making.
pub const MAX_PACKETS: usize = 64;
/// The most of them from one source.
pub const FROM_A_SOURCE: usize = 16;
/// How long all fragments may take, as the XDP program remembers a first one. RFC 8200 4.5 gives them up to a minute; IPv4's
/// identifications come again before that.
pub const PATIENCE_MS: u64 = 1000;
/// The most bytes of headers before the payload.
const MAX_HEADER: usize = 128;
/// ESP in UDP (RFC 3948 2.1).
const NAT_TRAVERSAL: u16 = 4500;

/// What tells packets apart whose fragments come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: Protocol,
}

impl Name {
    /// The worker, of so many, that puts the packet together.
    fn worker(&self, workers: usize) -> u16 {
        let bits = |address| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let addresses = bits(self.source) ^ bits(self.destination).rotate_left(64);
        let words = (addresses >> 64) as u64 ^ addresses as u64 ^ u64::from(self.identification);
        let hash = words.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (hash % workers.max(1) as u64) as u16
    }
}

/// A packet in the making: payload from a fixed place on, headers before it once the first fragment is there.
#[derive(Debug)]
struct Making {
    name: Name,
    since_ms: u64,
    pieces: Pieces,
    /// The length of the headers, 0 before they came.
    header: usize,
    ecn: Ecn,
    /// `None` for one that is given up, of which fragments may still come.
    frame: Option<TxFrame>,
    port: u8,
}

/// Packets in the making, the oldest first.
#[derive(Debug, Default)]
pub struct Reassembly(ArrayVec<Making, MAX_PACKETS>);

/// What is to be done with a fragment.
#[derive(Debug)]
pub enum Outcome {
    /// It is of nothing that IPsec would open.
    Plain(Arrived),
    /// The packet is whole.
    Whole(Arrived),
    /// It is in its place, elsewhere, or dropped.
    Gone,
}

/// Takes a fragment of the gateway's own for an SA in transport mode; the whole enters the outbound half again.
#[cold]
pub fn own<P: Port, E: EventSink>(core: &mut Core<P, E>, arrived: Arrived, ip: &Ip) {
    let Some((name, piece)) = read(&arrived, ip) else {
        return core.drop(arrived, Counter::OutHdrError);
    };
    let at = core.reassembly.find(&name);
    match add(core, at, name, &arrived, &piece, ip.ecn) {
        Ok(whole) => {
            core.finish(arrived);
            if let Some(whole) = whole
                && relay::enqueue(core, whole)
            {
                core.tally.one(Counter::OutReassembled);
            }
        }
        Err(reason) => core.drop(arrived, reason),
    }
}

/// What a frame's fragment is a piece of.
fn read(arrived: &Arrived, ip: &Ip) -> Option<(Name, Piece)> {
    let bytes = arrived.frame.get(ETHERNET..).unwrap_or_default();
    let piece = Piece::of(&ip::Packet::new_checked(bytes).ok()?)?;
    let name = Name {
        source: ip.source(),
        destination: ip.destination(),
        identification: piece.identification,
        protocol: piece.protocol,
    };
    Some((name, piece))
}

/// Takes a fragment from outside.
#[cold]
pub fn take<P: Port, E: EventSink>(core: &mut Core<P, E>, arrived: Arrived, outer: &Ip) -> Outcome {
    let Some((name, piece)) = read(&arrived, outer) else {
        return Outcome::Plain(arrived);
    };
    if !matches!(name.protocol, Protocol::ESP | Protocol::AH | Protocol::UDP) {
        return Outcome::Plain(arrived);
    }
    let owner = name.worker(core.handoff.workers());
    if owner != core.tables.worker() && arrived.lender.is_none() {
        core.lend(arrived, owner, Counter::InFragment);
        return Outcome::Gone;
    }
    let at = core.reassembly.find(&name);
    if name.protocol == Protocol::UDP && at.is_none() {
        let bytes = arrived.frame.get(ETHERNET..).unwrap_or_default();
        let payload = bytes.get(piece.payload.clone()).unwrap_or_default();
        let may_be_esp = if piece.offset == 0 {
            begins_esp(payload)
        } else {
            // Its first fragment may come yet; of what passes anyway nothing is held.
            let policy = core.tables.spd.lookup(&outer.flow_in());
            !policy.is_some_and(|policy| policy.action == Action::Bypass)
        };
        if !may_be_esp {
            return Outcome::Plain(arrived);
        }
    }
    core.tally.one(Counter::InFragments);
    match add(core, at, name, &arrived, &piece, outer.ecn) {
        Ok(whole) => {
            core.finish(arrived);
            whole.map_or(Outcome::Gone, |whole| {
                core.tally.one(Counter::InReassembled);
                Outcome::Whole(whole)
            })
        }
        Err(reason) => {
            core.drop(arrived, reason);
            Outcome::Gone
        }
    }
}

/// Whether a datagram that begins so is one of ESP in UDP, and no IKE (RFC 3948 2.2).
fn begins_esp(payload: &[u8]) -> bool {
    udp::Datagram::new_quoted(payload).is_ok_and(|datagram| {
        datagram.destination_port() == NAT_TRAVERSAL
            && !matches!(datagram.payload(), [0, 0, 0, 0, ..] | [] | [_])
    })
}

/// Puts a piece in its place, and gives the packet once it is whole.
fn add<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    at: Option<usize>,
    name: Name,
    arrived: &Arrived,
    piece: &Piece,
    ecn: Ecn,
) -> Result<Option<Arrived>, Counter> {
    let at = match at {
        Some(at) => at,
        None => begin(core, name, arrived.port, ecn)?,
    };
    let making = core.reassembly.0.get_mut(at).ok_or(Counter::InFragment)?;
    let Some(frame) = &mut making.frame else {
        // RFC 5722 4: what is given up is so with all that still comes of it.
        return Err(Counter::InFragmentOverlap);
    };
    let fragment = arrived.frame.get(ETHERNET..).unwrap_or_default();
    let payload = fragment.get(piece.payload.clone()).unwrap_or_default();
    let start = ETHERNET + MAX_HEADER + piece.offset;
    let room = frame.get_mut(start..start + payload.len());
    let together = mix(making.ecn, ecn);
    let added = making.pieces.add(piece.offset, payload.len(), piece.more);
    let reason = match (added, room, together) {
        (Added::Again, ..) => return Ok(None),
        (Added::More | Added::Whole(_), Some(room), Some(ecn)) => {
            room.copy_from_slice(payload);
            making.ecn = ecn;
            if piece.offset == 0 {
                let headers = fragment.get(..piece.header);
                let space = frame.get_mut(ETHERNET..ETHERNET + piece.header);
                if let (Some(headers), Some(space), true) =
                    (headers, space, piece.header <= MAX_HEADER)
                {
                    space.copy_from_slice(headers);
                    making.header = piece.header;
                }
            }
            match added {
                Added::Whole(length) => return finish(core, at, length).map(Some),
                _ => return Ok(None),
            }
        }
        (Added::Overlap, ..) => Counter::InFragmentOverlap,
        (_, _, None) => Counter::InEcnError,
        _ => Counter::InFragment,
    };
    give_up(core, at);
    Err(reason)
}

/// RFC 3168 5.3: congestion that one fragment has seen the packet has seen, but where some of its fragments know no ECN: "the
/// reassembled packet MAY be dropped".
fn mix(one: Ecn, other: Ecn) -> Option<Ecn> {
    match (one, other) {
        (Ecn::Ce, Ecn::NotEct) | (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::NotEct, _) | (_, Ecn::NotEct) => Some(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
        (one, _) => Some(one),
    }
}

/// Begins a packet, in the place of the oldest where there are too many, of its own source first.
fn begin<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    name: Name,
    port: u8,
    ecn: Ecn,
) -> Result<usize, Counter> {
    let all = &core.reassembly.0;
    let is_kin = |making: &&Making| making.name.source == name.source;
    let late = if all.iter().filter(is_kin).count() >= FROM_A_SOURCE {
        all.iter().position(|making| is_kin(&making))
    } else {
        all.is_full().then_some(0)
    };
    if let Some(late) = late {
        end(core, late, Counter::InFragmentLimit);
    }
    let frame = core.take_frame(port).ok_or(Counter::NoTxFrame)?;
    core.reassembly.0.push(Making {
        name,
        since_ms: core.now_ms,
        pieces: Pieces::default(),
        header: 0,
        ecn,
        frame: Some(frame),
        port,
    });
    Ok(core.reassembly.0.len() - 1)
}

/// Gives the frame of a packet back that no piece can complete any more. Its name stays, for what still comes of it.
fn give_up<P: Port, E: EventSink>(core: &mut Core<P, E>, at: usize) {
    if let Some(making) = core.reassembly.0.get_mut(at)
        && let Some(frame) = making.frame.take()
    {
        let port = making.port;
        core.discard(port, frame);
    }
}

/// Ends a packet that is not whole; one that was given up was counted then.
fn end<P: Port, E: EventSink>(core: &mut Core<P, E>, at: usize, reason: Counter) {
    let Some(making) = core.reassembly.0.pop_at(at) else {
        return;
    };
    if let Some(frame) = making.frame {
        core.tally.one(reason);
        core.discard(making.port, frame);
    }
}

/// Moves the payload, of so many bytes, behind the headers, and makes them those of the whole.
fn finish<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    at: usize,
    length: usize,
) -> Result<Arrived, Counter> {
    let making = core.reassembly.0.pop_at(at).ok_or(Counter::InFragment)?;
    let Some(mut frame) = making.frame else {
        return Err(Counter::InFragment);
    };
    let (header, from) = (making.header, ETHERNET + MAX_HEADER);
    let total = header + length;
    let whole = frame
        .get_mut(..from + length)
        .filter(|_| header != 0)
        .and_then(|space| {
            space.copy_within(from.., ETHERNET + header);
            let packet = space.get_mut(ETHERNET..ETHERNET + total)?;
            finish_header(packet, header, making.name.protocol)?;
            ip::set_ecn(packet, making.ecn)
        });
    if whole.is_none() {
        core.discard(making.port, frame);
        return Err(Counter::InFragment);
    }
    super::packet::write_link(&mut frame, making.port, ip::Family::of(making.name.source));
    frame.set_len(ETHERNET + total);
    Ok(Arrived {
        frame: frame.into_received(),
        port: making.port,
        lender: None,
        origin: Origin::Reassembled,
    })
}

impl Reassembly {
    fn find(&self, name: &Name) -> Option<usize> {
        self.0.iter().position(|making| making.name == *name)
    }

    /// Whether the oldest packet has taken too long.
    #[inline]
    fn is_late(&self, now_ms: u64) -> bool {
        let oldest = self.0.first();
        oldest.is_some_and(|making| now_ms.saturating_sub(making.since_ms) >= PATIENCE_MS)
    }
}

/// Ends the packets of which fragments are missing for too long.
#[inline]
pub fn end_late<P: Port, E: EventSink>(core: &mut Core<P, E>) {
    while core.reassembly.is_late(core.now_ms) {
        end(core, 0, Counter::InFragmentTimeout);
    }
}
