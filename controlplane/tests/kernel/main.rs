//! The monitor, the guard and the search for a port's holder against the real kernel, in network namespaces of their own.
//! They need root; without it they are skipped, loudly.

#![forbid(unsafe_code)]

mod ipv6;

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use esplanade_config::Prefix;
use esplanade_controlplane::{
    guard::{Guard, Standing, Wanted},
    netlink::{Monitor, Tables, udp_port_holder},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace that goes when it is dropped.
struct Namespace {
    name: String,
}

impl Namespace {
    /// `None`, and a line on standard error, where namespaces cannot be made.
    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "esp-kernel-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        match made {
            Ok(output) if output.status.success() => {
                let namespace = Self { name };
                namespace.ip("link set lo up");
                Some(namespace)
            }
            other => {
                eprintln!("SKIPPED: network namespaces need root and iproute2: {other:?}");
                None
            }
        }
    }

    /// Runs `ip` in here.
    fn ip(&self, words: &str) -> String {
        let output = Command::new("ip")
            .args(["-n", &self.name])
            .args(words.split(' '))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "ip {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs something in here, on a thread and a runtime of its own.
    fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(work())
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// Two namespaces joined by a cable: `near` at 192.0.2.1 and `far` at 192.0.2.2.
fn joined() -> Option<(Namespace, Namespace)> {
    let (a, b) = (Namespace::new()?, Namespace::new()?);
    a.ip(&format!(
        "link add near type veth peer name far netns {}",
        b.name
    ));
    a.ip("addr add 192.0.2.1/24 dev near");
    b.ip("addr add 192.0.2.2/24 dev far");
    a.ip("link set near up");
    b.ip("link set far up");
    Some((a, b))
}

fn address(words: &str) -> IpAddr {
    words.parse().unwrap()
}

/// Waits until the tables are as wanted; says what they are if they never become so.
async fn until(monitor: &mut Monitor, wanted: impl Fn(&Tables) -> bool) {
    let wait = async {
        while !wanted(monitor.tables()) {
            monitor.changed().await.unwrap();
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .is_err()
    {
        let Tables {
            links,
            routes,
            neighbors,
        } = monitor.tables();
        let some: Vec<_> = routes.iter().take(20).collect();
        panic!(
            "never so: {links:?} {} routes {some:?} {neighbors:?}",
            routes.len()
        );
    }
}

fn link(tables: &Tables, name: &str) -> Option<u32> {
    tables
        .links
        .iter()
        .find(|(_, link)| link.name == name)
        .map(|(index, _)| *index)
}

#[test]
fn links_routes_and_addresses_are_followed() {
    let Some((a, _b)) = joined() else { return };
    a.ip("route add 10.2.0.0/16 via 192.0.2.2 mtu 1400");
    a.run(async || {
        let mut monitor = Monitor::start().await.unwrap();
        let near = link(monitor.tables(), "near").unwrap();
        let facts = monitor.tables().links[&near].clone();
        assert_eq!(
            (facts.mtu, &facts.addresses[..]),
            (1500, &[address("192.0.2.1")][..])
        );
        assert_ne!(facts.mac, [0; 6]);
        let remote = (address("10.2.0.0"), 16);
        let route = monitor.tables().routes[&remote].clone();
        assert_eq!(
            (route.interface, route.gateway, route.mtu),
            (Some(near), Some(address("192.0.2.2")), 1400)
        );
        assert_eq!(
            monitor.tables().routes[&(address("192.0.2.1"), 32)].interface,
            None
        );
        assert!(
            monitor
                .tables()
                .attached(near)
                .eq([(address("192.0.2.0"), 24)])
        );

        a.ip("route replace 10.2.0.0/16 via 192.0.2.3");
        until(&mut monitor, |tables| {
            tables.routes[&remote].gateway == Some(address("192.0.2.3"))
        })
        .await;
        a.ip("route add 10.2.0.0/16 via 192.0.2.4 metric 50");
        a.ip("route del 10.2.0.0/16 via 192.0.2.3");
        until(&mut monitor, |tables| {
            tables.routes[&remote].gateway == Some(address("192.0.2.4"))
        })
        .await;
        a.ip("route add unreachable 10.3.0.0/16");
        until(&mut monitor, |tables| {
            tables
                .routes
                .get(&(address("10.3.0.0"), 16))
                .is_some_and(|route| route.unreachable)
        })
        .await;
        a.ip("addr add 192.0.2.9/24 dev near");
        a.ip("link set near mtu 1300");
        until(&mut monitor, |tables| {
            tables.links[&near].mtu == 1300 && tables.links[&near].addresses.len() == 2
        })
        .await;
        // The kernel takes the routes of a link that goes down without telling.
        a.ip("link set near down");
        until(&mut monitor, |tables| {
            !tables.routes.contains_key(&remote) && !tables.links[&near].up
        })
        .await;
        a.ip("link del near");
        until(&mut monitor, |tables| !tables.links.contains_key(&near)).await;
    });
}

#[test]
fn a_neighbour_is_resolved_when_asked_for_and_stays_fresh() {
    let Some((a, b)) = joined() else { return };
    let far = b.ip("-br link show far");
    a.run(async || {
        let mut monitor = Monitor::start().await.unwrap();
        let near = link(monitor.tables(), "near").unwrap();
        let peer = (near, address("192.0.2.2"));
        assert!(!monitor.tables().neighbors.contains_key(&peer));
        until(&mut monitor, |tables| tables.links[&near].up).await;
        monitor.ask_neighbor(near, peer.1);
        until(&mut monitor, |tables| tables.neighbors.contains_key(&peer)).await;
        let mac: Vec<String> = monitor.tables().neighbors[&peer]
            .mac
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(far.contains(&mac.join(":")), "{far}");
        assert!(
            a.ip("neigh show").contains("managed"),
            "{}",
            a.ip("neigh show")
        );
        // The peer gets another Ethernet address and says so, as a standby that takes over does.
        b.ip("link set far address 02:00:00:00:00:77");
        a.ip("neigh flush all");
        until(&mut monitor, |tables| {
            tables
                .neighbors
                .get(&peer)
                .is_some_and(|peer| peer.mac == [2, 0, 0, 0, 0, 0x77])
        })
        .await;
    });
}

#[test]
fn an_administrators_neighbour_is_left_alone() {
    let Some((a, _b)) = joined() else { return };
    a.ip("neigh add 192.0.2.5 lladdr 02:00:00:00:00:05 dev near nud permanent");
    a.run(async || {
        let mut monitor = Monitor::start().await.unwrap();
        let near = link(monitor.tables(), "near").unwrap();
        monitor.ask_neighbor(near, address("192.0.2.5"));
        let _ = tokio::time::timeout(Duration::from_millis(200), monitor.changed()).await;
        assert!(a.ip("neigh show 192.0.2.5").contains("PERMANENT"));
    });
}

#[test]
fn a_flood_of_messages_is_survived() {
    let Some((a, _b)) = joined() else { return };
    a.run(async || {
        let mut monitor = Monitor::start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let batch = folder.path().join("routes");
        let words = |verb: &str| -> String {
            (0..20_000u32)
                .map(|n| {
                    format!(
                        "route {verb} 10.{}.{}.0/24 via 192.0.2.2\n",
                        n >> 8,
                        n & 255
                    )
                })
                .collect()
        };
        let run = |verb: &str| {
            std::fs::write(&batch, words(verb)).unwrap();
            a.ip(&format!("-batch {}", batch.display()));
        };
        let before = monitor.tables().routes.len();
        // The runtime has one thread, which waits for `ip`: nobody reads the socket meanwhile, and it overflows.
        run("add");
        until(&mut monitor, |tables| {
            tables.routes.len() == before + 20_000
        })
        .await;
        run("del");
        until(&mut monitor, |tables| tables.routes.len() == before).await;
    });
}

fn prefix(octets: [u8; 4], length: u8) -> Prefix {
    Prefix::containing(octets, length).unwrap()
}

#[test]
fn the_guard_is_exact_idempotent_and_keeps_to_its_table() {
    let Some((a, _b)) = joined() else { return };
    a.ip("route add 10.9.0.0/16 via 192.0.2.2 table 4300");
    a.ip("rule add from 10.9.0.0/16 lookup 4300 pref 4301");
    a.ip("rule add from 10.8.0.0/16 lookup 4301 pref 99");
    let others = (a.ip("route show table main"), a.ip("route show table 4300"));
    a.run(async || {
        let guard = Guard::open().unwrap();
        let (local, remote) = (prefix([10, 1, 0, 0], 16), prefix([10, 2, 0, 0], 16));
        let wanted = Wanted {
            pairs: [(local, remote)].into(),
            ..Wanted::default()
        };
        for _ in 0..2 {
            guard.apply(&wanted).await.unwrap();
            assert_eq!(
                a.ip("route show table 4301").trim(),
                "unreachable 10.2.0.0/16 proto static"
            );
            assert_eq!(
                a.ip("rule show")
                    .matches("from 10.1.0.0/16 lookup 4301")
                    .count(),
                1
            );
        }
        // Another start, another guard: what is there is adopted, what is not wanted goes.
        let guard = Guard::open().unwrap();
        a.ip("rule add from 10.1.0.0/16 iif near lookup 4301 pref 4301");
        a.ip("route add unreachable 10.7.0.0/16 table 4301");
        a.ip("route add unreachable 10.2.0.0/16 metric 5 table 4301");
        let any = prefix([0, 0, 0, 0], 0);
        let near = prefix([192, 0, 2, 0], 24);
        let wider = Wanted {
            pairs: [(local, remote), (any, any)].into(),
            attached: [near].into(),
            ..Wanted::default()
        };
        guard.apply(&wider).await.unwrap();
        let routes = a.ip("route show table 4301");
        assert_eq!(routes.lines().count(), 3, "{routes}");
        for line in [
            "unreachable default",
            "unreachable 10.2.0.0/16 proto",
            "throw 192.0.2.0/24",
        ] {
            assert!(routes.contains(line), "{routes}");
        }
        let rules = a.ip("rule show pref 4301");
        assert!(
            rules.contains("from 0.0.0.0/1 lookup 4301") && !rules.contains("iif near"),
            "{rules}"
        );
        assert!(a.ip("route get 192.0.2.2").contains("dev near"));
        guard.apply(&wanted).await.unwrap();
        assert_eq!(a.ip("route show table 4301").lines().count(), 1);
        guard.clear().await.unwrap();
        guard.clear().await.unwrap();
        assert!(
            a.ip("route show table all")
                .lines()
                .all(|route| !route.contains("4301"))
        );
        let rules = a.ip("rule show");
        assert!(
            rules.contains("from 10.9.0.0/16 lookup 4300")
                && rules.contains("from 10.8.0.0/16 lookup 4301"),
            "{rules}"
        );
    });
    assert_eq!(
        others,
        (a.ip("route show table main"), a.ip("route show table 4300"))
    );
}

/// The guard of one protected pair, 10.1.0.0/16 and 10.2.0.0/16, with `near` outside.
fn one_pair() -> Wanted {
    Wanted {
        pairs: [(prefix([10, 1, 0, 0], 16), prefix([10, 2, 0, 0], 16))].into(),
        outside: ["near".to_owned()].into(),
        ..Wanted::default()
    }
}

/// A gateway that forwards from `near` to hosts of 10.1.0.0/24 behind it, whatever the reverse path; and its wire.
fn forwarding() -> Option<(Namespace, Namespace)> {
    let (a, b) = joined()?;
    a.ip("link add lan type veth peer name host");
    a.ip("addr add 10.1.0.1/24 dev lan");
    a.ip("link set host up");
    a.ip("link set lan up");
    a.ip("route add default via 192.0.2.2");
    a.run(async || {
        for (key, value) in [
            ("ip_forward", "1"),
            ("conf/all/rp_filter", "0"),
            ("conf/near/rp_filter", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value).unwrap();
        }
    });
    Some((a, b))
}

/// Does the kernel take a packet that comes in by `near`, to send it on or for itself?
fn takes(gateway: &Namespace, from: &str, to: &str) -> bool {
    let words = ["route", "get", to, "from", from, "iif", "near"];
    let mut command = Command::new("ip");
    command.args(["-n", &gateway.name]).args(words);
    command.output().unwrap().status.success()
}

#[test]
fn the_guard_drops_plaintext_that_comes_in_and_nothing_else() {
    let Some((a, _b)) = forwarding() else { return };
    assert!(takes(&a, "10.2.0.5", "10.1.0.5"), "without a guard");
    a.run(async || {
        let guard = Guard::open().unwrap();
        guard.apply(&one_pair()).await.unwrap();
        assert!(!takes(&a, "10.2.0.5", "10.1.0.5"));
        assert!(takes(&a, "10.3.0.5", "10.1.0.5"), "of no pair");
        for own in ["192.0.2.1", "10.1.0.1"] {
            assert!(takes(&a, "10.2.0.5", own), "to the gateway itself");
        }

        let any = prefix([0, 0, 0, 0], 0);
        let from_anywhere = Wanted {
            pairs: [(prefix([10, 1, 0, 0], 16), any)].into(),
            ..one_pair()
        };
        guard.apply(&from_anywhere).await.unwrap();
        for from in ["10.2.0.5", "198.51.100.5"] {
            assert!(!takes(&a, from, "10.1.0.5"));
            assert!(takes(&a, from, "192.0.2.1"), "IKE of a peer in 0.0.0.0/0");
        }
        let everything = Wanted {
            pairs: [(any, any)].into(),
            ..one_pair()
        };
        guard.apply(&everything).await.unwrap();
        for from in ["10.2.0.5", "198.51.100.5"] {
            assert!(!takes(&a, from, "10.1.0.5"));
            assert!(takes(&a, from, "192.0.2.1"));
        }
        assert_eq!(guard.look(&everything).await.unwrap(), Standing::default());

        guard.clear().await.unwrap();
        assert!(takes(&a, "10.2.0.5", "10.1.0.5"), "and it goes");
        assert_eq!(a.ip("rule show pref 4301"), "");
    });
}

#[test]
fn the_guard_is_found_adopted_and_restored_by_its_parts() {
    let Some((a, _b)) = forwarding() else { return };
    let wanted = Wanted {
        outside: ["near".to_owned(), "later".to_owned()].into(),
        ..one_pair()
    };
    let incoming = "from 10.2.0.0/16 to 10.1.0.0/16 iif near blackhole";
    let missing = |parts: &[&str]| Standing {
        missing: parts.iter().map(|part| (*part).to_owned()).collect(),
        ..Standing::default()
    };
    a.run(async || {
        let guard = Guard::open().unwrap();
        let nothing_yet = guard.look(&wanted).await.unwrap();
        assert_eq!(nothing_yet.missing.len(), 4, "{nothing_yet:?}");
        guard.apply(&wanted).await.unwrap();
        let complete = Standing::default();
        assert_eq!(guard.look(&wanted).await.unwrap(), complete);
        // Another start adopts what is there: no rule moves.
        let before = a.ip("rule show");
        Guard::open().unwrap().apply(&wanted).await.unwrap();
        assert_eq!(a.ip("rule show"), before);

        // A port that is not there yet is guarded from its first moment on.
        a.ip("link add later type veth peer name other");
        assert_eq!(guard.look(&wanted).await.unwrap(), complete);

        a.ip("rule del pref 4301 iif near");
        assert_eq!(guard.look(&wanted).await.unwrap(), missing(&[incoming]));
        assert!(takes(&a, "10.2.0.5", "10.1.0.5"));
        guard.apply(&wanted).await.unwrap();
        assert!(!takes(&a, "10.2.0.5", "10.1.0.5"));
        a.ip("route flush table 4301");
        let gone = guard.look(&wanted).await.unwrap();
        assert_eq!(gone, missing(&["unreachable 10.2.0.0/16"]));
        guard.apply(&wanted).await.unwrap();
        assert_eq!(guard.look(&wanted).await.unwrap(), complete);

        // What makes holes is found, and goes.
        a.ip("route add throw 10.2.3.0/24 table 4301");
        a.ip("rule add fwmark 7 lookup 4301 pref 4301");
        let holes = guard.look(&wanted).await.unwrap();
        let words = ["throw 10.2.3.0/24", "another rule of preference 4301"];
        assert_eq!(
            (holes.missing.len(), holes.foreign),
            (0, words.map(str::to_owned).to_vec())
        );
        guard.apply(&wanted).await.unwrap();
        assert_eq!(guard.look(&wanted).await.unwrap(), complete);
    });
}

#[test]
fn rules_of_strangers_in_our_table_keep_none_of_ours_away() {
    let Some((a, _b)) = forwarding() else { return };
    // Asked to take this one away, the kernel takes away the first to this table.
    a.ip("rule add lookup 4301 pref 4301");
    // This one it takes for the same as `from 10.1.0.0/16 lookup 4301`, and refuses that.
    a.ip("rule add from 10.1.0.0/16 to 10.9.0.0/16 lookup 4301 pref 4301");
    let locals = (0..8).map(|n| (prefix([10, n, 0, 0], 16), prefix([10, 99, 0, 0], 16)));
    let wanted = Wanted {
        pairs: locals.collect(),
        ..one_pair()
    };
    a.run(async || {
        let guard = Guard::open().unwrap();
        guard.apply(&wanted).await.unwrap();
        assert_eq!(guard.look(&wanted).await.unwrap(), Standing::default());
    });
}

#[test]
fn the_guard_stops_what_the_kernel_would_forward() {
    let Some((a, _b)) = joined() else { return };
    a.ip("addr add 10.1.0.1/24 dev lo");
    a.ip("route add default via 192.0.2.2");
    let forwards = |to: &str| {
        let words = ["-n", &a.name, "route", "get", to, "from", "10.1.0.1"];
        Command::new("ip")
            .args(words)
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(forwards("10.2.0.5") && forwards("10.3.0.5"));
    a.run(async || {
        let pairs = [(prefix([10, 1, 0, 0], 16), prefix([10, 2, 0, 0], 16))].into();
        Guard::open()
            .unwrap()
            .apply(&Wanted {
                pairs,
                ..Wanted::default()
            })
            .await
            .unwrap();
    });
    assert!(!forwards("10.2.0.5") && forwards("10.3.0.5"));
}

/// Both planes are dead and everything is protected: what is on the LAN is reached, what only looks like it is not.
#[test]
fn the_guard_keeps_a_part_of_the_lan_that_is_routed_elsewhere() {
    let Some((a, _b)) = forwarding() else { return };
    a.ip("addr add 10.1.0.1/16 dev lan");
    a.ip("route add 10.1.9.0/24 via 192.0.2.2");
    let forwards = |to: &str| {
        let words = [
            "-n", &a.name, "route", "get", to, "from", "10.1.0.5", "iif", "lan",
        ];
        let output = Command::new("ip").args(words).output().unwrap();
        output.status.success()
    };
    let (lan, any) = (prefix([10, 1, 0, 0], 16), prefix([0, 0, 0, 0], 0));
    let without_parts = Wanted {
        pairs: [(lan, any)].into(),
        attached: [lan, prefix([10, 1, 0, 0], 24)].into(),
        ..one_pair()
    };
    let wanted = Wanted {
        elsewhere: [prefix([10, 1, 9, 0], 24)].into(),
        ..without_parts.clone()
    };
    a.run(async || {
        std::fs::write("/proc/sys/net/ipv4/conf/lan/rp_filter", "0").unwrap();
        let guard = Guard::open().unwrap();
        guard.apply(&without_parts).await.unwrap();
        assert!(forwards("10.1.9.5") && forwards("10.1.8.5"));
        guard.apply(&wanted).await.unwrap();
        assert_eq!(guard.look(&wanted).await.unwrap(), Standing::default());
    });
    assert!(!forwards("10.1.9.5"), "in the clear by another interface");
    assert!(forwards("10.1.8.5") && forwards("10.1.0.9"), "on the LAN");
    assert!(!forwards("10.2.0.5"), "through the tunnel only");
    // The gateway itself answers its LAN, and is not heard elsewhere.
    assert!(a.ip("route get 10.1.8.5 from 10.1.0.1").contains("dev lan"));
    a.run(async || Guard::open().unwrap().apply(&without_parts).await.unwrap());
    assert!(forwards("10.1.9.5"), "and the part goes with its route");
}

#[test]
fn the_holder_of_a_port_is_looked_for_in_ones_own_namespace() {
    let Some((a, b)) = joined() else { return };
    let socket = a.run(async || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 500)).unwrap());
    let holder = a
        .run(async || udp_port_holder(address("192.0.2.1"), 500))
        .unwrap();
    assert_eq!(holder.pid, std::process::id());
    assert_eq!(
        b.run(async || udp_port_holder(address("192.0.2.2"), 500)),
        None
    );
    drop(socket);
    // A process that another test starts at this moment has the socket too, until it runs its program.
    let freed = || {
        a.run(async || udp_port_holder(address("192.0.2.1"), 500))
            .is_none()
    };
    assert!((0..100).any(|_| freed() || {
        std::thread::sleep(Duration::from_millis(10));
        false
    }));
}
