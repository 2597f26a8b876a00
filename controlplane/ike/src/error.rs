//! Why something was refused, closed or removed: enums with the facts inside, rendered here once
//! in words that an operator can act on. None of them can hold a secret.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use esplanade_pki::ChainError;

use crate::config::TrafficSelector;
use crate::eap::EapError;
use crate::identity::Identity;
use crate::suite::KeyExchangeMethod;

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No peer has this name.
    #[error("no peer is called `{0}`")]
    UnknownPeer(String),
    /// The peer has no child of this name.
    #[error("peer `{peer}` has no child called `{child}`")]
    UnknownChild {
        /// The peer's name.
        peer: String,
        /// The name that was asked for.
        child: String,
    },
    /// The peer has no IKE SA, or none that is ready.
    #[error("peer `{0}` is not up")]
    PeerDown(String),
    /// The child has no SA.
    #[error("child `{child}` of peer `{peer}` is not up")]
    ChildDown {
        /// The peer's name.
        peer: String,
        /// The child's name.
        child: String,
    },
    /// The peer's address is not configured.
    #[error("peer `{0}` has no fixed address: it has to call us")]
    RespondOnly(String),
    /// Too many exchanges wait already.
    #[error("peer `{0}` has too many exchanges waiting; try again later")]
    Busy(String),
    /// The endpoint says goodbye.
    #[error("the gateway is shutting down")]
    ShuttingDown,
    /// No child SA has this SPI.
    #[error("no child SA has the inbound SPI {0:#010x}")]
    UnknownSa(u32),
}

/// Whether an IKE SA or a child SA was negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The IKE SA.
    Ike,
    /// The child of this name.
    Child(String),
    /// A child that the peer asked for and that is none of ours.
    UnknownChild,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ike => f.write_str("the IKE SA"),
            Self::Child(name) => write!(f, "child `{name}`"),
            Self::UnknownChild => f.write_str("a child SA"),
        }
    }
}

/// Why a negotiation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody is configured at this address.
    UnknownAddress,
    /// The peer authenticates as somebody who is not configured, or asks for somebody we are not.
    UnknownIdentity {
        /// Who the peer says it is.
        theirs: Identity,
        /// Who the peer asks for.
        asked_for: Option<Identity>,
    },
    /// The responder answers as somebody else than the one configured.
    OtherIdentity {
        /// Who the peer says it is.
        theirs: Identity,
        /// Who it should be.
        expected: Identity,
    },
    /// The peer's AUTH payload does not verify: another pre-shared key.
    WrongKey {
        /// Who the peer says it is.
        theirs: Identity,
    },
    /// The peer authenticates by another method than the one configured.
    OtherMethod {
        /// The Auth Method of RFC 7296 3.8.
        method: u8,
        /// The one that is configured.
        expected: u8,
    },
    /// The peer sent no certificate.
    NoCertificate {
        /// Who the peer says it is.
        theirs: Identity,
    },
    /// A check of the peer's certificates failed.
    Certificate(Box<ChainError>),
    /// The peer's certificate is of somebody else than it says it is.
    NotNamed {
        /// Who the peer says it is.
        theirs: Identity,
        /// The certificate's subject.
        certificate: String,
        /// Its subject alternative names.
        names: Vec<String>,
    },
    /// The peer's signature is not by a scheme that is taken.
    UnknownSignature {
        /// Whose certificate it is.
        certificate: String,
    },
    /// The peer's signature does not verify.
    WrongSignature {
        /// Whose certificate it is.
        certificate: String,
        /// The scheme of the signature.
        scheme: String,
    },
    /// The peer takes no hash with which our key can sign.
    NoCommonHash {
        /// What kind of key we have.
        key: String,
    },
    /// We could not sign.
    CannotSign,
    /// Nobody has told the time of day, so that no certificate can be judged.
    NoClock,
    /// The identity is connected already, and may be so but once (`unique: keep`).
    ConnectedAlready {
        /// Who the peer is.
        theirs: Identity,
        /// From where it is connected.
        from: SocketAddr,
    },
    /// Another instance of the peer has these selectors.
    SelectorsTaken {
        /// The child.
        child: String,
        /// What the peer claims on its side.
        remote: Vec<TrafficSelector>,
        /// The instance.
        by: String,
    },
    /// The pool has no address of a family that the peer asks for.
    NoAddress {
        /// The pool's name.
        pool: String,
    },
    /// All addresses of a pool are in use or kept for others.
    PoolExhausted {
        /// The pool's name.
        pool: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// The peer asks for a child SA, though not for the address that each gets.
    NoAddressWanted {
        /// The child.
        child: String,
    },
    /// The peer gives us no address, though we ask for one.
    NoAddressGiven,
    /// EAP has failed.
    Eap {
        /// Who the other end is, or says it is.
        theirs: Identity,
        /// Why.
        error: EapError,
    },
    /// The peer did not accept our authentication.
    RefusedByPeer {
        /// Who we said we are.
        ours: Identity,
        /// Who we asked for.
        asked_for: Identity,
    },
    /// The peer proposed no suite that we take.
    ProposalMismatch {
        /// For what.
        subject: Subject,
        /// What the peer proposed.
        theirs: Vec<String>,
        /// What we would take.
        ours: Vec<String>,
    },
    /// The peer takes no suite that we proposed.
    ProposalRefused {
        /// For what.
        subject: Subject,
        /// What we proposed.
        ours: Vec<String>,
    },
    /// The peer chose a suite that we did not propose.
    ProposalNotOurs {
        /// For what.
        subject: Subject,
        /// What the peer chose.
        theirs: Vec<String>,
    },
    /// The peer asked for selectors that none of our children covers.
    SelectorMismatch {
        /// What the peer wants of our side.
        local: Vec<TrafficSelector>,
        /// What the peer has on its side.
        remote: Vec<TrafficSelector>,
    },
    /// The peer takes none of our selectors.
    SelectorsRefused {
        /// The child.
        child: String,
        /// What we asked for on our side.
        local: Vec<TrafficSelector>,
        /// What we asked for on the peer's side.
        remote: Vec<TrafficSelector>,
    },
    /// The peer answered with selectors wider than those we asked for.
    SelectorsWidened {
        /// The child.
        child: String,
    },
    /// The peer wants tunnel mode for a child that is to have transport mode.
    TransportRefused {
        /// The child.
        child: String,
    },
    /// AH, whose ICV covers the addresses, and a NAT on the way (RFC 3715 2.1).
    AhThroughNat {
        /// The child.
        child: String,
    },
    /// The peer asks for a key exchange group that we did not propose.
    GroupNotOurs {
        /// The group's number.
        group: u16,
    },
    /// The peer's key exchange value is not one (RFC 6989).
    BadKeyExchange {
        /// The method.
        method: KeyExchangeMethod,
    },
    /// The peer keeps asking for cookies or groups.
    Unending,
    /// The peer refused with another error notification.
    PeerError {
        /// For what.
        subject: Subject,
        /// The Notify Message Type of RFC 7296 3.10.1.
        notify: u16,
    },
    /// The peer's message makes no sense.
    Malformed {
        /// What was wrong with it.
        what: &'static str,
    },
    /// The peer did not answer.
    NoAnswer {
        /// How often we asked.
        transmissions: u32,
        /// Over what time.
        waited: Duration,
    },
    /// We have no SPI left for a child SA.
    NoSpi,
    /// We hold as many IKE SAs as we may.
    TooManyIkeSas,
}

/// An Auth Method of RFC 7296 3.8 and later RFCs.
fn method_name(method: u8) -> String {
    match method {
        0 => "EAP".to_owned(),
        1 => "an RSA signature with SHA-1 (method 1)".to_owned(),
        2 => "a pre-shared key (method 2)".to_owned(),
        9..=11 => format!("an ECDSA signature of RFC 4754 (method {method})"),
        14 => "a digital signature (method 14)".to_owned(),
        method => format!("method {method}"),
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "nothing".to_owned();
    }
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAddress => f.write_str("no peer is configured at this address"),
            Self::UnknownIdentity {
                theirs,
                asked_for: Some(ours),
            } => write!(
                f,
                "the peer says that it is `{theirs}` and asks for `{ours}`; no such pair of identities is configured for its address"
            ),
            Self::UnknownIdentity {
                theirs,
                asked_for: None,
            } => write!(
                f,
                "the peer says that it is `{theirs}`, which is not configured for its address"
            ),
            Self::OtherIdentity { theirs, expected } => write!(
                f,
                "the peer says that it is `{theirs}`, but `{expected}` is configured"
            ),
            Self::WrongKey { theirs } => write!(
                f,
                "authentication of `{theirs}` failed: the pre-shared keys of both sides differ"
            ),
            Self::OtherMethod { method, expected } => write!(
                f,
                "the peer authenticates by {}, but {} is configured",
                method_name(*method),
                method_name(*expected)
            ),
            Self::NoCertificate { theirs } => write!(
                f,
                "the peer says that it is `{theirs}` but sent no certificate"
            ),
            Self::Certificate(error) => error.fmt(f),
            Self::NotNamed {
                theirs,
                certificate,
                names,
            } => write!(
                f,
                "the peer says that it is `{theirs}`, which its certificate does not say: its subject is `{certificate}`, its alternative names are {}",
                list(names)
            ),
            Self::UnknownSignature { certificate } => write!(
                f,
                "the signature by the key of `{certificate}` is of no scheme that is taken here (SHA-1 never is)"
            ),
            Self::WrongSignature {
                certificate,
                scheme,
            } => write!(
                f,
                "the signature by the key of `{certificate}` ({scheme}) does not verify: the peer has another private key"
            ),
            Self::NoCommonHash { key } => write!(
                f,
                "the peer takes no hash with which our {key} key can sign (SIGNATURE_HASH_ALGORITHMS)"
            ),
            Self::CannotSign => f.write_str("our private key could not sign"),
            Self::NoClock => {
                f.write_str("the time of day is not known, so that no certificate can be judged")
            }
            Self::RefusedByPeer { ours, asked_for } => write!(
                f,
                "the peer refused our authentication as `{ours}` towards `{asked_for}`: it knows no such identities, or our proof does not convince it (another pre-shared key, a certificate that it does not trust)"
            ),
            Self::ProposalMismatch {
                subject,
                theirs,
                ours,
            } => write!(
                f,
                "no common proposal for {subject}: the peer proposes {}; configured here: {}",
                list(theirs),
                list(ours)
            ),
            Self::ProposalRefused { subject, ours } => write!(
                f,
                "the peer takes none of our proposals for {subject}: {}",
                list(ours)
            ),
            Self::ProposalNotOurs { subject, theirs } => write!(
                f,
                "the peer chose a proposal for {subject} that we did not make: {}",
                list(theirs)
            ),
            Self::SelectorMismatch { local, remote } => write!(
                f,
                "no child is configured for the traffic that the peer asks for: {} on our side, {} on its side",
                list(local),
                list(remote)
            ),
            Self::SelectorsRefused {
                child,
                local,
                remote,
            } => write!(
                f,
                "the peer takes none of the selectors of child `{child}`: {} on our side, {} on its side",
                list(local),
                list(remote)
            ),
            Self::ConnectedAlready { theirs, from } => write!(
                f,
                "`{theirs}` is connected already, from {from}, and `unique: keep` lets no second one in"
            ),
            Self::SelectorsTaken { child, remote, by } => write!(
                f,
                "child `{child}`: the peer claims {}, and {by} has some of it already; each needs addresses of its own",
                list(remote)
            ),
            Self::NoAddress { pool } => write!(
                f,
                "the pool `{pool}` has no address of the family that the peer asks for"
            ),
            Self::PoolExhausted { pool, family } => write!(
                f,
                "the pool `{pool}` is exhausted: all its addresses of {family} are in use or kept for others"
            ),
            Self::NoAddressWanted { child } => write!(
                f,
                "the peer wants child `{child}` without an address of the pool, and asks for none"
            ),
            Self::NoAddressGiven => {
                f.write_str("the peer gives us no address, though we ask for one")
            }
            Self::Eap { theirs, error } => write!(f, "EAP with `{theirs}` has failed: {error}"),
            Self::SelectorsWidened { child } => write!(
                f,
                "the peer answered with selectors for child `{child}` that go beyond those we asked for"
            ),
            Self::TransportRefused { child } => write!(
                f,
                "the peer wants tunnel mode for child `{child}`, which is to have transport mode; `mode: transport-if-possible` would take either"
            ),
            Self::AhThroughNat { child } => write!(
                f,
                "child `{child}` is one of AH, which authenticates addresses, and there is a NAT on the way that changes them: use ESP"
            ),
            Self::GroupNotOurs { group } => write!(
                f,
                "the peer asks for key exchange group {group}, which is in none of our proposals"
            ),
            Self::BadKeyExchange { method } => {
                write!(f, "the peer's {method} key exchange value is not valid")
            }
            Self::Unending => {
                f.write_str("the peer keeps asking for other cookies or key exchange groups")
            }
            Self::PeerError { subject, notify } => write!(
                f,
                "the peer refused {subject} with {}",
                crate::wire::notify::name(*notify)
            ),
            Self::Malformed { what } => write!(f, "the peer's message is malformed: {what}"),
            Self::NoAnswer {
                transmissions,
                waited,
            } => write!(
                f,
                "the peer did not answer {transmissions} transmissions in {} s",
                waited.as_secs()
            ),
            Self::NoSpi => f.write_str("the dataplane has no room for another SA"),
            Self::TooManyIkeSas => f.write_str("the gateway holds as many IKE SAs as it may"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Why an IKE SA is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// An operator, or a changed configuration, asked for it.
    Terminated,
    /// The peer deleted it.
    DeletedByPeer,
    /// A rekey put another in its place.
    Rekeyed,
    /// Both sides started at once; another one stays.
    Redundant,
    /// The peer did not answer.
    PeerVanished {
        /// How often we asked.
        transmissions: u32,
    },
    /// The peer does not answer on it, but does on a newer one.
    Supplanted,
    /// The peer started anew and said so (INITIAL_CONTACT).
    InitialContact,
    /// The same identity has connected from elsewhere.
    Displaced,
    /// It could not be negotiated; the refusal was told before.
    Refused,
    /// Its lifetime ended without a rekey.
    Expired,
    /// The gateway shuts down.
    Shutdown,
    /// The peer broke the protocol.
    ProtocolError {
        /// What was wrong.
        what: &'static str,
    },
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminated => f.write_str("terminated here"),
            Self::DeletedByPeer => f.write_str("deleted by the peer"),
            Self::Rekeyed => f.write_str("replaced by a rekey"),
            Self::Redundant => f.write_str("both sides started at once, another one stays"),
            Self::PeerVanished { transmissions } => {
                write!(f, "the peer did not answer {transmissions} transmissions")
            }
            Self::Supplanted => f.write_str("the peer uses a newer one"),
            Self::InitialContact => f.write_str("the peer restarted"),
            Self::Displaced => f.write_str("the same identity has connected from elsewhere"),
            Self::Refused => f.write_str("the negotiation failed"),
            Self::Expired => f.write_str("its lifetime ended without a rekey"),
            Self::Shutdown => f.write_str("the gateway shuts down"),
            Self::ProtocolError { what } => write!(f, "the peer broke the protocol: {what}"),
        }
    }
}

/// Why a child SA is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovalReason {
    /// Another child SA has taken its place.
    Replaced,
    /// Both sides rekeyed or started at once; another one stays.
    Redundant,
    /// An operator, or a changed configuration, asked for it.
    Terminated,
    /// The peer deleted it.
    DeletedByPeer,
    /// Its lifetime ended without a rekey.
    Expired,
    /// Its IKE SA is gone.
    IkeClosed(CloseReason),
    /// It has not the mode that it is to have.
    OtherMode,
    /// The peer does not know it (any more).
    UnknownToPeer,
    /// The dataplane that held it is gone.
    DataplaneLost,
}

impl fmt::Display for RemovalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced => f.write_str("replaced"),
            Self::Redundant => f.write_str("both sides started at once, another one stays"),
            Self::Terminated => f.write_str("terminated here"),
            Self::DeletedByPeer => f.write_str("deleted by the peer"),
            Self::Expired => f.write_str("its lifetime ended without a rekey"),
            Self::IkeClosed(reason) => write!(f, "its IKE SA is gone: {reason}"),
            Self::OtherMode => f.write_str("it has not the mode that it is to have"),
            Self::UnknownToPeer => f.write_str("the peer does not know it"),
            Self::DataplaneLost => f.write_str("the dataplane that held it is gone"),
        }
    }
}
