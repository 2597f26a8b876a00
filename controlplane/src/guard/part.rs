//! What the guard consists of, and which parts of it are wanted.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use esplanade_config::Prefix;

use super::{TABLE, Wanted};

/// One thing that the guard puts into the kernel. In the order in which they are put there: no rule leads to a table
/// that is not complete yet, and no network is let through before its parts are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A route that ends the lookup.
    Unreachable(Prefix),
    /// A route that sends the lookup on to the main table.
    Throw(Prefix),
    /// A rule that has what comes from a local prefix looked up in our table.
    Outgoing(Prefix),
    /// A rule that drops what comes in by an outside interface as if from a remote prefix to a local one.
    Incoming {
        interface: String,
        remote: Prefix,
        local: Prefix,
    },
}

impl Part {
    /// All parts of a guard.
    pub(super) fn all(wanted: &Wanted) -> BTreeSet<Self> {
        let remote: BTreeSet<Prefix> = wanted.pairs.iter().map(|(_, remote)| *remote).collect();
        let link_local = Prefix::containing(LINK_LOCAL, LINK_LOCAL_LENGTH);
        let covered = wanted
            .attached
            .iter()
            .chain(&link_local)
            .filter(|attached| {
                let covers = |remote: &Prefix| {
                    remote.length() < attached.length() && remote.contains(attached.address())
                };
                remote.iter().any(covers) && !remote.contains(attached)
            });
        let thrown: BTreeSet<Prefix> = covered.copied().collect();
        let kept = wanted.elsewhere.iter().filter(|part| {
            let within = |network: &Prefix| {
                network.length() < part.length() && network.contains(part.address())
            };
            thrown.iter().any(within)
        });
        let mut parts: BTreeSet<Self> = kept.map(|prefix| Self::Unreachable(*prefix)).collect();
        parts.extend(thrown.iter().map(|prefix| Self::Throw(*prefix)));
        parts.extend(remote.iter().map(|prefix| Self::Unreachable(*prefix)));
        for (local, remote) in &wanted.pairs {
            for local in rule_prefixes(*local) {
                parts.insert(Self::Outgoing(local));
                for remote in rule_prefixes(*remote) {
                    parts.extend(wanted.outside.iter().map(|interface| Self::Incoming {
                        interface: interface.clone(),
                        remote,
                        local,
                    }));
                }
            }
        }
        parts
    }
}

/// IPv6's addresses of every link, attached wherever there is a link. No kernel forwards packets to these.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
const LINK_LOCAL_LENGTH: u8 = 10;

/// What the rules for a prefix are for. The kernel takes a rule for 0.0.0.0/0 or ::/0 for the same as any other of its
/// preference, table and interface, so that becomes one for each half.
fn rule_prefixes(prefix: Prefix) -> Vec<Prefix> {
    if prefix.length() > 0 {
        return vec![prefix];
    }
    let halves: [IpAddr; 2] = if prefix.is_ipv4() {
        [
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(128, 0, 0, 0).into(),
        ]
    } else {
        let upper = Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0);
        [Ipv6Addr::UNSPECIFIED.into(), upper.into()]
    };
    halves
        .iter()
        .filter_map(|half| Prefix::containing(*half, 1))
        .collect()
}

/// In the words of `ip route` and `ip rule`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throw(prefix) => write!(f, "throw {prefix}"),
            Self::Unreachable(prefix) => write!(f, "unreachable {prefix}"),
            Self::Outgoing(prefix) => write!(f, "from {prefix} lookup {TABLE}"),
            Self::Incoming {
                interface,
                remote,
                local,
            } => write!(f, "from {remote} to {local} iif {interface} blackhole"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(octets: [u8; 4], length: u8) -> Prefix {
        Prefix::containing(octets, length).unwrap()
    }

    fn prefix6(text: &str, length: u8) -> Prefix {
        Prefix::containing(text.parse::<Ipv6Addr>().unwrap(), length).unwrap()
    }

    /// The parts for these pairs, of a gateway with `wan` outside and these networks attached.
    fn words(pairs: &[(Prefix, Prefix)], attached: &[Prefix]) -> Vec<String> {
        let wanted = Wanted {
            pairs: pairs.iter().copied().collect(),
            attached: attached.iter().copied().collect(),
            outside: ["wan".to_owned()].into(),
            ..Wanted::default()
        };
        Part::all(&wanted).iter().map(Part::to_string).collect()
    }

    #[test]
    fn attached_networks_are_let_through_only_where_a_remote_prefix_covers_them() {
        let local = prefix([10, 1, 0, 0], 16);
        let (inside, elsewhere) = (prefix([10, 1, 0, 0], 24), prefix([172, 16, 0, 0], 24));
        let any = prefix([0, 0, 0, 0], 0);
        let attached = [inside, elsewhere];
        let everything = words(&[(local, any)], &attached);
        assert_eq!(
            everything[..3],
            [
                "unreachable 0.0.0.0/0",
                "throw 10.1.0.0/24",
                "throw 172.16.0.0/24"
            ]
        );
        let narrow = words(
            &[(local, prefix([10, 2, 0, 0], 16)), (local, inside)],
            &attached,
        );
        assert_eq!(
            narrow[..2],
            ["unreachable 10.1.0.0/24", "unreachable 10.2.0.0/16"]
        );
        assert!(!narrow[2].starts_with("unreachable"), "{narrow:?}");
    }

    #[test]
    fn parts_of_an_attached_network_that_are_elsewhere_are_not_let_through() {
        let (local, any) = (prefix([10, 1, 0, 0], 16), prefix([0, 0, 0, 0], 0));
        let part = prefix([10, 1, 9, 0], 24);
        let wanted = |remote| Wanted {
            pairs: [(local, remote)].into(),
            attached: [local].into(),
            elsewhere: [part].into(),
            outside: BTreeSet::new(),
        };
        let parts = Part::all(&wanted(any));
        assert!(parts.contains(&Part::Throw(local)));
        assert!(parts.contains(&Part::Unreachable(part)));
        // Where nothing is let through, nothing has to be held back.
        let parts = Part::all(&wanted(prefix([10, 2, 0, 0], 16)));
        assert!(!parts.contains(&Part::Unreachable(part)));
    }

    #[test]
    fn what_comes_in_is_dropped_by_pair_and_interface() {
        let (near, far) = (prefix([10, 1, 0, 0], 16), prefix([10, 2, 0, 0], 16));
        let other = prefix([10, 3, 0, 0], 16);
        let wanted = Wanted {
            pairs: [(near, far), (near, other)].into(),
            outside: ["eth2".to_owned(), "eth3".to_owned()].into(),
            ..Wanted::default()
        };
        let parts: Vec<String> = Part::all(&wanted).iter().map(Part::to_string).collect();
        assert_eq!(
            parts,
            [
                "unreachable 10.2.0.0/16",
                "unreachable 10.3.0.0/16",
                "from 10.1.0.0/16 lookup 4301",
                "from 10.2.0.0/16 to 10.1.0.0/16 iif eth2 blackhole",
                "from 10.3.0.0/16 to 10.1.0.0/16 iif eth2 blackhole",
                "from 10.2.0.0/16 to 10.1.0.0/16 iif eth3 blackhole",
                "from 10.3.0.0/16 to 10.1.0.0/16 iif eth3 blackhole",
            ]
        );
    }

    #[test]
    fn the_families_are_guarded_by_themselves() {
        let near = prefix6("2001:db8:1::", 48);
        let pairs = [
            (prefix([10, 1, 0, 0], 16), prefix([10, 2, 0, 0], 16)),
            (near, prefix6("::", 0)),
        ];
        let attached = [prefix([10, 1, 0, 0], 16), prefix6("2001:db8:1:7::", 64)];
        assert_eq!(
            words(&pairs, &attached),
            [
                "unreachable 10.2.0.0/16",
                "unreachable ::/0",
                "throw 2001:db8:1:7::/64",
                "throw fe80::/10",
                "from 10.1.0.0/16 lookup 4301",
                "from 2001:db8:1::/48 lookup 4301",
                "from 10.2.0.0/16 to 10.1.0.0/16 iif wan blackhole",
                "from ::/1 to 2001:db8:1::/48 iif wan blackhole",
                "from 8000::/1 to 2001:db8:1::/48 iif wan blackhole",
            ]
        );
    }

    #[test]
    fn rules_are_for_halves_of_everything() {
        let (local, any) = (prefix([10, 1, 0, 0], 16), prefix([0, 0, 0, 0], 0));
        assert_eq!(
            words(&[(local, any)], &[]),
            [
                "unreachable 0.0.0.0/0",
                "from 10.1.0.0/16 lookup 4301",
                "from 0.0.0.0/1 to 10.1.0.0/16 iif wan blackhole",
                "from 128.0.0.0/1 to 10.1.0.0/16 iif wan blackhole",
            ]
        );
        let both = words(&[(any, any)], &[]);
        let starting = |start: &str| both.iter().filter(|part| part.starts_with(start)).count();
        assert_eq!((both.len(), starting("from ")), (7, 6), "{both:?}");
    }
}
