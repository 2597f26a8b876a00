//! IKE_FOLLOWUP_KE (RFC 9370 2.2.4): the further key exchanges of a CREATE_CHILD_SA exchange, after
//! which the new IKE SA or child SA is made.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::create_child::ChildGoal;
use super::rekey::IkeGoal;
use super::{IkeSa, State};
use crate::error::Refusal;
use crate::event::Path;
use crate::gateway::Gateway;
use crate::provider::KeyExchange;
use crate::secret::Secret;
use crate::suite::{AdditionalKex, KeyExchangeMethod};
use crate::wire::header::ExchangeType;
use crate::wire::message::Payloads;
use crate::wire::notify;
use crate::wire::payload::Payload;

/// How long the next key exchange of the peer's is waited for. RFC 9370 2.2.4 leaves it to us and
/// recommends 5 to 20 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// Octets of a link of ours.
const LINK_LEN: usize = 8;

/// A further key exchange and the payloads that ask for it; none when all are done.
type NextExchange = Option<(Box<dyn KeyExchange>, Vec<Payload>)>;

/// How far our own CREATE_CHILD_SA exchange is.
pub(super) struct Progress<T> {
    /// What was agreed on.
    pub(super) agreed: T,
    pub(super) nonce_r: Vec<u8>,
    /// The shared secrets so far.
    pub(super) secrets: Vec<Secret>,
    /// The key exchanges that are to come.
    methods: VecDeque<KeyExchangeMethod>,
}

impl<T> Progress<T> {
    pub(super) fn new(
        agreed: T,
        nonce_r: Vec<u8>,
        secrets: Vec<Secret>,
        additional: &AdditionalKex,
    ) -> Self {
        Self {
            agreed,
            nonce_r,
            secrets,
            methods: additional.methods().collect(),
        }
    }

    /// What is to be asked next.
    pub(super) fn next(
        &mut self,
        gw: &Gateway,
        payloads: Payloads<'_>,
    ) -> Result<NextExchange, Refusal> {
        let Some(method) = self.methods.pop_front() else {
            return Ok(None);
        };
        let link = payloads
            .notify(notify::ADDITIONAL_KEY_EXCHANGE)
            .ok_or(Refusal::Malformed {
                what: "it has no link to the further key exchanges",
            })?;
        let bad = |_| Refusal::BadKeyExchange { method };
        let kex = gw.provider.generate(method).map_err(bad)?;
        let asked = vec![
            Payload::KeyExchange {
                method: method.id(),
                data: kex.public_value().to_vec(),
            },
            Payload::notify(notify::ADDITIONAL_KEY_EXCHANGE, &link.data),
        ];
        Ok(Some((kex, asked)))
    }
}

/// What the peer wants to make.
pub(super) enum Goal {
    Child(Box<ChildGoal>),
    Ike(Box<IkeGoal>),
}

/// A CREATE_CHILD_SA exchange of the peer's that we have answered, and whose further key exchanges
/// are to come.
pub(super) struct PeerFollowup {
    link: Vec<u8>,
    methods: VecDeque<KeyExchangeMethod>,
    secrets: Vec<Secret>,
    goal: Goal,
    expires: Instant,
}

impl IkeSa {
    /// Waits for the further key exchanges; gives the notification that links them to this one.
    pub(super) fn expect_followup(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        goal: Goal,
        secrets: Vec<Secret>,
        additional: &AdditionalKex,
    ) -> Payload {
        let link = gw.random(LINK_LEN);
        let notify = Payload::notify(notify::ADDITIONAL_KEY_EXCHANGE, &link);
        self.followup = Some(Box::new(PeerFollowup {
            link,
            methods: additional.methods().collect(),
            secrets,
            goal,
            expires: now + PATIENCE,
        }));
        notify
    }

    pub(super) fn followup_due(&self) -> Option<Instant> {
        self.followup.as_ref().map(|followup| followup.expires)
    }

    pub(super) fn expire_followup(&mut self, gw: &mut Gateway, now: Instant) {
        if self.followup_due().is_some_and(|at| at <= now) {
            self.abandon_followup(gw);
        }
    }

    /// Forgets what the peer was making.
    pub(super) fn abandon_followup(&mut self, gw: &mut Gateway) {
        if let Some(followup) = self.followup.take() {
            followup.goal.abandon(gw);
        }
    }

    pub(super) fn handle_followup_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        payloads: Payloads<'_>,
    ) {
        let kind = ExchangeType::IkeFollowupKe;
        let link = payloads.notify(notify::ADDITIONAL_KEY_EXCHANGE);
        let ours = |f: &mut Box<PeerFollowup>| link.is_some_and(|link| link.data == f.link);
        let Some(mut followup) = self.followup.take_if(ours) else {
            let lost = Payload::notify(notify::STATE_NOT_FOUND, &[]);
            return self.respond(gw, path, kind, &[lost]);
        };
        let answer = match followup.step(gw, payloads) {
            Ok(answer) => answer,
            Err(refusal) => {
                followup.goal.abandon(gw);
                self.refused(gw, refusal);
                let refusal = Payload::notify(notify::INVALID_SYNTAX, &[]);
                return self.respond(gw, path, kind, &[refusal]);
            }
        };
        if !followup.methods.is_empty() {
            let link = Payload::notify(notify::ADDITIONAL_KEY_EXCHANGE, &followup.link);
            followup.expires = now + PATIENCE;
            self.followup = Some(followup);
            return self.respond(gw, path, kind, &[answer, link]);
        }
        let PeerFollowup { goal, secrets, .. } = *followup;
        match goal {
            Goal::Child(goal) if self.can_make(gw, &goal) => {
                self.make_granted(gw, now, *goal, &secrets);
                self.respond(gw, path, kind, &[answer]);
            }
            Goal::Ike(goal) if matches!(self.state, State::Established) && !self.is_busy() => {
                let successor = self.successor(gw, now, goal.suite, goal.binding, &secrets, false);
                self.respond(gw, path, kind, &[answer]);
                if let Some(new) = successor {
                    self.replaced_by_peer(gw, now, new);
                }
            }
            // Something has come in between: the peer begins anew.
            goal => {
                goal.abandon(gw);
                self.put_off(gw, path, kind);
            }
        }
    }
}

impl Goal {
    fn abandon(self, gw: &mut Gateway) {
        if let Self::Child(goal) = self {
            gw.spis.release(goal.agreed.inbound);
        }
    }
}

impl PeerFollowup {
    /// Does the next key exchange; gives our KE payload.
    fn step(&mut self, gw: &Gateway, payloads: Payloads<'_>) -> Result<Payload, Refusal> {
        let malformed = |what| Refusal::Malformed { what };
        let method = self
            .methods
            .pop_front()
            .ok_or(malformed("no further key exchange is due"))?;
        let (answer, shared) = respond(gw, method, payloads)?;
        self.secrets.push(shared);
        Ok(answer)
    }
}

/// Our KE payload for the peer's, and the shared secret.
pub(super) fn respond(
    gw: &Gateway,
    method: KeyExchangeMethod,
    payloads: Payloads<'_>,
) -> Result<(Payload, Secret), Refusal> {
    let what = "it has no key exchange payload";
    let (group, public) = payloads.key_exchange().ok_or(Refusal::Malformed { what })?;
    if group != method.id() {
        return Err(Refusal::GroupNotOurs { group });
    }
    let bad = |_| Refusal::BadKeyExchange { method };
    let (data, shared) = gw.provider.respond(method, public).map_err(bad)?;
    let method = method.id();
    Ok((Payload::KeyExchange { method, data }, shared))
}
