//! One question to the daemon, one answer.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::api::{self, MAX_RESPONSE, ReadError, Request, Response, SOCKET_NAME};

/// How long the daemon may take for an answer that waits for nobody.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no control plane answers on {0}. Start one with `esplanade run CONFIG`, or name its directory with --run-dir"
    )]
    Absent(PathBuf),
    /// Not ours to command.
    #[error("you may not command the control plane on {0}: run this as its user, usually root")]
    Forbidden(PathBuf),
    /// It broke off.
    #[error("the control plane on {path} ended the connection without an answer: {cause}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What was seen.
        cause: String,
    },
    /// It is silent.
    #[error("the control plane on {path} did not answer within {seconds} s")]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
}

/// Asks the daemon that serves `run_dir`. `extra` is how long the request itself waits for a peer.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn ask(
    run_dir: &Path,
    request: &Request,
    extra: Duration,
) -> Result<Response, ClientError> {
    let path = run_dir.join(SOCKET_NAME);
    let patience = PATIENCE + extra;
    match timeout(patience, exchange(&path, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClientError::Silent {
            path,
            seconds: patience.as_secs(),
        }),
    }
}

/// A connection for several questions.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    reading: BufReader<OwnedReadHalf>,
    writing: OwnedWriteHalf,
}

impl Session {
    /// Connects to the daemon that serves `run_dir`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn open(run_dir: &Path) -> Result<Self, ClientError> {
        Self::connect(run_dir.join(SOCKET_NAME)).await
    }

    async fn connect(path: PathBuf) -> Result<Self, ClientError> {
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error) => {
                return Err(match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        ClientError::Absent(path)
                    }
                    io::ErrorKind::PermissionDenied => ClientError::Forbidden(path),
                    _ => ClientError::Broken {
                        path,
                        cause: error.to_string(),
                    },
                });
            }
        };
        let (reading, writing) = stream.into_split();
        Ok(Self {
            path,
            reading: BufReader::new(reading),
            writing,
        })
    }

    /// Asks something that waits for nobody.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        match timeout(PATIENCE, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClientError::Silent {
                path: self.path.clone(),
                seconds: PATIENCE.as_secs(),
            }),
        }
    }

    async fn exchange(&mut self, request: &Request) -> Result<Response, ClientError> {
        let path = &self.path;
        let broken = |cause: String| ClientError::Broken {
            path: path.clone(),
            cause,
        };
        let written = api::write_message(&mut self.writing, request).await;
        written.map_err(|error| broken(error.to_string()))?;
        match api::read_message(&mut self.reading, MAX_RESPONSE).await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(broken("it may have just been stopped".to_owned())),
            Err(ReadError::Malformed(error)) => Err(broken(format!(
                "it speaks another version of the protocol ({error})"
            ))),
            Err(error) => Err(broken(error.to_string())),
        }
    }
}

async fn exchange(path: &Path, request: &Request) -> Result<Response, ClientError> {
    let mut session = Session::connect(path.to_owned()).await?;
    session.exchange(request).await
}
