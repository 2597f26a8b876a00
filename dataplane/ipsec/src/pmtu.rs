//! The path MTU that routers on the way tell (RFC 4301 8.2, RFC 1191, RFC 8201): which of their errors to believe, and what they
//! said of each path, until it is too old.

use esplanade_wire::ip::Family;
use std::net::IpAddr;

/// The most paths that are remembered.
pub const MAX_PATHS: usize = 256;
/// How long what was told holds. RFC 1191 6.3: "we suggest a timeout of ten minutes"; RFC 8201 4 recommends the same.
pub const LIFETIME_MS: u64 = 600_000;
/// Below this no IPv4 path is taken to be: RFC 791 3.2 has every host take datagrams of 576 octets.
const LEAST_V4: u16 = 576;
/// RFC 1191 7.1, table 7-1, down to the least.
const PLATEAUS: [u16; 7] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006];

/// What to make of an error that a packet was too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The path is narrower than it was taken to be: this is its MTU now.
    Narrower(u16),
    /// Nothing new: the path is known to be this narrow, or narrower.
    Known,
    /// No path of this family is so narrow.
    Impossible,
}

/// Judges the MTU that a router tells of a path which is taken to be `current` bytes wide, about a packet of `length` bytes. An
/// error never widens a path (RFC 1191 3, RFC 8201 4).
pub fn judge(family: Family, told: u16, length: usize, current: u16) -> Told {
    let told = match (family, told) {
        // RFC 8201 4: "If a node receives a Packet Too Big message reporting a next-hop MTU that is less than the IPv6
        // minimum link MTU, it must discard it."
        (Family::V6, told) if told < Family::V6.min_mtu() => return Told::Impossible,
        (Family::V6, told) => told,
        // RFC 1191 5: a router that does not know of it has zero here; the next lower plateau is tried.
        (Family::V4, 0) => {
            let mut lower = PLATEAUS
                .into_iter()
                .filter(|mtu| usize::from(*mtu) < length);
            lower.next().unwrap_or(LEAST_V4)
        }
        (Family::V4, told) => told.max(LEAST_V4),
    };
    if told < current {
        Told::Narrower(told)
    } else {
        Told::Known
    }
}

#[derive(Debug, Clone, Copy)]
struct Path {
    to: IpAddr,
    mtu: u16,
    until_ms: u64,
}

/// What was told of paths, each known by the address at its end (RFC 8201 5.2).
#[derive(Debug)]
pub struct PathMtus {
    /// In the order of the addresses.
    paths: Vec<Path>,
    /// Nothing is too old before.
    due_ms: u64,
}

impl Default for PathMtus {
    fn default() -> Self {
        Self {
            paths: Vec::with_capacity(MAX_PATHS),
            due_ms: u64::MAX,
        }
    }
}

impl PathMtus {
    fn find(&self, to: IpAddr) -> Result<usize, usize> {
        self.paths.binary_search_by_key(&to, |path| path.to)
    }

    /// The MTU of a path, if one was told.
    pub fn of(&self, to: IpAddr) -> Option<u16> {
        let at = self.find(to).ok()?;
        self.paths.get(at).map(|path| path.mtu)
    }

    /// Notes the MTU of a path. When there are too many paths, the one that would be forgotten first goes.
    pub fn learn(&mut self, to: IpAddr, mtu: u16, now_ms: u64) {
        let path = Path {
            to,
            mtu,
            until_ms: now_ms.saturating_add(LIFETIME_MS),
        };
        self.due_ms = self.due_ms.min(path.until_ms);
        if let Ok(at) = self.find(to) {
            if let Some(known) = self.paths.get_mut(at) {
                *known = path;
            }
            return;
        }
        if self.paths.len() >= MAX_PATHS {
            let oldest = self.paths.iter().enumerate();
            if let Some((at, _)) = oldest.min_by_key(|(_, path)| path.until_ms) {
                self.paths.remove(at);
            }
        }
        let at = self.find(to).unwrap_or_else(|at| at);
        self.paths.insert(at, path);
    }

    /// Holds what is known of a path for as long again, when it was told anew.
    pub fn confirm(&mut self, to: IpAddr, now_ms: u64) {
        if let Ok(at) = self.find(to)
            && let Some(path) = self.paths.get_mut(at)
        {
            path.until_ms = now_ms.saturating_add(LIFETIME_MS);
        }
    }

    /// Forgets what is too old. Gives whether there was any: the path may be wider by now.
    #[inline]
    pub fn age(&mut self, now_ms: u64) -> bool {
        now_ms >= self.due_ms && self.forget(now_ms)
    }

    #[cold]
    fn forget(&mut self, now_ms: u64) -> bool {
        let before = self.paths.len();
        self.paths.retain(|path| now_ms < path.until_ms);
        let next = self.paths.iter().map(|path| path.until_ms).min();
        self.due_ms = next.unwrap_or(u64::MAX);
        self.paths.len() != before
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

    proptest! {
        #[test]
        fn no_error_widens_a_path_or_makes_it_narrower_than_paths_are(
            six: bool, told in 0u16..2_000, length in 0usize..70_000, current in 500u16..2_000,
        ) {
            let (family, least) = if six { (Family::V6, 1280) } else { (Family::V4, 576) };
            match judge(family, told, length, current) {
                Told::Narrower(mtu) => {
                    prop_assert!(mtu < current && mtu >= least);
                    prop_assert!(told == 0 || mtu == told.max(least));
                }
                Told::Known => prop_assert!(told == 0 || told.max(least) >= current),
                Told::Impossible => prop_assert!(six && told < 1280),
            }
        }

        /// The oracle is a map.
        #[test]
        fn paths_are_known_until_they_are_too_old(
            told in prop::collection::vec((0u32..40, 576u16..1500, 0u64..LIFETIME_MS), 0..60),
        ) {
            let (mut paths, mut model, mut now) = (PathMtus::default(), BTreeMap::new(), 0);
            for (path, mtu, wait) in told {
                now += wait;
                let before = model.len();
                model.retain(|_, (_, until)| now < *until);
                prop_assert_eq!(paths.age(now), model.len() != before);
                if mtu % 3 == 0 {
                    paths.confirm(peer(path), now);
                    if let Some((_, until)) = model.get_mut(&path) {
                        *until = now + LIFETIME_MS;
                    }
                } else {
                    paths.learn(peer(path), mtu, now);
                    model.insert(path, (mtu, now + LIFETIME_MS));
                }
                for path in 0..40 {
                    prop_assert_eq!(paths.of(peer(path)), model.get(&path).map(|(mtu, _)| *mtu));
                }
            }
        }
    }

    #[test]
    fn a_router_that_names_no_mtu_means_the_next_plateau() {
        for (length, mtu) in [(1500, 1492), (1492, 1006), (1006, 576), (600, 576)] {
            assert_eq!(judge(Family::V4, 0, length, 1500), Told::Narrower(mtu));
        }
        assert_eq!(judge(Family::V4, 0, 576, 576), Told::Known);
    }

    #[test]
    fn the_path_that_goes_is_the_one_forgotten_first() {
        let mut paths = PathMtus::default();
        for n in 0..MAX_PATHS as u32 {
            paths.learn(peer(n), 1400, u64::from(n));
        }
        paths.confirm(peer(0), 1_000);
        paths.learn(peer(1_000), 1300, 1_000);
        assert_eq!(paths.of(peer(1)), None);
        for n in [0, 2, 255] {
            assert_eq!(paths.of(peer(n)), Some(1400), "{n}");
        }
        assert_eq!(paths.of(peer(1_000)), Some(1300));
    }
}
