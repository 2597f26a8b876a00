//! Packets that a worker copies for somebody who watches, on their way up: a ring of slots for each worker, a packet in as
//! many slots as it takes.
//!
//! These are the users' own packets. They lie in memory that is neither swapped nor dumped, each slot is wiped as it is
//! taken, and nothing is written before [`Command::StartCapture`](crate::Command::StartCapture) asks for it.

use crate::{
    Counter, Full, PortId,
    ring::{Consumer, Producer},
    words::Words,
};

/// The slots of a worker's ring.
pub const CAPTURE_SLOTS: usize = 2048;
/// The words of a slot.
pub const CAPTURE_WORDS: usize = 32;
/// The most bytes of a packet that are copied.
pub const MAX_SNAP: u16 = 16 * 1024;

/// The first word of a slot: a packet begins here.
const FIRST: u64 = 1;
/// A packet goes on here.
const MORE: u64 = 2;
/// The words of the first slot before the packet's bytes.
const HEAD: usize = 4;
const FIRST_BYTES: usize = (CAPTURE_WORDS - HEAD) * 8;
const MORE_BYTES: usize = (CAPTURE_WORDS - 1) * 8;

const _: () = assert!(slots_of(MAX_SNAP as usize) <= CAPTURE_SLOTS / 8);

/// The slots that so many bytes take.
const fn slots_of(bytes: usize) -> usize {
    1 + bytes.saturating_sub(FIRST_BYTES).div_ceil(MORE_BYTES)
}

/// Which packets to copy, and how much of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CaptureOrder {
    /// When it ends by itself, in milliseconds of the monotonic clock: nobody may be there to end it.
    pub until_ms: u64,
    /// The most packets that a worker copies in a second; at least 1.
    pub rate: u32,
    /// The most bytes of a packet, its Ethernet header included: 1 to [`MAX_SNAP`].
    pub snap: u16,
    /// Only packets that are dropped.
    pub drops_only: bool,
    /// Only packets of the policies that [`Command::CaptureGroup`](crate::Command::CaptureGroup) names: none at first.
    pub chosen: bool,
}

/// Which way a packet went on its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Heading {
    /// It came in by it.
    In = 1,
    /// It left by it, or would have.
    Out = 2,
}

/// What is known of a packet besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// When, in nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Where.
    pub port: PortId,
    /// Which way.
    pub heading: Heading,
    /// Why it was dropped, if it was.
    pub dropped: Option<Counter>,
    /// How long the packet was, of which the bytes may be a part.
    pub length: u32,
}

impl Sighting {
    fn words(&self, bytes: usize) -> [u64; HEAD] {
        let reason = self.dropped.map_or(0, |reason| reason.index() as u64 + 1);
        let facts = u64::from(self.port.0) | (self.heading as u64) << 8 | reason << 16;
        let lengths = u64::from(self.length) << 32 | bytes as u64;
        [FIRST, self.at_ns, facts, lengths]
    }

    /// With the number of bytes that follow.
    fn read(words: &[u64; CAPTURE_WORDS]) -> Option<(Self, usize)> {
        let [_, at_ns, facts, lengths, ..] = *words;
        let heading = match facts >> 8 & 0xff {
            1 => Heading::In,
            2 => Heading::Out,
            _ => return None,
        };
        let dropped = match (facts >> 16) as usize {
            0 => None,
            reason => Some(*Counter::ALL.get(reason - 1)?),
        };
        let bytes = lengths as u32 as usize;
        let sighting = Self {
            at_ns,
            port: PortId(facts as u8),
            heading,
            dropped,
            length: (lengths >> 32) as u32,
        };
        (bytes <= usize::from(MAX_SNAP)).then_some((sighting, bytes))
    }
}

/// A packet that was copied.
#[derive(Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its circumstances.
    pub sighting: Sighting,
    /// Its first bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Without the bytes, which are a user's.
impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Captured({:?}, {} bytes)",
            self.sighting,
            self.bytes.len()
        )
    }
}

/// The pushing end of a capture ring.
#[derive(Debug)]
pub struct PacketSender<S = crate::mapping::Region> {
    ring: Producer<S, CAPTURE_WORDS>,
}

impl<S: Words> PacketSender<S> {
    /// Takes up a ring; `None` when the storage is not one's.
    pub(crate) fn attach(storage: S) -> Option<Self> {
        let ring = Producer::attach(storage)?;
        Some(Self { ring })
    }

    /// Copies a packet, which comes in two parts, the second of which may be empty; at most `snap` bytes of it.
    ///
    /// # Errors
    ///
    /// [`Full`]: there is no room for all of these bytes, and nothing was copied.
    pub fn push(&mut self, sighting: &Sighting, parts: [&[u8]; 2], snap: u16) -> Result<(), Full> {
        let snap = usize::from(snap.min(MAX_SNAP));
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>().min(snap);
        if self.ring.room() < slots_of(bytes) as u64 {
            return Err(Full);
        }
        let mut rest = parts.into_iter().flatten().copied().take(bytes);
        let mut slot = [0; CAPTURE_WORDS];
        for (to, from) in slot.iter_mut().zip(sighting.words(bytes)) {
            *to = from;
        }
        fill(slot.get_mut(HEAD..).unwrap_or_default(), &mut rest);
        self.ring.push(&slot)?;
        for _ in 1..slots_of(bytes) {
            slot = [0; CAPTURE_WORDS];
            slot[0] = MORE;
            fill(slot.get_mut(1..).unwrap_or_default(), &mut rest);
            self.ring.push(&slot)?;
        }
        Ok(())
    }
}

/// Fills words with bytes, as far as there are some.
fn fill(words: &mut [u64], bytes: &mut impl Iterator<Item = u8>) {
    for word in words {
        let mut octets = [0; 8];
        for (to, from) in octets.iter_mut().zip(bytes.by_ref()) {
            *to = from;
        }
        *word = u64::from_le_bytes(octets);
    }
}

/// The taking end of a capture ring.
#[derive(Debug)]
pub(crate) struct PacketReceiver<S> {
    ring: Consumer<S, CAPTURE_WORDS>,
    /// A packet of which not all slots have come, and how many bytes it lacks.
    begun: Option<(Captured, usize)>,
}

impl<S: Words> PacketReceiver<S> {
    pub(crate) fn attach(storage: S) -> Option<Self> {
        Some(Self {
            ring: Consumer::attach(storage)?,
            begun: None,
        })
    }

    /// The next packet that is there as a whole. What makes no sense is skipped.
    pub(crate) fn receive(&mut self) -> Option<Captured> {
        for _ in 0..CAPTURE_SLOTS {
            let mut slot = [0; CAPTURE_WORDS];
            self.ring.take(&mut slot).ok()??;
            self.ring.applied();
            let (mut packet, lacks, from) = match (slot[0], self.begun.take()) {
                (FIRST, _) => {
                    let Some((sighting, bytes)) = Sighting::read(&slot) else {
                        continue;
                    };
                    let packet = Captured {
                        sighting,
                        bytes: Vec::with_capacity(bytes),
                    };
                    (packet, bytes, HEAD)
                }
                (MORE, Some((packet, lacks))) => (packet, lacks, 1),
                _ => continue,
            };
            let words = slot.get(from..).unwrap_or_default();
            let octets = words.iter().flat_map(|word| word.to_le_bytes());
            let before = packet.bytes.len();
            packet.bytes.extend(octets.take(lacks));
            match lacks - (packet.bytes.len() - before) {
                0 => return Some(packet),
                lacks => self.begun = Some((packet, lacks)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::ring_words;
    use proptest::prelude::*;
    use std::sync::{Arc, atomic::AtomicU64};

    type Storage = Arc<[AtomicU64]>;

    fn ends() -> (Storage, PacketSender<Storage>, PacketReceiver<Storage>) {
        let words = ring_words::<CAPTURE_WORDS>(CAPTURE_SLOTS);
        let storage: Storage = (0..words).map(|_| AtomicU64::new(0)).collect();
        let sender = PacketSender::attach(Arc::clone(&storage)).unwrap();
        let receiver = PacketReceiver::attach(Arc::clone(&storage)).unwrap();
        (storage, sender, receiver)
    }

    fn sighting(length: usize) -> Sighting {
        Sighting {
            at_ns: 7,
            port: PortId(3),
            heading: Heading::Out,
            dropped: Some(Counter::InStateSeqError),
            length: length as u32,
        }
    }

    proptest! {
        #[test]
        fn a_packet_arrives_as_it_was_copied_and_leaves_nothing_behind(
            packets in prop::collection::vec((0..5000_usize, 0..50_usize, 1..5000_u16), 1..40),
        ) {
            let (storage, mut sender, mut receiver) = ends();
            for (length, split, snap) in packets {
                let bytes: Vec<u8> = (0..length).map(|at| at as u8 | 1).collect();
                let (front, back) = bytes.split_at(split.min(length));
                sender.push(&sighting(length), [front, back], snap).unwrap();
                let seen = receiver.receive().unwrap();
                prop_assert_eq!(seen.sighting, sighting(length));
                prop_assert_eq!(&seen.bytes, &bytes[..length.min(snap.into())]);
                prop_assert_eq!(receiver.receive(), None);
            }
            let slots = &storage[crate::ring::HEADER_WORDS..];
            prop_assert!(slots.iter().all(|word| word.load(std::sync::atomic::Ordering::Relaxed) == 0));
        }

        #[test]
        fn any_words_are_survived(words in prop::collection::vec(any::<u64>(), 200), kinds in prop::collection::vec(0..4_u64, 6)) {
            let (storage, _, mut receiver) = ends();
            for (slot, kind) in kinds.iter().enumerate() {
                for (at, word) in words.iter().skip(slot).take(CAPTURE_WORDS).enumerate() {
                    let word = if at == 0 { *kind } else { *word };
                    let place = crate::ring::HEADER_WORDS + slot * CAPTURE_WORDS + at;
                    storage[place].store(word, std::sync::atomic::Ordering::Relaxed);
                }
            }
            storage[0].store(kinds.len() as u64, std::sync::atomic::Ordering::Relaxed);
            while receiver.receive().is_some() {}
        }
    }

    #[test]
    fn a_packet_that_finds_no_room_is_left_out_whole() {
        let (_, mut sender, mut receiver) = ends();
        let large = vec![1; usize::from(MAX_SNAP)];
        let mut copied = 0;
        while sender
            .push(&sighting(large.len()), [&large, &[]], MAX_SNAP)
            .is_ok()
        {
            copied += 1;
        }
        assert_eq!(copied, CAPTURE_SLOTS / slots_of(large.len()));
        // A small one still fits.
        sender.push(&sighting(1), [&[1], &[]], MAX_SNAP).unwrap();
        for _ in 0..copied {
            assert_eq!(receiver.receive().unwrap().bytes, large);
        }
        assert_eq!(receiver.receive().unwrap().bytes, [1]);
        assert_eq!(receiver.receive(), None);
    }
}
