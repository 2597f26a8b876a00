//! Packets that wait for their next hop's link address, as RFC 1122 2.3.2.2 asks of a link layer.
//!
//! A packet is held as early as the missing address shows, so that it takes its way through the pipeline when it leaves:
//! an outbound one before its SA gives it a sequence number, an inbound one once it is decrypted and admitted.

use super::{
    Worker,
    core::{Admitted, Arrived},
    leave::leave,
};
use crate::port::Port;
use arrayvec::ArrayVec;
use esplanade_channel::Counter;
use std::net::IpAddr;

/// The most packets that wait for one next hop.
pub const FOR_A_NEXT_HOP: usize = 4;
/// The most packets that wait in a worker.
pub const MAX_HELD: usize = 64;
/// The longest wait: the kernel gives a neighbour up after three questions, a second apart.
pub const PATIENCE_MS: u64 = 3000;

/// A next hop whose link address is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// The port that it is on.
    pub port: u8,
    /// Its address.
    pub address: IpAddr,
}

/// A packet that cannot leave yet.
#[derive(Debug)]
pub enum Packet {
    /// As it was received; all stages are still to come.
    Received(Arrived),
    /// Decrypted and admitted; only its next hop is still to be found.
    Admitted(Admitted),
}

#[derive(Debug)]
struct Waiting {
    neighbor: Neighbor,
    since_ms: u64,
    packet: Packet,
}

/// The packets that wait, the oldest first.
#[derive(Debug, Default)]
pub struct Held {
    waiting: ArrayVec<Waiting, MAX_HELD>,
}

impl Held {
    /// Holds a packet. Gives the one that had to go for it: RFC 1122 2.3.2.2 has the latest packet saved, so that is
    /// the oldest of the next hop's when it has its share, or else the oldest of all when the room is full.
    #[must_use]
    pub fn hold(&mut self, neighbor: Neighbor, packet: Packet, now_ms: u64) -> Option<Packet> {
        let share = self
            .waiting
            .iter()
            .filter(|waiting| waiting.neighbor == neighbor)
            .count();
        let evicted = if share >= FOR_A_NEXT_HOP {
            self.take(neighbor)
        } else if self.waiting.is_full() {
            self.waiting.pop_at(0).map(|waiting| waiting.packet)
        } else {
            None
        };
        self.waiting.push(Waiting {
            neighbor,
            since_ms: now_ms,
            packet,
        });
        evicted
    }

    /// The oldest packet that waits for a next hop.
    pub fn take(&mut self, neighbor: Neighbor) -> Option<Packet> {
        let at = self
            .waiting
            .iter()
            .position(|waiting| waiting.neighbor == neighbor)?;
        self.waiting.pop_at(at).map(|waiting| waiting.packet)
    }

    /// A packet that has waited for too long.
    #[inline]
    pub fn take_late(&mut self, now_ms: u64) -> Option<Packet> {
        let oldest = self.waiting.first()?;
        if now_ms.saturating_sub(oldest.since_ms) < PATIENCE_MS {
            return None;
        }
        self.waiting.pop_at(0).map(|waiting| waiting.packet)
    }
}

impl<P: Port> Worker<P> {
    /// Sends what waited for a neighbour on its way, in the order in which it came.
    #[cold]
    pub(super) fn release_held(&mut self, port: u8, address: IpAddr) {
        let neighbor = Neighbor { port, address };
        // Whatever now waits for it again stays for the next time.
        let mut released: ArrayVec<Packet, FOR_A_NEXT_HOP> = ArrayVec::new();
        while !released.is_full()
            && let Some(packet) = self.core.held.take(neighbor)
        {
            released.push(packet);
        }
        for packet in released {
            match packet {
                Packet::Received(arrived) => self.enter_again(arrived),
                Packet::Admitted(admitted) => leave(&mut self.core, admitted),
            }
        }
        self.finish_burst();
    }

    #[inline(never)]
    fn enter_again(&mut self, arrived: Arrived) {
        let (frame, from) = arrived.apart();
        self.enter(frame, from);
    }

    /// Drops what has waited for too long.
    #[inline]
    pub(super) fn drop_late(&mut self) {
        while let Some(packet) = self.core.held.take_late(self.core.now_ms) {
            self.core.drop_packet(packet, Counter::NeighborUnresolved);
        }
    }
}
