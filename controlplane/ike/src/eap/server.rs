//! The server's end: it asks who calls, challenges, and judges; or it has TLS do so.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use esplanade_pki::Certificate;

use super::mschapv2::{ClientMessage, Exchange, ServerMessage};
use super::tls::{self, Took};
use super::{
    Authenticated, EapError, FAILURE, MOST, Packet, REQUEST, RESPONSE, SUCCESS, Users, identity,
    kind,
};
use crate::identity::Identity;
use crate::secret::Secret;

/// What comes next.
pub(crate) enum Outcome {
    /// This request.
    Request(Vec<u8>),
    /// This Success, and what has come of it.
    Success(Vec<u8>, Authenticated),
    /// This request, which says that it has failed, and why it has.
    Failing(Vec<u8>, EapError),
    /// This Failure, and why, unless that has been told.
    Failure(Vec<u8>, Option<EapError>),
}

#[derive(Debug)]
enum Stage {
    /// The client is to say who it is.
    Identity,
    /// It is to answer the challenge.
    Challenged,
    /// It is to say that it is content with our response.
    Succeeding(Authenticated),
    /// It is to say that it has heard of its failure.
    Failing,
    /// All is said.
    Over,
}

/// One conversation.
#[derive(Debug)]
pub(crate) enum Server {
    /// With a name and a password.
    Passwords(Passwords),
    /// With a certificate.
    Certificates(Box<Certificates>),
}

impl Server {
    /// Takes what the client says.
    pub(crate) fn handle(&mut self, octets: &[u8]) -> Outcome {
        match self {
            Self::Passwords(server) => server.handle(octets),
            Self::Certificates(server) => server.handle(octets),
        }
    }

    /// Ends it, whatever it has come to.
    pub(crate) fn refuse(&self, why: EapError) -> (Vec<u8>, EapError) {
        let identifier = match self {
            Self::Passwords(server) => server.identifier,
            Self::Certificates(server) => server.identifier,
        };
        (Packet::end(FAILURE, identifier), why)
    }

    /// Whether the client has been told that it failed.
    pub(crate) fn is_failing(&self) -> bool {
        match self {
            Self::Passwords(server) => matches!(server.stage, Stage::Failing),
            Self::Certificates(server) => server.failing,
        }
    }
}

/// EAP-TLS.
#[derive(Debug)]
pub(crate) struct Certificates {
    tls: tls::Tls,
    /// Who IDi says it is.
    claimed: Identity,
    identifier: u8,
    handled: u32,
    failing: bool,
}

impl Certificates {
    /// Begins; the identifier is random.
    pub(crate) fn start(tls: tls::Tls, claimed: Identity, identifier: u8) -> (Self, Vec<u8>) {
        let first = Packet::write(REQUEST, identifier, kind::TLS, &tls::start());
        let server = Self {
            tls,
            claimed,
            identifier,
            handled: 0,
            failing: false,
        };
        (server, first)
    }

    fn request(&mut self, data: &[u8]) -> Vec<u8> {
        self.identifier = self.identifier.wrapping_add(1);
        Packet::write(REQUEST, self.identifier, kind::TLS, data)
    }

    fn failure(&self, why: Option<EapError>) -> Outcome {
        Outcome::Failure(Packet::end(FAILURE, self.identifier), why)
    }

    fn handle(&mut self, octets: &[u8]) -> Outcome {
        let malformed = |what| Some(EapError::Malformed { what });
        let packet = Packet::read(octets).filter(|packet| packet.code == RESPONSE);
        let Some(packet) = packet.filter(|packet| packet.identifier == self.identifier) else {
            return self.failure(malformed("it is no response to our request"));
        };
        self.handled += 1;
        if self.failing {
            return self.failure(None);
        }
        if self.handled > MOST {
            return self.failure(Some(EapError::Unending));
        }
        if packet.kind != kind::TLS {
            let wanted = packet
                .data
                .first()
                .copied()
                .filter(|_| packet.kind == kind::NAK);
            let method = wanted.unwrap_or(packet.kind);
            return self.failure(Some(EapError::OtherMethod { method }));
        }
        match self.tls.take(packet.data) {
            Ok(Took::Start) => self.failure(malformed("a client does not start TLS")),
            Ok(Took::Fragment) => Outcome::Request(self.request(&[0])),
            Ok(Took::Message | Took::Acknowledgement) => self.go_on(),
            Err(what) => {
                let why = EapError::Tls { what };
                match self.tls.next() {
                    // RFC 5216 2.1.3: the alert is sent, and its acknowledgement waited for
                    Some(alert) => {
                        self.failing = true;
                        Outcome::Failing(self.request(&alert), why)
                    }
                    None => self.failure(Some(why)),
                }
            }
        }
    }

    fn go_on(&mut self) -> Outcome {
        if self.tls.is_done() {
            self.tls.commit();
        }
        if let Some(data) = self.tls.next() {
            return Outcome::Request(self.request(&data));
        }
        let done = self.tls.is_done();
        match done.then(|| self.authenticated()).flatten() {
            Some(Ok(who)) => Outcome::Success(Packet::end(SUCCESS, self.identifier), who),
            Some(Err(why)) => self.failure(Some(why)),
            None => self.failure(Some(EapError::Malformed {
                what: "it says nothing",
            })),
        }
    }

    /// Who IDi says it is, if its certificate says so, too; otherwise whom that names.
    fn authenticated(&self) -> Option<Result<Authenticated, EapError>> {
        let certificate = self.tls.certificate()?;
        let identity = match &self.claimed {
            claimed if claimed.is_in(&certificate) => Ok(claimed.clone()),
            _ => named(&certificate).ok_or(EapError::Nameless),
        };
        let msk = self.tls.msk()?;
        Some(identity.map(|identity| Authenticated { identity, msk }))
    }
}

/// RFC 5216 5.2: "Where the subjectAltName field is present (...), the Peer-Id (...) MUST be set to the contents of the
/// subjectAltName"; of users that is a mail address.
pub(super) fn named(certificate: &Certificate) -> Option<Identity> {
    let emails = certificate.emails().iter().cloned().map(Identity::Rfc822);
    let domains = certificate.domains().iter().cloned().map(Identity::Fqdn);
    let subject = Some(certificate.subject()).filter(|subject| !subject.is_empty());
    let mut names = emails
        .chain(domains)
        .chain(subject.cloned().map(Identity::Dn));
    names.find(|name| !name.is_pattern())
}

/// MSCHAPv2.
#[derive(Debug)]
pub(crate) struct Passwords {
    users: Arc<Users>,
    /// What we call ourselves.
    name: String,
    challenge: [u8; 16],
    /// Of the last request.
    identifier: u8,
    stage: Stage,
}

impl Passwords {
    /// Begins, with a random challenge, which also gives the first identifier. RFC 7296 3.16: "the responder SHOULD NOT send
    /// EAP Identity requests", for IDi says it; but that is often just an address. Who is a user by IDi is asked as everybody
    /// is, or a stranger could tell users from others.
    pub(crate) fn start(users: Arc<Users>, name: String, challenge: [u8; 16]) -> (Self, Vec<u8>) {
        let server = Self {
            users,
            name,
            identifier: challenge.iter().fold(0, |all, octet| all ^ octet),
            challenge,
            stage: Stage::Identity,
        };
        let first = Packet::write(REQUEST, server.identifier, kind::IDENTITY, &[]);
        (server, first)
    }

    fn request(&mut self, message: &ServerMessage) -> Vec<u8> {
        self.identifier = self.identifier.wrapping_add(1);
        Packet::write(
            REQUEST,
            self.identifier,
            kind::MSCHAPV2,
            &message.write(&self.name),
        )
    }

    fn challenge(&mut self) -> Vec<u8> {
        self.stage = Stage::Challenged;
        let challenge = self.challenge;
        let id = self.identifier.wrapping_add(1);
        self.request(&ServerMessage::Challenge { id, challenge })
    }

    fn failure(&mut self, why: EapError) -> Outcome {
        self.stage = Stage::Over;
        Outcome::Failure(Packet::end(FAILURE, self.identifier), Some(why))
    }

    /// Takes what the client says.
    pub(super) fn handle(&mut self, octets: &[u8]) -> Outcome {
        let malformed = |what| EapError::Malformed { what };
        let Some(packet) = Packet::read(octets).filter(|packet| packet.code == RESPONSE) else {
            return self.failure(malformed("it is no response"));
        };
        if packet.identifier != self.identifier {
            return self.failure(malformed("its identifier is not that of the request"));
        }
        match (std::mem::replace(&mut self.stage, Stage::Over), packet.kind) {
            (_, kind::NAK) => {
                let method = packet.data.first().copied().unwrap_or(0);
                self.failure(EapError::OtherMethod { method })
            }
            // Who that really is, the answer to the challenge tells.
            (Stage::Identity, kind::IDENTITY) => Outcome::Request(self.challenge()),
            (Stage::Challenged, kind::MSCHAPV2) => self.judge(packet.data),
            (Stage::Succeeding(authenticated), kind::MSCHAPV2)
                if ClientMessage::read(packet.data) == Some(ClientMessage::Success) =>
            {
                Outcome::Success(Packet::end(SUCCESS, self.identifier), authenticated)
            }
            (Stage::Succeeding(_), _) => self.failure(EapError::WrongServer),
            (Stage::Failing, _) => Outcome::Failure(Packet::end(FAILURE, self.identifier), None),
            _ => self.failure(malformed("it answers something else")),
        }
    }

    fn judge(&mut self, data: &[u8]) -> Outcome {
        let Some(ClientMessage::Response {
            id,
            challenge,
            response,
            name,
        }) = ClientMessage::read(data)
        else {
            return self.failure(EapError::Malformed {
                what: "it does not answer the challenge",
            });
        };
        let exchange = Exchange {
            server: self.challenge,
            client: challenge,
            name: &name,
        };
        let users = self.users.clone();
        let user = users.find(&name);
        // Who is unknown takes as long as who does not know the password.
        let nobody = Secret::default();
        let expected = exchange.nt_response(user.map_or(&nobody, |(_, password)| password));
        let right = verify_slices_are_equal(&expected, &response).is_ok();
        match user.filter(|_| right && id == self.identifier) {
            Some((known_as, password)) => {
                let authenticated = Authenticated {
                    identity: identity(known_as),
                    msk: Exchange::msk(password, &response),
                };
                self.stage = Stage::Succeeding(authenticated);
                let response = exchange.server_response(password, &response);
                Outcome::Request(self.request(&ServerMessage::Success { id, response }))
            }
            None => {
                self.stage = Stage::Failing;
                let why = match user {
                    Some(_) => EapError::WrongPassword,
                    None => EapError::UnknownUser,
                };
                Outcome::Failing(self.request(&ServerMessage::Failure { id }), why)
            }
        }
    }
}
