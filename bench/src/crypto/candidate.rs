//! Who is measured: our engines by the crate's own interface, and Intel's library by its direct one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use arrayvec::ArrayVec;
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, Iv, OpenJob, OpeningKey, SealJob, SealingKey, Trailer, Verdict,
    open_batch, seal_batch,
};

use super::{ipsec_mb, ipsec_mb_chacha};

/// The most packets in a batch.
pub const BATCH: usize = 64;
/// The ICV's length.
pub const ICV: usize = 16;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Encrypt.
    Seal,
    /// Decrypt.
    Open,
}

/// Room for a batch: each packet begins at a cache line of its own, and nothing is in place.
pub struct Buffers {
    /// Where each packet begins.
    pub starts: Vec<usize>,
    pub plain: Vec<u8>,
    pub sealed: Vec<u8>,
    pub opened: Vec<u8>,
}

impl Buffers {
    pub fn new(lengths: &[usize]) -> Self {
        let mut end = 0;
        let starts = lengths
            .iter()
            .map(|length| {
                let start = end;
                end += (length + ICV).next_multiple_of(64) + 64;
                start
            })
            .collect();
        Self {
            starts,
            plain: vec![0x5a; end],
            sealed: vec![0; end],
            opened: vec![0; end],
        }
    }
}

/// Packets to do.
pub struct Batch<'a> {
    pub lengths: &'a [usize],
    pub buffers: &'a mut Buffers,
}

/// Seals and opens batches, each packet under the next of its SAs, and says how long that took.
pub trait Candidate {
    fn name(&self) -> &'static str;
    fn seal(&mut self, batch: &mut Batch<'_>) -> Duration;
    /// What it opens it has sealed before, which is not counted.
    fn open(&mut self, batch: &mut Batch<'_>) -> Duration;
}

/// All that there are on this machine.
pub fn candidates(
    algorithm: Algorithm,
    sas: usize,
    ipsec_mb: &Path,
) -> Result<Vec<Box<dyn Candidate>>> {
    let mut all: Vec<Box<dyn Candidate>> = Vec::new();
    for engine in EngineKind::available() {
        if !engine.does(algorithm) {
            continue;
        }
        all.push(Box::new(Engine::new(*engine, algorithm, sas)?));
    }
    match intels(algorithm, sas, ipsec_mb) {
        Ok(library) => all.push(library),
        Err(reason) => eprintln!("Without Intel's multi-buffer library: {reason:#}"),
    }
    Ok(all)
}

/// Intel's multi-buffer library.
fn intels(algorithm: Algorithm, sas: usize, path: &Path) -> Result<Box<dyn Candidate>> {
    Ok(match algorithm {
        Algorithm::ChaCha20Poly1305(_) => Box::new(ipsec_mb_chacha::IpsecMb::load(path, sas)?),
        _ => Box::new(ipsec_mb::IpsecMb::load(path, algorithm, sas)?),
    })
}

/// A key for each SA.
pub fn key_material(algorithm: Algorithm, sa: usize) -> Vec<u8> {
    let mut material = vec![0x42; algorithm.key_material_len()];
    for (byte, number) in material.iter_mut().zip(sa.to_le_bytes()) {
        *byte ^= number;
    }
    material
}

/// The additional data of all packets.
const SPI: u32 = 0x1000_0001;

struct Engine {
    kind: EngineKind,
    sealing: Vec<SealingKey>,
    opening: Vec<OpeningKey>,
    /// The SA of the next packet.
    next: usize,
    sequence: u64,
}

impl Engine {
    fn new(kind: EngineKind, algorithm: Algorithm, sas: usize) -> Result<Self> {
        let materials = || (0..sas).map(|sa| key_material(algorithm, sa));
        Ok(Self {
            kind,
            sealing: materials()
                .map(|material| SealingKey::new(kind, algorithm, &material))
                .collect::<Result<_, _>>()?,
            opening: materials()
                .map(|material| OpeningKey::new(kind, algorithm, &material))
                .collect::<Result<_, _>>()?,
            next: 0,
            sequence: 0,
        })
    }
}

impl Candidate for Engine {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn seal(&mut self, batch: &mut Batch<'_>) -> Duration {
        let mut jobs: ArrayVec<SealJob<'_>, BATCH> = ArrayVec::new();
        let mut rest = &mut batch.buffers.sealed[..];
        let mut at = 0;
        for (number, (start, length)) in (0..).zip(batch.buffers.starts.iter().zip(batch.lengths)) {
            let (_, room) = rest.split_at_mut(start - at);
            let (out, behind) = room.split_at_mut(length + ICV);
            (rest, at) = (behind, start + length + ICV);
            let key = &self.sealing[(self.next + number) % self.sealing.len()];
            let iv = Iv::from_sequence(self.sequence + number as u64);
            let plain = &batch.buffers.plain[*start..start + length];
            let job = SealJob::new(
                key,
                iv,
                Aad::plain(SPI, number as u32),
                plain,
                Trailer::NONE,
                out,
            );
            jobs.push(job.expect("the lengths are right"));
        }
        let start = Instant::now();
        seal_batch(&mut jobs);
        let taken = start.elapsed();
        self.next = (self.next + batch.lengths.len()) % self.sealing.len();
        self.sequence += batch.lengths.len() as u64;
        taken
    }

    fn open(&mut self, batch: &mut Batch<'_>) -> Duration {
        let (first_sa, first) = (self.next, self.sequence);
        self.seal(batch);
        let mut jobs: ArrayVec<OpenJob<'_>, BATCH> = ArrayVec::new();
        let mut rest = &mut batch.buffers.opened[..];
        let mut at = 0;
        for (number, (start, length)) in (0..).zip(batch.buffers.starts.iter().zip(batch.lengths)) {
            let (_, room) = rest.split_at_mut(start - at);
            let (out, behind) = room.split_at_mut(*length);
            (rest, at) = (behind, start + length);
            let key = &self.opening[(first_sa + number) % self.opening.len()];
            let iv = (first + number as u64).to_be_bytes();
            let sealed = &batch.buffers.sealed[*start..start + length + ICV];
            let job = OpenJob::new(key, iv, Aad::plain(SPI, number as u32), sealed, out);
            jobs.push(job.expect("the lengths are right"));
        }
        let mut verdicts = [Verdict::Forged; BATCH];
        let start = Instant::now();
        open_batch(&mut jobs, &mut verdicts);
        let taken = start.elapsed();
        let authentic = verdicts
            .iter()
            .filter(|verdict| **verdict == Verdict::Authentic)
            .count();
        assert_eq!(
            authentic,
            batch.lengths.len(),
            "{} does not open what it sealed",
            self.kind
        );
        taken
    }
}
