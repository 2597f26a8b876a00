//! What each cause is told as.

use std::{collections::BTreeMap, time::Duration};

use esplanade_config::{Config, FileContext, NoFiles};
use esplanade_ike::{Outstanding, Path, Refusal, Subject};

use super::*;

const CONFIG: &str = "dataplane:
  ports:
    lan: { interface: eth1, role: inside }
    wan: { interface: eth2, role: outside }
tunnels:
  site-b:
    local: { address: 192.0.2.1, identity: a.example.org }
    remote: { address: REMOTE, identity: b.example.org }
    authentication: { psk: { secret: \"correct horse battery staple\" } }
    start: START
    children:
      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16] }
      voice: { local: [10.9.1.0/24], remote: [10.9.2.0/24] }
";

fn tunnel(remote: &str, start: &str) -> Tunnel {
    let text = CONFIG.replace("REMOTE", remote).replace("START", start);
    let context = FileContext {
        path: "gateway.yaml".into(),
        mode: None,
        files: &NoFiles,
    };
    let mut config = Config::parse(&text, &context).unwrap();
    config.tunnels.remove(0)
}

fn sa(direction: &str, packets: u64, idle_ms: Option<u64>) -> Sa {
    Sa {
        label: "site-b/lan".into(),
        direction: direction.into(),
        spi: "00012345".into(),
        state: "live".into(),
        local: "192.0.2.1".into(),
        remote: "192.0.2.2".into(),
        selected: direction == "out",
        worker: 0,
        protocol: "esp".into(),
        mode: "tunnel".into(),
        algorithm: "aes256gcm16".into(),
        packets,
        bytes: packets * 100,
        sequence: packets,
        window: 1024,
        esn: true,
        replay_drops: 0,
        auth_failures: 0,
        drops: BTreeMap::new(),
        path_mtu: None,
        idle_ms,
    }
}

fn pair(sent: u64, received: u64) -> Vec<Sa> {
    let idle = |packets| (packets > 0).then_some(100);
    vec![
        sa("in", received, idle(received)),
        sa("out", sent, idle(sent)),
    ]
}

/// A tunnel that is as it should be: each of its children with these SAs.
fn facts(tunnel: &Tunnel, sas: [Vec<Sa>; 2]) -> Facts<'_> {
    let children = tunnel.children.iter().zip(sas);
    Facts {
        tunnel,
        now: Instant::now(),
        dataplane_away: None,
        ike: None,
        children: children
            .map(|(config, sas)| Child {
                config,
                taken_down: false,
                sas,
                narrowed: None,
            })
            .collect(),
        refusal: None,
        stranger: None,
        trouble: None,
        ports: vec![("eth1".into(), Link::Up), ("eth2".into(), Link::Up)],
        route: Route::Fine,
        guard: Guard {
            on: true,
            ..Guard::default()
        },
        counters: Vec::new(),
    }
}

fn told(refusal: Refusal) -> Told {
    Told {
        at: Instant::now(),
        refusal,
    }
}

/// What is found: the verdict, and each code with its child.
fn found(facts: &Facts<'_>) -> (Verdict, Vec<(String, Option<String>)>) {
    let explanation = explain(facts, "site-b".into());
    let findings = explanation.findings.into_iter();
    (
        explanation.verdict,
        findings.map(|one| (one.code, one.child)).collect(),
    )
}

#[track_caller]
fn expect(facts: &Facts<'_>, verdict: Verdict, codes: &[&str]) -> Vec<Finding> {
    let (is, found) = found(facts);
    let found: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!((is, found.as_slice()), (verdict, codes));
    explain(facts, "site-b".into()).findings
}

fn both(sent: u64, received: u64) -> [Vec<Sa>; 2] {
    [pair(sent, received), pair(sent, received)]
}

#[test]
fn what_carries_traffic_needs_no_words() {
    let tunnel = tunnel("192.0.2.2", "at-once");
    expect(&facts(&tunnel, both(10, 10)), Verdict::Carries, &[]);
    // What others lose is no cause then.
    let mut facts = facts(&tunnel, both(10, 10));
    facts.counters = vec![counter("InNoRoute", 7, Severity::Error)];
    expect(&facts, Verdict::Carries, &[]);
}

#[test]
fn a_tunnel_that_nobody_has_begun_says_who_is_to() {
    let waiting = tunnel("192.0.2.2", "wait");
    let found = expect(
        &facts(&waiting, Default::default()),
        Verdict::Down,
        &["waits"],
    );
    let remedy = found[0].remedy.as_deref().unwrap();
    assert!(remedy.contains("`esplanade initiate site-b`"), "{remedy}");
    let anyone = tunnel("any", "wait");
    let found = expect(
        &facts(&anyone, Default::default()),
        Verdict::Down,
        &["waits"],
    );
    assert!(found[0].what.contains("b.example.org"), "{found:?}");
    let ours = tunnel("192.0.2.2", "at-once");
    expect(
        &facts(&ours, Default::default()),
        Verdict::Down,
        &["retries"],
    );
    let mut closed = facts(&ours, Default::default());
    closed.trouble = Some("the IKE SA is gone: deleted by the peer");
    let found = expect(&closed, Verdict::Down, &["trouble"]);
    assert!(found[0].what.contains("deleted by the peer"));
}

#[test]
fn what_the_operator_has_done_is_said_of_its_child() {
    let tunnel = tunnel("192.0.2.2", "at-once");
    let mut facts = facts(&tunnel, [pair(1, 1), Vec::new()]);
    facts.children[1].taken_down = true;
    let (verdict, codes) = found(&facts);
    let expected = ("taken-down".to_owned(), Some("voice".to_owned()));
    assert_eq!((verdict, codes), (Verdict::Partly, vec![expected]));
}

#[test]
fn without_a_dataplane_there_is_nothing_else_to_look_for() {
    let tunnel = tunnel("192.0.2.2", "at-once");
    let mut facts = facts(&tunnel, Default::default());
    facts.dataplane_away = Some("it is not connected".into());
    expect(&facts, Verdict::Down, &["dataplane-away"]);
}

#[test]
fn a_peer_that_does_not_answer_is_counted_and_its_route_looked_at() {
    let tunnel = tunnel("192.0.2.2", "at-once");
    let mut facts = facts(&tunnel, Default::default());
    let silent = |transmissions| IkeSaView {
        peer: Some("site-b".into()),
        identity: None,
        state: "connecting",
        initiator: true,
        local_spi: 1,
        remote_spi: 0,
        path: Path {
            local: "192.0.2.1:500".parse().unwrap(),
            remote: "192.0.2.2:500".parse().unwrap(),
        },
        suite: None,
        behind_nat: false,
        peer_behind_nat: false,
        established: None,
        rekey_at: None,
        children: 0,
        addresses: Vec::new(),
        outstanding: Some(Outstanding {
            transmissions,
            since: facts.now - Duration::from_secs(7),
        }),
    };
    let (once, often) = (silent(1), silent(4));
    facts.ike = Some(once);
    expect(&facts, Verdict::Down, &["connecting"]);
    facts.ike = Some(often);
    facts.route = Route::Missing("192.0.2.2".parse().unwrap());
    let found = expect(&facts, Verdict::Down, &["no-answer", "no-route"]);
    assert!(found[0].what.contains("4 transmissions"), "{found:?}");
    assert!(found[0].what.contains("7 s"), "{found:?}");
    facts.route = Route::Elsewhere("192.0.2.2".parse().unwrap(), "eth0".into());
    facts.ike = None;
    let refusal = told(Refusal::NoAnswer {
        transmissions: 8,
        waited: Duration::from_secs(63),
    });
    facts.refusal = Some(&refusal);
    let found = expect(&facts, Verdict::Down, &["no-answer", "other-route"]);
    let remedy = found[0].remedy.as_deref().unwrap();
    assert!(remedy.contains("UDP 500 and 4500"), "{remedy}");
}

#[test]
fn a_refusal_comes_with_what_to_change() {
    let tunnel = tunnel("192.0.2.2", "at-once");
    for (refusal, code, words) in [
        (
            Refusal::ProposalMismatch {
                subject: Subject::Ike,
                theirs: vec!["aes256gcm16-prfsha384-modp2048".into()],
                ours: vec!["aes256gcm16-sha384-x25519".into()],
            },
            "proposals-differ",
            "the peer's has no x25519",
        ),
        (
            Refusal::SelectorsRefused {
                child: "lan".into(),
                local: Vec::new(),
                remote: Vec::new(),
            },
            "selectors-differ",
            "each side has to have the other's",
        ),
        (
            Refusal::WrongKey {
                theirs: "b.example.org".parse().unwrap(),
            },
            "keys-differ",
            "the same key",
        ),
        (
            Refusal::OtherIdentity {
                theirs: "c.example.org".parse().unwrap(),
                expected: "b.example.org".parse().unwrap(),
            },
            "identities-differ",
            "`identity` of `remote`",
        ),
        (
            Refusal::NoCertificate {
                theirs: "b.example.org".parse().unwrap(),
            },
            "certificate-refused",
            "send its certificate",
        ),
    ] {
        let mut facts = facts(&tunnel, Default::default());
        let refusal = told(refusal);
        facts.refusal = Some(&refusal);
        let found = expect(&facts, Verdict::Down, &[code]);
        let remedy = found[0].remedy.as_deref().unwrap();
        assert!(remedy.contains(words), "{remedy}");
        assert_eq!(found[0].ago_s, Some(0));
    }
}

#[test]
fn somebody_unknown_at_the_peers_address_may_be_the_peer() {
    let tunnel = tunnel("192.0.2.2", "wait");
    let mut facts = facts(&tunnel, Default::default());
    let refusal = told(Refusal::UnknownIdentity {
        theirs: "c.example.org".parse().unwrap(),
        asked_for: None,
    });
    facts.stranger = Some(("192.0.2.2".parse().unwrap(), &refusal));
    let found = expect(&facts, Verdict::Down, &["identities-differ"]);
    assert!(found[0].what.contains("c.example.org"), "{found:?}");
    assert!(found[0].what.contains("192.0.2.2"), "{found:?}");
}

#[test]
fn a_tunnel_that_is_up_says_which_way_nothing_passes() {
    let tunnel = tunnel("192.0.2.2", "at-once");
    let with = |sas: Vec<Sa>| facts(&tunnel, [sas, pair(1, 1)]);
    expect(&with(pair(0, 0)), Verdict::Silent, &["no-traffic"]);
    expect(&with(pair(0, 5)), Verdict::Silent, &["nothing-goes"]);
    let found = expect(&with(pair(5, 0)), Verdict::Silent, &["nothing-comes"]);
    let remedy = found[0].remedy.as_deref().unwrap();
    assert!(remedy.contains("IP protocols 50 and 51"), "{remedy}");
    assert_eq!(found[0].child.as_deref(), Some("lan"));
    // What travels in UDP is stopped by another rule of a firewall.
    let mut in_udp = pair(5, 0);
    for sa in &mut in_udp {
        sa.remote = "192.0.2.2:4500".into();
    }
    let found = expect(&with(in_udp), Verdict::Silent, &["nothing-comes"]);
    assert!(found[0].remedy.as_deref().unwrap().contains("UDP 4500"));
    // It did come once.
    let deaf = vec![sa("in", 5, Some(60_000)), sa("out", 9, Some(100))];
    let found = expect(&with(deaf), Verdict::Silent, &["nothing-comes"]);
    assert!(found[0].what.contains("for 60 s"), "{found:?}");
    // Nobody has anything to say any more.
    let idle = vec![sa("in", 5, Some(60_000)), sa("out", 9, Some(60_000))];
    expect(&with(idle), Verdict::Carries, &[]);
}

#[test]
fn what_is_dropped_on_its_sas_is_told() {
    let tunnel = tunnel("192.0.2.2", "at-once");
    let mut forged = pair(500, 500);
    forged[0].auth_failures = 3;
    let found = expect(
        &facts(&tunnel, [forged, pair(1, 1)]),
        Verdict::Silent,
        &["forged"],
    );
    assert!(found[0].what.starts_with("3 packets"), "{found:?}");
    let mut late = pair(500, 500);
    late[0].replay_drops = 5;
    expect(
        &facts(&tunnel, [late.clone(), pair(1, 1)]),
        Verdict::Carries,
        &[],
    );
    late[0].replay_drops = 6;
    expect(
        &facts(&tunnel, [late, pair(1, 1)]),
        Verdict::Carries,
        &["replays"],
    );
    let mut narrowed = facts(&tunnel, both(1, 1));
    let prefix = |octet| TrafficSelector::prefix([10, octet, 3, 0].into(), 24).unwrap();
    narrowed.children[0].narrowed = Some((vec![prefix(1)], vec![prefix(2)]));
    let found = expect(&narrowed, Verdict::Carries, &["narrowed"]);
    assert!(
        found[0]
            .what
            .contains("10.1.3.0/24 here and 10.2.3.0/24 there"),
        "{found:?}"
    );
}

fn counter(name: &str, value: u64, severity: Severity) -> CounterRow {
    CounterRow {
        name: name.into(),
        plane: "dataplane".into(),
        severity,
        unit: "packets".into(),
        value,
        meaning: "Packets that were lost.".into(),
    }
}

#[test]
fn ports_losses_and_the_guard_are_looked_at() {
    let tunnel = tunnel("192.0.2.2", "at-once");
    let mut facts = facts(&tunnel, both(5, 0));
    facts.ports[1].1 = Link::Down;
    facts.counters = vec![
        counter("Few", 1, Severity::Warning),
        counter("Many", 9, Severity::Warning),
        counter("Worse", 1, Severity::Error),
        counter("None", 0, Severity::Error),
        counter("Normal", 9, Severity::Info),
    ];
    facts.guard.missing = vec!["unreachable 10.2.0.0/16 table 4301".into()];
    let codes = [
        "nothing-comes",
        "nothing-comes",
        "port-down",
        "dropped",
        "dropped",
        "dropped",
        "guard",
    ];
    let found = expect(&facts, Verdict::Silent, &codes);
    assert!(found[2].what.contains("ip link set eth2 up"), "{found:?}");
    for (at, name) in [(3, "Worse"), (4, "Many"), (5, "Few")] {
        assert!(found[at].what.contains(name), "{found:?}");
    }
    facts.guard.on = false;
    assert_eq!(explain(&facts, "site-b".into()).findings.len(), 6);
}
