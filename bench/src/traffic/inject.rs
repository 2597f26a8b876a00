//! Single packets of any content, as an attacker on the wire would send them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::testbed::Namespace;

/// IP protocol 50.
const ESP: i32 = 50;

/// Sends each payload as an ESP packet (IP protocol 50) from a namespace's own address.
pub fn esp(from: &Namespace, to: Ipv4Addr, payloads: &[Vec<u8>]) -> Result<()> {
    let socket = from.enter(|| {
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(ESP))).context("a raw socket")
    })?;
    let to = SocketAddr::V4(SocketAddrV4::new(to, 0)).into();
    for payload in payloads {
        socket.send_to(payload, &to).context("cannot send ESP")?;
    }
    Ok(())
}

/// Sends each payload as a UDP datagram from any port of a namespace's own address.
pub fn udp(from: &Namespace, to: SocketAddrV4, payloads: &[Vec<u8>]) -> Result<()> {
    let socket = from.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    for payload in payloads {
        socket
            .send_to(payload, to)
            .context("cannot send a datagram")?;
    }
    Ok(())
}
