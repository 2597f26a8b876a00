//! Opening an AF_XDP socket: sizes, rights, limits, and a sentence for each thing that can be missing.

#![allow(unsafe_code)]

use super::{
    interface::Interface,
    prefill::{prefill, sockets},
};
use esplanade_bpf::MissingCapabilities;
use rustix::{
    io::Errno,
    net::{sockopt, xdp::XdpOptionsFlags},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    error::Error,
    io,
    num::NonZeroU32,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{
        BindFlags, FrameSize, Interface as XskInterface, LibxdpFlags, QueueSize, SocketConfig,
        UmemConfig,
    },
};

/// How long we wait for the kernel to release a queue that somebody has just left.
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// How often we look whether it has.
const RELEASE_STEP: Duration = Duration::from_millis(10);

/// The most packets that one kick sends, as far as the kernel lets us choose (XDP_MAX_TX_SKB_BUDGET,
/// Linux 6.17; before, it is 32).
const KICK_BUDGET: u32 = 1024;

/// The option's number, which libc does not have yet (linux/if_xdp.h).
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

/// Bytes of packets on their way in copy mode; the kernel's default holds some 90 packets.
const SEND_BUFFER: usize = 16 << 20;

/// The longest link header: Ethernet and two VLAN tags.
const LINK_HEADER: u32 = 14 + 2 * 4;

/// What a port is opened with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The interface.
    pub interface: Interface,
    /// Which of its queues.
    pub queue: u32,
    /// How many frames each way, a power of two from 64 to 65,536: this much of a burst fits in
    /// while the worker is elsewhere.
    pub frames: u32,
    /// Do not try zero-copy: for programs attached in generic mode, which cannot.
    pub force_copy: bool,
}

impl Settings {
    /// The size of a frame's buffer: 2048 where the interface's MTU fits, 4096 above.
    pub(super) fn frame_size(&self) -> usize {
        let room = 2048 - super::xdp::HEADROOM as u32;
        if self.interface.mtu + LINK_HEADER <= room {
            2048
        } else {
            4096
        }
    }
}

/// How packets come from the driver to us, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMode {
    /// The network card writes into our frames.
    ZeroCopy,
    /// The kernel copies into our frames.
    Copy,
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process lacks capabilities.
    #[error("opening an AF_XDP socket needs more rights: {0}")]
    Capabilities(MissingCapabilities),
    /// The kernel does not know AF_XDP.
    #[error(
        "this kernel has no AF_XDP sockets; it needs CONFIG_XDP_SOCKETS, as Debian's kernels from 5.10 have"
    )]
    KernelWithout,
    /// The limit of locked memory is too low.
    #[error(
        "port `{interface}` needs {needed} KiB of locked memory and the limit is {limit} KiB: give CAP_IPC_LOCK, raise \
         the limit (`ulimit -l`, `LimitMEMLOCK=infinity` in a systemd unit), or use smaller rings"
    )]
    LockedMemory {
        /// The interface.
        interface: String,
        /// KiB that the port needs.
        needed: usize,
        /// KiB allowed to this process (RLIMIT_MEMLOCK).
        limit: u64,
    },
    /// There is not enough memory at all.
    #[error("there is not enough memory for the frames of a port ({bytes} bytes)")]
    NoMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// Another socket is bound to the queue.
    #[error(
        "queue {queue} of `{interface}` is taken: another AF_XDP socket is bound to it (see `ss --xdp -p`); stop the \
         process that holds it"
    )]
    Taken {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The interface has no such queue.
    #[error("`{interface}` has no queue {queue}: it has {queues}")]
    NoQueue {
        /// The interface.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// How many it has.
        queues: u32,
    },
    /// The interface went away.
    #[error("there is no interface `{interface}` in this network namespace")]
    NoInterface {
        /// The interface.
        interface: String,
    },
    /// The interface is down.
    #[error("interface `{interface}` is down: `ip link set {interface} up`")]
    Down {
        /// The interface.
        interface: String,
    },
    /// Packets of the interface do not fit our frames.
    #[error("the MTU of `{interface}` is {mtu}; at most {most} is possible")]
    Mtu {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// What would be possible.
        most: u32,
    },
    /// A number of frames that rings cannot have.
    #[error("{frames} frames for a ring: it must be a power of two from 64 to 65536")]
    Frames {
        /// The number asked for.
        frames: u32,
    },
    /// Anything else the kernel had against it.
    #[error("an AF_XDP socket on queue {queue} of `{interface}` could not be opened: {error}")]
    Other {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// A bound socket with its rings and memory. The first half of the frames is in the fill ring.
pub(super) struct Opened {
    pub(super) receive: RxQueue,
    pub(super) transmit: TxQueue,
    pub(super) fill: FillQueue,
    pub(super) complete: CompQueue,
    pub(super) umem: Umem,
    pub(super) descriptors: Vec<FrameDesc>,
    pub(super) mode: CopyMode,
}

/// Makes the UMEM and binds a socket: zero-copy if the driver can, else copying.
pub(super) fn open(settings: &Settings) -> Result<Opened, OpenError> {
    check(settings)?;
    lift_memory_limit();
    let ring = QueueSize::new(settings.frames).map_err(|_| bad_frames(settings))?;
    let (umem, descriptors) = make_filled_umem(settings, ring)?;
    let (transmit, receive, fill, complete) = bind(settings, ring, &umem)?;
    // SAFETY: the descriptor is open as long as the queues live, which outlive this borrow.
    let socket = unsafe { BorrowedFd::borrow_raw(receive.fd().as_raw_fd()) };
    let zero_copy = sockopt::xdp_options(socket)
        .is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY));
    tune(socket, settings.frames);
    Ok(Opened {
        receive,
        transmit,
        fill,
        complete,
        umem,
        descriptors,
        mode: if zero_copy {
            CopyMode::ZeroCopy
        } else {
            CopyMode::Copy
        },
    })
}

/// What can be known before the kernel is asked.
fn check(settings: &Settings) -> Result<(), OpenError> {
    let Settings {
        interface,
        queue,
        frames,
        ..
    } = settings;
    if !frames.is_power_of_two() || !(64..=65536).contains(frames) {
        return Err(bad_frames(settings));
    }
    if *queue >= interface.receive_queues {
        return Err(OpenError::NoQueue {
            interface: interface.name.clone(),
            queue: *queue,
            queues: interface.receive_queues,
        });
    }
    let most = 4096 - super::xdp::HEADROOM as u32 - LINK_HEADER;
    if interface.mtu > most {
        return Err(OpenError::Mtu {
            interface: interface.name.clone(),
            mtu: interface.mtu,
            most,
        });
    }
    Ok(())
}

fn bad_frames(settings: &Settings) -> OpenError {
    OpenError::Frames {
        frames: settings.frames,
    }
}

/// Raises RLIMIT_MEMLOCK as far as we may; whether that is enough shows when the UMEM is registered.
fn lift_memory_limit() {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        let to_maximum = Rlimit {
            current: maximum,
            maximum,
        };
        let _ = setrlimit(Resource::Memlock, to_maximum);
    }
}

/// Makes the UMEM, whose file descriptor becomes the socket, and hands its first frames to the kernel.
fn make_filled_umem(
    settings: &Settings,
    ring: QueueSize,
) -> Result<(Umem, Vec<FrameDesc>), OpenError> {
    /// The new socket is found by what was open before it, so only one may be made at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = sockets();
    let (umem, descriptors) = make_umem(settings, ring)?;
    let new = sockets().difference(&before).copied().next();
    drop(guard);
    let socket = new.ok_or_else(|| {
        let hidden = "/proc/self/fd does not show the new socket; mount /proc";
        other(settings, io::Error::other(hidden))
    })?;
    // SAFETY: the UMEM keeps this descriptor open, and is alive here.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    let receiving = descriptors.iter().take(settings.frames as usize);
    prefill(socket, receiving.map(|frame| frame.addr() as u64))
        .map_err(|error| other(settings, error))?;
    Ok((umem, descriptors))
}

fn make_umem(settings: &Settings, ring: QueueSize) -> Result<(Umem, Vec<FrameDesc>), OpenError> {
    let frames = settings.frames * 2;
    let bytes = frames as usize * settings.frame_size();
    let config = FrameSize::new(settings.frame_size() as u32)
        .map_err(io::Error::other)
        .and_then(|size| {
            UmemConfig::builder()
                .frame_size(size)
                .fill_queue_size(ring)
                .comp_queue_size(ring)
                .build()
                .map_err(io::Error::other)
        })
        .map_err(|error| other(settings, error))?;
    let count = NonZeroU32::new(frames).ok_or_else(|| bad_frames(settings))?;
    Umem::new(config, count, false).map_err(|error| {
        let error = kernel_error(&error);
        match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS) => capabilities(),
            Some(Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => OpenError::KernelWithout,
            Some(Errno::NOBUFS | Errno::AGAIN) => OpenError::LockedMemory {
                interface: settings.interface.name.clone(),
                needed: bytes / 1024,
                limit: getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX) / 1024,
            },
            Some(Errno::NOMEM) => OpenError::NoMemory { bytes },
            _ => other(settings, error),
        }
    })
}

type Queues = (TxQueue, RxQueue, FillQueue, CompQueue);

fn bind(settings: &Settings, ring: QueueSize, umem: &Umem) -> Result<Queues, OpenError> {
    let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
    if settings.force_copy {
        flags |= BindFlags::XDP_COPY;
    }
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let name: XskInterface = settings
        .interface
        .name
        .parse()
        .map_err(|error| other(settings, io::Error::other(error)))?;
    let started = Instant::now();
    loop {
        // SAFETY: the UMEM is not shared, and no program is loaded by the library.
        let error = match unsafe { Socket::new(config, umem, &name, settings.queue) } {
            Ok((transmit, receive, Some((fill, complete)))) => {
                return Ok((transmit, receive, fill, complete));
            }
            Ok(_) => return Err(other(settings, io::Error::other("no fill ring"))),
            Err(error) => kernel_error(&error),
        };
        let interface = settings.interface.name.clone();
        return Err(match Errno::from_io_error(&error) {
            Some(Errno::BUSY) if started.elapsed() < RELEASE_TIME => {
                thread::sleep(RELEASE_STEP);
                continue;
            }
            Some(Errno::BUSY) => OpenError::Taken {
                interface,
                queue: settings.queue,
            },
            Some(Errno::NODEV | Errno::NXIO) => OpenError::NoInterface { interface },
            Some(Errno::NETDOWN) => OpenError::Down { interface },
            Some(Errno::PERM | Errno::ACCESS) => capabilities(),
            _ => other(settings, error),
        });
    }
}

/// What makes sending cheaper and is no reason to fail.
fn tune(socket: BorrowedFd<'_>, frames: u32) {
    let budget = KICK_BUDGET.min(frames);
    // SAFETY: the option takes a u32, which lives across the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const budget).cast(),
            size_of::<u32>() as libc::socklen_t,
        );
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER);
    }
}

fn capabilities() -> OpenError {
    OpenError::Capabilities(MissingCapabilities::of_this_thread())
}

fn other(settings: &Settings, error: io::Error) -> OpenError {
    OpenError::Other {
        interface: settings.interface.name.clone(),
        queue: settings.queue,
        error,
    }
}

/// The kernel's error number inside an error of xsk-rs.
fn kernel_error(error: &dyn Error) -> io::Error {
    let inner = error.source().and_then(|inner| inner.downcast_ref());
    match inner.and_then(io::Error::raw_os_error) {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::other(error.to_string()),
    }
}
