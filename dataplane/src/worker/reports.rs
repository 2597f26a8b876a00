//! Events to the control plane: what is worth telling, and how often.
//!
//! An event ring may be full. What must not be lost is sent again by whoever finds that it was not taken; what
//! packets cause is limited, or a flood would fill the ring.

use super::limit::TokenBucket;
use esplanade_channel::{Event, PolicyId, PortId, SaId};
use esplanade_ipsec::selector::Flow;
use std::net::{IpAddr, Ipv4Addr};

/// Acquire events, and as many about neighbours and about peers that moved, a second, and at once.
const PER_SECOND: u64 = 100;
const AT_ONCE: u64 = 64;
/// How long a policy or a neighbour is not asked for again.
const PATIENCE_MS: u64 = 1000;
/// Neighbours remembered as asked for.
const ASKED: usize = 64;

/// Where events go; `false` when there was no room.
pub trait EventSink {
    /// Sends one event.
    fn send(&mut self, event: &Event) -> bool;
}

/// The limits.
#[derive(Debug)]
pub struct Reports {
    acquires: TokenBucket,
    neighbors: TokenBucket,
    moves: TokenBucket,
    asked: [(u8, IpAddr, u64); ASKED],
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            acquires: TokenBucket::new(PER_SECOND, AT_ONCE),
            neighbors: TokenBucket::new(PER_SECOND, AT_ONCE),
            moves: TokenBucket::new(PER_SECOND, AT_ONCE),
            asked: [(0, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0); ASKED],
        }
    }
}

impl Reports {
    /// Asks for an SA (RFC 4301 4.4.1), unless that was done a moment ago.
    #[cold]
    pub fn acquire(
        &mut self,
        sink: &mut impl EventSink,
        policy: PolicyId,
        asked_ms: &mut Option<u64>,
        flow: &Flow,
        now_ms: u64,
    ) {
        let patient = asked_ms.is_some_and(|asked| now_ms.saturating_sub(asked) < PATIENCE_MS);
        if patient || !self.acquires.take(now_ms) {
            return;
        }
        let event = Event::Acquire {
            policy,
            source: flow.local,
            destination: flow.remote,
            protocol: flow.protocol,
            ports: flow.ports.unwrap_or_default(),
        };
        if sink.send(&event) {
            *asked_ms = Some(now_ms);
        }
    }

    /// Tells where a peer has moved. `false` when it has to be told later.
    #[cold]
    pub fn peer_moved(
        &mut self,
        sink: &mut impl EventSink,
        sa: SaId,
        (remote, port): (IpAddr, u16),
        now_ms: u64,
    ) -> bool {
        self.moves.take(now_ms) && sink.send(&Event::PeerMoved { sa, remote, port })
    }

    /// Asks for a neighbour's address, unless that was done a moment ago.
    #[cold]
    pub fn neighbor_missing(
        &mut self,
        sink: &mut impl EventSink,
        port: u8,
        address: IpAddr,
        now_ms: u64,
    ) {
        let bits = match address {
            IpAddr::V4(address) => address.to_bits(),
            // Hosts of a network differ in the low half.
            IpAddr::V6(address) => address.to_bits() as u32 ^ (address.to_bits() >> 32) as u32,
        };
        let hash = bits.wrapping_mul(0x9e37_79b1) ^ u32::from(port);
        let Some(asked) = self.asked.get_mut((hash >> 16) as usize % ASKED) else {
            return;
        };
        let (asked_port, asked_address, asked_ms) = *asked;
        let patient = (asked_port, asked_address) == (port, address)
            && now_ms.saturating_sub(asked_ms) < PATIENCE_MS;
        if patient || !self.neighbors.take(now_ms) {
            return;
        }
        let event = Event::NeighborMissing {
            port: PortId(port),
            address,
        };
        if sink.send(&event) {
            *asked = (port, address, now_ms);
        }
    }
}

/// The channel's name for an SA of ours.
pub fn sa_id(id: esplanade_ipsec::id::SaId) -> Option<SaId> {
    SaId::new(id.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sent(Vec<Event>, bool);

    impl EventSink for Sent {
        fn send(&mut self, event: &Event) -> bool {
            if !self.1 {
                self.0.push(*event);
            }
            !self.1
        }
    }

    fn flow() -> Flow {
        Flow {
            local: IpAddr::from([10, 0, 0, 1]),
            remote: IpAddr::from([10, 0, 0, 2]),
            protocol: 17,
            ports: Some((1, 2)),
        }
    }

    #[test]
    fn an_sa_is_asked_for_once_in_a_while() {
        let (mut reports, mut sent, mut asked) = (Reports::default(), Sent::default(), None);
        for ms in 0..2500 {
            reports.acquire(&mut sent, PolicyId(1), &mut asked, &flow(), ms);
        }
        assert_eq!(sent.0.len(), 3);
    }

    #[test]
    fn what_found_no_room_is_asked_again() {
        let (mut reports, mut sent, mut asked) = (Reports::default(), Sent(vec![], true), None);
        reports.acquire(&mut sent, PolicyId(1), &mut asked, &flow(), 0);
        assert_eq!(asked, None);
        sent.1 = false;
        reports.acquire(&mut sent, PolicyId(1), &mut asked, &flow(), 1);
        assert_eq!(asked, Some(1));
    }

    #[test]
    fn a_scan_of_neighbours_is_limited() {
        let (mut reports, mut sent) = (Reports::default(), Sent::default());
        for host in 0..10_000u32 {
            let address = Ipv4Addr::from(0x0a00_0000 + host).into();
            reports.neighbor_missing(&mut sent, 0, address, 0);
        }
        assert_eq!(sent.0.len() as u64, AT_ONCE);
    }
}
