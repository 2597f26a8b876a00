//! INFORMATIONAL exchanges (RFC 7296 1.4): deletion and liveness.

use std::time::Instant;

use super::exchange::Exchange;
use super::{IkeSa, State};
use crate::children::ChildState;
use crate::error::{CloseReason, Refusal, RemovalReason, Subject};
use crate::event::Path;
use crate::gateway::{Gateway, Signal};
use crate::wire::header::ExchangeType;
use crate::wire::message::Payloads;
use crate::wire::notify;
use crate::wire::payload::Payload;

/// RFC 7296 2.21.2: "In an IKE_AUTH exchange, or in the INFORMATIONAL exchange immediately following
/// it", these "are the only ones to cause the IKE SA to be deleted or not created, without a Delete
/// payload".
const fn is_fatal(kind: u16) -> bool {
    matches!(
        kind,
        notify::UNSUPPORTED_CRITICAL_PAYLOAD
            | notify::INVALID_SYNTAX
            | notify::AUTHENTICATION_FAILED
    )
}

impl IkeSa {
    pub(super) fn start_delete_child(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        inbound: u32,
        reason: RemovalReason,
    ) {
        let Some(child) = gw
            .children
            .get(inbound)
            .filter(|c| c.owner == Some(self.key))
        else {
            return;
        };
        if child.state == ChildState::Deleting {
            return;
        }
        let delete = Payload::DeleteChildren {
            protocol: child.protocol(),
            spis: vec![inbound],
        };
        gw.children.update(inbound, |child| {
            child.state = ChildState::Deleting;
            child.end_at = None;
        });
        self.request(
            gw,
            now,
            ExchangeType::Informational,
            &[delete],
            Exchange::DeleteChild { inbound, reason },
        );
    }

    /// Sends DELETE for this IKE SA. RFC 7296 1.4.1: "Deleting an IKE SA implicitly closes any
    /// remaining Child SAs negotiated under it."
    pub(super) fn start_delete_ike(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        reason: CloseReason,
        notifies: &[Payload],
    ) {
        for inbound in gw.children.of_owner(self.key) {
            gw.remove_child(now, inbound, RemovalReason::IkeClosed(reason.clone()));
        }
        self.tasks.clear();
        self.state = State::Closing(reason.clone());
        self.end_at = None;
        let payloads = [notifies, &[Payload::DeleteIke]].concat();
        self.request(
            gw,
            now,
            ExchangeType::Informational,
            &payloads,
            Exchange::DeleteIke(reason),
        );
    }

    /// Closes this IKE SA because its peer is not configured any more. DELETE is sent as usual where
    /// it is its turn. Else it follows the outstanding request once, and nobody waits for either:
    /// a peer that has that request takes it, one that is dead does not hold us up.
    pub(crate) fn part(&mut self, gw: &mut Gateway, now: Instant, reason: CloseReason) {
        match self.state {
            State::Established if self.pending.is_none() => {
                self.start_delete_ike(gw, now, reason, &[]);
            }
            State::Established | State::Authenticating(_) => {
                self.send_last_delete(gw);
                self.finish(gw, now, reason);
            }
            State::Initiating | State::HalfOpen(_) | State::Superseded => {
                self.finish(gw, now, reason);
            }
            State::Closing(_) | State::Quiet | State::Closed => {}
        }
    }

    pub(super) fn alive(&mut self, gw: &mut Gateway) {
        self.supplanted_by = None;
        if std::mem::take(&mut self.doubted) {
            gw.signals.push_back(Signal::Alive(self.key));
        }
    }

    pub(super) fn handle_informational_request(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        payloads: &[Payload],
    ) {
        if let Some(error) = Payloads(payloads)
            .error()
            .filter(|error| is_fatal(error.kind))
        {
            return self.refused_by_peer(gw, now, path, error.kind);
        }
        if payloads.contains(&Payload::DeleteIke) {
            return self.deleted_by_peer(gw, now, path);
        }
        let mut answer = Vec::new();
        for payload in payloads {
            let Payload::DeleteChildren { protocol, spis } = payload else {
                continue;
            };
            let deleted: Vec<u32> = spis
                .iter()
                .filter_map(|&spi| self.child_deleted_by_peer(gw, now, (*protocol, spi)))
                .collect();
            if !deleted.is_empty() {
                answer.push(Payload::DeleteChildren {
                    protocol: *protocol,
                    spis: deleted,
                });
            }
        }
        // RFC 7296 1.4.1: "Normally, the response in the INFORMATIONAL exchange will contain
        // Delete payloads for the paired SAs going in the other direction."
        self.respond(gw, path, ExchangeType::Informational, &answer);
    }

    /// The initiator does not believe who we are, which it finds out when our end stands.
    fn refused_by_peer(&mut self, gw: &mut Gateway, now: Instant, path: Path, notify: u16) {
        self.respond(gw, path, ExchangeType::Informational, &[]);
        if let Some(peer) = &self.peer {
            let refusal = match notify {
                notify::AUTHENTICATION_FAILED => Refusal::RefusedByPeer {
                    ours: peer.local_id.clone(),
                    asked_for: peer.remote_id.clone(),
                },
                notify => Refusal::PeerError {
                    subject: Subject::Ike,
                    notify,
                },
            };
            self.refused(gw, refusal);
        }
        let reason = match &self.state {
            State::Closing(reason) => reason.clone(),
            _ => CloseReason::Refused,
        };
        self.finish(gw, now, reason);
    }

    /// Removes the child with this SPI of the peer's; gives ours, for the answer.
    fn child_deleted_by_peer(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        (protocol, spi): (u8, u32),
    ) -> Option<u32> {
        let Some(child) = gw.children.by_outbound(self.key, protocol, spi) else {
            self.note_unknown_delete(spi);
            return None;
        };
        let (inbound, name, installed) = (child.inbound, child.name.clone(), child.installed);
        let reason = match child.state {
            // RFC 7296 1.4.1: "If a node receives a delete request for SAs for which it has
            // already issued a delete request, it MUST delete the outgoing SAs while processing
            // the request and the incoming SAs while processing the response. In that case, the
            // responses MUST NOT include Delete payloads for the deleted SAs".
            ChildState::Deleting => return None,
            ChildState::Replaced => RemovalReason::Replaced,
            _ => {
                let key = self.key;
                gw.signals
                    .push_back(Signal::ChildDeleted(key, name, installed));
                RemovalReason::DeletedByPeer
            }
        };
        gw.remove_child(now, inbound, reason);
        Some(inbound)
    }

    /// RFC 7296 2.25.2: a request to close the IKE SA is answered as usual, and whatever is under
    /// way on it is forgotten.
    fn deleted_by_peer(&mut self, gw: &mut Gateway, now: Instant, path: Path) {
        self.respond(gw, path, ExchangeType::Informational, &[]);
        let leaving = self.leaving().cloned();
        let yielded = self.yield_to_crossing(gw);
        let reason = match &self.state {
            State::Superseded => CloseReason::Rekeyed,
            State::Closing(reason) => reason.clone(),
            _ if yielded => CloseReason::Rekeyed,
            // We were about to do the same.
            _ => leaving.unwrap_or(CloseReason::DeletedByPeer),
        };
        self.finish(gw, now, reason);
    }
}
