use super::*;
use crate::selector::{
    AddressRange, PortRange,
    tests::{flow, selector},
};
use proptest::prelude::*;
use std::{collections::HashSet, net::Ipv4Addr};

const CAPACITY: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    Set(Policy),
    Remove(PolicyId),
    Select(PolicyId, u32, Share),
    Deselect(u32),
    Sync(Vec<Policy>),
    Look(Flow, u8, bool),
}

fn id() -> impl Strategy<Value = PolicyId> {
    (0u64..4, 0u64..3).prop_map(|(group, pair)| PolicyId(group << 8 | pair))
}

fn policy() -> impl Strategy<Value = Policy> {
    let action = prop_oneof![
        Just(Action::Protect),
        Just(Action::Bypass),
        Just(Action::Discard)
    ];
    (id(), 0u32..3, action, selector()).prop_map(|(id, priority, action, selector)| Policy {
        id,
        priority,
        action,
        selector,
    })
}

fn share() -> impl Strategy<Value = Share> {
    let dscps = prop_oneof![2 => Just(u64::MAX), 1 => Just(1), 1 => Just(3), 1 => Just(6)];
    (any::<bool>(), dscps).prop_map(|(own, dscps)| Share { own, dscps })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => policy().prop_map(Step::Set),
        2 => id().prop_map(Step::Remove),
        3 => (id(), 0u32..6, share()).prop_map(|(id, sa, share)| Step::Select(id, sa, share)),
        1 => (0u32..6).prop_map(Step::Deselect),
        1 => prop::collection::vec(policy(), 0..4).prop_map(Step::Sync),
        8 => (flow(), 0u8..4, any::<bool>()).prop_map(|(flow, dscp, borrowed)| Step::Look(flow, dscp, borrowed)),
    ]
}

/// Lists and loops.
#[derive(Default)]
struct Model {
    policies: Vec<Policy>,
    selected: Vec<(u64, u32, Share)>,
}

impl Model {
    fn set(&mut self, policy: Policy) -> bool {
        let known = self.policies.iter().any(|other| other.id == policy.id);
        if !known && self.policies.len() == CAPACITY {
            return false;
        }
        self.policies.retain(|other| other.id != policy.id);
        self.policies.push(policy);
        true
    }

    fn forget_unused(&mut self) {
        let names: HashSet<u64> = self.policies.iter().map(|p| p.id.group()).collect();
        self.selected.retain(|(name, ..)| names.contains(name));
    }

    fn look(&self, flow: &Flow, dscp: u8, borrowed: bool) -> Option<(Policy, Option<u32>)> {
        let policy = self
            .policies
            .iter()
            .filter(|policy| policy.selector.matches(flow))
            .min_by_key(|policy| (policy.priority, policy.id))?;
        let fits = |(name, _, share): &&(u64, u32, Share)| {
            *name == policy.id.group() && share.dscps >> dscp & 1 == 1 && !(borrowed && share.own)
        };
        // The narrowest class; one's own before the others'; the latest.
        let width = |share: Share| (0..64).filter(|bit| share.dscps >> bit & 1 == 1).count();
        let mut best: Option<(u32, Share)> = None;
        for (_, sa, share) in self.selected.iter().filter(fits) {
            let beaten = best.is_some_and(|(_, best)| {
                width(*share) > width(best)
                    || (width(*share) == width(best) && best.own && !share.own)
            });
            if !beaten {
                best = Some((*sa, *share));
            }
        }
        Some((*policy, best.map(|(sa, _)| sa)))
    }
}

#[test]
fn ten_thousand_policies_of_one_shape_are_one_probe() {
    let range = |net: u32| {
        let first = Ipv4Addr::from(net);
        AddressRange::new(first.into(), Ipv4Addr::from(net | 255).into()).unwrap()
    };
    let nets = (0..10_000u32).map(|n| (u64::from(n), 0x0a00_0000 | n << 8));
    let mut spd = Spd::new(10_000, 4, 3);
    for (n, net) in nets.clone() {
        let selector = Selector {
            local: range(0xc0a8_0000),
            remote: range(net),
            local_ports: PortRange::ANY,
            remote_ports: PortRange::ANY,
            protocol: None,
        };
        let policy = Policy {
            id: PolicyId(n << 8),
            priority: n as u32,
            action: Action::Protect,
            selector,
        };
        spd.set(policy).unwrap();
    }
    assert_eq!(spd.classifier.classes(), 1);
    for (n, net) in nets {
        let flow = Flow {
            local: Ipv4Addr::from(0xc0a8_0001).into(),
            remote: Ipv4Addr::from(net | 7).into(),
            protocol: 17,
            ports: Some((1, 2)),
        };
        assert_eq!(spd.lookup(&flow).unwrap().policy, PolicyId(n << 8));
    }
}

proptest! {
    #[test]
    fn behaves_as_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut spd = Spd::new(CAPACITY, 4, 3);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Set(policy) => {
                    prop_assert_eq!(spd.set(policy).is_ok(), model.set(policy));
                }
                Step::Remove(id) => {
                    let known = model.policies.iter().any(|policy| policy.id == id);
                    prop_assert_eq!(spd.remove(id).is_ok(), known);
                    model.policies.retain(|policy| policy.id != id);
                    model.forget_unused();
                }
                Step::Select(id, sa, share) => {
                    let known = model.policies.iter().any(|policy| policy.id.group() == id.group());
                    prop_assert_eq!(spd.select(id, sa, share).is_ok(), known);
                    if known {
                        let group = id.group();
                        let gone = |(name, other, held): &(u64, u32, Share)| {
                            *other == sa || (*name == group && *held == share)
                        };
                        model.selected.retain(|selected| !gone(selected));
                        model.selected.push((group, sa, share));
                        prop_assert_eq!(spd.holder(id, share), Some(sa));
                    }
                }
                // An SA that is gone, whose identifier another child's may get.
                Step::Deselect(sa) => {
                    spd.deselect(sa);
                    model.selected.retain(|(_, other, _)| *other != sa);
                }
                Step::Sync(policies) => {
                    spd.begin_sync();
                    let mut kept = HashSet::new();
                    for policy in policies {
                        let fits = model.set(policy);
                        prop_assert_eq!(spd.set(policy).is_ok(), fits);
                        if fits {
                            kept.insert(policy.id);
                        }
                    }
                    spd.end_sync();
                    model.policies.retain(|policy| kept.contains(&policy.id));
                    model.forget_unused();
                }
                Step::Look(flow, dscp, borrowed) => {
                    let ours = spd.lookup(&flow);
                    let again = spd.lookup(&flow);
                    prop_assert_eq!(ours, again);
                    let ours = ours.map(|decision| {
                        (decision.action, decision.policy, spd.outbound(decision.group, dscp, borrowed))
                    });
                    let theirs = model.look(&flow, dscp, borrowed).map(|(policy, sa)| (policy.action, policy.id, sa));
                    prop_assert_eq!(ours, theirs);
                }
            }
            prop_assert_eq!(spd.len(), model.policies.len());
            prop_assert_eq!(spd.free_groups.len() + spd.group_of.len(), CAPACITY);
            prop_assert_eq!(spd.user_of.len(), model.selected.len());
                let several: HashSet<u64> = model
                    .selected
                    .iter()
                    .filter(|(.., share)| *share != Share::ALL)
                    .map(|(name, ..)| *name)
                    .collect();
                prop_assert_eq!(spd.shares.rows(), several.len());
        }
    }
}
