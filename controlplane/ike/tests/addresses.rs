//! Addresses from a pool (RFC 7296 2.19): clients ask, get, keep and get again what is theirs, and their selectors are
//! these addresses.

mod link;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use esplanade_ike::config::{Families, Identity, Uniqueness};
use esplanade_ike::{AdoptedChild, ChildConfig, Event, PeerConfig, PoolConfig};
use link::*;

const HOLD: Duration = Duration::from_secs(600);

fn client(name: &str, families: Families) -> PeerConfig {
    let mut client = peer(A);
    client.name = name.into();
    client.local_id = format!("{name}@example.org").parse().unwrap();
    client.request = Some(families);
    let any = ["0.0.0.0/0", "::/0"]
        .map(|any| any.parse().unwrap())
        .to_vec();
    let lan = ["10.2.0.0/16", "2001:db8:2::/48"]
        .map(|lan| lan.parse().unwrap())
        .to_vec();
    client.children = vec![ChildConfig::new("lan", any, lan)];
    client
}

fn clients() -> PeerConfig {
    let mut clients = peer(B);
    clients.name = "clients".into();
    clients.remote = "0.0.0.0".parse().unwrap();
    clients.remote_id = "*@example.org".parse().unwrap();
    clients.pool = Some("staff".into());
    let lan = ["10.2.0.0/16", "2001:db8:2::/48"]
        .map(|lan| lan.parse().unwrap())
        .to_vec();
    let pool = ["10.9.0.0/24", "2001:db8:9::/64"]
        .map(|pool| pool.parse().unwrap())
        .to_vec();
    clients.children = vec![ChildConfig::new("lan", lan, pool)];
    clients
}

fn pool(last: u8) -> PoolConfig {
    PoolConfig {
        name: "staff".into(),
        ranges: vec![
            ([10, 9, 0, 1].into(), [10, 9, 0, last].into()),
            (
                "2001:db8:9::1".parse().unwrap(),
                "2001:db8:9::ff".parse().unwrap(),
            ),
        ],
        dns: vec![[10, 2, 0, 53].into()],
        networks: vec![([10, 2, 0, 0].into(), 16)],
        hold: HOLD,
        fixed: Vec::new(),
    }
}

fn gateway(seed: u64, weather: Weather, callers: &[PeerConfig], last: u8) -> Link {
    let mut link = Link::new(seed, weather, [callers.to_vec(), vec![clients()]]);
    let now = link.now;
    link.at(B).configure_pools(now, vec![pool(last)]);
    link
}

fn call(link: &mut Link, name: &str) {
    let now = link.now;
    link.at(A).initiate(now, name, None).unwrap();
    link.run(Duration::from_secs(40));
}

/// The selectors of the clients' child SAs at their own side.
fn inner(link: &Link) -> Vec<String> {
    let sas = link.sides[A].dataplane.installed.values();
    let mut all: Vec<_> = sas
        .map(|sa| {
            let list: Vec<_> = sa.local_ts.iter().map(ToString::to_string).collect();
            format!("{}: {}", sa.peer, list.join(" "))
        })
        .collect();
    all.sort();
    all
}

fn leases(link: &Link) -> Vec<(String, Option<String>)> {
    let leases = link.sides[B].endpoint.leases();
    leases
        .map(|lease| {
            let holder = lease.holder.as_ref().map(ToString::to_string);
            (format!("{} {}", lease.identity, lease.address), holder)
        })
        .collect()
}

#[test]
fn clients_get_addresses_of_both_families_and_keep_them() {
    for seed in 0..20 {
        let callers = [
            client("carol", Families::Both),
            client("dave", Families::V4),
        ];
        let mut link = gateway(seed, Weather::foul(), &callers, 200);
        call(&mut link, "carol");
        call(&mut link, "dave");
        link.run(Duration::from_secs(30));
        link.agree(2);
        let expected = ["carol: 10.9.0.1/32 2001:db8:9::1/128", "dave: 10.9.0.2/32"];
        assert_eq!(inner(&link), expected);
        let given = link.sides[A].events.iter().find_map(|event| match event {
            Event::AddressesGiven { peer, given } if peer == "carol" => Some(given.clone()),
            _ => None,
        });
        let given = given.unwrap();
        assert_eq!(given.dns, [IpAddr::from([10, 2, 0, 53])]);
        assert_eq!(given.networks, [(IpAddr::from([10, 2, 0, 0]), 16)]);
        // Rekeys of either end keep to these addresses.
        let now = link.now;
        link.at(A).rekey_ike(now, "carol").unwrap();
        link.at(B).rekey_child(now, "clients#2", None).unwrap();
        link.run(Duration::from_secs(120));
        let now = link.now;
        link.at(A).rekey_child(now, "carol", None).unwrap();
        link.run(Duration::from_secs(120));
        link.agree(2);
        assert_eq!(inner(&link), expected);
        for view in link.sides[A]
            .endpoint
            .ike_sas()
            .chain(link.sides[B].endpoint.ike_sas())
        {
            assert!(!view.addresses.is_empty());
        }
    }
}

#[test]
fn who_leaves_and_comes_back_has_its_address_again() {
    let callers = [client("carol", Families::V4), client("dave", Families::V4)];
    let mut link = gateway(1, Weather::fair(), &callers, 200);
    call(&mut link, "carol");
    let now = link.now;
    link.at(A).terminate(now, "carol", None).unwrap();
    link.run(Duration::from_secs(10));
    assert_eq!(
        leases(&link),
        [("carol@example.org 10.9.0.1".to_owned(), None)]
    );
    call(&mut link, "dave");
    call(&mut link, "carol");
    assert_eq!(inner(&link), ["carol: 10.9.0.1/32", "dave: 10.9.0.2/32"]);
    // A client that forgets everything says so by INITIAL_CONTACT, and is the same still.
    link.restart(A, 55, callers.to_vec());
    link.sides[A].dataplane.installed.clear();
    link.sides[A].spis.clear();
    call(&mut link, "carol");
    assert_eq!(inner(&link), ["carol: 10.9.0.1/32"]);
    // What is held can be given to others.
    let now = link.now;
    link.at(B).terminate(now, "clients", None).unwrap();
    link.run(Duration::from_secs(60));
    assert!(leases(&link).iter().all(|(_, holder)| holder.is_none()));
    link.at(B).release_lease([10, 9, 0, 1].into()).unwrap();
    assert_eq!(leases(&link).len(), 1);
}

/// A reload ends the instances, and what they had is kept as if they had left.
#[test]
fn a_reload_lets_go_of_what_its_peers_had() {
    for changes in [false, true] {
        let mut link = gateway(1, Weather::fair(), &[client("carol", Families::Both)], 200);
        call(&mut link, "carol");
        assert!(leases(&link).iter().all(|(_, holder)| holder.is_some()));
        let mut changed = clients();
        changed.uniqueness = Uniqueness::Never;
        let now = link.now;
        let peers = changes.then_some(changed).into_iter().collect();
        link.at(B).configure(now, peers);
        let kept = [
            ("carol@example.org 10.9.0.1".to_owned(), None),
            ("carol@example.org 2001:db8:9::1".to_owned(), None),
        ];
        assert_eq!(leases(&link), kept);
        link.at(B).release_lease([10, 9, 0, 1].into()).unwrap();
    }
}

#[test]
fn an_exhausted_pool_is_told_at_both_ends() {
    let mut callers = [client("carol", Families::V4), client("dave", Families::V4)];
    callers[1].keep_trying = false;
    let mut link = gateway(1, Weather::fair(), &callers, 1);
    call(&mut link, "carol");
    call(&mut link, "dave");
    assert_eq!(inner(&link), ["carol: 10.9.0.1/32"]);
    let (theirs, ours) = (link.refusals(A).join("\n"), link.refusals(B).join("\n"));
    assert!(theirs.contains("INTERNAL_ADDRESS_FAILURE"), "{theirs}");
    assert!(
        ours.contains("the pool `staff` is exhausted: all its addresses of IPv4"),
        "{ours}"
    );
    assert_eq!(link.ike_sas(B), 1);
    link.agree(1);
}

#[test]
fn who_asks_for_no_address_gets_no_child() {
    let mut plain = client("carol", Families::V4);
    plain.request = None;
    plain.keep_trying = false;
    let mut link = gateway(1, Weather::fair(), &[plain], 200);
    call(&mut link, "carol");
    assert!(inner(&link).is_empty());
    let (theirs, ours) = (link.refusals(A).join("\n"), link.refusals(B).join("\n"));
    assert!(theirs.contains("FAILED_CP_REQUIRED"), "{theirs}");
    assert!(ours.contains("without an address of the pool"), "{ours}");
    assert_eq!(link.sides[B].spis.taken(), 0);
}

#[test]
fn a_gateway_without_a_pool_gives_no_address() {
    let mut asks = client("carol", Families::V4);
    asks.keep_trying = false;
    let mut link = gateway(1, Weather::fair(), &[asks], 200);
    let mut poor = clients();
    poor.pool = None;
    let now = link.now;
    link.at(B).configure(now, vec![poor]);
    call(&mut link, "carol");
    let refused = link.refusals(A).join("\n");
    assert!(refused.contains("gives us no address"), "{refused}");
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (0, 0));
    link.agree(0);
}

#[test]
fn leases_outlive_the_gateways_control_plane() {
    let mut callers = [client("carol", Families::V4), client("dave", Families::V4)];
    for caller in &mut callers {
        caller.start = true;
    }
    let mut link = gateway(1, Weather::fair(), &callers, 200);
    link.run(Duration::from_secs(10));
    link.agree(2);
    let before = inner(&link);
    let written: Vec<(Arc<str>, IpAddr, Identity)> = link.sides[B]
        .endpoint
        .leases()
        .map(|lease| (lease.pool.clone(), lease.address, lease.identity.clone()))
        .collect();
    let found = link.sides[B]
        .dataplane
        .installed
        .values()
        .map(|sa| AdoptedChild {
            peer: sa.peer.clone(),
            identity: sa.identity.clone(),
            remote_ts: sa.remote_ts.clone(),
            child: sa.child.clone(),
            inbound: sa.inbound,
            outbound: sa.outbound,
            mode: sa.mode,
            remote: sa.remote,
            encapsulation: sa.encapsulation,
            selected: true,
        });
    let found: Vec<_> = found.collect();
    assert!(found.iter().all(|child| child.identity.is_some()));
    link.restart(B, 99, vec![clients()]);
    let now = link.now;
    link.at(B).configure_pools(now, vec![pool(200)]);
    link.at(B).restore_leases(now, written);
    link.at(B).adopt(now, found);
    assert!(leases(&link).iter().all(|(_, holder)| holder.is_some()));
    link.run(Duration::from_secs(300));
    link.agree(2);
    assert_eq!(inner(&link), before);
}
