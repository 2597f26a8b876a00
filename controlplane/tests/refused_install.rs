//! A dataplane that has no room for an SA: the pair goes at both ends, and a new one is made, instead of an SA that is not
//! there swallowing what is sent to it. Needs root; without it the test is skipped, loudly.

#![forbid(unsafe_code)]

mod common;

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Bed, PATIENCE, PEERS};
use esplanade_channel::{Command as Order, SaId};

/// What a dataplane has been told of SAs.
#[derive(Debug, Default)]
struct Told {
    installed: Vec<SaId>,
    removed: Vec<SaId>,
}

impl Told {
    fn hear(&mut self, orders: &[Order]) {
        for order in orders {
            match order {
                Order::InstallInbound(sa) => self.installed.push(sa.sa),
                Order::InstallOutbound(sa) => self.installed.push(sa.sa),
                Order::RemoveSa { sa } => self.removed.push(*sa),
                _ => {}
            }
        }
    }

    /// Whether the first pair is gone and another was brought.
    fn is_made_anew(&self) -> bool {
        self.installed.len() >= 4
            && self.installed[..2]
                .iter()
                .all(|sa| self.removed.contains(sa))
    }
}

fn is_inbound(order: &Order) -> bool {
    matches!(order, Order::InstallInbound(_))
}

fn is_outbound(order: &Order) -> bool {
    matches!(order, Order::InstallOutbound(_))
}

/// Has the dataplane of the daemon that calls refuse the first of what `refuses`.
fn refuse_one(refuses: fn(&Order) -> bool) {
    let Some(bed) = Bed::new(PEERS) else {
        return;
    };
    let [(_waits, mut waiting), (_calls, mut calling)] = bed.peers("info");
    let (mut at_waiting, mut at_calling) = (Told::default(), Told::default());
    let mut refused = 0;
    let deadline = Instant::now() + PATIENCE;
    while !(at_waiting.is_made_anew() && at_calling.is_made_anew()) {
        assert!(
            Instant::now() < deadline,
            "not made anew in time: {at_waiting:?} {at_calling:?}"
        );
        at_waiting.hear(&waiting.obey().0);
        let (orders, _) = calling.obey_unless(|order| {
            let refuses = refused == 0 && refuses(order);
            refused += usize::from(refuses);
            refuses
        });
        at_calling.hear(&orders);
        sleep(Duration::from_millis(2));
    }
    assert_eq!(refused, 1);
    let log = fs::read_to_string(bed.path("1.log")).unwrap();
    let told = "peer/net: the dataplane did not install SA";
    assert!(
        log.contains(told) && log.contains("the table is full"),
        "{log}"
    );
}

#[test]
fn a_pair_whose_inbound_sa_was_refused_is_made_anew() {
    refuse_one(is_inbound);
}

#[test]
fn a_pair_whose_outbound_sa_was_refused_is_made_anew() {
    refuse_one(is_outbound);
}
