//! The algorithms that we negotiate, their transform numbers (IANA "IKEv2 parameters") and the words by which an operator
//! writes them, which are strongSwan's: `aes256gcm16-sha384-x25519`. strongSwan has none for the implicit IVs of RFC 8750,
//! which are `aes256gcm16iiv` here.
//!
//! A proposal names one algorithm of each kind; whoever wants alternatives writes several proposals, the preferred first.

mod additional;
mod algorithm;
mod proposal;
mod protection;
mod read;
#[cfg(test)]
mod tests;

pub use additional::AdditionalKex;
pub use algorithm::{
    AhIntegrity, Encryption, EspEncryption, EspIntegrity, Integrity, KeyExchangeMethod, Prf,
};
pub use proposal::{ChildProposal, DEFAULT_AH, DEFAULT_ESP, DEFAULT_IKE, IkeProposal};
pub use protection::{Esp, Protection};
pub use read::{ChildWords, ProposalError};
