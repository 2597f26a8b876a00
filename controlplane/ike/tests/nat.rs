//! A peer behind a NAT that forgets its mapping (RFC 7296 2.23).

mod link;

use std::time::Duration;

use esplanade_ike::config::TrafficSelector;
use esplanade_ike::{Event, PeerConfig, WantedMode};
use link::*;

const SECOND: Duration = Duration::from_secs(1);

/// A behind its NAT, with a child.
fn behind_nat(b: PeerConfig) -> Link {
    let link = both(peer(A), b);
    link.agree(1);
    link
}

fn both(a: PeerConfig, b: PeerConfig) -> Link {
    let weather = Weather {
        nat: true,
        ..Weather::fair()
    };
    let mut b = b;
    b.remote = "0.0.0.0".parse().unwrap();
    let mut link = Link::new(1, weather, [vec![a], vec![b]]);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(15 * SECOND);
    link
}

/// Where B sends the ESP of its child SAs.
fn esp_ports(link: &Link) -> Vec<u16> {
    let installed = link.sides[B].dataplane.installed.values();
    let ports = installed.filter_map(|sa| Some(sa.encapsulation?.remote));
    ports.collect()
}

#[test]
fn child_sas_follow_a_peer_whose_port_changes() {
    let mut link = behind_nat(peer(B));
    assert_eq!(esp_ports(&link), [14_500]);
    link.nat_offset = 20_000;
    link.run_with_traffic(SECOND, "lan");
    assert_eq!(link.lost, 100, "all that B sends, until A says something");

    // The liveness check of A comes from the new port.
    let installed = link.sides[B].dataplane.ever_installed;
    link.run(40 * SECOND);
    link.agree(1);
    assert_eq!(esp_ports(&link), [24_500]);
    let view = link.sides[B].endpoint.ike_sas().next().unwrap();
    assert_eq!(view.path.remote.port(), 24_500);
    let child = link.sides[B].endpoint.child_sas().next().unwrap();
    assert_eq!(child.encapsulation.unwrap().remote, 24_500);
    assert_eq!(
        link.sides[B].dataplane.ever_installed, installed,
        "no rekey"
    );
    link.lost = 0;
    link.run_with_traffic(SECOND, "lan");
    assert_eq!(link.lost, 0);
}

/// The dataplane may hear of it before IKE does.
#[test]
fn an_ike_sa_follows_its_child_sas() {
    let mut link = behind_nat(peer(B));
    link.nat_offset = 20_000;
    let mut before = link.sides[B].endpoint.child_sas();
    let child = before.next().unwrap();
    drop(before);
    let elsewhere = std::net::SocketAddr::new(child.remote, 24_500);
    let now = link.now;
    for _ in 0..2 {
        link.at(B).peer_moved(now, child.inbound, elsewhere);
    }
    // Nobody's.
    let nobody = child.inbound ^ 1;
    link.at(B).peer_moved(now, nobody, elsewhere);
    link.run(SECOND / 10);
    assert_eq!(esp_ports(&link), [24_500]);
    let told = |event: &&Event| matches!(event, Event::PeerMoved { .. });
    let events = &link.sides[B].events;
    assert_eq!(events.iter().filter(told).count(), 1);
    // What B has to say arrives at once.
    let now = link.now;
    link.at(B).rekey_ike(now, "peer").unwrap();
    link.run(SECOND);
    link.agree(1);
    let view = link.sides[B].endpoint.ike_sas().next().unwrap();
    assert_eq!(view.path.remote, elsewhere);
}

/// RFC 7296 2.23: "A host behind a NAT SHOULD NOT do this type of dynamic address update", not even when its dataplane
/// says so.
#[test]
fn who_is_behind_a_nat_does_not_follow_its_child_sas_either() {
    let mut link = behind_nat(peer(B));
    let child = link.sides[A].endpoint.child_sas().next().unwrap();
    let before = link.sides[A].endpoint.ike_sas().next().unwrap().path;
    assert!(
        link.sides[A]
            .dataplane
            .installed
            .values()
            .all(|sa| !sa.follow)
    );
    assert!(
        link.sides[B]
            .dataplane
            .installed
            .values()
            .all(|sa| sa.follow)
    );
    let (now, elsewhere) = (link.now, std::net::SocketAddr::new(child.remote, 9));
    link.at(A).peer_moved(now, child.inbound, elsewhere);
    link.run(SECOND);
    let after = link.sides[A].endpoint.ike_sas().next().unwrap().path;
    assert_eq!(after, before);
}

/// The request that B could not deliver to the old port goes to the new one as soon as that is known.
#[test]
fn an_outstanding_request_follows_too() {
    let mut impatient = peer(B);
    impatient.dpd_delay = 10 * SECOND;
    let mut link = behind_nat(impatient);
    link.nat_offset = 20_000;
    link.run(40 * SECOND);
    link.agree(1);
    assert_eq!(esp_ports(&link), [24_500]);
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (1, 1));
}

/// RFC 7296 2.23: "dynamic address update should only be done in response to a new packet;
/// otherwise, an attacker can revert the addresses with old replayed packets."
#[test]
fn replays_and_forgeries_move_nothing() {
    let mut link = behind_nat(peer(B));
    let now = link.now;
    link.capture = Some(Vec::new());
    link.at(A).rekey_child(now, "peer", None).unwrap();
    link.run(10 * SECOND);
    let before = esp_ports(&link);
    let captured = link.capture.take().unwrap();
    assert!(captured.len() >= 2, "a rekey and a deletion");
    for mut data in captured {
        for _ in 0..2 {
            let mut path = link.sides[B].endpoint.ike_sas().next().unwrap().path;
            path.remote.set_port(6666);
            let now = link.now;
            link.at(B).handle_datagram(now, path, &data);
            // And once more with another message ID, whose check sequence is wrong then.
            data[23] += 1;
        }
    }
    link.run(20 * SECOND);
    link.agree(1);
    assert_eq!(esp_ports(&link), before);
    let view = link.sides[B].endpoint.ike_sas().next().unwrap();
    assert_eq!(view.path.remote.port(), 14_500);
}

/// RFC 7296 2.23: "A host behind a NAT SHOULD NOT do this type of dynamic address update".
#[test]
fn who_is_behind_a_nat_follows_nobody() {
    let mut link = behind_nat(peer(B));
    let before = link.sides[A].endpoint.ike_sas().next().unwrap().path;
    link.peer_port = Some(7777);
    let (now, installed) = (link.now, link.sides[A].dataplane.ever_installed);
    link.at(B).rekey_ike(now, "peer").unwrap();
    link.run(10 * SECOND);
    let after = link.sides[A].endpoint.ike_sas().next().unwrap().path;
    assert_eq!(after, before);
    assert_eq!(link.sides[A].dataplane.ever_installed, installed);
}

/// A NAT that gives each message another port cannot have us rekey transport mode without end.
#[test]
fn a_restless_nat_is_followed_at_a_pace() {
    let host = |address: &str| vec![TrafficSelector::prefix(address.parse().unwrap(), 32).unwrap()];
    let (mut quiet, mut eager) = (peer(A), peer(B));
    eager.dpd_delay = SECOND;
    for (peer, local, remote) in [
        (&mut quiet, ADDRESSES[A], ADDRESSES[B]),
        (&mut eager, ADDRESSES[B], NAT_ADDRESS),
    ] {
        let child = &mut peer.children[0];
        child.mode = WantedMode::Transport;
        (child.local_ts, child.remote_ts) = (host(local), host(remote));
    }
    let mut link = both(quiet, eager);
    for turn in 0..60 {
        link.nat_offset = 20_000 + turn;
        let now = link.now;
        let _ = link.at(A).rekey_ike(now, "peer");
        link.run(SECOND);
    }
    let installed = link.sides[B].dataplane.ever_installed;
    assert!((4..=10).contains(&installed), "{installed} in a minute");
    link.run(60 * SECOND);
    assert_eq!(esp_ports(&link), [4500 + link.nat_offset]);
}
