//! From configurations to policies.

use super::*;
use esplanade_channel::Command;
use esplanade_config::{FileContext, NoFiles};

fn config(children: &str) -> Config {
    let text = format!(
        "dataplane:
  workers: [1]
  ports:
    lan: {{ interface: eth1, role: inside }}
    wan: {{ interface: eth2, role: outside }}
tunnels:
  site-b:
    local: {{ address: 192.0.2.1, identity: a.example.org }}
    remote: {{ address: 192.0.2.2, identity: b.example.org }}
    authentication: {{ psk: {{ secret: \"correct horse battery staple\" }} }}
    children:
{children}"
    );
    let context = FileContext {
        path: "test.yaml".into(),
        mode: Some(0o600),
        files: &NoFiles,
    };
    Config::parse(&text, &context).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

const TWO_PREFIXES: &str =
    "      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16, \"10.3.0.0/16[tcp/443]\"] }\n";

const ONE_PREFIX: &str = "      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16] }\n";

fn picture(config: &Config, narrowed: &[(PolicyId, Narrowed)]) -> Picture {
    let mut picture = Picture::default();
    let name = ("site-b".to_owned(), "lan".to_owned());
    let narrowed = narrowed.iter();
    let narrowed = narrowed.map(|(policy, narrowed)| (&name, *policy, narrowed));
    add(&mut picture, config, narrowed);
    picture
}

fn first_group(config: &Config, agreed: Option<&Selectors>) -> PolicyId {
    let tunnel = &config.tunnels[0];
    group(tunnel, &tunnel.children[0], agreed)
}

fn prefix(text: &str, length: u8) -> TrafficSelector {
    TrafficSelector::prefix(text.parse().unwrap(), length).unwrap()
}

/// What a peer narrowed to a smaller prefix of ours.
fn narrowed(config: &Config, local: &str, sends: bool) -> (PolicyId, Narrowed) {
    let selectors = (vec![prefix(local, 24)], vec![prefix("10.2.0.0", 16)]);
    let policy = first_group(config, Some(&selectors));
    (policy, Narrowed { selectors, sends })
}

#[test]
fn a_child_has_one_policy_for_each_pair_of_selectors_in_one_group() {
    let picture = picture(&config(TWO_PREFIXES), &[]);
    let group = first_group(&config(TWO_PREFIXES), None).group();
    let policies: Vec<&Policy> = picture.policies.values().collect();
    assert_eq!(policies.len(), 2);
    assert!(policies.iter().all(|policy| policy.id.group() == group));
    assert!(
        policies
            .iter()
            .all(|policy| policy.action == PolicyAction::Protect)
    );
    assert_eq!(
        (policies[0].protocol, policies[1].protocol),
        (None, Some(6))
    );
    assert_eq!(policies[1].remote.ports, (443, 443));
    assert_eq!(policies[0].local.last.to_string(), "10.1.255.255");
}

#[test]
fn xdp_takes_whole_prefixes_and_our_own_addresses() {
    let picture = picture(&config(TWO_PREFIXES), &[]);
    let protected: Vec<String> = picture
        .protected
        .iter()
        .map(|(local, remote)| format!("{local} {remote}"))
        .collect();
    assert_eq!(
        protected,
        ["10.1.0.0/16 10.2.0.0/16", "10.1.0.0/16 10.3.0.0/16"]
    );
    assert!(picture.addresses.contains(&"192.0.2.1".parse().unwrap()));
}

#[test]
fn what_a_peer_narrowed_away_stays_protected_without_an_sa() {
    let config = config(ONE_PREFIX);
    let (policy, agreed) = narrowed(&config, "10.1.7.0", true);
    let picture = picture(&config, &[(policy, agreed)]);
    let own = &picture.policies[&policy];
    let rest = &picture.policies[&first_group(&config, None)];
    assert_eq!(own.local.first.to_string(), "10.1.7.0");
    assert_eq!(rest.local.first.to_string(), "10.1.0.0");
    assert!(own.priority < rest.priority);
}

#[test]
fn an_sa_that_only_receives_is_behind_those_that_packets_leave_by() {
    let config = config(ONE_PREFIX);
    let sas = ["10.1.7.0", "10.1.8.0"].map(|local| narrowed(&config, local, local == "10.1.8.0"));
    let picture = picture(&config, &sas);
    let priority = |policy| picture.policies[&policy].priority;
    let all = [sas[1].0, first_group(&config, None), sas[0].0];
    assert!(all.map(priority).is_sorted_by(|one, next| one < next));
}

/// What changes with one SA is told of its group alone, and comes to the same as the whole computed anew.
#[test]
fn a_group_set_alone_is_what_the_whole_has_of_it() {
    let config = config(TWO_PREFIXES);
    let name = ("site-b".to_owned(), "lan".to_owned());
    let sa = |local, sends| narrowed(&config, local, sends);
    let steps = [
        vec![sa("10.1.7.0", false)],
        vec![sa("10.1.7.0", true)],
        vec![sa("10.1.7.0", true), sa("10.1.8.0", false)],
        vec![sa("10.1.7.0", false), sa("10.1.8.0", true)],
        vec![sa("10.1.7.0", false), sa("10.1.7.0", true)],
        vec![sa("10.1.8.0", false)],
        vec![],
    ];
    let groups = ["10.1.7.0", "10.1.8.0"].map(|local| sa(local, false).0);
    let mut alone = picture(&config, &[]);
    for sas in steps {
        let whole = picture(&config, &sas);
        let before = alone.clone();
        let mut commands = Vec::new();
        for group in groups {
            let members = sas.iter().filter(|(policy, _)| *policy == group);
            let members = members.map(|(policy, narrowed)| (&name, *policy, narrowed));
            commands.extend(alone.set_group(group, of_group(&config, members)));
        }
        assert_eq!(alone, whole);
        let told = |command: &Command| format!("{command:?}");
        let mut expected: Vec<String> = whole.since(&before).workers.iter().map(told).collect();
        let mut commands: Vec<String> = commands.iter().map(told).collect();
        expected.sort();
        commands.sort();
        assert_eq!(commands, expected);
    }
}

#[test]
fn what_was_agreed_under_another_configuration_has_no_policies() {
    let sa = narrowed(&config(TWO_PREFIXES), "10.1.7.0", true);
    let config = config(ONE_PREFIX);
    assert_eq!(picture(&config, &[sa]), picture(&config, &[]));
}

#[test]
fn agreeing_to_all_that_is_configured_narrows_nothing() {
    let config = config(TWO_PREFIXES);
    let child = &config.tunnels[0].children[0];
    let (local, mut remote) = configured(child);
    remote.reverse();
    assert_eq!(narrowing(child, (local.clone(), remote)), None);
    let some = (local, vec![prefix("10.2.0.0", 16)]);
    assert_eq!(narrowing(child, some.clone()), Some(some));
}

#[test]
fn a_group_is_called_the_same_in_every_version() {
    let config = config(TWO_PREFIXES);
    let (policy, _) = narrowed(&config, "10.1.7.0", true);
    let names = [first_group(&config, None), policy].map(|policy| format!("{:016x}", policy.0));
    // Computed from what the documentation says, by another program.
    assert_eq!(names, ["26a7e3f4a29cba00", "4d340ffff2660500"]);
}

#[test]
fn whatever_makes_a_child_another_one_makes_another_group() {
    let config = config(TWO_PREFIXES);
    let tunnel = |change: &dyn Fn(&mut Tunnel)| {
        let mut tunnel = config.tunnels[0].clone();
        change(&mut tunnel);
        group(&tunnel, &tunnel.children[0], None)
    };
    let (policy, _) = narrowed(&config, "10.1.7.0", true);
    let names = [
        policy,
        tunnel(&|_| {}),
        tunnel(&|tunnel| tunnel.name = "site-c".into()),
        tunnel(&|tunnel| tunnel.children[0].name = "dmz".into()),
        tunnel(&|tunnel| tunnel.local_identity = Identity::Fqdn("b.example.org".into())),
        tunnel(&|tunnel| tunnel.remote_identity = Identity::Fqdn("a.example.org".into())),
        tunnel(&|tunnel| tunnel.remote_identity = Identity::Email("b.example.org".into())),
        tunnel(&|tunnel| tunnel.children[0].remote.truncate(1)),
        tunnel(&|tunnel| tunnel.children[0].remote[1].ports = (443, 444)),
        tunnel(&|tunnel| tunnel.children[0].remote[1].protocol = Some(17)),
    ];
    let groups: BTreeSet<u64> = names.iter().map(|policy| policy.group()).collect();
    assert_eq!(groups.len(), names.len());
    assert!(names.iter().all(|policy| policy.0 & 0xff == 0));
    // The order of selectors means nothing, and neither does what an SA is not agreed for.
    let same = tunnel(&|tunnel| {
        tunnel.children[0].remote.reverse();
        tunnel.children[0].replay_window = 64;
    });
    assert_eq!(same, names[1]);
}
