//! Which worker has which SAs, by what they carry: a new pair goes to the worker that has least to do, and when one has much more
//! than another, a pair of its is rekeyed and its successor goes to the other. A rekey loses nothing, and hands no key from worker
//! to worker.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use esplanade_channel::{SaId, SaRecord, WorkerId};
use tracing::info;

use super::{gateway::Gateway, policies};

/// What a packet costs, in the bytes that cost as much: it is found, checked and sent, however short it is.
const PACKET: u64 = 400;
/// Below this many bytes a second, by that measure, nobody is busy: some 12,000 packets.
const IDLE: u64 = 5_000_000;
/// A pair that was moved stays so long, so that two pairs do not change places without end.
const STAY: Duration = Duration::from_secs(60);

/// What the workers carry.
#[derive(Debug, Default)]
pub(super) struct Balance {
    /// By SA: what it had carried when it was last looked at, and what it carries a second.
    carried: BTreeMap<u32, Carried>,
    looked: Option<Instant>,
    /// By worker: what its SAs carry a second, with what is expected of those that came since.
    load: Vec<u64>,
    /// By worker: how many SAs it has.
    sas: Vec<usize>,
    /// What the pairs that are to be replaced carry, by their inbound SPI, until when.
    moving: BTreeMap<u32, Instant>,
    /// How often it was found uneven.
    pub(super) uneven: u64,
    /// How many pairs were moved.
    pub(super) moved: u64,
}

#[derive(Debug, Clone, Copy)]
struct Carried {
    work: u64,
    a_second: u64,
}

fn work(record: &SaRecord) -> u64 {
    let statistics = &record.statistics;
    statistics
        .bytes
        .saturating_add(statistics.packets.saturating_mul(PACKET))
}

impl Balance {
    /// Prepares for a dataplane of so many workers that holds nothing. What was counted stays.
    pub(super) fn reset(&mut self, workers: usize) {
        *self = Self {
            load: vec![0; workers],
            sas: vec![0; workers],
            uneven: self.uneven,
            moved: self.moved,
            ..Self::default()
        };
    }

    /// A worker has so many SAs more.
    pub(super) fn add(&mut self, owner: WorkerId, sas: usize) {
        if let Some(count) = self.sas.get_mut(usize::from(owner.0)) {
            *count += sas;
        }
    }

    /// A worker has so many SAs fewer.
    pub(super) fn take(&mut self, owner: WorkerId, sas: usize) {
        if let Some(count) = self.sas.get_mut(usize::from(owner.0)) {
            *count = count.saturating_sub(sas);
        }
    }

    /// The worker for a new pair: that which has least to do, and of those that which has the fewest SAs. Of the pair whose
    /// traffic it takes over, if there is one, `replaces` are the owner and both halves.
    pub(super) fn choose(&mut self, replaces: Option<(WorkerId, &[SaId])>) -> WorkerId {
        let halves = replaces.map_or(&[][..], |(_, halves)| halves);
        let expected: u64 = halves.iter().map(|sa| self.rate(*sa)).sum();
        let before = replaces.and_then(|(owner, _)| self.load.get_mut(usize::from(owner.0)));
        if let Some(load) = before {
            *load = load.saturating_sub(expected);
        }
        let loads = self.load.iter().zip(&self.sas).enumerate();
        let least = loads.min_by_key(|(_, (load, sas))| (**load, **sas));
        let worker = least.map_or(0, |(worker, _)| worker);
        if let Some(load) = self.load.get_mut(worker) {
            *load += expected;
        }
        // A dataplane has 64 workers at most.
        WorkerId(worker as u16)
    }

    fn rate(&self, sa: SaId) -> u64 {
        let carried = self.carried.get(&sa.value());
        carried.map_or(0, |carried| carried.a_second)
    }

    /// Looks at what SAs have carried since the last time.
    pub(super) fn look(&mut self, records: &[SaRecord], now: Instant) {
        let since = self.looked.replace(now);
        let millis = since.map_or(0, |since| now.saturating_duration_since(since).as_millis());
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        let before = std::mem::take(&mut self.carried);
        self.load.iter_mut().for_each(|load| *load = 0);
        for record in records {
            let work = work(record);
            let last = before.get(&record.sa.value());
            // A pair that is new has carried all of it since.
            let fresh = last.map_or(work, |last| work.saturating_sub(last.work));
            let a_second = (fresh.saturating_mul(1000))
                .checked_div(millis)
                .unwrap_or(0);
            self.carried
                .insert(record.sa.value(), Carried { work, a_second });
            if let Some(load) = self.load.get_mut(usize::from(record.owner.0)) {
                *load += a_second;
            }
        }
        self.moving.retain(|_, until| *until > now);
    }

    /// The pair to move, by its inbound half: where one worker has more than twice what another has, that which leaves the two
    /// most alike. `pairs` are those that may be moved: both halves and the owner.
    pub(super) fn even_out(
        &mut self,
        pairs: impl Iterator<Item = (SaId, Option<SaId>, WorkerId)>,
        now: Instant,
    ) -> Option<SaId> {
        let loads = || self.load.iter().copied().enumerate();
        let (busiest, most) = loads().max_by_key(|(_, load)| *load)?;
        let (_, least) = loads().min_by_key(|(_, load)| *load)?;
        if most < IDLE || most <= least.saturating_mul(2) {
            return None;
        }
        self.uneven += 1;
        let difference = most - least;
        let of_busiest = pairs.filter(|(inbound, _, owner)| {
            usize::from(owner.0) == busiest && !self.moving.contains_key(&inbound.value())
        });
        let rated = of_busiest.map(|(inbound, outbound, _)| {
            let back = outbound.map_or(0, |sa| self.rate(sa));
            (self.rate(inbound) + back, inbound)
        });
        // One that carries the whole difference would only change which worker is the busiest.
        let lighter = rated.filter(|(rate, _)| *rate > 0 && *rate < difference);
        let (_, best) =
            lighter.min_by_key(|(rate, _)| ((difference / 2).abs_diff(*rate), *rate))?;
        self.moving.insert(best.value(), now + STAY);
        Some(best)
    }

    /// A pair has taken the place of another, and stays for a while where it is.
    pub(super) fn replaced(&mut self, before: u32, after: SaId, now: Instant) {
        if self.moving.remove(&before).is_some() {
            self.moving.insert(after.value(), now + STAY);
        }
    }
}

impl Gateway {
    /// Has a pair of SAs negotiated anew whose worker has much more to do than another, which then gets it.
    pub(super) fn even_out(&mut self, now: Instant) {
        let Some(dataplane) = &mut self.dataplane else {
            return;
        };
        if dataplane.courier.workers() < 2 {
            return;
        }
        let records: Vec<_> = dataplane.channel().sa_records().collect();
        self.children.balance.look(&records, now);
        let Some(moves) = self.children.choose_to_move(now).map(SaId::value) else {
            return;
        };
        if self.endpoint.rekey_sa(now, moves).is_ok() {
            self.children.balance.moved += 1;
            if let Some(pair) = self.children.get(moves) {
                let label = policies::label(&pair.name.0, &pair.name.1);
                info!(
                    "{label}: worker {} has much more to do than another, which gets it by a rekey",
                    pair.owner.0
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
