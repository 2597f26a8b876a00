//! What a router changes in a header in place, with the checksum updated incrementally (RFC 1624).

use super::HEADER_LEN;
use crate::{Ecn, checksum::update};

/// Takes one from the TTL (RFC 1812 5.3.1) and gives what is left. `None`, and nothing changed, when none would be left
/// or this is no header.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) -> Option<u8> {
    let header = packet.first_chunk_mut::<HEADER_LEN>()?;
    let left = header[8].checked_sub(1).filter(|left| *left > 0)?;
    let protocol = header[9];
    let old = u16::from_be_bytes([header[8], protocol]);
    header[8] = left;
    patch_checksum(header, old, u16::from_be_bytes([left, protocol]));
    Some(left)
}

/// Sets the ECN field. `None`, and nothing changed, when this is no header.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) -> Option<()> {
    let header = packet.first_chunk_mut::<HEADER_LEN>()?;
    let class = (header[1] & !3) | ecn as u8;
    let old = u16::from_be_bytes([header[0], header[1]]);
    header[1] = class;
    patch_checksum(header, old, u16::from_be_bytes([header[0], class]));
    Some(())
}

#[inline]
fn patch_checksum(header: &mut [u8; HEADER_LEN], old: u16, new: u16) {
    let [high, low] = update(u16::from_be_bytes([header[10], header[11]]), old, new).to_be_bytes();
    header[10] = high;
    header[11] = low;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::{Packet, Repr, tests::repr};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rewritten_header_equals_an_emitted_one(repr in repr(), ecn in 0u8..4) {
            let mut bytes = repr.bytes();
            set_ecn(&mut bytes, Ecn::from_bits(ecn)).unwrap();
            let mut expected = Repr { ecn: Ecn::from_bits(ecn), ..repr };
            prop_assert_eq!(bytes, expected.bytes());

            match decrement_ttl(&mut bytes) {
                Some(left) => {
                    prop_assert_eq!(left, repr.ttl - 1);
                    expected.ttl = left;
                }
                None => prop_assert!(repr.ttl <= 1),
            }
            prop_assert_eq!(bytes, expected.bytes());
            prop_assert!(Packet::new_checked(&bytes).unwrap().checksum_is_right());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = bytes;
            let _ = decrement_ttl(&mut bytes);
            let _ = set_ecn(&mut bytes, Ecn::Ce);
        }
    }
}
