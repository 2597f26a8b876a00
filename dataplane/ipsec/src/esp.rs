//! The shape of ESP packets in tunnel mode (RFC 4303 2), plain and in UDP (RFC 3948 2.1): sizes,
//! trailer and authenticated data.

/// The shortest and only IPv4 header that we send outside.
pub const OUTER_IPV4: usize = 20;
/// A UDP header.
pub const UDP: usize = 8;
/// SPI and sequence number.
pub const ESP: usize = 8;
/// The explicit IV of the AEADs (RFC 4106 3.1).
pub const IV: usize = 8;
/// The integrity check value of the AEADs (RFC 4106 6).
pub const ICV: usize = 16;
/// Pad length and next header.
pub const TRAILER: usize = 2;
/// RFC 4303 2.4: the padding makes payload and trailer end on a four byte boundary.
const ALIGNMENT: usize = 4;

/// Next header of a tunnelled IPv4 packet.
pub const NEXT_IPV4: u8 = 4;
/// Next header of a dummy packet (RFC 4303 2.6).
pub const NEXT_NONE: u8 = 59;

/// The largest trailer with the least padding.
pub const MAX_TRAILER: usize = ALIGNMENT - 1 + TRAILER;

/// How many bytes of padding a payload needs.
#[inline]
pub const fn padding(payload: usize) -> usize {
    (ALIGNMENT - (payload + TRAILER) % ALIGNMENT) % ALIGNMENT
}

/// How many bytes lie before the ciphertext in an outer IPv4 packet.
#[inline]
pub const fn head(encapsulated: bool) -> usize {
    OUTER_IPV4 + if encapsulated { UDP } else { 0 } + ESP + IV
}

/// The length of the outer IPv4 packet around an inner packet.
#[inline]
pub const fn outer_len(inner: usize, encapsulated: bool) -> usize {
    head(encapsulated) + inner + padding(inner) + TRAILER + ICV
}

/// The largest inner packet whose outer packet has at most `path_mtu` bytes, 0 when there is none.
pub const fn inner_mtu(path_mtu: u16, encapsulated: bool) -> u16 {
    let around = head(encapsulated) + ICV;
    let room = (path_mtu as usize).saturating_sub(around);
    (room - room % ALIGNMENT).saturating_sub(TRAILER) as u16
}

/// Why a decrypted packet is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrailerError {
    /// Shorter than its own trailer.
    Short,
    /// The padding is not 1, 2, 3, ...
    Padding,
}

/// Checks the trailer of an authentic packet and gives the payload's length and the next header.
///
/// RFC 4303 2.4: "the receiver SHOULD inspect the Padding field."
///
/// # Errors
///
/// The sender is broken: nobody else can have written this.
#[inline]
pub fn check_trailer(plaintext: &[u8]) -> Result<(usize, u8), TrailerError> {
    let [before @ .., pad, next_header] = plaintext else {
        return Err(TrailerError::Short);
    };
    let payload = before
        .len()
        .checked_sub(usize::from(*pad))
        .ok_or(TrailerError::Short)?;
    let padding = before.get(payload..).unwrap_or_default();
    let right = padding
        .iter()
        .zip(1..=u8::MAX)
        .all(|(found, expected)| *found == expected);
    if !right {
        return Err(TrailerError::Padding);
    }
    Ok((payload, *next_header))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_inner_mtu_fits_and_one_byte_more_does_not(path in 0u16.., encapsulated: bool) {
            let inner = inner_mtu(path, encapsulated);
            if inner > 0 {
                prop_assert!(outer_len(inner.into(), encapsulated) <= path.into());
            }
            prop_assert!(outer_len(usize::from(inner) + 1, encapsulated) > path.into());
        }

        #[test]
        fn payload_and_trailer_end_on_four_bytes(payload in 0usize..10_000) {
            prop_assert_eq!((payload + padding(payload) + TRAILER) % 4, 0);
            prop_assert!(padding(payload) + TRAILER <= MAX_TRAILER);
        }

        #[test]
        fn any_bytes_have_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((payload, _)) = check_trailer(&bytes) {
                prop_assert!(payload + TRAILER <= bytes.len());
            }
        }
    }

    #[test]
    fn known_sizes() {
        assert_eq!(inner_mtu(1500, false), 1446);
        assert_eq!(inner_mtu(1500, true), 1438);
    }

    #[test]
    fn trailers() {
        assert_eq!(check_trailer(&[9, 9, 1, 2, 2, 4]), Ok((2, 4)));
        assert_eq!(check_trailer(&[9, 9, 0, 4]), Ok((2, 4)));
        assert_eq!(
            check_trailer(&[9, 9, 2, 1, 2, 4]),
            Err(TrailerError::Padding)
        );
        assert_eq!(check_trailer(&[1, 2, 4]), Err(TrailerError::Short));
        assert_eq!(check_trailer(&[4]), Err(TrailerError::Short));
        assert_eq!(check_trailer(&[1, 2, 3, 3, 59]), Ok((0, 59)));
    }
}
