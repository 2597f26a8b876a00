//! `esplanade run`: both planes as child processes, for people without systemd.
//!
//! A plane that ends is started again, the first time at once, since traffic waits for it, then after a wait that
//! doubles up to a bound; one that gives up within the first moments of its first start is not, since the mistake is
//! then the operator's. The end is orderly: the control
//! plane says goodbye to the peers while the dataplane still runs. Both planes hold the read end of a pipe as
//! standard input and end when it does, so that a supervisor that is killed leaves no orphans.

use std::{
    env,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use crate::{
    configuration,
    lock::{self, LockError},
};

mod adopted;
mod plane;

use plane::{Keeper, Stop};

/// The dataplane's program.
const DATAPLANE: &str = "esplanade-dataplane";
/// The control plane's program.
const CONTROLPLANE: &str = "esplanade-controlplane";
/// The file whose lock says that a supervisor serves the run directory.
const LOCK: &str = "supervisor.lock";

/// How patient the supervisor is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The wait before the second restart in a row, as the first does not wait; each further one waits twice as long.
    pub first_wait: Duration,
    /// The longest wait before a restart.
    pub longest_wait: Duration,
    /// A plane that ran this long has recovered: its next restart does not wait.
    pub settled: Duration,
    /// A plane that exits, rather than being killed, this soon after its first start is not restarted.
    pub hopeless: Duration,
    /// How long a plane may take to end after SIGTERM before it is killed.
    pub grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(10),
            settled: Duration::from_secs(10),
            hopeless: Duration::from_secs(1),
            grace: Duration::from_secs(5),
        }
    }
}

/// What to run and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The YAML file.
    pub config: PathBuf,
    /// Where the planes keep their sockets.
    pub run_dir: PathBuf,
    /// Leave the tunnels and the dataplane up at the end.
    pub keep: bool,
    /// The dataplane's program.
    pub dataplane: PathBuf,
    /// The control plane's program.
    pub controlplane: PathBuf,
    /// How patient to be.
    pub pace: Pace,
}

/// Why the planes do not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A plane's program is not installed.
    #[error("{program} is neither beside {beside} nor in PATH: install it there")]
    NoProgram {
        /// The program's name.
        program: &'static str,
        /// Where this program is.
        beside: PathBuf,
    },
    /// The configuration has mistakes.
    #[error("the configuration has mistakes\n\n{0}")]
    Config(String),
    /// The run directory cannot be used.
    #[error(
        "cannot use the run directory {path}: {error}. Run as root, or name another with --run-dir"
    )]
    RunDir {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// Somebody else serves the run directory.
    #[error(
        "another `esplanade run` serves {0}: end it first, or name another directory with --run-dir"
    )]
    Taken(PathBuf),
    /// A plane cannot start.
    #[error("the {plane} ended at once ({status}); what it said stands above")]
    Hopeless {
        /// Which plane.
        plane: &'static str,
        /// Its exit status in words.
        status: String,
    },
    /// A program cannot be executed.
    #[error("cannot start {program}: {error}")]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The runtime or its signals do not start.
    #[error("the supervisor does not start: {0}")]
    Runtime(#[source] io::Error),
}

impl Plan {
    /// A plan for the programs beside this one, or in PATH.
    ///
    /// # Errors
    ///
    /// Names the program that is not found.
    pub fn new(config: PathBuf, run_dir: PathBuf, keep: bool) -> Result<Self, RunError> {
        let own = env::current_exe().map_err(RunError::Runtime)?;
        let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
        let find = |program| find(program, &beside, env::var_os("PATH").as_deref());
        Ok(Self {
            config,
            run_dir,
            keep,
            dataplane: find(DATAPLANE)?,
            controlplane: find(CONTROLPLANE)?,
            pace: Pace::default(),
        })
    }
}

fn find(
    program: &'static str,
    beside: &Path,
    path: Option<&std::ffi::OsStr>,
) -> Result<PathBuf, RunError> {
    let elsewhere: Vec<PathBuf> = path
        .map(|path| env::split_paths(path).collect())
        .unwrap_or_default();
    std::iter::once(beside.to_owned())
        .chain(elsewhere)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| RunError::NoProgram {
            program,
            beside: beside.to_owned(),
        })
}

/// Runs both planes until SIGTERM or SIGINT. SIGHUP has the control plane reload its configuration.
///
/// # Errors
///
/// See [`RunError`].
pub fn run(plan: Plan) -> Result<(), RunError> {
    crate::logging::start();
    configuration::load(&plan.config).map_err(RunError::Config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(RunError::Runtime)?;
        let (sender, asks) = mpsc::channel(1);
        tokio::spawn(async move { while sender.send(signals.next().await).await.is_ok() {} });
        supervise(plan, asks).await
    })
}

/// What the operator asks of a running supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// End both planes.
    End,
    /// Have the control plane reload.
    Reload,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::End,
            _ = self.interrupt.recv() => Ask::End,
            _ = self.hangup.recv() => Ask::Reload,
        }
    }
}

/// Runs both planes until `asks` says to end or is closed, or until one proves hopeless.
///
/// # Errors
///
/// See [`RunError`].
pub async fn supervise(plan: Plan, mut asks: mpsc::Receiver<Ask>) -> Result<(), RunError> {
    let _lock = lock(&plan.run_dir)?;
    let (fatal_sender, mut fatal) = mpsc::channel(2);
    let (dataplane_stop, dataplane_stopped) = watch::channel(Stop::Run);
    let (controlplane_stop, controlplane_stopped) = watch::channel(Stop::Run);
    let dataplane = tokio::spawn(Keeper::dataplane(&plan).run(
        plan.run_dir.clone(),
        dataplane_stopped,
        fatal_sender.clone(),
    ));
    let controlplane = tokio::spawn(Keeper::controlplane(&plan).run(
        plan.run_dir.clone(),
        controlplane_stopped,
        fatal_sender,
    ));
    let outcome = loop {
        tokio::select! {
            ask = asks.recv() => match ask {
                None | Some(Ask::End) => break Ok(()),
                Some(Ask::Reload) => { controlplane_stop.send_modify(Stop::reload); }
            },
            Some(error) = fatal.recv() => break Err(error),
        }
    };
    // Goodbye to the peers first, while the dataplane still carries their last packets.
    let _ = controlplane_stop.send(Stop::End);
    let _ = controlplane.await;
    let leave = plan.keep && outcome.is_ok();
    let _ = dataplane_stop.send(if leave { Stop::Leave } else { Stop::End });
    let _ = dataplane.await;
    outcome
}

/// Makes the run directory and takes its lock, which is held until the file is dropped.
fn lock(run_dir: &Path) -> Result<File, RunError> {
    lock::take(run_dir, LOCK).map_err(|error| match error {
        LockError::Taken => RunError::Taken(run_dir.to_owned()),
        LockError::Io { path, error } => RunError::RunDir { path, error },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_beside_this_one_before_the_path() {
        let beside = tempfile::tempdir().unwrap();
        let path = tempfile::tempdir().unwrap();
        let missing = find(DATAPLANE, beside.path(), Some(path.path().as_os_str())).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("esplanade-dataplane is neither beside")
        );
        std::fs::write(path.path().join(DATAPLANE), "").unwrap();
        let found = find(DATAPLANE, beside.path(), Some(path.path().as_os_str())).unwrap();
        assert_eq!(found, path.path().join(DATAPLANE));
        std::fs::write(beside.path().join(DATAPLANE), "").unwrap();
        let found = find(DATAPLANE, beside.path(), Some(path.path().as_os_str())).unwrap();
        assert_eq!(found, beside.path().join(DATAPLANE));
    }
}
