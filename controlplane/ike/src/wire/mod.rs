//! The wire format of RFC 7296 3: values that are parsed from octets and emitted as octets.
//! Nothing outside this module counts offsets.

pub mod configuration;
pub mod header;
pub mod message;
pub mod notify;
pub mod payload;
pub mod proposal;
pub mod ts;

/// Why octets are no IKE message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends before its content does.
    #[error("truncated")]
    Truncated,
    /// The length in the header is not that of the datagram.
    #[error("its length field is wrong")]
    Length,
    /// More payloads, proposals, transforms or selectors than we take.
    #[error("too many parts")]
    TooMany,
    /// A payload that we do not know and must understand.
    #[error("unknown critical payload {0}")]
    UnknownCritical(u8),
    /// A proposal or transform that is none.
    #[error("bad proposal")]
    Proposal,
    /// A traffic selector that is none.
    #[error("bad traffic selector")]
    Selector,
    /// An SPI of a wrong size.
    #[error("bad SPI size")]
    Spi,
    /// Octets behind the last payload.
    #[error("octets behind the last payload")]
    Surplus,
    /// A nonce that is too short or too long.
    #[error("bad nonce length")]
    Nonce,
}

impl Malformed {
    /// The same as a constant sentence.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Truncated => "it is truncated",
            Self::Length => "its length field is wrong",
            Self::TooMany => "it has too many parts",
            Self::UnknownCritical(_) => "it has an unknown critical payload",
            Self::Proposal => "it has a bad proposal",
            Self::Selector => "it has a bad traffic selector",
            Self::Spi => "it has an SPI of a wrong size",
            Self::Surplus => "it has octets behind its last payload",
            Self::Nonce => "its nonce is too short or too long",
        }
    }
}

/// Reads octets from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn sub(&mut self, len: usize) -> Result<Self, Malformed> {
        self.bytes(len).map(Self)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Appends octets to a buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, octets: &[u8]) {
        self.0.extend(octets);
    }

    /// Writes a 16-bit length, then the body; the length counts `extra` octets on top.
    pub(crate) fn with_length(&mut self, extra: usize, body: impl FnOnce(&mut Self)) {
        let at = self.0.len();
        self.u16(0);
        body(self);
        let len = self.0.len() - at - 2 + extra;
        // A message is at most 65535 octets, and none of ours comes near.
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        if let Some(field) = self.0.get_mut(at..at + 2) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        self.0
    }
}
