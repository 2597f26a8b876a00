//! The parsers of certificates, for the fuzz targets: a peer shows its own before anybody knows who it is.

use crate::{
    Certificate, CrlPolicy, DistinguishedName, OwnCertificate, PrivateKey, RsaPadding, Scheme,
    Trust,
};

/// 2026-06-01, in seconds since 1970.
const NOW: u64 = 1_780_272_000;

/// Reads octets as everything that a peer sends or an operator's file holds: a certificate in DER, a name, the
/// identifier of a signature, and in PEM or DER authorities, revocation lists and private keys.
///
/// # Panics
///
/// When what was read reads otherwise the second time.
pub fn read_as_everything(octets: &[u8]) {
    if let Ok(certificate) = Certificate::from_der(octets) {
        question(&certificate);
    }
    if let Ok(name) = DistinguishedName::from_der(octets) {
        assert!(name.matches(&name), "a name is its own");
        let _ = (name.to_string(), name.is_pattern(), name.is_empty());
    }
    if let Some(scheme) = Scheme::from_identifier(octets) {
        assert_eq!(Scheme::from_identifier(scheme.identifier()), Some(scheme));
    }
    if let Ok(own) = OwnCertificate::from_pem(octets, octets, RsaPadding::Pss) {
        assert!(own.certificate().is_some(), "our chain is never empty");
    }
    let _ = PrivateKey::from_pem(octets);
    let _ = Trust::from_pem(&[], &[octets], CrlPolicy::Strict);
    if let Ok(trust) = Trust::from_pem(&[octets], &[], CrlPolicy::Relaxed) {
        let _ = trust.verify(trust.authorities(), NOW);
    }
}

/// Asks a certificate all that IKE asks of it.
fn question(certificate: &Certificate) {
    let again = Certificate::from_der(certificate.der());
    assert_eq!(again.as_ref(), Ok(certificate));
    let subject = certificate.subject();
    assert!(subject.matches(subject), "a name is its own");
    let _ = (certificate.title(), certificate.wrong_usages());
    for name in certificate.names() {
        let _ = (certificate.has_domain(&name), certificate.has_email(&name));
    }
    let nobody = Trust::from_pem(&[], &[], CrlPolicy::Relaxed);
    let believed = nobody.map(|trust| trust.verify(std::slice::from_ref(certificate), NOW));
    assert!(
        matches!(believed, Ok(Err(_))),
        "without an authority nobody is believed"
    );
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn seeds() -> Vec<(String, Vec<u8>)> {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/fuzz/seeds/pki");
        let entries = std::fs::read_dir(seeds).unwrap().map(Result::unwrap);
        entries
            .map(|seed| {
                let name = seed.file_name().into_string().unwrap();
                (name, std::fs::read(seed.path()).unwrap())
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in vec(any::<u8>(), 0..400)) {
            read_as_everything(&octets);
        }

        #[test]
        fn damaged_files_are_survived(
            seed in any::<prop::sample::Selector>(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (_, mut octets) = seed.select(seeds());
            for (at, value) in changes {
                let at = at.index(octets.len());
                octets[at] = value;
            }
            read_as_everything(&octets);
        }
    }

    /// The seeds of the fuzz target are read to their ends, so that it starts from something.
    #[test]
    fn every_seed_is_what_it_is_called() {
        let mut found = 0;
        for (name, octets) in seeds() {
            read_as_everything(&octets);
            let trust = |authorities: &[&[u8]], lists: &[&[u8]]| {
                Trust::from_pem(authorities, lists, CrlPolicy::Strict).is_ok()
            };
            let is_it = match name.as_str() {
                "leaf.der" => Certificate::from_der(&octets).is_ok(),
                "leaf.pem" | "own.pem" => {
                    let own = OwnCertificate::from_pem(&octets, &octets, RsaPadding::Pss);
                    own.is_ok() == (name == "own.pem")
                }
                "ca.pem" => trust(&[&octets], &[]),
                "list.pem" => trust(&[], &[&octets]),
                "sec1.pem" => PrivateKey::from_pem(&octets).is_ok(),
                "name.der" => DistinguishedName::from_der(&octets).is_ok(),
                "ecdsa-sha256.der" => Scheme::from_identifier(&octets).is_some(),
                _ => false,
            };
            assert!(is_it, "{name}");
            found += 1;
        }
        assert_eq!(found, 8);
    }
}
