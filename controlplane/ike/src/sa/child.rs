//! What IKE_AUTH and CREATE_CHILD_SA have in common about child SAs (RFC 7296 1.2, 1.3, 2.9,
//! 2.17).

use std::sync::Arc;
use std::time::Instant;

use super::init::NAT_T_PORT;
use super::{IkeSa, Task};
use crate::children::{Child, ChildState};
use crate::config::{ChildConfig, PeerConfig};
use crate::counters::Counter;
use crate::crypto::keys::ChildKeys;
use crate::error::{Refusal, RemovalReason, Subject};
use crate::event::{ChildSa, UdpPorts};
use crate::gateway::Gateway;
use crate::negotiate::{
    ChildExchange, Selected, accepted_child, child_offer, describe, select_child, suites_for,
};
use crate::suite::ChildProposal;
use crate::wire::message::Payloads;
use crate::wire::notify;
use crate::wire::payload::{Notify, Payload};
use crate::wire::proposal::Proposal;
use crate::wire::ts::{TrafficSelector, narrow, within};

/// A child that we have proposed or are to propose.
pub(crate) struct ChildOffer {
    pub(super) name: Arc<str>,
    /// Our SPI.
    pub(super) inbound: u32,
    /// It was terminated before the peer has answered.
    pub(super) unwanted: bool,
    config: ChildConfig,
}

impl ChildOffer {
    /// Takes an SPI for a child of the peer's.
    pub(super) fn new(
        gw: &mut Gateway,
        peer: &PeerConfig,
        name: &str,
    ) -> Result<Option<Self>, Refusal> {
        let Some(config) = peer.child(name).cloned() else {
            return Ok(None);
        };
        let inbound = gw.spis.allocate().ok_or(Refusal::NoSpi)?;
        Ok(Some(Self {
            name: name.into(),
            inbound,
            unwanted: false,
            config,
        }))
    }

    pub(super) fn suites(&self) -> &[ChildProposal] {
        &self.config.proposals
    }

    pub(super) fn proposals(&self, exchange: ChildExchange) -> Payload {
        let suites = suites_for(&self.config.proposals, exchange);
        Payload::SecurityAssociation(child_offer(&suites, self.inbound))
    }

    pub(super) fn selectors(&self) -> [Payload; 2] {
        [
            Payload::TsInitiator(self.config.local_ts.clone()),
            Payload::TsResponder(self.config.remote_ts.clone()),
        ]
    }

    /// What the peer's refusal means.
    pub(super) fn refusal(&self, kind: u16) -> Refusal {
        match kind {
            notify::NO_PROPOSAL_CHOSEN => Refusal::ProposalRefused {
                subject: Subject::Child(self.name.to_string()),
                ours: self
                    .config
                    .proposals
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            },
            notify::TS_UNACCEPTABLE => Refusal::SelectorsRefused {
                child: self.name.to_string(),
                local: self.config.local_ts.clone(),
                remote: self.config.remote_ts.clone(),
            },
            notify => Refusal::PeerError {
                subject: Subject::Child(self.name.to_string()),
                notify,
            },
        }
    }

    /// Checks the peer's answer: suite and selectors must be ours.
    pub(super) fn accepted(
        &self,
        payloads: Payloads<'_>,
        exchange: ChildExchange,
    ) -> Result<Agreed, Refusal> {
        let malformed = |what| Refusal::Malformed { what };
        let answer = payloads
            .proposals()
            .ok_or(malformed("it has no SA payload"))?;
        let selected = accepted_child(answer, self.suites(), exchange).ok_or_else(|| {
            Refusal::ProposalNotOurs {
                subject: Subject::Child(self.name.to_string()),
                theirs: describe(answer),
            }
        })?;
        let local_ts = payloads.ts_initiator().unwrap_or_default();
        let remote_ts = payloads.ts_responder().unwrap_or_default();
        // RFC 7296 2.9: the responder "narrows the Traffic Selectors to some subset of the
        // initiator's proposal (provided the set does not become the null set)"
        let narrowed = within(local_ts, &self.config.local_ts)
            && within(remote_ts, &self.config.remote_ts)
            && !local_ts.is_empty()
            && !remote_ts.is_empty();
        if !narrowed {
            return Err(Refusal::SelectorsWidened {
                child: self.name.to_string(),
            });
        }
        Ok(Agreed {
            name: self.name.clone(),
            inbound: self.inbound,
            outbound: spi_of(&selected).ok_or(malformed("it has no SPI"))?,
            suite: selected.suite,
            local_ts: local_ts.to_vec(),
            remote_ts: remote_ts.to_vec(),
        })
    }
}

fn spi_of(selected: &Selected<ChildProposal>) -> Option<u32> {
    let spi = selected
        .spi
        .as_slice()
        .try_into()
        .map(u32::from_be_bytes)
        .ok()?;
    // RFC 4303 2.1: 0 to 255 are reserved
    (spi > 255).then_some(spi)
}

/// A child SA as both ends agreed on it.
pub(super) struct Agreed {
    pub(super) name: Arc<str>,
    pub(super) inbound: u32,
    pub(super) outbound: u32,
    pub(super) suite: ChildProposal,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
}

/// What we grant to the peer's request for a child, before there is an SPI for it.
pub(super) struct Grant {
    name: Arc<str>,
    pub(super) selected: Selected<ChildProposal>,
    outbound: u32,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
}

/// Why we refuse one: what the peer reads, and what the operator reads.
pub(super) struct Refused {
    pub(super) notify: Payload,
    pub(super) refusal: Option<Box<Refusal>>,
}

impl Refused {
    fn new(kind: u16, refusal: Refusal) -> Self {
        Self {
            notify: Payload::notify(kind, &[]),
            refusal: Some(Box::new(refusal)),
        }
    }
}

impl Grant {
    /// Finds the child that the peer asks for: one whose selectors are exactly those asked for,
    /// else the first that overlaps. A rekey is bound to its child's name.
    pub(super) fn consider(
        peer: &PeerConfig,
        payloads: Payloads<'_>,
        exchange: ChildExchange,
        rekeys: Option<&str>,
    ) -> Result<Self, Refused> {
        let offer: &[Proposal] = payloads.proposals().unwrap_or_default();
        let theirs = payloads.ts_initiator().unwrap_or_default();
        let ours = payloads.ts_responder().unwrap_or_default();
        let mut found: Option<(&ChildConfig, Vec<_>, Vec<_>)> = None;
        for child in peer
            .children
            .iter()
            .filter(|c| rekeys.is_none_or(|name| name == c.name))
        {
            let (local_ts, remote_ts) = (
                narrow(ours, &child.local_ts),
                narrow(theirs, &child.remote_ts),
            );
            if local_ts.is_empty() || remote_ts.is_empty() {
                continue;
            }
            let exact = within(ours, &local_ts)
                && within(theirs, &remote_ts)
                && within(&child.local_ts, &local_ts)
                && within(&child.remote_ts, &remote_ts);
            if exact || found.is_none() {
                found = Some((child, local_ts, remote_ts));
            }
            if exact {
                break;
            }
        }
        let Some((child, local_ts, remote_ts)) = found else {
            let refusal = Refusal::SelectorMismatch {
                local: ours.to_vec(),
                remote: theirs.to_vec(),
            };
            return Err(Refused::new(notify::TS_UNACCEPTABLE, refusal));
        };
        let selected = select_child(offer, &child.proposals, exchange);
        let chosen = selected.and_then(|s| spi_of(&s).map(|spi| (s, spi)));
        let Some((selected, outbound)) = chosen else {
            let refusal = Refusal::ProposalMismatch {
                subject: Subject::Child(child.name.clone()),
                theirs: describe(offer),
                ours: child.proposals.iter().map(ToString::to_string).collect(),
            };
            return Err(Refused::new(notify::NO_PROPOSAL_CHOSEN, refusal));
        };
        if let ChildExchange::OnItsOwn(group) = exchange {
            let wanted = selected.suite.kex.map(|kex| kex.id());
            if let Some(wanted) = wanted.filter(|&w| group != Some(w)) {
                // RFC 7296 1.3: "the responder MUST reject the request and indicate its preferred
                // Diffie-Hellman group in the INVALID_KE_PAYLOAD Notify payload"
                let notify = Payload::notify(notify::INVALID_KE_PAYLOAD, &wanted.to_be_bytes());
                return Err(Refused {
                    notify,
                    refusal: None,
                });
            }
        }
        let name = child.name.as_str().into();
        Ok(Self {
            name,
            selected,
            outbound,
            local_ts,
            remote_ts,
        })
    }

    /// Takes an SPI for it.
    pub(super) fn agree(&self, gw: &mut Gateway) -> Result<Agreed, Refused> {
        let inbound = gw
            .spis
            .allocate()
            .ok_or_else(|| Refused::new(notify::NO_ADDITIONAL_SAS, Refusal::NoSpi))?;
        Ok(Agreed {
            name: self.name.clone(),
            inbound,
            outbound: self.outbound,
            suite: self.selected.suite,
            local_ts: self.local_ts.clone(),
            remote_ts: self.remote_ts.clone(),
        })
    }

    /// The SA and TS payloads of our answer.
    pub(super) fn answer(&self, inbound: u32) -> [Payload; 3] {
        [
            Payload::SecurityAssociation(self.selected.answer(&inbound.to_be_bytes())),
            Payload::TsInitiator(self.remote_ts.clone()),
            Payload::TsResponder(self.local_ts.clone()),
        ]
    }
}

/// How a new child SA comes into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outbound {
    /// At once.
    Now,
    /// When the peer has shown that it holds it: by a packet, by deleting the old one, or, where it
    /// came with IKE_AUTH, by any message.
    WhenConfirmed,
    /// By a packet or a request, or after some patience: nothing else of the peer's has to follow.
    WhenConfirmedOrLate,
}

/// Where a new child SA comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coming {
    /// We are the initiator of this exchange.
    pub(super) we_started: bool,
    /// The child SA whose place it takes.
    pub(super) replaces: Option<u32>,
    pub(super) outbound: Outbound,
}

impl IkeSa {
    /// Puts an agreed child SA to use.
    pub(super) fn install(
        &self,
        gw: &mut Gateway,
        now: Instant,
        agreed: Agreed,
        keys: ChildKeys,
        coming: Coming,
    ) {
        let Coming {
            we_started,
            replaces,
            outbound,
        } = coming;
        let Some(peer) = &self.peer else { return };
        let lifetime = peer.child(&agreed.name).map(|child| child.lifetime);
        let (outbound_key, inbound_key) = if we_started {
            (keys.there, keys.back)
        } else {
            (keys.back, keys.there)
        };
        let floated = self.path.local.port() == NAT_T_PORT && self.nat.any();
        let encapsulation = floated.then(|| UdpPorts {
            local: self.path.local.port(),
            remote: self.path.remote.port(),
        });
        let sa = ChildSa {
            peer: peer.name.clone(),
            child: agreed.name.to_string(),
            inbound: agreed.inbound,
            outbound: agreed.outbound,
            esp: agreed.suite.esp,
            inbound_key,
            outbound_key,
            esn: agreed.suite.esn,
            local: self.path.local.ip(),
            remote: self.path.remote.ip(),
            encapsulation,
            local_ts: agreed.local_ts.clone(),
            remote_ts: agreed.remote_ts.clone(),
            replaces,
            use_outbound_now: outbound == Outbound::Now,
        };
        let late = outbound == Outbound::WhenConfirmedOrLate;
        let child = Child {
            peer: peer.name.as_str().into(),
            name: agreed.name,
            owner: Some(self.key),
            inbound: agreed.inbound,
            outbound: agreed.outbound,
            suite: Some(agreed.suite),
            remote: self.path.remote.ip(),
            encapsulation,
            local_ts: agreed.local_ts,
            remote_ts: agreed.remote_ts,
            state: ChildState::Live,
            selected: false,
            awaiting: false,
            rekeying: false,
            lost: false,
            shut: false,
            installed: now,
            rekey_at: lifetime.map(|lifetime| now + gw.jittered(lifetime)),
            end_at: lifetime.map(|lifetime| now + lifetime + lifetime / 10),
            select_at: late.then(|| now + gw.settings.outbound_patience),
        };
        gw.install_child(now, child, sa);
    }

    /// Deletes a child SA that was terminated while the peer made it.
    pub(super) fn install_shut(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        agreed: Agreed,
        keys: ChildKeys,
    ) {
        let inbound = agreed.inbound;
        let coming = Coming {
            we_started: true,
            replaces: None,
            outbound: Outbound::WhenConfirmed,
        };
        self.install(gw, now, agreed, keys, coming);
        gw.shut_child(inbound, RemovalReason::Terminated);
        self.enqueue(gw, Task::DeleteChild(inbound, RemovalReason::Terminated));
    }

    /// The child SA of this name that carries outbound traffic now.
    pub(super) fn selected_sibling(&self, gw: &Gateway, name: &Arc<str>) -> Option<u32> {
        let peer: Arc<str> = self.peer_name()?.into();
        let siblings = gw.children.of_name(&peer, name);
        siblings
            .into_iter()
            .find(|&i| gw.children.get(i).is_some_and(|c| c.selected))
    }

    /// Counts a refused child and tells the operator; gives what the peer is told.
    pub(super) fn refuse_child(&self, gw: &mut Gateway, refused: Refused) -> Payload {
        if let Payload::Notify(Notify { kind, .. }) = refused.notify {
            match kind {
                notify::NO_PROPOSAL_CHOSEN => gw.count(Counter::NoProposalChosen),
                notify::TS_UNACCEPTABLE => gw.count(Counter::SelectorsUnacceptable),
                _ => {}
            }
        }
        if let Some(refusal) = refused.refusal {
            self.refused(gw, *refusal);
        }
        refused.notify
    }
}
