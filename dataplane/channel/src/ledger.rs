//! What a worker has dropped, by SA and by policy, and what SAs that are gone had carried for their policies.
//!
//! An account is a subject and a counter. All accounts of a subject lie within [`REACH`] places of the one that its name leads
//! to, so that a table of bounded size needs no chains, and an SA's are found again when it goes. What finds no place is for the
//! caller to count.

use crate::{Counter, PolicyId, SaId, seqlock::SeqlockTable, words::Words};

/// The words of an account: the seqlock's count, the subject, its kind with the counter, how often, and how many bytes.
pub const ACCOUNT_WORDS: usize = 5;
/// How far from its first place an account may lie.
pub const REACH: usize = 32;
/// The fewest accounts and the most.
const ACCOUNTS: (usize, usize) = (1024, 1 << 18);

const KIND_AT: usize = 2;
const TOTAL_AT: usize = 3;

/// The accounts of a worker whose table has so many slots for SAs.
pub const fn accounts(sa_capacity: usize) -> usize {
    let wanted = (2 * sa_capacity).next_power_of_two();
    let (fewest, most) = ACCOUNTS;
    if wanted < fewest {
        fewest
    } else if wanted > most {
        most
    } else {
        wanted
    }
}

/// Whose account it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// An SA that is there.
    Sa(SaId),
    /// A policy, whatever SAs it uses by turns.
    Policy(PolicyId),
}

impl Subject {
    const fn words(self) -> (u64, u64) {
        match self {
            Self::Sa(sa) => (sa.value() as u64, 1),
            Self::Policy(policy) => (policy.0, 2),
        }
    }

    /// The first place of its accounts.
    fn place(self, places: usize) -> usize {
        let (name, kind) = self.words();
        let spread = (name ^ kind << 60).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (spread >> 40) as usize & (places - 1)
    }
}

/// An account as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Whose.
    pub subject: Subject,
    /// Of what: a reason for a drop, or [`Counter::InPackets`] and [`Counter::OutPackets`] for what SAs carried that are
    /// gone.
    pub counter: Counter,
    /// How many packets.
    pub packets: u64,
    /// How many bytes; 0 for drops.
    pub bytes: u64,
}

/// A worker's accounts, which it alone writes.
#[derive(Debug)]
pub struct Ledger<S = crate::mapping::Region> {
    table: SeqlockTable<S, ACCOUNT_WORDS>,
}

impl<S: Words> Ledger<S> {
    pub(crate) const fn new(storage: S) -> Self {
        Self {
            table: SeqlockTable::new(storage),
        }
    }

    /// Adds to an account, which is opened if need be. `false` when there is no place for it.
    pub fn add(&self, subject: Subject, counter: Counter, packets: u64, bytes: u64) -> bool {
        let (name, kind) = subject.words();
        let kind = kind | (counter.index() as u64) << 8;
        let mut free = None;
        for place in self.places_of(subject) {
            match self.table.peek(place, KIND_AT) {
                0 => free = free.or(Some(place)),
                other if other == kind && self.table.peek(place, 1) == name => {
                    let total = self.table.peek(place, TOTAL_AT).wrapping_add(packets);
                    let bytes = self.table.peek(place, TOTAL_AT + 1).wrapping_add(bytes);
                    self.table.write(place, TOTAL_AT, &[total, bytes]);
                    return true;
                }
                _ => {}
            }
        }
        let Some(place) = free else {
            return false;
        };
        self.table.write(place, 1, &[name, kind, packets, bytes]);
        true
    }

    /// Closes the accounts of a subject that is gone.
    pub fn forget(&self, subject: Subject) {
        let (name, kind) = subject.words();
        for place in self.places_of(subject) {
            if self.table.peek(place, KIND_AT) & 0xff == kind && self.table.peek(place, 1) == name {
                self.table.write(place, 1, &[0; ACCOUNT_WORDS - 1]);
            }
        }
    }

    /// Every account.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = Account> {
        (0..self.table.len()).filter_map(|place| {
            if self.table.peek(place, KIND_AT) == 0 {
                return None;
            }
            let mut words = [0; ACCOUNT_WORDS];
            self.table.read(place, &mut words).ok()?;
            let [_, name, kind, packets, bytes] = words;
            let subject = match kind & 0xff {
                1 => Subject::Sa(SaId::new(u32::try_from(name).ok()?)?),
                2 => Subject::Policy(PolicyId(name)),
                _ => return None,
            };
            Some(Account {
                subject,
                counter: *Counter::ALL.get((kind >> 8) as usize)?,
                packets,
                bytes,
            })
        })
    }

    fn places_of(&self, subject: Subject) -> impl Iterator<Item = usize> + use<S> {
        let places = self.table.len();
        let first = subject.place(places.max(1).next_power_of_two());
        (first..first + REACH.min(places)).map(move |place| place & (places - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::select};
    use std::{
        collections::BTreeMap,
        sync::{Arc, atomic::AtomicU64},
    };

    fn ledger(places: usize) -> Ledger<Arc<[AtomicU64]>> {
        let words = places * ACCOUNT_WORDS;
        Ledger::new((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn subject() -> impl Strategy<Value = Subject> {
        prop_oneof![
            (300..340_u32).prop_map(|sa| Subject::Sa(SaId::new(sa).unwrap())),
            (0..40_u64).prop_map(|policy| Subject::Policy(PolicyId(policy << 8))),
        ]
    }

    proptest! {
        #[test]
        fn accounts_are_those_of_a_map(
            steps in prop::collection::vec((subject(), select(&Counter::ALL[..6]), 0..9_u64, 0..20_u8), 1..200),
        ) {
            let (ledger, mut model) = (ledger(1024), BTreeMap::new());
            for (subject, counter, packets, forget) in steps {
                if forget == 0 {
                    ledger.forget(subject);
                    model.retain(|(other, _), _| *other != subject);
                } else {
                    prop_assert!(ledger.add(subject, counter, packets, 2 * packets));
                    *model.entry((subject, counter)).or_insert(0) += packets;
                }
            }
            let mut accounts: Vec<_> = ledger.accounts().collect();
            accounts.sort_by_key(|account| (account.subject, account.counter));
            let model: Vec<_> = model.into_iter().map(|((subject, counter), packets)| Account {
                subject,
                counter,
                packets,
                bytes: 2 * packets,
            }).collect();
            prop_assert_eq!(accounts, model);
        }
    }

    #[test]
    fn what_finds_no_place_is_told() {
        let ledger = ledger(64);
        let taken = (0..1000)
            .filter(|policy| {
                ledger.add(
                    Subject::Policy(PolicyId(*policy)),
                    Counter::OutPackets,
                    1,
                    1,
                )
            })
            .count();
        assert!((REACH..=64).contains(&taken), "{taken}");
        assert_eq!(ledger.accounts().count(), taken);
    }
}
