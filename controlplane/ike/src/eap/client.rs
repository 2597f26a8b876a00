//! The client's end: it says who it is, answers the challenge, and sees whether the server knows its password; or it has
//! TLS do so.

use super::mschapv2::{ClientMessage, Exchange, ServerMessage};
use super::tls::{Tls, Took};
use super::{EapError, FAILURE, MOST, Packet, REQUEST, RESPONSE, SUCCESS, kind};
use crate::secret::Secret;

/// What comes next.
pub(crate) enum Answer {
    /// This response.
    Response(Vec<u8>),
    /// It has succeeded, with this MSK.
    Success(Secret),
}

#[derive(Debug)]
enum Stage {
    /// The server has not challenged us.
    Waiting,
    /// It has, and is to show that it knows the password.
    Answered { server: String, msk: Secret },
    /// It has.
    Proven(Secret),
    /// It has said no.
    Refused,
}

/// One conversation.
#[derive(Debug)]
pub(crate) struct Client {
    name: String,
    method: Method,
    answered: u32,
}

#[derive(Debug)]
enum Method {
    Password(Secret, Stage),
    Certificate(Box<Tls>),
}

impl Client {
    pub(crate) const fn with_password(name: String, password: Secret) -> Self {
        Self {
            name,
            method: Method::Password(password, Stage::Waiting),
            answered: 0,
        }
    }

    pub(crate) fn with_certificate(name: String, tls: Tls) -> Self {
        Self {
            name,
            method: Method::Certificate(Box::new(tls)),
            answered: 0,
        }
    }

    /// Takes what the server says; `challenge` is random.
    pub(crate) fn handle(
        &mut self,
        octets: &[u8],
        challenge: [u8; 16],
    ) -> Result<Answer, EapError> {
        let malformed = |what| EapError::Malformed { what };
        let packet = Packet::read(octets).ok_or(malformed("it is no packet"))?;
        self.answered += 1;
        if self.answered > MOST {
            return Err(EapError::Unending);
        }
        let respond = |kind, data: &[u8]| {
            Ok(Answer::Response(Packet::write(
                RESPONSE,
                packet.identifier,
                kind,
                data,
            )))
        };
        match (packet.code, packet.kind) {
            (REQUEST, kind::IDENTITY) => respond(kind::IDENTITY, self.name.as_bytes()),
            (REQUEST, kind::NOTIFICATION) => respond(kind::NOTIFICATION, &[]),
            (REQUEST, kind) => match (&mut self.method, kind) {
                (Method::Password(password, stage), kind::MSCHAPV2) => {
                    let answer = answer(&self.name, password, stage, packet.data, challenge)?;
                    respond(kind, &answer.write())
                }
                (Method::Certificate(tls), kind::TLS) => respond(kind, &records(tls, packet.data)?),
                // RFC 3748 5.3.1: we say what we would take instead
                (Method::Password(..), _) => respond(kind::NAK, &[kind::MSCHAPV2]),
                (Method::Certificate(_), _) => respond(kind::NAK, &[kind::TLS]),
            },
            // A success that comes too early is none: the server has not shown that it knows what it should.
            (SUCCESS, _) => match &self.method {
                Method::Password(_, Stage::Proven(msk)) => Ok(Answer::Success(msk.clone())),
                Method::Certificate(tls) if tls.is_done() && tls.is_committed() => {
                    tls.msk().map(Answer::Success).ok_or(EapError::WrongServer)
                }
                _ => Err(EapError::WrongServer),
            },
            (FAILURE, _) => Err(EapError::RefusedByServer),
            _ => Err(malformed("it is no request")),
        }
    }
}

fn answer(
    name: &str,
    password: &Secret,
    stage: &mut Stage,
    data: &[u8],
    challenge: [u8; 16],
) -> Result<ClientMessage, EapError> {
    let message = ServerMessage::read(data).ok_or(EapError::Malformed {
        what: "it is no message of MSCHAPv2",
    })?;
    match (message, &*stage) {
        (
            ServerMessage::Challenge {
                id,
                challenge: server,
            },
            Stage::Waiting,
        ) => {
            let exchange = Exchange {
                server,
                client: challenge,
                name,
            };
            let response = exchange.nt_response(password);
            *stage = Stage::Answered {
                server: exchange.server_response(password, &response),
                msk: Exchange::msk(password, &response),
            };
            Ok(ClientMessage::Response {
                id,
                challenge,
                response,
                name: name.to_owned(),
            })
        }
        (ServerMessage::Success { response, .. }, Stage::Answered { server, msk }) => {
            if response != *server {
                return Err(EapError::WrongServer);
            }
            *stage = Stage::Proven(msk.clone());
            Ok(ClientMessage::Success)
        }
        (ServerMessage::Failure { .. }, _) => {
            *stage = Stage::Refused;
            Ok(ClientMessage::Failure)
        }
        _ => Err(EapError::Malformed {
            what: "it comes out of turn",
        }),
    }
}

/// What we say to a packet of EAP-TLS: the next of our records, or that we have got it.
fn records(tls: &mut Tls, data: &[u8]) -> Result<Vec<u8>, EapError> {
    let took = tls.take(data).map_err(|what| EapError::Tls { what })?;
    let next = match took {
        Took::Fragment => None,
        Took::Start | Took::Message | Took::Acknowledgement => tls.next(),
    };
    Ok(next.unwrap_or_else(|| vec![0]))
}
