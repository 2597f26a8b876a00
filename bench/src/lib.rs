//! The test-bed and the measurements: network namespaces joined by veth, real peers to talk to, a
//! listener on the wire, and the traffic that is sent through all of it.
//!
//! Nothing in here is part of the gateway. It starts the gateway's real binaries and looks at them
//! from outside, as a user would.

#![forbid(unsafe_code)]

pub mod commands;
pub mod demo;
pub mod driven;
pub mod gateway;
pub mod measure;
pub mod peer;
pub mod testbed;
pub mod traffic;
pub mod wire_tap;
