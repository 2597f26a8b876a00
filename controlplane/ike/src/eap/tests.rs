//! A server and a client that talk to each other, and others that say what they like.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn server() -> (Server, Vec<u8>) {
    let users = [("carol@example.org", "secret"), ("dave", "pässword")];
    let users: Users = users
        .into_iter()
        .map(|(name, password)| (name.to_owned(), Secret::from(password.as_bytes())))
        .collect();
    let (server, first) = Passwords::start(Arc::new(users), "gw".into(), [7; 16]);
    (Server::Passwords(server), first)
}

/// What both ends come to, and how many packets went.
fn talk(
    name: &str,
    password: &str,
) -> (
    Result<Secret, EapError>,
    Result<Authenticated, EapError>,
    usize,
) {
    let (mut server, mut packet) = server();
    let mut client = Client::with_password(name.to_owned(), Secret::from(password.as_bytes()));
    let (mut packets, mut told) = (1, None);
    loop {
        let response = match client.handle(&packet, [9; 16]).unwrap() {
            Answer::Response(response) => response,
            Answer::Success(_) => panic!("too early"),
        };
        packets += 2;
        let (last, authenticated) = match server.handle(&response) {
            Outcome::Request(request) => {
                packet = request;
                continue;
            }
            Outcome::Failing(request, why) => {
                (packet, told) = (request, Some(why));
                continue;
            }
            Outcome::Success(last, authenticated) => (last, Ok(authenticated)),
            Outcome::Failure(last, why) => (last, Err(why.or(told).unwrap())),
        };
        let client = client.handle(&last, [9; 16]).map(|answer| match answer {
            Answer::Success(msk) => msk,
            Answer::Response(_) => panic!("it is over"),
        });
        return (client, authenticated, packets);
    }
}

#[test]
fn both_ends_come_to_the_same_key() {
    let (client, server, packets) = talk("carol@example.org", "secret");
    let server = server.unwrap();
    assert_eq!(client.unwrap(), server.msk);
    assert_eq!(server.identity, "carol@example.org".parse().unwrap());
    assert_eq!(packets, 7);
    let (client, server, _) = talk("EXAMPLE\\dave", "pässword");
    let server = server.unwrap();
    assert_eq!(client.unwrap(), server.msk);
    // With whatever domain: it is one user, and one identity.
    assert_eq!(server.identity, "dave".parse().unwrap());
}

#[test]
fn a_wrong_password_and_an_unknown_name_are_told_apart_here_only() {
    let (client, server, _) = talk("carol@example.org", "Secret");
    assert_eq!(client.unwrap_err(), EapError::RefusedByServer);
    assert_eq!(server.unwrap_err(), EapError::WrongPassword);
    let (client, server, _) = talk("erin", "");
    assert_eq!(client.unwrap_err(), EapError::RefusedByServer);
    assert_eq!(server.unwrap_err(), EapError::UnknownUser);
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    let client = || Client::with_password("carol".into(), Secret::from(&b"secret"[..]));
    let early = client().handle(&Packet::end(SUCCESS, 1), [9; 16]);
    assert!(matches!(early, Err(EapError::WrongServer)));
    let mut client = client();
    let challenge = mschapv2::ServerMessage::Challenge {
        id: 1,
        challenge: [7; 16],
    };
    let request = Packet::write(REQUEST, 1, kind::MSCHAPV2, &challenge.write("gw"));
    assert!(client.handle(&request, [9; 16]).is_ok());
    let unproven = client.handle(&Packet::end(SUCCESS, 1), [9; 16]);
    assert!(matches!(unproven, Err(EapError::WrongServer)));
    let success = mschapv2::ServerMessage::Success {
        id: 1,
        response: "0".repeat(40),
    };
    let request = Packet::write(REQUEST, 2, kind::MSCHAPV2, &success.write("gw"));
    assert!(matches!(
        client.handle(&request, [9; 16]),
        Err(EapError::WrongServer)
    ));
}

#[test]
fn another_method_is_declined_and_said_so() {
    let mut client = Client::with_password("carol".into(), Secret::default());
    let Ok(Answer::Response(nak)) = client.handle(&[REQUEST, 3, 0, 6, 13, 0x20], [0; 16]) else {
        panic!("no answer");
    };
    assert_eq!(nak, [RESPONSE, 3, 0, 6, kind::NAK, kind::MSCHAPV2]);
    let (mut server, first) = server();
    let nak = Packet::write(RESPONSE, first[1], kind::NAK, &[13]);
    let refused = server.handle(&nak);
    assert!(matches!(
        refused,
        Outcome::Failure(_, Some(EapError::OtherMethod { method: 13 }))
    ));
    // It answers a request that never ends only so often.
    let endless = (0..=MOST).find_map(|_| client.handle(&[REQUEST, 3, 0, 5, 1], [0; 16]).err());
    assert_eq!(endless, Some(EapError::Unending));
}

proptest! {
    /// Nobody succeeds without the password, whatever is said.
    #[test]
    fn no_packets_but_the_right_ones_succeed(packets in vec(vec(any::<u8>(), 0..80), 1..6), answered: bool) {
        let (mut server, first) = server();
        let mut identifier = first[1];
        if answered {
            let Outcome::Request(challenge) = server.handle(&Packet::write(RESPONSE, identifier, kind::IDENTITY, b"dave")) else {
                panic!("no challenge");
            };
            identifier = challenge[1];
        }
        let mut client = Client::with_password("dave".into(), Secret::default());
        for mut packet in packets {
            let _ = client.handle(&packet, [0; 16]);
            let len = packet.len();
            if let [code, id, high, low, ..] = packet.as_mut_slice() {
                (*code, *id, *high, *low) = (RESPONSE, identifier, 0, len as u8);
            }
            match server.handle(&packet) {
                Outcome::Request(request) | Outcome::Failing(request, _) => identifier = request[1],
                Outcome::Success(..) => panic!("without a password"),
                Outcome::Failure(..) => break,
            }
        }
    }

    #[test]
    fn a_packet_reads_back(identifier: u8, kind: u8, data in vec(any::<u8>(), 0..60), padding in vec(any::<u8>(), 0..4)) {
        let written = [Packet::write(REQUEST, identifier, kind, &data), padding].concat();
        let read = Packet::read(&written).unwrap();
        prop_assert_eq!((read.code, read.identifier, read.kind, read.data), (REQUEST, identifier, kind, data.as_slice()));
    }
}

#[path = "../../../pki/tests/common/mod.rs"]
pub(super) mod pki;

/// Both ends of EAP-TLS.
fn tls_ends() -> (Server, Vec<u8>, Client) {
    let root = pki::authority("root", None);
    let trust = Arc::new(pki::trust(&[&root]));
    let ours = |name| {
        let (pem, key) = pki::Leaf::new(name).issue(&root);
        let padding = esplanade_pki::RsaPadding::Pss;
        let own = esplanade_pki::OwnCertificate::from_pem(pem.as_bytes(), key.as_bytes(), padding);
        Arc::new(own.unwrap())
    };
    let tls = Tls::server(&ours("gw.example.org"), &trust, pki::NOW).unwrap();
    let claimed = "carol.example.org".parse().unwrap();
    let (server, first) = Certificates::start(tls, claimed, 7);
    let tls = Tls::client(&ours("carol.example.org"), &trust, pki::NOW).unwrap();
    let client = Client::with_certificate("carol.example.org".into(), tls);
    (Server::Certificates(Box::new(server)), first, client)
}

#[test]
fn tls_comes_to_the_same_key_and_says_when_it_ends() {
    let (mut server, mut packet, mut client) = tls_ends();
    let (last, who) = loop {
        // RFC 9190 2.1.1: before the server has said that it says no more, a success is none.
        let early = Packet::end(SUCCESS, packet[1]);
        assert!(client.handle(&early, [0; 16]).is_err());
        let Ok(Answer::Response(response)) = client.handle(&packet, [0; 16]) else {
            panic!("no response");
        };
        match server.handle(&response) {
            Outcome::Request(request) => packet = request,
            Outcome::Success(last, who) => break (last, who),
            _ => panic!("a failure"),
        }
    };
    let Ok(Answer::Success(msk)) = client.handle(&last, [0; 16]) else {
        panic!("no success");
    };
    assert_eq!(msk, who.msk);
    assert_eq!(msk.expose().len(), 64);
    assert_eq!(who.identity, "carol.example.org".parse().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever a client says, it does not get in, and the server holds no more of it than a bound.
    #[test]
    fn no_octets_are_a_handshake_of_tls(packets in vec((0..=0xff_u8, vec(any::<u8>(), 0..200)), 1..20)) {
        let (mut server, first, mut client) = tls_ends();
        let mut identifier = first[1];
        for (flags, data) in packets {
            let data = [&[flags], data.as_slice()].concat();
            let _ = client.handle(&Packet::write(REQUEST, 1, kind::TLS, &data), [0; 16]);
            match server.handle(&Packet::write(RESPONSE, identifier, kind::TLS, &data)) {
                Outcome::Request(request) | Outcome::Failing(request, _) => identifier = request[1],
                Outcome::Success(..) => panic!("without a certificate"),
                Outcome::Failure(..) => break,
            }
        }
    }
}

/// A certificate that says `*` makes nobody everybody.
#[test]
fn nobody_is_a_pattern() {
    let root = pki::authority("root", None);
    let (pem, key) = pki::Leaf::new("*.example.org").issue(&root);
    let own = pki::own(&[&pem], &key);
    let certificate = own.chain().first().unwrap();
    let is_in = |who: &str| who.parse::<Identity>().unwrap().is_in(certificate);
    assert!(certificate.has_domain("*.example.org") && !is_in("*.example.org"));
    assert!(is_in("O=Example, CN=cn of *.example.org"));
    assert!(!is_in("O=Example, CN=*") && !is_in("O=*, CN=*"));
}

#[test]
fn a_certificate_names_its_owner() {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    let root = pki::authority("root", None);
    let whose = |domain: &str, mail: &str, common: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common.is_empty() {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        if !domain.is_empty() {
            let name = SanType::DnsName(domain.try_into().unwrap());
            params.subject_alt_names.push(name);
        }
        if !mail.is_empty() {
            let name = SanType::Rfc822Name(mail.try_into().unwrap());
            params.subject_alt_names.push(name);
        }
        let certificate = params.signed_by(&key, &root.issuer()).unwrap();
        let certificate = esplanade_pki::Certificate::from_der(certificate.der()).unwrap();
        server::named(&certificate).map(|name| name.to_string())
    };
    for (domain, mail, common, expected) in [
        (
            "carol.example.org",
            "carol@example.org",
            "carol",
            Some("carol@example.org"),
        ),
        ("carol.example.org", "", "carol", Some("carol.example.org")),
        ("carol.example.org", "", "", Some("carol.example.org")),
        ("", "", "carol", Some("CN=carol")),
        ("*.example.org", "*@example.org", "carol", Some("CN=carol")),
        ("*.example.org", "", "*", None),
        ("", "", "", None),
    ] {
        assert_eq!(
            whose(domain, mail, common).as_deref(),
            expected,
            "{domain} {mail} {common}"
        );
    }
}
