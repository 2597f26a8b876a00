//! Chains, revocation, keys and signatures: what is believed, and which check failed on which
//! certificate.

mod common;

use common::*;
use esplanade_pki::{
    Certificate, Check, CrlPolicy, OwnCertificate, OwnError, PrivateKey, RsaPadding, Scheme,
    SignatureError, Trust, TrustError, hash,
};
use rcgen::{
    ExtendedKeyUsagePurpose as Usage, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256,
};

fn certificates(pems: &[&str]) -> Vec<Certificate> {
    let ders = pems
        .iter()
        .map(|pem| pem_rfc7468::decode_vec(pem.as_bytes()).unwrap().1);
    ders.map(|der| Certificate::from_der(&der).unwrap())
        .collect()
}

const IPSEC_IKE: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 17];

#[test]
fn a_chain_with_an_intermediate_is_believed() {
    let root = authority("root", None);
    let middle = authority("middle", Some(&root));
    let (leaf, _) = Leaf::new("gw-a.example.org").issue(&middle);
    let chain = certificates(&[&leaf, &middle.pem]);
    trust(&[&root]).verify(&chain, NOW).unwrap();
    trust(&[&middle]).verify(&chain[..1], NOW).unwrap();

    let error = trust(&[&root]).verify(&chain[..1], NOW).unwrap_err();
    assert_eq!(error.certificate, "O=Example, CN=cn of gw-a.example.org");
    assert_eq!(
        error.check,
        Check::UnknownIssuer("O=Example, CN=middle".into())
    );
    let other = authority("another root", None);
    let error = trust(&[&other]).verify(&chain, NOW).unwrap_err();
    assert_eq!(error.certificate, "O=Example, CN=middle");
    assert_eq!(
        error.check,
        Check::UnknownIssuer("O=Example, CN=root".into())
    );
    // An authority of the same name, but another key.
    let forger = authority("root", None);
    let error = trust(&[&forger]).verify(&chain, NOW).unwrap_err();
    assert_eq!(error.certificate, "O=Example, CN=middle");
    assert_eq!(error.check, Check::Signature("O=Example, CN=root".into()));
    assert_eq!(
        trust(&[&root]).verify(&[], NOW).unwrap_err().check,
        Check::Length
    );
}

#[test]
fn validity_is_judged_by_the_time_that_is_passed_in() {
    let root = authority("root", None);
    let (leaf, _) = Leaf::new("gw-a.example.org").issue(&root);
    let chain = certificates(&[&leaf]);
    let check = |now| trust(&[&root]).verify(&chain, now).unwrap_err();
    assert_eq!(
        check(NOW + 3 * YEAR).check,
        Check::Expired("2028-01-01T00:00:00Z".into())
    );
    assert_eq!(
        check(NOW - YEAR).check,
        Check::NotYetValid("2026-01-01T00:00:00Z".into())
    );
}

/// RFC 4945 5.1.3.2 and 5.1.3.12.
#[test]
fn usages_may_be_absent_ipsec_ike_or_any() {
    let root = authority("root", None);
    let verify = |usages: &[Usage], key_usages: &[KeyUsagePurpose]| {
        let leaf = Leaf {
            usages: usages.to_vec(),
            key_usages: key_usages.to_vec(),
            ..Leaf::new("gw-a.example.org")
        };
        let (leaf, _) = leaf.issue(&root);
        let chain = certificates(&[&leaf]);
        trust(&[&root])
            .verify(&chain, NOW)
            .map_err(|error| error.check)
    };
    let ike = Usage::Other(IPSEC_IKE.to_vec());
    assert_eq!(verify(&[], &[]), Ok(()));
    assert_eq!(
        verify(
            std::slice::from_ref(&ike),
            &[KeyUsagePurpose::DigitalSignature]
        ),
        Ok(())
    );
    assert_eq!(verify(&[Usage::ServerAuth, ike], &[]), Ok(()));
    assert_eq!(
        verify(&[Usage::Any], &[KeyUsagePurpose::ContentCommitment]),
        Ok(())
    );
    assert_eq!(
        verify(&[Usage::ServerAuth, Usage::ClientAuth], &[]),
        Err(Check::ExtendedKeyUsage("serverAuth, clientAuth".into()))
    );
    assert_eq!(
        verify(&[], &[KeyUsagePurpose::KeyEncipherment]),
        Err(Check::KeyUsage)
    );
}

#[test]
fn who_is_no_authority_issues_nothing() {
    let root = authority("root", None);
    let mut false_ca = authority("false", Some(&root));
    false_ca.params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let certificate = false_ca.params.signed_by(&false_ca.key, &root.issuer());
    false_ca.pem = certificate.unwrap().pem();
    let (leaf, _) = Leaf::new("gw-a.example.org").issue(&false_ca);
    let chain = certificates(&[&leaf, &false_ca.pem]);
    let error = trust(&[&root]).verify(&chain, NOW).unwrap_err();
    assert_eq!(error.check, Check::NotAnAuthority);
    assert_eq!(error.certificate, "O=Example, CN=false");
    let error = trust(&[&root])
        .verify(&certificates(&[&root.pem]), NOW)
        .unwrap_err();
    assert_eq!(
        error.check,
        Check::KeyUsage,
        "an authority's own is not for IKE"
    );
    let named = Trust::from_pem(&[leaf.as_bytes()], &[], CrlPolicy::Off).unwrap_err();
    assert!(matches!(named, TrustError::NoAuthority(_)), "{named}");
}

#[test]
fn revocation_goes_by_its_policy() {
    let root = authority("root", None);
    let (leaf, _) = Leaf::new("gw-a.example.org").issue(&root);
    let chain = certificates(&[&leaf]);
    let verify = |crls: &[Vec<u8>], policy, now| {
        let trust = trusting(&[&root], crls, policy);
        trust.verify(&chain, now).map_err(|error| error.check)
    };
    let (revoking, other) = (vec![root.crl(7)], vec![root.crl(8)]);
    let issuer = || "O=Example, CN=root".to_owned();
    for policy in [CrlPolicy::Relaxed, CrlPolicy::Strict] {
        assert_eq!(
            verify(&revoking, policy, NOW),
            Err(Check::Revoked(issuer()))
        );
        assert_eq!(verify(&other, policy, NOW), Ok(()));
    }
    assert_eq!(verify(&revoking, CrlPolicy::Off, NOW), Ok(()));
    // Without a list, and with one that is out of date: only strict minds.
    assert_eq!(verify(&[], CrlPolicy::Relaxed, NOW), Ok(()));
    assert_eq!(
        verify(&[], CrlPolicy::Strict, NOW),
        Err(Check::RevocationUnknown(issuer()))
    );
    let late = NOW + YEAR;
    assert_eq!(verify(&other, CrlPolicy::Relaxed, late), Ok(()));
    assert_eq!(
        verify(&revoking, CrlPolicy::Relaxed, late),
        Err(Check::Revoked(issuer()))
    );
    assert_eq!(
        verify(&other, CrlPolicy::Strict, late),
        Err(Check::CrlExpired(issuer()))
    );
}

#[test]
fn every_kind_of_key_signs_and_is_told_apart() {
    let root = authority("root", None);
    let message = b"what AUTH covers";
    for (algorithm, kind, schemes) in [
        (&PKCS_RSA_SHA256, "RSA", 3),
        (&PKCS_ECDSA_P256_SHA256, "ECDSA P-256", 1),
        (&PKCS_ECDSA_P384_SHA384, "ECDSA P-384", 1),
        (&PKCS_ECDSA_P521_SHA512, "ECDSA P-521", 1),
        (&PKCS_ED25519, "Ed25519", 1),
    ] {
        let leaf = Leaf {
            algorithm,
            ..Leaf::new("gw-a.example.org")
        };
        let (pem, key) = leaf.issue(&root);
        let ours = own(&[&pem, &root.pem], &key);
        assert_eq!(ours.chain().len(), 1, "a root is not sent");
        trust(&[&root]).verify(ours.chain(), NOW).unwrap();
        assert_eq!(ours.key().kind().to_string(), kind);
        let certificate = ours.certificate().unwrap();
        let mut signed = 0;
        for scheme in Scheme::ALL {
            match ours.key().sign(*scheme, message) {
                Ok(mut signature) => {
                    signed += 1;
                    assert_eq!(
                        certificate.verify(*scheme, message, &signature),
                        Ok(()),
                        "{scheme}"
                    );
                    signature[10] ^= 1;
                    let forged = certificate.verify(*scheme, message, &signature);
                    assert_eq!(forged, Err(SignatureError::Wrong), "{scheme}");
                }
                Err(error) => assert_eq!(error, SignatureError::Scheme, "{kind}: {scheme}"),
            }
        }
        assert!(signed >= schemes, "{kind}");
        let chosen = ours.key().scheme(&hash::ALL, RsaPadding::Pss).unwrap();
        assert!(ours.key().sign(chosen, message).is_ok());
        assert_eq!(
            ours.key().scheme(&[1], RsaPadding::Pss),
            None,
            "SHA-1 never"
        );

        let (_, other) = Leaf { algorithm, ..leaf }.issue(&root);
        let mismatch = OwnCertificate::from_pem(pem.as_bytes(), other.as_bytes(), RsaPadding::Pss);
        assert!(matches!(mismatch, Err(OwnError::Mismatch { .. })), "{kind}");
        assert!(!format!("{ours:?}").contains("PRIVATE"));
    }
}

#[test]
fn bad_keys_are_named() {
    let error = |text: &str| {
        PrivateKey::from_pem(text.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert!(error("").contains("no PEM section"));
    let damaged = "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n";
    assert!(error(damaged).contains("damaged"));
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(error(encrypted).contains("passphrase"));
    let nonsense = "-----BEGIN PRIVATE KEY-----\nMIIBAAAA\n-----END PRIVATE KEY-----\n";
    assert!(error(nonsense).contains("no RSA key"));
}

/// RFC 4945 3.1: a name is a subject alternative name; the common name is nobody's.
#[test]
fn names_are_alternative_names_or_the_whole_subject() {
    let root = authority("root", None);
    let (leaf, _) = Leaf::new("gw-a.example.org").issue(&root);
    let certificate = &certificates(&[&leaf])[0];
    assert!(certificate.has_domain("GW-a.example.org"));
    assert!(certificate.has_email("admin@gw-a.Example.org"));
    assert!(!certificate.has_email("Admin@gw-a.example.org"));
    assert!(certificate.has_address("192.0.2.1".parse().unwrap()));
    assert!(!certificate.has_domain("cn of gw-a.example.org"));
    let whole = "O=Example, CN=cn of gw-a.example.org".parse::<esplanade_pki::DistinguishedName>();
    assert!(whole.unwrap().matches(certificate.subject()));
}

mod hostile {
    use esplanade_pki::{Certificate, CrlPolicy, PrivateKey, Trust};
    use proptest::prelude::*;

    use super::certificates;
    use super::common::*;

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Certificate::from_der(&octets);
            let _ = PrivateKey::from_pem(&octets);
            let _ = Trust::from_pem(&[&octets], &[&octets], CrlPolicy::Strict);
        }

        #[test]
        fn any_change_to_a_certificate_is_survived(at: prop::sample::Index, value: u8) {
            let root = authority("root", None);
            let (leaf, _) = Leaf::new("gw-a.example.org").issue(&root);
            let mut der = certificates(&[&leaf])[0].der().to_vec();
            let at = at.index(der.len());
            let same = der[at] == value;
            der[at] = value;
            if let Ok(changed) = Certificate::from_der(&der) {
                let believed = trust(&[&root]).verify(&[changed], NOW).is_ok();
                prop_assert_eq!(believed, same);
            }
        }
    }
}
