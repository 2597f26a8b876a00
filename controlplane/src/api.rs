//! The protocol between the command line and the daemon: one JSON object a line, over a Unix socket.
//!
//! A client sends one [`Request`] a line and reads one [`Response`] a line. Both sides bound what they read,
//! so a client that never ends its line costs the daemon a buffer and nothing more.

use std::{fmt, io, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

mod capture;
mod explanation;
pub mod fuzzing;
mod report;

pub use capture::*;
pub use explanation::{Explanation, Finding, Verdict};
pub use report::*;

/// The socket's name within the run directory. Its mode is 0600: who may open it, may command the gateway.
pub const SOCKET_NAME: &str = "control.sock";

/// The longest request that the daemon reads, in bytes.
pub const MAX_REQUEST: usize = 4 * 1024;

/// The longest response that a client reads, in bytes: 100,000 SAs fit.
pub const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The state of both planes and every tunnel.
    Status,
    /// Every SA in the dataplane, with its traffic.
    Sas,
    /// Who has which address of which pool.
    Leases,
    /// Give an address that is kept for a client that has left back to all.
    ReleaseLease {
        /// The address.
        address: IpAddr,
    },
    /// The counters.
    Counters {
        /// Those at zero too.
        all: bool,
    },
    /// Bring up a tunnel or one of its child SAs.
    Initiate {
        /// What to bring up.
        target: Target,
        /// How long to wait for the outcome.
        timeout_ms: u64,
    },
    /// Take down a tunnel or one of its child SAs.
    Terminate {
        /// What to take down.
        target: Target,
        /// How long to wait for the outcome.
        timeout_ms: u64,
    },
    /// Negotiate fresh keys.
    Rekey {
        /// Whose keys.
        target: Target,
        /// Those of the IKE SA or those of its children.
        layer: Layer,
        /// How long to wait for the outcome.
        timeout_ms: u64,
    },
    /// Read the configuration file again and apply what changed.
    Reload,
    /// Why a tunnel or one of its children is not up, or carries nothing.
    Explain {
        /// What to look at.
        target: Target,
    },
    /// Copy packets, for [`Request::Captured`]. There is one capture at a time.
    Capture {
        /// Only those of a tunnel or one of its child SAs.
        #[serde(default)]
        target: Option<Target>,
        /// How many, and how long.
        limits: CaptureLimits,
    },
    /// The next packets of a capture. One that nobody asks for in 5 s ends.
    Captured {
        /// Which.
        capture: u64,
    },
    /// End a capture.
    EndCapture {
        /// Which.
        capture: u64,
    },
}

/// The bounds of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureLimits {
    /// How long.
    pub seconds: u32,
    /// Packets a second of each worker.
    pub rate: u32,
    /// Octets of each packet.
    pub snap: u16,
    /// Only packets that are dropped.
    pub drops_only: bool,
}

/// Which SA a rekey concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The IKE SA (RFC 7296 1.3.2).
    Ike,
    /// The child SAs (RFC 7296 1.3.3).
    Child,
}

/// A tunnel, or one child of it, as the operator writes it: `NAME` or `NAME/CHILD`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    /// The tunnel's name in the configuration.
    pub tunnel: String,
    /// The child's name, or none for the tunnel as a whole.
    pub child: Option<String>,
}

/// A target that is not `NAME` or `NAME/CHILD`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no tunnel: write NAME, or NAME/CHILD for one child of it")]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (tunnel, child) = match text.split_once('/') {
            Some((tunnel, child)) => (tunnel, Some(child)),
            None => (text, None),
        };
        let valid = |name: &str| !name.is_empty() && !name.contains('/');
        if !valid(tunnel) || !child.is_none_or(valid) {
            return Err(TargetError(text.to_owned()));
        }
        Ok(Self {
            tunnel: tunnel.to_owned(),
            child: child.map(str::to_owned),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.child {
            Some(child) => write!(f, "{}/{child}", self.tunnel),
            None => f.write_str(&self.tunnel),
        }
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// What was asked for.
    Ok(Report),
    /// Why not: one sentence or more, in words for an operator.
    Error(String),
}

/// The answer to each kind of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Sas`].
    Sas(Vec<Sa>),
    /// To [`Request::Leases`].
    Leases(Vec<Lease>),
    /// To [`Request::Counters`].
    Counters(Vec<CounterRow>),
    /// To [`Request::Initiate`], [`Request::Terminate`], [`Request::Rekey`], [`Request::EndCapture`]: what happened.
    Done(String),
    /// To [`Request::Reload`].
    Reloaded(Reloaded),
    /// To [`Request::Capture`].
    Capture(Capture),
    /// To [`Request::Captured`].
    Packets(Packets),
    /// To [`Request::Explain`].
    Explained(Explanation),
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The line is longer than the reader allows.
    #[error("the line is longer than the {0} bytes allowed")]
    TooLong(usize),
    /// The line is no such message.
    #[error("the line is no valid message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The connection failed, or ended within a line.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one message of at most `limit` bytes; `None` at a clean end of the connection.
///
/// # Errors
///
/// See [`ReadError`]; after [`ReadError::TooLong`] the connection is of no more use.
pub async fn read_message<M, R>(reader: &mut R, limit: usize) -> Result<Option<M>, ReadError>
where
    M: for<'de> Deserialize<'de>,
    R: AsyncBufRead + Unpin,
{
    let mut line = Vec::new();
    let mut bounded = reader.take(limit as u64 + 1);
    bounded.read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() > limit {
        return Err(ReadError::TooLong(limit));
    }
    if line.last() != Some(&b'\n') {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Writes one message as a line.
///
/// # Errors
///
/// What the connection says.
pub async fn write_message<M, W>(writer: &mut W, message: &M) -> io::Result<()>
where
    M: Serialize,
    W: AsyncWrite + Unpin,
{
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::BufReader;

    fn read(bytes: &[u8], limit: usize) -> Result<Option<Request>, ReadError> {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(read_message(&mut BufReader::new(bytes), limit))
    }

    #[test]
    fn a_request_is_one_line_of_json() {
        let request = Request::Rekey {
            target: "site-b/lan".parse().unwrap(),
            layer: Layer::Child,
            timeout_ms: 5000,
        };
        let line = serde_json::to_string(&request).unwrap();
        assert_eq!(
            line,
            r#"{"command":"rekey","target":"site-b/lan","layer":"child","timeout_ms":5000}"#
        );
        let read = read(format!("{line}\n").as_bytes(), MAX_REQUEST).unwrap();
        assert_eq!(read, Some(request));
    }

    #[test]
    fn a_request_without_end_is_refused_at_the_limit() {
        let endless = vec![b' '; 3 * MAX_REQUEST];
        assert!(matches!(
            read(&endless, MAX_REQUEST),
            Err(ReadError::TooLong(MAX_REQUEST))
        ));
    }

    #[test]
    fn an_empty_connection_ends_cleanly_and_half_a_line_does_not() {
        assert!(matches!(read(b"", 64), Ok(None)));
        assert!(matches!(
            read(br#"{"command":"status"}"#, 64),
            Err(ReadError::Io(_))
        ));
    }

    #[test]
    fn targets_name_a_tunnel_and_perhaps_a_child() {
        assert_eq!("a".parse::<Target>().unwrap().child, None);
        assert_eq!("a/b".parse::<Target>().unwrap().child.as_deref(), Some("b"));
        for wrong in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn reading_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, 100);
        }

        #[test]
        fn a_target_reads_back_as_written(text in "[a-z0-9.-]{1,12}(/[a-z0-9.-]{1,12})?") {
            prop_assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }
}
