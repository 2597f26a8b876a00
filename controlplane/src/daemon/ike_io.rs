//! IKE's UDP sockets: ports 500 and 4500 on every local address (RFC 7296 2 and 2.23, RFC 3948).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use esplanade_ike::{Path, Transmit};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinHandle};
use tracing::debug;

use crate::netlink::udp_port_holder;

/// The port of IKE (RFC 7296 2).
pub(super) const IKE_PORT: u16 = 500;
/// The port of IKE and ESP in UDP (RFC 3948).
pub(super) const NATT_PORT: u16 = 4500;
/// RFC 3948 2.2: "The Non-ESP Marker is 4 zero-valued bytes aligning with the SPI field of an ESP packet."
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// Datagrams that wait for the endpoint, before the kernel's own buffer begins to fill.
const WAITING: usize = 256;
/// The kernel's buffer for each socket, in bytes: a burst of a few hundred IKE_SA_INITs.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "UDP port {port} of {address} is held by {holder}: end it first, since only one IKE daemon can serve an address"
    )]
    Held {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// Name and process, as far as they can be seen.
        holder: String,
    },
    /// The address is not ours.
    #[error(
        "{0} is no address of this machine: give it to an interface, or correct the tunnel's local address"
    )]
    NoSuchAddress(IpAddr),
    /// Low ports need a capability.
    #[error(
        "UDP port {port} of {address} needs CAP_NET_BIND_SERVICE: run as root, or give it to the program"
    )]
    Forbidden {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// Anything else.
    #[error("UDP port {port} of {address} cannot be opened: {error}")]
    Io {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// What the kernel says.
        error: io::Error,
    },
}

/// A datagram as the endpoint wants it: without the marker of port 4500.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) path: Path,
    pub(super) data: Vec<u8>,
}

/// The two sockets of one address, bound but not yet served. Binding comes before privileges are dropped, serving
/// after the runtime has started.
#[derive(Debug)]
pub(super) struct Bound {
    address: IpAddr,
    ike: std::net::UdpSocket,
    natt: std::net::UdpSocket,
}

impl Bound {
    /// Binds both ports of `address`.
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub(super) fn new(address: IpAddr) -> Result<Self, BindError> {
        Ok(Self {
            address,
            ike: bind(address, IKE_PORT)?,
            natt: bind(address, NATT_PORT)?,
        })
    }
}

fn bind(address: IpAddr, port: u16) -> Result<std::net::UdpSocket, BindError> {
    open(address, port).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::Held {
            address,
            port,
            holder: udp_port_holder(address, port)
                .map_or_else(|| "another process".to_owned(), |holder| holder.to_string()),
        },
        io::ErrorKind::AddrNotAvailable => BindError::NoSuchAddress(address),
        io::ErrorKind::PermissionDenied => BindError::Forbidden { address, port },
        _ => BindError::Io {
            address,
            port,
            error,
        },
    })
}

fn open(address: IpAddr, port: u16) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(address, port)),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // An IKE message may be larger than the path: the kernel fragments it (RFC 7296 2), so DF stays clear.
    match address {
        IpAddr::V4(_) => {
            sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DONT)?
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DONT)?;
        }
    }
    // The system's limit may make it smaller; a smaller buffer only loses bursts, which peers repeat.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    // Who may not mark has no routes of a TAP to skip either: they take the same right.
    let _ = socket.set_mark(crate::guard::MARK);
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    Ok(socket.into())
}

/// Every address's sockets, served.
#[derive(Debug)]
pub(super) struct Sockets {
    pairs: BTreeMap<IpAddr, Pair>,
    received: mpsc::Sender<Datagram>,
}

#[derive(Debug)]
struct Pair {
    ike: Arc<UdpSocket>,
    natt: Arc<UdpSocket>,
    readers: [JoinHandle<()>; 2],
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

impl Sockets {
    /// Serves what was bound; datagrams come out of the receiver.
    ///
    /// # Errors
    ///
    /// What the runtime says when it takes a socket.
    pub(super) fn serve(bound: Vec<Bound>) -> io::Result<(Self, mpsc::Receiver<Datagram>)> {
        let (received, datagrams) = mpsc::channel(WAITING);
        let mut sockets = Self {
            pairs: BTreeMap::new(),
            received,
        };
        for pair in bound {
            sockets.add(pair)?;
        }
        Ok((sockets, datagrams))
    }

    /// Serves these addresses too.
    ///
    /// # Errors
    ///
    /// See [`BindError`]; nothing has changed then.
    pub(super) fn open(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), BindError> {
        let new = addresses
            .iter()
            .filter(|address| !self.pairs.contains_key(address));
        let bound: Vec<Bound> = new
            .map(|address| Bound::new(*address))
            .collect::<Result<_, _>>()?;
        for pair in bound {
            let address = pair.address;
            self.add(pair).map_err(|error| BindError::Io {
                address,
                port: IKE_PORT,
                error,
            })?;
        }
        Ok(())
    }

    /// Serves no other addresses than these.
    pub(super) fn keep(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.pairs.retain(|address, _| addresses.contains(address));
    }

    fn add(&mut self, bound: Bound) -> io::Result<()> {
        let ike = Arc::new(UdpSocket::from_std(bound.ike)?);
        let natt = Arc::new(UdpSocket::from_std(bound.natt)?);
        let readers = [
            tokio::spawn(receive(ike.clone(), self.received.clone())),
            tokio::spawn(receive(natt.clone(), self.received.clone())),
        ];
        self.pairs
            .insert(bound.address, Pair { ike, natt, readers });
        Ok(())
    }

    /// Sends a message; one that cannot be sent now is lost, and IKE repeats it.
    pub(super) fn send(&self, transmit: &Transmit) {
        let Path { local, remote } = transmit.path;
        let Some(pair) = self.pairs.get(&local.ip()) else {
            return;
        };
        let sent = if local.port() == NATT_PORT {
            pair.natt.try_send_to(&encapsulate(transmit), remote)
        } else {
            pair.ike.try_send_to(&transmit.data, remote)
        };
        if let Err(error) = sent {
            debug!("a message to {remote} was not sent: {error}");
        }
    }
}

async fn receive(socket: Arc<UdpSocket>, received: mpsc::Sender<Datagram>) {
    let Ok(local) = socket.local_addr() else {
        return;
    };
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, remote)) => {
                let Some(data) = buffer
                    .get(..length)
                    .and_then(|data| decapsulate(local.port(), data))
                else {
                    continue;
                };
                let data = data.to_vec();
                let path = Path { local, remote };
                if received.send(Datagram { path, data }).await.is_err() {
                    return;
                }
            }
            // What a peer's ICMP error says about an earlier message; retransmission deals with it.
            Err(error) => debug!("on {local}: {error}"),
        }
    }
}

/// What of a datagram is IKE: on port 4500 ESP, keepalives and short datagrams are not.
fn decapsulate(port: u16, data: &[u8]) -> Option<&[u8]> {
    if port == NATT_PORT {
        data.strip_prefix(&NON_ESP_MARKER)
    } else {
        Some(data)
    }
}

/// RFC 3948 2.3: a keepalive is the one octet 0xff and has no marker.
fn encapsulate(transmit: &Transmit) -> Cow<'_, [u8]> {
    if transmit.keepalive {
        return Cow::Borrowed(&transmit.data);
    }
    Cow::Owned([&NON_ESP_MARKER[..], &transmit.data].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_4500_carries_ike_behind_a_marker() {
        let mut transmit = Transmit {
            path: Path {
                local: "192.0.2.1:4500".parse().unwrap(),
                remote: "192.0.2.2:4500".parse().unwrap(),
            },
            data: b"message".to_vec(),
            keepalive: false,
        };
        assert_eq!(
            decapsulate(NATT_PORT, &encapsulate(&transmit)),
            Some(&b"message"[..])
        );
        transmit.keepalive = true;
        assert_eq!(encapsulate(&transmit), &b"message"[..]);
        assert_eq!(decapsulate(NATT_PORT, &[0xff]), None);
        assert_eq!(decapsulate(NATT_PORT, &[0, 0, 0x10, 0, 1, 2]), None);
        assert_eq!(decapsulate(NATT_PORT, &[]), None);
        assert_eq!(decapsulate(IKE_PORT, b"message"), Some(&b"message"[..]));
    }

    #[test]
    fn an_address_that_is_not_ours_is_named() {
        let error = bind("192.0.2.77".parse().unwrap(), 0).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("192.0.2.77 is no address of this machine"),
            "{error}"
        );
    }

    #[test]
    fn sockets_of_both_families_share_a_port() {
        let first = bind("0.0.0.0".parse().unwrap(), 0).unwrap();
        let port = first.local_addr().unwrap().port();
        // Unless it is told to keep to its family, a socket of IPv6 wants IPv4's too.
        let second = bind("::".parse().unwrap(), port).unwrap();
        let to = (std::net::Ipv6Addr::LOCALHOST, port);
        second.send_to(b"message", to).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = second.recv_from(&mut buffer).unwrap();
        assert_eq!((length, from.port()), (7, port));
        let error = first.recv_from(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_port_that_is_held_names_its_holder() {
        let address = "127.0.0.1".parse().unwrap();
        let first = bind(address, 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind(address, port).unwrap_err().to_string();
        let own = std::process::id().to_string();
        assert!(
            error.contains("is held by") && error.contains(&own),
            "{error}"
        );
    }
}
