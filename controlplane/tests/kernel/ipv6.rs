//! The same for IPv6.

use crate::{Namespace, address, joined, link, prefix, until};
use esplanade_config::Prefix;
use esplanade_controlplane::{
    guard::{Guard, MARK, Own, Standing, Wanted},
    netlink::Monitor,
};
use std::process::Command;

fn net(words: &str, length: u8) -> Prefix {
    Prefix::containing(address(words), length).unwrap()
}

/// `near` at 2001:db8::1 and `far` at 2001:db8::2, both at once.
fn joined6() -> Option<(Namespace, Namespace)> {
    let (a, b) = joined()?;
    a.ip("addr add 2001:db8::1/64 dev near nodad");
    b.ip("addr add 2001:db8::2/64 dev far nodad");
    Some((a, b))
}

#[test]
fn links_routes_and_addresses_are_followed() {
    let Some((a, _b)) = joined6() else { return };
    a.run(async || {
        let mut monitor = Monitor::start().await.unwrap();
        let near = link(monitor.tables(), "near").unwrap();
        let key = |words: &str, length| (address(words), length);
        let tables = monitor.tables();
        let link = &tables.links[&near];
        // The link-local address is not among them.
        let own = [address("192.0.2.1"), address("2001:db8::1")];
        assert_eq!(link.addresses, own);
        assert_eq!(tables.routes[&key("2001:db8::", 64)].interface, Some(near));
        assert_eq!(tables.routes[&key("2001:db8::1", 128)].interface, None);
        assert!(!tables.routes.contains_key(&key("fe80::", 64)));
        assert!(!tables.routes.contains_key(&key("ff00::", 8)));

        let to = key("2001:db8:2::", 48);
        a.ip("route add 2001:db8:2::/48 via 2001:db8::2 mtu 1400");
        until(&mut monitor, |tables| {
            tables.routes.get(&to).is_some_and(|route| {
                route.gateway == Some(address("2001:db8::2")) && route.mtu == 1400
            })
        })
        .await;
        a.ip("route replace 2001:db8:2::/48 via fe80::2 dev near");
        until(&mut monitor, |tables| {
            tables.routes[&to].gateway == Some(address("fe80::2"))
        })
        .await;
        // One more next hop, and the first goes.
        a.ip("route append 2001:db8:2::/48 via fe80::3 dev near");
        a.ip("route del 2001:db8:2::/48 via fe80::2 dev near");
        until(&mut monitor, |tables| {
            tables
                .routes
                .get(&to)
                .is_some_and(|route| route.gateway == Some(address("fe80::3")))
        })
        .await;
        a.ip("-6 route add default via 2001:db8::2");
        a.ip("route add unreachable 2001:db8:3::/48");
        until(&mut monitor, |tables| {
            let everything = tables.routes.get(&key("::", 0));
            everything.is_some_and(|route| route.interface == Some(near))
                && tables
                    .routes
                    .get(&key("2001:db8:3::", 48))
                    .is_some_and(|route| route.unreachable)
        })
        .await;
        // A link that flaps loses its addresses and routes, and gets those back that somebody gives it.
        a.ip("link set near down");
        until(&mut monitor, |tables| {
            !tables.links[&near].up
                && !tables.routes.contains_key(&to)
                && tables.links[&near].addresses == [address("192.0.2.1")]
        })
        .await;
        a.ip("link set near up");
        a.ip("addr add 2001:db8::1/64 dev near nodad");
        a.ip("route add 2001:db8:2::/48 via 2001:db8::2");
        until(&mut monitor, |tables| {
            tables.links[&near].up
                && tables.routes.contains_key(&to)
                && tables.links[&near].addresses.len() == 2
        })
        .await;
    });
}

#[test]
fn a_neighbour_is_resolved_when_asked_for() {
    let Some((a, _b)) = joined6() else { return };
    a.run(async || {
        let mut monitor = Monitor::start().await.unwrap();
        let near = link(monitor.tables(), "near").unwrap();
        let peer = address("2001:db8::2");
        assert!(!monitor.tables().neighbors.contains_key(&(near, peer)));
        monitor.ask_neighbor(near, peer);
        until(&mut monitor, |tables| {
            tables.neighbors.contains_key(&(near, peer))
        })
        .await;
        // Linux 5.16 on: the kernel keeps it.
        assert!(a.ip("-6 neigh show dev near").contains("managed"));
    });
}

#[test]
fn the_guard_holds_prefixes_of_both_families() {
    let Some((a, _b)) = joined6() else { return };
    a.ip("addr add 2001:db8:1::1/64 dev lo nodad");
    a.ip("-6 route add default via 2001:db8::2");
    let route = |words: &str| {
        let words: Vec<&str> = ["-n", &a.name, "-6", "route", "get"]
            .into_iter()
            .chain(words.split(' '))
            .collect();
        let output = Command::new("ip").args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // Routes that say no are told as such, with success.
        output.status.success()
            && !text.starts_with("unreachable")
            && !text.starts_with("blackhole")
    };
    let leaves = || route("2001:db8:2::5 from 2001:db8:1::1");
    let passes_by = || route("2001:db8:3::5 from 2001:db8:1::1");
    assert!(leaves() && passes_by(), "without a guard");
    let wanted = |remote: Prefix| Wanted {
        pairs: [
            (net("2001:db8:1::", 48), remote),
            (prefix([10, 1, 0, 0], 16), prefix([10, 2, 0, 0], 16)),
        ]
        .into(),
        attached: [net("2001:db8:1::", 64)].into(),
        outside: ["near".to_owned()].into(),
        ..Wanted::default()
    };
    a.run(async || {
        let guard = Guard::open().unwrap();
        let narrow = wanted(net("2001:db8:2::", 48));
        for _ in 0..2 {
            guard.apply(&narrow).await.unwrap();
            assert_eq!(guard.look(&narrow).await.unwrap(), Standing::default());
            let routes = a.ip("-6 route show table 4301");
            assert_eq!(routes.lines().count(), 1, "{routes}");
            assert!(routes.contains("unreachable 2001:db8:2::/48"), "{routes}");
            let rules = a.ip("-6 rule show pref 4301");
            assert!(
                rules.contains("from 2001:db8:1::/48 lookup 4301"),
                "{rules}"
            );
            let incoming = "from 2001:db8:2::/48 to 2001:db8:1::/48 iif near";
            assert!(rules.contains(incoming), "{rules}");
            assert!(a.ip("route show table 4301").contains("10.2.0.0/16"));
            assert!(!leaves() && passes_by());
        }
        // What is missing is named, and put back.
        a.ip("-6 route del unreachable 2001:db8:2::/48 table 4301");
        a.ip("-6 rule del pref 4301 from 2001:db8:1::/48");
        let standing = guard.look(&narrow).await.unwrap();
        let missing = [
            "unreachable 2001:db8:2::/48",
            "from 2001:db8:1::/48 lookup 4301",
        ];
        assert_eq!(standing.missing, missing);
        assert!(leaves());
        guard.apply(&narrow).await.unwrap();
        assert!(!leaves());
        // Everything: but the networks of inside ports, and what is of the link.
        let wide = wanted(net("::", 0));
        guard.apply(&wide).await.unwrap();
        assert_eq!(guard.look(&wide).await.unwrap(), Standing::default());
        assert!(!leaves() && !passes_by());
        assert!(route("fe80::7 oif near from 2001:db8:1::1"));
        guard.clear().await.unwrap();
        assert_eq!(a.ip("-6 rule show pref 4301"), "");
        assert!(!a.ip("-6 route show table all").contains("4301"));
        assert!(leaves() && passes_by());
    });
}

#[test]
fn what_the_gateway_itself_sends_goes_by_the_tap_or_nowhere() {
    let Some((a, _b)) = joined6() else { return };
    a.ip("link add esp0 type veth peer name other");
    a.ip("link set other up");
    a.ip("link set esp0 up");
    a.ip("addr add 10.9.0.1/32 dev lo");
    a.ip("addr add 2001:db8:9::1/128 dev lo nodad");
    let way = |words: String| {
        let words: Vec<&str> = words.split(' ').collect();
        let get = ["-n", &a.name, "route", "get"];
        let output = Command::new("ip").args(get).args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if text.starts_with("unreachable") || !output.status.success() {
            return "none";
        }
        let there = ["esp0", "near"];
        let found = there
            .into_iter()
            .find(|name| text.contains(&format!("dev {name} ")));
        found.unwrap_or_else(|| panic!("{text}"))
    };
    // Without a source address, from a protected one, from another, and marked.
    let ways = |remote: &str, own: &str, other: &str| {
        [
            way(remote.to_owned()),
            way(format!("{remote} from {own}")),
            way(format!("{remote} from {other}")),
            way(format!("{remote} mark {MARK:#x}")),
        ]
    };
    let both = || {
        let v4 = ways("192.0.2.2", "192.0.2.1", "10.9.0.1");
        assert_eq!(v4, ways("2001:db8::2", "2001:db8::1", "2001:db8:9::1"));
        v4
    };
    let pairs = [
        (prefix([192, 0, 2, 1], 32), prefix([192, 0, 2, 2], 32)),
        (net("2001:db8::1", 128), net("2001:db8::2", 128)),
    ];
    let wanted = |tap| {
        let traffic = pairs.map(|(local, remote)| (local, remote, local.address()));
        Wanted {
            pairs: pairs.into(),
            own: Some(Own {
                tap,
                traffic: traffic.into(),
            }),
            ..Wanted::default()
        }
    };
    a.run(async || {
        let mut monitor = Monitor::start().await.unwrap();
        until(&mut monitor, |tables| link(tables, "esp0").is_some()).await;
        let tap = link(monitor.tables(), "esp0");
        let guard = Guard::open().unwrap();
        assert_eq!(both(), ["near"; 4]);
        for _ in 0..2 {
            let there = wanted(tap);
            guard.apply(&there).await.unwrap();
            assert_eq!(guard.look(&there).await.unwrap(), Standing::default());
            assert_eq!(both(), ["esp0", "esp0", "near", "near"]);
        }
        // Its routes go with it, before anyone is told.
        a.ip("link del esp0");
        assert_eq!(both(), ["none", "none", "near", "near"]);
        guard.apply(&wanted(None)).await.unwrap();
        assert_eq!(both(), ["none", "none", "near", "near"]);
        guard.clear().await.unwrap();
        assert_eq!(both(), ["near"; 4]);
        for family in ["-4", "-6"] {
            let rules = a.ip(&format!("{family} rule show"));
            assert!(!rules.contains("430") && !rules.contains("429"), "{rules}");
        }
    });
}
