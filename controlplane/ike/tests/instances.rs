//! Many clients of one configured peer: each identity has its own IKE SAs and child SAs, and the policy says how often
//! one may be connected.

mod link;

use std::time::Duration;

use esplanade_ike::config::Uniqueness;
use esplanade_ike::{
    AdoptedChild, ChildConfig, CloseReason, CommandError, Event, Mode, PeerConfig,
};
use link::*;

/// A client on side A, from the address with this last octet, that has this inner address.
fn client(name: &str, octet: u8, inner: &str) -> PeerConfig {
    let mut client = peer(A);
    client.name = format!("{name}-{octet}").into();
    client.local = [192, 0, 2, octet].into();
    client.local_id = format!("{name}@example.org").parse().unwrap();
    let lan = "10.2.0.0/16".parse().unwrap();
    client.children = vec![ChildConfig::new(
        "lan",
        vec![inner.parse().unwrap()],
        vec![lan],
    )];
    client
}

/// What side B calls all of them.
fn clients(uniqueness: Uniqueness) -> PeerConfig {
    let mut clients = peer(B);
    clients.name = "clients".into();
    clients.remote = "0.0.0.0".parse().unwrap();
    clients.remote_id = "*@example.org".parse().unwrap();
    clients.uniqueness = uniqueness;
    let lan = "10.2.0.0/16".parse().unwrap();
    let pool = "10.9.0.0/24".parse().unwrap();
    clients.children = vec![ChildConfig::new("lan", vec![lan], vec![pool])];
    clients
}

fn calling(seed: u64, weather: Weather, uniqueness: Uniqueness, callers: &[PeerConfig]) -> Link {
    let mut link = Link::new(seed, weather, [callers.to_vec(), vec![clients(uniqueness)]]);
    for caller in callers {
        call(&mut link, &caller.name);
    }
    link
}

fn call(link: &mut Link, name: &str) {
    let now = link.now;
    link.at(A).initiate(now, name, None).unwrap();
    link.run(Duration::from_secs(40));
}

/// The instances that have child SAs at side B, each with the inner addresses of its client.
fn instances(link: &Link) -> Vec<(String, String)> {
    let sas = link.sides[B].dataplane.installed.values();
    let mut list: Vec<_> = sas
        .map(|sa| (sa.peer.clone(), sa.remote_ts[0].to_string()))
        .collect();
    list.sort();
    list
}

fn named(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(name, inner)| ((*name).to_owned(), (*inner).to_owned()))
        .collect()
}

fn closed(link: &Link, side: usize, name: &str, why: &CloseReason) -> bool {
    let mut events = link.sides[side].events.iter();
    events.any(
        |event| matches!(event, Event::IkeClosed { peer, reason } if peer == name && reason == why),
    )
}

#[test]
fn clients_of_one_peer_leave_each_other_alone() {
    for seed in 0..20 {
        let callers = [
            client("carol", 1, "10.9.0.1/32"),
            client("dave", 1, "10.9.0.2/32"),
        ];
        let mut link = calling(seed, Weather::foul(), Uniqueness::default(), &callers);
        link.run(Duration::from_secs(60));
        link.agree(2);
        let both = instances(&link);
        assert_eq!(both.len(), 2, "{both:?}");
        assert_ne!(both[0].0, both[1].0);
        // Rekeys of both cross in bad weather, and each keeps to itself.
        let now = link.now;
        link.at(B).rekey_child(now, "clients#1", None).unwrap();
        link.at(A).rekey_child(now, "carol-1", None).unwrap();
        link.at(A).rekey_ike(now, "dave-1").unwrap();
        link.run(Duration::from_secs(180));
        link.agree(2);
        assert_eq!(instances(&link), both);
        let now = link.now;
        link.at(A).terminate(now, "carol-1", None).unwrap();
        link.run(Duration::from_secs(90));
        link.agree(1);
        let views: Vec<_> = link.sides[B].endpoint.ike_sas().collect();
        assert_eq!(views.len(), 1);
        assert_eq!(views[0].identity, Some("dave@example.org".parse().unwrap()));
    }
}

#[test]
fn two_clients_cannot_have_the_same_addresses() {
    let callers = [
        client("carol", 1, "10.9.0.1/32"),
        client("dave", 1, "10.9.0.0/24"),
    ];
    let link = calling(1, Weather::fair(), Uniqueness::default(), &callers);
    assert_eq!(instances(&link), named(&[("clients#1", "10.9.0.1/32")]));
    let refused = link.refusals(B).join("\n");
    assert!(
        refused.contains("the peer claims 10.9.0.0/24, and clients#1 has some of it already"),
        "{refused}"
    );
}

#[test]
fn who_connects_from_elsewhere_replaces_itself() {
    for seed in 0..10 {
        let callers = [
            client("carol", 1, "10.9.0.1/32"),
            client("carol", 11, "10.9.0.1/32"),
        ];
        let mut link = calling(seed, Weather::foul(), Uniqueness::default(), &callers);
        link.run(Duration::from_secs(120));
        assert_eq!(instances(&link), named(&[("clients#1", "10.9.0.1/32")]));
        assert_eq!(link.ike_sas(B), 1);
        let remote = link.sides[B].endpoint.ike_sas().next().unwrap().path.remote;
        assert_eq!(remote.ip().to_string(), "192.0.2.11");
        link.agree(1);
    }
}

#[test]
fn a_displaced_client_is_told() {
    let mut first = client("carol", 1, "10.9.0.1/32");
    first.keep_trying = false;
    let callers = [first, client("carol", 11, "10.9.0.1/32")];
    let link = calling(1, Weather::fair(), Uniqueness::default(), &callers);
    assert!(closed(&link, B, "clients#1", &CloseReason::Displaced));
    assert!(closed(&link, A, "carol-1", &CloseReason::DeletedByPeer));
}

/// Without INITIAL_CONTACT the older one stays until the newer one has shown that it holds its IKE SA.
#[test]
fn who_says_nothing_of_a_first_contact_replaces_itself_too() {
    let mut callers = [
        client("carol", 1, "10.9.0.1/32"),
        client("carol", 11, "10.9.0.1/32"),
    ];
    callers[0].keep_trying = false;
    let clients = vec![clients(Uniqueness::default())];
    let mut link = Link::new(1, Weather::fair(), [callers.to_vec(), clients]);
    call(&mut link, "carol-1");
    adopt(&mut link, "carol-11");
    assert!(closed(&link, B, "clients#1", &CloseReason::Displaced));
    assert!(closed(&link, A, "carol-1", &CloseReason::DeletedByPeer));
    assert_eq!(instances(&link), named(&[("clients#1", "10.9.0.1/32")]));
    assert_eq!(link.ike_sas(B), 1);
}

#[test]
fn the_first_stays_where_it_is_kept() {
    let mut first = client("carol", 1, "10.9.0.1/32");
    first.keep_trying = false;
    let mut second = client("carol", 11, "10.9.0.2/32");
    second.keep_trying = false;
    // It has another child SA of an earlier life, so that it does not say that this is its first contact.
    let mut link = Link::new(
        1,
        Weather::fair(),
        [vec![first, second], vec![clients(Uniqueness::Keep)]],
    );
    call(&mut link, "carol-1");
    adopt(&mut link, "carol-11");
    assert_eq!(instances(&link), named(&[("clients#1", "10.9.0.1/32")]));
    let refused = link.refusals(B).join("\n");
    assert!(
        refused.contains("is connected already, from 192.0.2.1:500"),
        "{refused}"
    );
    // Once the first has left, the second is welcome.
    let now = link.now;
    link.at(A).terminate(now, "carol-1", None).unwrap();
    link.run(Duration::from_secs(5));
    call(&mut link, "carol-11");
    assert_eq!(instances(&link), named(&[("clients#2", "10.9.0.2/32")]));
}

/// Has side A find a child SA of an earlier life, and call for a fresh one.
fn adopt(link: &mut Link, name: &str) {
    let spi = 0x0077_7123;
    link.sides[A].spis.take(spi);
    let found = AdoptedChild {
        peer: name.to_owned(),
        identity: None,
        remote_ts: Vec::new(),
        child: "lan".to_owned(),
        inbound: spi,
        outbound: 0x0088_8123,
        mode: Mode::Tunnel,
        remote: address(B),
        encapsulation: None,
        selected: true,
    };
    let now = link.now;
    let sa = link.sides[A].dataplane.installed.values().next().cloned();
    let sa = sa.map(|sa| esplanade_ike::ChildSa { inbound: spi, ..sa });
    link.sides[A]
        .dataplane
        .installed
        .extend(sa.map(|sa| (spi, sa)));
    link.at(A).adopt(now, vec![found]);
    link.run(Duration::from_secs(40));
}

#[test]
fn an_identity_has_as_many_places_as_it_is_given() {
    let callers: Vec<_> = (11..14)
        .map(|octet| client("carol", octet, &format!("10.9.0.{octet}/32")))
        .map(|mut caller| {
            caller.keep_trying = false;
            caller
        })
        .collect();
    let link = calling(1, Weather::fair(), Uniqueness::Limit(2), &callers);
    let two = [("clients#1", "10.9.0.13/32"), ("clients#2", "10.9.0.12/32")];
    assert_eq!(instances(&link), named(&two));
    let link = calling(1, Weather::fair(), Uniqueness::Never, &callers);
    let three = [
        ("clients#1", "10.9.0.11/32"),
        ("clients#2", "10.9.0.12/32"),
        ("clients#3", "10.9.0.13/32"),
    ];
    assert_eq!(instances(&link), named(&three));
}

#[test]
fn nobody_calls_an_instance_and_all_end_with_their_peer() {
    let callers = [
        client("carol", 1, "10.9.0.1/32"),
        client("dave", 1, "10.9.0.2/32"),
    ];
    let mut link = calling(1, Weather::fair(), Uniqueness::default(), &callers);
    let now = link.now;
    link.sides[A].deaf = true;
    link.at(B).terminate(now, "clients", None).unwrap();
    link.run(Duration::from_secs(60));
    assert!(instances(&link).is_empty());
    assert_eq!(link.ike_sas(B), 0);
    let now = link.now;
    let gone = link.at(B).initiate(now, "clients#1", None);
    assert_eq!(gone, Err(CommandError::UnknownPeer("clients#1".to_owned())));
}

#[test]
fn a_changed_child_changes_for_every_instance() {
    let callers = [
        client("carol", 1, "10.9.0.1/32"),
        client("dave", 1, "10.9.0.2/32"),
    ];
    let mut link = calling(1, Weather::fair(), Uniqueness::default(), &callers);
    let mut fewer = clients(Uniqueness::default());
    fewer.children[0].remote_ts = vec!["10.9.0.2/32".parse().unwrap()];
    let now = link.now;
    link.at(B).configure(now, vec![fewer]);
    link.run(Duration::from_secs(30));
    assert_eq!(instances(&link), named(&[("clients#2", "10.9.0.2/32")]));
    let now = link.now;
    link.at(B).configure(now, Vec::new());
    link.run(Duration::from_secs(30));
    assert!(instances(&link).is_empty());
    assert_eq!(link.ike_sas(B), 0);
}

#[test]
fn a_restarted_gateway_knows_whose_child_sas_it_has() {
    let mut callers = [
        client("carol", 1, "10.9.0.1/32"),
        client("dave", 1, "10.9.0.2/32"),
    ];
    for caller in &mut callers {
        caller.start = true;
    }
    let mut link = calling(1, Weather::fair(), Uniqueness::default(), &callers);
    let found: Vec<AdoptedChild> = link.sides[B]
        .dataplane
        .installed
        .values()
        .map(|sa| AdoptedChild {
            peer: sa.peer.clone(),
            identity: Some(match sa.peer.as_str() {
                "clients#1" => "carol@example.org".parse().unwrap(),
                _ => "dave@example.org".parse().unwrap(),
            }),
            remote_ts: sa.remote_ts.clone(),
            child: sa.child.clone(),
            inbound: sa.inbound,
            outbound: sa.outbound,
            mode: sa.mode,
            remote: sa.remote,
            encapsulation: sa.encapsulation,
            selected: true,
        })
        .collect();
    let before = instances(&link);
    link.restart(B, 77, vec![clients(Uniqueness::default())]);
    let now = link.now;
    link.at(B).adopt(now, found);
    link.run(Duration::from_secs(20));
    // Nobody is called, and nothing is dropped.
    assert_eq!(instances(&link), before);
    // The clients notice that they are not known any more, and come back as who they were.
    link.run(Duration::from_secs(200));
    link.agree(2);
    assert_eq!(instances(&link), before);
}
