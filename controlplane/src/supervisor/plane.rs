//! One plane: started, watched, started again, ended.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{Pace, Plan, RunError, adopted::Adopted};

/// What a plane is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Go on.
    Run,
    /// Go on, having reloaded this many times.
    Reloaded(u32),
    /// End.
    End,
    /// Go on without a supervisor.
    Leave,
}

impl Stop {
    /// Asks for one more reload.
    pub(super) fn reload(&mut self) {
        *self = match *self {
            Self::Run => Self::Reloaded(1),
            Self::Reloaded(times) => Self::Reloaded(times.wrapping_add(1)),
            done => done,
        };
    }
}

/// Keeps one plane running.
pub(super) struct Keeper {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<OsString>,
    /// Whether the plane ends with its supervisor.
    bound: bool,
    /// Whether one that runs already is taken over.
    adopts: bool,
    keep: bool,
    pace: Pace,
}

/// How one run of a plane came to its end.
enum Ended {
    /// It gave up, and has said why.
    GaveUp(String),
    /// It crashed or was killed.
    Died(String),
    AsAsked,
}

impl Keeper {
    pub(super) fn dataplane(plan: &Plan) -> Self {
        Self {
            name: "dataplane",
            program: plan.dataplane.clone(),
            arguments: vec!["--run-dir".into(), plan.run_dir.clone().into()],
            bound: !plan.keep,
            adopts: true,
            keep: plan.keep,
            pace: plan.pace,
        }
    }

    pub(super) fn controlplane(plan: &Plan) -> Self {
        let mut arguments: Vec<OsString> = vec![
            "--config".into(),
            plan.config.clone().into(),
            "--run-dir".into(),
            plan.run_dir.clone().into(),
        ];
        if plan.keep {
            arguments.push("--keep".into());
        }
        Self {
            name: "control plane",
            program: plan.controlplane.clone(),
            arguments,
            bound: true,
            adopts: false,
            keep: plan.keep,
            pace: plan.pace,
        }
    }

    /// Runs the plane until told to stop; says so on `fatal` when it cannot run at all.
    pub(super) async fn run(
        self,
        run_dir: PathBuf,
        mut stop: watch::Receiver<Stop>,
        fatal: mpsc::Sender<RunError>,
    ) {
        let mut wait = Duration::ZERO;
        let mut first = true;
        loop {
            let started = Instant::now();
            let ended = match self.once(&run_dir, &mut stop).await {
                Ok(ended) => ended,
                Err(error) => {
                    let _ = fatal.send(error).await;
                    return;
                }
            };
            let lasted = started.elapsed();
            let status = match ended {
                Ended::AsAsked => return,
                Ended::GaveUp(status) if first && lasted < self.pace.hopeless => {
                    let plane = self.name;
                    let _ = fatal.send(RunError::Hopeless { plane, status }).await;
                    return;
                }
                Ended::GaveUp(status) | Ended::Died(status) => status,
            };
            first = false;
            if lasted >= self.pace.settled {
                wait = Duration::ZERO;
            }
            let when = if wait.is_zero() {
                "now".to_owned()
            } else {
                format!("in {wait:?}")
            };
            warn!("the {} ended ({status}); it starts again {when}", self.name);
            if stopped_within(&mut stop, wait).await {
                return;
            }
            wait = (wait * 2).clamp(self.pace.first_wait, self.pace.longest_wait);
        }
    }

    async fn once(
        &self,
        run_dir: &Path,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<Ended, RunError> {
        if self.adopts
            && let Some(running) = Adopted::find(run_dir)
        {
            info!(
                "a {} runs already (process {}): taken over",
                self.name,
                running.pid()
            );
            return Ok(self.watch_adopted(&running, stop).await);
        }
        let (mut child, lifeline) = self.spawn()?;
        info!(
            "the {} runs as process {}",
            self.name,
            child.id().unwrap_or_default()
        );
        let ended = self.watch(&mut child, stop).await;
        drop(lifeline);
        Ok(ended)
    }

    /// Starts the process, in a group of its own so that the terminal's ^C reaches the supervisor only.
    fn spawn(&self) -> Result<(Child, Option<ChildStdin>), RunError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).process_group(0);
        if self.bound {
            command.arg("--supervised").stdin(Stdio::piped());
        } else {
            command.stdin(Stdio::null());
        }
        let mut child = command.spawn().map_err(|error| RunError::Spawn {
            program: self.program.clone(),
            error,
        })?;
        // `Child::wait` would close it.
        let lifeline = child.stdin.take();
        Ok((child, lifeline))
    }

    async fn watch(&self, child: &mut Child, stop: &mut watch::Receiver<Stop>) -> Ended {
        loop {
            let changed = tokio::select! {
                status = child.wait() => {
                    return by_itself(status);
                }
                changed = stop.changed() => changed.is_ok(),
            };
            let order = if changed {
                *stop.borrow_and_update()
            } else {
                Stop::End
            };
            match order {
                Stop::Run => {}
                Stop::Reloaded(_) => send(child, Signal::HUP),
                Stop::Leave => return Ended::AsAsked,
                Stop::End => {
                    self.end(child).await;
                    return Ended::AsAsked;
                }
            }
        }
    }

    async fn end(&self, child: &mut Child) {
        send(child, Signal::TERM);
        if timeout(self.pace.grace, child.wait()).await.is_err() {
            warn!(
                "the {} did not end within {:?}: killed",
                self.name, self.pace.grace
            );
            let _ = child.kill().await;
        }
    }

    async fn watch_adopted(&self, plane: &Adopted, stop: &mut watch::Receiver<Stop>) -> Ended {
        loop {
            let changed = tokio::select! {
                () = plane.ended() => return Ended::Died("process is gone".to_owned()),
                changed = stop.changed() => changed.is_ok(),
            };
            let order = if changed {
                *stop.borrow_and_update()
            } else {
                Stop::End
            };
            match order {
                Stop::Run | Stop::Reloaded(_) => {}
                Stop::Leave => return Ended::AsAsked,
                Stop::End if self.keep => return Ended::AsAsked,
                Stop::End => {
                    plane.end(self.pace.grace).await;
                    return Ended::AsAsked;
                }
            }
        }
    }
}

/// Waits, unless the order to stop comes first.
async fn stopped_within(stop: &mut watch::Receiver<Stop>, wait: Duration) -> bool {
    let pause = sleep(wait);
    tokio::pin!(pause);
    loop {
        tokio::select! {
            () = &mut pause => return false,
            changed = stop.changed() => {
                let order = if changed.is_ok() { *stop.borrow_and_update() } else { Stop::End };
                if matches!(order, Stop::End | Stop::Leave) {
                    return true;
                }
            }
        }
    }
}

/// A child that was not waited for keeps its process id, so this signals nobody else.
fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

fn by_itself(status: io::Result<ExitStatus>) -> Ended {
    match status {
        Ok(status) if status.signal().is_none() => Ended::GaveUp(status.to_string()),
        Ok(status) => Ended::Died(status.to_string()),
        Err(error) => Ended::Died(error.to_string()),
    }
}
