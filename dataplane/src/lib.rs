//! The poll-mode ESP dataplane on AF_XDP.
//!
//! A [`worker`] is one pinned thread that takes packets from [ports](port), protects or opens them, and sends them on.

pub mod fib;
pub mod port;
pub mod worker;
