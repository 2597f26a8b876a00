//! `esplanade capture` on a real tunnel, read by tshark.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{bed, eventually, ready, two_gateways};
use esplanade_bench::gateway::{CHILD, TUNNEL};
use esplanade_bench::testbed::{INSIDE, OUTSIDE, OUTSIDE_A, OUTSIDE_B, Testbed, run};
use esplanade_bench::traffic::inject;
use esplanade_bench::wire_tap::{Depth, WireTap};

/// What tshark reads of each packet: these fields, one packet a line.
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-r"])
        .arg(file)
        .args(["-T", "fields", "-E", "occurrence=f"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let said = run(&mut command, Duration::from_secs(30)).and_then(|said| said.ok());
    let lines = said.expect("tshark reads the file").stdout;
    let split = |line: &str| line.split('\t').map(str::to_owned).collect();
    lines.lines().map(split).collect()
}

#[test]
fn a_capture_shows_packets_before_and_after_esp_and_a_replay_with_its_reason() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, _b) = two_gateways(&bed);
    let wire = bed.wire.as_ref().expect("a bridge");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("all.pcapng");
    let name = file.to_str().expect("a name");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Whole, b"").expect("a listener");

    std::thread::scope(|scope| {
        let target = format!("{TUNNEL}/{CHILD}");
        let a = &a;
        let capture = scope.spawn(move || {
            let arguments = [
                "capture",
                "--tunnel",
                &target,
                "--seconds",
                "20",
                "--count",
                "15",
                name,
                "--json",
            ];
            a.command(&arguments).and_then(|said| said.ok())
        });
        eventually("the file to be there", || file.exists());
        // Three requests and their answers, each seen twice.
        assert_eq!(bed.ping(3).expect("ping"), 3);
        let sealed = tap.stop().expect("what was seen").samples.into_iter();
        let to_a = sealed.filter(|sample| sample.source == OUTSIDE_B);
        let replays: Vec<Vec<u8>> = to_a.map(|sample| sample.bytes).take(2).collect();
        // Seen once as they come and once as they are dropped, until there are as many as were asked for.
        inject::esp(&bed.gateway_b, OUTSIDE_A, &replays).expect("an injection");
        let said = capture.join().expect("a thread").expect("a capture");
        let said: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
        assert_eq!(
            (&said["packets"], &said["lost"]),
            (&15.into(), &0.into()),
            "{said}"
        );
        assert!(said["dropped"].as_u64() >= Some(1), "{said}");
    });

    let mode = fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(
        mode & 0o777,
        0o600,
        "what users send is for its owner alone"
    );
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.proto",
        "icmp.type",
        "icmp.seq",
        "esp.sequence",
        "frame.comment",
    ];
    let lines = tshark(&file, &fields);
    assert_eq!(lines.len(), 15);
    let count = |interface: &str, inbound: bool, protocol: &str| {
        let direction = if inbound {
            ["1", "0x00000001"]
        } else {
            ["2", "0x00000002"]
        };
        let passed = lines.iter().filter(|line| line[6].is_empty());
        passed
            .filter(|line| {
                line[0] == interface && direction.contains(&line[1].as_str()) && line[2] == protocol
            })
            .count()
    };
    // ICMP is protocol 1, ESP 50.
    assert_eq!(
        (count(INSIDE, true, "1"), count(INSIDE, false, "1")),
        (3, 3),
        "{lines:#?}"
    );
    assert_eq!(count(OUTSIDE, false, "50"), 3, "{lines:#?}");
    assert!(
        count(OUTSIDE, true, "50") >= 4,
        "answers and replays: {lines:#?}"
    );
    // What went in came out at the other side: a request before ESP, then its ESP.
    let order: Vec<&str> = lines.iter().take(2).map(|line| line[2].as_str()).collect();
    assert_eq!(order, ["1", "50"], "{lines:#?}");
    let drops: Vec<&Vec<String>> = lines.iter().filter(|line| !line[6].is_empty()).collect();
    for drop in &drops {
        assert!(
            drop[6].starts_with("dropped: InStateSeqError: "),
            "{drop:?}"
        );
        let same =
            |line: &&Vec<String>| line[6].is_empty() && line[0] == OUTSIDE && line[5] == drop[5];
        assert!(
            lines.iter().filter(same).count() >= 2,
            "it came, and came again: {drop:?}"
        );
    }

    let again = a.command(&["capture", name]).expect("an answer");
    assert!(
        again
            .ok()
            .expect_err("a refusal")
            .to_string()
            .contains("exists already")
    );
    let stray = directory.path().join("stray.pcapng");
    let stray = stray.to_str().expect("a name");
    let unknown = a
        .command(&["capture", "--tunnel", "nobody", stray])
        .expect("an answer");
    assert!(
        unknown
            .ok()
            .expect_err("a refusal")
            .to_string()
            .contains("nobody")
    );
}
