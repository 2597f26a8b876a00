//! Drives a burst: sorts its packets by kind, so that each kernel runs over all that is its own without a break.

use super::{long, packet::Packet, schedule::Schedule, short, text};
use crate::{
    AdditionalData,
    engine::{Opening, Sealing, Text},
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

/// Kinds of short packets: one to four vectors, whether the first lanes are text, and the key's length.
const SHORT_KINDS: usize = 4 * 2 * 2;
/// And of long ones: the key's length.
const KINDS: usize = SHORT_KINDS + 2;

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
    fn run<J: Job>(&self, packets: &Packets<'_>) -> u64 {
        let mut differ = 0;
        let mut present = self.present;
        while present != 0 {
            let kind = present.trailing_zeros() as usize;
            present &= present - 1;
            let places = &self.places[kind][..usize::from(self.counts[kind])];
            // SAFETY: as many as were counted were written, each once, and of each the packet too.
            let places = unsafe { places.assume_init_ref() };
            // SAFETY: a schedule exists only where the features do.
            differ |= unsafe {
                if J::SEAL {
                    run_kind::<true>(packets, kind, places)
                } else {
                    run_kind::<false>(packets, kind, places)
                }
            };
        }
        differ
    }
}

#[inline]
fn kind(packet: &Packet<'_>) -> usize {
    let is_256 = usize::from(packet.rounds == 14);
    let blocks = text::blocks(packet.length).max(1);
    if blocks > 16 {
        return SHORT_KINDS + is_256;
    }
    let vectors = blocks.div_ceil(4);
    let full = blocks.is_multiple_of(4);
    (vectors - 1) * 4 + usize::from(full) * 2 + is_256
}

/// Runs the packets of one kind.
///
/// # Safety
///
/// There is a packet of that kind at each of the places, which are all different; the CPU has the features.
unsafe fn run_kind<const SEAL: bool>(packets: &Packets<'_>, kind: usize, places: &[u8]) -> u64 {
    // SAFETY: the kind tells rounds, vectors and whether the first lanes are text; the rest is the caller's promise.
    unsafe {
        match kind {
            0 => short::run::<SEAL, 10, 1, false>(packets, places),
            1 => short::run::<SEAL, 14, 1, false>(packets, places),
            2 => short::run::<SEAL, 10, 1, true>(packets, places),
            3 => short::run::<SEAL, 14, 1, true>(packets, places),
            4 => short::run::<SEAL, 10, 2, false>(packets, places),
            5 => short::run::<SEAL, 14, 2, false>(packets, places),
            6 => short::run::<SEAL, 10, 2, true>(packets, places),
            7 => short::run::<SEAL, 14, 2, true>(packets, places),
            8 => short::run::<SEAL, 10, 3, false>(packets, places),
            9 => short::run::<SEAL, 14, 3, false>(packets, places),
            10 => short::run::<SEAL, 10, 3, true>(packets, places),
            11 => short::run::<SEAL, 14, 3, true>(packets, places),
            12 => short::run::<SEAL, 10, 4, false>(packets, places),
            13 => short::run::<SEAL, 14, 4, false>(packets, places),
            14 => short::run::<SEAL, 10, 4, true>(packets, places),
            15 => short::run::<SEAL, 14, 4, true>(packets, places),
            16 => long::run::<SEAL, 10>(packets, places),
            _ => long::run::<SEAL, 14>(packets, places),
        }
    }
}

/// Whether a packet by itself is forged, if it was to be opened.
fn alone<const SEAL: bool>(packet: Packet<'_>) -> bool {
    let mut packets: Packets<'_> = [const { MaybeUninit::uninit() }; BURST];
    let kind = kind(packets[0].write(packet));
    // SAFETY: a schedule exists only where the features do, and the packet is in the first place.
    unsafe { run_kind::<SEAL>(&packets, kind, &[0]) != 0 }
}

/// Seals one packet by itself; `None` when its lengths do not fit each other.
pub(crate) fn seal(schedule: &Schedule, packet: Sealing<'_>) -> Option<()> {
    let [_, _, _, _, iv @ ..] = packet.nonce;
    let key = (schedule, schedule.rounds());
    let additional = AdditionalData::Bytes(packet.aad);
    let packet = match packet.text {
        Text::Apart { source, out } => {
            Packet::to_seal(key, iv, &additional, source, packet.trailer, out)
        }
        Text::InPlace(buffer) => {
            Packet::to_seal_in_place(key, iv, &additional, packet.trailer, buffer)
        }
    }?;
    alone::<true>(packet);
    Some(())
}

/// Opens one packet by itself; `None` when it is forged.
pub(crate) fn open(schedule: &Schedule, packet: Opening<'_>) -> Option<()> {
    let [_, _, _, _, iv @ ..] = packet.nonce;
    let key = (schedule, schedule.rounds());
    let additional = AdditionalData::Bytes(packet.aad);
    let packet = match packet.text {
        Text::Apart { source, out } => Packet::to_open(key, iv, &additional, source, out),
        Text::InPlace(buffer) => Packet::to_open_in_place(key, iv, &additional, buffer),
    }?;
    (!alone::<false>(packet)).then_some(())
}
