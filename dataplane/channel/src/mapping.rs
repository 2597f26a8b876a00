//! The memory that both planes see: a memfd, sealed before anybody maps it.
#![allow(unsafe_code)]

use crate::words::Words;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create},
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, munmap},
    process::{Resource, getrlimit},
};
use std::{
    fmt, ptr,
    ptr::NonNull,
    sync::{Arc, atomic::AtomicU64},
};

/// Why there is no memory to share.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// No memfd to be had.
    #[error(
        "the kernel gives no shared memory (memfd of {bytes} bytes): {error}; memfd_create and seals need Linux \
         3.17 and a seccomp profile that allows them"
    )]
    Create {
        /// Its size.
        bytes: usize,
        /// The kernel's answer.
        error: Errno,
    },
    /// What came over the socket is no memfd.
    #[error("what the dataplane handed over is no memory that can be sealed: {error}")]
    NoMemfd {
        /// The kernel's answer.
        error: Errno,
    },
    /// It could still be cut under our feet.
    #[error(
        "the shared memory is not sealed (seals {found:#x}, wanted at least {wanted:#x}), so whoever made it \
         could cut it while it is in use; it is not this dataplane's"
    )]
    Unsealed {
        /// Its seals (F_SEAL_*).
        found: u32,
        /// The seals that it must have.
        wanted: u32,
    },
    /// Not the size that the setup needs.
    #[error(
        "the shared memory has {found} bytes where this build lays out {wanted}: restart both planes from the same build"
    )]
    Size {
        /// Its size.
        found: u64,
        /// What the layout needs.
        wanted: u64,
    },
    /// The kernel does not map it.
    #[error("the shared memory of {bytes} bytes cannot be mapped: {error}")]
    Map {
        /// Its size.
        bytes: usize,
        /// The kernel's answer.
        error: Errno,
    },
}

/// The memory could not be locked, so it is used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotLocked {
    bytes: usize,
    limit: Option<u64>,
    error: Errno,
}

impl fmt::Display for NotLocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = self.bytes.div_ceil(1024);
        write!(
            f,
            "the {kib} KiB that the planes share could not be locked in memory ({}), ",
            self.error
        )?;
        if let Some(limit) = self.limit {
            let limit = limit / 1024;
            write!(
                f,
                "because RLIMIT_MEMLOCK allows this process {limit} KiB in all: "
            )?;
        }
        f.write_str(
            "keys on their way to the dataplane may reach the swap device. Raise the limit \
             (`LimitMEMLOCK=infinity` in a systemd unit, `ulimit -l unlimited` in a shell), give CAP_IPC_LOCK, or \
             switch swap off",
        )
    }
}

/// The seals that a mapping relies on.
fn wanted_seals() -> SealFlags {
    SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW
}

/// Makes a sealed memfd of `words` words, all zero.
pub fn create(words: usize) -> Result<OwnedFd, MapError> {
    let bytes = words.saturating_mul(size_of::<u64>());
    let create = |error| MapError::Create { bytes, error };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let name = c"esplanade-channel";
    // Kernels before 6.3 do not know NOEXEC_SEAL.
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags),
        other => other,
    }
    .map_err(create)?;
    ftruncate(&fd, bytes as u64).map_err(create)?;
    fcntl_add_seals(&fd, wanted_seals()).map_err(create)?;
    Ok(fd)
}

/// A sealed memfd in our address space, for reading and writing.
///
/// Invariant: `base` points to `words` aligned words that stay mapped, shared and writable until drop; the file
/// behind them cannot shrink. They are touched as atomics only.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the words are atomics, which any thread may touch, and the mapping belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; there is no interior state but the atomics.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `memfd` once its seals and its size are what they must be. A mapping that could not be locked comes with
    /// a warning.
    pub fn open(
        memfd: impl AsFd,
        words: usize,
    ) -> Result<(Arc<Self>, Option<NotLocked>), MapError> {
        let seals = fcntl_get_seals(&memfd).map_err(|error| MapError::NoMemfd { error })?;
        if !seals.contains(wanted_seals()) {
            return Err(MapError::Unsealed {
                found: seals.bits(),
                wanted: wanted_seals().bits(),
            });
        }
        let bytes = words.saturating_mul(size_of::<u64>());
        let found = fstat(&memfd)
            .map_err(|error| MapError::NoMemfd { error })?
            .st_size
            .cast_unsigned();
        if found != bytes as u64 {
            return Err(MapError::Size {
                found,
                wanted: bytes as u64,
            });
        }
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                &memfd,
                0,
            )
        }
        .map_err(|error| MapError::Map { bytes, error })?;
        let base = NonNull::new(base.cast()).ok_or(MapError::Map {
            bytes,
            error: Errno::NOMEM,
        })?;
        let mapping = Self { base, words };
        let warning = mapping.protect()?;
        Ok((Arc::new(mapping), warning))
    }

    /// Keeps the keys off the disk: out of core dumps, and out of swap where that is allowed.
    fn protect(&self) -> Result<Option<NotLocked>, MapError> {
        let bytes = self.bytes();
        // SAFETY: the range is ours; the advice changes nothing that Rust can see.
        unsafe { madvise(self.base.as_ptr().cast(), bytes, Advice::LinuxDontDump) }
            .map_err(|error| MapError::Map { bytes, error })?;
        // SAFETY: the range is ours; locking changes nothing that Rust can see.
        let locked = unsafe { mlock(self.base.as_ptr().cast(), bytes) };
        Ok(locked.err().map(|error| NotLocked {
            bytes,
            limit: getrlimit(Resource::Memlock).current,
            error,
        }))
    }

    const fn bytes(&self) -> usize {
        self.words * size_of::<u64>()
    }

    /// The words.
    pub const fn words(&self) -> &[AtomicU64] {
        // SAFETY: the type's invariant; an AtomicU64 has the size and, on a page, the alignment of the words, and any
        // bits are a value of it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us, and every borrow of it ends before this. A failure leaves it mapped,
        // which harms nobody.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes()) };
    }
}

/// A part of a mapping, which it keeps mapped.
#[derive(Debug, Clone)]
pub struct Region {
    mapping: Arc<Mapping>,
    first: usize,
    length: usize,
}

impl Region {
    /// The words `first..first + length`; empty when they are not all there.
    pub fn new(mapping: &Arc<Mapping>, first: usize, length: usize) -> Self {
        let within = first
            .checked_add(length)
            .is_some_and(|end| end <= mapping.words);
        Self {
            mapping: Arc::clone(mapping),
            first: if within { first } else { 0 },
            length: if within { length } else { 0 },
        }
    }
}

impl Words for Region {
    type Word = AtomicU64;

    fn words(&self) -> &[AtomicU64] {
        self.mapping
            .words()
            .get(self.first..self.first + self.length)
            .unwrap_or_default()
    }
}
