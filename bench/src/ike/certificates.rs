//! What the two sides prove themselves with: a root, an authority below it that issues the leaves, and a revocation list of
//! each. The side that is called makes them, and leaves in a directory what the callers need.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use esplanade_ike::config::{CrlPolicy, OwnCertificate, RsaPadding, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber, date_time_ymd,
};

/// The files in the directory, beside the lists `root.crl` and `issuer.crl`.
const ROOT: &str = "root.pem";
const ISSUER: &str = "issuer.pem";
const ISSUER_KEY: &str = "issuer.key";

/// Writes an infrastructure of keys that lives as long as the directory.
///
/// # Errors
///
/// A file cannot be written.
pub fn make(directory: &Path) -> Result<()> {
    let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let root = authority("root");
    let root_pem = root.self_signed(&root_key)?.pem();
    let root = Issuer::from_params(&root, &root_key);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let issuer = authority("issuer");
    let issuer_pem = issuer.signed_by(&key, &root)?.pem();
    let lists = [
        ("root.crl", empty_list(&root)?),
        (
            "issuer.crl",
            empty_list(&Issuer::from_params(&issuer, &key))?,
        ),
    ];
    let certificates = [(ROOT, root_pem), (ISSUER, issuer_pem)];
    let key = [(ISSUER_KEY, key.serialize_pem())];
    for (name, pem) in certificates.iter().chain(&lists).chain(&key) {
        let path = directory.join(name);
        fs::write(&path, pem).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn empty_list(issuer: &Issuer<'_, &KeyPair>) -> Result<String> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2100, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.pem()?)
}

/// The authority that issues leaves.
pub struct Registrar {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    trust: Arc<Trust>,
}

impl Registrar {
    /// What [`make`] has left there.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or is not what it was.
    pub fn open(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (root, pem) = (read(ROOT)?, read(ISSUER)?);
        let lists = [read("root.crl")?, read("issuer.crl")?];
        let key = KeyPair::from_pem(&read(ISSUER_KEY)?)?;
        Ok(Self {
            issuer: Issuer::new(authority("issuer"), key),
            trust: Arc::new(Trust::from_pem(
                &[root.as_bytes()],
                &[lists[0].as_bytes(), lists[1].as_bytes()],
                CrlPolicy::Strict,
            )?),
            pem,
        })
    }

    /// By what the other side is checked: the root alone, and a list of each authority.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.clone()
    }

    /// A leaf of this name with the chain below the root.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn issue(&self, name: &str) -> Result<OwnCertificate> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = CertificateParams::new(vec![name.to_owned()])?;
        let leaf = params.signed_by(&key, &self.issuer)?.pem();
        let chain = [leaf.as_str(), &self.pem].concat();
        let key = key.serialize_pem();
        Ok(OwnCertificate::from_pem(
            chain.as_bytes(),
            key.as_bytes(),
            RsaPadding::Pss,
        )?)
    }
}
