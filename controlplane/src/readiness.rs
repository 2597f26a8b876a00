//! Waiting for a file descriptor that tokio has no type for: an eventfd, a pidfd, a seqpacket socket.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// A file descriptor whose readability can be awaited. Nobody reads or writes by it but who owns it.
#[derive(Debug)]
pub(crate) struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Registers the descriptor with the running runtime.
    ///
    /// # Errors
    ///
    /// What epoll says, e.g. for a regular file.
    #[expect(
        deprecated,
        reason = "deprecated since some types lie about their descriptor; `OwnedFd` cannot, \
                  and the replacement is unsafe, which this crate forbids"
    )]
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self(AsyncFd::with_interest(
            descriptor,
            Interest::READABLE,
        )?))
    }

    /// Waits until there is something to read, and remembers nothing of it: the caller empties the descriptor, or
    /// is done with it.
    pub(crate) async fn readable(&self) {
        match self.0.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            // The runtime is ending, and this future with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// The descriptor.
    pub(crate) fn get(&self) -> &OwnedFd {
        self.0.get_ref()
    }
}
