//! Drives a burst: sorts its packets by kind, so that each kernel runs over all that is its own without a break.

use super::{
    counter::Firsts,
    ghash,
    packet::{Head, Packet},
    schedule::Schedule,
    short, single, text,
};
use crate::{
    Trailer,
    engine::{Opening, Sealing},
    key::NONCE_LEN,
};
use core::mem::MaybeUninit;

/// A job of a burst.
pub(crate) trait Job {
    /// Whether it is to be sealed, or opened.
    const SEAL: bool;

    /// Itself, when it is this engine's: the same packet each time.
    fn packet(&self) -> Option<&Packet<'_>>;
}

/// The most jobs that are sorted at once.
pub(super) const BURST: usize = 64;

/// The jobs of a burst by their places.
pub(super) struct Jobs<'a, J>(&'a [J]);

impl<'a, J: Job> Jobs<'a, J> {
    /// The packet of a job.
    ///
    /// # Safety
    ///
    /// There is a job at this place that has given a packet before.
    #[inline]
    pub(super) unsafe fn packet(&self, place: u8) -> &'a Packet<'a> {
        // SAFETY: the caller's promise; a job gives the same packet each time.
        unsafe {
            let job = self.0.get_unchecked(usize::from(place));
            job.packet().unwrap_unchecked()
        }
    }
}

/// Kinds of packets under keys of one length: first those of one to four vectors, by whether the first lanes are text, which
/// go in groups;
const IN_GROUPS: usize = 4 * 2;
/// then those that go one by one, by their tails, so that a kernel meets one shape after the other: the CPU guesses wrong
/// what comes next only where they change.
const KINDS_OF_KEY: usize = IN_GROUPS + single::TAIL;
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
            match job.packet() {
                Some(packet) => sorted.note(at, packet),
                None => foreign(job, first + at),
            }
        }
        let mut differ = sorted.run(burst);
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
    present: u64,
    counts: [u8; KINDS],
    places: [[MaybeUninit<u8>; BURST]; KINDS],
    /// The key of the first packet.
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
        self.present |= 1_u64 << kind;
        let count = &mut self.counts[kind];
        self.places[kind][usize::from(*count) % BURST].write(place as u8);
        *count += 1;
    }

    /// Forged packets have a bit by their place.
    #[inline]
    fn run<J: Job>(&self, jobs: &[J]) -> u64 {
        let jobs = &Jobs(jobs);
        let mut differ = 0;
        for rounds in 0..3 {
            let present = self.present >> (rounds * KINDS_OF_KEY) & ((1 << KINDS_OF_KEY) - 1);
            if present == 0 {
                continue;
            }
            let first = rounds * KINDS_OF_KEY;
            let kinds = Kinds {
                present,
                counts: &self.counts[first..first + KINDS_OF_KEY],
                places: &self.places[first..first + KINDS_OF_KEY],
            };
            // SAFETY: as many as were counted were written, each once, and the job there gave a packet of this kind. A
            // schedule exists only where the features do.
            differ |= unsafe {
                match (rounds, self.keys_differ) {
                    (0, false) => kinds.run::<J, 10, true>(jobs),
                    (0, true) => kinds.run::<J, 10, false>(jobs),
                    (1, _) => kinds.run::<J, 12, false>(jobs),
                    (_, false) => kinds.run::<J, 14, true>(jobs),
                    (_, true) => kinds.run::<J, 14, false>(jobs),
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
    let of_key = of_key.map_or_else(
        || IN_GROUPS + single::Shape::new(packet.length).vectors - 1,
        |kind| usize::from(*kind),
    );
    usize::from(packet.rounds - 10) / 2 * KINDS_OF_KEY + of_key
}

/// The packets under keys of one length, by kind.
struct Kinds<'a> {
    present: u64,
    counts: &'a [u8],
    places: &'a [[MaybeUninit<u8>; BURST]],
}

impl Kinds<'_> {
    /// Runs them, which have `ONE_KEY` or may have others.
    ///
    /// # Safety
    ///
    /// As many places as are counted are written, all different; there is a job at each that has given a packet of the kind,
    /// whose key has `ROUNDS` rounds; the CPU has the features.
    unsafe fn run<J: Job, const ROUNDS: usize, const ONE_KEY: bool>(
        mut self,
        jobs: &Jobs<'_, J>,
    ) -> u64 {
        let (mut forged, mut singles) = (0, Singles::new());
        while self.present != 0 {
            let kind = self.present.trailing_zeros() as usize;
            self.present &= self.present - 1;
            let places = &self.places[kind][..usize::from(self.counts[kind])];
            // SAFETY: the caller's promise; the kind tells vectors and whether the first lanes are text.
            unsafe {
                let places = places.assume_init_ref();
                let (groups, rest) = if kind < IN_GROUPS {
                    places.as_chunks()
                } else {
                    (&[][..], places)
                };
                forged |= match kind {
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
                singles.push(rest);
            }
        }
        let singles = singles.places();
        // SAFETY: the caller's promise.
        unsafe {
            if singles.is_empty() {
                return forged;
            }
            let (mut longest, mut bytes) = (0, 0);
            for place in singles.iter().filter(|_| ONE_KEY) {
                let length = jobs.packet(*place).length;
                longest = longest.max(length);
                bytes += length;
            }
            if is_worthwhile(bytes, longest) {
                forged | run_shared::<J, ROUNDS>(jobs, singles, longest)
            } else {
                forged | single::run::<J, ROUNDS, false>(jobs, singles, None)
            }
        }
    }
}

/// Whether so many bytes of one key's packets, the longest of so many, are worth the first round of all counters beforehand:
/// measured.
#[inline]
fn is_worthwhile(bytes: usize, longest: usize) -> bool {
    longest <= Firsts::LONGEST && bytes >= 16_384 + 16 * longest
}

/// Runs packets of one key one by one, none longer than `longest`. Not inlined: it has a large table on the stack.
///
/// # Safety
///
/// As for [`single::run`].
#[inline(never)]
unsafe fn run_shared<J: Job, const ROUNDS: usize>(
    jobs: &Jobs<'_, J>,
    places: &[u8],
    longest: usize,
) -> u64 {
    // SAFETY: the caller's promise.
    unsafe {
        let firsts = Firsts::new(jobs.packet(places[0]).schedule, longest);
        single::run::<J, ROUNDS, true>(jobs, places, Some(&firsts))
    }
}

/// The places of packets that go one by one.
struct Singles {
    places: [MaybeUninit<u8>; BURST],
    count: usize,
}

impl Singles {
    #[inline]
    fn new() -> Self {
        Self {
            places: [const { MaybeUninit::uninit() }; BURST],
            count: 0,
        }
    }

    #[inline]
    fn push(&mut self, places: &[u8]) {
        for place in places {
            self.places[self.count % BURST].write(*place);
            self.count += 1;
        }
    }

    #[inline]
    fn places(&self) -> &[u8] {
        // SAFETY: as many as are counted were written: each of a burst's packets once at most.
        unsafe { self.places[..self.count].assume_init_ref() }
    }
}

/// A job by itself, with its packet.
struct Alone<'a, const SEAL: bool>(Packet<'a>);

impl<const SEAL: bool> Job for Alone<'_, SEAL> {
    const SEAL: bool = SEAL;

    fn packet(&self) -> Option<&Packet<'_>> {
        Some(&self.0)
    }
}

/// Whether a packet by itself is forged, if it was to be opened.
fn alone<const SEAL: bool>(packet: Packet<'_>) -> bool {
    let rounds = packet.rounds;
    let job = [Alone::<SEAL>(packet)];
    let jobs = Jobs(&job);
    // SAFETY: a schedule exists only where the features do, and the packet is in the first place.
    let forged = unsafe {
        match rounds {
            10 => single::run::<_, 10, false>(&jobs, &[0], None),
            12 => single::run::<_, 12, false>(&jobs, &[0], None),
            _ => single::run::<_, 14, false>(&jobs, &[0], None),
        }
    };
    forged != 0
}

/// With additional data of any length, which is hashed to a block before.
fn head<'a>(schedule: &'a Schedule, nonce: [u8; NONCE_LEN], additional: &[u8]) -> Head<'a> {
    let [_, _, _, _, iv @ ..] = nonce;
    // SAFETY: a schedule exists only where the features do.
    let [first, second] = unsafe { ghash::digest(schedule, additional) };
    Head {
        schedule,
        rounds: schedule.rounds(),
        iv,
        additional: [first, second].map(u64::from_ne_bytes),
        additional_len: additional.len(),
    }
}

/// Seals one packet by itself; `None` when its lengths do not fit each other.
pub(crate) fn seal(schedule: &Schedule, packet: Sealing<'_>) -> Option<()> {
    let head = head(schedule, packet.nonce, packet.aad);
    let trailer = Trailer::new(packet.trailer)?;
    alone::<true>(Packet::to_seal(head, trailer, packet.text).ok()?);
    Some(())
}

/// Opens one packet by itself; `None` when it is forged.
pub(crate) fn open(schedule: &Schedule, packet: Opening<'_>) -> Option<()> {
    let head = head(schedule, packet.nonce, packet.aad);
    let packet = Packet::to_open(head, packet.text).ok()?;
    (!alone::<false>(packet)).then_some(())
}
