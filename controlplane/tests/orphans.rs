//! What becomes of the planes when `esplanade run` is killed.

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{PATIENCE, peer_config, write};

fn until(log: &Path, what: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if what.iter().all(|wanted| text.contains(wanted)) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not seen in time; the log says:\n{text}"
        );
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn planes_end_with_a_supervisor_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let log = place("log");
    // The supervisor takes the programs beside itself: here, scripts that read standard input to its end.
    fs::copy(env!("CARGO_BIN_EXE_esplanade"), place("esplanade")).unwrap();
    for name in ["esplanade-dataplane", "esplanade-controlplane"] {
        let script = format!(
            "#!/bin/sh\necho {name} starts >> {log}\ncat > /dev/null\necho {name} ends >> {log}\n",
            log = log.display()
        );
        fs::write(place(name), script).unwrap();
        fs::set_permissions(place(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    write(&place("gateway.yaml"), &peer_config(1));
    let mut supervisor = Command::new(place("esplanade"))
        .arg("run")
        .arg(place("gateway.yaml"))
        .arg("--run-dir")
        .arg(place("run"))
        .spawn()
        .unwrap();
    until(
        &log,
        &[
            "esplanade-dataplane starts",
            "esplanade-controlplane starts",
        ],
    );
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    until(
        &log,
        &["esplanade-dataplane ends", "esplanade-controlplane ends"],
    );
}
