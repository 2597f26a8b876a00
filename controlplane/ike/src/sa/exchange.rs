//! Requests and responses of one IKE SA: message IDs, the window of 1, retransmission with
//! backoff, the cached response (RFC 7296 2.1 to 2.4).

use std::time::{Duration, Instant};

use super::child::ChildOffer;
use super::create_child::ChildRequest;
use super::fragments::Opened;
use super::init::InitRequest;
use super::rekey::RekeyRequest;
use super::{IkeSa, State};
use crate::counters::Counter;
use crate::error::{CloseReason, Refusal, RemovalReason};
use crate::event::{Outstanding, Path};
use crate::gateway::Gateway;
use crate::provider::KeyExchange;
use crate::wire::header::{ExchangeType, Header, VERSION};
use crate::wire::message::{Message, Payloads};
use crate::wire::payload::Payload;

/// What our outstanding request is about.
pub(super) enum Exchange {
    Init(Box<InitRequest>),
    Intermediate(Box<dyn KeyExchange>),
    Auth(Option<ChildOffer>),
    Child(Box<ChildRequest>),
    RekeyIke(Box<RekeyRequest>),
    DeleteChild { inbound: u32, reason: RemovalReason },
    DeleteIke(CloseReason),
    Liveness,
}

impl Exchange {
    /// Gives back what it had taken.
    pub(super) fn abandon(self, gw: &mut Gateway) {
        match self {
            Self::Auth(Some(offer)) => gw.spis.release(offer.inbound),
            Self::Child(request) => gw.spis.release(request.offer.inbound),
            _ => {}
        }
    }

    /// The child that it is to make, unless that is not wanted any more.
    pub(super) fn offer(&mut self) -> Option<&mut ChildOffer> {
        let offer = match self {
            Self::Auth(Some(offer)) => offer,
            Self::Child(request) => &mut request.offer,
            _ => return None,
        };
        (!offer.unwanted).then_some(offer)
    }

    pub(super) fn is_making(&self, name: &str) -> bool {
        let offer = match self {
            Self::Auth(Some(offer)) => offer,
            Self::Child(request) => &request.offer,
            _ => return false,
        };
        *offer.name == *name && !offer.unwanted
    }
}

/// A request that waits for its response.
pub(super) struct Pending {
    pub(super) exchange: Exchange,
    kind: ExchangeType,
    id: u32,
    pub(super) datagrams: Vec<Vec<u8>>,
    transmissions: u32,
    first: Instant,
    interval: Duration,
    next: Instant,
}

impl Pending {
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    pub(super) const fn outstanding(&self) -> Outstanding {
        Outstanding {
            transmissions: self.transmissions,
            since: self.first,
        }
    }
}

impl IkeSa {
    pub(super) const fn header(&self, kind: ExchangeType, response: bool, id: u32) -> Header {
        let (initiator_spi, responder_spi) = if self.initiator {
            (self.local_spi, self.remote_spi)
        } else {
            (self.remote_spi, self.local_spi)
        };
        Header {
            initiator_spi,
            responder_spi,
            next_payload: 0,
            version: VERSION,
            exchange: kind,
            initiator: self.initiator,
            response,
            higher_version: false,
            message_id: id,
        }
    }

    fn seal(
        &mut self,
        gw: &mut Gateway,
        header: Header,
        payloads: &[Payload],
    ) -> Option<Vec<Vec<u8>>> {
        let limit = self.fragment_limit();
        let keys = self.keys.as_mut()?;
        keys.seal(header, payloads, limit, &mut gw.rng).ok()
    }

    /// Sends the datagrams of one message.
    pub(super) fn transmit(&self, gw: &mut Gateway, path: Path, datagrams: &[Vec<u8>]) {
        if datagrams.len() > 1 {
            datagrams
                .iter()
                .for_each(|_| gw.count(Counter::FragmentSent));
        }
        gw.transmit_all(path, datagrams);
    }

    /// The message ID of our next request.
    pub(super) const fn next_request_id(&self) -> u32 {
        self.request_id
    }

    /// Sends a protected request.
    pub(super) fn request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        kind: ExchangeType,
        payloads: &[Payload],
        exchange: Exchange,
    ) {
        let header = self.header(kind, false, self.request_id);
        match self.seal(gw, header, payloads) {
            Some(datagrams) => self.send_request(gw, now, kind, datagrams, exchange),
            None => {
                exchange.abandon(gw);
                self.finish(gw, now, CloseReason::ProtocolError { what: "no keys" });
            }
        }
    }

    /// Sends DELETE for this IKE SA once, with the message ID after the outstanding request's.
    pub(super) fn send_last_delete(&mut self, gw: &mut Gateway) {
        let id = self.request_id.wrapping_add(1);
        let header = self.header(ExchangeType::Informational, false, id);
        if let Some(datagrams) = self.seal(gw, header, &[Payload::DeleteIke]) {
            self.transmit(gw, self.path, &datagrams);
        }
    }

    /// Sends a request whose octets are ready, and again until its response comes.
    pub(super) fn send_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        kind: ExchangeType,
        datagrams: Vec<Vec<u8>>,
        exchange: Exchange,
    ) {
        let interval = gw.settings.retransmit_initial;
        self.transmit(gw, self.path, &datagrams);
        self.response_parts = None;
        self.pending = Some(Pending {
            exchange,
            kind,
            id: self.request_id,
            datagrams,
            transmissions: 1,
            first: now,
            interval,
            next: now + gw.jittered(interval),
        });
    }

    /// Sends the response to the request that is expected now, and keeps it.
    pub(super) fn respond(
        &mut self,
        gw: &mut Gateway,
        path: Path,
        kind: ExchangeType,
        payloads: &[Payload],
    ) {
        let header = self.header(kind, true, self.expected_id);
        if let Some(datagrams) = self.seal(gw, header, payloads) {
            self.expected_id = self.expected_id.wrapping_add(1);
            self.transmit(gw, path, &datagrams);
            self.cached = Some(datagrams);
        }
    }

    /// Keeps a response that was made elsewhere.
    pub(super) fn responded(&mut self, datagram: Vec<u8>) {
        self.expected_id = self.expected_id.wrapping_add(1);
        self.cached = Some(vec![datagram]);
    }

    /// Sends the outstanding request again, or gives the peer up.
    pub(super) fn retransmit(&mut self, gw: &mut Gateway, now: Instant) {
        let (limit, max) = (self.patience(gw), gw.settings.retransmit_max);
        let Some(pending) = self.pending.as_mut().filter(|pending| pending.next <= now) else {
            return;
        };
        if pending.transmissions >= limit {
            return self.give_up(gw, now);
        }
        // RFC 7296 2.4: "retransmission times MUST increase exponentially"
        pending.transmissions += 1;
        pending.interval = (pending.interval * 2).min(max);
        pending.next = now + gw.jittered(pending.interval);
        gw.count(Counter::Retransmitted);
        if let Some(pending) = &self.pending {
            self.transmit(gw, self.path, &pending.datagrams);
        }
    }

    /// How often a request is sent.
    ///
    /// RFC 7296 2.4: "The number of retries and length of timeouts are not covered in this
    /// specification (...) different environments may require different rules." One that has been
    /// supplanted may be given up early, since its peer lives and does not answer: it has lost this
    /// IKE SA, or put the other in its place.
    fn patience(&self, gw: &Gateway) -> u32 {
        let ending = self.leaving().is_some()
            || matches!(
                self.state,
                State::Closing(CloseReason::Terminated | CloseReason::Shutdown)
            );
        if self.is_supplanted(gw) || ending {
            gw.settings.few_transmissions.min(gw.settings.transmissions)
        } else {
            gw.settings.transmissions
        }
    }

    fn is_supplanted(&self, gw: &Gateway) -> bool {
        self.supplanted_by
            .is_some_and(|by| gw.standing.contains(&by))
    }

    /// Sends an outstanding request that waits long already again now, and counts anew.
    pub(crate) fn hasten(&mut self, gw: &Gateway, now: Instant) {
        if let Some(pending) = self.pending.as_mut().filter(|p| p.transmissions > 1) {
            pending.transmissions = 0;
            pending.interval = gw.settings.retransmit_initial / 2;
            pending.next = now;
        }
    }

    fn give_up(&mut self, gw: &mut Gateway, now: Instant) {
        let Some(pending) = &self.pending else { return };
        let (transmissions, waited) = (pending.transmissions, now - pending.first);
        gw.count(Counter::Vanished);
        // RFC 7296 2.4: "If there has only been outgoing traffic on all of the SAs associated
        // with an IKE SA, it is essential to confirm liveness of the other endpoint": this was it.
        match &self.state {
            State::Closing(reason) => {
                let reason = reason.clone();
                self.finish(gw, now, reason);
            }
            _ if self.leaving().is_some() => {
                let reason = self.leaving().cloned().unwrap_or(CloseReason::Terminated);
                self.send_last_delete(gw);
                self.finish(gw, now, reason);
            }
            State::Initiating | State::Authenticating(_) => {
                self.refused(
                    gw,
                    Refusal::NoAnswer {
                        transmissions,
                        waited,
                    },
                );
                self.finish(gw, now, CloseReason::Refused);
            }
            _ if self.is_supplanted(gw) => {
                self.finish(gw, now, CloseReason::Supplanted);
            }
            _ => self.finish(gw, now, CloseReason::PeerVanished { transmissions }),
        }
    }

    /// Tells the operator why something of this IKE SA was refused.
    pub(super) fn refused(&self, gw: &mut Gateway, reason: Refusal) {
        gw.refused(self.peer_name(), self.path, reason);
    }

    /// Whether this is the header of the response to our outstanding request.
    pub(super) fn awaits_response(&self, header: &Header) -> bool {
        let fits = |p: &Pending| p.id == header.message_id && p.kind == header.exchange;
        self.pending.as_ref().is_some_and(fits)
    }

    /// The response to our request of this ID and kind, if it is outstanding.
    pub(super) fn take_pending(&mut self, header: &Header) -> Option<Pending> {
        let fits = |p: &mut Pending| p.id == header.message_id && p.kind == header.exchange;
        let pending = self.pending.take_if(fits)?;
        self.request_id = self.request_id.wrapping_add(1);
        Some(pending)
    }

    /// Puts back a request that its response did not end; the same message ID goes on.
    pub(super) fn repeat_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        kind: ExchangeType,
        datagrams: Vec<Vec<u8>>,
        exchange: Exchange,
    ) {
        self.request_id = self.request_id.wrapping_sub(1);
        self.send_request(gw, now, kind, datagrams, exchange);
    }

    pub(super) fn handle_response(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        message: &Message,
        opened: &Opened,
    ) {
        let Some(pending) = self.take_pending(&message.header) else {
            return gw.count(Counter::MessageIdWindow);
        };
        self.heard = now;
        self.follow(gw, now, path);
        self.prove(gw, now);
        let payloads = match opened.payloads() {
            Ok(payloads) => payloads,
            Err(malformed) => {
                pending.exchange.abandon(gw);
                return self.protocol_error(gw, now, malformed.what());
            }
        };
        let payloads = Payloads(&payloads);
        match pending.exchange {
            Exchange::Init(_) => gw.count(Counter::Unexpected),
            Exchange::Intermediate(kex) => {
                self.handle_intermediate_response(gw, now, kex, opened, payloads);
            }
            Exchange::Auth(offer) => self.handle_auth_response(gw, now, offer, payloads),
            Exchange::Child(request) => self.handle_child_response(gw, now, *request, payloads),
            Exchange::RekeyIke(request) => self.handle_rekey_response(gw, now, *request, payloads),
            Exchange::DeleteChild { inbound, reason } => gw.remove_child(now, inbound, reason),
            Exchange::DeleteIke(reason) => self.finish(gw, now, reason),
            Exchange::Liveness => self.alive(gw),
        }
    }

    /// The peer answered with something that makes no sense.
    pub(super) fn protocol_error(&mut self, gw: &mut Gateway, now: Instant, what: &'static str) {
        self.refused(gw, Refusal::Malformed { what });
        match self.state {
            State::Established => {
                self.enqueue(
                    gw,
                    super::Task::DeleteIke(CloseReason::ProtocolError { what }),
                );
            }
            _ => self.finish(gw, now, CloseReason::ProtocolError { what }),
        }
    }
}
