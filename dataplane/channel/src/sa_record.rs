//! What of an SA can be read back: everything but its keys.

use crate::{Label, Mode, PolicyId, SaId, Transform, UdpPorts, WorkerId};
use std::net::IpAddr;

/// An SA as its owner last told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaRecord {
    /// Its name; for an inbound SA its SPI.
    pub sa: SaId,
    /// The SPI on the wire.
    pub spi: u32,
    /// Which way it goes.
    pub direction: Direction,
    /// The policy that it was installed for.
    pub policy: PolicyId,
    /// The worker that has it.
    pub owner: WorkerId,
    /// How it is.
    pub state: SaState,
    /// For an outbound SA, whether its policies use it now; `false` for an inbound one.
    pub selected: bool,
    /// What an operator calls it.
    pub label: Label,
    /// The transform.
    pub transform: Transform,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// The ports of ESP in UDP; `None` for plain ESP.
    pub encapsulation: Option<UdpPorts>,
    /// What its packets hold.
    pub mode: Mode,
    /// Whether sequence numbers have 64 bits.
    pub esn: bool,
    /// The anti-replay window in packets.
    pub window: u32,
    /// What it has done so far.
    pub statistics: SaStatistics,
}

/// The part of a record that changes with traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaStatistics {
    /// Packets through it.
    pub packets: u64,
    /// Bytes through it, inner IP headers included.
    pub bytes: u64,
    /// Outbound: the next sequence number. Inbound: the highest authenticated one.
    pub sequence: u64,
    /// Inbound: packets dropped as replays or as older than the window.
    pub replays: u64,
    /// Inbound: packets that failed authentication.
    pub forged: u64,
    /// When it was last used, in milliseconds of the monotonic clock; 0 for never.
    pub last_used_ms: u64,
    /// Outbound: the MTU of the path to the peer in bytes of IP, as routes, configuration and routers on the way say; 0 before it
    /// was asked for. Inbound: 0.
    pub path_mtu: u16,
}

/// Which way an SA goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards us.
    Inbound = 1,
    /// Towards the peer.
    Outbound = 2,
}

/// How an SA is, in the words of PF_KEY (RFC 2367 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SaState {
    /// In its prime.
    Mature = 1,
    /// Past its soft lifetime.
    Dying = 2,
    /// Past its hard lifetime, or out of sequence numbers: it carries nothing more.
    Dead = 3,
}
