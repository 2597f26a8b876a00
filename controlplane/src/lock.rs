//! One process of a kind for each run directory, by a lock on a file in it.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Why the run directory is not ours.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Somebody else has it.
    Taken,
    /// The directory or the file cannot be made.
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
}

/// Makes the run directory and locks a file in it until what is returned is dropped.
///
/// # Errors
///
/// See [`LockError`].
pub(crate) fn take(run_dir: &Path, name: &str) -> Result<File, LockError> {
    let trouble = |path: &Path| {
        let path = path.to_owned();
        move |error| LockError::Io { path, error }
    };
    fs::create_dir_all(run_dir).map_err(trouble(run_dir))?;
    let path = run_dir.join(name);
    // Whoever can open it can lock it, so nobody else may open it.
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(trouble(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LockError::Taken),
        Err(TryLockError::Error(error)) => Err(trouble(&path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        let first = take(&run_dir, "lock").unwrap();
        assert!(matches!(take(&run_dir, "lock"), Err(LockError::Taken)));
        assert!(take(&run_dir, "other").is_ok());
        drop(first);
        assert!(take(&run_dir, "lock").is_ok());
    }
}
