//! Outbound SAs by what routers on the way see of them: the peer's address and its SPI (RFC 4301 8.2). The SAD finds them by our
//! own identifiers, which no error quotes.
//!
//! A hash table that forgets nothing by itself: who asks knows whether an SA that it names is still there. So one that is gone
//! costs nothing but the place, which the next one takes.

use crate::id::SaId;
use std::net::IpAddr;

/// How many places of the table are looked at for one SA.
const PROBES: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// What of the hash the place does not say.
    mark: u32,
    sa: Option<SaId>,
}

const _: () = assert!(size_of::<Entry>() == 8);

/// The table.
#[derive(Debug)]
pub struct PeerSpis {
    /// A power of two of them, at least twice as many as SAs.
    entries: Box<[Entry]>,
    seed: u64,
}

impl PeerSpis {
    /// A table for so many SAs, hashed in the way of this seed.
    pub fn new(sas: u32, seed: u64) -> Self {
        let places = (2 * sas as usize).next_power_of_two().max(PROBES);
        let empty = Entry { mark: 0, sa: None };
        Self {
            entries: vec![empty; places].into_boxed_slice(),
            seed,
        }
    }

    /// Where an SA's probing begins, and its mark.
    fn hash(&self, peer: IpAddr, spi: u32) -> (usize, u32) {
        let bits = match peer {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let mut hash = self.seed;
        for word in [(bits >> 64) as u64, bits as u64, spi.into()] {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        }
        (hash as usize, (hash >> 32) as u32)
    }

    fn places(&self, start: usize) -> impl Iterator<Item = usize> + use<> {
        let mask = self.entries.len() - 1;
        (0..PROBES).map(move |step| start.wrapping_add(step) & mask)
    }

    /// Notes an SA, in the place of one that is not `alive` any more. Where all places of its are taken it stays unknown.
    pub fn insert(&mut self, peer: IpAddr, spi: u32, sa: SaId, alive: impl Fn(SaId) -> bool) {
        let (start, mark) = self.hash(peer, spi);
        let free = self.places(start).find(|place| {
            let entry = self.entries.get(*place).and_then(|entry| entry.sa);
            entry.is_none_or(|other| other == sa || !alive(other))
        });
        if let Some(entry) = free.and_then(|place| self.entries.get_mut(place)) {
            *entry = Entry { mark, sa: Some(sa) };
        }
    }

    /// Forgets an SA of this peer, which lives on elsewhere.
    pub fn remove(&mut self, peer: IpAddr, spi: u32, sa: SaId) {
        let (start, _) = self.hash(peer, spi);
        for place in self.places(start) {
            if let Some(entry) = self.entries.get_mut(place)
                && entry.sa == Some(sa)
            {
                *entry = Entry { mark: 0, sa: None };
            }
        }
    }

    /// The SAs that may have this peer and this SPI: nearly always one at most, and perhaps one that is gone.
    pub fn find(&self, peer: IpAddr, spi: u32) -> impl Iterator<Item = SaId> + '_ {
        let (start, mark) = self.hash(peer, spi);
        self.places(start).filter_map(move |place| {
            let entry = self.entries.get(place)?;
            entry.sa.filter(|_| entry.mark == mark)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, net::Ipv4Addr};

    fn peer(n: u32) -> IpAddr {
        Ipv4Addr::from(0xc000_0200 + n).into()
    }

    fn id(n: u32) -> SaId {
        SaId::new((n + 1) << 12).unwrap()
    }

    proptest! {
        /// Half of a table's SAs are outbound ones, so it is at most a quarter full of those that are alive.
        #[test]
        fn what_is_alive_is_found_whatever_came_and_went(
            seed: u64, steps in prop::collection::vec((0u32..32, 0u32..4, 0u32..200), 0..400),
        ) {
            let mut table = PeerSpis::new(64, seed);
            let mut alive: BTreeMap<SaId, (u32, u32)> = BTreeMap::new();
            for (slot, to, spi) in steps {
                let sa = id(slot);
                if alive.remove(&sa).is_none() {
                    table.insert(peer(to), spi, sa, |sa| alive.contains_key(&sa));
                    alive.insert(sa, (to, spi));
                }
            }
            let found = alive.iter().filter(|(sa, (to, spi))| table.find(peer(*to), *spi).any(|found| found == **sa));
            // A place may be taken in all of an SA's probes; that is rare, and never a wrong answer.
            prop_assert!(found.count() + 1 >= alive.len());
        }
    }

    #[test]
    fn the_address_counts_as_much_as_the_spi() {
        let mut table = PeerSpis::new(64, 7);
        for n in 0..32 {
            table.insert(peer(n), 0x3300, id(n), |_| true);
        }
        for n in 0..32 {
            assert_eq!(table.find(peer(n), 0x3300).collect::<Vec<_>>(), [id(n)]);
        }
        assert_eq!(table.find(peer(3), 0x3301).count(), 0);
        assert_eq!(table.find(peer(40), 0x3300).count(), 0);
    }

    #[test]
    fn a_full_table_takes_the_places_of_those_that_are_gone() {
        let mut table = PeerSpis::new(16, 7);
        for n in 0..32 {
            table.insert(peer(n), 1, id(n), |_| true);
        }
        table.insert(peer(99), 1, id(99), |_| true);
        assert_eq!(table.find(peer(99), 1).count(), 0);
        table.insert(peer(99), 1, id(99), |sa| sa != id(5));
        assert_eq!(table.find(peer(99), 1).collect::<Vec<_>>(), [id(99)]);
        assert_eq!(table.find(peer(5), 1).count(), 0);
    }
}
