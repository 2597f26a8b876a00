//! Authentication by certificates (RFC 7427, RFC 8420, RFC 4945) between two endpoints: every kind of
//! key, chains that go in fragments, and refusals that name the check and the certificate.

mod link;
#[path = "../../pki/tests/common/mod.rs"]
mod pki;

use std::sync::Arc;
use std::time::Duration;

use esplanade_ike::config::{
    Authentication, CrlPolicy, Identity, OwnCertificate, RsaPadding, Trust,
};
use esplanade_ike::{Counter, PeerConfig};
use link::*;
use pki::{Authority, Leaf, NOW, YEAR, authority, trust, trusting};
use rcgen::{
    ExtendedKeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
};

const NAMES: [&str; 2] = ["gw-0.example.org", "gw-1.example.org"];

fn leaf(side: usize) -> Leaf {
    Leaf {
        serial: 7 + side as u64,
        ..Leaf::new(NAMES[side])
    }
}

fn own(leaf: &Leaf, issuer: &Authority, more: &str, padding: RsaPadding) -> OwnCertificate {
    let (pem, key) = leaf.issue(issuer);
    let chain = [pem.as_str(), more].concat();
    OwnCertificate::from_pem(chain.as_bytes(), key.as_bytes(), padding).unwrap()
}

/// The other side as a peer, with this certificate of ours.
fn certified(side: usize, ours: OwnCertificate, trust: Trust) -> PeerConfig {
    let mut peer = peer(side);
    peer.authentication = Authentication::Certificate {
        ours: Arc::new(ours),
        trust: Arc::new(trust),
    };
    peer
}

fn plain(side: usize, root: &Authority) -> PeerConfig {
    let ours = own(&leaf(side), root, "", RsaPadding::Pss);
    certified(side, ours, trust(&[root]))
}

/// Two gateways with these peers, connected by A at this time of day.
fn connect(seed: u64, weather: Weather, peers: [PeerConfig; 2], time: u64) -> Link {
    let mut link = Link::new(seed, weather, peers.map(|peer| vec![peer]));
    let now = link.now;
    for side in [A, B] {
        link.at(side).set_wall_clock(now, time);
    }
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(Duration::from_secs(60));
    link
}

/// What the sides told their operators when the connection failed.
fn refused(peers: [PeerConfig; 2]) -> [String; 2] {
    let mut link = Link::new(1, Weather::fair(), peers.map(|peer| vec![peer]));
    let now = link.now;
    for side in [A, B] {
        link.at(side).set_wall_clock(now, NOW);
    }
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(Duration::from_secs(1));
    assert_eq!(link.sides[A].dataplane.installed.len(), 0);
    assert_eq!(link.sides[B].dataplane.installed.len(), 0);
    [A, B].map(|side| link.refusals(side).join("\n"))
}

#[test]
fn every_kind_of_key_proves_who_it_is() {
    let root = authority("root", None);
    let kinds: [(&'static SignatureAlgorithm, RsaPadding); 6] = [
        (&PKCS_RSA_SHA256, RsaPadding::Pss),
        (&PKCS_RSA_SHA256, RsaPadding::Pkcs1),
        (&PKCS_ECDSA_P256_SHA256, RsaPadding::Pss),
        (&PKCS_ECDSA_P384_SHA384, RsaPadding::Pss),
        (&PKCS_ECDSA_P521_SHA512, RsaPadding::Pss),
        (&PKCS_ED25519, RsaPadding::Pss),
    ];
    for (at, (algorithm, padding)) in kinds.into_iter().enumerate() {
        let peers = [A, B].map(|side| {
            // The other side has another kind of key.
            let other = kinds[(at + 1) % kinds.len()];
            let (algorithm, padding) = if side == A {
                (algorithm, padding)
            } else {
                other
            };
            let leaf = Leaf {
                algorithm,
                ..leaf(side)
            };
            let mut peer = certified(side, own(&leaf, &root, "", padding), trust(&[&root]));
            let hybrid = "aes256gcm16-sha384-x25519-ke1_mlkem768";
            peer.ike_proposals = vec![hybrid.parse().unwrap()];
            peer
        });
        let link = connect(1, Weather::fair(), peers, NOW);
        link.agree(1);
        assert!(link.refusals(A).is_empty() && link.refusals(B).is_empty());
    }
}

#[test]
fn long_chains_go_in_fragments_in_bad_weather() {
    let root = authority("root", None);
    let mut middles = Vec::new();
    for level in 0..5 {
        let above = middles.last().unwrap_or(&root);
        let name = format!("authority {level}, whose long name takes its room on the wire");
        let below = authority(&name, Some(above));
        middles.push(below);
    }
    let more: String = middles.iter().rev().map(|m| m.pem.clone()).collect();
    for seed in 0..8 {
        let peers = [A, B].map(|side| {
            let issuer = middles.last().unwrap();
            let mut peer = certified(
                side,
                own(&leaf(side), issuer, &more, RsaPadding::Pss),
                trust(&[&root]),
            );
            peer.fragment_size = 576;
            peer
        });
        let link = connect(seed, Weather::foul(), peers, NOW);
        link.agree(1);
        assert!(link.count(A, Counter::FragmentSent) >= 6);
        assert!(link.count(B, Counter::FragmentSent) >= 6);
    }
}

#[test]
fn identities_are_names_of_the_certificate() {
    let root = authority("root", None);
    let dn = |side: usize| format!("O=Example, CN=cn of {}", NAMES[side]);
    for identity in [
        |side: usize| NAMES[side].parse().unwrap(),
        |side: usize| format!("admin@{}", NAMES[side]).parse().unwrap(),
        |side: usize| {
            format!("O=Example, CN=cn of {}", NAMES[side])
                .parse()
                .unwrap()
        },
    ] as [fn(usize) -> Identity; 3]
    {
        let peers = [A, B].map(|side| {
            let mut peer = plain(side, &root);
            (peer.local_id, peer.remote_id) = (identity(side), identity(1 - side));
            peer
        });
        connect(1, Weather::fair(), peers, NOW).agree(1);
    }
    // A pattern takes whoever the authority has issued for.
    let peers = [A, B].map(|side| {
        let mut peer = plain(side, &root);
        peer.local_id = dn(side).parse().unwrap();
        peer.remote_id = "O=Example, CN=*".parse().unwrap();
        peer
    });
    connect(1, Weather::fair(), peers, NOW).agree(1);
    // The common name alone is nobody.
    let peers = [A, B].map(|side| {
        let mut peer = plain(side, &root);
        let cn = |side: usize| Identity::Fqdn(format!("cn of {}", NAMES[side]));
        (peer.local_id, peer.remote_id) = (cn(side), cn(1 - side));
        peer
    });
    let [_, told] = refused(peers);
    assert!(
        told.contains("which its certificate does not say"),
        "{told}"
    );
    assert!(told.contains("admin@gw-0.example.org"), "{told}");
}

#[test]
fn a_failed_check_names_itself_and_its_certificate() {
    let (root, other) = (authority("root", None), authority("other", None));
    let b = || plain(B, &root);
    let a = |leaf: Leaf, issuer: &Authority, own_trust: Trust| {
        certified(A, own(&leaf, issuer, "", RsaPadding::Pss), own_trust)
    };
    let cases: [(PeerConfig, PeerConfig, &str); 5] = [
        (
            a(leaf(A), &other, trust(&[&root])),
            b(),
            "its issuer `O=Example, CN=other` is none of the trusted",
        ),
        (
            a(
                Leaf {
                    usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
                    ..leaf(A)
                },
                &root,
                trust(&[&root]),
            ),
            b(),
            "its extended key usage is serverAuth",
        ),
        (
            a(leaf(A), &root, trust(&[&root])),
            certified(
                B,
                own(&leaf(B), &root, "", RsaPadding::Pss),
                trusting(&[&root], &[root.crl(7)], CrlPolicy::Strict),
            ),
            "it is revoked by the list of `O=Example, CN=root`",
        ),
        (
            a(leaf(A), &root, trust(&[&root])),
            certified(
                B,
                own(&leaf(B), &root, "", RsaPadding::Pss),
                trusting(&[&root], &[], CrlPolicy::Strict),
            ),
            "`crl-policy` is strict",
        ),
        (
            peer(A),
            b(),
            "authenticates by a pre-shared key (method 2), but a digital signature",
        ),
    ];
    for (a, b, words) in cases {
        let by_certificate = matches!(a.authentication, Authentication::Certificate { .. });
        let [at_a, at_b] = refused([a, b]);
        assert!(at_b.contains(words), "{at_b}");
        if by_certificate {
            assert!(
                at_b.contains("certificate of `O=Example, CN=cn of gw-0.example.org`"),
                "{at_b}"
            );
        }
        assert!(at_a.contains("our proof does not convince it"), "{at_a}");
    }
    // The initiator checks as much, and says so.
    let [at_a, at_b] = refused([a(leaf(A), &root, trust(&[&other])), b()]);
    assert!(
        at_a.contains("its issuer `O=Example, CN=root` is none of the trusted"),
        "{at_a}"
    );
    // The responder stands by then, and hears of it in an exchange of its own.
    assert!(at_b.contains("our proof does not convince it"), "{at_b}");
}

#[test]
fn validity_follows_the_clock() {
    let root = authority("root", None);
    for (time, words) in [
        (NOW + 3 * YEAR, "it expired on 2028-01-01"),
        (NOW - YEAR, "not valid before"),
    ] {
        let link = connect(1, Weather::fair(), [plain(A, &root), plain(B, &root)], time);
        assert_eq!(link.sides[B].dataplane.ever_installed, 0);
        assert!(
            link.refusals(B)[0].contains(words),
            "{:?}",
            link.refusals(B)
        );
    }
    // Nobody has told the time.
    let mut link = Link::new(
        1,
        Weather::fair(),
        [vec![plain(A, &root)], vec![plain(B, &root)]],
    );
    let now = link.now;
    link.at(A).initiate(now, "peer", None).unwrap();
    link.run(Duration::from_secs(1));
    assert!(
        link.refusals(B)[0].contains("time of day"),
        "{:?}",
        link.refusals(B)
    );
}
