//! Packets that a policy lets pass as they are (RFC 4301 4.4.1, BYPASS), from either side.

use super::{
    core::{Arrived, Core},
    held::Packet,
    packet::{self, ETHERNET, Ip},
    reports::EventSink,
};
use crate::port::Port;
use esplanade_channel::Counter;
use esplanade_wire::icmp;

/// Sends a packet on as it is: copied, with one less to live.
pub fn forward<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    arrived: Arrived,
    ip: &Ip,
    counter: Counter,
) {
    let next_hop = match core.tables.fib.resolve(ip.destination()) {
        Ok(next_hop) => next_hop,
        Err(why) => return core.strand(Packet::Received(arrived), why),
    };
    if ip.ttl <= 1 {
        core.answer(&arrived, icmp::Error::TtlExceeded);
        return core.drop(arrived, Counter::OutTtlExpired);
    }
    if ip.length > usize::from(next_hop.mtu) {
        if ip.dont_fragment {
            core.answer(&arrived, icmp::Error::TooBig { mtu: next_hop.mtu });
        }
        return core.drop(arrived, Counter::PacketTooBig);
    }
    let total = ETHERNET + ip.length;
    if let Some(mut target) = core.allocate(next_hop.port, total) {
        if let (Some(to), Some(from)) = (target.get_mut(..total), arrived.frame.get(..total)) {
            to.copy_from_slice(from);
        }
        packet::decrement_ttl(&mut target);
        packet::write_ethernet(&mut target, &next_hop, ip.family());
        target.set_len(total);
        if core.transmit(next_hop.port, target) {
            core.tally.one(counter);
        }
    } else {
        core.see_refused(arrived.port, &arrived.frame);
    }
    core.finish(arrived);
}
