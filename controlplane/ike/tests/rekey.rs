//! Rekeys, deletions and their crossings (RFC 7296 2.8, 2.25), make-before-break, lifetimes.

mod link;

use std::time::Duration;

use esplanade_ike::{CommandError, Counter, Event, RemovalReason, Settings};
use link::*;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(200);

/// What an operator, or a lifetime, may ask of a side.
fn command(link: &mut Link, side: usize, what: u32) {
    let now = link.now;
    let endpoint = link.at(side);
    let _ = match what {
        0 => endpoint.rekey_child(now, "peer", None),
        1 => endpoint.rekey_ike(now, "peer"),
        2 => endpoint.initiate(now, "peer", None),
        3 => endpoint.terminate(now, "peer", Some("lan")),
        _ => endpoint.terminate(now, "peer", None),
    };
    link.drain();
}

#[test]
fn a_child_is_rekeyed_by_either_side() {
    for side in [A, B] {
        let mut link = Link::connected(1, Weather::fair());
        command(&mut link, side, 0);
        link.run(SECOND);
        // The old inbound half stays for packets still on their way.
        assert_eq!(link.sides[A].dataplane.installed.len(), 2);
        link.run(10 * SECOND);
        link.agree(1);
        assert_eq!(link.sides[A].dataplane.ever_installed, 2);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
    }
}

#[test]
fn the_ike_sa_is_rekeyed_by_either_side() {
    for side in [A, B] {
        let mut link = Link::connected(1, Weather::fair());
        let spi = |link: &Link| link.sides[A].endpoint.ike_sas().next().unwrap().local_spi;
        let before = spi(&link);
        command(&mut link, side, 1);
        link.run(SECOND);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
        assert_ne!(spi(&link), before);
        // The child SAs were inherited, and can be rekeyed.
        command(&mut link, 1 - side, 0);
        link.run(10 * SECOND);
        link.agree(1);
        assert_eq!(link.sides[A].dataplane.ever_installed, 2);
    }
}

/// Make before break: no packet is lost, whoever rekeys whatever, at once or in turn.
#[test]
fn no_packet_is_lost_at_a_rekey() {
    for seed in 0..40 {
        let mut link = Link::connected(seed, Weather::fair());
        link.weather.delay = (Duration::from_millis(1), Duration::from_millis(30));
        for _ in 0..4 {
            for _ in 0..=link.random(2) {
                let (side, what) = (link.random(2), link.random(2));
                command(&mut link, side as usize, what);
            }
            link.run_with_traffic(SECOND, "lan");
        }
        link.run_with_traffic(20 * SECOND, "lan");
        assert_eq!(link.lost, 0, "seed {seed}: {:#?}", story(&link.sides[A]));
        link.run(LONG);
        link.agree(1);
    }
}

/// With traffic one way only there is no first packet that could switch; the DELETE does.
#[test]
fn one_way_traffic_moves_to_the_new_sa() {
    for (from, by) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut link = Link::connected(1, Weather::fair());
        command(&mut link, by, 0);
        for _ in 0..800 {
            link.packet(from, "lan");
            link.run(Duration::from_millis(10));
        }
        assert_eq!(link.lost, 0);
        link.agree(1);
    }
}

#[test]
fn crossing_child_rekeys_leave_one() {
    for seed in 0..150 {
        let weather = if seed % 3 == 0 {
            Weather::fair()
        } else {
            Weather::foul()
        };
        let mut link = Link::connected(seed, weather);
        command(&mut link, A, 0);
        let apart = link.random(400).into();
        link.run(Duration::from_millis(apart));
        command(&mut link, B, 0);
        link.run(LONG);
        link.agree(1);
    }
}

#[test]
fn crossing_ike_rekeys_leave_one() {
    for seed in 0..150 {
        let weather = if seed % 3 == 0 {
            Weather::fair()
        } else {
            Weather::foul()
        };
        let mut link = Link::connected(seed, weather);
        command(&mut link, A, 1);
        let apart = link.random(400).into();
        link.run(Duration::from_millis(apart));
        command(&mut link, B, 1);
        link.run(LONG);
        link.agree(1);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "seed {seed}");
    }
}

/// Anything at any time: both ends agree in the end, and can do business again.
#[test]
fn crossing_commands_of_all_kinds_settle() {
    for seed in 0..400 {
        let weather = if seed % 3 == 0 {
            Weather::fair()
        } else {
            Weather::foul()
        };
        let mut link = Link::connected(seed, weather);
        for _ in 0..6 {
            let (side, what) = (link.random(2), link.random(5));
            command(&mut link, side as usize, what);
            let apart = link.random(1500).into();
            link.run(Duration::from_millis(apart));
        }
        link.run(2 * LONG);
        let children = link.sides[A].dataplane.installed.len();
        assert!(
            children <= 1,
            "seed {seed}: {children} children\n{:#?}\n{:#?}",
            story(&link.sides[A]),
            story(&link.sides[B])
        );
        link.agree(children);
        command(&mut link, A, 2);
        link.run(LONG);
        link.agree(1);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "seed {seed}");
    }
}

#[test]
fn terminate_takes_both_ends_down() {
    for (what, ike) in [(3, 1), (4, 0)] {
        let mut link = Link::connected(1, Weather::fair());
        command(&mut link, A, what);
        link.run(SECOND);
        link.agree(0);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (ike, ike));
        command(&mut link, B, 2);
        link.run(SECOND);
        link.agree(1);
    }
}

#[test]
fn crossing_terminations_settle() {
    for seed in 0..40 {
        let mut link = Link::connected(seed, Weather::foul());
        let (what, other) = (3 + link.random(2), 3 + link.random(2));
        command(&mut link, A, what);
        command(&mut link, B, other);
        link.run(LONG);
        link.agree(0);
    }
}

#[test]
fn commands_that_make_no_sense_say_so() {
    let mut link = Link::new(1, Weather::fair(), [vec![peer(A)], vec![peer(B)]]);
    let now = link.now;
    let unknown = CommandError::UnknownPeer("nobody".to_owned());
    assert_eq!(link.at(A).initiate(now, "nobody", None), Err(unknown));
    let error = link.at(A).initiate(now, "peer", Some("wan")).unwrap_err();
    assert_eq!(error.to_string(), "peer `peer` has no child called `wan`");
    let error = link.at(A).rekey_ike(now, "peer").unwrap_err();
    assert_eq!(error.to_string(), "peer `peer` is not up");
    assert!(link.at(A).terminate(now, "peer", None).is_err());
    assert_eq!(link.at(A).rekey_sa(now, 7), Err(CommandError::UnknownSa(7)));
}

/// Lifetimes rekey by themselves, for days.
#[test]
fn lifetimes_are_kept() {
    let (mut a, mut b) = (peer(A), peer(B));
    for p in [&mut a, &mut b] {
        p.ike_lifetime = 600 * SECOND;
        p.children[0].lifetime = 200 * SECOND;
    }
    let mut link = Link::new(3, Weather::foul(), [vec![a], vec![b]]);
    command(&mut link, A, 2);
    link.run(6000 * SECOND);
    let children = link.sides[A].dataplane.ever_installed;
    assert!((28..50).contains(&children), "{children} child SAs");
    let rekeys = |event: &&Event| matches!(event, Event::IkeEstablished { rekeyed: true, .. });
    let rekeys = link.sides[A].events.iter().filter(rekeys).count();
    assert!((8..16).contains(&rekeys), "{rekeys} rekeys");
    let bad = |event: &&Event| {
        matches!(event, Event::Refused { .. })
            || matches!(event, Event::ChildRemoved { reason, .. }
                if !matches!(reason, RemovalReason::Replaced | RemovalReason::Redundant))
    };
    assert_eq!(link.sides[A].events.iter().filter(bad).count(), 0);
}

/// A soft lifetime of the dataplane rekeys, a hard one deletes.
#[test]
fn lifetimes_of_the_dataplane_are_heard() {
    let mut link = Link::connected(1, Weather::fair());
    let (now, inbound) = (
        link.now,
        *link.sides[A].dataplane.installed.keys().next().unwrap(),
    );
    link.at(A).rekey_sa(now, inbound).unwrap();
    link.at(A).rekey_sa(now, inbound).unwrap();
    link.run(10 * SECOND);
    link.agree(1);
    assert_eq!(link.sides[A].dataplane.ever_installed, 2);
    let (now, inbound) = (
        link.now,
        *link.sides[A].dataplane.installed.keys().next().unwrap(),
    );
    link.at(A).expire_sa(now, inbound).unwrap();
    link.run(SECOND);
    link.agree(0);
}

/// RFC 7296 1.3: another group for a child's own key exchange costs a round trip.
#[test]
fn a_child_changes_its_group() {
    let (mut a, mut b) = (peer(A), peer(B));
    a.children[0].proposals = vec![
        "aes256gcm16-x25519".parse().unwrap(),
        "aes256gcm16-ecp256".parse().unwrap(),
    ];
    b.children[0].proposals = vec!["aes256gcm16-ecp256".parse().unwrap()];
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
    command(&mut link, A, 2);
    link.run(SECOND);
    command(&mut link, A, 0);
    link.run(10 * SECOND);
    link.agree(1);
    assert_eq!(link.sides[A].dataplane.ever_installed, 2);
    assert!(link.refusals(A).is_empty());
}

#[test]
fn a_full_dataplane_refuses_and_recovers() {
    let mut b = peer(B);
    b.children.push(child(B, "dmz", 2));
    let mut a = peer(A);
    a.children.push(child(A, "dmz", 2));
    a.start = true;
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
    link.sides[B].spis.limit(1);
    link.run(10 * SECOND);
    link.agree(1);
    assert_eq!(
        link.refusals(B)[0],
        "the dataplane has no room for another SA"
    );
    assert!(link.refusals(A)[0].contains("NO_ADDITIONAL_SAS"));
    link.sides[B].spis.limit(9);
    link.run(LONG);
    link.agree(2);
}

#[test]
fn too_many_tasks_are_refused() {
    let settings = Settings {
        task_limit: 0,
        ..Settings::default()
    };
    let mut link = Link::with_settings(
        1,
        Weather::fair(),
        [vec![peer(A)], vec![peer(B)]],
        &settings,
    );
    command(&mut link, A, 2);
    link.run(SECOND);
    let now = link.now;
    let error = link.at(A).rekey_ike(now, "peer").unwrap_err();
    assert!(error.to_string().contains("too many exchanges"));
    assert_eq!(link.count(A, Counter::Malformed), 0);
}
