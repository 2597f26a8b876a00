//! The Security Association payload's proposals and transforms (RFC 7296 3.3).

use super::{Malformed, Reader, Writer};

/// Security protocol identifiers (RFC 7296 3.3.1).
pub mod protocol {
    /// IKE.
    pub const IKE: u8 = 1;
    /// AH.
    pub const AH: u8 = 2;
    /// ESP.
    pub const ESP: u8 = 3;
}

/// Transform types (RFC 7296 3.3.2).
pub mod transform {
    /// Encryption algorithm.
    pub const ENCRYPTION: u8 = 1;
    /// Pseudo-random function.
    pub const PRF: u8 = 2;
    /// Integrity algorithm.
    pub const INTEGRITY: u8 = 3;
    /// Key exchange method.
    pub const KEY_EXCHANGE: u8 = 4;
    /// Extended sequence numbers.
    pub const ESN: u8 = 5;
    /// The first of the additional key exchanges, ADDKE1 (RFC 9370); seven follow one another.
    pub const FIRST_ADDITIONAL: u8 = 6;
    /// The last of them, ADDKE7.
    pub const LAST_ADDITIONAL: u8 = 12;

    /// Whether the type is one of the additional key exchanges.
    pub const fn is_additional(kind: u8) -> bool {
        kind >= FIRST_ADDITIONAL && kind <= LAST_ADDITIONAL
    }
}

/// The attribute type of a key length (RFC 7296 3.3.5).
const KEY_LENGTH: u16 = 14;
/// The attribute format bit: type and value instead of type, length and value.
const SHORT: u16 = 0x8000;
/// Proposals that we read of one payload.
const MAX_PROPOSALS: usize = 128;

/// One proposal: for each transform type it names, one transform is to be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its number, from 1.
    pub number: u8,
    /// IKE, AH or ESP.
    pub protocol: u8,
    /// The sender's SPI; empty in IKE_SA_INIT.
    pub spi: Vec<u8>,
    /// What is offered, in order of preference within a type.
    pub transforms: Vec<Transform>,
}

/// One transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    /// The transform type.
    pub kind: u8,
    /// The transform ID.
    pub id: u16,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
}

/// An attribute of a transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Key Length, in bits.
    KeyLength(u16),
    /// One that we do not know: the transform cannot be chosen (RFC 7296 3.3.6).
    Unknown {
        /// The attribute type.
        kind: u16,
        /// Its value.
        value: Vec<u8>,
    },
}

impl Transform {
    /// A transform with at most a key length.
    pub fn new(kind: u8, id: u16, key_bits: Option<u16>) -> Self {
        let attributes = key_bits.map(Attribute::KeyLength).into_iter().collect();
        Self {
            kind,
            id,
            attributes,
        }
    }

    /// The key length, unless there is an attribute that we do not understand.
    pub fn key_bits(&self) -> Result<Option<u16>, Malformed> {
        match self.attributes.as_slice() {
            [] => Ok(None),
            [Attribute::KeyLength(bits)] => Ok(Some(*bits)),
            _ => Err(Malformed::Proposal),
        }
    }

    fn parse(reader: &mut Reader<'_>) -> Result<(Self, bool), Malformed> {
        let last = reader.u8()? == 0;
        reader.u8()?;
        let len = reader.u16()?;
        let mut body = reader.sub(usize::from(len).checked_sub(4).ok_or(Malformed::Proposal)?)?;
        let kind = body.u8()?;
        body.u8()?;
        let id = body.u16()?;
        let mut attributes = Vec::new();
        while !body.is_empty() {
            let kind = body.u16()?;
            attributes.push(if kind == SHORT | KEY_LENGTH {
                Attribute::KeyLength(body.u16()?)
            } else if kind & SHORT != 0 {
                Attribute::Unknown {
                    kind,
                    value: body.bytes(2)?.to_vec(),
                }
            } else {
                let len = body.u16()?;
                Attribute::Unknown {
                    kind,
                    value: body.bytes(len.into())?.to_vec(),
                }
            });
        }
        Ok((
            Self {
                kind,
                id,
                attributes,
            },
            last,
        ))
    }

    fn emit(&self, writer: &mut Writer, last: bool) {
        writer.u8(if last { 0 } else { 3 });
        writer.u8(0);
        writer.with_length(4, |w| {
            w.u8(self.kind);
            w.u8(0);
            w.u16(self.id);
            for attribute in &self.attributes {
                match attribute {
                    Attribute::KeyLength(bits) => {
                        w.u16(SHORT | KEY_LENGTH);
                        w.u16(*bits);
                    }
                    Attribute::Unknown { kind, value } if kind & SHORT != 0 => {
                        w.u16(*kind);
                        w.bytes(value);
                    }
                    Attribute::Unknown { kind, value } => {
                        w.u16(*kind);
                        w.with_length(0, |w| w.bytes(value));
                    }
                }
            }
        });
    }
}

impl Proposal {
    /// The transforms of one type, in order.
    pub fn of_kind(&self, kind: u8) -> impl Iterator<Item = &Transform> {
        self.transforms.iter().filter(move |t| t.kind == kind)
    }

    fn parse(reader: &mut Reader<'_>) -> Result<(Self, bool), Malformed> {
        let last = reader.u8()? == 0;
        reader.u8()?;
        let len = reader.u16()?;
        let mut body = reader.sub(usize::from(len).checked_sub(4).ok_or(Malformed::Proposal)?)?;
        let number = body.u8()?;
        let protocol = body.u8()?;
        let spi_len = body.u8()?;
        let count = body.u8()?;
        let spi = body.bytes(spi_len.into())?.to_vec();
        let mut transforms = Vec::new();
        for _ in 0..count {
            transforms.push(Transform::parse(&mut body)?.0);
        }
        if !body.is_empty() {
            return Err(Malformed::Proposal);
        }
        Ok((
            Self {
                number,
                protocol,
                spi,
                transforms,
            },
            last,
        ))
    }

    fn emit(&self, writer: &mut Writer, last: bool) {
        writer.u8(if last { 0 } else { 2 });
        writer.u8(0);
        writer.with_length(4, |w| {
            w.u8(self.number);
            w.u8(self.protocol);
            w.u8(u8::try_from(self.spi.len()).unwrap_or(u8::MAX));
            w.u8(u8::try_from(self.transforms.len()).unwrap_or(u8::MAX));
            w.bytes(&self.spi);
            for (at, transform) in self.transforms.iter().enumerate() {
                transform.emit(w, at + 1 == self.transforms.len());
            }
        });
    }
}

/// Reads the body of an SA payload.
pub(super) fn parse_all(body: &[u8]) -> Result<Vec<Proposal>, Malformed> {
    let mut reader = Reader::new(body);
    let mut proposals = Vec::new();
    loop {
        if proposals.len() == MAX_PROPOSALS {
            return Err(Malformed::TooMany);
        }
        let (proposal, last) = Proposal::parse(&mut reader)?;
        proposals.push(proposal);
        if last {
            break;
        }
    }
    if reader.is_empty() {
        Ok(proposals)
    } else {
        Err(Malformed::Proposal)
    }
}

pub(super) fn emit_all(proposals: &[Proposal], writer: &mut Writer) {
    for (at, proposal) in proposals.iter().enumerate() {
        proposal.emit(writer, at + 1 == proposals.len());
    }
}
