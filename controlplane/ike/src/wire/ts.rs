//! Traffic selectors (RFC 7296 3.13): value, wire form, intersection.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Malformed, Reader, Writer};

const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;
const IPV4_SELECTOR_LEN: u16 = 16;
const IPV6_SELECTOR_LEN: u16 = 40;

/// A range of addresses, a range of ports, and a protocol or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// The IP protocol; `None`: any.
    pub protocol: Option<u8>,
    /// The first and the last port. For ICMP, type and code as RFC 7296 3.13.1 says.
    pub ports: (u16, u16),
    /// The first address.
    pub first: IpAddr,
    /// The last address, of the same family.
    pub last: IpAddr,
}

impl TrafficSelector {
    /// All traffic of a range of addresses; `None` where they are no range.
    pub fn range(first: IpAddr, last: IpAddr) -> Option<Self> {
        let ordered = first.is_ipv4() == last.is_ipv4() && first <= last;
        ordered.then_some(Self {
            protocol: None,
            ports: (0, u16::MAX),
            first,
            last,
        })
    }

    /// All traffic of a prefix; `None` where the length is too long for the family.
    pub fn prefix(address: IpAddr, len: u8) -> Option<Self> {
        let (first, last) = match address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(len.into()).unwrap_or(0);
                let bits = address.to_bits();
                (len <= 32).then_some((
                    IpAddr::V4((bits & !host).into()),
                    IpAddr::V4((bits | host).into()),
                ))
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
                let bits = address.to_bits();
                (len <= 128).then_some((
                    IpAddr::V6((bits & !host).into()),
                    IpAddr::V6((bits | host).into()),
                ))
            }
        }?;
        Self::range(first, last)
    }

    /// The traffic that both select.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let protocol = match (self.protocol, other.protocol) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        let ports = (
            self.ports.0.max(other.ports.0),
            self.ports.1.min(other.ports.1),
        );
        // OPAQUE (first above last) selects what has no port; it meets only its like and ANY.
        let opaque = |ports: (u16, u16)| ports.0 > ports.1;
        let ports = match (opaque(self.ports), opaque(other.ports)) {
            (false, false) if ports.0 > ports.1 => return None,
            (false, false) => ports,
            (true, true) => self.ports,
            (true, false) if other.ports == (0, u16::MAX) => self.ports,
            (false, true) if self.ports == (0, u16::MAX) => other.ports,
            _ => return None,
        };
        if self.first.is_ipv4() != other.first.is_ipv4() {
            return None;
        }
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self {
            protocol,
            ports,
            first,
            last,
        })
    }

    /// Whether all that `other` selects is selected here too.
    pub fn contains(&self, other: &Self) -> bool {
        self.intersection(other) == Some(*other)
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let kind = reader.u8()?;
        let protocol = reader.u8()?;
        let len = reader.u16()?;
        let mut body = reader.sub(usize::from(len).checked_sub(4).ok_or(Malformed::Selector)?)?;
        let (first, last);
        let ports = match (kind, len) {
            (TS_IPV4_ADDR_RANGE, IPV4_SELECTOR_LEN) => {
                let ports = (body.u16()?, body.u16()?);
                (first, last) = (IpAddr::from(body.array::<4>()?), body.array::<4>()?.into());
                ports
            }
            (TS_IPV6_ADDR_RANGE, IPV6_SELECTOR_LEN) => {
                let ports = (body.u16()?, body.u16()?);
                (first, last) = (
                    IpAddr::from(body.array::<16>()?),
                    body.array::<16>()?.into(),
                );
                ports
            }
            (TS_IPV4_ADDR_RANGE | TS_IPV6_ADDR_RANGE, _) => return Err(Malformed::Selector),
            // RFC 7296 2.9: selectors of unknown types are not for us to use.
            _ => return Ok(None),
        };
        if first > last {
            return Err(Malformed::Selector);
        }
        Ok(Some(Self {
            protocol: (protocol != 0).then_some(protocol),
            ports,
            first,
            last,
        }))
    }

    pub(super) fn emit(&self, writer: &mut Writer) {
        let (kind, len) = match self.first {
            IpAddr::V4(_) => (TS_IPV4_ADDR_RANGE, IPV4_SELECTOR_LEN),
            IpAddr::V6(_) => (TS_IPV6_ADDR_RANGE, IPV6_SELECTOR_LEN),
        };
        writer.u8(kind);
        writer.u8(self.protocol.unwrap_or(0));
        writer.u16(len);
        writer.u16(self.ports.0);
        writer.u16(self.ports.1);
        for address in [self.first, self.last] {
            match address {
                IpAddr::V4(address) => writer.bytes(&address.octets()),
                IpAddr::V6(address) => writer.bytes(&address.octets()),
            }
        }
    }
}

/// What of `theirs` lies within `ours` (RFC 7296 2.9); empty where nothing does.
pub fn narrow(theirs: &[TrafficSelector], ours: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut narrowed: Vec<TrafficSelector> = Vec::new();
    for part in theirs
        .iter()
        .flat_map(|a| ours.iter().filter_map(|b| a.intersection(b)))
    {
        if !narrowed.iter().any(|n| n.contains(&part)) {
            narrowed.retain(|n| !part.contains(n));
            narrowed.push(part);
        }
    }
    narrowed
}

/// Whether each of `parts` lies within one of `whole`.
pub fn within(parts: &[TrafficSelector], whole: &[TrafficSelector]) -> bool {
    parts
        .iter()
        .all(|part| whole.iter().any(|w| w.contains(part)))
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = |len: u8| Self::prefix(self.first, len);
        let range = (self.first, self.last);
        let longest = if self.first.is_ipv4() { 32 } else { 128 };
        match (0..=longest).find(|&l| prefix(l).is_some_and(|p| (p.first, p.last) == range)) {
            Some(len) => write!(f, "{}/{len}", self.first)?,
            None => write!(f, "{}-{}", self.first, self.last)?,
        }
        match (self.protocol, self.ports) {
            (None, (0, u16::MAX)) => Ok(()),
            (protocol, ports) => {
                f.write_str("[")?;
                match protocol {
                    Some(protocol) => write!(f, "{protocol}")?,
                    None => f.write_str("any")?,
                }
                match ports {
                    (0, u16::MAX) => {}
                    (first, last) if first == last => write!(f, "/{first}")?,
                    (first, last) => write!(f, "/{first}-{last}")?,
                }
                f.write_str("]")
            }
        }
    }
}

/// Text that is no traffic selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a prefix (10.1.0.0/16) nor a range of addresses (10.1.0.1-10.1.0.9)")]
pub struct SelectorError(String);

impl FromStr for TrafficSelector {
    type Err = SelectorError;

    /// Reads a prefix, an address or a range; all protocols and ports.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let selector = if let Some((address, len)) = text.split_once('/') {
            address
                .parse()
                .ok()
                .zip(len.parse().ok())
                .and_then(|(a, l)| Self::prefix(a, l))
        } else if let Some((first, last)) = text.split_once('-') {
            first
                .parse()
                .ok()
                .zip(last.parse().ok())
                .and_then(|(f, l)| Self::range(f, l))
        } else {
            text.parse().ok().and_then(|a| Self::range(a, a))
        };
        selector.ok_or_else(|| SelectorError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> TrafficSelector {
        text.parse().unwrap()
    }

    #[test]
    fn narrowing_keeps_what_both_select() {
        assert_eq!(
            narrow(&[ts("0.0.0.0/0")], &[ts("10.1.0.0/16")]),
            [ts("10.1.0.0/16")]
        );
        assert_eq!(
            narrow(&[ts("10.1.2.3"), ts("10.1.0.0/16")], &[ts("10.1.0.0/16")]),
            [ts("10.1.0.0/16")]
        );
        assert_eq!(narrow(&[ts("10.2.0.0/16")], &[ts("10.1.0.0/16")]), []);
        assert_eq!(narrow(&[ts("::/0")], &[ts("10.1.0.0/16")]), []);
        let web = TrafficSelector {
            protocol: Some(6),
            ports: (80, 80),
            ..ts("10.1.0.0/16")
        };
        assert_eq!(
            narrow(&[web], &[ts("10.1.2.0/24")]),
            [TrafficSelector {
                protocol: Some(6),
                ports: (80, 80),
                ..ts("10.1.2.0/24")
            }]
        );
        let other = TrafficSelector {
            protocol: Some(17),
            ..web
        };
        assert_eq!(narrow(&[web], &[other]), []);
    }

    #[test]
    fn text_reads_back() {
        for text in [
            "10.1.0.0/16",
            "10.1.0.1-10.1.0.9",
            "2001:db8::/32",
            "0.0.0.0/0",
        ] {
            assert_eq!(ts(text).to_string(), text);
        }
        assert!("10.1.0.0/33".parse::<TrafficSelector>().is_err());
        assert!("10.1.0.9-10.1.0.1".parse::<TrafficSelector>().is_err());
    }
}
