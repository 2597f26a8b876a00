//! Which SA gets which slot of the table, and so, for an inbound one, which SPI. The control plane decides.

use crate::SaId;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Gives out ids: a free slot and a random tag. A slot that was freed rests before it is given out again, so that
/// packets still on their way to its last SA meet an unknown SPI rather than another's key, and the slots that have
/// rested longest go first.
#[derive(Debug)]
pub struct SaAllocator {
    /// The SA of each slot.
    slots: Vec<Option<SaId>>,
    /// Free slots that never had an SA here, the next one last.
    fresh: Vec<u32>,
    /// Freed slots, in the order in which they were freed, and when.
    resting: VecDeque<(u32, Instant)>,
    rest: Duration,
    used: usize,
}

impl SaAllocator {
    /// An allocator of `capacity` slots ([`Setup::sa_capacity`](crate::Setup::sa_capacity)), all free, that rest at
    /// least for `rest` once they are freed.
    pub fn new(capacity: u32, rest: Duration) -> Self {
        let capacity = capacity.min(SaId::SLOTS);
        Self {
            slots: vec![None; capacity as usize],
            fresh: (0..capacity).rev().collect(),
            resting: VecDeque::new(),
            rest,
            used: 0,
        }
    }

    /// Marks an SA that the dataplane already has. Gives whether it was free: another SA of the slot stays, and so
    /// does the same one.
    pub fn occupy(&mut self, sa: SaId) -> bool {
        let Some(slot @ None) = self.slots.get_mut(sa.slot() as usize) else {
            return false;
        };
        *slot = Some(sa);
        self.used += 1;
        self.fresh.retain(|free| *free != sa.slot());
        self.resting.retain(|(free, _)| *free != sa.slot());
        true
    }

    /// An id of a free slot, with its tag out of `random`; `None` when all slots are taken or at rest.
    pub fn allocate(&mut self, now: Instant, random: u32) -> Option<SaId> {
        let slot = match self.fresh.pop() {
            Some(slot) => slot,
            None => {
                let (_, freed) = *self.resting.front()?;
                if now.saturating_duration_since(freed) < self.rest {
                    return None;
                }
                self.resting.pop_front()?.0
            }
        };
        let sa = id(slot, random)?;
        *self.slots.get_mut(slot as usize)? = Some(sa);
        self.used += 1;
        Some(sa)
    }

    /// Frees the slot of an SA. Gives whether it had it.
    pub fn release(&mut self, sa: SaId, now: Instant) -> bool {
        let Some(slot) = self.slots.get_mut(sa.slot() as usize) else {
            return false;
        };
        if *slot != Some(sa) {
            return false;
        }
        *slot = None;
        self.used -= 1;
        self.resting.push_back((sa.slot(), now));
        true
    }

    /// How many slots are taken.
    pub const fn used(&self) -> usize {
        self.used
    }
}

/// The id of a slot with a tag out of `random`. Slot 0 has no tags below 256: RFC 4303 2.1 reserves those SPIs.
fn id(slot: u32, random: u32) -> Option<SaId> {
    let tags = 1 << SaId::TAG_BITS;
    let tag = if slot == 0 {
        SaId::LOWEST + random % (tags - SaId::LOWEST)
    } else {
        random % tags
    };
    SaId::from_parts(slot, tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const REST: Duration = Duration::from_secs(30);

    #[test]
    fn a_freed_slot_rests() {
        let start = Instant::now();
        let mut slots = SaAllocator::new(1, REST);
        let first = slots.allocate(start, 7).unwrap();
        assert_eq!(slots.allocate(start, 7), None, "all are taken");
        assert!(slots.release(first, start));
        assert_eq!(slots.allocate(start + REST / 2, 7), None, "it rests");
        let second = slots.allocate(start + REST, 8).unwrap();
        assert_eq!(second.slot(), first.slot());
        assert_ne!(second, first);
        assert!(!slots.release(first, start), "that SA is gone");
        assert_eq!(slots.used(), 1);
    }

    #[test]
    fn what_the_dataplane_has_is_not_given_out() {
        let start = Instant::now();
        let mut slots = SaAllocator::new(3, REST);
        let there = SaId::from_parts(1, 99).unwrap();
        assert!(slots.occupy(there));
        assert!(!slots.occupy(there));
        assert!(!slots.occupy(SaId::from_parts(1, 98).unwrap()));
        assert!(
            !slots.occupy(SaId::from_parts(3, 0).unwrap()),
            "no such slot"
        );
        let given = [slots.allocate(start, 0), slots.allocate(start, 0)];
        assert_eq!(given.map(|sa| sa.unwrap().slot()), [0, 2]);
        assert_eq!(slots.allocate(start, 0), None);
        assert!(slots.release(there, start));
    }

    proptest! {
        // RFC 4303 2.1: "The set of SPI values in the range 1 through 255 are reserved", 0 is "for local use".
        #[test]
        fn ids_are_valid_and_alone_in_their_slot(randoms in prop::collection::vec(any::<u32>(), 1..64)) {
            let now = Instant::now();
            let mut allocator = SaAllocator::new(32, REST);
            let mut slots = HashSet::new();
            for random in randoms {
                let Some(sa) = allocator.allocate(now, random) else {
                    prop_assert_eq!(slots.len(), 32);
                    break;
                };
                prop_assert!(sa.value() >= 256 && sa.slot() < 32);
                prop_assert!(slots.insert(sa.slot()));
            }
        }
    }
}
