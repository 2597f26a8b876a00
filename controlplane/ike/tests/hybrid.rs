//! Several key exchanges (RFC 9370): in IKE_INTERMEDIATE (RFC 9242) and in IKE_FOLLOWUP_KE, with
//! rekeys from both sides, in bad weather, and when somebody is in between.

mod link;

use std::time::Duration;

use esplanade_ike::wire::header::ExchangeType;
use esplanade_ike::wire::message::Message;
use esplanade_ike::wire::payload::Payload;
use esplanade_ike::{Counter, PeerConfig};
use link::*;

const SECOND: Duration = Duration::from_secs(1);
const HYBRID: &str = "aes256gcm16-sha384-x25519-ke1_mlkem768";
const CLASSICAL: &str = "aes256gcm16-sha384-x25519";
const HYBRID_CHILD: &str = "aes256gcm16-x25519-ke1_mlkem768";

fn with(side: usize, ike: &[&str], child: &str) -> PeerConfig {
    let mut peer = peer(side);
    peer.ike_proposals = ike.iter().map(|p| p.parse().unwrap()).collect();
    peer.children[0].proposals = vec![child.parse().unwrap()];
    peer
}

fn link_of(seed: u64, weather: Weather, a: PeerConfig, b: PeerConfig) -> Link {
    let mut link = Link::new(seed, weather, [vec![a], vec![b]]);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(90 * SECOND);
    link
}

fn hybrid(seed: u64, weather: Weather) -> Link {
    let side = |side| with(side, &[HYBRID], HYBRID_CHILD);
    let link = link_of(seed, weather, side(A), side(B));
    link.agree(1);
    link
}

fn suite(link: &Link, side: usize) -> String {
    let mut sas = link.sides[side].endpoint.ike_sas();
    sas.next().unwrap().suite.unwrap()
}

#[test]
fn every_method_serves_first_and_additionally() {
    for (ike, child) in [
        (HYBRID, HYBRID_CHILD),
        ("aes128gcm16-sha256-ecp521", "aes128gcm16-ecp521"),
        ("aes128gcm16-sha256-modp3072", "aes128gcm16-mlkem512"),
        ("aes128gcm16-sha256-mlkem512", "aes128gcm16-mlkem1024"),
        ("aes128gcm16-sha256-mlkem768", "aes128gcm16-modp4096"),
        (
            "aes256-sha512-ecp256-ke1_mlkem1024-ke2_ecp384-ke7_mlkem512",
            "aes128gcm16-ecp384-ke2_mlkem768-ke3_mlkem1024-ke4_x25519",
        ),
    ] {
        let side = |side| with(side, &[ike], child);
        let mut link = link_of(1, Weather::fair(), side(A), side(B));
        link.agree(1);
        assert_eq!(
            (suite(&link, A).as_str(), suite(&link, B).as_str()),
            (ike, ike)
        );
        for (side, what) in [(A, 0), (B, 0), (A, 1), (B, 1)] {
            let now = link.now;
            let _ = match what {
                0 => link.at(side).rekey_child(now, "peer", None),
                _ => link.at(side).rekey_ike(now, "peer"),
            };
            link.run(10 * SECOND);
            link.agree(1);
        }
        assert_eq!(link.sides[A].dataplane.ever_installed, 3, "{ike}");
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
        assert_eq!(suite(&link, A), ike);
        assert!(link.refusals(A).is_empty() && link.refusals(B).is_empty());
    }
}

/// The default is the hybrid; its long messages go in fragments where the path is narrow.
#[test]
fn the_default_is_hybrid_and_ml_kem_alone_fits_an_mtu() {
    let defaults = |side: usize, size| {
        let mut peer = peer(side);
        peer.ike_proposals = esplanade_ike::config::IkeProposal::defaults();
        peer.fragment_size = size;
        peer
    };
    let link = link_of(1, Weather::fair(), defaults(A, 576), defaults(B, 576));
    assert_eq!(suite(&link, A), HYBRID);
    assert!(link.count(A, Counter::FragmentSent) >= 3);
    assert!(link.count(B, Counter::FragmentSent) >= 3);

    let alone = |side| with(side, &["aes256gcm16-sha384-mlkem768"], "aes256gcm16");
    let mut link = Link::new(1, Weather::fair(), [vec![alone(A)], vec![alone(B)]]);
    link.capture = Some(Vec::new());
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(SECOND);
    link.agree(1);
    assert!(link.capture.unwrap()[0].len() + 28 <= 1500);
}

#[test]
fn who_knows_no_hybrid_gets_the_classical_proposal() {
    for (ours, theirs) in [
        (&[HYBRID, CLASSICAL][..], &[CLASSICAL][..]),
        (&[CLASSICAL], &[HYBRID, CLASSICAL]),
    ] {
        let (a, b) = (with(A, ours, "aes256gcm16"), with(B, theirs, "aes256gcm16"));
        let mut link = link_of(1, Weather::fair(), a, b);
        link.agree(1);
        assert_eq!(suite(&link, A), CLASSICAL);
        let now = link.now;
        link.at(B).rekey_ike(now, "peer").unwrap();
        link.run(10 * SECOND);
        link.agree(1);
        assert_eq!(suite(&link, A), CLASSICAL);
    }
    let (a, b) = (
        with(A, &[CLASSICAL], HYBRID_CHILD),
        with(B, &[HYBRID], HYBRID_CHILD),
    );
    let link = link_of(1, Weather::fair(), a, b);
    let told = link.refusals(B).join("\n");
    assert!(
        told.contains("the peer proposes aes256gcm16-prfsha384-x25519;"),
        "{told}"
    );
    assert!(!link.refusals(A).is_empty());
}

#[test]
fn bad_weather_only_delays() {
    for seed in 0..25 {
        let mut link = hybrid(seed, Weather::foul());
        for (side, what) in [(A, 0), (B, 1), (B, 0), (A, 1)] {
            let now = link.now;
            let _ = match what {
                0 => link.at(side).rekey_child(now, "peer", None),
                _ => link.at(side).rekey_ike(now, "peer"),
            };
            link.run(200 * SECOND);
            link.agree(1);
        }
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "seed {seed}");
    }
}

/// RFC 7296 2.8.1, 2.8.2 and 2.25 hold for exchanges that take several round trips, too.
#[test]
fn crossing_rekeys_leave_one() {
    for seed in 0..150 {
        let weather = if seed % 3 == 0 {
            Weather::fair()
        } else {
            Weather::foul()
        };
        let mut link = hybrid(seed, weather);
        for _ in 0..3 {
            for side in [A, B] {
                let (now, what) = (link.now, link.random(2));
                let _ = match what {
                    0 => link.at(side).rekey_child(now, "peer", None),
                    _ => link.at(side).rekey_ike(now, "peer"),
                };
                let apart = link.random(if seed % 3 == 0 { 40 } else { 2000 });
                link.run(Duration::from_millis(apart.into()));
            }
        }
        link.run(400 * SECOND);
        link.agree(1);
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1), "seed {seed}");
    }
}

#[test]
fn no_packet_is_lost_at_a_rekey() {
    for seed in 0..20 {
        let mut link = hybrid(seed, Weather::fair());
        link.weather.delay = (Duration::from_millis(1), Duration::from_millis(30));
        for _ in 0..4 {
            let (now, side, what) = (link.now, link.random(2), link.random(2));
            let _ = match what {
                0 => link.at(side as usize).rekey_child(now, "peer", None),
                _ => link.at(side as usize).rekey_ike(now, "peer"),
            };
            link.run_with_traffic(SECOND, "lan");
        }
        link.run_with_traffic(20 * SECOND, "lan");
        assert_eq!(link.lost, 0, "seed {seed}: {:#?}", story(&link.sides[A]));
        link.agree(1);
    }
}

/// RFC 9370 2.2.4: a responder that has forgotten answers STATE_NOT_FOUND, and all begins anew.
#[test]
fn a_followup_that_comes_too_late_begins_anew() {
    for ike in [false, true] {
        let mut link = hybrid(1, Weather::fair());
        let now = link.now;
        let _ = if ike {
            link.at(A).rekey_ike(now, "peer")
        } else {
            link.at(A).rekey_child(now, "peer", None)
        };
        // The request is there after 5 ms, its response after 10.
        link.run(Duration::from_millis(12));
        assert_eq!(
            link.sides[B].dataplane.ever_installed, 1,
            "nothing is made half-way"
        );
        let taken = link.sides[B].spis.taken();
        assert_eq!(taken, if ike { 1 } else { 2 });
        link.sides[B].deaf = true;
        link.run(25 * SECOND);
        assert_eq!(link.sides[B].spis.taken(), 1, "what was forgotten is free");
        link.sides[B].deaf = false;
        link.run(60 * SECOND);
        link.agree(1);
        assert_eq!(
            link.sides[A].dataplane.ever_installed,
            if ike { 1 } else { 2 }
        );
        assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
        assert!(link.refusals(A).is_empty(), "{:?}", link.refusals(A));
    }
}

/// Somebody in between who takes the hybrid out of the offer is found out by AUTH.
#[test]
fn a_downgrade_is_found_out() {
    fn strip(to: usize, data: &[u8]) -> Option<Vec<u8>> {
        let mut message = Message::parse(data).ok()?;
        if to != B || message.header.exchange != ExchangeType::IkeSaInit {
            return None;
        }
        for payload in &mut message.payloads {
            if let Payload::SecurityAssociation(proposals) = payload {
                proposals.remove(0);
            }
        }
        Some(Message::emit(message.header, &message.payloads))
    }
    let both = |side| with(side, &[HYBRID, CLASSICAL], "aes256gcm16");
    let mut link = Link::new(1, Weather::fair(), [vec![both(A)], vec![both(B)]]);
    link.tamper = Some(strip);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(SECOND);
    assert_eq!(link.sides[A].dataplane.ever_installed, 0);
    assert_eq!(link.sides[B].dataplane.ever_installed, 0);
    assert_eq!(link.count(B, Counter::AuthenticationFailed), 1);
}

/// RFC 9370 2.2.2: IKE_AUTH comes after the last additional key exchange, and not before.
#[test]
fn ike_intermediate_cannot_be_left_out_or_forged() {
    fn forge(_: usize, data: &[u8]) -> Option<Vec<u8>> {
        let message = Message::parse(data).ok()?;
        let last = data.len() - 1;
        let mut forged = data.to_vec();
        forged[last] ^= 1;
        (message.header.exchange == ExchangeType::IkeIntermediate).then_some(forged)
    }
    let both = |side| with(side, &[HYBRID], "aes256gcm16");
    let mut link = Link::new(1, Weather::fair(), [vec![both(A)], vec![both(B)]]);
    link.tamper = Some(forge);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(10 * SECOND);
    assert!(link.count(B, Counter::NotAuthentic) >= 3);
    assert_eq!(link.ike_sas(B), 1, "half open");
    link.tamper = None;
    link.run(40 * SECOND);
    link.agree(1);
}
