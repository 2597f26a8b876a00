//! What a capture brings, and how octets look in JSON.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A capture that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Its number, by which packets are asked for.
    pub capture: u64,
    /// The dataplane's ports, by number.
    pub ports: Vec<CapturePort>,
}

/// A port of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePort {
    /// Its interface.
    pub interface: String,
    /// `inside`, `outside` or `host`.
    pub role: String,
}

/// The next packets of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// In the order of each worker.
    pub packets: Vec<CapturedPacket>,
    /// How many were not copied so far, because there were more than the rate allows or the reader was behind.
    pub lost: u64,
    /// Whether more may come.
    pub more: bool,
}

/// A packet that the dataplane saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// The port's number.
    pub port: u8,
    /// Whether it came in by the port; otherwise it left by it, or would have.
    pub inbound: bool,
    /// The counter of the reason why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
    /// How many octets it had.
    pub length: u32,
    /// The first of them, from the Ethernet header on.
    pub octets: Octets,
}

/// Octets, in JSON in hexadecimal. They are a user's, so they are not in `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Octets(pub Vec<u8>);

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} octets", self.0.len())
    }
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
        let mut text = String::with_capacity(2 * self.0.len());
        for octet in &self.0 {
            text.push(digit(octet >> 4));
            text.push(digit(*octet));
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let (pairs, []) = text.as_bytes().as_chunks() else {
            return Err(de::Error::custom("half an octet"));
        };
        let octets = pairs
            .iter()
            .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
        octets
            .collect::<Option<_>>()
            .map(Self)
            .ok_or_else(|| de::Error::custom("no hexadecimal digit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn octets_read_back_as_written(octets in prop::collection::vec(any::<u8>(), 0..100)) {
            let text = serde_json::to_string(&Octets(octets.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Octets>(&text).unwrap().0, octets);
        }
    }

    #[test]
    fn octets_are_pairs_of_digits() {
        assert_eq!(
            serde_json::to_string(&Octets(vec![0x0f, 0xa0])).unwrap(),
            "\"0fa0\""
        );
        for wrong in ["\"0\"", "\"0g\"", "\"é\"", "7"] {
            assert!(serde_json::from_str::<Octets>(wrong).is_err(), "{wrong}");
        }
    }
}
