//! Mistakes in what gateways have for clients, pools and EAP: each is told with its nature and its remedy, and no secret is.

#![forbid(unsafe_code)]

mod common;

use common::{minimal, parse};

/// A gateway for clients with a pool, after a replacement; its only problem.
#[track_caller]
fn expect_of_pool(from: &str, to: &str, what: &str, help: &str) {
    let text = minimal()
        .replace(
            "remote: { address: 192.0.2.2 }",
            "remote: { address: any, identity: \"*@example.org\" }\n    pool: staff",
        )
        .replace("[10.2.0.0/16]", "[10.9.0.0/16]")
        + "pools:\n  staff: { addresses: [10.9.0.0/24], fixed: [\"carol@example.org = 10.9.1.5\"] }\n";
    parse(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(text.contains(from), "{from}");
    let problems = parse(&text.replacen(from, to, 1)).expect_err(to);
    let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{}", words.join("\n"));
    assert!(problems[0].what.contains(what), "{}", problems[0]);
    let told = problems[0].help.as_deref().unwrap_or_default();
    assert!(told.contains(help), "{}", problems[0]);
}

#[test]
fn a_pool_is_given_out_once_and_to_clients() {
    let one = "staff: { addresses: [10.9.0.0/24]";
    expect_of_pool(
        "pool: staff",
        "pool: stuff",
        "there is no pool `stuff`",
        "`staff`",
    );
    let twice = "guests: { addresses: [10.9.0.9-10.9.0.20] }\n  staff: { addresses: [10.9.0.0/24]";
    expect_of_pool(one, twice, "in the pool `guests`, too", "once");
    let twice = "staff: { addresses: [10.9.0.0/24, 10.9.0.7/32]";
    expect_of_pool(one, twice, "in the pool already", "once");
    let wrong = "staff: { addresses: [10.9.0.9-10.9.0.1]";
    expect_of_pool(one, wrong, "is no range", "`10.9.0.10-10.9.0.99`");
    expect_of_pool(
        "[10.9.0.0/16]",
        "[10.8.0.0/16]",
        "no address of the pool `staff`",
        "the pool's prefixes",
    );
    expect_of_pool(
        "= 10.9.1.5",
        "10.9.1.5",
        "gives nobody an address",
        "`carol@example.org = 10.9.0.5`",
    );
    expect_of_pool(
        "carol@example",
        "*@example",
        "is not one identity",
        "`carol@example.org",
    );
    let both = "1.5\", \"dave@example.org = 10.9.1.5";
    expect_of_pool("1.5", both, "is carol@example.org's already", "of its own");
    let fixed = |pool: &str| {
        let guests = format!("guests: {{ addresses: [10.9.7.0/24], {pool} }}\n  ");
        guests + one
    };
    let theirs = fixed("fixed: [\"dave@example.org = 10.9.0.7\"]");
    expect_of_pool(one, &theirs, "10.9.0.7 is in the pool `staff`, too", "once");
    let twice = fixed("fixed: [\"dave@example.org = 10.9.1.5\"]");
    expect_of_pool(one, &twice, "10.9.1.5 is in the pool `guests`, too", "once");
    let both = "1.5\", \"carol@example.org = 10.9.1.6";
    expect_of_pool(
        "1.5",
        both,
        "has an address of this family already",
        "one address of each family",
    );
}

const SERVER: &str =
    "authentication: { certificate: gw.pem, key: gw.key, eap: { users: good.users } }";
const CLIENT: &str =
    "authentication: { ca: ca.pem, eap: { identity: carol, password: { file: carol.password } } }";

/// A gateway, or a client, with EAP, after a replacement; its only problem, which tells no secret.
#[track_caller]
fn expect_of_eap(authentication: &str, from: &str, to: &str, what: &str, help: &str) {
    let psk = "authentication: { psk: { file: good.psk } }";
    let text = minimal().replace(psk, authentication);
    let text = if authentication == SERVER {
        text.replace(
            "local: { address: 192.0.2.1 }",
            "local: { address: 192.0.2.1, identity: gw-a.example.org }",
        )
        .replace(
            "remote: { address: 192.0.2.2 }",
            "remote: { address: any, identity: any }",
        )
    } else {
        text
    };
    parse(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(text.contains(from), "{from}");
    let problems = parse(&text.replacen(from, to, 1)).expect_err(to);
    let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{}", words.join("\n"));
    assert!(problems[0].what.contains(what), "{}", problems[0]);
    let told = problems[0].help.as_deref().unwrap_or_default();
    assert!(told.contains(help), "{}", problems[0]);
    assert!(!words[0].contains("hunter"), "{}", words[0]);
}

#[test]
fn eap_is_a_gateways_with_users_or_a_clients_with_a_password() {
    for (from, to, what, help) in [
        (
            "users: good.users",
            "{}",
            "nothing says whom we know",
            "a gateway needs",
        ),
        (
            "users: good.users",
            "users: good.users, password: { file: carol.password }",
            "a client has a `password`",
            "one of the two",
        ),
        ("key: gw.key, ", "", "`key` is missing", "`key: gw.key`"),
        (
            "key: gw.key",
            "key: gw.key, ca: ca.pem",
            "`ca` is for certificates",
            "leave it out",
        ),
        (
            "key: gw.key",
            "key: gw.key, psk: { file: good.psk }",
            "does not go with EAP",
            "leave `psk` out",
        ),
        ("good.users", "none.users", "none.users does not exist", ""),
        (
            "good.users",
            "open.users",
            "the file of users is open to others",
            "chmod 600",
        ),
        (
            "good.users",
            "twice.users",
            "line 2: this user is there already",
            "in each line",
        ),
        (
            "good.users",
            "bare.users",
            "line 2: there is no colon in it",
            "in each line",
        ),
        (
            "address: any, identity: any",
            "address: 192.0.2.2",
            "come from anywhere, and this peer has an address",
            "`address: any`",
        ),
        (
            "gw-a.example.org",
            "gw-b.example.org",
            "our certificate does not say that we are",
            "as `identity`",
        ),
    ] {
        let to = if to == "{}" { "" } else { to };
        expect_of_eap(SERVER, from, to, what, help);
    }
    for (from, to, what, help) in [
        ("ca: ca.pem, ", "", "`ca` is missing", "`ca: ca.pem`"),
        (
            "ca: ca.pem",
            "ca: ca.pem, certificate: gw.pem",
            "`certificate` is for certificates",
            "leave it out",
        ),
        (
            "carol.password",
            "long.password",
            "the password has several lines",
            "one line",
        ),
        (
            "address: 192.0.2.2",
            "address: any, identity: gw",
            "has to call",
            "the gateway's address",
        ),
    ] {
        expect_of_eap(CLIENT, from, to, what, help);
    }
}

/// Both clients knock at one door, and only the second round tells who they are.
#[test]
fn clients_of_one_address_prove_who_they_are_in_one_way() {
    let tunnel = |name: &str, identity: &str, ours: &str, eap: &str, prefix: &str| {
        format!(
            "  {name}:
    local: {{ address: 192.0.2.1, identity: {ours} }}
    remote: {{ address: any, identity: \"{identity}\" }}
    authentication: {{ certificate: gw.pem, key: gw.key, {eap} }}
    children: {{ lan: {{ local: [10.1.0.0/16], remote: [{prefix}] }} }}
"
        )
    };
    let (all, own) = (minimal(), "gw-a.example.org");
    let dataplane = all.split("  site-b:").next().unwrap();
    let staff = tunnel(
        "staff",
        "*@example.org",
        own,
        "eap: { users: good.users }",
        "10.9.0.0/24",
    );
    let guests = |eap: &str| tunnel("guests", "*.example.org", own, eap, "10.9.1.0/24");
    let both = |eap: &str| format!("{dataplane}{staff}{}", guests(eap));
    parse(&both("eap: { users: good.users }")).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let tls = both("ca: ca.pem, eap: { method: tls }");
    let problems = parse(&tls).expect_err("two ways");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let what = "the clients of `staff` and `guests` find us at the same address";
    assert!(problems[0].what.contains(what), "{}", problems[0]);
    assert!(
        problems[0]
            .help
            .as_deref()
            .unwrap()
            .contains("the same `authentication` in both")
    );
    // What they agree on in the first round tells them apart, too.
    let mut apart = tls.clone();
    for (name, hash) in [("staff", "sha384"), ("guests", "sha256")] {
        let proposals =
            format!("  {name}:\n    ike: {{ proposals: [aes256gcm16-{hash}-x25519] }}\n");
        apart = apart.replace(&format!("  {name}:\n"), &proposals);
    }
    parse(&apart).unwrap_or_else(|problems| panic!("{problems:#?}"));
}
