//! Small files that are replaced as a whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Replaces a file by one that its owner alone can read. At no moment is there half a file.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new)?.write_all(text)?;
    fs::rename(&new, path)
}
