//! Pools of addresses for clients (RFC 7296 2.19): who has which, and who gets the same again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::TrafficSelector;
use crate::error::Refusal;
use crate::identity::Identity;
use crate::wire::configuration::{Given, Wish};

/// A pool as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Its name.
    pub name: Arc<str>,
    /// The addresses that are given out, as ranges from the first to the last.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Servers that resolve names.
    pub dns: Vec<IpAddr>,
    /// What clients reach through the tunnel, prefixes with their lengths; empty: all.
    pub networks: Vec<(IpAddr, u8)>,
    /// How long an address is kept for the client that has left.
    pub hold: Duration,
    /// Addresses that one identity gets, and nobody else.
    pub fixed: Vec<(Identity, IpAddr)>,
}

/// Who has an address, or is to have it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub identity: Identity,
    /// The instance of a peer that uses it.
    pub holder: Option<Arc<str>>,
    /// Where nobody uses it, how long it is kept.
    pub until: Option<Instant>,
}

/// Why a lease cannot be released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Nobody has it.
    #[error("nobody has {0}; `esplanade leases` shows who has which")]
    NotLeased(IpAddr),
    /// It is in use.
    #[error("{address} is in use by {holder}: `esplanade terminate {holder}` first")]
    InUse {
        /// The address.
        address: IpAddr,
        /// The instance of a peer that uses it.
        holder: String,
    },
}

/// One pool and the leases of it.
#[derive(Debug)]
struct Pool {
    config: PoolConfig,
    leases: BTreeMap<IpAddr, Lease>,
    by_identity: BTreeSet<(Identity, IpAddr)>,
    by_holder: BTreeSet<(Arc<str>, IpAddr)>,
    /// Those that nobody uses, the first that ends first.
    ending: BTreeSet<(Instant, IpAddr)>,
    /// The next address of each range that was never given out.
    untouched: Vec<Option<IpAddr>>,
    /// Those that were given back, the longest ago first.
    returned: VecDeque<IpAddr>,
    fixed: BTreeSet<IpAddr>,
}

/// All pools by name.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    all: BTreeMap<Arc<str>, Pool>,
    /// Grows with each change of a lease.
    changes: u64,
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address
            .to_bits()
            .checked_add(1)
            .map(|b| Ipv4Addr::from(b).into()),
        IpAddr::V6(address) => address
            .to_bits()
            .checked_add(1)
            .map(|b| Ipv6Addr::from(b).into()),
    }
}

impl Pool {
    fn new(config: PoolConfig) -> Self {
        Self {
            untouched: config
                .ranges
                .iter()
                .map(|(first, _)| Some(*first))
                .collect(),
            fixed: config.fixed.iter().map(|(_, address)| *address).collect(),
            config,
            leases: BTreeMap::new(),
            by_identity: BTreeSet::new(),
            by_holder: BTreeSet::new(),
            ending: BTreeSet::new(),
            returned: VecDeque::new(),
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        let within = |(first, last): &(IpAddr, IpAddr)| *first <= address && address <= *last;
        self.config.ranges.iter().any(within) || self.fixed.contains(&address)
    }

    fn serves(&self, v4: bool) -> bool {
        let mut all = self
            .config
            .ranges
            .iter()
            .map(|(first, _)| first)
            .chain(&self.fixed);
        all.any(|address| address.is_ipv4() == v4)
    }

    fn put(&mut self, lease: Lease) {
        let address = lease.address;
        self.by_identity.insert((lease.identity.clone(), address));
        if let Some(holder) = &lease.holder {
            self.by_holder.insert((holder.clone(), address));
        }
        self.ending
            .extend(lease.until.map(|until| (until, address)));
        self.leases.insert(address, lease);
    }

    fn take(&mut self, address: IpAddr) -> Option<Lease> {
        let lease = self.leases.remove(&address)?;
        self.by_identity.remove(&(lease.identity.clone(), address));
        if let Some(holder) = &lease.holder {
            self.by_holder.remove(&(holder.clone(), address));
        }
        if let Some(until) = lease.until {
            self.ending.remove(&(until, address));
        }
        Some(lease)
    }

    /// Gives an address back to all.
    fn free(&mut self, address: IpAddr) {
        if self.take(address).is_some() && self.has(address) && !self.fixed.contains(&address) {
            self.returned.push_back(address);
        }
    }

    /// Forgets the leases that were kept for long enough; how many they were.
    fn expire(&mut self, now: Instant) -> u64 {
        let mut ended = 0;
        while let Some(&(_, address)) = self.ending.first().filter(|(until, _)| *until <= now) {
            self.free(address);
            ended += 1;
        }
        ended
    }

    fn of_identity(&self, who: &Identity) -> impl Iterator<Item = &Lease> {
        let from = (who.clone(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let who = who.clone();
        self.by_identity
            .range(from..)
            .take_while(move |(identity, _)| *identity == who)
            .filter_map(|(_, address)| self.leases.get(address))
    }

    fn of_holder(&self, holder: &Arc<str>) -> Vec<IpAddr> {
        let from = (holder.clone(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        self.by_holder
            .range(from..)
            .take_while(|(name, _)| name == holder)
            .map(|(_, address)| *address)
            .collect()
    }

    /// The address of a family that a client gets: what it has, what is its alone, what it had, what it asks for, one that nobody had,
    /// one that was given back.
    fn choose(
        &mut self,
        who: &Identity,
        holder: &Arc<str>,
        v4: bool,
        wanted: Option<IpAddr>,
    ) -> Option<IpAddr> {
        let own = self
            .of_holder(holder)
            .into_iter()
            .find(|a| a.is_ipv4() == v4);
        if own.is_some() {
            return own;
        }
        let is_free = |address: &IpAddr| {
            self.leases
                .get(address)
                .is_none_or(|lease| lease.holder.is_none())
        };
        let fixed = self
            .config
            .fixed
            .iter()
            .filter(|(identity, _)| identity == who);
        let mut fixed = fixed
            .map(|(_, address)| *address)
            .filter(|a| a.is_ipv4() == v4);
        if let Some(address) = fixed.find(is_free) {
            return Some(address);
        }
        let kept: Vec<IpAddr> = self
            .of_identity(who)
            .filter(|lease| lease.holder.is_none() && lease.address.is_ipv4() == v4)
            .map(|lease| lease.address)
            .collect();
        if let Some(address) = kept.iter().find(|a| Some(**a) == wanted).or(kept.first()) {
            return Some(*address);
        }
        let open = |pool: &Self, address: &IpAddr| {
            address.is_ipv4() == v4
                && !pool.leases.contains_key(address)
                && !pool.fixed.contains(address)
                && pool.has(*address)
        };
        // One that was never given out stays among these, and is passed over when its turn comes.
        if let Some(address) = wanted.filter(|address| open(self, address)) {
            self.returned.retain(|other| *other != address);
            return Some(address);
        }
        self.next_untouched(v4).or_else(|| {
            let at = self
                .returned
                .iter()
                .position(|address| open(self, address))?;
            self.returned.remove(at)
        })
    }

    fn next_untouched(&mut self, v4: bool) -> Option<IpAddr> {
        for ((first, last), next) in self.config.ranges.iter().zip(&mut self.untouched) {
            while let Some(address) = next.filter(|_| first.is_ipv4() == v4) {
                *next = after(address).filter(|next| next <= last);
                if !self.leases.contains_key(&address) && !self.fixed.contains(&address) {
                    return Some(address);
                }
            }
        }
        None
    }
}

impl Pools {
    /// Replaces the configuration. Leases stay; those that no pool covers any more end with their use.
    pub(crate) fn configure(&mut self, now: Instant, pools: Vec<PoolConfig>) {
        let mut old = std::mem::take(&mut self.all);
        for config in pools {
            let name = config.name.clone();
            let pool = match old.remove(&name) {
                Some(pool) if pool.config == config => pool,
                Some(changed) => {
                    let mut pool = Pool::new(config);
                    for lease in changed.leases.into_values() {
                        if lease.holder.is_some() || pool.has(lease.address) {
                            pool.put(lease);
                        }
                    }
                    pool
                }
                None => Pool::new(config),
            };
            self.all.insert(name, pool);
        }
        self.changes += 1;
        self.expire(now);
    }

    fn expire(&mut self, now: Instant) {
        for pool in self.all.values_mut() {
            self.changes += pool.expire(now);
        }
    }

    /// Takes over what an earlier life had given out: it is kept for its owner as if that had just left.
    pub(crate) fn restore(&mut self, now: Instant, leases: Vec<(Arc<str>, IpAddr, Identity)>) {
        for (name, address, identity) in leases {
            let Some(pool) = self.all.get_mut(&name) else {
                continue;
            };
            if pool.has(address) && !pool.leases.contains_key(&address) {
                let until = Some(now + pool.config.hold);
                self.changes += 1;
                pool.put(Lease {
                    pool: name,
                    address,
                    identity,
                    holder: None,
                    until,
                });
            }
        }
    }

    /// What an instance that an earlier life knew still uses; its addresses.
    pub(crate) fn occupy(
        &mut self,
        pool: &str,
        holder: &Arc<str>,
        who: &Identity,
        selectors: &[TrafficSelector],
    ) -> Vec<IpAddr> {
        let Some(pool) = self.all.get_mut(pool) else {
            return Vec::new();
        };
        let within = |address: IpAddr| {
            let mut selectors = selectors.iter();
            selectors.any(|selector| selector.first <= address && address <= selector.last)
        };
        let used = pool.of_identity(who).map(|lease| lease.address);
        let used: Vec<IpAddr> = used.filter(|address| within(*address)).collect();
        for address in &used {
            if let Some(lease) = pool.take(*address) {
                let holder = Some(holder.clone());
                pool.put(Lease {
                    holder,
                    until: None,
                    ..lease
                });
            }
        }
        used
    }

    /// Gives an instance what it asks for, an address of each family at most. RFC 7296 3.15.4: it fails "only if no
    /// addresses can be assigned".
    pub(crate) fn lease(
        &mut self,
        now: Instant,
        name: &str,
        who: &Identity,
        holder: &Arc<str>,
        wish: &Wish,
    ) -> Result<Given, Refusal> {
        self.expire(now);
        let none = || Refusal::NoAddress {
            pool: name.to_owned(),
        };
        let pool = self.all.get_mut(name).ok_or_else(none)?;
        let wanted = [
            (true, wish.v4.map(|one| one.map(IpAddr::V4))),
            (false, wish.v6.map(|one| one.map(IpAddr::V6))),
        ];
        let (mut given, mut full) = (Vec::new(), None);
        for (v4, wanted) in wanted {
            let Some(wanted) = wanted.filter(|_| pool.serves(v4)) else {
                continue;
            };
            match pool.choose(who, holder, v4, wanted) {
                Some(address) => given.push(address),
                None => {
                    full = Some(Refusal::PoolExhausted {
                        pool: name.to_owned(),
                        family: if v4 { "IPv4" } else { "IPv6" },
                    });
                }
            }
        }
        if given.is_empty() {
            return Err(full.unwrap_or_else(none));
        }
        for address in &given {
            pool.take(*address);
            pool.put(Lease {
                pool: pool.config.name.clone(),
                address: *address,
                identity: who.clone(),
                holder: Some(holder.clone()),
                until: None,
            });
        }
        self.changes += 1;
        let v4 = given.iter().any(IpAddr::is_ipv4);
        let v6 = given.iter().any(IpAddr::is_ipv6);
        let fits = |address: &IpAddr| if address.is_ipv4() { v4 } else { v6 };
        let config = &pool.config;
        Ok(Given {
            dns: config.dns.iter().copied().filter(fits).collect(),
            networks: config
                .networks
                .iter()
                .copied()
                .filter(|(a, _)| fits(a))
                .collect(),
            addresses: given,
        })
    }

    /// An instance is gone: what it had is kept for who it was.
    pub(crate) fn let_go(&mut self, now: Instant, holder: &Arc<str>) {
        for pool in self.all.values_mut() {
            for address in pool.of_holder(holder) {
                self.changes += 1;
                if !pool.has(address) {
                    pool.free(address);
                } else if let Some(lease) = pool.take(address) {
                    let until = Some(now + pool.config.hold);
                    pool.put(Lease {
                        holder: None,
                        until,
                        ..lease
                    });
                }
            }
        }
    }

    /// Gives an address that is kept for somebody back to all.
    pub(crate) fn release(&mut self, address: IpAddr) -> Result<(), ReleaseError> {
        let mut pools = self.all.values_mut();
        let pool = pools.find(|pool| pool.leases.contains_key(&address));
        let pool = pool.ok_or(ReleaseError::NotLeased(address))?;
        let holder = pool
            .leases
            .get(&address)
            .and_then(|lease| lease.holder.as_ref());
        if let Some(holder) = holder {
            let holder = holder.to_string();
            return Err(ReleaseError::InUse { address, holder });
        }
        pool.free(address);
        self.changes += 1;
        Ok(())
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.all.values().flat_map(|pool| pool.leases.values())
    }

    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;
