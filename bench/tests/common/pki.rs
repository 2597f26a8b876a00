//! Certificates for two gateways: a root, the intermediate authorities below it, and what they issue.

// Each test binary uses its own part.
#![allow(dead_code)]

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevocationReason,
    RevokedCertParams, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

/// An authority that issues certificates.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// Its own certificate.
    pub pem: String,
}

impl Authority {
    /// An authority of this name, issued by another or by itself; with so many more names, which make its certificate large.
    pub fn new(name: &str, issuer: Option<&Authority>, more_names: usize) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = CertificateParams::new(names(name, more_names)).expect("names");
        params.distinguished_name = subject(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        dates(&mut params);
        let certificate = match issuer {
            Some(issuer) => params.signed_by(&key, &issuer.issuer()),
            None => params.self_signed(&key),
        };
        let pem = certificate.expect("a certificate").pem();
        Self { params, key, pem }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A certificate with its private key, both in PEM.
    pub fn issue(&self, leaf: &Leaf<'_>) -> (String, String) {
        let key = KeyPair::generate_for(leaf.algorithm).expect("a key");
        let names = names(leaf.name, leaf.more_names);
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = subject(leaf.name);
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        dates(&mut params);
        let certificate = params.signed_by(&key, &self.issuer());
        let certificate = certificate.expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// A list in PEM that revokes these serial numbers.
    pub fn list(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 2),
            next_update: date_time_ymd(2044, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer()).expect("a list");
        list.pem().expect("a list")
    }
}

/// What a certificate says.
pub struct Leaf<'n> {
    /// Of which kind its key is.
    pub algorithm: &'static SignatureAlgorithm,
    /// Whose it is.
    pub name: &'n str,
    /// So many more names, which make it large.
    pub more_names: usize,
    /// Its serial number.
    pub serial: u64,
}

fn names(name: &str, more: usize) -> Vec<String> {
    let more = (0..more).map(|number| format!("service-{number:04}.{name}"));
    std::iter::once(name.to_owned()).chain(more).collect()
}

fn subject(name: &str) -> rcgen::DistinguishedName {
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Example");
    subject.push(DnType::CommonName, name);
    subject
}

fn dates(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2044, 1, 1);
}
