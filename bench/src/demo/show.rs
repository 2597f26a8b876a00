//! What the demonstration shows of the tunnel's work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::narrator::Narrator;
use super::{SECRET_FILE, TUNNEL, UP};
use crate::gateway::{Gateway, directory_of};
use crate::peer::strongswan::StrongSwan;
use crate::testbed::{HOST_B, Namespace, Testbed, run, wait_until};
use crate::traffic::stream::Stream;
use crate::traffic::transfer::{noise, transfer};
use crate::wire_tap::Seen;

/// What a listener would find if anything left in the clear.
pub const MARKER: &[u8] = b"THIS IS PLAINTEXT THAT NOBODY ON THE WIRE MAY READ";

const FILE_LENGTH: usize = 20_000_000;
const IPERF_SECONDS: u32 = 4;

/// A pre-shared key as `openssl rand -base64 32` would make one.
pub fn random_secret() -> Result<String> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Puts an example configuration and the secret that it names where its gateway reads them.
pub fn write_example(namespace: &Namespace, yaml: &str, secret: &str) -> Result<PathBuf> {
    let directory = directory_of(namespace);
    fs::create_dir_all(&directory)?;
    let psk = directory.join(SECRET_FILE);
    fs::write(&psk, format!("{secret}\n"))?;
    fs::set_permissions(&psk, fs::Permissions::from_mode(0o600))?;
    let config = directory.join("site.yaml");
    fs::write(&config, yaml)?;
    Ok(config)
}

/// The tunnel comes up.
pub fn tunnel(narrator: &mut Narrator, a: &Gateway<'_>, b: &Gateway<'_>) -> Result<()> {
    let start = std::time::Instant::now();
    a.wait_until_up(UP)?;
    b.wait_until_up(UP)?;
    let status = a.status()?;
    let tunnel = status.tunnels.first().context("a tunnel")?;
    let suite = tunnel.suite.clone().unwrap_or_default();
    let took = start.elapsed().as_secs_f32();
    narrator.result(
        "tunnel",
        &format!("up {took:.1} s after the gateways, IKE {suite}"),
    );
    if let Some(dataplane) = &status.dataplane {
        for port in &dataplane.ports {
            narrator.fact(&format!(
                "port {} ({}): XDP {}, {}",
                port.interface, port.role, port.mode, port.buffers
            ));
        }
        narrator.fact(&format!("crypto engine: {}", dataplane.engine));
    }
    narrator.fact(a.command(&["sas"])?.ok()?.stdout.trim_end());
    Ok(())
}

/// A ping from host to host.
pub fn ping(narrator: &mut Narrator, bed: &Testbed) -> Result<()> {
    narrator.step("Pinging host B from host A");
    bed.warm_up()?;
    let to = HOST_B.to_string();
    let said = bed
        .host_a
        .run(&["ping", "-n", "-c", "5", "-i", "0.2", "-W", "1", &to])?
        .stdout;
    narrator.fact(said.trim_end());
    let line = |text: &str| said.lines().find(|line| line.contains(text));
    let answered = line(" received")
        .and_then(|line| line.split(", ").nth(1))
        .unwrap_or("0");
    narrator.check(answered == "5 received", || {
        format!("ping: {answered} of 5")
    });
    let times = line("min/avg/max")
        .and_then(|line| line.split(" = ").nth(1))
        .unwrap_or("?");
    narrator.result(
        "ping",
        &format!("5 sent, {answered}; min/avg/max/mdev {times}"),
    );
    Ok(())
}

/// A file goes through the tunnel and is compared by SHA-256.
pub fn file(narrator: &mut Narrator, bed: &Testbed) -> Result<()> {
    narrator.step("Sending a file of 20 MB with a plaintext marker in it from host A to host B");
    let mut bytes = noise(FILE_LENGTH, 42);
    for place in [0, FILE_LENGTH / 2, FILE_LENGTH - MARKER.len()] {
        bytes[place..place + MARKER.len()].copy_from_slice(MARKER);
    }
    let delivery = transfer(&bed.host_a, (&bed.host_b, HOST_B), &bytes)?;
    let sent = sha256(&bed.log_dir().join("sent"), &bytes)?;
    let received = sha256(&bed.log_dir().join("received"), &delivery.bytes)?;
    narrator.fact(&format!("sent      {sent}\nreceived  {received}"));
    narrator.check(sent == received, || "the file arrived changed".to_owned());
    let rate = FILE_LENGTH as f64 * 8.0 / delivery.took.as_secs_f64() / 1e6;
    let verdict = if sent == received {
        "equal"
    } else {
        "DIFFERENT"
    };
    narrator.result(
        "file",
        &format!("20 MB at {rate:.0} Mbit/s, SHA-256 {verdict}"),
    );
    Ok(())
}

fn sha256(path: &Path, bytes: &[u8]) -> Result<String> {
    fs::write(path, bytes)?;
    let said = run(Command::new("sha256sum").arg(path), Duration::from_secs(20))?
        .ok()?
        .stdout;
    fs::remove_file(path)?;
    Ok(said.split(' ').next().unwrap_or_default().to_owned())
}

/// What the listener between the gateways saw.
pub fn wire(narrator: &mut Narrator, seen: Seen) {
    narrator.step("What the listener on the wire saw meanwhile");
    narrator.fact(&format!(
        "{} ESP packets ({} of them in UDP 4500), {} IKE messages, {} ARP and other link frames",
        seen.esp, seen.esp_in_udp, seen.ike, seen.link
    ));
    narrator.fact(&format!(
        "plaintext packets: {}; plaintext marker found: {}; nonces used twice: {}; frames missed: {}",
        seen.other, seen.marked, seen.repeated_nonces, seen.missed
    ));
    narrator.check(seen.marked == 0 && seen.other == 0, || {
        format!("plaintext on the wire: {seen:?}")
    });
    narrator.check(seen.repeated_nonces == 0, || {
        "a nonce was used twice".to_owned()
    });
    narrator.check(seen.missed == 0, || {
        format!(
            "the listener missed {} frames, of which it knows nothing",
            seen.missed
        )
    });
    let verdict = if seen.other == 0 {
        "nothing in the clear"
    } else {
        "PLAINTEXT"
    };
    narrator.result(
        "wire",
        &format!(
            "{} ESP packets, {verdict}, marker found {} times",
            seen.esp, seen.marked
        ),
    );
}

/// TCP as fast as it goes.
pub fn iperf(narrator: &mut Narrator, bed: &Testbed) -> Result<()> {
    narrator.step(&format!(
        "TCP through the tunnel for {IPERF_SECONDS} s (iperf3)"
    ));
    let mut server = bed.host_b.command("iperf3");
    server.args(["--server", "--one-off", "--forceflush"]);
    let mut server = bed.host_b.spawn("iperf3", bed.log_dir(), server)?;
    server.wait_to_say("listening", Duration::from_secs(5))?;
    let to = HOST_B.to_string();
    let seconds = IPERF_SECONDS.to_string();
    let said = bed
        .host_a
        .run_within(
            &["iperf3", "--json", "-c", &to, "-t", &seconds],
            Duration::from_secs(20),
        )?
        .ok()?
        .stdout;
    let report: serde_json::Value = serde_json::from_str(&said)?;
    let rate = report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .unwrap_or(0.0)
        / 1e9;
    let again = report["end"]["sum_sent"]["retransmits"]
        .as_u64()
        .unwrap_or(0);
    narrator.check(rate > 0.0, || "no TCP went through".to_owned());
    narrator.result(
        "TCP (iperf3)",
        &format!("{rate:.2} Gbit/s, {again} retransmissions"),
    );
    Ok(())
}

/// The counters of what was dropped, by reason.
pub fn drops(narrator: &mut Narrator, gateways: &[(&str, &Gateway<'_>)]) -> Result<()> {
    narrator.step("What the gateways dropped, by reason");
    let mut kinds = 0;
    for (name, gateway) in gateways {
        for row in gateway.losses()? {
            kinds += 1;
            narrator.fact(&format!(
                "{name}  {} = {}  {}",
                row.name, row.value, row.meaning
            ));
        }
    }
    let verdict = if kinds == 0 {
        "none".to_owned()
    } else {
        format!("{kinds} reasons, listed above")
    };
    narrator.result("drops", &verdict);
    Ok(())
}

/// Child and IKE SA are rekeyed by either side under a stream.
pub fn rekeys_with_strongswan(
    narrator: &mut Narrator,
    bed: &Testbed,
    a: &Gateway<'_>,
    b: &StrongSwan<'_>,
) -> Result<()> {
    narrator.step("Rekeying child and IKE SA from either side, under a stream of 500 packets/s");
    let stream = Stream::start(&bed.host_a, (&bed.host_b, HOST_B), 500, 200)?;
    for layer in ["--child", "--ike"] {
        let before = (b.children()?, b.ike_sas()?);
        a.command(&["rekey", layer, TUNNEL])?.ok()?;
        narrator.fact(&format!("Esplanade rekeyed {layer}"));
        std::thread::sleep(Duration::from_millis(500));
        match layer {
            "--child" => b.rekey_child()?,
            _ => b.rekey_ike()?,
        }
        wait_until("strongSwan's rekey", UP, || {
            match (layer, b.children(), b.ike_sas()) {
                ("--child", Ok(children), _) => children
                    .iter()
                    .any(|now| before.0.iter().all(|old| old.inbound != now.inbound)),
                (_, _, Ok(now)) => now != before.1,
                _ => false,
            }
        })?;
        narrator.fact(&format!("strongSwan rekeyed {layer}"));
        std::thread::sleep(Duration::from_millis(500));
    }
    let outcome = stream.stop()?;
    narrator.check(outcome.lost() == 0, || {
        format!("rekeys lost {} packets", outcome.lost())
    });
    narrator.result(
        "rekeys",
        &format!(
            "4 under traffic, {} of {} packets lost",
            outcome.lost(),
            outcome.sent
        ),
    );
    Ok(())
}
