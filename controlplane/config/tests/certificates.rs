//! Authentication by certificates: what is read, and what each mistake is told as.

#![forbid(unsafe_code)]

mod common;

use common::{minimal, parse};
use esplanade_config::{Authentication, Identity, Problem};

const CERTIFICATES: &str = "{ certificate: gw.pem, key: gw.key, ca: ca.pem }";

/// The minimal configuration with this authentication, and these words behind our address and the peer's.
fn with(authentication: &str, ours: &str, theirs: &str) -> String {
    minimal()
        .replacen("{ psk: { file: good.psk } }", authentication, 1)
        .replacen("192.0.2.1 }", &format!("192.0.2.1{ours} }}"), 1)
        .replacen("192.0.2.2 }", &format!("192.0.2.2{theirs} }}"), 1)
}

fn named(authentication: &str) -> String {
    with(
        authentication,
        ", identity: gw-a.example.org",
        ", identity: gw-b.example.org",
    )
}

#[track_caller]
fn expect(text: &str, what: &str, help: &str) {
    let problems = parse(text).expect_err(what);
    let words = problems.iter().map(Problem::to_string);
    let words: Vec<String> = words.collect();
    let said = |problem: &Problem| {
        problem.what.contains(what) && problem.help.as_deref().unwrap_or_default().contains(help)
    };
    assert_eq!(problems.len(), 1, "{}", words.join("\n"));
    assert!(problems.iter().all(said), "{}", words.join("\n"));
    assert!(problems.iter().all(|problem| problem.place.is_some()));
}

#[test]
fn names_and_subjects_of_our_certificate_are_ours() {
    for ours in [
        ", identity: gw-a.example.org",
        ", identity: \"O=Example, CN=gw-a\"",
    ] {
        let text = with(CERTIFICATES, ours, ", identity: \"O=Example, CN=*\"");
        let config = parse(&text).expect("a configuration");
        let tunnel = &config.tunnels[0];
        let Authentication::Certificate { ours, trust } = &tunnel.authentication else {
            panic!("{:?}", tunnel.authentication);
        };
        assert_eq!((ours.chain().len(), trust.authorities().len()), (1, 1));
        assert!(matches!(&tunnel.remote_identity, Identity::Dn(name) if name.is_pattern()));
    }
}

#[test]
fn one_method_and_all_of_it() {
    expect(
        &named("{ psk: { file: good.psk }, ca: ca.pem }"),
        "`ca` does not go with a pre-shared key",
        "keep `psk`, or the certificates",
    );
    expect(
        &named("{}"),
        "nothing says how the two ends prove who they are",
        "`certificate`, `key` and `ca`",
    );
    expect(
        &named("{ certificate: gw.pem, key: gw.key }"),
        "`ca` is missing",
        "`ca: ca.pem`",
    );
    expect(
        &named("{ certificate: gw.pem, key: gw.key, ca: ca.pem, crl-policy: strict }"),
        "`crl-policy: strict` without a list refuses every peer",
        "`crl: ca.crl`",
    );
}

#[test]
fn files_that_do_not_serve() {
    expect(
        &named("{ certificate: gw.pem, key: none.key, ca: ca.pem }"),
        "the file /etc/esplanade/none.key does not exist",
        "",
    );
    expect(
        &named("{ certificate: gw.pem, key: open.key, ca: ca.pem }"),
        "the private key",
        "chmod",
    );
    expect(
        &named("{ certificate: gw.pem, key: other.key, ca: ca.pem }"),
        "",
        "the key that the certificate was made for",
    );
    expect(
        &named("{ certificate: gw.key, key: gw.key, ca: ca.pem }"),
        "our certificate cannot be used",
        "whose first section is our certificate",
    );
    expect(
        &named("{ certificate: gw.pem, key: gw.key, ca: gw.pem }"),
        "/etc/esplanade/gw.pem cannot be used",
        "not the peer",
    );
}

#[test]
fn identities_that_no_certificate_bears_out() {
    expect(
        &with(
            CERTIFICATES,
            ", identity: gw-c.example.org",
            ", identity: gw-b.example.org",
        ),
        "our certificate does not say that we are `gw-c.example.org`",
        "gw-a.example.org",
    );
    expect(
        &with(
            CERTIFICATES,
            ", identity: gw-a.example.org",
            ", identity: \"keyid:b\"",
        ),
        "no certificate can say that a peer is `keyid:b`",
        "the whole subject",
    );
}
