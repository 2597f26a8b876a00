//! Prefixes and traffic selectors (RFC 4301 4.4.1.1), written as `10.1.0.0/16`, `2001:db8:1::/48` or
//! `10.1.0.0/16[tcp/443]`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::problem::Mistake;

/// A network of either family; no bit is set behind its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The network of this length that the address lies in; `None` if the length is above that of an address.
    #[must_use]
    pub fn containing(address: impl Into<IpAddr>, length: u8) -> Option<Self> {
        let address = match address.into() {
            IpAddr::V4(address) => {
                let hosts = hosts_of_32(length)?;
                Ipv4Addr::from_bits(address.to_bits() & !hosts).into()
            }
            IpAddr::V6(address) => {
                let hosts = hosts_of_128(length)?;
                Ipv6Addr::from_bits(address.to_bits() & !hosts).into()
            }
        };
        Some(Self { address, length })
    }

    /// The network that is one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let length = bits(address);
        Self { address, length }
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of bits that are the network's.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Is it of IPv4?
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let hosts = hosts_of_32(self.length).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() | hosts).into()
            }
            IpAddr::V6(address) => {
                let hosts = hosts_of_128(self.length).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() | hosts).into()
            }
        }
    }

    /// Does the address lie in this network?
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // Of two families, one is above all of the other.
        (self.address..=self.last()).contains(&address)
    }

    /// Do the two have an address in common? (One then contains the other.)
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

/// How many bits an address of this family has.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The bits that are the hosts' behind a length.
fn hosts_of_32(length: u8) -> Option<u32> {
    let _ = 32u8.checked_sub(length)?;
    Some(u32::MAX.checked_shr(length.into()).unwrap_or(0))
}

fn hosts_of_128(length: u8) -> Option<u128> {
    let _ = 128u8.checked_sub(length)?;
    Some(u128::MAX.checked_shr(length.into()).unwrap_or(0))
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// One side of the traffic that a child protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// The addresses.
    pub prefix: Prefix,
    /// The protocol's number, as in the header in front of it; `None` for all.
    pub protocol: Option<u8>,
    /// The first and the last port; (0, 65535) for all.
    pub ports: (u16, u16),
}

impl Selector {
    const ANY_PORT: (u16, u16) = (0, u16::MAX);

    /// Do the two have traffic in common?
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let protocols = match (self.protocol, other.protocol) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        let ports = self.ports.0 <= other.ports.1 && other.ports.0 <= self.ports.1;
        protocols && ports && self.prefix.overlaps(&other.prefix)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        let Some(protocol) = self.protocol else {
            return Ok(());
        };
        match NAMED.iter().find(|(_, number)| *number == protocol) {
            Some((name, _)) => write!(f, "[{name}")?,
            None => write!(f, "[{protocol}")?,
        }
        match self.ports {
            Self::ANY_PORT => f.write_str("]"),
            (first, last) if first == last => write!(f, "/{first}]"),
            (first, last) => write!(f, "/{first}-{last}]"),
        }
    }
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const NAMED: [(&str, u8); 6] = [
    ("icmp", ICMP),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("icmpv6", ICMPV6),
    ("sctp", 132),
];
const WITH_PORTS: [u8; 3] = [6, 17, 132];
const SHAPE: &str =
    "write it like `10.1.0.0/16`, `2001:db8:1::/48`, `10.1.0.0/16[tcp]` or `10.1.0.0/16[tcp/443]`";

/// Reads a prefix; an address alone means that one address.
pub(crate) fn prefix(words: &str) -> Result<Prefix, Mistake> {
    let (address, length) = match words.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (words, None),
    };
    let address = read_address(address).map_err(|mistake| match mistake.help {
        Some(_) => mistake,
        None => mistake.help(SHAPE),
    })?;
    let Some(length) = length else {
        return Ok(Prefix::host(address));
    };
    let prefix = length
        .parse()
        .ok()
        .and_then(|length| Prefix::containing(address, length))
        .ok_or_else(|| {
            let most = bits(address);
            Mistake::new(format!("`{length}` is no prefix length"))
                .help(format!("the prefix length of {address} is 0 to {most}"))
        })?;
    if prefix.address != address {
        return Err(
            Mistake::new(format!("{words} has bits set behind its prefix length")).help(format!(
                "the network is `{prefix}`; the one address is `{}`",
                Prefix::host(address)
            )),
        );
    }
    Ok(prefix)
}

/// Reads an address. One without help is none at all.
pub(crate) fn read_address(words: &str) -> Result<IpAddr, Mistake> {
    let address = words
        .parse()
        .map_err(|_| Mistake::new(format!("`{words}` is no IP address")))?;
    let IpAddr::V6(v6) = address else {
        return Ok(address);
    };
    // RFC 4291 2.5.5.2: what stands for an IPv4 address in programs is on no wire.
    if let Some(mapped) = v6.to_ipv4_mapped() {
        return Err(
            Mistake::new(format!("{words} is IPv4 in the clothes of IPv6"))
                .help(format!("write `{mapped}`")),
        );
    }
    // RFC 4291 2.5.6: "Routers must not forward any packets with Link-Local source or destination addresses".
    if v6.is_unicast_link_local() {
        return Err(Mistake::new(format!("{words} never leaves its link"))
            .help("write a global or a unique local address (fd00::/8)"));
    }
    Ok(address)
}

/// Reads a selector.
pub(crate) fn selector(words: &str) -> Result<Selector, Mistake> {
    let words = words.trim();
    let Some((network, rest)) = words.split_once('[') else {
        return Ok(Selector {
            prefix: prefix(words)?,
            protocol: None,
            ports: Selector::ANY_PORT,
        });
    };
    let prefix = prefix(network.trim_end())?;
    let inner = rest
        .strip_suffix(']')
        .ok_or_else(|| Mistake::new(format!("`{words}` lacks its closing `]`")).help(SHAPE))?;
    let (name, ports) = match inner.split_once('/') {
        Some((name, ports)) => (name, Some(ports)),
        None => (inner, None),
    };
    let protocol = protocol(name)?;
    check_family(&prefix, protocol, name)?;
    let ports = match ports {
        Some(_) if !WITH_PORTS.contains(&protocol) => {
            return Err(Mistake::new(format!("the protocol `{name}` has no ports")).help(SHAPE));
        }
        Some(ports) => port_range(ports)?,
        None => Selector::ANY_PORT,
    };
    Ok(Selector {
        prefix,
        protocol: Some(protocol),
        ports,
    })
}

/// RFC 4443 is not RFC 792: ICMP has a protocol number in each family.
fn check_family(prefix: &Prefix, protocol: u8, name: &str) -> Result<(), Mistake> {
    let (wrong, right, family) = if prefix.is_ipv4() {
        (ICMPV6, "icmp", "IPv4")
    } else {
        (ICMP, "icmpv6", "IPv6")
    };
    if protocol != wrong {
        return Ok(());
    }
    Err(Mistake::new(format!(
        "`{name}` is not the ICMP of {family}, as {prefix} is"
    ))
    .help(format!("write `{prefix}[{right}]`")))
}

fn protocol(words: &str) -> Result<u8, Mistake> {
    let name = words.trim().to_ascii_lowercase();
    if let Some((_, number)) = NAMED.iter().find(|(named, _)| *named == name) {
        return Ok(*number);
    }
    name.parse()
        .ok()
        .filter(|number| *number != 0)
        .ok_or_else(|| {
            let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
            Mistake::new(format!("`{words}` is no protocol")).help(format!(
                "write {} or a number from 1 to 255",
                names.join(", ")
            ))
        })
}

fn port_range(words: &str) -> Result<(u16, u16), Mistake> {
    let (first, last) = words.split_once('-').unwrap_or((words, words));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(Mistake::new(format!("`{words}` is no port"))
            .help("write a port like `443` or a range like `1000-2000`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_with_host_bits_suggests_its_network() {
        let mistake = prefix("10.1.2.3/16").unwrap_err();
        assert!(mistake.help.unwrap().contains("10.1.0.0/16"));
        assert_eq!(prefix("0.0.0.0/0").unwrap().last(), Ipv4Addr::BROADCAST);
        assert_eq!(prefix("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert!(
            prefix("10.0.0.0/33").is_err() && prefix("fe80::/10").is_err() && prefix("").is_err()
        );
        let mistake = prefix("2001:db8:1:2::3/48").unwrap_err();
        let help = mistake.help.unwrap();
        assert!(help.contains("`2001:db8:1::/48`"), "{help}");
        assert!(help.contains("`2001:db8:1:2::3/128`"), "{help}");
    }

    #[test]
    fn a_prefix_is_of_one_family() {
        let all = prefix("::/0").unwrap();
        assert_eq!(all.last(), Ipv6Addr::from_bits(u128::MAX));
        assert!(all.contains(Ipv6Addr::LOCALHOST.into()));
        assert!(!all.contains(Ipv4Addr::LOCALHOST.into()));
        let net = prefix("2001:db8:1::/48").unwrap();
        assert_eq!(
            net.last().to_string(),
            "2001:db8:1:ffff:ffff:ffff:ffff:ffff"
        );
        assert!(net.overlaps(&all) && !net.overlaps(&prefix("0.0.0.0/0").unwrap()));
        let one = prefix("2001:db8::1").unwrap();
        assert_eq!(one.to_string(), "2001:db8::1/128");
        assert!(prefix("2001:db8::/129").is_err());
        let mapped = prefix("::ffff:10.1.0.0/112").unwrap_err();
        assert!(mapped.help.unwrap().contains("`10.1.0.0`"));
    }

    #[test]
    fn selectors_with_protocol_and_ports() {
        for written in [
            "10.1.0.0/16",
            "10.1.0.0/16[tcp]",
            "10.1.0.0/16[udp/53]",
            "10.1.0.0/16[tcp/1-2]",
            "10.1.0.0/16[50]",
            "2001:db8:1::/48",
            "2001:db8:1::/48[icmpv6]",
            "2001:db8:1::/48[tcp/443]",
        ] {
            assert_eq!(selector(written).unwrap().to_string(), written);
        }
        for wrong in [
            "10.1.0.0/16[",
            "10.1.0.0/16[icmp/3]",
            "10.1.0.0/16[tpc]",
            "10.1.0.0/16[tcp/9-8]",
            "10.1.0.0/16[0]",
            "10.1.0.0/16[icmpv6]",
            "2001:db8:1::/48[icmp]",
            "2001:db8:1::/48[1]",
        ] {
            assert!(selector(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn overlap_needs_every_part() {
        let overlaps = |a, b| selector(a).unwrap().overlaps(&selector(b).unwrap());
        assert!(overlaps("10.0.0.0/8", "10.1.0.0/16"));
        assert!(overlaps("10.1.0.0/16[tcp]", "10.0.0.0/8"));
        assert!(!overlaps("10.1.0.0/16[tcp]", "10.0.0.0/8[udp]"));
        assert!(!overlaps("10.1.0.0/16[tcp/80]", "10.0.0.0/8[tcp/443]"));
        assert!(!overlaps("10.1.0.0/16", "10.2.0.0/16"));
    }
}
