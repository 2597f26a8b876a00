//! tshark decrypts what the worker has sealed, given the keys: AES-GCM, AES-CBC and NULL with HMACs. Debian 12's knows no
//! ChaCha20, no CCM in ESP, and no ESN.

use super::*;

/// tshark's names of a cipher and of its integrity algorithm.
fn names(algorithm: Algorithm) -> Option<(&'static str, &'static str)> {
    Some(match algorithm {
        Algorithm::AesGcm(..) => ("AES-GCM with 16 octet ICV [RFC4106]", "NULL"),
        Algorithm::EncryptThenMac(encryption, mac) => (
            match encryption {
                Encryption::AesCbc(_) => "AES-CBC [RFC3602]",
                Encryption::Null => "NULL",
            },
            match mac {
                Hmac::Sha1 => "HMAC-SHA-1-96 [RFC2404]",
                Hmac::Sha2_256 => "HMAC-SHA-256-128 [RFC4868]",
                Hmac::Sha2_384 => "HMAC-SHA-384-192 [RFC4868]",
                Hmac::Sha2_512 => "HMAC-SHA-512-256 [RFC4868]",
            },
        ),
        _ => return None,
    })
}

/// Frames as a file of pcap (the classic one, which tshark reads too).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for (number, frame) in (0_u32..).zip(frames) {
        let length = frame.len() as u32;
        for word in [number, 0, length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}

#[test]
fn tshark_decrypts_what_the_worker_seals() {
    if !has("tshark", &["--version"], "tshark") {
        return;
    }
    let (mut frames, mut expected, mut associations) = (Vec::new(), Vec::new(), Vec::new());
    // A turn numbers the SAs of a pair of gateways, and so their SPIs.
    let mut turns = 0..;
    for algorithm in ciphers() {
        let Some((cipher, integrity)) = names(algorithm) else {
            continue;
        };
        let tunnel = keyed(Tunnel {
            algorithm,
            esn: false,
            udp: turns.start % 2 == 1,
            ..Tunnel::default()
        });
        let mut a = Gateway::new(A, 1);
        a.tell_all(&a.tunnel(B, &tunnel, 0));
        let number = turns.next().unwrap();
        let inner = greetings();
        let mut sealed = a.protect(&inner);
        assert_eq!(sealed.len(), inner.len());
        // tshark tells SAs apart by addresses: each has a source of its own.
        let source = Ipv4Addr::new(198, 51, 100, number);
        for frame in &mut sealed {
            frame[26..30].copy_from_slice(&source.octets());
        }
        let (key, integrity_key) = key_of_a(&tunnel);
        let quoted = |key: &[u8]| match key {
            [] => String::new(),
            key => format!("0x{}", hex(key)),
        };
        associations.push(format!(
            "\"IPv4\",\"{source}\",\"{}\",\"{:#010x}\",\"{cipher}\",\"{}\",\"{integrity}\",\"{}\"",
            outer(B),
            inbound_id(B).value(),
            quoted(key),
            quoted(integrity_key),
        ));
        frames.extend(sealed);
        expected.extend(inner.iter().map(|inner| {
            let payload = ipv4::Packet::new_checked(inner).unwrap().payload().to_vec();
            (source, hex(&payload[8..]))
        }));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sealed.pcap");
    std::fs::write(&file, pcap(&frames)).unwrap();
    let mut program = Program::new("tshark");
    program
        .env("HOME", directory.path())
        .args(["-n", "-r"])
        .arg(&file);
    for preference in [
        "esp.enable_encryption_decode:TRUE",
        "esp.enable_authentication_check:TRUE",
        "ip.check_checksum:FALSE",
    ] {
        program.args(["-o", preference]);
    }
    for association in &associations {
        program.arg("-o").arg(format!("uat:esp_sa:{association}"));
    }
    // The inner datagram's port is nobody's, so what it carries is data.
    program.args([
        "-T",
        "fields",
        "-e",
        "ip.src",
        "-e",
        "ip.dst",
        "-e",
        "data.data",
        "-e",
        "esp.icv_good",
    ]);
    let output = program.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), expected.len());
    for (line, (source, payload)) in lines.iter().zip(&expected) {
        let fields: Vec<&str> = line.split('\t').collect();
        let addresses = (fields[0], fields[1]);
        let inner = (
            format!("{source},{}", host(A)),
            format!("{},{}", outer(B), host(B)),
        );
        assert_eq!(addresses, (&*inner.0, &*inner.1), "{line}");
        assert_eq!(fields[2], payload, "{line}");
        assert!(["1", "True"].contains(&fields[3]), "the ICV of {line}");
    }
}
