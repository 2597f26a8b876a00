//! The control plane's side of the handshake.

use super::{
    ANSWER_TIMEOUT, Peer, SOCKET_NAME, is_trusted,
    message::{Answer, MAX_MESSAGE, Unreadable, decode_answer, encode_setup},
    peer_of, set_timeouts, socket,
};
use crate::{
    ControlChannel, MAX_WORKERS, MapError, NotLocked, Setup, SetupError,
    layout::{LAYOUT_HASH, VERSION},
};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
        SocketAddrUnix, SocketFlags,
    },
};
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    path::{Path, PathBuf},
};

/// Why the control plane got no hold of a dataplane.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The setup is not one that can be.
    #[error("{0}")]
    Setup(#[from] SetupError),
    /// No dataplane listens.
    #[error(
        "no dataplane listens on {}: {error}; start `esplanade-dataplane --run-dir {}` first", path.display(),
        path.parent().unwrap_or(path).display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        error: Errno,
    },
    /// The socket cannot be used.
    #[error("the dataplane's socket {} cannot be used: {error}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        error: Errno,
    },
    /// Somebody else's process listens.
    #[error(
        "process {} of user {} listens on {}, who is neither root nor the user of this process: keys are not \
         told to it", peer.pid, peer.uid, path.display()
    )]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Who.
        peer: Peer,
    },
    /// The dataplane said no.
    #[error("the dataplane refused: {0}")]
    Refused(String),
    /// The dataplane did not answer.
    #[error("the dataplane did not answer within {} s; its log says what it waits for", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// The dataplane went away.
    #[error("the dataplane ended before it answered; its log says why")]
    Gone,
    /// The two are of different builds.
    #[error(
        "the dataplane's channel has version {} and layout {:016x}, this control plane's version {} and layout \
         {:016x}: restart both planes from the same build", theirs.0, theirs.1, ours.0, ours.1
    )]
    Mismatch {
        /// Our version and layout hash.
        ours: (u32, u64),
        /// The dataplane's.
        theirs: (u32, u64),
    },
    /// The answer makes no sense.
    #[error("what listens on {} does not answer as a dataplane does", path.display())]
    Garbage {
        /// The socket.
        path: PathBuf,
    },
    /// Too few or too many descriptors came with the answer.
    #[error(
        "the dataplane handed over {found} descriptors where the setup needs {wanted}; is the limit of open files \
         (RLIMIT_NOFILE) reached?"
    )]
    Descriptors {
        /// How many.
        found: usize,
        /// How many are needed.
        wanted: usize,
    },
    /// The header of the memory makes no sense.
    #[error("the dataplane's shared memory does not begin as it should: restart the dataplane")]
    Header,
    /// The memory cannot be used.
    #[error("{0}")]
    Map(#[from] MapError),
}

/// The memory, an eventfd for each worker, one for the steward and one for events.
const MAX_DESCRIPTORS: usize = MAX_WORKERS + 3;

impl ControlChannel {
    /// Takes hold of the dataplane in `run_dir`, which starts what `setup` says if it does not run yet. Memory that
    /// could not be locked comes with a warning.
    ///
    /// Blocks until the ports are open, a minute at most.
    ///
    /// # Errors
    ///
    /// Each in words for an operator.
    pub fn connect(
        run_dir: &Path,
        setup: &Setup,
    ) -> Result<(Self, Option<NotLocked>), ConnectError> {
        setup.check()?;
        let path = run_dir.join(SOCKET_NAME);
        let failed = |error| ConnectError::Socket {
            path: path.clone(),
            error,
        };
        let socket = socket(SocketFlags::empty()).map_err(failed)?;
        set_timeouts(&socket, ANSWER_TIMEOUT).map_err(failed)?;
        let address = SocketAddrUnix::new(&path).map_err(failed)?;
        rustix::net::connect(&socket, &address).map_err(|error| match error {
            Errno::NOENT | Errno::CONNREFUSED => ConnectError::NotRunning {
                path: path.clone(),
                error,
            },
            Errno::AGAIN => ConnectError::Timeout,
            _ => failed(error),
        })?;
        let peer = peer_of(&socket).map_err(failed)?;
        if !is_trusted(peer) {
            return Err(ConnectError::Stranger { path, peer });
        }
        rustix::net::send(&socket, &encode_setup(setup), SendFlags::NOSIGNAL)
            .map_err(gone_or(failed))?;
        let descriptors = receive(&socket, &path)?;
        Self::attach(socket, descriptors, setup)
    }
}

fn gone_or(failed: impl Fn(Errno) -> ConnectError) -> impl Fn(Errno) -> ConnectError {
    move |error| match error {
        Errno::PIPE | Errno::CONNRESET => ConnectError::Gone,
        Errno::AGAIN => ConnectError::Timeout,
        _ => failed(error),
    }
}

/// The answer, and the descriptors if it is yes.
pub(super) fn receive(socket: &OwnedFd, path: &Path) -> Result<Vec<OwnedFd>, ConnectError> {
    let failed = |error| ConnectError::Socket {
        path: path.to_owned(),
        error,
    };
    let mut message = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut message)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(gone_or(failed))?;
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Err(ConnectError::Gone);
    }
    let garbage = || ConnectError::Garbage {
        path: path.to_owned(),
    };
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(garbage());
    }
    let answer = message.get(..received.bytes).ok_or_else(garbage)?;
    match decode_answer(answer) {
        Ok(Answer::Granted) => Ok(descriptors),
        Ok(Answer::Refused { sentence }) => Err(ConnectError::Refused(sentence)),
        Err(Unreadable::Garbage) => Err(garbage()),
        Err(Unreadable::Mismatch { version, hash }) => Err(ConnectError::Mismatch {
            ours: (VERSION, LAYOUT_HASH),
            theirs: (version, hash),
        }),
    }
}
