//! What the control plane may do: configure the network and bind low ports, nothing else.
//!
//! Capabilities belong to a thread, and a thread inherits those of the thread that starts it. So [`reduce`] is
//! called before the runtime starts its first thread.

use rustix::{
    io,
    thread::{self, CapabilitySet, CapabilitySets},
};

/// What the control plane keeps for good, with the reason that the operator is told.
const KEPT: [(CapabilitySet, &str, &str); 2] = [
    (
        CapabilitySet::NET_ADMIN,
        "CAP_NET_ADMIN",
        "to install the kernel's guard and follow its routes and neighbours",
    ),
    (
        CapabilitySet::NET_BIND_SERVICE,
        "CAP_NET_BIND_SERVICE",
        "to bind the UDP ports 500 and 4500 of IKE",
    ),
];

/// A capability that the control plane needs and lacks.
#[derive(Debug, thiserror::Error)]
#[error(
    "the control plane lacks {missing}. Run it as root, or give it the capabilities: \
     `AmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE` in its systemd unit, or \
     `setcap cap_net_admin,cap_net_bind_service+ep` on the program"
)]
pub struct Missing {
    missing: String,
}

fn kept() -> CapabilitySet {
    KEPT.iter()
        .fold(CapabilitySet::empty(), |set, (one, ..)| set | *one)
}

/// Checks for the capabilities that the control plane needs.
///
/// # Errors
///
/// Names every capability that is missing and what it is for.
pub fn check() -> Result<(), Missing> {
    let held = thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let missing: Vec<String> = KEPT
        .iter()
        .filter(|(capability, ..)| !held.contains(*capability))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Missing {
        missing: missing.join(" and "),
    })
}

/// Gives up every capability but those that the daemon needs for good. Call it while the process has one thread.
///
/// # Errors
///
/// What the kernel says; the process must not go on then.
pub fn reduce() -> io::Result<()> {
    thread::set_no_new_privs(true)?;
    thread::clear_ambient_capability_set()?;
    thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept(),
            permitted: kept(),
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_capabilities_is_told_which_and_how() {
        // Credentials are each thread's own in the kernel, so the other tests do not notice.
        let error = std::thread::spawn(|| {
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            thread::set_capabilities(None, none).unwrap();
            check().unwrap_err().to_string()
        })
        .join()
        .unwrap();
        assert!(
            error.contains("CAP_NET_ADMIN") && error.contains("CAP_NET_BIND_SERVICE"),
            "{error}"
        );
        assert!(error.contains("setcap"), "{error}");
    }

    #[test]
    fn a_reduced_thread_keeps_two_capabilities() {
        if check().is_err() {
            return; // Without root there is nothing to reduce; the system tests run as root.
        }
        let held = std::thread::spawn(|| {
            reduce().unwrap();
            thread::capabilities(None).unwrap()
        })
        .join()
        .unwrap();
        assert_eq!(held.permitted, kept());
        assert_eq!(held.effective, kept());
        assert!(held.inheritable.is_empty());
    }
}
