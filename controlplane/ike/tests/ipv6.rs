//! IKE over IPv6, and selectors of either family through tunnels of either (RFC 7296 2.9, 2.23 and 3.13.1).

mod link;

use esplanade_ike::PeerConfig;
use esplanade_ike::config::TrafficSelector;
use link::*;

fn selectors(words: &[&str]) -> Vec<TrafficSelector> {
    words.iter().map(|words| words.parse().unwrap()).collect()
}

/// What is behind each side, of both families.
const NETS: [[&str; 2]; 2] = [
    ["10.1.0.0/16", "2001:db8:1::/48"],
    ["10.2.0.0/16", "2001:db8:2::/48"],
];

/// The other side, reached over IPv6 or IPv4, with a child of both families.
fn mixed(side: usize, over_ipv6: bool) -> PeerConfig {
    let mut peer = peer(side);
    if over_ipv6 {
        let outer = |side| format!("2001:db8::{}", side + 1).parse().unwrap();
        (peer.local, peer.remote) = (outer(side), outer(1 - side));
    }
    peer.children[0].local_ts = selectors(&NETS[side]);
    peer.children[0].remote_ts = selectors(&NETS[1 - side]);
    peer
}

fn up(a: PeerConfig, b: PeerConfig) -> Link {
    let mut link = Link::new(1, Weather::fair(), [vec![a], vec![b]]);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(std::time::Duration::from_secs(5));
    link.agree(1);
    link
}

#[test]
fn a_tunnel_of_either_family_carries_both() {
    for over_ipv6 in [false, true] {
        let link = up(mixed(A, over_ipv6), mixed(B, over_ipv6));
        for side in [A, B] {
            let mut installed = link.sides[side].dataplane.installed.values();
            let sa = installed.next().unwrap();
            assert_eq!(sa.remote.is_ipv6(), over_ipv6);
            assert_eq!(sa.local_ts, selectors(&NETS[side]));
            assert_eq!(sa.remote_ts, selectors(&NETS[1 - side]));
            // The hashes of NAT detection are over the addresses of either family.
            assert!(sa.encapsulation.is_none());
            let view = link.sides[side].endpoint.ike_sas().next().unwrap();
            assert!(!view.behind_nat && !view.peer_behind_nat);
            assert_eq!(view.path.local.port(), 500);
        }
    }
}

#[test]
fn each_family_is_narrowed_by_itself() {
    let mut a = mixed(A, true);
    a.children[0].local_ts = selectors(&["10.0.0.0/8", "2001:db8::/32"]);
    a.children[0].remote_ts = selectors(&["0.0.0.0/0", "::/0"]);
    let link = up(a, mixed(B, true));
    let sa = link.sides[A].dataplane.installed.values().next().unwrap();
    assert_eq!(sa.local_ts, selectors(&NETS[A]));
    assert_eq!(sa.remote_ts, selectors(&NETS[B]));

    // A peer that has one family only leaves the other out.
    let mut b = mixed(B, true);
    b.children[0].local_ts = selectors(&NETS[B][1..]);
    b.children[0].remote_ts = selectors(&NETS[A][1..]);
    let link = up(mixed(A, true), b);
    let sa = link.sides[A].dataplane.installed.values().next().unwrap();
    assert_eq!(sa.local_ts, selectors(&NETS[A][1..]));
    assert_eq!(sa.remote_ts, selectors(&NETS[B][1..]));
}

#[test]
fn anyone_of_one_family_is_nobody_of_the_other() {
    let mut b = mixed(B, true);
    b.remote = "0.0.0.0".parse().unwrap();
    let mut link = Link::new(1, Weather::fair(), [vec![mixed(A, true)], vec![b.clone()]]);
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(std::time::Duration::from_secs(5));
    assert!(link.sides[B].dataplane.installed.is_empty());
    b.remote = "::".parse().unwrap();
    up(mixed(A, true), b);
}
