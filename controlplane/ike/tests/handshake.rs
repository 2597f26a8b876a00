//! IKE_SA_INIT and IKE_AUTH between two endpoints: agreement, refusals and their words, cookies,
//! NAT, floods.

mod link;

use std::net::SocketAddr;
use std::time::Duration;

use esplanade_ike::config::{Authentication, Identity, Secret};
use esplanade_ike::{Counter, Event, Path, Refusal, Settings};
use link::*;

fn connect(link: &mut Link, from: usize) {
    let now = link.now;
    link.at(from).initiate(now, "peer", None).unwrap();
    link.run(Duration::from_secs(90));
}

#[test]
fn an_initiator_and_a_responder_agree() {
    let link = Link::connected(1, Weather::fair());
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
    assert!(link.refusals(A).is_empty() && link.refusals(B).is_empty());
}

#[test]
fn bad_weather_only_delays() {
    for seed in 0..60 {
        let link = Link::connected(seed, Weather::foul());
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    let run = || {
        let link = Link::connected(7, Weather::foul());
        let spis: Vec<_> = link.sides[A]
            .endpoint
            .ike_sas()
            .map(|sa| sa.local_spi)
            .collect();
        (link.datagrams, spis)
    };
    assert_eq!(run(), run());
}

#[test]
fn every_cipher_of_esp_is_agreed_and_rekeyed() {
    for (suite, key) in [
        ("aes192gcm16", 28),
        ("chacha20poly1305-x25519-esn", 36),
        ("aes256gcm16iiv", 36),
        ("chacha20poly1305iiv", 36),
        ("aes128ccm16", 19),
        ("aes256gmac", 36),
        ("aes128-sha256-x25519", 48),
        ("aes256-sha512-esn", 96),
        ("null-sha1", 20),
    ] {
        let (mut a, mut b) = (peer(A), peer(B));
        for p in [&mut a, &mut b] {
            p.children[0].proposals = vec![suite.parse().unwrap()];
        }
        let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
        connect(&mut link, A);
        link.agree(1);
        let now = link.now;
        link.at(B).rekey_child(now, "peer", Some("lan")).unwrap();
        link.run(Duration::from_secs(10));
        link.agree(1);
        for sa in link.sides[A].dataplane.installed.values() {
            assert_eq!(sa.inbound_key.expose().len(), key, "{suite}");
            assert!(suite.starts_with(&sa.protection.to_string()), "{suite}");
        }
    }
}

#[test]
fn every_suite_carries() {
    for suite in [
        "aes256gcm16-sha384-x25519",
        "aes128gcm16-sha256-ecp256",
        "aes256gcm16-sha512-ecp384",
        "aes128gcm16-sha256-modp2048",
        "aes256-sha512-x25519",
        "aes128-sha256-ecp256",
        "aes256-sha384-prfsha256-x25519",
    ] {
        let (mut a, mut b) = (peer(A), peer(B));
        a.ike_proposals = vec![suite.parse().unwrap()];
        b.ike_proposals = a.ike_proposals.clone();
        for p in [&mut a, &mut b] {
            p.children[0].proposals = vec!["aes128gcm16-ecp256-esn".parse().unwrap()];
        }
        let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
        connect(&mut link, A);
        link.agree(1);
        let now = link.now;
        link.at(B).rekey_child(now, "peer", Some("lan")).unwrap();
        link.run(Duration::from_secs(10));
        link.at(A).rekey_ike(now, "peer").unwrap();
        link.run(Duration::from_secs(10));
        link.agree(1);
        assert_eq!(link.sides[A].dataplane.ever_installed, 2, "{suite}");
        assert_eq!(
            link.sides[A]
                .endpoint
                .ike_sas()
                .next()
                .unwrap()
                .suite
                .unwrap(),
            suite
        );
    }
}

/// RFC 7296 1.2: INVALID_KE_PAYLOAD makes the initiator start over with another group.
#[test]
fn another_group_costs_a_round_trip() {
    for cookies in [false, true] {
        let (mut a, mut b) = (peer(A), peer(B));
        a.ike_proposals = ["aes256gcm16-sha384-x25519", "aes256gcm16-sha384-ecp384"]
            .map(|s| s.parse().unwrap())
            .to_vec();
        b.ike_proposals = vec!["aes256gcm16-sha384-ecp384".parse().unwrap()];
        let cookie_threshold = if cookies { 0 } else { 32 };
        let settings = Settings {
            cookie_threshold,
            ..Settings::default()
        };
        let configs = [vec![a], vec![b]];
        let mut link = Link::with_settings(1, Weather::fair(), configs, &settings);
        connect(&mut link, A);
        link.agree(1);
        assert!(link.refusals(A).is_empty());
    }
}

/// RFC 7296 2.6: cookies when half-open IKE SAs pile up.
#[test]
fn cookies_are_asked_for_and_returned() {
    let settings = Settings {
        cookie_threshold: 0,
        ..Settings::default()
    };
    for seed in 0..10 {
        let configs = [vec![peer(A)], vec![peer(B)]];
        let mut link = Link::with_settings(seed, Weather::foul(), configs, &settings);
        connect(&mut link, A);
        link.agree(1);
        assert!(link.count(B, Counter::CookieSent) > 0);
    }
}

/// Somebody sends IKE_SA_INIT requests and never goes on.
#[test]
fn a_flood_is_bounded() {
    let settings = Settings {
        cookie_threshold: 4,
        half_open_limit: 8,
        ..Settings::default()
    };
    let configs = [vec![peer(A)], vec![peer(B)]];
    let mut link = Link::with_settings(1, Weather::fair(), configs, &settings);
    let mut flood = Vec::new();
    for seed in 0..40 {
        let (mut other, _) = endpoint(&settings, 1000 + seed);
        other.configure(link.now, vec![peer(A)]);
        other.initiate(link.now, "peer", None).unwrap();
        flood.push(other.poll_transmit().unwrap());
    }
    let now = link.now;
    for (port, transmit) in (2000..).zip(flood) {
        let path = Path {
            local: transmit.path.remote,
            remote: SocketAddr::new(transmit.path.local.ip(), port),
        };
        link.at(B).handle_datagram(now, path, &transmit.data);
    }
    assert_eq!(link.ike_sas(B), 4);
    assert_eq!(link.count(B, Counter::CookieSent), 36);
    // An honest peer gets through all the same.
    connect(&mut link, A);
    link.agree(1);
    assert_eq!(link.count(B, Counter::HalfOpenExpired), 4);
}

#[test]
fn a_wrong_key_is_refused_and_named() {
    let (a, mut b) = (peer(A), peer(B));
    b.authentication = Authentication::Psk(Secret::from(&b"incorrect donkey"[..]));
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(Duration::from_secs(1));
    link.agree(0);
    assert_eq!(
        link.refusals(B),
        ["authentication of `gw-0.example.org` failed: the pre-shared keys of both sides differ"]
    );
    assert!(link.refusals(A)[0].contains("refused our authentication as `gw-0.example.org`"));
    // Nothing that was told holds the key.
    let told = format!("{:?}{:?}", link.sides[A].events, link.sides[B].events);
    assert!(!told.contains("donkey") && !told.contains("horse"));
    // It is not wanted for good: no second try.
    link.run(Duration::from_secs(300));
    assert_eq!(link.ike_sas(A), 0);
}

#[test]
fn unknown_identities_are_refused_and_named() {
    let (mut a, b) = (peer(A), peer(B));
    a.local_id = "mallory.example.org".parse().unwrap();
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
    connect(&mut link, A);
    link.agree(0);
    let refusal = &link.refusals(B)[0];
    assert!(refusal.contains("mallory.example.org") && refusal.contains("gw-1.example.org"));

    let (mut a, mut b) = (peer(A), peer(B));
    a.remote_id = Identity::KeyId(b"branch".to_vec());
    b.local_id = a.remote_id.clone();
    a.local_id = "carol@example.org".parse().unwrap();
    b.remote_id = a.local_id.clone();
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
    connect(&mut link, A);
    link.agree(1);
}

#[test]
fn no_common_proposal_is_refused_and_named() {
    let (a, mut b) = (peer(A), peer(B));
    b.ike_proposals = vec!["aes128-sha256-ecp256".parse().unwrap()];
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
    connect(&mut link, A);
    link.agree(0);
    assert_eq!(
        link.refusals(B)[0],
        "no common proposal for the IKE SA: the peer proposes aes256gcm16-prfsha384-x25519; configured here: aes128-sha256-ecp256"
    );
    assert!(link.refusals(A)[0].contains("takes none of our proposals for the IKE SA"));
}

/// RFC 7296 1.2: the IKE SA stands though its first child is refused.
#[test]
fn a_refused_child_leaves_the_ike_sa() {
    let (mut a, b) = (peer(A), peer(B));
    a.children[0].proposals = vec!["aes128gcm16".parse().unwrap()];
    let (mut c, d) = (peer(A), peer(B));
    c.children = vec![child(A, "lan", 9)];
    for (a, b, word) in [
        (a, peer(B), "no common proposal for child `lan`"),
        (c, d, "10.2.9.0/24"),
    ] {
        let mut b = b;
        b.children[0].proposals = vec!["aes256gcm16".parse().unwrap()];
        let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
        connect(&mut link, A);
        link.agree(0);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
        assert!(link.refusals(B)[0].contains(word), "{:?}", link.refusals(B));
        assert!(
            link.refusals(A)[0].contains("`lan`"),
            "{:?}",
            link.refusals(A)
        );
    }
    drop(b);
}

/// RFC 7296 2.9: the responder narrows to what it has.
#[test]
fn selectors_are_narrowed() {
    let (mut a, b) = (peer(A), peer(B));
    a.children[0].local_ts = vec!["10.0.0.0/8".parse().unwrap()];
    a.children[0].remote_ts = vec!["0.0.0.0/0".parse().unwrap()];
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
    connect(&mut link, A);
    link.agree(1);
    let sa = link.sides[A].dataplane.installed.values().next().unwrap();
    assert_eq!(sa.local_ts, ["10.1.1.0/24".parse().unwrap()]);
    assert_eq!(sa.remote_ts, ["10.2.1.0/24".parse().unwrap()]);
}

#[test]
fn several_children_come_up() {
    let (mut a, mut b) = (peer(A), peer(B));
    for (side, p) in [(A, &mut a), (B, &mut b)] {
        p.children
            .extend([child(side, "dmz", 2), child(side, "voip", 3)]);
    }
    for seed in 0..20 {
        let configs = [vec![a.clone()], vec![b.clone()]];
        let mut link = Link::new(seed, Weather::foul(), configs);
        connect(&mut link, A);
        link.agree(3);
    }
}

/// RFC 7296 2.23, RFC 3948: floating to port 4500, ESP in UDP, keepalives.
#[test]
fn a_nat_is_noticed() {
    let weather = Weather {
        nat: true,
        ..Weather::fair()
    };
    let mut b = peer(B);
    b.remote = "0.0.0.0".parse().unwrap();
    let mut link = Link::new(1, weather, [vec![peer(A)], vec![b]]);
    connect(&mut link, A);
    link.agree(1);
    let ports = |side: usize| {
        let sa = link.sides[side]
            .dataplane
            .installed
            .values()
            .next()
            .unwrap();
        let ports = sa.encapsulation.unwrap();
        (ports.local, ports.remote)
    };
    assert_eq!(ports(A), (4500, 4500));
    assert_eq!(ports(B), (4500, 14_500));
    let view = link.sides[A].endpoint.ike_sas().next().unwrap();
    assert!(view.behind_nat && !view.peer_behind_nat);
    assert!(link.keepalives >= 3, "{} keepalives", link.keepalives);
    let (keepalives, now) = (link.keepalives, link.now);
    link.at(B).rekey_ike(now, "peer").unwrap();
    link.run(Duration::from_secs(60));
    link.agree(1);
    assert!(link.keepalives > keepalives);
}

#[test]
fn a_nat_can_be_pretended() {
    let mut a = peer(A);
    a.force_encapsulation = true;
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![peer(B)]]);
    connect(&mut link, A);
    link.agree(1);
    assert!(
        link.sides[B]
            .dataplane
            .installed
            .values()
            .all(|sa| sa.encapsulation.is_some())
    );
    let mut b = peer(B);
    b.force_encapsulation = true;
    let mut link = Link::new(1, Weather::fair(), [vec![peer(A)], vec![b]]);
    connect(&mut link, A);
    link.agree(1);
    assert!(
        link.sides[B]
            .dataplane
            .installed
            .values()
            .all(|sa| sa.encapsulation.is_some())
    );
}

#[test]
fn strangers_are_counted_and_not_answered() {
    let mut b = peer(B);
    b.remote = "203.0.113.1".parse().unwrap();
    let mut link = Link::new(1, Weather::fair(), [vec![peer(A)], vec![b]]);
    connect(&mut link, A);
    assert!(link.count(B, Counter::Stranger) > 0);
    assert_eq!(link.count(B, Counter::Sent), 0);
    assert_eq!(link.refusals(B)[0], "no peer is configured at this address");
    let told = link.sides[A].events.iter().any(|event| {
        matches!(
            event,
            Event::Refused {
                reason: Refusal::NoAnswer {
                    transmissions: 8,
                    ..
                },
                ..
            }
        )
    });
    assert!(told, "{:?}", story(&link.sides[A]));
}

/// A peer that is wanted is called again, with growing pauses.
#[test]
fn a_peer_that_starts_late_is_reached() {
    let mut a = peer(A);
    a.start = true;
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![peer(B)]]);
    link.sides[B].deaf = true;
    link.run(Duration::from_secs(300));
    link.agree(0);
    link.sides[B].deaf = false;
    link.run(Duration::from_secs(130));
    link.agree(1);
}

/// Both ends call at once: one IKE SA with one child stays, at both ends the same.
#[test]
fn simultaneous_initiation_leaves_one() {
    for seed in 0..80 {
        let weather = if seed % 2 == 0 {
            Weather::fair()
        } else {
            Weather::foul()
        };
        let (mut a, mut b) = (peer(A), peer(B));
        (a.start, b.start) = (true, true);
        for (side, p) in [(A, &mut a), (B, &mut b)] {
            p.children.push(child(side, "dmz", 2));
        }
        let mut link = Link::new(seed, weather, [vec![a], vec![b]]);
        link.run(Duration::from_secs(400));
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "seed {seed}");
        link.agree(2);
    }
}

#[test]
fn garbage_is_counted() {
    let mut link = Link::connected(1, Weather::fair());
    let now = link.now;
    let path = Path {
        local: SocketAddr::new(address(B), 500),
        remote: SocketAddr::new(address(A), 500),
    };
    for len in 0..64_u8 {
        link.at(B)
            .handle_datagram(now, path, &vec![len; usize::from(len)]);
    }
    assert_eq!(link.count(B, Counter::Malformed), 64);
    link.run(Duration::from_secs(10));
    link.agree(1);
}
