//! Certificates for IKE: reading them and their private keys, signatures as RFC 7427 and RFC 8420
//! have them, validation of chains by RFC 5280 and RFC 4945 with revocation lists. No file, socket
//! or clock is known here: octets and the time of day come in.

#![forbid(unsafe_code)]

mod certificate;
pub mod fuzzing;
mod key;
mod name;
mod own;
mod pem;
mod scheme;
mod trust;
mod verified;

pub use certificate::{Certificate, CertificateError, PublicKeyKind};
pub use key::{KeyError, PrivateKey, SignatureError};
pub use name::{DistinguishedName, NameError};
pub use own::{OwnCertificate, OwnError};
pub use pem::PemError;
pub use scheme::{RsaPadding, Scheme, hash};
pub use trust::{ChainError, Check, CrlPolicy, MAX_CHAIN, Trust, TrustError};
