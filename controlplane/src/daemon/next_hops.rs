//! The kernel's tables as the dataplane wants them: routes, neighbours and ports, by port instead of interface, and what
//! is inside.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
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

/// Adds routes, neighbours, ports and what is inside to a picture.
pub(super) fn add(picture: &mut Picture, tables: &Tables, configured: &[config::Port]) {
    let ports = ports(tables, configured);
    picture.inside = inside(tables, &ports, configured);
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
                address: link.addresses.iter().find_map(|address| match address {
                    IpAddr::V4(address) => Some(*address),
                    IpAddr::V6(_) => None,
                }),
                address_v6: ipv6_address(&link.addresses),
                mss_clamp: settings.mss_clamp,
                udp_checksum: settings.udp_checksum,
                partial_checksums: settings.partial_checksums,
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
    add_host(picture, tables, &ports, configured);
}

/// An address that hosts behind other links can answer to, if there is one.
fn ipv6_address<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Option<Ipv6Addr> {
    let addresses = addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(*address),
    });
    addresses.min_by_key(Ipv6Addr::is_unicast_link_local)
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The source of ICMP errors to the gateway itself, which takes none from an address of its own: RFC 7600 4.8 has it for who
/// has no other.
const DUMMY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// What is for the gateway itself goes to it by the TAP.
fn add_host(
    picture: &mut Picture,
    tables: &Tables,
    ports: &BTreeMap<u32, PortId>,
    configured: &[config::Port],
) {
    let is_host = |port: &PortId| {
        let port = configured.get(usize::from(port.0));
        port.is_some_and(|port| port.role == config::Role::Host)
    };
    let Some((index, port)) = ports.iter().find(|(_, port)| is_host(port)) else {
        return;
    };
    let Some(link) = tables.links.get(index) else {
        return;
    };
    if let Some(facts) = picture.ports.get_mut(port) {
        facts.address = Some(DUMMY_ADDRESS);
    }
    let addresses = tables.links.values().flat_map(|link| &link.addresses);
    for address in addresses.filter(|address| !address.is_loopback() && !is_link_local(address)) {
        let Some(prefix) = Prefix::new(*address, bits(*address)) else {
            continue;
        };
        picture.neighbors.insert((*port, *address), link.mac);
        picture.routes.insert(
            prefix,
            Route {
                port: Some(*port),
                gateway: None,
                mtu: 0,
                unreachable: false,
            },
        );
    }
}

/// What packets from inside can be for without crossing the IPsec boundary (RFC 4301 3.1): every address of the gateway,
/// and the networks that are directly on inside ports. A network that has a longer route to anywhere else is left out: the
/// kernel would forward a part of it out of the gateway in the clear.
fn inside(
    tables: &Tables,
    ports: &BTreeMap<u32, PortId>,
    configured: &[config::Port],
) -> BTreeSet<Prefix> {
    let is_inside = |index: &u32| {
        let port = ports.get(index).map(|port| usize::from(port.0));
        let port = port.and_then(|port| configured.get(port));
        port.is_some_and(|port| port.role == config::Role::Inside)
    };
    let leaves_elsewhere = |network| elsewhere(tables, network, is_inside).next().is_some();
    let networks = ports
        .keys()
        .filter(|index| is_inside(index))
        .flat_map(|index| tables.attached(*index))
        .filter(|network| !leaves_elsewhere(*network));
    let addresses = tables.links.values().flat_map(|link| &link.addresses);
    addresses
        .map(|address| (*address, bits(*address)))
        .chain(networks)
        .filter_map(|(address, length)| Prefix::new(address, length))
        .collect()
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The parts of a network that longer routes lead to by other than inside interfaces.
pub(super) fn elsewhere(
    tables: &Tables,
    (network, length): (IpAddr, u8),
    is_inside: impl Fn(&u32) -> bool,
) -> impl Iterator<Item = (IpAddr, u8)> {
    let parts = tables
        .routes
        .iter()
        .filter(move |((address, longer), route)| {
            *longer > length
                && contains(network, length, *address)
                && route.interface.is_some_and(|index| !is_inside(&index))
        });
    parts.map(|(prefix, _)| *prefix)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Link, Route};

    const LAN: u32 = 2;
    const WAN: u32 = 3;
    const MANAGEMENT: u32 = 4;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(name: &str, own: &str) -> Link {
        Link {
            name: name.to_owned(),
            addresses: vec![address(own)],
            ..Link::default()
        }
    }

    fn on(interface: u32) -> Route {
        Route {
            interface: Some(interface),
            ..Route::default()
        }
    }

    fn tables() -> Tables {
        Tables {
            links: [
                (LAN, link("eth1", "10.1.0.1")),
                (WAN, link("eth2", "192.0.2.1")),
                (MANAGEMENT, link("eth3", "172.16.0.1")),
            ]
            .into(),
            routes: [
                ((address("10.1.0.0"), 16), on(LAN)),
                // The kernel's own: its table `local`.
                ((address("10.1.0.1"), 32), Route::default()),
                ((address("192.0.2.0"), 24), on(WAN)),
                ((address("172.16.0.0"), 24), on(MANAGEMENT)),
                (
                    (address("0.0.0.0"), 0),
                    Route {
                        gateway: Some(address("192.0.2.254")),
                        ..on(WAN)
                    },
                ),
            ]
            .into(),
            ..Tables::default()
        }
    }

    fn is_inside(tables: &Tables) -> Vec<String> {
        let port = |interface: &str, role| config::Port {
            name: interface.to_owned(),
            interface: interface.to_owned(),
            vlan: None,
            role,
            mss_clamp: true,
            udp_checksum: true,
            partial_checksums: false,
        };
        let configured = [
            port("eth1", config::Role::Inside),
            port("eth2", config::Role::Outside),
        ];
        let ports = ports(tables, &configured);
        let inside = inside(tables, &ports, &configured);
        inside.iter().map(ToString::to_string).collect()
    }

    const OURS: [&str; 3] = ["10.1.0.1/32", "172.16.0.1/32", "192.0.2.1/32"];

    #[test]
    fn inside_are_our_addresses_and_the_networks_on_inside_ports() {
        let mut expected = vec!["10.1.0.0/16"];
        expected.extend(OURS);
        assert_eq!(is_inside(&tables()), expected);
    }

    #[test]
    fn inside_are_addresses_and_networks_of_ipv6_too() {
        let mut tables = tables();
        let link = tables.links.get_mut(&LAN).unwrap();
        link.addresses.push(address("2001:db8:1::1"));
        let network = (address("2001:db8:1::"), 64);
        tables.routes.insert(network, on(LAN));
        tables.routes.insert((address("2001:db8::"), 64), on(WAN));
        let found = is_inside(&tables);
        let of_ipv6: Vec<_> = found.iter().filter(|one| one.contains(':')).collect();
        assert_eq!(of_ipv6, ["2001:db8:1::/64", "2001:db8:1::1/128"]);
        // A part of it that is elsewhere.
        tables
            .routes
            .insert((address("2001:db8:1:0:8000::"), 65), on(WAN));
        assert!(!is_inside(&tables).contains(&"2001:db8:1::/64".to_owned()));
    }

    #[test]
    fn a_network_is_not_inside_when_a_part_of_it_is_elsewhere() {
        let mut tables = tables();
        let part = (address("10.1.9.0"), 24);
        let behind_a_router = Route {
            gateway: Some(address("10.1.0.254")),
            ..on(LAN)
        };
        tables.routes.insert(part, behind_a_router);
        assert!(is_inside(&tables).contains(&"10.1.0.0/16".to_owned()));
        tables.routes.insert(part, on(WAN));
        assert_eq!(is_inside(&tables), OURS);
    }
}
