//! Where the peers of SAs in UDP are, when a NAT moves them (RFC 7296 2.23).
//!
//! "hosts that (...) are not behind a NAT, SHOULD send all packets (including retransmission packets) to the IP address and port
//! from the last valid authenticated packet from the other end". The worker that has the inbound SA follows at once, with the
//! outbound SA that answers it if that is here too, and tells the control plane, which knows the peer's other SAs.

use super::{
    core::Core,
    packet::Ip,
    reports::{EventSink, sa_id},
    tables::Tables,
};
use crate::port::{BURST, Port};
use arrayvec::ArrayVec;
use esplanade_channel::{CommandError, Counter};
use esplanade_ipsec::{
    id::SaId,
    sa::ColdSa,
    sad::{Place, Whereabouts},
};
use esplanade_wire::ip::Family;
use std::net::IpAddr;

/// SAs whose peer has moved, mostly both sides of a pair. What finds no room waits for the
/// control plane's word.
pub type Moved = ArrayVec<SaId, { 2 * BURST }>;

/// How many outbound SAs follow an inbound one at once; of a policy that has more, the others wait for the control plane's
/// word.
const AT_ONCE: usize = 16;

/// Where a peer is: address and port.
type Whence = (IpAddr, u16);

/// Notes where an authentic packet came from that is newer than all before it, of an SA that follows its peer.
#[inline(never)]
pub fn hear<P: Port, E: EventSink>(core: &mut Core<P, E>, place: Place, outer: &Ip) {
    // Plain ESP of such a peer says nothing of the mapping that it has for UDP.
    let Some(port) = outer.udp_source() else {
        return;
    };
    let Some(sa) = core.tables.inbound.records.get(place) else {
        return;
    };
    let whence = (outer.source(), port);
    if whence_of(&sa.cold) != Some(whence) {
        follow(core, place, whence);
    } else if sa.cold.move_untold {
        tell(core, place, whence);
    }
}

#[cold]
fn follow<P: Port, E: EventSink>(core: &mut Core<P, E>, place: Place, whence: Whence) {
    let tables = &mut core.tables;
    let Some(sa) = tables.inbound.records.get_mut(place) else {
        return;
    };
    let (id, before) = (sa.id, whence_of(&sa.cold));
    if !is_a_host(whence, sa.local) || !put(&mut sa.cold, whence) {
        return;
    }
    core.tally.one(Counter::PeerMoved);
    let _ = core.moved.try_push(id);
    // The SAs in use may be younger ones, which know better already.
    let answering = tables.spd.all_selected(sa.policy).filter_map(SaId::new);
    let answering = answering.filter(|id| {
        let sa = tables.outbound.get(*id);
        sa.is_some_and(|sa| whence_of(&sa.cold) == before)
    });
    let answering: ArrayVec<SaId, AT_ONCE> = answering.take(AT_ONCE).collect();
    for id in answering {
        tables.readdress(id, whence);
        let _ = core.moved.try_push(id);
    }
    tell(core, place, whence);
}

/// Tells the control plane, now or with a later packet.
#[cold]
fn tell<P: Port, E: EventSink>(core: &mut Core<P, E>, place: Place, whence: Whence) {
    if let Some(sa) = core.tables.inbound.records.get_mut(place)
        && let Some(id) = sa_id(sa.id)
    {
        let (events, now_ms) = (&mut core.events, core.now_ms);
        let told = core.reports.peer_moved(events, id, whence, now_ms);
        sa.cold.move_untold = !told;
    }
}

/// Whether a peer may be there. An outer header is not authentic, and no kernel has looked at it.
fn is_a_host((address, port): Whence, ours: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let nobody = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    port != 0 && address != ours && !broadcast && !nobody
}

fn whence_of(cold: &ColdSa) -> Option<Whence> {
    Some((cold.remote, cold.encapsulation?.remote))
}

/// Has an SA's peer be elsewhere. `false` when it is not in UDP.
fn put(cold: &mut ColdSa, (remote, port): Whence) -> bool {
    let Some(ports) = &mut cold.encapsulation else {
        return false;
    };
    ports.remote = port;
    cold.remote = remote;
    true
}

impl Tables {
    /// Obeys the control plane: the peer of an SA is elsewhere.
    ///
    /// # Errors
    ///
    /// When there is no such SA, it is not in UDP, or the address is of another family.
    pub(super) fn move_peer(&mut self, sa: SaId, whence: Whence) -> Result<(), CommandError> {
        if let Some(record) = self.inbound.get_mut(sa) {
            check_family(record.local, whence.0)?;
            record.cold.move_untold = false;
            let moved = put(&mut record.cold, whence);
            return moved.then_some(()).ok_or(CommandError::Malformed);
        }
        if let Some(record) = self.outbound.get(sa) {
            check_family(record.local, whence.0)?;
            let moved = self.readdress(sa, whence);
            return moved.then_some(()).ok_or(CommandError::Malformed);
        }
        let elsewhere = [self.inbound.locate(sa), self.outbound.locate(sa)]
            .iter()
            .any(|whereabouts| matches!(whereabouts, Whereabouts::Owned { .. }));
        elsewhere.then_some(()).ok_or(CommandError::UnknownSa)
    }

    /// Has an outbound SA of ours send elsewhere, from its next packet on. `false` when it is not in UDP.
    fn readdress(&mut self, id: SaId, whence: Whence) -> bool {
        let Some(sa) = self.outbound.get_mut(id) else {
            return false;
        };
        if !put(&mut sa.cold, whence) {
            return false;
        }
        let before = core::mem::replace(&mut sa.remote, whence.0);
        // Next hop, path and headers are found anew.
        sa.next_hop_generation = 0;
        let spi = sa.spi;
        let sas = &self.outbound;
        let alive = |id| !matches!(sas.locate(id), Whereabouts::Unknown { .. });
        self.peer_spis.remove(before, spi, id);
        self.peer_spis.insert(whence.0, spi, id, alive);
        true
    }
}

fn check_family(local: IpAddr, remote: IpAddr) -> Result<(), CommandError> {
    let same = Family::of(local) == Family::of(remote);
    same.then_some(()).ok_or(CommandError::AddressFamily)
}
