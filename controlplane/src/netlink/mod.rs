//! What the kernel knows and we only follow: links, addresses, routes and neighbours, over rtnetlink.
//!
//! [`Monitor`] holds a picture of them, [`Tables`], that it keeps current; it also has the kernel resolve the
//! neighbours that the dataplane sends to, since traffic through AF_XDP does not. [`udp_port_holder`] answers one
//! question of another kind: which process holds IKE's ports.

mod holder;
mod monitor;
mod neighbor;
mod state;

use std::{collections::BTreeMap, io, net::IpAddr};

use esplanade_config::Prefix;
use rtnetlink::Handle;
use rustix::io::Errno;

pub use holder::{Holder, udp_port_holder};
pub use monitor::Monitor;

/// The kernel's tables as the dataplane needs them, of both families. What is of one link only (fe80::/10, ff00::/8) is
/// left out, but for neighbours: a gateway may well be named by its link-local address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Every link by its index.
    pub links: BTreeMap<u32, Link>,
    /// For every prefix (first address, length), the route that the kernel would take: that of the table `local`, else
    /// the one of the lowest metric in `main`. Of several next hops, the first.
    pub routes: BTreeMap<(IpAddr, u8), Route>,
    /// The neighbours that packets can be sent to, by link and address.
    pub neighbors: BTreeMap<(u32, IpAddr), Neighbor>,
}

impl Tables {
    /// The networks that are directly on a link.
    pub fn attached(&self, link: u32) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        self.routes
            .iter()
            .filter(move |(_, route)| {
                route.interface == Some(link) && route.gateway.is_none() && !route.unreachable
            })
            .map(|(prefix, _)| *prefix)
    }

    /// The route to an address: that of the longest prefix. Looks at every route.
    pub fn route_to(&self, address: IpAddr) -> Option<&Route> {
        let covers = |(first, length): (IpAddr, u8)| {
            let prefix = Prefix::containing(first, length);
            prefix.is_some_and(|prefix| prefix.contains(address))
        };
        let routes = self.routes.iter().filter(|(prefix, _)| covers(**prefix));
        let longest = routes.max_by_key(|((_, length), _)| *length);
        longest.map(|(_, route)| route)
    }
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its Ethernet address; zeros if it has none.
    pub mac: [u8; 6],
    /// The largest packet that it sends, in bytes of IP.
    pub mtu: u32,
    /// Is it switched on, with a carrier?
    pub up: bool,
    /// Its addresses, but for link-local ones of IPv6, in the order of their value: those of IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// Where packets to a prefix go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The link that they leave by; `None` for those that the kernel takes itself, and those that go nowhere.
    pub interface: Option<u32>,
    /// The next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The route's own MTU in bytes of IP; 0 if it has none.
    pub mtu: u32,
    /// The kernel refuses or drops packets to this prefix.
    pub unreachable: bool,
}

/// A neighbour that packets can be sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbor {
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

/// Why the kernel's tables cannot be followed or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no netlink socket to be had.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("the kernel refuses to {what}: {source}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// What it said.
        source: rtnetlink::Error,
    },
    /// The netlink socket failed and is closed.
    #[error("the netlink socket is closed")]
    Closed,
}

impl Error {
    /// Turns the kernel's answer into an error that says what was asked.
    pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Refused { what, source }
    }

    /// Whether it is that the kernel has no such address family.
    pub(crate) fn is_without_family(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT)
        )
    }

    /// The number of the kernel's answer, if it was one.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused {
                source: rtnetlink::Error::NetlinkError(answer),
                ..
            } => Errno::from_io_error(&answer.to_io()),
            _ => None,
        }
    }
}

/// Opens a connection for requests, in the network namespace of the calling thread. Needs a tokio runtime.
pub(crate) fn connect() -> Result<Handle, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
    tokio::spawn(connection);
    Ok(handle)
}
