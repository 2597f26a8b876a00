//! Our own certificate with its chain and its private key.

use std::fmt;

use crate::certificate::{Certificate, CertificateError, PublicKeyKind};
use crate::key::{KeyError, PrivateKey};
use crate::pem::{self, PemError};
use crate::scheme::RsaPadding;

/// Why a certificate and a key are none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnError {
    /// The certificate's PEM cannot be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A certificate cannot be read: which one of the file, from 1.
    #[error("certificate {0} of the file: {1}")]
    Certificate(usize, CertificateError),
    /// The private key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is another's.
    #[error("the private key ({key}) does not belong to the certificate of `{subject}`")]
    Mismatch {
        /// Whose certificate it is.
        subject: String,
        /// What kind of key it is.
        key: PublicKeyKind,
    },
}

/// What we prove to be ours: a certificate, the intermediate ones that lead from it to an authority,
/// and the private key.
pub struct OwnCertificate {
    chain: Vec<Certificate>,
    key: PrivateKey,
    padding: RsaPadding,
}

impl OwnCertificate {
    /// Reads PEM: the certificate first, then its intermediates; and its private key. Certificates
    /// that have issued themselves are left out, since the peer must have them already.
    ///
    /// # Errors
    ///
    /// Either cannot be read, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8], padding: RsaPadding) -> Result<Self, OwnError> {
        let chain = read_chain(chain)?;
        let key = PrivateKey::from_pem(key)?;
        Self::new(chain, key, padding)
    }

    fn new(
        mut chain: Vec<Certificate>,
        key: PrivateKey,
        padding: RsaPadding,
    ) -> Result<Self, OwnError> {
        let first = chain.first().ok_or(PemError::Missing("CERTIFICATE"))?;
        if !key.belongs_to(first) {
            return Err(OwnError::Mismatch {
                subject: first.title(),
                key: key.kind(),
            });
        }
        let mut place = 0;
        chain.retain(|certificate| {
            place += 1;
            place == 1 || !certificate.is_self_issued()
        });
        Ok(Self {
            chain,
            key,
            padding,
        })
    }

    /// The certificate, and behind it its intermediates.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The certificate itself.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.chain.first()
    }

    /// The private key.
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// How the key signs, if it is one of RSA.
    pub const fn padding(&self) -> RsaPadding {
        self.padding
    }
}

/// All certificates of a PEM text.
pub(crate) fn read_chain(text: &[u8]) -> Result<Vec<Certificate>, OwnError> {
    let ders = pem::all(text, "CERTIFICATE")?;
    let read = |(at, der): (usize, &Vec<u8>)| {
        Certificate::from_der(der).map_err(|error| OwnError::Certificate(at, error))
    };
    (1..).zip(&ders).map(read).collect()
}

impl PartialEq for OwnCertificate {
    /// The public half stands for the private one.
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.padding == other.padding
    }
}

impl Eq for OwnCertificate {}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnCertificate({:?}, {:?})", self.chain, self.key)
    }
}
