//! The poll-mode ESP dataplane on AF_XDP.
//!
//! A [`worker`] is one pinned thread that takes packets from [ports](port), protects or opens them, and sends them on.
//! The [`steward`] opens the ports, starts the workers and answers the control plane.

pub mod fib;
pub mod huge_pages;
pub mod port;
pub mod privileges;
pub mod steward;
pub mod worker;
