//! A control plane that dies and returns, or loses sight of its dataplane, between two daemons that agree on SAs.
//! Needs root; without it the tests are skipped, loudly.

#![forbid(unsafe_code)]

mod common;

use std::{
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Bed, Daemon, PATIENCE, PEERS, Scribe, accept, is_end, peer_config};
use esplanade_channel::{Command as Order, Listener, Policy, PolicyId, SaId};

/// Two daemons that are each other's peers, the one that calls first, and their dataplanes.
struct Pair {
    bed: Bed,
    daemons: [Option<Daemon>; 2],
    listeners: [Listener; 2],
    scribes: [Scribe; 2],
    /// What the dataplanes were told since somebody asked.
    told: [Vec<Order>; 2],
}

const CALLER: usize = 0;
const CALLED: usize = 1;

impl Pair {
    /// Daemons with these configurations, as soon as the caller sends by its SA; `None` where there can be none.
    fn up(configs: [&str; 2]) -> Option<Self> {
        let bed = Bed::new(PEERS)?;
        // The one that waits is ready first.
        let [
            (called, called_at, called_plane),
            (caller, caller_at, caller_plane),
        ] = [(CALLED, "2"), (CALLER, "1")].map(|(own, name)| {
            let daemon = bed.start(name, configs[own]);
            let listener = daemon.listener();
            let scribe = Scribe::grant(accept(&listener));
            (daemon, listener, scribe)
        });
        let mut pair = Self {
            bed,
            daemons: [Some(caller), Some(called)],
            listeners: [caller_at, called_at],
            scribes: [caller_plane, called_plane],
            told: [Vec::new(), Vec::new()],
        };
        pair.obey_until("an SA", |pair| pair.told[CALLER].iter().any(is_selection));
        Some(pair)
    }

    fn obey_until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let told = &self.told;
            assert!(Instant::now() < deadline, "no {what} in time: {told:#?}");
            for (scribe, told) in self.scribes.iter_mut().zip(&mut self.told) {
                told.extend(scribe.obey().0);
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// What a dataplane was told since it was asked last.
    fn told(&mut self, own: usize) -> Vec<Order> {
        std::mem::take(&mut self.told[own])
    }

    /// Has the caller's `esplanade` do something.
    fn command(&mut self, arguments: &[&str]) {
        let mut asked: Child = self.daemons[CALLER].as_ref().unwrap().ask(arguments);
        let mut ended = None;
        self.obey_until("end of a command", |_| {
            ended = asked.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "{arguments:?}");
    }

    /// Kills the caller and starts it anew; returns what it tells its dataplane up to the whole picture.
    fn restart(&mut self, config: &str) -> Vec<Order> {
        self.daemons[CALLER] = None;
        self.scribes[CALLER].hang_up();
        self.obey_until("pause", |_| true);
        self.told(CALLER);
        self.daemons[CALLER] = Some(self.bed.start("1", config));
        let pending = accept(&self.listeners[CALLER]);
        self.scribes[CALLER].go_on(pending);
        self.obey_until("whole picture", |pair| pair.told[CALLER].iter().any(is_end));
        let mut told = self.told(CALLER);
        let end = told.iter().position(is_end).unwrap();
        self.told[CALLER] = told.split_off(end + 1);
        told
    }
}

fn is_selection(order: &Order) -> bool {
    matches!(order, Order::SelectOutbound { .. })
}

fn installed(orders: &[Order]) -> Vec<SaId> {
    let sas = orders.iter().filter_map(|order| match order {
        Order::InstallInbound(sa) => Some(sa.sa),
        Order::InstallOutbound(sa) => Some(sa.sa),
        _ => None,
    });
    sas.collect()
}

fn removed(orders: &[Order]) -> Vec<SaId> {
    let sas = orders.iter().filter_map(|order| match order {
        Order::RemoveSa { sa } => Some(*sa),
        _ => None,
    });
    sas.collect()
}

/// The policies that an SA of this one serves.
fn policies(orders: &[Order], of: PolicyId) -> Vec<&Policy> {
    let policies = orders.iter().filter_map(|order| match order {
        Order::SetPolicy(policy) if policy.id.group() == of.group() => Some(policy),
        _ => None,
    });
    policies.collect()
}

fn selected(orders: &[Order]) -> PolicyId {
    let policy = orders.iter().rev().find_map(|order| match order {
        Order::SelectOutbound { policy, .. } => Some(*policy),
        _ => None,
    });
    policy.expect("a selection")
}

#[test]
fn sas_that_were_agreed_for_the_child_as_it_is_stay() {
    let config = peer_config(1);
    let Some(mut pair) = Pair::up([&config, &peer_config(2)]) else {
        return;
    };
    let before = pair.told(CALLER);
    let told = pair.restart(&config);
    assert_eq!(removed(&told), []);
    assert_eq!(policies(&told, selected(&before)).len(), 1);
}

#[test]
fn sas_that_were_agreed_for_something_else_go_before_there_is_a_policy() {
    let config = peer_config(1);
    for (from, to) in [
        (
            "remote: [10.2.0.0/16]",
            "remote: [10.2.0.0/16, 10.3.0.0/16]",
        ),
        ("local: [10.1.0.0/16]", "local: [10.1.0.0/17]"),
        ("identity: gw1.example.org", "identity: gw9.example.org"),
        ("identity: gw2.example.org", "identity: gw9.example.org"),
    ] {
        let Some(mut pair) = Pair::up([&config, &peer_config(2)]) else {
            return;
        };
        let sas = installed(&pair.told(CALLER));
        assert_eq!(sas.len(), 2);
        let told = pair.restart(&config.replace(from, to));
        assert_eq!(removed(&told), sas, "{to}");
        assert!(matches!(
            told[..],
            [
                Order::RemoveSa { .. },
                Order::RemoveSa { .. },
                Order::BeginSync,
                ..
            ]
        ));
    }
}

#[test]
fn what_a_peer_narrowed_stays_narrow() {
    let config = peer_config(1);
    let narrow = peer_config(2).replace("local: [10.2.0.0/16]", "local: [10.2.1.0/24]");
    let Some(mut pair) = Pair::up([&config, &narrow]) else {
        return;
    };
    // The order of policies changes once packets leave by the SA.
    pair.obey_until("order", |pair| {
        let at = pair.told[CALLER].iter().position(is_selection).unwrap();
        let then = &pair.told[CALLER][at..];
        then.iter()
            .any(|order| matches!(order, Order::SetPolicy(_)))
    });
    let before = pair.told(CALLER);
    let group = selected(&before);
    let agreed = policies(&before, group).pop().unwrap().clone();
    assert_eq!(agreed.remote.first.to_string(), "10.2.1.0");
    assert_eq!(agreed.remote.last.to_string(), "10.2.1.255");

    let told = pair.restart(&config);
    assert_eq!(removed(&told), []);
    assert_eq!(policies(&told, group), [&agreed]);
    let all = told.iter().filter_map(|order| match order {
        Order::SetPolicy(policy) if policy.id.group() != group.group() => Some(policy),
        _ => None,
    });
    let configured: Vec<&Policy> = all.collect();
    assert_eq!(configured.len(), 1);
    assert_eq!(configured[0].remote.first.to_string(), "10.2.0.0");
    assert!(agreed.priority < configured[0].priority);
}

#[test]
fn slots_that_were_in_use_before_rest_after_a_restart() {
    let config = peer_config(1);
    let Some(mut pair) = Pair::up([&config, &peer_config(2)]) else {
        return;
    };
    let used = installed(&pair.told(CALLER));
    pair.command(&["terminate", "peer"]);
    pair.obey_until("removal", |pair| removed(&pair.told[CALLER]).len() == 2);
    pair.restart(&config);
    pair.obey_until("fresh SA", |pair| {
        pair.told[CALLER].iter().any(is_selection)
    });
    let slots = |sas: Vec<SaId>| sas.into_iter().map(SaId::slot).collect::<Vec<_>>();
    let (used, fresh) = (slots(used), slots(installed(&pair.told(CALLER))));
    assert!(fresh.iter().all(|slot| !used.contains(slot)), "{fresh:?}");
}

#[test]
fn what_was_agreed_or_removed_while_the_dataplane_was_out_of_reach_is_made_up_for() {
    let Some(mut pair) = Pair::up([&peer_config(1), &peer_config(2)]) else {
        return;
    };
    let old = installed(&pair.told(CALLED));
    assert_eq!(old.len(), 2);
    pair.scribes[CALLED].hang_up();
    let pending = accept(&pair.listeners[CALLED]);
    pair.command(&["terminate", "peer"]);
    pair.command(&["initiate", "peer"]);
    pair.told(CALLED);
    pair.scribes[CALLED].go_on(pending);
    pair.obey_until("fresh SA", |pair| installed(&pair.told[CALLED]).len() == 2);
    let told = pair.told(CALLED);
    let fresh = told
        .iter()
        .position(|order| matches!(order, Order::InstallInbound(_)));
    assert_eq!(removed(&told[..fresh.unwrap()]), old);
}
