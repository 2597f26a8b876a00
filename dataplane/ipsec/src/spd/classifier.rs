//! Finds the first policy of a flow without looking at all of them.
//!
//! Policies whose selectors fix the same parts of a flow form a *class*: so many leading bits of each address, the
//! protocol or not, each port or not. Within a class the fixed parts are a key into a hash table, so a lookup costs one
//! probe a class, and there are as many classes as an operator has habits, not as policies. Classes are tried in the order
//! of their best policy, and not at all once a better one is found. (V. Srinivasan, S. Suri, G. Varghese: Packet
//! Classification using Tuple Space Search, SIGCOMM 1999.)
//!
//! A range of addresses counts as the shortest prefix around it, a range of ports as any port: policies under one key are
//! chained in their order, and each is held against the whole flow.

use super::{NONE, Order, Rule};
use crate::selector::{AddressRange, Flow, PortRange, Selector};
use std::{collections::HashMap, net::IpAddr};

/// Which parts of a flow a selector fixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    local_bits: u8,
    remote_bits: u8,
    protocol: bool,
    local_port: bool,
    remote_port: bool,
}

/// These parts of one flow; what is not fixed is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    shape: Shape,
    local: u128,
    remote: u128,
    protocol: u8,
    local_port: u16,
    remote_port: u16,
}

/// The policies of one shape.
#[derive(Debug)]
struct Class {
    shape: Shape,
    /// No policy of it comes before this.
    best: Order,
    policies: u32,
}

/// Where policies are found. It names them by their place among the rules, which its caller keeps.
#[derive(Debug)]
pub(super) struct Classifier {
    /// By their best policy.
    classes: Vec<Class>,
    /// The first policy of each key.
    first: HashMap<Key, u32>,
}

impl Classifier {
    /// Room for `capacity` policies; nothing is allocated later.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            classes: Vec::with_capacity(capacity),
            // Twice the room, so that tombstones are swept in place.
            first: HashMap::with_capacity(2 * capacity),
        }
    }

    /// Adds the rule at `place`, which is not in it.
    pub(super) fn insert(&mut self, rules: &mut [Rule], place: u32) {
        let Some(rule) = rules.get(place as usize) else {
            return;
        };
        let (key, order) = (Key::of(&rule.policy.selector), rule.order());
        self.note(key.shape, order);
        let first = self.first.entry(key).or_insert(NONE);
        let mut before = None;
        let mut next = *first;
        while let Some(other) = rules
            .get(next as usize)
            .filter(|other| other.order() < order)
        {
            (before, next) = (Some(next), other.next_alike);
        }
        match before.and_then(|before| rules.get_mut(before as usize)) {
            Some(before) => before.next_alike = place,
            None => *first = place,
        }
        if let Some(rule) = rules.get_mut(place as usize) {
            rule.next_alike = next;
        }
    }

    /// Takes the rule at `place` out again.
    pub(super) fn remove(&mut self, rules: &mut [Rule], place: u32) {
        let Some(rule) = rules.get(place as usize) else {
            return;
        };
        let (key, after) = (Key::of(&rule.policy.selector), rule.next_alike);
        let Some(first) = self.first.get_mut(&key) else {
            return;
        };
        if *first == place {
            *first = after;
            if after == NONE {
                self.first.remove(&key);
            }
        } else {
            let mut next = *first;
            while let Some(other) = rules.get_mut(next as usize) {
                next = other.next_alike;
                if next == place {
                    other.next_alike = after;
                }
            }
        }
        self.forget(key.shape);
    }

    /// The place of the first policy that selects a flow.
    pub(super) fn find(&self, rules: &[Rule], flow: &Flow) -> Option<u32> {
        let mut found: Option<(Order, u32)> = None;
        for class in &self.classes {
            if found.is_some_and(|(order, _)| order < class.best) {
                break;
            }
            let first = Key::cut(class.shape, flow).and_then(|key| self.first.get(&key));
            let mut next = first.copied().unwrap_or(NONE);
            while let Some(rule) = rules.get(next as usize) {
                if found.is_some_and(|(order, _)| order < rule.order()) {
                    break;
                }
                if rule.policy.selector.matches(flow) {
                    found = Some((rule.order(), next));
                    break;
                }
                next = rule.next_alike;
            }
        }
        found.map(|(_, place)| place)
    }

    #[cfg(test)]
    pub(super) fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Counts a policy into its class.
    fn note(&mut self, shape: Shape, order: Order) {
        let known = self.classes.iter().position(|class| class.shape == shape);
        let class = match known {
            // It moves only if it got better.
            Some(at)
                if self
                    .classes
                    .get(at)
                    .is_some_and(|class| class.best <= order) =>
            {
                if let Some(class) = self.classes.get_mut(at) {
                    class.policies += 1;
                }
                return;
            }
            Some(at) => Class {
                best: order,
                policies: self.classes.remove(at).policies + 1,
                shape,
            },
            None => Class {
                shape,
                best: order,
                policies: 1,
            },
        };
        let at = self.classes.partition_point(|other| other.best < order);
        self.classes.insert(at, class);
    }

    /// Counts a policy out of its class. The class keeps its place, though it may have lost its best.
    fn forget(&mut self, shape: Shape) {
        let Some(at) = self.classes.iter().position(|class| class.shape == shape) else {
            return;
        };
        if let Some(class) = self.classes.get_mut(at) {
            class.policies -= 1;
            if class.policies == 0 {
                self.classes.remove(at);
            }
        }
    }
}

impl Key {
    /// What a selector fixes.
    fn of(selector: &Selector) -> Self {
        let shape = Shape {
            local_bits: common_bits(&selector.local),
            remote_bits: common_bits(&selector.remote),
            protocol: selector.protocol.is_some(),
            local_port: selector.local_ports.single().is_some(),
            remote_port: selector.remote_ports.single().is_some(),
        };
        let port = |ports: PortRange| ports.single().unwrap_or_default();
        Self {
            shape,
            local: leading(selector.local.first(), shape.local_bits),
            remote: leading(selector.remote.first(), shape.remote_bits),
            protocol: selector.protocol.unwrap_or_default(),
            local_port: port(selector.local_ports),
            remote_port: port(selector.remote_ports),
        }
    }

    /// What a flow has there; `None` when it has no ports, and so no selector that fixes one selects it.
    fn cut(shape: Shape, flow: &Flow) -> Option<Self> {
        if flow.ports.is_none() && (shape.local_port || shape.remote_port) {
            return None;
        }
        let (local_port, remote_port) = flow.ports.unwrap_or_default();
        Some(Self {
            shape,
            local: leading(flow.local, shape.local_bits),
            remote: leading(flow.remote, shape.remote_bits),
            protocol: if shape.protocol { flow.protocol } else { 0 },
            local_port: if shape.local_port { local_port } else { 0 },
            remote_port: if shape.remote_port { remote_port } else { 0 },
        })
    }
}

/// An address as a number. IPv4 lies where it is mapped in IPv6 (RFC 4291 2.5.5.2); a policy for those is told from one for
/// IPv4 when it is held against the flow.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// How many bits all addresses of a range begin with.
fn common_bits(range: &AddressRange) -> u8 {
    let differ = number(range.first()) ^ number(range.last());
    // At most 128.
    differ.leading_zeros() as u8
}

/// The first bits of an address.
fn leading(address: IpAddr, bits: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits));
    number(address) & mask.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn range(first: [u8; 4], last: [u8; 4]) -> AddressRange {
        AddressRange::new(first.into(), last.into()).unwrap()
    }

    #[test]
    fn a_range_counts_as_the_prefix_around_it() {
        let net = range([10, 1, 0, 0], [10, 1, 255, 255]);
        assert_eq!(common_bits(&net), 96 + 16);
        assert_eq!(common_bits(&range([10, 1, 2, 3], [10, 1, 2, 3])), 128);
        assert_eq!(common_bits(&range([10, 1, 2, 3], [10, 1, 2, 4])), 96 + 29);
        assert_eq!(common_bits(&range([0; 4], [255; 4])), 96);
        let inside = IpAddr::V4(Ipv4Addr::new(10, 1, 7, 9));
        assert_eq!(leading(inside, 112), leading(net.first(), 112));
        assert_eq!(leading(inside, 0), 0);
        assert_eq!(leading(inside, 128), number(inside));
    }
}
