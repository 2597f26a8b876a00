//! What the endpoint tells: child SAs to install and remove, and what an operator wants to know.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::config::{Identity, Mode, Protection, Secret, TrafficSelector};
use crate::error::{CloseReason, Refusal, RemovalReason};
use crate::wire::configuration::Given;

/// Where a datagram goes from and to. A local port of 4500 means the NAT-T socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From where to where.
    pub path: Path,
    /// The IKE message, or the one octet of a keepalive.
    pub data: Vec<u8>,
    /// A NAT keepalive (RFC 3948 2.3): it goes out as it is. Everything else that leaves from
    /// port 4500 gets the four zero octets of the non-ESP marker in front.
    pub keepalive: bool,
}

/// The ports of ESP in UDP (RFC 3948).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpPorts {
    /// Our port, 4500.
    pub local: u16,
    /// The peer's port as we see it.
    pub remote: u16,
}

/// What happened. Events must be handled before the transmits that were queued with them: what
/// an event installs must be there when the peer has read our message.
#[derive(Clone, Debug)]
pub enum Event {
    /// An IKE SA stands (also after a rekey).
    IkeEstablished {
        /// The peer's name.
        peer: String,
        /// Whether we started its negotiation.
        initiator: bool,
        /// The addresses in use.
        path: Path,
        /// The suite, as an operator would write it.
        suite: String,
        /// Whether it takes the place of an older one.
        rekeyed: bool,
    },
    /// An IKE SA is gone. One that was replaced by a rekey says so in its reason.
    IkeClosed {
        /// The peer's name.
        peer: String,
        /// Why.
        reason: CloseReason,
    },
    /// The peer has given us addresses within the tunnel, name servers and networks; it comes before the child SAs
    /// that use them. They are ours as long as an IKE SA with this peer stands.
    AddressesGiven {
        /// The peer's name.
        peer: String,
        /// What it gives.
        given: Given,
    },
    /// A pair of SAs is to be installed.
    ChildInstalled(Box<ChildSa>),
    /// From now on the outbound half of this child SA is the one to use.
    OutboundSelected {
        /// The peer's name.
        peer: String,
        /// The child's name.
        child: String,
        /// The child SA, by its inbound SPI.
        inbound: u32,
    },
    /// A peer behind a NAT has another address or port (RFC 7296 2.23). What goes to it in UDP by these
    /// child SAs goes there from now on.
    PeerMoved {
        /// The peer's name.
        peer: String,
        /// Where it is.
        remote: SocketAddr,
        /// The child SAs, by their inbound SPIs.
        children: Vec<u32>,
    },
    /// Both halves of a child SA are to be removed.
    ChildRemoved {
        /// The peer's name.
        peer: String,
        /// The child's name.
        child: String,
        /// The child SA, by its inbound SPI.
        inbound: u32,
        /// Why.
        reason: RemovalReason,
    },
    /// A negotiation failed, by us or by the peer.
    Refused {
        /// The peer's name, where it is known who it is.
        peer: Option<String>,
        /// The peer's address.
        remote: SocketAddr,
        /// Why.
        reason: Refusal,
    },
}

/// The addresses with which a peer behind a NAT makes its packets of transport mode, for the
/// checksums within (RFC 7296 2.23.1, RFC 3948 3.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    /// Ours, as the peer knows it.
    pub local: std::net::IpAddr,
    /// The peer's own.
    pub remote: std::net::IpAddr,
}

/// A pair of SAs.
#[derive(Clone, Debug)]
pub struct ChildSa {
    /// The peer's name.
    pub peer: String,
    /// Of an instance of a peer that many may be, who it is.
    pub identity: Option<Identity>,
    /// The child's name.
    pub child: String,
    /// Our SPI: the peer writes it into the packets that it sends us.
    pub inbound: u32,
    /// The peer's SPI: we write it into the packets that we send.
    pub outbound: u32,
    /// What both do to packets.
    pub protection: Protection,
    /// The keys of what we receive: the cipher's, and the salt or the integrity key behind it.
    pub inbound_key: Secret,
    /// The keys of what we send.
    pub outbound_key: Secret,
    /// Extended sequence numbers.
    pub esn: bool,
    /// What its packets hold.
    pub mode: Mode,
    /// In transport mode through a NAT, what the peer's packets were before it.
    pub original: Option<Original>,
    /// Whether the peer takes padding behind the inner packet (RFC 4303 2.7): it has not sent
    /// ESP_TFC_PADDING_NOT_SUPPORTED.
    pub peer_takes_tfc_padding: bool,
    /// Our outer address.
    pub local: std::net::IpAddr,
    /// The peer's outer address.
    pub remote: std::net::IpAddr,
    /// ESP goes in UDP with these ports.
    pub encapsulation: Option<UdpPorts>,
    /// The peer alone is behind a NAT: where that moves it, it is followed (RFC 7296 2.23), and who
    /// finds out first tells the other by [`Event::PeerMoved`] or
    /// [`Endpoint::peer_moved`](crate::Endpoint::peer_moved).
    pub follow: bool,
    /// Our side's selectors, as narrowed.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side's selectors, as narrowed.
    pub remote_ts: Vec<TrafficSelector>,
    /// The child SA whose place this one takes, by its inbound SPI. It stays until its own
    /// [`Event::ChildRemoved`].
    pub replaces: Option<u32>,
    /// Send by this SA at once; otherwise by the old one until [`Event::OutboundSelected`].
    pub use_outbound_now: bool,
}

/// A child SA that a restarted control plane found in the dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedChild {
    /// The peer's name.
    pub peer: String,
    /// Of an instance, who it is.
    pub identity: Option<Identity>,
    /// Of an instance, what it claims on its side.
    pub remote_ts: Vec<TrafficSelector>,
    /// The child's name.
    pub child: String,
    /// Our SPI.
    pub inbound: u32,
    /// The peer's SPI.
    pub outbound: u32,
    /// What its packets hold.
    pub mode: Mode,
    /// The peer's outer address.
    pub remote: std::net::IpAddr,
    /// ESP goes in UDP with these ports.
    pub encapsulation: Option<UdpPorts>,
    /// Whether outbound traffic uses it now.
    pub selected: bool,
}

/// An IKE SA as `status` shows it.
#[derive(Clone, Debug)]
pub struct IkeSaView {
    /// The peer's name; `None` while a responder does not know who calls.
    pub peer: Option<String>,
    /// Who the peer has proved to be, or is to.
    pub identity: Option<Identity>,
    /// What it is doing.
    pub state: &'static str,
    /// Whether we started its negotiation.
    pub initiator: bool,
    /// Our SPI.
    pub local_spi: u64,
    /// The peer's SPI.
    pub remote_spi: u64,
    /// The addresses in use.
    pub path: Path,
    /// The suite, once chosen.
    pub suite: Option<String>,
    /// Whether there is a NAT before us.
    pub behind_nat: bool,
    /// Whether there is a NAT before the peer.
    pub peer_behind_nat: bool,
    /// When it was established.
    pub established: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// How many child SAs it holds.
    pub children: usize,
    /// The addresses of a pool: those that the peer has of us, or we have of the peer.
    pub addresses: Vec<IpAddr>,
    /// The request that waits for its response.
    pub outstanding: Option<Outstanding>,
}

/// A request that the peer has not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// How often it was sent.
    pub transmissions: u32,
    /// When it was sent first.
    pub since: Instant,
}

/// A child SA as `sas` shows it.
#[derive(Clone, Debug)]
pub struct ChildSaView {
    /// The peer's name.
    pub peer: String,
    /// The child's name.
    pub child: String,
    /// What it is doing.
    pub state: &'static str,
    /// Our SPI.
    pub inbound: u32,
    /// The peer's SPI.
    pub outbound: u32,
    /// The suite; `None` for an adopted SA, whose suite only the dataplane knows.
    pub suite: Option<String>,
    /// What its packets hold.
    pub mode: Mode,
    /// The peer's outer address.
    pub remote: std::net::IpAddr,
    /// ESP goes in UDP with these ports.
    pub encapsulation: Option<UdpPorts>,
    /// Our side's selectors.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side's selectors.
    pub remote_ts: Vec<TrafficSelector>,
    /// Whether outbound traffic uses it.
    pub selected: bool,
    /// When it was installed (adopted).
    pub installed: Instant,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
}
