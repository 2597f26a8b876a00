//! What a dataplane is started with: the control plane says it once, when it connects.

use crate::WorkerId;
use std::fmt;

/// The most workers.
pub const MAX_WORKERS: usize = 64;
/// The most ports.
pub const MAX_PORTS: usize = 16;
/// The longest name of an interface, as in the kernel (IFNAMSIZ less its NUL).
pub const MAX_INTERFACE_NAME: usize = 15;
/// The highest identifier of a VLAN (IEEE 802.1Q 9.6: 4095 is reserved).
pub const MAX_VLAN: u16 = 4094;
/// The longest name of a crypto engine.
pub const MAX_ENGINE_NAME: usize = 31;
/// The most slots of the SA table, as many as identifiers can name; each takes 256 bytes.
pub const MAX_SA_CAPACITY: u32 = crate::SaId::SLOTS;
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

impl Setup {
    /// The ring of the steward, which comes after those of the workers.
    pub const fn steward(&self) -> WorkerId {
        WorkerId(self.workers.len() as u16)
    }

    /// Whether such a dataplane can be.
    ///
    /// # Errors
    ///
    /// The first thing that is out of bounds.
    pub fn check(&self) -> Result<(), SetupError> {
        let within = |what, value: usize, highest: usize| {
            let ok = (1..=highest).contains(&value);
            let (value, highest) = (value as u64, highest as u64);
            ok.then_some(()).ok_or(SetupError::OutOfBounds {
                what,
                value,
                highest,
            })
        };
        within("workers", self.workers.len(), MAX_WORKERS)?;
        within("ports", self.ports.len(), MAX_PORTS)?;
        within(
            "slots of the SA table",
            self.sa_capacity as usize,
            MAX_SA_CAPACITY as usize,
        )?;
        within(
            "frames of a ring",
            self.ring_frames as usize,
            MAX_RING_FRAMES as usize,
        )?;
        if !self.ring_frames.is_power_of_two() {
            return Err(SetupError::RingFrames(self.ring_frames));
        }
        for (i, port) in self.ports.iter().enumerate() {
            within(
                "bytes of an interface's name",
                port.interface.len(),
                MAX_INTERFACE_NAME,
            )?;
            if let Some(vlan) = &port.vlan {
                within(
                    "bytes of an interface's name",
                    vlan.carrier.len(),
                    MAX_INTERFACE_NAME,
                )?;
                within("as a VLAN", vlan.id.into(), MAX_VLAN.into())?;
            }
            let frames = |port: &PortSetup| {
                let vlan = port.vlan.as_ref().map(|vlan| vlan.id);
                (port.carrier().to_owned(), vlan)
            };
            let same = |other: &PortSetup| {
                other.interface == port.interface || frames(other) == frames(port)
            };
            if self.ports.iter().take(i).any(same) {
                return Err(SetupError::Twice(port.interface.clone()));
            }
        }
        let engine = self.engine.as_ref().map_or(1, String::len);
        within("bytes of an engine's name", engine, MAX_ENGINE_NAME)
    }

    /// The first thing in which `wanted` differs from this; `None` when nothing does.
    pub fn difference(&self, wanted: &Self) -> Option<SetupDifference> {
        let differ = |what: String, running: String, wanted: String| {
            (running != wanted).then_some(SetupDifference {
                what,
                running,
                wanted,
            })
        };
        let numbers = [
            (
                "the number of workers",
                self.workers.len(),
                wanted.workers.len(),
            ),
            ("the number of ports", self.ports.len(), wanted.ports.len()),
            (
                "the capacity of the SA table",
                self.sa_capacity as usize,
                wanted.sa_capacity as usize,
            ),
            (
                "the frames of a ring",
                self.ring_frames as usize,
                wanted.ring_frames as usize,
            ),
        ];
        for (what, running, wanted) in numbers {
            let found = differ(what.to_owned(), running.to_string(), wanted.to_string());
            if found.is_some() {
                return found;
            }
        }
        let workers = self.workers.iter().zip(&wanted.workers).enumerate();
        let ports = self.ports.iter().zip(&wanted.ports).enumerate();
        workers
            .map(|(i, (a, b))| {
                let core = |worker: &WorkerSetup| {
                    let any = || "any".to_owned();
                    worker.core.map_or_else(any, |core| core.to_string())
                };
                differ(format!("the core of worker {i}"), core(a), core(b))
            })
            .chain(ports.map(|(i, (a, b))| {
                let port = |port: &PortSetup| {
                    let on = port.vlan.as_ref();
                    let on = on.map(|vlan| format!(", VLAN {} of {}", vlan.id, vlan.carrier));
                    let on = on.unwrap_or_default();
                    format!("{} ({}{on})", port.interface, port.role)
                };
                differ(format!("port {i}"), port(a), port(b))
            }))
            .find_map(|difference| difference)
            .or_else(|| {
                let polling = |setup: &Self| setup.polling.to_string();
                differ("polling".to_owned(), polling(self), polling(wanted))
            })
            .or_else(|| {
                let engine = |setup: &Self| {
                    let fastest = || "the fastest".to_owned();
                    setup.engine.clone().unwrap_or_else(fastest)
                };
                differ("the crypto engine".to_owned(), engine(self), engine(wanted))
            })
    }
}

/// Why no dataplane can be as a setup says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Too few or too many of something.
    #[error("{value} {what}: there must be 1 to {highest}")]
    OutOfBounds {
        /// Of what.
        what: &'static str,
        /// How many.
        value: u64,
        /// The most.
        highest: u64,
    },
    /// Not a power of two.
    #[error("{0} frames of a ring: it must be a power of two")]
    RingFrames(u32),
    /// An interface is named twice.
    #[error("interface `{0}` is named for two ports")]
    Twice(String),
}

/// In what two setups differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} is {running} in the running dataplane and {wanted} in what is asked for now; it cannot change while \
     the dataplane runs: restart the dataplane"
)]
pub struct SetupDifference {
    /// What differs.
    pub what: String,
    /// As it runs.
    pub running: String,
    /// As it is asked for.
    pub wanted: String,
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
    /// The interface by name, 1 to [`MAX_INTERFACE_NAME`] bytes; of a VLAN, the kernel's interface for it.
    pub interface: String,
    /// The VLAN that it is, if it is one.
    pub vlan: Option<PortVlan>,
    /// Which side it is on.
    pub role: Role,
}

impl PortSetup {
    /// The interface that its frames come from.
    pub fn carrier(&self) -> &str {
        let vlan = self.vlan.as_ref();
        vlan.map_or(&self.interface, |vlan| &vlan.carrier)
    }
}

/// A VLAN on an interface (IEEE 802.1Q).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortVlan {
    /// The interface that carries it by name, 1 to [`MAX_INTERFACE_NAME`] bytes.
    pub carrier: String,
    /// Its identifier, 1 to [`MAX_VLAN`].
    pub id: u16,
}

/// Which side of the gateway a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Plain packets come from here, to be protected.
    Inside = 1,
    /// ESP comes from here.
    Outside = 2,
    /// The gateway's own packets come from here: a TAP of that name, which the dataplane makes.
    Host = 3,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
            Self::Host => "host",
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
    /// No XDP at all: a TAP.
    Tap = 3,
}

impl fmt::Display for PortMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tap => "tap",
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
