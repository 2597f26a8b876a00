//! The worker beside code that others wrote: what it seals is opened by them, what they seal by it. Keys are drawn for each SA.
//!
//! Where a tool is not installed, its test says so and is skipped; `deploy/test` installs both.

mod scapy;
mod tshark;

use super::{modes::hosts, tunnel::skip, *};
use esplanade_crypto::{AesKey, Encryption, Hmac, IvForm};
use rustix::rand::{GetRandomFlags, getrandom};
use std::{path::Path, process::Command as Program};

/// Bytes that nobody has used before.
fn drawn(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let drawn = getrandom(&mut bytes, GetRandomFlags::empty()).unwrap();
    assert_eq!(drawn, length);
    bytes
}

/// The same tunnel with keys of its own.
fn keyed(tunnel: Tunnel) -> Tunnel {
    let length = tunnel.algorithm.key_material_len();
    let length = tunnel.ah.map_or(length, Integrity::key_material_len);
    Tunnel {
        keys: Some([drawn(length), drawn(length)]),
        ..tunnel
    }
}

/// The key of what A sends, the cipher's and then that of its HMAC.
fn key_of_a(tunnel: &Tunnel) -> (&[u8], &[u8]) {
    let key = &tunnel.keys.as_ref().unwrap()[usize::from(A) - 1];
    let cipher = match tunnel.ah {
        Some(_) => 0,
        None => tunnel.algorithm.key_len() + tunnel.algorithm.salt_len(),
    };
    key.split_at(cipher)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a tool is here; says why not in the words that `deploy/test` counts.
fn has(program: &str, arguments: &[&str], package: &str) -> bool {
    let output = Program::new(program).args(arguments).output();
    let is_here = output.is_ok_and(|output| output.status.success());
    if !is_here {
        println!("SKIPPED: {package} is not installed");
    }
    is_here
}

/// Both algorithms in every form that one tool or the other knows.
fn ciphers() -> Vec<Algorithm> {
    let mut all = vec![Algorithm::CHACHA20_POLY1305];
    for key in AesKey::ALL {
        all.push(Algorithm::AesGcm(key, IvForm::Explicit));
        all.push(Algorithm::AesCcm(key, IvForm::Explicit));
        all.extend(Hmac::ALL.map(|mac| Algorithm::EncryptThenMac(Encryption::AesCbc(key), mac)));
    }
    all.extend(Hmac::ALL.map(|mac| Algorithm::EncryptThenMac(Encryption::Null, mac)));
    all
}

/// Packets of several lengths, so that padding of each length is among them.
fn greetings() -> Vec<Vec<u8>> {
    let lengths = (0..18).chain([400, 1300]);
    lengths.map(|length| greeting(A, B, length)).collect()
}

/// A frame's packet, without Ethernet's padding.
fn packet_of(frame: &[u8]) -> &[u8] {
    let packet = &frame[14..];
    let length = match Family::of_packet(packet) {
        Some(Family::V4) => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        _ => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
    };
    &packet[..length]
}
