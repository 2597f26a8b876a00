//! The model: what a valid configuration says, typed. Nothing in here can be wrong any more.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use esplanade_ike::config::{
    ChildProposal, EapClients, EapProof, Families, IkeProposal, Uniqueness,
};
use esplanade_pki::{DistinguishedName, OwnCertificate, Trust};

use crate::{Prefix, Problem, Secret, Selector};

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the dataplane runs on.
    pub dataplane: Dataplane,
    /// The tunnels, in the order of the file.
    pub tunnels: Vec<Tunnel>,
    /// Addresses for clients, in the order of the file.
    pub pools: Vec<Pool>,
    /// What works but should be looked at.
    pub warnings: Vec<Problem>,
}

/// Addresses for clients (RFC 7296 2.19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The first and the last address of each part; never empty.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Servers that resolve names.
    pub dns: Vec<IpAddr>,
    /// What clients are to reach through the tunnel; `None` is what the tunnels' children have on our side.
    pub networks: Option<Vec<Prefix>>,
    /// How long an address is kept for a client that has left.
    pub hold: Duration,
    /// Addresses that one identity gets, and nobody else.
    pub fixed: Vec<(Identity, IpAddr)>,
}

/// What the dataplane runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// One entry a worker: the core it is pinned to, if any. Never empty.
    pub workers: Vec<Option<u16>>,
    /// How a worker waits for packets.
    pub polling: Polling,
    /// The ports, in the order of the file: the first is port 0. At least one is inside and one outside; the TAP is the last.
    pub ports: Vec<Port>,
    /// Does the kernel hold unreachable routes for what the tunnels protect?
    pub guard: bool,
    /// The packet cipher's engine; `None` takes the fastest that the machine can run.
    pub engine: Option<Engine>,
    /// How many SAs (two a child, more while rekeying) there is room for.
    pub sa_capacity: u32,
    /// How many frames each ring of a port's queue holds; a power of two.
    pub ring_frames: u32,
}

impl Dataplane {
    /// The TAP for the gateway's own packets, if there is to be one.
    #[must_use]
    pub fn tap(&self) -> Option<&Port> {
        self.ports.iter().find(|port| port.role == Role::Host)
    }
}

/// How a worker waits for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// It spins: lowest latency, a full core each.
    Busy,
    /// It spins a while, then sleeps until the ring wakes it.
    Adaptive,
}

/// The packet cipher's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The RustCrypto crates: everywhere, slowest.
    Portable,
    /// aws-lc-rs.
    AwsLc,
    /// Our own kernels for AVX2 with VAES.
    Vaes256,
    /// Our own kernels for AVX-512 with VAES.
    Vaes512,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::AwsLc => "aws-lc-rs",
            Self::Vaes256 => "vaes256",
            Self::Vaes512 => "vaes512",
        })
    }
}

/// An interface that the dataplane takes packets from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the configuration.
    pub name: String,
    /// The interface's name; of a VLAN, that of the kernel's interface for it.
    pub interface: String,
    /// The VLAN that it is, if it is one.
    pub vlan: Option<Vlan>,
    /// Which side of the gateway it is on.
    pub role: Role,
    /// Is the MSS of TCP connections through it lowered to what fits into a tunnel?
    pub mss_clamp: bool,
    /// Has ESP in UDP over IPv6 that leaves it a checksum (RFC 6935)?
    pub udp_checksum: bool,
    /// Are transport checksums finished of packets that come from it with the pseudo-header's sum only?
    pub partial_checksums: bool,
}

/// A VLAN on an interface (IEEE 802.1Q).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The name of the interface that carries it.
    pub carrier: String,
    /// Its identifier, 1 to 4094.
    pub id: u16,
}

/// Which side of the gateway a port is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Toward the hosts whose traffic is protected.
    Inside,
    /// Toward the peers.
    Outside,
    /// Toward the gateway itself: the TAP, which is the last port.
    Host,
}

/// A peer and what is protected between it and us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// Our address.
    pub local: IpAddr,
    /// Who we say we are.
    pub local_identity: Identity,
    /// The peer's address; `None` is anyone's, and then only the peer can start.
    pub remote: Option<IpAddr>,
    /// The peer's IKE port.
    pub remote_port: u16,
    /// Who the peer must prove to be.
    pub remote_identity: Identity,
    /// How both prove who they are.
    pub authentication: Authentication,
    /// Of which families we ask the peer for an address.
    pub request: Option<Families>,
    /// The pool from which each client gets its addresses.
    pub pool: Option<String>,
    /// How often an identity may be connected, where the peer comes from anywhere.
    pub uniqueness: Uniqueness,
    /// The IKE SA.
    pub ike: Ike,
    /// The children, in the order of the file; at least one.
    pub children: Vec<Child>,
}

impl Tunnel {
    /// Whether many may be this peer at a time: it comes from anywhere, and several identities are accepted of it, or one
    /// several times; or each gets addresses of a pool.
    #[must_use]
    pub fn admits_many(&self) -> bool {
        let often = !matches!(self.uniqueness, Uniqueness::Keep | Uniqueness::Limit(1));
        self.pool.is_some()
            || (self.remote.is_none() && (often || self.remote_identity.is_pattern()))
    }
}

/// The one method by which both ends prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// A key that both know.
    Psk(Secret),
    /// Certificates.
    Certificate {
        /// Ours, with its private key.
        ours: Arc<OwnCertificate>,
        /// What the peer's is checked by.
        trust: Arc<Trust>,
    },
    /// We by a certificate, and clients by EAP.
    EapServer {
        /// Ours, with its private key.
        ours: Arc<OwnCertificate>,
        /// How clients prove who they are.
        clients: EapClients,
    },
    /// The peer by a certificate, and we by EAP.
    EapClient {
        /// What the peer's certificate is checked by.
        trust: Arc<Trust>,
        /// Our name there; `None` is our identity.
        name: Option<String>,
        /// How we prove it.
        by: EapProof,
    },
}

/// An identity of IKE (RFC 7296 3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// ID_IPV4_ADDR or ID_IPV6_ADDR.
    Address(IpAddr),
    /// ID_FQDN.
    Fqdn(String),
    /// ID_DER_ASN1_DN; of a peer with `*` for values that may be any.
    Dn(DistinguishedName),
    /// ID_RFC822_ADDR.
    Email(String),
    /// ID_KEY_ID.
    KeyId(Vec<u8>),
}

impl Identity {
    /// Whether it stands for several: `*.example.org`, `*@example.org`, `O=Example, CN=*`, or `*` for all.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        match self {
            Self::Dn(name) => name.is_pattern(),
            Self::Fqdn(name) => name == "*" || name.starts_with("*."),
            Self::Email(name) => name.starts_with("*@"),
            Self::Address(_) | Self::KeyId(_) => false,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Dn(name) => name.fmt(f),
            Self::Fqdn(name) | Self::Email(name) => f.write_str(name),
            Self::KeyId(bytes) => write!(f, "keyid:{}", bytes.escape_ascii()),
        }
    }
}

/// The settings of a tunnel's IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ike {
    /// What we offer and accept, the preferred first; never empty.
    pub proposals: Vec<IkeProposal>,
    /// When it is rekeyed, and when it ends if that failed.
    pub lifetime: Lifetime<Duration>,
    /// After how long a silence the peer is asked whether it lives; `None` never asks.
    pub dpd_delay: Option<Duration>,
    /// Bytes of the largest IP datagram in which a message goes unfragmented; 576 to 65,535.
    pub fragment_size: u16,
    /// Do we try again for ever when a peer that we should reach does not answer?
    pub keep_trying: bool,
}

/// A soft and a hard limit. The soft one is the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime<T> {
    /// Here a successor is negotiated.
    pub rekey: T,
    /// Here the SA ends, successor or not.
    pub expire: T,
}

/// A child: a pair of SAs and the traffic that they protect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name, unique within the tunnel.
    pub name: String,
    /// Our side of the traffic; never empty. Each selector has one of its family on the peer's side; the family may be
    /// another than that of the tunnel's addresses.
    pub local: Vec<Selector>,
    /// The peer's side of the traffic; never empty.
    pub remote: Vec<Selector>,
    /// What we offer and accept, the preferred first; never empty.
    pub proposals: Vec<ChildProposal>,
    /// Which mode its SAs have.
    pub mode: Mode,
    /// What hides the number and the size of its packets.
    pub tfc: Tfc,
    /// How long a pair of SAs lives.
    pub lifetime: Lifetime<Duration>,
    /// How many bytes a pair of SAs carries, if limited.
    pub bytes: Option<Lifetime<u64>>,
    /// How many packets a pair of SAs carries, if limited.
    pub packets: Option<Lifetime<u64>>,
    /// How many packets back the anti-replay window reaches; 32 to 65,536.
    pub replay_window: u32,
    /// Which of two children whose traffic overlaps takes it: the lower.
    pub priority: u32,
    /// The outer header's DSCP; `None` is the inner one's.
    pub dscp: Option<u8>,
    /// What becomes of DF in the outer header.
    pub df: Df,
    /// When packets that do not fit, and may be fragmented, are.
    pub fragment: Fragment,
    /// The MTU of the path to the peer in bytes of IP, if it is known to be less than that of the route; 576 to 65,535.
    pub path_mtu: Option<u16>,
    /// Who starts.
    pub start: Start,
}

impl Child {
    /// The pairs of selectors that can have traffic: those of one family.
    pub fn pairs(&self) -> impl Iterator<Item = (&Selector, &Selector)> {
        self.local.iter().flat_map(|local| {
            let remote = self.remote.iter();
            remote
                .filter(|remote| remote.prefix.is_ipv4() == local.prefix.is_ipv4())
                .map(move |remote| (local, remote))
        })
    }
}

/// What the packets of a child's SAs hold (RFC 4301 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Whole packets.
    #[default]
    Tunnel,
    /// What packets between the two gateways themselves carry.
    Transport,
    /// As transport mode; tunnel mode with a peer that wants that.
    TransportIfPossible,
}

/// Traffic flow confidentiality (RFC 4303 2.6 and 2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tfc {
    /// How large inner packets are made at least, if they are.
    pub size: Option<TfcSize>,
    /// They are made a multiple of so many bytes; 0 leaves them.
    pub multiple: u16,
    /// How many dummy packets are sent a second.
    pub dummies: u16,
}

/// How large packets are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TfcSize {
    /// So many bytes, as far as the path carries them.
    Bytes(u16),
    /// As many as the path carries.
    Mtu,
}

/// What becomes of the "don't fragment" bit in the outer header (RFC 4301 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Df {
    /// It is the inner header's.
    Copy,
    /// It is set.
    Set,
    /// It is cleared.
    Clear,
}

/// When packets that do not fit through a tunnel are fragmented (RFC 4303 3.3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Before they are sealed: the peer opens each fragment by itself, and the receiving host puts them together.
    #[default]
    Before,
    /// Once they are sealed: the peer puts them together before it opens them.
    After,
}

/// Who starts a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// We do, and again when it goes down.
    AtOnce,
    /// The peer does, or the operator.
    Wait,
}
