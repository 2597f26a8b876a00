//! Why steering failed, in the operator's words.

use std::{fmt, fs, io};

/// Why the XDP program could not be loaded, attached or told something.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The process lacks capabilities.
    #[error("{what} needs more rights: {missing}")]
    Capabilities {
        /// What was attempted.
        what: &'static str,
        /// The capabilities that are not there.
        missing: MissingCapabilities,
    },
    /// The kernel has no BPF, or no XSKMAP.
    #[error(
        "this kernel cannot load the XDP program: {what} ({error}). It needs CONFIG_BPF_SYSCALL and \
         CONFIG_XDP_SOCKETS, as Debian's kernels from 5.10 have"
    )]
    KernelWithout {
        /// What is missing, as far as is known.
        what: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The kernel refused the program.
    #[error("the kernel refused the XDP program ({error}): {log}")]
    Load {
        /// The kernel's answer.
        error: io::Error,
        /// The last lines that libbpf had to say.
        log: String,
    },
    /// There is no such interface.
    #[error("there is no interface `{interface}` in this network namespace")]
    NoInterface {
        /// The name as configured.
        interface: String,
    },
    /// Somebody else's XDP program is attached.
    #[error(
        "interface `{interface}` already has an XDP program: `{program}` (id {id}). Esplanade replaces \
         nobody's program; detach it first, for example with `ip link set dev {interface} xdp off`, or stop \
         the process that attached it"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The name of the program that is there.
        program: String,
        /// Its id, as `bpftool prog` shows it.
        id: u32,
    },
    /// The kernel refused to attach the program for another reason.
    #[error(
        "the XDP program cannot be attached to `{interface}`: native mode: {native}; generic mode: {generic}"
    )]
    Attach {
        /// The interface.
        interface: String,
        /// The answer for native mode.
        native: io::Error,
        /// The answer for generic mode.
        generic: io::Error,
    },
    /// A port or queue number beyond what the maps hold.
    #[error(
        "port {port} queue {queue} is out of range: at most {} ports of {} queues",
        crate::MAX_PORTS,
        crate::QUEUES_PER_PORT
    )]
    OutOfRange {
        /// The port.
        port: u8,
        /// The queue.
        queue: u32,
    },
    /// A map did not take an entry.
    #[error("the map `{map}` of the XDP program refused an entry: {error}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The compiled-in object is not what this code expects.
    #[error("the XDP object lacks `{name}`; this is a bug")]
    Object {
        /// What was looked for.
        name: &'static str,
    },
}

/// The capabilities that [`SteerError::Capabilities`] misses; displays how to give them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingCapabilities(Vec<&'static str>);

/// The names and bits of what the ports need (capability.h).
const NEEDED: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON.
const SYS_ADMIN: u32 = 21;

impl MissingCapabilities {
    /// Looks at what the calling thread has.
    pub fn of_this_thread() -> Self {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        Self::from_status(&status)
    }

    fn from_status(status: &str) -> Self {
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        let has = |bit: u32| effective & (1 << bit) != 0;
        let missing = |&(_, bit): &(&str, u32)| !(has(bit) || bit >= 38 && has(SYS_ADMIN));
        Self(
            NEEDED
                .into_iter()
                .filter(missing)
                .map(|(name, _)| name)
                .collect(),
        )
    }

    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for MissingCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(
                "the capabilities are there, but the kernel says no: look for a container's seccomp \
                 profile, a lockdown mode, or a user namespace that is not the host's",
            );
        }
        let list = self.0.join(", ");
        let option = self.0.join(" ");
        let lower = self.0.join(",").to_lowercase();
        write!(
            f,
            "{list} missing. Run it as root, or give them: `setcap {lower}+ep` on the program, \
             `AmbientCapabilities={option}` in a systemd unit, or `--cap-add` for a container"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        let none = MissingCapabilities::from_status("Name:\tx\nCapEff:\t0000000000000000\n");
        assert_eq!(none.0.len(), 4);
        assert!(
            none.to_string()
                .starts_with("CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF missing")
        );
        assert!(
            none.to_string()
                .contains("setcap cap_net_admin,cap_net_raw,cap_perfmon,cap_bpf+ep")
        );
        let some = MissingCapabilities::from_status("CapEff:\t0000008000003000\n");
        assert_eq!(some.0, ["CAP_PERFMON"]);
        let old_root = MissingCapabilities::from_status("CapEff:\t0000000000203000\n");
        assert!(old_root.is_empty());
    }
}
