//! What the control plane tells a worker or the steward: the SAD and SPD of RFC 4301 4.4, routes and neighbours.

use crate::{CaptureOrder, Label, PolicyId, PortId, Prefix, SaId, WorkerId};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// One command of a ring. Every command is idempotent: told twice, it is obeyed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// To workers: the SA exists from now on. One that exists already is left as it is, window and counters included.
    InstallInbound(InboundSa),
    /// To workers: as [`Command::InstallInbound`], for the other direction.
    InstallOutbound(OutboundSa),
    /// To workers: the SA is gone, and its keys with it.
    RemoveSa {
        /// Which.
        sa: SaId,
    },
    /// To workers: the peer of an SA in UDP is behind this address and port from now on (RFC 7296 2.23).
    MovePeer {
        /// Either half of a pair.
        sa: SaId,
        /// The peer's outer address.
        remote: IpAddr,
        /// The peer's port.
        port: u16,
    },
    /// To workers: the SA that a protect policy uses from now on for a share of its packets; survives a repeated
    /// [`Command::SetPolicy`].
    SelectOutbound {
        /// The policy.
        policy: PolicyId,
        /// The outbound SA.
        sa: SaId,
        /// Which packets; the SA that had exactly these is used no more.
        share: Share,
    },
    /// To workers: an entry of the SPD, new or changed.
    SetPolicy(Policy),
    /// To workers: the entry is gone.
    RemovePolicy {
        /// Which.
        id: PolicyId,
    },
    /// To workers: a route of the kernel's, new or changed.
    SetRoute {
        /// Where to.
        prefix: Prefix,
        /// The port it leaves by; `None` for an interface that is not ours.
        port: Option<PortId>,
        /// The next hop; `None` when the destination is on the link.
        gateway: Option<IpAddr>,
        /// In bytes of IP; 0 for that of the port.
        mtu: u16,
        /// A route that says no: `unreachable`, `blackhole` or `prohibit`.
        unreachable: bool,
    },
    /// To workers: the route is gone.
    RemoveRoute {
        /// Which.
        prefix: Prefix,
    },
    /// To workers: the link address of a neighbour, new or changed.
    SetNeighbor {
        /// The port it is behind.
        port: PortId,
        /// Its address.
        address: IpAddr,
        /// Its link address.
        mac: [u8; 6],
    },
    /// To workers: the neighbour does not answer any more.
    RemoveNeighbor {
        /// The port it was behind.
        port: PortId,
        /// Its address.
        address: IpAddr,
    },
    /// To workers: a port's facts, which the kernel keeps.
    SetPort {
        /// Which.
        port: PortId,
        /// Its link address.
        mac: [u8; 6],
        /// In bytes of IP.
        mtu: u16,
        /// The source of IPv4's ICMP errors that we send here; `None` sends none.
        address: Option<Ipv4Addr>,
        /// The source of IPv6's; `None` sends none.
        address_v6: Option<Ipv6Addr>,
        /// Clamp the MSS of TCP connections that come from here into a tunnel.
        mss_clamp: bool,
        /// Fill in the UDP checksum of ESP in UDP over IPv6 that leaves here; otherwise it is zero (RFC 6935).
        udp_checksum: bool,
        /// Finish transport checksums of packets that come from here and hold only the pseudo-header's sum.
        partial_checksums: bool,
    },
    /// A full picture follows, up to [`Command::EndSync`].
    BeginSync,
    /// Policies, routes, neighbours, ports, local addresses, protected pairs and inside prefixes that were not set since
    /// [`Command::BeginSync`] are gone. SAs are never swept.
    EndSync,
    /// To workers: packets are copied from now on, until [`Command::StopCapture`] or the order's end.
    StartCapture(CaptureOrder),
    /// To workers: packets of this policy's group are among those that a capture is after.
    CaptureGroup {
        /// Any policy of the group.
        policy: PolicyId,
    },
    /// To workers: no packets are copied any more.
    StopCapture,
    /// To the steward: ESP and UDP 4500 to this address are ours; on outside ports also plain packets that a protected
    /// pair covers, the address included.
    SetLocalAddress {
        /// The address.
        address: IpAddr,
    },
    /// To the steward: not ours any more.
    RemoveLocalAddress {
        /// The address.
        address: IpAddr,
    },
    /// To the steward: plain packets between these are ours: taken on inside ports, dropped on outside ones.
    SetProtected {
        /// Our side.
        local: Prefix,
        /// The peer's side.
        remote: Prefix,
    },
    /// To the steward: not ours any more.
    RemoveProtected {
        /// Our side.
        local: Prefix,
        /// The peer's side.
        remote: Prefix,
    },
    /// To the steward: plain packets from inside ports to here stay inside and are the kernel's, unless a protected
    /// remote prefix that is as long covers them too.
    SetInside {
        /// A network on an inside port, or an address of the gateway.
        prefix: Prefix,
    },
    /// To the steward: not inside any more.
    RemoveInside {
        /// Which.
        prefix: Prefix,
    },
}

/// The packets of a policy that an outbound SA is for. Where several are, one for a class goes before one for all, and a
/// worker's own before one for every worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share {
    /// Those that this worker gets (RFC 9611); `None` for every worker without an SA of its own.
    pub worker: Option<WorkerId>,
    /// The DSCPs of the inner packets, a bit each, at least one (RFC 4301 4.1).
    pub dscps: u64,
}

impl Share {
    /// Everything: the one SA of most policies, and the fallback of those that have several.
    pub const ALL: Self = Self {
        worker: None,
        dscps: u64::MAX,
    };
}

/// An SA that receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundSa {
    /// Its name and its SPI.
    pub sa: SaId,
    /// What must come out of it: any of the policies of this one's group.
    pub policy: PolicyId,
    /// The transform.
    pub transform: Transform,
    /// The cipher's key, and the salt or the integrity key behind it (RFC 7296 2.17).
    pub key: KeyMaterial,
    /// RFC 4303 2.2.1: 64-bit sequence numbers, of which the lower half is sent.
    pub esn: bool,
    /// The anti-replay window in packets; 0 switches the check off.
    pub window: u32,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// RFC 3948: in UDP between these ports; `None` for plain ESP.
    pub encapsulation: Option<UdpPorts>,
    /// What the peer's packets hold.
    pub mode: Mode,
    /// In transport mode through a NAT, the addresses that the peer's packets were made with.
    pub original: Option<Original>,
    /// The peer is behind a NAT and followed where that moves it: RFC 7296 2.23 allows it to who is behind none and does not
    /// speak MOBIKE. Of no effect without UDP, without a window and in transport mode, whose selectors name the addresses.
    pub follow: bool,
    /// The worker that has the record.
    pub owner: WorkerId,
    /// When to tell, and when to stop.
    pub lifetime: Lifetime,
    /// What an operator calls it.
    pub label: Label,
}

/// An SA that sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundSa {
    /// Its name. Outbound SAs take a slot too.
    pub sa: SaId,
    /// The peer's SPI, which goes on the wire.
    pub spi: u32,
    /// The policy, whose group it may serve; [`Command::SelectOutbound`] says when.
    pub policy: PolicyId,
    /// The transform.
    pub transform: Transform,
    /// The cipher's key, and the salt or the integrity key behind it (RFC 7296 2.17).
    pub key: KeyMaterial,
    /// RFC 4303 2.2.1: 64-bit sequence numbers, of which the lower half is sent.
    pub esn: bool,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// RFC 3948: in UDP between these ports; `None` for plain ESP.
    pub encapsulation: Option<UdpPorts>,
    /// What our packets hold.
    pub mode: Mode,
    /// What hides our packets' number and size, in ESP's tunnel mode.
    pub tfc: Tfc,
    /// The worker that has the record.
    pub owner: WorkerId,
    /// When to tell, and when to stop.
    pub lifetime: Lifetime,
    /// The outer DSCP, 0 to 63; `None` is that of the inner header (RFC 2983).
    pub dscp: Option<u8>,
    /// What the outer DF bit is.
    pub df: DfPolicy,
    /// Whether packets that may be fragmented are so once they are sealed, or before (RFC 4303 3.3.4).
    pub fragment_sealed: bool,
    /// The known path MTU to the peer in bytes of IP; 0 for that of the route.
    pub path_mtu: u16,
    /// What an operator calls it.
    pub label: Label,
}

/// What an SA does to its packets, in the numbers of IANA's registry "IKEv2 parameters", which never change. The channel knows
/// no more of it; what a dataplane does not have, it refuses ([`CommandError::NoSuchTransform`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transform {
    /// Of transform type 1: ENCR_AES_GCM_16 is 20; 0, which is reserved there, for AH.
    pub encryption: u16,
    /// The length of the cipher's key in bits; 0 where the transform has no such attribute, and with AH.
    pub key_bits: u16,
    /// Of transform type 3: AUTH_HMAC_SHA2_256_128 is 12; 0 for a cipher that authenticates by itself.
    pub integrity: u16,
}

impl Transform {
    /// AES-GCM with a 128-bit key and a 16-octet ICV (RFC 4106).
    pub const AES_128_GCM_16: Self = Self::combined(20, 128);
    /// AES-GCM with a 256-bit key and a 16-octet ICV (RFC 4106).
    pub const AES_256_GCM_16: Self = Self::combined(20, 256);

    /// A cipher that authenticates by itself.
    pub const fn combined(encryption: u16, key_bits: u16) -> Self {
        Self {
            encryption,
            key_bits,
            integrity: 0,
        }
    }

    /// AH with an integrity algorithm (RFC 4302).
    pub const fn authentication(integrity: u16) -> Self {
        Self {
            encryption: 0,
            key_bits: 0,
            integrity,
        }
    }

    /// Whether it is one of AH.
    pub const fn is_authentication(self) -> bool {
        self.encryption == 0
    }
}

/// What the packets of an SA hold (RFC 4301 4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Whole packets, behind an outer header.
    #[default]
    Tunnel = 1,
    /// What a packet between the two ends themselves carries behind its header.
    Transport = 2,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tunnel => "tunnel",
            Self::Transport => "transport",
        })
    }
}

/// The addresses that the peer's packets in transport mode were made with, where a NAT changed them on the way: the checksums
/// within are right for these (RFC 3948 3.1.2, RFC 7296 2.23.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Original {
    /// Ours, as the peer knows it.
    pub local: IpAddr,
    /// The peer's own.
    pub remote: IpAddr,
}

/// Traffic flow confidentiality (RFC 4303 2.6 and 2.7); the default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Tfc {
    /// Inner packets are padded to at least so many bytes, as far as the path allows; [`Tfc::MTU`] as far as it does.
    pub size: u16,
    /// Inner packets are padded to a multiple of so many bytes; 0 for any length.
    pub multiple: u16,
    /// Dummy packets sent a second.
    pub dummies: u16,
}

impl Tfc {
    /// The size of every packet that fills the path.
    pub const MTU: u16 = u16::MAX;
}

/// Key material of an SA, at most 96 octets (AES-256 with HMAC-SHA2-512); wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial {
    bytes: [u8; Self::CAPACITY],
    length: u8,
}

impl KeyMaterial {
    /// The most octets.
    pub const CAPACITY: usize = 96;

    /// A copy of `key`; `None` when it is longer than [`KeyMaterial::CAPACITY`].
    pub fn new(key: &[u8]) -> Option<Self> {
        // Arrays are copied, not moved: the one that is filled here stays behind and is wiped.
        let mut bytes = Zeroizing::new([0; Self::CAPACITY]);
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        let length = u8::try_from(key.len()).ok()?;
        Some(Self {
            bytes: *bytes,
            length,
        })
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({} octets)", self.length)
    }
}

/// The ports of ESP in UDP (RFC 3948).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UdpPorts {
    /// Ours.
    pub local: u16,
    /// The peer's.
    pub remote: u16,
}

/// When an SA has served enough (RFC 4301 4.4.2.1); 0 stands for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// Packets after which [`Event::SoftLifetime`](crate::Event::SoftLifetime) is sent.
    pub soft_packets: u64,
    /// Packets after which the SA stops.
    pub hard_packets: u64,
    /// Bytes after which [`Event::SoftLifetime`](crate::Event::SoftLifetime) is sent.
    pub soft_bytes: u64,
    /// Bytes after which the SA stops.
    pub hard_bytes: u64,
}

/// The DF bit of the outer header (RFC 4301 8.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DfPolicy {
    /// That of the inner header.
    #[default]
    Copy = 1,
    /// Always set.
    Set = 2,
    /// Never set.
    Clear = 3,
}

/// An entry of the SPD (RFC 4301 4.4.1). Packets that leave match it as it stands, packets that arrive with the sides exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// Lower comes first.
    pub priority: u32,
    /// What happens to a packet that matches.
    pub action: PolicyAction,
    /// Our side.
    pub local: Selector,
    /// The peer's side.
    pub remote: Selector,
    /// The next layer protocol; `None` for any.
    pub protocol: Option<u8>,
}

/// What a policy does (RFC 4301 4.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PolicyAction {
    /// Through an SA.
    Protect = 1,
    /// As it is.
    Bypass = 2,
    /// Not at all.
    Discard = 3,
}

/// One side of a traffic selector (RFC 4301 4.4.1.1): ranges, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Selector {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address, of the same family and not below `first`.
    pub last: IpAddr,
    /// The lowest and the highest port; (0, 65535) for any, also for protocols without ports.
    pub ports: (u16, u16),
}

/// Why a command was not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
#[non_exhaustive]
pub enum CommandError {
    /// The record makes no sense.
    #[error("the record makes no sense")]
    Malformed = 1,
    /// A command of the other kind of ring.
    #[error("this ring does not take such commands")]
    WrongRing = 2,
    /// The SA's slot lies beyond the table.
    #[error("the SA's slot lies beyond the table")]
    NoSuchSlot = 3,
    /// Another SA has the slot.
    #[error("another SA has the slot")]
    SlotTaken = 4,
    /// There is no such SA.
    #[error("there is no such SA")]
    UnknownSa = 5,
    /// The SA is of the other direction.
    #[error("the SA is of the other direction")]
    WrongDirection = 6,
    /// The key has not the length that the transform wants.
    #[error("the key has not the length that the transform wants")]
    KeyLength = 7,
    /// The dataplane's engine does not have the transform.
    #[error("the dataplane's engine does not have the transform")]
    NoSuchTransform = 8,
    /// The anti-replay window is larger than the dataplane's.
    #[error("the anti-replay window is too large")]
    WindowTooLarge = 9,
    /// There is no such policy.
    #[error("there is no such policy")]
    UnknownPolicy = 10,
    /// There is no such port.
    #[error("there is no such port")]
    NoSuchPort = 11,
    /// There is no such worker.
    #[error("there is no such worker")]
    NoSuchWorker = 12,
    /// The dataplane does not do this with this address family.
    #[error("the dataplane does not do this with this address family")]
    AddressFamily = 13,
    /// The table for such things is full.
    #[error("the table is full")]
    TableFull = 14,
    /// The kernel refused a change of the XDP program's maps.
    #[error("the kernel refused a change of the XDP program's maps")]
    KernelRefused = 15,
}

impl CommandError {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Malformed,
        Self::WrongRing,
        Self::NoSuchSlot,
        Self::SlotTaken,
        Self::UnknownSa,
        Self::WrongDirection,
        Self::KeyLength,
        Self::NoSuchTransform,
        Self::WindowTooLarge,
        Self::UnknownPolicy,
        Self::NoSuchPort,
        Self::NoSuchWorker,
        Self::AddressFamily,
        Self::TableFull,
        Self::KernelRefused,
    ];
}
