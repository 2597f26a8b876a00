//! From a packet that its SA lets in to its next hop (RFC 4301 5.2), which is the last of the inbound half.

use super::{
    core::{Admitted, Core},
    packet::{self, ETHERNET, Ip},
    relay,
    reports::EventSink,
};
use crate::port::{Port, TxFrame};
use esplanade_channel::{Counter, Role};
use esplanade_ipsec::{id::SaId, spd::PolicyId};
use esplanade_wire::icmp;

/// Sends an admitted packet that had to wait.
#[cold]
#[inline(never)]
pub(super) fn leave<P: Port, E: EventSink>(core: &mut Core<P, E>, admitted: Admitted) {
    let Admitted {
        target,
        target_port,
        sa,
        inner,
    } = admitted;
    leave_with(core, target, target_port, sa, &inner);
}

/// Sends an admitted packet to its next hop.
#[inline(always)]
pub(super) fn leave_with<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    mut target: TxFrame,
    port: u8,
    sa: SaId,
    inner: &Ip,
) {
    let resolved = core.tables.fib.resolve(inner.destination());
    let next_hop = match resolved {
        Ok(next_hop) if core.role(next_hop.port) != Some(Role::Outside) => next_hop,
        // It does not stay with us: another tunnel may take it.
        resolved => {
            let admitted = Admitted {
                target,
                target_port: port,
                sa,
                inner: *inner,
            };
            return relay::beyond(core, admitted, resolved.err());
        }
    };
    let role = core.role(next_hop.port);
    // What is for the gateway itself is not forwarded.
    let forwarded = role != Some(Role::Host);
    let reason = if forwarded && inner.ttl <= 1 {
        Some(Counter::InTtlExpired)
    } else if forwarded && inner.length > usize::from(next_hop.mtu) {
        Some(Counter::PacketTooBig)
    } else {
        None
    };
    if let Some(reason) = reason {
        return refuse(core, (target, port, sa), reason, inner, next_hop.mtu);
    }
    if forwarded {
        packet::decrement_ttl(&mut target);
    }
    if inner.is_syn {
        clamp(core, sa, next_hop.port, &mut target, inner);
    }
    let total = ETHERNET + inner.length;
    let Some(mut target) = move_to_port(core, sa, target, port, next_hop.port, total) else {
        return;
    };
    packet::write_ethernet(&mut target, &next_hop, inner.family());
    target.set_len(total);
    if core.transmit(next_hop.port, target) {
        core.tally.one(Counter::InPackets);
        core.tally.add(Counter::InBytes, inner.length as u64);
    }
}

/// Ends the way of a packet that is too old or too long for its next hop, and tells its sender by the tunnel.
#[cold]
fn refuse<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    (target, port, sa): (TxFrame, u8, SaId),
    reason: Counter,
    inner: &Ip,
    mtu: u16,
) {
    let error = match reason {
        Counter::InTtlExpired => Some(icmp::Error::TtlExceeded),
        _ => inner.dont_fragment.then_some(icmp::Error::TooBig { mtu }),
    };
    let about = target.get(ETHERNET..ETHERNET + inner.length);
    if let (Some(error), Some(about)) = (error, about) {
        relay::answer(core, port, about, error);
    }
    core.tally.one(reason);
    core.blame_inbound(sa, reason);
    core.see_unsent(port, reason, &target, inner.length);
    core.discard(port, target);
}

/// Lowers the MSS that the far end announces to what our own packets to it may have.
#[cold]
fn clamp<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    id: SaId,
    exit: u8,
    target: &mut [u8],
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
#[inline(always)]
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
    if moved.is_none() {
        core.see_unplaced(to, &target, length);
    }
    core.discard(from, target);
    moved
}
