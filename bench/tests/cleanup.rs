//! The test-bed leaves nothing behind, whichever way its owner ends.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::ready;
use esplanade_bench::testbed::{self, Process, kill};

const LIMIT: Duration = Duration::from_secs(60);

/// Not a test: what the tests below start as a process of its own, to end it in the middle.
#[test]
#[ignore = "started by the other tests"]
fn hold() {
    let bed = common::bed();
    let mut command = bed.host_a.command("sleep");
    command.arg("1000");
    let sleeper = bed
        .host_a
        .spawn("sleep", bed.log_dir(), command)
        .expect("sleep");
    println!("holding {} {}", bed.gateway_a.name(), sleeper.id());
    std::thread::sleep(LIMIT);
    panic!("nobody ended it");
}

/// Starts [`hold`]; returns it with the name of a namespace and the id of a process that it made.
fn holder() -> (Process, String, u32) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", "hold", "--ignored", "--nocapture"]);
    let log = std::env::temp_dir().join(format!("esplanade-holder-{}.log", std::process::id()));
    let _ = std::fs::remove_file(&log);
    let mut process = Process::spawn("the holder", &log, command).expect("the holder");
    process.wait_to_say("holding", LIMIT).expect("a test-bed");
    testbed::wait_until("the whole line", LIMIT, || process.said().ends_with('\n'))
        .expect("a line");
    let said = process.said();
    let line = said
        .lines()
        .find_map(|line| line.split("holding ").nth(1))
        .expect("a line");
    let (name, id) = line.trim().split_once(' ').expect("a name and an id");
    let id = id.parse().expect("an id");
    // While it is still on its way from one program to the next, it has no command line.
    testbed::wait_until("the process to run", LIMIT, || runs(id)).expect("a process");
    assert!(exists(name));
    (process, name.to_owned(), id)
}

fn exists(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
}

fn runs(id: u32) -> bool {
    // A process that is dead but not yet waited for has no command line.
    std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn an_interrupt_removes_everything() {
    if !ready() {
        return;
    }
    for signal in ["TERM", "INT"] {
        let (mut process, namespace, sleeper) = holder();
        let mut sender = Command::new("kill");
        sender
            .arg(format!("-{signal}"))
            .arg(process.id().to_string());
        assert!(sender.status().expect("kill").success());
        process.wait(LIMIT).expect("an end");
        assert!(!exists(&namespace), "{namespace} is left");
        testbed::wait_until("the process to end", LIMIT, || !runs(sleeper)).expect("an end");
    }
}

#[test]
fn what_a_kill_leaves_behind_is_removed_by_the_next() {
    if !ready() {
        return;
    }
    let (mut process, namespace, sleeper) = holder();
    kill(process.id());
    process.wait(LIMIT).expect("an end");
    assert!(
        exists(&namespace),
        "nobody can clean up after kill -9 but the next"
    );
    drop(common::bed());
    assert!(!exists(&namespace), "{namespace} is left");
    testbed::wait_until("the process to end", LIMIT, || !runs(sleeper)).expect("an end");
}

#[test]
fn a_panic_removes_everything() {
    if !ready() {
        return;
    }
    let name = std::sync::Mutex::new(String::new());
    let outcome = std::panic::catch_unwind(|| {
        let bed = common::bed();
        bed.gateway_a
            .name()
            .clone_into(&mut name.lock().expect("a lock"));
        panic!("on purpose");
    });
    assert!(outcome.is_err());
    let name = name
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    assert!(name.contains("gw-a") && !exists(&name), "{name} is left");
}
