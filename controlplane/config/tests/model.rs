//! What a valid configuration means: defaults, examples, differences, and the schema that says the same.

#![forbid(unsafe_code)]

mod common;

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use common::{minimal, parse};
use esplanade_config::{
    Authentication, Config, EapClients, EapProof, Fragment, Identity, Mode, Polling, Role, Start,
    Tfc, TfcSize, Uniqueness, Vlan, diff, schema,
};

#[test]
fn only_interfaces_addresses_key_and_subnets_are_required() {
    let config = parse(&minimal()).unwrap();
    assert_eq!(config.dataplane.workers, [None]);
    assert_eq!(config.dataplane.polling, Polling::Busy);
    assert!(config.dataplane.guard);
    assert_eq!(config.dataplane.ports[1].role, Role::Outside);
    let tunnel = &config.tunnels[0];
    assert_eq!(
        tunnel.local_identity,
        Identity::Address(Ipv4Addr::new(192, 0, 2, 1).into())
    );
    let Authentication::Psk(psk) = &tunnel.authentication else {
        panic!("{:?}", tunnel.authentication);
    };
    assert_eq!(psk.expose(), b"correct horse battery staple");
    assert_eq!(tunnel.ike.lifetime.rekey, Duration::from_secs(4 * 3600));
    let child = &tunnel.children[0];
    assert_eq!((child.replay_window, child.start), (1024, Start::AtOnce));
    assert_eq!(child.lifetime.expire, Duration::from_secs(3960));
    let proposals: Vec<String> = child.proposals.iter().map(ToString::to_string).collect();
    assert_eq!(
        proposals[..2],
        ["aes256gcm16-x25519-esn", "aes256gcm16-x25519"]
    );
    assert!(config.warnings.is_empty());
}

#[test]
fn a_pool_is_ranges_of_hosts() {
    let text = minimal()
        + "pools:\n  staff:\n    addresses: [10.9.0.0/24, 10.8.0.5-10.8.0.7, \"2001:db8:9::/64\"]\n    dns: 10.1.0.53\n    networks: [10.1.0.0/16]\n    hold: 1h\n    fixed: [\"O=Example, CN=carol = 10.7.0.1\"]\n";
    let pool = parse(&text).unwrap().pools.remove(0);
    let range = |first: &str, last: &str| (first.parse().unwrap(), last.parse().unwrap());
    let ranges = [
        range("10.9.0.1", "10.9.0.254"),
        range("10.8.0.5", "10.8.0.7"),
        range("2001:db8:9::1", "2001:db8:9::ffff:ffff:ffff:ffff"),
    ];
    assert_eq!(
        (pool.name.as_str(), pool.ranges.as_slice()),
        ("staff", ranges.as_slice())
    );
    assert_eq!(pool.hold, Duration::from_secs(3600));
    assert_eq!(pool.networks.map(|networks| networks.len()), Some(1));
    let carol = Identity::Dn("O=Example, CN=carol".parse().unwrap());
    assert_eq!(pool.fixed, [(carol, "10.7.0.1".parse().unwrap())]);
    let changes = diff(&parse(&minimal()).unwrap(), &parse(&text).unwrap());
    assert_eq!(changes.to_string(), "pools changed");
}

#[test]
fn many_may_be_a_peer_that_comes_from_anywhere() {
    let many = |identity: &str, unique: &str| {
        let remote = format!("remote: {{ address: any, identity: \"{identity}\" }}");
        let text = minimal()
            .replace("remote: { address: 192.0.2.2 }", &remote)
            .replace(
                "    children:\n",
                &format!("    unique: {unique}\n    children:\n"),
            );
        let tunnel = parse(&text).unwrap().tunnels.remove(0);
        (tunnel.uniqueness, tunnel.admits_many())
    };
    assert_eq!(
        many("*@example.org", "replace"),
        (Uniqueness::Limit(1), true)
    );
    assert_eq!(many("*.example.org", "keep"), (Uniqueness::Keep, true));
    assert_eq!(many("C=CH, CN=*", "never"), (Uniqueness::Never, true));
    assert_eq!(many("b.example.org", "3"), (Uniqueness::Limit(3), true));
    assert_eq!(
        many("b.example.org", "replace"),
        (Uniqueness::Limit(1), false)
    );
}

#[test]
fn every_key_has_its_meaning() {
    let text = "
dataplane:
  workers: [2-3, 5]
  polling: adaptive
  guard: off
  engine: portable
  sa-capacity: 1_000
  ring-frames: 1024
  ports:
    lan: { interface: eth1, role: inside, mss-clamp: off, checksums: partial }
    dmz: { interface: eth1, vlan: 100, role: inside }
    far: { interface: enp65s0f0np0, vlan: 4094, device: vlan4094, role: inside }
    wan: { interface: eth2, role: outside, udp-checksum: off }
tunnels:
  road:
    local: { address: 192.0.2.1, identity: gw.example.org }
    remote: { address: any, identity: ann@example.org, port: 4500 }
    authentication: { psk: { file: good.psk } }
    ike: { proposals: aes128-sha256-modp2048, rekey: 1d, lifetime: 25h, dpd-delay: off, fragment-size: 576, keep-trying: no }
    children:
      web:
        local: 10.1.0.0/16[tcp/443]
        remote: [10.2.0.0/16, 10.3.0.0/16]
        proposals: [aes128gcm16-esn, aes256gcm16]
        esn: off
        rekey: 90s
        rekey-bytes: 1GiB
        lifetime-packets: 1000000
        replay-window: 64
        priority: 7
        dscp: cs1
        fragment: after
        df: clear
        path-mtu: 1400
";
    let config = parse(text).unwrap();
    assert_eq!(config.dataplane.workers, [Some(2), Some(3), Some(5)]);
    assert_eq!(
        (config.dataplane.sa_capacity, config.dataplane.ring_frames),
        (1000, 1024)
    );
    assert!(!config.dataplane.guard && !config.dataplane.ports[0].mss_clamp);
    let checksums = config.dataplane.ports.iter().map(|port| port.udp_checksum);
    assert!(checksums.eq([true, true, true, false]));
    let vlan = |carrier: &str, id| Vlan {
        carrier: carrier.to_owned(),
        id,
    };
    let vlans = [
        ("eth1", None),
        ("eth1.100", Some(vlan("eth1", 100))),
        ("vlan4094", Some(vlan("enp65s0f0np0", 4094))),
        ("eth2", None),
    ];
    let ports = config.dataplane.ports.iter();
    assert!(
        ports
            .map(|port| (port.interface.as_str(), port.vlan.clone()))
            .eq(vlans)
    );
    let partial = config
        .dataplane
        .ports
        .iter()
        .map(|port| port.partial_checksums);
    assert!(partial.eq([true, false, false, false]));
    let tunnel = &config.tunnels[0];
    assert_eq!(
        (tunnel.remote, tunnel.remote_port, tunnel.ike.dpd_delay),
        (None, 4500, None)
    );
    assert_eq!(tunnel.ike.fragment_size, 576);
    let child = &tunnel.children[0];
    assert_eq!((child.start, child.path_mtu), (Start::Wait, Some(1400)));
    assert_eq!((child.dscp, child.fragment), (Some(8), Fragment::After));
    assert_eq!(child.local[0].to_string(), "10.1.0.0/16[tcp/443]");
    assert_eq!(child.remote.len(), 2);
    let proposals: Vec<String> = child.proposals.iter().map(ToString::to_string).collect();
    assert_eq!(proposals, ["aes128gcm16-esn", "aes256gcm16"]);
    let required = parse(&text.replace("esn: off", "esn: true")).unwrap();
    assert!(
        required.tunnels[0].children[0]
            .proposals
            .iter()
            .all(|proposal| proposal.to_string().ends_with("-esn"))
    );
    assert_eq!(child.bytes.unwrap().expire, (1 << 30) + (1 << 30) / 10);
    assert_eq!(child.packets.unwrap().rekey, 900_000);
}

#[test]
fn ah_modes_and_padding_have_their_meaning() {
    let text = minimal().replacen("dataplane:\n", "dataplane:\n  tap: esp0\n", 1);
    let child = text.find("        local: [").unwrap();
    let with = |more: &str| {
        let text = format!(
            "{}        local: [192.0.2.1/32]\n        remote: [192.0.2.2/32]\n{more}",
            &text[..child]
        );
        parse(&text).unwrap()
    };
    let config = with("        protocol: ah\n        mode: transport-if-possible\n");
    let tap = config.dataplane.tap().unwrap();
    assert_eq!((tap.interface.as_str(), tap.role), ("esp0", Role::Host));
    assert_eq!(config.dataplane.ports.len(), 3);
    let child = &config.tunnels[0].children[0];
    assert_eq!(child.mode, Mode::TransportIfPossible);
    let proposals: Vec<String> = child.proposals.iter().map(ToString::to_string).collect();
    assert_eq!(proposals[..2], ["ah-sha256-x25519-esn", "ah-sha256-x25519"]);
    let config =
        with("        protocol: ah\n        proposals: [aes128gmac-esn, sha1]\n        esn: off\n");
    let proposals = config.tunnels[0].children[0].proposals.iter();
    let proposals: Vec<String> = proposals.map(ToString::to_string).collect();
    assert_eq!(proposals, ["ah-aes128gmac-esn", "ah-sha1"]);

    let config = with("        tfc: { size: 1200, multiple: 64, dummies: 10 }\n");
    let expected = Tfc {
        size: Some(TfcSize::Bytes(1200)),
        multiple: 64,
        dummies: 10,
    };
    assert_eq!(config.tunnels[0].children[0].tfc, expected);
    let config = with("        tfc: { size: mtu }\n");
    assert_eq!(config.tunnels[0].children[0].tfc.size, Some(TfcSize::Mtu));
    assert!(parse(&minimal()).unwrap().dataplane.tap().is_none());
}

/// The two gateways of the examples load once their key exists, and describe the two ends of the same tunnel.
#[test]
fn the_examples_are_two_ends_of_one_tunnel() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    let folder = tempfile::tempdir().unwrap();
    for name in ["site-a.yaml", "site-b.yaml"] {
        fs::copy(examples.join(name), folder.path().join(name)).unwrap();
    }
    let without_key = Config::load(&folder.path().join("site-a.yaml")).unwrap_err();
    assert_eq!(without_key.len(), 1, "{}", without_key[0]);
    let key = folder.path().join("sites.psk");
    fs::write(&key, "y4iZ0sNaxA8nRwYgHDKbWg6GmQbFz6GgyDiLk3o8pVE=\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let load = |name| {
        Config::load(&folder.path().join(name))
            .unwrap()
            .tunnels
            .remove(0)
    };
    let (a, b) = (load("site-a.yaml"), load("site-b.yaml"));
    assert_eq!((Some(a.local), a.remote), (b.remote, Some(b.local)));
    assert_eq!(
        (&a.local_identity, &a.remote_identity),
        (&b.remote_identity, &b.local_identity)
    );
    assert_eq!(
        (&a.children[0].local, &a.children[0].remote),
        (&b.children[0].remote, &b.children[0].local)
    );
    assert_eq!(
        (&a.authentication, &a.ike, &a.children[0].proposals),
        (&b.authentication, &b.ike, &b.children[0].proposals)
    );
}

/// Who is called serves, and who calls is a client.
#[test]
fn with_tls_both_ends_have_certificates() {
    let tls =
        "authentication: { certificate: gw.pem, key: gw.key, ca: ca.pem, eap: { method: tls } }";
    let text = minimal()
        .replace("authentication: { psk: { file: good.psk } }", tls)
        .replace(
            "local: { address: 192.0.2.1 }",
            "local: { address: 192.0.2.1, identity: gw-a.example.org }",
        );
    let client = parse(&text).unwrap().tunnels.remove(0).authentication;
    assert!(matches!(
        client,
        Authentication::EapClient {
            by: EapProof::Certificate(_),
            ..
        }
    ));
    let called = text.replace("address: 192.0.2.2", "address: any, identity: any");
    let server = parse(&called).unwrap().tunnels.remove(0).authentication;
    assert!(matches!(
        server,
        Authentication::EapServer {
            clients: EapClients::Certificates(_),
            ..
        }
    ));
    let wrong = |from: &str, to: &str| {
        parse(&called.replace(from, to)).unwrap_err()[0]
            .what
            .clone()
    };
    assert!(wrong(", ca: ca.pem", "").contains("`ca` is missing: with TLS both ends"));
    assert!(
        wrong("method: tls", "method: tls, users: good.users").contains("`users` is for MSCHAPv2")
    );
}

/// The gateway for clients loads once its certificate and its users exist.
#[test]
fn the_example_for_road_warriors_is_valid() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let example = here.join("../../deploy/examples/road-warriors.yaml");
    fs::copy(example, path("road-warriors.yaml")).unwrap();
    for name in ["gw.pem", "gw.key"] {
        fs::copy(here.join("tests/certificates").join(name), path(name)).unwrap();
    }
    fs::write(path("clients.users"), "carol@example.org: correct horse\n").unwrap();
    for name in ["gw.key", "clients.users"] {
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let config = Config::load(&path("road-warriors.yaml")).unwrap();
    let tunnel = &config.tunnels[0];
    let Authentication::EapServer { clients, .. } = &tunnel.authentication else {
        panic!("{:?}", tunnel.authentication);
    };
    assert!(matches!(clients, EapClients::Passwords(users) if users.len() == 1));
    assert!(!format!("{config:?}").contains("correct horse"));
    assert!(tunnel.admits_many());
    assert_eq!(tunnel.uniqueness, Uniqueness::Limit(2));
}

#[test]
fn a_reload_says_what_changes_and_what_must_be_restarted() {
    let old = parse(&minimal()).unwrap();
    assert!(diff(&old, &old.clone()).is_empty());
    let added = minimal().replace(
        "tunnels:\n",
        "tunnels:\n  site-c:\n    local: { address: 192.0.2.1 }\n    remote: { address: 192.0.2.3 }\n    authentication: { psk: { file: good.psk } }\n    children: { lan: { local: 10.1.0.0/16, remote: 10.3.0.0/16 } }\n",
    );
    let new = parse(
        &added
            .replace(
                "role: inside",
                "role: inside, mss-clamp: off, checksums: partial",
            )
            .replace("role: outside", "role: outside, udp-checksum: off")
            .replace("[10.2.0.0/16]", "[10.2.0.0/17]"),
    )
    .unwrap();
    let changes = diff(&old, &new);
    assert_eq!(changes.added, ["site-c"]);
    assert_eq!(
        (
            changes.changed[0].name.as_str(),
            &changes.changed[0].keys[..]
        ),
        ("site-b", &["children/lan".to_owned()][..])
    );
    assert_eq!(changes.mss_clamp, ["lan"]);
    assert_eq!(changes.udp_checksum, ["wan"]);
    assert_eq!(changes.partial_checksums, ["lan"]);
    assert!(changes.needs_restart.is_empty());
    assert_eq!(diff(&new, &old).removed, ["site-c"]);
    let rewired = parse(
        &minimal()
            .replace("eth1", "eth3")
            .replace("dataplane:\n", "dataplane:\n  guard: off\n"),
    )
    .unwrap();
    let changes = diff(&old, &rewired);
    assert_eq!(
        (changes.guard, &changes.needs_restart[..]),
        (Some(false), &["ports".to_owned()][..])
    );
    assert!(
        changes
            .to_string()
            .contains("needs a restart of the dataplane: ports"),
        "{changes}"
    );
}

#[test]
fn a_secret_is_in_no_debug_output() {
    let config = parse(&minimal()).unwrap();
    assert!(!format!("{config:?}").contains("horse"));
}

#[test]
fn the_schema_knows_every_level() {
    let schema = schema();
    let child = &schema["properties"]["tunnels"]["additionalProperties"]["properties"]["children"]
        ["additionalProperties"];
    assert_eq!(child["properties"]["replay-window"]["maximum"], 65_536);
    assert_eq!(child["required"], serde_json::json!(["local", "remote"]));
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn engines_are_read_as_they_are_shown() {
    for name in ["auto", "portable", "aws-lc-rs", "vaes256", "vaes512"] {
        let ports = "ports: { lan: { interface: eth1, role: inside }, wan: { interface: eth2, role: outside } }";
        let config = parse(&format!("dataplane:\n  engine: {name}\n  {ports}\n")).unwrap();
        let shown = config.dataplane.engine.map(|engine| engine.to_string());
        assert_eq!(shown.unwrap_or("auto".into()), name);
    }
}
