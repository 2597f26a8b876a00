//! One IKE SA: its states, its two message windows and what it has to do next.

mod auth;
mod child;
mod create_child;
mod eap;
mod exchange;
mod follow;
mod followup;
mod fragments;
mod informational;
mod init;
mod intermediate;
mod proof;
mod rekey;
mod timers;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::config::PeerConfig;
use crate::counters::Counter;
use crate::crypto::keys::IkeKeys;
use crate::error::{CloseReason, RemovalReason};
use crate::event::{Event, IkeSaView, Path};
use crate::gateway::{Gateway, SaKey, Signal};
use crate::suite::{IkeProposal, KeyExchangeMethod};
use crate::wire::Malformed;
use crate::wire::header::ExchangeType;
use crate::wire::message::{Message, Payloads};
use crate::wire::notify;
use crate::wire::payload::Payload;

pub(crate) use init::{InitReply, answer_init};

use eap::{Calling, Serving};
use exchange::{Exchange, Pending};
use followup::PeerFollowup;
use fragments::{Opened, Reassembly};
use intermediate::IntAuth;

/// What an IKE SA is doing.
pub(crate) enum State {
    /// Our IKE_SA_INIT request is out.
    Initiating,
    /// Its peer has our IKE_SA_INIT response and is to send IKE_AUTH.
    HalfOpen(Box<Proof>),
    /// Our IKE_AUTH request is out.
    Authenticating(Box<Proof>),
    /// It stands.
    Established,
    /// Another has its place; the peer is to delete it.
    Superseded,
    /// Our DELETE is out.
    Closing(CloseReason),
    /// At its end; it only repeats its last response.
    Quiet,
    /// Gone.
    Closed,
}

impl State {
    const fn name(&self) -> &'static str {
        match self {
            Self::Initiating => "connecting",
            Self::HalfOpen(_) => "half-open",
            Self::Authenticating(_) => "authenticating",
            Self::Established => "established",
            Self::Superseded => "superseded",
            Self::Closing(_) => "deleting",
            Self::Quiet | Self::Closed => "closed",
        }
    }
}

/// What both ends prove in IKE_AUTH: the first two messages and their nonces.
#[derive(Default)]
pub(crate) struct Proof {
    message_i: Vec<u8>,
    message_r: Vec<u8>,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    /// The additional key exchanges that are to come before IKE_AUTH.
    additional: VecDeque<KeyExchangeMethod>,
    int_auth: IntAuth,
    /// The message ID of IKE_AUTH.
    auth_id: u32,
    /// The hashes with which we may sign for the peer (RFC 7427 4).
    hashes: Vec<u16>,
    /// The peer authenticates by EAP.
    serving: Option<Box<Serving>>,
    /// We do.
    calling: Option<Box<Calling>>,
}

/// How IKE_SA_INIT went; for two IKE SAs that came of a simultaneous start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    /// Whether we called.
    pub(crate) called: bool,
    /// The lower of its nonces.
    pub(crate) lowest_nonce: Vec<u8>,
}

/// On which sides there is a NAT, or is pretended to be one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    pub(crate) ours: bool,
    pub(crate) theirs: bool,
}

impl Nat {
    const fn any(self) -> bool {
        self.ours || self.theirs
    }

    /// Whether the peer is to be followed. RFC 7296 2.23: "A host behind a NAT SHOULD NOT do this type
    /// of dynamic address update if a validated packet has different port and/or address values because
    /// it opens a possible DoS attack".
    const fn theirs_alone(self) -> bool {
        self.theirs && !self.ours
    }
}

/// An exchange that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Make a child SA.
    NewChild(Arc<str>),
    /// Put a new child SA into the place of this one.
    RekeyChild(u32),
    /// Put a new IKE SA into the place of this one.
    RekeyIke,
    /// Delete a child SA.
    DeleteChild(u32, RemovalReason),
    /// Delete this IKE SA.
    DeleteIke(CloseReason),
    /// Ask whether the peer lives.
    Liveness,
}

impl Task {
    /// Whether it waits when the peer asked for patience (TEMPORARY_FAILURE).
    const fn is_patient(&self) -> bool {
        matches!(
            self,
            Self::NewChild(_) | Self::RekeyChild(_) | Self::RekeyIke
        )
    }
}

/// One IKE SA.
pub(crate) struct IkeSa {
    pub(crate) key: SaKey,
    /// The peer; a responder knows it from IKE_AUTH on.
    pub(crate) peer: Option<Arc<PeerConfig>>,
    /// Whether we are the original initiator.
    pub(crate) initiator: bool,
    pub(crate) local_spi: u64,
    pub(crate) remote_spi: u64,
    pub(crate) path: Path,
    pub(crate) state: State,
    nat: Nat,
    keys: Option<IkeKeys>,
    /// The keys before the last IKE_INTERMEDIATE, until the peer has shown that it has our answer.
    previous: Option<Box<IkeKeys>>,
    /// The message ID of our next request.
    request_id: u32,
    pending: Option<Pending>,
    /// The message ID of the peer's next request.
    expected_id: u32,
    /// Our response to the peer's last request.
    cached: Option<Vec<Vec<u8>>>,
    /// Both sides know fragments (RFC 7383 2.3).
    fragmentation: bool,
    /// Octets of the longest fragment of the peer's.
    longest_fragment: usize,
    /// The further key exchanges of a CREATE_CHILD_SA exchange of the peer's.
    followup: Option<Box<PeerFollowup>>,
    /// A request and a response of the peer's of which fragments are missing.
    request_parts: Option<Box<Reassembly>>,
    response_parts: Option<Box<Reassembly>>,
    tasks: VecDeque<Task>,
    /// Until when patient tasks wait, and how often in a row they had to.
    hold_until: Option<Instant>,
    holds: u32,
    /// The lower of the nonces that made it, for crossing rekeys.
    lowest_nonce: Vec<u8>,
    /// Of the first IKE SA of which it is a rekey, or of itself.
    pub(crate) origin: Origin,
    pub(crate) established: Option<Instant>,
    rekey_at: Option<Instant>,
    end_at: Option<Instant>,
    /// When the peer last sent something authentic.
    heard: Instant,
    keepalive_at: Option<Instant>,
    /// The IKE SA whose place it takes, while that one has a rekey of its own under way.
    heir_of: Option<SaKey>,
    /// Another IKE SA with this peer has come up: does this one still live?
    pub(crate) doubted: bool,
    /// The younger IKE SA by which the peer has shown that it lives, while this one is in doubt.
    supplanted_by: Option<SaKey>,
    /// The addresses that the peer has given us (RFC 7296 2.19).
    given: Vec<IpAddr>,
    /// The peer has shown that it holds this one: its maker does so by the last message of the
    /// handshake, who answered by any later one.
    pub(crate) proven: bool,
}

impl IkeSa {
    fn new(key: SaKey, initiator: bool, local_spi: u64, path: Path, now: Instant) -> Self {
        Self {
            key,
            peer: None,
            initiator,
            local_spi,
            remote_spi: 0,
            path,
            state: State::Initiating,
            nat: Nat::default(),
            keys: None,
            previous: None,
            request_id: 0,
            pending: None,
            expected_id: 0,
            cached: None,
            fragmentation: false,
            longest_fragment: 0,
            followup: None,
            request_parts: None,
            response_parts: None,
            tasks: VecDeque::new(),
            hold_until: None,
            holds: 0,
            lowest_nonce: Vec::new(),
            origin: Origin::default(),
            established: None,
            rekey_at: None,
            end_at: None,
            heard: now,
            keepalive_at: None,
            heir_of: None,
            doubted: false,
            supplanted_by: None,
            given: Vec::new(),
            proven: initiator,
        }
    }

    pub(crate) fn peer_name(&self) -> Option<&str> {
        self.peer.as_ref().map(|peer| &*peer.name)
    }

    pub(crate) const fn is_established(&self) -> bool {
        matches!(self.state, State::Established)
    }

    pub(crate) const fn is_half_open(&self) -> bool {
        matches!(self.state, State::HalfOpen(_))
    }

    /// Whether we are bringing it up.
    pub(crate) const fn is_connecting(&self) -> bool {
        matches!(self.state, State::Initiating | State::Authenticating(_))
    }

    /// Whether it is at its end and holds nothing any more.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.state, State::Quiet | State::Closed)
    }

    pub(crate) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Why it is to be deleted, as soon as the request before has been answered.
    fn leaving(&self) -> Option<&CloseReason> {
        self.tasks.iter().find_map(|task| match task {
            Task::DeleteIke(reason) => Some(reason),
            _ => None,
        })
    }

    /// Whether it is to be deleted, and is of no use for anything else.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving().is_some()
    }

    fn suite(&self) -> Option<IkeProposal> {
        self.keys.as_ref().map(|keys| keys.suite)
    }

    /// Queues a task unless the same is queued or under way already; `false` when the queue is full.
    pub(crate) fn enqueue(&mut self, gw: &Gateway, task: Task) -> bool {
        if self.tasks.contains(&task) {
            return true;
        }
        if let Task::DeleteIke(_) = task {
            self.tasks.clear();
        } else if self.tasks.len() >= gw.settings.task_limit {
            return false;
        }
        match task {
            // What makes room, or ends a make-before-break, goes first.
            Task::DeleteChild(..) => self.tasks.push_front(task),
            _ => self.tasks.push_back(task),
        }
        true
    }

    /// Whether this child is being made or waits to be.
    pub(crate) fn is_making(&self, name: &str) -> bool {
        self.tasks
            .iter()
            .any(|task| matches!(task, Task::NewChild(child) if &**child == name))
            || self
                .pending
                .as_ref()
                .is_some_and(|pending| pending.exchange.is_making(name))
    }

    /// Forgets the wish for a child; one that has been asked for is deleted when it comes.
    pub(crate) fn unwish(&mut self, name: &str) {
        self.tasks
            .retain(|task| !matches!(task, Task::NewChild(child) if &**child == name));
        let offer = self.pending.as_mut().and_then(|p| p.exchange.offer());
        if let Some(offer) = offer.filter(|offer| *offer.name == *name) {
            offer.unwanted = true;
        }
    }

    /// The peer lives and uses a younger IKE SA, while this one is in doubt.
    pub(crate) fn supplanted(&mut self, gw: &Gateway, now: Instant, by: SaKey) {
        let before = self.supplanted_by.replace(by);
        if !before.is_some_and(|before| gw.standing.contains(&before)) {
            self.hasten(gw, now);
        }
    }

    /// Starts what is next, while no request of ours is outstanding: our window is 1.
    pub(crate) fn run_tasks(&mut self, gw: &mut Gateway, now: Instant) {
        while self.pending.is_none() && self.is_established() {
            let held = self.hold_until.is_some_and(|until| until > now);
            let next = self
                .tasks
                .iter()
                .position(|task| !held || !task.is_patient());
            let Some(task) = next.and_then(|at| self.tasks.remove(at)) else {
                break;
            };
            self.start_task(gw, now, task);
        }
    }

    fn start_task(&mut self, gw: &mut Gateway, now: Instant, task: Task) {
        match task {
            Task::NewChild(name) => self.start_new_child(gw, now, &name),
            Task::RekeyChild(inbound) => self.start_rekey_child(gw, now, inbound),
            Task::RekeyIke => self.start_rekey_ike(gw, now),
            Task::DeleteChild(inbound, reason) => self.start_delete_child(gw, now, inbound, reason),
            Task::DeleteIke(reason) => self.start_delete_ike(gw, now, reason, &[]),
            Task::Liveness => self.request(
                gw,
                now,
                ExchangeType::Informational,
                &[],
                Exchange::Liveness,
            ),
        }
    }

    /// Takes a message that came for this IKE SA.
    pub(crate) fn handle(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        datagram: &[u8],
        message: &Message,
    ) {
        let header = message.header;
        if header.initiator == self.initiator {
            return gw.count(Counter::Unexpected);
        }
        let Some(encrypted) = message.encrypted else {
            return self.handle_unprotected(gw, now, path, datagram, message);
        };
        let opened = if let Some(fragment) = encrypted.fragment {
            let parts = (encrypted, fragment);
            match self.take_fragment(gw, now, path, datagram, message, parts) {
                Some(opened) => opened,
                None => return,
            }
        } else {
            match self.open(datagram, message, encrypted) {
                Some(opened) => opened,
                None => return gw.count(Counter::NotAuthentic),
            }
        };
        if header.response {
            self.handle_response(gw, now, path, message, &opened);
        } else {
            self.handle_request(gw, now, path, message, &opened);
        }
    }

    fn handle_unprotected(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        datagram: &[u8],
        message: &Message,
    ) {
        let header = message.header;
        match self.state {
            State::Initiating if header.response && header.exchange == ExchangeType::IkeSaInit => {
                self.handle_init_response(gw, now, path, datagram, message);
            }
            // RFC 7296 2.21.4: "A node should treat such a message (...) as a hint that there
            // might be problems with SAs to that IP address and should initiate a liveness check
            // for any such IKE SA."
            State::Established if Payloads(&message.payloads).error().is_some() => {
                if self.pending.is_none() && gw.admit_stranger(now) {
                    self.enqueue(gw, Task::Liveness);
                }
            }
            _ => gw.count(Counter::Unexpected),
        }
    }

    fn handle_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        message: &Message,
        opened: &Opened,
    ) {
        let (id, exchange) = (message.header.message_id, message.header.exchange);
        if id.wrapping_add(1) == self.expected_id {
            // RFC 7296 2.1: "the responder MUST remember each response until it receives a
            // request whose sequence number is larger than or equal to the sequence number in the
            // response plus its window size"
            return self.repeat_response(gw, path);
        }
        if id != self.expected_id || self.is_over() {
            return gw.count(Counter::MessageIdWindow);
        }
        self.heard = now;
        self.follow(gw, now, path);
        // It has our answer, and shows that it has the keys that came of it.
        self.previous = None;
        let payloads = match opened.payloads() {
            Ok(payloads) => payloads,
            Err(malformed) => return self.refuse_malformed(gw, now, path, exchange, malformed),
        };
        let heir_of = self.heir_of.take();
        if let Some(old) = heir_of.filter(|_| !payloads.contains(&Payload::DeleteIke)) {
            // The peer does business here: for it the old IKE SA is done with, whatever becomes of
            // our own rekey.
            gw.children.inherit(old, self.key);
        }
        match (exchange, &self.state) {
            (ExchangeType::IkeIntermediate, State::HalfOpen(_)) => {
                self.path = path;
                self.handle_intermediate_request(gw, now, path, opened, Payloads(&payloads));
            }
            // Before the last key exchange that was agreed on, it would be a downgrade.
            (ExchangeType::IkeAuth, State::HalfOpen(proof)) if proof.additional.is_empty() => {
                self.path = path;
                self.handle_auth_request(gw, now, path, &payloads);
            }
            // RFC 7296 2.25.2: what a queued DELETE closes is not changed any more.
            (ExchangeType::CreateChildSa | ExchangeType::IkeFollowupKe, State::Established)
                if self.is_leaving() =>
            {
                self.put_off(gw, path, exchange);
            }
            (ExchangeType::CreateChildSa, State::Established) => {
                self.confirm_children(gw, now);
                self.abandon_followup(gw);
                self.handle_create_child_request(gw, now, path, &payloads);
            }
            (ExchangeType::IkeFollowupKe, State::Established) => {
                self.handle_followup_request(gw, now, path, Payloads(&payloads));
            }
            // RFC 7296 2.25: requests to create or rekey on an IKE SA that is being closed or has
            // been replaced
            (
                ExchangeType::CreateChildSa | ExchangeType::IkeFollowupKe,
                State::Superseded | State::Closing(_),
            ) => {
                self.put_off(gw, path, exchange);
            }
            (
                ExchangeType::Informational,
                State::Established | State::Superseded | State::Closing(_),
            ) => {
                self.confirm_children(gw, now);
                self.handle_informational_request(gw, now, path, &payloads);
            }
            // What comes too early is not answered, so that the peer sends it again.
            _ => gw.count(Counter::Unexpected),
        }
    }

    /// Sends the response to the peer's last request again.
    fn repeat_response(&self, gw: &mut Gateway, path: Path) {
        if let Some(response) = &self.cached {
            gw.count(Counter::ResponseResent);
            self.transmit(gw, path, response);
        }
    }

    fn refuse_malformed(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        exchange: ExchangeType,
        malformed: Malformed,
    ) {
        gw.count(Counter::InvalidSyntax);
        if let Malformed::UnknownCritical(kind) = malformed {
            // RFC 7296 2.5: "the response to the IKE request containing that payload MUST include
            // a Notify payload UNSUPPORTED_CRITICAL_PAYLOAD"
            let refusal = Payload::notify(notify::UNSUPPORTED_CRITICAL_PAYLOAD, &[kind]);
            return self.respond(gw, path, exchange, &[refusal]);
        }
        // RFC 7296 2.21.3: an authenticated request that makes no sense ends the IKE SA
        self.respond(
            gw,
            path,
            exchange,
            &[Payload::notify(notify::INVALID_SYNTAX, &[])],
        );
        self.finish(
            gw,
            now,
            CloseReason::ProtocolError {
                what: malformed.what(),
            },
        );
    }

    /// RFC 7296 2.25: "A TEMPORARY_FAILURE notification SHOULD be sent when a peer receives a
    /// request that cannot be completed due to a temporary condition".
    fn put_off(&mut self, gw: &mut Gateway, path: Path, exchange: ExchangeType) {
        gw.count(Counter::TemporaryFailure);
        let refusal = Payload::notify(notify::TEMPORARY_FAILURE, &[]);
        self.respond(gw, path, exchange, &[refusal]);
    }

    /// A new request shows that the peer has got our last response, and with it the child SA that
    /// it made without a rekey. One that it made by a rekey, it may be about to delete: it may have
    /// crossed with one of ours.
    fn confirm_children(&mut self, gw: &mut Gateway, now: Instant) {
        self.prove(gw, now);
        let is_fresh = |inbound: &u32| {
            let child = gw.children.get(*inbound);
            child.is_some_and(|child| child.select_at.is_some())
        };
        let mut fresh = gw.children.of_owner(self.key);
        fresh.retain(is_fresh);
        for inbound in fresh {
            gw.child_confirmed(now, inbound);
        }
    }

    /// The peer has shown by a message of its own that it holds this IKE SA. An initiator answers
    /// nothing before it has our IKE_AUTH response, so it holds the child SA of that too.
    fn prove(&mut self, gw: &mut Gateway, now: Instant) {
        if !self.proven && self.is_established() {
            self.proven = true;
            gw.signals.push_back(Signal::Proven(self.key));
            for inbound in gw.children.of_owner(self.key) {
                gw.child_confirmed(now, inbound);
            }
        }
    }

    /// It is authenticated.
    fn establish(&mut self, gw: &mut Gateway, now: Instant, rekeyed: bool) {
        let Some(peer) = self.peer.clone() else {
            return;
        };
        self.state = State::Established;
        self.proven |= rekeyed;
        gw.standing.insert(self.key);
        gw.note_standing(self);
        self.established = Some(now);
        self.rekey_at = Some(now + gw.jittered(peer.ike_lifetime));
        self.end_at = Some(now + peer.ike_lifetime + peer.ike_lifetime / 10);
        if self.nat.ours {
            self.keepalive_at = Some(now + gw.settings.nat_keepalive);
        }
        gw.events.push_back(Event::IkeEstablished {
            peer: peer.name.to_string(),
            initiator: self.initiator,
            path: self.path,
            suite: self
                .suite()
                .map(|suite| suite.to_string())
                .unwrap_or_default(),
            rekeyed,
        });
        if !rekeyed {
            self.origin = Origin {
                called: self.initiator,
                lowest_nonce: self.lowest_nonce.clone(),
            };
            gw.signals.push_back(Signal::Established(self.key));
        }
    }

    /// It comes to its end: its children go with it.
    pub(crate) fn finish(&mut self, gw: &mut Gateway, now: Instant, reason: CloseReason) {
        if self.is_over() {
            return;
        }
        for inbound in gw.children.of_owner(self.key) {
            gw.remove_child(now, inbound, RemovalReason::IkeClosed(reason.clone()));
        }
        if let Some(pending) = self.pending.take() {
            pending.exchange.abandon(gw);
        }
        (self.request_parts, self.response_parts) = (None, None);
        self.abandon_followup(gw);
        gw.standing.remove(&self.key);
        gw.forget_standing(self);
        self.tasks.clear();
        if let (Some(peer), Some(_)) = (self.peer_name(), self.established) {
            let peer = peer.to_owned();
            gw.events.push_back(Event::IkeClosed {
                peer,
                reason: reason.clone(),
            });
        }
        if let Some(peer) = self.peer_name() {
            gw.signals
                .push_back(Signal::Closed(self.key, peer.to_owned(), reason));
        }
        let repeats = self.cached.is_some();
        self.state = if repeats { State::Quiet } else { State::Closed };
        (self.rekey_at, self.keepalive_at) = (None, None);
        self.end_at = Some(now + gw.settings.half_open_timeout);
    }

    pub(crate) fn view(&self, gw: &Gateway) -> IkeSaView {
        let theirs = self.peer.as_ref().map(|peer| &peer.remote_id);
        IkeSaView {
            peer: self.peer_name().map(str::to_owned),
            identity: theirs.filter(|id| !id.is_pattern()).cloned(),
            state: self.state.name(),
            initiator: self.initiator,
            local_spi: self.local_spi,
            remote_spi: self.remote_spi,
            path: self.path,
            suite: self.suite().map(|suite| suite.to_string()),
            behind_nat: self.nat.ours,
            peer_behind_nat: self.nat.theirs,
            established: self.established,
            rekey_at: self.rekey_at,
            children: gw.children.of_owner(self.key).len(),
            addresses: if self.given.is_empty() {
                let peer = self.peer_name().and_then(|name| gw.peers.get(name));
                let instance = peer.filter(|peer| peer.template.is_some());
                instance.map(|peer| peer.leased.clone()).unwrap_or_default()
            } else {
                self.given.clone()
            },
            outstanding: self.pending.as_ref().map(Pending::outstanding),
        }
    }
}
