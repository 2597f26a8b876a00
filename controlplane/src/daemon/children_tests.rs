//! Installing, removing and adopting.

use super::*;
use esplanade_channel::{SaState, SaStatistics};
use esplanade_config::{FileContext, NoFiles};
use esplanade_ike::config::{Esp, EspEncryption, Secret, TrafficSelector};

const AES_256_GCM_16: Protection = Protection::Esp(Esp::combined(EspEncryption::Aes256Gcm16));

const CONFIG: &str = "dataplane:
  workers: [1, 2]
  ports:
    lan: { interface: eth1, role: inside }
    wan: { interface: eth2, role: outside }
tunnels:
  site-b:
    local: { address: 192.0.2.1, identity: a.example.org }
    remote: { address: 192.0.2.2, identity: b.example.org }
    authentication: { psk: { secret: \"correct horse battery staple\" } }
    children:
      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16], replay-window: 4096, tfc: { size: mtu, dummies: 5 } }
";

fn config() -> Config {
    parse(CONFIG)
}

fn parse(text: &str) -> Config {
    let context = FileContext {
        path: "test.yaml".into(),
        mode: Some(0o600),
        files: &NoFiles,
    };
    Config::parse(text, &context).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn groups() -> BTreeMap<u64, ChildName> {
    policies::groups(&config())
}

fn slots() -> Slots {
    let mut next = 0x2ff;
    Slots::new(64, move || {
        next += 1;
        next
    })
}

fn prefix(address: &str) -> TrafficSelector {
    TrafficSelector::prefix(address.parse().unwrap(), 16).unwrap()
}

fn policy(agreed: Option<&Selectors>) -> PolicyId {
    let config = config();
    let (tunnel, child) = find(&config, "site-b", "lan").unwrap();
    policies::group(tunnel, child, agreed)
}

fn child_sa(inbound: SaId, key: usize) -> ChildSa {
    ChildSa {
        peer: "site-b".into(),
        identity: None,
        child: "lan".into(),
        inbound: inbound.value(),
        outbound: 0xc0ff_ee00,
        protection: AES_256_GCM_16,
        inbound_key: Secret::new(vec![1; key]),
        outbound_key: Secret::new(vec![2; key]),
        esn: true,
        mode: Mode::Tunnel,
        original: None,
        peer_takes_tfc_padding: true,
        local: "192.0.2.1".parse().unwrap(),
        remote: "192.0.2.2".parse().unwrap(),
        follow: false,
        encapsulation: None,
        local_ts: vec![prefix("10.1.0.0")],
        remote_ts: vec![prefix("10.2.0.0")],
        replaces: None,
        use_outbound_now: true,
    }
}

fn install(children: &mut Children, slots: &Slots) -> (Pair, [Command; 2]) {
    let now = Instant::now();
    let inbound = slots.take(now).unwrap();
    let commands = children
        .install(&child_sa(inbound, 36), &config(), &groups(), slots, now)
        .unwrap();
    (children.get(inbound.value()).unwrap().clone(), commands)
}

fn record(sa: SaId, spi: u32, direction: Direction) -> SaRecord {
    SaRecord {
        sa,
        spi,
        direction,
        policy: policy(None),
        owner: WorkerId(1),
        state: SaState::Mature,
        selected: direction == Direction::Outbound,
        label: Label::new("site-b/lan"),
        transform: channel::Transform::AES_256_GCM_16,
        local: "192.0.2.1".parse().unwrap(),
        remote: "192.0.2.2".parse().unwrap(),
        encapsulation: None,
        mode: channel::Mode::Tunnel,
        esn: true,
        window: 1024,
        statistics: SaStatistics::default(),
    }
}

#[test]
fn a_peer_that_takes_no_padding_gets_dummies_only() {
    for (takes, size) in [(true, channel::Tfc::MTU), (false, 0)] {
        let (slots, mut children) = (slots(), Children::default());
        children.reset(1);
        let now = Instant::now();
        let sa = ChildSa {
            peer_takes_tfc_padding: takes,
            ..child_sa(slots.take(now).unwrap(), 36)
        };
        let [_, outbound] = children
            .install(&sa, &config(), &groups(), &slots, now)
            .unwrap();
        let Command::InstallOutbound(outbound) = outbound else {
            panic!("{outbound:?}");
        };
        let expected = channel::Tfc {
            size,
            multiple: 0,
            dummies: 5,
        };
        assert_eq!(outbound.tfc, expected);
    }
}

#[test]
fn both_halves_have_one_owner_and_one_policy_group() {
    let (slots, mut children) = (slots(), Children::default());
    children.reset(2);
    let (pair, [inbound, outbound]) = install(&mut children, &slots);
    let (Command::InstallInbound(inbound), Command::InstallOutbound(outbound)) =
        (inbound, outbound)
    else {
        panic!()
    };
    assert_eq!((inbound.owner, outbound.owner), (pair.owner, pair.owner));
    assert_eq!(inbound.policy, outbound.policy);
    assert_eq!((inbound.window, outbound.spi), (4096, 0xc0ff_ee00));
    assert_eq!(
        (inbound.key.as_bytes(), outbound.key.as_bytes()),
        (&[1; 36][..], &[2; 36][..])
    );
    assert_eq!(inbound.label.as_str(), "site-b/lan");
}

#[test]
fn what_is_narrowed_to_the_group_of_another_child_is_refused() {
    let (slots, mut children) = (slots(), Children::default());
    children.reset(2);
    let now = Instant::now();
    let narrow = |children: &mut Children| {
        let inbound = slots.take(now).unwrap();
        let mut sa = child_sa(inbound, 36);
        sa.remote_ts = vec![TrafficSelector::prefix("10.2.3.0".parse().unwrap(), 24).unwrap()];
        let outcome = children.install(&sa, &config(), &groups(), &slots, now);
        (inbound.value(), outcome)
    };
    let (first, outcome) = narrow(&mut children);
    outcome.unwrap();
    // The same child's next SA has the same group.
    narrow(&mut children).1.unwrap();
    children.pairs.get_mut(&first).unwrap().name.0 = "site-c".to_owned();
    let refused = narrow(&mut children).1.unwrap_err();
    assert_eq!(refused, InstallError::Alike("site-c/lan".to_owned()));
    // Two pairs, and the inbound half that came to nothing.
    assert_eq!(format!("{slots:?}"), "Slots(5 of 64 in use)");
}

#[test]
fn selecting_tells_whose_policies_change_their_order() {
    let (slots, mut children) = (slots(), Children::default());
    children.reset(2);
    let mut pair = |remote: Option<&str>| {
        let inbound = slots.take(Instant::now()).unwrap();
        let mut sa = child_sa(inbound, 36);
        if let Some(remote) = remote {
            sa.remote_ts = vec![TrafficSelector::prefix(remote.parse().unwrap(), 24).unwrap()];
        }
        let (config, groups) = (config(), groups());
        children
            .install(&sa, &config, &groups, &slots, Instant::now())
            .unwrap();
        inbound.value()
    };
    let pairs = [
        pair(Some("10.2.3.0")),
        pair(Some("10.2.3.0")),
        pair(Some("10.2.4.0")),
        pair(None),
    ];
    let [one, again, other, _] = pairs.map(|inbound| children.get(inbound).unwrap().policy);
    assert_eq!(one, again);
    let mut select = |place: usize| children.select(pairs[place]).unwrap().1;
    assert_eq!(select(0), [one]);
    assert_eq!(select(0), []);
    assert_eq!(select(2), [other, one]);
    assert_eq!(select(1), [one, other]);
    assert_eq!(select(3), [one]);
    let sends = |group| {
        children
            .narrowed_to(group)
            .filter(|(_, _, one)| one.sends)
            .count()
    };
    assert_eq!((sends(one), sends(other)), (0, 0));
    for inbound in pairs {
        children.remove(inbound).unwrap();
    }
    assert!(children.by_name.is_empty() && children.by_group.is_empty());
}

#[test]
fn the_least_loaded_worker_is_chosen() {
    let (slots, mut children) = (slots(), Children::default());
    children.reset(2);
    let owners: Vec<u16> = (0..4)
        .map(|_| install(&mut children, &slots).0.owner.0)
        .collect();
    assert_eq!(owners, [0, 1, 0, 1]);
    let first = children
        .iter()
        .find(|pair| pair.owner == WorkerId(1))
        .unwrap()
        .inbound;
    children.remove(first.value()).unwrap();
    assert_eq!(install(&mut children, &slots).0.owner, WorkerId(1));
}

#[test]
fn a_removal_takes_both_halves_and_happens_once() {
    let (slots, mut children) = (slots(), Children::default());
    children.reset(1);
    let (pair, _) = install(&mut children, &slots);
    let (_, commands) = children.remove(pair.inbound.value()).unwrap();
    let outbound = pair.outbound.unwrap();
    assert_eq!(
        commands,
        [
            Command::RemoveSa { sa: pair.inbound },
            Command::RemoveSa { sa: outbound }
        ]
    );
    assert!(children.remove(pair.inbound.value()).is_none());
}

#[test]
fn what_cannot_be_installed_takes_no_slot() {
    let (slots, mut children) = (slots(), Children::default());
    children.reset(1);
    let inbound = slots.take(Instant::now()).unwrap();
    let before = format!("{slots:?}");
    let (sa, now) = (child_sa(inbound, 97), Instant::now());
    let wrong = children.install(&sa, &config(), &groups(), &slots, now);
    assert_eq!(wrong, Err(InstallError::Key(97)));
    assert_eq!(format!("{slots:?}"), before);
}

#[test]
fn a_restarted_control_plane_finds_pairs_and_clears_what_is_nobodys() {
    let (slots, mut children) = (slots(), Children::default());
    children.reset(2);
    let id = |slot, tag| SaId::from_parts(slot, tag).unwrap();
    let records = [
        record(id(0, 0x300), id(0, 0x300).value(), Direction::Inbound),
        record(id(1, 0x300), 0xaaaa, Direction::Outbound),
        record(id(2, 0x301), 0xbbbb, Direction::Outbound),
        SaRecord {
            policy: PolicyId(0x700),
            ..record(id(3, 0x302), id(3, 0x302).value(), Direction::Inbound)
        },
    ];
    let (adopted, commands) = children.adopt(&records, &config(), &[], &slots);
    assert_eq!(adopted.len(), 1);
    assert_eq!(
        (adopted[0].inbound, adopted[0].outbound),
        (id(0, 0x300).value(), 0xaaaa)
    );
    assert!(adopted[0].selected);
    assert_eq!(
        commands,
        [
            Command::RemoveSa { sa: id(2, 0x301) },
            Command::RemoveSa { sa: id(3, 0x302) }
        ]
    );
    // The adopted pair's slots stay taken, and its owner counts as loaded.
    let taken = slots.take(Instant::now()).unwrap().slot();
    assert_eq!(taken, 4);
    assert_eq!(install(&mut children, &slots).0.owner, WorkerId(0));
}

#[test]
fn a_pair_between_addresses_that_are_not_the_tunnels_is_nobodys() {
    let id = |slot| SaId::from_parts(slot, 0x300).unwrap();
    let pair = || {
        [
            record(id(0), id(0).value(), Direction::Inbound),
            record(id(1), 0xaaaa, Direction::Outbound),
        ]
    };
    let adopt = |config: &Config, records: &[SaRecord]| {
        let mut children = Children::default();
        children.reset(2);
        let (adopted, commands) = children.adopt(records, config, &[], &slots());
        assert_eq!(children.iter().count(), adopted.len());
        (adopted.len(), commands)
    };
    let orphans = [id(0), id(1)].map(|sa| Command::RemoveSa { sa });
    let elsewhere = "203.0.113.9".parse().unwrap();
    let (mut ours_moved, mut theirs_moved) = (pair(), pair());
    ours_moved
        .iter_mut()
        .for_each(|record| record.local = elsewhere);
    theirs_moved
        .iter_mut()
        .for_each(|record| record.remote = elsewhere);
    assert_eq!(adopt(&config(), &pair()), (1, vec![]));
    assert_eq!(adopt(&config(), &ours_moved), (0, orphans.to_vec()));
    assert_eq!(adopt(&config(), &theirs_moved), (0, orphans.to_vec()));
    // One that may have any address is known by its name.
    let mut anyone = config();
    anyone.tunnels[0].remote = None;
    assert_eq!(adopt(&anyone, &theirs_moved), (1, vec![]));
}

#[test]
fn traffic_without_an_answer_is_noticed() {
    let (slots, now_ms) = (slots(), 100_000);
    let id = slots.take(Instant::now()).unwrap();
    let used = |direction, last_used_ms| {
        let mut record = record(id, 7, direction);
        record.statistics.last_used_ms = last_used_ms;
        record
    };
    let unanswered = |sent, heard| {
        let (outbound, inbound) = (
            used(Direction::Outbound, sent),
            used(Direction::Inbound, heard),
        );
        is_unanswered(&outbound, &inbound, now_ms)
    };
    assert!(unanswered(99_990, 80_000));
    assert!(unanswered(99_990, 0), "never heard");
    assert!(!unanswered(99_990, 95_000), "heard lately");
    assert!(!unanswered(90_000, 80_000), "both are idle");
    assert!(!unanswered(0, 0), "neither was ever used");
    let mut replaced = used(Direction::Outbound, 99_990);
    replaced.selected = false;
    let silent = used(Direction::Inbound, 80_000);
    assert!(!is_unanswered(&replaced, &silent, now_ms));
}

fn agreed_with((name, selectors): (ChildName, Selectors)) -> Agreed {
    Agreed {
        name,
        identity: None,
        selectors,
    }
}

/// A tunnel that many may be: two clients have SAs, policies and names of their own, and a restarted control plane knows
/// who each of them is.
#[test]
fn each_of_many_clients_has_policies_of_its_own() {
    let text = CONFIG
        .replace(
            "address: 192.0.2.2, identity: b.example.org",
            "address: any, identity: \"*@example.org\"",
        )
        .replace("tfc: { size: mtu, dummies: 5 }", "priority: 10");
    let config = parse(&text);
    let (slots, mut children) = (slots(), Children::default());
    children.reset(1);
    let groups = policies::groups(&config);
    let mut policies_of = Vec::new();
    for (number, third) in [(1, "10.2.1.0"), (2, "10.2.2.0")] {
        let sa = ChildSa {
            peer: format!("site-b#{number}"),
            identity: Some(format!("client-{number}@example.org").parse().unwrap()),
            remote_ts: vec![TrafficSelector::prefix(third.parse().unwrap(), 24).unwrap()],
            ..child_sa(slots.take(Instant::now()).unwrap(), 36)
        };
        let inbound = sa.inbound;
        children
            .install(&sa, &config, &groups, &slots, Instant::now())
            .unwrap();
        let (_, reordered) = children.select(inbound).unwrap();
        assert_eq!(reordered.len(), 1, "the other client's stay as they are");
        policies_of.push(children.get(inbound).unwrap().policy);
    }
    assert_ne!(policies_of[0], policies_of[1]);
    assert!(children.narrowed().all(|(_, _, narrowed)| narrowed.sends));
    let mut picture = super::super::picture::Picture::default();
    policies::add(&mut picture, &config, children.narrowed());
    assert_eq!(picture.policies.len(), 3);
    for policy in &policies_of {
        assert_eq!(picture.policies[policy].priority, 30);
    }
    // What was written down is what the next life knows them by.
    let written: Vec<Agreed> = children
        .agreed()
        .map(|(name, identity, selectors)| Agreed {
            name: name.clone(),
            identity: identity.cloned(),
            selectors: selectors.clone(),
        })
        .collect();
    let records: Vec<SaRecord> = children
        .iter()
        .map(|pair| SaRecord {
            policy: pair.policy,
            ..record(pair.inbound, pair.inbound.value(), Direction::Inbound)
        })
        .collect();
    let mut next = Children::default();
    next.reset(1);
    let (adopted, commands) = next.adopt(&records, &config, &written, &slots);
    assert!(commands.is_empty());
    let who: Vec<_> = adopted
        .iter()
        .map(|child| {
            (
                child.peer.as_str(),
                child.identity.as_ref().unwrap().to_string(),
            )
        })
        .collect();
    let expected = [
        ("site-b#1", "client-1@example.org"),
        ("site-b#2", "client-2@example.org"),
    ];
    assert_eq!(who, expected.map(|(peer, who)| (peer, who.to_owned())));
    assert_eq!(adopted[0].remote_ts[0].to_string(), "10.2.1.0/24");
}

#[test]
fn a_pair_that_a_peer_narrowed_is_known_by_what_was_written_down() {
    let id = |slot| SaId::from_parts(slot, 0x300).unwrap();
    let agreed = (vec![prefix("10.1.0.0")], vec![prefix("10.9.0.0")]);
    let narrowed = |record: SaRecord| SaRecord {
        policy: policy(Some(&agreed)),
        ..record
    };
    let records = [
        narrowed(record(id(0), id(0).value(), Direction::Inbound)),
        narrowed(record(id(1), 0xaaaa, Direction::Outbound)),
    ];
    let name = |child: &str| ("site-b".to_owned(), child.to_owned());
    let adopt = |written: &[(ChildName, Selectors)]| {
        let written: Vec<Agreed> = written.iter().cloned().map(agreed_with).collect();
        let mut children = Children::default();
        children.reset(2);
        let (adopted, commands) = children.adopt(&records, &config(), &written, &slots());
        let narrowed = children.narrowed().next();
        (
            adopted.len(),
            commands.len(),
            narrowed.map(|(_, _, narrowed)| narrowed.clone()),
        )
    };
    let selectors = agreed.clone();
    let found = Narrowed {
        selectors,
        sends: true,
    };
    assert_eq!(adopt(&[(name("lan"), agreed.clone())]), (1, 0, Some(found)));
    let other = (agreed.0.clone(), vec![prefix("10.8.0.0")]);
    assert_eq!(
        adopt(&[(name("lan"), other), (name("gone"), agreed.clone())]),
        (0, 2, None)
    );
}

#[test]
fn a_child_that_has_sas_in_two_groups_sends_by_what_is_not_narrowed() {
    let id = |slot| SaId::from_parts(slot, 0x300 + (slot & !1)).unwrap();
    let agreed = (vec![prefix("10.1.0.0")], vec![prefix("10.9.0.0")]);
    let pair = |slot, policy| {
        [
            record(id(slot), id(slot).value(), Direction::Inbound),
            record(id(slot + 1), 0xaaaa, Direction::Outbound),
        ]
        .map(|record| SaRecord { policy, ..record })
    };
    let name = ("site-b".to_owned(), "lan".to_owned());
    let written = [agreed_with((name, agreed.clone()))];
    let (whole, narrow) = (policy(None), policy(Some(&agreed)));
    for (first, second) in [(whole, narrow), (narrow, whole)] {
        let records = [pair(0, first), pair(2, second)].concat();
        let mut children = Children::default();
        children.reset(2);
        let (adopted, _) = children.adopt(&records, &config(), &written, &slots());
        let selected: Vec<bool> = adopted.iter().map(|child| child.selected).collect();
        assert_eq!(selected, [first == whole, second == whole]);
        let (_, _, narrowed) = children.narrowed().next().unwrap();
        assert!(!narrowed.sends);
    }
}

#[test]
fn what_no_pair_knows_is_removed() {
    let (slots, mut children) = (slots(), Children::default());
    children.reset(1);
    let (pair, _) = install(&mut children, &slots);
    let stranger = SaId::from_parts(9, 0x300).unwrap();
    let records = [pair.inbound, pair.outbound.unwrap(), stranger]
        .map(|sa| record(sa, sa.value(), Direction::Inbound));
    assert_eq!(
        children.clear_orphans(&records),
        [Command::RemoveSa { sa: stranger }]
    );
}
