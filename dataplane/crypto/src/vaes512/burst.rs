//! Drives a burst: sorts its packets by kind, so that each kernel runs over all that is its own without a break.

use super::{
    ghash,
    packet::{Authenticated, Packet},
    schedule::Schedule,
    short, single, text,
};
use crate::{
    algorithm::ICV_LEN,
    engine::{Opening, Sealing},
    gcm::Block,
};
use core::{marker::PhantomData, mem::MaybeUninit};

/// A job of a burst.
pub(crate) trait Job {
    /// Whether it is to be sealed, or opened.
    const SEAL: bool;

    /// Whether it is this engine's.
    fn is_ours(&self) -> bool;

    /// Itself, when it is this engine's: the same packet each time.
    fn packet(&mut self) -> Option<Packet<'_>>;
}

/// The most jobs that are sorted at once.
pub(super) const BURST: usize = 64;

/// The jobs of a burst by their places: short packets are read where they are.
pub(super) struct Jobs<'a, J> {
    first: *mut J,
    _jobs: PhantomData<&'a mut [J]>,
}

impl<'a, J: Job> Jobs<'a, J> {
    /// The packet of a job.
    ///
    /// # Safety
    ///
    /// There is a job at this place that has given a packet before, and no reference to it is in use.
    #[inline]
    pub(super) unsafe fn packet(&self, place: u8) -> Packet<'a> {
        // SAFETY: the caller's promise; a job gives the same packet each time.
        unsafe {
            let job = &mut *self.first.add(usize::from(place));
            job.packet().unwrap_unchecked()
        }
    }
}

/// Packets that go one by one, by their places in a burst.
pub(super) type Packets<'a> = [MaybeUninit<Packet<'a>>; BURST];

/// Kinds of packets under keys of one length: those of one to four vectors, by whether the first lanes are text; and all
/// that go one by one.
const KINDS_OF_KEY: usize = 4 * 2 + 1;
/// The last of them.
const SINGLE: usize = KINDS_OF_KEY - 1;
/// Kinds of packets: AES has 10, 12 or 14 rounds.
const KINDS: usize = 3 * KINDS_OF_KEY;

/// Runs the jobs that are this engine's, and gives the others to `foreign`. Calls `forged` for each that is not authentic.
#[inline]
pub(crate) fn run<J: Job>(
    jobs: &mut [J],
    mut forged: impl FnMut(&mut J, usize),
    mut foreign: impl FnMut(&mut J, usize),
) {
    for (burst, first) in jobs.chunks_mut(BURST).zip((0..).step_by(BURST)) {
        let mut sorted = Sorted::new();
        for (at, job) in burst.iter_mut().enumerate() {
            if !job.is_ours() {
                foreign(job, first + at);
            } else if let Some(packet) = job.packet() {
                sorted.note(at, &packet);
            }
        }
        let jobs = Jobs {
            first: burst.as_mut_ptr(),
            _jobs: PhantomData,
        };
        let mut differ = sorted.run(&jobs);
        while differ != 0 {
            let at = differ.trailing_zeros() as usize;
            differ &= differ - 1;
            if let Some(job) = burst.get_mut(at) {
                forged(job, first + at);
            }
        }
    }
}

/// The places of packets by kind: sorted in one pass, with room for a whole burst of each kind.
struct Sorted {
    present: u32,
    counts: [u8; KINDS],
    places: [[MaybeUninit<u8>; BURST]; KINDS],
    /// The first packet's key.
    key: *const Schedule,
    /// Whether there are others.
    keys_differ: bool,
}

impl Sorted {
    #[inline]
    fn new() -> Self {
        Self {
            present: 0,
            counts: [0; KINDS],
            places: [[MaybeUninit::uninit(); BURST]; KINDS],
            key: core::ptr::null(),
            keys_differ: false,
        }
    }

    #[inline]
    fn note(&mut self, place: usize, packet: &Packet<'_>) {
        let kind = kind(packet);
        if self.present == 0 {
            self.key = packet.schedule;
        }
        self.keys_differ |= !core::ptr::eq(self.key, packet.schedule);
        self.present |= 1 << kind;
        let count = &mut self.counts[kind];
        self.places[kind][usize::from(*count) % BURST].write(place as u8);
        *count += 1;
    }

    /// Forged packets have a bit by their place.
    #[inline]
    fn run<J: Job>(&mut self, jobs: &Jobs<'_, J>) -> u64 {
        let mut differ = 0;
        while self.present != 0 {
            let kind = self.present.trailing_zeros() as usize;
            self.present &= self.present - 1;
            let places = &self.places[kind][..usize::from(self.counts[kind])];
            // SAFETY: as many as were counted were written, each once, and the job there gave a packet of this kind. A
            // schedule exists only where the features do.
            differ |= unsafe {
                let places = places.assume_init_ref();
                match (kind / KINDS_OF_KEY, self.keys_differ) {
                    (0, false) => run_kind::<J, 10, true>(jobs, kind, places),
                    (0, true) => run_kind::<J, 10, false>(jobs, kind, places),
                    (1, _) => run_kind::<J, 12, false>(jobs, kind, places),
                    (_, false) => run_kind::<J, 14, true>(jobs, kind, places),
                    (_, true) => run_kind::<J, 14, false>(jobs, kind, places),
                }
            };
        }
        differ
    }
}

#[inline]
fn kind(packet: &Packet<'_>) -> usize {
    /// By the number of blocks.
    static OF_KEY: [u8; 17] = {
        let mut kinds = [0; 17];
        let mut blocks = 1;
        while blocks < kinds.len() {
            let full = blocks % 4 == 0;
            kinds[blocks] = ((blocks - 1) / 4 * 2) as u8 + full as u8;
            blocks += 1;
        }
        kinds
    };
    let of_key = OF_KEY.get(text::blocks(packet.length));
    (packet.rounds - 10) / 2 * KINDS_OF_KEY + of_key.map_or(SINGLE, |kind| usize::from(*kind))
}

/// Runs the packets of one kind, which have `ONE_KEY` or may have others.
///
/// # Safety
///
/// At each of the places, which are all different, there is a job that has given a packet of that kind, whose key has
/// `ROUNDS` rounds; the CPU has the features.
unsafe fn run_kind<J: Job, const ROUNDS: usize, const ONE_KEY: bool>(
    jobs: &Jobs<'_, J>,
    kind: usize,
    places: &[u8],
) -> u64 {
    let kind = kind % KINDS_OF_KEY;
    let (groups, rest) = if kind == SINGLE {
        (&[][..], places)
    } else {
        places.as_chunks()
    };
    // SAFETY: the kind tells vectors and whether the first lanes are text; the rest is the caller's promise.
    unsafe {
        let mut forged = match kind {
            0 => short::run::<J, ROUNDS, 1, false, ONE_KEY>(jobs, groups),
            1 => short::run::<J, ROUNDS, 1, true, ONE_KEY>(jobs, groups),
            2 => short::run::<J, ROUNDS, 2, false, ONE_KEY>(jobs, groups),
            3 => short::run::<J, ROUNDS, 2, true, ONE_KEY>(jobs, groups),
            4 => short::run::<J, ROUNDS, 3, false, ONE_KEY>(jobs, groups),
            5 => short::run::<J, ROUNDS, 3, true, ONE_KEY>(jobs, groups),
            6 => short::run::<J, ROUNDS, 4, false, ONE_KEY>(jobs, groups),
            7 => short::run::<J, ROUNDS, 4, true, ONE_KEY>(jobs, groups),
            _ => 0,
        };
        if !rest.is_empty() {
            let mut packets: Packets<'_> = [const { MaybeUninit::uninit() }; BURST];
            for place in rest {
                packets[usize::from(*place) % BURST].write(jobs.packet(*place));
            }
            forged |= run_single::<ROUNDS>(J::SEAL, &packets, rest);
        }
        forged
    }
}

/// Runs packets one by one.
///
/// # Safety
///
/// As for [`single::run`].
unsafe fn run_single<const ROUNDS: usize>(seal: bool, packets: &Packets<'_>, places: &[u8]) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        if seal {
            single::run::<true, ROUNDS>(packets, places)
        } else {
            single::run::<false, ROUNDS>(packets, places)
        }
    }
}

/// Whether a packet by itself is forged, if it was to be opened.
fn alone(seal: bool, packet: Packet<'_>) -> bool {
    let mut packets: Packets<'_> = [const { MaybeUninit::uninit() }; BURST];
    let packet = packets[0].write(packet);
    // SAFETY: a schedule exists only where the features do, and the packet is in the first place.
    let forged = unsafe {
        match packet.rounds {
            10 => run_single::<10>(seal, &packets, &[0]),
            12 => run_single::<12>(seal, &packets, &[0]),
            _ => run_single::<14>(seal, &packets, &[0]),
        }
    };
    forged != 0
}

/// Additional data of any length as GHASH takes it.
struct Digest {
    additional: Block,
    lengths: [u64; 2],
}

impl Digest {
    fn new(schedule: &Schedule, additional: &[u8], text: usize) -> Self {
        Self {
            // SAFETY: a schedule exists only where the features do.
            additional: unsafe { ghash::digest(schedule, additional) },
            lengths: [8 * text as u64, 8 * additional.len() as u64],
        }
    }

    fn authenticated(&self) -> Authenticated<'_> {
        Authenticated {
            additional: &self.additional,
            lengths: &self.lengths,
        }
    }
}

/// Seals one packet by itself; `None` when its lengths do not fit each other.
pub(crate) fn seal(schedule: &Schedule, packet: Sealing<'_>) -> Option<()> {
    let [_, _, _, _, iv @ ..] = packet.nonce;
    let length = packet.text.room().checked_sub(ICV_LEN)?;
    let digest = Digest::new(schedule, packet.aad, length);
    let key = (schedule, schedule.rounds());
    let (trailer, text) = (packet.trailer, packet.text);
    let packet = Packet::to_seal(key, iv, digest.authenticated(), trailer, text)?;
    alone(true, packet);
    Some(())
}

/// Opens one packet by itself; `None` when it is forged.
pub(crate) fn open(schedule: &Schedule, packet: Opening<'_>) -> Option<()> {
    let [_, _, _, _, iv @ ..] = packet.nonce;
    let length = packet.text.source_len().checked_sub(ICV_LEN)?;
    let digest = Digest::new(schedule, packet.aad, length);
    let key = (schedule, schedule.rounds());
    let packet = Packet::to_open(key, iv, digest.authenticated(), packet.text)?;
    (!alone(false, packet)).then_some(())
}
