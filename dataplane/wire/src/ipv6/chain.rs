//! Extension headers (RFC 8200 4): which header of the upper layer is behind them, and where.

use super::{HEADER_LEN, Packet};
use crate::{Malformed, Protocol};

/// The most extension headers that are walked. RFC 8200 4.1 knows six before the upper layer, and lets destination options
/// come twice.
pub const MAX_HEADERS: usize = 8;
/// The length of a fragment header.
pub const FRAGMENT_LEN: usize = 8;

/// Of the 16 bits that hold fragment offset and the M flag.
pub(super) const OFFSET_MASK: u16 = 0xfff8;
pub(super) const MORE_FRAGMENTS: u16 = 1;

/// A fragment header (RFC 8200 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Where it begins, counted from the start of the packet.
    pub at: usize,
    /// What is behind it in the whole packet.
    pub next_header: Protocol,
    /// Where in the whole packet's fragmentable part this one's begins, in bytes.
    pub offset: usize,
    /// Whether it is not the last.
    pub more: bool,
    /// What tells the fragments of one packet from those of another.
    pub identification: u32,
}

impl FragmentHeader {
    pub(super) fn parse(bytes: &[u8; FRAGMENT_LEN], at: usize) -> Self {
        let [next_header, _, high, low, a, b, c, d] = *bytes;
        let field = u16::from_be_bytes([high, low]);
        Self {
            at,
            next_header: Protocol(next_header),
            offset: usize::from(field & OFFSET_MASK),
            more: field & MORE_FRAGMENTS != 0,
            identification: u32::from_be_bytes([a, b, c, d]),
        }
    }
}

/// The end of the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// The upper layer; what the fragment header says where this is a later fragment, which has none.
    pub protocol: Protocol,
    /// Where it begins, counted from the start of the packet.
    pub offset: usize,
    /// The fragment header, if there is one.
    pub fragment: Option<FragmentHeader>,
}

impl Chain {
    /// Where in the whole packet this fragment begins, in bytes: 0 in what is none.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        self.fragment.map_or(0, |fragment| fragment.offset)
    }

    /// Whether other packets have more of it. RFC 6946 4: one with a fragment header that is alone "MUST be processed in
    /// isolation from any other packets/fragments".
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment
            .is_some_and(|fragment| fragment.more || fragment.offset != 0)
    }
}

impl Packet<'_> {
    /// Walks over the extension headers that RFC 4301 4.4.1.1 skips: hop-by-hop options, routing header, fragment header and
    /// destination options. AH and ESP are upper layers: "From a selector lookup point of view, IPsec treats AH and ESP as
    /// next layer protocols."
    ///
    /// # Errors
    ///
    /// One of them is not whole, there are more than [`MAX_HEADERS`], or one is where it must not be.
    #[inline]
    pub fn chain(&self) -> Result<Chain, Malformed> {
        let protocol = self.next_header();
        if !protocol.is_extension() {
            return Ok(Chain {
                protocol,
                offset: HEADER_LEN,
                fragment: None,
            });
        }
        self.walk(protocol)
    }

    #[cold]
    fn walk(&self, first: Protocol) -> Result<Chain, Malformed> {
        let mut chain = Chain {
            protocol: first,
            offset: HEADER_LEN,
            fragment: None,
        };
        for number in 0..MAX_HEADERS {
            let rest = self.as_bytes().get(chain.offset..).unwrap_or_default();
            let truncated = |needed| Malformed::Truncated {
                needed,
                found: rest.len(),
            };
            let header: &[u8; FRAGMENT_LEN] =
                rest.first_chunk().ok_or_else(|| truncated(FRAGMENT_LEN))?;
            let length = match chain.protocol {
                // RFC 8200 4.1: "the Hop-by-Hop Options header [...] is restricted to appear immediately after an IPv6 header
                // only."
                Protocol::HOP_BY_HOP if number > 0 => return Err(Malformed::ExtensionHeaders),
                Protocol::FRAGMENT => {
                    // A fragment of a fragment: reassembly makes one packet of it once only.
                    if chain.fragment.is_some() {
                        return Err(Malformed::ExtensionHeaders);
                    }
                    chain.fragment = Some(FragmentHeader::parse(header, chain.offset));
                    FRAGMENT_LEN
                }
                // "Length [...] in 8-octet units, not including the first 8 octets."
                _ => (usize::from(header[1]) + 1) * 8,
            };
            if rest.len() < length {
                return Err(truncated(length));
            }
            chain.protocol = Protocol(header[0]);
            chain.offset += length;
            if chain.fragment_offset() != 0 || !chain.protocol.is_extension() {
                return Ok(chain);
            }
        }
        Err(Malformed::ExtensionHeaders)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ipv6::Repr;
    use core::net::Ipv6Addr;
    use proptest::prelude::*;

    /// Options of so many units of 8 bytes, beyond the first: a PadN over all of it.
    fn options(next: Protocol, units: u8) -> Vec<u8> {
        let mut header = vec![0; usize::from(units) * 8 + 8];
        header[0] = next.0;
        header[1] = units;
        header[2] = 1;
        header[3] = (header.len() - 4).min(255) as u8;
        header
    }

    fn fragment(next: Protocol, offset: u16, more: bool, identification: u32) -> Vec<u8> {
        let field = offset | u16::from(more);
        let mut header = vec![next.0, 0];
        header.extend(field.to_be_bytes());
        header.extend(identification.to_be_bytes());
        header
    }

    pub(crate) fn packet(next_header: Protocol, payload: &[u8]) -> Vec<u8> {
        let repr = Repr::new(
            Ipv6Addr::from(1),
            Ipv6Addr::from(2),
            next_header,
            payload.len() as u16,
        );
        [&repr.bytes(), payload].concat()
    }

    fn chain(bytes: &[u8]) -> Result<Chain, Malformed> {
        Packet::new_checked(bytes).unwrap().chain()
    }

    /// Extension headers in any order: their kinds and sizes.
    fn kinds() -> impl Strategy<Value = Vec<(Protocol, u8)>> {
        let kind = prop::sample::select(vec![
            Protocol::HOP_BY_HOP,
            Protocol::ROUTING,
            Protocol::FRAGMENT,
            Protocol::DESTINATION_OPTIONS,
        ]);
        prop::collection::vec((kind, 0u8..4), 0..12)
    }

    fn write(kinds: &[(Protocol, u8)], last: Protocol) -> (Protocol, Vec<u8>) {
        let next = |at: usize| kinds.get(at).map_or(last, |(kind, _)| *kind);
        let bytes = kinds.iter().enumerate().flat_map(|(at, (kind, units))| {
            if *kind == Protocol::FRAGMENT {
                fragment(next(at + 1), 0, true, 7)
            } else {
                options(next(at + 1), *units)
            }
        });
        (next(0), bytes.collect())
    }

    proptest! {
        #[test]
        fn the_upper_layer_is_found_behind_any_headers(kinds in kinds(), payload in prop::collection::vec(any::<u8>(), 0..20)) {
            let (first, mut bytes) = write(&kinds, Protocol::TCP);
            let headers = bytes.len();
            bytes.extend(&payload);
            let bytes = packet(first, &bytes);
            let allowed = kinds.len() <= MAX_HEADERS
                && kinds.iter().skip(1).all(|(kind, _)| *kind != Protocol::HOP_BY_HOP)
                && kinds.iter().filter(|(kind, _)| *kind == Protocol::FRAGMENT).count() <= 1;
            match chain(&bytes) {
                Ok(chain) => {
                    prop_assert!(allowed);
                    prop_assert_eq!((chain.protocol, chain.offset), (Protocol::TCP, HEADER_LEN + headers));
                    let fragmented = kinds.iter().any(|(kind, _)| *kind == Protocol::FRAGMENT);
                    prop_assert_eq!(chain.is_fragment(), fragmented);
                }
                Err(why) => {
                    prop_assert!(!allowed);
                    prop_assert_eq!(why, Malformed::ExtensionHeaders);
                }
            }
        }

        #[test]
        fn what_is_cut_anywhere_is_noticed(kinds in kinds(), cut in any::<prop::sample::Index>()) {
            let (first, bytes) = write(&kinds, Protocol::TCP);
            prop_assume!(!bytes.is_empty() && chain(&packet(first, &bytes)).is_ok());
            let cut = cut.index(bytes.len());
            let found = chain(&packet(first, &bytes[..cut]));
            let truncated = matches!(found, Err(Malformed::Truncated { .. }));
            prop_assert!(truncated, "{:?}", found);
        }

        #[test]
        fn any_bytes_are_survived(next: u8, bytes in prop::collection::vec(prop_oneof![0u8..3, Just(43), Just(44), Just(60), any::<u8>()], 0..200)) {
            let bytes = packet(Protocol(next), &bytes);
            if let Ok(chain) = chain(&bytes) {
                prop_assert!(HEADER_LEN <= chain.offset && chain.offset <= bytes.len());
            }
        }
    }

    #[test]
    fn a_later_fragment_ends_the_walk() {
        let header = fragment(Protocol::DESTINATION_OPTIONS, 1280, false, 0x0102_0304);
        let found = chain(&packet(Protocol::FRAGMENT, &header)).unwrap();
        assert_eq!(found.protocol, Protocol::DESTINATION_OPTIONS);
        assert_eq!(found.offset, HEADER_LEN + FRAGMENT_LEN);
        let expected = FragmentHeader {
            at: HEADER_LEN,
            next_header: Protocol::DESTINATION_OPTIONS,
            offset: 1280,
            more: false,
            identification: 0x0102_0304,
        };
        assert_eq!(found.fragment, Some(expected));
        assert!(found.is_fragment());
    }

    #[test]
    fn a_fragment_that_is_alone_is_none() {
        let header = fragment(Protocol::UDP, 0, false, 1);
        let found = chain(&packet(Protocol::FRAGMENT, &header)).unwrap();
        assert_eq!(found.protocol, Protocol::UDP);
        assert!(!found.is_fragment());
    }

    #[test]
    fn ah_and_esp_are_upper_layers() {
        for protocol in [Protocol::AH, Protocol::ESP, Protocol::NONE] {
            let found = chain(&packet(protocol, &[])).unwrap();
            assert_eq!((found.protocol, found.offset), (protocol, HEADER_LEN));
        }
    }

    #[test]
    fn a_jumbogram_has_nothing_behind_its_header() {
        // RFC 2675 2: payload length 0, and the real one in a hop-by-hop option.
        let mut bytes = packet(Protocol::HOP_BY_HOP, &[17, 0, 0xc2, 4, 0, 1, 0, 0]);
        bytes[4..6].fill(0);
        bytes.resize(70_000, 0);
        let needed = FRAGMENT_LEN;
        let truncated = Malformed::Truncated { needed, found: 0 };
        assert_eq!(chain(&bytes), Err(truncated));
    }
}
