//! EAP with MSCHAPv2 between two endpoints (RFC 7296 2.16): the server proves itself first, the client is who EAP says it
//! is, and refusals say what was wrong.

mod link;
#[path = "../../pki/tests/common/mod.rs"]
mod pki;

use std::sync::Arc;
use std::time::Duration;

use esplanade_ike::config::{
    Authentication, EapClients, EapProof, Families, Identity, OwnCertificate, RsaPadding, Secret,
    Users,
};
use esplanade_ike::{ChildConfig, Counter, PeerConfig, PoolConfig};
use link::*;
use pki::{Authority, Leaf, NOW, authority, trust};

const NAME: &str = "gw-1.example.org";

/// A client on side A with this name and password, whose IDi is but an address.
fn client(name: &str, password: &str, root: &Authority) -> PeerConfig {
    let mut client = peer(A);
    client.name = name.into();
    client.local_id = address(A).into();
    client.remote_id = NAME.parse().unwrap();
    client.authentication = Authentication::EapClient {
        trust: Arc::new(trust(&[root])),
        name: name.to_owned(),
        by: EapProof::Password(Secret::from(password.as_bytes())),
    };
    client.request = Some(Families::V4);
    client.keep_trying = false;
    client.ike_proposals = vec!["aes256gcm16-sha384-x25519-ke1_mlkem768".parse().unwrap()];
    let any = "0.0.0.0/0".parse().unwrap();
    let lan = "10.2.0.0/16".parse().unwrap();
    client.children = vec![ChildConfig::new("lan", vec![any], vec![lan])];
    client
}

fn gateway(root: &Authority) -> PeerConfig {
    let (pem, key) = Leaf::new(NAME).issue(root);
    let ours = OwnCertificate::from_pem(pem.as_bytes(), key.as_bytes(), RsaPadding::Pss);
    let users = [
        ("carol@example.org", "secret"),
        ("dave@example.org", "other"),
    ];
    let users: Users = users
        .into_iter()
        .map(|(name, password)| (name.to_owned(), Secret::from(password.as_bytes())))
        .collect();
    let mut gateway = peer(B);
    gateway.name = "clients".into();
    gateway.remote = "0.0.0.0".parse().unwrap();
    gateway.local_id = NAME.parse().unwrap();
    gateway.remote_id = "*@example.org".parse().unwrap();
    gateway.authentication = Authentication::EapServer {
        ours: Arc::new(ours.unwrap()),
        clients: EapClients::Passwords(Arc::new(users)),
    };
    gateway.ike_proposals = vec!["aes256gcm16-sha384-x25519-ke1_mlkem768".parse().unwrap()];
    gateway.pool = Some("staff".into());
    let lan = "10.2.0.0/16".parse().unwrap();
    let pool = "10.9.0.0/24".parse().unwrap();
    gateway.children = vec![ChildConfig::new("lan", vec![lan], vec![pool])];
    gateway
}

fn staff() -> PoolConfig {
    PoolConfig {
        name: "staff".into(),
        ranges: vec![([10, 9, 0, 1].into(), [10, 9, 0, 99].into())],
        dns: Vec::new(),
        networks: Vec::new(),
        hold: Duration::from_secs(600),
        fixed: Vec::new(),
    }
}

fn connect(seed: u64, weather: Weather, clients: &[PeerConfig], gateway: PeerConfig) -> Link {
    let mut link = Link::new(seed, weather, [clients.to_vec(), vec![gateway]]);
    let now = link.now;
    for side in [A, B] {
        link.at(side).set_wall_clock(now, NOW);
    }
    link.at(B).configure_pools(now, vec![staff()]);
    for client in clients {
        let now = link.now;
        link.at(A).initiate(now, &client.name, None).unwrap();
        link.run(Duration::from_secs(90));
    }
    link
}

/// What both sides told their operators of a connection that fails, and leaves nothing.
fn refused(client: PeerConfig, gateway: PeerConfig) -> [String; 2] {
    let link = connect(1, Weather::fair(), &[client], gateway);
    link.agree(0);
    assert_eq!((link.ike_sas(A), link.ike_sas(B)), (0, 0));
    [A, B].map(|side| link.refusals(side).join("\n"))
}

#[test]
fn clients_are_who_eap_says_they_are() {
    let root = authority("root", None);
    for seed in 0..10 {
        let clients = [
            client("carol@example.org", "secret", &root),
            client("dave@example.org", "other", &root),
        ];
        let mut link = connect(seed, Weather::foul(), &clients, gateway(&root));
        link.agree(2);
        let mut who: Vec<_> = link.sides[B]
            .dataplane
            .installed
            .values()
            .map(|sa| {
                (
                    sa.identity.clone().unwrap().to_string(),
                    sa.remote_ts[0].to_string(),
                )
            })
            .collect();
        who.sort();
        let expected = [
            ("carol@example.org", "10.9.0.1/32"),
            ("dave@example.org", "10.9.0.2/32"),
        ];
        assert_eq!(
            who,
            expected.map(|(who, inner)| (who.to_owned(), inner.to_owned()))
        );
        let now = link.now;
        link.at(A).rekey_ike(now, "carol@example.org").unwrap();
        link.at(B).rekey_child(now, "clients#2", None).unwrap();
        link.run(Duration::from_secs(120));
        link.agree(2);
    }
}

#[test]
fn nobody_comes_in_without_the_password() {
    let root = authority("root", None);
    let [ours, theirs] = refused(client("carol@example.org", "wrong", &root), gateway(&root));
    assert!(
        ours.contains("see whether name and password are right"),
        "{ours}"
    );
    assert!(theirs.contains("the password is wrong"), "{theirs}");
    let [_, theirs] = refused(client("erin@example.org", "secret", &root), gateway(&root));
    assert!(theirs.contains("there is no user of this name"), "{theirs}");
}

#[test]
fn who_has_authenticated_must_be_one_that_the_tunnel_is_for() {
    let root = authority("root", None);
    let mut few = gateway(&root);
    few.remote_id = "dave@example.org".parse().unwrap();
    let [ours, theirs] = refused(client("carol@example.org", "secret", &root), few);
    assert!(
        theirs.contains("`carol@example.org` has failed: this identity may not be"),
        "{theirs}"
    );
    assert!(!ours.is_empty());
}

/// The client's password, or what is made of it, goes to nobody whose certificate it does not believe.
#[test]
fn a_server_is_believed_before_eap_begins() {
    let (root, other) = (authority("root", None), authority("other", None));
    let [ours, theirs] = refused(
        client("carol@example.org", "secret", &other),
        gateway(&root),
    );
    assert!(
        ours.contains("certificate") && !ours.contains("EAP"),
        "{ours}"
    );
    assert!(!theirs.contains("EAP"), "{theirs}");
    let mut asks = client("carol@example.org", "secret", &root);
    asks.remote_id = "gw-9.example.org".parse().unwrap();
    let [ours, _] = refused(asks, gateway(&root));
    assert!(!ours.contains("EAP"), "{ours}");
}

#[test]
fn methods_that_differ_are_named() {
    let root = authority("root", None);
    let mut psk = gateway(&root);
    psk.authentication = peer(B).authentication;
    psk.pool = None;
    psk.remote_id = address(A).into();
    let [_, theirs] = refused(client("carol@example.org", "secret", &root), psk);
    assert!(theirs.contains("authenticates by EAP"), "{theirs}");
    let mut by_key = peer(A);
    by_key.keep_trying = false;
    by_key.local_id = "carol@example.org".parse().unwrap();
    by_key.remote_id = NAME.parse().unwrap();
    by_key.ike_proposals = gateway(&root).ike_proposals;
    let link = connect(1, Weather::fair(), &[by_key], gateway(&root));
    assert_eq!(link.count(B, Counter::AuthenticationFailed), 1);
    let theirs = link.refusals(B).join("\n");
    assert!(theirs.contains("EAP"), "{theirs}");
    link.agree(0);
}

#[test]
fn a_client_that_stops_in_the_middle_is_forgotten() {
    let root = authority("root", None);
    let clients = [client("carol@example.org", "secret", &root)];
    let mut link = Link::new(1, Weather::fair(), [clients.to_vec(), vec![gateway(&root)]]);
    let now = link.now;
    for side in [A, B] {
        link.at(side).set_wall_clock(now, NOW);
    }
    link.at(A).initiate(now, "carol@example.org", None).unwrap();
    // IKE_SA_INIT, IKE_INTERMEDIATE and the first of IKE_AUTH take 10 ms each.
    link.run(Duration::from_millis(36));
    link.sides[A].deaf = true;
    assert_eq!(link.ike_sas(B), 1);
    link.run(Duration::from_secs(40));
    assert_eq!(link.ike_sas(B), 0);
    assert_eq!(link.count(B, Counter::HalfOpenExpired), 1);
    assert_eq!(link.sides[B].spis.taken(), 0);
}

/// At whatever moment of the handshake the peer is taken away, nobody becomes it any more.
#[test]
fn nobody_becomes_a_peer_that_is_gone_in_the_meantime() {
    let root = authority("root", None);
    let mut late = 0;
    for after in (1..24).map(|steps| Duration::from_millis(5 + 10 * steps)) {
        let clients = vec![client("carol@example.org", "secret", &root)];
        let mut link = Link::new(1, Weather::fair(), [clients, vec![gateway(&root)]]);
        let now = link.now;
        for side in [A, B] {
            link.at(side).set_wall_clock(now, NOW);
        }
        link.at(B).configure_pools(now, vec![staff()]);
        link.at(A).initiate(now, "carol@example.org", None).unwrap();
        link.run(after);
        let now = link.now;
        link.at(B).configure(now, Vec::new());
        link.run(Duration::from_secs(60));
        assert_eq!(link.ike_sas(B), 0, "{after:?}");
        link.agree(0);
        let why = link.refusals(B).join("\n");
        late += usize::from(why.contains("has been changed or removed in the meantime"));
    }
    assert!(late > 0);
}

/// A client on side A that proves by a certificate of this name, and by EAP-TLS.
fn tls_client(name: &'static str, root: &Authority, believes: &Authority) -> PeerConfig {
    let mut client = client(name, "", root);
    let (pem, key) = Leaf::new(name).issue(root);
    let ours = OwnCertificate::from_pem(pem.as_bytes(), key.as_bytes(), RsaPadding::Pss);
    client.authentication = Authentication::EapClient {
        trust: Arc::new(trust(&[believes])),
        name: name.to_owned(),
        by: EapProof::Certificate(Arc::new(ours.unwrap())),
    };
    client.local_id = name.parse().unwrap();
    client
}

fn tls_gateway(root: &Authority) -> PeerConfig {
    let mut gateway = gateway(root);
    let Authentication::EapServer { clients, .. } = &mut gateway.authentication else {
        panic!("no server");
    };
    *clients = EapClients::Certificates(Arc::new(trust(&[root])));
    gateway.remote_id = "*.example.org".parse().unwrap();
    gateway
}

#[test]
fn clients_prove_by_tls_who_they_are() {
    let root = authority("root", None);
    for seed in 0..5 {
        let clients = [
            tls_client("carol.example.org", &root, &root),
            tls_client("dave.example.org", &root, &root),
        ];
        let link = connect(seed, Weather::foul(), &clients, tls_gateway(&root));
        link.agree(2);
        let sas = link.sides[B].dataplane.installed.values();
        let mut who: Vec<_> = sas
            .map(|sa| sa.identity.clone().unwrap().to_string())
            .collect();
        who.sort();
        assert_eq!(who, ["carol.example.org", "dave.example.org"]);
    }
    // What IDi says and the certificate does not, is not believed: its own name is who it is.
    let mut liar = tls_client("carol.example.org", &root, &root);
    liar.local_id = "dave.example.org".parse().unwrap();
    let mut anybody = tls_gateway(&root);
    anybody.remote_id = "*".parse().unwrap();
    let link = connect(1, Weather::fair(), &[liar.clone()], anybody);
    link.agree(1);
    let sa = link.sides[B].dataplane.installed.values().next().unwrap();
    let named = Identity::Rfc822("admin@carol.example.org".to_owned());
    assert_eq!(sa.identity, Some(named));
    let [_, theirs] = refused(liar, tls_gateway(&root));
    assert!(theirs.contains("this identity may not be"), "{theirs}");
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_name() {
    let (root, other) = (authority("root", None), authority("other", None));
    let [_, theirs] = refused(
        tls_client("carol.example.org", &other, &root),
        tls_gateway(&root),
    );
    assert!(
        theirs.contains("TLS has failed") && theirs.contains("carol"),
        "{theirs}"
    );
    let [ours, theirs] = refused(
        client("carol@example.org", "secret", &root),
        tls_gateway(&root),
    );
    assert!(
        !ours.is_empty() && theirs.contains("wants method 26"),
        "{theirs}"
    );
    let [ours, theirs] = refused(
        tls_client("carol.example.org", &root, &root),
        gateway(&root),
    );
    assert!(
        !ours.is_empty() && theirs.contains("wants method 13"),
        "{theirs}"
    );
}
