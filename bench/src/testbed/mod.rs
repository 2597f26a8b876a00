//! Two hosts and two gateways on one machine: `host-a - gw-a - gw-b - host-b`, each a network
//! namespace, each link a veth pair.
//!
//! Everything that is made here goes away again: on drop, on a panic, on SIGINT and SIGTERM
//! ([`cleanup`]), and what a killed run left behind goes when the next one starts.

pub mod cleanup;
mod namespace;
mod process;
mod wait;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

pub use namespace::{Namespace, parse_mac};
pub use process::{Finished, Process, kill, run};
pub use wait::{wait_for, wait_until};

/// The inside address of the host behind gateway A.
pub const HOST_A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// The inside address of gateway A.
pub const INSIDE_A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The outside address of gateway A.
pub const OUTSIDE_A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The outside address of gateway B.
pub const OUTSIDE_B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The inside address of gateway B.
pub const INSIDE_B: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// The inside address of the host behind gateway B.
pub const HOST_B: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// The prefix behind gateway A.
pub const PREFIX_A: &str = "10.1.0.0/16";
/// The prefix behind gateway B.
pub const PREFIX_B: &str = "10.2.0.0/16";
/// The interface of a gateway that faces its host.
pub const INSIDE: &str = "eth1";
/// The interface of a gateway that faces the other gateway.
pub const OUTSIDE: &str = "eth2";
/// The one interface of a host.
pub const HOST: &str = "eth0";

/// How the two gateways are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// One veth pair. The fastest, but nobody can listen: AF_XDP passes the kernel's taps by.
    Direct,
    /// A bridge in a namespace of its own between two veth pairs, on which a listener sees all.
    Bridged,
}

/// What a test-bed is made with.
#[derive(Debug, Clone)]
pub struct Layout {
    /// MTU of every link. Above 3506 a veth takes no XDP program that is not made for fragments.
    pub mtu: u16,
    /// How the gateways are joined.
    pub wire: Wire,
    /// Queues of each interface of a gateway.
    pub queues: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            mtu: 1500,
            wire: Wire::Bridged,
            queues: 1,
        }
    }
}

/// The four machines and their links.
///
/// Only one test-bed exists on a machine at a time, whichever process makes it: [`Testbed::new`]
/// waits for the one before it, so that measurements and tests do not take each other's cores.
#[derive(Debug)]
pub struct Testbed {
    /// The host behind gateway A, at [`HOST_A`].
    pub host_a: Namespace,
    /// Gateway A, at [`INSIDE_A`] and [`OUTSIDE_A`].
    pub gateway_a: Namespace,
    /// Gateway B, at [`INSIDE_B`] and [`OUTSIDE_B`].
    pub gateway_b: Namespace,
    /// The host behind gateway B, at [`HOST_B`].
    pub host_b: Namespace,
    /// The bridge between the gateways; `None` for [`Wire::Direct`].
    pub wire: Option<Namespace>,
    log_dir: PathBuf,
    _turn: Turn,
}

impl Testbed {
    /// The port of the bridge that faces gateway A, where a listener sees each frame once.
    pub const TAP: &str = "to-a";

    /// Makes the machines, links, addresses and routes.
    ///
    /// Each gateway forwards, and has a plain route to the prefix behind the other: whatever is
    /// not stopped on purpose would leave in the clear, as on a real router.
    pub fn new(layout: &Layout) -> Result<Self> {
        let turn = Turn::take()?;
        cleanup::install();
        cleanup::remove_leftovers();
        let log_dir = fresh_log_dir()?;

        let host_a = Namespace::new("host-a")?;
        let gateway_a = Namespace::new("gw-a")?;
        let gateway_b = Namespace::new("gw-b")?;
        let host_b = Namespace::new("host-b")?;
        let wire = match layout.wire {
            Wire::Direct => None,
            Wire::Bridged => Some(Namespace::new("wire")?),
        };

        link((&host_a, HOST), (&gateway_a, INSIDE), layout)?;
        link((&host_b, HOST), (&gateway_b, INSIDE), layout)?;
        match &wire {
            None => link((&gateway_a, OUTSIDE), (&gateway_b, OUTSIDE), layout)?,
            Some(wire) => {
                link((&gateway_a, OUTSIDE), (wire, Self::TAP), layout)?;
                link((&gateway_b, OUTSIDE), (wire, "to-b"), layout)?;
                wire.ip(&format!(
                    "link add wire type bridge mcast_snooping 0\n\
                     link set wire mtu {mtu} up\n\
                     link set {tap} master wire\n\
                     link set to-b master wire\n",
                    mtu = layout.mtu,
                    tap = Self::TAP,
                ))?;
            }
        }

        for (host, address, router) in [(&host_a, HOST_A, INSIDE_A), (&host_b, HOST_B, INSIDE_B)] {
            host.ip(&format!(
                "addr add {address}/16 dev {HOST}\n\
                 route add default via {router}\n"
            ))?;
        }
        for (gateway, inside, outside, other, beyond) in [
            (&gateway_a, INSIDE_A, OUTSIDE_A, OUTSIDE_B, PREFIX_B),
            (&gateway_b, INSIDE_B, OUTSIDE_B, OUTSIDE_A, PREFIX_A),
        ] {
            gateway.ip(&format!(
                "addr add {inside}/16 dev {INSIDE}\n\
                 addr add {outside}/24 dev {OUTSIDE}\n\
                 route add {beyond} via {other}\n"
            ))?;
            gateway.sysctl("net.ipv4.ip_forward", "1")?;
        }
        Ok(Self {
            host_a,
            gateway_a,
            gateway_b,
            host_b,
            wire,
            log_dir,
            _turn: turn,
        })
    }

    /// Where the output of everything that runs in this test-bed is kept.
    pub fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// Pings until the first is answered, so that every link address is known before anything is
    /// counted or timed.
    pub fn warm_up(&self) -> Result<()> {
        wait_for("the first answer", Duration::from_secs(10), || {
            Ok((self.ping(1)? == 1).then_some(()))
        })
    }

    /// Sends `count` pings from host A to host B and returns how many were answered.
    pub fn ping(&self, count: u32) -> Result<u32> {
        self.host_a.ping(HOST_B, count)
    }
}

/// Joins two interfaces, each in its namespace, by a veth pair.
///
/// What AF_XDP on a veth needs:
/// - `tx off`, or the kernel's own senders leave their checksums to a device that is not there,
///   and an AF_XDP receiver sees them unfinished;
/// - `gro on`, which gives the receiving end NAPI, without which redirected frames are dropped;
/// - a `pfifo` in front, so that a full peer pushes back on the sender as a NIC's ring does; a
///   veth without a queue drops in silence.
pub fn link(left: (&Namespace, &str), right: (&Namespace, &str), layout: &Layout) -> Result<()> {
    let Layout { mtu, queues, .. } = layout;
    let (from, name) = left;
    let (to, peer) = right;
    from.ip(&format!(
        "link add name {name} mtu {mtu} numrxqueues {queues} numtxqueues {queues} type veth \
         peer name {peer} mtu {mtu} numrxqueues {queues} numtxqueues {queues} netns {to}\n",
        to = to.name(),
    ))?;
    for (namespace, interface) in [left, right] {
        namespace.ip(&format!("link set dev {interface} up\n"))?;
        if *queues > 1 {
            let n = queues.to_string();
            namespace
                .run(&["ethtool", "-L", interface, "rx", &n, "tx", &n])?
                .ok()?;
        }
        namespace
            .run(&["ethtool", "-K", interface, "tx", "off", "gro", "on"])?
            .ok()?;
        namespace
            .run(&[
                "tc", "qdisc", "replace", "dev", interface, "root", "pfifo", "limit", "1000",
            ])?
            .ok()?;
    }
    Ok(())
}

/// Says why no test-bed can be made here, or `None` when it can.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for tool in ["ip", "ethtool", "tc", "ping", "tcpdump"] {
        if find_program(tool).is_none() {
            return Some(format!("the program {tool} is not installed"));
        }
    }
    None
}

/// Looks a program up in PATH and in the two places that a short PATH forgets.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// What cargo keeps in every build directory, also in one that was there before its first build.
const CARGO_FILE: &str = ".rustc_info.json";

/// The build directory that the running program lies in.
pub fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where this program lies")?;
    program
        .ancestors()
        .find(|dir| dir.join(CARGO_FILE).is_file())
        .map(Path::to_owned)
        .with_context(|| format!("{} does not lie in a build directory", program.display()))
}

pub(crate) fn fresh_log_dir() -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("main").replace("::", "-");
    let dir = target_dir()?
        .join("testbed-logs")
        .join(format!("{}-{number}-{test}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The right to own the machine's only test-bed, held through a locked file.
#[derive(Debug)]
pub(crate) struct Turn {
    _file: File,
}

impl Turn {
    pub(crate) fn take() -> Result<Self> {
        let path = "/run/lock/esplanade-testbed";
        let file = File::create(path).with_context(|| format!("cannot open {path}"))?;
        if file.try_lock().is_ok() {
            return Ok(Self { _file: file });
        }
        eprintln!("waiting for another test-bed on this machine to be given back");
        wait_for(
            "the test-bed that is in use to be given back",
            wait::FOR_ANOTHER_TESTBED,
            || Ok(file.try_lock().is_ok().then_some(())),
        )?;
        Ok(Self { _file: file })
    }
}
