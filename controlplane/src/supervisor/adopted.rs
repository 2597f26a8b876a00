//! A dataplane that an earlier supervisor left running (`--keep`), watched without being its parent.

use std::{path::Path, time::Duration};

use esplanade_channel::SOCKET_NAME;
use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::time::timeout;
use tracing::warn;

use crate::readiness::Readiness;

/// A running process that is not our child.
pub(super) struct Adopted {
    pid: Pid,
    handle: Readiness,
}

impl Adopted {
    /// The dataplane that listens in `run_dir`, if one does.
    pub(super) fn find(run_dir: &Path) -> Option<Self> {
        let address = SocketAddrUnix::new(run_dir.join(SOCKET_NAME)).ok()?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .ok()?;
        connect(&socket, &address).ok()?;
        // The kernel took them when the socket began to listen, so this is who listens.
        let pid = sockopt::socket_peercred(&socket).ok()?.pid;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let handle = Readiness::new(handle).ok()?;
        Some(Self { pid, handle })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until the process is gone: a pidfd becomes readable then.
    pub(super) async fn ended(&self) {
        self.handle.readable().await;
    }

    /// Ends the process, by force when it takes longer than `grace`.
    pub(super) async fn end(&self, grace: Duration) {
        let _ = pidfd_send_signal(self.handle.get(), Signal::TERM);
        if timeout(grace, self.ended()).await.is_err() {
            warn!("the dataplane did not end within {grace:?}: killed");
            let _ = pidfd_send_signal(self.handle.get(), Signal::KILL);
            self.ended().await;
        }
    }
}
