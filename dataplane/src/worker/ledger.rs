//! Whose packets are dropped: every reason under its SA and its policy. And what an SA has carried stays with its policy when it
//! goes.

use super::{
    core::Core,
    reports::{EventSink, sa_id},
};
use crate::port::Port;
use esplanade_channel::{self as channel, Counter, Subject};
use esplanade_ipsec::{id::SaId, sa::Usage, sad::Place, spd::PolicyId};

impl<P: Port, E: EventSink> Core<P, E> {
    /// A packet of an inbound SA is dropped.
    #[cold]
    pub fn blame_inbound(&mut self, sa: SaId, reason: Counter) {
        if let Some(policy) = self.tables.inbound.get(sa).map(|sa| sa.policy) {
            self.blame(Some(sa), policy, reason);
        }
    }

    /// A packet for an outbound SA is dropped.
    #[cold]
    pub fn blame_outbound(&mut self, place: Place, reason: Counter) {
        let sa = self.tables.outbound.records.get(place);
        if let Some((sa, policy)) = sa.map(|sa| (sa.id, sa.policy)) {
            self.blame(Some(sa), policy, reason);
        }
    }

    /// A packet of a policy is dropped, on its way through an SA or for want of one.
    #[cold]
    pub fn blame(&mut self, sa: Option<SaId>, policy: PolicyId, reason: Counter) {
        // A dummy packet has done its work.
        let Some(ledger) = &self.ledger else {
            return;
        };
        if reason == Counter::InDummy {
            return;
        }
        let sa = sa.and_then(sa_id).map(Subject::Sa);
        let policy = Subject::Policy(channel::PolicyId(policy.0));
        for subject in sa.into_iter().chain([policy]) {
            if !ledger.add(subject, reason, 1, 0) {
                self.tally.one(Counter::DropsUnlisted);
            }
        }
    }

    /// An SA goes: its policy keeps what it has carried.
    pub fn close_accounts(&mut self, sa: SaId) {
        let inbound = self.tables.inbound.get(sa);
        let inbound = inbound.map(|sa| (sa.policy, &sa.usage, Counter::InPackets));
        let outbound = self.tables.outbound.get(sa);
        let outbound = outbound.map(|sa| (sa.policy, &sa.usage, Counter::OutPackets));
        let carried: Option<(PolicyId, &Usage, Counter)> = inbound.or(outbound);
        if let (Some(ledger), Some((policy, usage, counter))) = (&self.ledger, carried) {
            let subject = Subject::Policy(channel::PolicyId(policy.0));
            if usage.packets() > 0 && !ledger.add(subject, counter, usage.packets(), usage.bytes())
            {
                self.tally.one(Counter::DropsUnlisted);
            }
            if let Some(sa) = sa_id(sa) {
                ledger.forget(Subject::Sa(sa));
            }
        }
    }
}
