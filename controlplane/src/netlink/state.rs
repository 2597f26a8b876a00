//! The kernel's messages put together: pure, so that every order of them can be tested.
//!
//! After a dump, messages from before it may still be under way. Applying them again does no lasting harm: what they
//! set, a later message of the same queue sets right.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rtnetlink::{
    packet_core::{NLM_F_APPEND, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage,
            NeighbourState,
        },
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
            RouteNextHop, RouteType,
        },
    },
};

use super::{Link, Neighbor, Route, Tables};

/// What a message did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The tables are different now.
    Changed,
    /// The kernel changed more than it says: read everything again.
    Stale,
}

/// A neighbour that is of no use as it is, and that the kernel does not look after by itself.
pub(super) type Neglected = (u32, IpAddr);

/// The tables, and what one must remember to keep them.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tables: Tables,
    /// All routes to a prefix, the one that counts first.
    routes: BTreeMap<(IpAddr, u8), Vec<Entry>>,
    /// Neighbours whose entry an administrator made: nobody may touch these.
    fixed: std::collections::BTreeSet<(u32, IpAddr)>,
}

/// One of the kernel's routes to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Lower is looked at first.
    rank: (Table, u32),
    route: Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Local,
    Main,
}

impl State {
    /// Applies a message. `flags` are those of its netlink header.
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage, flags: u16) -> Effect {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            RouteNetlinkMessage::DelLink(link) => self.del_link(link),
            RouteNetlinkMessage::NewAddress(address) => self.new_address(address),
            RouteNetlinkMessage::DelAddress(address) => self.del_address(address),
            RouteNetlinkMessage::NewRoute(route) => self.new_route(route, flags),
            RouteNetlinkMessage::DelRoute(route) => self.del_route(route),
            RouteNetlinkMessage::NewNeighbour(neighbor) => self.new_neighbor(neighbor),
            RouteNetlinkMessage::DelNeighbour(neighbor) => self.del_neighbor(neighbor),
            _ => Effect::None,
        }
    }

    /// Is this a neighbour whose entry an administrator made?
    pub(super) fn is_fixed(&self, link: u32, address: IpAddr) -> bool {
        self.fixed.contains(&(link, address))
    }

    fn new_link(&mut self, message: &LinkMessage) -> Effect {
        // A bridge tells of its ports in messages of a family of its own.
        if message.header.interface_family != AddressFamily::Unspec {
            return Effect::None;
        }
        let mut link = Link {
            up: message
                .header
                .flags
                .contains(LinkFlags::Up | LinkFlags::Running),
            ..Link::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(mac) => {
                    link.mac = mac.as_slice().try_into().unwrap_or_default()
                }
                _ => {}
            }
        }
        let old = self.tables.links.get(&message.header.index);
        link.addresses = old.map(|old| old.addresses.clone()).unwrap_or_default();
        // With a link that goes down its routes go, without a message.
        let went_down = old.is_some_and(|old| old.up && !link.up);
        let changed = old != Some(&link);
        self.tables.links.insert(message.header.index, link);
        match (went_down, changed) {
            (true, _) => Effect::Stale,
            (false, true) => Effect::Changed,
            (false, false) => Effect::None,
        }
    }

    fn del_link(&mut self, message: &LinkMessage) -> Effect {
        if message.header.interface_family != AddressFamily::Unspec {
            return Effect::None;
        }
        let index = message.header.index;
        self.tables.neighbors.retain(|(link, _), _| *link != index);
        self.fixed.retain(|(link, _)| *link != index);
        match self.tables.links.remove(&index) {
            Some(_) => Effect::Stale,
            None => Effect::None,
        }
    }

    fn new_address(&mut self, message: &AddressMessage) -> Effect {
        let Some(address) = own_address(message) else {
            return Effect::None;
        };
        // The kernel tells of a link before it tells of its addresses; a link that has gone since needs none.
        let Some(link) = self.tables.links.get_mut(&message.header.index) else {
            return Effect::None;
        };
        match link.addresses.binary_search(&address) {
            Ok(_) => Effect::None,
            Err(at) => {
                link.addresses.insert(at, address);
                Effect::Changed
            }
        }
    }

    fn del_address(&mut self, message: &AddressMessage) -> Effect {
        let Some(address) = own_address(message) else {
            return Effect::None;
        };
        if let Some(link) = self.tables.links.get_mut(&message.header.index) {
            link.addresses.retain(|other| *other != address);
        }
        // With an address the routes go that prefer it as their source, without a message.
        Effect::Stale
    }

    fn new_route(&mut self, message: &RouteMessage, flags: u16) -> Effect {
        let Some((prefix, entry)) = read_route(message) else {
            return Effect::None;
        };
        let entries = self.routes.entry(prefix).or_default();
        if entries.contains(&entry) {
            return Effect::None;
        }
        // Routes of IPv6 that are equal become one with several next hops, of which the messages tell one at a time.
        if prefix.0.is_ipv6() && entries.iter().any(|other| other.rank == entry.rank) {
            return self.grow(prefix, entry, flags);
        }
        let first = entries
            .iter()
            .position(|other| other.rank >= entry.rank)
            .unwrap_or(entries.len());
        let same = entries
            .get(first)
            .is_some_and(|other| other.rank == entry.rank);
        let behind = entries
            .iter()
            .position(|other| other.rank > entry.rank)
            .unwrap_or(entries.len());
        match flags {
            flags if flags & NLM_F_REPLACE != 0 && same => {
                entries.splice(first..=first, [entry]);
            }
            flags if flags & NLM_F_APPEND != 0 => entries.insert(behind, entry),
            _ => entries.insert(first, entry),
        }
        self.settle(prefix)
    }

    fn del_route(&mut self, message: &RouteMessage) -> Effect {
        let Some((prefix, entry)) = read_route(message) else {
            return Effect::None;
        };
        let Some(entries) = self.routes.get_mut(&prefix) else {
            return Effect::None;
        };
        let exact = entries.iter().position(|other| *other == entry);
        let of_rank = || entries.iter().position(|other| other.rank == entry.rank);
        let is_one_of_several = prefix.0.is_ipv6()
            && entries
                .iter()
                .filter(|other| other.rank == entry.rank)
                .count()
                > 1;
        let Some(at) = exact.or_else(of_rank) else {
            return Effect::None;
        };
        if is_one_of_several || prefix.0.is_ipv6() && exact.is_none() {
            return Effect::Stale;
        }
        entries.remove(at);
        if entries.is_empty() {
            self.routes.remove(&prefix);
        }
        self.settle(prefix)
    }

    /// An equal to a route of IPv6: during a dump one of another link, else only a dump tells what they are together.
    fn grow(&mut self, prefix: (IpAddr, u8), entry: Entry, flags: u16) -> Effect {
        if flags != NLM_F_APPEND {
            return Effect::Stale;
        }
        let entries = self.routes.entry(prefix).or_default();
        let behind = entries
            .iter()
            .position(|other| other.rank > entry.rank)
            .unwrap_or(entries.len());
        entries.insert(behind, entry);
        Effect::None
    }

    /// Puts the route that counts into the tables.
    fn settle(&mut self, prefix: (IpAddr, u8)) -> Effect {
        let best = self
            .routes
            .get(&prefix)
            .and_then(|entries| entries.first())
            .map(|entry| &entry.route);
        if self.tables.routes.get(&prefix) == best {
            return Effect::None;
        }
        match best {
            Some(route) => self.tables.routes.insert(prefix, route.clone()),
            None => self.tables.routes.remove(&prefix),
        };
        Effect::Changed
    }

    fn new_neighbor(&mut self, message: &NeighbourMessage) -> Effect {
        let Some(address) = neighbor_address(message) else {
            return Effect::None;
        };
        let key = (message.header.ifindex, address);
        match message.header.state {
            NeighbourState::Permanent | NeighbourState::Noarp => self.fixed.insert(key),
            _ => self.fixed.remove(&key),
        };
        match usable_mac(message) {
            Some(mac) => {
                let neighbor = Neighbor { mac };
                let old = self.tables.neighbors.insert(key, neighbor);
                if old == Some(neighbor) {
                    Effect::None
                } else {
                    Effect::Changed
                }
            }
            None => self.remove_neighbor(key),
        }
    }

    fn del_neighbor(&mut self, message: &NeighbourMessage) -> Effect {
        let Some(address) = neighbor_address(message) else {
            return Effect::None;
        };
        let key = (message.header.ifindex, address);
        self.fixed.remove(&key);
        self.remove_neighbor(key)
    }

    fn remove_neighbor(&mut self, key: (u32, IpAddr)) -> Effect {
        match self.tables.neighbors.remove(&key) {
            Some(_) => Effect::Changed,
            None => Effect::None,
        }
    }
}

/// The neighbour that a message says is no longer fresh, unless the kernel refreshes it by itself (NTF_MANAGED).
pub(super) fn neglected(message: &RouteNetlinkMessage) -> Option<Neglected> {
    let (message, gone) = match message {
        RouteNetlinkMessage::NewNeighbour(message) => (message, false),
        RouteNetlinkMessage::DelNeighbour(message) => (message, true),
        _ => return None,
    };
    let managed = message.attributes.iter().any(
        |attribute| matches!(attribute, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed)),
    );
    let needs_a_probe = matches!(
        message.header.state,
        NeighbourState::Stale | NeighbourState::Failed
    );
    let address = neighbor_address(message)?;
    (gone || needs_a_probe && !managed).then_some((message.header.ifindex, address))
}

fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let family = message.header.family;
    if !matches!(family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    // On a point-to-point link, `Address` is the other end and `Local` is ours.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
    let address = local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
    });
    address.filter(|address| !is_of_one_link(*address))
}

/// Whether it is of IPv6 and means something else on every link (RFC 4291 2.5.6 and 2.7).
fn is_of_one_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

fn neighbor_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some(IpAddr::V6(*address))
            }
            _ => None,
        })
        .filter(|address| !address.is_multicast())
}

fn usable_mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let mac = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
            _ => None,
        });
    mac.filter(|_| usable)
}

/// A route of ours to know: of the tables `local` and `main`, for every type of service and every source, not of one link
/// only.
fn read_route(message: &RouteMessage) -> Option<((IpAddr, u8), Entry)> {
    let header = &message.header;
    let mut destination: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let concerns_us = header.tos == 0
        && header.source_prefix_length == 0
        && !header.flags.contains(RouteFlags::Cloned)
        && !header.flags.contains(RouteFlags::Dead);
    if !concerns_us {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let mut route = Route::default();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                destination = (*address).into();
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                destination = (*address).into();
            }
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            RouteAttribute::MultiPath(hops) => first_hop(hops, &mut route),
            other => hop(other, &mut route),
        }
    }
    match header.kind {
        RouteType::Unicast => {}
        RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit => {
            route = Route {
                unreachable: true,
                ..Route::default()
            };
        }
        // The kernel's own packets: nothing leaves.
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
            route = Route::default()
        }
        _ => return None,
    }
    const LOCAL: u32 = 255;
    const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
    let table = match table {
        LOCAL => Table::Local,
        MAIN => Table::Main,
        _ => return None,
    };
    let entry = Entry {
        rank: (table, metric),
        route,
    };
    let prefix = (destination, header.destination_prefix_length);
    (!is_of_one_link(destination)).then_some((prefix, entry))
}

fn hop(attribute: &RouteAttribute, route: &mut Route) {
    match attribute {
        RouteAttribute::Oif(index) => route.interface = Some(*index),
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
            route.gateway = Some(IpAddr::V4(*address))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => {
            route.gateway = Some(IpAddr::V6(*address))
        }
        _ => {}
    }
}

/// The first next hop whose link is there.
fn first_hop(hops: &[RouteNextHop], route: &mut Route) {
    use rtnetlink::packet_route::route::RouteNextHopFlags as Flags;
    let down = Flags::Dead | Flags::Linkdown;
    let alive = hops
        .iter()
        .find(|hop| !hop.flags.intersects(down))
        .or(hops.first());
    if let Some(chosen) = alive {
        route.interface = Some(chosen.interface_index);
        chosen
            .attributes
            .iter()
            .for_each(|attribute| hop(attribute, route));
    }
}

fn mtu(metrics: &[RouteMetric]) -> u32 {
    metrics
        .iter()
        .find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
        .unwrap_or(0)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
