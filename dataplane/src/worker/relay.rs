//! Packets from one tunnel into another, as at the hub of a star, and the ICMP errors that go back by the tunnel that their cause
//! came by. What is decrypted crosses the IPsec boundary again (RFC 4301 3.1), so it takes all of the outbound half, in the frame
//! that it was decrypted into, one hop older.

use super::{
    Worker,
    core::{Admitted, Arrived, Core, Origin},
    held,
    packet::{self, ETHERNET},
    reports::EventSink,
};
use crate::{
    fib::Unroutable,
    port::{BURST, Port},
};
use arrayvec::ArrayVec;
use esplanade_channel::{Counter, Role};
use esplanade_ipsec::spd::Action;
use esplanade_wire::{
    icmp,
    ip::{self, Family},
};

/// The packets that wait for the outbound half.
#[derive(Debug, Default)]
pub struct Relayed(ArrayVec<Arrived, { 2 * BURST }>);

impl Relayed {
    /// Whether none waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What becomes of a decrypted packet that does not stay with us, because its route leaves by an outside port or there is none
/// (`why`): another tunnel takes it, or a policy lets it go on in the clear, or it ends here.
pub fn beyond<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    admitted: Admitted,
    why: Option<Unroutable>,
) {
    let outside = match why {
        Some(Unroutable::NeighborMissing { port, .. }) => core.role(port) == Some(Role::Outside),
        Some(_) => false,
        None => true,
    };
    let strand = |core: &mut Core<P, E>, admitted, why| {
        core.strand(held::Packet::Admitted(admitted), why);
    };
    if let Some(why @ Unroutable::NeighborMissing { .. }) = why
        && !outside
    {
        return strand(core, admitted, why);
    }
    let policy = core.tables.spd.lookup(&admitted.inner.flow_out());
    let reason = match (policy.map(|policy| policy.action), why) {
        (Some(Action::Protect | Action::Bypass), _) => return go_on(core, admitted),
        (Some(Action::Discard), _) => Counter::OutPolBlock,
        (None, Some(why)) if !outside => return strand(core, admitted, why),
        (None, _) => Counter::InHairpin,
    };
    core.drop_packet(held::Packet::Admitted(admitted), reason);
}

fn go_on<P: Port, E: EventSink>(core: &mut Core<P, E>, admitted: Admitted) {
    let Admitted {
        target,
        target_port,
        inner,
        ..
    } = admitted;
    if push(core, target, target_port, inner.family(), inner.length) {
        core.tally.one(Counter::InRelayed);
        core.tally.one(Counter::InPackets);
        core.tally.add(Counter::InBytes, inner.length as u64);
    }
}

/// Has a packet in a frame of ours take the outbound half. `false`, and counted, when too many wait.
fn push<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    mut frame: crate::port::TxFrame,
    port: u8,
    family: Family,
    length: usize,
) -> bool {
    packet::write_link(&mut frame, port, family);
    frame.set_len(ETHERNET + length);
    let arrived = Arrived {
        frame: frame.into_received(),
        port,
        lender: None,
        origin: Origin::Relayed,
    };
    enqueue(core, arrived)
}

/// Has a packet take the outbound half, anew or for the first time. `false`, and counted, when too many wait.
pub fn enqueue<P: Port, E: EventSink>(core: &mut Core<P, E>, arrived: Arrived) -> bool {
    match core.relayed.0.try_push(arrived) {
        Ok(()) => true,
        Err(full) => {
            core.drop(full.element(), Counter::NoTxFrame);
            false
        }
    }
}

/// Answers a packet that came by a tunnel with an ICMP error, if it may have one. It goes by the tunnel that a policy has for
/// it, from the first address of ours that one covers.
#[cold]
pub fn answer<P: Port, E: EventSink>(
    core: &mut Core<P, E>,
    port: u8,
    about: &[u8],
    error: icmp::Error,
) {
    let about = ip::Packet::new_checked(about)
        .ok()
        .filter(|about| icmp::may_be_answered(about, error));
    let Some(about) = about else {
        return core.tally.one(Counter::IcmpSuppressed);
    };
    if !core.may_answer() {
        return;
    }
    let family = about.family();
    let Some(mut frame) = core.allocate(port, ETHERNET + icmp::Error::packet_len(&about)) else {
        return;
    };
    let mut written = None;
    for ours in 0..core.links.len() {
        let facts = core.tables.fib.port(ours as u8);
        let space = frame.get_mut(ETHERNET..).unwrap_or_default();
        let length = facts
            .and_then(|facts| facts.address(family))
            .and_then(|from| error.emit(&about, from, space));
        let flow = length
            .and_then(|length| packet::read(family, space.get(..length)?).ok())
            .map(|ip| ip.flow_out());
        let policy = flow.and_then(|flow| core.tables.spd.lookup(&flow));
        if policy.is_some_and(|policy| policy.action == Action::Protect) {
            written = length;
            break;
        }
    }
    match written {
        Some(length) => {
            if push(core, frame, port, family, length) {
                core.tally.one(Counter::IcmpSent);
            }
        }
        None => {
            core.tally.one(Counter::IcmpSuppressed);
            core.discard(port, frame);
        }
    }
}

impl<P: Port> Worker<P> {
    /// Has what waits take the outbound half; the last burst is left for the caller to run.
    #[cold]
    pub(super) fn relay(&mut self) {
        for arrived in std::mem::take(&mut self.core.relayed).0 {
            if self.outbound.is_full() {
                self.outbound.run(&mut self.core);
            }
            let (frame, from) = arrived.apart();
            self.outbound.enter(&mut self.core, frame, from);
        }
    }
}
