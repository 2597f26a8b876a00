//! The kernel's guard: unreachable routes for what the tunnels protect, so that no plaintext leaves when the dataplane
//! is dead and the kernel forwards (RFC 4301 3.1: what is to be protected is never sent in the clear).
//!
//! A table of our own, 4301, holds an `unreachable` route for every protected remote prefix; for every protected local
//! prefix a rule of preference 4301 `from PREFIX lookup 4301` precedes the main table. The guard outlives both planes and
//! is adopted at the next start. It is stricter than the pairs that are protected: with two tunnels, it also stops what
//! goes from the one's local prefix to the other's remote one. Nothing outside that table and that preference is
//! touched.
//!
//! Where a remote prefix covers a network that is attached to the gateway itself (a remote of 0.0.0.0/0 covers all of
//! them), a `throw` route for that network sends the lookup on to the main table: otherwise the gateway could not answer
//! the hosts of its own LAN.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use esplanade_config::Prefix;
use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
            RouteType,
        },
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use crate::netlink::{self, Error};

/// The routing table that is ours, and the preference of our rules.
pub const TABLE: u32 = 4301;

/// What the guard shall protect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The protected traffic: a local and a remote prefix each.
    pub pairs: BTreeSet<(Prefix, Prefix)>,
    /// The networks that are directly on the gateway's inside ports.
    pub attached: BTreeSet<Prefix>,
}

/// What [`Wanted`] means for the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    routes: BTreeMap<Prefix, RouteType>,
    rules: BTreeSet<Prefix>,
}

impl Plan {
    fn new(wanted: &Wanted) -> Self {
        let remote: BTreeSet<Prefix> = wanted.pairs.iter().map(|(_, remote)| *remote).collect();
        let covered = wanted.attached.iter().filter(|attached| {
            let covers = |remote: &Prefix| {
                remote.length() < attached.length() && remote.contains(attached.address())
            };
            remote.iter().any(covers) && !remote.contains(attached)
        });
        let throw = covered.map(|prefix| (*prefix, RouteType::Throw));
        Self {
            routes: remote
                .iter()
                .map(|prefix| (*prefix, RouteType::Unreachable))
                .chain(throw)
                .collect(),
            rules: wanted
                .pairs
                .iter()
                .flat_map(|(local, _)| rule_prefixes(*local))
                .collect(),
        }
    }
}

/// What the rules for a prefix are from. The kernel takes a rule from 0.0.0.0/0 for the same as any other of its table
/// and preference, so that becomes one for each half.
fn rule_prefixes(prefix: Prefix) -> Vec<Prefix> {
    if prefix.length() > 0 {
        return vec![prefix];
    }
    let halves = [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(128, 0, 0, 0)];
    halves
        .iter()
        .filter_map(|half| Prefix::containing(*half, 1))
        .collect()
}

/// The guard of the network namespace in which it was opened.
pub struct Guard {
    handle: Handle,
}

impl Guard {
    /// Opens the way to the kernel. Changes nothing.
    ///
    /// # Errors
    ///
    /// If there is no netlink socket to be had. Needs a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            handle: netlink::connect()?,
        })
    }

    /// Makes the guard exactly this. What is there already is adopted; what is new stands before what is no longer wanted
    /// goes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a part of it; what was there before stays then.
    pub async fn apply(&self, wanted: &Wanted) -> Result<(), Error> {
        /// The kernel takes away the first rule that fits; a wide one of a stranger in our table can make it one of ours,
        /// so that what was done is looked at again.
        const ROUNDS: usize = 4;
        let plan = Plan::new(wanted);
        for _ in 0..ROUNDS {
            if !self.approach(&plan).await? {
                break;
            }
        }
        Ok(())
    }

    /// Does what lacks for the plan; false if nothing does.
    async fn approach(&self, plan: &Plan) -> Result<bool, Error> {
        let mut acted = false;
        let (routes, rules) = (self.routes().await?, self.rules().await?);
        for (prefix, kind) in &plan.routes {
            if !routes.iter().any(|route| is_route(route, prefix, *kind)) {
                self.add_route(prefix, *kind).await?;
                acted = true;
            }
        }
        for prefix in &plan.rules {
            if !rules.iter().any(|rule| is_rule(rule, prefix)) {
                self.add_rule(prefix).await?;
                acted = true;
            }
        }
        let mut kept = BTreeSet::new();
        for rule in rules {
            // A rule that stands there twice is kept once.
            let wanted = plan.rules.iter().find(|prefix| is_rule(&rule, prefix));
            if !wanted.is_some_and(|prefix| kept.insert(*prefix)) {
                self.delete_rule(rule).await?;
                acted = true;
            }
        }
        for route in routes {
            let prefix = route_prefix(&route);
            // One of another kind was replaced above.
            if route_metric(&route) != 0
                || !prefix.is_some_and(|prefix| plan.routes.contains_key(&prefix))
            {
                self.delete_route(route).await?;
                acted = true;
            }
        }
        Ok(acted)
    }

    /// Takes the guard away.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub async fn clear(&self) -> Result<(), Error> {
        self.apply(&Wanted::default()).await
    }

    async fn routes(&self) -> Result<Vec<RouteMessage>, Error> {
        let all = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute();
        let ours = all.try_filter(|route| std::future::ready(route_table(route) == TABLE));
        ours.try_collect()
            .await
            .map_err(Error::refused("tell its routes"))
    }

    async fn rules(&self) -> Result<Vec<RuleMessage>, Error> {
        let all = self.handle.rule().get(IpVersion::V4).execute();
        let ours = all.try_filter(|rule| std::future::ready(is_ours(rule)));
        ours.try_collect()
            .await
            .map_err(Error::refused("tell its rules"))
    }

    async fn add_route(&self, prefix: &Prefix, kind: RouteType) -> Result<(), Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = prefix.length();
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = kind;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(prefix.address())),
            RouteAttribute::Table(TABLE),
        ];
        let refused = Error::refused(format!("guard {prefix} in table {TABLE}"));
        self.handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .map_err(refused)
    }

    async fn add_rule(&self, prefix: &Prefix) -> Result<(), Error> {
        let mut request = self
            .handle
            .rule()
            .add()
            .v4()
            .action(RuleAction::ToTable)
            .table_id(TABLE)
            .priority(TABLE);
        let message = request.message_mut();
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.header.src_len = prefix.length();
        if prefix.length() > 0 {
            message
                .attributes
                .push(RuleAttribute::Source(IpAddr::V4(prefix.address())));
        }
        let refused = Error::refused(format!("guard what comes from {prefix} by a rule"));
        request.execute().await.map_err(refused)
    }

    async fn delete_rule(&self, rule: RuleMessage) -> Result<(), Error> {
        let refused = Error::refused(format!("take away a rule of preference {TABLE}"));
        self.handle
            .rule()
            .del(rule)
            .execute()
            .await
            .map_err(refused)
    }

    async fn delete_route(&self, mut route: RouteMessage) -> Result<(), Error> {
        route.header.flags = Default::default();
        let refused = Error::refused(format!("take away a route of table {TABLE}"));
        self.handle
            .route()
            .del(route)
            .execute()
            .await
            .map_err(refused)
    }
}

fn route_table(route: &RouteMessage) -> u32 {
    let attribute = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    attribute.unwrap_or(route.header.table.into())
}

fn route_metric(route: &RouteMessage) -> u32 {
    let attribute = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
    attribute.unwrap_or(0)
}

fn route_prefix(route: &RouteMessage) -> Option<Prefix> {
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
            _ => None,
        });
    Prefix::containing(
        address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        route.header.destination_prefix_length,
    )
}

fn is_route(route: &RouteMessage, prefix: &Prefix, kind: RouteType) -> bool {
    route_prefix(route).as_ref() == Some(prefix)
        && route.header.kind == kind
        && route.header.tos == 0
        && route_metric(route) == 0
}

/// Of our preference, and to our table.
fn is_ours(rule: &RuleMessage) -> bool {
    let has = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
    has(&RuleAttribute::Priority(TABLE)) && has(&RuleAttribute::Table(TABLE))
}

/// Is it `from PREFIX lookup 4301`, and nothing else?
fn is_rule(rule: &RuleMessage, prefix: &Prefix) -> bool {
    let narrows = |attribute: &RuleAttribute| {
        !matches!(
            attribute,
            RuleAttribute::Source(_)
                | RuleAttribute::Priority(_)
                | RuleAttribute::Table(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressPrefixLen(u32::MAX)
                | RuleAttribute::L3MDev(false)
        )
    };
    let source = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Source(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
    let from = Prefix::containing(source.unwrap_or(Ipv4Addr::UNSPECIFIED), rule.header.src_len);
    let header = &rule.header;
    from.as_ref() == Some(prefix)
        && header.action == RuleAction::ToTable
        && header.flags.is_empty()
        && (header.dst_len, header.tos) == (0, 0)
        && !rule.attributes.iter().any(narrows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(octets: [u8; 4], length: u8) -> Prefix {
        Prefix::containing(octets.into(), length).unwrap()
    }

    #[test]
    fn attached_networks_are_let_through_only_where_a_remote_prefix_covers_them() {
        let local = prefix([10, 1, 0, 0], 16);
        let (inside, elsewhere) = (prefix([10, 1, 0, 0], 24), prefix([172, 16, 0, 0], 24));
        let any = prefix([0, 0, 0, 0], 0);
        let attached = BTreeSet::from([inside, elsewhere]);
        let plan = |pairs: &[(Prefix, Prefix)]| {
            Plan::new(&Wanted {
                pairs: pairs.iter().copied().collect(),
                attached: attached.clone(),
            })
        };
        let everything = plan(&[(local, any)]);
        assert_eq!(everything.routes.len(), 3);
        assert_eq!(everything.routes[&inside], RouteType::Throw);
        assert_eq!(everything.rules, [local].into());
        let remote = prefix([10, 2, 0, 0], 16);
        let narrow = plan(&[(local, remote), (local, inside)]);
        assert_eq!(
            narrow.routes,
            [
                (remote, RouteType::Unreachable),
                (inside, RouteType::Unreachable)
            ]
            .into()
        );
    }
}
