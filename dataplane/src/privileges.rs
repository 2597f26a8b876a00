//! What the process may do: as little as possible, as soon as possible.
//!
//! Opening the ports needs capabilities; carrying packets needs none. Everything afterwards goes
//! through file descriptors that are already open.

use esplanade_channel::make_undumpable;
use rustix::{
    fs::{Gid, Uid},
    io, process,
    thread::{self, CapabilitySet, CapabilitySets},
};

/// User and group "nobody", which own nothing: what root becomes once the ports are open.
const NOBODY: u32 = 65_534;

/// What opening ports needs, with the reason that the operator is told.
const NEEDED: [(CapabilitySet, &str, &str); 4] = [
    (
        CapabilitySet::NET_ADMIN,
        "CAP_NET_ADMIN",
        "to attach the XDP program",
    ),
    (
        CapabilitySet::NET_RAW,
        "CAP_NET_RAW",
        "to open AF_XDP sockets",
    ),
    (
        CapabilitySet::BPF,
        "CAP_BPF",
        "to load the XDP program and its maps",
    ),
    (
        CapabilitySet::PERFMON,
        "CAP_PERFMON",
        "for the pointer arithmetic in the XDP program",
    ),
];

/// A capability that opening ports needs and this process lacks.
#[derive(Debug, thiserror::Error)]
#[error(
    "the dataplane lacks {missing}. Run it as root, or give it the capabilities: \
     `AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON CAP_IPC_LOCK` in its systemd unit, or \
     `setcap cap_net_admin,cap_net_raw,cap_bpf,cap_perfmon,cap_ipc_lock+ep` on the program"
)]
pub struct Missing {
    missing: String,
}

/// Checks for the capabilities that opening ports needs.
///
/// # Errors
///
/// Names every capability that is missing and what it is for.
pub fn check() -> Result<(), Missing> {
    let held = thread::capabilities(None)
        .map(|sets| sets.effective)
        .unwrap_or(CapabilitySet::empty());
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(capability, ..)| !held.contains(*capability))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Missing {
        missing: missing.join(", "),
    })
}

/// Gives up every capability for good, and root for "nobody". Call it while the process has one thread:
/// threads started later inherit the result.
///
/// # Errors
///
/// What the kernel says; the process must not go on then.
pub fn drop_all() -> io::Result<()> {
    thread::set_no_new_privs(true)?;
    if process::geteuid().is_root() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        thread::set_thread_groups(&[])?;
        thread::set_thread_res_gid(group, group, group)?;
        thread::set_thread_res_uid(user, user, user)?;
    }
    thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    // A change of user makes the process dumpable as the system's default says.
    make_undumpable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_dropped_all_holds_nothing() {
        // Credentials are each thread's own in the kernel, so the other tests do not notice.
        let held = std::thread::spawn(|| {
            drop_all().unwrap();
            let error = check().unwrap_err().to_string();
            (
                thread::capabilities(None).unwrap(),
                error,
                process::geteuid(),
            )
        })
        .join()
        .unwrap();
        assert!(held.0.effective.is_empty() && held.0.permitted.is_empty());
        assert!(
            held.1.contains("CAP_BPF") && held.1.contains("setcap"),
            "{}",
            held.1
        );
        assert!(!held.2.is_root());
    }
}
