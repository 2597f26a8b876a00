//! How the planes find each other: a Unix socket in the run directory, over which the dataplane hands its memory to
//! a control plane that asks for the setup that it runs with. The socket stays open, and its end is how each learns
//! that the other is gone.

mod connect;
mod listen;
mod message;
#[cfg(test)]
mod tests;

pub(crate) use message::{decode_answer, decode_setup};

pub use connect::ConnectError;
pub use listen::{
    AcceptError, BindError, Connection, GrantError, Listener, LocalError, Peer, Pending,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::geteuid,
};
use std::time::Duration;

/// The name of the socket in the run directory.
pub const SOCKET_NAME: &str = "dataplane.sock";

/// How long one message may take from a peer that is not busy.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the dataplane may take to open its ports.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A socket of the kind that both sides use; `flags` beside close-on-exec.
fn socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | flags,
        None,
    )
}

fn set_timeouts(socket: &OwnedFd, receive: Duration) -> Result<(), Errno> {
    set_socket_timeout(socket, Timeout::Send, Some(MESSAGE_TIMEOUT))?;
    set_socket_timeout(socket, Timeout::Recv, Some(receive))
}

/// Who is at the other end, as the kernel says. Not by rustix, which has no process 0: that is what a peer outside
/// our PID namespace has.
fn peer_of(socket: &OwnedFd) -> Result<Peer, Errno> {
    let credentials = getsockopt(socket, PeerCredentials)
        .map_err(|error| Errno::from_raw_os_error(error as i32))?;
    Ok(Peer {
        pid: credentials.pid().cast_unsigned(),
        uid: credentials.uid(),
    })
}

/// Whether a peer may be told keys: our own user, or root.
fn is_trusted(peer: Peer) -> bool {
    peer.uid == 0 || peer.uid == geteuid().as_raw()
}

/// Whether the other end still holds its socket. It sends nothing more once the handshake is done, so whatever can
/// be read is its end.
pub(crate) fn is_open(socket: &OwnedFd) -> bool {
    let mut byte = [0; 1];
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let read = rustix::net::recv(socket, &mut byte, flags);
    matches!(read.map(|(_, n)| n), Err(Errno::AGAIN | Errno::INTR))
}
