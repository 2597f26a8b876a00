//! Two daemons that agree on keys while they log all that they can: neither the pre-shared key nor any key of an SA is
//! in a log or in what the command line prints. Needs root; without it the test is skipped, loudly.

#![forbid(unsafe_code)]

mod pair;

use std::{
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use esplanade_channel::Command as Order;
use pair::{PSK, Pair, Scribe};

/// What the command line prints.
fn said(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esplanade"));
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    [output.stdout, output.stderr].concat()
}

/// Has a dataplane obey, and remember the keys that it gets.
fn obey(scribe: &mut Scribe, keys: &mut Vec<Vec<u8>>) {
    keys.extend(
        scribe
            .take(|_| false)
            .iter()
            .filter_map(|order| match order {
                Order::InstallInbound(sa) => Some(sa.key.as_bytes().to_vec()),
                Order::InstallOutbound(sa) => Some(sa.key.as_bytes().to_vec()),
                _ => None,
            }),
    );
}

/// The ways in which octets get into a text: as they are, in hexadecimal, as a list of numbers.
fn writings(secret: &[u8]) -> Vec<Vec<u8>> {
    let hexadecimal: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let decimal: Vec<String> = secret.iter().map(u8::to_string).collect();
    vec![
        secret.to_vec(),
        hexadecimal.to_uppercase().into_bytes(),
        hexadecimal.into_bytes(),
        decimal.join(", ").into_bytes(),
        decimal.join(",").into_bytes(),
    ]
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn no_secret_is_logged_or_printed() {
    let Some(pair) = Pair::start("trace") else {
        return;
    };
    // The one that waits comes first, so that the other finds it awake.
    let mut scribes = ["2", "1"].map(|own| (Scribe::wait_for(&pair.path(own)), Vec::new()));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut rekey = None;
    while scribes.iter().any(|(_, keys)| keys.len() < 4) {
        assert!(Instant::now() < deadline, "no keys in time: {rekey:?}");
        for (scribe, keys) in &mut scribes {
            obey(scribe, keys);
        }
        if rekey.is_none() && scribes.iter().all(|(_, keys)| keys.len() == 2) {
            let mut command = Command::new(env!("CARGO_BIN_EXE_esplanade"));
            command.args(["rekey", "peer", "--run-dir"]);
            rekey = Some(command.arg(pair.path("1")).spawn().unwrap());
        }
        sleep(Duration::from_millis(2));
    }
    let rekeyed = rekey.expect("a rekey").wait().unwrap();
    assert!(rekeyed.success(), "{rekeyed}");

    let mut texts = Vec::new();
    for own in ["1", "2"] {
        let (run_dir, config) = (pair.path(own), pair.path(&format!("{own}.yaml")));
        let (run_dir, config) = (run_dir.to_str().unwrap(), config.to_str().unwrap());
        for command in [&["status"][..], &["sas"], &["counters", "--all"]] {
            let line = [command, &["--run-dir", run_dir]].concat();
            texts.push(said(&line));
            texts.push(said(&[&line[..], &["--json"]].concat()));
        }
        texts.push(said(&["check", config, "--json"]));
        let log = fs::read(pair.path(&format!("{own}.log"))).unwrap();
        assert!(
            contains(&log, b"peer/net: rekeyed"),
            "{}",
            String::from_utf8_lossy(&log)
        );
        texts.push(log);
    }
    // Half a key is too much already.
    let keys = scribes.iter().flat_map(|(_, keys)| keys);
    let parts = keys.flat_map(|key| key.chunks_exact(8));
    for part in parts.chain([PSK.as_bytes()]) {
        for writing in writings(part) {
            let tells = texts.iter().find(|text| contains(text, &writing));
            let tells = tells.map(|text| String::from_utf8_lossy(text));
            assert_eq!(
                tells,
                None,
                "it tells {}",
                String::from_utf8_lossy(&writing)
            );
        }
    }
}
