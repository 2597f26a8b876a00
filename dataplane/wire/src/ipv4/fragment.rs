//! Fragmentation (RFC 791 2.3 and 3.2): the headers of the fragments, and which part of the payload goes into each.

use super::{DONT_FRAGMENT, HEADER_LEN, MAX_HEADER_LEN, MORE_FRAGMENTS, OFFSET_MASK, Packet};
use crate::checksum::checksum;
use core::ops::Range;

/// RFC 791 3.1: "The copied flag indicates that this option is copied into all fragments on fragmentation."
const COPIED: u8 = 0x80;

/// One fragment: its header, and where in the original packet its payload lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    header: Header,
    payload: Range<usize>,
}

impl Fragment {
    /// The header with its checksum.
    #[inline]
    pub fn header(&self) -> &[u8] {
        self.header.as_bytes()
    }

    /// Where the payload lies within the original packet, counted from the start of its header.
    #[inline]
    pub fn payload(&self) -> Range<usize> {
        self.payload.clone()
    }

    /// The length of the fragment.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.header.length + self.payload.len()
    }
}

/// The fragments of a packet, in order.
#[derive(Debug)]
pub struct Fragments<'a> {
    packet: Packet<'a>,
    /// What the second and all later fragments begin with.
    later: Header,
    mtu: usize,
    /// Where the next payload begins.
    at: usize,
}

/// Cuts a packet into fragments of at most `mtu` bytes. `None` when that leaves no room for eight bytes of payload, when
/// the packet must not be fragmented, or when it is itself a fragment that ends beyond the longest packet.
pub fn fragments(packet: Packet<'_>, mtu: usize) -> Option<Fragments<'_>> {
    let end = packet.fragment_offset() + packet.payload().len();
    if packet.dont_fragment() || mtu < packet.header_len() + 8 || end > usize::from(u16::MAX) {
        return None;
    }
    let later = Header::for_later_fragments(&packet)?;
    let at = packet.header_len();
    Some(Fragments {
        packet,
        later,
        mtu,
        at,
    })
}

impl Iterator for Fragments<'_> {
    type Item = Fragment;

    fn next(&mut self) -> Option<Fragment> {
        let (whole, first) = (self.packet.as_bytes().len(), self.packet.header_len());
        if self.at >= whole {
            return None;
        }
        let mut header = if self.at == first {
            Header::copy_of(self.packet.header())?
        } else {
            self.later.clone()
        };
        let room = self.mtu - header.length;
        // RFC 791 2.3: "The data of the long datagram is divided into two portions on a 8 octet (64 bit) boundary"
        let end = if whole - self.at <= room {
            whole
        } else {
            self.at + room / 8 * 8
        };
        let payload = self.at..end;
        self.at = end;

        let last = end == whole && !self.packet.more_fragments();
        let offset = (self.packet.fragment_offset() + payload.start - first) / 8;
        header.finish(payload.len(), offset, last)?;
        Some(Fragment { header, payload })
    }
}

/// A header with room for all options.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    bytes: [u8; MAX_HEADER_LEN],
    length: usize,
}

impl Header {
    fn copy_of(header: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_HEADER_LEN];
        bytes.get_mut(..header.len())?.copy_from_slice(header);
        Some(Self {
            bytes,
            length: header.len(),
        })
    }

    /// The fixed part, and the options that are to be copied.
    fn for_later_fragments(packet: &Packet<'_>) -> Option<Self> {
        let mut header = Self::copy_of(packet.fixed)?;
        let mut options = packet.options();
        while let Some((option, rest)) = next_option(options) {
            if option.first().is_some_and(|kind| kind & COPIED != 0) {
                let end = header.length + option.len();
                header
                    .bytes
                    .get_mut(header.length..end)?
                    .copy_from_slice(option);
                header.length = end;
            }
            options = rest;
        }
        // What follows is zero: the end of the options.
        header.length = header.length.next_multiple_of(4);
        Some(header)
    }

    fn finish(&mut self, payload_len: usize, offset: usize, last: bool) -> Option<()> {
        let length = self.length;
        let header = self.bytes.get_mut(..length)?;
        let fixed = header.first_chunk_mut::<HEADER_LEN>()?;
        fixed[0] = 0x40 | (length / 4) as u8;
        [fixed[2], fixed[3]] = ((length + payload_len) as u16).to_be_bytes();
        // The reserved bit is kept as it came.
        let reserved =
            u16::from_be_bytes([fixed[6], 0]) & !(DONT_FRAGMENT | MORE_FRAGMENTS | OFFSET_MASK);
        let more = if last { 0 } else { MORE_FRAGMENTS };
        [fixed[6], fixed[7]] = (reserved | more | (offset as u16 & OFFSET_MASK)).to_be_bytes();
        [fixed[10], fixed[11]] = [0, 0];
        let checksum = checksum(header);
        let fixed = header.first_chunk_mut::<HEADER_LEN>()?;
        [fixed[10], fixed[11]] = checksum.to_be_bytes();
        Some(())
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// The first option and what follows it; `None` at the end of the options, or where they make no sense.
fn next_option(options: &[u8]) -> Option<(&[u8], &[u8])> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let length = match *options {
        [] | [END, ..] => return None,
        [NO_OPERATION, ..] => 1,
        [_, length, ..] if length >= 2 => usize::from(length),
        _ => return None,
    };
    options.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, ipv4::Repr};
    use proptest::prelude::*;

    fn packet(options: &[u8], payload: usize, offset: u16, more: bool) -> Vec<u8> {
        let repr = Repr {
            dont_fragment: false,
            identification: 4711,
            ..Repr::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::UDP, 0)
        };
        let mut packet = repr.bytes().to_vec();
        packet.extend(options);
        let length = packet.len();
        packet[0] = 0x40 | (length / 4) as u8;
        packet[2..4].copy_from_slice(&((length + payload) as u16).to_be_bytes());
        let field = offset | if more { MORE_FRAGMENTS } else { 0 };
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = checksum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend((0..payload).map(|n| n as u8));
        packet
    }

    fn emitted(original: &[u8], fragment: &Fragment) -> Vec<u8> {
        [fragment.header(), &original[fragment.payload()]].concat()
    }

    proptest! {
        #[test]
        fn fragments_make_up_the_packet(
            payload in 1usize..5000,
            mtu in 68usize..1500,
            options in prop_oneof![
                Just(vec![]),
                Just(vec![0x94, 4, 0, 0]),
                Just(vec![7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0]),
            ],
            before in 0u16..100,
            more: bool,
        ) {
            let original = packet(&options, payload, before, more);
            let view = Packet::new_checked(&original).unwrap();
            let all: Vec<_> = fragments(view, mtu).unwrap().map(|one| emitted(&original, &one)).collect();
            let mut joined: Vec<u8> = Vec::new();
            for (index, bytes) in all.iter().enumerate() {
                let last = index + 1 == all.len();
                let fragment = Packet::new_checked(bytes).unwrap();
                prop_assert!(bytes.len() <= mtu);
                prop_assert_eq!(fragment.total_len(), bytes.len());
                prop_assert!(fragment.checksum_is_right());
                prop_assert_eq!(fragment.identification(), 4711);
                prop_assert_eq!(fragment.fragment_offset(), usize::from(before) * 8 + joined.len());
                prop_assert_eq!(fragment.more_fragments(), !last || more);
                prop_assert!(last || fragment.payload().len().is_multiple_of(8));
                joined.extend(fragment.payload());
            }
            prop_assert_eq!(&joined[..], view.payload());
        }

        #[test]
        fn any_options_are_survived(options in prop::collection::vec(any::<u8>(), 0..=40), payload in 1usize..200) {
            let mut options = options;
            options.resize(options.len().next_multiple_of(4), 0);
            let original = packet(&options, payload, 0, false);
            let view = Packet::new_checked(&original).unwrap();
            if let Some(all) = fragments(view, 76) {
                prop_assert!(all.count() < 50);
            }
        }
    }

    #[test]
    fn only_copied_options_go_into_later_fragments() {
        let options = [7, 3, 4, 0x94, 4, 0, 0, 0];
        let original = packet(&options, 100, 0, false);
        let all: Vec<_> = fragments(Packet::new_checked(&original).unwrap(), 68)
            .unwrap()
            .collect();
        assert_eq!(all[0].header()[20..], options);
        assert_eq!(all[1].header()[20..], [0x94, 4, 0, 0]);
    }

    #[test]
    fn what_fits_stays_whole() {
        let original = packet(&[], 101, 0, false);
        let all: Vec<_> = fragments(Packet::new_checked(&original).unwrap(), 121)
            .unwrap()
            .collect();
        assert_eq!(all.len(), 1);
        assert_eq!(emitted(&original, &all[0]), original);
    }

    #[test]
    fn no_room_df_and_impossible_offsets_are_told() {
        let mut original = packet(&[], 100, 0, false);
        assert!(fragments(Packet::new_checked(&original).unwrap(), 27).is_none());
        let beyond = packet(&[], 100, OFFSET_MASK, false);
        assert!(fragments(Packet::new_checked(&beyond).unwrap(), 68).is_none());
        original[6] |= 0x40;
        assert!(fragments(Packet::new_checked(&original).unwrap(), 68).is_none());
    }
}
