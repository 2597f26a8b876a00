//! The worker's copy of what the kernel knows about next hops: routes, neighbours and ports, pushed
//! down by the control plane.
//!
//! Decisions are cached by destination under the generation of the tables; any change makes them stale.
//! Everything is bounded and nothing is allocated after the start.

use esplanade_crypto::prefetch;
use esplanade_ipsec::sa::NextHop;
use esplanade_wire::ethernet::MacAddress;
use std::{collections::HashMap, net::Ipv4Addr};
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
    /// The router; `None` when destinations are neighbours themselves.
    pub gateway: Option<Ipv4Addr>,
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
    /// The source of ICMP errors sent from it.
    pub address: Option<Ipv4Addr>,
    /// Whether TCP segments announced on it are clamped to what the tunnel carries.
    pub mss_clamp: bool,
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
        address: Ipv4Addr,
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
    destination: Ipv4Addr,
    /// 0 is no generation: an empty entry.
    generation: u32,
    next_hop: Result<NextHop, Unroutable>,
}

/// The tables.
#[derive(Debug)]
pub struct Fib {
    routes: HashMap<(u8, u32), Marked<Route>>,
    /// How many routes there are of each prefix length.
    lengths: [u32; 33],
    neighbors: HashMap<(u8, Ipv4Addr), Marked<MacAddress>>,
    ports: Vec<Option<Marked<PortFacts>>>,
    generation: u32,
    cache: Box<[Cached]>,
}

fn network(address: Ipv4Addr, length: u8) -> u32 {
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    address.to_bits() & mask
}

/// The place of a destination in the cache.
#[inline]
fn remembered_at(destination: Ipv4Addr) -> usize {
    let hash = destination.to_bits().wrapping_mul(0x9e37_79b1);
    (hash >> 16) as usize & (CACHED - 1)
}

impl Fib {
    /// Empty tables for `ports` ports.
    pub fn new(ports: usize) -> Self {
        let empty = Cached {
            destination: Ipv4Addr::UNSPECIFIED,
            generation: 0,
            next_hop: Err(Unroutable::NoRoute),
        };
        Self {
            // Twice the room, so that tombstones are swept in place and nothing is allocated.
            routes: HashMap::with_capacity(2 * MAX_ROUTES),
            lengths: [0; 33],
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

    /// Sets the route of a prefix (`length` at most 32; host bits are ignored).
    ///
    /// # Errors
    ///
    /// When there is no room.
    pub fn set_route(
        &mut self,
        prefix: Ipv4Addr,
        length: u8,
        route: Route,
    ) -> Result<(), TableFull> {
        let length = length.min(32);
        let key = (length, network(prefix, length));
        if self.routes.len() >= MAX_ROUTES && !self.routes.contains_key(&key) {
            return Err(TableFull {
                capacity: MAX_ROUTES,
            });
        }
        let route = Marked {
            value: route,
            fresh: true,
        };
        if self.routes.insert(key, route).is_none() {
            self.lengths[usize::from(length)] += 1;
        }
        self.changed();
        Ok(())
    }

    /// Removes the route of a prefix. `false` when there was none.
    pub fn remove_route(&mut self, prefix: Ipv4Addr, length: u8) -> bool {
        let length = length.min(32);
        let known = self
            .routes
            .remove(&(length, network(prefix, length)))
            .is_some();
        if known {
            self.lengths[usize::from(length)] -= 1;
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
        address: Ipv4Addr,
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
    pub fn remove_neighbor(&mut self, port: u8, address: Ipv4Addr) -> bool {
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
        let lengths = &mut self.lengths;
        self.routes.retain(|(length, _), route| {
            if !route.fresh {
                lengths[usize::from(*length)] -= 1;
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
    pub fn prefetch(&self, destination: Ipv4Addr) {
        if let Some(cached) = self.cache.get(remembered_at(destination)) {
            prefetch(cached);
        }
    }

    /// The next hop towards a destination.
    ///
    /// # Errors
    ///
    /// Why there is none.
    #[inline]
    pub fn resolve(&mut self, destination: Ipv4Addr) -> Result<NextHop, Unroutable> {
        let index = remembered_at(destination);
        if let Some(cached) = self.cache.get(index)
            && cached.generation == self.generation
            && cached.destination == destination
        {
            return cached.next_hop;
        }
        let next_hop = self.look_up(destination);
        if let Some(cached) = self.cache.get_mut(index) {
            *cached = Cached {
                destination,
                generation: self.generation,
                next_hop,
            };
        }
        next_hop
    }

    #[cold]
    fn look_up(&self, destination: Ipv4Addr) -> Result<NextHop, Unroutable> {
        let route = (0..=32u8)
            .rev()
            .filter(|length| self.lengths[usize::from(*length)] != 0)
            .find_map(|length| self.routes.get(&(length, network(destination, length))))
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

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

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
                    address: None,
                    mss_clamp: true,
                },
            );
        }
        fib
    }

    fn via(port: u8, gateway: Option<Ipv4Addr>) -> Route {
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
        let destination = Ipv4Addr::new(10, 1, 2, 3);
        assert_eq!(fib.resolve(destination), Err(Unroutable::NoRoute));
        fib.set_neighbor(1, GATEWAY, mac(9)).unwrap();
        fib.set_route(Ipv4Addr::UNSPECIFIED, 0, via(1, Some(GATEWAY)))
            .unwrap();
        assert_eq!(fib.resolve(destination).unwrap().destination, mac(9));
        fib.set_route(Ipv4Addr::new(10, 1, 2, 0), 24, via(0, None))
            .unwrap();
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
        assert!(fib.remove_route(Ipv4Addr::new(10, 1, 2, 0), 24));
        assert_eq!(fib.resolve(destination).unwrap().port, 1);
    }

    #[test]
    fn a_route_may_refuse_leave_elsewhere_or_be_narrow() {
        let mut fib = fib();
        let to = Ipv4Addr::new(10, 0, 0, 1);
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
        let to = Ipv4Addr::new(10, 0, 0, 1);
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
            fib.set_route(Ipv4Addr::from(index), 32, via(0, None))
                .unwrap();
        }
        assert!(fib.set_route(GATEWAY, 32, via(0, None)).is_err());
        assert!(fib.set_route(Ipv4Addr::from(3), 32, via(1, None)).is_ok());
    }
}
