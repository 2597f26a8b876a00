//! `esplanade capture`: asks for a capture, and writes what comes into a file of pcapng.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use esplanade_channel::Counter;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use super::client::{ClientError, Session};
use crate::{
    api::{CaptureLimits, CapturedPacket, Report, Request, Response, Target},
    pcapng::{Direction, Packet, Writer},
};

/// How often packets are asked for.
const POLL: Duration = Duration::from_millis(20);

/// Of what, how long, how much.
#[derive(Debug, Args)]
pub struct Options {
    /// The file, which must not exist; it is made with mode 0600, for it holds what users send. `-` is standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only packets of this tunnel, or of one child of it, by its SAs and policies.
    #[arg(long, value_name = "NAME[/CHILD]")]
    tunnel: Option<Target>,
    /// End after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Only packets that are dropped.
    #[arg(long)]
    drops: bool,
    /// At most so many octets of each packet.
    #[arg(long, value_name = "OCTETS", default_value_t = 9216, value_parser = clap::value_parser!(u16).range(14..=16384))]
    snap: u16,
    /// At most so many packets a second of each worker; how many more there were is told at the end.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
}

/// Why there is no capture, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The control plane does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// The file.
    #[error("cannot write {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The file is there already.
    #[error("{0} exists already: name another file, or remove it first")]
    Exists(PathBuf),
    /// A signal cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signals(io::Error),
}

/// What came of it.
#[derive(Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// Packets written, copies of dropped ones included.
    packets: u64,
    /// Those of them that show a drop.
    dropped: u64,
    /// Packets that were meant and not copied.
    lost: u64,
}

impl Outcome {
    /// In words.
    pub fn words(&self) -> String {
        let Self {
            packets,
            dropped,
            lost,
        } = self;
        let mut text = format!("{packets} packets captured, {dropped} of them drops");
        if *lost > 0 {
            text.push_str(&format!(
                "; {lost} more could not be copied: raise --rate, lower --snap, or name a --tunnel"
            ));
        }
        text + "\n"
    }
}

impl Options {
    /// Whether the packets themselves go to standard output.
    pub fn to_stdout(&self) -> bool {
        self.file == Path::new("-")
    }

    /// Captures until the end.
    ///
    /// # Errors
    ///
    /// See [`Failure`]. What was written until then stays.
    pub async fn capture(&self, run_dir: &Path) -> Result<Outcome, Failure> {
        let mut session = Session::open(run_dir).await?;
        let request = Request::Capture {
            target: self.tunnel.clone(),
            limits: CaptureLimits {
                seconds: self.seconds,
                rate: self.rate,
                snap: self.snap,
                drops_only: self.drops,
            },
        };
        let Report::Capture(capture) = ask(&mut session, &request).await? else {
            return Err(odd());
        };
        let number = capture.capture;
        let outcome = async {
            let trouble = |error| self.trouble(error);
            let output = self.open().map_err(trouble)?;
            let ports = capture.ports.iter();
            let interfaces: Vec<(&str, &str)> = ports
                .map(|port| (port.interface.as_str(), port.role.as_str()))
                .collect();
            let mut writer = Writer::new(output, &interfaces, self.snap.into()).map_err(trouble)?;
            let outcome = self.follow(&mut session, number, &mut writer).await?;
            writer.flush().map_err(trouble)?;
            Ok(outcome)
        }
        .await;
        // One that ended by itself is not there any more.
        let _ = session.ask(&Request::EndCapture { capture: number }).await;
        outcome
    }

    fn open(&self) -> io::Result<BufWriter<Box<dyn Write>>> {
        let output: Box<dyn Write> = if self.to_stdout() {
            Box::new(io::stdout())
        } else {
            Box::new(create(&self.file)?)
        };
        Ok(BufWriter::new(output))
    }

    fn trouble(&self, error: io::Error) -> Failure {
        let path = self.file.clone();
        match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::Exists(path),
            _ => Failure::File { path, error },
        }
    }

    /// Writes packets as they come, until there are enough, the time is over, or somebody has enough.
    async fn follow<W: Write>(
        &self,
        session: &mut Session,
        capture: u64,
        writer: &mut Writer<W>,
    ) -> Result<Outcome, Failure> {
        let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
        let mut outcome = Outcome::default();
        let mut ending = false;
        loop {
            let Report::Packets(seen) = ask(session, &Request::Captured { capture }).await? else {
                return Err(odd());
            };
            outcome.lost = seen.lost;
            let left = self.count.map_or(u64::MAX, |count| count - outcome.packets);
            for packet in seen
                .packets
                .iter()
                .take(left.try_into().unwrap_or(usize::MAX))
            {
                outcome.packets += 1;
                outcome.dropped += u64::from(packet.dropped.is_some());
                write(writer, packet).map_err(|error| self.trouble(error))?;
            }
            // Who reads a pipe sees packets as they come.
            writer.flush().map_err(|error| self.trouble(error))?;
            if ending || !seen.more || self.count == Some(outcome.packets) {
                return Ok(outcome);
            }
            if seen.packets.is_empty() {
                tokio::select! {
                    () = sleep(POLL) => {}
                    _ = interrupted.recv() => ending = true,
                    _ = terminated.recv() => ending = true,
                }
            }
        }
    }
}

/// For its owner only, and never instead of what is there.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

async fn ask(session: &mut Session, request: &Request) -> Result<Report, Failure> {
    match session.ask(request).await? {
        Response::Ok(report) => Ok(report),
        Response::Error(why) => Err(Failure::Refused(why)),
    }
}

fn odd() -> Failure {
    Failure::Refused("the control plane answered something else than was asked for".to_owned())
}

fn write<W: Write>(writer: &mut Writer<W>, packet: &CapturedPacket) -> io::Result<()> {
    let comment = packet.dropped.as_deref().map(comment);
    writer.packet(&Packet {
        time_ns: packet.time_ns,
        interface: packet.port.into(),
        direction: if packet.inbound {
            Direction::Inbound
        } else {
            Direction::Outbound
        },
        length: packet.length,
        octets: &packet.octets.0,
        comment: comment.as_deref(),
    })
}

/// Why a packet was dropped, by its counter and what that means.
fn comment(reason: &str) -> String {
    let known = Counter::ALL.iter().find(|counter| counter.name() == reason);
    known.map_or_else(
        || format!("dropped: {reason}"),
        |counter| format!("dropped: {reason}: {}", counter.sentence()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_file_is_its_owners_and_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pcapng");
        let file = create(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = create(&path).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_drop_says_its_counter_and_what_that_means() {
        let said = comment("InStateSeqError");
        assert!(
            said.starts_with("dropped: InStateSeqError: Replays"),
            "{said}"
        );
        assert_eq!(comment("Other"), "dropped: Other");
    }
}
