//! IPv6 inside and outside, in every mix with IPv4, between two Esplanade gateways.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{bed, eventually, number, ready, two_gateways_of};
use esplanade_bench::gateway::Site;
use esplanade_bench::testbed::{HOST, INSIDE, OUTSIDE, Testbed};

const PREFIXES: (&str, &str) = ("\"2001:db8:1::/64\"", "\"2001:db8:2::/64\"");

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A test-bed with IPv6 beside IPv4 on every link. As with IPv4, the gateways forward and have a plain route to the other side.
fn bed_of_both() -> Testbed {
    let bed = bed();
    for (host, gateway, own, other) in [
        (&bed.host_a, &bed.gateway_a, 1, 2),
        (&bed.host_b, &bed.gateway_b, 2, 1),
    ] {
        number(host, HOST, &format!("2001:db8:{own}::2/64"));
        number(gateway, INSIDE, &format!("2001:db8:{own}::1/64"));
        number(gateway, OUTSIDE, &format!("2001:db8:ff::{own}/64"));
        host.ip(&format!("route add default via 2001:db8:{own}::1\n"))
            .expect("a route");
        gateway
            .ip(&format!(
                "route add 2001:db8:{other}::/64 via 2001:db8:ff::{other}\n"
            ))
            .expect("a route");
        gateway
            .sysctl("net.ipv6.conf.all.forwarding", "1")
            .expect("forwarding");
    }
    bed
}

/// The gateways' sites with a child of each family.
fn sites(outside_v6: bool) -> (Site, Site) {
    let (v6_a, v6_b) = PREFIXES;
    let mut a = Site {
        more: vec![(v6_a.to_owned(), v6_b.to_owned())],
        ..Site::a()
    };
    let mut b = Site {
        more: vec![(v6_b.to_owned(), v6_a.to_owned())],
        ..Site::b()
    };
    if outside_v6 {
        (a.local, a.remote) = (address("2001:db8:ff::1"), address("2001:db8:ff::2"));
        (b.local, b.remote) = (a.remote, a.local);
    }
    (a, b)
}

#[test]
fn every_mix_of_families_carries_traffic_and_fails_closed() {
    if !ready() {
        return;
    }
    let bed = bed_of_both();
    let far = address("2001:db8:2::2");
    for outside_v6 in [true, false] {
        let (a, b) = sites(outside_v6);
        let (a, b) = two_gateways_of(&bed, &a, &b);
        assert_eq!(bed.ping(5).expect("ping"), 5, "IPv4, outside {outside_v6}");
        eventually("IPv6 through the tunnel", || {
            bed.host_a.ping(far, 1).is_ok_and(|answered| answered == 1)
        });
        assert_eq!(bed.host_a.ping(far, 5).expect("ping"), 5, "{outside_v6}");
        for sa in a.sas().expect("sas") {
            assert_eq!((sa.replay_drops, sa.auth_failures), (0, 0), "{sa:?}");
        }
        let protected = a.counter("OutPackets").expect("a counter");
        assert!(protected >= 11, "{protected}");
        // What is too long is told so, with the MTU that fits. The host forgets what it was told before.
        let forget = ["ip", "-6", "route", "flush", "cache"];
        let forgotten = bed.host_a.run(&forget).and_then(|said| said.ok());
        forgotten.expect("no path MTU");
        let long = ["ping", "-n", "-M", "do", "-s", "1440", "-c", "2", "-W", "1"];
        let far_text = far.to_string();
        let command: Vec<&str> = long.into_iter().chain([far_text.as_str()]).collect();
        let said = bed.host_a.run_within(&command, Duration::from_secs(10));
        let said = said.expect("ping");
        let said = said.stdout + &said.stderr;
        assert!(
            said.contains("mtu") || said.contains("Packet too big"),
            "{said}"
        );
        assert_eq!(a.counter("OutTooBig").expect("a counter"), 1);
        // Each ends in order, and the guard stays: nothing goes on in the clear.
        a.stop().expect("an orderly end");
        b.stop().expect("an orderly end");
        assert_eq!(bed.host_a.ping(far, 2).expect("ping"), 0, "{outside_v6}");
    }
}
