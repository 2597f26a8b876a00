//! Esplanade and strongSwan prove who they are by certificates, each version and each as initiator: the kinds of keys,
//! a chain of 8 KiB that goes in fragments, and what a list revokes. With 6.x also ML-KEM.

mod common;
#[path = "common/pki.rs"]
mod pki;

use common::{UP, bed, eventually, ready, tell};
use esplanade_bench::gateway::{Gateway, Site, TUNNEL, write_file};
use esplanade_bench::peer::strongswan::{Connection, Credentials, Proof, StrongSwan, Version};
use esplanade_bench::testbed::Testbed;
use pki::{Authority, Leaf};
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};

const IKE: &str = "aes256gcm16-sha384-x25519";
const HYBRID: &str = "aes256gcm16-sha384-x25519-ke1_mlkem768";
const ESP: &str = "aes256gcm16-x25519";
const HYBRID_ESP: &str = "aes256gcm16-x25519-ke1_mlkem768";

/// Every kind of key, by the name of the pair that has it.
const KEYS: [(&str, &SignatureAlgorithm); 4] = [
    ("rsa", &PKCS_RSA_SHA256),
    ("p256", &PKCS_ECDSA_P256_SHA256),
    ("p384", &PKCS_ECDSA_P384_SHA384),
    ("ed25519", &PKCS_ED25519),
];
/// The pair with the long chains.
const LARGE: &str = "large";
/// The pair of which ours is revoked, and the one of which strongSwan's is.
const OURS_REVOKED: &str = "ours-revoked";
const THEIRS_REVOKED: &str = "theirs-revoked";
const REVOKED: u64 = 66;

/// The certificates of both gateways.
struct Certificates {
    root: Authority,
    middle: [Authority; 2],
    ours: Credentials,
    theirs: Credentials,
}

impl Certificates {
    fn new() -> Self {
        let root = Authority::new("root.example.org", None, 0);
        let upper = Authority::new("upper.example.org", Some(&root), 40);
        let lower = Authority::new("lower.example.org", Some(&upper), 40);
        let mut made = Self {
            root,
            middle: [upper, lower],
            ours: Credentials::default(),
            theirs: Credentials::default(),
        };
        for (name, algorithm) in KEYS {
            made.add(name, algorithm, 0, (7, 8));
        }
        made.add(LARGE, &PKCS_ECDSA_P256_SHA256, 130, (7, 8));
        made.add(OURS_REVOKED, &PKCS_ECDSA_P256_SHA256, 0, (REVOKED, 8));
        made.add(THEIRS_REVOKED, &PKCS_ECDSA_P256_SHA256, 0, (7, REVOKED));
        let authorities = [
            ("root", &made.root),
            ("upper", &made.middle[0]),
            ("lower", &made.middle[1]),
        ];
        made.theirs.authorities = authorities
            .map(|(name, authority)| (name.to_owned(), authority.pem.clone()))
            .to_vec();
        made.theirs.lists = vec![("root".to_owned(), made.root.list(&[REVOKED]))];
        made
    }

    fn add(
        &mut self,
        name: &str,
        algorithm: &'static SignatureAlgorithm,
        more_names: usize,
        (ours, theirs): (u64, u64),
    ) {
        let issuer = match more_names {
            0 => &self.root,
            _ => &self.middle[1],
        };
        for (gateway, serial, credentials) in
            [("a", ours, &mut self.ours), ("b", theirs, &mut self.theirs)]
        {
            let (certificate, key) = issuer.issue(&Leaf {
                algorithm,
                name: &identity(name, gateway),
                more_names,
                serial,
            });
            credentials
                .certificates
                .push((name.to_owned(), certificate));
            credentials.keys.push((name.to_owned(), key));
        }
    }

    /// Puts ours beside gateway A's configuration.
    fn write(&self, bed: &Testbed) {
        let write = |name: String, text: &str| {
            write_file(&bed.gateway_a, &name, text).expect("a file");
        };
        for (name, pem) in &self.ours.certificates {
            let mut chain = pem.clone();
            if name == LARGE {
                chain.extend([self.middle[1].pem.as_str(), &self.middle[0].pem]);
            }
            write(format!("{name}.pem"), &chain);
        }
        for (name, pem) in &self.ours.keys {
            write(format!("{name}.key"), pem);
        }
        write("root.pem".to_owned(), &self.root.pem);
        write("root.crl".to_owned(), &self.root.list(&[REVOKED]));
    }
}

fn identity(name: &str, gateway: &str) -> String {
    format!("{name}.{gateway}.example.org")
}

/// Gateway A with the certificate of this pair.
fn site(name: &str) -> Site {
    Site {
        local_id: identity(name, "a"),
        remote_id: identity(name, "b"),
        authentication: format!(
            "{{ certificate: {name}.pem, key: {name}.key, ca: root.pem, crl: root.crl }}"
        ),
        ike: IKE.to_owned(),
        esp: ESP.to_owned(),
        initiates: false,
        esn: false,
        ..Site::a()
    }
}

/// Gateway A with the hybrid key exchange everywhere.
fn hybrid() -> Site {
    Site {
        ike: HYBRID.to_owned(),
        esp: HYBRID_ESP.to_owned(),
        authentication: Site::a().authentication,
        ..site("hybrid")
    }
}

/// The other end of a site.
fn peer_of(name: &str, site: &Site, ike: &str) -> Connection {
    let proof = match name {
        "hybrid" => Proof::Key(site.secret.clone()),
        name => Proof::Certificate(name.to_owned()),
    };
    Connection {
        name: name.to_owned(),
        local: site.remote,
        remote: site.local,
        local_id: site.remote_id.clone(),
        remote_id: site.local_id.clone(),
        proof,
        local_prefix: site.remote_prefix.clone(),
        remote_prefix: site.local_prefix.clone(),
        ike: ike.to_owned(),
        esp: site.esp.clone(),
    }
}

/// Who starts something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Esplanade,
    StrongSwan,
}

const BOTH: [Side; 2] = [Side::Esplanade, Side::StrongSwan];

/// Gateway A and a strongSwan that knows every pair.
struct Pair<'b> {
    bed: &'b Testbed,
    a: Gateway<'b>,
    b: StrongSwan<'b>,
}

impl<'b> Pair<'b> {
    fn start(version: Version, bed: &'b Testbed, certificates: &Certificates) -> Self {
        certificates.write(bed);
        let names = KEYS.map(|(name, _)| name);
        let names = names.iter().chain(&[LARGE, OURS_REVOKED, THEIRS_REVOKED]);
        let mut connections: Vec<Connection> = names
            .map(|name| peer_of(name, &site(name), "aes256gcm16-prfsha384-x25519"))
            .collect();
        if version == Version::Six {
            let ike = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
            connections.push(peer_of("hybrid", &hybrid(), ike));
        }
        let log_dir = bed.log_dir();
        let theirs = &certificates.theirs;
        let a = Gateway::start(&bed.gateway_a, &site("rsa"), log_dir).expect("gateway A");
        let b = StrongSwan::start_all(version, &bed.gateway_b, &connections, theirs, log_dir)
            .expect("strongSwan");
        Self { bed, a, b }
    }

    fn initiate(&self, name: &str, side: Side) {
        match side {
            Side::Esplanade => tell(&self.a, &["initiate", TUNNEL]),
            Side::StrongSwan => {
                let said = self.b.initiate_of(name);
                said.unwrap_or_else(|error| panic!("{name}: {error:#}\n{}", self.b.log()));
            }
        }
        self.a.wait_until_up(UP).expect("the tunnel");
    }

    fn carries(&self, what: &str) {
        self.bed.warm_up().expect("traffic");
        let answers = self.bed.ping(2).expect("ping");
        assert_eq!(answers, 2, "{what}: {}", self.b.log());
    }

    /// Ends the tunnel, by the other side than the one that has made it.
    fn end(&self, name: &str, side: Side) {
        match side {
            Side::Esplanade => self.b.terminate_of(name).expect("terminate"),
            Side::StrongSwan => tell(&self.a, &["terminate", TUNNEL]),
        }
        eventually("both to be without SAs", || {
            self.b.children().is_ok_and(|children| children.is_empty())
                && self.a.sas().is_ok_and(|sas| sas.is_empty())
        });
    }

    /// The tunnel stands, whoever makes it.
    fn agree(&self, name: &str) {
        for side in BOTH {
            self.initiate(name, side);
            self.carries(name);
            self.end(name, side);
        }
    }

    /// The tunnel does not come to be, whoever wants it, and this is why.
    fn refuse(&self, name: &str, why: &[&str]) {
        for side in BOTH {
            let before = self.b.log().len();
            match side {
                Side::Esplanade => {
                    let said = self.a.command(&["initiate", TUNNEL]).expect("an answer");
                    assert!(!said.status.success(), "{name}: {said:?}");
                }
                Side::StrongSwan => {
                    self.b.initiate_of(name).expect_err("no tunnel");
                }
            }
            let all = |text: &str| why.iter().all(|words| text.contains(words));
            eventually(&format!("{name}, {side:?}: {why:?}"), || {
                let status = self.a.status().expect("status");
                let mut troubles = status
                    .tunnels
                    .iter()
                    .filter_map(|tunnel| tunnel.trouble.as_deref());
                troubles.any(all) || all(&self.b.log()[before..])
            });
            // strongSwan as initiator finds out when our end stands already, and says so.
            eventually(&format!("{name}, {side:?}: no SA to be left"), || {
                self.a.sas().is_ok_and(|sas| sas.is_empty())
            });
        }
    }
}

fn interoperate(version: Version) {
    if !ready() {
        return;
    }
    if let Some(reason) = version.unavailable() {
        println!("SKIPPED: {reason}");
        return;
    }
    let certificates = Certificates::new();
    let bed = bed();
    let pair = Pair::start(version, &bed, &certificates);
    for (name, _) in KEYS {
        pair.a.reload(&site(name)).expect("a reload");
        pair.agree(name);
    }
    fragmented(&pair, &certificates);

    pair.a.reload(&site(THEIRS_REVOKED)).expect("a reload");
    pair.refuse(THEIRS_REVOKED, &["CN=theirs-revoked.b", "is revoked"]);
    pair.a.reload(&site(OURS_REVOKED)).expect("a reload");
    pair.refuse(OURS_REVOKED, &["certificate was revoked", "key compromise"]);

    if version == Version::Six {
        pair.a.reload(&hybrid()).expect("a reload");
        for side in BOTH {
            pair.initiate("hybrid", side);
            let suite = pair.a.status().expect("status").tunnels[0].suite.clone();
            assert_eq!(suite.as_deref(), Some(HYBRID));
            pair.carries("hybrid");
            rekey(&pair);
            pair.carries("hybrid, rekeyed");
            pair.end("hybrid", side);
        }
    }
    pair.a.stop().expect("an orderly end");
}

/// A chain of 8 KiB from each side to the other.
fn fragmented(pair: &Pair<'_>, certificates: &Certificates) {
    let chain = |credentials: &Credentials| {
        let leaf = credentials.certificates.iter();
        let leaf = leaf.filter(|(name, _)| name == LARGE).map(|(_, pem)| pem);
        let middle = certificates.middle.iter().map(|authority| &authority.pem);
        // Four characters of PEM are three octets.
        leaf.chain(middle)
            .map(|pem| pem.len() / 4 * 3)
            .sum::<usize>()
    };
    for credentials in [&certificates.ours, &certificates.theirs] {
        let octets = chain(credentials);
        assert!((8 * 1024..9 * 1024).contains(&octets), "{octets}");
    }
    let count = |name| pair.a.counter(name).expect("a counter");
    let names = ["ike_fragment_sent", "ike_fragment_received"];
    let before = names.map(count);
    pair.a.reload(&site(LARGE)).expect("a reload");
    pair.agree(LARGE);
    for (name, before) in names.into_iter().zip(before) {
        // Seven of 1280 octets for each IKE_AUTH message of two handshakes.
        assert!(count(name) - before >= 14, "{name}");
    }
}

/// Every SA is made anew by each side.
fn rekey(pair: &Pair<'_>) {
    let spis = || {
        let children = pair.b.children().expect("children");
        let children = children.iter().filter(|child| child.installed);
        let children: Vec<u32> = children.map(|child| child.inbound).collect();
        (children, pair.b.ike_sas_of("hybrid").expect("IKE SAs"))
    };
    for side in BOTH {
        for layer in ["--child", "--ike"] {
            let (children, ike) = spis();
            match side {
                Side::Esplanade => tell(&pair.a, &["rekey", layer, TUNNEL]),
                Side::StrongSwan => pair.b.rekey("hybrid", layer).expect("a rekey"),
            }
            eventually(&format!("{layer} to be rekeyed by {side:?}"), || {
                let now = spis();
                match layer {
                    "--ike" => now.1.len() == 1 && now.1 != ike,
                    _ => now.0.len() == 1 && now.0 != children,
                }
            });
        }
    }
}

#[test]
fn certificates_with_strongswan_5() {
    interoperate(Version::Five);
}

#[test]
fn certificates_and_ml_kem_with_strongswan_6() {
    interoperate(Version::Six);
}
