//! IKE_SA_INIT (RFC 7296 1.2, 2.6, 2.7, 2.23): both ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::exchange::Exchange;
use super::proof::{certificate_request, hash_algorithms, hashes_of};
use super::{IkeSa, Nat, Proof, State, Task};
use crate::config::PeerConfig;
use crate::counters::Counter;
use crate::crypto::keys::{Binding, IkeKeys};
use crate::error::{CloseReason, Refusal, Subject};
use crate::event::Path;
use crate::gateway::{Gateway, SaKey};
use crate::negotiate::{accepted_ike, describe, ike_offer, select_ike};
use crate::peers::Welcome;
use crate::provider::KeyExchange;
use crate::suite::{IkeProposal, KeyExchangeMethod};
use crate::wire::header::{ExchangeType, Header};
use crate::wire::message::{Message, Payloads};
use crate::wire::notify;
use crate::wire::payload::Payload;

/// The port of IKE behind NATs.
pub(crate) const NAT_T_PORT: u16 = 4500;

/// How often an initiator starts over for a cookie or another group.
const MAX_RESTARTS: u8 = 4;

/// Our IKE_SA_INIT request.
pub(crate) struct InitRequest {
    kex: Box<dyn KeyExchange>,
    nonce: Vec<u8>,
    cookie: Option<Vec<u8>>,
    restarts: u8,
}

/// RFC 7296 2.23: "SHA-1 digest of the SPIs (in the order they appear in the header), IP address,
/// and port from which this packet was sent".
fn nat_hash(spi_i: u64, spi_r: u64, address: SocketAddr) -> Vec<u8> {
    let mut octets = [spi_i.to_be_bytes(), spi_r.to_be_bytes()].concat();
    match address.ip() {
        IpAddr::V4(ip) => octets.extend(ip.octets()),
        IpAddr::V6(ip) => octets.extend(ip.octets()),
    }
    octets.extend(address.port().to_be_bytes());
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &octets).as_ref().to_vec()
}

/// The pair of NAT detection notifications. A pretended NAT shows as a hash of no address.
fn nat_notifies(spi_i: u64, spi_r: u64, path: Path, pretend: bool) -> [Payload; 2] {
    let source = if pretend {
        SocketAddr::new(path.local.ip(), 0)
    } else {
        path.local
    };
    [
        Payload::notify(
            notify::NAT_DETECTION_SOURCE_IP,
            &nat_hash(spi_i, spi_r, source),
        ),
        Payload::notify(
            notify::NAT_DETECTION_DESTINATION_IP,
            &nat_hash(spi_i, spi_r, path.remote),
        ),
    ]
}

/// Where there is a NAT, by the peer's notifications; none where the peer sends none.
fn detect_nat(header: &Header, payloads: Payloads<'_>, path: Path, pretend: bool) -> Nat {
    let differs = |kind: u16, address: SocketAddr| {
        let hash = nat_hash(header.initiator_spi, header.responder_spi, address);
        let mut hashes = payloads.notifies().filter(|n| n.kind == kind).peekable();
        hashes.peek().is_some() && hashes.all(|n| n.data != hash)
    };
    let knows = payloads.notify(notify::NAT_DETECTION_SOURCE_IP).is_some();
    Nat {
        ours: knows && (pretend || differs(notify::NAT_DETECTION_DESTINATION_IP, path.local)),
        theirs: differs(notify::NAT_DETECTION_SOURCE_IP, path.remote),
    }
}

impl IkeSa {
    /// Starts an IKE SA towards a peer; the children are made once it stands.
    pub(crate) fn connect(
        gw: &mut Gateway,
        now: Instant,
        peer: Arc<PeerConfig>,
        path: Path,
        children: &[Arc<str>],
    ) -> Self {
        let (key, spi) = (gw.new_key(), gw.new_ike_spi());
        let mut sa = Self::new(key, true, spi, path, now);
        sa.tasks
            .extend(children.iter().cloned().map(Task::NewChild));
        let method = peer
            .ike_proposals
            .first()
            .map_or(KeyExchangeMethod::X25519, |p| p.kex);
        sa.peer = Some(peer);
        let nonce = gw.new_nonce();
        sa.send_init(gw, now, method, nonce, None, 0);
        sa
    }

    /// Whether our peer is to believe in a NAT before us: asked for, or since we do not know the
    /// address that the kernel will choose.
    fn pretends_nat(&self) -> bool {
        self.peer
            .as_ref()
            .is_some_and(|p| p.force_encapsulation || p.local.is_unspecified())
    }

    fn send_init(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        method: KeyExchangeMethod,
        nonce: Vec<u8>,
        cookie: Option<Vec<u8>>,
        restarts: u8,
    ) {
        let Ok(kex) = gw.provider.generate(method) else {
            return self.refuse_init(gw, now, Refusal::BadKeyExchange { method });
        };
        let request = InitRequest {
            kex,
            nonce,
            cookie,
            restarts,
        };
        let datagram = self.init_message(&request);
        let exchange = Exchange::Init(Box::new(request));
        self.send_request(gw, now, ExchangeType::IkeSaInit, vec![datagram], exchange);
    }

    fn init_message(&self, request: &InitRequest) -> Vec<u8> {
        let offer = self.peer.as_ref().map(|p| ike_offer(&p.ike_proposals, &[]));
        // RFC 7296 2.6: the cookie goes "as the first payload"
        let cookie = request
            .cookie
            .as_ref()
            .map(|c| Payload::notify(notify::COOKIE, c));
        let mut payloads: Vec<Payload> = cookie.into_iter().collect();
        payloads.extend([
            Payload::SecurityAssociation(offer.unwrap_or_default()),
            Payload::KeyExchange {
                method: request.kex.method().id(),
                data: request.kex.public_value().to_vec(),
            },
            Payload::Nonce(request.nonce.clone()),
        ]);
        payloads.extend(nat_notifies(
            self.local_spi,
            0,
            self.path,
            self.pretends_nat(),
        ));
        payloads.push(Payload::notify(notify::IKEV2_FRAGMENTATION_SUPPORTED, &[]));
        payloads.push(hash_algorithms());
        let mut suites = self.peer.iter().flat_map(|p| &p.ike_proposals);
        if suites.any(|suite| !suite.additional.is_empty()) {
            payloads.push(Payload::notify(
                notify::INTERMEDIATE_EXCHANGE_SUPPORTED,
                &[],
            ));
        }
        Message::emit(self.header(ExchangeType::IkeSaInit, false, 0), &payloads)
    }

    fn refuse_init(&mut self, gw: &mut Gateway, now: Instant, refusal: Refusal) {
        self.refused(gw, refusal);
        self.finish(gw, now, CloseReason::Refused);
    }

    pub(super) fn handle_init_response(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        datagram: &[u8],
        message: &Message,
    ) {
        let Some(pending) = self.take_pending(&message.header) else {
            return gw.count(Counter::MessageIdWindow);
        };
        let sent = pending.datagrams.concat();
        let Exchange::Init(request) = pending.exchange else {
            return;
        };
        let payloads = Payloads(&message.payloads);
        if let Some(cookie) = payloads.notify(notify::COOKIE) {
            return self.return_cookie(gw, now, *request, cookie.data.clone());
        }
        match payloads.error() {
            Some(error) if error.kind == notify::INVALID_KE_PAYLOAD => {
                self.change_group(gw, now, *request, &error.data);
            }
            Some(error) => {
                let refusal = self.init_refusal(error.kind);
                self.refuse_init(gw, now, refusal);
            }
            None => {
                self.path.local = path.local;
                match self.accept_init(*request, path, datagram, message, sent) {
                    Ok(proof) => self.advance(gw, now, proof),
                    Err(refusal) => self.refuse_init(gw, now, refusal),
                }
            }
        }
    }

    fn init_refusal(&self, kind: u16) -> Refusal {
        if kind == notify::NO_PROPOSAL_CHOSEN {
            let ours = self.peer.iter().flat_map(|p| &p.ike_proposals);
            let ours = ours.map(ToString::to_string).collect();
            return Refusal::ProposalRefused {
                subject: Subject::Ike,
                ours,
            };
        }
        Refusal::PeerError {
            subject: Subject::Ike,
            notify: kind,
        }
    }

    /// RFC 7296 2.6: "include the COOKIE notification containing the received data as the
    /// first payload, and all other payloads unchanged".
    fn return_cookie(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        mut request: InitRequest,
        cookie: Vec<u8>,
    ) {
        request.restarts += 1;
        if request.restarts > MAX_RESTARTS || !(1..=64).contains(&cookie.len()) {
            return self.refuse_init(gw, now, Refusal::Unending);
        }
        request.cookie = Some(cookie);
        let datagram = self.init_message(&request);
        let exchange = Exchange::Init(Box::new(request));
        self.repeat_request(gw, now, ExchangeType::IkeSaInit, vec![datagram], exchange);
    }

    /// RFC 7296 1.2: "the initiator MUST retry the IKE_SA_INIT with the corrected Diffie-Hellman
    /// group. The initiator MUST again propose its full set of acceptable cryptographic suites".
    fn change_group(&mut self, gw: &mut Gateway, now: Instant, request: InitRequest, data: &[u8]) {
        let group = data.try_into().map_or(0, u16::from_be_bytes);
        let suites = self.peer.iter().flat_map(|p| &p.ike_proposals);
        let method = suites.map(|s| s.kex).find(|kex| kex.id() == group);
        let Some(method) = method.filter(|&m| m != request.kex.method()) else {
            return self.refuse_init(gw, now, Refusal::GroupNotOurs { group });
        };
        if request.restarts >= MAX_RESTARTS {
            return self.refuse_init(gw, now, Refusal::Unending);
        }
        self.request_id = self.request_id.wrapping_sub(1);
        // RFC 7296 2.6.1: the cookie goes along, which spares a round trip
        self.send_init(
            gw,
            now,
            method,
            request.nonce,
            request.cookie,
            request.restarts + 1,
        );
    }

    fn accept_init(
        &mut self,
        request: InitRequest,
        path: Path,
        datagram: &[u8],
        message: &Message,
        message_i: Vec<u8>,
    ) -> Result<Proof, Refusal> {
        let malformed = |what| Refusal::Malformed { what };
        let payloads = Payloads(&message.payloads);
        let ours = self
            .peer
            .as_ref()
            .map(|p| p.ike_proposals.as_slice())
            .unwrap_or_default();
        let answer = payloads
            .proposals()
            .ok_or(malformed("it has no SA payload"))?;
        let selected = accepted_ike(answer, ours, 0).ok_or_else(|| Refusal::ProposalNotOurs {
            subject: Subject::Ike,
            theirs: describe(answer),
        })?;
        let suite = selected.suite;
        let (method, public) = payloads
            .key_exchange()
            .ok_or(malformed("it has no key exchange payload"))?;
        let nonce_r = payloads
            .nonce()
            .ok_or(malformed("it has no nonce"))?
            .to_vec();
        let intermediate = payloads.notify(notify::INTERMEDIATE_EXCHANGE_SUPPORTED);
        if !suite.additional.is_empty() && intermediate.is_none() {
            let what = "it takes additional key exchanges, but knows no IKE_INTERMEDIATE";
            return Err(malformed(what));
        }
        if method != suite.kex.id() || request.kex.method() != suite.kex {
            return Err(Refusal::GroupNotOurs { group: method });
        }
        if message.header.responder_spi == 0 {
            return Err(malformed("its SPI is zero"));
        }
        let bad = |_| Refusal::BadKeyExchange { method: suite.kex };
        let shared = request.kex.agree(public).map_err(bad)?;
        self.remote_spi = message.header.responder_spi;
        let binding = Binding {
            nonce_i: request.nonce,
            nonce_r,
            spi_i: self.local_spi,
            spi_r: self.remote_spi,
        };
        let keys = IkeKeys::first(suite, &binding, &shared, true)
            .map_err(|_| malformed("no keys can be derived"))?;
        self.keys = Some(keys);
        self.nat = detect_nat(&message.header, payloads, path, self.pretends_nat());
        self.fragmentation = payloads
            .notify(notify::IKEV2_FRAGMENTATION_SUPPORTED)
            .is_some();
        self.float();
        let Binding {
            nonce_i, nonce_r, ..
        } = binding;
        self.lowest_nonce = nonce_i.clone().min(nonce_r.clone());
        Ok(Proof {
            message_i,
            message_r: datagram.to_vec(),
            nonce_i,
            nonce_r,
            additional: suite.additional.methods().collect(),
            hashes: hashes_of(payloads),
            ..Proof::default()
        })
    }

    /// RFC 7296 2.23: who discovers a NAT "MUST send all subsequent traffic from port 4500".
    fn float(&mut self) {
        if self.nat.any() && self.path.local.port() != NAT_T_PORT {
            self.path.local.set_port(NAT_T_PORT);
            self.path.remote.set_port(NAT_T_PORT);
        }
    }
}

/// What a responder makes of an IKE_SA_INIT request.
pub(crate) enum InitReply {
    /// A half-open IKE SA; its response has been queued.
    Open(Box<IkeSa>),
    /// An unprotected refusal to send, and what to tell the operator.
    Refuse(Payload, Option<Refusal>),
    /// Nothing but a count.
    Drop(Counter),
}

/// Answers an IKE_SA_INIT request of somebody who is welcome so far.
pub(crate) fn answer_init(
    gw: &mut Gateway,
    now: Instant,
    path: Path,
    datagram: &[u8],
    message: &Message,
    welcome: &Welcome,
) -> InitReply {
    let payloads = Payloads(&message.payloads);
    let (Some(offer), Some((group, public)), Some(nonce_i)) = (
        payloads.proposals(),
        payloads.key_exchange(),
        payloads.nonce(),
    ) else {
        return InitReply::Drop(Counter::Malformed);
    };
    let intermediate = payloads.notify(notify::INTERMEDIATE_EXCHANGE_SUPPORTED);
    let possible = |suite: &&IkeProposal| suite.additional.is_empty() || intermediate.is_some();
    let ours: Vec<IkeProposal> = welcome.proposals.iter().filter(possible).copied().collect();
    let Some(selected) = select_ike(offer, &ours, 0, group) else {
        gw.count(Counter::NoProposalChosen);
        let refusal = Refusal::ProposalMismatch {
            subject: Subject::Ike,
            theirs: describe(offer),
            ours: ours.iter().map(ToString::to_string).collect(),
        };
        return InitReply::Refuse(
            Payload::notify(notify::NO_PROPOSAL_CHOSEN, &[]),
            Some(refusal),
        );
    };
    let suite = selected.suite;
    if suite.kex.id() != group {
        // RFC 7296 1.2: "the responder will respond with a Notify payload of type
        // INVALID_KE_PAYLOAD indicating the selected group"
        let group = suite.kex.id().to_be_bytes();
        return InitReply::Refuse(Payload::notify(notify::INVALID_KE_PAYLOAD, &group), None);
    }
    let Ok((our_public, shared)) = gw.provider.respond(suite.kex, public) else {
        return InitReply::Drop(Counter::Malformed);
    };
    let (key, spi, nonce_r): (SaKey, _, _) = (gw.new_key(), gw.new_ike_spi(), gw.new_nonce());
    let mut sa = IkeSa::new(key, false, spi, path, now);
    sa.remote_spi = message.header.initiator_spi;
    let binding = Binding {
        nonce_i: nonce_i.to_vec(),
        nonce_r,
        spi_i: sa.remote_spi,
        spi_r: sa.local_spi,
    };
    let Ok(keys) = IkeKeys::first(suite, &binding, &shared, false) else {
        return InitReply::Drop(Counter::Malformed);
    };
    sa.keys = Some(keys);
    let pretend = welcome.encapsulate;
    sa.nat = detect_nat(&message.header, payloads, path, pretend);
    let mut answer = vec![
        Payload::SecurityAssociation(selected.answer(&[])),
        Payload::KeyExchange {
            method: group,
            data: our_public,
        },
        Payload::Nonce(binding.nonce_r.clone()),
    ];
    if payloads.notify(notify::NAT_DETECTION_SOURCE_IP).is_some() {
        answer.extend(nat_notifies(sa.remote_spi, sa.local_spi, path, pretend));
    }
    if payloads
        .notify(notify::IKEV2_FRAGMENTATION_SUPPORTED)
        .is_some()
    {
        sa.fragmentation = true;
        answer.push(Payload::notify(notify::IKEV2_FRAGMENTATION_SUPPORTED, &[]));
    }
    answer.push(hash_algorithms());
    answer.extend(certificate_request(welcome));
    if intermediate.is_some() {
        answer.push(Payload::notify(
            notify::INTERMEDIATE_EXCHANGE_SUPPORTED,
            &[],
        ));
    }
    let response = Message::emit(sa.header(ExchangeType::IkeSaInit, true, 0), &answer);
    sa.lowest_nonce = binding.nonce_i.clone().min(binding.nonce_r.clone());
    sa.state = State::HalfOpen(Box::new(Proof {
        message_i: datagram.to_vec(),
        message_r: response.clone(),
        nonce_i: binding.nonce_i,
        nonce_r: binding.nonce_r,
        additional: suite.additional.methods().collect(),
        hashes: hashes_of(payloads),
        ..Proof::default()
    }));
    sa.end_at = Some(now + gw.settings.half_open_timeout);
    sa.responded(response.clone());
    gw.transmit(path, response);
    InitReply::Open(Box::new(sa))
}

impl IkeSa {
    /// Whether this datagram is the IKE_SA_INIT request that opened this IKE SA; if so, it is
    /// answered again as before.
    pub(crate) fn repeat_init(&self, gw: &mut Gateway, path: Path, datagram: &[u8]) {
        match (&self.state, &self.cached) {
            (State::HalfOpen(proof), Some(_)) if proof.message_i == datagram => {
                self.repeat_response(gw, path);
            }
            _ => gw.count(Counter::MessageIdWindow),
        }
    }
}
