//! What the endpoint is told: bounds and timers of the whole gateway, and its peers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use esplanade_pki::{CrlPolicy, DistinguishedName, OwnCertificate, RsaPadding, Trust};

pub use crate::eap::Users;
pub use crate::identity::Identity;
pub use crate::secret::Secret;
pub use crate::suite::{
    AdditionalKex, AhIntegrity, ChildProposal, ChildWords, DEFAULT_AH, DEFAULT_ESP, DEFAULT_IKE,
    Encryption, Esp, EspEncryption, EspIntegrity, IkeProposal, Integrity, KeyExchangeMethod, Prf,
    ProposalError, Protection,
};
pub use crate::wire::ts::TrafficSelector;

/// Bounds and timers of one gateway. The defaults suit a gateway on the Internet.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Half-open IKE SAs from which on initiators must return a cookie (RFC 7296 2.6).
    pub cookie_threshold: usize,
    /// Half-open IKE SAs that we hold at most; further ones are dropped and counted.
    pub half_open_limit: usize,
    /// How long a half-open IKE SA waits for IKE_AUTH.
    pub half_open_timeout: Duration,
    /// All IKE SAs that we hold at most.
    pub ike_sa_limit: usize,
    /// Fragments of one message that we put together at most (RFC 7383 2.6).
    pub fragment_limit: u16,
    /// Octets of one message that we put together of fragments at most.
    pub reassembly_limit: usize,
    /// How long the fragments of a message wait for the rest. A request of the peer's and a
    /// response may be incomplete at a time on each IKE SA.
    pub reassembly_timeout: Duration,
    /// Exchanges that may wait for their turn on one IKE SA.
    pub task_limit: usize,
    /// How long the first transmission of a request waits for its response; each wait doubles.
    pub retransmit_initial: Duration,
    /// The longest wait between two transmissions.
    pub retransmit_max: Duration,
    /// How often a request is sent in all before its peer counts as vanished.
    pub transmissions: u32,
    /// The same where little is lost if the peer lives: on an IKE SA that is to end, and on one
    /// in whose place the peer uses a newer one.
    pub few_transmissions: u32,
    /// Interval of NAT keepalives when we are behind a NAT (RFC 3948 4).
    pub nat_keepalive: Duration,
    /// How long the inbound half of a replaced child SA stays for packets still on their way.
    pub inbound_grace: Duration,
    /// How long a child SA with `use_outbound_now == false` that renews a child without a rekey,
    /// though on an IKE SA that stood before, waits for proof that the peer has it.
    pub outbound_patience: Duration,
    /// How long a peer may be silent before traffic that gets no answer
    /// ([`Endpoint::unanswered`](crate::Endpoint::unanswered)) makes us ask whether it lives.
    pub unanswered_delay: Duration,
    /// The first wait before a failed negotiation is tried again; each wait doubles.
    pub retry_initial: Duration,
    /// The longest wait before a failed negotiation is tried again.
    pub retry_max: Duration,
    /// Rekeys started at once after the dataplane was lost; those beyond are paced.
    pub lost_burst: usize,
    /// Pause between the rekeys beyond [`Settings::lost_burst`].
    pub lost_pace: Duration,
    /// How long after [`shutdown`](crate::Endpoint::shutdown) peers that do not answer are left.
    pub shutdown_patience: Duration,
    /// Unprotected answers (INVALID_IKE_SPI and the like) and events about strangers, each per
    /// second.
    pub stranger_rate: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cookie_threshold: 32,
            half_open_limit: 1024,
            half_open_timeout: Duration::from_secs(30),
            ike_sa_limit: 65_536,
            fragment_limit: 128,
            reassembly_limit: 65_535,
            reassembly_timeout: Duration::from_secs(30),
            task_limit: 256,
            retransmit_initial: Duration::from_millis(500),
            retransmit_max: Duration::from_secs(16),
            transmissions: 8,
            few_transmissions: 4,
            nat_keepalive: Duration::from_secs(20),
            inbound_grace: Duration::from_secs(5),
            outbound_patience: Duration::from_secs(5),
            unanswered_delay: Duration::from_secs(10),
            retry_initial: Duration::from_secs(2),
            retry_max: Duration::from_secs(60),
            lost_burst: 100,
            lost_pace: Duration::from_millis(10),
            shutdown_patience: Duration::from_secs(5),
            stranger_rate: 10,
        }
    }
}

/// The least MTU of IPv6 (RFC 8200 5). RFC 7383 2.5.1 recommends it for IPv6, and less for IPv4,
/// where no path of today is as narrow.
pub const DEFAULT_FRAGMENT_SIZE: u16 = 1280;

/// One peer: its part of the PAD (RFC 4301 4.4.3) and the tunnels to it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    /// The peer's name; unique in a configuration.
    pub name: Arc<str>,
    /// Our address; unspecified: any.
    pub local: IpAddr,
    /// The peer's address; unspecified: anybody who proves the identity, and we only respond.
    pub remote: IpAddr,
    /// The port where the peer answers, 500 as a rule. Anything else is taken as a NAT-T port:
    /// we start from our port 4500 at once.
    pub remote_port: u16,
    /// Who we say we are.
    pub local_id: Identity,
    /// Who the peer must prove to be.
    pub remote_id: Identity,
    /// How both prove it.
    pub authentication: Authentication,
    /// Suites for the IKE SA in order of preference; see [`IkeProposal::defaults`].
    pub ike_proposals: Vec<IkeProposal>,
    /// The tunnels to this peer.
    pub children: Vec<ChildConfig>,
    /// Age at which the IKE SA is rekeyed (up to a tenth earlier, at random).
    pub ike_lifetime: Duration,
    /// Silence after which we ask whether the peer is alive; zero: never.
    pub dpd_delay: Duration,
    /// Octets of the largest IP datagram in which an IKE message goes unfragmented, and of each
    /// fragment of a longer one (RFC 7383 2.5.1); see [`DEFAULT_FRAGMENT_SIZE`].
    pub fragment_size: u16,
    /// Pretend that there is a NAT, so that ESP goes in UDP.
    pub force_encapsulation: bool,
    /// Bring the peer up at once and again after it was lost.
    pub start: bool,
    /// Try again after a failed negotiation, with growing pauses.
    pub keep_trying: bool,
    /// What becomes of one who comes from anywhere and is connected already.
    pub uniqueness: Uniqueness,
    /// The pool from which each identity gets the addresses behind it (RFC 7296 2.19).
    pub pool: Option<Arc<str>>,
    /// Of which families we ask the peer for an address of its pool.
    pub request: Option<Families>,
}

/// Families of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both.
    Both,
}

/// How often an identity may be connected to a peer that comes from anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uniqueness {
    /// As often as it likes.
    Never,
    /// Once, and while it is, another that says it is the same is refused, unless it says that it has lost what was
    /// before (INITIAL_CONTACT, RFC 7296 2.4).
    Keep,
    /// So often; one more takes the oldest one's place. 1 is what others call `replace`.
    Limit(u16),
}

impl Default for Uniqueness {
    fn default() -> Self {
        Self::Limit(1)
    }
}

impl PeerConfig {
    /// A peer with defaults in all but what has none.
    pub fn new(name: &str, local: IpAddr, remote: IpAddr, psk: Secret) -> Self {
        Self {
            name: name.into(),
            local,
            remote,
            remote_port: 500,
            local_id: local.into(),
            remote_id: remote.into(),
            authentication: Authentication::Psk(psk),
            ike_proposals: IkeProposal::defaults(),
            children: Vec::new(),
            ike_lifetime: Duration::from_secs(4 * 3600),
            dpd_delay: Duration::from_secs(30),
            fragment_size: DEFAULT_FRAGMENT_SIZE,
            force_encapsulation: false,
            start: false,
            keep_trying: true,
            uniqueness: Uniqueness::default(),
            pool: None,
            request: None,
        }
    }

    /// Whether many may be this peer at a time, each an instance of its own: it comes from anywhere, and
    /// several identities are accepted of it, or one several times; or each gets addresses of a pool.
    pub fn admits_many(&self) -> bool {
        let often = !matches!(self.uniqueness, Uniqueness::Keep | Uniqueness::Limit(1));
        self.pool.is_some()
            || (self.remote.is_unspecified() && (often || self.remote_id.is_pattern()))
    }

    /// The child of that name.
    pub fn child(&self, name: &str) -> Option<&ChildConfig> {
        self.children.iter().find(|child| child.name == name)
    }
}

/// What the packets of a child SA hold (RFC 4301 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Whole packets, behind an outer header.
    #[default]
    Tunnel,
    /// What a packet between the two ends themselves carries behind its header.
    Transport,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tunnel => "tunnel",
            Self::Transport => "transport",
        })
    }
}

/// Which mode a child is to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WantedMode {
    /// Tunnel mode.
    #[default]
    Tunnel,
    /// Transport mode, and nothing else.
    Transport,
    /// Transport mode, or tunnel mode with a peer that does not want it.
    TransportIfPossible,
}

/// The one method by which both ends of a peer prove who they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Authentication {
    /// A pre-shared key (RFC 7296 2.15).
    Psk(Secret),
    /// Certificates and signatures (RFC 7427, RFC 4945).
    Certificate {
        /// What we prove with.
        ours: Arc<OwnCertificate>,
        /// By what the peer's is checked.
        trust: Arc<Trust>,
    },
    /// We prove by a certificate, and the peer by EAP (RFC 7296 2.16): the peer's identity is its name there.
    EapServer {
        /// What we prove with.
        ours: Arc<OwnCertificate>,
        /// How clients prove who they are.
        clients: EapClients,
    },
    /// The peer proves by a certificate, and we by EAP.
    EapClient {
        /// By what the peer's certificate is checked.
        trust: Arc<Trust>,
        /// Our name there.
        name: String,
        /// How we prove it.
        by: EapProof,
    },
}

/// How the clients of an EAP server prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EapClients {
    /// By a password (MSCHAPv2, RFC 2759).
    Passwords(Arc<Users>),
    /// By a certificate that is checked by this (EAP-TLS, RFC 5216 and RFC 9190).
    Certificates(Arc<Trust>),
}

/// How a client proves by EAP who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EapProof {
    /// By a password.
    Password(Secret),
    /// By a certificate.
    Certificate(Arc<OwnCertificate>),
}

impl Authentication {
    /// The Auth Method of RFC 7296 3.8 that the peer must use.
    pub const fn method(&self) -> u8 {
        match self {
            Self::Psk(_) => 2,
            Self::Certificate { .. } | Self::EapClient { .. } => 14,
            // A request without AUTH asks for EAP, which is method 0 here.
            Self::EapServer { .. } => 0,
        }
    }
}

/// One tunnel to a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildConfig {
    /// The child's name; unique within its peer.
    pub name: String,
    /// What we protect on our side.
    pub local_ts: Vec<TrafficSelector>,
    /// What lies behind the peer.
    pub remote_ts: Vec<TrafficSelector>,
    /// Suites in order of preference; see [`ChildProposal::defaults`].
    pub proposals: Vec<ChildProposal>,
    /// Tunnel or transport mode. In transport mode, each selector is of one address: that of its
    /// end of the IKE SA (RFC 7296 2.23.1).
    pub mode: WantedMode,
    /// Age at which the child SA is rekeyed (up to a tenth earlier, at random); a tenth later it
    /// is deleted if no rekey has succeeded.
    pub lifetime: Duration,
    /// Bring it up whenever we bring its peer up.
    pub start: bool,
}

impl ChildConfig {
    /// A child with default proposals and a lifetime of an hour, brought up with its peer.
    pub fn new(
        name: &str,
        local_ts: Vec<TrafficSelector>,
        remote_ts: Vec<TrafficSelector>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            local_ts,
            remote_ts,
            proposals: ChildProposal::defaults(),
            mode: WantedMode::Tunnel,
            lifetime: Duration::from_secs(3600),
            start: true,
        }
    }
}
