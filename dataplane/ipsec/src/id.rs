//! Identifiers of SAs (RFC 4301 4.1): slot and tag, so that finding one takes no hash.

use std::{fmt, num::NonZeroU32};

/// How many bits of an [`SaId`] are its tag.
const TAG_BITS: u32 = 12;

/// The identifier of an SA in this dataplane: a slot and a tag of 12 bits. For an inbound SA it is
/// the SPI on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaId(NonZeroU32);

impl SaId {
    /// Takes a number for an identifier; `None` for those that are no SPI.
    ///
    /// RFC 4303 2.1: "The set of SPI values in the range 1 through 255 are reserved [...] The SPI value of zero (0) is
    /// reserved for local, implementation-specific use and MUST NOT be sent on the wire."
    #[inline]
    pub fn new(number: u32) -> Option<Self> {
        if number < 256 {
            return None;
        }
        NonZeroU32::new(number).map(Self)
    }

    /// The number.
    #[inline]
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The slot.
    #[inline]
    pub fn slot(self) -> u32 {
        self.0.get() >> TAG_BITS
    }
}

impl fmt::Display for SaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_clear_of_reserved_spis() {
        assert!(SaId::new(0).is_none());
        assert!(SaId::new(255).is_none());
        assert!(SaId::new(256).is_some());
        let id = SaId::new(7 << 12 | 0xabc).unwrap();
        assert_eq!((id.slot(), id.get()), (7, 0x7abc));
    }
}
