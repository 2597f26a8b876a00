//! The parts of the guard as rtnetlink's messages, there and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use esplanade_config::Prefix;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use super::{MARK, OWN_PREFERENCE, OWN_TABLE, TABLE, part::Part};

/// Table and preference of the guard, and of the gateway's own traffic.
const GUARD: (u32, u32) = (TABLE, TABLE);
const OWN: (u32, u32) = (OWN_TABLE, OWN_PREFERENCE);
/// Where the kernel has packets come from that the gateway itself sends.
const LOOPBACK: &str = "lo";

/// A route or a rule as the kernel has it.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A route of table 4301.
    Route(RouteMessage),
    /// A rule of preference 4301 and that table.
    Rule(RuleMessage),
}

impl Message {
    /// The message that has the kernel add a part.
    pub(super) fn new(part: &Part) -> Self {
        match part {
            Part::Throw(prefix) => Self::Route(route(*prefix, RouteType::Throw, TABLE)),
            Part::Unreachable(prefix) => Self::Route(route(*prefix, RouteType::Unreachable, TABLE)),
            Part::OwnThrow(prefix) => Self::Route(route(*prefix, RouteType::Throw, OWN_TABLE)),
            Part::Own {
                remote,
                tap,
                source,
            } => {
                let mut route = route(*remote, RouteType::Unicast, OWN_TABLE);
                route.header.scope = RouteScope::Link;
                route.attributes.extend([
                    RouteAttribute::Oif(*tap),
                    RouteAttribute::PrefSource(route_address(*source)),
                ]);
                Self::Route(route)
            }
            Part::Outgoing(prefix) => Self::Rule(rule(RuleAction::ToTable, *prefix, GUARD)),
            Part::OutgoingUnmarked(prefix) => {
                let mut rule = rule(RuleAction::ToTable, *prefix, GUARD);
                // A mark of 0 under this mask.
                rule.attributes.push(RuleAttribute::FwMask(MARK));
                Self::Rule(rule)
            }
            Part::OwnOutgoing(prefix) => {
                let mut rule = rule(RuleAction::ToTable, *prefix, OWN);
                rule.attributes.extend([
                    RuleAttribute::Iifname(LOOPBACK.to_owned()),
                    RuleAttribute::FwMask(MARK),
                ]);
                Self::Rule(rule)
            }
            Part::Incoming {
                interface,
                remote,
                local,
            } => {
                // An ICMP error would go to whom the sender claimed to be.
                let mut rule = rule(RuleAction::Blackhole, *remote, GUARD);
                rule.header.dst_len = local.length();
                rule.attributes.extend([
                    RuleAttribute::Destination(local.address()),
                    RuleAttribute::Iifname(interface.clone()),
                ]);
                Self::Rule(rule)
            }
        }
    }

    /// The part that this is, and nothing less or more.
    pub(super) fn part(&self) -> Option<Part> {
        match self {
            Self::Route(route) => route_part(route),
            Self::Rule(rule) => rule_part(rule),
        }
    }
}

fn route(prefix: Prefix, kind: RouteType, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix);
    message.header.destination_prefix_length = prefix.length();
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = kind;
    message.attributes = vec![
        RouteAttribute::Destination(route_address(prefix.address())),
        RouteAttribute::Table(table),
        RouteAttribute::Priority(metric(prefix.address())),
    ];
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn family(prefix: Prefix) -> AddressFamily {
    if prefix.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

/// The metric of our routes: what the kernel gives to one without. IPv6 knows no 0.
fn metric(address: IpAddr) -> u32 {
    const IP6_RT_PRIO_USER: u32 = 1024;
    if address.is_ipv4() {
        0
    } else {
        IP6_RT_PRIO_USER
    }
}

/// All addresses of a family begin with this.
fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

/// A rule for what comes from a prefix. That of a blackhole looks nothing up in our table: it is named there to say whose
/// the rule is.
fn rule(action: RuleAction, from: Prefix, (table, preference): (u32, u32)) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(from);
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.action = action;
    message.header.src_len = from.length();
    message.attributes = vec![
        RuleAttribute::Table(table),
        RuleAttribute::Priority(preference),
        RuleAttribute::Source(from.address()),
    ];
    message
}

fn route_part(route: &RouteMessage) -> Option<Part> {
    let mut destination = unspecified(route.header.address_family)?;
    let mut found_metric = 0;
    let (mut interface, mut preferred) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_address(address)?,
            RouteAttribute::Priority(value) => found_metric = *value,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::PrefSource(address) => preferred = ip_address(address),
            _ => {}
        }
    }
    let is_narrower = route.header.tos != 0 || route.header.source_prefix_length != 0;
    if is_narrower || found_metric != metric(destination) {
        return None;
    }
    let prefix = Prefix::containing(destination, route.header.destination_prefix_length)?;
    match (table(route), route.header.kind, interface) {
        (TABLE, RouteType::Throw, _) => Some(Part::Throw(prefix)),
        (TABLE, RouteType::Unreachable, _) => Some(Part::Unreachable(prefix)),
        (OWN_TABLE, RouteType::Throw, _) => Some(Part::OwnThrow(prefix)),
        (OWN_TABLE, RouteType::Unicast, Some(tap)) => Some(Part::Own {
            remote: prefix,
            tap,
            source: preferred?,
        }),
        _ => None,
    }
}

fn rule_part(rule: &RuleMessage) -> Option<Part> {
    let any = unspecified(rule.header.family)?;
    let (mut source, mut destination) = (any, any);
    let mut interface = None;
    let mut unmarked = false;
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Source(address) => source = *address,
            RuleAttribute::Destination(address) => destination = *address,
            RuleAttribute::Iifname(name) => interface = Some(name.clone()),
            RuleAttribute::FwMask(MARK) => unmarked = true,
            RuleAttribute::Priority(_)
            | RuleAttribute::Table(_)
            | RuleAttribute::Protocol(_)
            | RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::L3MDev(false) => {}
            // Whatever else there is makes it narrower.
            _ => return None,
        }
    }
    let header = &rule.header;
    // A rule for an interface that is not there waits for it.
    let waits = RuleFlags::IifDetached;
    if header.tos != 0 || !header.flags.difference(waits).is_empty() {
        return None;
    }
    let from = Prefix::containing(source, header.src_len)?;
    let to = Prefix::containing(destination, header.dst_len)?;
    let own = is_of(rule, OWN);
    match (header.action, interface) {
        (RuleAction::ToTable, Some(interface)) => {
            let ours = own && unmarked && interface == LOOPBACK && to.length() == 0;
            ours.then_some(Part::OwnOutgoing(from))
        }
        _ if own => None,
        (RuleAction::ToTable, None) if to.length() == 0 => Some(if unmarked {
            Part::OutgoingUnmarked(from)
        } else {
            Part::Outgoing(from)
        }),
        (RuleAction::Blackhole, Some(interface)) if !unmarked => Some(Part::Incoming {
            interface,
            remote: from,
            local: to,
        }),
        _ => None,
    }
}

/// Whether a route is of a table of ours.
pub(super) fn is_our_route(route: &RouteMessage) -> bool {
    [TABLE, OWN_TABLE].contains(&table(route))
}

/// The table of a route.
pub(super) fn table(route: &RouteMessage) -> u32 {
    let attribute = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    attribute.unwrap_or(route.header.table.into())
}

/// Whether a rule is of a preference of ours, and to its table.
pub(super) fn is_our_rule(rule: &RuleMessage) -> bool {
    is_of(rule, GUARD) || is_of(rule, OWN)
}

/// The preference of a rule of ours.
pub(super) fn preference(rule: &RuleMessage) -> u32 {
    if is_of(rule, OWN) {
        OWN_PREFERENCE
    } else {
        TABLE
    }
}

fn is_of(rule: &RuleMessage, (table, preference): (u32, u32)) -> bool {
    let has = |wanted: &RuleAttribute| rule.attributes.contains(wanted);
    has(&RuleAttribute::Priority(preference)) && has(&RuleAttribute::Table(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_known_again_and_nothing_narrower_is_taken_for_it() {
        let prefix = |text: &str, length| {
            Prefix::containing(text.parse::<IpAddr>().unwrap(), length).unwrap()
        };
        let families = [
            (prefix("10.1.0.0", 16), prefix("10.2.0.0", 16)),
            (prefix("2001:db8:1::", 48), prefix("2001:db8:2::", 48)),
        ];
        let parts = families.into_iter().flat_map(|(near, far)| {
            [
                Part::Throw(near),
                Part::Unreachable(far),
                Part::Outgoing(near),
                Part::OutgoingUnmarked(near),
                Part::OwnOutgoing(near),
                Part::OwnThrow(near),
                Part::Own {
                    remote: far,
                    tap: 9,
                    source: near.address(),
                },
                Part::Incoming {
                    interface: "eth2".to_owned(),
                    remote: far,
                    local: near,
                },
            ]
        });
        for part in parts {
            let message = Message::new(&part);
            assert_eq!(message.part(), Some(part.clone()));
            let narrower = match message {
                Message::Route(mut route) => {
                    route.attributes.push(RouteAttribute::Priority(7));
                    Message::Route(route)
                }
                Message::Rule(mut rule) => {
                    let mut inverted = rule.clone();
                    inverted.header.flags = RuleFlags::Invert;
                    assert_eq!(Message::Rule(inverted).part(), None, "{part}");
                    rule.attributes.push(RuleAttribute::FwMark(7));
                    Message::Rule(rule)
                }
            };
            assert_eq!(narrower.part(), None, "{part}");
        }
    }
}
