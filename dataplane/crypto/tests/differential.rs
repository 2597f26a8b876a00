//! Every engine against every other: all lengths, mixed batches, any alignment, flipped bits, canaries.

mod common;

use common::{Guarded, open, pattern, seal};
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, ExplicitIv, MAX_TRAILER, OpenJob, OpeningKey, SealJob, SealingKey,
    Trailer, Verdict, open_batch, seal_batch,
};
use proptest::prelude::*;

const SPI: u32 = 0xdead_beef;

#[test]
fn all_lengths_are_sealed_and_opened_alike() {
    for algorithm in Algorithm::ALL {
        let key_material = pattern(algorithm.key_material_len(), 1);
        for length in 0..=2048 {
            let iv = length as u64;
            let plaintext = pattern(length, iv);
            let trailer = Trailer::for_payload(length, 4);
            let aad = if length % 3 == 0 {
                Aad::plain(SPI, 7)
            } else {
                Aad::extended(SPI, iv << 30)
            };
            let [first, second] = [EngineKind::Portable, EngineKind::AwsLc].map(|engine| {
                seal(
                    engine,
                    algorithm,
                    &key_material,
                    iv,
                    aad,
                    &plaintext,
                    trailer,
                )
            });
            assert_eq!(first, second, "{algorithm} {length}");
            for engine in EngineKind::available() {
                let opened =
                    open(*engine, algorithm, &key_material, iv, aad, &first).expect("authentic");
                assert_eq!(opened, [&plaintext, trailer.as_bytes()].concat());
            }
        }
    }
}

#[test]
fn each_flipped_bit_is_seen() {
    for engine in EngineKind::available() {
        for algorithm in Algorithm::ALL {
            let key_material = pattern(algorithm.key_material_len(), 2);
            let trailer = Trailer::for_payload(33, 4);
            for aad in [&pattern(8, 3)[..], &pattern(12, 4)[..]] {
                let sealed = seal(
                    *engine,
                    algorithm,
                    &key_material,
                    5,
                    aad,
                    &pattern(33, 5),
                    trailer,
                );
                let opens = |material: &[u8], iv, aad: &[u8], sealed: &[u8]| {
                    open(*engine, algorithm, material, iv, aad, sealed).is_some()
                };
                assert!(opens(&key_material, 5, aad, &sealed));
                for bit in 0..sealed.len() * 8 {
                    assert!(
                        !opens(&key_material, 5, aad, &flipped(&sealed, bit)),
                        "ciphertext {bit}"
                    );
                }
                for bit in 0..aad.len() * 8 {
                    assert!(
                        !opens(&key_material, 5, &flipped(aad, bit), &sealed),
                        "aad {bit}"
                    );
                }
                for bit in 0..64 {
                    assert!(
                        !opens(&key_material, 5 ^ 1 << bit, aad, &sealed),
                        "iv {bit}"
                    );
                }
                for bit in 0..key_material.len() * 8 {
                    assert!(
                        !opens(&flipped(&key_material, bit), 5, aad, &sealed),
                        "key {bit}"
                    );
                }
            }
        }
    }
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// One packet of a batch.
#[derive(Debug, Clone)]
struct Packet {
    key: usize,
    plaintext: Vec<u8>,
    trailer: Vec<u8>,
    aad: Aad,
    shifts: (usize, usize),
    /// The bit to flip on the way.
    flip: Option<prop::sample::Index>,
}

fn packet() -> impl Strategy<Value = Packet> {
    (
        0..KEYS,
        prop_oneof![0usize..100, 0usize..2048],
        any::<u64>(),
        prop::collection::vec(any::<u8>(), 0..=MAX_TRAILER),
        any::<(bool, u64)>(),
        (0usize..64, 0usize..64),
        prop::option::weighted(0.3, any::<prop::sample::Index>()),
    )
        .prop_map(
            |(key, length, seed, trailer, (extended, sequence), shifts, flip)| Packet {
                key,
                plaintext: pattern(length, seed),
                trailer,
                aad: if extended {
                    Aad::extended(SPI, sequence)
                } else {
                    Aad::plain(SPI, sequence as u32)
                },
                shifts,
                flip,
            },
        )
}

const KEYS: usize = 6;

/// Keys of both algorithms, and of both engines or of one.
fn engines() -> impl Strategy<Value = [EngineKind; KEYS]> {
    let any_engine = || prop::sample::select(EngineKind::available());
    prop_oneof![
        any_engine().prop_map(|engine| [engine; KEYS]),
        [
            any_engine(),
            any_engine(),
            any_engine(),
            any_engine(),
            any_engine(),
            any_engine()
        ],
    ]
}

fn algorithm(key: usize) -> Algorithm {
    Algorithm::ALL[key % Algorithm::ALL.len()]
}

fn key_material(key: usize, seed: u64) -> Vec<u8> {
    pattern(
        algorithm(key).key_material_len(),
        seed.wrapping_add(key as u64 * 2),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn mixed_batches_are_sealed_and_opened_alike(
        packets in prop::collection::vec(packet(), 1..=64),
        sealing in engines(),
        opening in engines(),
        seed: u64,
    ) {
        let keys: Vec<_> = (0..KEYS)
            .map(|key| SealingKey::new(sealing[key], algorithm(key), &key_material(key, seed)).unwrap())
            .collect();
        let sources: Vec<_> = packets.iter().map(|packet| Guarded::holding(&packet.plaintext, packet.shifts.0)).collect();
        let mut sealed: Vec<_> = packets
            .iter()
            .map(|packet| Guarded::new(packet.plaintext.len() + packet.trailer.len() + 16, packet.shifts.1))
            .collect();
        let mut jobs: Vec<_> = packets
            .iter()
            .zip(&sources)
            .zip(&mut sealed)
            .zip(0..)
            .map(|(((packet, source), out), number)| {
                let trailer = Trailer::new(&packet.trailer).unwrap();
                let iv = ExplicitIv::from_sequence(number);
                SealJob::new(&keys[packet.key], iv, packet.aad, source.content(), trailer, out.room()).unwrap()
            })
            .collect();
        seal_batch(&mut jobs);
        drop(jobs);

        for ((packet, sealed), number) in packets.iter().zip(&sealed).zip(0..) {
            let material = key_material(packet.key, seed);
            let trailer = Trailer::new(&packet.trailer).unwrap();
            for engine in EngineKind::available() {
                let alone = seal(*engine, algorithm(packet.key), &material, number, packet.aad, &packet.plaintext, trailer);
                prop_assert_eq!(sealed.content(), &alone);
            }
        }

        let keys: Vec<_> = (0..KEYS)
            .map(|key| OpeningKey::new(opening[key], algorithm(key), &key_material(key, seed)).unwrap())
            .collect();
        let arrived: Vec<_> = packets
            .iter()
            .zip(&sealed)
            .map(|(packet, sealed)| match packet.flip {
                Some(bit) => flipped(sealed.content(), bit.index(sealed.content().len() * 8)),
                None => sealed.content().to_vec(),
            })
            .collect();
        let mut opened: Vec<_> = arrived
            .iter()
            .zip(&packets)
            .map(|(arrived, packet)| Guarded::new(arrived.len() - 16, packet.shifts.0))
            .collect();
        let mut jobs: Vec<_> = packets
            .iter()
            .zip(&arrived)
            .zip(&mut opened)
            .zip(0u64..)
            .map(|(((packet, arrived), out), number)| {
                OpenJob::new(&keys[packet.key], number.to_be_bytes(), packet.aad, arrived, out.room()).unwrap()
            })
            .collect();
        let mut verdicts = vec![Verdict::Authentic; packets.len()];
        open_batch(&mut jobs, &mut verdicts);
        drop(jobs);

        for ((packet, opened), verdict) in packets.iter().zip(&opened).zip(verdicts) {
            if packet.flip.is_some() {
                prop_assert_eq!(verdict, Verdict::Forged);
                prop_assert!(opened.content().iter().all(|byte| *byte == 0));
            } else {
                prop_assert_eq!(verdict, Verdict::Authentic);
                prop_assert_eq!(opened.content(), [&packet.plaintext[..], &packet.trailer].concat());
            }
        }
    }
}

#[test]
fn jobs_and_verdicts_of_different_number_are_safe() {
    let (engine, algorithm) = (EngineKind::best(), Algorithm::Aes128Gcm16);
    let material = pattern(20, 1);
    let aad = Aad::plain(SPI, 1);
    let sealed = seal(
        engine,
        algorithm,
        &material,
        1,
        aad,
        b"attack at dawn",
        Trailer::NONE,
    );
    let key = OpeningKey::new(engine, algorithm, &material).unwrap();
    fn job<'a>(key: &'a OpeningKey, aad: Aad, sealed: &'a [u8], out: &'a mut [u8]) -> OpenJob<'a> {
        OpenJob::new(key, 1u64.to_be_bytes(), aad, sealed, out).unwrap()
    }

    let (mut first, mut second) = ([0xee; 14], [0xee; 14]);
    let mut verdicts = [Verdict::Forged];
    open_batch(
        &mut [
            job(&key, aad, &sealed, &mut first),
            job(&key, aad, &sealed, &mut second),
        ],
        &mut verdicts,
    );
    assert_eq!(
        (verdicts, &first, second),
        ([Verdict::Authentic], b"attack at dawn", [0; 14])
    );

    let mut verdicts = [Verdict::Authentic; 2];
    open_batch(&mut [job(&key, aad, &sealed, &mut first)], &mut verdicts);
    assert_eq!(verdicts, [Verdict::Authentic, Verdict::Forged]);
}
