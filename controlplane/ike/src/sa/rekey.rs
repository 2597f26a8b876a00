//! CREATE_CHILD_SA for the IKE SA itself (RFC 7296 1.3.2, 2.8.2, 2.18, 2.25.2).

use std::time::{Duration, Instant};

use super::create_child::agree;
use super::exchange::Exchange;
use super::followup::{Goal, Progress, respond};
use super::{IkeSa, State, Task};
use crate::counters::Counter;
use crate::crypto::keys::Binding;
use crate::error::{CloseReason, Refusal, Subject};
use crate::event::Path;
use crate::gateway::{Gateway, SaKey, Signal};
use crate::negotiate::{Selected, accepted_ike, describe, ike_offer, select_ike};
use crate::provider::KeyExchange;
use crate::secret::Secret;
use crate::suite::{IkeProposal, KeyExchangeMethod};
use crate::wire::header::ExchangeType;
use crate::wire::message::Payloads;
use crate::wire::notify;
use crate::wire::payload::{Notify, Payload};

/// How long an IKE SA that the peer has replaced waits for the peer's DELETE.
const SUPERSEDED_FOR: Duration = Duration::from_secs(60);

/// Octets of an IKE SPI.
const SPI_LEN: usize = 8;

/// The IKE SA that the peer made while we asked for the same.
struct Crossing {
    key: SaKey,
    lowest_nonce: Vec<u8>,
}

/// Our request for a new IKE SA.
pub(super) struct RekeyRequest {
    kex: Option<Box<dyn KeyExchange>>,
    nonce: Vec<u8>,
    spi: u64,
    crossing: Option<Crossing>,
    retried: bool,
    /// Where further key exchanges follow: how far they are.
    progress: Option<Progress<Chosen>>,
}

/// What the peer chose for the new IKE SA.
#[derive(Clone, Copy)]
struct Chosen {
    suite: IkeProposal,
    spi: u64,
}

/// An IKE SA that the peer asked for and that we grant, once all key exchanges are done.
pub(super) struct IkeGoal {
    pub(super) suite: IkeProposal,
    pub(super) binding: Binding,
}

fn spi_of(selected: &Selected<IkeProposal>) -> Option<u64> {
    let spi = selected
        .spi
        .as_slice()
        .try_into()
        .map(u64::from_be_bytes)
        .ok()?;
    (spi != 0).then_some(spi)
}

impl IkeSa {
    pub(super) fn is_rekeying_ike(&self) -> bool {
        matches!(
            self.pending.as_ref().map(|p| &p.exchange),
            Some(Exchange::RekeyIke(_))
        )
    }

    pub(super) fn start_rekey_ike(&mut self, gw: &mut Gateway, now: Instant) {
        let method = self
            .suite()
            .map_or(KeyExchangeMethod::X25519, |suite| suite.kex);
        self.send_rekey(gw, now, method, false);
    }

    fn send_rekey(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        method: KeyExchangeMethod,
        retried: bool,
    ) {
        let (Some(peer), Ok(kex)) = (self.peer.clone(), gw.provider.generate(method)) else {
            return;
        };
        let (nonce, spi) = (gw.new_nonce(), gw.new_ike_spi());
        let payloads = [
            Payload::SecurityAssociation(ike_offer(&peer.ike_proposals, &spi.to_be_bytes())),
            Payload::Nonce(nonce.clone()),
            Payload::KeyExchange {
                method: method.id(),
                data: kex.public_value().to_vec(),
            },
        ];
        let request = RekeyRequest {
            kex: Some(kex),
            nonce,
            spi,
            crossing: None,
            retried,
            progress: None,
        };
        let exchange = Exchange::RekeyIke(Box::new(request));
        self.request(gw, now, ExchangeType::CreateChildSa, &payloads, exchange);
    }

    pub(super) fn handle_rekey_response(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        mut request: RekeyRequest,
        payloads: Payloads<'_>,
    ) {
        if let Some(error) = payloads.error()
            && payloads.proposals().is_none()
        {
            return self.rekey_refused(gw, now, request, error);
        }
        let progress = match request.progress.take() {
            Some(progress) => further_rekey(&mut request, progress, payloads),
            None => self.first_of_rekey(&mut request, payloads),
        };
        let next = progress.and_then(|mut progress| {
            let next = progress.next(gw, payloads)?;
            Ok((progress, next))
        });
        match next {
            Ok((progress, None)) => self.complete_rekey(gw, now, request, progress),
            Ok((progress, Some((kex, asked)))) => {
                (request.kex, request.progress) = (Some(kex), Some(progress));
                let exchange = Exchange::RekeyIke(Box::new(request));
                self.request(gw, now, ExchangeType::IkeFollowupKe, &asked, exchange);
            }
            Err(refusal) => self.rekey_broken(gw, refusal),
        }
    }

    fn rekey_broken(&mut self, gw: &mut Gateway, refusal: Refusal) {
        self.refused(gw, refusal);
        let what = "its IKE SA is not the one we asked for";
        self.enqueue(gw, Task::DeleteIke(CloseReason::ProtocolError { what }));
    }

    fn complete_rekey(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        request: RekeyRequest,
        progress: Progress<Chosen>,
    ) {
        let Chosen { suite, spi } = progress.agreed;
        let binding = Binding {
            nonce_i: request.nonce,
            nonce_r: progress.nonce_r,
            spi_i: request.spi,
            spi_r: spi,
        };
        match self.successor(gw, now, suite, binding, &progress.secrets, true) {
            Some(new) => self.settle_rekey(gw, now, new, request.crossing),
            None => {
                let what = "no keys can be derived";
                self.rekey_broken(gw, Refusal::Malformed { what });
            }
        }
    }

    fn rekey_refused(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        request: RekeyRequest,
        error: &Notify,
    ) {
        if let Some(crossing) = request.crossing {
            return self.supersede(gw, now, crossing.key);
        }
        let group = error
            .data
            .as_slice()
            .try_into()
            .map_or(0, u16::from_be_bytes);
        let suites = self.peer.iter().flat_map(|p| &p.ike_proposals);
        let method = suites.map(|s| s.kex).find(|kex| kex.id() == group);
        match (error.kind, method) {
            (notify::TEMPORARY_FAILURE | notify::STATE_NOT_FOUND, _) => {
                self.hold(gw, now, Task::RekeyIke, Subject::Ike);
            }
            (notify::INVALID_KE_PAYLOAD, Some(method)) if !request.retried => {
                self.send_rekey(gw, now, method, true);
            }
            (kind, _) => {
                self.refused(
                    gw,
                    Refusal::PeerError {
                        subject: Subject::Ike,
                        notify: kind,
                    },
                );
                self.rekey_at = Some(now + gw.settings.retry_max);
            }
        }
    }

    /// The peer's answer to our request: suite, SPI and the first key exchange.
    fn first_of_rekey(
        &self,
        request: &mut RekeyRequest,
        payloads: Payloads<'_>,
    ) -> Result<Progress<Chosen>, Refusal> {
        let malformed = |what| Refusal::Malformed { what };
        let ours = self
            .peer
            .as_ref()
            .map(|p| p.ike_proposals.as_slice())
            .unwrap_or_default();
        let answer = payloads.proposals().unwrap_or_default();
        let selected =
            accepted_ike(answer, ours, SPI_LEN).ok_or_else(|| Refusal::ProposalNotOurs {
                subject: Subject::Ike,
                theirs: describe(answer),
            })?;
        let spi = spi_of(&selected).ok_or(malformed("its SPI is zero"))?;
        let nonce_r = payloads
            .nonce()
            .ok_or(malformed("it has no nonce"))?
            .to_vec();
        let suite = selected.suite;
        let shared = agree(request.kex.take(), Some(suite.kex), payloads)?;
        let (chosen, secrets) = (Chosen { suite, spi }, shared.into_iter().collect());
        Ok(Progress::new(chosen, nonce_r, secrets, &suite.additional))
    }

    /// The IKE SA that takes this one's place, established.
    pub(super) fn successor(
        &self,
        gw: &mut Gateway,
        now: Instant,
        suite: IkeProposal,
        binding: Binding,
        shared: &[Secret],
        initiator: bool,
    ) -> Option<Self> {
        let keys = self
            .keys
            .as_ref()?
            .rekeyed(suite, &binding, shared, initiator)
            .ok()?;
        let (local_spi, remote_spi) = if initiator {
            (binding.spi_i, binding.spi_r)
        } else {
            (binding.spi_r, binding.spi_i)
        };
        let mut new = Self::new(gw.new_key(), initiator, local_spi, self.path, now);
        new.remote_spi = remote_spi;
        new.keys = Some(keys);
        new.peer.clone_from(&self.peer);
        new.given.clone_from(&self.given);
        new.nat = self.nat;
        new.fragmentation = self.fragmentation;
        new.lowest_nonce = binding.nonce_i.min(binding.nonce_r);
        new.origin = self.origin.clone();
        if self.doubted {
            new.doubted = true;
            new.tasks.push_back(Task::Liveness);
        }
        new.establish(gw, now, true);
        Some(new)
    }

    /// Our new IKE SA stands. If the peer made one at the same time, nonces decide.
    fn settle_rekey(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        mut new: Self,
        crossing: Option<Crossing>,
    ) {
        // RFC 7296 2.8.2: "the new IKE SA containing the lowest nonce SHOULD be deleted by the
        // node that created it, and the other surviving new IKE SA MUST inherit all the Child SAs"
        if let Some(theirs) = crossing
            .as_ref()
            .filter(|c| new.lowest_nonce < c.lowest_nonce)
        {
            new.enqueue(gw, Task::DeleteIke(CloseReason::Redundant));
            gw.signals.push_back(Signal::Spawn(Box::new(new)));
            return self.supersede(gw, now, theirs.key);
        }
        new.tasks.append(&mut self.tasks);
        gw.children.inherit(self.key, new.key);
        if let Some(theirs) = crossing {
            gw.children.inherit(theirs.key, new.key);
            gw.signals.push_back(Signal::Superseded(theirs.key));
        }
        gw.signals.push_back(Signal::Spawn(Box::new(new)));
        // RFC 7296 2.8: "the initiator (...) deletes the old IKE SA" once the new one is in use
        self.start_delete_ike(gw, now, CloseReason::Rekeyed, &[]);
    }

    /// Hands everything to the IKE SA that the peer made, and waits for the peer's DELETE.
    fn supersede(&mut self, gw: &mut Gateway, now: Instant, by: SaKey) {
        if !gw.standing.contains(&by) {
            // The peer has deleted it already, and with it the child SAs that it inherited.
            return self.finish(gw, now, CloseReason::DeletedByPeer);
        }
        self.hand_over(gw, by);
        self.superseded(now);
    }

    /// Gives child SAs and waiting tasks to the heir.
    fn hand_over(&mut self, gw: &mut Gateway, heir: SaKey) {
        gw.children.inherit(self.key, heir);
        let tasks = std::mem::take(&mut self.tasks);
        gw.signals
            .extend(tasks.into_iter().map(|task| Signal::Hand(heir, task)));
    }

    /// Another IKE SA has this one's place.
    pub(crate) fn superseded(&mut self, now: Instant) {
        if self.is_established() {
            self.state = State::Superseded;
            self.tasks.clear();
            (self.rekey_at, self.keepalive_at) = (None, None);
            self.end_at = Some(now + SUPERSEDED_FOR);
        }
    }

    /// If the peer has made a new IKE SA while we asked for one, that one inherits.
    pub(super) fn yield_to_crossing(&mut self, gw: &mut Gateway) -> bool {
        let pending = self.pending.as_ref().map(|pending| &pending.exchange);
        let Some(Exchange::RekeyIke(request)) = pending else {
            return false;
        };
        let heir = request.crossing.as_ref().map(|crossing| crossing.key);
        let Some(heir) = heir.filter(|heir| gw.standing.contains(heir)) else {
            return false;
        };
        self.hand_over(gw, heir);
        true
    }

    pub(super) fn handle_rekey_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        payloads: Payloads<'_>,
    ) {
        if self.is_busy() {
            return self.put_off(gw, path, ExchangeType::CreateChildSa);
        }
        match self.grant_rekey(gw, payloads) {
            Ok((goal, shared, mut answer)) => {
                let additional = goal.suite.additional;
                if !additional.is_empty() {
                    let goal = Goal::Ike(Box::new(goal));
                    answer.push(self.expect_followup(gw, now, goal, vec![shared], &additional));
                    return self.respond(gw, path, ExchangeType::CreateChildSa, &answer);
                }
                let IkeGoal { suite, binding } = goal;
                let successor = self.successor(gw, now, suite, binding, &[shared], false);
                self.respond(gw, path, ExchangeType::CreateChildSa, &answer);
                if let Some(new) = successor {
                    self.replaced_by_peer(gw, now, new);
                }
            }
            Err(refusal) => self.respond(gw, path, ExchangeType::CreateChildSa, &[refusal]),
        }
    }

    /// Whether the IKE SA cannot be rekeyed by the peer now.
    pub(super) fn is_busy(&self) -> bool {
        match self.pending.as_ref().map(|pending| &pending.exchange) {
            // RFC 7296 2.25.2: "If a peer receives a request to rekey the IKE SA, and it is
            // currently, creating, rekeying, or closing a Child SA of that IKE SA, it SHOULD reply
            // with TEMPORARY_FAILURE."
            Some(Exchange::Child(_) | Exchange::DeleteChild { .. }) => true,
            Some(Exchange::RekeyIke(request)) => request.crossing.is_some(),
            _ => false,
        }
    }

    pub(super) fn replaced_by_peer(&mut self, gw: &mut Gateway, now: Instant, mut new: Self) {
        let (key, lowest_nonce) = (new.key, new.lowest_nonce.clone());
        new.heir_of = Some(self.key);
        gw.signals.push_back(Signal::Spawn(Box::new(new)));
        match self.pending.as_mut().map(|pending| &mut pending.exchange) {
            Some(Exchange::RekeyIke(request)) => {
                request.crossing = Some(Crossing { key, lowest_nonce });
            }
            _ => self.supersede(gw, now, key),
        }
    }

    fn grant_rekey(
        &self,
        gw: &mut Gateway,
        payloads: Payloads<'_>,
    ) -> Result<(IkeGoal, Secret, Vec<Payload>), Payload> {
        let syntax = || Payload::notify(notify::INVALID_SYNTAX, &[]);
        let (Some(offer), Some(nonce_i), Some((group, _)), Some(peer)) = (
            payloads.proposals(),
            payloads.nonce(),
            payloads.key_exchange(),
            &self.peer,
        ) else {
            return Err(syntax());
        };
        let selected = select_ike(offer, &peer.ike_proposals, SPI_LEN, group);
        let Some((selected, spi_i)) = selected.and_then(|s| spi_of(&s).map(|spi| (s, spi))) else {
            gw.count(Counter::NoProposalChosen);
            self.refused(
                gw,
                Refusal::ProposalMismatch {
                    subject: Subject::Ike,
                    theirs: describe(offer),
                    ours: peer.ike_proposals.iter().map(ToString::to_string).collect(),
                },
            );
            return Err(Payload::notify(notify::NO_PROPOSAL_CHOSEN, &[]));
        };
        let suite = selected.suite;
        if suite.kex.id() != group {
            let group = suite.kex.id().to_be_bytes();
            return Err(Payload::notify(notify::INVALID_KE_PAYLOAD, &group));
        }
        let (public, shared) = respond(gw, suite.kex, payloads).map_err(|_| syntax())?;
        let (nonce_r, spi_r) = (gw.new_nonce(), gw.new_ike_spi());
        let answer = vec![
            Payload::SecurityAssociation(selected.answer(&spi_r.to_be_bytes())),
            Payload::Nonce(nonce_r.clone()),
            public,
        ];
        let binding = Binding {
            nonce_i: nonce_i.to_vec(),
            nonce_r,
            spi_i,
            spi_r,
        };
        Ok((IkeGoal { suite, binding }, shared, answer))
    }
}

/// The peer's answer to a further key exchange.
fn further_rekey(
    request: &mut RekeyRequest,
    mut progress: Progress<Chosen>,
    payloads: Payloads<'_>,
) -> Result<Progress<Chosen>, Refusal> {
    let kex = request.kex.take();
    let method = kex.as_ref().map(|kex| kex.method());
    progress.secrets.extend(agree(kex, method, payloads)?);
    Ok(progress)
}
