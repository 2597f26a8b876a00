//! A small public key infrastructure: a root, an intermediate authority, and whatever they issue.

// Each test binary uses its own part of this bench.
#![allow(dead_code)]

use esplanade_pki::{CrlPolicy, OwnCertificate, RsaPadding, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, RevocationReason, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm, date_time_ymd,
};

/// 2026-06-01, in seconds since 1970.
pub const NOW: u64 = 1_780_272_000;
pub const YEAR: u64 = 365 * 86_400;

pub struct Authority {
    pub params: CertificateParams,
    pub key: KeyPair,
    pub pem: String,
}

pub fn authority(name: &str, issuer: Option<&Authority>) -> Authority {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    dates(&mut params);
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, &issuer.issuer()),
        None => params.self_signed(&key),
    };
    let pem = certificate.unwrap().pem();
    Authority { params, key, pem }
}

fn dates(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2028, 1, 1);
}

impl Authority {
    pub fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A list that revokes this serial number, good until 2026-12-31.
    pub fn crl(&self, serial: u64) -> Vec<u8> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 5, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 5, 2),
            next_update: date_time_ymd(2026, 12, 31),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params
            .signed_by(&self.issuer())
            .unwrap()
            .pem()
            .unwrap()
            .into_bytes()
    }
}

/// What a leaf is to say.
pub struct Leaf {
    pub algorithm: &'static SignatureAlgorithm,
    pub name: &'static str,
    pub serial: u64,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    pub key_usages: Vec<KeyUsagePurpose>,
}

impl Leaf {
    pub fn new(name: &'static str) -> Self {
        Self {
            algorithm: &PKCS_ECDSA_P256_SHA256,
            name,
            serial: 7,
            usages: Vec::new(),
            key_usages: Vec::new(),
        }
    }

    /// The PEM of the certificate and of its private key.
    pub fn issue(&self, issuer: &Authority) -> (String, String) {
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        let mut params = CertificateParams::new(vec![self.name.to_owned()]).unwrap();
        let email = format!("admin@{}", self.name).try_into().unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name(email));
        let address = "192.0.2.1".parse().unwrap();
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Example");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("cn of {}", self.name));
        params.extended_key_usages = self.usages.clone();
        params.key_usages = self.key_usages.clone();
        params.serial_number = Some(SerialNumber::from(self.serial));
        dates(&mut params);
        let certificate = params.signed_by(&key, &issuer.issuer()).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

pub fn own(pems: &[&str], key: &str) -> OwnCertificate {
    OwnCertificate::from_pem(pems.concat().as_bytes(), key.as_bytes(), RsaPadding::Pss).unwrap()
}

pub fn trust(authorities: &[&Authority]) -> Trust {
    trusting(authorities, &[], CrlPolicy::Relaxed)
}

pub fn trusting(authorities: &[&Authority], crls: &[Vec<u8>], policy: CrlPolicy) -> Trust {
    let pems: Vec<&[u8]> = authorities.iter().map(|a| a.pem.as_bytes()).collect();
    let crls: Vec<&[u8]> = crls.iter().map(Vec::as_slice).collect();
    Trust::from_pem(&pems, &crls, policy).unwrap()
}
