//! IKE_INTERMEDIATE (RFC 9242) with an additional key exchange each (RFC 9370): both ends. The keys
//! change after every one, and AUTH covers them all.

use std::time::Instant;

use super::exchange::Exchange;
use super::fragments::Opened;
use super::{IkeSa, Proof, State};
use crate::counters::Counter;
use crate::crypto::keys::{Binding, End};
use crate::error::{CloseReason, Refusal, Subject};
use crate::event::Path;
use crate::gateway::Gateway;
use crate::provider::KeyExchange;
use crate::secret::Secret;
use crate::suite::KeyExchangeMethod;
use crate::wire::header::{ExchangeType, Header};
use crate::wire::message::{Payloads, emit_protected_head};
use crate::wire::notify;
use crate::wire::payload::{Payload, emit_chain};

/// What the messages of IKE_INTERMEDIATE come to (RFC 9242 3.3.2): IntAuth_i and IntAuth_r.
#[derive(Default)]
pub(super) struct IntAuth {
    initiator: Vec<u8>,
    responder: Vec<u8>,
}

impl IntAuth {
    /// RFC 9242 3.3.2: "IntAuth = IntAuth_iN | IntAuth_rN | IKE_AUTH_MID"; nothing without
    /// IKE_INTERMEDIATE.
    pub(super) fn octets(&self, auth_id: u32) -> Vec<u8> {
        if self.initiator.is_empty() {
            return Vec::new();
        }
        [&*self.initiator, &self.responder, &auth_id.to_be_bytes()].concat()
    }
}

fn key_exchange(method: KeyExchangeMethod, data: Vec<u8>) -> Payload {
    let method = method.id();
    Payload::KeyExchange { method, data }
}

impl IkeSa {
    /// After IKE_SA_INIT and after each IKE_INTERMEDIATE: the next one, or IKE_AUTH.
    pub(super) fn advance(&mut self, gw: &mut Gateway, now: Instant, mut proof: Proof) {
        let Some(method) = proof.additional.pop_front() else {
            return self.send_auth(gw, now, proof);
        };
        let Ok(kex) = gw.provider.generate(method) else {
            self.refused(gw, Refusal::BadKeyExchange { method });
            return self.finish(gw, now, CloseReason::Refused);
        };
        let kind = ExchangeType::IkeIntermediate;
        let payloads = [key_exchange(method, kex.public_value().to_vec())];
        let header = self.header(kind, false, self.next_request_id());
        self.cover_ours(&mut proof, End::Initiator, header, &payloads);
        self.state = State::Authenticating(Box::new(proof));
        self.request(gw, now, kind, &payloads, Exchange::Intermediate(kex));
    }

    /// Adds a message of ours to what AUTH covers, under the keys that protect it.
    fn cover_ours(&self, proof: &mut Proof, end: End, header: Header, payloads: &[Payload]) {
        let (first, inner) = emit_chain(payloads);
        let head = emit_protected_head(header, first, inner.len(), None);
        self.cover(proof, end, &head, &inner);
    }

    fn cover(&self, proof: &mut Proof, end: End, head: &[u8], inner: &[u8]) {
        let Some(keys) = &self.keys else { return };
        let so_far = match end {
            End::Initiator => &mut proof.int_auth.initiator,
            End::Responder => &mut proof.int_auth.responder,
        };
        *so_far = keys.int_auth(end, so_far, head, inner);
    }

    /// RFC 9370 2.2.2: the keys that follow from one more shared secret.
    fn mix(&mut self, proof: &Proof, shared: Secret) -> bool {
        let (spi_i, spi_r) = if self.initiator {
            (self.local_spi, self.remote_spi)
        } else {
            (self.remote_spi, self.local_spi)
        };
        let binding = Binding {
            nonce_i: proof.nonce_i.clone(),
            nonce_r: proof.nonce_r.clone(),
            spi_i,
            spi_r,
        };
        let mixed = self.keys.as_ref().and_then(|keys| {
            keys.rekeyed(keys.suite, &binding, &[shared], self.initiator)
                .ok()
        });
        let Some(mixed) = mixed else { return false };
        self.previous = self.keys.replace(mixed).map(Box::new);
        true
    }

    pub(super) fn handle_intermediate_response(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        kex: Box<dyn KeyExchange>,
        opened: &Opened,
        payloads: Payloads<'_>,
    ) {
        let State::Authenticating(proof) = std::mem::replace(&mut self.state, State::Initiating)
        else {
            return;
        };
        let mut proof = *proof;
        if let Err(refusal) = self.accept_intermediate(&mut proof, kex, opened, payloads) {
            self.refused(gw, refusal);
            return self.finish(gw, now, CloseReason::Refused);
        }
        // Nothing of the peer's comes under the old keys any more.
        self.previous = None;
        self.advance(gw, now, proof);
    }

    fn accept_intermediate(
        &mut self,
        proof: &mut Proof,
        kex: Box<dyn KeyExchange>,
        opened: &Opened,
        payloads: Payloads<'_>,
    ) -> Result<(), Refusal> {
        let ours = kex.method();
        let (method, public) = payloads.key_exchange().ok_or_else(|| {
            let error = payloads.error();
            error.map_or(no_key_exchange(), |error| Refusal::PeerError {
                subject: Subject::Ike,
                notify: error.kind,
            })
        })?;
        if method != ours.id() {
            return Err(Refusal::GroupNotOurs { group: method });
        }
        let bad = |_| Refusal::BadKeyExchange { method: ours };
        let shared = kex.agree(public).map_err(bad)?;
        self.cover(proof, End::Responder, &opened.head, &opened.inner);
        let what = "no keys can be derived";
        self.mix(proof, shared)
            .then_some(())
            .ok_or(Refusal::Malformed { what })
    }

    pub(super) fn handle_intermediate_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        opened: &Opened,
        payloads: Payloads<'_>,
    ) {
        let State::HalfOpen(proof) = std::mem::replace(&mut self.state, State::Initiating) else {
            return;
        };
        let mut proof = *proof;
        let kind = ExchangeType::IkeIntermediate;
        match grant_intermediate(gw, &mut proof, payloads) {
            Ok((method, answer, shared)) => {
                let payloads = [key_exchange(method, answer)];
                self.cover(&mut proof, End::Initiator, &opened.head, &opened.inner);
                let header = self.header(kind, true, self.expected_id);
                self.cover_ours(&mut proof, End::Responder, header, &payloads);
                // The answer goes under the keys of the request.
                self.respond(gw, path, kind, &payloads);
                if self.mix(&proof, shared) {
                    self.state = State::HalfOpen(Box::new(proof));
                } else {
                    self.finish(gw, now, CloseReason::Refused);
                }
            }
            Err(refusal) => {
                // Anybody can get this far: the events are as few as those about strangers.
                if gw.admit_stranger(now) {
                    self.refused(gw, refusal);
                }
                gw.count(Counter::InvalidSyntax);
                let refusal = Payload::notify(notify::INVALID_SYNTAX, &[]);
                self.respond(gw, path, kind, &[refusal]);
                self.finish(gw, now, CloseReason::Refused);
            }
        }
    }
}

const fn no_key_exchange() -> Refusal {
    Refusal::Malformed {
        what: "it has no key exchange payload",
    }
}

/// The method that is due, our Key Exchange Data and the shared secret.
fn grant_intermediate(
    gw: &Gateway,
    proof: &mut Proof,
    payloads: Payloads<'_>,
) -> Result<(KeyExchangeMethod, Vec<u8>, Secret), Refusal> {
    let method = proof.additional.pop_front().ok_or(Refusal::Malformed {
        what: "no additional key exchange is due",
    })?;
    let (group, public) = payloads.key_exchange().ok_or(no_key_exchange())?;
    if group != method.id() {
        return Err(Refusal::GroupNotOurs { group });
    }
    let bad = |_| Refusal::BadKeyExchange { method };
    let (answer, shared) = gw.provider.respond(method, public).map_err(bad)?;
    Ok((method, answer, shared))
}
