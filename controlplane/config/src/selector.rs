//! IPv4 prefixes and traffic selectors (RFC 4301 4.4.1.1), written as `10.1.0.0/16` or `10.1.0.0/16[tcp/443]`.

use std::{fmt, net::Ipv4Addr};

use crate::problem::Mistake;

/// An IPv4 network; no bit is set behind its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: Ipv4Addr,
    length: u8,
}

impl Prefix {
    /// The network of this length that the address lies in; `None` if the length is above 32.
    #[must_use]
    pub fn containing(address: Ipv4Addr, length: u8) -> Option<Self> {
        let address = Ipv4Addr::from_bits(address.to_bits() & mask(length)?);
        Some(Self { address, length })
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The number of bits that are the network's.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The last address.
    #[must_use]
    pub fn last(&self) -> Ipv4Addr {
        let hosts = mask(self.length).map_or(0, |mask| !mask);
        Ipv4Addr::from_bits(self.address.to_bits() | hosts)
    }

    /// Does the address lie in this network?
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.address..=self.last()).contains(&address)
    }

    /// Do the two have an address in common? (One then contains the other.)
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

fn mask(length: u8) -> Option<u32> {
    let hosts = 32u32.checked_sub(u32::from(length))?;
    Some(u32::MAX.checked_shl(hosts).unwrap_or(0))
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
    /// The protocol's number, as in the IPv4 header; `None` for all.
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

const NAMED: [(&str, u8); 5] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("sctp", 132),
];
const WITH_PORTS: [u8; 3] = [6, 17, 132];
const SHAPE: &str = "write it like `10.1.0.0/16`, `10.1.0.0/16[tcp]` or `10.1.0.0/16[tcp/443]`";

/// Reads an IPv4 prefix; an address alone means that one address.
pub(crate) fn prefix(words: &str) -> Result<Prefix, Mistake> {
    let (address, length) = words.split_once('/').unwrap_or((words, "32"));
    if address.contains(':') {
        return Err(Mistake::new(format!("`{words}` is IPv6"))
            .help("tunnels carry IPv4 so far; write an IPv4 prefix"));
    }
    let address = address
        .parse::<Ipv4Addr>()
        .map_err(|_| Mistake::new(format!("`{address}` is no IPv4 address")).help(SHAPE))?;
    let prefix = length
        .parse()
        .ok()
        .and_then(|length| Prefix::containing(address, length))
        .ok_or_else(|| {
            Mistake::new(format!("`{length}` is no prefix length"))
                .help("a prefix length is 0 to 32")
        })?;
    if prefix.address != address {
        return Err(
            Mistake::new(format!("{words} has bits set behind its prefix length")).help(format!(
                "the network is `{prefix}`; the one address is `{address}/32`"
            )),
        );
    }
    Ok(prefix)
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
    }

    #[test]
    fn selectors_with_protocol_and_ports() {
        for written in [
            "10.1.0.0/16",
            "10.1.0.0/16[tcp]",
            "10.1.0.0/16[udp/53]",
            "10.1.0.0/16[tcp/1-2]",
            "10.1.0.0/16[50]",
        ] {
            assert_eq!(selector(written).unwrap().to_string(), written);
        }
        for wrong in [
            "10.1.0.0/16[",
            "10.1.0.0/16[icmp/3]",
            "10.1.0.0/16[tpc]",
            "10.1.0.0/16[tcp/9-8]",
            "10.1.0.0/16[0]",
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
