//! Fragmentation by the source of a packet (RFC 8200 4.5), which a gateway is of the packets that it encapsulates.

use super::{
    FRAGMENT_LEN, HEADER_LEN, Packet, Repr,
    chain::{MORE_FRAGMENTS, OFFSET_MASK},
};
use crate::Protocol;
use core::ops::Range;

/// One fragment: its headers, and where in the original packet its payload lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    header: [u8; HEADER_LEN + FRAGMENT_LEN],
    payload: Range<usize>,
}

impl Fragment {
    /// The IPv6 header and the fragment header.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Where the payload lies within the original packet, counted from the start of its header.
    #[inline]
    pub fn payload(&self) -> Range<usize> {
        self.payload.clone()
    }

    /// The length of the fragment.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.header.len() + self.payload.len()
    }
}

/// The fragments of a packet, in order.
#[derive(Debug)]
pub struct Fragments {
    header: Repr,
    next_header: Protocol,
    identification: u32,
    room: usize,
    /// Where the next payload begins.
    at: usize,
    end: usize,
}

/// Cuts a packet without extension headers into fragments of at most `mtu` bytes. `None` when that leaves no room for eight
/// bytes of payload, or when it has extension headers.
pub fn fragments(packet: Packet<'_>, mtu: usize, identification: u32) -> Option<Fragments> {
    let room = mtu.checked_sub(HEADER_LEN + FRAGMENT_LEN)? / 8 * 8;
    if room == 0 || packet.next_header().is_extension() {
        return None;
    }
    Some(Fragments {
        header: Repr::parse(&packet),
        next_header: packet.next_header(),
        identification,
        room,
        at: HEADER_LEN,
        end: packet.as_bytes().len(),
    })
}

impl Iterator for Fragments {
    type Item = Fragment;

    fn next(&mut self) -> Option<Fragment> {
        if self.at >= self.end {
            return None;
        }
        let payload = self.at..self.end.min(self.at + self.room);
        self.at = payload.end;
        // Both within the 16 bits of the packet's length.
        let offset = (payload.start - HEADER_LEN) as u16 & OFFSET_MASK;
        let more = if payload.end < self.end {
            MORE_FRAGMENTS
        } else {
            0
        };
        let fixed = Repr {
            next_header: Protocol::FRAGMENT,
            payload_len: (FRAGMENT_LEN + payload.len()) as u16,
            ..self.header
        };
        let mut header = [0; HEADER_LEN + FRAGMENT_LEN];
        let (first, second) = header.split_first_chunk_mut()?;
        *first = fixed.bytes();
        let [high, low] = (offset | more).to_be_bytes();
        let [a, b, c, d] = self.identification.to_be_bytes();
        *second.first_chunk_mut()? = [self.next_header.0, 0, high, low, a, b, c, d];
        Some(Fragment { header, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv6::chain::tests::packet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fragments_make_the_packet_again(
            payload in prop::collection::vec(any::<u8>(), 1..4000), mtu in 0usize..1600, identification: u32,
        ) {
            let bytes = packet(Protocol::ESP, &payload);
            let whole = Packet::new_checked(&bytes).unwrap();
            let Some(cut) = fragments(whole, mtu, identification) else {
                prop_assert!(mtu < HEADER_LEN + FRAGMENT_LEN + 8);
                return Ok(());
            };
            let mut again: Vec<u8> = Vec::new();
            let mut ended = false;
            for piece in cut {
                prop_assert!(!ended && piece.total_len() <= mtu);
                let bytes = [piece.header(), &bytes[piece.payload()]].concat();
                let fragment = Packet::new_checked(&bytes).unwrap();
                prop_assert_eq!((fragment.source(), fragment.destination()), (whole.source(), whole.destination()));
                let chain = fragment.chain().unwrap();
                let header = chain.fragment.unwrap();
                prop_assert_eq!((header.next_header, header.identification), (Protocol::ESP, identification));
                prop_assert_eq!(header.offset, again.len());
                again.extend(&bytes[chain.offset..]);
                ended = !header.more;
            }
            prop_assert!(ended);
            prop_assert_eq!(again, payload);
        }
    }

    #[test]
    fn what_has_extension_headers_is_not_cut() {
        let bytes = packet(Protocol::DESTINATION_OPTIONS, &[50, 0, 1, 4, 0, 0, 0, 0]);
        let packet = Packet::new_checked(&bytes).unwrap();
        assert!(fragments(packet, 1280, 1).is_none());
    }
}
