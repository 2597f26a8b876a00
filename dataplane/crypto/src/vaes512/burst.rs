//! Drives a burst: sorts its packets by kind, so that each kernel runs over all that is its own without a break.

use super::{packet::Packet, schedule::Schedule, short, single, text};
use crate::{
    AdditionalData,
    engine::{Opening, Sealing},
};
use core::mem::MaybeUninit;

/// A job of a burst.
pub(crate) trait Job {
    /// Whether it is to be sealed, or opened.
    const SEAL: bool;

    /// Whether it is this engine's.
    fn is_ours(&self) -> bool;

    /// Itself, when it is this engine's.
    fn packet(&mut self) -> Option<Packet<'_>>;
}

/// The most jobs that are sorted at once.
pub(super) const BURST: usize = 64;

/// Packets by their places in a burst.
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
        let mut packets: Packets<'_> = [const { MaybeUninit::uninit() }; BURST];
        let mut sorted = Sorted::new();
        for (at, (job, slot)) in burst.iter_mut().zip(&mut packets).enumerate() {
            if !job.is_ours() {
                foreign(job, first + at);
            } else if let Some(packet) = job.packet() {
                sorted.note(at, kind(slot.write(packet)));
            }
        }
        let mut differ = sorted.run::<J>(&packets);
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
}

impl Sorted {
    #[inline]
    fn new() -> Self {
        Self {
            present: 0,
            counts: [0; KINDS],
            places: [[MaybeUninit::uninit(); BURST]; KINDS],
        }
    }

    #[inline]
    fn note(&mut self, place: usize, kind: usize) {
        self.present |= 1 << kind;
        let count = &mut self.counts[kind];
        self.places[kind][usize::from(*count) % BURST].write(place as u8);
        *count += 1;
    }

    /// Forged packets have a bit by their place.
    #[inline]
    fn run<J: Job>(&mut self, packets: &Packets<'_>) -> u64 {
        let mut differ = 0;
        while self.present != 0 {
            let kind = self.present.trailing_zeros() as usize;
            self.present &= self.present - 1;
            let places = &self.places[kind][..usize::from(self.counts[kind])];
            // SAFETY: as many as were counted were written, each once, and of each the packet too.
            let places = unsafe { places.assume_init_ref() };
            let (groups, rest) = if kind % KINDS_OF_KEY == SINGLE {
                (&[][..], places)
            } else {
                places.as_chunks()
            };
            // SAFETY: a schedule exists only where the features do.
            differ |= unsafe {
                if J::SEAL {
                    run_kind::<true>(packets, kind, groups, rest)
                } else {
                    run_kind::<false>(packets, kind, groups, rest)
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

/// Runs the packets of one kind.
///
/// # Safety
///
/// There is a packet of that kind at each of the places, which are all different; the CPU has the features.
unsafe fn run_kind<const SEAL: bool>(
    packets: &Packets<'_>,
    kind: usize,
    groups: &[[u8; 4]],
    rest: &[u8],
) -> u64 {
    // SAFETY: the kind tells the rounds; the rest is the caller's promise.
    unsafe {
        match kind / KINDS_OF_KEY {
            0 => run_kind_of::<SEAL, 10>(packets, kind % KINDS_OF_KEY, groups, rest),
            1 => run_kind_of::<SEAL, 12>(packets, kind % KINDS_OF_KEY, groups, rest),
            _ => run_kind_of::<SEAL, 14>(packets, kind % KINDS_OF_KEY, groups, rest),
        }
    }
}

/// Runs the packets of one kind under keys of one length.
///
/// # Safety
///
/// As for [`run_kind`], and the keys have `ROUNDS` rounds.
unsafe fn run_kind_of<const SEAL: bool, const ROUNDS: usize>(
    packets: &Packets<'_>,
    kind: usize,
    groups: &[[u8; 4]],
    rest: &[u8],
) -> u64 {
    // SAFETY: the kind tells vectors and whether the first lanes are text; the rest is the caller's promise.
    unsafe {
        let forged = match kind {
            0 => short::run::<SEAL, ROUNDS, 1, false>(packets, groups),
            1 => short::run::<SEAL, ROUNDS, 1, true>(packets, groups),
            2 => short::run::<SEAL, ROUNDS, 2, false>(packets, groups),
            3 => short::run::<SEAL, ROUNDS, 2, true>(packets, groups),
            4 => short::run::<SEAL, ROUNDS, 3, false>(packets, groups),
            5 => short::run::<SEAL, ROUNDS, 3, true>(packets, groups),
            6 => short::run::<SEAL, ROUNDS, 4, false>(packets, groups),
            7 => short::run::<SEAL, ROUNDS, 4, true>(packets, groups),
            _ => 0,
        };
        forged | single::run::<SEAL, ROUNDS>(packets, rest)
    }
}

/// Whether a packet by itself is forged, if it was to be opened.
fn alone<const SEAL: bool>(packet: Packet<'_>) -> bool {
    let mut packets: Packets<'_> = [const { MaybeUninit::uninit() }; BURST];
    let kind = kind(packets[0].write(packet));
    // SAFETY: a schedule exists only where the features do, and the packet is in the first place.
    unsafe { run_kind::<SEAL>(&packets, kind, &[], &[0]) != 0 }
}

/// Seals one packet by itself; `None` when its lengths do not fit each other.
pub(crate) fn seal(schedule: &Schedule, packet: Sealing<'_>) -> Option<()> {
    let [_, _, _, _, iv @ ..] = packet.nonce;
    let key = (schedule, schedule.rounds());
    let additional = AdditionalData::Bytes(packet.aad);
    alone::<true>(Packet::to_seal(
        key,
        iv,
        &additional,
        packet.trailer,
        packet.text,
    )?);
    Some(())
}

/// Opens one packet by itself; `None` when it is forged.
pub(crate) fn open(schedule: &Schedule, packet: Opening<'_>) -> Option<()> {
    let [_, _, _, _, iv @ ..] = packet.nonce;
    let key = (schedule, schedule.rounds());
    let additional = AdditionalData::Bytes(packet.aad);
    let packet = Packet::to_open(key, iv, &additional, packet.text)?;
    (!alone::<false>(packet)).then_some(())
}
