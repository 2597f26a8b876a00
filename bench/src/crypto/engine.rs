//! One of our engines, by the interface that the dataplane uses: jobs are built, and then done all at once. Both counts,
//! unless the batch alone is asked for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, Iv, IvGenerator, JobError, OpenJob, OpeningKey, ReceivedIv,
    SealJob, SealingKey, Trailer, Verdict, open_batch, seal_batch, sequence::OutboundSequence,
};

use super::candidate::{Candidate, SPI, key_material};
use super::workload::{BATCH, Packets, Text};

/// An engine with keys.
pub struct Engine {
    kind: EngineKind,
    algorithm: Algorithm,
    sealing: Vec<SealingKey>,
    opening: Vec<OpeningKey>,
    /// Whether time begins when the jobs are built.
    batch_only: bool,
}

impl Engine {
    pub fn new(
        kind: EngineKind,
        algorithm: Algorithm,
        sas: usize,
        batch_only: bool,
    ) -> Result<Self> {
        let materials = || (0..sas).map(|sa| key_material(algorithm, sa));
        Ok(Self {
            kind,
            algorithm,
            batch_only,
            sealing: materials()
                .map(|material| SealingKey::new(kind, algorithm, &material))
                .collect::<Result<_, _>>()?,
            opening: materials()
                .map(|material| OpeningKey::new(kind, algorithm, &material))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The IVs of CBC, which are drawn: the same for the same number. Other IVs are the number, and made when needed.
    fn drawn(&self, packets: &Packets<'_>) -> ArrayVec<Iv, BATCH> {
        let draw = |number: u64| {
            let mut seed = [0; 32];
            let (start, _) = seed.split_at_mut(8);
            start.copy_from_slice(&number.to_le_bytes());
            IvGenerator::new(seed).generate()
        };
        let drawn = packets.iter().filter(|_| is_cbc(self.algorithm));
        drawn.map(|packet| draw(packet.number)).collect()
    }
}

/// Whether packets carry a block as IV.
pub fn is_cbc(algorithm: Algorithm) -> bool {
    algorithm.iv_len() == 16
}

#[inline(always)]
fn seal_job<'a>(
    key: &'a SealingKey,
    iv: Iv,
    aad: Aad,
    text: &'a mut Text<'_>,
    take: impl FnOnce(SealJob<'a>),
) -> Result<(), JobError> {
    match text {
        Text::Apart { source, out } => {
            SealJob::with(key, iv, aad, source, Trailer::NONE, out, take)
        }
        Text::InPlace(frame) => SealJob::in_place_with(key, iv, aad, frame, Trailer::NONE, take),
    }
}

impl Candidate for Engine {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn seal(&mut self, packets: &mut Packets<'_>) -> Result<Duration> {
        let mut drawn = self.drawn(packets).into_iter();
        let first = packets.first().map_or(1, |packet| packet.number);
        let mut numbers = OutboundSequence::starting_at(first, true);
        let start = Instant::now();
        let mut jobs: ArrayVec<SealJob<'_>, BATCH> = ArrayVec::new();
        for packet in packets {
            let key = &self.sealing[packet.sa];
            let aad = Aad::plain(SPI, packet.number as u32);
            let text = &mut packet.text;
            // One after the other, so that what kind of IV it is need not be asked of it.
            match drawn.next() {
                None => {
                    let number = numbers.take().context("all numbers are spent")?;
                    seal_job(key, number.into_iv(), aad, text, |job| jobs.push(job))?;
                }
                Some(iv) => seal_job(key, iv, aad, text, |job| jobs.push(job))?,
            }
        }
        let start = if self.batch_only {
            Instant::now()
        } else {
            start
        };
        seal_batch(&mut jobs);
        Ok(start.elapsed())
    }

    fn open(&mut self, packets: &mut Packets<'_>) -> Result<Duration> {
        let received = |iv: Iv| ReceivedIv::new(self.algorithm, iv.on_wire(self.algorithm), 0);
        let drawn: ArrayVec<_, BATCH> = self.drawn(packets).into_iter().map(received).collect();
        let mut drawn = drawn.into_iter().flatten();
        let start = Instant::now();
        let mut jobs: ArrayVec<OpenJob<'_>, BATCH> = ArrayVec::new();
        for packet in packets {
            let key = &self.opening[packet.sa];
            let aad = Aad::plain(SPI, packet.number as u32);
            let iv = drawn
                .next()
                .unwrap_or_else(|| packet.number.to_be_bytes().into());
            let take = |job| jobs.push(job);
            match &mut packet.text {
                Text::Apart { source, out } => OpenJob::with(key, iv, aad, source, out, take)?,
                Text::InPlace(frame) => OpenJob::in_place_with(key, iv, aad, frame, take)?,
            }
        }
        let mut verdicts = [Verdict::Forged; BATCH];
        let (verdicts, _) = verdicts.split_at_mut(jobs.len());
        let start = if self.batch_only {
            Instant::now()
        } else {
            start
        };
        open_batch(&mut jobs, verdicts);
        let taken = start.elapsed();
        let authentic = verdicts
            .iter()
            .all(|verdict| *verdict == Verdict::Authentic);
        ensure!(authentic, "{} refuses what it sealed", self.kind);
        Ok(taken)
    }
}
