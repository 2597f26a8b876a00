//! What a dataplane is started with: the control plane says it once, when it connects.

use std::fmt;

/// The most workers.
pub const MAX_WORKERS: usize = 64;
/// The most ports.
pub const MAX_PORTS: usize = 16;
/// The longest name of an interface, as in the kernel (IFNAMSIZ less its NUL).
pub const MAX_INTERFACE_NAME: usize = 15;
/// The longest name of a crypto engine.
pub const MAX_ENGINE_NAME: usize = 31;
/// The most slots of the SA table; each takes 256 bytes.
pub const MAX_SA_CAPACITY: u32 = 1 << 17;
/// The most frames of one ring of a port.
pub const MAX_RING_FRAMES: u32 = 1 << 16;

/// What the dataplane is to be. The same setup again gives the same segment; another one is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// One to [`MAX_WORKERS`].
    pub workers: Vec<WorkerSetup>,
    /// One to [`MAX_PORTS`].
    pub ports: Vec<PortSetup>,
    /// How workers wait for packets.
    pub polling: Polling,
    /// Slots of the SA table, both directions together: 1 to [`MAX_SA_CAPACITY`].
    pub sa_capacity: u32,
    /// The crypto engine by name; `None` for the fastest that this machine has.
    pub engine: Option<String>,
    /// Frames of each ring of each port: a power of two up to [`MAX_RING_FRAMES`].
    pub ring_frames: u32,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSetup {
    /// The core it is pinned to; `None` leaves it to the scheduler.
    pub core: Option<u16>,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSetup {
    /// The interface by name, 1 to [`MAX_INTERFACE_NAME`] bytes.
    pub interface: String,
    /// Which side it is on.
    pub role: Role,
}

/// Which side of the gateway a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Plain packets come from here, to be protected.
    Inside = 1,
    /// ESP comes from here.
    Outside = 2,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
        })
    }
}

/// How workers wait for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Polling {
    /// They never sleep.
    Busy = 1,
    /// They spin a while, then sleep until a ring wakes them.
    Adaptive = 2,
}

impl fmt::Display for Polling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Busy => "busy",
            Self::Adaptive => "adaptive",
        })
    }
}

/// What became of the setup: the dataplane fills it in when its ports are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// This life of the dataplane.
    pub epoch: crate::Epoch,
    /// The crypto engine that it uses, by name; cut at [`MAX_ENGINE_NAME`] bytes.
    pub engine: String,
    /// One for each port of the setup, in its order.
    pub ports: Vec<PortFacts>,
}

/// How a port came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortFacts {
    /// Where the XDP program runs.
    pub mode: PortMode,
    /// Whether the kernel copies packets.
    pub copy: CopyMode,
    /// How many queues the interface has; workers own as many of them as there are workers.
    pub queues: u16,
}

/// Where a port's XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PortMode {
    /// In the driver.
    Native = 1,
    /// In the kernel's stack: slow, a last resort.
    Generic = 2,
}

impl fmt::Display for PortMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Whether the kernel copies a port's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CopyMode {
    /// It does.
    Copy = 1,
    /// The device writes into our frames.
    ZeroCopy = 2,
}

impl fmt::Display for CopyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Copy => "copy",
            Self::ZeroCopy => "zero-copy",
        })
    }
}
