//! What the guard consists of, and which parts of it are wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use esplanade_config::Prefix;

use super::{MARK, OWN_PREFERENCE, OWN_TABLE, Own, TABLE, Wanted};

/// One thing that the guard puts into the kernel. In the order in which they are put there: no rule leads to a table
/// that is not complete yet, and no network is let through before its parts are kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A route that ends the lookup.
    Unreachable(Prefix),
    /// A route that sends the lookup on to the main table.
    Throw(Prefix),
    /// A route of the gateway's own traffic that sends the lookup on to the main table.
    OwnThrow(Prefix),
    /// A route of the gateway's own traffic, through the TAP.
    Own {
        remote: Prefix,
        tap: u32,
        source: IpAddr,
    },
    /// A route of the gateway's own traffic that ends the lookup while there is no TAP.
    OwnUnreachable(Prefix),
    /// A rule that has what comes from a local prefix looked up in our table.
    Outgoing(Prefix),
    /// The same, but not for marked packets.
    OutgoingUnmarked(Prefix),
    /// A rule that has what the gateway sends from a local prefix looked up in the table of its own traffic, but not marked
    /// packets.
    OwnOutgoing(Prefix),
    /// A rule for half of IPv6 that spares who has a source address there the next one.
    OwnChosen(Prefix),
    /// A rule that has what the gateway sends over IPv6, which is all of this prefix, looked up in the table of its own traffic, but
    /// not marked packets.
    OwnUnchosen(Prefix),
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
                parts.insert(match wanted.own {
                    None => Self::Outgoing(local),
                    Some(_) => Self::OutgoingUnmarked(local),
                });
                for remote in rule_prefixes(*remote) {
                    parts.extend(wanted.outside.iter().map(|interface| Self::Incoming {
                        interface: interface.clone(),
                        remote,
                        local,
                    }));
                }
            }
        }
        parts.extend(
            wanted
                .own
                .iter()
                .flat_map(|own| own_parts(own, &wanted.attached)),
        );
        parts
    }
}

/// IPv6's addresses of every link, attached wherever there is a link. No kernel forwards packets to these.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
const LINK_LOCAL_LENGTH: u8 = 10;

/// The routes and rules of the gateway's own traffic. Those through the TAP are there while it is.
fn own_parts(own: &Own, attached: &BTreeSet<Prefix>) -> BTreeSet<Part> {
    let mut routes = BTreeMap::new();
    let mut parts = BTreeSet::new();
    for (local, remote, source) in &own.traffic {
        routes.entry(*remote).or_insert(*source);
        let locals = rule_prefixes(*local);
        parts.extend(locals.into_iter().map(Part::OwnOutgoing));
        parts.extend(unchosen(remote.is_ipv4()));
        let covered = attached.iter().filter(|attached| {
            remote.length() < attached.length() && remote.contains(attached.address())
        });
        parts.extend(covered.map(|attached| Part::OwnThrow(*attached)));
    }
    for (remote, source) in routes {
        parts.insert(Part::OwnUnreachable(remote));
        parts.extend(own.tap.map(|tap| Part::Own {
            remote,
            tap,
            source,
        }));
    }
    parts
}

/// The rules for who has not chosen a source address yet, and gets the route's. IPv4's looks routes up from 0.0.0.0. IPv6's looks
/// them up without one, and then no rule with a source fits: one without is left for it by those who have one.
fn unchosen(ipv4: bool) -> Vec<Part> {
    if ipv4 {
        let unspecified = Prefix::host(Ipv4Addr::UNSPECIFIED.into());
        return vec![Part::OwnOutgoing(unspecified)];
    }
    let all = Prefix::containing(Ipv6Addr::UNSPECIFIED, 0);
    let halves = all.into_iter().flat_map(rule_prefixes);
    halves
        .map(Part::OwnChosen)
        .chain(all.map(Part::OwnUnchosen))
        .collect()
}

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
            Self::OwnThrow(prefix) => write!(f, "throw {prefix} table {OWN_TABLE}"),
            Self::Own {
                remote,
                tap,
                source,
            } => write!(f, "{remote} dev {tap} src {source} table {OWN_TABLE}"),
            Self::OwnUnreachable(prefix) => {
                write!(f, "unreachable {prefix} table {OWN_TABLE}")
            }
            Self::Outgoing(prefix) => write!(f, "from {prefix} lookup {TABLE}"),
            Self::OutgoingUnmarked(prefix) => {
                write!(f, "from {prefix} fwmark 0/{MARK:#x} lookup {TABLE}")
            }
            Self::OwnOutgoing(prefix) | Self::OwnUnchosen(prefix) => {
                write!(
                    f,
                    "from {prefix} iif lo fwmark 0/{MARK:#x} lookup {OWN_TABLE}"
                )
            }
            Self::OwnChosen(half) => write!(f, "from {half} goto {OWN_PREFERENCE}"),
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
            ..Wanted::default()
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
    fn the_gateways_own_traffic_goes_by_the_tap_and_ike_does_not() {
        let (near, any) = (prefix([10, 1, 0, 0], 16), prefix([0, 0, 0, 0], 0));
        let (own, peer) = (prefix([192, 0, 2, 1], 32), prefix([192, 0, 2, 2], 32));
        let wanted = |tap| Wanted {
            pairs: [(near, any), (own, peer)].into(),
            attached: [near].into(),
            own: Some(Own {
                tap,
                traffic: [
                    (near, any, [10, 1, 0, 1].into()),
                    (own, peer, [192, 0, 2, 1].into()),
                ]
                .into(),
            }),
            ..Wanted::default()
        };
        let words = |tap| -> Vec<String> {
            let parts = Part::all(&wanted(tap));
            parts.iter().map(Part::to_string).collect()
        };
        let guard = [
            "unreachable 0.0.0.0/0",
            "unreachable 192.0.2.2/32",
            "throw 10.1.0.0/16",
        ];
        let unmarked = [
            "from 10.1.0.0/16 fwmark 0/0x4000000 lookup 4301",
            "from 192.0.2.1/32 fwmark 0/0x4000000 lookup 4301",
        ];
        let thrown = ["throw 10.1.0.0/16 table 4302"];
        let routes = [
            "0.0.0.0/0 dev 7 src 10.1.0.1 table 4302",
            "192.0.2.2/32 dev 7 src 192.0.2.1 table 4302",
        ];
        let held = [
            "unreachable 0.0.0.0/0 table 4302",
            "unreachable 192.0.2.2/32 table 4302",
        ];
        let rules = [
            "from 0.0.0.0/32 iif lo fwmark 0/0x4000000 lookup 4302",
            "from 10.1.0.0/16 iif lo fwmark 0/0x4000000 lookup 4302",
            "from 192.0.2.1/32 iif lo fwmark 0/0x4000000 lookup 4302",
        ];
        assert_eq!(
            words(Some(7)),
            [&guard[..], &thrown, &routes, &held, &unmarked, &rules].concat()
        );
        // Without the TAP none of it leaves in the clear, whether it has a source address or not.
        assert_eq!(
            words(None),
            [&guard[..], &thrown, &held, &unmarked, &rules].concat()
        );
    }

    #[test]
    fn who_has_no_source_address_of_ipv6_has_a_rule_of_its_own() {
        let (near, far) = (prefix6("2001:db8:1::", 48), prefix6("2001:db8:2::", 48));
        let source = "2001:db8:1::1".parse().unwrap();
        let own = Own {
            tap: Some(7),
            traffic: [(near, far, source)].into(),
        };
        let parts = own_parts(&own, &BTreeSet::new());
        let words: Vec<String> = parts.iter().map(Part::to_string).collect();
        assert_eq!(
            words,
            [
                "2001:db8:2::/48 dev 7 src 2001:db8:1::1 table 4302",
                "unreachable 2001:db8:2::/48 table 4302",
                "from 2001:db8:1::/48 iif lo fwmark 0/0x4000000 lookup 4302",
                "from ::/1 goto 4300",
                "from 8000::/1 goto 4300",
                "from ::/0 iif lo fwmark 0/0x4000000 lookup 4302",
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
