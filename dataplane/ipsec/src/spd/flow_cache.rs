//! An exact-match cache from flows to decisions, in front of the SPD's classifier.
//!
//! Two entries share a cache line and form a set. An entry carries the generation of the policies under which
//! it was made; one of another generation never matches, so a change of policy empties the cache at once.

use crate::selector::FlowKey;
use esplanade_crypto::prefetch;

/// What the cache remembers of a decision, in the room that is left beside a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Verdict {
    /// The caller's: action and group.
    pub(crate) what: u32,
    /// The caller's: the policy, in halves, for it need not be aligned.
    pub(crate) whose: [u32; 2],
}

/// One remembered decision.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Entry {
    key: u128,
    /// 0 is no generation: an empty entry.
    generation: u32,
    verdict: Verdict,
}

const _: () = assert!(size_of::<[Entry; 2]>() == 64);

const EMPTY: Entry = Entry {
    key: 0,
    generation: 0,
    verdict: Verdict {
        what: 0,
        whose: [0; 2],
    },
};

/// A flow, and the set that it belongs into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    key: FlowKey,
    index: usize,
}

/// The cache. Sets are found by a keyed multiplicative hash.
#[derive(Debug)]
pub(crate) struct FlowCache {
    sets: Box<[[Entry; 2]]>,
    seed: u64,
}

impl FlowCache {
    /// Room for some `flows` flows; `seed` keeps senders from choosing flows that collide.
    pub(crate) fn new(flows: usize, seed: u64) -> Self {
        let sets = flows.div_ceil(2).next_power_of_two().max(2);
        Self {
            sets: vec![[EMPTY; 2]; sets].into_boxed_slice(),
            seed: seed | 1,
        }
    }

    /// Where a flow is remembered, if it is. Asks for that cache line.
    #[inline]
    pub(crate) fn find(&self, key: FlowKey) -> Place {
        let mixed = (key.0 as u64 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ ((key.0 >> 64) as u64).wrapping_mul(self.seed);
        let hash = (u128::from(mixed) * u128::from(self.seed)) ^ u128::from(mixed >> 29);
        let index = ((hash >> 64) as u64 ^ hash as u64) as usize & (self.sets.len() - 1);
        if let Some(set) = self.sets.get(index) {
            prefetch(set);
        }
        Place { key, index }
    }

    /// The decision made for this flow under this generation.
    #[inline]
    pub(crate) fn get(&self, place: Place, generation: u32) -> Option<Verdict> {
        self.sets
            .get(place.index)?
            .iter()
            .find(|entry| entry.generation == generation && entry.key == place.key.0)
            .map(|entry| entry.verdict)
    }

    /// Remembers a decision, in place of a stale one of its set or else of the older one.
    pub(crate) fn insert(&mut self, place: Place, generation: u32, verdict: Verdict) {
        let entry = Entry {
            key: place.key.0,
            generation,
            verdict,
        };
        if let Some([first, second]) = self.sets.get_mut(place.index) {
            if first.generation == generation {
                *second = *first;
            }
            *first = entry;
        }
    }

    /// Forgets everything: for the day that generations start over.
    pub(crate) fn clear(&mut self) {
        self.sets.fill([EMPTY; 2]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(what: u32) -> Verdict {
        Verdict {
            what,
            whose: [what, !what],
        }
    }

    #[test]
    fn another_generation_never_matches() {
        let mut cache = FlowCache::new(64, 7);
        let (five, six) = (cache.find(FlowKey(5)), cache.find(FlowKey(6)));
        cache.insert(five, 1, verdict(42));
        assert_eq!(cache.get(five, 1), Some(verdict(42)));
        assert_eq!(cache.get(five, 2), None);
        assert_eq!(cache.get(six, 1), None);
    }

    #[test]
    fn most_flows_are_kept() {
        let mut cache = FlowCache::new(4096, 99);
        let place = |cache: &FlowCache, flow: u128| cache.find(FlowKey(flow << 64 | 0x10000));
        for flow in 0..1000u128 {
            cache.insert(place(&cache, flow), 1, verdict(flow as u32));
        }
        let kept = (0..1000u128)
            .filter(|flow| cache.get(place(&cache, *flow), 1) == Some(verdict(*flow as u32)))
            .count();
        assert!(kept > 900, "{kept}");
    }
}
