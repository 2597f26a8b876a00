//! Leaves the machine as it was found, whichever way a run ends.
//!
//! What exists is written down here when it is made. Drop takes it off the list and removes it; a
//! signal, or a panic in a build that aborts on one, removes all that is still on the list; and
//! what a SIGKILL left behind is removed by the next run, which knows it by the dead process id in
//! its name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::process::{Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::process::{as_pid, end_group};

/// How the name of each of our namespaces begins; the process id of its maker follows.
pub(super) const PREFIX: &str = "espbed-";

#[derive(Default)]
struct Made {
    processes: BTreeSet<u32>,
    namespaces: BTreeSet<String>,
}

static MADE: Mutex<Made> = Mutex::new(Made {
    processes: BTreeSet::new(),
    namespaces: BTreeSet::new(),
});

fn made() -> MutexGuard<'static, Made> {
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on SIGINT, SIGTERM and SIGHUP remove everything before the process ends.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) {
            std::thread::spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    eprintln!("\ninterrupted, cleaning up");
                    remove_all(|| std::process::exit(128 + signal));
                }
            });
        }
        if cfg!(panic = "abort") {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                report(panic);
                remove_all(|| std::process::abort());
            }));
        }
    });
}

/// Removes all that this process has made and not yet removed, and lets nobody else make or remove
/// anything until `end` has ended the process: a thread whose child we killed would otherwise come to
/// the end of `main` before we have done.
fn remove_all(end: impl FnOnce()) {
    let mut made = made();
    for process in std::mem::take(&mut made.processes) {
        end_group(process, Signal::KILL);
    }
    for namespace in std::mem::take(&mut made.namespaces) {
        delete(&namespace);
    }
    end();
}

pub(super) fn register_process(id: u32) {
    made().processes.insert(id);
}

pub(super) fn forget_process(id: u32) {
    made().processes.remove(&id);
}

pub(super) fn register_namespace(name: &str) {
    made().namespaces.insert(name.to_owned());
}

pub(super) fn remove_namespace(name: &str) {
    if made().namespaces.remove(name) {
        delete(name);
    }
}

/// Removes the namespaces of runs that were killed before they could do it themselves.
pub fn remove_leftovers() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|id| id.parse::<u32>().ok());
        if let Some(maker) = maker
            && !Path::new(&format!("/proc/{maker}")).exists()
        {
            delete(&name);
        }
    }
}

/// Ends what still runs in a namespace, each process by its id, and removes it.
fn delete(namespace: &str) {
    for id in processes_in(namespace) {
        if let Some(pid) = as_pid(id) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = Command::new("ip")
        .args(["netns", "delete", namespace])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // Sockets and configurations of what ran in it.
    let _ = fs::remove_dir_all(Path::new("/run").join(namespace));
}

fn processes_in(namespace: &str) -> Vec<u32> {
    let Ok(output) = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output()
    else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        // A thread of our own that entered the namespace does not make us a leftover.
        .filter(|id| *id != std::process::id())
        .collect()
}
