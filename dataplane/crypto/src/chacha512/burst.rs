//! Drives a burst: sorts its packets by length, so that those side by side are alike, and takes as many of them at a time as
//! stay in the nearest cache.

use super::{
    chacha::LANES,
    hash::{Powers, SIDE_BY_SIDE},
    one_time::OneTimeKeys,
    packet::{ICV, Packet},
    tags::tags,
    text::{self, KeyStream},
};
use core::{arch::x86_64::*, mem::MaybeUninit};

/// A job of a burst.
pub(crate) trait Job {
    /// Whether it is to be sealed, or opened.
    const SEAL: bool;

    /// Whether it is these kernels', and in one piece.
    fn is_ours(&self) -> bool;

    /// Itself, in that case.
    fn packet(&mut self) -> Option<Packet<'_>>;
}

/// The fewest jobs that are faster together than one by one, with other kernels: a packet by itself leaves most lanes empty.
pub(crate) const WORTHWHILE: usize = 4;
/// The most packets in a burst.
const BURST: usize = 64;
/// The most bytes of text at a time, unless sixteen packets have more: with the ciphertexts, half of the nearest cache.
const AT_A_TIME: usize = 12 * 1024;

/// Runs the jobs that are for these kernels, and leaves the others. Calls `forged` for each that is not authentic.
#[inline]
pub(crate) fn run<J: Job>(jobs: &mut [J], mut forged: impl FnMut(&mut J, usize)) {
    for (burst, first) in jobs.chunks_mut(BURST).zip((0..).step_by(BURST)) {
        let mut packets = [const { MaybeUninit::uninit() }; BURST];
        let mut places = [0; BURST];
        let mut count = 0;
        for (place, job) in burst.iter_mut().enumerate() {
            if let Some(packet) = job.packet() {
                packets[count].write(packet);
                places[count] = place;
                count += 1;
            }
        }
        // SAFETY: so many were written; a schedule exists only where the features do.
        let mut differ = unsafe {
            let packets = packets[..count].assume_init_ref();
            if J::SEAL {
                run_burst::<true>(packets)
            } else {
                run_burst::<false>(packets)
            }
        };
        while differ != 0 {
            let place = places[differ.trailing_zeros() as usize];
            differ &= differ - 1;
            forged(&mut burst[place], first + place);
        }
    }
}

/// What must not stay behind: key streams, one-time keys and their powers.
#[repr(C, align(64))]
struct Secrets {
    key_stream: KeyStream,
    keys: [OneTimeKeys; BURST / LANES],
    powers: Powers,
}

impl Secrets {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn new() -> Self {
        Self {
            key_stream: KeyStream::new(),
            keys: [const { OneTimeKeys::new() }; BURST / LANES],
            powers: Powers::new(),
        }
    }

    /// Wipes them, line by line.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
    fn wipe(&mut self) {
        let lines = size_of::<Self>() / size_of::<__m512i>();
        let start = core::ptr::from_mut(self).cast::<__m512i>();
        for line in 0..lines {
            // SAFETY: the lines are of these secrets, which zeros are a value of; volatile, or it would be left out.
            unsafe { start.add(line).write_volatile(_mm512_setzero_si512()) };
        }
    }
}

/// Seals or opens up to 64 packets. A forged one has a bit in the result, by its place, and is not deciphered.
///
/// # Safety
///
/// The CPU has the features.
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
unsafe fn run_burst<const SEAL: bool>(packets: &[Packet<'_>]) -> u64 {
    let mut order = [(0_u32, 0_u8); BURST];
    let order = &mut order[..packets.len()];
    for (place, (packet, slot)) in packets.iter().zip(order.iter_mut()).enumerate() {
        *slot = (packet.length as u32, place as u8);
    }
    order.sort_unstable();
    let mut secrets = Secrets::new();
    let mut forged = 0;
    let mut rest = &order[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(how_many(rest));
        // SAFETY: the caller's promise.
        forged |= unsafe { run_some::<SEAL>(&mut secrets, packets, now) };
        rest = later;
    }
    secrets.wipe();
    forged
}

/// How many packets go together: all, or some sixteens.
#[inline]
fn how_many(order: &[(u32, u8)]) -> usize {
    let mut bytes = 0;
    let mut count = 0;
    for group in order.chunks(LANES) {
        bytes += group
            .iter()
            .map(|(length, _)| *length as usize)
            .sum::<usize>();
        if count > 0 && bytes > AT_A_TIME {
            break;
        }
        count += group.len();
    }
    count
}

/// Seals or opens packets by increasing length: all their one-time keys, then their texts and tags, or when opening, tags and
/// authentic texts.
///
/// # Safety
///
/// The CPU has the features.
#[inline]
#[target_feature(enable = "avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi2,bmi2")]
unsafe fn run_some<const SEAL: bool>(
    secrets: &mut Secrets,
    packets: &[Packet<'_>],
    order: &[(u32, u8)],
) -> u64 {
    let Secrets {
        key_stream,
        keys,
        powers,
    } = secrets;
    let [first, ..] = packets else { return 0 };
    let mut sorted = [first; BURST];
    let sorted = &mut sorted[..order.len()];
    for (slot, (_, place)) in sorted.iter_mut().zip(order) {
        *slot = &packets[usize::from(*place)];
    }
    for (keys, packets) in keys.iter_mut().zip(sorted.chunks(LANES)) {
        keys.make(&mut key_stream.mixed, packets);
    }
    if SEAL {
        // SAFETY: the caller's promise.
        unsafe { text::run(key_stream, sorted.iter().copied()) };
    }
    let mut forged = 0_u64;
    for (number, (group, order)) in
        (0..).zip(sorted.chunks(SIDE_BY_SIDE).zip(order.chunks(SIDE_BY_SIDE)))
    {
        let lane = SIDE_BY_SIDE * number;
        // SAFETY: when sealing the ciphertexts have just been made.
        let tags = unsafe { tags::<SEAL>(&keys[lane / LANES], lane % LANES, powers, group) };
        for ((packet, (_, place)), tag) in group.iter().zip(order).zip(&tags) {
            // SAFETY: by the packet's invariant the ICV, or room for it, is behind the text.
            if !unsafe { agree::<SEAL>(packet, *tag) } {
                forged |= 1 << place;
            }
        }
    }
    if !SEAL {
        let authentic = sorted.iter().zip(order);
        let authentic = authentic.filter(|(_, (_, place))| forged >> place & 1 == 0);
        // SAFETY: the caller's promise.
        unsafe { text::run(key_stream, authentic.map(|(packet, _)| *packet)) };
    }
    forged
}

/// Writes the tag, or compares it in constant time.
///
/// # Safety
///
/// Behind the ciphertext is the ICV or room for it.
#[inline]
unsafe fn agree<const SEAL: bool>(packet: &Packet<'_>, tag: [u8; ICV]) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if SEAL {
            packet.out.add(packet.length).cast::<[u8; ICV]>().write(tag);
            return true;
        }
        let found = packet.source.add(packet.length).cast::<[u8; ICV]>().read();
        u128::from_ne_bytes(tag) ^ u128::from_ne_bytes(found) == 0
    }
}
