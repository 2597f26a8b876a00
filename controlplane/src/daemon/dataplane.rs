//! The dataplane as the daemon has hold of it, and the task that gets hold of it again when it was away.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use esplanade_channel::{
    Command, ConnectError, ControlChannel, Epoch, EventError, Full, Sequence, Setup, WorkerId,
};
use tokio::{sync::mpsc, time::sleep};
use tracing::{info, warn};

use super::courier::{Courier, Rings};
use crate::readiness::Readiness;

/// How often an absent dataplane is looked for: traffic waits for it. A look is one failing system call.
const ABSENT: Duration = Duration::from_millis(10);
/// How long to wait after it refused: the cause is rarely gone at once.
const REFUSED: Duration = Duration::from_secs(1);

/// A connected dataplane.
#[derive(Debug)]
pub(super) struct Dataplane {
    pub(super) courier: Courier<ControlChannel>,
    /// Readable when there are events.
    pub(super) events: Arc<Readiness>,
    /// Readable when it is gone.
    pub(super) gone: Arc<Readiness>,
}

impl Rings for ControlChannel {
    fn push(&mut self, ring: usize, command: &Command) -> Result<Sequence, Full> {
        let sender = self.senders().get_mut(ring).ok_or(Full)?;
        sender.push(command)
    }

    fn pushed(&mut self, ring: usize) -> Sequence {
        self.senders()
            .get(ring)
            .map_or(Sequence(0), |sender| sender.pushed())
    }

    fn applied(&mut self, ring: usize) -> Sequence {
        self.senders()
            .get(ring)
            .map_or(Sequence(0), |sender| sender.applied())
    }

    fn wake(&mut self, ring: usize) {
        if let Some(sender) = self.senders().get(ring) {
            sender.wake();
        }
    }
}

impl Dataplane {
    /// Takes a fresh connection.
    ///
    /// # Errors
    ///
    /// What the kernel says when its descriptors are watched.
    pub(super) fn new(channel: ControlChannel) -> io::Result<Self> {
        let events = Readiness::new(channel.event_fd().try_clone_to_owned()?)?;
        let gone = Readiness::new(channel.socket_fd().try_clone_to_owned()?)?;
        let workers = channel.setup().workers.len();
        Ok(Self {
            courier: Courier::new(channel, workers),
            events: Arc::new(events),
            gone: Arc::new(gone),
        })
    }

    /// The channel.
    pub(super) fn channel(&mut self) -> &mut ControlChannel {
        self.courier.rings()
    }

    /// This life of the dataplane.
    pub(super) fn epoch(&mut self) -> Epoch {
        self.channel().epoch()
    }

    /// The next thing that a worker or the steward tells.
    pub(super) fn next_event(
        &mut self,
    ) -> Option<(WorkerId, Result<esplanade_channel::Event, EventError>)> {
        self.channel().next_event()
    }
}

/// What comes of looking for the dataplane.
#[derive(Debug)]
pub(super) enum Progress {
    /// It is here.
    Connected(Box<ControlChannel>),
    /// It is not, and why; said once for each reason.
    Trouble(String),
}

/// Looks for the dataplane until it is there. The first of `setups` that it accepts is taken: what the
/// configuration wants, then what a dataplane that still runs was started with.
pub(super) async fn find(run_dir: PathBuf, setups: Vec<Setup>, progress: mpsc::Sender<Progress>) {
    let setups = Arc::new(setups);
    let mut last = String::new();
    loop {
        let (directory, wanted) = (run_dir.clone(), setups.clone());
        let found = tokio::task::spawn_blocking(move || try_setups(&directory, &wanted)).await;
        let error = match found {
            Ok(Ok(channel)) => {
                let _ = progress.send(Progress::Connected(Box::new(channel))).await;
                return;
            }
            Ok(Err(error)) => error,
            // The runtime is ending.
            Err(_) => return,
        };
        let absent = matches!(error, ConnectError::NotRunning { .. } | ConnectError::Gone);
        let trouble = error.to_string();
        if trouble != last {
            if absent {
                info!("waiting for the dataplane in {}", run_dir.display());
            } else {
                warn!("{trouble}");
            }
            last.clone_from(&trouble);
            if progress.send(Progress::Trouble(trouble)).await.is_err() {
                return;
            }
        }
        sleep(if absent { ABSENT } else { REFUSED }).await;
    }
}

fn try_setups(run_dir: &Path, setups: &[Setup]) -> Result<ControlChannel, ConnectError> {
    let mut outcome = Err(ConnectError::Gone);
    for setup in setups {
        outcome = ControlChannel::connect(run_dir, setup);
        if !matches!(outcome, Err(ConnectError::Refused(_))) {
            break;
        }
    }
    let (channel, not_locked) = outcome?;
    if let Some(warning) = not_locked {
        warn!("{warning}");
    }
    Ok(channel)
}
