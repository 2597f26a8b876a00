//! Terminations that have to wait for their turn, and children that the peer deletes
//! (RFC 7296 1.4.1, 2.3, 2.25).

mod link;

use std::time::Duration;

use esplanade_ike::{CloseReason, Event, PeerConfig, RemovalReason};
use link::*;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(200);

fn removals(link: &Link, side: usize, wanted: &RemovalReason) -> usize {
    let removed =
        |event: &&Event| matches!(event, Event::ChildRemoved { reason, .. } if reason == wanted);
    link.sides[side].events.iter().filter(removed).count()
}

fn inbound(link: &Link, side: usize) -> u32 {
    *link.sides[side].dataplane.installed.keys().next().unwrap()
}

/// Terminates the peer, or its child, at A.
fn terminate(link: &mut Link, child: Option<&str>) {
    let now = link.now;
    link.at(A).terminate(now, "peer", child).unwrap();
    link.drain();
}

/// The first request of A that B does not answer is what everything else waits for.
fn with_a_request_outstanding(since: Duration) -> Link {
    let mut link = Link::connected(1, Weather::fair());
    link.sides[B].deaf = true;
    let (now, inbound) = (link.now, inbound(&link, A));
    link.at(A).rekey_sa(now, inbound).unwrap();
    link.run(since);
    link
}

/// Whoever asks again and again does not put the end off.
#[test]
fn terminating_a_dead_peer_is_no_slower_when_it_is_repeated() {
    let mut link = with_a_request_outstanding(20 * SECOND);
    terminate(&mut link, None);
    for _ in 0..9 {
        let now = link.now;
        let _ = link.at(A).terminate(now, "peer", None);
        link.run(SECOND);
    }
    assert_eq!(link.ike_sas(A), 0);
}

/// Whatever is outstanding, and for how long: traffic ends at once, IKE soon.
#[test]
fn terminating_a_dead_peer_is_quick() {
    for since in [0, 2, 20, 50].map(|seconds| seconds * SECOND) {
        for child in [None, Some("lan")] {
            let mut link = with_a_request_outstanding(since);
            terminate(&mut link, child);
            assert!(link.sides[A].dataplane.installed.is_empty());
            assert_eq!(link.sides[A].endpoint.child_sas().count(), 0);
            if child.is_none() {
                link.run(9 * SECOND);
                assert_eq!(link.ike_sas(A), 0, "after {since:?}");
                let ended = |event: &Event| {
                    let reason = CloseReason::Terminated;
                    matches!(event, Event::IkeClosed { reason: r, .. } if *r == reason)
                };
                assert!(link.sides[A].events.iter().any(ended));
            }
            link.run(LONG);
            assert_eq!(link.sides[A].spis.taken(), 0, "SPIs leak");
        }
    }
}

/// Our window is 1 (RFC 7296 2.3: "An endpoint MUST wait for a response to each of its messages
/// before sending a subsequent message"): DELETE follows as soon as the answer is there, and the
/// child that comes with it is of no use.
#[test]
fn a_termination_overtakes_what_is_under_way() {
    for seed in 0..60 {
        let weather = if seed % 2 == 0 {
            Weather::fair()
        } else {
            Weather::foul()
        };
        for child in [None, Some("lan")] {
            for what in 0..3 {
                let mut link = Link::connected(seed, weather);
                let now = link.now;
                match what {
                    0 => link.at(A).rekey_child(now, "peer", None).unwrap(),
                    1 => link.at(A).rekey_ike(now, "peer").unwrap(),
                    _ => {
                        // Both rekey, and the peer's rekey arrives first.
                        link.at(A).rekey_child(now, "peer", None).unwrap();
                        link.at(B).rekey_child(now, "peer", None).unwrap();
                    }
                }
                let apart = link.random(12).into();
                link.run(Duration::from_millis(apart));
                terminate(&mut link, child);
                assert!(link.sides[A].dataplane.installed.is_empty());
                link.run(LONG);
                link.agree(0);
                let ike = usize::from(child.is_some());
                assert_eq!(
                    (link.ike_sas(A), link.ike_sas(B)),
                    (ike, ike),
                    "{seed} {what}"
                );
            }
        }
    }
}

/// A child that is asked for, or comes with IKE_AUTH, and is terminated before the answer.
#[test]
fn a_child_is_unwished_before_it_is_there() {
    for millis in 0..24 {
        for child in [None, Some("lan")] {
            let mut link = Link::new(1, Weather::fair(), [vec![peer(A)], vec![peer(B)]]);
            let now = link.now;
            link.at(A).initiate(now, "peer", None).unwrap();
            link.run(Duration::from_millis(millis));
            terminate(&mut link, child);
            link.run(LONG);
            link.agree(0);
            // It comes back when it is asked for, be the old one gone or not.
            let now = link.now;
            link.at(A).initiate(now, "peer", None).unwrap();
            link.run(Duration::from_millis(millis));
            terminate(&mut link, child);
            let now = link.now;
            link.at(A).initiate(now, "peer", None).unwrap();
            link.run(LONG);
            link.agree(1);
            assert_eq!(
                (link.ike_sas(A), link.ike_sas(B)),
                (1, 1),
                "{millis} ms {child:?}"
            );
        }
    }
}

/// While the DELETE of a terminated child waits, or is under way, the peer's rekey of it is put off
/// (RFC 7296 2.25.1) and does not bring it back.
#[test]
fn a_terminated_child_is_not_brought_back_by_a_rekey() {
    for millis in 0..30 {
        let mut link = Link::connected(1, Weather::fair());
        let now = link.now;
        link.at(A).rekey_ike(now, "peer").unwrap();
        terminate(&mut link, Some("lan"));
        link.run(Duration::from_millis(millis));
        let (now, inbound) = (link.now, link.sides[B].dataplane.installed.keys().next());
        if let Some(&inbound) = inbound {
            link.at(B).rekey_sa(now, inbound).unwrap();
        }
        link.run(LONG);
        link.agree(0);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
    }
}

fn started(mut config: PeerConfig) -> PeerConfig {
    config.start = true;
    config
}

/// A has B and its child up because it is configured to.
fn kept_up() -> Link {
    let mut link = Link::new(1, Weather::fair(), [vec![started(peer(A))], vec![peer(B)]]);
    link.run(LONG);
    link.agree(1);
    link
}

/// Like strongSwan's `close_action = start`.
#[test]
fn a_child_that_the_peer_deletes_is_made_anew() {
    let mut link = kept_up();
    let now = link.now;
    link.at(B).terminate(now, "peer", Some("lan")).unwrap();
    link.run(SECOND);
    link.agree(0);
    link.run(3 * SECOND);
    link.agree(1);
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
    assert_eq!(removals(&link, A, &RemovalReason::DeletedByPeer), 1);
}

/// A peer that does not want it is asked ever more seldom, and promptly again once it has kept it for a while.
#[test]
fn the_pauses_grow() {
    let mut link = kept_up();
    let made = |link: &Link| link.sides[A].dataplane.ever_installed;
    // Traffic that waits for it does not shorten the pause.
    let kept_down = |link: &mut Link, duration: u32| {
        let before = made(link);
        for _ in 0..duration * 10 {
            let now = link.now;
            let _ = link.at(B).terminate(now, "peer", Some("lan"));
            if link.sides[A].dataplane.installed.is_empty() {
                link.at(A).acquire(now, "peer", "lan").unwrap();
            }
            link.run(SECOND / 10);
        }
        made(link) - before
    };
    let first = kept_down(&mut link, 60);
    assert!((3..=6).contains(&first), "{first} in the first minute");
    let later = kept_down(&mut link, 600);
    assert!((5..=12).contains(&later), "{later} in ten more minutes");
    link.run(LONG);
    link.agree(1);
    let again = kept_down(&mut link, 60);
    assert!((3..=6).contains(&again), "{again} in a minute");
}

/// An operator does, and so does traffic where no peer has deleted anything.
#[test]
fn a_command_does_not_wait_for_the_pause() {
    let mut link = kept_up();
    let now = link.now;
    link.at(B).terminate(now, "peer", Some("lan")).unwrap();
    link.run(SECOND);
    let now = link.now;
    link.at(A).acquire(now, "peer", "lan").unwrap();
    link.run(SECOND / 10);
    link.agree(0);
    let now = link.now;
    link.at(A).initiate(now, "peer", Some("lan")).unwrap();
    link.run(SECOND / 10);
    link.agree(1);

    let mut link = Link::new(1, Weather::fair(), [vec![peer(A)], vec![peer(B)]]);
    let now = link.now;
    link.at(A).acquire(now, "peer", "lan").unwrap();
    link.run(SECOND / 10);
    link.agree(1);
}

/// Not ours to start, or terminated by us: it stays down.
#[test]
fn a_child_stays_down_where_nobody_is_to_start_it() {
    let mut waits = started(peer(A));
    waits.children[0].start = false;
    for config in [peer(A), waits] {
        let mut link = Link::new(1, Weather::fair(), [vec![config], vec![peer(B)]]);
        let now = link.now;
        link.at(A).initiate(now, "peer", Some("lan")).unwrap();
        link.run(LONG);
        link.agree(1);
        let now = link.now;
        link.at(B).terminate(now, "peer", Some("lan")).unwrap();
        link.run(LONG);
        link.agree(0);
    }
    let mut link = kept_up();
    let now = link.now;
    link.at(A).terminate(now, "peer", Some("lan")).unwrap();
    link.at(B).terminate(now, "peer", Some("lan")).unwrap();
    link.run(LONG);
    link.agree(0);
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
}

/// Both ends terminate, ours while it waits: that is no reason to call again.
#[test]
fn a_peer_that_is_terminated_by_both_stays_down() {
    let mut link = kept_up();
    let now = link.now;
    link.at(A).rekey_child(now, "peer", None).unwrap();
    link.at(A).terminate(now, "peer", None).unwrap();
    link.at(B).terminate(now, "peer", None).unwrap();
    link.run(LONG);
    link.agree(0);
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (0, 0));
}

/// Deletions that belong to a rekey, crossing ones too, bring no second child.
#[test]
fn deletions_of_a_rekey_start_nothing() {
    for seed in 0..60 {
        let weather = if seed % 2 == 0 {
            Weather::fair()
        } else {
            Weather::foul()
        };
        let both = [vec![started(peer(A))], vec![started(peer(B))]];
        let mut link = Link::new(seed, weather, both);
        link.run(LONG);
        link.agree(1);
        let before = link.sides[A].dataplane.ever_installed;
        for side in [A, B] {
            let now = link.now;
            link.at(side).rekey_child(now, "peer", None).unwrap();
            let apart = link.random(400).into();
            link.run(Duration::from_millis(apart));
        }
        link.run(20 * SECOND);
        let made = link.sides[A].dataplane.ever_installed - before;
        link.run(LONG);
        link.agree(1);
        assert!((1..=2).contains(&made), "seed {seed}: {made}");
        assert_eq!(
            link.sides[A].dataplane.ever_installed - before,
            made,
            "seed {seed}"
        );
    }
}
