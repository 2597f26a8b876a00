//! The daemon's end of the API: accepts, reads requests, hands them to the gateway, writes its answers.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::BufReader,
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::debug;

use crate::api::{self, MAX_REQUEST, ReadError, Request, Response, SOCKET_NAME};
use crate::lock::{self, LockError};

/// Clients served at once; more wait in the socket's backlog.
const MAX_CLIENTS: usize = 32;
/// How long a client may be silent between two requests.
const IDLE: Duration = Duration::from_secs(60);
/// The file whose lock says that a control plane serves the run directory.
const LOCK: &str = "controlplane.lock";

/// A request and where its answer goes.
pub(super) type Question = (Request, oneshot::Sender<Response>);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another daemon serves the directory.
    #[error(
        "another control plane serves {0}: end it first, or name another directory with --run-dir"
    )]
    Taken(PathBuf),
    /// The directory or the socket cannot be made.
    #[error(
        "cannot serve the API at {path}: {error}. Run as root, or name another directory with --run-dir"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
}

/// The listening socket and the lock that proves it ours; both go when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
    _lock: fs::File,
}

impl Server {
    /// Takes the run directory and listens in it, mode 0600.
    ///
    /// # Errors
    ///
    /// See [`ApiError`].
    pub(super) fn bind(run_dir: &Path) -> Result<Self, ApiError> {
        let trouble = |path: &Path| {
            let path = path.to_owned();
            move |error| ApiError::Io { path, error }
        };
        let lock = lock::take(run_dir, LOCK).map_err(|error| match error {
            LockError::Taken => ApiError::Taken(run_dir.to_owned()),
            LockError::Io { path, error } => ApiError::Io { path, error },
        })?;
        let path = run_dir.join(SOCKET_NAME);
        // The lock is ours, so a socket here is one that a killed daemon left behind.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(trouble(&path)(error));
            }
            _ => {}
        }
        // Created under a mask, so that there is no moment in which others may connect.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = std::os::unix::net::UnixListener::bind(&path);
        rustix::process::umask(mask);
        let listener = bound.map_err(trouble(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(trouble(&path))?;
        listener.set_nonblocking(true).map_err(trouble(&path))?;
        Ok(Self {
            listener,
            path,
            _lock: lock,
        })
    }

    /// Serves clients until the gateway goes away.
    pub(super) async fn serve(self, questions: mpsc::Sender<Question>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return Ok(());
            };
            let (stream, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!("a client could not be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let questions = questions.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, &questions).await {
                    debug!("a client's connection ended: {error}");
                }
                drop(place);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, questions: &mpsc::Sender<Question>) -> Result<(), ReadError> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    loop {
        let Ok(read) = timeout(IDLE, api::read_message(&mut reading, MAX_REQUEST)).await else {
            return Ok(());
        };
        let (response, more) = match read {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => (answer(request, questions).await, true),
            Err(ReadError::Malformed(error)) => (
                Response::Error(format!("this is no request: {error}")),
                true,
            ),
            Err(error @ ReadError::TooLong(_)) => (Response::Error(error.to_string()), false),
            Err(error) => return Err(error),
        };
        api::write_message(&mut writing, &response).await?;
        if !more {
            return Ok(());
        }
    }
}

async fn answer(request: Request, questions: &mpsc::Sender<Question>) -> Response {
    let (sender, receiver) = oneshot::channel();
    let asked = questions.send((request, sender)).await.is_ok();
    match receiver.await {
        Ok(response) if asked => response,
        _ => Response::Error("the control plane is ending".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Report;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

    #[test]
    fn the_socket_is_for_its_owner_only_and_for_one_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::bind(directory.path()).unwrap();
        let path = directory.path().join(SOCKET_NAME);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let second = Server::bind(directory.path()).unwrap_err();
        assert!(matches!(second, ApiError::Taken(_)));
        drop(server);
        assert!(!path.exists());
        // A killed daemon leaves its socket behind; the next one does not mind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        Server::bind(directory.path()).unwrap();
    }

    #[tokio::test]
    async fn a_client_gets_an_answer_to_every_line_also_to_nonsense() {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::bind(directory.path()).unwrap();
        let (sender, mut questions) = mpsc::channel(1);
        tokio::spawn(server.serve(sender));
        tokio::spawn(async move {
            while let Some((request, reply)) = questions.recv().await {
                assert_eq!(request, Request::Sas);
                let _ = reply.send(Response::Ok(Report::Sas(vec![])));
            }
        });
        let stream = UnixStream::connect(directory.path().join(SOCKET_NAME))
            .await
            .unwrap();
        let (reading, mut writing) = stream.into_split();
        writing
            .write_all(b"nonsense\n{\"command\":\"sas\"}\n")
            .await
            .unwrap();
        let mut lines = BufReader::new(reading).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        assert!(first.contains("this is no request"), "{first}");
        let second = lines.next_line().await.unwrap().unwrap();
        assert_eq!(second, r#"{"ok":{"sas":[]}}"#);
    }
}
