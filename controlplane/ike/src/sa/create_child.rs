//! CREATE_CHILD_SA for child SAs (RFC 7296 1.3.1, 1.3.3, 2.8, 2.25): new ones and rekeys, and
//! what happens when both ends do it at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::child::{Agreed, ChildOffer, Coming, Grant, Outbound, Refused, Translation};
use super::exchange::Exchange;
use super::followup::{Goal, Progress, respond};
use super::{IkeSa, Task};
use crate::children::ChildState;
use crate::error::{CloseReason, Refusal, RemovalReason, Subject};
use crate::event::Path;
use crate::gateway::{Gateway, Signal};
use crate::negotiate::ChildExchange;
use crate::provider::KeyExchange;
use crate::secret::Secret;
use crate::suite::KeyExchangeMethod;
use crate::wire::header::ExchangeType;
use crate::wire::message::Payloads;
use crate::wire::notify;
use crate::wire::payload::{Notify, Payload};
use crate::wire::proposal::protocol;

/// How often in a row a peer may ask for patience.
const MAX_HOLDS: u32 = 12;
/// The first pause after TEMPORARY_FAILURE; each further one doubles.
const FIRST_HOLD: Duration = Duration::from_millis(250);
/// SPIs deleted before we knew them that we keep in mind.
const MAX_EARLY_DELETES: usize = 16;
/// The longest pause.
const LONGEST_HOLD: Duration = Duration::from_secs(30);

/// What the peer made while we asked for the same.
pub(super) struct Crossing {
    /// The child SA that it made, by our SPI.
    inbound: u32,
    lowest_nonce: Vec<u8>,
}

/// Our request for a child SA.
pub(super) struct ChildRequest {
    pub(super) offer: ChildOffer,
    nonce: Vec<u8>,
    kex: Option<Box<dyn KeyExchange>>,
    replaces: Option<u32>,
    crossing: Option<Crossing>,
    /// SPIs of the peer's that it deleted meanwhile and that we did not know.
    deleted: Vec<u32>,
    retried: bool,
    /// Where further key exchanges follow: how far they are.
    progress: Option<Progress<Agreed>>,
}

/// A child SA that the peer asked for and that we grant, once all key exchanges are done.
pub(super) struct ChildGoal {
    pub(super) agreed: Agreed,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    /// The child SA that it rekeys, by our SPI.
    old: Option<u32>,
}

impl IkeSa {
    pub(super) fn start_new_child(&mut self, gw: &mut Gateway, now: Instant, name: &Arc<str>) {
        let Some(peer) = self.peer_name().map(Arc::<str>::from) else {
            return;
        };
        if !gw.child_stands(&peer, name) {
            self.start_child(gw, now, name, None, None);
        }
    }

    pub(super) fn start_rekey_child(&mut self, gw: &mut Gateway, now: Instant, inbound: u32) {
        let Some(child) = gw.children.get(inbound) else {
            return;
        };
        if child.owner != Some(self.key) || child.state != ChildState::Live {
            return;
        }
        let name = child.name.clone();
        gw.children.update(inbound, |child| child.rekeying = true);
        self.start_child(gw, now, &name, Some(inbound), None);
    }

    /// Sends the request; `group` is what the peer asked for instead of our first choice.
    fn start_child(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        name: &str,
        replaces: Option<u32>,
        group: Option<KeyExchangeMethod>,
    ) {
        let Some(peer) = self.peer.clone() else {
            return;
        };
        let offer = match ChildOffer::new(gw, &peer, name, self.nat, &self.given) {
            Ok(Some(offer)) => offer,
            Ok(None) => return,
            Err(refusal) => {
                self.refused(gw, refusal);
                return gw.signals.push_back(Signal::ChildFailed(self.key));
            }
        };
        let method = group.or_else(|| offer.suites().iter().find_map(|s| s.kex));
        let kex = method.and_then(|method| gw.provider.generate(method).ok());
        let nonce = gw.new_nonce();
        let mut payloads = Vec::new();
        // RFC 7296 1.3.3: "The REKEY_SA notification MUST be included in a CREATE_CHILD_SA
        // exchange if the purpose of the exchange is to replace an existing ESP or AH SA. (...)
        // this is the SPI the exchange initiator would expect in inbound ESP or AH packets."
        let protocol = offer.protocol();
        payloads.extend(replaces.map(|inbound| child_notify(notify::REKEY_SA, protocol, inbound)));
        let exchange = ChildExchange::OnItsOwn(kex.as_ref().map(|kex| kex.method().id()));
        payloads.push(offer.proposals(exchange));
        payloads.push(Payload::Nonce(nonce.clone()));
        payloads.extend(kex.as_ref().map(|kex| Payload::KeyExchange {
            method: kex.method().id(),
            data: kex.public_value().to_vec(),
        }));
        payloads.extend(offer.mode());
        payloads.extend(offer.selectors());
        let request = ChildRequest {
            offer,
            nonce,
            kex,
            replaces,
            crossing: None,
            deleted: Vec::new(),
            retried: group.is_some(),
            progress: None,
        };
        let exchange = Exchange::Child(Box::new(request));
        self.request(gw, now, ExchangeType::CreateChildSa, &payloads, exchange);
    }

    pub(super) fn handle_child_response(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        request: ChildRequest,
        payloads: Payloads<'_>,
    ) {
        if let Some(old) = request.replaces {
            gw.children.update(old, |child| child.rekeying = false);
        }
        if self.is_leaving() {
            return gw.spis.release(request.offer.inbound);
        }
        match payloads.error() {
            Some(error) if payloads.proposals().is_none() => {
                self.child_request_refused(gw, now, request, error);
            }
            _ => {
                self.holds = 0;
                self.accept_child(gw, now, request, payloads);
            }
        }
    }

    fn child_request_refused(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        request: ChildRequest,
        error: &Notify,
    ) {
        if request.offer.unwanted {
            return gw.spis.release(request.offer.inbound);
        }
        let task = match request.replaces {
            Some(old) => Task::RekeyChild(old),
            None => Task::NewChild(request.offer.name.clone()),
        };
        match error.kind {
            notify::TEMPORARY_FAILURE | notify::STATE_NOT_FOUND if request.crossing.is_some() => {
                gw.spis.release(request.offer.inbound);
            }
            // What had come of the key exchanges so far is lost: all begins anew.
            notify::TEMPORARY_FAILURE | notify::STATE_NOT_FOUND => {
                gw.spis.release(request.offer.inbound);
                let subject = Subject::Child(request.offer.name.to_string());
                self.hold(gw, now, task, subject);
            }
            notify::CHILD_SA_NOT_FOUND => self.child_not_found(gw, now, request),
            notify::INVALID_KE_PAYLOAD if !request.retried => {
                let group = error
                    .data
                    .as_slice()
                    .try_into()
                    .map_or(0, u16::from_be_bytes);
                let suites = request.offer.suites().iter().filter_map(|s| s.kex);
                match suites.into_iter().find(|kex| kex.id() == group) {
                    Some(method) => {
                        gw.spis.release(request.offer.inbound);
                        let (name, old) = (request.offer.name, request.replaces);
                        self.start_child(gw, now, &name, old, Some(method));
                    }
                    None => {
                        let refusal = Refusal::GroupNotOurs { group };
                        self.rekey_failed(gw, now, request.replaces);
                        self.child_refused(gw, request.offer, refusal);
                    }
                }
            }
            kind => {
                let refusal = request.offer.refusal(kind);
                self.rekey_failed(gw, now, request.replaces);
                self.child_refused(gw, request.offer, refusal);
            }
        }
    }

    /// A rekey that was refused is tried again before the old child SA ends.
    fn rekey_failed(&self, gw: &mut Gateway, now: Instant, replaces: Option<u32>) {
        let retry = now + gw.settings.retry_max;
        if let Some(old) = replaces {
            gw.children
                .update(old, |child| child.rekey_at = Some(retry));
        }
    }

    /// RFC 7296 2.25: "When a peer receives a TEMPORARY_FAILURE notification, it MUST NOT
    /// immediately retry the operation; it MUST wait so that the sender may complete whatever
    /// operation caused the temporary condition."
    pub(super) fn hold(&mut self, gw: &mut Gateway, now: Instant, task: Task, subject: Subject) {
        self.holds += 1;
        if self.holds > MAX_HOLDS {
            // "the recipient (...) MAY conclude that the two peers have fallen out of
            // synchronization and close the IKE SA"
            let refusal = Refusal::PeerError {
                subject,
                notify: notify::TEMPORARY_FAILURE,
            };
            self.refused(gw, refusal);
            let what = "it put us off for too long";
            self.enqueue(gw, Task::DeleteIke(CloseReason::ProtocolError { what }));
            return;
        }
        let pause = FIRST_HOLD
            .saturating_mul(1 << self.holds.min(16))
            .min(LONGEST_HOLD);
        // The jitter keeps two ends from crossing for ever.
        self.hold_until = Some(now + gw.jittered(pause) + gw.jittered(pause) - pause / 2);
        if !self.tasks.contains(&task) {
            self.tasks.push_front(task);
        }
    }

    /// RFC 7296 2.25: "A peer that receives a CHILD_SA_NOT_FOUND notification SHOULD silently
    /// delete the Child SA (if it still exists) and send a request to create a new Child SA from
    /// scratch (if the Child SA does not yet exist)."
    fn child_not_found(&mut self, gw: &mut Gateway, now: Instant, request: ChildRequest) {
        gw.spis.release(request.offer.inbound);
        let owned = request.replaces.filter(|&old| {
            gw.children
                .get(old)
                .is_some_and(|c| c.owner == Some(self.key))
        });
        if let Some(old) = owned {
            gw.remove_child(now, old, RemovalReason::UnknownToPeer);
            gw.signals
                .push_back(Signal::ChildWanted(self.key, request.offer.name));
        }
    }

    fn accept_child(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        mut request: ChildRequest,
        payloads: Payloads<'_>,
    ) {
        let progress = match request.progress.take() {
            Some(progress) => further_child(&mut request, progress, payloads),
            None => first_of_child(&mut request, payloads, self.translation()),
        };
        let next = progress.and_then(|mut progress| {
            let next = progress.next(gw, payloads)?;
            Ok((progress, next))
        });
        match next {
            Ok((progress, None)) => self.complete_child(gw, now, request, progress),
            Ok((progress, Some((kex, asked)))) => {
                (request.kex, request.progress) = (Some(kex), Some(progress));
                if let Some(old) = request.replaces {
                    gw.children.update(old, |child| child.rekeying = true);
                }
                let exchange = Exchange::Child(Box::new(request));
                self.request(gw, now, ExchangeType::IkeFollowupKe, &asked, exchange);
            }
            Err(refusal) => self.child_response_broken(gw, request.offer, refusal),
        }
    }

    fn complete_child(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        request: ChildRequest,
        progress: Progress<Agreed>,
    ) {
        let Progress {
            agreed,
            nonce_r,
            secrets,
            ..
        } = progress;
        let Some(keys) = &self.keys else { return };
        let keys = keys.child(agreed.suite.protection, &secrets, &request.nonce, &nonce_r);
        let inbound = agreed.inbound;
        if request.offer.unwanted {
            return self.install_shut(gw, now, agreed, keys, RemovalReason::Terminated);
        }
        if let Some(refusal) = request.offer.mode_refused(&agreed) {
            self.rekey_failed(gw, now, request.replaces);
            self.refused(gw, refusal);
            gw.signals.push_back(Signal::ChildFailed(self.key));
            return self.install_shut(gw, now, agreed, keys, RemovalReason::OtherMode);
        }
        // RFC 7296 2.8.1: "the SA created with the lowest of the four nonces used in the two
        // exchanges SHOULD be closed by the endpoint that created it"
        let lowest = request.nonce.min(nonce_r);
        let crossing = request.crossing.filter(|c| {
            gw.children
                .get(c.inbound)
                .is_some_and(|c| c.owner.is_some())
        });
        let lost = crossing
            .as_ref()
            .is_some_and(|crossing| lowest < crossing.lowest_nonce);
        if lost {
            // Theirs stays, and its maker deletes the old one. Ours is not used.
            let coming = Coming {
                we_started: true,
                replaces: request.replaces,
                outbound: Outbound::WhenConfirmed,
            };
            self.install(gw, now, agreed, keys, coming);
            gw.children.replaced(inbound);
            self.enqueue(gw, Task::DeleteChild(inbound, RemovalReason::Redundant));
            return;
        }
        let outbound = agreed.outbound;
        let coming = Coming {
            we_started: true,
            replaces: request.replaces,
            outbound: Outbound::Now,
        };
        self.install(gw, now, agreed, keys, coming);
        if let Some(crossing) = crossing {
            gw.children.replaced(crossing.inbound);
            if request.replaces.is_none() {
                // No old SA kept the peer from making its own after ours, so it may not know that
                // they crossed. If it does, two deletions cross, which harms nobody.
                let task = Task::DeleteChild(crossing.inbound, RemovalReason::Redundant);
                self.enqueue(gw, task);
            }
        }
        if let Some(old) = request.replaces {
            // RFC 7296 2.8: "when the new one is established, delete the old one"
            gw.children.replaced(old);
            self.enqueue(gw, Task::DeleteChild(old, RemovalReason::Replaced));
        }
        if request.deleted.contains(&outbound) {
            gw.remove_child(now, inbound, RemovalReason::DeletedByPeer);
        }
    }

    fn child_response_broken(&mut self, gw: &mut Gateway, offer: ChildOffer, refusal: Refusal) {
        self.child_refused(gw, offer, refusal);
        let what = "its child SA is not the one we asked for";
        self.enqueue(gw, Task::DeleteIke(CloseReason::ProtocolError { what }));
    }

    pub(super) fn handle_create_child_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        payloads: &[Payload],
    ) {
        let payloads = Payloads(payloads);
        let offer = payloads.proposals().unwrap_or_default();
        if offer
            .iter()
            .any(|proposal| proposal.protocol == protocol::IKE)
        {
            return self.handle_rekey_request(gw, now, path, payloads);
        }
        // RFC 7296 2.25.2: "If a peer receives a request to create or rekey a Child SA when it is
        // currently rekeying the IKE SA, it SHOULD reply with TEMPORARY_FAILURE."
        if self.is_rekeying_ike() {
            return self.put_off(gw, path, ExchangeType::CreateChildSa);
        }
        let old = match self.rekeyed_child(gw, payloads) {
            Ok(old) => old,
            Err(Some(refusal)) => {
                return self.respond(gw, path, ExchangeType::CreateChildSa, &[refusal]);
            }
            Err(None) => return self.put_off(gw, path, ExchangeType::CreateChildSa),
        };
        match self.grant_child(gw, now, payloads, old) {
            Ok(answer) => self.respond(gw, path, ExchangeType::CreateChildSa, &answer),
            Err(refused) => {
                let refusal = self.refuse_child(gw, refused);
                self.respond(gw, path, ExchangeType::CreateChildSa, &[refusal]);
            }
        }
    }

    /// The child SA that the peer wants to rekey, by our SPI; or a refusal, or none for "later".
    fn rekeyed_child(
        &self,
        gw: &Gateway,
        payloads: Payloads<'_>,
    ) -> Result<Option<u32>, Option<Payload>> {
        let Some(rekey) = payloads.notify(notify::REKEY_SA) else {
            return Ok(None);
        };
        let spi = rekey
            .spi
            .as_slice()
            .try_into()
            .map_or(0, u32::from_be_bytes);
        match gw.children.by_outbound(self.key, rekey.protocol, spi) {
            // RFC 7296 2.25.1: "If a peer receives a request to rekey a Child SA that does not
            // exist, it SHOULD reply with CHILD_SA_NOT_FOUND."
            // -- unless it may be the one whose making we have not heard the end of.
            None if self.is_making_child() => Err(None),
            None => Err(Some(child_notify(
                notify::CHILD_SA_NOT_FOUND,
                rekey.protocol,
                spi,
            ))),
            // "If a peer receives a request to rekey a Child SA that it is currently trying to
            // close, it SHOULD reply with TEMPORARY_FAILURE."
            Some(child) if child.state != ChildState::Live => Err(None),
            Some(child) => Ok(Some(child.inbound)),
        }
    }

    fn grant_child(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        payloads: Payloads<'_>,
        old: Option<u32>,
    ) -> Result<Vec<Payload>, Refused> {
        let malformed = |what| Refused {
            notify: Payload::notify(notify::INVALID_SYNTAX, &[]),
            refusal: Some(Box::new(Refusal::Malformed { what })),
        };
        let peer = self
            .peer
            .clone()
            .ok_or_else(|| malformed("there is no peer"))?;
        let nonce_i = payloads
            .nonce()
            .ok_or_else(|| malformed("it has no nonce"))?;
        let group = payloads.key_exchange().map(|(group, _)| group);
        let exchange = ChildExchange::OnItsOwn(group);
        let name = old
            .and_then(|old| gw.children.get(old))
            .map(|child| child.name.clone());
        let translation = self.translation();
        let grant = Grant::consider(&peer, payloads, exchange, name.as_deref(), translation)?;
        let answered = match grant.selected.suite.kex {
            Some(method) => Some(respond(gw, method, payloads).map_err(|refusal| Refused {
                notify: Payload::notify(notify::INVALID_SYNTAX, &[]),
                refusal: Some(Box::new(refusal)),
            })?),
            None => None,
        };
        let (public, shared): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
        let agreed = grant.agree(gw, &peer)?;
        let (inbound, nonce_r) = (agreed.inbound, gw.new_nonce());
        let [sa, ts_i, ts_r] = grant.answer(inbound);
        let mode = grant.mode();
        let mut answer = vec![sa, Payload::Nonce(nonce_r.clone())];
        answer.extend(public);
        answer.extend(mode);
        answer.extend([ts_i, ts_r]);
        let additional = agreed.suite.additional;
        let goal = ChildGoal {
            agreed,
            nonce_i: nonce_i.to_vec(),
            nonce_r,
            old,
        };
        if additional.is_empty() {
            self.make_granted(gw, now, goal, &shared);
        } else {
            let goal = Goal::Child(Box::new(goal));
            answer.push(self.expect_followup(gw, now, goal, shared, &additional));
        }
        Ok(answer)
    }

    /// Whether nothing has come in between since the child SA was granted.
    pub(super) fn can_make(&self, gw: &Gateway, goal: &ChildGoal) -> bool {
        let ours = |old: u32| {
            let child = gw.children.get(old);
            child.is_some_and(|c| c.owner == Some(self.key) && c.state == ChildState::Live)
        };
        let peer = self.peer.as_ref();
        !self.is_rekeying_ike()
            && goal.old.is_none_or(ours)
            && peer.is_some_and(|peer| peer.child(&goal.agreed.name).is_some())
    }

    /// Makes the child SA that the peer asked for.
    pub(super) fn make_granted(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        goal: ChildGoal,
        secrets: &[Secret],
    ) {
        let ChildGoal {
            agreed,
            nonce_i,
            nonce_r,
            old,
        } = goal;
        let Some(keys) = &self.keys else { return };
        let keys = keys.child(agreed.suite.protection, secrets, &nonce_i, &nonce_r);
        let inbound = agreed.inbound;
        let name = agreed.name.clone();
        let (replaces, outbound) = match (old, self.selected_sibling(gw, &name)) {
            // The peer's DELETE of the old one, or its first packet, switches.
            (Some(old), _) => (Some(old), Outbound::WhenConfirmed),
            (None, Some(sibling)) => (Some(sibling), Outbound::WhenConfirmedOrLate),
            (None, None) => (None, Outbound::Now),
        };
        let coming = Coming {
            we_started: false,
            replaces,
            outbound,
        };
        self.install(gw, now, agreed, keys, coming);
        if let Some(old) = old {
            gw.children.replaced(old);
        }
        let lowest_nonce = nonce_i.min(nonce_r);
        self.note_crossing(
            &name,
            old,
            Crossing {
                inbound,
                lowest_nonce,
            },
        );
    }

    fn is_making_child(&self) -> bool {
        let exchange = self.pending.as_ref().map(|pending| &pending.exchange);
        matches!(exchange, Some(Exchange::Child(_)))
    }

    /// The peer deletes an SA that we do not know: it may be the one that it has made for us and
    /// whose response is still on its way.
    pub(super) fn note_unknown_delete(&mut self, spi: u32) {
        let exchange = self.pending.as_mut().map(|pending| &mut pending.exchange);
        if let Some(Exchange::Child(request)) = exchange
            && request.deleted.len() < MAX_EARLY_DELETES
        {
            request.deleted.push(spi);
        }
    }

    /// The peer has made what we are just asking for.
    fn note_crossing(&mut self, name: &str, old: Option<u32>, crossing: Crossing) {
        let exchange = self.pending.as_mut().map(|pending| &mut pending.exchange);
        if let Some(Exchange::Child(request)) = exchange
            && *request.offer.name == *name
            && request.replaces == old
        {
            request.crossing = Some(crossing);
        }
    }
}

/// The peer's answer to our request: suite, selectors and the first key exchange.
fn first_of_child(
    request: &mut ChildRequest,
    payloads: Payloads<'_>,
    translation: Translation,
) -> Result<Progress<Agreed>, Refusal> {
    let group = request.kex.as_ref().map(|kex| kex.method().id());
    let exchange = ChildExchange::OnItsOwn(group);
    let agreed = request.offer.accepted(payloads, exchange, translation)?;
    let what = "it has no nonce";
    let nonce_r = payloads.nonce().ok_or(Refusal::Malformed { what })?;
    let shared = agree(request.kex.take(), agreed.suite.kex, payloads)?;
    let (nonce_r, secrets) = (nonce_r.to_vec(), shared.into_iter().collect());
    let additional = agreed.suite.additional;
    Ok(Progress::new(agreed, nonce_r, secrets, &additional))
}

/// The peer's answer to a further key exchange.
fn further_child(
    request: &mut ChildRequest,
    mut progress: Progress<Agreed>,
    payloads: Payloads<'_>,
) -> Result<Progress<Agreed>, Refusal> {
    let kex = request.kex.take();
    let method = kex.as_ref().map(|kex| kex.method());
    progress.secrets.extend(agree(kex, method, payloads)?);
    Ok(progress)
}

fn child_notify(kind: u16, protocol: u8, spi: u32) -> Payload {
    let spi = spi.to_be_bytes().to_vec();
    Payload::Notify(Notify {
        protocol,
        spi,
        kind,
        data: Vec::new(),
    })
}

/// The shared secret with the peer's KE payload, where the suite has a key exchange.
pub(super) fn agree(
    kex: Option<Box<dyn KeyExchange>>,
    method: Option<KeyExchangeMethod>,
    payloads: Payloads<'_>,
) -> Result<Option<Secret>, Refusal> {
    let Some(method) = method else {
        return Ok(None);
    };
    let (Some(kex), Some((group, public))) = (kex, payloads.key_exchange()) else {
        return Err(Refusal::Malformed {
            what: "it has no key exchange payload",
        });
    };
    if kex.method() != method || group != method.id() {
        return Err(Refusal::GroupNotOurs { group });
    }
    kex.agree(public)
        .map(Some)
        .map_err(|_| Refusal::BadKeyExchange { method })
}
