//! The supervisor with scripts in the planes' place.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use esplanade_controlplane::supervisor::{Ask, Pace, Plan, RunError, supervise};
use tokio::{sync::mpsc, time::timeout};

/// Ends on SIGTERM or at the end of standard input, and writes down what happened.
const GOOD: &str = r#"
echo "$NAME start $*" >> "$LOG"
trap 'echo "$NAME term" >> "$LOG"; exit 0' TERM
trap 'echo "$NAME reload" >> "$LOG"' HUP
while :; do sleep 0.02; done
"#;

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path(name);
        let log = self.path("log");
        let text = format!("#!/bin/sh\nNAME={name}\nLOG={}\n{body}", log.display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn plan(&self, dataplane: &str, controlplane: &str) -> Plan {
        Plan {
            config: self.path("gateway.yaml"),
            run_dir: self.path("run"),
            keep: false,
            dataplane: self.script("dataplane", dataplane),
            controlplane: self.script("controlplane", controlplane),
            pace: Pace {
                first_wait: Duration::from_millis(10),
                longest_wait: Duration::from_millis(40),
                settled: Duration::from_secs(60),
                hopeless: Duration::from_millis(100),
                grace: Duration::from_secs(2),
            },
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    async fn until(&self, what: impl Fn(&str) -> bool) {
        let waiting = async {
            while !what(&self.log()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let seen = timeout(Duration::from_secs(10), waiting).await;
        assert!(
            seen.is_ok(),
            "not seen in time; the log says:\n{}",
            self.log()
        );
    }
}

fn start(
    plan: Plan,
) -> (
    mpsc::Sender<Ask>,
    tokio::task::JoinHandle<Result<(), RunError>>,
) {
    let (sender, asks) = mpsc::channel(4);
    let running = tokio::spawn(supervise(plan, asks));
    (sender, running)
}

fn both_started(log: &str) -> bool {
    log.contains("dataplane start") && log.contains("controlplane start")
}

#[tokio::test]
async fn both_planes_start_and_end_in_order() {
    let bench = Bench::new();
    let (ask, running) = start(bench.plan(GOOD, GOOD));
    bench.until(both_started).await;
    ask.send(Ask::End).await.unwrap();
    running.await.unwrap().unwrap();
    let log = bench.log();
    let goodbye = log.find("controlplane term").expect(&log);
    let end = log.find("dataplane term").expect(&log);
    assert!(goodbye < end, "{log}");
    assert!(log.contains("--supervised"), "{log}");
}

#[tokio::test]
async fn a_reload_reaches_the_control_plane_only() {
    let bench = Bench::new();
    let (ask, running) = start(bench.plan(GOOD, GOOD));
    bench.until(both_started).await;
    ask.send(Ask::Reload).await.unwrap();
    bench.until(|log| log.contains("controlplane reload")).await;
    ask.send(Ask::End).await.unwrap();
    running.await.unwrap().unwrap();
    assert!(!bench.log().contains("dataplane reload"));
}

#[tokio::test]
async fn a_crashed_plane_starts_again() {
    let bench = Bench::new();
    let crashing = r#"echo "$NAME start" >> "$LOG"; sleep 0.15; exit 7"#;
    let (ask, running) = start(bench.plan(crashing, GOOD));
    bench
        .until(|log| log.matches("dataplane start").count() >= 3)
        .await;
    ask.send(Ask::End).await.unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(bench.log().matches("controlplane start").count(), 1);
}

#[tokio::test]
async fn a_plane_that_is_killed_starts_again_at_once_however_young_it_is() {
    let bench = Bench::new();
    let killed = r#"echo "$NAME start" >> "$LOG"; [ $(grep -c "$NAME start" "$LOG") -gt 1 ] || kill -9 $$
        while :; do sleep 0.02; done"#;
    let mut plan = bench.plan(killed, GOOD);
    // The first restart does not wait for either.
    plan.pace.first_wait = Duration::from_secs(3600);
    plan.pace.longest_wait = Duration::from_secs(3600);
    plan.pace.hopeless = Duration::from_secs(3600);
    let (ask, running) = start(plan);
    bench
        .until(|log| log.matches("dataplane start").count() == 2)
        .await;
    ask.send(Ask::End).await.unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_plane_that_cannot_start_ends_the_other_and_is_named() {
    let bench = Bench::new();
    let (_ask, running) = start(bench.plan(GOOD, "exit 1"));
    let error = running.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("the control plane ended at once (exit status: 1)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let bench = Bench::new();
    let mut plan = bench.plan(GOOD, GOOD);
    plan.dataplane = PathBuf::from("/nowhere/esplanade-dataplane");
    let (_ask, running) = start(plan);
    let error = running.await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("/nowhere/esplanade-dataplane"),
        "{error}"
    );
}

#[tokio::test]
async fn a_plane_that_ignores_sigterm_is_killed() {
    let bench = Bench::new();
    let stubborn = r#"trap '' TERM; echo "$NAME start" >> "$LOG"; while :; do sleep 0.05; done"#;
    let mut plan = bench.plan(stubborn, GOOD);
    plan.pace.grace = Duration::from_millis(100);
    let (ask, running) = start(plan);
    bench.until(both_started).await;
    ask.send(Ask::End).await.unwrap();
    timeout(Duration::from_secs(5), running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn with_keep_the_dataplane_stays() {
    let bench = Bench::new();
    let mut plan = bench.plan(
        r#"echo "$NAME start $*" >> "$LOG"; echo $$ > "$LOG.pid"; trap 'echo "$NAME term" >> "$LOG"; exit' TERM
           while :; do sleep 0.02; done"#,
        GOOD,
    );
    plan.keep = true;
    let (ask, running) = start(plan);
    bench.until(both_started).await;
    ask.send(Ask::End).await.unwrap();
    running.await.unwrap().unwrap();
    let log = bench.log();
    assert!(
        log.contains("--keep") && log.contains("controlplane term"),
        "{log}"
    );
    assert!(!log.contains("dataplane term"), "{log}");
    let pid = fs::read_to_string(bench.path("log.pid")).unwrap();
    assert!(Path::new("/proc").join(pid.trim()).exists());
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    bench.until(|log| log.contains("dataplane term")).await;
}
