//! Whole messages: in the clear here, protected in [`crate::crypto`].

use super::header::{self, Header};
use super::payload::{self, GENERIC_LEN, Identification, Notify, Payload};
use super::proposal::Proposal;
use super::ts::TrafficSelector;
use super::{Malformed, Writer};

/// A message in the clear, or a protected one before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The header.
    pub header: Header,
    /// The payloads outside of SK.
    pub payloads: Vec<Payload>,
    /// The SK payload, where there is one.
    pub encrypted: Option<Encrypted>,
}

/// Where the SK payload lies in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The type of the first payload inside.
    pub first: u8,
    /// Octets before the body of SK: what an AEAD authenticates as associated data.
    pub body_at: usize,
}

impl Message {
    /// Reads a datagram.
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let (header, body) = Header::parse(datagram)?;
        let chain = payload::parse_chain(header.next_payload, body)?;
        let encrypted = chain.encrypted.map(|(first, len)| Encrypted {
            first,
            body_at: datagram.len() - len,
        });
        Ok(Self {
            header,
            payloads: chain.payloads,
            encrypted,
        })
    }

    /// Writes a message in the clear.
    pub fn emit(header: Header, payloads: &[Payload]) -> Vec<u8> {
        let (first, body) = payload::emit_chain(payloads);
        let mut writer = Writer::default();
        Header {
            next_payload: first,
            ..header
        }
        .emit(&mut writer, header::LEN + body.len());
        writer.bytes(&body);
        writer.into_vec()
    }
}

/// Writes header and generic SK header of a protected message whose SK body has `len` octets.
pub(crate) fn emit_protected_head(header: Header, first: u8, len: usize) -> Vec<u8> {
    let mut writer = Writer::default();
    let header = Header {
        next_payload: payload::kind::SK,
        ..header
    };
    header.emit(&mut writer, header::LEN + GENERIC_LEN + len);
    writer.u8(first);
    writer.u8(0);
    writer.u16(u16::try_from(GENERIC_LEN + len).unwrap_or(u16::MAX));
    writer.into_vec()
}

/// The payloads of a message, by what one looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payloads<'a>(pub(crate) &'a [Payload]);

/// Declares a getter for the first payload of a variant.
macro_rules! first {
    ($name:ident, $pattern:pat => $value:expr, $type:ty) => {
        pub(crate) fn $name(&self) -> Option<$type> {
            self.0.iter().find_map(|p| match p {
                $pattern => Some($value),
                _ => None,
            })
        }
    };
}

impl<'a> Payloads<'a> {
    first!(proposals, Payload::SecurityAssociation(p) => p.as_slice(), &'a [Proposal]);
    first!(key_exchange, Payload::KeyExchange { method, data } => (*method, data.as_slice()), (u16, &'a [u8]));
    first!(nonce, Payload::Nonce(n) => n.as_slice(), &'a [u8]);
    first!(id_initiator, Payload::IdInitiator(id) => id, &'a Identification);
    first!(id_responder, Payload::IdResponder(id) => id, &'a Identification);
    first!(authentication, Payload::Authentication { method, data } => (*method, data.as_slice()), (u8, &'a [u8]));
    first!(ts_initiator, Payload::TsInitiator(ts) => ts.as_slice(), &'a [TrafficSelector]);
    first!(ts_responder, Payload::TsResponder(ts) => ts.as_slice(), &'a [TrafficSelector]);

    pub(crate) fn notifies(&self) -> impl Iterator<Item = &'a Notify> + use<'a> {
        self.0.iter().filter_map(|p| match p {
            Payload::Notify(n) => Some(n),
            _ => None,
        })
    }

    pub(crate) fn notify(&self, kind: u16) -> Option<&'a Notify> {
        self.notifies().find(|n| n.kind == kind)
    }

    /// The first notification of an error.
    pub(crate) fn error(&self) -> Option<&'a Notify> {
        self.notifies().find(|n| super::notify::is_error(n.kind))
    }
}
