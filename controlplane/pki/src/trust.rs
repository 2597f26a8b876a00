//! Whom we believe: certification authorities and revocation lists, and the check of a peer's chain
//! by them (RFC 5280 6, RFC 4945 5), with the time of day passed in.

use std::fmt;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, ExtendedKeyUsageValidator,
    KeyPurposeId, KeyPurposeIdIter, KeyUsage, OwnedCertRevocationList, RequiredEkuNotFoundContext,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_cert::der::DateTime;

use crate::certificate::{ANY_USAGE, Certificate, IPSEC_IKE};
use crate::own::{OwnError, read_chain};
use crate::pem::{self, PemError};
use crate::verified::Verifiers;

/// Certificates of a chain that are looked at.
pub const MAX_CHAIN: usize = 8;

/// What revocation lists are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CrlPolicy {
    /// They are not looked at.
    Off,
    /// What they revoke is refused; a list that is missing or out of date refuses nothing.
    #[default]
    Relaxed,
    /// For each certificate of a chain there must be a list that is not out of date.
    Strict,
}

/// Authorities or lists that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The certificates of authorities.
    #[error(transparent)]
    Authority(#[from] OwnError),
    /// One of them is no authority's.
    #[error(
        "the certificate of `{0}` is no certification authority's: its basic constraints do not say so"
    )]
    NoAuthority(String),
    /// A revocation list's PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A revocation list.
    #[error("it is no certificate revocation list that can be used here (version 2, complete)")]
    Crl,
}

/// What a chain is checked by.
pub struct Trust {
    authorities: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<Crl>,
    policy: CrlPolicy,
    verifiers: Verifiers,
}

struct Crl {
    der: Vec<u8>,
    parsed: CertRevocationList<'static>,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        let crls = |trust: &Self| -> Vec<Vec<u8>> {
            trust.crls.iter().map(|crl| crl.der.clone()).collect()
        };
        self.authorities == other.authorities
            && self.policy == other.policy
            && crls(self) == crls(other)
    }
}

impl Eq for Trust {}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            authorities,
            policy,
            ..
        } = self;
        let crls = self.crls.len();
        write!(f, "Trust({authorities:?}, {crls} lists, {policy:?})")
    }
}

/// Which check failed on which certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("certificate of `{certificate}`: {check}")]
pub struct ChainError {
    /// Whose certificate it is.
    pub certificate: String,
    /// What is wrong with it.
    pub check: Check,
}

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Check {
    /// It is out of date.
    #[error("it expired on {0}")]
    Expired(String),
    /// It is not valid yet.
    #[error("it is not valid before {0}; is the clock right?")]
    NotYetValid(String),
    /// Nobody that we trust has issued it.
    #[error(
        "its issuer `{0}` is none of the trusted authorities, and no intermediate certificate that was sent leads to one"
    )]
    UnknownIssuer(String),
    /// Its signature is not its issuer's.
    #[error("its signature is not that of its issuer `{0}`")]
    Signature(String),
    /// It signs certificates without being an authority's.
    #[error("it issues others but is no certification authority's")]
    NotAnAuthority,
    /// An authority's own certificate is used to sign IKE.
    #[error("it is a certification authority's own, which is not for IKE")]
    IsAuthority,
    /// It was revoked.
    #[error("it is revoked by the list of `{0}`")]
    Revoked(String),
    /// There is no list that says whether it is revoked.
    #[error("no revocation list of its issuer `{0}` is at hand, and `crl-policy` is strict")]
    RevocationUnknown(String),
    /// The list is out of date.
    #[error("the revocation list of its issuer `{0}` is out of date, and `crl-policy` is strict")]
    CrlExpired(String),
    /// Its key usage does not let it sign.
    #[error("its key usage has neither digitalSignature nor nonRepudiation")]
    KeyUsage,
    /// Its extended key usage keeps it from IKE.
    #[error("its extended key usage is {0}, which has neither ipsecIKE nor any")]
    ExtendedKeyUsage(String),
    /// It has an extension that must be understood and is not.
    #[error("it has a critical extension that is not known here")]
    CriticalExtension,
    /// Its signature or its key is of an algorithm that is not taken.
    #[error(
        "its signature or its key is of an algorithm that is not taken here (SHA-1, a short RSA key)"
    )]
    Algorithm,
    /// An authority may not issue for this name, or not so far down.
    #[error("a constraint of one of its authorities forbids it")]
    Constraint,
    /// There is none, or there are too many.
    #[error("no chain of 1 to 8 certificates came with it")]
    Length,
    /// Something else.
    #[error("it cannot be verified: {0}")]
    Other(String),
}

impl Trust {
    /// Reads PEM or DER: the authorities, and revocation lists.
    ///
    /// # Errors
    ///
    /// One of them cannot be read.
    pub fn from_pem(
        authorities: &[&[u8]],
        crls: &[&[u8]],
        policy: CrlPolicy,
    ) -> Result<Self, TrustError> {
        let mut trust = Self {
            authorities: Vec::new(),
            anchors: Vec::new(),
            crls: Vec::new(),
            policy,
            verifiers: Verifiers::new(),
        };
        for text in authorities {
            trust.add_authorities(text)?;
        }
        for text in crls {
            trust.add_crls(text)?;
        }
        Ok(trust)
    }

    fn add_authorities(&mut self, text: &[u8]) -> Result<(), TrustError> {
        for certificate in read_chain(text)? {
            if !certificate.is_ca() {
                return Err(TrustError::NoAuthority(certificate.title()));
            }
            let no_authority = |_| TrustError::NoAuthority(certificate.title());
            let anchor = anchor_from_trusted_cert(certificate.as_der()).map_err(no_authority)?;
            self.anchors.push(anchor.to_owned());
            self.authorities.push(certificate);
        }
        Ok(())
    }

    fn add_crls(&mut self, text: &[u8]) -> Result<(), TrustError> {
        for der in pem::all(text, "X509 CRL")? {
            let parsed = OwnedCertRevocationList::from_der(&der).map_err(|_| TrustError::Crl)?;
            let parsed = parsed.into();
            self.crls.push(Crl { der, parsed });
        }
        Ok(())
    }

    /// The authorities.
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// How many revocation lists there are.
    pub fn crls(&self) -> usize {
        self.crls.len()
    }

    /// What they are for.
    pub const fn policy(&self) -> CrlPolicy {
        self.policy
    }

    /// Checks a peer's chain: its own certificate first, the others in any order. `now` is in seconds
    /// since 1970.
    ///
    /// # Errors
    ///
    /// The first check that failed, and on which certificate.
    pub fn verify(&self, chain: &[Certificate], now: u64) -> Result<(), ChainError> {
        let of = |certificate: &Certificate, check| ChainError {
            certificate: certificate.title(),
            check,
        };
        let Some((leaf, rest)) = chain.split_first().filter(|_| chain.len() <= MAX_CHAIN) else {
            return Err(ChainError {
                certificate: "the peer".to_owned(),
                check: Check::Length,
            });
        };
        if !leaf.may_sign() {
            return Err(of(leaf, Check::KeyUsage));
        }
        if let Some(usages) = leaf.wrong_usages() {
            return Err(of(leaf, Check::ExtendedKeyUsage(usages.join(", "))));
        }
        if leaf.key_kind().is_none() {
            return Err(of(leaf, Check::Algorithm));
        }
        self.validate(leaf, rest, now).map_err(|error| {
            let (certificate, check) = self.blame(leaf, rest, now, &error);
            of(certificate, check)
        })
    }

    fn validate(&self, leaf: &Certificate, rest: &[Certificate], now: u64) -> Result<(), Error> {
        let intermediates: Vec<CertificateDer<'_>> =
            rest.iter().map(|c| c.as_der().clone()).collect();
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().map(|crl| &crl.parsed).collect();
        let (status, expiration) = match self.policy {
            CrlPolicy::Strict if crls.is_empty() => return Err(Error::UnknownRevocationStatus),
            CrlPolicy::Strict => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
            CrlPolicy::Relaxed | CrlPolicy::Off => {
                (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore)
            }
        };
        let builder = RevocationOptionsBuilder::new(&crls).ok();
        let builder = builder.filter(|_| self.policy != CrlPolicy::Off);
        let revocation = builder.map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(status)
                .with_expiration_policy(expiration)
                .build()
        });
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
        EndEntityCert::try_from(leaf.as_der())?
            .verify_for_usage(
                &self.verifiers.all(),
                &self.anchors,
                &intermediates,
                time,
                IkeUsage,
                revocation,
                None,
            )
            .map(|_| ())
    }

    /// The certificates from the peer's own towards an authority, as far as names lead.
    fn path<'c>(&'c self, leaf: &'c Certificate, rest: &'c [Certificate]) -> Vec<&'c Certificate> {
        let mut path = vec![leaf];
        while let Some(last) = path.last().copied() {
            let issued = |c: &&Certificate| c.subject() == last.issuer() && !path.contains(c);
            if self
                .authorities
                .iter()
                .any(|a| a.subject() == last.issuer())
            {
                break;
            }
            match rest.iter().find(issued) {
                Some(issuer) => path.push(issuer),
                None => break,
            }
        }
        path
    }

    fn issuer_of<'c>(
        &'c self,
        certificate: &Certificate,
        rest: &'c [Certificate],
    ) -> Option<&'c Certificate> {
        let all = self.authorities.iter().chain(rest);
        all.into_iter()
            .find(|c| c.subject() == certificate.issuer())
    }

    /// Which certificate an error is about: the validator does not say.
    fn blame<'c>(
        &'c self,
        leaf: &'c Certificate,
        rest: &'c [Certificate],
        now: u64,
        error: &Error,
    ) -> (&'c Certificate, Check) {
        let path = self.path(leaf, rest);
        let last = path.last().copied().unwrap_or(leaf);
        let find = |wrong: &dyn Fn(&Certificate) -> bool| {
            path.iter().copied().find(|c| wrong(c)).unwrap_or(leaf)
        };
        let issuer = |c: &Certificate| c.issuer().to_string();
        match error {
            Error::CertExpired { .. } => {
                let certificate = find(&|c| c.validity().1 < now);
                (certificate, Check::Expired(date(certificate.validity().1)))
            }
            Error::CertNotValidYet { .. } => {
                let certificate = find(&|c| c.validity().0 > now);
                (
                    certificate,
                    Check::NotYetValid(date(certificate.validity().0)),
                )
            }
            Error::CertRevoked => {
                let certificate = find(&|c| self.is_revoked(c));
                (certificate, Check::Revoked(issuer(certificate)))
            }
            Error::UnknownRevocationStatus => {
                let certificate = find(&|c| !self.has_list(c));
                (certificate, Check::RevocationUnknown(issuer(certificate)))
            }
            Error::CrlExpired { .. } => (last, Check::CrlExpired(issuer(last))),
            Error::InvalidSignatureForPublicKey | Error::UnknownIssuer => {
                let forged = |c: &Certificate| {
                    self.issuer_of(c, rest)
                        .is_some_and(|issuer| !c.is_signed_by(issuer))
                };
                match path.iter().copied().find(|c| forged(c)) {
                    Some(certificate) => (certificate, Check::Signature(issuer(certificate))),
                    None => (last, Check::UnknownIssuer(issuer(last))),
                }
            }
            Error::EndEntityUsedAsCa => {
                let others = path.iter().copied().skip(1);
                let certificate = others.into_iter().find(|c| !c.is_ca()).unwrap_or(leaf);
                (certificate, Check::NotAnAuthority)
            }
            Error::CaUsedAsEndEntity => (leaf, Check::IsAuthority),
            Error::RequiredEkuNotFoundContext(_) => {
                let certificate = find(&|c| c.wrong_usages().is_some());
                let usages = certificate.wrong_usages().unwrap_or_default();
                (certificate, Check::ExtendedKeyUsage(usages.join(", ")))
            }
            Error::UnsupportedCriticalExtension => (leaf, Check::CriticalExtension),
            Error::NameConstraintViolation | Error::PathLenConstraintViolated => {
                (leaf, Check::Constraint)
            }
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                let unsigned = |c: &Certificate| {
                    self.issuer_of(c, rest)
                        .is_some_and(|issuer| !c.is_signed_by(issuer))
                };
                (find(&unsigned), Check::Algorithm)
            }
            other => (leaf, Check::Other(format!("{other:?}"))),
        }
    }

    fn lists_of(&self, certificate: &Certificate) -> impl Iterator<Item = &Crl> {
        let issuer = certificate.issuer().der().to_vec();
        let of = move |crl: &&Crl| issuer.ends_with(crl.parsed.issuer());
        self.crls.iter().filter(of)
    }

    fn has_list(&self, certificate: &Certificate) -> bool {
        self.lists_of(certificate).next().is_some()
    }

    fn is_revoked(&self, certificate: &Certificate) -> bool {
        self.lists_of(certificate).any(|crl| {
            let found = crl.parsed.find_serial(certificate.serial());
            matches!(found, Ok(Some(_)))
        })
    }
}

/// RFC 4945 5.1.3.12: the extended key usage may be absent; if it is there, ipsecIKE or any must be
/// among it.
struct IkeUsage;

impl ExtendedKeyUsageValidator for IkeUsage {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let mut present = Vec::new();
        for usage in usages {
            let usage = usage?;
            let fits = |oid: &[u8]| usage == KeyPurposeId::new(oid);
            if fits(IPSEC_IKE.as_bytes()) || fits(ANY_USAGE.as_bytes()) {
                return Ok(());
            }
            present.push(usage.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        let context = RequiredEkuNotFoundContext {
            required: KeyUsage::required_if_present(IPSEC_IKE_OID),
            present,
        };
        Err(Error::RequiredEkuNotFoundContext(context))
    }
}

/// The same as [`IPSEC_IKE`], as the validator wants it for its message.
const IPSEC_IKE_OID: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x11];

/// A day and time, of seconds since 1970.
fn date(seconds: u64) -> String {
    DateTime::from_unix_duration(Duration::from_secs(seconds))
        .map_or_else(|_| format!("second {seconds}"), |date| date.to_string())
}
