//! What was refused last, by tunnel and by address, for who asks why a tunnel is not up.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use esplanade_ike::Refusal;

/// Addresses of which a refusal is remembered that belongs to no tunnel. Anybody can cause these.
const MAX_STRANGERS: usize = 64;

/// A refusal, and when it was.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) at: Instant,
    pub(crate) refusal: Refusal,
}

/// The last refusals.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    tunnels: BTreeMap<String, Told>,
    strangers: BTreeMap<IpAddr, Told>,
}

impl Refusals {
    /// Remembers a refusal in place of an earlier one of the same tunnel or address.
    pub(super) fn note(
        &mut self,
        tunnel: Option<&str>,
        remote: IpAddr,
        refusal: &Refusal,
        at: Instant,
    ) {
        let told = Told {
            at,
            refusal: refusal.clone(),
        };
        match tunnel {
            Some(tunnel) => {
                self.tunnels.insert(tunnel.to_owned(), told);
            }
            None => {
                self.strangers.insert(remote, told);
                if self.strangers.len() > MAX_STRANGERS {
                    let oldest = self.strangers.iter().min_by_key(|(_, told)| told.at);
                    let oldest = oldest.map(|(address, _)| *address);
                    oldest.and_then(|address| self.strangers.remove(&address));
                }
            }
        }
    }

    /// The last refusal of a tunnel.
    pub(super) fn of(&self, tunnel: &str) -> Option<&Told> {
        self.tunnels.get(tunnel)
    }

    /// A tunnel has got over it.
    pub(super) fn forget(&mut self, tunnel: &str) {
        self.tunnels.remove(tunnel);
    }

    /// The last refusal of nobody known at this address; without one, of anybody unknown.
    pub(super) fn of_stranger(&self, remote: Option<IpAddr>) -> Option<(IpAddr, &Told)> {
        let mut strangers = self.strangers.iter();
        let found = match remote {
            Some(remote) => strangers.find(|(address, _)| **address == remote),
            None => strangers.max_by_key(|(_, told)| told.at),
        };
        found.map(|(address, told)| (*address, told))
    }

    /// Forgets the tunnels that are gone.
    pub(super) fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.tunnels.retain(|name, _| is_known(name));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn strangers_are_forgotten_from_the_oldest_on() {
        let start = Instant::now();
        let mut refusals = Refusals::default();
        let address = |number: usize| IpAddr::from([198, 51, 100, u8::try_from(number).unwrap()]);
        for number in 0..=MAX_STRANGERS {
            let at = start + Duration::from_secs(number as u64);
            refusals.note(None, address(number), &Refusal::UnknownAddress, at);
        }
        assert!(refusals.of_stranger(Some(address(0))).is_none());
        assert!(refusals.of_stranger(Some(address(1))).is_some());
        let last = refusals.of_stranger(None).map(|(address, _)| address);
        assert_eq!(last, Some(address(MAX_STRANGERS)));
        assert!(refusals.of("site-b").is_none());
        refusals.note(Some("site-b"), address(1), &Refusal::NoSpi, start);
        assert!(refusals.of("site-b").is_some());
        refusals.retain(|name| name != "site-b");
        assert!(refusals.of("site-b").is_none());
        refusals.note(Some("site-b"), address(1), &Refusal::NoSpi, start);
        refusals.forget("site-b");
        assert!(refusals.of("site-b").is_none());
    }
}
