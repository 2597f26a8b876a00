//! The shape of ESP packets in tunnel mode (RFC 4303 2), plain and in UDP (RFC 3948 2.1): sizes, which differ from SA to
//! SA, and the trailer.

use esplanade_crypto::{Algorithm, Trailer};
use esplanade_wire::{Protocol, ip::Family};

/// A UDP header.
pub const UDP: usize = 8;
/// SPI and sequence number.
pub const ESP: usize = 8;
/// Pad length and next header.
pub const TRAILER: usize = 2;

/// The lengths of what an SA's packets carry around the inner packet, in bytes: computed once, when the SA is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    head: u8,
    iv: u8,
    icv: u8,
    alignment: u8,
}

impl Shape {
    /// The shape of an algorithm's packets behind an outer header of this family, in UDP or not.
    pub const fn new(algorithm: Algorithm, outer: Family, encapsulated: bool) -> Self {
        let udp = if encapsulated { UDP } else { 0 };
        let iv = algorithm.iv_len();
        Self {
            head: (outer.header_len() + udp + ESP + iv) as u8,
            iv: iv as u8,
            icv: algorithm.icv_len() as u8,
            alignment: algorithm.alignment() as u8,
        }
    }

    /// Nothing, for an SA that is not of ESP.
    pub const NONE: Self = Self {
        head: 0,
        iv: 0,
        icv: 0,
        alignment: 1,
    };

    /// What lies before the ciphertext in an outer packet.
    #[inline]
    pub const fn head(self) -> usize {
        self.head as usize
    }

    /// The part of the IV that packets carry, in front of the ciphertext.
    #[inline]
    pub const fn iv(self) -> usize {
        self.iv as usize
    }

    /// The integrity check value.
    #[inline]
    pub const fn icv(self) -> usize {
        self.icv as usize
    }

    /// The trailer behind an inner packet or payload of so many bytes.
    #[inline]
    pub const fn trailer(self, inner: usize, next_header: Protocol) -> Trailer {
        Trailer::to_align(inner, next_header.0, self.alignment as usize)
    }

    /// The bits of a length that is not aligned: alignments are powers of two.
    #[inline]
    const fn beyond(self) -> usize {
        self.alignment as usize - 1
    }

    /// The length of the outer packet around an inner packet.
    #[inline]
    pub const fn outer_len(self, inner: usize) -> usize {
        let text = (inner + TRAILER + self.beyond()) & !self.beyond();
        self.head() + text + self.icv()
    }

    /// The largest inner packet whose outer packet has at most `path_mtu` bytes, 0 when there is none.
    pub const fn inner_mtu(self, path_mtu: u16) -> u16 {
        let around = self.head() + self.icv();
        let room = (path_mtu as usize).saturating_sub(around);
        (room & !self.beyond()).saturating_sub(TRAILER) as u16
    }

    /// The length of what is decrypted of so many bytes of ciphertext and ICV: payload and trailer. `None` when no sender
    /// makes such packets.
    ///
    /// RFC 4303 2.4: "the resulting ciphertext terminates on a 4-byte boundary", or on one of the cipher's blocks.
    #[inline]
    pub const fn opened_len(self, sealed: usize) -> Option<usize> {
        match sealed.checked_sub(self.icv()) {
            Some(text) if text >= TRAILER && text & self.beyond() == 0 => Some(text),
            _ => None,
        }
    }
}

/// The flow label of an SA's packets over IPv6: one for all of them, which tells nothing of the flows within and keeps
/// their order, so that the replay window holds (RFC 6438 3.1 lets a tunnel's ends choose).
///
/// RFC 6437 3: "a flow label value [...] SHOULD be chosen from an approximation to a discrete uniform distribution", and it is
/// never 0, which stands for none.
#[inline]
pub const fn flow_label(spi: u32) -> u32 {
    let label = spi.wrapping_mul(0x9e37_79b1) >> 12;
    if label == 0 { 1 } else { label }
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
pub fn check_trailer(plaintext: &[u8]) -> Result<(usize, Protocol), TrailerError> {
    let [before @ .., pad, next_header] = plaintext else {
        return Err(TrailerError::Short);
    };
    let payload = before
        .len()
        .checked_sub(usize::from(*pad))
        .ok_or(TrailerError::Short)?;
    let right = match before.last_chunk() {
        Some(last) if *pad < 8 => is_short_padding(u64::from_le_bytes(*last), *pad),
        _ => is_padding(before.get(payload..).unwrap_or_default()),
    };
    if !right {
        return Err(TrailerError::Padding);
    }
    Ok((payload, Protocol(*next_header)))
}

/// Whether 8 bytes end in `pad` bytes of padding, fewer than 8. Most packets have so few, and need no branch.
#[inline]
const fn is_short_padding(last: u64, pad: u8) -> bool {
    const NUMBERED: u64 = 0x0807_0605_0403_0201;
    let bits = 8 * pad as u32;
    let found = (last as u128) >> (64 - bits);
    found == (NUMBERED & ((1 << bits) - 1)) as u128
}

/// RFC 4303 2.4: 1, 2, 3 and so on.
#[cold]
fn is_padding(padding: &[u8]) -> bool {
    let expected = 1..=u8::MAX;
    padding
        .iter()
        .zip(expected)
        .all(|(found, expected)| *found == expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_shape() -> impl Strategy<Value = Shape> {
        let algorithm = prop::sample::select(&Algorithm::ALL[..]);
        let outer = prop::sample::select(&Family::ALL[..]);
        (algorithm, outer, any::<bool>())
            .prop_map(|(algorithm, outer, encapsulated)| Shape::new(algorithm, outer, encapsulated))
    }

    proptest! {
        #[test]
        fn the_inner_mtu_fits_and_one_byte_more_does_not(shape in any_shape(), path in 0u16..) {
            let inner = shape.inner_mtu(path);
            if inner > 0 {
                prop_assert!(shape.outer_len(inner.into()) <= path.into());
            }
            prop_assert!(shape.outer_len(usize::from(inner) + 1) > path.into());
        }

        #[test]
        fn what_is_sent_is_as_long_as_said_and_accepted(shape in any_shape(), inner in 0usize..10_000) {
            let text = inner + shape.trailer(inner, Protocol::IPV6).len();
            prop_assert_eq!(shape.head() + text + shape.icv(), shape.outer_len(inner));
            prop_assert_eq!(shape.opened_len(text + shape.icv()), Some(text));
            prop_assert_eq!(shape.opened_len(text + shape.icv() + 1), None);
        }

        #[test]
        fn any_bytes_have_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((payload, _)) = check_trailer(&bytes) {
                prop_assert!(payload + TRAILER <= bytes.len());
            }
        }

        #[test]
        fn padding_is_numbered_however_long_it_is(before in 0usize..20, pad: u8, broken: prop::sample::Index) {
            let padding = 1..=pad;
            let mut bytes: Vec<u8> = std::iter::repeat_n(0xee, before).chain(padding).chain([pad, 4]).collect();
            prop_assert_eq!(check_trailer(&bytes), Ok((before, Protocol::IPV4)));
            if pad > 0 {
                bytes[before + broken.index(pad.into())] ^= 0x80;
                prop_assert_eq!(check_trailer(&bytes), Err(TrailerError::Padding));
            }
        }
    }

    #[test]
    fn known_sizes() {
        for (algorithm, plain, in_udp) in [
            ("aes-128-gcm-16", 1446, 1438),
            ("chacha20-poly1305-iiv", 1454, 1446),
            ("aes-256-cbc-hmac-sha2-256-128", 1438, 1422),
            ("aes-256-cbc-hmac-sha2-512-256", 1422, 1406),
            ("null-hmac-sha1-96", 1458, 1450),
        ] {
            let shape =
                |outer, encapsulated| Shape::new(algorithm.parse().unwrap(), outer, encapsulated);
            assert_eq!(
                shape(Family::V4, false).inner_mtu(1500),
                plain,
                "{algorithm}"
            );
            assert_eq!(
                shape(Family::V4, true).inner_mtu(1500),
                in_udp,
                "{algorithm}"
            );
            // 20 bytes more, which for these is a multiple of the alignment or is not.
            let lost = if algorithm.contains("cbc") {
                16..=32
            } else {
                20..=20
            };
            let six = shape(Family::V6, false).inner_mtu(1500);
            assert!(lost.contains(&(plain - six)), "{algorithm}: {six}");
        }
        let cbc = "aes-128-cbc-hmac-sha1-96".parse().unwrap();
        let cbc = Shape::new(cbc, Family::V4, false);
        assert_eq!(cbc.opened_len(12), None, "no trailer");
        assert_eq!(cbc.opened_len(12 + 8), None, "half a block");
    }

    #[test]
    fn flow_labels_are_spread_over_20_bits() {
        let labels: std::collections::HashSet<_> =
            (256..10_256).map(|slot| flow_label(slot << 12)).collect();
        assert!(labels.len() > 9_000, "{}", labels.len());
        assert!(labels.iter().all(|label| (1..1 << 20).contains(label)));
        assert!(labels.iter().any(|label| label >> 19 != 0));
    }

    #[test]
    fn trailers() {
        assert_eq!(check_trailer(&[9, 9, 1, 2, 2, 4]), Ok((2, Protocol::IPV4)));
        assert_eq!(check_trailer(&[9, 9, 0, 4]), Ok((2, Protocol::IPV4)));
        assert_eq!(
            check_trailer(&[9, 9, 2, 1, 2, 4]),
            Err(TrailerError::Padding)
        );
        assert_eq!(check_trailer(&[1, 2, 4]), Err(TrailerError::Short));
        assert_eq!(check_trailer(&[4]), Err(TrailerError::Short));
        assert_eq!(check_trailer(&[1, 2, 3, 3, 59]), Ok((0, Protocol::NONE)));
    }
}
