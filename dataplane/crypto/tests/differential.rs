//! Every engine against every other: all lengths, mixed batches, any alignment, flipped bits, canaries.

mod common;

use common::{Guarded, able, iv, open, pairs, pattern, received_iv, seal, trailer};
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, MAX_TRAILER, OpenJob, OpeningKey, SealJob, SealingKey, Trailer,
    Verdict, open_batch, seal_batch,
};
use proptest::prelude::*;

const SPI: u32 = 0xdead_beef;

#[test]
fn all_lengths_are_sealed_and_opened_alike() {
    // 13 and 64 share no divisor, so the longer ones leave every residue too.
    let lengths = (0..=150).chain((151..2048).step_by(13));
    let lengths: Vec<_> = lengths.chain([9001, 16_384]).collect();
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

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// How a job has its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Apart,
    InPlace,
    Segments,
    SegmentsInPlace,
}

/// One packet of a batch.
#[derive(Debug, Clone)]
struct Packet {
    key: usize,
    plaintext: Vec<u8>,
    trailer: Vec<u8>,
    aad: Aad,
    shifts: (usize, usize),
    forms: (Form, Form),
    /// Where segments are cut, of source and destination.
    cuts: [prop::sample::Index; 4],
    /// The bit to flip on the way.
    flip: Option<prop::sample::Index>,
}

impl Packet {
    /// As it was drawn, or in CBC, as much as fills the last block.
    fn trailer(&self) -> Trailer {
        let length = match algorithm(self.key).alignment() {
            16 => self.plaintext.len().wrapping_neg() % 16,
            _ => self.trailer.len(),
        };
        let drawn = self.trailer.iter().copied().chain(std::iter::repeat(7));
        Trailer::new(&drawn.take(length).collect::<Vec<_>>()).unwrap()
    }

    fn number(&self) -> u64 {
        self.plaintext.len() as u64 * 77
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
        (0..KEYS, prop_oneof![0usize..100, 0usize..2048]),
        any::<u64>(),
        prop::collection::vec(any::<u8>(), 0..=MAX_TRAILER),
        any::<(bool, u64)>(),
        (0usize..64, 0usize..64),
        (form(), form()),
        any::<[prop::sample::Index; 4]>(),
        prop::option::weighted(0.3, any::<prop::sample::Index>()),
    )
        .prop_map(
            |((key, length), seed, trailer, (extended, sequence), shifts, forms, cuts, flip)| {
                Packet {
                    key,
                    plaintext: pattern(length, seed),
                    trailer,
                    aad: if extended {
                        Aad::extended(SPI, sequence)
                    } else {
                        Aad::plain(SPI, sequence as u32)
                    },
                    shifts,
                    forms,
                    cuts,
                    flip,
                }
            },
        )
}

const KEYS: usize = Algorithm::ALL.len() + 7;

/// Every algorithm, of one engine as far as it does it, or each of any.
fn engines() -> impl Strategy<Value = Vec<EngineKind>> {
    let one = prop::sample::select(EngineKind::available()).prop_map(|engine| {
        (0..KEYS)
            .map(|key| engine.or_best_for(algorithm(key)))
            .collect()
    });
    let any = prop::collection::vec(any::<prop::sample::Index>(), KEYS).prop_map(|choices| {
        let choose = |(key, choice): (usize, prop::sample::Index)| {
            let able: Vec<_> = able(algorithm(key)).collect();
            able[choice.index(able.len())]
        };
        choices.into_iter().enumerate().map(choose).collect()
    });
    prop_oneof![one, any]
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

/// Three pieces.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> [&'a [u8]; 3] {
    let (start, rest) = bytes.split_at(cuts[0].index(bytes.len() + 1));
    let (middle, end) = rest.split_at(cuts[1].index(rest.len() + 1));
    [start, middle, end]
}

fn cut_mut<'a>(bytes: &'a mut [u8], cuts: &[prop::sample::Index]) -> [&'a mut [u8]; 3] {
    let (start, rest) = bytes.split_at_mut(cuts[0].index(bytes.len() + 1));
    let (middle, end) = rest.split_at_mut(cuts[1].index(rest.len() + 1));
    [start, middle, end]
}

/// A packet's buffers in its form: the source is in `out` already, if that is where it belongs.
struct Room<'a> {
    form: Form,
    sources: [&'a [u8]; 3],
    outs: [&'a mut [u8]; 3],
}

impl<'a> Room<'a> {
    fn new(form: Form, packet: &Packet, source: &'a [u8], out: &'a mut [u8]) -> Self {
        if matches!(form, Form::InPlace | Form::SegmentsInPlace) {
            let shorter = source.len().min(out.len());
            out[..shorter].copy_from_slice(&source[..shorter]);
        }
        let (sources, outs) = match form {
            Form::Apart | Form::InPlace => ([source, &[], &[]], [out, &mut [], &mut []]),
            Form::Segments | Form::SegmentsInPlace => (
                cut(source, &packet.cuts[..2]),
                cut_mut(out, &packet.cuts[2..]),
            ),
        };
        Self {
            form,
            sources,
            outs,
        }
    }

    fn sealing_job(&'a mut self, key: &'a SealingKey, packet: &Packet) -> SealJob<'a> {
        let (iv, aad) = (iv(key.algorithm(), packet.number()), packet.aad);
        let (trailer, source, outs) = (packet.trailer(), self.sources, &mut self.outs);
        match self.form {
            Form::Apart => SealJob::new(key, iv, aad, source[0], trailer, outs[0]),
            Form::InPlace => SealJob::in_place(key, iv, aad, outs[0], trailer),
            Form::Segments => SealJob::in_segments(key, iv, aad, &self.sources, trailer, outs),
            Form::SegmentsInPlace => SealJob::in_place_of_segments(key, iv, aad, outs, trailer),
        }
        .unwrap()
    }

    fn opening_job(&'a mut self, key: &'a OpeningKey, packet: &Packet) -> OpenJob<'a> {
        let (iv, aad) = (received_iv(key.algorithm(), packet.number()), packet.aad);
        let (source, outs) = (self.sources, &mut self.outs);
        match self.form {
            Form::Apart => OpenJob::new(key, iv, aad, source[0], outs[0]),
            Form::InPlace => OpenJob::in_place(key, iv, aad, outs[0]),
            Form::Segments => OpenJob::in_segments(key, iv, aad, &self.sources, outs),
            Form::SegmentsInPlace => OpenJob::in_place_of_segments(key, iv, aad, outs),
        }
        .unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn mixed_batches_are_sealed_and_opened_alike(
        packets in prop::collection::vec(packet(), 1..=80),
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
            .map(|packet| {
                let behind = packet.trailer().len() + algorithm(packet.key).icv_len();
                Guarded::new(packet.plaintext.len() + behind, packet.shifts.1)
            })
            .collect();
        let mut rooms: Vec<_> = packets
            .iter()
            .zip(&sources)
            .zip(&mut sealed)
            .map(|((packet, source), out)| Room::new(packet.forms.0, packet, source.content(), out.room()))
            .collect();
        let mut jobs: Vec<_> = packets
            .iter()
            .zip(&mut rooms)
            .map(|(packet, room)| room.sealing_job(&keys[packet.key], packet))
            .collect();
        seal_batch(&mut jobs);
        drop(jobs);

        for (packet, sealed) in packets.iter().zip(&sealed) {
            let material = key_material(packet.key, seed);
            for engine in able(algorithm(packet.key)) {
                let alone =
                    seal(engine, algorithm(packet.key), &material, packet.number(), packet.aad, &packet.plaintext, packet.trailer());
                prop_assert_eq!(sealed.content(), &alone);
            }
        }

        let keys: Vec<_> = (0..KEYS)
            .map(|key| OpeningKey::new(opening[key], algorithm(key), &key_material(key, seed)).unwrap())
            .collect();
        let arrived: Vec<_> = packets
            .iter()
            .zip(&sealed)
            .map(|(packet, sealed)| {
                let sealed = sealed.content();
                let bytes = match packet.flip {
                    Some(bit) => flipped(sealed, bit.index(sealed.len() * 8)),
                    None => sealed.to_vec(),
                };
                Guarded::holding(&bytes, packet.shifts.1)
            })
            .collect();
        let mut opened: Vec<_> = packets
            .iter()
            .zip(&arrived)
            .map(|(packet, arrived)| {
                let icv = match packet.forms.1 {
                    Form::Apart | Form::Segments => algorithm(packet.key).icv_len(),
                    Form::InPlace | Form::SegmentsInPlace => 0,
                };
                Guarded::new(arrived.content().len() - icv, packet.shifts.0)
            })
            .collect();
        let mut rooms: Vec<_> = packets
            .iter()
            .zip(&arrived)
            .zip(&mut opened)
            .map(|((packet, arrived), out)| Room::new(packet.forms.1, packet, arrived.content(), out.room()))
            .collect();
        let mut jobs: Vec<_> = packets
            .iter()
            .zip(&mut rooms)
            .map(|(packet, room)| room.opening_job(&keys[packet.key], packet))
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
                let text = [&packet.plaintext[..], packet.trailer().as_bytes()].concat();
                prop_assert_eq!(&opened.content()[..text.len()], text);
            }
        }
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
