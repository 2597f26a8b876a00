//! Who a peer says it is: the identification types of RFC 7296 3.5 that we know.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use esplanade_pki::{Certificate, DistinguishedName};

/// The name that every identity matches.
const ANYBODY: &str = "*";

/// An IKE identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// ID_IPV4_ADDR.
    Ipv4(Ipv4Addr),
    /// ID_IPV6_ADDR.
    Ipv6(Ipv6Addr),
    /// ID_FQDN, such as `gw.example.org`.
    Fqdn(String),
    /// ID_RFC822_ADDR, such as `carol@example.org`.
    Rfc822(String),
    /// ID_DER_ASN1_DN, such as `C=CH, O=Example, CN=gw-a`.
    Dn(DistinguishedName),
    /// ID_KEY_ID, any octets.
    KeyId(Vec<u8>),
    /// A type that we cannot match but can name.
    Other {
        /// The ID Type of RFC 7296 3.5.
        kind: u8,
        /// Its octets.
        data: Vec<u8>,
    },
}

impl Identity {
    /// The ID Type of RFC 7296 3.5.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Ipv4(_) => 1,
            Self::Fqdn(_) => 2,
            Self::Rfc822(_) => 3,
            Self::Ipv6(_) => 5,
            Self::Dn(_) => 9,
            Self::KeyId(_) => 11,
            Self::Other { kind, .. } => *kind,
        }
    }

    /// The Identification Data of RFC 7296 3.5.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Self::Ipv4(address) => address.octets().to_vec(),
            Self::Ipv6(address) => address.octets().to_vec(),
            Self::Fqdn(name) | Self::Rfc822(name) => name.as_bytes().to_vec(),
            Self::Dn(name) => name.der().to_vec(),
            Self::KeyId(data) | Self::Other { data, .. } => data.clone(),
        }
    }

    /// The identity of this type and data; what does not fit its type is [`Identity::Other`].
    pub fn from_wire(kind: u8, data: &[u8]) -> Self {
        let other = || Self::Other {
            kind,
            data: data.to_vec(),
        };
        let text = || std::str::from_utf8(data).ok().map(str::to_owned);
        match kind {
            1 => <[u8; 4]>::try_from(data).map_or_else(|_| other(), |o| Self::Ipv4(o.into())),
            2 => text().map_or_else(other, Self::Fqdn),
            3 => text().map_or_else(other, Self::Rfc822),
            5 => <[u8; 16]>::try_from(data).map_or_else(|_| other(), |o| Self::Ipv6(o.into())),
            9 => DistinguishedName::from_der(data).map_or_else(|_| other(), Self::Dn),
            11 => Self::KeyId(data.to_vec()),
            _ => other(),
        }
    }

    /// Whether a peer that is to be this may say that it is `theirs`. Distinguished names are compared
    /// part by part, and one of ours may have `*` for a value. Of names and mail addresses, `*.example.org` and
    /// `*@example.org` are all that end so.
    pub fn accepts(&self, theirs: &Self) -> bool {
        match (self, theirs) {
            (Self::Fqdn(any), _) if any == ANYBODY => true,
            (Self::Dn(ours), Self::Dn(theirs)) => ours.matches(theirs),
            (Self::Fqdn(ours), Self::Fqdn(theirs)) | (Self::Rfc822(ours), Self::Rfc822(theirs)) => {
                ours == theirs || wildcard(ours).is_some_and(|end| ends_with(theirs, end))
            }
            (ours, theirs) => ours == theirs,
        }
    }

    /// Whether several names match it, so that it cannot be asked for.
    pub fn is_pattern(&self) -> bool {
        match self {
            Self::Dn(name) => name.is_pattern(),
            Self::Fqdn(name) if name == ANYBODY => true,
            Self::Fqdn(name) | Self::Rfc822(name) => wildcard(name).is_some(),
            _ => false,
        }
    }

    /// Whether the certificate says so: RFC 4945 3.1 has an identity equal a subject alternative name
    /// of its type, or the whole subject. The common name alone is never looked at. Nobody is a pattern, whatever the
    /// certificate says.
    pub fn is_in(&self, certificate: &Certificate) -> bool {
        match self {
            pattern if pattern.is_pattern() => false,
            Self::Ipv4(address) => certificate.has_address((*address).into()),
            Self::Ipv6(address) => certificate.has_address((*address).into()),
            Self::Fqdn(name) => certificate.has_domain(name),
            Self::Rfc822(address) => certificate.has_email(address),
            Self::Dn(name) => !name.is_empty() && name.matches(certificate.subject()),
            Self::KeyId(_) | Self::Other { .. } => false,
        }
    }
}

/// What the names that a pattern stands for end with.
fn wildcard(name: &str) -> Option<&str> {
    let end = name.strip_prefix('*')?;
    (end.len() > 1 && end.starts_with(['.', '@'])).then_some(end)
}

/// Whether a name has this end, and something before it. Domains know no case (RFC 4343).
fn ends_with(name: &str, end: &str) -> bool {
    let at = name.len().checked_sub(end.len()).filter(|at| *at > 0);
    at.and_then(|at| name.get(at..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

impl From<IpAddr> for Identity {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4(address),
            IpAddr::V6(address) => Self::Ipv6(address),
        }
    }
}

impl FromStr for Identity {
    type Err = std::convert::Infallible;

    /// An address, `keyid:TEXT` (`keyid:0xHEX` for octets), a distinguished name, a mail address, or
    /// else a domain name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if let Some(key_id) = text.strip_prefix("keyid:") {
            let octets = key_id.strip_prefix("0x").and_then(octets_of_hex);
            return Ok(Self::KeyId(
                octets.unwrap_or_else(|| key_id.as_bytes().to_vec()),
            ));
        }
        if let Ok(name) = text.parse() {
            return Ok(Self::Dn(name));
        }
        Ok(match text.strip_prefix('@') {
            Some(name) => Self::Fqdn(name.to_owned()),
            None if text.contains('@') => Self::Rfc822(text.to_owned()),
            None => Self::Fqdn(text.to_owned()),
        })
    }
}

fn octets_of_hex(hex: &str) -> Option<Vec<u8>> {
    if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
        return None;
    }
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(address) => address.fmt(f),
            Self::Ipv6(address) => address.fmt(f),
            // The peer chose these octets: nothing of them may reach a terminal unescaped.
            Self::Fqdn(name) | Self::Rfc822(name) => name.escape_debug().fmt(f),
            Self::Dn(name) => name.fmt(f),
            Self::KeyId(data) => write!(f, "keyid:{}", data.escape_ascii()),
            Self::Other { kind, data } => {
                write!(f, "identity of type {kind} with {} octets", data.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_chooses_the_type() {
        let kind = |text: &str| text.parse::<Identity>().unwrap().kind();
        assert_eq!(kind("192.0.2.1"), 1);
        assert_eq!(kind("2001:db8::1"), 5);
        assert_eq!(kind("gw.example.org"), 2);
        assert_eq!(kind("@gw"), 2);
        assert_eq!(kind("carol@example.org"), 3);
        assert_eq!(kind("C=CH, O=Example, CN=gw"), 9);
        assert_eq!(
            "keyid:0x0aff".parse(),
            Ok(Identity::KeyId(vec![0x0a, 0xff]))
        );
    }

    #[test]
    fn a_pattern_stands_for_what_ends_so() {
        let identity = |text: &str| text.parse::<Identity>().unwrap();
        let (names, mails) = (identity("*.example.org"), identity("*@example.org"));
        assert!(names.is_pattern() && mails.is_pattern() && !identity("*x").is_pattern());
        assert!(names.accepts(&identity("a.Example.org")));
        assert!(mails.accepts(&identity("carol@example.org")));
        for other in [
            "example.org",
            ".example.org",
            "a.example.com",
            "carol@example.org",
        ] {
            assert!(!names.accepts(&identity(other)), "{other}");
        }
        let anybody = identity("*");
        assert!(anybody.is_pattern() && anybody.accepts(&identity("192.0.2.1")));
        assert!(!mails.accepts(&identity("carol@evil.example.org")));
    }

    #[test]
    fn wire_form_reads_back() {
        for text in [
            "192.0.2.1",
            "2001:db8::1",
            "gw.example.org",
            "a@b",
            "keyid:x",
            "C=CH, O=Example, CN=gw-a",
        ] {
            let identity: Identity = text.parse().unwrap();
            assert_eq!(
                Identity::from_wire(identity.kind(), &identity.data()),
                identity
            );
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }
}
