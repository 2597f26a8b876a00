//! What the dataplane has to know besides SAs, as one value: policies, routes, neighbours, ports, addresses.
//!
//! It is computed whole from the configuration and the kernel's tables; what is sent is the whole after a
//! connect and the difference after a change. Nothing here knows a socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use esplanade_channel::{Command, Policy, PolicyId, PortId, Prefix};

use super::policies::NUMBERS;

/// A route as a worker wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The port it leaves by; none for an interface that is not ours.
    pub(super) port: Option<PortId>,
    /// The next hop, unless the destination is on the link.
    pub(super) gateway: Option<IpAddr>,
    /// In bytes of IP; 0 for the port's.
    pub(super) mtu: u16,
    /// Whether it says no.
    pub(super) unreachable: bool,
}

/// A port's facts as a worker wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// Its link address.
    pub(super) mac: [u8; 6],
    /// In bytes of IP.
    pub(super) mtu: u16,
    /// The source of IPv4's ICMP errors.
    pub(super) address: Option<Ipv4Addr>,
    /// The source of IPv6's.
    pub(super) address_v6: Option<Ipv6Addr>,
    /// Whether the MSS of TCP connections is clamped.
    pub(super) mss_clamp: bool,
    /// Whether ESP in UDP over IPv6 has a checksum.
    pub(super) udp_checksum: bool,
    /// Whether transport checksums are finished.
    pub(super) partial_checksums: bool,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) policies: BTreeMap<PolicyId, Policy>,
    pub(super) routes: BTreeMap<Prefix, Route>,
    pub(super) neighbors: BTreeMap<(PortId, IpAddr), [u8; 6]>,
    pub(super) ports: BTreeMap<PortId, Port>,
    /// Our outer addresses.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// What XDP takes: our side and the peer's.
    pub(super) protected: BTreeSet<(Prefix, Prefix)>,
    /// What XDP leaves to the kernel when it comes from inside, whatever is protected: it stays there.
    pub(super) inside: BTreeSet<Prefix>,
}

/// Commands to the two kinds of ring.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    /// To every worker.
    pub(super) workers: Vec<Command>,
    /// To the steward.
    pub(super) steward: Vec<Command>,
}

impl Picture {
    /// The commands that make a dataplane in any state match this picture.
    pub(super) fn sync(&self) -> Commands {
        let Commands { workers, steward } = self.since(&Self::default());
        let whole = |commands: Vec<Command>| {
            std::iter::once(Command::BeginSync)
                .chain(commands)
                .chain([Command::EndSync])
                .collect()
        };
        Commands {
            workers: whole(workers),
            steward: whole(steward),
        }
    }

    /// The commands that turn a dataplane that matches `old` into one that matches this picture.
    ///
    /// The order is one in which no packet is let through that neither picture lets through: XDP takes a prefix
    /// after its policy stands and leaves it before the policy goes; what is new stands before what is old goes. What
    /// stays inside is an exception to what is protected, and so the other way round.
    pub(super) fn since(&self, old: &Self) -> Commands {
        let mut workers = Vec::new();
        let ports = changed(&old.ports, &self.ports);
        workers.extend(ports.map(|(port, facts)| Command::SetPort {
            port: *port,
            mac: facts.mac,
            mtu: facts.mtu,
            address: facts.address,
            address_v6: facts.address_v6,
            mss_clamp: facts.mss_clamp,
            udp_checksum: facts.udp_checksum,
            partial_checksums: facts.partial_checksums,
        }));
        let policies = changed(&old.policies, &self.policies);
        workers.extend(policies.map(|(_, policy)| Command::SetPolicy(policy.clone())));
        let neighbors = changed(&old.neighbors, &self.neighbors);
        workers.extend(
            neighbors.map(|((port, address), mac)| Command::SetNeighbor {
                port: *port,
                address: *address,
                mac: *mac,
            }),
        );
        let routes = changed(&old.routes, &self.routes);
        workers.extend(routes.map(|(prefix, route)| Command::SetRoute {
            prefix: *prefix,
            port: route.port,
            gateway: route.gateway,
            mtu: route.mtu,
            unreachable: route.unreachable,
        }));
        let routes = gone(&old.routes, &self.routes);
        workers.extend(routes.map(|prefix| Command::RemoveRoute { prefix: *prefix }));
        let neighbors = gone(&old.neighbors, &self.neighbors);
        workers.extend(neighbors.map(|(port, address)| Command::RemoveNeighbor {
            port: *port,
            address: *address,
        }));
        let policies = gone(&old.policies, &self.policies);
        workers.extend(policies.map(|id| Command::RemovePolicy { id: *id }));
        Commands {
            workers,
            steward: self.steward_since(old),
        }
    }

    /// Makes the policies of one group these. Returns the commands that do so in a dataplane that matched the picture.
    pub(super) fn set_group(
        &mut self,
        group: PolicyId,
        policies: BTreeMap<PolicyId, Policy>,
    ) -> Vec<Command> {
        let whole = PolicyId(group.0 & !NUMBERS)..=PolicyId(group.0 | NUMBERS);
        let old = self.policies.range(whole);
        let old: BTreeMap<PolicyId, Policy> = old.map(|(id, one)| (*id, one.clone())).collect();
        let commands = changed(&old, &policies)
            .map(|(_, policy)| Command::SetPolicy(policy.clone()))
            .chain(gone(&old, &policies).map(|id| Command::RemovePolicy { id: *id }))
            .collect();
        for id in old.keys() {
            self.policies.remove(id);
        }
        self.policies.extend(policies);
        commands
    }

    fn steward_since(&self, old: &Self) -> Vec<Command> {
        let formerly_inside = old.inside.difference(&self.inside);
        let inside = self.inside.difference(&old.inside);
        let protected = self.protected.difference(&old.protected);
        let addresses = self.addresses.difference(&old.addresses);
        let former_addresses = old.addresses.difference(&self.addresses);
        let formerly_protected = old.protected.difference(&self.protected);
        formerly_inside
            .map(|prefix| Command::RemoveInside { prefix: *prefix })
            .chain(protected.map(|(local, remote)| Command::SetProtected {
                local: *local,
                remote: *remote,
            }))
            .chain(addresses.map(|address| Command::SetLocalAddress { address: *address }))
            .chain(inside.map(|prefix| Command::SetInside { prefix: *prefix }))
            .chain(
                former_addresses.map(|address| Command::RemoveLocalAddress { address: *address }),
            )
            .chain(
                formerly_protected.map(|(local, remote)| Command::RemoveProtected {
                    local: *local,
                    remote: *remote,
                }),
            )
            .collect()
    }
}

fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter()
        .filter(|(key, value)| old.get(key) != Some(value))
}

fn gone<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    old.keys().filter(|key| !new.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
    }

    fn route(gateway: &str) -> Route {
        Route {
            port: Some(PortId(1)),
            gateway: Some(gateway.parse().unwrap()),
            mtu: 0,
            unreachable: false,
        }
    }

    fn picture() -> Picture {
        Picture {
            routes: [(prefix("0.0.0.0/0"), route("192.0.2.254"))].into(),
            neighbors: [((PortId(1), "192.0.2.254".parse().unwrap()), [2; 6])].into(),
            addresses: ["192.0.2.1".parse().unwrap()].into(),
            protected: [(prefix("10.1.0.0/16"), prefix("10.2.0.0/16"))].into(),
            inside: [prefix("10.1.0.0/16")].into(),
            ..Picture::default()
        }
    }

    #[test]
    fn a_sync_is_the_whole_between_two_marks() {
        let Commands { workers, steward } = picture().sync();
        assert!(matches!(
            workers[..],
            [
                Command::BeginSync,
                Command::SetNeighbor { .. },
                Command::SetRoute { .. },
                Command::EndSync
            ]
        ));
        assert!(matches!(
            steward[..],
            [
                Command::BeginSync,
                Command::SetProtected { .. },
                Command::SetLocalAddress { .. },
                Command::SetInside { .. },
                Command::EndSync
            ]
        ));
    }

    #[test]
    fn what_did_not_change_is_not_said_again() {
        assert_eq!(picture().since(&picture()), Commands::default());
    }

    #[test]
    fn no_exception_precedes_or_outlives_what_it_is_an_exception_to() {
        let mut new = picture();
        new.protected = [(prefix("10.1.0.0/16"), prefix("0.0.0.0/0"))].into();
        new.inside = [prefix("10.1.0.0/24")].into();
        let Commands { workers, steward } = new.since(&picture());
        assert!(workers.is_empty());
        assert!(matches!(
            steward[..],
            [
                Command::RemoveInside { .. },
                Command::SetProtected { .. },
                Command::SetInside { .. },
                Command::RemoveProtected { .. }
            ]
        ));
    }

    #[test]
    fn a_changed_route_is_set_and_a_lost_one_removed() {
        let mut new = picture();
        new.routes.insert(prefix("0.0.0.0/0"), route("192.0.2.253"));
        new.neighbors.clear();
        let Commands { workers, steward } = new.since(&picture());
        assert!(matches!(
            workers[..],
            [Command::SetRoute { .. }, Command::RemoveNeighbor { .. }]
        ));
        assert!(steward.is_empty());
    }
}
