//! What surrounds the text: its name, its mode, and the secrets in files beside it. The crate reads files only through
//! [`Files`], so that tests and fuzzers bring their own.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// A file that holds a secret.
pub struct SecretFile {
    /// What is in it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Its permission bits.
    pub mode: u32,
}

/// How secrets are read.
pub trait Files {
    /// Reads the secret at a path, which is absolute or relative to the working directory.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn read_secret(&self, path: &Path) -> io::Result<SecretFile>;

    /// The seconds since 1970, where somebody knows: certificates that are out of date are warned of.
    fn now(&self) -> Option<u64> {
        None
    }
}

/// The machine's own files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn read_secret(&self, path: &Path) -> io::Result<SecretFile> {
        /// Far beyond any key and most revocation lists; a path like `/dev/zero` ends here.
        const LARGEST: u64 = 4 << 20;
        // A FIFO without a writer would hold us up for ever.
        let file = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        // With room for all of it, so that no copy is left behind when it grows.
        let room = about.size().min(LARGEST) as usize + 1;
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        file.take(LARGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST {
            return Err(io::Error::other(format!(
                "it is larger than {LARGEST} bytes"
            )));
        }
        Ok(SecretFile {
            bytes,
            mode: about.mode() & 0o7777,
        })
    }

    fn now(&self) -> Option<u64> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.ok().map(|since| since.as_secs())
    }
}

/// No files at all: every read fails. For fuzzing, and for checking a text that has not been saved yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read_secret(&self, _: &Path) -> io::Result<SecretFile> {
        Err(io::Error::new(io::ErrorKind::NotFound, "no files here"))
    }
}

/// Where a text comes from.
pub struct FileContext<'f> {
    /// The file's name, as the operator gave it; relative paths in the text start from its folder.
    pub path: PathBuf,
    /// The file's permission bits; `None` if the text is in no file.
    pub mode: Option<u32>,
    /// How secrets are read.
    pub files: &'f dyn Files,
}

impl FileContext<'static> {
    /// A text that is in no file and may name none.
    #[must_use]
    pub fn detached(name: &str) -> Self {
        Self {
            path: name.into(),
            mode: None,
            files: &NoFiles,
        }
    }
}

impl FileContext<'_> {
    /// The path that the text means by `written`.
    pub(crate) fn resolve(&self, written: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(written)
    }
}

/// Reads a configuration's text and says who else could have.
pub(crate) fn read_text(path: &Path) -> io::Result<(Zeroizing<String>, u32)> {
    const LARGEST: u64 = 16 << 20;
    let file = File::open(path)?;
    let about = file.metadata()?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))?;
    Ok((Zeroizing::new(text.to_owned()), about.mode() & 0o7777))
}
