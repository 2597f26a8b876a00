//! What the tests of the engines share.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod batch;

use esplanade_crypto::{
    AdditionalData, Algorithm, EngineKind, Iv, IvForm, IvGenerator, OpenJob, OpeningKey,
    ReceivedIv, SealJob, SealingKey, Trailer, Verdict, open_batch, seal_batch,
    sequence::OutboundSequence,
};

/// Every engine here with every algorithm that it does.
pub fn pairs() -> impl Iterator<Item = (EngineKind, Algorithm)> {
    Algorithm::ALL
        .into_iter()
        .flat_map(|algorithm| able(algorithm).map(move |engine| (engine, algorithm)))
}

/// All engines but the reference, with the algorithms that may have kernels.
pub fn kernels() -> impl Iterator<Item = (EngineKind, Algorithm)> {
    pairs().filter(|(engine, algorithm)| {
        *engine != EngineKind::Portable
            && matches!(
                algorithm,
                Algorithm::AesGcm(_, IvForm::Explicit)
                    | Algorithm::ChaCha20Poly1305(IvForm::Explicit)
            )
    })
}

/// The engines here that do an algorithm.
pub fn able(algorithm: Algorithm) -> impl Iterator<Item = EngineKind> {
    let engines = EngineKind::available().iter().copied();
    engines.filter(move |engine| engine.does(algorithm))
}

/// A buffer with canaries around it, at any alignment.
pub struct Guarded {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

const CANARY: u8 = 0xc7;
const GUARD: usize = 64;

impl Guarded {
    /// Room for `length` bytes, `shift` bytes off the start of the guard's end; filled with what no test expects.
    pub fn new(length: usize, shift: usize) -> Self {
        let start = GUARD + shift;
        let mut bytes = vec![CANARY; start + length + GUARD];
        bytes[start..start + length].fill(0xee);
        Self {
            bytes,
            start,
            length,
        }
    }

    pub fn holding(content: &[u8], shift: usize) -> Self {
        let mut buffer = Self::new(content.len(), shift);
        buffer.room().copy_from_slice(content);
        buffer
    }

    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }

    /// The content, once the canaries are found alive.
    pub fn content(&self) -> &[u8] {
        let (before, rest) = self.bytes.split_at(self.start);
        let (content, behind) = rest.split_at(self.length);
        assert!(
            before.iter().chain(behind).all(|byte| *byte == CANARY),
            "a canary is dead"
        );
        content
    }
}

/// A number as an IV.
pub fn numbered(number: u64) -> Iv {
    let mut sequence = OutboundSequence::starting_at(number, true);
    sequence.take().expect("any but the last").into_iv()
}

/// The IV of a packet's number: that itself, or one that it seeds.
pub fn iv(algorithm: Algorithm, number: u64) -> Iv {
    if algorithm.iv_len() < 16 {
        return numbered(number);
    }
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    IvGenerator::new(seed).generate()
}

/// The same as its receiver has it.
pub fn received_iv(algorithm: Algorithm, number: u64) -> ReceivedIv {
    if algorithm.iv_len() < 16 {
        return number.to_be_bytes().into();
    }
    ReceivedIv::new(algorithm, iv(algorithm, number).on_wire(algorithm), number).unwrap()
}

/// The least trailer of a payload.
pub fn trailer(algorithm: Algorithm, payload: usize) -> Trailer {
    Trailer::to_align(payload, 4, algorithm.alignment())
}

/// Salt and key in the order of the key material, and the nonce's other half.
pub fn split_nonce(key: &[u8], nonce: &[u8]) -> (Vec<u8>, u64) {
    let (salt, iv) = nonce.split_at(nonce.len() - 8);
    (
        [key, salt].concat(),
        u64::from_be_bytes(iv.try_into().unwrap()),
    )
}

/// How often a packet is sealed or opened at once: some kernels are for bursts.
const COPIES: usize = 4;

/// Seals one packet, which comes to the same with each of its copies.
pub fn seal<'a>(
    engine: EngineKind,
    algorithm: Algorithm,
    key_material: &[u8],
    number: u64,
    aad: impl Into<AdditionalData<'a>>,
    plaintext: &[u8],
    trailer: Trailer,
) -> Vec<u8> {
    let key = SealingKey::new(engine, algorithm, key_material).unwrap();
    let aad: AdditionalData<'_> = aad.into();
    let length = plaintext.len() + trailer.len() + algorithm.icv_len();
    let mut outs: Vec<_> = (0..copies(engine, algorithm))
        .map(|shift| Guarded::new(length, shift))
        .collect();
    let mut jobs: Vec<_> = outs
        .iter_mut()
        .map(|out| {
            let iv = iv(algorithm, number);
            SealJob::new(&key, iv, aad, plaintext, trailer, out.room()).unwrap()
        })
        .collect();
    seal_batch(&mut jobs);
    drop(jobs);
    let [first, others @ ..] = &outs[..] else {
        panic!("no copy");
    };
    for other in others {
        assert_eq!(first.content(), other.content());
    }
    first.content().to_vec()
}

fn copies(engine: EngineKind, algorithm: Algorithm) -> usize {
    match (engine, algorithm) {
        (EngineKind::Vaes512, Algorithm::ChaCha20Poly1305(_)) => COPIES,
        _ => 1,
    }
}

/// Opens one packet; a forged one must leave zeros.
pub fn open<'a>(
    engine: EngineKind,
    algorithm: Algorithm,
    key_material: &[u8],
    number: u64,
    aad: impl Into<AdditionalData<'a>>,
    ciphertext: &[u8],
) -> Option<Vec<u8>> {
    let iv = received_iv(algorithm, number);
    open_with_iv(engine, algorithm, key_material, iv, aad, ciphertext)
}

/// The same with any IV.
pub fn open_with_iv<'a>(
    engine: EngineKind,
    algorithm: Algorithm,
    key_material: &[u8],
    iv: ReceivedIv,
    aad: impl Into<AdditionalData<'a>>,
    ciphertext: &[u8],
) -> Option<Vec<u8>> {
    let key = OpeningKey::new(engine, algorithm, key_material).unwrap();
    let aad: AdditionalData<'_> = aad.into();
    let mut outs: Vec<_> = (0..copies(engine, algorithm))
        .map(|shift| Guarded::new(ciphertext.len() - algorithm.icv_len(), shift))
        .collect();
    let mut jobs: Vec<_> = outs
        .iter_mut()
        .map(|out| OpenJob::new(&key, iv, aad, ciphertext, out.room()).unwrap())
        .collect();
    let mut verdicts = [Verdict::Forged; COPIES];
    open_batch(&mut jobs, &mut verdicts);
    drop(jobs);
    let mut opened = outs.iter().zip(verdicts).map(|(out, verdict)| {
        let content = out.content();
        match verdict {
            Verdict::Authentic => Some(content.to_vec()),
            Verdict::Forged => {
                assert!(
                    content.iter().all(|byte| *byte == 0),
                    "a forged packet left something behind"
                );
                None
            }
        }
    });
    let first = opened.next().expect("a copy");
    assert!(opened.all(|other| other == first), "copies differ");
    first
}

/// Bytes from their hexadecimal digits.
pub fn hex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2));
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Bytes that differ from place to place.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        })
        .collect()
}
