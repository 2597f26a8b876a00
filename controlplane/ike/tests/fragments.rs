//! IKE fragmentation (RFC 7383) between two endpoints.

mod link;

use std::time::Duration;

use esplanade_ike::{Counter, PeerConfig};
use link::*;

/// Octets of the IPv4 and UDP headers.
const HEADERS: u16 = 28;

fn narrow(side: usize, size: u16) -> PeerConfig {
    let mut peer = peer(side);
    peer.fragment_size = size;
    peer.children[0].proposals = vec!["aes128gcm16-ecp384".parse().unwrap()];
    peer
}

fn connected(seed: u64, weather: Weather, sizes: [u16; 2]) -> Link {
    let configs = [vec![narrow(A, sizes[A])], vec![narrow(B, sizes[B])]];
    let mut link = Link::new(seed, weather, configs);
    let now = link.now;
    link.capture = Some(Vec::new());
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(Duration::from_secs(60));
    link
}

#[test]
fn no_datagram_is_longer_than_the_fragment_size() {
    let mut link = connected(1, Weather::fair(), [180, 400]);
    link.agree(1);
    let now = link.now;
    link.at(A).rekey_child(now, "peer", None).unwrap();
    link.at(B).rekey_ike(now, "peer").unwrap();
    link.run(Duration::from_secs(30));
    link.agree(1);
    let sent = link.capture.take().unwrap();
    // IKE_SA_INIT cannot be fragmented.
    let later: Vec<_> = sent.iter().filter(|data| data[18] != 34).collect();
    let longest = later.iter().map(|data| data.len()).max().unwrap();
    assert!(longest <= usize::from(180 - HEADERS), "{longest}");
    assert!(longest > usize::from(180 - HEADERS - 16), "{longest}");
    assert!(link.count(A, Counter::FragmentSent) >= 6);
    assert_eq!(
        link.count(A, Counter::FragmentSent),
        link.count(B, Counter::FragmentReceived)
    );
    assert_eq!(
        link.count(B, Counter::FragmentSent),
        link.count(A, Counter::FragmentReceived)
    );
}

/// With the default nothing of this size is in fragments.
#[test]
fn short_messages_go_in_one_piece() {
    let link = connected(1, Weather::fair(), [1280, 1280]);
    link.agree(1);
    assert_eq!(link.count(A, Counter::FragmentSent), 0);
    assert_eq!(link.count(B, Counter::FragmentSent), 0);
}

#[test]
fn fragments_survive_bad_weather() {
    for seed in 0..60 {
        let mut link = connected(seed, Weather::foul(), [200, 200]);
        link.agree(1);
        let now = link.now;
        link.at(B).rekey_child(now, "peer", None).unwrap();
        link.at(A).rekey_ike(now, "peer").unwrap();
        link.run(Duration::from_secs(120));
        link.agree(1);
        assert_eq!(link.ike_sas(A), 1, "seed {seed}");
    }
}

/// RFC 7383 2.6: a responder that never gets the rest "acts as if no request message was received".
#[test]
fn a_request_that_never_becomes_whole_is_forgotten() {
    let mut link = connected(1, Weather::fair(), [180, 1280]);
    link.agree(1);
    let now = link.now;
    link.capture = Some(Vec::new());
    link.sides[B].deaf = true;
    link.at(A).rekey_child(now, "peer", None).unwrap();
    link.run(Duration::from_millis(100));
    let fragments = link.capture.take().unwrap();
    assert!(fragments.len() > 2);
    let path = esplanade_ike::Path {
        local: std::net::SocketAddr::new(address(B), 500),
        remote: std::net::SocketAddr::new(address(A), 500),
    };
    link.at(B).handle_datagram(now, path, &fragments[0]);
    link.run(Duration::from_secs(31));
    assert_eq!(link.count(B, Counter::ReassemblyExpired), 1);
    link.sides[B].deaf = false;
    link.run(Duration::from_secs(40));
    link.agree(1);
    assert_eq!(
        link.sides[A].dataplane.ever_installed,
        2,
        "{:?}",
        link.refusals(A)
    );
}
