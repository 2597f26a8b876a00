//! Bursts of packets of a kind, as the kernels take them: every number of packets, every length, each of them forged in turn.

mod common;

use common::{Guarded, able, kernels, pattern, seal};
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, OpenJob, OpeningKey, SealJob, SealingKey, Trailer, Verdict,
    open_batch, seal_batch,
};

const SPI: u32 = 0x1000_0001;

/// Seals and opens packets of the lengths with an engine, each under a key of its own and all under one, and compares with
/// aws-lc.
fn check(engine: EngineKind, algorithm: Algorithm, lengths: &[usize], trailer: Trailer) {
    for keys in [lengths.len(), 1] {
        check_under(keys, engine, algorithm, lengths, trailer);
    }
}

/// The same under so many keys, which take turns.
fn check_under(
    keys: usize,
    engine: EngineKind,
    algorithm: Algorithm,
    lengths: &[usize],
    trailer: Trailer,
) {
    let count = lengths.len();
    let materials: Vec<_> = (0..keys)
        .map(|key| pattern(algorithm.key_material_len(), 2 * key as u64))
        .collect();
    let plaintexts: Vec<_> = lengths.iter().map(|length| pattern(*length, 77)).collect();
    let aad = |at: usize| match at % 2 {
        0 => Aad::plain(SPI, at as u32),
        _ => Aad::extended(SPI, (at as u64) << 31),
    };
    let keys: Vec<_> = materials
        .iter()
        .map(|material| SealingKey::new(engine, algorithm, material).unwrap())
        .collect();
    let mut sealed: Vec<_> = (0..)
        .zip(lengths)
        .map(|(at, length)| Guarded::new(length + trailer.len() + 16, at))
        .collect();
    let mut jobs: Vec<_> = keys
        .iter()
        .cycle()
        .zip(&mut sealed)
        .enumerate()
        .map(|(at, (key, out))| {
            let iv = common::numbered(at as u64);
            SealJob::new(key, iv, aad(at), &plaintexts[at], trailer, out.room()).unwrap()
        })
        .collect();
    seal_batch(&mut jobs);
    drop(jobs);
    for (at, (sealed, material)) in sealed.iter().zip(materials.iter().cycle()).enumerate() {
        let expected = seal(
            EngineKind::AwsLc,
            algorithm,
            material,
            at as u64,
            aad(at),
            &plaintexts[at],
            trailer,
        );
        assert_eq!(
            sealed.content(),
            expected,
            "{engine} {algorithm} {lengths:?} {at}"
        );
    }

    let keys: Vec<_> = materials
        .iter()
        .map(|material| OpeningKey::new(engine, algorithm, material).unwrap())
        .collect();
    let expected: Vec<_> = plaintexts
        .iter()
        .map(|plaintext| [plaintext, trailer.as_bytes()].concat())
        .collect();
    for forged in 0..=count {
        let mut arrived: Vec<_> = sealed
            .iter()
            .map(|packet| packet.content().to_vec())
            .collect();
        if let Some(packet) = arrived.get_mut(forged) {
            let byte = (forged * 31 + lengths[forged]) % packet.len();
            packet[byte] ^= 1;
        }
        let mut opened: Vec<_> = (3..)
            .zip(&expected)
            .map(|(shift, expected)| Guarded::new(expected.len(), shift))
            .collect();
        let mut jobs: Vec<_> = keys
            .iter()
            .cycle()
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
            let count = keys.len();
            let what =
                format!("{engine} {algorithm} {lengths:?} {at}, {count} keys, {forged} forged");
            if at == forged {
                assert_eq!(verdict, Verdict::Forged, "{what}");
                assert!(opened.content().iter().all(|byte| *byte == 0), "{what}");
            } else {
                assert_eq!(verdict, Verdict::Authentic, "{what}");
                assert_eq!(opened.content(), expected[at], "{what}");
            }
        }
    }
}

#[test]
fn every_length_in_bursts() {
    for (engine, algorithm) in kernels() {
        for length in 0..=600 {
            let trailer = Trailer::new(&pattern(length % 19, 5)).unwrap();
            check(engine, algorithm, &vec![length; 1 + length % 7], trailer);
        }
    }
}

#[test]
fn long_packets() {
    for (engine, algorithm) in kernels() {
        for length in (600..16_384).step_by(211).chain([16_383, 16_384, 65_535]) {
            let trailer = Trailer::for_payload(length, 4);
            check(engine, algorithm, &[length; 4], trailer);
        }
    }
}

/// So much under one key that the kernels compute the first round of all counters beforehand, up to a length where they do
/// not.
#[test]
fn many_long_packets_of_one_key() {
    for (engine, algorithm) in kernels() {
        for length in [900, 1023, 1024, 1420, 2049, 9211, 9212, 9213] {
            let trailer = Trailer::for_payload(length, 4);
            check_under(1, engine, algorithm, &[length; 36], trailer);
        }
    }
}

#[test]
fn more_packets_than_a_burst() {
    for algorithm in [Algorithm::AES_128_GCM_16, Algorithm::CHACHA20_POLY1305] {
        for engine in able(algorithm).filter(|engine| *engine != EngineKind::Portable) {
            for length in [20, 64, 130, 300] {
                let trailer = Trailer::for_payload(length, 4);
                check(engine, algorithm, &[length; 150], trailer);
            }
        }
    }
}

#[test]
fn packets_of_different_length() {
    let mixed = |count, most| {
        let drawn = pattern(2 * count, most as u64);
        let (pairs, _) = drawn.as_chunks();
        let lengths = pairs
            .iter()
            .map(|pair| usize::from(u16::from_le_bytes(*pair)));
        lengths.map(|length| length % most).collect::<Vec<_>>()
    };
    for (engine, algorithm) in kernels() {
        for (count, most) in [(5, 3000), (13, 100), (40, 2000), (64, 300), (70, 1500)] {
            let trailer = Trailer::for_payload(count, 4);
            check(engine, algorithm, &mixed(count, most), trailer);
        }
    }
}
