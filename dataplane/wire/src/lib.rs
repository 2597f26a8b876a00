//! Checked views and builders of the packets that an IPsec gateway handles.
//!
//! A *view* (`Packet`, `Frame`, `Datagram`, ...) is made by `new_checked` from bytes that anyone may have sent; once
//! it exists, its accessors cannot fail. A *repr* (`Repr`) is a value: parsed from a view, or filled in by hand and
//! emitted as bytes. Nothing here allocates or panics, whatever the bytes are.

#![forbid(unsafe_code)]

pub mod ah;
pub mod checksum;
mod ecn;
pub mod esp;
pub mod ethernet;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod partial;
mod protocol;
pub mod reassembly;
pub mod splice;
pub mod tcp;
pub mod template;
pub mod udp;

pub use ecn::{Dscp, Ecn};
pub use protocol::Protocol;

use core::fmt;

/// Why bytes are not the packet that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// They end before the header does.
    Truncated {
        /// What the header needs.
        needed: usize,
        /// What there is.
        found: usize,
    },
    /// The version field names another protocol.
    Version(u8),
    /// The header says that it is shorter than it can be.
    HeaderLength(usize),
    /// The length field is less than the header's own length, or more than there are bytes.
    Length {
        /// What the length field says.
        stated: usize,
        /// What there is.
        found: usize,
    },
    /// There are too many extension headers, or they are in an order that RFC 8200 4.1 forbids.
    ExtensionHeaders,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { needed, found } => {
                write!(
                    f,
                    "truncated: the header needs {needed} bytes, there are {found}"
                )
            }
            Self::Version(version) => write!(f, "unexpected version {version}"),
            Self::HeaderLength(length) => write!(f, "impossible header length {length}"),
            Self::Length { stated, found } => {
                write!(f, "the length field says {stated}, there are {found} bytes")
            }
            Self::ExtensionHeaders => f.write_str("too many extension headers, or out of order"),
        }
    }
}

impl core::error::Error for Malformed {}

/// A buffer is too short for what is to be emitted into it; nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    /// How many bytes it takes.
    pub needed: usize,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the buffer is shorter than the {} bytes that are needed",
            self.needed
        )
    }
}

impl core::error::Error for NoRoom {}

/// Splits a fixed header off.
#[inline]
fn split_header<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), Malformed> {
    bytes.split_first_chunk().ok_or(Malformed::Truncated {
        needed: N,
        found: bytes.len(),
    })
}

/// Writes a header at the start of a buffer.
#[inline]
fn put<const N: usize>(header: [u8; N], buffer: &mut [u8]) -> Result<(), NoRoom> {
    let room = buffer.first_chunk_mut().ok_or(NoRoom { needed: N })?;
    *room = header;
    Ok(())
}
