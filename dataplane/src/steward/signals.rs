//! What ends the dataplane: SIGTERM, SIGINT, and under a supervisor the end of standard input.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd},
    stdio,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::{io, os::unix::net::UnixStream};

/// Watches for the wish that the process end.
#[derive(Debug)]
pub(super) struct Signals {
    /// Gets a byte for every signal.
    received: UnixStream,
    supervised: bool,
}

impl Signals {
    pub(super) fn watch(supervised: bool) -> io::Result<Self> {
        let (received, sent) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, sent.try_clone()?)?;
        }
        Ok(Self {
            received,
            supervised,
        })
    }

    /// Readable when a signal came.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.received.as_fd()
    }

    /// Readable when the supervisor is gone.
    pub(super) fn input(&self) -> Option<BorrowedFd<'static>> {
        self.supervised.then(stdio::stdin)
    }

    /// Whether it is time to end.
    pub(super) fn stop(&self) -> bool {
        is_readable(self.fd()) || self.input().is_some_and(is_readable)
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
}
