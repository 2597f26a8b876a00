//! Where the packets of an outbound SA go, how large they may be, and the headers that they begin with.

use super::{
    core::Core,
    packet,
    reports::{EventSink, sa_id},
};
use crate::{fib::Unroutable, port::Port};
use esplanade_channel::{Counter, Event};
use esplanade_ipsec::{
    sa::{NextHop, OutboundSa},
    sad::Place,
};
use esplanade_wire::template::Template;

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

/// How an SA's packets go.
pub(super) fn way<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    place: Place,
) -> Result<Way, NoWay> {
    settle(core, place)?;
    let sa = core.tables.outbound.records.get(place);
    let way = sa.and_then(|sa| {
        Some(Way {
            place,
            next_hop: sa.next_hop?,
            inner_mtu: sa.inner_mtu,
            special: sa.is_special(),
            udp_checksum: sa.udp_checksum,
        })
    });
    way.ok_or(NoWay::Sa(Counter::OutStateInvalid))
}

/// Finds the next hop of an SA's packets and the largest inner packet, and makes their headers; the SA remembers all that until
/// the FIB changes.
#[cold]
pub(super) fn settle<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    place: Place,
) -> Result<(), NoWay> {
    let generation = core.tables.fib.generation();
    let Some(sa) = core.tables.outbound.records.get_mut(place) else {
        return Err(NoWay::Sa(Counter::OutStateInvalid));
    };
    if sa.expired {
        remind_of_end(&mut core.events, sa);
        return Err(NoWay::Sa(Counter::OutStateExpired));
    }
    if sa.next_hop_generation == generation {
        return Ok(());
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
    sa.udp_checksum = sa.cold.encapsulation.is_some()
        && sa.remote.is_ipv6()
        && core
            .tables
            .fib
            .port(next_hop.port)
            .is_some_and(|port| port.udp_checksum);
    sa.template = packet::template(sa, &next_hop).unwrap_or(Template::NONE);
    sa.next_hop = Some(next_hop);
    sa.next_hop_generation = generation;
    Ok(())
}

/// Tells that an SA has ended, if that could not be told when it did.
#[cold]
pub(super) fn remind_of_end(events: &mut impl EventSink, sa: &mut OutboundSa) {
    if !sa.announced.hard_lifetime
        && let Some(sa_id) = sa_id(sa.id)
    {
        sa.announced.hard_lifetime = events.send(&Event::HardLifetime { sa: sa_id });
    }
}
