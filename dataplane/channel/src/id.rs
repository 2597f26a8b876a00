//! The names by which the planes speak of things: SAs, policies, ports, workers, and the dataplane's lives.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An SA of ours, of either direction: a slot of the SA table and a random tag of 12 bits.
///
/// For an inbound SA it is the SPI on the wire, so the inbound lookup is one indexed load and one compare. RFC 4303
/// 2.1: "The set of SPI values in the range 1 through 255 are reserved", and 0 is never sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId(u32);

impl SaId {
    /// The bits of the tag.
    pub const TAG_BITS: u32 = 12;
    /// The slots that an id can name.
    pub const SLOTS: u32 = 1 << (32 - Self::TAG_BITS);
    /// The lowest SPI that may be used.
    pub const LOWEST: u32 = 256;

    /// An id from the value on the wire; `None` for 0 to 255.
    pub const fn new(value: u32) -> Option<Self> {
        if value < Self::LOWEST {
            return None;
        }
        Some(Self(value))
    }

    /// An id from its parts; `None` when a part is too large or the SPI is a reserved one.
    pub const fn from_parts(slot: u32, tag: u32) -> Option<Self> {
        if slot >= Self::SLOTS || tag >= 1 << Self::TAG_BITS {
            return None;
        }
        Self::new(slot << Self::TAG_BITS | tag)
    }

    /// The value, which for an inbound SA is the SPI.
    pub const fn value(self) -> u32 {
        self.0
    }

    /// The slot in the SA table.
    pub const fn slot(self) -> u32 {
        self.0 >> Self::TAG_BITS
    }

    /// The random part.
    pub const fn tag(self) -> u32 {
        self.0 & ((1 << Self::TAG_BITS) - 1)
    }
}

impl fmt::Display for SaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for SaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaId({self})")
    }
}

/// An entry of the SPD. Those that share the upper 56 bits are the selector pairs of one child SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub u64);

impl PolicyId {
    /// The group: what the selector pairs of one child share.
    pub const fn group(self) -> u64 {
        self.0 >> 8
    }

    /// The first of a group.
    pub const fn first_of(group: u64) -> Self {
        Self(group << 8)
    }
}

/// A port, by its place in [`Setup::ports`](crate::Setup::ports).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u8);

/// A worker, by its place in [`Setup::workers`](crate::Setup::workers); one more is the steward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

/// One life of the dataplane: a random number drawn at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Draws one from the kernel.
    ///
    /// # Errors
    ///
    /// The kernel's, when it has no random numbers to give.
    pub fn draw() -> io::Result<Self> {
        let mut bytes = [0; 8];
        let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if drawn < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self(u64::from_ne_bytes(bytes)))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What an operator calls an SA: `tunnel/child`, at most 64 bytes of UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label([u8; Self::CAPACITY]);

impl Label {
    /// The most bytes.
    pub const CAPACITY: usize = 64;

    /// A label of as much of `text` as fits, cut between characters; it ends at the first NUL.
    pub fn new(text: &str) -> Self {
        let text = text.split('\0').next().unwrap_or_default();
        let end = text.floor_char_boundary(Self::CAPACITY);
        let mut bytes = [0; Self::CAPACITY];
        for (to, from) in bytes.iter_mut().zip(text.as_bytes().iter().take(end)) {
            *to = *from;
        }
        Self(bytes)
    }

    /// A label from its bytes, which are padded with zeros; `None` when they are not UTF-8 or not so padded.
    pub fn from_bytes(bytes: [u8; Self::CAPACITY]) -> Option<Self> {
        let length = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let (text, padding) = bytes.split_at_checked(length)?;
        let padded = padding.iter().all(|b| *b == 0);
        (padded && std::str::from_utf8(text).is_ok()).then_some(Self(bytes))
    }

    /// The bytes, padded with zeros.
    pub const fn bytes(&self) -> &[u8; Self::CAPACITY] {
        &self.0
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let text = self.0.split(|b| *b == 0).next().unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Label({:?})", self.as_str())
    }
}

/// A prefix of addresses; the host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits that `address` lies in; `None` when the family has no such length.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(length))
                    .unwrap_or_default();
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(length))
                    .unwrap_or_default();
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// Its first address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    pub const fn length(self) -> u8 {
        self.length
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sa_id_is_slot_and_tag() {
        let sa = SaId::from_parts(3, 0xabc).unwrap();
        assert_eq!((sa.slot(), sa.tag(), sa.value()), (3, 0xabc, 0x3abc));
        assert_eq!(sa.to_string(), "00003abc");
        assert_eq!(SaId::new(255), None);
        assert_eq!(SaId::from_parts(0, 255), None);
        assert_eq!(SaId::from_parts(SaId::SLOTS, 0), None);
        assert_eq!(SaId::from_parts(0, 1 << SaId::TAG_BITS), None);
    }

    #[test]
    fn a_label_is_cut_between_characters() {
        let label = Label::new(&format!("{}é", "x".repeat(63)));
        assert_eq!(label.as_str(), "x".repeat(63));
        assert_eq!(Label::from_bytes(*label.bytes()), Some(label));
        assert_eq!(Label::new("site-b/lan").as_str(), "site-b/lan");
        assert_eq!(Label::from_bytes([0xff; 64]), None, "not UTF-8");
        let mut padded = *Label::new("a").bytes();
        padded[5] = b'b';
        assert_eq!(Label::from_bytes(padded), None, "text after the padding");
    }

    #[test]
    fn a_prefix_has_no_host_bits() {
        let prefix = |text: &str, length| Prefix::new(text.parse().unwrap(), length);
        assert_eq!(prefix("10.1.2.3", 16).unwrap().to_string(), "10.1.0.0/16");
        assert_eq!(prefix("10.1.2.3", 0).unwrap().to_string(), "0.0.0.0/0");
        assert_eq!(
            prefix("2001:db8::1", 64).unwrap().to_string(),
            "2001:db8::/64"
        );
        assert_eq!(prefix("::1", 0).unwrap().to_string(), "::/0");
        assert_eq!(prefix("10.1.2.3", 33), None);
    }
}
