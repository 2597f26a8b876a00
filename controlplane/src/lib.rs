//! The tokio control plane and the esplanade command line.
//!
//! The daemon joins what is pure to the world: the IKE endpoint to its sockets and clock, the kernel's routes and
//! neighbours to the dataplane, the operator to both. The command line asks the daemon over a Unix socket.

#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
mod configuration;
pub mod daemon;
mod explain;
pub mod guard;
mod lock;
pub mod logging;
pub mod netlink;
pub mod pcapng;
pub mod privileges;
mod readiness;
pub mod supervisor;
