//! IKE_AUTH (RFC 7296 1.2), and the child SA that comes with it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::child::{ChildOffer, Coming, Grant, Outbound};
use super::exchange::Exchange;
use super::proof::certificate_request;
use super::{IkeSa, Proof, State, Task};
use crate::children::ChildState;
use crate::config::{Authentication, Families, PeerConfig};
use crate::counters::Counter;
use crate::crypto::keys::End;
use crate::eap::EapError;
use crate::error::{CloseReason, Refusal, RemovalReason, Subject};
use crate::event::{Event, Path};
use crate::gateway::{Gateway, Signal};
use crate::identity::Identity;
use crate::negotiate::ChildExchange;
use crate::peers::Welcome;
use crate::wire::configuration::Wish;
use crate::wire::header::ExchangeType;
use crate::wire::message::Payloads;
use crate::wire::notify;
use crate::wire::payload::{Identification, Payload};

/// Whether we know of nothing else that stands with this peer. RFC 7296 2.4: INITIAL_CONTACT
/// "asserts that this IKE SA is the only IKE SA currently active between the authenticated
/// identities"; a peer that hears it deletes the child SAs that we may have adopted.
fn is_first_contact(gw: &Gateway, peer: &PeerConfig) -> bool {
    let stands = |state: &ChildState| !matches!(state, ChildState::Lingering(_));
    !gw.children
        .of_peer(&peer.name)
        .any(|child| stands(&child.state))
}

/// What we ask the peer for: addresses, the same as before if there was one.
fn wish(gw: &Gateway, peer: &PeerConfig) -> Option<Wish> {
    let request = peer.request?;
    let known = gw.peers.get(&peer.name);
    let before = known.map(|peer| peer.leased.as_slice()).unwrap_or_default();
    let v4 = before.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let v6 = before.iter().find_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    Some(Wish {
        v4: (request != Families::V6).then_some(v4),
        v6: (request != Families::V4).then_some(v6),
        netmask: false,
    })
}

/// Why who calls is not let in, and which peer it may be.
type NotAdmitted = (Option<Arc<PeerConfig>>, Refusal);

impl IkeSa {
    pub(super) fn send_auth(&mut self, gw: &mut Gateway, now: Instant, mut proof: Proof) {
        proof.auth_id = self.next_request_id();
        let (Some(peer), Some(keys)) = (self.peer.clone(), &self.keys) else {
            return;
        };
        let by_eap = matches!(peer.authentication, Authentication::EapClient { .. });
        let ours = if by_eap {
            Ok((Identification::new(peer.local_id.clone()), Vec::new(), None))
        } else {
            let ours = proof.ours(gw, keys, &peer, End::Initiator);
            ours.map(|(id, certificates, auth)| (id, certificates, Some(auth)))
        };
        let (id, certificates, auth) = match ours {
            Ok(ours) => ours,
            Err(refusal) => {
                self.refused(gw, refusal);
                return self.finish(gw, now, CloseReason::Refused);
            }
        };
        let offer = match self.first_child(gw, &peer) {
            Ok(offer) => offer,
            Err(refusal) => {
                self.refused(gw, refusal);
                return self.finish(gw, now, CloseReason::Refused);
            }
        };
        let mut payloads = vec![Payload::IdInitiator(id)];
        payloads.extend(certificates);
        payloads.extend(certificate_request(&Welcome::of(&peer)));
        if is_first_contact(gw, &peer) {
            payloads.push(Payload::notify(notify::INITIAL_CONTACT, &[]));
        }
        // RFC 7296 1.2: IDr is there to "specify which of the responder's identities" is meant, and
        // a pattern means none.
        if !peer.remote_id.is_pattern() {
            let asked_for = Identification::new(peer.remote_id.clone());
            payloads.push(Payload::IdResponder(asked_for));
        }
        payloads.extend(auth);
        payloads.extend(wish(gw, &peer).map(|wish| wish.request()));
        if let Some(offer) = &offer {
            payloads.extend(offer.mode());
            payloads.push(offer.proposals(ChildExchange::WithAuth));
            payloads.extend(offer.selectors());
        }
        self.state = State::Authenticating(Box::new(proof));
        self.request(
            gw,
            now,
            ExchangeType::IkeAuth,
            &payloads,
            Exchange::Auth(offer),
        );
    }

    /// The first child that is wanted goes with IKE_AUTH.
    fn first_child(
        &mut self,
        gw: &mut Gateway,
        peer: &PeerConfig,
    ) -> Result<Option<ChildOffer>, Refusal> {
        let wanted = self
            .tasks
            .iter()
            .position(|task| matches!(task, Task::NewChild(_)));
        match wanted.and_then(|at| self.tasks.remove(at)) {
            Some(Task::NewChild(name)) => ChildOffer::new(gw, peer, &name, self.nat, &[]),
            _ => Ok(None),
        }
    }

    pub(super) fn handle_auth_response(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        offer: Option<ChildOffer>,
        payloads: Payloads<'_>,
    ) {
        let Some(peer) = self.peer.clone() else {
            return Exchange::Auth(offer).abandon(gw);
        };
        let offer = if let Authentication::EapClient { .. } = peer.authentication {
            match self.handle_eap_response(gw, now, offer, &peer, payloads) {
                Some(offer) => offer,
                None => return,
            }
        } else {
            let State::Authenticating(proof) = &self.state else {
                return Exchange::Auth(offer).abandon(gw);
            };
            if let Err(refusal) = self.check_responder(gw, now, proof, &peer, payloads) {
                return self.authentication_failed(gw, now, offer, refusal);
            }
            offer
        };
        let State::Authenticating(proof) = std::mem::replace(&mut self.state, State::Established)
        else {
            return;
        };
        self.establish(gw, now, false);
        if self.is_leaving() {
            return Exchange::Auth(offer).abandon(gw);
        }
        let settled = self.settle_in(gw, &peer, payloads);
        match (offer, settled) {
            (Some(mut offer), Ok(())) => {
                if !self.given.is_empty() {
                    offer.settle_in(&self.given);
                }
                self.accept_first_child(gw, now, offer, &proof, payloads);
            }
            (offer, Err(refusal)) => {
                self.refused(gw, refusal);
                Exchange::Auth(offer).abandon(gw);
                gw.signals.push_back(Signal::ChildFailed(self.key));
                self.enqueue(gw, Task::DeleteIke(CloseReason::Refused));
            }
            (None, Ok(())) => {}
        }
    }

    /// Takes the addresses that the peer gives us, if we have asked for any.
    fn settle_in(
        &mut self,
        gw: &mut Gateway,
        peer: &PeerConfig,
        payloads: Payloads<'_>,
    ) -> Result<(), Refusal> {
        if peer.request.is_none() {
            return Ok(());
        }
        let given = payloads.given().unwrap_or_default();
        if given.addresses.is_empty() {
            return Err(match payloads.error().map(|error| error.kind) {
                Some(notify) => Refusal::PeerError {
                    subject: Subject::Ike,
                    notify,
                },
                None => Refusal::NoAddressGiven,
            });
        }
        self.given.clone_from(&given.addresses);
        if let Some(mut peer) = gw.peers.get_mut(&peer.name) {
            peer.leased.clone_from(&given.addresses);
        }
        gw.events.push_back(Event::AddressesGiven {
            peer: peer.name.to_string(),
            given,
        });
        Ok(())
    }

    /// The responder is not who it should be, or does not take us for who we are.
    pub(super) fn authentication_failed(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        offer: Option<ChildOffer>,
        refusal: Refusal,
    ) {
        let theirs = matches!(
            refusal,
            Refusal::RefusedByPeer { .. }
                | Refusal::PeerError { .. }
                | Refusal::Eap {
                    error: EapError::RefusedByServer,
                    ..
                }
        );
        self.refused(gw, refusal);
        Exchange::Auth(offer).abandon(gw);
        gw.count(Counter::AuthenticationFailed);
        if theirs {
            return self.finish(gw, now, CloseReason::Refused);
        }
        // RFC 7296 2.21.2: the initiator, too, tells that authentication failed
        let notify = Payload::notify(notify::AUTHENTICATION_FAILED, &[]);
        self.start_delete_ike(gw, now, CloseReason::Refused, &[notify]);
    }

    pub(super) fn check_responder(
        &self,
        gw: &Gateway,
        now: Instant,
        proof: &Proof,
        peer: &PeerConfig,
        payloads: Payloads<'_>,
    ) -> Result<(), Refusal> {
        let (Some(id), Some(_)) = (payloads.id_responder(), payloads.authentication()) else {
            return Err(match payloads.error().map(|error| error.kind) {
                Some(notify::AUTHENTICATION_FAILED) => Refusal::RefusedByPeer {
                    ours: peer.local_id.clone(),
                    asked_for: peer.remote_id.clone(),
                },
                Some(notify) => Refusal::PeerError {
                    subject: Subject::Ike,
                    notify,
                },
                None => Refusal::Malformed {
                    what: "it proves no identity",
                },
            });
        };
        if !peer.remote_id.accepts(&id.identity) {
            return Err(Refusal::OtherIdentity {
                theirs: id.identity.clone(),
                expected: peer.remote_id.clone(),
            });
        }
        let keys = self.keys.as_ref().ok_or(Refusal::Malformed {
            what: "there are no keys",
        })?;
        proof.check(gw, now, keys, peer, (End::Responder, id), payloads)
    }

    fn accept_first_child(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        offer: ChildOffer,
        proof: &Proof,
        payloads: Payloads<'_>,
    ) {
        let agreed = match payloads.error() {
            // RFC 7296 1.2: the IKE SA stands even if its first child is refused
            Some(error) if payloads.proposals().is_none() => {
                Err((offer.refusal(error.kind), false))
            }
            _ => offer
                .accepted(payloads, ChildExchange::WithAuth, self.translation())
                .map_err(|refusal| (refusal, true)),
        };
        match agreed {
            Ok(agreed) => {
                let Some(keys) = &self.keys else { return };
                let protection = agreed.suite.protection;
                let keys = keys.child(protection, &[], &proof.nonce_i, &proof.nonce_r);
                if offer.unwanted {
                    let reason = RemovalReason::Terminated;
                    return self.install_shut(gw, now, agreed, keys, reason);
                }
                if let Some(refusal) = offer.mode_refused(&agreed) {
                    self.refused(gw, refusal);
                    gw.signals.push_back(Signal::ChildFailed(self.key));
                    let reason = RemovalReason::OtherMode;
                    return self.install_shut(gw, now, agreed, keys, reason);
                }
                let replaces = self.selected_sibling(gw, &agreed.name);
                let coming = Coming {
                    we_started: true,
                    replaces,
                    outbound: Outbound::Now,
                };
                self.install(gw, now, agreed, keys, coming);
                if replaces.is_some() {
                    // Shows the peer at once that we hold the new SA, so that it may use it.
                    self.enqueue(gw, Task::Liveness);
                }
            }
            Err((refusal, broken)) => {
                self.child_refused(gw, offer, refusal);
                if broken {
                    let what = "its child SA is not the one we asked for";
                    self.enqueue(gw, Task::DeleteIke(CloseReason::ProtocolError { what }));
                }
            }
        }
    }

    /// A child that we asked for is not to be had; the IKE SA stays.
    pub(super) fn child_refused(&mut self, gw: &mut Gateway, offer: ChildOffer, refusal: Refusal) {
        gw.spis.release(offer.inbound);
        self.refused(gw, refusal);
        gw.signals.push_back(Signal::ChildFailed(self.key));
    }

    pub(super) fn handle_auth_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        payloads: &[Payload],
    ) {
        let State::HalfOpen(mut proof) = std::mem::replace(&mut self.state, State::Initiating)
        else {
            return;
        };
        if let Some(serving) = proof.serving.take() {
            return self.go_on_with_eap(gw, now, path, proof, serving, Payloads(payloads));
        }
        proof.auth_id = self.expected_id;
        let Some(proof) = self.begin_eap(gw, now, path, proof, payloads) else {
            return;
        };
        let payloads = Payloads(payloads);
        let first = payloads.notify(notify::INITIAL_CONTACT).is_some();
        let identified = self.identify(gw, now, &proof, path, payloads);
        let admitted = identified.and_then(|(peer, identity)| {
            let admitted = gw.admit(peer.clone(), &identity, path.remote, first);
            admitted.map_err(|refusal| (Some(peer), refusal))
        });
        match admitted {
            Ok(peer) => {
                self.peer = Some(peer.clone());
                self.accept_auth(gw, now, path, &peer, &proof, payloads);
            }
            Err((peer, refusal)) => {
                self.refuse_client(gw, now, path, peer.as_deref(), refusal);
            }
        }
    }

    /// Who calls, by the peer's name and by its own, if the proof holds.
    fn identify(
        &self,
        gw: &Gateway,
        now: Instant,
        proof: &Proof,
        path: Path,
        payloads: Payloads<'_>,
    ) -> Result<(Arc<PeerConfig>, Identity), NotAdmitted> {
        let malformed = |what| (None, Refusal::Malformed { what });
        let keys = self.keys.as_ref().ok_or(malformed("there are no keys"))?;
        let id = payloads
            .id_initiator()
            .ok_or(malformed("it names no identity"))?;
        let asked_for = payloads.id_responder().map(|id| &id.identity);
        let addresses = (path.local.ip(), path.remote.ip());
        let peer = gw
            .peers
            .identified(addresses, &id.identity, asked_for, keys.suite)
            .ok_or_else(|| {
                let refusal = Refusal::UnknownIdentity {
                    theirs: id.identity.clone(),
                    asked_for: asked_for.cloned(),
                };
                (None, refusal)
            })?;
        let claimed = (End::Initiator, id);
        match proof.check(gw, now, keys, &peer, claimed, payloads) {
            Ok(()) => Ok((peer, id.identity.clone())),
            Err(refusal) => Err((Some(peer), refusal)),
        }
    }

    fn accept_auth(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        peer: &Arc<PeerConfig>,
        proof: &Proof,
        payloads: Payloads<'_>,
    ) {
        let Some(keys) = &self.keys else { return };
        let (id, certificates, auth) = match proof.ours(gw, keys, peer, End::Responder) {
            Ok(ours) => ours,
            Err(refusal) => {
                self.refused(gw, refusal);
                let refusal = Payload::notify(notify::AUTHENTICATION_FAILED, &[]);
                self.respond(gw, path, ExchangeType::IkeAuth, &[refusal]);
                return self.finish(gw, now, CloseReason::Refused);
            }
        };
        let mut answer = vec![Payload::IdResponder(id)];
        answer.extend(certificates);
        answer.push(auth);
        self.complete_auth(gw, now, peer, proof, answer, payloads);
    }

    /// Lets the peer in who has proved who it is, and gives it what its (first) request asks for.
    pub(super) fn complete_auth(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        peer: &Arc<PeerConfig>,
        proof: &Proof,
        mut answer: Vec<Payload>,
        payloads: Payloads<'_>,
    ) {
        let path = self.path;
        self.establish(gw, now, false);
        let first = payloads.notify(notify::INITIAL_CONTACT).is_some();
        if first {
            gw.signals.push_back(Signal::InitialContact(self.key));
        }
        let peer = &match self.give(gw, now, peer, payloads) {
            Ok((reply, peer)) => {
                answer.extend(reply);
                peer
            }
            Err(refusal) => {
                // RFC 7296 3.15.4: "If this error is generated within an IKE_AUTH exchange, no Child SA will be created."
                self.refused(gw, refusal);
                answer.push(Payload::notify(notify::INTERNAL_ADDRESS_FAILURE, &[]));
                return self.respond(gw, path, ExchangeType::IkeAuth, &answer);
            }
        };
        if payloads.proposals().is_some() {
            let exchange = ChildExchange::WithAuth;
            let granted = Grant::consider(peer, payloads, exchange, None, self.translation())
                .and_then(|grant| grant.agree(gw, peer).map(|agreed| (grant, agreed)));
            match granted {
                Ok((grant, agreed)) => {
                    let Some(keys) = &self.keys else { return };
                    let protection = agreed.suite.protection;
                    let keys = keys.child(protection, &[], &proof.nonce_i, &proof.nonce_r);
                    answer.extend(grant.mode());
                    answer.extend(grant.answer(agreed.inbound));
                    let replaces = self.selected_sibling(gw, &agreed.name);
                    // While an older SA carries traffic, this one waits until the peer has it.
                    let outbound = if replaces.is_none() || first {
                        Outbound::Now
                    } else {
                        Outbound::WhenConfirmed
                    };
                    let coming = Coming {
                        we_started: false,
                        replaces,
                        outbound,
                    };
                    self.install(gw, now, agreed, keys, coming);
                }
                Err(refused) => answer.push(self.refuse_child(gw, refused)),
            }
        }
        self.respond(gw, path, ExchangeType::IkeAuth, &answer);
    }
    /// Gives the peer the addresses that it asks for, if there is a pool for it; with them the peer as it is from now on.
    fn give(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        peer: &Arc<PeerConfig>,
        payloads: Payloads<'_>,
    ) -> Result<(Option<Payload>, Arc<PeerConfig>), Refusal> {
        let Some(wish) = payloads.wish().filter(|_| peer.pool.is_some()) else {
            return Ok((None, peer.clone()));
        };
        let (given, peer) = gw.lease(now, peer, &wish)?;
        self.peer = Some(peer.clone());
        Ok((Some(given.reply(wish.netmask)), peer))
    }
}
