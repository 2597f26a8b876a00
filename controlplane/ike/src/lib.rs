//! IKEv2 (RFC 7296) as a sans-IO state machine, after the manner of quinn-proto.
//!
//! An [`Endpoint`] holds all IKE SAs of one gateway. It knows no socket, clock, thread or random
//! source: datagrams, commands and time go in, and [`Transmit`]s, [`Event`]s and the time of the
//! next timer come out. Events are to be handled before the transmits that were queued with them.
//! What of the RFC is left out stands in this crate's README.

#![forbid(unsafe_code)]

mod children;
pub mod config;
mod counters;
mod crypto;
mod eap;
mod endpoint;
mod error;
mod event;
pub mod fuzzing;
mod gateway;
mod identity;
mod instances;
mod negotiate;
mod peers;
mod pools;
pub mod provider;
mod sa;
mod secret;
mod suite;
pub mod wire;

pub use config::{ChildConfig, Mode, PeerConfig, Settings, Uniqueness, WantedMode};
pub use counters::{Counter, Counters};
pub use eap::{EapError, Users};
pub use endpoint::{Endpoint, SpiAllocator};
pub use error::{CloseReason, CommandError, Refusal, RemovalReason, Subject};
pub use event::{
    AdoptedChild, ChildSa, ChildSaView, Event, IkeSaView, Original, Outstanding, Path, Transmit,
    UdpPorts,
};
pub use pools::{Lease, PoolConfig, ReleaseError};
pub use provider::{Provider, SystemProvider};
