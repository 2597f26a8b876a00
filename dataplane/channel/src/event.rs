//! What a worker or the steward tells the control plane.

use crate::{CommandError, PolicyId, PortId, SaId, Sequence};
use std::net::IpAddr;

/// One event of a ring. A full ring loses events, and a counter says how many; whoever sends one that matters
/// sends it again when it still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first authenticated packet on an inbound SA.
    FirstPacket {
        /// Which.
        sa: SaId,
    },
    /// An SA has reached its soft lifetime: time to rekey.
    SoftLifetime {
        /// Which.
        sa: SaId,
    },
    /// An SA has reached its hard lifetime and has stopped.
    HardLifetime {
        /// Which.
        sa: SaId,
    },
    /// An SA has used most of its sequence numbers: time to rekey.
    SequenceNearEnd {
        /// Which.
        sa: SaId,
    },
    /// RFC 7296 2.23: an authenticated packet, newer than all before it, came from another address or port of its peer's NAT.
    /// The worker's own SAs to it send there already.
    PeerMoved {
        /// The inbound SA.
        sa: SaId,
        /// The peer's outer address.
        remote: IpAddr,
        /// The peer's port.
        port: u16,
    },
    /// RFC 4301 5.1: a packet wants an SA that is not there.
    Acquire {
        /// The policy that wants it.
        policy: PolicyId,
        /// The packet's source.
        source: IpAddr,
        /// The packet's destination.
        destination: IpAddr,
        /// The packet's next layer protocol.
        protocol: u8,
        /// The packet's source and destination port; 0 when it has none.
        ports: (u16, u16),
    },
    /// A packet wants a neighbour whose link address is not known.
    NeighborMissing {
        /// The port it is behind.
        port: PortId,
        /// Its address.
        address: IpAddr,
    },
    /// A command was not obeyed.
    CommandFailed {
        /// Which of this ring's commands.
        sequence: Sequence,
        /// Why.
        reason: CommandError,
    },
}
