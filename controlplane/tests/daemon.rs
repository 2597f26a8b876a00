//! The daemon as a process, in a network namespace of its own, with a dataplane that only writes down what it is told.
//! Needs root; without it the tests are skipped, loudly.

#![forbid(unsafe_code)]

mod common;

use std::{
    fs,
    net::UdpSocket,
    os::fd::AsFd,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use common::{Bed, Daemon, Scribe, accept, is_end, write};
use esplanade_channel::{Command as Order, CommandError, Event};
use esplanade_controlplane::api::{Explanation, Link, Verdict};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const CONFIG: &str = "dataplane:
  workers: [0]
  ports:
    lan: { interface: eth1, role: inside }
    wan: { interface: eth2, role: outside }
tunnels:
  site-b:
    local: { address: 192.0.2.1, identity: a.example.org }
    remote: { address: 192.0.2.2, identity: b.example.org }
    authentication: { psk: { secret: \"correct horse battery staple\" } }
    start: wait
    children:
      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16] }
";

const NETWORK: &str = "ip link set lo up
ip link add eth1 type veth peer name eth1p
ip link add eth2 type veth peer name eth2p
for i in eth1 eth1p eth2 eth2p; do ip link set $i up; done
ip address add 10.1.0.1/24 dev eth1
ip address add 192.0.2.1/24 dev eth2
ip route add 198.51.100.0/24 via 192.0.2.254
ip neighbour add 192.0.2.254 lladdr 02:00:00:00:00:fe dev eth2 nud permanent
";

/// The daemon with [`CONFIG`] in [`NETWORK`].
fn start() -> Option<(Bed, Daemon)> {
    let bed = Bed::new(NETWORK)?;
    let daemon = bed.start(NAME, CONFIG);
    Some((bed, daemon))
}

const NAME: &str = "gateway";

#[test]
fn a_dataplane_is_told_the_whole_picture_after_the_guard_stands() {
    let Some((bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    let pending = accept(&listener);
    // What the daemon sent is the order to attach XDP; the guard has to precede it.
    let rules = bed.shell("ip rule");
    for rule in [
        "4301:\tfrom 10.1.0.0/16 lookup 4301",
        "4301:\tfrom 10.2.0.0/16 to 10.1.0.0/16 iif eth2",
    ] {
        assert!(rules.contains(rule), "{rules}");
    }
    assert!(
        bed.shell("ip route show table 4301")
            .contains("unreachable 10.2.0.0/16")
    );
    let mut scribe = Scribe::grant(pending);
    let (worker, steward) = scribe.obey_until(is_end);
    assert_eq!(worker.first(), Some(&Order::BeginSync));
    let text = format!("{worker:?}");
    assert!(
        worker
            .iter()
            .any(|order| matches!(order, Order::SetPolicy(_))),
        "{text}"
    );
    assert_eq!(
        worker
            .iter()
            .filter(|order| matches!(order, Order::SetPort { .. }))
            .count(),
        2
    );
    assert!(worker.iter().any(|order| matches!(
        order,
        Order::SetRoute { prefix, gateway: Some(_), port: Some(port), .. }
            if prefix.to_string() == "198.51.100.0/24" && port.0 == 1
    )));
    assert!(worker.iter().any(|order| matches!(
        order,
        Order::SetNeighbor {
            mac: [2, 0, 0, 0, 0, 0xfe],
            ..
        }
    )));
    assert!(matches!(
        steward[..],
        [
            Order::BeginSync,
            Order::SetProtected { .. },
            Order::SetLocalAddress { .. },
            ..,
            Order::EndSync
        ]
    ));
    let inside: Vec<String> = steward
        .iter()
        .filter_map(|order| match order {
            Order::SetInside { prefix } => Some(prefix.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(
        inside,
        [
            "10.1.0.0/24",
            "10.1.0.1/32",
            "127.0.0.1/32",
            "192.0.2.1/32",
            "::1/128"
        ]
    );
    assert_eq!(steward.len(), 4 + inside.len());
}

#[test]
fn what_keeps_a_daemon_from_starting_leaves_its_prefixes_guarded() {
    let Some(bed) = Bed::new(NETWORK) else {
        return;
    };
    let namespace = fs::File::open(format!("/proc/{}/ns/net", bed.id())).unwrap();
    let holder = thread::spawn(move || {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), network).unwrap();
        UdpSocket::bind("192.0.2.1:500").unwrap()
    });
    let _held = holder.join().unwrap();
    let output = bed.daemon(NAME, CONFIG).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let after = bed.shell("ip rule; ip route show table 4301");
    assert!(
        error.contains("UDP port 500 of 192.0.2.1 is held by"),
        "{error}"
    );
    assert!(
        after.contains("4301:\tfrom 10.1.0.0/16 lookup 4301"),
        "{after}"
    );
    assert!(after.contains("unreachable 10.2.0.0/16"), "{after}");
}

#[test]
fn every_thread_keeps_two_capabilities_and_can_gain_none() {
    let Some((_bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    let _scribe = Scribe::grant(accept(&listener));
    let threads = format!("/proc/{}/task", daemon.id());
    for thread in fs::read_dir(threads).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        // Bits 10 and 12 of capability(7): CAP_NET_BIND_SERVICE and CAP_NET_ADMIN.
        for line in [
            "CapPrm:\t0000000000001400\n",
            "CapEff:\t0000000000001400\n",
            "CapInh:\t0000000000000000\n",
            "CapAmb:\t0000000000000000\n",
            "NoNewPrivs:\t1\n",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
}

#[test]
fn changes_of_the_kernel_and_of_the_file_are_followed() {
    let Some((bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    let mut scribe = Scribe::grant(accept(&listener));
    scribe.obey_until(is_end);
    bed.shell("ip route del 198.51.100.0/24");
    let (worker, _) = scribe.obey_until(|order| matches!(order, Order::RemoveRoute { .. }));
    assert!(
        !worker
            .iter()
            .any(|order| matches!(order, Order::SetPolicy(_))),
        "{worker:?}"
    );

    let path = bed.path("gateway.yaml");
    write(&path, &CONFIG.replace("remote:", "remtoe:"));
    let (_, error, code) = daemon.esplanade(&["reload"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("gateway.yaml:") && error.contains("remote"),
        "{error}"
    );
    assert_eq!(daemon.status().tunnels.len(), 1);

    write(&path, &CONFIG.replace("10.2.0.0/16", "10.3.0.0/16"));
    let (said, error, _) = daemon.esplanade(&["reload"]);
    assert_eq!(said, "changed site-b; 0 tunnels untouched\n", "{error}");
    scribe.obey_until(|order| matches!(order, Order::SetPolicy(_)));
    let guard = bed.shell("ip route show table 4301");
    assert!(
        guard.contains("10.3.0.0/16") && !guard.contains("10.2.0.0/16"),
        "{guard}"
    );
}

#[test]
fn a_refusal_of_the_dataplane_is_shown_and_a_new_dataplane_is_found_at_once() {
    let Some((_bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    accept(&listener).refuse("eth1 has somebody else's XDP program");
    let again = accept(&listener);
    let status = daemon.status();
    let trouble = status.dataplane_trouble.unwrap_or_default();
    assert!(
        trouble.contains("eth1 has somebody else's XDP program"),
        "{trouble}"
    );
    let (_, error, code) = daemon.esplanade(&["initiate", "site-b"]);
    assert!(
        code == 1 && error.contains("somebody else's XDP program"),
        "{error}"
    );

    let first = Scribe::grant(again);
    drop(first);
    let started = Instant::now();
    let mut second = Scribe::grant(accept(&listener));
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    let (worker, _) = second.obey_until(is_end);
    assert_eq!(worker.first(), Some(&Order::BeginSync));
}

#[test]
fn a_tunnel_that_is_not_up_is_explained() {
    let Some((_bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    accept(&listener).refuse("eth1 has somebody else's XDP program");
    let again = accept(&listener);
    let explained = |codes: &[&str]| {
        let (said, error, _) = daemon.esplanade(&["explain", "site-b", "--json"]);
        let explanation: Explanation = serde_json::from_str(&said).expect(&error);
        let findings = explanation.findings.iter();
        let found: Vec<&str> = findings.map(|finding| finding.code.as_str()).collect();
        assert_eq!((explanation.verdict, &found[..]), (Verdict::Down, codes));
        let (text, ..) = daemon.esplanade(&["explain", "site-b"]);
        text
    };
    let text = explained(&["dataplane-away"]);
    assert!(
        text.contains("eth1 has somebody else's XDP program"),
        "{text}"
    );

    let mut scribe = Scribe::grant(again);
    scribe.obey_until(is_end);
    let text = explained(&["waits"]);
    assert!(
        text.contains("what to do: `esplanade initiate site-b`"),
        "{text}"
    );
    // Nobody is at 192.0.2.2. The second transmission comes half a second after the first.
    let mut asked = daemon.ask(&["initiate", "site-b"]);
    sleep(Duration::from_secs(1));
    let text = explained(&["no-answer"]);
    asked.kill().unwrap();
    asked.wait().unwrap();
    assert!(
        text.contains("192.0.2.2:500 has not answered 2 transmissions"),
        "{text}"
    );

    let (_, error, code) = daemon.esplanade(&["explain", "site-c"]);
    assert!(
        code == 1 && error.contains("configured are: site-b"),
        "{error}"
    );
}

#[test]
fn a_guard_that_was_taken_away_stands_again_before_the_next_dataplane() {
    let Some((bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    let first = Scribe::grant(accept(&listener));
    let guard = || daemon.status().control_plane.guard.to_string();
    assert_eq!(guard(), "complete");
    bed.shell("ip route flush table 4301");
    assert_eq!(guard(), "incomplete; without `unreachable 10.2.0.0/16`");
    bed.shell("while ip rule del pref 4301; do :; done");
    assert!(!bed.shell("ip rule").contains("4301:"));
    let lines = daemon.esplanade(&["status"]).0;
    assert!(
        lines.contains("guard          incomplete; without `unreachable 10.2.0.0/16`, `from 10.1"),
        "{lines}"
    );
    drop(first);
    let _second = accept(&listener);
    assert_eq!(guard(), "complete");
    assert!(bed.shell("ip rule").contains("4301:"));
    let routes = bed.shell("ip route show table 4301");
    assert!(routes.contains("unreachable 10.2.0.0/16"), "{routes}");
}

#[test]
fn a_port_whose_interface_is_down_is_named_until_it_is_up() {
    let Some((bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    let pending = accept(&listener);
    bed.shell("ip link set eth2 down");
    let mut scribe = Scribe::grant(pending);
    scribe.obey_until(is_end);
    let comes_to = |wanted| {
        let deadline = Instant::now() + Duration::from_secs(10);
        let down = "eth2 is down, and no packet passes it: `ip link set eth2 up`";
        let missing = "eth2 does not exist, and no packet passes it";
        loop {
            let plane = daemon.status().dataplane.expect("a dataplane");
            let links: Vec<Link> = plane.ports.into_iter().map(|port| port.link).collect();
            if links == [Link::Up, wanted] {
                let said = daemon.esplanade(&["status"]).0;
                assert_eq!(said.contains(down), wanted == Link::Down, "{said}");
                assert_eq!(said.contains(missing), wanted == Link::Missing, "{said}");
                return;
            }
            assert!(Instant::now() < deadline, "{links:?}");
            sleep(Duration::from_millis(20));
        }
    };
    comes_to(Link::Down);
    bed.shell("ip link set eth2 up");
    comes_to(Link::Up);
    // The cable is pulled at the other end.
    bed.shell("ip link set eth2p down");
    comes_to(Link::Down);
    bed.shell("ip link del eth2");
    comes_to(Link::Missing);
}

#[test]
fn what_the_dataplane_does_not_obey_is_told_in_words() {
    let Some((_bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    let mut scribe = Scribe::grant(accept(&listener));
    let deadline = Instant::now() + Duration::from_secs(10);
    let sequence = loop {
        assert!(Instant::now() < deadline, "no policy in time");
        match scribe.worker.commands.receive() {
            Some(received) if matches!(received.command, Ok(Order::SetPolicy(_))) => {
                break received.sequence;
            }
            Some(_) => {}
            None => sleep(Duration::from_millis(5)),
        }
    };
    scribe.worker.commands.applied();
    let reason = CommandError::TableFull;
    let failed = Event::CommandFailed { sequence, reason };
    scribe.worker.events.push(&failed).unwrap();
    scribe.worker.events.flush();
    let trouble = || daemon.status().tunnels.remove(0).trouble;
    while trouble().is_none() && Instant::now() < deadline {
        sleep(Duration::from_millis(20));
    }
    assert_eq!(
        trouble().unwrap_or_default(),
        "lan: the dataplane did not change its policy: the table is full"
    );
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let Some((_bed, daemon)) = start() else {
        return;
    };
    let listener = daemon.listener();
    let _scribe = Scribe::grant(accept(&listener));
    let (_, error, code) = daemon.esplanade(&["rekey", "site-c"]);
    assert!(
        code == 1 && error.contains("configured are: site-b"),
        "{error}"
    );
    let (_, error, code) = daemon.esplanade(&["terminate", "site-b/wan"]);
    assert!(code == 1 && error.contains("it has: lan"), "{error}");
    let (_, _, code) = daemon.esplanade(&["initiate", "a/b/c"]);
    assert_eq!(code, 2);
}
