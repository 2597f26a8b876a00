//! strongSwan 5.9 as road warriors of our gateway, with names and passwords and addresses of its pool, and as the gateway that
//! gives us one.

mod common;
#[path = "common/pki.rs"]
mod pki;

use std::net::IpAddr;

use common::{UP, bed, eventually, ready, tell};
use esplanade_bench::gateway::{CHILD, Gateway, TUNNEL, write_config, write_file};
use esplanade_bench::peer::strongswan::{
    Connection, Credentials, Proof, StrongSwan, User, Version,
};
use esplanade_bench::testbed::{
    HOST_A, HOST_B, INSIDE, Namespace, OUTSIDE, OUTSIDE_A, OUTSIDE_B, PREFIX_A, PREFIX_B, kill,
};
use esplanade_controlplane::api::Tunnel;
use pki::{Authority, Leaf};
use rcgen::PKCS_ECDSA_P256_SHA256;

const GATEWAY: &str = "gw.example.org";
const POOL: &str = "10.9.0.0/24";
const CAROLS: &str = "10.9.0.5";

fn user(name: &str, password: &str) -> User {
    User {
        name: format!("{name}@example.org"),
        password: password.to_owned(),
    }
}

/// A certificate of the gateway, and the authority that has issued it.
fn certificate() -> ((String, String), String) {
    let root = Authority::new("root.example.org", None, 0);
    let leaf = Leaf {
        algorithm: &PKCS_ECDSA_P256_SHA256,
        name: GATEWAY,
        more_names: 0,
        serial: 7,
    };
    (root.issue(&leaf), root.pem)
}

fn connection(name: &str, proof: Proof) -> Connection {
    Connection {
        name: name.to_owned(),
        local: OUTSIDE_B.into(),
        remote: OUTSIDE_A.into(),
        local_id: "192.0.2.2".to_owned(),
        remote_id: GATEWAY.to_owned(),
        proof,
        local_prefix: "dynamic".to_owned(),
        remote_prefix: PREFIX_A.to_owned(),
        ike: "aes256gcm16-prfsha384-x25519".to_owned(),
        esp: "aes256gcm16-x25519".to_owned(),
    }
}

fn configuration(dataplane: &str, tunnel: &str) -> String {
    format!(
        "dataplane:
  workers: [1]
  polling: adaptive
{dataplane}  ports:
    lan: {{ interface: {INSIDE}, role: inside }}
    wan: {{ interface: {OUTSIDE}, role: outside }}
tunnels:
  {TUNNEL}:
    ike: {{ proposals: [aes256gcm16-sha384-x25519] }}
{tunnel}"
    )
}

/// Whether pings from this address of a namespace are answered.
fn pings(namespace: &Namespace, from: &str, to: impl Into<IpAddr>) -> bool {
    let to = to.into().to_string();
    let said = namespace.run(&["ping", "-n", "-W", "1", "-c", "1", "-I", from, &to]);
    said.is_ok_and(|said| said.status.success())
}

/// Who is connected: under which name, as whom, with which address.
fn clients(gateway: &Gateway<'_>) -> Vec<(String, String, String)> {
    let tunnels: Vec<Tunnel> = gateway.status().expect("status").tunnels;
    let clients = tunnels.into_iter().filter_map(|tunnel| {
        let address = tunnel.addresses.first()?.to_string();
        Some((tunnel.name, tunnel.identity?, address))
    });
    clients.collect()
}

#[test]
fn strongswan_comes_as_several_clients() {
    if !ready() {
        return;
    }
    if let Some(reason) = Version::Five.unavailable() {
        println!("SKIPPED: {reason}");
        return;
    }
    let bed = bed();
    let ((certificate, key), root) = certificate();
    for (name, text) in [
        ("gw.pem", certificate.as_str()),
        ("gw.key", &key),
        (
            "clients.users",
            "carol@example.org: secret\ndave@example.org: other\n",
        ),
    ] {
        write_file(&bed.gateway_a, name, text).expect("a file");
    }
    let tunnel = format!(
        "    local: {{ address: {OUTSIDE_A}, identity: {GATEWAY} }}
    remote: {{ address: any, identity: \"*@example.org\" }}
    authentication: {{ certificate: gw.pem, key: gw.key, eap: {{ users: clients.users }} }}
    pool: staff
    children:
      {CHILD}: {{ local: [{PREFIX_A}], remote: [{POOL}], proposals: [aes256gcm16-x25519] }}
pools:
  staff: {{ addresses: [{POOL}], fixed: [\"carol@example.org = {CAROLS}\"] }}
"
    );
    let yaml = configuration("", &tunnel);
    let config = write_config(&bed.gateway_a, &yaml, "none").expect("a configuration");
    let a = Gateway::run(&bed.gateway_a, &config, false, bed.log_dir()).expect("the gateway");
    let connections = [
        connection("carol", Proof::Eap(user("carol", "secret"))),
        connection("dave", Proof::Eap(user("dave", "other"))),
        connection("erin", Proof::Eap(user("erin", "guess"))),
    ];
    let credentials = Credentials {
        authorities: vec![("root".to_owned(), root)],
        ..Credentials::default()
    };
    let b = StrongSwan::start_all(
        Version::Five,
        &bed.gateway_b,
        &connections,
        &credentials,
        bed.log_dir(),
    )
    .expect("strongSwan");
    let connect = |name: &str| {
        let said = b.initiate_of(name);
        said.unwrap_or_else(|error| panic!("{name}: {error:#}\n{}", b.log()));
    };
    let carries = |from: &str, what: &str| {
        eventually(&format!("pings from {from}, {what}"), || {
            pings(&bed.gateway_b, from, HOST_A)
        });
    };

    connect("carol");
    connect("dave");
    let daves = "10.9.0.1";
    let client = |number: &str, name: &str, address: &str| {
        let name = format!("{name}@example.org");
        (format!("{TUNNEL}#{number}"), name, address.to_owned())
    };
    let both = [client("1", "carol", CAROLS), client("2", "dave", daves)];
    assert_eq!(clients(&a), both);
    carries(CAROLS, "of Carol");
    carries(daves, "of Dave");
    // A host behind the gateway reaches a client by its address.
    assert_eq!(
        bed.host_a
            .ping(CAROLS.parse::<IpAddr>().expect("an address"), 2)
            .expect("ping"),
        2
    );
    tell(&a, &["rekey", &format!("{TUNNEL}#1")]);
    carries(CAROLS, "rekeyed");

    let refused = b.initiate_of("erin");
    refused.expect_err("nobody knows her");
    let status = a.status().expect("status");
    let trouble = status.tunnels[0].trouble.clone().unwrap_or_default();
    assert!(
        trouble.contains("there is no user of this name"),
        "{trouble}"
    );

    // One leaves and comes back as who it was, and the other notices nothing.
    b.terminate_of("carol").expect("an end");
    eventually("Carol to be gone", || clients(&a).len() == 1);
    // What is left of a rekey still receives for some seconds.
    eventually("her address to be kept for her", || {
        let leases = a.command(&["leases"]).expect("leases").stdout;
        leases.contains(CAROLS) && leases.contains("kept for")
    });
    carries(daves, "alone");
    connect("carol");
    assert_eq!(clients(&a)[1], client("3", "carol", CAROLS));
    carries(CAROLS, "again");

    // A control plane that is killed leaves both their traffic, and its next life knows whose it is.
    let pid = a.status().expect("status").control_plane.pid;
    kill(pid);
    eventually("another control plane", || {
        a.status()
            .is_ok_and(|status| status.control_plane.pid != pid && status.tunnels.len() == 3)
    });
    carries(CAROLS, "in the next life");
    carries(daves, "in the next life");
    let leases = a.command(&["leases"]).expect("leases").stdout;
    assert!(!leases.contains("kept for"), "{leases}");
    a.stop().expect("an orderly end");
}

#[test]
fn strongswan_proves_by_tls_who_it_is() {
    if !ready() {
        return;
    }
    if let Some(reason) = Version::Five.unavailable() {
        println!("SKIPPED: {reason}");
        return;
    }
    let bed = bed();
    let root = Authority::new("root.example.org", None, 0);
    let issue = |name: &str, serial| {
        root.issue(&Leaf {
            algorithm: &PKCS_ECDSA_P256_SHA256,
            name,
            more_names: 0,
            serial,
        })
    };
    let ((certificate, key), (theirs, their_key)) =
        (issue(GATEWAY, 7), issue("carol.example.org", 8));
    for (name, text) in [
        ("gw.pem", &certificate),
        ("gw.key", &key),
        ("root.pem", &root.pem),
    ] {
        write_file(&bed.gateway_a, name, text).expect("a file");
    }
    let tunnel = format!(
        "    local: {{ address: {OUTSIDE_A}, identity: {GATEWAY} }}
    remote: {{ address: any, identity: \"*.example.org\" }}
    authentication: {{ certificate: gw.pem, key: gw.key, ca: root.pem, eap: {{ method: tls }} }}
    pool: staff
    children:
      {CHILD}: {{ local: [{PREFIX_A}], remote: [{POOL}], proposals: [aes256gcm16-x25519] }}
pools:
  staff: {{ addresses: [{POOL}] }}
"
    );
    let yaml = configuration("", &tunnel);
    let config = write_config(&bed.gateway_a, &yaml, "none").expect("a configuration");
    let a = Gateway::run(&bed.gateway_a, &config, false, bed.log_dir()).expect("the gateway");
    let connection = Connection {
        local_id: "carol.example.org".to_owned(),
        ..connection("carol", Proof::Tls("carol".to_owned()))
    };
    let credentials = Credentials {
        certificates: vec![("carol".to_owned(), theirs)],
        keys: vec![("carol".to_owned(), their_key)],
        authorities: vec![("root".to_owned(), root.pem.clone())],
        lists: Vec::new(),
    };
    let b = StrongSwan::start_all(
        Version::Five,
        &bed.gateway_b,
        &[connection],
        &credentials,
        bed.log_dir(),
    )
    .expect("strongSwan");
    let said = b.initiate_of("carol");
    said.unwrap_or_else(|error| panic!("{error:#}\n{}", b.log()));
    let client = (
        format!("{TUNNEL}#1"),
        "carol.example.org".to_owned(),
        "10.9.0.1".to_owned(),
    );
    assert_eq!(clients(&a), [client]);
    eventually("pings", || pings(&bed.gateway_b, "10.9.0.1", HOST_A));
    a.stop().expect("an orderly end");
}

#[test]
fn strongswan_gives_us_an_address() {
    if !ready() {
        return;
    }
    if let Some(reason) = Version::Five.unavailable() {
        println!("SKIPPED: {reason}");
        return;
    }
    let bed = bed();
    let ((certificate, key), root) = certificate();
    for (name, text) in [("root.pem", root.as_str()), ("carol.password", "secret\n")] {
        write_file(&bed.gateway_a, name, text).expect("a file");
    }
    let pool = Proof::Pool("gw".to_owned(), user("carol", "secret"), POOL.to_owned());
    let connection = Connection {
        local_id: GATEWAY.to_owned(),
        remote_id: "%any".to_owned(),
        local_prefix: PREFIX_B.to_owned(),
        remote_prefix: "dynamic".to_owned(),
        ..connection("carol", pool)
    };
    let credentials = Credentials {
        certificates: vec![("gw".to_owned(), certificate)],
        keys: vec![("gw".to_owned(), key)],
        authorities: vec![("root".to_owned(), root)],
        lists: Vec::new(),
    };
    let b = StrongSwan::start_all(
        Version::Five,
        &bed.gateway_b,
        &[connection],
        &credentials,
        bed.log_dir(),
    )
    .expect("strongSwan");
    let tunnel = format!(
        "    local: {{ address: {OUTSIDE_A}, request: ipv4 }}
    remote: {{ address: {OUTSIDE_B}, identity: {GATEWAY} }}
    authentication: {{ ca: root.pem, eap: {{ identity: carol@example.org, password: {{ file: carol.password }} }} }}
    children:
      {CHILD}: {{ local: [{POOL}], remote: [{PREFIX_B}], proposals: [aes256gcm16-x25519] }}
"
    );
    let yaml = configuration("  tap: esp0\n", &tunnel);
    let config = write_config(&bed.gateway_a, &yaml, "none").expect("a configuration");
    let a = Gateway::run(&bed.gateway_a, &config, false, bed.log_dir()).expect("the gateway");
    let up = a.wait_until_up(UP);
    up.unwrap_or_else(|error| panic!("{error:#}\n{}", b.log()));
    let given = a.status().expect("status").tunnels[0].addresses.clone();
    assert_eq!(given.len(), 1, "{given:?}");
    let ours = given[0].to_string();
    eventually("pings from the address that we were given", || {
        pings(&bed.gateway_a, &ours, HOST_B)
    });
    // It goes with the tunnel.
    tell(&a, &["terminate", TUNNEL]);
    eventually("the address to be gone", || {
        let said = bed.gateway_a.run(&["ip", "addr", "show", "dev", "esp0"]);
        said.is_ok_and(|said| !said.stdout.contains(&ours))
    });
    a.stop().expect("an orderly end");
}
