//! The numbers of IPv4 (RFC 792).

use super::{Error, HEADER_LEN};

/// RFC 1812 4.3.2.3: "the ICMP datagram SHOULD contain as much of the original datagram as possible without the length
/// of the ICMP datagram exceeding 576 bytes."
pub const MAX_ERROR_LEN: usize = 576;

const DESTINATION_UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
const FRAGMENTATION_NEEDED: u8 = 4;

pub const fn is_error(kind: u8) -> bool {
    matches!(
        kind,
        DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
    )
}

pub const fn read(header: &[u8; HEADER_LEN]) -> Option<Error> {
    let error = match (header[0], header[1]) {
        (DESTINATION_UNREACHABLE, 0) => Error::NetworkUnreachable,
        (DESTINATION_UNREACHABLE, 1) => Error::HostUnreachable,
        (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED) => Error::TooBig {
            mtu: u16::from_be_bytes([header[6], header[7]]),
        },
        (DESTINATION_UNREACHABLE, 13) => Error::AdministrativelyProhibited,
        (TIME_EXCEEDED, 0) => Error::TtlExceeded,
        _ => return None,
    };
    Some(error)
}

/// Type, code and the last word of the header, of which RFC 1191 4 uses the lower half.
pub const fn parts(error: Error) -> (u8, u8, u32) {
    match error {
        Error::NetworkUnreachable => (DESTINATION_UNREACHABLE, 0, 0),
        Error::HostUnreachable => (DESTINATION_UNREACHABLE, 1, 0),
        Error::TooBig { mtu } => (DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED, mtu as u32),
        Error::AdministrativelyProhibited => (DESTINATION_UNREACHABLE, 13, 0),
        Error::TtlExceeded => (TIME_EXCEEDED, 0, 0),
    }
}
