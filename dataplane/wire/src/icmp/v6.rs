//! The numbers of IPv6 (RFC 4443).

use super::{Error, HEADER_LEN};

/// RFC 4443 2.4 (c): "as much of the IPv6 offending (invoking) packet [...] as possible without making the error message packet
/// exceed the minimum IPv6 MTU".
pub const MAX_ERROR_LEN: usize = 1280;

const DESTINATION_UNREACHABLE: u8 = 1;
const PACKET_TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
/// RFC 4443 2.1: "error messages are identified as such by a zero in the high-order bit of their message Type field values."
const INFORMATIONAL: u8 = 0x80;
/// RFC 4861 4.5.
const REDIRECT: u8 = 137;

pub const fn is_error(kind: u8) -> bool {
    kind & INFORMATIONAL == 0 || kind == REDIRECT
}

pub fn read(header: &[u8; HEADER_LEN]) -> Option<Error> {
    let [kind, code, _, _, last_word @ ..] = *header;
    let error = match (kind, code) {
        (DESTINATION_UNREACHABLE, 0) => Error::NetworkUnreachable,
        (DESTINATION_UNREACHABLE, 1) => Error::AdministrativelyProhibited,
        (DESTINATION_UNREACHABLE, 3) => Error::HostUnreachable,
        // RFC 4443 3.2: "Code: Set to 0 (zero) by the originator and ignored by the receiver."
        (PACKET_TOO_BIG, _) => Error::TooBig {
            mtu: u16::try_from(u32::from_be_bytes(last_word)).unwrap_or(u16::MAX),
        },
        (TIME_EXCEEDED, 0) => Error::TtlExceeded,
        _ => return None,
    };
    Some(error)
}

/// Type, code and the last word of the header.
pub const fn parts(error: Error) -> (u8, u8, u32) {
    match error {
        Error::NetworkUnreachable => (DESTINATION_UNREACHABLE, 0, 0),
        Error::HostUnreachable => (DESTINATION_UNREACHABLE, 3, 0),
        Error::TooBig { mtu } => (PACKET_TOO_BIG, 0, mtu as u32),
        Error::AdministrativelyProhibited => (DESTINATION_UNREACHABLE, 1, 0),
        Error::TtlExceeded => (TIME_EXCEEDED, 0, 0),
    }
}
