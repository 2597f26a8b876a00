//! scapy at the other end: every algorithm that it has, tunnel and transport mode, ESP, ESP in UDP and AH, both families, and
//! ESN with a high half that is not zero. scapy leaves the high half out of the HMAC of ESP, so there ESN goes with the AEADs
//! and with AH.

use super::{super::modes::own, *};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

/// Debian's, which has Debian's scapy.
const PYTHON: &str = "/usr/bin/python3";

/// scapy as a process.
struct Scapy {
    child: Child,
    tasks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Scapy {
    fn start() -> Option<Self> {
        let needs = "import cryptography, scapy.layers.ipsec";
        if !has(
            PYTHON,
            &["-c", needs],
            "python3-scapy or python3-cryptography",
        ) {
            return None;
        }
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("src/worker/tests/foreign/scapy_peer.py");
        let mut child = Program::new(PYTHON)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            tasks: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        })
    }

    fn ask(&mut self, task: &str) -> Result<Vec<u8>, String> {
        writeln!(self.tasks.as_mut().unwrap(), "{task}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let Some(hex) = answer.strip_prefix("ok ") else {
            return Err(answer);
        };
        let digits = hex.trim_end().as_bytes().as_chunks::<2>().0.iter();
        let octet = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        Ok(digits.map(|pair| octet(pair).unwrap()).collect())
    }
}

impl Drop for Scapy {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.tasks = None;
        let _ = self.child.wait();
    }
}

fn mac_name(mac: Hmac) -> &'static str {
    match mac {
        Hmac::Sha1 => "HMAC-SHA1-96",
        Hmac::Sha2_256 => "SHA2-256-128",
        Hmac::Sha2_384 => "SHA2-384-192",
        Hmac::Sha2_512 => "SHA2-512-256",
    }
}

/// What scapy calls the SA that A sends by.
fn association(tunnel: &Tunnel, high: u64) -> String {
    let (cipher, integrity) = match (tunnel.ah, tunnel.algorithm) {
        (Some(Integrity::Hmac(mac)), _) => (None, Some(mac)),
        (Some(_), _) => unreachable!("scapy has no GMAC"),
        (None, Algorithm::AesGcm(..)) => (Some("AES-GCM"), None),
        (None, Algorithm::AesCcm(..)) => (Some("AES-CCM"), None),
        (None, Algorithm::ChaCha20Poly1305(_)) => (Some("CHACHA20-POLY1305"), None),
        (None, Algorithm::EncryptThenMac(Encryption::AesCbc(_), mac)) => {
            (Some("AES-CBC"), Some(mac))
        }
        (None, Algorithm::EncryptThenMac(Encryption::Null, mac)) => (None, Some(mac)),
        (None, Algorithm::AesGmac(_)) => unreachable!("scapy has no GMAC"),
    };
    let (key, integrity_key) = key_of_a(tunnel);
    let mut task = format!(
        "protocol={} mode={} spi={} source={} destination={} udp={} esn={} high={high} key={} integrity_key={}",
        if tunnel.ah.is_some() { "ah" } else { "esp" },
        tunnel.mode,
        inbound_id(B).value(),
        outer_of(tunnel.outer, A),
        outer_of(tunnel.outer, B),
        tunnel.udp,
        tunnel.esn,
        hex(key),
        hex(integrity_key),
    );
    if let Some(cipher) = cipher {
        task += &format!(" cipher={cipher}");
    }
    if let Some(mac) = integrity {
        task += &format!(" integrity={}", mac_name(mac));
    }
    task
}

/// What leaves a gateway looks as it did, but for TTL and header checksum.
fn assert_same(ours: &[u8], theirs: &[u8], what: &str) {
    let blind = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        packet[8] = 0;
        packet[10..12].fill(0);
        packet
    };
    assert_eq!(hex(&blind(ours)), hex(&blind(theirs)), "{what}");
}

/// Both directions by one SA of each kind.
fn exchange(scapy: &mut Scapy, tunnel: Tunnel) {
    let tunnel = keyed(tunnel);
    let transport = tunnel.mode == Mode::Transport;
    let (mut a, mut b) = if transport {
        hosts(&tunnel)
    } else {
        pair(&tunnel)
    };
    let high = u64::from(tunnel.esn);
    let first = (high << 32) + 7;
    skip(&mut a, &mut b, first);
    let sa = association(&tunnel, high);
    let what = format!("{tunnel:?}");
    let inner = if transport {
        (0..18)
            .chain([1300])
            .map(|length| own(A, B, length))
            .collect()
    } else {
        greetings()
    };

    let sealed = a.protect(&inner);
    assert_eq!(sealed.len(), inner.len(), "{what}");
    for (sealed, inner) in sealed.iter().zip(&inner) {
        let packet = hex(packet_of(sealed));
        let opened = scapy.ask(&format!("do=open packet={packet} {sa}"));
        assert_same(
            &opened.unwrap_or_else(|why| panic!("{what}: {why}")),
            inner,
            &what,
        );
    }
    let mut forged = packet_of(&sealed[0]).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let packet = hex(&forged);
    let forged = scapy.ask(&format!("do=open packet={packet} {sa}"));
    forged.expect_err("scapy looks at the ICV");

    let frames: Vec<Vec<u8>> = (first as u32..)
        .zip(&inner)
        .map(|(sequence, inner)| {
            let packet = hex(inner);
            let sealed = scapy.ask(&format!("do=seal sequence={sequence} packet={packet} {sa}"));
            let sealed = sealed.unwrap_or_else(|why| panic!("{what}: {why}"));
            frame(gateway_mac(A, OUTSIDE), gateway_mac(B, OUTSIDE), &sealed)
        })
        .collect();
    let opened = b.unprotect(&frames);
    assert_eq!(opened.len(), inner.len(), "{what}");
    for (opened, inner) in opened.iter().zip(&inner) {
        assert_same(packet_of(opened), inner, &what);
    }
    assert!(b.unprotect(&frames).is_empty(), "replays: {what}");
    a.audit();
    b.audit();
}

fn has_esn(algorithm: Algorithm) -> bool {
    !matches!(algorithm, Algorithm::EncryptThenMac(..))
}

#[test]
fn scapy_and_the_worker_open_what_the_other_seals_with_esp() {
    let Some(mut scapy) = Scapy::start() else {
        return;
    };
    for algorithm in ciphers() {
        // Each kind of outer header once, and ESN once with UDP and once without.
        for (outer, udp, esn) in [
            (Family::V4, false, true),
            (Family::V6, true, true),
            (Family::V4, true, false),
            (Family::V6, false, false),
        ] {
            let tunnel = Tunnel {
                algorithm,
                outer,
                udp,
                esn: esn && has_esn(algorithm),
                ..Tunnel::default()
            };
            exchange(&mut scapy, tunnel);
        }
        let transport = Tunnel {
            algorithm,
            mode: Mode::Transport,
            esn: has_esn(algorithm),
            ..Tunnel::default()
        };
        exchange(&mut scapy, transport);
    }
}

#[test]
fn scapy_and_the_worker_verify_what_the_other_signs_with_ah() {
    let Some(mut scapy) = Scapy::start() else {
        return;
    };
    for mac in Hmac::ALL {
        for (mode, outer, esn) in [
            (Mode::Tunnel, Family::V4, false),
            (Mode::Tunnel, Family::V6, true),
            (Mode::Transport, Family::V4, true),
        ] {
            let tunnel = Tunnel {
                ah: Some(Integrity::Hmac(mac)),
                mode,
                outer,
                esn,
                ..Tunnel::default()
            };
            exchange(&mut scapy, tunnel);
        }
    }
}
