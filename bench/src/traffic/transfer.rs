//! Bytes over TCP from one host to another, through the hosts' own kernels.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::testbed::{Namespace, wait_for};

const PORT: u16 = 40_001;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A connection on which nothing has moved for so long is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// What came out at the other end.
#[derive(Debug)]
pub struct Delivery {
    /// The bytes as received.
    pub bytes: Vec<u8>,
    /// From the first byte sent to the last received.
    pub took: Duration,
}

/// Sends bytes over one connection.
pub fn transfer(
    from: &Namespace,
    to: (&Namespace, impl Into<IpAddr>),
    bytes: &[u8],
) -> Result<Delivery> {
    let (to, address) = (to.0, to.1.into());
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let listener = to.enter(|| Ok(TcpListener::bind((any, PORT))?))?;
    let mut outgoing = from
        .enter(|| {
            Ok(TcpStream::connect_timeout(
                &SocketAddr::from((address, PORT)),
                CONNECT_LIMIT,
            )?)
        })
        .context("cannot connect to the other host")?;
    listener.set_nonblocking(true)?;
    let mut incoming = wait_for("the connection to arrive", CONNECT_LIMIT, || {
        Ok(listener.accept().ok().map(|(stream, _)| stream))
    })?;
    incoming.set_nonblocking(false)?;
    incoming.set_read_timeout(Some(STUCK))?;
    outgoing.set_write_timeout(Some(STUCK))?;
    let start = Instant::now();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut received = Vec::new();
            incoming.read_to_end(&mut received).map(|_| received)
        });
        outgoing
            .write_all(bytes)
            .context("the connection broke while sending")?;
        outgoing.shutdown(Shutdown::Write)?;
        reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .context("the connection broke while receiving")
    })?;
    Ok(Delivery {
        bytes: received,
        took: start.elapsed(),
    })
}

/// Bytes that no compression shortens and no run repeats, from a seed (splitmix64).
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = seed;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
