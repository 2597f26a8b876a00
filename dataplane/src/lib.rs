//! The poll-mode ESP dataplane on AF_XDP.

pub mod port;
