//! The software nobody here wrote, made ready to be the other end of a tunnel.

pub mod guest;
pub mod strongswan;
