//! SAs that carry much are spread over the workers. Needs root; without it the tests are skipped, loudly.

#![forbid(unsafe_code)]

mod common;

use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Bed, Daemon, PEERS, Scribe, accept, peer_config};
use esplanade_channel::{Command as Order, InboundSa, SaState, SaStatistics, WorkerId};

/// Three children, so that with two workers one has two of them.
fn config(own: u8) -> String {
    let mut config = peer_config(own).replace("workers: [0]", "workers: [0, 1]");
    for more in [7, 8] {
        let (ours, theirs) = (own * 10 + more, (3 - own) * 10 + more);
        config += &format!(
            "      net-{more}: {{ local: [10.{ours}.0.0/16], remote: [10.{theirs}.0.0/16] }}\n"
        );
    }
    config
}

fn installed(orders: &[Order]) -> Vec<InboundSa> {
    let sas = orders.iter().filter_map(|order| match order {
        Order::InstallInbound(sa) => Some(sa.clone()),
        _ => None,
    });
    sas.collect()
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    let (text, error, _) = daemon.esplanade(&["counters", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{error}"));
    let rows = rows.as_array().expect("rows");
    let row = rows.iter().find(|row| row["name"] == name);
    row.and_then(|row| row["value"].as_u64()).expect(name)
}

#[test]
fn a_worker_with_too_much_to_do_loses_an_sa_by_a_rekey() {
    let Some(bed) = Bed::new(PEERS) else {
        return;
    };
    let [mut called, mut caller] = [2, 1].map(|own| {
        let name = own.to_string();
        let daemon = bed.start(&name, &config(own));
        let scribe = Scribe::grant(accept(&daemon.listener()));
        (daemon, scribe)
    });
    let mut sas: Vec<InboundSa> = Vec::new();
    let mut packets: BTreeMap<u32, u64> = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(40);
    let moved = loop {
        assert!(Instant::now() < deadline, "nothing was moved: {sas:?}");
        called.1.obey();
        let fresh = installed(&caller.1.obey().0);
        if sas.len() >= 3
            && let Some(successor) = fresh.first()
        {
            break successor.clone();
        }
        sas.extend(fresh);
        // Two of the first worker's carry much, one more than the other, and the second worker's little.
        let first = sas.iter().filter(|sa| sa.owner == WorkerId(0));
        let second = sas.iter().filter(|sa| sa.owner == WorkerId(1));
        let rated = first.chain(second).zip([200_000, 80_000, 20_000]);
        for (sa, rate) in rated.filter(|_| sas.len() >= 3) {
            let count = packets.entry(sa.sa.value()).or_default();
            *count += rate / 50;
            let statistics = SaStatistics {
                packets: *count,
                bytes: *count * 1000,
                ..SaStatistics::default()
            };
            let table = &caller.1.worker.sa_table;
            table.update(sa.sa, SaState::Mature, &statistics);
        }
        sleep(Duration::from_millis(20));
    };
    let owners: Vec<u16> = sas.iter().map(|sa| sa.owner.0).collect();
    assert_eq!(owners.iter().filter(|owner| **owner == 0).count(), 2);
    let lighter = sas.iter().filter(|sa| sa.owner == WorkerId(0)).nth(1);
    let lighter = lighter.expect("two of the first worker's");
    assert_eq!(moved.policy, lighter.policy);
    assert_eq!(moved.owner, WorkerId(1));
    for _ in 0..20 {
        called.1.obey();
        caller.1.obey();
        sleep(Duration::from_millis(10));
    }
    assert!(counter(&caller.0, "OwnersUneven") >= 1);
    assert_eq!(counter(&caller.0, "OwnersMoved"), 1);
}
