//! What the daemon reports: plain values with their units in their names, the same in JSON and in tables.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// The state of both planes and every tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The control plane itself.
    pub control_plane: ControlPlane,
    /// The dataplane, or none while it is away.
    pub dataplane: Option<Dataplane>,
    /// Why the dataplane is away, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataplane_trouble: Option<String>,
    /// Every configured tunnel, by name.
    pub tunnels: Vec<Tunnel>,
}

/// The control plane itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlPlane {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// How long it has run, in seconds.
    pub uptime_s: u64,
    /// The kernel's guard, as it stands.
    pub guard: Guard,
    /// The file that it runs.
    pub config: String,
}

/// The kernel's guard, which keeps plaintext of protected prefixes from passing while both planes are dead, as it was
/// found when the question came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Whether the configuration has it on.
    pub on: bool,
    /// What the kernel lacks of it, in the words of `ip route` and `ip rule`.
    pub missing: Vec<String>,
    /// What else is in its table and among its rules, in the same words.
    pub foreign: Vec<String>,
    /// Why the kernel could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// In a line: `complete`, or what is not as it should be.
impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(trouble) = &self.trouble {
            return write!(f, "unknown: {trouble}");
        }
        f.write_str(match (self.on, self.missing.is_empty()) {
            (false, _) => "off",
            (true, true) => "complete",
            (true, false) => "incomplete",
        })?;
        for (what, parts) in [
            ("without", &self.missing),
            ("besides there is", &self.foreign),
        ] {
            if !parts.is_empty() {
                write!(f, "; {what} {}", some_of(parts))?;
            }
        }
        Ok(())
    }
}

/// The first few of a list, and how many more there are.
fn some_of(parts: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = parts
        .iter()
        .take(SHOWN)
        .map(|part| format!("`{part}`"))
        .collect();
    let shown = shown.join(", ");
    match parts.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The dataplane as the shared segment shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dataplane {
    /// Its process.
    pub pid: u32,
    /// A random number that is new at each of its starts, in hexadecimal.
    pub epoch: String,
    /// The crypto engine in use.
    pub engine: String,
    /// Its workers.
    pub workers: Vec<Worker>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// One pinned thread of the dataplane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub worker: u16,
    /// The core that it is pinned to, or none when it floats.
    pub core: Option<u16>,
    /// How many SAs it owns.
    pub sas: u64,
}

/// One interface of the dataplane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// The kernel's name of it.
    pub interface: String,
    /// `inside` or `outside`.
    pub role: String,
    /// Whether packets can pass it.
    pub link: Link,
    /// `native` or `generic` XDP.
    pub mode: String,
    /// `copy` or `zero-copy`.
    pub buffers: String,
    /// How many queues are open.
    pub queues: u32,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// Whether packets can pass an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// They can.
    Up,
    /// It is switched off or has no carrier.
    Down,
    /// There is no interface of that name.
    Missing,
}

impl Link {
    /// What to tell of an interface that is not up.
    pub(crate) fn trouble(self, interface: &str) -> Option<String> {
        match self {
            Self::Up => None,
            Self::Down => Some(format!(
                "{interface} is down, and no packet passes it: `ip link set {interface} up`, or look at its cable"
            )),
            Self::Missing => Some(format!(
                "{interface} does not exist, and no packet passes it: once it is there, restart the dataplane"
            )),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Missing => "missing",
        })
    }
}

/// One configured tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its name in the configuration; of one of the many that may be connected to it, with a number: `clients#3`.
    pub name: String,
    /// Of one of many, who it has proved to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The addresses of a pool: those that the peer has of us, or we have of the peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Of a tunnel that many may be connected to, how many are; they follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<usize>,
    /// `established`, `connecting`, `down`, ...
    pub state: String,
    /// Our address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// The IKE SA's algorithms, once agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// The age of the IKE SA, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub established_s: Option<u64>,
    /// Its children.
    pub children: Vec<Child>,
    /// What all of them have carried and dropped.
    #[serde(default)]
    pub totals: Totals,
    /// Why it is down, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// An address of a pool that somebody has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The pool's name.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub identity: String,
    /// As whom it is connected: `clients#3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Where nobody is: for how many more seconds it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_s: Option<u64>,
}

/// One configured child of a tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// Its name in the configuration.
    pub name: String,
    /// Whether an SA pair of it is installed.
    pub up: bool,
    /// The inside selectors, as text.
    pub local: Vec<String>,
    /// The selectors behind the peer, as text.
    pub remote: Vec<String>,
    /// The SPI of its newest inbound SA, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spi_in: Option<String>,
    /// The SPI of its newest outbound SA, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spi_out: Option<String>,
    /// What it has carried and dropped.
    #[serde(default)]
    pub totals: Totals,
}

/// What was carried and dropped since the dataplane started, by whatever SAs: rekeying starts nothing over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Packets that came through the tunnel.
    pub in_packets: u64,
    /// Their bytes, inner IP headers included.
    pub in_bytes: u64,
    /// Packets that left through the tunnel.
    pub out_packets: u64,
    /// Their bytes, inner IP headers included.
    pub out_bytes: u64,
    /// Packets dropped, by the counter of the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
}

impl Totals {
    /// Adds what another has.
    pub fn add(&mut self, other: &Self) {
        self.in_packets += other.in_packets;
        self.in_bytes += other.in_bytes;
        self.out_packets += other.out_packets;
        self.out_bytes += other.out_bytes;
        for (reason, packets) in &other.drops {
            *self.drops.entry(reason.clone()).or_default() += packets;
        }
    }
}

/// One SA of the dataplane. No keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sa {
    /// `tunnel/child`.
    pub label: String,
    /// `in` or `out`.
    pub direction: String,
    /// The SPI on the wire, in hexadecimal.
    pub spi: String,
    /// `live`, `rekeyed`, `dead`, ...
    pub state: String,
    /// Our outer address, with the port when in UDP.
    pub local: String,
    /// The peer's outer address, with the port when in UDP.
    pub remote: String,
    /// Whether its policy sends by this SA now (outbound only).
    pub selected: bool,
    /// The worker that owns it.
    pub worker: u16,
    /// `esp` or `ah`.
    pub protocol: String,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// What it does to packets, as a proposal names it: `aes256gcm16`, `aes128-sha256`, `ah-sha256`.
    pub algorithm: String,
    /// Packets carried.
    pub packets: u64,
    /// Bytes carried.
    pub bytes: u64,
    /// Outbound: the next sequence number; inbound: the highest seen.
    pub sequence: u64,
    /// The anti-replay window, in packets (inbound only).
    pub window: u32,
    /// Whether sequence numbers are extended to 64 bits on the wire's behalf (RFC 4304).
    pub esn: bool,
    /// Packets dropped as repeated or too old.
    pub replay_drops: u64,
    /// Packets dropped as forged or damaged.
    pub auth_failures: u64,
    /// Packets dropped for whatever reason, by its counter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
    /// The MTU of the path to the peer in bytes of IP, by routes, configuration and what routers on the way said; none before
    /// its first packet (outbound only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// How long ago it last carried a packet, in milliseconds; none if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

/// How much a counter matters when it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// We lost something that we should not have.
    Error,
    /// A mistaken configuration, an attack or a lossy path.
    Warning,
    /// Policy did its work, or somebody else's packets are odd.
    Notice,
    /// Traffic and work.
    Info,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    /// Its name, e.g. `InStateSeqError`.
    pub name: String,
    /// `dataplane`, `steering`, `ike`, ...
    pub plane: String,
    /// How much it matters.
    pub severity: Severity,
    /// What is counted.
    pub unit: String,
    /// Its value, over all workers.
    pub value: u64,
    /// What it means and what to do, in a sentence.
    pub meaning: String,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Tunnels that are new.
    pub added: Vec<String>,
    /// Tunnels that are gone.
    pub removed: Vec<String>,
    /// Tunnels that differ.
    pub changed: Vec<String>,
    /// How many tunnels were left alone.
    pub unchanged: usize,
    /// What needs a restart of the dataplane to take effect.
    pub needs_restart: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.unchanged == 1 { "" } else { "s" };
        let rest = format!("{} tunnel{plural}", self.unchanged);
        let mut parts = Vec::new();
        for (what, names) in [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
        ] {
            if !names.is_empty() {
                parts.push(format!("{what} {}", names.join(", ")));
            }
        }
        if parts.is_empty() {
            return write!(f, "nothing changed: {rest} as before");
        }
        write!(f, "{}; {rest} untouched", parts.join("; "))
    }
}
