//! Ethernet frames, with up to two VLAN tags (IEEE 802.1Q).

use crate::{Malformed, NoRoom, split_header};
use core::fmt;

/// The length of a header without tags.
pub const HEADER_LEN: usize = 14;
/// The length of a VLAN tag.
pub const VLAN_TAG_LEN: usize = 4;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Everyone on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group, broadcast included.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// A customer VLAN tag.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// A service VLAN tag (802.1ad), outside a customer's.
    pub const SERVICE_VLAN: Self = Self(0x88a8);

    #[inline]
    const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }
}

/// A VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// Service tag or customer tag.
    pub service: bool,
    /// Priority (3 bits), drop eligible (1 bit) and VLAN identifier (12 bits), as on the wire.
    pub control: u16,
}

impl VlanTag {
    /// The VLAN identifier.
    #[inline]
    pub const fn id(self) -> u16 {
        self.control & 0x0fff
    }

    #[inline]
    const fn ethertype(self) -> EtherType {
        if self.service {
            EtherType::SERVICE_VLAN
        } else {
            EtherType::VLAN
        }
    }
}

/// A checked view of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    header: &'a [u8; HEADER_LEN],
    tags: [Option<VlanTag>; 2],
    ethertype: EtherType,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks that header and tags are all there. A third tag is left in the payload, with its ethertype.
    ///
    /// # Errors
    ///
    /// The frame ends within them.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, mut payload) = split_header::<HEADER_LEN>(bytes)?;
        let mut ethertype = EtherType(u16::from_be_bytes([header[12], header[13]]));
        let mut tags = [None; 2];
        for tag in &mut tags {
            if !ethertype.is_tag() {
                break;
            }
            let (bytes, rest) = split_header::<VLAN_TAG_LEN>(payload)?;
            *tag = Some(VlanTag {
                service: ethertype == EtherType::SERVICE_VLAN,
                control: u16::from_be_bytes([bytes[0], bytes[1]]),
            });
            ethertype = EtherType(u16::from_be_bytes([bytes[2], bytes[3]]));
            payload = rest;
        }
        Ok(Self {
            header,
            tags,
            ethertype,
            payload,
        })
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> MacAddress {
        let [a, b, c, d, e, f, ..] = *self.header;
        MacAddress([a, b, c, d, e, f])
    }

    /// Who sent it.
    #[inline]
    pub fn source(&self) -> MacAddress {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.header;
        MacAddress([a, b, c, d, e, f])
    }

    /// The tags, outer first.
    #[inline]
    pub fn tags(&self) -> [Option<VlanTag>; 2] {
        self.tags
    }

    /// What it carries, behind the tags.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        self.ethertype
    }

    /// The length of header and tags.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.tags.iter().flatten().count() * VLAN_TAG_LEN
    }

    /// What follows, padding included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// Whom it is for.
    pub destination: MacAddress,
    /// Who sends it.
    pub source: MacAddress,
    /// The tags, outer first; a second one without a first is put first.
    pub tags: [Option<VlanTag>; 2],
    /// What it carries.
    pub ethertype: EtherType,
}

impl Repr {
    /// A header without tags.
    #[inline]
    pub const fn untagged(
        destination: MacAddress,
        source: MacAddress,
        ethertype: EtherType,
    ) -> Self {
        Self {
            destination,
            source,
            tags: [None; 2],
            ethertype,
        }
    }

    /// The header of a frame.
    #[inline]
    pub fn parse(frame: &Frame<'_>) -> Self {
        Self {
            destination: frame.destination(),
            source: frame.source(),
            tags: frame.tags(),
            ethertype: frame.ethertype(),
        }
    }

    /// The length of header and tags.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.tags.iter().flatten().count() * VLAN_TAG_LEN
    }

    /// Writes the header at the start of `buffer`.
    ///
    /// # Errors
    ///
    /// The buffer is too short.
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) -> Result<(), NoRoom> {
        let needed = self.header_len();
        let header = buffer.get_mut(..needed).ok_or(NoRoom { needed })?;
        let (addresses, mut rest) = header
            .split_first_chunk_mut::<12>()
            .ok_or(NoRoom { needed })?;
        let [a, b, c, d, e, f] = self.destination.0;
        let [g, h, i, j, k, l] = self.source.0;
        *addresses = [a, b, c, d, e, f, g, h, i, j, k, l];
        for tag in self.tags.iter().flatten() {
            let (bytes, behind) = rest.split_first_chunk_mut::<4>().ok_or(NoRoom { needed })?;
            let [type_high, type_low] = tag.ethertype().0.to_be_bytes();
            let [control_high, control_low] = tag.control.to_be_bytes();
            *bytes = [type_high, type_low, control_high, control_low];
            rest = behind;
        }
        crate::put(self.ethertype.0.to_be_bytes(), rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag() -> impl Strategy<Value = VlanTag> {
        (any::<bool>(), any::<u16>()).prop_map(|(service, control)| VlanTag { service, control })
    }

    fn tags() -> impl Strategy<Value = [Option<VlanTag>; 2]> {
        prop_oneof![
            Just([None, None]),
            tag().prop_map(|tag| [Some(tag), None]),
            (tag(), tag()).prop_map(|(outer, inner)| [Some(outer), Some(inner)]),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(frame) = Frame::new_checked(&bytes) {
                prop_assert_eq!(frame.header_len() + frame.payload().len(), bytes.len());
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(
            destination: [u8; 6], source: [u8; 6], tags in tags(), ethertype: u16,
            payload in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let ethertype = EtherType(ethertype);
            prop_assume!(!ethertype.is_tag());
            let repr = Repr {
                destination: MacAddress(destination), source: MacAddress(source), tags, ethertype,
            };
            let mut bytes = vec![0; repr.header_len()];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&payload);
            let frame = Frame::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&frame), repr);
            prop_assert_eq!(frame.payload(), &payload);
            let mut short = vec![0xaa; repr.header_len() - 1];
            prop_assert_eq!(repr.emit(&mut short), Err(NoRoom { needed: repr.header_len() }));
            prop_assert!(short.iter().all(|byte| *byte == 0xaa));
        }
    }

    #[test]
    fn addresses_are_shown_as_usual() {
        let address = MacAddress([0x02, 0, 0x5e, 0x10, 0, 0xff]);
        assert_eq!(address.to_string(), "02:00:5e:10:00:ff");
        assert!(!address.is_multicast());
        assert!(MacAddress::BROADCAST.is_multicast());
    }
}
