//! What is due on an IKE SA without a message: retransmission, liveness, rekey, keepalive, end.

use std::time::Instant;

use super::{IkeSa, State, Task};
use crate::counters::Counter;
use crate::error::CloseReason;
use crate::event::Transmit;
use crate::gateway::Gateway;

/// The one octet of a NAT keepalive (RFC 3948 2.3).
const KEEPALIVE: u8 = 0xff;

impl IkeSa {
    fn is_rekeying(&self) -> bool {
        self.tasks.contains(&Task::RekeyIke)
    }

    fn liveness_at(&self) -> Option<Instant> {
        let delay = self.peer.as_ref()?.dpd_delay;
        let idle = self.pending.is_none() && self.tasks.is_empty() && self.is_established();
        (idle && !delay.is_zero()).then(|| self.heard + delay)
    }

    /// Traffic gets no answer: a liveness check that would be due later is due now.
    pub(crate) fn unanswered(&mut self, gw: &Gateway, now: Instant) {
        let recently = self.heard + gw.settings.unanswered_delay > now;
        if self.liveness_at().is_some() && !recently {
            self.enqueue(gw, Task::Liveness);
        }
    }

    /// When something is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let held = self
            .hold_until
            .filter(|_| self.pending.is_none() && !self.tasks.is_empty());
        [
            self.pending.as_ref().map(|pending| pending.next()),
            self.rekey_at
                .filter(|_| self.is_established() && !self.is_rekeying()),
            self.end_at,
            self.keepalive_at,
            self.liveness_at(),
            self.reassembly_due(),
            self.followup_due(),
            held,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, gw: &mut Gateway, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.end_at) {
            self.end(gw, now);
        }
        if due(self.hold_until) {
            self.hold_until = None;
        }
        self.expire_fragments(gw, now);
        self.expire_followup(gw, now);
        self.retransmit(gw, now);
        if due(self.rekey_at) && self.is_established() {
            self.rekey_at = None;
            self.enqueue(gw, Task::RekeyIke);
        }
        // RFC 7296 2.4: "If no cryptographically protected messages have been received on an IKE
        // SA or any of its Child SAs recently, the system needs to perform a liveness check"
        if due(self.liveness_at()) {
            self.enqueue(gw, Task::Liveness);
        }
        if due(self.keepalive_at) {
            self.keepalive_at = Some(now + gw.settings.nat_keepalive);
            gw.count(Counter::Sent);
            let data = vec![KEEPALIVE];
            gw.transmits.push_back(Transmit {
                path: self.path,
                data,
                keepalive: true,
            });
        }
    }

    fn end(&mut self, gw: &mut Gateway, now: Instant) {
        match self.state {
            State::Quiet | State::Closed => {
                self.state = State::Closed;
                self.end_at = None;
            }
            State::HalfOpen(_) => {
                gw.count(Counter::HalfOpenExpired);
                self.finish(gw, now, CloseReason::Refused);
            }
            State::Superseded => self.finish(gw, now, CloseReason::Rekeyed),
            State::Established => {
                self.end_at = None;
                self.enqueue(gw, Task::DeleteIke(CloseReason::Expired));
            }
            State::Initiating | State::Authenticating(_) | State::Closing(_) => self.end_at = None,
        }
    }
}
