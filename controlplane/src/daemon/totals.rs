//! What tunnels have carried and dropped since the dataplane started, whatever SAs they used by turns.

use std::collections::BTreeMap;

use esplanade_channel::{Counter, Direction, SaId, Subject};

use super::{gateway::Gateway, policies::ChildName};
use crate::api::Totals;

/// Of each child, and the drops of each SA.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    pub(super) children: BTreeMap<ChildName, Totals>,
    pub(super) sas: BTreeMap<SaId, BTreeMap<String, u64>>,
}

impl Ledgers {
    /// Of a child.
    pub(super) fn child(&self, tunnel: &str, child: &str) -> Totals {
        let name = (tunnel.to_owned(), child.to_owned());
        self.children.get(&name).cloned().unwrap_or_default()
    }
}

/// What the dataplane's accounts say: of SAs that are gone by their policies, of those that are there by themselves.
pub(super) fn read(gateway: &mut Gateway) -> Ledgers {
    let Some(dataplane) = &mut gateway.dataplane else {
        return Ledgers::default();
    };
    let channel = dataplane.channel();
    let records: Vec<_> = channel.sa_records().collect();
    let accounts = channel.accounts();
    let mut ledgers = Ledgers::default();
    for account in accounts {
        match account.subject {
            Subject::Sa(sa) => {
                let drops = ledgers.sas.entry(sa).or_default();
                *drops.entry(account.counter.name().to_owned()).or_default() += account.packets;
            }
            Subject::Policy(policy) => {
                let Some(name) = gateway.child_of_policy(policy) else {
                    continue;
                };
                let totals = ledgers.children.entry(name).or_default();
                match account.counter {
                    Counter::InPackets => {
                        totals.in_packets += account.packets;
                        totals.in_bytes += account.bytes;
                    }
                    Counter::OutPackets => {
                        totals.out_packets += account.packets;
                        totals.out_bytes += account.bytes;
                    }
                    reason => {
                        let drops = totals.drops.entry(reason.name().to_owned());
                        *drops.or_default() += account.packets;
                    }
                }
            }
        }
    }
    for record in records {
        let Some(name) = gateway.child_of_policy(record.policy) else {
            continue;
        };
        let totals = ledgers.children.entry(name).or_default();
        let (packets, bytes) = match record.direction {
            Direction::Inbound => (&mut totals.in_packets, &mut totals.in_bytes),
            Direction::Outbound => (&mut totals.out_packets, &mut totals.out_bytes),
        };
        *packets += record.statistics.packets;
        *bytes += record.statistics.bytes;
    }
    ledgers
}
