//! Peers that vanish or restart, planes that die, and orderly goodbyes (RFC 7296 2.4).

mod link;

use std::time::Duration;

use esplanade_ike::{AdoptedChild, CloseReason, Counter, Event, RemovalReason};
use link::*;

const SECOND: Duration = Duration::from_secs(1);

fn closed(link: &Link, side: usize, wanted: &CloseReason) -> bool {
    link.sides[side]
        .events
        .iter()
        .any(|event| matches!(event, Event::IkeClosed { reason, .. } if reason == wanted))
}

/// What a restarted control plane reads back of a side's dataplane.
fn found(link: &Link, side: usize) -> Vec<AdoptedChild> {
    let dataplane = &link.sides[side].dataplane;
    let adopted = |sa: &esplanade_ike::ChildSa| AdoptedChild {
        identity: None,
        remote_ts: Vec::new(),
        peer: sa.peer.clone(),
        child: sa.child.clone(),
        inbound: sa.inbound,
        outbound: sa.outbound,
        mode: sa.mode,
        remote: sa.remote,
        encapsulation: sa.encapsulation,
        selected: dataplane.selected.get(&sa.child) == Some(&sa.inbound),
    };
    dataplane.installed.values().map(adopted).collect()
}

#[test]
fn a_vanished_peer_is_noticed_and_called_again() {
    let mut a = peer(A);
    a.start = true;
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![peer(B)]]);
    link.run(SECOND);
    link.agree(1);
    link.sides[B].deaf = true;
    link.sides[A].deaf = true;
    link.run(200 * SECOND);
    assert!(closed(
        &link,
        A,
        &CloseReason::PeerVanished { transmissions: 8 }
    ));
    link.agree(0);
    link.sides[B].deaf = false;
    link.sides[A].deaf = false;
    link.run(120 * SECOND);
    link.agree(1);
}

/// A peer that lost all its state calls anew: INITIAL_CONTACT clears the old at once.
#[test]
fn initial_contact_clears_what_was() {
    let mut link = Link::connected(1, Weather::fair());
    link.restart(A, 77, vec![peer(A)]);
    link.sides[A].dataplane = Dataplane::default();
    let spis = link.sides[A].spis.clone();
    spis.clear();
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(SECOND);
    assert!(closed(&link, B, &CloseReason::InitialContact));
    link.run(10 * SECOND);
    link.agree(1);
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
}

/// A message of an IKE SA that we do not know is answered with INVALID_IKE_SPI, which makes its
/// sender ask whether we live; the answer fails, and the sender drops the IKE SA.
#[test]
fn a_forgetful_peer_is_found_out() {
    let mut link = Link::connected(1, Weather::fair());
    link.restart(A, 77, vec![peer(A)]);
    link.sides[A].dataplane = Dataplane::default();
    link.sides[A].spis.clear();
    link.run(200 * SECOND);
    link.agree(0);
    assert_eq!(link.ike_sas(B), 0);
    assert!(closed(
        &link,
        B,
        &CloseReason::PeerVanished { transmissions: 8 }
    ));
}

/// The control plane of one side dies under traffic and comes back: no packet is lost, neither
/// when it finds what is installed nor when fresh SAs take over.
#[test]
fn a_restarted_control_plane_adopts() {
    for seed in 0..20 {
        for who in [A, B] {
            let mut link = Link::connected(seed, Weather::fair());
            link.weather.delay = (Duration::from_millis(1), Duration::from_millis(30));
            link.run_with_traffic(SECOND, "lan");
            let children = found(&link, who);
            link.restart(who, 1000 + seed, vec![peer(who)]);
            let deaf = Duration::from_millis(700);
            link.sides[who].deaf = true;
            link.run_with_traffic(deaf, "lan");
            link.sides[who].deaf = false;
            let (now, old) = (link.now, children[0].inbound);
            link.at(who).adopt(now, children);
            link.run_with_traffic(30 * SECOND, "lan");
            assert_eq!(
                link.lost,
                0,
                "seed {seed}: {:#?}",
                story(&link.sides[1 - who])
            );
            assert!(!closed(&link, 1 - who, &CloseReason::InitialContact));
            assert!(!link.sides[who].dataplane.installed.contains_key(&old));
            // The peer finds that the old IKE SA has no other end.
            link.run(200 * SECOND);
            link.agree(1);
            assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
        }
    }
}

/// The same with packets one way only: nothing shows the peer that the new SA is in use but IKE.
#[test]
fn adoption_moves_one_way_traffic() {
    for from in [A, B] {
        let mut link = Link::connected(5, Weather::fair());
        let children = found(&link, A);
        link.restart(A, 99, vec![peer(A)]);
        let now = link.now;
        link.at(A).adopt(now, children);
        for _ in 0..2000 {
            link.packet(from, "lan");
            link.run(Duration::from_millis(10));
        }
        assert_eq!(link.lost, 0);
    }
}

/// It dies again before the handshake after its first return has ended, at each point of it.
#[test]
fn a_control_plane_that_restarts_twice_adopts_twice() {
    let (mut unfinished, mut one_sided) = (0, 0);
    for seed in 0..40 {
        for who in [A, B] {
            let mut link = Link::connected(seed, Weather::fair());
            link.weather.delay = (Duration::from_millis(1), Duration::from_millis(30));
            link.run_with_traffic(SECOND, "lan");
            let first = found(&link, who)[0].inbound;
            for (again, time) in [(0, Duration::from_millis(seed * 2)), (1, 30 * SECOND)] {
                link.restart(who, 1000 + 2 * seed + again, vec![peer(who)]);
                link.sides[who].deaf = true;
                link.run_with_traffic(Duration::from_millis(700), "lan");
                link.sides[who].deaf = false;
                let (now, children) = (link.now, found(&link, who));
                link.at(who).adopt(now, children);
                link.run_with_traffic(time, "lan");
                if again == 0 && link.sides[who].dataplane.installed.keys().eq([&first]) {
                    unfinished += 1;
                    let theirs = link.sides[1 - who].dataplane.installed.len();
                    one_sided += usize::from(theirs > 1);
                }
            }
            let told = story(&link.sides[1 - who]);
            assert_eq!(link.lost, 0, "seed {seed}, side {who}: {told:#?}");
            assert!(!closed(&link, 1 - who, &CloseReason::InitialContact));
            assert!(!link.sides[who].dataplane.installed.contains_key(&first));
            link.run(200 * SECOND);
            link.agree(1);
            assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
        }
    }
    assert!(
        unfinished > 40 && one_sided > 0,
        "{unfinished} handshakes were cut short, {one_sided} in the last step"
    );
}

/// Restarting twice with packets one way only: the peer may hold a child SA that has no other half,
/// and must not use it in place of the younger one that has.
#[test]
fn adopting_twice_moves_one_way_traffic() {
    for time in [8, 12, 17, 19, 22].map(Duration::from_millis) {
        for from in [A, B] {
            let mut link = Link::connected(5, Weather::fair());
            for (seed, time) in [(99, time), (100, 7 * SECOND)] {
                let children = found(&link, A);
                link.restart(A, seed, vec![peer(A)]);
                let now = link.now;
                link.at(A).adopt(now, children);
                let end = link.now + time;
                while link.now < end {
                    link.packet(from, "lan");
                    link.run(Duration::from_millis(1));
                }
            }
            assert_eq!(
                link.lost,
                0,
                "{time:?} {from}: {:#?}",
                story(&link.sides[B])
            );
        }
    }
}

/// Has the control plane of `who` come back to what its dataplane holds.
fn come_back(link: &mut Link, who: usize, seed: u64) {
    let children = found(link, who);
    link.restart(who, seed, vec![peer(who)]);
    link.sides[who].deaf = false;
    let now = link.now;
    link.at(who).adopt(now, children);
}

/// It dies when its peer has just answered IKE_AUTH, and stays away for long. The peer has a child SA
/// that nobody else holds, and must not use it. Once the dead one is back, the peer sees by its newest
/// IKE SA that it lives, and soon gives up both others.
#[test]
fn a_control_plane_that_dies_in_ike_auth_may_stay_away() {
    for seed in 0..20 {
        for (who, from) in [
            (A, None),
            (B, None),
            (A, Some(A)),
            (A, Some(B)),
            (B, Some(A)),
        ] {
            let mut link = Link::connected(seed, Weather::fair());
            let traffic = |link: &mut Link, duration: Duration| {
                let end = link.now + duration;
                while link.now < end {
                    for side in [A, B].into_iter().filter(|s| from.is_none_or(|f| f == *s)) {
                        link.packet(side, "lan");
                    }
                    link.run(Duration::from_millis(10));
                }
            };
            traffic(&mut link, SECOND);
            come_back(&mut link, who, 1000 + seed);
            let theirs = |link: &Link| link.sides[1 - who].dataplane.installed.len();
            while theirs(&link) < 2 {
                link.run(Duration::from_millis(1));
            }
            assert_eq!(link.sides[who].dataplane.installed.len(), 1);
            link.sides[who].deaf = true;
            link.restart(who, 2000 + seed, vec![peer(who)]);
            let away = u32::try_from(seed).unwrap() * 2;
            traffic(&mut link, SECOND + away * SECOND);
            come_back(&mut link, who, 3000 + seed);
            traffic(&mut link, 9 * SECOND);
            let told = story(&link.sides[1 - who]);
            assert_eq!(link.lost, 0, "seed {seed}, {who}, {from:?}: {told:#?}");
            assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "{told:#?}");
            assert!(closed(&link, 1 - who, &CloseReason::Supplanted));
            link.run(6 * SECOND);
            link.agree(1);
        }
    }
}

/// A newer IKE SA whose peer has not shown that it holds it casts no doubt: the old one is given as
/// much time as any.
#[test]
fn an_unproven_successor_hastens_nothing() {
    let mut link = Link::connected(1, Weather::fair());
    come_back(&mut link, A, 77);
    while link.sides[B].dataplane.installed.len() < 2 {
        link.run(Duration::from_millis(1));
    }
    link.sides[A].deaf = true;
    link.restart(A, 78, vec![peer(A)]);
    link.run(30 * SECOND);
    assert_eq!(link.ike_sas(B), 2);
    assert_eq!(link.sides[B].dataplane.installed.len(), 2);
    link.run(60 * SECOND);
    assert_eq!(link.ike_sas(B), 0);
    assert!(closed(
        &link,
        B,
        &CloseReason::PeerVanished { transmissions: 8 }
    ));
}

/// Who lives answers in time, on a bad link too: of the two IKE SAs of a simultaneous start, only one
/// that the other end has given up, by INITIAL_CONTACT, is supplanted.
#[test]
fn a_doubted_ike_sa_that_lives_stays() {
    let mut supplanted = 0;
    for seed in 0..100 {
        let mut weather = Weather::foul();
        weather.loss_percent = 5;
        let mut link = Link::new(seed, weather, [vec![peer(A)], vec![peer(B)]]);
        for side in [A, B] {
            let now = link.now;
            link.at(side).initiate(now, "peer", None).unwrap();
        }
        link.run(40 * SECOND);
        link.agree(1);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "seed {seed}");
        for side in [A, B] {
            if closed(&link, side, &CloseReason::Supplanted) {
                supplanted += 1;
                assert!(closed(&link, 1 - side, &CloseReason::InitialContact));
            }
        }
    }
    assert!(supplanted > 0);
}

/// RFC 7296 2.4: "If there has only been outgoing traffic on all of the SAs associated with an IKE
/// SA, it is essential to confirm liveness of the other endpoint to avoid black holes."
#[test]
fn traffic_without_an_answer_is_asked_about() {
    let mut patient = peer(A);
    patient.dpd_delay = 3600 * SECOND;
    let mut link = Link::new(1, Weather::fair(), [vec![patient], vec![peer(B)]]);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(SECOND);
    let inbound = found(&link, A)[0].inbound;

    // One that was heard just now is not asked, nor one that answers too often.
    let datagrams = link.datagrams;
    for _ in 0..29 {
        let now = link.now;
        link.at(A).unanswered(now, inbound);
        link.run(SECOND);
    }
    let asked = link.datagrams - datagrams;
    assert_eq!(asked, 4, "requests and answers in half a minute");

    link.sides[B].deaf = true;
    link.run(10 * SECOND);
    let now = link.now;
    link.at(A).unanswered(now, inbound);
    link.run(65 * SECOND);
    assert!(closed(
        &link,
        A,
        &CloseReason::PeerVanished { transmissions: 8 }
    ));
    // One that is gone harms nobody.
    let now = link.now;
    link.at(A).unanswered(now, inbound);
}

#[test]
fn adopted_children_that_are_not_configured_go() {
    let mut link = Link::connected(1, Weather::fair());
    let children = found(&link, A);
    let mut config = peer(A);
    config.children = vec![child(A, "other", 9)];
    link.restart(A, 9, vec![config]);
    let now = link.now;
    link.at(A).adopt(now, children);
    link.drain();
    assert!(link.sides[A].dataplane.installed.is_empty());
}

/// The dataplane of one side dies: every child is rekeyed at once, up to a hundred; the others
/// follow at their pace.
#[test]
fn a_lost_dataplane_gets_fresh_keys() {
    for who in [A, B] {
        let (mut a, mut b) = (peer(A), peer(B));
        let children = |side: usize| {
            (0..150)
                .map(|n| child(side, &format!("net-{n}"), n))
                .collect()
        };
        a.children = children(A);
        b.children = children(B);
        let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
        let now = link.now;
        link.at(A).initiate(now, "peer", None).unwrap();
        link.run(30 * SECOND);
        link.agree(150);
        let now = link.now;
        link.at(who).dataplane_lost(now);
        // The bench's dataplane forgets what it held; the events remove it all the same.
        link.run(60 * SECOND);
        link.agree(150);
        assert_eq!(link.sides[who].dataplane.ever_installed, 300);
        let replaced = |event: &&Event| {
            matches!(
                event,
                Event::ChildRemoved {
                    reason: RemovalReason::Replaced,
                    ..
                }
            )
        };
        assert_eq!(link.sides[who].events.iter().filter(replaced).count(), 150);
    }
}

/// A hundred tunnels to a hundred peers are back within a second.
#[test]
fn a_lost_dataplane_with_a_hundred_peers_is_back_in_a_second() {
    let many = |side: usize| -> Vec<_> {
        (0..100_u8)
            .map(|n| {
                let mut one = peer(side);
                one.name = format!("peer-{n}").into();
                let identity = |s: usize| format!("gw-{s}-{n}.example.org").parse().unwrap();
                one.local_id = identity(side);
                one.remote_id = identity(1 - side);
                one.children = vec![child(side, &format!("lan-{n}"), n)];
                one.start = side == A;
                one
            })
            .collect()
    };
    let mut link = Link::new(1, Weather::fair(), [many(A), many(B)]);
    link.run(30 * SECOND);
    link.agree(100);
    let now = link.now;
    link.at(A).dataplane_lost(now);
    link.run(SECOND);
    assert_eq!(link.sides[A].dataplane.ever_installed, 200);
    link.run(10 * SECOND);
    link.agree(100);
}

#[test]
fn shutdown_says_goodbye() {
    for seed in 0..30 {
        let mut link = Link::connected(seed, Weather::foul());
        let now = link.now;
        link.at(A).shutdown(now);
        link.run(6 * SECOND);
        assert!(link.at(A).is_idle());
        assert!(link.sides[A].dataplane.installed.is_empty());
        let error = link.sides[A]
            .endpoint
            .initiate(now, "peer", None)
            .unwrap_err();
        assert_eq!(error.to_string(), "the gateway is shutting down");
        link.run(120 * SECOND);
        link.agree(0);
    }
}

#[test]
fn shutdown_does_not_wait_for_the_dead() {
    let mut link = Link::connected(1, Weather::fair());
    link.sides[B].deaf = true;
    let now = link.now;
    link.at(A).shutdown(now);
    link.run(6 * SECOND);
    assert!(link.at(A).is_idle());
}

/// Reload: unchanged peers are left alone, removed ones are terminated, changed ones start anew.
#[test]
fn a_new_configuration_changes_only_what_it_must() {
    let mut link = Link::connected(1, Weather::fair());
    let now = link.now;
    link.at(A).configure(now, vec![peer(A)]);
    link.run(SECOND);
    assert_eq!(link.sides[A].dataplane.ever_installed, 1);

    let with = |side: usize| {
        let mut config = peer(side);
        config.children.push(child(side, "dmz", 2));
        config
    };
    let now = link.now;
    link.at(B).configure(now, vec![with(B)]);
    link.at(A).configure(now, vec![with(A)]);
    link.run(10 * SECOND);
    link.agree(2);
    assert_eq!(link.sides[A].dataplane.ever_installed, 2);

    let now = link.now;
    link.at(A).configure(now, vec![peer(A)]);
    link.run(10 * SECOND);
    link.agree(1);

    let mut changed = peer(A);
    changed.dpd_delay = 7 * SECOND;
    let now = link.now;
    link.at(A).configure(now, vec![changed]);
    link.run(10 * SECOND);
    link.agree(1);
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));

    let now = link.now;
    link.at(A).configure(now, vec![]);
    link.run(10 * SECOND);
    link.agree(0);
}

/// A child that changes while it is rekeyed: the peer answers what it was offered, which is not wanted any more.
#[test]
fn a_child_that_changes_while_it_is_rekeyed_is_what_it_is_now() {
    for millis in 0..24 {
        let mut link = Link::connected(1, Weather::fair());
        let now = link.now;
        link.at(A).rekey_child(now, "peer", None).unwrap();
        link.run(Duration::from_millis(millis));
        let mut changed = peer(A);
        changed.children[0].local_ts = vec!["10.1.1.0/25".parse().unwrap()];
        let (now, local_ts) = (link.now, changed.children[0].local_ts.clone());
        link.at(A).configure(now, vec![changed]);
        link.run(20 * SECOND);
        link.agree(1);
        let sa = link.sides[A].endpoint.child_sas().next().unwrap();
        assert_eq!(sa.local_ts, local_ts, "{millis} ms");
    }
}

/// And so is one that changes while it is negotiated for the first time.
#[test]
fn a_child_that_changes_while_it_is_made_is_what_it_is_now() {
    for millis in 0..48 {
        let mut link = Link::new(1, Weather::fair(), [vec![peer(A)], vec![peer(B)]]);
        let now = link.now;
        link.at(A).initiate(now, "peer", None).unwrap();
        link.run(Duration::from_millis(millis));
        let mut changed = peer(A);
        changed.children[0].local_ts = vec!["10.1.1.0/25".parse().unwrap()];
        let (now, local_ts) = (link.now, changed.children[0].local_ts.clone());
        link.at(A).configure(now, vec![changed]);
        link.run(20 * SECOND);
        link.agree(1);
        let sa = link.sides[A].endpoint.child_sas().next().unwrap();
        assert_eq!(sa.local_ts, local_ts, "{millis} ms");
    }
}

/// Where B has moved to.
const ELSEWHERE: &str = "192.0.2.3";

fn moved() -> [esplanade_ike::PeerConfig; 2] {
    let (mut a, mut b) = (peer(A), peer(B));
    a.start = true;
    a.remote = ELSEWHERE.parse().unwrap();
    b.local = a.remote;
    [a, b]
}

/// The states of a side's IKE SAs and whom they are with.
fn states(link: &Link, side: usize) -> Vec<(&'static str, String)> {
    let views = link.sides[side].endpoint.ike_sas();
    views
        .map(|sa| (sa.state, sa.path.remote.ip().to_string()))
        .collect()
}

/// The address of a dead peer is changed while a request to it is outstanding: nobody waits for it.
#[test]
fn a_changed_peer_does_not_wait_for_the_dead() {
    let mut config = peer(A);
    config.start = true;
    config.dpd_delay = 5 * SECOND;
    let mut link = Link::new(1, Weather::fair(), [vec![config], vec![peer(B)]]);
    link.run(SECOND);
    link.agree(1);
    // An old child lingers beside its successor.
    let (now, inbound) = (link.now, found(&link, A)[0].inbound);
    link.at(A).rekey_sa(now, inbound).unwrap();
    link.run(SECOND);
    assert_eq!(link.sides[A].dataplane.installed.len(), 2);
    link.sides[B].deaf = true;
    link.run(8 * SECOND);
    assert!(link.count(A, Counter::Retransmitted) > 0);

    let (now, [a, b]) = (link.now, moved());
    link.at(A).configure(now, vec![a]);
    link.drain();
    assert!(link.sides[A].dataplane.installed.is_empty());
    assert_eq!(link.sides[A].spis.taken(), 0);
    assert!(closed(&link, A, &CloseReason::Terminated));
    assert_eq!(states(&link, A), [("connecting", ELSEWHERE.to_owned())]);

    link.restart(B, 77, vec![b]);
    link.sides[B].dataplane = Dataplane::default();
    link.sides[B].spis.clear();
    link.sides[B].deaf = false;
    link.run(5 * SECOND);
    link.agree(1);
    assert_eq!(states(&link, A), [("established", ELSEWHERE.to_owned())]);
}

/// The same while our IKE_AUTH is outstanding.
#[test]
fn a_changed_peer_does_not_wait_for_authentication() {
    let mut config = peer(A);
    config.start = true;
    let mut link = Link::new(1, Weather::fair(), [vec![config], vec![peer(B)]]);
    link.run(Duration::from_millis(12));
    link.sides[B].deaf = true;
    assert_eq!(
        states(&link, A),
        [("authenticating", ADDRESSES[B].to_owned())]
    );
    let (now, [a, _]) = (link.now, moved());
    link.at(A).configure(now, vec![a]);
    assert_eq!(states(&link, A), [("connecting", ELSEWHERE.to_owned())]);
    assert_eq!(link.sides[A].spis.taken(), 0);
}

/// A removed peer that lives is told, even if it has yet to answer.
#[test]
fn a_removed_peer_is_told_at_once() {
    let mut link = Link::connected(1, Weather::fair());
    let (now, inbound) = (link.now, found(&link, A)[0].inbound);
    link.at(A).rekey_sa(now, inbound).unwrap();
    link.at(A).configure(now, vec![]);
    link.drain();
    assert!(link.sides[A].dataplane.installed.is_empty());
    assert_eq!(link.ike_sas(A), 0);
    link.run(SECOND);
    assert_eq!(link.ike_sas(B), 0);
    link.run(10 * SECOND);
    link.agree(0);
}
