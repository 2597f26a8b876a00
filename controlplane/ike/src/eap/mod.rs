//! The Extensible Authentication Protocol (RFC 3748) within IKE_AUTH (RFC 7296 2.16): both ends as state machines that take
//! a packet and say what comes next.

mod client;
pub(crate) mod mschapv2;
mod server;
pub(crate) mod tls;
mod users;

use std::fmt;

use crate::identity::Identity;
use crate::secret::Secret;

pub(crate) use client::{Answer, Client};
pub(crate) use server::{Certificates, Outcome, Passwords, Server};
pub(crate) use tls::Tls;
pub use users::Users;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const SUCCESS: u8 = 3;
const FAILURE: u8 = 4;

/// Types of requests and responses (RFC 3748 5).
mod kind {
    pub(super) const IDENTITY: u8 = 1;
    pub(super) const NOTIFICATION: u8 = 2;
    pub(super) const NAK: u8 = 3;
    pub(super) const TLS: u8 = 13;
    pub(super) const MSCHAPV2: u8 = 26;
}

/// Packets that we answer at most: chains of certificates come in many.
const MOST: u32 = 200;

/// Octets of a packet that we read at most; none of our methods needs more.
const LONGEST: usize = 2048;

/// A packet of EAP (RFC 3748 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet<'p> {
    code: u8,
    identifier: u8,
    /// The type; 0 of what has none.
    kind: u8,
    data: &'p [u8],
}

impl<'p> Packet<'p> {
    /// Reads a packet. RFC 3748 4: "Octets outside the range of the Length field should be treated as Data Link Layer
    /// padding and MUST be ignored upon reception."
    fn read(octets: &'p [u8]) -> Option<Self> {
        let (&[code, identifier, high, low], _) = octets.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len > LONGEST {
            return None;
        }
        let body = octets.get(4..len)?;
        match (code, body.split_first()) {
            (SUCCESS | FAILURE, None) => Some(Self {
                code,
                identifier,
                kind: 0,
                data: &[],
            }),
            (REQUEST | RESPONSE, Some((kind, data))) => Some(Self {
                code,
                identifier,
                kind: *kind,
                data,
            }),
            _ => None,
        }
    }

    fn write(code: u8, identifier: u8, kind: u8, data: &[u8]) -> Vec<u8> {
        let len = u16::try_from(5 + data.len()).unwrap_or(u16::MAX);
        let [high, low] = len.to_be_bytes();
        [&[code, identifier, high, low, kind], data].concat()
    }

    /// A packet of Success or Failure.
    fn end(code: u8, identifier: u8) -> Vec<u8> {
        vec![code, identifier, 0, 4]
    }
}

/// Why EAP has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EapError {
    /// No user has this name.
    UnknownUser,
    /// The password is another.
    WrongPassword,
    /// The server does not know our password either: it is not who should have it.
    WrongServer,
    /// The server says no.
    RefusedByServer,
    /// The other end wants a method that we do not take.
    OtherMethod {
        /// Its number (RFC 3748 5).
        method: u8,
    },
    /// Whoever has authenticated may not be this peer.
    NotAuthorised,
    /// The tunnel that it was for is gone, or another than when it began.
    Reconfigured,
    /// The certificate names nobody.
    Nameless,
    /// The server wants EAP before it has proved who it is.
    ServerUnproven,
    /// TLS has failed.
    Tls {
        /// What it says.
        what: String,
    },
    /// It goes on without end.
    Unending,
    /// A packet makes no sense.
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
}

impl fmt::Display for EapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownUser => f.write_str("there is no user of this name"),
            Self::WrongPassword => f.write_str("the password is wrong"),
            Self::WrongServer => f.write_str("the server does not know our password either"),
            Self::RefusedByServer => {
                f.write_str("the server refuses us: see whether name and password are right")
            }
            Self::OtherMethod { method } => {
                write!(f, "the other end wants method {method}, and we take another (MSCHAPv2 is 26, TLS 13)")
            }
            Self::NotAuthorised => f.write_str("this identity may not be the peer of any tunnel"),
            Self::Reconfigured => {
                f.write_str("the tunnel has been changed or removed in the meantime")
            }
            Self::Nameless => f.write_str(
                "the certificate names nobody: it has no mail address, no domain name and no subject, or patterns only",
            ),
            Self::ServerUnproven => f.write_str(
                "the server has not proved who it is, and with MSCHAPv2 it has to do so before (RFC 5998 4)",
            ),
            Self::Tls { what } => write!(f, "TLS has failed: {what}"),
            Self::Unending => f.write_str("it goes on without end"),
            Self::Malformed { what } => write!(f, "a packet makes no sense: {what}"),
        }
    }
}

/// What EAP has come to: who the client is, and the key that both ends have (MSK, RFC 3748 7.10).
#[derive(Clone, Debug)]
pub(crate) struct Authenticated {
    pub(crate) identity: Identity,
    pub(crate) msk: Secret,
}

/// For the fuzz targets: see [`read_eap`](crate::fuzzing::read_eap).
pub(crate) fn read_anything(octets: &[u8]) {
    use mschapv2::{ClientMessage, ServerMessage};

    if let Some(message) = ServerMessage::read(octets) {
        let again = ServerMessage::read(&message.write("gw"));
        assert_eq!(again, Some(message), "what was written reads otherwise");
    }
    if let Some(message) = ClientMessage::read(octets) {
        let again = ClientMessage::read(&message.write());
        assert_eq!(again, Some(message), "what was written reads otherwise");
    }
    let user = ("carol".to_owned(), Secret::from(&b"no such password"[..]));
    let users = std::sync::Arc::new(Users::from_iter([user.clone()]));
    let identity = Packet::write(RESPONSE, 0, kind::IDENTITY, b"carol");
    for answered in [false, true] {
        let (mut server, _) = Passwords::start(users.clone(), "gw".to_owned(), [0; 16]);
        if answered {
            let _ = server.handle(&identity);
        }
        let outcome = server.handle(octets);
        assert!(
            !matches!(outcome, Outcome::Success(..)),
            "without the password"
        );
    }
    let (name, password) = user;
    let answer = Client::with_password(name, password).handle(octets, [0; 16]);
    assert!(
        !matches!(answer, Ok(Answer::Success(_))),
        "a server that shows nothing"
    );
}

/// A name of EAP as an identity of IKE; it never fails.
fn identity(name: &str) -> Identity {
    match name.parse() {
        Ok(identity) => identity,
        Err(never) => match never {},
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
