//! What a person sees, line by line.

use super::*;
use crate::api::{ControlPlane, Dataplane, Finding, Guard, Link, Port, Verdict, Worker};

fn control_plane() -> ControlPlane {
    ControlPlane {
        pid: 812,
        version: "0.1.0".into(),
        uptime_s: 3723,
        guard: Guard {
            on: true,
            ..Guard::default()
        },
        config: "/etc/esplanade/gateway.yaml".into(),
    }
}

fn totals() -> Totals {
    Totals {
        in_packets: 1,
        in_bytes: 84,
        out_packets: 2,
        out_bytes: 168,
        drops: [
            ("InStateSeqError".to_owned(), 3),
            ("OutTooBig".to_owned(), 7),
        ]
        .into(),
    }
}

fn site_b() -> Tunnel {
    Tunnel {
        identity: None,
        instances: None,
        addresses: vec![],
        name: "site-b".into(),
        state: "established".into(),
        local: "192.0.2.1".parse().unwrap(),
        remote: "192.0.2.2".parse().unwrap(),
        suite: None,
        established_s: Some(61),
        children: vec![
            Child {
                name: "lan".into(),
                up: true,
                local: vec!["10.1.0.0/16".into()],
                remote: vec!["10.2.0.0/16".into()],
                spi_in: None,
                spi_out: None,
                totals: totals(),
            },
            Child {
                name: "voice".into(),
                up: false,
                local: vec!["10.9.1.0/24".into()],
                remote: vec!["10.9.2.0/24".into(), "10.9.3.0/24".into()],
                spi_in: None,
                spi_out: None,
                totals: Totals::default(),
            },
        ],
        totals: totals(),
        trouble: Some("voice was refused: the peer's selectors do not overlap ours".into()),
    }
}

#[test]
fn status_shows_both_planes_and_every_tunnel() {
    let status = Status {
        control_plane: control_plane(),
        dataplane: Some(Dataplane {
            pid: 813,
            epoch: "00c0ffee".into(),
            engine: "aws-lc-rs".into(),
            workers: vec![Worker {
                worker: 0,
                core: Some(1),
                sas: 2,
            }],
            ports: vec![Port {
                interface: "eth1".into(),
                role: "inside".into(),
                link: Link::Down,
                mode: "native".into(),
                buffers: "copy".into(),
                queues: 1,
                rx_packets: 10,
                rx_bytes: 1000,
                tx_packets: 9,
                tx_bytes: 900,
            }],
        }),
        dataplane_trouble: None,
        tunnels: vec![site_b()],
    };
    assert_eq!(
        report(&Report::Status(Box::new(status))),
        "\
control plane  version 0.1.0, process 812, up 1 h 2 min, runs /etc/esplanade/gateway.yaml
guard          complete
dataplane      process 813, engine aws-lc-rs, worker 0 on core 1: 2 SAs

PORT  ROLE    LINK  XDP     BUFFERS  QUEUES  RX PACKETS  TX PACKETS
eth1  inside  down  native  copy          1          10           9
eth1 is down, and no packet passes it: `ip link set eth1 up`, or look at its cable

TUNNEL  STATE        SINCE      LOCAL      REMOTE     CHILD       SELECTORS
site-b  established  1 min 1 s  192.0.2.1  192.0.2.2  lan up      10.1.0.0/16 <-> 10.2.0.0/16
                                                      voice down  10.9.1.0/24 <-> 10.9.2.0/24,10.9.3.0/24

site-b/lan: 1 packet in (84 bytes), 2 packets out (168 bytes); dropped: 7 OutTooBig, 3 InStateSeqError

site-b: voice was refused: the peer's selectors do not overlap ours
"
    );
}

#[test]
fn the_guard_is_shown_as_it_was_found() {
    let parts = |count: usize| (0..count).map(|n| format!("part {n}")).collect();
    let guard = |on, missing, foreign| Guard {
        on,
        missing: parts(missing),
        foreign: parts(foreign),
        trouble: None,
    };
    for (guard, line) in [
        (guard(true, 0, 0), "complete"),
        (guard(true, 1, 0), "incomplete; without `part 0`"),
        (
            guard(true, 5, 1),
            "incomplete; without `part 0`, `part 1`, `part 2` and 2 more; besides there is `part 0`",
        ),
        (guard(false, 0, 0), "off"),
    ] {
        assert_eq!(guard.to_string(), line);
    }
    let unknown = Guard {
        trouble: Some("the netlink socket is closed".into()),
        ..guard(true, 0, 0)
    };
    assert_eq!(unknown.to_string(), "unknown: the netlink socket is closed");
}

#[test]
fn status_says_why_the_dataplane_is_away() {
    let status = Status {
        control_plane: control_plane(),
        dataplane: None,
        dataplane_trouble: Some("nothing listens on /run/esplanade/dataplane.sock".into()),
        tunnels: vec![],
    };
    let text = report(&Report::Status(Box::new(status)));
    assert!(
        text.contains("dataplane      away: nothing listens on /run"),
        "{text}"
    );
    assert!(text.ends_with("\nno tunnels are configured\n"), "{text}");
}

#[test]
fn sas_show_traffic_and_the_one_in_use() {
    let sa = |direction: &str, selected, idle_ms| Sa {
        label: "site-b/lan".into(),
        direction: direction.into(),
        spi: "0x00001abc".into(),
        state: "live".into(),
        local: "192.0.2.1".into(),
        remote: "192.0.2.2".into(),
        selected,
        worker: 0,
        protocol: "esp".into(),
        mode: "tunnel".into(),
        algorithm: "aes128-sha256".into(),
        packets: 12,
        bytes: 1800,
        sequence: 13,
        window: 1024,
        esn: true,
        replay_drops: 0,
        auth_failures: 1,
        drops: if selected {
            BTreeMap::new()
        } else {
            [("InStateProtoError".to_owned(), 1)].into()
        },
        path_mtu: selected.then_some(1400),
        idle_ms,
    };
    assert_eq!(
        report(&Report::Sas(vec![sa("out", true, Some(250)), sa("in", false, None)])),
        "\
CHILD            SPI         STATE         LOCAL      REMOTE     MODE        ALGORITHM      WORKER  PACKETS  BYTES  SEQUENCE  REPLAYED  FORGED  PATH MTU        IDLE
site-b/lan  out  0x00001abc  live, in use  192.0.2.1  192.0.2.2  esp tunnel  aes128-sha256       0       12   1800        13         0       1      1400      250 ms
site-b/lan  in   0x00001abc  live          192.0.2.1  192.0.2.2  esp tunnel  aes128-sha256       0       12   1800        13         0       1            never used
site-b/lan in 0x00001abc; dropped: 1 InStateProtoError
"
    );
}

fn row(name: &str, severity: Severity, value: u64) -> CounterRow {
    CounterRow {
        name: name.into(),
        plane: "dataplane".into(),
        severity,
        unit: "packets".into(),
        value,
        meaning: "What it means.".into(),
    }
}

#[test]
fn counters_come_by_severity() {
    let list = [
        row("PacketsSealed", Severity::Info, 5),
        row("InStateProtoError", Severity::Error, 2),
    ];
    assert_eq!(
        counters(&list),
        "\
errors
  VALUE  UNIT     COUNTER            WHERE      MEANING
      2  packets  InStateProtoError  dataplane  What it means.

traffic
  VALUE  UNIT     COUNTER        WHERE      MEANING
      5  packets  PacketsSealed  dataplane  What it means.
"
    );
    assert_eq!(counters(&[]), "every counter is at zero\n");
}

#[test]
fn a_reload_says_what_it_touched_and_what_it_did_not() {
    let changes = Reloaded {
        added: vec!["site-c".into()],
        unchanged: 2,
        needs_restart: vec!["dataplane.workers".into()],
        ..Reloaded::default()
    };
    assert_eq!(
        report(&Report::Reloaded(changes)),
        "added site-c; 2 tunnels untouched\nneeds a restart of the dataplane: dataplane.workers\n"
    );
    assert_eq!(
        report(&Report::Reloaded(Reloaded {
            unchanged: 1,
            ..Reloaded::default()
        })),
        "nothing changed: 1 tunnel as before\n"
    );
}

#[test]
fn an_explanation_says_what_to_do() {
    let finding = |child: Option<&str>, remedy: Option<&str>| Finding {
        code: "no-answer".into(),
        child: child.map(str::to_owned),
        what: "the peer did not answer".into(),
        remedy: remedy.map(str::to_owned),
        ago_s: child.map(|_| 65),
    };
    let explanation = Explanation {
        target: "site-b".into(),
        verdict: Verdict::Partly,
        findings: vec![finding(Some("lan"), Some("call it")), finding(None, None)],
    };
    assert_eq!(
        report(&Report::Explained(explanation)),
        "site-b: not all of it is up

- lan: the peer did not answer (1 min 5 s ago)
  what to do: call it

- the peer did not answer
"
    );
}

#[test]
fn durations_use_two_units() {
    let seen = [5, 65, 3700, 90_000].map(duration);
    assert_eq!(seen, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    assert_eq!(milliseconds(999), "999 ms");
}
