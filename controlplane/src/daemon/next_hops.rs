//! The kernel's tables as the dataplane wants them: routes, neighbours and ports, by port instead of interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use esplanade_channel::{PortId, Prefix};
use esplanade_config as config;

use super::picture::{Picture, Port, Route};
use crate::netlink::Tables;

/// The ports by their interface's index; a port whose interface does not exist is left out.
pub(super) fn ports(tables: &Tables, ports: &[config::Port]) -> BTreeMap<u32, PortId> {
    let index_of = |name: &str| {
        tables
            .links
            .iter()
            .find(|(_, link)| link.name == name)
            .map(|(index, _)| *index)
    };
    (0..=u8::MAX)
        .zip(ports)
        .filter_map(|(number, port)| Some((index_of(&port.interface)?, PortId(number))))
        .collect()
}

/// Adds routes, neighbours and ports to a picture.
pub(super) fn add(picture: &mut Picture, tables: &Tables, configured: &[config::Port]) {
    let ports = ports(tables, configured);
    for (index, port) in &ports {
        let (Some(link), Some(settings)) =
            (tables.links.get(index), configured.get(usize::from(port.0)))
        else {
            continue;
        };
        picture.ports.insert(
            *port,
            Port {
                mac: link.mac,
                mtu: mtu(link.mtu),
                address: link
                    .addresses
                    .iter()
                    .copied()
                    .find_map(|address| match address {
                        IpAddr::V4(address) => Some(address),
                        IpAddr::V6(_) => None,
                    }),
                mss_clamp: settings.mss_clamp,
            },
        );
    }
    for ((address, length), route) in &tables.routes {
        let Some(prefix) = Prefix::new(*address, *length) else {
            continue;
        };
        let route = Route {
            port: route.interface.and_then(|index| ports.get(&index).copied()),
            gateway: route.gateway,
            mtu: mtu(route.mtu),
            unreachable: route.unreachable,
        };
        picture.routes.insert(prefix, route);
    }
    for ((index, address), neighbor) in &tables.neighbors {
        if let Some(port) = ports.get(index) {
            picture.neighbors.insert((*port, *address), neighbor.mac);
        }
    }
}

/// What fits into the 16 bits of an IP length; loopback has more.
fn mtu(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// The neighbours through which these addresses are reached, with the interfaces they are on.
pub(super) fn neighbors_to(
    tables: &Tables,
    ports: &BTreeMap<u32, PortId>,
    peers: &BTreeSet<IpAddr>,
) -> BTreeSet<(u32, IpAddr)> {
    peers
        .iter()
        .filter_map(|peer| {
            let route = tables
                .routes
                .iter()
                .filter(|((address, length), _)| contains(*address, *length, *peer))
                .max_by_key(|((_, length), _)| *length)?
                .1;
            let index = route.interface.filter(|index| ports.contains_key(index))?;
            (!route.unreachable).then_some((index, route.gateway.unwrap_or(*peer)))
        })
        .collect()
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4()
        && Prefix::new(address, length).is_some_and(|prefix| prefix.address() == network)
}
