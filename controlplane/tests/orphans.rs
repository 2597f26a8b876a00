//! What becomes of the planes when `esplanade run` is killed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

const CONFIG: &str = "dataplane:
  workers: [0]
  ports:
    lan: { interface: eth1, role: inside }
    wan: { interface: eth2, role: outside }
tunnels:
  site-b:
    local: { address: 192.0.2.1, identity: a.example.org }
    remote: { address: 192.0.2.2, identity: b.example.org }
    authentication: { psk: { secret: \"correct horse battery staple\" } }
    children:
      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16] }
";

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn until(log: &Path, what: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(20);
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
        write(&place(name), &script, 0o755);
    }
    write(&place("gateway.yaml"), CONFIG, 0o600);
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
