//! The explicit IV (RFC 4106 3.1) as something that can be spent once.

/// The IV of one packet. It cannot be copied, and a job consumes it: what turns a sequence number into an IV decides that
/// there is one packet for each.
///
/// RFC 4106 3.1: "The IV MUST be chosen by the encryptor in a manner that ensures that the same IV value is used only
/// once for a given key."
#[derive(Debug, PartialEq, Eq)]
pub struct ExplicitIv([u8; 8]);

impl ExplicitIv {
    /// The IV of a 64-bit sequence number that was never used under the key.
    #[inline]
    pub const fn from_sequence(number: u64) -> Self {
        Self(number.to_be_bytes())
    }

    /// The bytes that the packet carries.
    #[inline]
    pub const fn bytes(&self) -> [u8; 8] {
        self.0
    }
}
