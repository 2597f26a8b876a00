//! What two ends make of transport mode and AH (RFC 7296 1.3.1, 2.23.1, 3.3.3).

mod link;

use std::net::IpAddr;
use std::time::Duration;

use esplanade_ike::config::{Protection, TrafficSelector};
use esplanade_ike::{ChildSa, Mode, Original, PeerConfig, WantedMode};
use link::*;

const SECOND: Duration = Duration::from_secs(1);

/// A peer whose only child is between the two gateways themselves.
fn between(side: usize, mode: WantedMode, proposals: &[&str]) -> PeerConfig {
    let host = |address| TrafficSelector::prefix(address, 32).unwrap();
    let mut peer = peer(side);
    let child = &mut peer.children[0];
    child.local_ts = vec![host(address(side))];
    child.remote_ts = vec![host(address(1 - side))];
    child.mode = mode;
    if !proposals.is_empty() {
        child.proposals = proposals.iter().map(|text| text.parse().unwrap()).collect();
    }
    peer
}

fn met(weather: Weather, a: PeerConfig, b: PeerConfig) -> Link {
    let mut link = Link::new(1, weather, [vec![a], vec![b]]);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(10 * SECOND);
    link
}

fn the_sa(link: &Link, side: usize) -> &ChildSa {
    let mut installed = link.sides[side].dataplane.installed.values();
    installed.next().expect("a child SA")
}

#[test]
fn transport_mode_is_had_where_both_want_it() {
    use WantedMode::{Transport, TransportIfPossible, Tunnel};
    for (a, b, expected) in [
        (Transport, Transport, Mode::Transport),
        (Transport, TransportIfPossible, Mode::Transport),
        (TransportIfPossible, TransportIfPossible, Mode::Transport),
        (TransportIfPossible, Tunnel, Mode::Tunnel),
        (Tunnel, TransportIfPossible, Mode::Tunnel),
        (Tunnel, Tunnel, Mode::Tunnel),
    ] {
        let mut link = met(Weather::fair(), between(A, a, &[]), between(B, b, &[]));
        link.agree(1);
        for side in [A, B] {
            let sa = the_sa(&link, side);
            assert_eq!(sa.mode, expected, "{a:?} and {b:?}");
            assert_eq!(sa.original, None, "there is no NAT");
            let view = link.sides[side].endpoint.child_sas().next().unwrap();
            assert_eq!(view.mode, expected);
        }
        // Rekeys and children that come on their own are negotiated likewise, from either side.
        for side in [A, B] {
            let now = link.now;
            link.at(side).rekey_child(now, "peer", None).unwrap();
            link.run(10 * SECOND);
            link.agree(1);
            assert_eq!(the_sa(&link, A).mode, expected, "{a:?} and {b:?}");
        }
    }
}

#[test]
fn who_must_have_transport_mode_refuses_a_tunnel_by_name() {
    use WantedMode::{Transport, Tunnel};
    for (a, b) in [(Transport, Tunnel), (Tunnel, Transport)] {
        let mut link = met(Weather::fair(), between(A, a, &[]), between(B, b, &[]));
        for side in [A, B] {
            assert_eq!(link.sides[side].dataplane.installed.len(), 0, "{a:?}");
            assert_eq!(link.ike_sas(side), 1, "the IKE SA stays");
        }
        // The side that wants it says so, whether it asked or was asked.
        let wants = if a == Transport { A } else { B };
        let refusals = link.refusals(wants);
        assert!(
            refusals.iter().any(|refusal| refusal.contains(
                "the peer wants tunnel mode for child `lan`, which is to have transport mode"
            )),
            "{refusals:?}"
        );
        let now = link.now;
        link.at(A).terminate(now, "peer", None).unwrap();
        link.run(10 * SECOND);
        assert_eq!(link.sides[A].spis.taken() + link.sides[B].spis.taken(), 0);
    }
}

#[test]
fn ah_is_negotiated_with_integrity_and_esn() {
    for (ours, theirs, expected) in [
        (
            &["ah-sha256-esn"][..],
            &["ah-sha256-esn"][..],
            "ah-sha256-esn",
        ),
        (&["ah-sha512", "ah-sha1"], &["ah-sha1"], "ah-sha1"),
        (
            &["ah-aes256gmac-x25519-esn"],
            &["ah-aes256gmac-x25519-esn"],
            "ah-aes256gmac-esn",
        ),
    ] {
        for mode in [WantedMode::Tunnel, WantedMode::Transport] {
            let (a, b) = (between(A, mode, ours), between(B, mode, theirs));
            let mut link = met(Weather::fair(), a, b);
            link.agree(1);
            let sa = the_sa(&link, A);
            assert!(matches!(sa.protection, Protection::Ah(_)));
            assert_eq!(sa.esn, expected.ends_with("esn"));
            let octets = sa.protection.keymat_len();
            assert_eq!(sa.inbound_key.expose().len(), octets);
            let view = link.sides[A].endpoint.child_sas().next().unwrap();
            assert_eq!(view.suite.as_deref(), Some(expected));
            // REKEY_SA and DELETE name AH, or the old SA would stay.
            for side in [A, B] {
                let now = link.now;
                link.at(side).rekey_child(now, "peer", None).unwrap();
                link.run(10 * SECOND);
                link.agree(1);
            }
            let now = link.now;
            link.at(B).terminate(now, "peer", Some("lan")).unwrap();
            link.run(10 * SECOND);
            assert_eq!(link.sides[A].dataplane.installed.len(), 0, "{expected}");
        }
    }
}

#[test]
fn ah_is_no_esp() {
    let a = between(A, WantedMode::Tunnel, &["ah-sha256"]);
    let b = between(B, WantedMode::Tunnel, &["null-sha256"]);
    let link = met(Weather::fair(), a, b);
    let refusals = link.refusals(B);
    let expected = "the peer proposes ah-sha256; configured here: null-sha256";
    assert!(refusals[0].contains(expected), "{refusals:?}");
}

/// RFC 7296 2.23.1: each end sees its own address and the NAT's; what the other end has is kept for checksums.
#[test]
fn a_nat_between_hosts_in_transport_mode_is_undone() {
    let weather = Weather {
        nat: true,
        ..Weather::fair()
    };
    let nat: IpAddr = NAT_ADDRESS.parse().unwrap();
    let a = between(A, WantedMode::Transport, &[]);
    let mut b = between(B, WantedMode::Transport, &[]);
    b.remote = "0.0.0.0".parse().unwrap();
    b.children[0].remote_ts = vec![TrafficSelector::prefix(nat, 32).unwrap()];
    let mut link = met(weather, a, b);
    for _ in 0..2 {
        for (side, remote, original) in [
            // B makes its packets from its own address to that of the NAT, and A from its own to B.
            (
                A,
                address(B),
                Original {
                    local: nat,
                    remote: address(B),
                },
            ),
            (
                B,
                nat,
                Original {
                    local: address(B),
                    remote: address(A),
                },
            ),
        ] {
            let sa = the_sa(&link, side);
            assert_eq!(sa.mode, Mode::Transport);
            assert_eq!((sa.local, sa.remote), (address(side), remote));
            assert_eq!(sa.local_ts[0].first, address(side));
            assert_eq!(
                (sa.remote_ts[0].first, sa.remote_ts[0].last),
                (remote, remote)
            );
            assert_eq!(sa.original, Some(original));
            assert!(sa.encapsulation.is_some());
        }
        let now = link.now;
        link.at(A).rekey_child(now, "peer", None).unwrap();
        link.run(10 * SECOND);
    }
}

#[test]
fn ah_does_not_go_through_a_nat_and_says_so() {
    let weather = Weather {
        nat: true,
        ..Weather::fair()
    };
    let a = between(A, WantedMode::Tunnel, &["ah-sha256"]);
    let mut b = between(B, WantedMode::Tunnel, &["ah-sha256"]);
    b.remote = "0.0.0.0".parse().unwrap();
    let link = met(weather, a, b);
    let refusals = link.refusals(A);
    assert!(
        refusals[0].contains("there is a NAT on the way"),
        "{refusals:?}"
    );
    assert_eq!(link.sides[B].dataplane.ever_installed, 0);
}
