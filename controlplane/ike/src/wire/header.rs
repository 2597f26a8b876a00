//! The IKE header (RFC 7296 3.1).

use super::{Malformed, Reader, Writer};

/// Octets of the header.
pub const LEN: usize = 28;

/// Major version 2, minor version 0.
pub const VERSION: u8 = 0x20;

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_VERSION: u8 = 0x10;
const FLAG_RESPONSE: u8 = 0x20;

/// Which exchange a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeType {
    /// IKE_SA_INIT.
    IkeSaInit,
    /// IKE_AUTH.
    IkeAuth,
    /// CREATE_CHILD_SA.
    CreateChildSa,
    /// INFORMATIONAL.
    Informational,
    /// IKE_INTERMEDIATE (RFC 9242).
    IkeIntermediate,
    /// IKE_FOLLOWUP_KE (RFC 9370).
    IkeFollowupKe,
    /// One that we do not know.
    Other(u8),
}

impl ExchangeType {
    const fn number(self) -> u8 {
        match self {
            Self::IkeSaInit => 34,
            Self::IkeAuth => 35,
            Self::CreateChildSa => 36,
            Self::Informational => 37,
            Self::IkeIntermediate => 43,
            Self::IkeFollowupKe => 44,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            34 => Self::IkeSaInit,
            35 => Self::IkeAuth,
            36 => Self::CreateChildSa,
            37 => Self::Informational,
            43 => Self::IkeIntermediate,
            44 => Self::IkeFollowupKe,
            number => Self::Other(number),
        }
    }
}

/// The header without its length, which follows from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The SPI of the IKE SA's original initiator.
    pub initiator_spi: u64,
    /// The SPI of the IKE SA's original responder; zero in the first message.
    pub responder_spi: u64,
    /// The type of the first payload.
    pub next_payload: u8,
    /// Major version in the upper, minor version in the lower half.
    pub version: u8,
    /// The exchange.
    pub exchange: ExchangeType,
    /// The sender is the original initiator of the IKE SA.
    pub initiator: bool,
    /// The message is a response.
    pub response: bool,
    /// The sender could speak a higher major version.
    pub higher_version: bool,
    /// The message ID.
    pub message_id: u32,
}

impl Header {
    /// The major version.
    pub const fn major(&self) -> u8 {
        self.version >> 4
    }

    /// Reads the header of a datagram and checks its length; the rest is the payloads.
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut reader = Reader::new(datagram);
        let initiator_spi = reader.u64()?;
        let responder_spi = reader.u64()?;
        let next_payload = reader.u8()?;
        let version = reader.u8()?;
        let exchange = ExchangeType::from_number(reader.u8()?);
        // RFC 7296 3.1: the other bits "MUST be ignored on receipt"
        let flags = reader.u8()?;
        let message_id = reader.u32()?;
        let length = reader.u32()?;
        if usize::try_from(length) != Ok(datagram.len()) || initiator_spi == 0 {
            return Err(Malformed::Length);
        }
        let header = Self {
            initiator_spi,
            responder_spi,
            next_payload,
            version,
            exchange,
            initiator: flags & FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            higher_version: flags & FLAG_VERSION != 0,
            message_id,
        };
        Ok((header, reader.rest()))
    }

    /// Writes the header of a message of `len` octets in all.
    pub(crate) fn emit(&self, writer: &mut Writer, len: usize) {
        writer.u64(self.initiator_spi);
        writer.u64(self.responder_spi);
        writer.u8(self.next_payload);
        writer.u8(self.version);
        writer.u8(self.exchange.number());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        writer.u8(flag(self.initiator, FLAG_INITIATOR)
            | flag(self.response, FLAG_RESPONSE)
            | flag(self.higher_version, FLAG_VERSION));
        writer.u32(self.message_id);
        writer.u32(u32::try_from(len).unwrap_or(u32::MAX));
    }
}
