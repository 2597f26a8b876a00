//! From configurations to policies.

use super::*;
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

fn picture(config: &Config, narrowed: &BTreeMap<ChildName, Selectors>) -> Picture {
    let mut picture = Picture::default();
    add(&mut picture, config, narrowed);
    picture
}

#[test]
fn a_child_has_one_policy_for_each_pair_of_selectors_in_one_group() {
    let picture = picture(&config(TWO_PREFIXES), &BTreeMap::new());
    let group = group("site-b", "lan").group();
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
    let picture = picture(&config(TWO_PREFIXES), &BTreeMap::new());
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
    let config = config("      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16] }\n");
    let child = ("site-b".to_owned(), "lan".to_owned());
    let agreed = (
        vec![TrafficSelector::prefix("10.1.7.0".parse().unwrap(), 24).unwrap()],
        vec![TrafficSelector::prefix("10.2.0.0".parse().unwrap(), 16).unwrap()],
    );
    let picture = picture(&config, &[(child, agreed)].into());
    let own = &picture.policies[&group("site-b", "lan")];
    let rest = &picture.policies[&remainder("site-b", "lan")];
    assert_eq!(own.local.first.to_string(), "10.1.7.0");
    assert_eq!(rest.local.first.to_string(), "10.1.0.0");
    assert!(own.priority < rest.priority);
}

#[test]
fn agreeing_to_all_that_is_configured_narrows_nothing() {
    let config = config("      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16] }\n");
    let child = ("site-b".to_owned(), "lan".to_owned());
    let agreed = (
        vec![TrafficSelector::prefix("10.1.0.0".parse().unwrap(), 16).unwrap()],
        vec![TrafficSelector::prefix("10.2.0.0".parse().unwrap(), 16).unwrap()],
    );
    let narrowed = [(child, agreed)].into();
    assert_eq!(
        picture(&config, &narrowed),
        picture(&config, &BTreeMap::new())
    );
}

#[test]
fn groups_of_different_children_differ() {
    assert_ne!(group("a", "b"), group("a", "c"));
    assert_ne!(group("a", "b"), remainder("a", "b"));
    assert_eq!(group("a", "b").0 & 0xff, 0);
}
