//! Every engine against every other: all lengths, mixed batches, any alignment, flipped bits, canaries.

mod common;

use common::{
    able,
    batch::{Form, Packet, check, engine, flipped, read_packets},
    open, pairs, pattern, seal, trailer,
};
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, MAX_TRAILER, OpenJob, OpeningKey, Trailer, Verdict, open_batch,
};
use proptest::prelude::*;

const SPI: u32 = 0xdead_beef;

#[test]
fn all_lengths_are_sealed_and_opened_alike() {
    // 13 and 211 share no divisor with 64, so the longer ones leave every residue too.
    let lengths = (0..=150).chain((151..2048).step_by(13));
    let lengths: Vec<_> = lengths
        .chain((2048..=16_384).step_by(211))
        .chain([16_384])
        .collect();
    for algorithm in Algorithm::ALL {
        let material = pattern(algorithm.key_material_len(), 1);
        for length in &lengths {
            let number = *length as u64;
            let plaintext = pattern(*length, number);
            let trailer = trailer(algorithm, *length);
            let aad = if length % 3 == 0 {
                Aad::plain(SPI, 7)
            } else {
                Aad::extended(SPI, number << 30)
            };
            let expected = [&plaintext, trailer.as_bytes()].concat();
            let mut first: Option<Vec<u8>> = None;
            for engine in able(algorithm) {
                let what = format!("{engine} {algorithm} {length}");
                let sealed = seal(
                    engine, algorithm, &material, number, aad, &plaintext, trailer,
                );
                let first = first.get_or_insert_with(|| sealed.clone());
                assert_eq!(sealed, *first, "{what}");
                let opened = open(engine, algorithm, &material, number, aad, first);
                assert_eq!(opened.expect(&what), expected, "{what}");
            }
        }
    }
}

#[test]
fn each_flipped_bit_is_seen() {
    for (engine, algorithm) in pairs() {
        let key_material = pattern(algorithm.key_material_len(), 2);
        let (material, plaintext) = (&key_material[..], pattern(33, 5));
        let trailer = trailer(algorithm, plaintext.len());
        for aad in [&pattern(8, 3)[..], &pattern(12, 4)[..]] {
            let sealed = seal(engine, algorithm, material, 5, aad, &plaintext, trailer);
            let opens = |material: &[u8], number, aad: &[u8], sealed: &[u8]| {
                open(engine, algorithm, material, number, aad, sealed).is_some()
            };
            let what = format!("{engine} {algorithm}");
            assert!(opens(material, 5, aad, &sealed), "{what}");
            for bit in 0..sealed.len() * 8 {
                let sealed = flipped(&sealed, bit);
                assert!(!opens(material, 5, aad, &sealed), "{what} ciphertext {bit}");
            }
            for bit in 0..aad.len() * 8 {
                let aad = flipped(aad, bit);
                assert!(!opens(material, 5, &aad, &sealed), "{what} aad {bit}");
            }
            // NULL has no IV.
            for bit in (0..64).filter(|_| algorithm.key_len() > 0) {
                let number = 5 ^ 1 << bit;
                assert!(!opens(material, number, aad, &sealed), "{what} iv {bit}");
            }
            // With another key CBC deciphers to something else, but the ICV is of the ciphertext.
            let ciphers_own = match algorithm {
                Algorithm::EncryptThenMac(..) => algorithm.key_len(),
                _ => 0,
            };
            for bit in 8 * ciphers_own..8 * material.len() {
                let material = flipped(material, bit);
                assert!(!opens(&material, 5, aad, &sealed), "{what} key {bit}");
            }
        }
    }
}

/// All of an extended sequence number is authenticated, wherever an algorithm puts its halves.
#[test]
fn each_bit_of_spi_and_sequence_number_is_authenticated() {
    for (engine, algorithm) in pairs() {
        let material = pattern(algorithm.key_material_len(), 2);
        let (plaintext, number) = (pattern(20, 5), 0x1234_5678_9abc_def0);
        let trailer = trailer(algorithm, plaintext.len());
        let aad = Aad::extended(SPI, number);
        let sealed = seal(engine, algorithm, &material, 5, aad, &plaintext, trailer);
        let opens = |aad: Aad| open(engine, algorithm, &material, 5, aad, &sealed).is_some();
        let what = format!("{engine} {algorithm}");
        assert!(opens(aad), "{what}");
        assert!(!opens(Aad::plain(SPI, number as u32)), "{what}");
        for bit in 0..32 {
            assert!(
                !opens(Aad::extended(SPI ^ 1 << bit, number)),
                "{what} SPI {bit}"
            );
        }
        for bit in 0..64 {
            assert!(
                !opens(Aad::extended(SPI, number ^ 1 << bit)),
                "{what} number {bit}"
            );
        }
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    let form = || {
        prop_oneof![
            3 => Just(Form::Apart),
            1 => Just(Form::InPlace),
            1 => Just(Form::Segments),
            1 => Just(Form::SegmentsInPlace)
        ]
    };
    (
        (any::<usize>(), any::<usize>(), any::<usize>()),
        (
            prop_oneof![8 => 0usize..100, 8 => 0usize..2048, 1 => 2048usize..=16_384],
            0..u64::MAX,
        ),
        prop::collection::vec(any::<u8>(), 0..=MAX_TRAILER),
        prop_oneof![
            any::<u64>().prop_map(|number| Aad::extended(SPI, number)),
            any::<u32>().prop_map(|number| Aad::plain(SPI, number)),
        ],
        (0usize..64, 0usize..64),
        (form(), form()),
        any::<[usize; 4]>(),
        prop::option::weighted(0.3, any::<usize>()),
    )
        .prop_map(
            |(
                (algorithm, sealing, opening),
                (length, seed),
                trailer,
                aad,
                shifts,
                forms,
                cuts,
                flip,
            )| {
                let algorithm = Algorithm::ALL[algorithm % Algorithm::ALL.len()];
                Packet {
                    algorithm,
                    engines: (engine(algorithm, sealing), engine(algorithm, opening)),
                    number: seed,
                    plaintext: pattern(length, seed),
                    trailer,
                    aad,
                    shifts,
                    forms,
                    cuts,
                    flip,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn mixed_batches_are_sealed_and_opened_alike(packets in prop::collection::vec(packet(), 1..=80)) {
        check(&packets);
    }

    #[test]
    fn batches_of_an_engine_s_own_are_sealed_and_opened_alike(
        mut packets in prop::collection::vec(packet(), 1..=80),
        own in prop::sample::select(EngineKind::available()),
    ) {
        for packet in &mut packets {
            let engine = own.or_best_for(packet.algorithm);
            packet.engines = (engine, engine);
        }
        check(&packets);
    }

    /// What the fuzz target does with bytes that it learns to choose.
    #[test]
    fn any_bytes_make_a_batch(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&read_packets(&bytes));
    }
}

#[test]
fn jobs_and_verdicts_of_different_number_are_safe() {
    let (engine, algorithm) = (EngineKind::best(), Algorithm::AES_128_GCM_16);
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
