//! Traffic selectors (RFC 4301 4.4.1.1) and the flows that they select.

use std::net::IpAddr;

/// What the selectors look at in one packet, seen from the gateway: `local` is the protected side, whichever
/// way the packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The address behind this gateway.
    pub local: IpAddr,
    /// The address behind the peer.
    pub remote: IpAddr,
    /// The next layer protocol.
    pub protocol: u8,
    /// Local and remote port; for ICMP both are type and code as one number (RFC 7296 3.13.1). `None` where a
    /// packet has none, such as a fragment that is not the first.
    pub ports: Option<(u16, u16)>,
}

impl Flow {
    /// The same flow seen from the other gateway.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            protocol: self.protocol,
            ports: self.ports.map(|(local, remote)| (remote, local)),
        }
    }

    /// All of the flow, for the flow cache. `None` for one between the families, which no packet has.
    #[inline]
    pub fn key(&self) -> Option<FlowKey> {
        match (self.local, self.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Some(FlowKey::v4(
                local.to_bits(),
                remote.to_bits(),
                self.protocol,
                self.ports,
            )),
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let (local, remote) = (local.to_bits(), remote.to_bits());
                let halves = |bits: u128| [(bits >> 64) as u64, bits as u64];
                let ([a, b], [c, d]) = (halves(local), halves(remote));
                Some(FlowKey::v6([a, b, c, d], self.protocol, self.ports))
            }
            _ => None,
        }
    }
}

/// All of a flow, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowKey {
    /// IPv4.
    V4([u64; 2]),
    /// IPv6.
    V6([u64; 5]),
}

impl FlowKey {
    /// Of a flow of IPv4: local and remote address, and what a [`Flow`] has beside them.
    #[inline(always)]
    pub fn v4(local: u32, remote: u32, protocol: u8, ports: Option<(u16, u16)>) -> Self {
        let addresses = u64::from(local) << 32 | u64::from(remote);
        Self::V4([addresses, upper(protocol, ports)])
    }

    /// Of a flow of IPv6: local and remote address, each in two words, and what a [`Flow`] has beside them.
    #[inline(always)]
    pub fn v6([a, b, c, d]: [u64; 4], protocol: u8, ports: Option<(u16, u16)>) -> Self {
        Self::V6([a, b, c, d, upper(protocol, ports)])
    }
}

/// What a flow has beside addresses, in a word.
#[inline(always)]
fn upper(protocol: u8, ports: Option<(u16, u16)>) -> u64 {
    let (has_ports, local, remote) = match ports {
        Some((local, remote)) => (1, local, remote),
        None => (0, 0, 0),
    };
    u64::from(local) << 48 | u64::from(remote) << 32 | u64::from(protocol) << 16 | has_ports
}

/// Addresses from `first` to `last`, both included and of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// A range; `None` when the ends are of different families or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the address lies within. The other family never does: all of IPv4 sorts before all of IPv6.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port, and packets that have none.
    pub const ANY: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// A range; `None` when the ends are in the wrong order.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The port, if it is one only.
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// RFC 4301 4.4.1.1: only ANY matches a packet whose ports cannot be seen.
    #[inline]
    fn matches(&self, port: Option<u16>) -> bool {
        match port {
            Some(port) => self.first <= port && port <= self.last,
            None => *self == Self::ANY,
        }
    }
}

/// A pair of address and port ranges and a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Selector {
    /// The addresses behind this gateway.
    pub local: AddressRange,
    /// The addresses behind the peer.
    pub remote: AddressRange,
    /// Ports of the local side.
    pub local_ports: PortRange,
    /// Ports of the remote side.
    pub remote_ports: PortRange,
    /// The next layer protocol; `None` is any.
    pub protocol: Option<u8>,
}

impl Selector {
    /// Whether a flow is selected.
    #[inline]
    pub fn matches(&self, flow: &Flow) -> bool {
        self.local.contains(flow.local)
            && self.remote.contains(flow.remote)
            && self
                .protocol
                .is_none_or(|protocol| protocol == flow.protocol)
            && self.local_ports.matches(flow.ports.map(|ports| ports.0))
            && self.remote_ports.matches(flow.ports.map(|ports| ports.1))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            4 => (0u32..8).prop_map(|n| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))),
            2 => (0u128..3).prop_map(|n| IpAddr::V6(Ipv6Addr::from(n << 100 | n))),
        ]
    }

    fn ports() -> impl Strategy<Value = PortRange> {
        prop_oneof![
            Just(PortRange::ANY),
            (0u16..6, 0u16..6).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap()),
        ]
    }

    fn range() -> impl Strategy<Value = AddressRange> {
        (address(), address())
            .prop_filter_map("one family", |(a, b)| AddressRange::new(a.min(b), a.max(b)))
    }

    /// Few values, so that selectors and flows meet.
    pub(crate) fn selector() -> impl Strategy<Value = Selector> {
        (range(), range(), ports(), ports(), prop::option::of(0u8..3)).prop_map(
            |(local, remote, local_ports, remote_ports, protocol)| Selector {
                local,
                remote,
                local_ports,
                remote_ports,
                protocol,
            },
        )
    }

    pub(crate) fn flow() -> impl Strategy<Value = Flow> {
        (
            address(),
            address(),
            0u8..3,
            prop::option::of((0u16..6, 0u16..6)),
        )
            .prop_map(|(local, remote, protocol, ports)| Flow {
                local,
                remote,
                protocol,
                ports,
            })
    }

    proptest! {
        #[test]
        fn different_flows_have_different_keys(a in flow(), b in flow()) {
            if let (Some(x), Some(y)) = (a.key(), b.key()) {
                prop_assert_eq!(a == b, x == y);
            }
        }

        #[test]
        fn reversing_twice_changes_nothing(a in flow()) {
            prop_assert_eq!(a.reversed().reversed(), a);
        }
    }

    #[test]
    fn ranges_are_of_one_family_and_in_order() {
        let (v4, v6) = (
            IpAddr::from([10, 0, 0, 1]),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        );
        assert!(AddressRange::new(v4, v6).is_none());
        assert!(AddressRange::new(IpAddr::from([10, 0, 0, 2]), v4).is_none());
        assert!(!AddressRange::new(v4, v4).unwrap().contains(v6));
    }

    #[test]
    fn hidden_ports_match_any_only() {
        assert!(PortRange::ANY.matches(None));
        assert!(!PortRange::new(0, 65534).unwrap().matches(None));
    }
}
