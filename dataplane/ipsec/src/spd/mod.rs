//! The security policy database (RFC 4301 4.4.1): ordered policies, each with an action, and the outbound SA
//! that each protect policy uses at the moment.
//!
//! One worker owns its copy. Everything is bounded by the capacity given at the start and nothing is allocated
//! later. A lookup goes to the flow cache first and to the classifier only for a flow not seen since the last change
//! of policies; neither looks at all policies, and no change does.

mod classifier;
mod flow_cache;
mod shares;

use crate::selector::{Flow, FlowKey, Selector};
use classifier::Classifier;
use esplanade_crypto::prefetch;
use flow_cache::{FlowCache, Verdict};
use shares::{Outcome, Shares};
use std::collections::HashMap;
use thiserror::Error;

pub use shares::Share;

/// The name of a policy. The policies of one child SA, one for each pair of its selectors, differ in
/// the lowest 8 bits only and use the same SA: they are a *group*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub u64);

impl PolicyId {
    /// What the policies of one child SA have in common.
    #[inline]
    pub fn group(self) -> u64 {
        self.0 >> 8
    }
}

/// What is done with the packets of a policy (RFC 4301 4.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Through an SA or not at all.
    Protect,
    /// As they are.
    Bypass,
    /// Not at all.
    Discard,
}

/// One policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// The lower number wins; among equals the lower name.
    pub priority: u32,
    /// What it does.
    pub action: Action,
    /// What it applies to.
    pub selector: Selector,
}

/// The decision for a flow: a policy of the current generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What is to be done.
    pub action: Action,
    /// The policy that says so.
    pub policy: PolicyId,
    /// Where the group's state is, for [`Spd::group_mut`].
    pub group: GroupIndex,
}

/// What the cache holds of a flow that no policy selects.
const NO_POLICY: Verdict = Verdict {
    what: NONE,
    whose: [0; 2],
};
/// The bits of a verdict that say which group; the action is above them.
const GROUP_BITS: u32 = 30;

impl Decision {
    #[inline(always)]
    fn remembered(verdict: Verdict) -> Option<Self> {
        let action = match verdict.what >> GROUP_BITS {
            0 => Action::Protect,
            1 => Action::Bypass,
            2 => Action::Discard,
            _ => return None,
        };
        let [high, low] = verdict.whose.map(u64::from);
        Some(Self {
            action,
            policy: PolicyId(high << 32 | low),
            group: GroupIndex(verdict.what & ((1 << GROUP_BITS) - 1)),
        })
    }

    fn to_remember(self) -> Verdict {
        let action = match self.action {
            Action::Protect => 0,
            Action::Bypass => 1,
            Action::Discard => 2,
        };
        Verdict {
            what: action << GROUP_BITS | self.group.0,
            whose: [(self.policy.0 >> 32) as u32, self.policy.0 as u32],
        }
    }
}

/// The place of a group; good until the next change of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupIndex(u32);

/// A lookup that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Probe(flow_cache::Place);

/// What the policies of one child SA share.
#[derive(Debug, Clone)]
pub struct Group {
    name: u64,
    /// The place of its first policy, [`NONE`] if it has none: a free place.
    first: u32,
    /// The identifier of the outbound SA in use, for packets of no class.
    outbound: Option<u32>,
    /// Where its SAs are if it has several, otherwise [`NONE`].
    several: u32,
    /// When an SA was last asked for, in milliseconds; for the rate limit.
    pub acquired_ms: Option<u64>,
}

impl Group {
    const FREE: Self = Self {
        name: 0,
        first: NONE,
        outbound: None,
        several: NONE,
        acquired_ms: None,
    };

    fn outcome(&self) -> Outcome {
        Outcome {
            outbound: self.outbound,
            row: self.several,
        }
    }

    fn now(&mut self, outcome: Outcome) {
        (self.outbound, self.several) = (outcome.outbound, outcome.row);
    }
}

/// No more policies fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the SPD is full: {capacity} policies")]
pub struct SpdFull {
    /// How many fit.
    pub capacity: usize,
}

/// No policy has that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no such policy")]
pub struct UnknownPolicy;

/// No place: the end of a chain, and in the flow cache a flow that no policy selects.
const NONE: u32 = u32::MAX;

/// Precedence: the lower comes first.
type Order = (u32, PolicyId);

#[derive(Debug, Clone, Copy)]
struct Rule {
    policy: Policy,
    group: u32,
    /// The place of the next policy of its group.
    next_in_group: u32,
    /// The place of the next policy that the classifier finds under the same key.
    next_alike: u32,
    /// Set again since the synchronisation began.
    fresh: bool,
}

impl Rule {
    fn order(&self) -> Order {
        (self.policy.priority, self.policy.id)
    }
}

/// The database.
#[derive(Debug)]
pub struct Spd {
    /// Places of policies; those that nobody names are free.
    rules: Vec<Rule>,
    free_rules: Vec<u32>,
    place_of: HashMap<PolicyId, u32>,
    classifier: Classifier,
    groups: Vec<Group>,
    free_groups: Vec<u32>,
    group_of: HashMap<u64, u32>,
    /// The SAs of groups that have several.
    shares: Shares,
    /// The places of the groups by the outbound SAs that each uses.
    user_of: HashMap<u32, u32>,
    generation: u32,
    cache: FlowCache,
    capacity: usize,
}

impl Spd {
    /// An empty database for `capacity` policies, with a cache of `flows` flows.
    ///
    /// # Panics
    ///
    /// When the capacity is 2^30 or more.
    pub fn new(capacity: usize, flows: usize, seed: u64) -> Self {
        assert!(capacity < 1 << GROUP_BITS, "too many policies to number");
        Self {
            rules: Vec::with_capacity(capacity),
            free_rules: Vec::with_capacity(capacity),
            // Twice the room, so that tombstones are swept in place and nothing is allocated.
            place_of: HashMap::with_capacity(2 * capacity),
            classifier: Classifier::new(capacity),
            groups: vec![Group::FREE; capacity],
            free_groups: (0..capacity as u32).rev().collect(),
            group_of: HashMap::with_capacity(2 * capacity),
            shares: Shares::default(),
            user_of: HashMap::with_capacity(2 * capacity),
            generation: 1,
            cache: FlowCache::new(flows, seed),
            capacity,
        }
    }

    /// Adds a policy, or replaces the one of that name. The group keeps its SA.
    ///
    /// # Errors
    ///
    /// When the database is full.
    pub fn set(&mut self, policy: Policy) -> Result<(), SpdFull> {
        let full = SpdFull {
            capacity: self.capacity,
        };
        let known = self.place_of.get(&policy.id).copied();
        let place = match known {
            // A name and its group stay where they are.
            Some(place) => {
                self.classifier.remove(&mut self.rules, place);
                place
            }
            None => self.admit(policy).ok_or(full)?,
        };
        if let Some(rule) = self.rules.get_mut(place as usize) {
            rule.policy = policy;
            rule.fresh = true;
        }
        self.classifier.insert(&mut self.rules, place);
        self.changed();
        Ok(())
    }

    /// Removes a policy.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn remove(&mut self, id: PolicyId) -> Result<(), UnknownPolicy> {
        let place = *self.place_of.get(&id).ok_or(UnknownPolicy)?;
        self.dismiss(place);
        self.changed();
        Ok(())
    }

    /// Begins a synchronisation: policies not set until [`end_sync`](Self::end_sync) will go.
    pub fn begin_sync(&mut self) {
        for rule in &mut self.rules {
            rule.fresh = false;
        }
    }

    /// Ends a synchronisation.
    pub fn end_sync(&mut self) {
        for place in 0..self.rules.len() as u32 {
            let stale = self.rules.get(place as usize).filter(|rule| !rule.fresh);
            if stale.is_some_and(|rule| self.place_of.get(&rule.policy.id) == Some(&place)) {
                self.dismiss(place);
            }
        }
        self.changed();
    }

    /// Makes a group use this outbound SA for this share of its packets from now on, instead of the one before, and no other
    /// group.
    ///
    /// # Errors
    ///
    /// When there is no policy of that group.
    pub fn select(&mut self, id: PolicyId, sa: u32, share: Share) -> Result<(), UnknownPolicy> {
        let index = *self.group_of.get(&id.group()).ok_or(UnknownPolicy)?;
        self.deselect(sa);
        let group = self.groups.get_mut(index as usize).ok_or(UnknownPolicy)?;
        let before = group.outcome();
        if let Some(before) = self.shares.holder(index, share, before.outbound) {
            self.user_of.remove(&before);
        }
        group.now(self.shares.select(index, sa, share, before));
        self.user_of.insert(sa, index);
        Ok(())
    }

    /// Makes no group use this outbound SA: it is gone, and another child's may get its identifier one day.
    pub fn deselect(&mut self, sa: u32) {
        let index = self.user_of.remove(&sa);
        if let Some(index) = index
            && let Some(group) = self.groups.get_mut(index as usize)
        {
            group.now(self.shares.deselect(index, sa, group.outcome()));
        }
    }

    /// Begins to look a flow up: asks for the memory in which its decision may be remembered. Good until the next change
    /// of policies.
    #[inline(always)]
    pub fn probe(&self, key: FlowKey) -> Probe {
        Probe(self.cache.find(key))
    }

    /// The first policy that matches a flow.
    pub fn lookup(&mut self, flow: &Flow) -> Option<Decision> {
        match flow.key() {
            Some(key) => self.finish(self.probe(key), key, || *flow),
            None => self.classify(flow),
        }
    }

    /// Ends what [`probe`](Self::probe) began with the same flow's key.
    #[inline(always)]
    pub fn finish(
        &mut self,
        probe: Probe,
        key: FlowKey,
        flow: impl FnOnce() -> Flow,
    ) -> Option<Decision> {
        match self.cache.get(probe.0, key, self.generation) {
            Some(verdict) => Decision::remembered(verdict),
            None => self.learn(probe, key, &flow()),
        }
    }

    /// Finds the policy of a flow that is not in the cache, and remembers it.
    #[cold]
    #[inline(never)]
    fn learn(&mut self, probe: Probe, key: FlowKey, flow: &Flow) -> Option<Decision> {
        let decision = self.classify(flow);
        let verdict = decision.map_or(NO_POLICY, Decision::to_remember);
        self.cache.insert(probe.0, key, self.generation, verdict);
        decision
    }

    /// Finds the policy of a flow.
    #[cold]
    fn classify(&self, flow: &Flow) -> Option<Decision> {
        let found = self.classifier.find(&self.rules, flow);
        let rule = found.and_then(|place| self.rules.get(place as usize));
        rule.map(|rule| Decision {
            action: rule.policy.action,
            policy: rule.policy.id,
            group: GroupIndex(rule.group),
        })
    }

    /// Asks for the memory of a group's state.
    #[inline]
    pub fn prefetch_group(&self, index: GroupIndex) {
        if let Some(group) = self.group(index) {
            prefetch(group);
        }
    }

    /// The state of a decision's group.
    #[inline]
    pub fn group_mut(&mut self, index: GroupIndex) -> Option<&mut Group> {
        self.groups.get_mut(index.0 as usize)
    }

    /// The state of a decision's group.
    #[inline]
    pub fn group(&self, index: GroupIndex) -> Option<&Group> {
        self.groups.get(index.0 as usize)
    }

    /// The outbound SA of a decision's group for a packet of this DSCP, which this worker got or another lends it.
    #[inline]
    pub fn outbound(&self, index: GroupIndex, dscp: u8, borrowed: bool) -> Option<u32> {
        let group = self.group(index)?;
        if group.several == NONE {
            group.outbound
        } else {
            self.shares.by_dscp(group.several, dscp, borrowed)
        }
    }

    /// The outbound SA that the group of a policy uses, for packets of no class.
    pub fn selected(&self, id: PolicyId) -> Option<u32> {
        let index = self.group_of.get(&id.group())?;
        self.groups.get(*index as usize)?.outbound
    }

    /// Whether any group uses this outbound SA.
    pub fn is_selected(&self, sa: u32) -> bool {
        self.user_of.contains_key(&sa)
    }

    /// The outbound SA that the group of a policy uses for exactly this share.
    pub fn holder(&self, id: PolicyId, share: Share) -> Option<u32> {
        let index = *self.group_of.get(&id.group())?;
        let group = self.groups.get(index as usize)?;
        self.shares.holder(index, share, group.outbound)
    }

    /// All outbound SAs that the group of a policy uses.
    pub fn all_selected(&self, id: PolicyId) -> impl Iterator<Item = u32> + '_ {
        let index = self.group_of.get(&id.group()).copied();
        let group = index.and_then(|index| Some((index, self.groups.get(index as usize)?)));
        let all = group.map(|(index, group)| self.shares.all(index, group.outbound));
        all.into_iter().flatten()
    }

    /// Whether any policy of the group protects a flow: the selectors of an SA (RFC 4301 5.2 step 4).
    ///
    /// Mostly the flow's first policy is one of the group, and the flow cache knows. Where policies overlap, the
    /// group's own are searched.
    #[inline(always)]
    pub fn covers(
        &mut self,
        id: PolicyId,
        probe: Probe,
        key: FlowKey,
        flow: impl Fn() -> Flow,
    ) -> bool {
        let group = id.group();
        if let Some(decision) = self.finish(probe, key, &flow)
            && decision.policy.group() == group
        {
            return decision.action == Action::Protect;
        }
        self.covers_further_down(group, &flow())
    }

    #[cold]
    fn covers_further_down(&self, group: u64, flow: &Flow) -> bool {
        let index = self.group_of.get(&group);
        let group = index.and_then(|index| self.groups.get(*index as usize));
        let mut next = group.map_or(NONE, |group| group.first);
        while let Some(rule) = self.rules.get(next as usize) {
            if rule.policy.action == Action::Protect && rule.policy.selector.matches(flow) {
                return true;
            }
            next = rule.next_in_group;
        }
        false
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.place_of.len()
    }

    /// Whether there is no policy: everything is discarded.
    pub fn is_empty(&self) -> bool {
        self.place_of.is_empty()
    }

    /// Gives a new policy a place, and one in its group.
    fn admit(&mut self, policy: Policy) -> Option<u32> {
        let place = match self.free_rules.pop() {
            Some(place) => place,
            None if self.rules.len() < self.capacity => self.rules.len() as u32,
            None => return None,
        };
        let (group, next_in_group) = self.join(policy.id.group(), place)?;
        let rule = Rule {
            policy,
            group,
            next_in_group,
            next_alike: NONE,
            fresh: true,
        };
        match self.rules.get_mut(place as usize) {
            Some(free) => *free = rule,
            None => self.rules.push(rule),
        }
        self.place_of.insert(policy.id, place);
        Some(place)
    }

    /// Takes a policy from its place, its key and its group.
    fn dismiss(&mut self, place: u32) {
        self.classifier.remove(&mut self.rules, place);
        if let Some(rule) = self.rules.get(place as usize).copied() {
            self.place_of.remove(&rule.policy.id);
            self.leave(&rule, place);
            self.free_rules.push(place);
        }
    }

    /// Puts a policy first in its group: the group's place, and the policy that was first.
    fn join(&mut self, name: u64, place: u32) -> Option<(u32, u32)> {
        let index = match self.group_of.get(&name) {
            Some(index) => *index,
            None => {
                // There is one for each policy.
                let index = self.free_groups.pop()?;
                self.group_of.insert(name, index);
                index
            }
        };
        let group = self.groups.get_mut(index as usize)?;
        group.name = name;
        Some((index, core::mem::replace(&mut group.first, place)))
    }

    fn leave(&mut self, rule: &Rule, place: u32) {
        let Some(group) = self.groups.get_mut(rule.group as usize) else {
            return;
        };
        if group.first == place {
            group.first = rule.next_in_group;
        }
        let mut next = group.first;
        while let Some(other) = self.rules.get_mut(next as usize) {
            next = other.next_in_group;
            if next == place {
                other.next_in_group = rule.next_in_group;
            }
        }
        if group.first == NONE {
            self.group_of.remove(&group.name);
            for sa in self.shares.all(rule.group, group.outbound) {
                self.user_of.remove(&sa);
            }
            self.shares.forget(rule.group, group.several);
            *group = Group::FREE;
            self.free_groups.push(rule.group);
        }
    }

    /// Makes every cached decision stale.
    fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            self.cache.clear();
            self.generation = 1;
        }
    }
}

#[cfg(test)]
mod tests;
