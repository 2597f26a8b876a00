//! The client's end: it says who it is, answers the challenge, and sees whether the server knows its password.

use super::mschapv2::{ClientMessage, Exchange, ServerMessage};
use super::{EapError, FAILURE, Packet, REQUEST, RESPONSE, SUCCESS, kind};
use crate::secret::Secret;

/// Requests that we answer at most.
const MOST: u32 = 16;

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
    password: Secret,
    stage: Stage,
    answered: u32,
}

impl Client {
    pub(crate) fn new(name: String, password: Secret) -> Self {
        Self {
            name,
            password,
            stage: Stage::Waiting,
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
            (REQUEST, kind::MSCHAPV2) => {
                let answer = self.answer(packet.data, challenge)?;
                respond(kind::MSCHAPV2, &answer.write())
            }
            // RFC 3748 5.3.1: we say what we would take instead
            (REQUEST, _) => respond(kind::NAK, &[kind::MSCHAPV2]),
            // A success that comes too early is none: the server has not shown that it knows the password.
            (SUCCESS, _) => match &self.stage {
                Stage::Proven(msk) => Ok(Answer::Success(msk.clone())),
                _ => Err(EapError::WrongServer),
            },
            (FAILURE, _) => Err(EapError::RefusedByServer),
            _ => Err(malformed("it is no request")),
        }
    }

    fn answer(&mut self, data: &[u8], challenge: [u8; 16]) -> Result<ClientMessage, EapError> {
        let message = ServerMessage::read(data).ok_or(EapError::Malformed {
            what: "it is no message of MSCHAPv2",
        })?;
        match (message, &self.stage) {
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
                    name: &self.name,
                };
                let response = exchange.nt_response(&self.password);
                self.stage = Stage::Answered {
                    server: exchange.server_response(&self.password, &response),
                    msk: Exchange::msk(&self.password, &response),
                };
                Ok(ClientMessage::Response {
                    id,
                    challenge,
                    response,
                    name: self.name.clone(),
                })
            }
            (ServerMessage::Success { response, .. }, Stage::Answered { server, msk }) => {
                if response != *server {
                    return Err(EapError::WrongServer);
                }
                self.stage = Stage::Proven(msk.clone());
                Ok(ClientMessage::Success)
            }
            (ServerMessage::Failure { .. }, _) => {
                self.stage = Stage::Refused;
                Ok(ClientMessage::Failure)
            }
            _ => Err(EapError::Malformed {
                what: "it comes out of turn",
            }),
        }
    }
}
