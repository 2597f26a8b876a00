//! Both planes see the keys in the shared memory, so neither may be dumped or looked into.

use rustix::{io, process};

/// Keeps the process's memory, where keys live, out of core dumps and away from debuggers. A change of user undoes
/// it, and it is to be called again then.
///
/// # Errors
///
/// What the kernel says; it never refuses this on Linux 5.10 and later.
pub fn make_undumpable() -> io::Result<()> {
    process::set_dumpable_behavior(process::DumpableBehavior::NotDumpable)?;
    let none = process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    process::setrlimit(process::Resource::Core, none)
}
