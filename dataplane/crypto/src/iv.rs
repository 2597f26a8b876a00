//! Initialization vectors, as something that can be spent once.
//!
//! Counter-mode AEADs need one that never comes again under the key: the sequence number's.

/// The IV of one packet to be sealed. It cannot be copied, and a job consumes it: what turns a sequence number into an IV
/// decides that there is one packet for each.
///
/// RFC 4106 3.1: "The IV MUST be chosen by the encryptor in a manner that ensures that the same IV value is used only
/// once for a given key."
#[derive(Debug, PartialEq, Eq)]
pub struct Iv([u8; 8]);

impl Iv {
    /// The IV of a 64-bit sequence number that was never used under the key.
    ///
    /// With an implicit IV, the number has to be the packet's own (RFC 8750 3).
    #[inline]
    pub const fn from_sequence(number: u64) -> Self {
        Self(number.to_be_bytes())
    }

    /// The 8 bytes that a packet of an AEAD with explicit IV carries.
    #[inline]
    pub const fn explicit(&self) -> [u8; 8] {
        self.0
    }
}
