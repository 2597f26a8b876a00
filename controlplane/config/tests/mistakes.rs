//! Every mistake is told with its place, its nature and its remedy.

#![forbid(unsafe_code)]

mod common;

use common::{minimal, parse};
use esplanade_config::{Families, Problem, Severity};

/// The only problem of the minimal configuration after a replacement.
fn only_problem(from: &str, to: &str) -> Problem {
    let text = minimal();
    assert!(text.contains(from), "{from}");
    let mut problems = parse(&text.replacen(from, to, 1)).expect_err(to);
    let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{}", words.join("\n"));
    problems.remove(0)
}

#[track_caller]
fn expect(from: &str, to: &str, place: (u32, u32), what: &str, help: &str) {
    let problem = only_problem(from, to);
    let found = problem.place.map(|place| (place.line, place.column));
    assert_eq!(found, Some(place), "{problem}");
    assert!(problem.what.contains(what), "{problem}");
    assert!(
        problem.help.as_deref().unwrap_or_default().contains(help),
        "{problem}"
    );
}

#[test]
fn unknown_keys_suggest_the_nearest_known() {
    expect(
        "dataplane:\n",
        "dataplane:\n  pollling: busy\n",
        (2, 3),
        "unknown key `pollling`",
        "`polling`",
    );
    expect(
        "children:\n",
        "chidren: {}\n    children:\n",
        (10, 5),
        "unknown key `chidren`",
        "`children`",
    );
    expect(
        "        local: [",
        "        zzz: 1\n        local: [",
        (12, 9),
        "unknown key `zzz`",
        "the keys local, remote",
    );
}

#[test]
fn patterns_and_policies_are_for_peers_that_come_from_anywhere() {
    expect(
        "local: { address: 192.0.2.1 }",
        "local: { address: 192.0.2.1, identity: \"*.example.org\" }",
        (7, 44),
        "a pattern cannot be who we say we are",
        "write one identity",
    );
    expect(
        "    children:\n",
        "    unique: 2\n    children:\n",
        (10, 5),
        "`unique` is for peers that come from anywhere",
        "`address: any`",
    );
    expect(
        "    children:\n",
        "    unique: sometimes\n    children:\n",
        (10, 13),
        "`sometimes` is no such policy",
        "`replace`, `keep`, `never`",
    );
}

#[test]
fn a_pool_that_is_nowhere_is_shown_how_to_be_written() {
    expect(
        "    children:\n",
        "    pool: staff\n    children:\n",
        (10, 5),
        "there is no pool `staff`",
        "`pools: { staff: ",
    );
}

#[test]
fn only_who_calls_asks_for_an_address_and_has_a_tap_for_it() {
    expect(
        "local: { address: 192.0.2.1 }",
        "local: { address: 192.0.2.1, request: ipv4 }",
        (6, 3),
        "it has no TAP",
        "`tap: esp0`",
    );
    let text = minimal()
        .replace("dataplane:\n", "dataplane:\n  tap: esp0\n")
        .replace(
            "local: { address: 192.0.2.1 }",
            "local: { address: 192.0.2.1, request: both }",
        );
    let called = text.replace("address: 192.0.2.2", "address: any, identity: b");
    let problems = parse(&called).unwrap_err();
    assert!(
        problems[0].what.contains("who is called asks for nothing"),
        "{problems:#?}"
    );
    assert_eq!(
        parse(&text).unwrap().tunnels[0].request,
        Some(Families::Both)
    );
}

#[test]
fn words_of_strongswan_and_libreswan_lead_to_ours() {
    for (theirs, ours) in [
        ("rekey_time", "rekey"),
        ("esp_proposals", "proposals"),
        ("life_time", "lifetime"),
        ("auto", "start"),
    ] {
        let more = format!("        {theirs}: x\n        local: [");
        expect(
            "        local: [",
            &more,
            (12, 9),
            theirs,
            &format!("`{ours}`"),
        );
    }
}

#[test]
fn modes_that_cannot_be_are_explained() {
    let line = "        local: [";
    let (first, what) = (
        "        mode: transport\n        local: [",
        "between the two gateways only",
    );
    expect(line, first, (14, 18), what, "192.0.2.1/32");
    let hosts = "local: [192.0.2.1/32]\n        remote: [192.0.2.2/32]\n        mode: transport";
    let text = minimal();
    let child = text.find("        local: [").unwrap();
    let text = format!("{}        {hosts}\n", &text[..child]);
    let problems = parse(&text).expect_err("there is no TAP");
    let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{words:?}");
    assert!(problems[0].what.contains("it has no TAP"), "{words:?}");
    assert!(problems[0].help.as_deref().unwrap().contains("tap: esp0"));
    let with_tap = text.replacen("dataplane:\n", "dataplane:\n  tap: esp0\n", 1);
    assert!(parse(&with_tap).is_ok());
    // Tunnel mode between the gateways themselves needs it too, or IKE would be sent into its own tunnel.
    let tunnel = text.replacen("mode: transport", "mode: tunnel", 1);
    assert!(parse(&tunnel).is_err());
    assert!(parse(&with_tap.replacen("mode: transport", "mode: tunnel", 1)).is_ok());

    let taken = minimal().replacen("dataplane:\n", "dataplane:\n  tap: eth1\n", 1);
    let problems = parse(&taken).expect_err("eth1 is a port");
    assert!(
        problems[0].what.contains("eth1 is the port"),
        "{}",
        problems[0]
    );
}

#[test]
fn what_ah_and_padding_cannot_do_is_explained() {
    let line = "        local: [";
    let ah = |more: &str| format!("        protocol: ah\n        {more}\n        local: [");
    expect(
        line,
        &ah("proposals: [aes256gcm16]"),
        (13, 21),
        "unknown algorithm `aes256gcm16`",
        "sha256",
    );
    expect(
        line,
        &ah("proposals: [x25519]"),
        (13, 21),
        "lacks its integrity",
        "`sha256-x25519`",
    );
    expect(
        line,
        &ah("tfc: { size: mtu }"),
        (13, 9),
        "only ESP in tunnel mode",
        "`protocol: esp`",
    );
    let tfc = "        tfc: { size: 12 }\n        local: [";
    expect(line, tfc, (12, 22), "12", "`mtu`");
}

#[test]
fn what_is_missing_is_told_where_it_belongs() {
    expect(
        "address: 192.0.2.2",
        "identity: x",
        (8, 5),
        "lacks `address`",
        "address: 192.0.2.2",
    );
    expect(
        "        remote: [10.2.0.0/16]\n",
        "",
        (11, 7),
        "a child lacks `remote`",
        "[10.2.0.0/16]",
    );
    expect("{ file: good.psk }", "{}", (9, 23), "not given", "file:");
    expect(
        ", role: inside",
        "",
        (3, 5),
        "a port lacks `role`",
        "inside` or `outside",
    );
}

#[test]
fn checksums_that_are_neither_are_explained() {
    expect(
        ", role: inside",
        ", role: inside, checksums: some",
        (3, 54),
        "not known",
        "`partial`",
    );
}

#[test]
fn code_points_and_fragments_that_cannot_be_are_explained() {
    let line = "        local: [";
    let with = |more: &str| format!("        {more}\n        local: [");
    expect(
        line,
        &with("dscp: af51"),
        (12, 15),
        "no DSCP",
        "`af11` to `af43`",
    );
    expect(
        line,
        &with("copy-dscp: off"),
        (12, 9),
        "copy-dscp",
        "`dscp`",
    );
    expect(line, &with("fragment: never"), (12, 19), "never", "`after`");
    for mode in [
        "protocol: ah",
        "mode: transport-if-possible",
        "tfc: { size: mtu }",
    ] {
        let text = minimal().replacen(line, &with(&format!("fragment: after\n        {mode}")), 1);
        let problems = parse(&text).expect_err(mode);
        let what = "only ESP in tunnel mode, without `tfc`";
        assert!(
            problems.iter().any(|problem| problem.what.contains(what)),
            "{mode}: {problems:?}"
        );
    }
}

#[test]
fn paths_narrower_than_paths_are() {
    let line = "        local: [";
    let with = |mtu: &str| format!("        path-mtu: {mtu}\n        local: [");
    expect(line, &with("500"), (12, 19), "500", "576");
    let six = minimal()
        .replace("192.0.2.", "2001:db8:ff::")
        .replacen(line, &with("1279"), 1);
    let problems = parse(&six).expect_err("IPv6 carries more");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].what.contains("1279 is less than"));
    assert!(parse(&six.replacen("1279", "1280", 1)).is_ok());
}

#[test]
fn prefixes_and_selectors() {
    expect(
        "10.1.0.0/16",
        "10.1.2.3/16",
        (12, 17),
        "bits set behind",
        "`10.1.0.0/16`",
    );
    expect(
        "[10.1.0.0/16]",
        "[10.1.0.0/16, 'fe80::/64']",
        (12, 30),
        "never leaves its link",
        "unique local",
    );
    expect(
        "[10.1.0.0/16]",
        "['2001:db8:1:2::3/48']",
        (12, 17),
        "bits set behind",
        "`2001:db8:1::/48`",
    );
    expect("[10.1.0.0/16]", "[]", (12, 9), "empty", "local:");
    expect(
        "[10.1.0.0/16]",
        "'10.1.0.0/16[tpc]'",
        (12, 16),
        "no protocol",
        "tcp",
    );
    expect("[10.1.0.0/16]", "{ a: b }", (12, 16), "expected a list", "");
}

#[test]
fn families_that_do_not_go_together() {
    expect(
        "192.0.2.2",
        "'2001:db8::2'",
        (8, 24),
        "the peer's address is IPv6, and ours, 192.0.2.1, is IPv4",
        "one family",
    );
    expect(
        "[10.1.0.0/16]",
        "[10.1.0.0/16, '2001:db8:1::/48']",
        (13, 18),
        "2001:db8:1::/48 is IPv6, and the other side of the child has nothing of it",
        "the same families",
    );
    expect(
        "[10.2.0.0/16]",
        "['::/0']",
        (13, 18),
        "10.1.0.0/16 is IPv4, and the other side",
        "leave this one out",
    );
    for (address, what, help) in [
        ("'fe80::1'", "never leaves its link", "global"),
        ("'::ffff:192.0.2.1'", "IPv4 in the clothes", "`192.0.2.1`"),
        ("'ff02::1'", "cannot be a gateway's", "unicast"),
        ("'::1'", "cannot be a gateway's", "unicast"),
        ("gw-a", "no IP address", "2001:db8::1"),
    ] {
        expect("192.0.2.1", address, (7, 23), what, help);
    }
}

#[test]
fn ciphers_that_encrypt_nothing_are_warned_of() {
    for (proposal, warned) in [
        ("null-sha256", true),
        ("aes128gmac", true),
        ("aes256", false),
    ] {
        let integrity = if warned { "" } else { "-sha256" };
        let more = format!("        proposals: [{proposal}{integrity}]\n        local: [");
        let config = parse(&minimal().replacen("        local: [", &more, 1)).unwrap();
        let words: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let found = words.iter().any(|words| words.contains("encrypts nothing"));
        assert_eq!(found, warned, "{words:?}");
    }
}

#[test]
fn algorithms() {
    let more = "        proposals: [aes256gmc16]\n        local: [";
    expect(
        "        local: [",
        more,
        (12, 21),
        "unknown algorithm `aes256gmc16`",
        "did you mean `aes256gcm16`?",
    );
    let more = "        proposals: [3des]\n        local: [";
    expect(
        "        local: [",
        more,
        (12, 21),
        "unknown algorithm `3des`",
        "aes256gcm16, aes192gcm16, aes128gcm16, chacha20poly1305",
    );
    let more = "        proposals: [aes128gcm16-sha256]\n        local: [";
    expect(
        "        local: [",
        more,
        (12, 21),
        "`aes128gcm16` authenticates by itself",
        "leave `sha256` out",
    );
    let more = "    ike: { proposals: [aes256-x25519] }\n    children";
    expect(
        "    children",
        more,
        (10, 24),
        "lacks its integrity, which `aes256` needs",
        "aes256-sha256-x25519",
    );
}

#[test]
fn limits() {
    for (key, value, what, help) in [
        ("replay-window", "16", "too small", "32 to 65536"),
        ("replay-window", "65537", "too large", "32 to 65536"),
        ("rekey", "1s", "too short", "5s"),
        ("rekey", "4 hours", "no duration", "4h"),
        ("rekey-bytes", "50G", "no amount", "50GiB"),
        ("start", "always", "not known", "`at-once` or `wait`"),
        ("esn", "maybe", "not known", "`require`"),
        ("dscp", "maybe", "no DSCP", "`copy`"),
    ] {
        let more = format!("        {key}: {value}\n        local: [");
        expect(
            "        local: [",
            &more,
            (12, u32::try_from(11 + key.len()).unwrap()),
            what,
            help,
        );
    }
    let more = "        rekey: 1h\n        lifetime: 50m\n        local: [";
    expect(
        "        local: [",
        more,
        (13, 19),
        "would end before",
        "a tenth",
    );
}

#[test]
fn ports_and_workers() {
    expect(
        "role: inside",
        "role: outside",
        (2, 3),
        "no port has the role inside",
        "role: inside",
    );
    expect(
        "eth2",
        "eth1",
        (4, 23),
        "is the port `lan` already",
        "of its own",
    );
    expect(
        "interface: eth2",
        "interface: enp65s0f0np0, vlan: 4000",
        (4, 43),
        "too long for an interface",
        "device: vlan100",
    );
    expect(
        "interface: eth2",
        "interface: eth2, vlan: 4095",
        (4, 35),
        "too large",
        "4094",
    );
    expect(
        "interface: eth2",
        "interface: eth2, device: eth3",
        (4, 37),
        "no VLAN has no other device",
        "vlan: 100",
    );
    expect(
        "interface: eth2",
        "interface: eth2, vlan: 7, device: eth1",
        (4, 23),
        "the interface eth1 is the port `lan` already",
        "a VLAN of one",
    );
    expect(
        "eth2",
        "a-name-that-is-far-too-long",
        (4, 23),
        "no name of an interface",
        "ip link",
    );
    expect(
        "  ports:\n",
        "  workers: 1\n  ports:\n",
        (2, 12),
        "a number of workers",
        "[1]",
    );
    expect(
        "  ports:\n",
        "  workers: [1, 0-2]\n  ports:\n",
        (2, 16),
        "core 1 has a worker",
        "of its own",
    );
    expect(
        "  ports:\n",
        "  ring-frames: 1000\n  ports:\n",
        (2, 16),
        "no power of two",
        "512 and 1024",
    );
    expect(
        "  ports:\n",
        "  sa-capacity: 64\n  engine: fast\n  ports:\n",
        (3, 11),
        "`fast`",
        "portable",
    );
}

#[test]
fn secrets() {
    expect(
        "good.psk",
        "open.psk",
        (9, 36),
        "(mode 0644)",
        "chmod 600 /etc/esplanade/open.psk",
    );
    expect(
        "good.psk",
        "none.psk",
        (9, 36),
        "does not exist",
        "openssl rand -base64 32 > /etc/esplanade/none.psk",
    );
    let inline = only_problem("file: good.psk", "secret: hunter2hunter2hunter2");
    assert!(
        inline
            .to_string()
            .contains("chmod 600 /etc/esplanade/gw.yaml"),
        "{inline}"
    );
    assert!(!inline.to_string().contains("hunter2"), "{inline}");
    let short = parse(&minimal().replace("good.psk", "short.psk")).unwrap();
    assert_eq!(short.warnings[0].severity, Severity::Warning);
    assert!(
        short.warnings[0].what.contains("7 bytes"),
        "{}",
        short.warnings[0]
    );
}

const SECOND: &str = "  site-c:
    local: { address: 192.0.2.1 }
    remote: { address: 192.0.2.3 }
    authentication: { psk: { file: good.psk } }
    children:
      lan:
        local: [10.1.0.0/16]
        remote: [10.2.7.0/24]
";

#[test]
fn tunnels_at_odds() {
    let with_second = |text: &str| parse(&(minimal() + text));
    let problems = with_second(SECOND).unwrap_err();
    assert_eq!(problems.len(), 1);
    let words = problems[0].to_string();
    assert!(
        words.contains("gw.yaml:21:18")
            && words.contains("`site-c/lan`")
            && words.contains("line 13"),
        "{words}"
    );
    assert!(with_second(&format!("{SECOND}        priority: 10\n")).is_ok());
    let same_peer = SECOND
        .replace("192.0.2.3", "192.0.2.2")
        .replace("10.2.7.0", "10.3.0.0");
    let problems = with_second(&same_peer).unwrap_err();
    assert!(problems[0].what.contains("same peer"), "{}", problems[0]);
    expect(
        "  site-b:\n",
        "  site b:\n",
        (6, 3),
        "cannot be a name",
        "letters",
    );
    expect("192.0.2.2", "192.0.2.1", (8, 24), "both ends", "peer");
    expect(
        "192.0.2.2",
        "any",
        (8, 24),
        "needs an identity",
        "identity:",
    );
    let into_itself = parse(
        &minimal()
            .replace("10.1.0.0/16", "192.0.2.1")
            .replace("10.2.0.0/16", "0.0.0.0/0"),
    )
    .unwrap_err();
    assert!(
        into_itself[0].what.contains("into its own tunnel"),
        "{}",
        into_itself[0]
    );
}

#[test]
fn several_mistakes_are_told_in_one_go_and_in_order() {
    let text = minimal()
        .replace("eth1", "''")
        .replace("192.0.2.2", "nowhere")
        .replace("good.psk", "open.psk")
        .replace("10.2.0.0/16", "10.2.0.1/16");
    let problems = parse(&text).unwrap_err();
    let lines: Vec<u32> = problems
        .iter()
        .filter_map(|problem| problem.place.map(|place| place.line))
        .collect();
    assert_eq!(lines, [3, 8, 9, 13]);
}

#[test]
fn yaml_itself() {
    let twice = minimal().replace("tunnels:\n", "dataplane: {}\ntunnels:\n");
    let problems = parse(&twice).unwrap_err();
    assert!(
        problems[0].to_string().contains("gw.yaml:5:1") && problems[0].what.contains("second time"),
        "{}",
        problems[0]
    );
    for text in ["", "a", "- a", "dataplane: [", "\t", "dataplane: *x", "{}"] {
        let problems = parse(text).unwrap_err();
        assert!(
            problems.iter().all(|problem| problem.place.is_some()),
            "{text:?}"
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let problems =
        esplanade_config::Config::load(std::path::Path::new("/nowhere/gw.yaml")).unwrap_err();
    assert!(
        problems[0].to_string().contains("/nowhere/gw.yaml"),
        "{}",
        problems[0]
    );
}
