//! What IKE_AUTH and CREATE_CHILD_SA have in common about child SAs (RFC 7296 1.2, 1.3, 2.9,
//! 2.17).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::init::NAT_T_PORT;
use super::{IkeSa, Nat, Task};
use crate::children::{Child, ChildState};
use crate::config::{ChildConfig, Mode, PeerConfig, Protection, WantedMode};
use crate::counters::Counter;
use crate::crypto::keys::ChildKeys;
use crate::error::{Refusal, RemovalReason, Subject};
use crate::event::{ChildSa, Original, UdpPorts};
use crate::gateway::Gateway;
use crate::negotiate::{
    ChildExchange, Selected, accepted_child, child_offer, describe, select_child, suites_for,
};
use crate::peers::selectors_of;
use crate::suite::ChildProposal;
use crate::wire::message::Payloads;
use crate::wire::notify;
use crate::wire::payload::{Notify, Payload};
use crate::wire::proposal::{Proposal, protocol};
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
        nat: Nat,
        given: &[IpAddr],
    ) -> Result<Option<Self>, Refusal> {
        let Some(mut config) = peer.child(name).cloned() else {
            return Ok(None);
        };
        if !given.is_empty() {
            config.local_ts = narrow(&selectors_of(given), &config.local_ts);
        }
        if nat.any() && is_of_ah(&config.proposals) {
            return Err(Refusal::AhThroughNat {
                child: name.to_owned(),
            });
        }
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

    /// The Protocol ID of all our proposals.
    pub(super) fn protocol(&self) -> u8 {
        let first = self.config.proposals.first();
        first.map_or(protocol::ESP, |suite| suite.protection.protocol())
    }

    /// RFC 7296 1.3.1: "The USE_TRANSPORT_MODE notification MAY be included in a request message that
    /// also includes an SA payload requesting a Child SA."
    pub(super) fn mode(&self) -> Option<Payload> {
        let transport = self.config.mode != WantedMode::Tunnel;
        transport.then(|| Payload::notify(notify::USE_TRANSPORT_MODE, &[]))
    }

    /// Why the child SA that the peer has made is none for us. "If the responder declines the
    /// request, the Child SA will be established in tunnel mode. If this is unacceptable to the
    /// initiator, the initiator MUST delete the SA."
    pub(super) fn mode_refused(&self, agreed: &Agreed) -> Option<Refusal> {
        let refused = self.config.mode == WantedMode::Transport && agreed.mode == Mode::Tunnel;
        refused.then(|| Refusal::TransportRefused {
            child: self.name.to_string(),
        })
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

    /// Has our side be the addresses that the peer has given us.
    pub(super) fn settle_in(&mut self, given: &[IpAddr]) {
        self.config.local_ts = narrow(&selectors_of(given), &self.config.local_ts);
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
        translation: Translation,
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
        // "the responder accepts by including a notification of type USE_TRANSPORT_MODE"
        let mode = match payloads.notify(notify::USE_TRANSPORT_MODE) {
            Some(_) if self.config.mode == WantedMode::Tunnel => {
                return Err(malformed("it wants a mode that was not asked for"));
            }
            Some(_) => Mode::Transport,
            None => Mode::Tunnel,
        };
        let mut local_ts = payloads.ts_initiator().unwrap_or_default().to_vec();
        let mut remote_ts = payloads.ts_responder().unwrap_or_default().to_vec();
        let original = match mode {
            Mode::Transport => translation.undo(&mut local_ts, &mut remote_ts),
            Mode::Tunnel => None,
        };
        // RFC 7296 2.9: the responder "narrows the Traffic Selectors to some subset of the
        // initiator's proposal (provided the set does not become the null set)"
        let narrowed = within(&local_ts, &self.config.local_ts)
            && within(&remote_ts, &self.config.remote_ts)
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
            mode,
            original,
            peer_takes_tfc_padding: takes_tfc_padding(payloads),
            local_ts,
            remote_ts,
        })
    }
}

/// Whether these are proposals of AH.
fn is_of_ah(suites: &[ChildProposal]) -> bool {
    suites
        .iter()
        .any(|suite| matches!(suite.protection, Protection::Ah(_)))
}

/// RFC 7296 1.3.1: "The ESP_TFC_PADDING_NOT_SUPPORTED notification asserts that the sending endpoint
/// will not accept packets that contain Traffic Flow Confidentiality (TFC) padding".
fn takes_tfc_padding(payloads: Payloads<'_>) -> bool {
    payloads
        .notify(notify::ESP_TFC_PADDING_NOT_SUPPORTED)
        .is_none()
}

/// What NATs do between the two ends of an IKE SA, and the addresses that are left of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    nat: Nat,
    local: IpAddr,
    remote: IpAddr,
}

impl Translation {
    /// Puts the addresses that we see in place of those that the peer sees, and gives the peer's.
    ///
    /// RFC 7296 2.23.1: "Store the original Traffic Selector IP addresses as received source and
    /// destination address (...) If the client is behind a NAT, substitute the IP address in the TSi
    /// entries with the remote address of the IKE SA. If the server is behind a NAT, substitute the
    /// IP address in the TSr entries with the local address of the IKE SA."
    fn undo(
        self,
        local_ts: &mut [TrafficSelector],
        remote_ts: &mut [TrafficSelector],
    ) -> Option<Original> {
        let (local, remote) = (local_ts.first()?.first, remote_ts.first()?.first);
        if !self.nat.any() {
            return None;
        }
        if self.nat.ours {
            substitute(local_ts, self.local);
        }
        if self.nat.theirs {
            substitute(remote_ts, self.remote);
        }
        Some(Original { local, remote })
    }
}

/// RFC 7296 2.23.1: "all TSi entries must use the IP1-IP1 range as the IP addresses": others are left
/// as they are, and match nothing of ours.
fn substitute(selectors: &mut [TrafficSelector], address: IpAddr) {
    let one = selectors.first().map(|selector| selector.first);
    for selector in selectors
        .iter_mut()
        .filter(|selector| Some(selector.first) == one && Some(selector.last) == one)
    {
        (selector.first, selector.last) = (address, address);
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
    mode: Mode,
    original: Option<Original>,
    peer_takes_tfc_padding: bool,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
}

/// What we grant to the peer's request for a child, before there is an SPI for it.
pub(super) struct Grant {
    name: Arc<str>,
    pub(super) selected: Selected<ChildProposal>,
    outbound: u32,
    mode: Mode,
    original: Option<Original>,
    peer_takes_tfc_padding: bool,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
}

/// What a child and the peer's selectors have in common.
struct Match<'c> {
    child: &'c ChildConfig,
    original: Option<Original>,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
    /// They are the same.
    exact: bool,
}

impl<'c> Match<'c> {
    fn of(
        child: &'c ChildConfig,
        original: Option<Original>,
        ours: &[TrafficSelector],
        theirs: &[TrafficSelector],
    ) -> Option<Self> {
        let local_ts = narrow(ours, &child.local_ts);
        let remote_ts = narrow(theirs, &child.remote_ts);
        let exact = within(ours, &local_ts)
            && within(theirs, &remote_ts)
            && within(&child.local_ts, &local_ts)
            && within(&child.remote_ts, &remote_ts);
        let some = !local_ts.is_empty() && !remote_ts.is_empty();
        some.then_some(Self {
            child,
            original,
            local_ts,
            remote_ts,
            exact,
        })
    }

    /// The first that is exact, else the first.
    fn best(matches: impl Iterator<Item = Self>) -> Option<Self> {
        let mut first = None;
        for found in matches {
            if found.exact {
                return Some(found);
            }
            first.get_or_insert(found);
        }
        first
    }
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
        translation: Translation,
    ) -> Result<Self, Refused> {
        let offer: &[Proposal] = payloads.proposals().unwrap_or_default();
        let theirs = payloads.ts_initiator().unwrap_or_default();
        let ours = payloads.ts_responder().unwrap_or_default();
        let candidates = || {
            let children = peer.children.iter();
            children.filter(|c| rekeys.is_none_or(|name| name == c.name))
        };
        // RFC 7296 2.23.1: "the server should first check that the initiator requested transport
        // mode, and then do address substitution on the Traffic Selectors."
        let transport = payloads.notify(notify::USE_TRANSPORT_MODE).and_then(|_| {
            let (mut ours, mut theirs) = (ours.to_vec(), theirs.to_vec());
            let original = translation.undo(&mut ours, &mut theirs);
            let wanted = candidates().filter(|c| c.mode != WantedMode::Tunnel);
            Match::best(wanted.filter_map(|c| Match::of(c, original, &ours, &theirs)))
        });
        // "If no SPD entry was found, or (if found) the SPD entry does not allow transport mode, undo
        // the Traffic Selector substitutions."
        let (mode, found) = match transport {
            Some(found) => (Mode::Transport, Some(found)),
            None => {
                let all = candidates().filter_map(|c| Match::of(c, None, ours, theirs));
                (Mode::Tunnel, Match::best(all))
            }
        };
        let Some(found) = found else {
            let refusal = Refusal::SelectorMismatch {
                local: ours.to_vec(),
                remote: theirs.to_vec(),
            };
            return Err(Refused::new(notify::TS_UNACCEPTABLE, refusal));
        };
        let child = found.child;
        if mode == Mode::Tunnel && child.mode == WantedMode::Transport {
            let refusal = Refusal::TransportRefused {
                child: child.name.clone(),
            };
            return Err(Refused::new(notify::NO_PROPOSAL_CHOSEN, refusal));
        }
        if translation.nat.any() && is_of_ah(&child.proposals) {
            let refusal = Refusal::AhThroughNat {
                child: child.name.clone(),
            };
            return Err(Refused::new(notify::NO_PROPOSAL_CHOSEN, refusal));
        }
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
            mode,
            original: found.original,
            peer_takes_tfc_padding: takes_tfc_padding(payloads),
            local_ts: found.local_ts,
            remote_ts: found.remote_ts,
        })
    }

    /// The answer to a request for transport mode that is granted.
    pub(super) fn mode(&self) -> Option<Payload> {
        let transport = self.mode == Mode::Transport;
        transport.then(|| Payload::notify(notify::USE_TRANSPORT_MODE, &[]))
    }

    /// Takes an SPI for it.
    pub(super) fn agree(&self, gw: &mut Gateway, peer: &PeerConfig) -> Result<Agreed, Refused> {
        let instance = gw.peers.get(&peer.name);
        if instance.is_some_and(|one| one.config.pool.is_some() && one.leased.is_empty()) {
            // RFC 7296 3.10.1, FAILED_CP_REQUIRED: "Sent by responder in the case where CP(CFG_REQUEST) was expected
            // but not received"
            let refusal = Refusal::NoAddressWanted {
                child: self.name.to_string(),
            };
            return Err(Refused::new(notify::FAILED_CP_REQUIRED, refusal));
        }
        let template = instance.and_then(|instance| instance.template.as_ref());
        let taken = template.and_then(|template| {
            let child = (template, &self.name);
            gw.children.claimed(child, &peer.name, &self.remote_ts)
        });
        if let Some(by) = taken {
            let refusal = Refusal::SelectorsTaken {
                child: self.name.to_string(),
                remote: self.remote_ts.clone(),
                by: by.to_string(),
            };
            return Err(Refused::new(notify::TS_UNACCEPTABLE, refusal));
        }
        let inbound = gw
            .spis
            .allocate()
            .ok_or_else(|| Refused::new(notify::NO_ADDITIONAL_SAS, Refusal::NoSpi))?;
        Ok(Agreed {
            name: self.name.clone(),
            inbound,
            outbound: self.outbound,
            suite: self.selected.suite,
            mode: self.mode,
            original: self.original,
            peer_takes_tfc_padding: self.peer_takes_tfc_padding,
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
        let instance = gw.peers.get(&peer.name);
        let is_instance = instance.is_some_and(|instance| instance.template.is_some());
        let sa = ChildSa {
            peer: peer.name.to_string(),
            identity: is_instance.then(|| peer.remote_id.clone()),
            child: agreed.name.to_string(),
            inbound: agreed.inbound,
            outbound: agreed.outbound,
            protection: agreed.suite.protection,
            inbound_key,
            outbound_key,
            esn: agreed.suite.esn,
            mode: agreed.mode,
            original: agreed.original,
            peer_takes_tfc_padding: agreed.peer_takes_tfc_padding,
            local: self.path.local.ip(),
            remote: self.path.remote.ip(),
            encapsulation,
            follow: encapsulation.is_some() && self.nat.theirs_alone(),
            local_ts: agreed.local_ts.clone(),
            remote_ts: agreed.remote_ts.clone(),
            replaces,
            use_outbound_now: outbound == Outbound::Now,
        };
        let late = outbound == Outbound::WhenConfirmedOrLate;
        let child = Child {
            peer: peer.name.clone(),
            name: agreed.name,
            owner: Some(self.key),
            inbound: agreed.inbound,
            outbound: agreed.outbound,
            suite: Some(agreed.suite),
            mode: agreed.mode,
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

    /// What NATs do on the way to the peer.
    pub(super) fn translation(&self) -> Translation {
        Translation {
            nat: self.nat,
            local: self.path.local.ip(),
            remote: self.path.remote.ip(),
        }
    }

    /// Deletes a child SA that was terminated while the peer made it, or that is not as it should be.
    pub(super) fn install_shut(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        agreed: Agreed,
        keys: ChildKeys,
        reason: RemovalReason,
    ) {
        let inbound = agreed.inbound;
        let coming = Coming {
            we_started: true,
            replaces: None,
            outbound: Outbound::WhenConfirmed,
        };
        self.install(gw, now, agreed, keys, coming);
        gw.shut_child(inbound, reason.clone());
        self.enqueue(gw, Task::DeleteChild(inbound, reason));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_says_so_gets_no_padding() {
        let said = [Payload::notify(notify::ESP_TFC_PADDING_NOT_SUPPORTED, &[])];
        assert!(!takes_tfc_padding(Payloads(&said)));
        let other = [Payload::notify(notify::USE_TRANSPORT_MODE, &[])];
        assert!(takes_tfc_padding(Payloads(&other)));
    }
}
