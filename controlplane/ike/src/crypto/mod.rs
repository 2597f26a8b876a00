//! Symmetric cryptography of IKE: key derivation (RFC 7296 2.13 to 2.18) and the Encrypted
//! payload (3.14, RFC 5282).

pub(crate) mod keys;
pub(crate) mod prf;
pub(crate) mod protect;

/// A cryptographic operation that failed for no reason of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cryptographic operation failed")]
pub(crate) struct Failed;
