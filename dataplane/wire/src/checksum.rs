//! The Internet checksum (RFC 1071), whole and incrementally (RFC 1624).

use crate::Protocol;
use core::net::{Ipv4Addr, Ipv6Addr};

/// A one's complement sum under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds bytes. All runs but the last must have an even length.
    #[inline]
    pub fn add_bytes(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            // 64 bits hold 2^32 of these: no packet is that long.
            self.0 += u64::from(u32::from_be_bytes(*word));
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        for pair in pairs {
            self.0 += u64::from(u16::from_be_bytes(*pair));
        }
        if let [last] = odd {
            self.0 += u64::from(*last) << 8;
        }
        self
    }

    /// Adds a 16-bit word.
    #[inline]
    pub fn add_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// The pseudo-header that TCP and UDP cover over IPv4; `length` is the transport header's and its payload's.
    #[inline]
    pub fn pseudo_header_v4(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: Protocol,
        length: u16,
    ) -> Self {
        Self::ZERO
            .add_bytes(&source.octets())
            .add_bytes(&destination.octets())
            .add_word(protocol.0.into())
            .add_word(length)
    }

    /// The pseudo-header over IPv6 (RFC 8200 8.1).
    #[inline]
    pub fn pseudo_header_v6(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: Protocol,
        length: u32,
    ) -> Self {
        Self::ZERO
            .add_bytes(&source.octets())
            .add_bytes(&destination.octets())
            .add_bytes(&length.to_be_bytes())
            .add_word(protocol.0.into())
    }

    /// The sum folded to 16 bits, without a branch that would depend on the packet.
    #[inline]
    const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum + (sum >> 16)) as u16
    }

    /// The checksum: the complement of the sum. Data that hold their own checksum give 0.
    #[inline]
    pub const fn complement(self) -> u16 {
        !self.fold()
    }
}

/// The checksum of bytes.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::ZERO.add_bytes(bytes).complement()
}

/// Whether bytes of this length hold their own checksum. The sum is the same in either order of bytes (RFC 1071 2 (B)), so it
/// is taken as they lie in memory.
#[inline]
pub fn is_right<const N: usize>(bytes: &[u8; N]) -> bool {
    const { assert!(N.is_multiple_of(4)) };
    let (words, _) = bytes.as_chunks();
    let sum: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    Sum(sum).complement() == 0
}

/// The checksum after one aligned 16-bit word changed.
///
/// RFC 1624 3, equation 3: `HC' = ~(~HC + ~m + m')`, which unlike the one of RFC 1141 is right at zero too.
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum(!checksum as u64 + !old as u64 + new as u64).complement()
}

/// The checksum after some of the data changed whose sum was `old` and is `new`: addresses of a pseudo-header.
#[inline]
pub const fn update_by(checksum: u16, old: Sum, new: Sum) -> u16 {
    update(checksum, old.fold(), new.fold())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&data), !0xddf2);
    }

    #[test]
    fn carries_of_carries_are_added() {
        for (sum, folded) in [
            (0x1_ffff, 1),
            (0xffff_ffff, 0xffff),
            (0x1_ffff_ffff, 1),
            (u64::MAX, 0xffff),
            (0, 0),
        ] {
            assert_eq!(Sum(sum).fold(), folded, "{sum:x}");
        }
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // RFC 1624 4: "HC' = ~(~DD2F + ~5555 + 3285) = 0x0000"
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn it_is_the_sum_of_words(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut sum = 0u64;
            for pair in bytes.chunks(2) {
                sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
            }
            let expected = if sum == 0 { 0 } else { ((sum - 1) % 0xffff + 1) as u16 };
            prop_assert_eq!(checksum(&bytes), !expected);
        }

        #[test]
        fn an_update_equals_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 4..100),
            at in any::<prop::sample::Index>(),
            new: u16,
        ) {
            // A header has a word that is never zero (the version); so has this.
            let mut bytes = bytes;
            bytes[0] = 0x45;
            let words = bytes.len() / 2 - 1;
            let at = 2 + at.index(words) * 2;
            let before = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), checksum(&bytes));
        }

        #[test]
        fn a_header_that_holds_its_checksum_is_right(bytes: [u8; 20], broken in 0usize..20) {
            let mut bytes = bytes;
            bytes[0] |= 0x40;
            bytes[10..12].fill(0);
            let sum = checksum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(is_right(&bytes));
            bytes[broken] ^= 1;
            prop_assert!(!is_right(&bytes));
        }

        #[test]
        fn even_runs_add_up(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(bytes.len() + 1) & !1;
            let (first, second) = bytes.split_at(cut);
            prop_assert_eq!(Sum::ZERO.add_bytes(first).add_bytes(second).complement(), checksum(&bytes));
        }
    }
}
