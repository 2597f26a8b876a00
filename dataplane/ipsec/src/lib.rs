//! The RFC 4301 family as pure code: SA, SAD, SPD, ESP, sequence numbers, anti-replay.
//!
//! No sockets, clocks, threads or randomness: the worker of the dataplane brings them. What packets look like is in
//! `esplanade-wire`, how they are sealed in `esplanade-crypto`.

#![forbid(unsafe_code)]

pub mod ah;
pub mod esp;
pub mod id;
pub mod peer_spis;
pub mod pmtu;
pub mod replay;
pub mod sa;
pub mod sad;
pub mod selector;
pub mod spd;

pub use esplanade_crypto::sequence;
