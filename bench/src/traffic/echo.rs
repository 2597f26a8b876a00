//! Datagrams of chosen lengths from one host to another and back, through the hosts' own kernels, which check and make their
//! checksums.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::transfer::noise;
use crate::testbed::Namespace;

const PORT: u16 = 40_002;
/// How many are on their way at a time: fewer than any queue holds.
const AT_A_TIME: usize = 16;
/// None is on its way for so long.
const LOST: Duration = Duration::from_secs(2);

/// Sends a datagram of each of these lengths to the other host, which sends it back. An error names what did not come, came
/// changed or came twice.
pub fn exchange(
    (from, source): (&Namespace, IpAddr),
    (to, destination): (&Namespace, IpAddr),
    lengths: &BTreeSet<usize>,
) -> Result<()> {
    let near = bound(from, source)?;
    let far = bound(to, destination)?;
    let (source, destination) = (near.local_addr()?, far.local_addr()?);
    let lengths: Vec<usize> = lengths.iter().copied().collect();
    for some in lengths.chunks(AT_A_TIME) {
        pass(&near, (&far, destination), some)
            .with_context(|| format!("from {source} to {destination}"))?;
        pass(&far, (&near, source), some)
            .with_context(|| format!("from {destination} to {source}"))?;
    }
    Ok(())
}

fn bound(namespace: &Namespace, address: IpAddr) -> Result<UdpSocket> {
    let socket = namespace.enter(|| {
        UdpSocket::bind((address, PORT)).with_context(|| format!("cannot listen at {address}"))
    })?;
    socket.set_read_timeout(Some(LOST))?;
    Ok(socket)
}

fn pass(from: &UdpSocket, to: (&UdpSocket, SocketAddr), lengths: &[usize]) -> Result<()> {
    let (to, address) = to;
    let content = |length: usize| noise(length, length as u64);
    for &length in lengths {
        from.send_to(&content(length), address)
            .with_context(|| format!("cannot send {length} bytes"))?;
    }
    let mut missing: BTreeSet<usize> = lengths.iter().copied().collect();
    let mut bytes = vec![0; 65_536];
    while !missing.is_empty() {
        let length = to
            .recv(&mut bytes)
            .with_context(|| format!("datagrams of {missing:?} bytes did not come"))?;
        ensure!(missing.remove(&length), "{length} bytes came unasked");
        ensure!(
            bytes[..length] == content(length),
            "{length} bytes came changed"
        );
    }
    Ok(())
}
