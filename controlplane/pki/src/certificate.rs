//! One X.509 certificate and what IKE looks at in it (RFC 5280, RFC 4945).

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_cert::Certificate as X509;
use x509_cert::der::asn1::{ObjectIdentifier, OctetString};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

use crate::key::SignatureError;
use crate::name::DistinguishedName;
use crate::scheme::Scheme;

/// id-kp-ipsecIKE (RFC 4945 5.1.3.12).
pub(crate) const IPSEC_IKE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.17");
/// anyExtendedKeyUsage (RFC 5280 4.2.1.12).
pub(crate) const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Octets that are no certificate, or none that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// They do not read as one.
    #[error("it is not an X.509 certificate")]
    Malformed,
    /// It is of an older version, or has a key that nothing here can use.
    #[error("its version or its key cannot be used here")]
    Unusable,
}

/// What kind of public key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PublicKeyKind {
    /// RSA.
    Rsa,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for PublicKeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "RSA",
            Self::P256 => "ECDSA P-256",
            Self::P384 => "ECDSA P-384",
            Self::P521 => "ECDSA P-521",
            Self::Ed25519 => "Ed25519",
        })
    }
}

/// A certificate that has been read, and not yet been believed.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    subject: DistinguishedName,
    issuer: DistinguishedName,
    serial: Vec<u8>,
    dns: Vec<String>,
    emails: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Seconds since 1970.
    validity: (u64, u64),
    may_sign: bool,
    usages: Option<Vec<ObjectIdentifier>>,
    is_ca: bool,
    key: Option<PublicKeyKind>,
    /// The octets of the public key itself.
    public_key: Vec<u8>,
    /// The SHA-1 of its SubjectPublicKeyInfo, which CERTREQ names authorities by.
    key_hash: [u8; 20],
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.subject)
    }
}

impl Certificate {
    /// Reads DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |_| CertificateError::Malformed;
        let parsed = X509::from_der(der).map_err(malformed)?;
        let tbs = parsed.tbs_certificate();
        let name = |name: &x509_cert::name::Name| {
            let der = name.to_der().map_err(malformed)?;
            DistinguishedName::from_der(&der).map_err(|_| CertificateError::Malformed)
        };
        let spki = tbs.subject_public_key_info();
        let key_info = spki.to_der().map_err(malformed)?;
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &key_info);
        let usage = tbs.get_extension::<KeyUsage>().map_err(malformed)?;
        let extended = tbs.get_extension::<ExtendedKeyUsage>().map_err(malformed)?;
        let constraints = tbs.get_extension::<BasicConstraints>().map_err(malformed)?;
        let validity = tbs.validity();
        let curve = || {
            let parameters = spki.algorithm.parameters.as_ref()?;
            let curve: ObjectIdentifier = parameters.decode_as().ok()?;
            [
                (P256, PublicKeyKind::P256),
                (P384, PublicKeyKind::P384),
                (P521, PublicKeyKind::P521),
            ]
            .into_iter()
            .find_map(|(oid, kind)| (oid == curve).then_some(kind))
        };
        let key = match spki.algorithm.oid {
            RSA => Some(PublicKeyKind::Rsa),
            ED25519 => Some(PublicKeyKind::Ed25519),
            EC => curve(),
            _ => None,
        };
        let mut read = Self {
            der: CertificateDer::from(der.to_vec()),
            subject: name(tbs.subject())?,
            issuer: name(tbs.issuer())?,
            serial: tbs.serial_number().as_bytes().to_vec(),
            dns: Vec::new(),
            emails: Vec::new(),
            addresses: Vec::new(),
            validity: (
                validity.not_before.to_unix_duration().as_secs(),
                validity.not_after.to_unix_duration().as_secs(),
            ),
            // RFC 4945 5.1.3.2: "If the digitalSignature or nonRepudiation bit is set, then the
            // certificate may be used for signing"; without the extension for anything.
            may_sign: usage.is_none_or(|(_, u)| u.digital_signature() || u.non_repudiation()),
            usages: extended.map(|(_, usages)| usages.0),
            is_ca: constraints.is_some_and(|(_, c)| c.ca),
            key,
            public_key: spki.subject_public_key.raw_bytes().to_vec(),
            key_hash: hash
                .as_ref()
                .try_into()
                .map_err(|_| CertificateError::Malformed)?,
        };
        let names = tbs.get_extension::<SubjectAltName>().map_err(malformed)?;
        for name in names.iter().flat_map(|(_, names)| &names.0) {
            read.take_name(name);
        }
        EndEntityCert::try_from(&read.der).map_err(|_| CertificateError::Unusable)?;
        Ok(read)
    }

    fn take_name(&mut self, name: &GeneralName) {
        match name {
            GeneralName::DnsName(name) => self.dns.push(name.to_string()),
            GeneralName::Rfc822Name(name) => self.emails.push(name.to_string()),
            GeneralName::IpAddress(octets) => self.addresses.extend(address(octets)),
            _ => {}
        }
    }

    /// The DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(crate) const fn as_der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Whose it is.
    pub const fn subject(&self) -> &DistinguishedName {
        &self.subject
    }

    /// Who has issued it.
    pub const fn issuer(&self) -> &DistinguishedName {
        &self.issuer
    }

    pub(crate) fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Who it is for an operator: the subject, or a name where that is empty.
    pub fn title(&self) -> String {
        if !self.subject.is_empty() {
            return self.subject.to_string();
        }
        self.names()
            .into_iter()
            .next()
            .unwrap_or_else(|| "nobody".to_owned())
    }

    /// Its subject alternative names of the kinds that are IKE identities.
    pub fn names(&self) -> Vec<String> {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let text = self.dns.iter().chain(&self.emails);
        text.map(|name| name.escape_debug().to_string())
            .chain(addresses)
            .collect()
    }

    /// Its mail addresses.
    pub fn emails(&self) -> &[String] {
        &self.emails
    }

    /// Its domain names.
    pub fn domains(&self) -> &[String] {
        &self.dns
    }

    /// Whether this is one of its domain names. Wildcards of a certificate mean nothing to IKE.
    pub fn has_domain(&self, name: &str) -> bool {
        self.dns.iter().any(|dns| dns.eq_ignore_ascii_case(name))
    }

    /// Whether this is one of its mail addresses. The domain is compared without regard to case.
    pub fn has_email(&self, address: &str) -> bool {
        let split = |address: &str| {
            let (local, domain) = address.rsplit_once('@')?;
            Some((local.to_owned(), domain.to_ascii_lowercase()))
        };
        let wanted = split(address);
        wanted.is_some() && self.emails.iter().any(|email| split(email) == wanted)
    }

    /// Whether this is one of its addresses.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Seconds since 1970 from and until which it is valid.
    pub const fn validity(&self) -> (u64, u64) {
        self.validity
    }

    /// Whether it is a certification authority's.
    pub const fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// Whether it has issued itself.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether its key usage lets it sign (RFC 4945 5.1.3.2).
    pub const fn may_sign(&self) -> bool {
        self.may_sign
    }

    /// The extended key usages that keep it from being used for IKE: it names some, and neither
    /// ipsecIKE nor any is among them.
    pub fn wrong_usages(&self) -> Option<Vec<String>> {
        let usages = self.usages.as_ref()?;
        let fits = |usage: &ObjectIdentifier| [IPSEC_IKE, ANY_USAGE].contains(usage);
        (!usages.iter().any(fits)).then(|| usages.iter().map(usage_name).collect())
    }

    /// What kind of key it has; `None`: one of which no signature can be checked here.
    pub const fn key_kind(&self) -> Option<PublicKeyKind> {
        self.key
    }

    /// The octets of its public key.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The SHA-1 of its SubjectPublicKeyInfo, by which RFC 7296 3.7 asks for certificates.
    pub const fn key_hash(&self) -> &[u8; 20] {
        &self.key_hash
    }

    /// Checks a signature of its key.
    ///
    /// # Errors
    ///
    /// The scheme does not go with its key, or the signature is another's.
    pub fn verify(
        &self,
        scheme: Scheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let certificate = EndEntityCert::try_from(&self.der).map_err(|_| SignatureError::Scheme)?;
        let algorithm = self
            .key
            .and_then(|key| scheme.verifier(key))
            .ok_or(SignatureError::Scheme)?;
        certificate
            .verify_signature(algorithm, message, signature)
            .map_err(|_| SignatureError::Wrong)
    }

    /// Whether `issuer` has signed it, by any scheme that is taken here.
    pub(crate) fn is_signed_by(&self, issuer: &Self) -> bool {
        let parts = || {
            let mut outer = SliceReader::new(&self.der).ok()?;
            let body = outer.tlv_bytes().ok()?;
            let header_len = body.len() - content_len(body)?;
            let mut inner = SliceReader::new(body.get(header_len..)?).ok()?;
            Some(inner.tlv_bytes().ok()?.to_vec())
        };
        let (Some(signed), Ok(parsed)) = (parts(), X509::from_der(&self.der)) else {
            return false;
        };
        let signature = parsed.signature().raw_bytes();
        Scheme::ALL
            .iter()
            .any(|scheme| issuer.verify(*scheme, &signed, signature).is_ok())
    }
}

/// Octets of the content of a DER value.
fn content_len(value: &[u8]) -> Option<usize> {
    let any = x509_cert::der::asn1::AnyRef::from_der(value).ok()?;
    Some(any.value().len())
}

fn address(octets: &OctetString) -> Option<IpAddr> {
    let octets = octets.as_bytes();
    <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

fn usage_name(usage: &ObjectIdentifier) -> String {
    match usage.to_string().as_str() {
        "1.3.6.1.5.5.7.3.1" => "serverAuth".to_owned(),
        "1.3.6.1.5.5.7.3.2" => "clientAuth".to_owned(),
        "1.3.6.1.5.5.7.3.3" => "codeSigning".to_owned(),
        "1.3.6.1.5.5.7.3.4" => "emailProtection".to_owned(),
        "1.3.6.1.5.5.8.2.2" => "iKEIntermediate".to_owned(),
        other => other.to_owned(),
    }
}
