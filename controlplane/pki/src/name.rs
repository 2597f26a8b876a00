//! Distinguished names (RFC 5280 4.1.2.4): the DER that IKE and certificates carry, the text that
//! an operator writes, and when two of them are the same.

use std::fmt;
use std::str::FromStr;

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::SetOfVec;
use x509_cert::der::{Decode, Encode, Tagged};
use x509_cert::name::{RdnSequence, RelativeDistinguishedName};

/// Text or octets that are no distinguished name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The octets are none.
    #[error("it is not the DER of a distinguished name")]
    Der,
    /// This part of the text is none.
    #[error("`{0}` is no part of a distinguished name, such as `CN=gw-a`")]
    Part(String),
}

/// A distinguished name. Its text names the parts in the order in which they are encoded, as
/// strongSwan and OpenSSL print them: `C=CH, O=Example, CN=gw-a`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DistinguishedName(Vec<u8>);

impl DistinguishedName {
    /// Takes DER, if it is a distinguished name.
    pub fn from_der(der: &[u8]) -> Result<Self, NameError> {
        RdnSequence::from_der(der).map_err(|_| NameError::Der)?;
        Ok(Self(der.to_vec()))
    }

    /// The DER.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// Whether it has no parts.
    pub fn is_empty(&self) -> bool {
        self.parts().is_empty()
    }

    /// Whether the value of one of its parts is `*`.
    pub fn is_pattern(&self) -> bool {
        let parts = self.parts();
        let mut attributes = parts.iter().flat_map(RelativeDistinguishedName::iter);
        attributes.any(|attribute| text(attribute).as_deref() == Some("*"))
    }

    fn parts(&self) -> Vec<RelativeDistinguishedName> {
        let sequence = RdnSequence::from_der(&self.0).unwrap_or_default();
        sequence.iter().cloned().collect()
    }

    /// Whether the whole of `other` is this name, part by part. Strings are compared without regard
    /// to their type, to case and to repeated spaces (RFC 5280 7.1). A part whose value here is `*`
    /// takes any value.
    pub fn matches(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.parts(), other.parts());
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| part_matches(a, b))
    }
}

fn part_matches(pattern: &RelativeDistinguishedName, part: &RelativeDistinguishedName) -> bool {
    let found = |a: &AttributeTypeAndValue| {
        part.iter().any(|b| {
            a.oid == b.oid && (text(a).as_deref() == Some("*") || value_of(a) == value_of(b))
        })
    };
    pattern.len() == part.len() && pattern.iter().all(found)
}

/// The value as text, where it is a string of a type whose octets are UTF-8.
fn text(attribute: &AttributeTypeAndValue) -> Option<String> {
    use x509_cert::der::Tag;
    let value = &attribute.value;
    let octets = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::TeletexString => {
            value.value()
        }
        _ => return None,
    };
    std::str::from_utf8(octets).ok().map(str::to_owned)
}

/// What is compared: the text without what does not matter in it, or else the octets and their type.
fn value_of(attribute: &AttributeTypeAndValue) -> (String, Vec<u8>) {
    match text(attribute) {
        Some(text) => {
            let words: Vec<&str> = text.split_whitespace().collect();
            (words.join(" ").to_lowercase(), Vec::new())
        }
        None => (
            attribute.value.tag().to_string(),
            attribute.value.value().to_vec(),
        ),
    }
}

impl FromStr for DistinguishedName {
    type Err = NameError;

    /// Reads `C=CH, O=Example, CN=gw-a`. A comma within a value is written `\,`.
    fn from_str(words: &str) -> Result<Self, NameError> {
        let mut sequence = RdnSequence::default();
        for part in split(words) {
            let wrong = || NameError::Part(part.clone());
            let (kind, value) = part.split_once('=').ok_or_else(wrong)?;
            let normal = format!("{}={}", kind.trim().to_uppercase(), value.trim());
            let attribute: AttributeTypeAndValue = normal.parse().map_err(|_| wrong())?;
            let mut set = SetOfVec::new();
            set.insert(attribute).map_err(|_| wrong())?;
            sequence.push(RelativeDistinguishedName::from(set));
        }
        let der = sequence.to_der().map_err(|_| NameError::Der)?;
        Ok(Self(der))
    }
}

/// The parts between commas that are not escaped.
fn split(words: &str) -> Vec<String> {
    let (mut parts, mut part, mut escaped) = (Vec::new(), String::new(), false);
    for c in words.chars() {
        if c == ',' && !escaped {
            parts.push(std::mem::take(&mut part).trim().to_owned());
        } else {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(part.trim().to_owned());
    parts
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts().iter().map(ToString::to_string).collect();
        // A peer chose these octets: nothing of them may reach a terminal unescaped.
        for c in parts.join(", ").chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DistinguishedName({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(words: &str) -> DistinguishedName {
        words.parse().unwrap()
    }

    #[test]
    fn text_reads_back_in_the_order_of_the_encoding() {
        let words = "C=CH, O=Example, CN=gw-a";
        assert_eq!(name(words).to_string(), words);
        let der = name(words).der().to_vec();
        let at = |what: &[u8]| der.windows(what.len()).position(|w| w == what).unwrap();
        assert!(at(b"CH") < at(b"Example") && at(b"Example") < at(b"gw-a"));
        assert_eq!(DistinguishedName::from_der(&der), Ok(name(words)));
        assert_eq!(name("cn = a").to_string(), "CN=a");
        for wrong in ["", "gw-a", "CN=a, b", "NOSUCH=a"] {
            assert!(wrong.parse::<DistinguishedName>().is_err(), "{wrong}");
        }
        assert_eq!(DistinguishedName::from_der(&[0x30, 5]), Err(NameError::Der));
    }

    #[test]
    fn the_whole_name_must_be_the_same() {
        let theirs = name("C=CH, O=Example, CN=gw-a");
        for same in [
            "C=CH, O=Example, CN=gw-a",
            "C=ch, O=EXAMPLE, CN=GW-A",
            "C=CH, O=Example, CN=*",
        ] {
            assert!(name(same).matches(&theirs), "{same}");
        }
        for other in [
            "CN=gw-a",
            "C=CH, O=Example, CN=gw-b",
            "C=CH, CN=gw-a, O=Example",
            "C=CH, O=Example, OU=*, CN=gw-a",
            "CN=*",
        ] {
            assert!(!name(other).matches(&theirs), "{other}");
        }
        assert!(
            !theirs.matches(&name("C=CH, O=Example, CN=*")),
            "the peer has no pattern"
        );
    }

    #[test]
    fn nothing_of_a_name_reaches_a_terminal_unescaped() {
        let shown = name("CN=a\u{1b}[31mb").to_string();
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }
}
