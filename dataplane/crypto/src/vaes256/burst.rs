//! Drives a burst: short packets wait for another of their kind and go with it, long ones go alone.

use super::{
    end::{self, End},
    packet::Packet,
    schedule::Schedule,
    strips, text,
};
use crate::{
    AdditionalData, Trailer,
    engine::{Opening, Sealing},
};

/// A job of a burst.
pub(crate) trait Job {
    /// Whether it is to be sealed, or opened.
    const SEAL: bool;

    /// Its key, when it is this engine's and its text in one piece.
    fn schedule(&self) -> Option<&Schedule>;

    /// Itself, when [`schedule`](Self::schedule) gives a key.
    fn packet(&mut self) -> Option<Packet<'_>>;
}

/// The most jobs that are done before it is told which of them are forged.
const BURST: usize = 64;
/// How many packets ahead keys are fetched.
const AHEAD: usize = 4;

/// Short packets by their vectors, and by the key's length.
const KINDS: usize = (PAIRED + 1) * 3;

/// Runs the jobs that are this engine's, and gives the others to `foreign`. Calls `forged` for each that is not authentic.
#[inline]
pub(crate) fn run<J: Job>(
    jobs: &mut [J],
    mut forged: impl FnMut(&mut J, usize),
    mut foreign: impl FnMut(&mut J, usize),
) {
    for (burst, first) in jobs.chunks_mut(BURST).zip((0..).step_by(BURST)) {
        let mut differ = some(burst, |job, at| foreign(job, first + at));
        while differ != 0 {
            let at = differ.trailing_zeros() as usize;
            differ &= differ - 1;
            if let Some(job) = burst.get_mut(at) {
                forged(job, first + at);
            }
        }
    }
}

/// At most 64 jobs; a forged one has a bit in the result, by its place.
#[inline]
fn some<J: Job>(mut jobs: &mut [J], mut foreign: impl FnMut(&mut J, usize)) -> u64 {
    let mut waiting = Waiting::new();
    let mut places = 0..;
    while let ([job, rest @ ..], Some(at)) = (jobs, places.next()) {
        if let Some(later) = rest.get(AHEAD).and_then(J::schedule)
            && job
                .schedule()
                .is_none_or(|schedule| !core::ptr::eq(schedule, later))
        {
            later.prefetch();
        }
        if job.schedule().is_none() {
            foreign(job, at);
        } else if let Some(packet) = job.packet() {
            waiting.add::<J>(packet, at);
        }
        jobs = rest;
    }
    waiting.finish::<J>()
}

/// Packets that wait for another of their kind.
struct Waiting<'a> {
    packets: [Option<(Packet<'a>, usize)>; KINDS],
    differ: u64,
}

impl<'a> Waiting<'a> {
    #[inline]
    fn new() -> Self {
        Self {
            packets: [const { None }; KINDS],
            differ: 0,
        }
    }

    #[inline]
    fn add<J: Job>(&mut self, packet: Packet<'a>, at: usize) {
        let vectors = text::vectors(packet.length);
        if vectors > PAIRED {
            self.differ |= u64::from(alone::<J>(&packet)) << at;
            return;
        }
        let kind = vectors * 3 + packet.schedule.twos_more();
        let slot = &mut self.packets[kind];
        if let Some((first, first_at)) = slot {
            let forged = pair::<J>(vectors, first, &packet);
            self.differ |= u64::from(forged & 1) << *first_at;
            self.differ |= u64::from(forged >> 1) << at;
            *slot = None;
        } else {
            *slot = Some((packet, at));
        }
    }

    /// Those that wait in vain.
    #[inline]
    fn finish<J: Job>(mut self) -> u64 {
        for (packet, at) in self.packets.iter().flatten() {
            self.differ |= u64::from(alone::<J>(packet)) << at;
        }
        self.differ
    }
}

/// The most vectors of packets that go in pairs: there are sixteen registers.
const PAIRED: usize = 4;

/// Runs a packet by itself, and tells whether it is forged.
fn alone<J: Job>(packet: &Packet<'_>) -> bool {
    // SAFETY: a schedule exists only where the features do, and the number of vectors is the packet's.
    unsafe {
        if J::SEAL {
            some_alone::<true>(packet)
        } else {
            some_alone::<false>(packet)
        }
    }
}

/// # Safety
///
/// The CPU has the features.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
unsafe fn some_alone<const SEAL: bool>(packet: &Packet<'_>) -> bool {
    let vectors = text::vectors(packet.length);
    // SAFETY: the packet has so many vectors.
    unsafe {
        if vectors > end::MOST {
            return strips::run::<SEAL>(packet);
        }
        let ends = [&End::whole(packet)];
        let forged = match vectors {
            0 => end::run::<SEAL, 1, 0>(ends),
            1 => end::run::<SEAL, 1, 1>(ends),
            2 => end::run::<SEAL, 1, 2>(ends),
            3 => end::run::<SEAL, 1, 3>(ends),
            4 => end::run::<SEAL, 1, 4>(ends),
            5 => end::run::<SEAL, 1, 5>(ends),
            6 => end::run::<SEAL, 1, 6>(ends),
            _ => end::run::<SEAL, 1, 7>(ends),
        };
        forged != 0
    }
}

/// Runs two packets of as many vectors and rounds; a forged one has a bit.
fn pair<J: Job>(vectors: usize, first: &Packet<'_>, second: &Packet<'_>) -> u32 {
    // SAFETY: a schedule exists only where the features do; the rest is as told.
    unsafe {
        if J::SEAL {
            some_pair::<true>(vectors, first, second)
        } else {
            some_pair::<false>(vectors, first, second)
        }
    }
}

/// # Safety
///
/// Both have so many vectors, at most [`PAIRED`], and keys of the same length; the CPU has the features.
#[target_feature(enable = "avx2,vaes,vpclmulqdq")]
unsafe fn some_pair<const SEAL: bool>(
    vectors: usize,
    first: &Packet<'_>,
    second: &Packet<'_>,
) -> u32 {
    let ends = [&End::whole(first), &End::whole(second)];
    // SAFETY: the caller's promise.
    unsafe {
        match vectors {
            0 => end::run::<SEAL, 2, 0>(ends),
            1 => end::run::<SEAL, 2, 1>(ends),
            2 => end::run::<SEAL, 2, 2>(ends),
            3 => end::run::<SEAL, 2, 3>(ends),
            _ => end::run::<SEAL, 2, 4>(ends),
        }
    }
}

/// Seals one packet by itself; `None` when its lengths do not fit each other.
pub(crate) fn seal(schedule: &Schedule, packet: Sealing<'_>) -> Option<()> {
    let [_, _, _, _, iv @ ..] = packet.nonce;
    let trailer = Trailer::new(packet.trailer)?;
    let packet = Packet::to_seal(
        schedule,
        iv,
        &AdditionalData::Bytes(packet.aad),
        &trailer,
        packet.text,
    )?;
    // SAFETY: a schedule exists only where the features do.
    unsafe { some_alone::<true>(&packet) };
    Some(())
}

/// Opens one packet by itself; `None` when it is forged.
pub(crate) fn open(schedule: &Schedule, packet: Opening<'_>) -> Option<()> {
    let [_, _, _, _, iv @ ..] = packet.nonce;
    let packet = Packet::to_open(
        schedule,
        iv,
        &AdditionalData::Bytes(packet.aad),
        packet.text,
    )?;
    // SAFETY: a schedule exists only where the features do.
    (!unsafe { some_alone::<false>(&packet) }).then_some(())
}
