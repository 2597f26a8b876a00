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

use super::{
    CHOSEN_PREFERENCE, MARK, OWN_PREFERENCE, OWN_TABLE, TABLE, UNCHOSEN_PREFERENCE, part::Part,
};

/// Table and preference of the guard, and of the gateway's own traffic: with a source address that it has chosen or without.
const GUARD: (u32, u32) = (TABLE, TABLE);
const OWN: (u32, u32) = (OWN_TABLE, OWN_PREFERENCE);
const CHOSEN: (u32, u32) = (OWN_TABLE, CHOSEN_PREFERENCE);
const UNCHOSEN: (u32, u32) = (OWN_TABLE, UNCHOSEN_PREFERENCE);
const PLACES: [(u32, u32); 4] = [GUARD, OWN, CHOSEN, UNCHOSEN];
/// The metric of what holds while no better route is there.
const LAST: u32 = OWN_TABLE;
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
            Part::OwnUnreachable(prefix) => {
                Self::Route(route_of(*prefix, RouteType::Unreachable, OWN_TABLE, LAST))
            }
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
            Part::OwnOutgoing(prefix) => Self::Rule(unmarked_of_the_gateway(*prefix, OWN)),
            Part::OwnChosen(half) => {
                let mut rule = rule(RuleAction::Goto, *half, CHOSEN);
                rule.attributes.push(RuleAttribute::Goto(OWN_PREFERENCE));
                Self::Rule(rule)
            }
            Part::OwnUnchosen(all) => Self::Rule(unmarked_of_the_gateway(*all, UNCHOSEN)),
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
    route_of(prefix, kind, table, metric(prefix.address()))
}

fn route_of(prefix: Prefix, kind: RouteType, table: u32, metric: u32) -> RouteMessage {
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
        RouteAttribute::Priority(metric),
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

/// A rule for what the gateway itself sends from a prefix.
fn unmarked_of_the_gateway(from: Prefix, place: (u32, u32)) -> RuleMessage {
    let mut rule = rule(RuleAction::ToTable, from, place);
    rule.attributes.extend([
        RuleAttribute::Iifname(LOOPBACK.to_owned()),
        RuleAttribute::FwMask(MARK),
    ]);
    rule
}

/// A rule for what comes from a prefix. A blackhole, and one that goes on at another, look nothing up in our table: it is named
/// there to say whose the rule is.
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
    if route.header.tos != 0 || route.header.source_prefix_length != 0 {
        return None;
    }
    let last = table(route) == OWN_TABLE && route.header.kind == RouteType::Unreachable;
    if found_metric != if last { LAST } else { metric(destination) } {
        return None;
    }
    let prefix = Prefix::containing(destination, route.header.destination_prefix_length)?;
    match (table(route), route.header.kind, interface) {
        (TABLE, RouteType::Throw, _) => Some(Part::Throw(prefix)),
        (TABLE, RouteType::Unreachable, _) => Some(Part::Unreachable(prefix)),
        (OWN_TABLE, RouteType::Throw, _) => Some(Part::OwnThrow(prefix)),
        (OWN_TABLE, RouteType::Unreachable, _) => Some(Part::OwnUnreachable(prefix)),
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
    let (mut unmarked, mut target) = (false, None);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Source(address) => source = *address,
            RuleAttribute::Destination(address) => destination = *address,
            RuleAttribute::Iifname(name) => interface = Some(name.clone()),
            RuleAttribute::FwMask(MARK) => unmarked = true,
            RuleAttribute::Goto(preference) => target = Some(*preference),
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
    // A rule for an interface that is not there waits for it, and one that goes on at another for that.
    let waits = RuleFlags::IifDetached | RuleFlags::Unresolved;
    if header.tos != 0 || !header.flags.difference(waits).is_empty() {
        return None;
    }
    let from = Prefix::containing(source, header.src_len)?;
    let to = Prefix::containing(destination, header.dst_len)?;
    if is_of(rule, CHOSEN) {
        let goes_on = header.action == RuleAction::Goto && target == Some(OWN_PREFERENCE);
        let is_all = interface.is_none() && !unmarked && to.length() == 0;
        return (goes_on && is_all).then_some(Part::OwnChosen(from));
    }
    let part_of_own = match (is_of(rule, OWN), is_of(rule, UNCHOSEN)) {
        (true, _) => Some(Part::OwnOutgoing(from)),
        (_, true) => Some(Part::OwnUnchosen(from)),
        _ => None,
    };
    match (header.action, interface) {
        (RuleAction::ToTable, Some(interface)) => {
            let ours = unmarked && interface == LOOPBACK && to.length() == 0;
            part_of_own.filter(|_| ours)
        }
        _ if part_of_own.is_some() => None,
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
    PLACES.iter().any(|place| is_of(rule, *place))
}

/// The preference of a rule of ours.
pub(super) fn preference(rule: &RuleMessage) -> u32 {
    let place = PLACES.iter().find(|place| is_of(rule, **place));
    place.map_or(TABLE, |(_, preference)| *preference)
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
                Part::OwnUnreachable(far),
                Part::OwnChosen(near),
                Part::OwnUnchosen(near),
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
