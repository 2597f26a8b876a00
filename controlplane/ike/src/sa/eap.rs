//! IKE_AUTH with EAP (RFC 7296 2.16): the server proves who it is by its certificate, the client by what EAP comes to, and
//! both by the key that comes of it.

use std::sync::Arc;
use std::time::Instant;

use super::child::ChildOffer;
use super::exchange::Exchange;
use super::{IkeSa, Proof, State};
use crate::config::{Authentication, EapClients, EapProof, PeerConfig};
use crate::counters::Counter;
use crate::crypto::keys::End;
use crate::eap::{
    Answer, Authenticated, Certificates, Client, EapError, Outcome, Passwords, Server, Tls,
};
use crate::error::{CloseReason, Refusal, Subject};
use crate::event::Path;
use crate::gateway::Gateway;
use crate::peers::Peer;
use crate::secret::Secret;
use crate::wire::header::ExchangeType;
use crate::wire::message::Payloads;
use crate::wire::notify;
use crate::wire::payload::{Identification, Payload};

/// Auth Method "Shared Key Message Integrity Code" (RFC 7296 3.8).
const SHARED_KEY: u8 = 2;

/// A client that authenticates by EAP.
pub(crate) struct Serving {
    /// Who we are to it.
    peer: Arc<PeerConfig>,
    /// Its IDi, which AUTH covers, whoever EAP says it is.
    id: Identification,
    /// What its first request asks for.
    asked: Vec<Payload>,
    server: Server,
    /// What EAP has come to, and which peer the client is by it.
    done: Option<(Authenticated, Arc<PeerConfig>)>,
}

/// Our own authentication by EAP.
pub(crate) struct Calling {
    client: Client,
    /// Who the server has proved to be.
    id: Identification,
    /// What EAP has come to.
    msk: Option<Secret>,
}

fn random<const N: usize>(gw: &mut Gateway) -> [u8; N] {
    gw.random(N).first_chunk().copied().unwrap_or([0; N])
}

/// An end of TLS that checks certificates at this time of day.
fn tls(
    gw: &Gateway,
    now: Instant,
    start: impl FnOnce(u64) -> Result<Tls, rustls::Error>,
) -> Result<Tls, Refusal> {
    let seconds = gw.wall_clock(now).ok_or(Refusal::NoClock)?;
    start(seconds).map_err(|_| Refusal::CannotSign)
}

impl IkeSa {
    /// Answers the first request of a client that sends no AUTH, and so wants EAP, if there is a peer for it;
    /// gives the proof back otherwise.
    pub(super) fn begin_eap(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        mut proof: Box<Proof>,
        payloads: &[Payload],
    ) -> Option<Box<Proof>> {
        let asked = Payloads(payloads);
        let (Some(keys), Some(id), None) =
            (&self.keys, asked.id_initiator(), asked.authentication())
        else {
            return Some(proof);
        };
        let addresses = (path.local.ip(), path.remote.ip());
        let ours = asked.id_responder().map(|id| &id.identity);
        let Some(peer) = gw.peers.of_eap(addresses, ours, keys.suite) else {
            return Some(proof);
        };
        let Authentication::EapServer { ours: own, clients } = &peer.authentication else {
            return Some(proof);
        };
        let (ours, certificates, auth) = match proof.ours(gw, keys, &peer, End::Responder) {
            Ok(ours) => ours,
            Err(refusal) => {
                self.refuse_client(gw, now, path, Some(&peer), refusal);
                return None;
            }
        };
        let started = match clients {
            EapClients::Passwords(users) => {
                let name = peer.local_id.to_string();
                let (server, first) = Passwords::start(users.clone(), name, random(gw));
                Ok((Server::Passwords(server), first))
            }
            EapClients::Certificates(trust) => {
                let [identifier] = random(gw);
                tls(gw, now, |seconds| Tls::server(own, trust, seconds)).map(|tls| {
                    let claimed = id.identity.clone();
                    let (server, first) = Certificates::start(tls, claimed, identifier);
                    (Server::Certificates(Box::new(server)), first)
                })
            }
        };
        let (server, first) = match started {
            Ok(started) => started,
            Err(refusal) => {
                self.refuse_client(gw, now, path, Some(&peer), refusal);
                return None;
            }
        };
        let mut answer = vec![Payload::IdResponder(ours)];
        answer.extend(certificates);
        answer.extend([auth, Payload::Eap(first)]);
        proof.serving = Some(Box::new(Serving {
            peer,
            id: id.clone(),
            asked: payloads.to_vec(),
            server,
            done: None,
        }));
        self.state = State::HalfOpen(proof);
        self.respond(gw, path, ExchangeType::IkeAuth, &answer);
        None
    }

    /// Goes on with a client: EAP, and then AUTH by the key that has come of it.
    pub(super) fn go_on_with_eap(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        mut proof: Box<Proof>,
        mut serving: Box<Serving>,
        payloads: Payloads<'_>,
    ) {
        if serving.done.is_some() {
            return self.finish_eap(gw, now, path, &proof, *serving, payloads);
        }
        let Some(packet) = payloads.eap() else {
            if serving.server.is_failing() {
                // It has heard that it failed, and leaves it at that.
                return self.finish(gw, now, CloseReason::Refused);
            }
            let what = "it has no EAP payload";
            let refusal = Refusal::Malformed { what };
            return self.refuse_client(gw, now, path, Some(&serving.peer), refusal);
        };
        let outcome = match serving.server.handle(packet) {
            Outcome::Success(success, who) => {
                // "a server authorises by the authenticated EAP identity", which need not be IDi.
                let addresses = (path.local.ip(), path.remote.ip());
                let allowed = gw.peers.allowed(addresses, &serving.peer, &who.identity);
                match allowed {
                    Some(peer) => {
                        serving.done = Some((who, peer));
                        Ok(success)
                    }
                    None => {
                        let (failure, why) = serving.server.refuse(EapError::NotAuthorised);
                        Err((failure, Some(why), who.identity))
                    }
                }
            }
            Outcome::Request(request) => Ok(request),
            Outcome::Failing(request, error) => {
                // Whether an answer comes, or the client leaves at once: why is known.
                let theirs = serving.id.identity.clone();
                let refusal = Refusal::Eap { theirs, error };
                self.tell_failure(gw, now, path, Some(&serving.peer), refusal);
                Ok(request)
            }
            Outcome::Failure(failure, why) => Err((failure, why, serving.id.identity.clone())),
        };
        match outcome {
            Ok(packet) => {
                proof.serving = Some(serving);
                self.state = State::HalfOpen(proof);
                self.respond(gw, path, ExchangeType::IkeAuth, &[Payload::Eap(packet)]);
            }
            Err((failure, error, theirs)) => {
                if let Some(error) = error {
                    let refusal = Refusal::Eap { theirs, error };
                    self.tell_failure(gw, now, path, Some(&serving.peer), refusal);
                }
                self.respond(gw, path, ExchangeType::IkeAuth, &[Payload::Eap(failure)]);
                self.finish(gw, now, CloseReason::Refused);
            }
        }
    }

    /// RFC 7296 2.16: "the two parties (...) MUST generate AUTH payloads using the shared secret", the MSK.
    fn finish_eap(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        proof: &Proof,
        serving: Serving,
        payloads: Payloads<'_>,
    ) {
        let (Some(keys), Some((who, peer))) = (&self.keys, serving.done) else {
            return;
        };
        let int_auth = proof.int_auth.octets(proof.auth_id);
        let theirs = proof.signed(End::Initiator, &serving.id, &int_auth);
        let verified = payloads.authentication().is_some_and(|(method, auth)| {
            method == SHARED_KEY && keys.psk_verify(End::Initiator, &who.msk, &theirs, auth)
        });
        let first = Payloads(&serving.asked)
            .notify(notify::INITIAL_CONTACT)
            .is_some();
        let theirs = who.identity.clone();
        let stands = |known: &Peer| known.config == peer;
        let admitted = if !verified {
            Err(Refusal::WrongKey { theirs })
        } else if gw.peers.get(&peer.name).is_some_and(stands) {
            gw.admit(peer.clone(), &who.identity, path.remote, first)
        } else {
            let error = EapError::Reconfigured;
            Err(Refusal::Eap { theirs, error })
        };
        let instance = match admitted {
            Ok(instance) => instance,
            Err(refusal) => {
                return self.refuse_client(gw, now, path, Some(&peer), refusal);
            }
        };
        let Some(keys) = &self.keys else { return };
        let id = Identification::new(serving.peer.local_id.clone());
        let ours = proof.signed(End::Responder, &id, &int_auth);
        let data = keys.psk_auth(End::Responder, &who.msk, &ours).to_vec();
        let auth = Payload::Authentication {
            method: SHARED_KEY,
            data,
        };
        self.peer = Some(instance.clone());
        let asked = Payloads(&serving.asked);
        self.complete_auth(gw, now, &instance, proof, vec![auth], asked);
    }

    /// Counts a client that is not let in, and tells the operator why.
    fn tell_failure(
        &self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        peer: Option<&PeerConfig>,
        refusal: Refusal,
    ) {
        gw.count(Counter::AuthenticationFailed);
        // Anybody can get this far: the events are as few as those about strangers.
        if gw.admit_stranger(now) {
            gw.refused(peer.map(|peer| &*peer.name), path, refusal);
        }
    }

    /// Tells the client no more than that it failed, and the operator why.
    pub(super) fn refuse_client(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        peer: Option<&PeerConfig>,
        refusal: Refusal,
    ) {
        self.tell_failure(gw, now, path, peer, refusal);
        // RFC 7296 2.21.2: the peer is not told what was wrong
        let failed = [Payload::notify(notify::AUTHENTICATION_FAILED, &[])];
        self.respond(gw, path, ExchangeType::IkeAuth, &failed);
        self.finish(gw, now, CloseReason::Refused);
    }

    /// Takes what the server says before it has sent its last AUTH; `None` when that has come, and is right, and what is left
    /// is as with any other method.
    pub(super) fn handle_eap_response(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        offer: Option<ChildOffer>,
        peer: &PeerConfig,
        payloads: Payloads<'_>,
    ) -> Option<Option<ChildOffer>> {
        let State::Authenticating(mut proof) =
            std::mem::replace(&mut self.state, State::Initiating)
        else {
            Exchange::Auth(offer).abandon(gw);
            return None;
        };
        let next = self.next_of_eap(gw, now, &mut proof, peer, payloads);
        self.state = State::Authenticating(proof);
        match next {
            Ok(Some(payload)) => {
                self.request(
                    gw,
                    now,
                    ExchangeType::IkeAuth,
                    &[payload],
                    Exchange::Auth(offer),
                );
                None
            }
            Ok(None) => Some(offer),
            Err(refusal) => {
                self.authentication_failed(gw, now, offer, refusal);
                None
            }
        }
    }

    /// What we send next; `None` when the server has proved itself by the key that EAP has come to.
    fn next_of_eap(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        proof: &mut Proof,
        peer: &PeerConfig,
        payloads: Payloads<'_>,
    ) -> Result<Option<Payload>, Refusal> {
        if proof.calling.is_none() {
            proof.calling = Some(Box::new(
                self.believe_server(gw, now, proof, peer, payloads)?,
            ));
        }
        let malformed = |what| Refusal::Malformed { what };
        let keys = self.keys.as_ref().ok_or(malformed("there are no keys"))?;
        let mut calling = proof.calling.take().ok_or(malformed("there is no EAP"))?;
        let int_auth = proof.int_auth.octets(proof.auth_id);
        if let Some(msk) = &calling.msk {
            let signed = proof.signed(End::Responder, &calling.id, &int_auth);
            let (method, auth) = payloads
                .authentication()
                .ok_or_else(|| refused(peer, payloads))?;
            let verified =
                method == SHARED_KEY && keys.psk_verify(End::Responder, msk, &signed, auth);
            let theirs = calling.id.identity.clone();
            return verified.then_some(None).ok_or(Refusal::WrongKey { theirs });
        }
        let packet = payloads.eap().ok_or_else(|| refused(peer, payloads))?;
        let answer = calling.client.handle(packet, random(gw));
        let payload = match answer {
            Ok(Answer::Response(response)) => Payload::Eap(response),
            Ok(Answer::Success(msk)) => {
                let id = Identification::new(peer.local_id.clone());
                let signed = proof.signed(End::Initiator, &id, &int_auth);
                let data = keys.psk_auth(End::Initiator, &msk, &signed).to_vec();
                calling.msk = Some(msk);
                Payload::Authentication {
                    method: SHARED_KEY,
                    data,
                }
            }
            Err(error) => {
                let theirs = calling.id.identity.clone();
                return Err(Refusal::Eap { theirs, error });
            }
        };
        proof.calling = Some(calling);
        Ok(Some(payload))
    }

    /// The server proves who it is before it learns anything of our password. RFC 5998 4: MSCHAPv2 is not among
    /// the methods with which it may leave that to EAP.
    fn believe_server(
        &self,
        gw: &Gateway,
        now: Instant,
        proof: &Proof,
        peer: &PeerConfig,
        payloads: Payloads<'_>,
    ) -> Result<Calling, Refusal> {
        if let (Some(id), None, Some(_)) = (
            payloads.id_responder(),
            payloads.authentication(),
            payloads.eap(),
        ) {
            return Err(Refusal::Eap {
                theirs: id.identity.clone(),
                error: EapError::ServerUnproven,
            });
        }
        self.check_responder(gw, now, proof, peer, payloads)?;
        let (Authentication::EapClient { name, by, trust }, Some(id)) =
            (&peer.authentication, payloads.id_responder())
        else {
            return Err(refused(peer, payloads));
        };
        let client = match by {
            EapProof::Password(password) => Client::with_password(name.clone(), password.clone()),
            EapProof::Certificate(ours) => {
                let tls = tls(gw, now, |seconds| Tls::client(ours, trust, seconds))?;
                Client::with_certificate(name.clone(), tls)
            }
        };
        Ok(Calling {
            client,
            id: id.clone(),
            msk: None,
        })
    }
}

/// What a message without what was expected means.
fn refused(peer: &PeerConfig, payloads: Payloads<'_>) -> Refusal {
    match payloads.error().map(|error| error.kind) {
        Some(notify::AUTHENTICATION_FAILED) => Refusal::RefusedByPeer {
            ours: peer.local_id.clone(),
            asked_for: peer.remote_id.clone(),
        },
        Some(notify) => Refusal::PeerError {
            subject: Subject::Ike,
            notify,
        },
        None => Refusal::Malformed {
            what: "it has no EAP payload",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::SystemProvider;
    use crate::{Settings, SpiAllocator};

    struct NoSpis;

    impl SpiAllocator for NoSpis {
        fn allocate(&mut self) -> Option<u32> {
            None
        }

        fn release(&mut self, _: u32) {}
    }

    /// RFC 5998 4 lists the methods with which a server may leave its own proof to EAP; MSCHAPv2 is none of them.
    #[test]
    fn a_server_that_does_not_prove_itself_learns_nothing() {
        let provider = Arc::new(SystemProvider);
        let mut gw = Gateway::new(Settings::default(), provider, Box::new(NoSpis), [0; 32]);
        let now = Instant::now();
        let address = std::net::SocketAddr::from(([192, 0, 2, 1], 500));
        let path = Path {
            local: address,
            remote: address,
        };
        let key = gw.new_key();
        let sa = IkeSa::new(key, true, 1, path, now);
        let peer = PeerConfig::new("gw", address.ip(), address.ip(), Secret::default());
        let id = Identification::new(peer.remote_id.clone());
        let payloads = [Payload::IdResponder(id), Payload::Eap(vec![1, 1, 0, 5, 1])];
        let believed = sa.believe_server(&gw, now, &Proof::default(), &peer, Payloads(&payloads));
        let unproven = matches!(
            believed.err(),
            Some(Refusal::Eap {
                error: EapError::ServerUnproven,
                ..
            })
        );
        assert!(unproven);
    }
}
