//! Whole messages: in the clear here, protected in [`crate::crypto`].

use super::configuration::{Given, Wish};
use super::header::{self, Header};
use super::payload::{self, Fragment, GENERIC_LEN, Identification, Notify, Payload};
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
    /// The SK or SKF payload, where there is one.
    pub encrypted: Option<Encrypted>,
}

/// Where the SK or SKF payload lies in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The type of the first payload inside.
    pub first: u8,
    /// Octets before what is encrypted: what an AEAD authenticates as associated data (RFC 5282
    /// 5.1), the numbers of a fragment included.
    pub body_at: usize,
    /// Which fragment it is, in an SKF payload.
    pub fragment: Option<Fragment>,
}

/// Octets of an SKF payload's fragment number and total (RFC 7383 2.5).
const FRAGMENT_LEN: usize = 4;

/// Octets before what is encrypted, in a message that has nothing else.
pub(crate) const fn protected_head_len(fragmented: bool) -> usize {
    header::LEN + GENERIC_LEN + if fragmented { FRAGMENT_LEN } else { 0 }
}

impl Message {
    /// Reads a datagram.
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let (header, body) = Header::parse(datagram)?;
        let chain = payload::parse_chain(header.next_payload, body)?;
        let encrypted = chain.encrypted.map(|sealed| Encrypted {
            first: sealed.first,
            body_at: datagram.len() - sealed.len,
            fragment: sealed.fragment,
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

/// Writes what stands before the `len` encrypted octets of a protected message or fragment.
pub(crate) fn emit_protected_head(
    header: Header,
    first: u8,
    len: usize,
    fragment: Option<Fragment>,
) -> Vec<u8> {
    let mut writer = Writer::default();
    let kind = if fragment.is_some() {
        payload::kind::SKF
    } else {
        payload::kind::SK
    };
    let header = Header {
        next_payload: kind,
        ..header
    };
    let len = len + protected_head_len(fragment.is_some());
    header.emit(&mut writer, len);
    writer.u8(first);
    writer.u8(0);
    writer.u16(u16::try_from(len - header::LEN).unwrap_or(u16::MAX));
    if let Some(fragment) = fragment {
        writer.u16(fragment.number);
        writer.u16(fragment.total);
    }
    writer.into_vec()
}

/// What stands before the ciphertext, as it were in a message in one piece of `inner` octets of
/// payloads alone (RFC 9242 3.3.2): without the numbers of a fragment, the lengths adjusted.
pub(crate) fn unfragmented_head(start: &[u8], fragmented: bool, inner: usize) -> Vec<u8> {
    let end = start.len() - if fragmented { FRAGMENT_LEN } else { 0 };
    let mut head = start.get(..end).unwrap_or_default().to_vec();
    let total = u32::try_from(head.len() + inner).unwrap_or(u32::MAX);
    let len = u16::try_from(GENERIC_LEN + inner).unwrap_or(u16::MAX);
    if let Some(field) = head.get_mut(header::LEN - 4..header::LEN) {
        field.copy_from_slice(&total.to_be_bytes());
    }
    if let Some(field) = head.last_chunk_mut() {
        *field = len.to_be_bytes();
    }
    // The type of the Encrypted payload stands in the header unless payloads in the clear precede it.
    if let Some(next) = head
        .get_mut(NEXT_PAYLOAD_AT)
        .filter(|next| **next == payload::kind::SKF)
    {
        *next = payload::kind::SK;
    }
    head
}

/// Where the header names the type of the first payload.
const NEXT_PAYLOAD_AT: usize = 16;

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

    /// The packet of the EAP payload.
    pub(crate) fn eap(&self) -> Option<&'a [u8]> {
        self.0.iter().find_map(|payload| match payload {
            Payload::Eap(packet) => Some(packet.as_slice()),
            _ => None,
        })
    }

    /// What the peer asks for by its Configuration payload.
    pub(crate) fn wish(&self) -> Option<Wish> {
        self.0.iter().find_map(Wish::read)
    }

    /// What the peer gives us by its Configuration payload.
    pub(crate) fn given(&self) -> Option<Given> {
        self.0.iter().find_map(Given::read)
    }

    pub(crate) fn notifies(&self) -> impl Iterator<Item = &'a Notify> + use<'a> {
        self.0.iter().filter_map(|p| match p {
            Payload::Notify(n) => Some(n),
            _ => None,
        })
    }

    pub(crate) fn notify(&self, kind: u16) -> Option<&'a Notify> {
        self.notifies().find(|n| n.kind == kind)
    }

    /// The X.509 certificates, the peer's own first (RFC 7296 3.6).
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.0.iter().filter_map(|p| match p {
            Payload::Certificate {
                encoding: payload::X509_SIGNATURE,
                data,
            } => Some(data.as_slice()),
            _ => None,
        })
    }

    /// The first notification of an error.
    pub(crate) fn error(&self) -> Option<&'a Notify> {
        self.notifies().find(|n| super::notify::is_error(n.kind))
    }
}
