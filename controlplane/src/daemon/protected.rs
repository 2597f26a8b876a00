//! What the kernel's guard is to hold, from the configuration and from what the kernel has on the ports.

use std::{collections::BTreeSet, net::IpAddr};

use esplanade_channel::PortId;
use esplanade_config::{Config, Prefix, Role};

use super::next_hops;
use crate::{
    guard::{Own, Wanted},
    netlink::Tables,
};

/// Our side's prefix and the peer's, between which nothing may pass in clear.
pub(super) type PrefixPair = (Prefix, Prefix);

/// The pairs that the kernel's guard is to hold.
pub(super) fn guarded(config: &Config) -> BTreeSet<PrefixPair> {
    if !config.dataplane.guard {
        return BTreeSet::new();
    }
    let children = config.tunnels.iter().flat_map(|tunnel| &tunnel.children);
    let pairs = children.flat_map(|child| child.pairs());
    pairs
        .map(|(local, remote)| (local.prefix, remote.prefix))
        .collect()
}

/// What the kernel's guard is to hold for these pairs on these ports, with the networks that the kernel has there.
pub(super) fn wanted_guard(
    pairs: BTreeSet<PrefixPair>,
    tables: &Tables,
    dataplane: &esplanade_config::Dataplane,
) -> Wanted {
    let outside = dataplane
        .ports
        .iter()
        .filter(|port| port.role == Role::Outside);
    let (attached, elsewhere) = attached(tables, dataplane);
    let own = dataplane
        .tap()
        .map(|tap| own(tables, &tap.interface, &pairs));
    Wanted {
        own,
        pairs,
        attached,
        elsewhere,
        outside: outside.map(|port| port.interface.clone()).collect(),
    }
}

/// What of these pairs the gateway itself has a part in, and the TAP that leads there.
fn own(tables: &Tables, tap: &str, pairs: &BTreeSet<PrefixPair>) -> Own {
    let link = tables.links.iter().find(|(_, link)| link.name == tap);
    let addresses: Vec<IpAddr> = tables
        .links
        .values()
        .flat_map(|link| &link.addresses)
        .filter(|address| !address.is_loopback())
        .copied()
        .collect();
    let sources = pairs.iter().filter_map(|(local, remote)| {
        let source = addresses.iter().find(|address| local.contains(**address))?;
        Some((*local, *remote, *source))
    });
    Own {
        tap: link.filter(|(_, link)| link.up).map(|(index, _)| *index),
        traffic: sources.collect(),
    }
}

/// The networks that are directly on inside ports, and what of them is not.
fn attached(
    tables: &Tables,
    dataplane: &esplanade_config::Dataplane,
) -> (BTreeSet<Prefix>, BTreeSet<Prefix>) {
    let ports = next_hops::ports(tables, &dataplane.ports);
    let role = |port: &PortId| {
        let port = dataplane.ports.get(usize::from(port.0));
        port.map(|port| port.role)
    };
    let inside = ports
        .iter()
        .filter(|(_, port)| role(port) == Some(Role::Inside));
    let inside: BTreeSet<u32> = inside.map(|(index, _)| *index).collect();
    let prefix = |(address, length): (IpAddr, u8)| Prefix::containing(address, length);
    let (mut networks, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
    for network in inside.iter().flat_map(|index| tables.attached(*index)) {
        networks.extend(prefix(network));
        let parts = next_hops::elsewhere(tables, network, |index| inside.contains(index));
        elsewhere.extend(parts.filter_map(prefix));
    }
    (networks, elsewhere)
}
