//! What Configuration payloads say (RFC 7296 3.15): which addresses a client asks for, and which it is given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::payload::Payload;

/// CFG Types (RFC 7296 3.15).
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

const INTERNAL_IP4_ADDRESS: u16 = 1;
const INTERNAL_IP4_NETMASK: u16 = 2;
const INTERNAL_IP4_DNS: u16 = 3;
const INTERNAL_IP6_ADDRESS: u16 = 8;
const INTERNAL_IP6_DNS: u16 = 10;
const INTERNAL_IP4_SUBNET: u16 = 13;
const INTERNAL_IP6_SUBNET: u16 = 15;

/// What we read of one kind at most, and send of it.
pub const MAX_OF_A_KIND: usize = 16;

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// An address of IPv4, that one if it can be had.
    pub v4: Option<Option<Ipv4Addr>>,
    /// An address of IPv6, that one if it can be had.
    pub v6: Option<Option<Ipv6Addr>>,
    /// A netmask.
    pub netmask: bool,
}

/// What a client is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Its addresses within the tunnel, one of a family at most from us.
    pub addresses: Vec<IpAddr>,
    /// Servers that resolve names.
    pub dns: Vec<IpAddr>,
    /// What is reached through the tunnel: addresses and lengths of prefixes. All, where there is none.
    pub networks: Vec<(IpAddr, u8)>,
}

impl Wish {
    /// What a request asks for; `None` for another kind of payload.
    pub fn read(payload: &Payload) -> Option<Self> {
        let Payload::Configuration {
            kind: REQUEST,
            attributes,
        } = payload
        else {
            return None;
        };
        let mut wish = Self::default();
        for (attribute, value) in attributes {
            match *attribute {
                // RFC 7296 3.15.1: a value in a request is a suggestion, and none or the unspecified address asks for any
                INTERNAL_IP4_ADDRESS if wish.v4.is_none() => {
                    let address = v4(value).filter(|address| !address.is_unspecified());
                    wish.v4 = Some(address);
                }
                INTERNAL_IP6_ADDRESS if wish.v6.is_none() => {
                    let address = v6_prefix(value).map(|(address, _)| address);
                    wish.v6 = Some(address.filter(|address| !address.is_unspecified()));
                }
                INTERNAL_IP4_NETMASK => wish.netmask = true,
                _ => {}
            }
        }
        Some(wish)
    }

    /// The request, with what else a client wants to know.
    pub fn request(&self) -> Payload {
        let mut attributes = Vec::new();
        if let Some(wanted) = self.v4 {
            let value = wanted.map_or_else(Vec::new, |address| address.octets().to_vec());
            attributes.push((INTERNAL_IP4_ADDRESS, value));
            attributes.push((INTERNAL_IP4_DNS, Vec::new()));
            attributes.push((INTERNAL_IP4_SUBNET, Vec::new()));
        }
        if let Some(wanted) = self.v6 {
            let value = wanted.map_or_else(Vec::new, |address| with_length(address, 128));
            attributes.push((INTERNAL_IP6_ADDRESS, value));
            attributes.push((INTERNAL_IP6_DNS, Vec::new()));
            attributes.push((INTERNAL_IP6_SUBNET, Vec::new()));
        }
        Payload::Configuration {
            kind: REQUEST,
            attributes,
        }
    }
}

impl Given {
    /// What a reply gives; `None` for another kind of payload. What makes no sense is left out.
    pub fn read(payload: &Payload) -> Option<Self> {
        let Payload::Configuration {
            kind: REPLY,
            attributes,
        } = payload
        else {
            return None;
        };
        let mut given = Self::default();
        for (attribute, value) in attributes {
            match *attribute {
                INTERNAL_IP4_ADDRESS => keep(&mut given.addresses, v4(value).map(IpAddr::V4)),
                INTERNAL_IP6_ADDRESS => {
                    let address = v6_prefix(value).map(|(address, _)| address.into());
                    keep(&mut given.addresses, address);
                }
                INTERNAL_IP4_DNS => keep(&mut given.dns, v4(value).map(IpAddr::V4)),
                INTERNAL_IP6_DNS => {
                    let octets: Option<[u8; 16]> = value.as_slice().try_into().ok();
                    keep(&mut given.dns, octets.map(IpAddr::from));
                }
                INTERNAL_IP4_SUBNET => keep(&mut given.networks, v4_network(value)),
                INTERNAL_IP6_SUBNET => {
                    let network = v6_prefix(value).map(|(address, len)| (address.into(), len));
                    keep(&mut given.networks, network);
                }
                _ => {}
            }
        }
        given.addresses.retain(|address| is_usable(*address));
        given.dns.retain(|address| is_usable(*address));
        Some(given)
    }

    /// The reply; `netmask` if one was asked for.
    pub fn reply(&self, netmask: bool) -> Payload {
        let mut attributes = Vec::new();
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) => {
                    attributes.push((INTERNAL_IP4_ADDRESS, address.octets().to_vec()));
                    // RFC 7296 3.15.2: what is reached through the tunnel is told by INTERNAL_IP4_SUBNET
                    attributes.extend(netmask.then(|| (INTERNAL_IP4_NETMASK, vec![0xff; 4])));
                }
                IpAddr::V6(address) => {
                    attributes.push((INTERNAL_IP6_ADDRESS, with_length(*address, 128)));
                }
            }
        }
        let servers = self.dns.iter().take(MAX_OF_A_KIND);
        attributes.extend(servers.map(|address| match address {
            IpAddr::V4(address) => (INTERNAL_IP4_DNS, address.octets().to_vec()),
            IpAddr::V6(address) => (INTERNAL_IP6_DNS, address.octets().to_vec()),
        }));
        let networks = self.networks.iter().take(MAX_OF_A_KIND);
        attributes.extend(networks.map(|(address, len)| match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub((*len).into()));
                let octets = [address.octets(), mask.unwrap_or(0).to_be_bytes()];
                (INTERNAL_IP4_SUBNET, octets.concat())
            }
            IpAddr::V6(address) => (INTERNAL_IP6_SUBNET, with_length(*address, *len)),
        }));
        Payload::Configuration {
            kind: REPLY,
            attributes,
        }
    }
}

fn keep<T: PartialEq>(list: &mut Vec<T>, item: Option<T>) {
    if let Some(item) = item
        && list.len() < MAX_OF_A_KIND
        && !list.contains(&item)
    {
        list.push(item);
    }
}

fn is_usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

fn v4(value: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = value.try_into().ok()?;
    Some(octets.into())
}

/// An address and a netmask whose ones come first.
fn v4_network(value: &[u8]) -> Option<(IpAddr, u8)> {
    let (address, mask) = value.split_first_chunk::<4>()?;
    let mask = u32::from_be_bytes(mask.try_into().ok()?);
    let len = mask.leading_ones();
    let whole = mask.count_ones() == len;
    let address = u32::from_be_bytes(*address) & mask;
    whole.then(|| (Ipv4Addr::from(address).into(), len.try_into().unwrap_or(32)))
}

/// An address and the length of its prefix.
fn v6_prefix(value: &[u8]) -> Option<(Ipv6Addr, u8)> {
    let (octets, len) = value.split_first_chunk::<16>()?;
    let &[len @ 0..=128] = len else { return None };
    Some(((*octets).into(), len))
}

fn with_length(address: Ipv6Addr, len: u8) -> Vec<u8> {
    [address.octets().as_slice(), &[len]].concat()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn given() -> impl Strategy<Value = Given> {
        let address = prop_oneof![
            (1_u32..0x7e00_0000).prop_map(|bits| IpAddr::V4(bits.into())),
            (2_u128 << 112..0xff_u128 << 120).prop_map(|bits| IpAddr::V6(bits.into())),
        ];
        let network = prop_oneof![
            (any::<u32>(), 0..=32_u8).prop_map(|(bits, len)| {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                (IpAddr::V4((bits & mask).into()), len)
            }),
            (any::<u128>(), 0..=128_u8).prop_map(|(bits, len)| (IpAddr::V6(bits.into()), len)),
        ];
        let lists = (
            vec(address.clone(), 0..3),
            vec(address, 0..5),
            vec(network, 0..5),
        );
        lists.prop_map(|(addresses, dns, networks)| {
            let mut given = Given::default();
            addresses
                .into_iter()
                .for_each(|one| keep(&mut given.addresses, Some(one)));
            dns.into_iter()
                .for_each(|one| keep(&mut given.dns, Some(one)));
            networks
                .into_iter()
                .for_each(|one| keep(&mut given.networks, Some(one)));
            given
        })
    }

    proptest! {
        #[test]
        fn what_is_given_reads_back(given in given(), netmask: bool) {
            prop_assert_eq!(Given::read(&given.reply(netmask)), Some(given));
        }

        #[test]
        fn what_is_asked_for_reads_back(v4: Option<Option<u32>>, v6: Option<Option<u128>>) {
            let wish = Wish {
                v4: v4.map(|one| one.filter(|bits| *bits != 0).map(Into::into)),
                v6: v6.map(|one| one.filter(|bits| *bits != 0).map(Into::into)),
                netmask: false,
            };
            prop_assert_eq!(Wish::read(&wish.request()), Some(wish));
        }

        /// Who has authenticated may write anything, and is given or believed no more than makes sense.
        #[test]
        fn any_attributes_are_survived(
            kind in 0..5_u8,
            attributes in vec((0..20_u16, vec(any::<u8>(), 0..20)), 0..40)
        ) {
            let payload = Payload::Configuration { kind, attributes };
            let given = Given::read(&payload);
            prop_assert_eq!(given.is_some(), kind == REPLY);
            if let Some(given) = given {
                prop_assert!(given.addresses.len() <= MAX_OF_A_KIND && given.networks.len() <= MAX_OF_A_KIND);
                prop_assert!(given.addresses.iter().all(|address| is_usable(*address)));
            }
            prop_assert_eq!(Wish::read(&payload).is_some(), kind == REQUEST);
        }
    }

    /// The octets of RFC 7296 3.15.1: lengths 0 or 4, 0 or 17, 8.
    #[test]
    fn the_attributes_are_those_of_the_standard() {
        let given = Given {
            addresses: vec!["10.9.0.5".parse().unwrap(), "2001:db8::5".parse().unwrap()],
            dns: vec!["10.1.0.53".parse().unwrap()],
            networks: vec![("10.1.0.0".parse().unwrap(), 16)],
        };
        let Payload::Configuration { kind, attributes } = given.reply(true) else {
            panic!("another payload");
        };
        assert_eq!(kind, 2);
        assert_eq!(attributes[0], (1, vec![10, 9, 0, 5]));
        assert_eq!(attributes[1], (2, vec![255; 4]));
        assert_eq!(
            (attributes[2].0, attributes[2].1.len(), attributes[2].1[16]),
            (8, 17, 128)
        );
        assert_eq!(attributes[3], (3, vec![10, 1, 0, 53]));
        assert_eq!(attributes[4], (13, vec![10, 1, 0, 0, 255, 255, 0, 0]));
        let holes = Payload::Configuration {
            kind: 2,
            attributes: vec![(13, vec![10, 1, 0, 0, 255, 0, 255, 0])],
        };
        assert_eq!(Given::read(&holes), Some(Given::default()));
    }
}
