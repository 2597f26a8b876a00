//! The payloads of RFC 7296 3.2 to 3.16 and the chain that they form.

use super::proposal::{self, Proposal};
use super::ts::TrafficSelector;
use super::{Malformed, Reader, Writer};
use crate::identity::Identity;

/// Payload types (RFC 7296 3.2).
pub mod kind {
    /// No further payload.
    pub const NONE: u8 = 0;
    /// Security Association.
    pub const SA: u8 = 33;
    /// Key Exchange.
    pub const KE: u8 = 34;
    /// Identification of the initiator.
    pub const ID_I: u8 = 35;
    /// Identification of the responder.
    pub const ID_R: u8 = 36;
    /// Certificate.
    pub const CERT: u8 = 37;
    /// Certificate request.
    pub const CERTREQ: u8 = 38;
    /// Authentication.
    pub const AUTH: u8 = 39;
    /// Nonce.
    pub const NONCE: u8 = 40;
    /// Notify.
    pub const NOTIFY: u8 = 41;
    /// Delete.
    pub const DELETE: u8 = 42;
    /// Vendor ID.
    pub const VENDOR: u8 = 43;
    /// Traffic selectors of the initiator.
    pub const TS_I: u8 = 44;
    /// Traffic selectors of the responder.
    pub const TS_R: u8 = 45;
    /// Encrypted and authenticated.
    pub const SK: u8 = 46;
    /// Configuration.
    pub const CP: u8 = 47;
    /// Extensible authentication.
    pub const EAP: u8 = 48;
    /// Encrypted and authenticated fragment (RFC 7383 2.5).
    pub const SKF: u8 = 53;
}

/// The certificate encoding of an X.509 certificate for signatures (RFC 7296 3.6).
pub const X509_SIGNATURE: u8 = 4;

/// Payloads that we read of one message.
const MAX_PAYLOADS: usize = 64;
const CRITICAL: u8 = 0x80;
/// Octets of the generic payload header.
pub(crate) const GENERIC_LEN: usize = 4;

/// The body of an ID payload. The reserved octets are ignored but authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identification {
    /// Who.
    pub identity: Identity,
    /// RESERVED, as it came.
    pub reserved: [u8; 3],
}

impl Identification {
    /// The identity with zero reserved octets.
    pub const fn new(identity: Identity) -> Self {
        Self {
            identity,
            reserved: [0; 3],
        }
    }

    /// The octets behind the generic header: what AUTH covers as RestOfIDPayload (2.15).
    pub fn body(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.emit(&mut writer);
        writer.into_vec()
    }

    fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let kind = reader.u8()?;
        let reserved = reader.array()?;
        Ok(Self {
            identity: Identity::from_wire(kind, reader.rest()),
            reserved,
        })
    }

    fn emit(&self, writer: &mut Writer) {
        writer.u8(self.identity.kind());
        writer.bytes(&self.reserved);
        writer.bytes(&self.identity.data());
    }
}

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// The protocol of the SA that it is about; zero without an SPI.
    pub protocol: u8,
    /// The SPI of that SA, or empty.
    pub spi: Vec<u8>,
    /// One of [`notify`](super::notify)'s types.
    pub kind: u16,
    /// Its data.
    pub data: Vec<u8>,
}

/// One payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// SA.
    SecurityAssociation(Vec<Proposal>),
    /// KE.
    KeyExchange {
        /// The key exchange method's number.
        method: u16,
        /// The public value.
        data: Vec<u8>,
    },
    /// IDi.
    IdInitiator(Identification),
    /// IDr.
    IdResponder(Identification),
    /// CERT.
    Certificate {
        /// The encoding.
        encoding: u8,
        /// The certificate.
        data: Vec<u8>,
    },
    /// CERTREQ.
    CertificateRequest {
        /// The encoding.
        encoding: u8,
        /// The certification authorities.
        data: Vec<u8>,
    },
    /// AUTH.
    Authentication {
        /// The method.
        method: u8,
        /// The proof.
        data: Vec<u8>,
    },
    /// Ni, Nr.
    Nonce(Vec<u8>),
    /// N.
    Notify(Notify),
    /// D for the IKE SA itself.
    DeleteIke,
    /// D for child SAs, by the SPIs of the sender's inbound halves.
    DeleteChildren {
        /// AH or ESP.
        protocol: u8,
        /// The SPIs.
        spis: Vec<u32>,
    },
    /// V.
    Vendor(Vec<u8>),
    /// TSi.
    TsInitiator(Vec<TrafficSelector>),
    /// TSr.
    TsResponder(Vec<TrafficSelector>),
    /// CP.
    Configuration {
        /// Request, reply, set or acknowledgement.
        kind: u8,
        /// Attribute types and values.
        attributes: Vec<(u16, Vec<u8>)>,
    },
    /// EAP, a whole EAP message.
    Eap(Vec<u8>),
    /// One that we need not understand.
    Unknown {
        /// Its type.
        kind: u8,
        /// Its body.
        data: Vec<u8>,
    },
}

/// What follows the payloads that could be read: an SK payload, where there is one.
pub(crate) struct Chain {
    pub(crate) payloads: Vec<Payload>,
    pub(crate) encrypted: Option<Sealed>,
}

/// An SK or SKF payload that has not been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// The type of the first payload inside.
    pub(crate) first: u8,
    /// Octets of initialization vector, ciphertext and integrity check value.
    pub(crate) len: usize,
    /// Which fragment it is, in an SKF payload.
    pub(crate) fragment: Option<Fragment>,
}

/// Which fragment of a message an SKF payload holds (RFC 7383 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its number, from 1.
    pub number: u16,
    /// How many there are.
    pub total: u16,
}

impl Fragment {
    /// RFC 7383 2.5: the number "MUST be less than or equal to" the total, and neither is zero.
    pub const fn is_valid(self) -> bool {
        self.number != 0 && self.number <= self.total
    }
}

impl Payload {
    /// An error or status without SPI.
    pub fn notify(kind: u16, data: &[u8]) -> Self {
        Self::Notify(Notify {
            protocol: 0,
            spi: Vec::new(),
            kind,
            data: data.to_vec(),
        })
    }

    fn kind(&self) -> u8 {
        match self {
            Self::SecurityAssociation(_) => kind::SA,
            Self::KeyExchange { .. } => kind::KE,
            Self::IdInitiator(_) => kind::ID_I,
            Self::IdResponder(_) => kind::ID_R,
            Self::Certificate { .. } => kind::CERT,
            Self::CertificateRequest { .. } => kind::CERTREQ,
            Self::Authentication { .. } => kind::AUTH,
            Self::Nonce(_) => kind::NONCE,
            Self::Notify(_) => kind::NOTIFY,
            Self::DeleteIke | Self::DeleteChildren { .. } => kind::DELETE,
            Self::Vendor(_) => kind::VENDOR,
            Self::TsInitiator(_) => kind::TS_I,
            Self::TsResponder(_) => kind::TS_R,
            Self::Configuration { .. } => kind::CP,
            Self::Eap(_) => kind::EAP,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    fn parse(kind: u8, body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (head, data) = body.split_first().map_or((0, &[][..]), |(h, d)| (*h, d));
        let data = data.to_vec();
        Ok(match kind {
            kind::SA => Self::SecurityAssociation(proposal::parse_all(body)?),
            kind::KE => {
                let method = reader.u16()?;
                reader.u16()?;
                Self::KeyExchange {
                    method,
                    data: reader.rest().to_vec(),
                }
            }
            kind::ID_I => Self::IdInitiator(Identification::parse(body)?),
            kind::ID_R => Self::IdResponder(Identification::parse(body)?),
            kind::CERT | kind::CERTREQ if body.is_empty() => return Err(Malformed::Truncated),
            kind::CERT => Self::Certificate {
                encoding: head,
                data,
            },
            kind::CERTREQ => Self::CertificateRequest {
                encoding: head,
                data,
            },
            kind::AUTH => {
                let method = reader.u8()?;
                reader.bytes(3)?;
                Self::Authentication {
                    method,
                    data: reader.rest().to_vec(),
                }
            }
            // RFC 7296 3.9: "the size of the Nonce Data MUST be between 16 and 256 octets"
            kind::NONCE if !(16..=256).contains(&body.len()) => return Err(Malformed::Nonce),
            kind::NONCE => Self::Nonce(body.to_vec()),
            kind::NOTIFY => {
                let protocol = reader.u8()?;
                let spi_len = reader.u8()?;
                let kind = reader.u16()?;
                let spi = reader.bytes(spi_len.into())?.to_vec();
                Self::Notify(Notify {
                    protocol,
                    spi,
                    kind,
                    data: reader.rest().to_vec(),
                })
            }
            kind::DELETE => Self::parse_delete(reader)?,
            kind::VENDOR => Self::Vendor(body.to_vec()),
            kind::TS_I => Self::TsInitiator(parse_selectors(reader)?),
            kind::TS_R => Self::TsResponder(parse_selectors(reader)?),
            kind::CP => Self::parse_configuration(reader)?,
            kind::EAP => Self::Eap(body.to_vec()),
            kind => Self::Unknown {
                kind,
                data: body.to_vec(),
            },
        })
    }

    fn parse_delete(mut reader: Reader<'_>) -> Result<Self, Malformed> {
        let protocol = reader.u8()?;
        let size = reader.u8()?;
        let count = reader.u16()?;
        match (protocol, size) {
            (proposal::protocol::IKE, 0) => Ok(Self::DeleteIke),
            (proposal::protocol::AH | proposal::protocol::ESP, 4) => {
                let spis = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
                Ok(Self::DeleteChildren { protocol, spis })
            }
            _ => Err(Malformed::Spi),
        }
    }

    fn parse_configuration(mut reader: Reader<'_>) -> Result<Self, Malformed> {
        let kind = reader.u8()?;
        reader.bytes(3)?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            // RFC 7296 3.15.1: the first bit is reserved and ignored
            let attribute = reader.u16()? & 0x7fff;
            let len = reader.u16()?;
            attributes.push((attribute, reader.bytes(len.into())?.to_vec()));
        }
        Ok(Self::Configuration { kind, attributes })
    }

    fn emit(&self, writer: &mut Writer) {
        match self {
            Self::SecurityAssociation(proposals) => proposal::emit_all(proposals, writer),
            Self::KeyExchange { method, data } => {
                writer.u16(*method);
                writer.u16(0);
                writer.bytes(data);
            }
            Self::IdInitiator(id) | Self::IdResponder(id) => id.emit(writer),
            Self::Certificate {
                encoding: head,
                data,
            }
            | Self::CertificateRequest {
                encoding: head,
                data,
            } => {
                writer.u8(*head);
                writer.bytes(data);
            }
            Self::Authentication { method, data } => {
                writer.u8(*method);
                writer.bytes(&[0; 3]);
                writer.bytes(data);
            }
            Self::Notify(notify) => {
                writer.u8(notify.protocol);
                writer.u8(u8::try_from(notify.spi.len()).unwrap_or(u8::MAX));
                writer.u16(notify.kind);
                writer.bytes(&notify.spi);
                writer.bytes(&notify.data);
            }
            Self::DeleteIke => writer.bytes(&[proposal::protocol::IKE, 0, 0, 0]),
            Self::DeleteChildren { protocol, spis } => {
                writer.bytes(&[*protocol, 4]);
                writer.u16(u16::try_from(spis.len()).unwrap_or(u16::MAX));
                spis.iter().for_each(|spi| writer.u32(*spi));
            }
            Self::TsInitiator(selectors) | Self::TsResponder(selectors) => {
                writer.u8(u8::try_from(selectors.len()).unwrap_or(u8::MAX));
                writer.bytes(&[0; 3]);
                selectors.iter().for_each(|selector| selector.emit(writer));
            }
            Self::Configuration { kind, attributes } => {
                writer.u8(*kind);
                writer.bytes(&[0; 3]);
                for (attribute, value) in attributes {
                    writer.u16(*attribute);
                    writer.with_length(0, |w| w.bytes(value));
                }
            }
            Self::Nonce(data)
            | Self::Vendor(data)
            | Self::Eap(data)
            | Self::Unknown { data, .. } => writer.bytes(data),
        }
    }
}

fn parse_selectors(mut reader: Reader<'_>) -> Result<Vec<TrafficSelector>, Malformed> {
    let count = reader.u8()?;
    reader.bytes(3)?;
    let mut selectors = Vec::new();
    for _ in 0..count {
        selectors.extend(TrafficSelector::parse(&mut reader)?);
    }
    if reader.is_empty() {
        Ok(selectors)
    } else {
        Err(Malformed::Selector)
    }
}

/// Reads a chain of payloads whose first has the type `first`. An SK payload ends it.
pub(crate) fn parse_chain(first: u8, body: &[u8]) -> Result<Chain, Malformed> {
    let mut reader = Reader::new(body);
    let mut payloads = Vec::new();
    let mut next = first;
    while next != kind::NONE {
        if payloads.len() == MAX_PAYLOADS {
            return Err(Malformed::TooMany);
        }
        let this = std::mem::replace(&mut next, reader.u8()?);
        let critical = reader.u8()? & CRITICAL != 0;
        let len = usize::from(reader.u16()?);
        let body = reader.bytes(len.checked_sub(GENERIC_LEN).ok_or(Malformed::Truncated)?)?;
        if this == kind::SK || this == kind::SKF {
            // RFC 7296 3.14: "The Encrypted payload, if present in a message, MUST be the last
            // payload in the message." RFC 7383 2.5 says the same of its fragments.
            let encrypted = Some(parse_sealed(this, next, body)?);
            return if reader.is_empty() {
                Ok(Chain {
                    payloads,
                    encrypted,
                })
            } else {
                Err(Malformed::Surplus)
            };
        }
        let payload = Payload::parse(this, body)?;
        // RFC 7296 2.5: "If the critical flag is set and the payload type is unrecognized, the
        // message MUST be rejected"
        if critical && matches!(payload, Payload::Unknown { .. }) {
            return Err(Malformed::UnknownCritical(this));
        }
        payloads.push(payload);
    }
    if reader.is_empty() {
        Ok(Chain {
            payloads,
            encrypted: None,
        })
    } else {
        Err(Malformed::Surplus)
    }
}

fn parse_sealed(kind: u8, first: u8, body: &[u8]) -> Result<Sealed, Malformed> {
    let mut reader = Reader::new(body);
    let fragment = if kind == kind::SKF {
        Some(Fragment {
            number: reader.u16()?,
            total: reader.u16()?,
        })
    } else {
        None
    };
    Ok(Sealed {
        first,
        len: reader.rest().len(),
        fragment,
    })
}

/// Writes a chain; gives the type of its first payload and its octets.
pub(crate) fn emit_chain(payloads: &[Payload]) -> (u8, Vec<u8>) {
    let mut writer = Writer::default();
    for (at, payload) in payloads.iter().enumerate() {
        writer.u8(payloads.get(at + 1).map_or(kind::NONE, Payload::kind));
        writer.u8(0);
        writer.with_length(GENERIC_LEN, |w| payload.emit(w));
    }
    (
        payloads.first().map_or(kind::NONE, Payload::kind),
        writer.into_vec(),
    )
}
