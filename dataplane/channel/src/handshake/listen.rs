//! The dataplane's side of the handshake.

use super::{
    MESSAGE_TIMEOUT, SOCKET_NAME, is_open, is_trusted,
    message::{Answer, MAX_MESSAGE, Unreadable, decode_setup, encode_answer},
    peer_of, set_timeouts, socket,
};
use crate::{
    ConnectError, ControlChannel, Segment, Setup, SetupDifference,
    layout::{LAYOUT_HASH, VERSION},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{FlockOperation, Mode, OFlags, fchmod, flock, open, stat, unlink},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        SocketAddrUnix, SocketFlags, SocketType,
    },
};
use std::{
    fs::DirBuilder,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its process; 0 when it is outside our PID namespace, as from a container to its host.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

/// Why the dataplane cannot be found by a control plane.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The run directory is not there and cannot be made.
    #[error("the run directory {} cannot be made: {error}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The run directory cannot be used.
    #[error("the run directory {} cannot be used: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        error: Errno,
    },
    /// Others could put their own socket there.
    #[error(
        "the run directory {} is writable for others than its owner (mode {mode:04o}), who could put their own \
         socket there: `chmod go-w` it, or take another", path.display()
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another dataplane starts in the same directory just now.
    #[error("another dataplane is starting in {}", path.display())]
    Starting {
        /// The directory.
        path: PathBuf,
    },
    /// Another dataplane runs in the same directory.
    #[error("process {pid} listens on {} already: stop it, or take another run directory", path.display())]
    Held {
        /// The socket.
        path: PathBuf,
        /// The process.
        pid: u32,
    },
    /// No socket, or not there.
    #[error("cannot listen on {}: {error}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        error: Errno,
    },
}

/// The dataplane's socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file, so that nobody else's is removed.
    file: (u64, u64),
}

impl Listener {
    /// Listens in `run_dir`, which is made for us alone when it is not there. A socket file that a killed dataplane
    /// left behind is replaced; one on which somebody listens is not.
    ///
    /// # Errors
    ///
    /// Each in words for an operator.
    pub fn bind(run_dir: &Path) -> Result<Self, BindError> {
        let made = DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(run_dir);
        made.map_err(|error| BindError::MakeDirectory {
            path: run_dir.to_owned(),
            error,
        })?;
        let path = run_dir.join(SOCKET_NAME);
        // Held to the end of this function.
        let _lock = lock(run_dir)?;
        remove_stale(&path)?;
        let failed = |error| BindError::Socket {
            path: path.clone(),
            error,
        };
        let socket = socket(SocketFlags::NONBLOCK).map_err(failed)?;
        // The file of a socket is made with the permissions that the socket has when it is bound.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let address = SocketAddrUnix::new(&path).map_err(failed)?;
        rustix::net::bind(&socket, &address).map_err(failed)?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
        let file = stat(&path).map_err(failed)?;
        Ok(Self {
            socket,
            path,
            file: (file.st_dev, file.st_ino),
        })
    }

    /// Readable when a control plane asks.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits until a control plane has said what it wants, `timeout` at most and a little more for a slow one; `None`
    /// when none came, or a signal did.
    ///
    /// # Errors
    ///
    /// When one came and was sent away, which the dataplane may log and forget.
    pub fn accept(&self, timeout: Duration) -> Result<Option<Pending>, AcceptError> {
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut ready, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(AcceptError::Socket(error)),
        }
        let socket = match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(error) => return Err(AcceptError::Socket(error)),
        };
        Pending::receive(socket)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = |file: rustix::fs::Stat| (file.st_dev, file.st_ino) == self.file;
        if stat(&self.path).is_ok_and(ours) {
            // A file that stays is replaced at the next start.
            let _ = unlink(&self.path);
        }
    }
}

/// Sees that nobody else starts here at the same time, nor could put a socket of his own here.
fn lock(run_dir: &Path) -> Result<OwnedFd, BindError> {
    let failed = |error| BindError::Directory {
        path: run_dir.to_owned(),
        error,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(run_dir, flags, Mode::empty()).map_err(failed)?;
    let mode = rustix::fs::fstat(&directory).map_err(failed)?.st_mode;
    if mode & 0o022 != 0 {
        return Err(BindError::Writable {
            path: run_dir.to_owned(),
            mode: mode & 0o7777,
        });
    }
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(Errno::WOULDBLOCK) => Err(BindError::Starting {
            path: run_dir.to_owned(),
        }),
        Err(error) => Err(failed(error)),
    }
}

/// Removes a socket file on which nobody listens.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Socket {
        path: path.to_owned(),
        error,
    };
    let probe = socket(SocketFlags::NONBLOCK).map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::CONNREFUSED) => unlink(path).map_err(failed),
        // A full backlog is a listener, too.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::Held {
            path: path.to_owned(),
            pid: peer_of(&probe).map_or(0, |peer| peer.pid),
        }),
        Err(error) => Err(failed(error)),
    }
}

/// Why a control plane that came was sent away.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The socket failed.
    #[error("the socket of the control plane failed: {0}")]
    Socket(Errno),
    /// Not somebody to be trusted.
    #[error(
        "process {} of user {} asked for the dataplane's memory and is neither root nor the user of this process",
        .0.pid, .0.uid
    )]
    Stranger(Peer),
    /// It said nothing, or nothing that makes sense.
    #[error("process {} connected and said nothing that makes sense", .0.pid)]
    Garbage(Peer),
    /// It is of another build.
    #[error(
        "the control plane (process {}) has a channel of version {version} and layout {hash:016x}, this dataplane \
         of version {VERSION} and layout {LAYOUT_HASH:016x}: restart both planes from the same build", peer.pid
    )]
    Mismatch {
        /// Who.
        peer: Peer,
        /// Its version.
        version: u32,
        /// Its layout hash.
        hash: u64,
    },
}

/// A control plane that waits for an answer.
#[derive(Debug)]
pub struct Pending {
    socket: OwnedFd,
    peer: Peer,
    setup: Setup,
}

impl Pending {
    fn receive(socket: OwnedFd) -> Result<Option<Self>, AcceptError> {
        set_timeouts(&socket, MESSAGE_TIMEOUT).map_err(AcceptError::Socket)?;
        let peer = peer_of(&socket).map_err(AcceptError::Socket)?;
        let refuse = |error: AcceptError| {
            let answer = Answer::Refused {
                sentence: error.to_string(),
            };
            // It is sent away whether it hears why or not.
            let _ = send(&socket, &answer, &[]);
            error
        };
        if !is_trusted(peer) {
            return Err(refuse(AcceptError::Stranger(peer)));
        }
        let mut message = [0; MAX_MESSAGE];
        let received = match rustix::net::recv(&socket, &mut message, RecvFlags::TRUNC) {
            // One that only looked whether somebody listens.
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(None),
            Ok((_, received)) => message.get(..received),
            Err(Errno::AGAIN) => None,
            Err(error) => return Err(AcceptError::Socket(error)),
        };
        match received.map(decode_setup) {
            Some(Ok(setup)) => Ok(Some(Self {
                socket,
                peer,
                setup,
            })),
            Some(Err(Unreadable::Mismatch { version, hash })) => {
                Err(refuse(AcceptError::Mismatch {
                    peer,
                    version,
                    hash,
                }))
            }
            Some(Err(Unreadable::Garbage)) | None => Err(refuse(AcceptError::Garbage(peer))),
        }
    }

    /// What it wants.
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Who it is.
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// Sends it away with a sentence for its operator. One that does not listen any more is away already.
    pub fn refuse(self, sentence: &str) {
        let answer = Answer::Refused {
            sentence: sentence.to_owned(),
        };
        let _ = send(&self.socket, &answer, &[]);
    }

    /// Hands it the segment, if that is the one that it wants; otherwise it is told in what they differ.
    ///
    /// # Errors
    ///
    /// When they differ, or it is away.
    pub fn grant(self, segment: &Segment) -> Result<Connection, GrantError> {
        if let Some(difference) = segment.setup().difference(&self.setup) {
            self.refuse(&difference.to_string());
            return Err(GrantError::Different(difference));
        }
        send(&self.socket, &Answer::Granted, &segment.descriptors()).map_err(GrantError::Send)?;
        Ok(Connection {
            socket: self.socket,
            peer: self.peer,
        })
    }
}

/// Why a control plane did not get the segment.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// It wants another setup.
    #[error("the control plane wants another setup: {0}")]
    Different(SetupDifference),
    /// It went away, or the kernel does not pass descriptors.
    #[error("the shared memory could not be handed to the control plane: {0}")]
    Send(Errno),
}

/// A control plane that has the segment.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    peer: Peer,
}

impl Connection {
    /// Readable when the control plane is gone.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Who it is.
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// Whether the control plane is still there.
    pub fn is_open(&self) -> bool {
        is_open(&self.socket)
    }
}

/// Why a segment was not joined within its process.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The kernel refused.
    #[error("no socket pair or descriptor: {0}")]
    Kernel(#[from] Errno),
    /// The control plane's side refused.
    #[error("{0}")]
    Connect(#[from] ConnectError),
}

impl Segment {
    /// Both ends in one process, without a socket file: for benches, and for tests of either plane.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn connect_locally(&self) -> Result<(ControlChannel, Connection), LocalError> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        set_timeouts(&theirs, MESSAGE_TIMEOUT)?;
        send(&ours, &Answer::Granted, &self.descriptors())?;
        let descriptors = super::connect::receive(&theirs, Path::new("(a socket pair)"))?;
        let (channel, _) = ControlChannel::attach(theirs, descriptors, self.setup())?;
        let peer = peer_of(&ours)?;
        Ok((channel, Connection { socket: ours, peer }))
    }
}

/// Sends an answer and what comes with it.
fn send(socket: &OwnedFd, answer: &Answer, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let rights = SendAncillaryMessage::ScmRights(descriptors);
    let mut space = vec![MaybeUninit::uninit(); rights.size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(rights) {
        return Err(Errno::NOBUFS);
    }
    let message = encode_answer(answer);
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&message)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}
