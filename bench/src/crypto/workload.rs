//! The packets: batches in frames that are used again and again, as a gateway uses its own.

use std::time::Duration;

use anyhow::Result;
use arrayvec::ArrayVec;
use esplanade_crypto::Algorithm;

use super::candidate::Candidate;

/// The most packets in a batch.
pub const BATCH: usize = 64;

/// One packet to seal or to open.
pub struct Packet<'a> {
    /// Under which SA.
    pub sa: usize,
    /// Its sequence number and IV.
    pub number: u64,
    pub text: Text<'a>,
}

/// Where the text is. What is sealed has room for the ICV behind it.
pub enum Text<'a> {
    /// From one frame into another.
    Apart { source: &'a [u8], out: &'a mut [u8] },
    /// In its frame.
    InPlace(&'a mut [u8]),
}

/// A batch, as a candidate gets it.
pub type Packets<'a> = ArrayVec<Packet<'a>, BATCH>;

/// What is done again and again: a batch in the same frames, or so many batches that their frames do not stay in a cache.
pub struct Workload {
    sas: usize,
    /// How many packets there were.
    next: u64,
    batches: Vec<Batch>,
}

impl Workload {
    /// Batches of packets of these lengths, the next SA for each packet. Their frames fill `room` bytes, or there is one.
    pub fn new(
        algorithm: Algorithm,
        lengths: &[usize],
        sas: usize,
        in_place: bool,
        room: usize,
    ) -> Self {
        let first = Batch::new(algorithm, lengths, in_place);
        let more = room.div_ceil(first.bytes().max(1)).saturating_sub(1);
        let more = (0..more).map(|_| Batch::new(algorithm, lengths, in_place));
        Self {
            sas,
            next: 0,
            batches: std::iter::once(first).chain(more).collect(),
        }
    }

    /// How many packets a pass has.
    pub fn packets(&self) -> usize {
        self.batches.iter().map(|batch| batch.lengths.len()).sum()
    }

    /// How many batches a pass has.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Seals all batches.
    pub fn seal(&mut self, candidate: &mut dyn Candidate) -> Result<Duration> {
        let mut taken = Duration::ZERO;
        for batch in &mut self.batches {
            taken += candidate.seal(&mut batch.sealing(self.sas, self.next))?;
            self.next += batch.lengths.len() as u64;
        }
        Ok(taken)
    }

    /// Opens all batches, which are sealed before; that is not counted.
    pub fn open(&mut self, candidate: &mut dyn Candidate) -> Result<Duration> {
        let mut number = self.next;
        self.seal(candidate)?;
        let mut taken = Duration::ZERO;
        for batch in &mut self.batches {
            taken += candidate.open(&mut batch.opening(self.sas, number))?;
            number += batch.lengths.len() as u64;
        }
        Ok(taken)
    }

    /// What a candidate makes of the first batch, first sealed and then opened.
    pub fn outcome(&mut self, candidate: &mut dyn Candidate) -> Result<[Vec<u8>; 2]> {
        let Some(batch) = self.batches.first_mut() else {
            return Ok([Vec::new(), Vec::new()]);
        };
        batch.fill();
        candidate.seal(&mut batch.sealing(self.sas, 0))?;
        let sealed = batch.contents(batch.icv);
        candidate.open(&mut batch.opening(self.sas, 0))?;
        Ok([sealed, batch.contents(0)])
    }
}

/// Frames for a batch: each begins at a cache line of its own. The sealed ones lie apart from the others by more than pages, so
/// that no load waits for a store that only looks like its own.
struct Batch {
    lengths: Vec<usize>,
    icv: usize,
    in_place: bool,
    memory: Vec<u8>,
    /// Where a cache line begins.
    start: usize,
    /// Bytes of the plain frames, and of the sealed ones.
    half: usize,
}

const LINE: usize = 64;
const PAGE: usize = 4096;

impl Batch {
    fn new(algorithm: Algorithm, lengths: &[usize], in_place: bool) -> Self {
        let icv = algorithm.icv_len();
        let used: usize = lengths.iter().map(|length| stride(*length, icv)).sum();
        let half = used.next_multiple_of(PAGE) + PAGE / 2;
        let memory = vec![0; 2 * half + LINE];
        let start = memory.as_ptr().align_offset(LINE).min(LINE);
        let mut batch = Self {
            lengths: lengths.to_vec(),
            icv,
            in_place,
            memory,
            start,
            half,
        };
        batch.fill();
        batch
    }

    /// Bytes of the frames that are used.
    fn bytes(&self) -> usize {
        let texts: usize = self.lengths.iter().map(|length| length + self.icv).sum();
        if self.in_place { texts } else { 2 * texts }
    }

    /// Plain text everywhere.
    fn fill(&mut self) {
        for (at, byte) in self.memory.iter_mut().enumerate() {
            *byte = (at ^ (at >> 8)) as u8;
        }
    }

    /// The frames of plain text and of what is sealed, packet by packet, each as long as text and ICV.
    fn frames(&mut self) -> impl Iterator<Item = (usize, &mut [u8], &mut [u8])> {
        let (_, memory) = self.memory.split_at_mut(self.start);
        let (mut plain, mut sealed) = memory.split_at_mut(self.half);
        let icv = self.icv;
        self.lengths.iter().map(move |length| {
            let plain = take(&mut plain, stride(*length, icv));
            let sealed = take(&mut sealed, stride(*length, icv));
            let (plain, _) = plain.split_at_mut(length + icv);
            let (sealed, _) = sealed.split_at_mut(length + icv);
            (*length, plain, sealed)
        })
    }

    fn sealing(&mut self, sas: usize, first: u64) -> Packets<'_> {
        let in_place = self.in_place;
        let packet = |(number, (length, plain, sealed)): (u64, (usize, _, _))| {
            let plain: &mut [u8] = plain;
            let text = if in_place {
                Text::InPlace(sealed)
            } else {
                let (source, _) = plain.split_at(length);
                Text::Apart {
                    source,
                    out: sealed,
                }
            };
            numbered(number, sas, text)
        };
        (first..).zip(self.frames()).map(packet).collect()
    }

    fn opening(&mut self, sas: usize, first: u64) -> Packets<'_> {
        let in_place = self.in_place;
        let packet = |(number, (length, plain, sealed)): (u64, (usize, _, _))| {
            let plain: &mut [u8] = plain;
            let text = if in_place {
                Text::InPlace(sealed)
            } else {
                let (out, _) = plain.split_at_mut(length);
                Text::Apart {
                    source: sealed,
                    out,
                }
            };
            numbered(number, sas, text)
        };
        (first..).zip(self.frames()).map(packet).collect()
    }

    /// All that was written last, with the ICVs or without: `behind` is how much of each frame is behind the text.
    fn contents(&mut self, behind: usize) -> Vec<u8> {
        let apart_and_opened = !self.in_place && behind == 0;
        self.frames()
            .flat_map(|(length, plain, sealed)| {
                let frame = if apart_and_opened { plain } else { sealed };
                frame[..length + behind].to_vec()
            })
            .collect()
    }
}

fn numbered(number: u64, sas: usize, text: Text<'_>) -> Packet<'_> {
    Packet {
        sa: (number % sas as u64) as usize,
        number,
        text,
    }
}

/// From one frame to the next.
fn stride(length: usize, icv: usize) -> usize {
    (length + icv).next_multiple_of(LINE) + LINE
}

/// The first bytes of what is left.
fn take<'a>(rest: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (taken, behind) = std::mem::take(rest).split_at_mut(bytes);
    *rest = behind;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 3] = [64, 1420, 570];

    #[test]
    fn frames_begin_at_cache_lines() {
        let mut batch = Batch::new(Algorithm::AES_128_GCM_16, &LENGTHS, false);
        for (length, plain, sealed) in batch.frames() {
            assert_eq!([plain.len(), sealed.len()], [length + 16; 2]);
            for frame in [&plain, &sealed] {
                assert_eq!(frame.as_ptr().align_offset(LINE), 0);
            }
            let distance = sealed.as_ptr() as usize - plain.as_ptr() as usize;
            assert_eq!(distance % PAGE, PAGE / 2);
        }
    }

    #[test]
    fn sas_take_turns_over_all_batches() {
        let mut workload = Workload::new(Algorithm::AES_128_GCM_16, &LENGTHS, 4, false, 10_000);
        assert_eq!(workload.batches(), 3);
        assert_eq!(workload.packets(), 9);
        let mut sas = Vec::new();
        for (batch, first) in workload.batches.iter_mut().zip([0, 3]) {
            sas.extend(batch.sealing(4, first).iter().map(|packet| packet.sa));
        }
        assert_eq!(sas, [0, 1, 2, 3, 0, 1]);
    }

    #[test]
    fn without_room_there_is_one_batch() {
        let workload = Workload::new(Algorithm::AES_128_GCM_16, &[8900; 8], 1, true, 0);
        assert_eq!(workload.batches(), 1);
    }
}
