//! The worker's copy of what the kernel knows about next hops: routes, neighbours and ports, pushed
//! down by the control plane.
//!
//! Decisions are cached by destination under the generation of the tables; any change makes them stale.
//! Everything is bounded and nothing is allocated after the start.

use esplanade_crypto::prefetch;
use esplanade_ipsec::sa::NextHop;
use esplanade_wire::{ethernet::MacAddress, ip::Family};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use thiserror::Error;

/// The most routes that a worker keeps.
pub const MAX_ROUTES: usize = 16_384;
/// The most neighbours that a worker keeps.
pub const MAX_NEIGHBORS: usize = 4_096;
/// Destinations remembered with their next hop: as many as 16 bits of a hash tell apart.
const CACHED: usize = 65_536;

/// Where packets to some prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Our port that leads there; `None` when it is an interface that is not ours.
    pub port: Option<u8>,
    /// The router, of either family; `None` when destinations are neighbours themselves.
    pub gateway: Option<IpAddr>,
    /// The largest packet, 0 when the port's limit holds.
    pub mtu: u16,
    /// Packets there are refused.
    pub unreachable: bool,
}

/// What the worker knows of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortFacts {
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Its largest IP packet.
    pub mtu: u16,
    /// The source of IPv4's ICMP errors sent from it.
    pub ipv4: Option<Ipv4Addr>,
    /// The source of IPv6's ICMP errors sent from it.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether TCP segments announced on it are clamped to what the tunnel carries.
    pub mss_clamp: bool,
    /// Whether ESP in UDP over IPv6 leaves it with a checksum, or with zero (RFC 6935).
    pub udp_checksum: bool,
    /// Whether transport checksums of packets from it are finished where they hold only the pseudo-header's sum.
    pub partial_checksums: bool,
}

impl PortFacts {
    /// The source of a family's ICMP errors.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.ipv4.map(IpAddr::V4),
            Family::V6 => self.ipv6.map(IpAddr::V6),
        }
    }
}

/// Why there is no next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unroutable {
    /// No route.
    #[error("no route")]
    NoRoute,
    /// A route that refuses.
    #[error("the route refuses")]
    Unreachable,
    /// The route leaves by an interface that is not one of our ports.
    #[error("the route leaves by an interface that is not ours")]
    NotOurs,
    /// The neighbour's Ethernet address is not known.
    #[error("neighbour {address} on port {port} is not known")]
    NeighborMissing {
        /// The port.
        port: u8,
        /// The neighbour.
        address: IpAddr,
    },
}

/// A table has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no room for more than {capacity} entries")]
pub struct TableFull {
    /// How many fit.
    pub capacity: usize,
}

#[derive(Debug, Clone, Copy)]
struct Marked<T> {
    value: T,
    /// Set again since the synchronisation began.
    fresh: bool,
}

#[derive(Debug, Clone, Copy)]
struct Cached {
    destination: IpAddr,
    /// 0 is no generation: an empty entry.
    generation: u32,
    next_hop: NextHop,
}

const _: () = assert!(size_of::<Cached>() == 40);

/// A prefix: its family and length, and its bits at the top.
type Key = (Family, u8, u128);

/// The tables. Both families are in the same ones.
#[derive(Debug)]
pub struct Fib {
    routes: HashMap<Key, Marked<Route>>,
    /// How many routes there are of each prefix length.
    v4_lengths: [u32; 33],
    v6_lengths: [u32; 129],
    neighbors: HashMap<(u8, IpAddr), Marked<MacAddress>>,
    ports: Vec<Option<Marked<PortFacts>>>,
    generation: u32,
    cache: Box<[Cached]>,
}

/// The key of the prefix of this length that an address is in; beyond the address's bits it is all of it.
fn key(address: IpAddr, length: u8) -> Key {
    let (family, bits, all) = match address {
        IpAddr::V4(address) => (Family::V4, u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (Family::V6, address.to_bits(), 128),
    };
    let length = length.min(all);
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    (family, length, bits & mask)
}

/// A place in the cache.
#[inline]
fn slot(destination: IpAddr) -> usize {
    let folded = match destination {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            let (high, low) = ((bits >> 64) as u64, bits as u64);
            let mixed = high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low;
            (mixed >> 32) as u32 ^ mixed as u32
        }
    };
    (folded.wrapping_mul(0x9e37_79b1) >> 16) as usize & (CACHED - 1)
}

impl Fib {
    /// Empty tables for `ports` ports.
    pub fn new(ports: usize) -> Self {
        let empty = Cached {
            destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            generation: 0,
            next_hop: NextHop {
                destination: MacAddress::default(),
                source: MacAddress::default(),
                mtu: 0,
                port: 0,
            },
        };
        Self {
            // Twice the room, so that tombstones are swept in place and nothing is allocated.
            routes: HashMap::with_capacity(2 * MAX_ROUTES),
            v4_lengths: [0; 33],
            v6_lengths: [0; 129],
            neighbors: HashMap::with_capacity(2 * MAX_NEIGHBORS),
            ports: vec![None; ports],
            generation: 1,
            cache: vec![empty; CACHED].into_boxed_slice(),
        }
    }

    /// The generation of the tables; a next hop remembered under another one is stale.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Sets the route of a prefix (`length` at most that of an address; host bits are ignored).
    ///
    /// # Errors
    ///
    /// When there is no room.
    pub fn set_route(&mut self, prefix: IpAddr, length: u8, route: Route) -> Result<(), TableFull> {
        let key = key(prefix, length);
        if self.routes.len() >= MAX_ROUTES && !self.routes.contains_key(&key) {
            return Err(TableFull {
                capacity: MAX_ROUTES,
            });
        }
        let route = Marked {
            value: route,
            fresh: true,
        };
        if self.routes.insert(key, route).is_none()
            && let Some(count) = count_of(&mut self.v4_lengths, &mut self.v6_lengths, key)
        {
            *count += 1;
        }
        self.changed();
        Ok(())
    }

    /// Removes the route of a prefix. `false` when there was none.
    pub fn remove_route(&mut self, prefix: IpAddr, length: u8) -> bool {
        let key = key(prefix, length);
        let known = self.routes.remove(&key).is_some();
        if known {
            if let Some(count) = count_of(&mut self.v4_lengths, &mut self.v6_lengths, key) {
                *count -= 1;
            }
            self.changed();
        }
        known
    }

    /// Sets a neighbour's Ethernet address.
    ///
    /// # Errors
    ///
    /// When there is no room.
    pub fn set_neighbor(
        &mut self,
        port: u8,
        address: IpAddr,
        mac: MacAddress,
    ) -> Result<(), TableFull> {
        let key = (port, address);
        if self.neighbors.len() >= MAX_NEIGHBORS && !self.neighbors.contains_key(&key) {
            return Err(TableFull {
                capacity: MAX_NEIGHBORS,
            });
        }
        let neighbor = Marked {
            value: mac,
            fresh: true,
        };
        let old = self.neighbors.insert(key, neighbor);
        if old.is_none_or(|old| old.value != mac) {
            self.changed();
        }
        Ok(())
    }

    /// Forgets a neighbour. `false` when it was not known.
    pub fn remove_neighbor(&mut self, port: u8, address: IpAddr) -> bool {
        let known = self.neighbors.remove(&(port, address)).is_some();
        if known {
            self.changed();
        }
        known
    }

    /// Sets what is known of a port. `false` when there is no such port.
    pub fn set_port(&mut self, port: u8, facts: PortFacts) -> bool {
        let Some(entry) = self.ports.get_mut(usize::from(port)) else {
            return false;
        };
        *entry = Some(Marked {
            value: facts,
            fresh: true,
        });
        self.changed();
        true
    }

    /// What is known of a port.
    #[inline]
    pub fn port(&self, port: u8) -> Option<&PortFacts> {
        let facts = self.ports.get(usize::from(port))?.as_ref()?;
        Some(&facts.value)
    }

    /// Begins a synchronisation: what is not set until [`end_sync`](Self::end_sync) will go.
    pub fn begin_sync(&mut self) {
        self.routes
            .values_mut()
            .for_each(|route| route.fresh = false);
        self.neighbors
            .values_mut()
            .for_each(|neighbor| neighbor.fresh = false);
        self.ports
            .iter_mut()
            .flatten()
            .for_each(|port| port.fresh = false);
    }

    /// Ends a synchronisation.
    pub fn end_sync(&mut self) {
        let (v4, v6) = (&mut self.v4_lengths, &mut self.v6_lengths);
        self.routes.retain(|key, route| {
            if !route.fresh
                && let Some(count) = count_of(v4, v6, *key)
            {
                *count -= 1;
            }
            route.fresh
        });
        self.neighbors.retain(|_, neighbor| neighbor.fresh);
        for port in &mut self.ports {
            if port.is_some_and(|port| !port.fresh) {
                *port = None;
            }
        }
        self.changed();
    }

    /// Asks for the memory in which the next hop towards a destination may be remembered.
    #[inline]
    pub fn prefetch(&self, destination: IpAddr) {
        if let Some(cached) = self.cache.get(slot(destination)) {
            prefetch(cached);
        }
    }

    /// The next hop towards a destination. What is found is remembered, what is not is looked for each time.
    ///
    /// # Errors
    ///
    /// Why there is none.
    #[inline]
    pub fn resolve(&mut self, destination: IpAddr) -> Result<NextHop, Unroutable> {
        let slot = slot(destination);
        if let Some(cached) = self.cache.get(slot)
            && cached.generation == self.generation
            && cached.destination == destination
        {
            return Ok(cached.next_hop);
        }
        let next_hop = self.look_up(destination)?;
        if let Some(cached) = self.cache.get_mut(slot) {
            *cached = Cached {
                destination,
                generation: self.generation,
                next_hop,
            };
        }
        Ok(next_hop)
    }

    #[cold]
    fn look_up(&self, destination: IpAddr) -> Result<NextHop, Unroutable> {
        let lengths: &[u32] = match destination {
            IpAddr::V4(_) => &self.v4_lengths,
            IpAddr::V6(_) => &self.v6_lengths,
        };
        let route = (0..=u8::MAX)
            .zip(lengths)
            .rev()
            .filter(|(_, routes)| **routes != 0)
            .find_map(|(length, _)| self.routes.get(&key(destination, length)))
            .ok_or(Unroutable::NoRoute)?
            .value;
        if route.unreachable {
            return Err(Unroutable::Unreachable);
        }
        let port = route.port.ok_or(Unroutable::NotOurs)?;
        let facts = self.port(port).ok_or(Unroutable::NotOurs)?;
        let address = route.gateway.unwrap_or(destination);
        let neighbor = self
            .neighbors
            .get(&(port, address))
            .ok_or(Unroutable::NeighborMissing { port, address })?;
        let mtu = match route.mtu {
            0 => facts.mtu,
            mtu => mtu.min(facts.mtu),
        };
        Ok(NextHop {
            destination: neighbor.value,
            source: facts.mac,
            mtu,
            port,
        })
    }

    /// Has everybody ask anew where packets go: something beside these tables changed that decides it.
    pub fn forget(&mut self) {
        self.changed();
    }

    /// Makes every remembered decision stale.
    fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            // Entries of four billion changes ago must not come back.
            self.cache.iter_mut().for_each(|entry| entry.generation = 0);
            self.generation = 1;
        }
    }
}

/// How many routes there are of a prefix's family and length.
fn count_of<'a>(
    v4: &'a mut [u32; 33],
    v6: &'a mut [u32; 129],
    (family, length, _): Key,
) -> Option<&'a mut u32> {
    match family {
        Family::V4 => v4.get_mut(usize::from(length)),
        Family::V6 => v6.get_mut(usize::from(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
    const NET: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 0));
    const TO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn mac(last: u8) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, last])
    }

    fn fib() -> Fib {
        let mut fib = Fib::new(2);
        for port in 0..2 {
            fib.set_port(
                port,
                PortFacts {
                    mac: mac(port),
                    mtu: 1500,
                    ipv4: None,
                    ipv6: None,
                    mss_clamp: true,
                    udp_checksum: true,
                    partial_checksums: false,
                },
            );
        }
        fib
    }

    fn via(port: u8, gateway: Option<IpAddr>) -> Route {
        Route {
            port: Some(port),
            gateway,
            mtu: 0,
            unreachable: false,
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut fib = fib();
        let destination = IpAddr::from([10, 1, 2, 3]);
        assert_eq!(fib.resolve(destination), Err(Unroutable::NoRoute));
        fib.set_neighbor(1, GATEWAY, mac(9)).unwrap();
        fib.set_route(IpAddr::from([0; 4]), 0, via(1, Some(GATEWAY)))
            .unwrap();
        assert_eq!(fib.resolve(destination).unwrap().destination, mac(9));
        fib.set_route(NET, 24, via(0, None)).unwrap();
        let missing = Unroutable::NeighborMissing {
            port: 0,
            address: destination,
        };
        assert_eq!(fib.resolve(destination), Err(missing));
        fib.set_neighbor(0, destination, mac(7)).unwrap();
        assert_eq!(
            fib.resolve(destination),
            Ok(NextHop {
                destination: mac(7),
                source: mac(0),
                mtu: 1500,
                port: 0
            })
        );
        assert!(fib.remove_route(NET, 24));
        assert_eq!(fib.resolve(destination).unwrap().port, 1);
    }

    #[test]
    fn a_route_may_refuse_leave_elsewhere_or_be_narrow() {
        let mut fib = fib();
        let to = TO;
        fib.set_neighbor(0, to, mac(7)).unwrap();
        let route = via(0, None);
        fib.set_route(to, 32, Route { mtu: 1300, ..route }).unwrap();
        assert_eq!(fib.resolve(to).unwrap().mtu, 1300);
        fib.set_route(to, 32, Route { mtu: 9000, ..route }).unwrap();
        assert_eq!(fib.resolve(to).unwrap().mtu, 1500);
        fib.set_route(
            to,
            32,
            Route {
                port: None,
                ..route
            },
        )
        .unwrap();
        assert_eq!(fib.resolve(to), Err(Unroutable::NotOurs));
        let unreachable = true;
        fib.set_route(
            to,
            32,
            Route {
                unreachable,
                ..route
            },
        )
        .unwrap();
        assert_eq!(fib.resolve(to), Err(Unroutable::Unreachable));
    }

    #[test]
    fn synchronisation_sweeps_what_was_not_set_again() {
        let mut fib = fib();
        let to = TO;
        fib.set_neighbor(0, to, mac(7)).unwrap();
        fib.set_route(to, 32, via(0, None)).unwrap();
        fib.set_route(to, 24, via(0, None)).unwrap();
        let facts = *fib.port(0).unwrap();
        fib.begin_sync();
        assert!(fib.resolve(to).is_ok(), "nothing goes before the end");
        fib.set_route(to, 24, via(0, None)).unwrap();
        fib.set_neighbor(0, to, mac(8)).unwrap();
        fib.set_port(0, facts);
        fib.end_sync();
        assert_eq!(fib.resolve(to).unwrap().destination, mac(8));
        assert_eq!(fib.routes.len(), 1);
        assert!(fib.port(1).is_none());
    }

    #[test]
    fn routes_are_bounded() {
        let mut fib = fib();
        for index in 0..MAX_ROUTES as u32 {
            fib.set_route(Ipv4Addr::from(index).into(), 32, via(0, None))
                .unwrap();
        }
        assert!(fib.set_route(GATEWAY, 32, via(0, None)).is_err());
        let known = Ipv4Addr::from(3).into();
        assert!(fib.set_route(known, 32, via(1, None)).is_ok());
    }

    #[test]
    fn a_route_may_lead_over_a_router_of_the_other_family() {
        let mut fib = fib();
        let router = "fe80::1".parse().unwrap();
        fib.set_neighbor(1, router, mac(9)).unwrap();
        fib.set_route(NET, 24, via(1, Some(router))).unwrap();
        assert_eq!(fib.resolve(NET).unwrap().destination, mac(9));
    }

    #[test]
    fn the_families_are_told_apart() {
        let mut fib = fib();
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        fib.set_route(TO, 0, via(0, None)).unwrap();
        fib.set_neighbor(0, TO, mac(7)).unwrap();
        fib.set_neighbor(0, mapped, mac(8)).unwrap();
        assert_eq!(fib.resolve(mapped), Err(Unroutable::NoRoute));
        fib.set_route(mapped, 0, via(0, None)).unwrap();
        assert_eq!(fib.resolve(mapped).unwrap().destination, mac(8));
        assert_eq!(fib.resolve(TO).unwrap().destination, mac(7));
        assert!(fib.remove_route(mapped, 0));
        assert_eq!(fib.resolve(mapped), Err(Unroutable::NoRoute));
        assert!(fib.resolve(TO).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(IpAddr, u8, u8),
        Remove(IpAddr, u8),
        Sync(Vec<(IpAddr, u8, u8)>),
        Look(IpAddr),
    }

    /// Few addresses, which differ in their first and last bits.
    fn address() -> impl Strategy<Value = IpAddr> {
        let bits = (0u32..4, 0u32..4).prop_map(|(high, low)| high << 30 | low);
        (bits, any::<bool>()).prop_map(|(bits, six)| {
            if six {
                let bits = u128::from(bits);
                Ipv6Addr::from(bits << 96 | bits & 3).into()
            } else {
                Ipv4Addr::from(bits).into()
            }
        })
    }

    fn route() -> impl Strategy<Value = (IpAddr, u8, u8)> {
        let length = prop_oneof![0u8..4, 29u8..35, 125u8..=128];
        (address(), length, 0u8..2).prop_map(|(address, length, port)| {
            let all = if address.is_ipv4() { 32 } else { 128 };
            (address, length.min(all), port)
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => route().prop_map(|(prefix, length, port)| Step::Set(prefix, length, port)),
            2 => route().prop_map(|(prefix, length, _)| Step::Remove(prefix, length)),
            1 => prop::collection::vec(route(), 0..5).prop_map(Step::Sync),
            6 => address().prop_map(Step::Look),
        ]
    }

    /// The first bits of an address, one by one.
    fn bits(address: IpAddr) -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        octets
            .iter()
            .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 != 0))
            .collect()
    }

    fn covers(prefix: IpAddr, length: u8, address: IpAddr) -> bool {
        let length = usize::from(length);
        prefix.is_ipv4() == address.is_ipv4() && bits(prefix)[..length] == bits(address)[..length]
    }

    proptest! {
        #[test]
        fn behaves_as_a_list(steps in prop::collection::vec(step(), 1..60)) {
            let mut fib = fib();
            let routers: Vec<_> = (0..2u8).map(|port| IpAddr::from([192, 0, 2, port])).collect();
            for port in 0..2 {
                fib.set_neighbor(port, routers[usize::from(port)], mac(port)).unwrap();
            }
            let mut list: Vec<(IpAddr, u8, u8)> = Vec::new();
            let same = |a: &(IpAddr, u8, u8), prefix, length| a.1 == length && covers(a.0, length, prefix);
            let set = |fib: &mut Fib, list: &mut Vec<_>, (prefix, length, port)| {
                let gateway = routers[usize::from(port)];
                fib.set_route(prefix, length, via(port, Some(gateway))).unwrap();
                list.retain(|known| !same(known, prefix, length));
                list.push((prefix, length, port));
            };
            for step in steps {
                match step {
                    Step::Set(prefix, length, port) => set(&mut fib, &mut list, (prefix, length, port)),
                    Step::Remove(prefix, length) => {
                        let known = list.iter().any(|known| same(known, prefix, length));
                        prop_assert_eq!(fib.remove_route(prefix, length), known);
                        list.retain(|known| !same(known, prefix, length));
                    }
                    Step::Sync(routes) => {
                        let ports: Vec<_> = (0..2).map(|port| *fib.port(port).unwrap()).collect();
                        fib.begin_sync();
                        list.clear();
                        routes.into_iter().for_each(|route| set(&mut fib, &mut list, route));
                        for (port, facts) in (0..2).zip(ports) {
                            fib.set_port(port, facts);
                            fib.set_neighbor(port, routers[usize::from(port)], mac(port)).unwrap();
                        }
                        fib.end_sync();
                    }
                    Step::Look(to) => {
                        let longest = list
                            .iter()
                            .filter(|(prefix, length, _)| covers(*prefix, *length, to))
                            .max_by_key(|(_, length, _)| *length);
                        for _ in 0..2 {
                            let found = fib.resolve(to);
                            let expected = longest.map(|(_, _, port)| *port).ok_or(Unroutable::NoRoute);
                            prop_assert_eq!(found.map(|next_hop| next_hop.port), expected);
                        }
                    }
                }
                prop_assert_eq!(fib.routes.len(), list.len());
            }
        }
    }
}
