//! An exact-match cache from flows to decisions, in front of the SPD's classifier.
//!
//! Each family has a table of its own, because a flow of IPv6 takes twice the room. Two entries lie side by side and form a
//! set, for IPv4 in one cache line; what finds no room there goes to the set beside it, which the CPU fetches in the same go.
//! That way two flows in a hundred find no place, instead of seven, when there are three for every four sets. An entry carries the generation of the policies under which it was made; one of another
//! generation never matches, so a change of policy empties the cache at once.

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

/// What tells a flow from all others of its family.
trait Key: Copy + Eq {
    const ZERO: Self;

    /// 64 bits of it, mixed with a secret.
    fn mix(self, seed: u64) -> u64;
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Key for [u64; 2] {
    const ZERO: Self = [0; 2];

    #[inline(always)]
    fn mix(self, seed: u64) -> u64 {
        let [addresses, upper] = self;
        (upper ^ seed).wrapping_mul(GOLDEN) ^ addresses.wrapping_mul(seed)
    }
}

impl Key for [u64; 5] {
    const ZERO: Self = [0; 5];

    #[inline]
    fn mix(self, seed: u64) -> u64 {
        self.into_iter().fold(seed, |mixed, word| {
            let product = u128::from(mixed ^ word) * u128::from(GOLDEN ^ seed << 1);
            (product >> 64) as u64 ^ product as u64
        })
    }
}

/// One remembered decision.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Entry<K> {
    key: K,
    /// 0 is no generation: an empty entry.
    generation: u32,
    verdict: Verdict,
}

const _: () = assert!(size_of::<[Entry<[u64; 2]>; 2]>() == 64);
const _: () = assert!(size_of::<[Entry<[u64; 5]>; 2]>() == 128);

impl<K: Key> Entry<K> {
    #[inline(always)]
    fn is(&self, key: K, generation: u32) -> bool {
        self.generation == generation && self.key == key
    }

    const EMPTY: Self = Self {
        key: K::ZERO,
        generation: 0,
        verdict: Verdict {
            what: 0,
            whose: [0; 2],
        },
    };
}

/// The flows of one family. Sets are found by a keyed multiplicative hash.
#[derive(Debug)]
struct Table<K> {
    sets: Box<[[Entry<K>; 2]]>,
    seed: u64,
}

impl<K: Key> Table<K> {
    fn new(flows: usize, seed: u64) -> Self {
        let sets = flows.div_ceil(2).next_power_of_two().max(2);
        Self {
            sets: vec![[Entry::EMPTY; 2]; sets].into_boxed_slice(),
            seed: seed | 1,
        }
    }

    #[inline(always)]
    fn find(&self, key: K) -> Place {
        let mixed = key.mix(self.seed);
        let hash = (u128::from(mixed) * u128::from(self.seed)) ^ u128::from(mixed >> 29);
        let index = ((hash >> 64) as u64 ^ hash as u64) as usize & (self.sets.len() - 1);
        if let Some(set) = self.sets.get(index) {
            prefetch(set);
        }
        // As many sets as flows are asked for, which is far below 2^32.
        Place(index as u32)
    }

    #[inline(always)]
    fn get(&self, place: Place, key: K, generation: u32) -> Option<Verdict> {
        let (here, beside) = (place.0 as usize, place.beside());
        let found = self.get_from(here, key, generation);
        let entry = found.or_else(|| self.get_from(beside, key, generation));
        entry.map(|entry| entry.verdict)
    }

    #[inline(always)]
    fn get_from(&self, set: usize, key: K, generation: u32) -> Option<&Entry<K>> {
        let [first, second] = self.sets.get(set)?;
        if first.is(key, generation) {
            Some(first)
        } else {
            second.is(key, generation).then_some(second)
        }
    }

    fn insert(&mut self, place: Place, key: K, generation: u32, verdict: Verdict) {
        let has_room = |set: &[Entry<K>; 2]| set[1].generation != generation;
        let (here, beside) = (place.0 as usize, place.beside());
        let full = !self.sets.get(here).is_some_and(has_room);
        let at = match self.sets.get(beside) {
            Some(set) if full && has_room(set) => beside,
            _ => here,
        };
        if let Some([first, second]) = self.sets.get_mut(at) {
            if first.generation == generation {
                *second = *first;
            }
            *first = Entry {
                key,
                generation,
                verdict,
            };
        }
    }

    fn clear(&mut self) {
        self.sets.fill([Entry::EMPTY; 2]);
    }
}

/// The set that a flow belongs into, in the table of its family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place(u32);

impl Place {
    /// The set beside it.
    const fn beside(self) -> usize {
        (self.0 ^ 1) as usize
    }
}

/// The cache.
#[derive(Debug)]
pub(crate) struct FlowCache {
    v4: Table<[u64; 2]>,
    v6: Table<[u64; 5]>,
}

impl FlowCache {
    /// Room for some `flows` flows of each family; `seed` keeps senders from choosing flows that collide.
    pub(crate) fn new(flows: usize, seed: u64) -> Self {
        Self {
            v4: Table::new(flows, seed),
            v6: Table::new(flows, seed),
        }
    }

    /// Where a flow is remembered, if it is. Asks for that memory.
    #[inline(always)]
    pub(crate) fn find(&self, key: FlowKey) -> Place {
        match key {
            FlowKey::V4(key) => self.v4.find(key),
            FlowKey::V6(key) => self.v6.find(key),
        }
    }

    /// The decision made for this flow, whose place this is, under this generation.
    #[inline(always)]
    pub(crate) fn get(&self, place: Place, key: FlowKey, generation: u32) -> Option<Verdict> {
        match key {
            FlowKey::V4(key) => self.v4.get(place, key, generation),
            FlowKey::V6(key) => self.v6.get(place, key, generation),
        }
    }

    /// Remembers a decision, in place of a stale one of its set or else of the older one.
    pub(crate) fn insert(&mut self, place: Place, key: FlowKey, generation: u32, verdict: Verdict) {
        match key {
            FlowKey::V4(key) => self.v4.insert(place, key, generation, verdict),
            FlowKey::V6(key) => self.v6.insert(place, key, generation, verdict),
        }
    }

    /// Forgets everything: for the day that generations start over.
    pub(crate) fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
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

    /// A key of each family.
    fn keys(flow: u64) -> [FlowKey; 2] {
        let v4 = FlowKey::V4([flow, 0x10000]);
        [v4, FlowKey::V6([1, flow, 2, 0, 0x11_0001])]
    }

    #[test]
    fn another_generation_never_matches() {
        let mut cache = FlowCache::new(64, 7);
        for (five, six) in keys(5).into_iter().zip(keys(6)) {
            let place = cache.find(five);
            cache.insert(place, five, 1, verdict(42));
            assert_eq!(cache.get(place, five, 1), Some(verdict(42)));
            assert_eq!(cache.get(place, five, 2), None);
            assert_eq!(cache.get(place, six, 1), None);
            assert_eq!(cache.get(cache.find(six), six, 1), None);
        }
        cache.clear();
        for key in keys(5) {
            assert_eq!(cache.get(cache.find(key), key, 1), None);
        }
    }

    #[test]
    fn nearly_all_flows_are_kept_when_three_quarters_of_the_sets_are_used() {
        for family in [0, 1] {
            let mut cache = FlowCache::new(8192, 99);
            let key = |flow: u64| keys(flow * 0x9e37_79b9)[family];
            for flow in 0..3072 {
                cache.insert(cache.find(key(flow)), key(flow), 1, verdict(flow as u32));
            }
            let get = |flow| cache.get(cache.find(key(flow)), key(flow), 1);
            let kept = (0..3072)
                .filter(|flow| get(*flow) == Some(verdict(*flow as u32)))
                .count();
            assert!(kept > 2980, "{kept}");
        }
    }

    #[test]
    fn most_flows_are_kept() {
        for family in [0, 1] {
            let mut cache = FlowCache::new(4096, 99);
            let key = |flow: u64| keys(flow)[family];
            for flow in 0..1000 {
                cache.insert(cache.find(key(flow)), key(flow), 1, verdict(flow as u32));
            }
            let get = |flow| cache.get(cache.find(key(flow)), key(flow), 1);
            let kept = (0..1000)
                .filter(|flow| get(*flow) == Some(verdict(*flow as u32)))
                .count();
            assert!(kept > 900, "{kept}");
        }
    }
}
