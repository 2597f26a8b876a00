//! What a router changes in a header in place.

use super::HEADER_LEN;
use crate::Ecn;

/// Takes one from the hop limit (RFC 8200 3) and gives what is left. `None`, and nothing changed, when none would be left or
/// this is no header.
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) -> Option<u8> {
    let header = packet.first_chunk_mut::<HEADER_LEN>()?;
    let left = header[7].checked_sub(1).filter(|left| *left > 0)?;
    header[7] = left;
    Some(left)
}

/// Sets the ECN field. `None`, and nothing changed, when this is no header.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) -> Option<()> {
    let header = packet.first_chunk_mut::<HEADER_LEN>()?;
    header[1] = header[1] & 0xcf | (ecn as u8) << 4;
    Some(())
}
