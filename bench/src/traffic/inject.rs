//! Single packets of any content, as an attacker on the wire would send them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result};
use esplanade_wire::ipv4;
use socket2::{Domain, Protocol, Socket, Type};

use crate::testbed::Namespace;

/// IP protocol 50.
const ESP: i32 = 50;
/// The sender writes the IP header.
const RAW: i32 = 255;

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

/// Sends each payload as the first fragment of an ESP packet of which no other ever comes, with identifications from
/// this one on.
pub fn first_fragments(
    namespace: &Namespace,
    from: Ipv4Addr,
    to: Ipv4Addr,
    identification: u16,
    payloads: &[Vec<u8>],
) -> Result<()> {
    let socket = namespace.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)));
        socket.context("a raw socket")
    })?;
    let address = SocketAddr::V4(SocketAddrV4::new(to, 0)).into();
    for (number, payload) in (0_u16..).zip(payloads) {
        // RFC 791 3.2: all fragments but the last are of a multiple of 8 octets.
        let payload = payload.get(..payload.len() & !7).unwrap_or_default();
        let repr = ipv4::Repr {
            dont_fragment: false,
            identification: identification.wrapping_add(number),
            ..ipv4::Repr::new(
                from,
                to,
                esplanade_wire::Protocol::ESP,
                payload.len() as u16,
            )
        };
        let mut packet = repr.bytes().to_vec();
        // More fragments; the kernel computes the checksum anew.
        packet[6] |= 0x20;
        packet.extend(payload);
        socket
            .send_to(&packet, &address)
            .context("cannot send a fragment")?;
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
