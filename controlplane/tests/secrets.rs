//! Two daemons that agree on keys while they log all that they can: neither the pre-shared key nor any key of an SA is
//! in a log or in what the command line prints. Needs root; without it the test is skipped, loudly.

#![forbid(unsafe_code)]

mod common;

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Bed, PATIENCE, PEERS, PSK, esplanade};
use esplanade_channel::Command as Order;

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

/// The key that an order brings.
fn key(order: &Order) -> Option<Vec<u8>> {
    match order {
        Order::InstallInbound(sa) => Some(sa.key.as_bytes().to_vec()),
        Order::InstallOutbound(sa) => Some(sa.key.as_bytes().to_vec()),
        _ => None,
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn no_secret_is_logged_or_printed() {
    let Some(bed) = Bed::new(PEERS) else {
        return;
    };
    let mut peers = bed
        .peers("trace")
        .map(|(daemon, scribe)| (daemon, scribe, Vec::new()));
    let deadline = Instant::now() + PATIENCE;
    let mut rekey = None;
    while peers.iter().any(|(_, _, keys)| keys.len() < 4) {
        assert!(Instant::now() < deadline, "no keys in time: {rekey:?}");
        for (_, scribe, keys) in &mut peers {
            keys.extend(scribe.obey().0.iter().filter_map(key));
        }
        if rekey.is_none() && peers.iter().all(|(_, _, keys)| keys.len() == 2) {
            rekey = Some(peers[1].0.ask(&["rekey", "peer"]));
        }
        sleep(Duration::from_millis(2));
    }
    let rekeyed = rekey.expect("a rekey").wait().unwrap();
    assert!(rekeyed.success(), "{rekeyed}");

    let mut texts = Vec::new();
    let mut say = |(out, error, code): (String, String, i32)| {
        assert_eq!(code, 0, "{error}");
        texts.extend([out.into_bytes(), error.into_bytes()]);
    };
    for (own, (daemon, ..)) in ["2", "1"].into_iter().zip(&peers) {
        for command in [&["status"][..], &["sas"], &["counters", "--all"]] {
            say(daemon.esplanade(command));
            say(daemon.esplanade(&[command, &["--json"]].concat()));
        }
        let config = bed.path(&format!("{own}.yaml"));
        say(esplanade(&["check", config.to_str().unwrap(), "--json"]));
    }
    for own in ["2", "1"] {
        let log = fs::read(bed.path(&format!("{own}.log"))).unwrap();
        assert!(
            contains(&log, b"peer/net: rekeyed"),
            "{}",
            String::from_utf8_lossy(&log)
        );
        texts.push(log);
    }
    // Half a key is too much already.
    let keys = peers.iter().flat_map(|(_, _, keys)| keys);
    let parts = keys.flat_map(|key: &Vec<u8>| key.chunks_exact(8));
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
