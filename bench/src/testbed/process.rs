//! Processes of the test-bed: started with their output in a log, waited for with a limit, killed
//! by their id when they are no longer wanted.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::cleanup;
use super::wait::wait_for;

/// How long a process that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What a command that came to its end left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    line: String,
}

impl Finished {
    /// An error that quotes what the command said, unless it ended well.
    pub fn ok(self) -> Result<Self> {
        if !self.status.success() {
            bail!(
                "`{}` ended with {}:\n{}{}",
                self.line,
                self.status,
                self.stdout,
                self.stderr
            );
        }
        Ok(self)
    }
}

/// Runs a command to its end, which comes at `limit` if not before.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let line = words(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    cleanup::register_process(child.id());
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            end_group(child.id(), Signal::KILL);
            let _ = child.wait();
            cleanup::forget_process(child.id());
            bail!(
                "`{line}` had not ended after {} s and was killed",
                limit.as_secs_f32()
            );
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    cleanup::forget_process(child.id());
    Ok(Finished {
        status,
        stdout: joined(stdout),
        stderr: joined(stderr),
        line,
    })
}

type Reader = Option<std::thread::JoinHandle<String>>;

fn collect<R: Read + Send + 'static>(stream: Option<R>) -> Reader {
    let mut stream = stream?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }))
}

fn joined(reader: Reader) -> String {
    reader
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default()
}

/// A program that runs beside the test until it is told to end or is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    gone: Option<ExitStatus>,
}

impl Process {
    /// Starts a program at the head of a process group of its own, with standard output and
    /// standard error appended to `log`.
    pub fn spawn(name: &str, log: &Path, mut command: Command) -> Result<Self> {
        let line = words(&command);
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        cleanup::register_process(child.id());
        Ok(Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
            gone: None,
        })
    }

    /// Its process id. `ip netns exec` becomes the program, so this is the program's own.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file that its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        fs::read(&self.log)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.gone.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            cleanup::forget_process(self.child.id());
            self.gone = Some(status);
        }
        self.gone
    }

    /// Waits until its output holds `text`; fails at once when the program ends before that.
    pub fn wait_to_say(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("{} to say “{text}”", self.name);
        let outcome = wait_for(&what, limit, || {
            if self.said().contains(text) {
                return Ok(Some(()));
            }
            if let Some(status) = self.ended() {
                bail!("{} ended with {status}", self.name);
            }
            Ok(None)
        });
        outcome.with_context(|| format!("it said:\n{}", self.last_words()))
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_for(&what, limit, || Ok(self.ended()))
            .with_context(|| format!("it said:\n{}", self.last_words()))
    }

    /// Sends SIGTERM to the program itself and waits for its end.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Sends SIGKILL to the program itself, not to its children, and waits for its end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.wait(GRACE)
    }

    /// Sends a signal to the program itself, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(pid) = as_pid(self.child.id())
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether SIGKILL ended it.
    pub fn was_killed(&mut self) -> bool {
        self.ended()
            .is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw()))
    }

    /// The last lines of its output.
    pub fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let _ = wait_for("a process to end", GRACE, || Ok(self.ended()));
        // The children that it may have left are still in its group.
        end_group(self.child.id(), Signal::KILL);
        if self.gone.is_none() {
            let _ = self.child.wait();
            cleanup::forget_process(self.child.id());
        }
    }
}

/// Sends SIGKILL to one process, which need not be ours, and does not wait for its end.
pub fn kill(id: u32) {
    if let Some(pid) = as_pid(id) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Signals every process of the group that `leader` heads.
pub(super) fn end_group(leader: u32, signal: Signal) {
    if let Some(group) = as_pid(leader) {
        let _ = kill_process_group(group, signal);
    }
}

pub(super) fn as_pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

fn words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
