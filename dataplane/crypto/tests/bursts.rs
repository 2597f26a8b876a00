//! Bursts of packets of a kind, as the kernels take them: every number of packets, every length, each of them forged in turn.

mod common;

use common::{Guarded, kernels, pattern, seal};
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, Iv, OpenJob, OpeningKey, SealJob, SealingKey, Trailer, Verdict,
    open_batch, seal_batch,
};

const SPI: u32 = 0x1000_0001;

/// Seals and opens `count` packets of the length with an engine, each under a key of its own, and compares with aws-lc.
fn check(engine: EngineKind, algorithm: Algorithm, length: usize, count: usize, trailer: Trailer) {
    let materials: Vec<_> = (0..count)
        .map(|key| pattern(algorithm.key_material_len(), 2 * key as u64))
        .collect();
    let plaintext = pattern(length, 77);
    let aad = |at: usize| match at % 2 {
        0 => Aad::plain(SPI, at as u32),
        _ => Aad::extended(SPI, (at as u64) << 31),
    };
    let keys: Vec<_> = materials
        .iter()
        .map(|material| SealingKey::new(engine, algorithm, material).unwrap())
        .collect();
    let mut sealed: Vec<_> = (0..count)
        .map(|at| Guarded::new(length + trailer.len() + 16, at))
        .collect();
    let mut jobs: Vec<_> = keys
        .iter()
        .zip(&mut sealed)
        .enumerate()
        .map(|(at, (key, out))| {
            let iv = Iv::from_sequence(at as u64);
            SealJob::new(key, iv, aad(at), &plaintext, trailer, out.room()).unwrap()
        })
        .collect();
    seal_batch(&mut jobs);
    drop(jobs);
    for (at, (sealed, material)) in sealed.iter().zip(&materials).enumerate() {
        let expected = seal(
            EngineKind::AwsLc,
            algorithm,
            material,
            at as u64,
            aad(at),
            &plaintext,
            trailer,
        );
        assert_eq!(
            sealed.content(),
            expected,
            "{engine} {algorithm} {length} {at} of {count}"
        );
    }

    let keys: Vec<_> = materials
        .iter()
        .map(|material| OpeningKey::new(engine, algorithm, material).unwrap())
        .collect();
    let expected = [&plaintext, trailer.as_bytes()].concat();
    for forged in 0..=count {
        let mut arrived: Vec<_> = sealed
            .iter()
            .map(|packet| packet.content().to_vec())
            .collect();
        if let Some(packet) = arrived.get_mut(forged) {
            let byte = (forged * 31 + length) % packet.len();
            packet[byte] ^= 1;
        }
        let mut opened: Vec<_> = (0..count)
            .map(|at| Guarded::new(expected.len(), at + 3))
            .collect();
        let mut jobs: Vec<_> = keys
            .iter()
            .zip(&arrived)
            .zip(&mut opened)
            .enumerate()
            .map(|(at, ((key, packet), out))| {
                OpenJob::new(key, (at as u64).to_be_bytes(), aad(at), packet, out.room()).unwrap()
            })
            .collect();
        let mut verdicts = vec![Verdict::Forged; count];
        open_batch(&mut jobs, &mut verdicts);
        drop(jobs);
        for (at, (opened, verdict)) in opened.iter().zip(verdicts).enumerate() {
            let what = format!("{engine} {algorithm} {length} {at} of {count}, {forged} forged");
            if at == forged {
                assert_eq!(verdict, Verdict::Forged, "{what}");
                assert!(opened.content().iter().all(|byte| *byte == 0), "{what}");
            } else {
                assert_eq!(verdict, Verdict::Authentic, "{what}");
                assert_eq!(opened.content(), expected, "{what}");
            }
        }
    }
}

#[test]
fn every_length_in_bursts() {
    for (engine, algorithm) in kernels() {
        for length in 0..=600 {
            let trailer = Trailer::new(&pattern(length % 19, 5)).unwrap();
            check(engine, algorithm, length, 1 + length % 7, trailer);
        }
    }
}

#[test]
fn long_packets() {
    for (engine, algorithm) in kernels() {
        for length in (600..16_384).step_by(211).chain([16_383, 16_384, 65_535]) {
            let trailer = Trailer::for_payload(length, 4);
            check(engine, algorithm, length, 2, trailer);
        }
    }
}

#[test]
fn more_packets_than_a_burst() {
    for (engine, algorithm) in kernels() {
        for length in [20, 64, 130, 300] {
            let trailer = Trailer::for_payload(length, 4);
            check(engine, algorithm, length, 150, trailer);
        }
    }
}
