//! Slots of the dataplane's SA table, given out as SPIs: a slot and a random tag (RFC 4303 2.1).
//!
//! The endpoint takes inbound SPIs from here, the daemon identifiers of outbound SAs. A slot that was freed rests
//! before it is given out again, so that a late packet of the old SA finds nobody rather than its successor.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use esplanade_channel::SaId;

/// How long a freed slot rests.
const REST: Duration = Duration::from_secs(10);
/// Tags below this could be mistaken for the SPIs that RFC 4303 2.1 reserves.
const LOWEST_TAG: u32 = 256;

/// The slots of one SA table. Clones share it.
#[derive(Clone)]
pub(super) struct Slots(Arc<Mutex<Table>>);

struct Table {
    capacity: u32,
    /// Slots from here on were never used.
    untouched: u32,
    used: BTreeSet<u32>,
    /// Freed slots below `untouched`, the longest rested first.
    resting: VecDeque<(u32, Instant)>,
    tags: Box<dyn FnMut() -> u32 + Send>,
}

impl Table {
    fn slot(&mut self, now: Instant) -> Option<u32> {
        let rested = self
            .resting
            .front()
            .is_some_and(|(_, freed)| now.saturating_duration_since(*freed) >= REST);
        let slot = if rested {
            self.resting.pop_front()?.0
        } else {
            // After a smaller dataplane, one that was never used in it may still be an older one's.
            let slot = (self.untouched..self.capacity).find(|slot| !self.used.contains(slot))?;
            self.untouched = slot + 1;
            slot
        };
        self.used.insert(slot);
        Some(slot)
    }
}

impl Slots {
    /// A table of `capacity` slots whose tags come from `random`.
    pub(super) fn new(capacity: u32, random: impl FnMut() -> u32 + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Table {
            capacity,
            untouched: 0,
            used: BTreeSet::new(),
            resting: VecDeque::new(),
            tags: Box::new(random),
        })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is complete before anything could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free slot with a fresh tag; `None` when all are in use or resting.
    pub(super) fn take(&self, now: Instant) -> Option<SaId> {
        let mut table = self.table();
        let slot = table.slot(now)?;
        let tag = loop {
            let tag = (table.tags)() & ((1 << SaId::TAG_BITS) - 1);
            if tag >= LOWEST_TAG {
                break tag;
            }
        };
        SaId::from_parts(slot, tag)
    }

    /// A free slot for the outbound half of a pair. It has the tag of the inbound half: so a control plane that
    /// finds both after a restart knows that they belong together.
    pub(super) fn take_partner(&self, inbound: SaId, now: Instant) -> Option<SaId> {
        let slot = self.table().slot(now)?;
        SaId::from_parts(slot, inbound.tag())
    }

    /// Makes the table that of a dataplane of another capacity.
    pub(super) fn resize(&self, capacity: u32) {
        let mut table = self.table();
        table.capacity = capacity;
        table.untouched = table.untouched.min(capacity);
        table.resting.retain(|(slot, _)| *slot < capacity);
    }

    /// Lets the slots below `count` rest as if they had been freed `now`: an earlier control plane may have freed them
    /// a moment ago.
    pub(super) fn rest_below(&self, count: u32, now: Instant) {
        let mut table = self.table();
        let count = count.min(table.capacity);
        let skipped = table.untouched..count;
        table.untouched = table.untouched.max(count);
        table.resting.extend(skipped.map(|slot| (slot, now)));
    }

    /// Marks the slots of the SAs that the dataplane has already.
    pub(super) fn reserve(&self, sas: impl Iterator<Item = SaId>, now: Instant) {
        let slots: BTreeSet<u32> = sas.map(SaId::slot).collect();
        let Some(last) = slots.last() else { return };
        self.rest_below(last.saturating_add(1), now);
        let mut table = self.table();
        table.resting.retain(|(slot, _)| !slots.contains(slot));
        table.used.extend(slots);
    }

    /// Frees the slot of an SA that is gone.
    pub(super) fn free(&self, sa: SaId, now: Instant) {
        let mut table = self.table();
        // One of a dataplane that had more is not given out again.
        if table.used.remove(&sa.slot()) && sa.slot() < table.capacity {
            table.resting.push_back((sa.slot(), now));
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        write!(
            f,
            "Slots({} of {} in use)",
            table.used.len(),
            table.capacity
        )
    }
}

impl esplanade_ike::SpiAllocator for Slots {
    fn allocate(&mut self) -> Option<u32> {
        self.take(Instant::now()).map(SaId::value)
    }

    fn release(&mut self, spi: u32) {
        if let Some(sa) = SaId::new(spi) {
            self.free(sa, Instant::now());
        }
    }
}

/// Random bytes from the kernel.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        // Before the kernel's pool is seeded this waits; it never fails otherwise.
        if let Ok(count) = rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            filled += count;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting() -> impl FnMut() -> u32 + Send {
        let mut next = 250;
        move || {
            next += 1;
            next
        }
    }

    #[test]
    fn tags_keep_clear_of_reserved_spis() {
        let slots = Slots::new(8, counting());
        let sa = slots.take(Instant::now()).unwrap();
        assert_eq!((sa.slot(), sa.tag()), (0, LOWEST_TAG));
    }

    #[test]
    fn the_halves_of_a_pair_share_their_tag() {
        let slots = Slots::new(8, counting());
        let inbound = slots.take(Instant::now()).unwrap();
        let outbound = slots.take_partner(inbound, Instant::now()).unwrap();
        assert_eq!(inbound.tag(), outbound.tag());
        assert_ne!(inbound.slot(), outbound.slot());
    }

    #[test]
    fn a_freed_slot_rests() {
        let slots = Slots::new(2, counting());
        let now = Instant::now();
        let first = slots.take(now).unwrap();
        slots.free(first, now);
        assert_eq!(slots.take(now).unwrap().slot(), 1);
        assert_eq!(slots.take(now + REST / 2), None);
        let again = slots.take(now + REST).unwrap();
        assert_eq!(again.slot(), 0);
        assert_ne!(again, first);
    }

    #[test]
    fn a_slot_freed_twice_is_given_out_once() {
        let slots = Slots::new(1, counting());
        let now = Instant::now();
        let sa = slots.take(now).unwrap();
        slots.free(sa, now);
        slots.free(sa, now);
        assert!(slots.take(now + REST).is_some());
        assert!(slots.take(now + REST).is_none());
    }

    #[test]
    fn a_slot_that_is_freed_once_the_table_is_smaller_is_not_given_out() {
        let slots = Slots::new(2, counting());
        let now = Instant::now();
        let _first = slots.take(now).unwrap();
        let second = slots.take(now).unwrap();
        slots.resize(1);
        slots.free(second, now);
        assert_eq!(slots.take(now + REST), None);
    }

    #[test]
    fn a_slot_that_is_in_use_while_the_table_is_smaller_is_not_given_out_when_it_grows() {
        let slots = Slots::new(2, counting());
        let now = Instant::now();
        let _first = slots.take(now).unwrap();
        let second = slots.take(now).unwrap();
        slots.resize(1);
        slots.resize(3);
        assert_eq!(slots.take(now).unwrap().slot(), 2);
        slots.free(second, now);
        assert_eq!(slots.take(now + REST).unwrap().slot(), 1);
    }

    #[test]
    fn what_the_dataplane_has_is_not_given_out() {
        let slots = Slots::new(3, counting());
        let now = Instant::now();
        slots.reserve(SaId::from_parts(1, 0x300).into_iter(), now);
        let later = now + REST;
        let taken: Vec<u32> = std::iter::from_fn(|| slots.take(later))
            .map(SaId::slot)
            .collect();
        assert_eq!(taken, [0, 2]);
    }

    #[test]
    fn what_an_earlier_control_plane_may_have_freed_rests_too() {
        let slots = Slots::new(4, counting());
        let now = Instant::now();
        slots.rest_below(3, now);
        slots.reserve(SaId::from_parts(1, 0x300).into_iter(), now);
        let take = |at| slots.take(at).map(SaId::slot);
        assert_eq!((take(now), take(now + REST / 2)), (Some(3), None));
        let later = now + REST;
        assert_eq!(
            [take(later), take(later), take(later)],
            [Some(0), Some(2), None]
        );
    }
}
