//! Putting fragments together again (RFC 791 3.2, RFC 8200 4.5): what a fragment is a piece of, which pieces have come, and the
//! header of the whole.

use crate::{Protocol, checksum::checksum, ip, ipv4, ipv6};
use core::ops::Range;

/// The most pieces of one packet. A path of 1280 bytes makes 7 of 9000.
pub const MAX_PIECES: usize = 16;

/// A fragment, as a piece of its packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What tells the pieces of one packet from those of another with the same addresses and protocol.
    pub identification: u32,
    /// What the packet carries; of IPv6, what its fragmentable part begins with.
    pub protocol: Protocol,
    /// Where in the fragmentable part it begins, in bytes.
    pub offset: usize,
    /// Whether it is not the last.
    pub more: bool,
    /// The length of the headers that every fragment has, IPv6's fragment header left out.
    pub header: usize,
    /// Where its bytes lie, counted from the start of the fragment.
    pub payload: Range<usize>,
}

impl Piece {
    /// What a fragment is a piece of. `None` when it is none.
    pub fn of(packet: &ip::Packet<'_>) -> Option<Self> {
        let end = packet.as_bytes().len();
        match packet {
            ip::Packet::V4(packet) => packet.is_fragment().then(|| Self {
                identification: packet.identification().into(),
                protocol: packet.protocol(),
                offset: packet.fragment_offset(),
                more: packet.more_fragments(),
                header: packet.header_len(),
                payload: packet.header_len()..end,
            }),
            ip::Packet::V6(packet) => {
                let chain = packet.chain().ok().filter(ipv6::Chain::is_fragment)?;
                let header = chain.fragment?;
                Some(Self {
                    identification: header.identification,
                    protocol: header.next_header,
                    offset: header.offset,
                    more: header.more,
                    header: header.at,
                    payload: header.at + ipv6::FRAGMENT_LEN..end,
                })
            }
        }
    }
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is in its place; others are missing.
    More,
    /// It is in its place, and the whole is there: so many bytes.
    Whole(usize),
    /// The same piece came before.
    Again,
    /// It lies over another, or beyond the end. RFC 5722 4: "the entire datagram (and any constituent fragments, including those
    /// not yet received) MUST be silently discarded."
    Overlap,
    /// No packet can have it, or there are too many.
    Refused,
}

/// Which pieces of a packet have come.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    ranges: [(u16, u16); MAX_PIECES],
    count: usize,
    /// Where the last one ends, if it has come.
    end: Option<u16>,
}

impl Pieces {
    /// Notes a piece. One that is refused or lies over another leaves all as it was.
    pub fn add(&mut self, offset: usize, length: usize, more: bool) -> Added {
        let (Ok(start), Ok(end)) = (u16::try_from(offset), u16::try_from(offset + length)) else {
            return Added::Refused;
        };
        // RFC 8200 4.5: "the length of that fragment must be a multiple of 8 octets", but that of the last.
        if length == 0 || (more && !length.is_multiple_of(8)) {
            return Added::Refused;
        }
        let known = self.ranges.get(..self.count).unwrap_or_default();
        if known.contains(&(start, end)) && more == (self.end != Some(end)) {
            return Added::Again;
        }
        let over = |range: &(u16, u16)| start < range.1 && range.0 < end;
        let beyond = match (more, self.end) {
            (true, Some(last)) => end >= last,
            (false, Some(_)) => true,
            (false, None) => known.iter().any(|range| range.1 > end),
            (true, None) => false,
        };
        if beyond || known.iter().any(over) {
            return Added::Overlap;
        }
        let Some(free) = self.ranges.get_mut(self.count) else {
            return Added::Refused;
        };
        *free = (start, end);
        self.count += 1;
        if !more {
            self.end = Some(end);
        }
        let known = self.ranges.get(..self.count).unwrap_or_default();
        let there: usize = known.iter().map(|(from, to)| usize::from(to - from)).sum();
        match self.end {
            Some(last) if there == usize::from(last) => Added::Whole(there),
            _ => Added::More,
        }
    }
}

/// Makes the headers of a first fragment, at the start of `packet`, those of the whole: `header` bytes of them, before a payload
/// of this protocol that ends with `packet`. `None` when they are no headers.
pub fn finish_header(packet: &mut [u8], header: usize, protocol: Protocol) -> Option<()> {
    let total = packet.len();
    match ip::Family::of_packet(packet)? {
        ip::Family::V4 => {
            let header = packet.get_mut(..header)?;
            let fixed = header.first_chunk_mut::<{ ipv4::HEADER_LEN }>()?;
            fixed[2..4].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
            // What is whole has neither flags nor an offset.
            fixed[6..8].fill(0);
            fixed[10..12].fill(0);
            let sum = checksum(header);
            header.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
        }
        ip::Family::V6 => {
            let length = u16::try_from(total.checked_sub(ipv6::HEADER_LEN)?).ok()?;
            packet.get_mut(4..6)?.copy_from_slice(&length.to_be_bytes());
            // RFC 8200 4.5: "The Next Header field of the last header of the Per-Fragment headers is obtained from the Next
            // Header field of the first fragment's Fragment header."
            let (mut names_next, mut at) = (6, ipv6::HEADER_LEN);
            while at < header {
                names_next = at;
                at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
            }
            *packet.get_mut(names_next)? = protocol.0;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    /// A packet of either family, and its fragments.
    fn fragmented(six: bool, payload: &[u8], mtu: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let length = payload.len() as u16;
        if six {
            let head = ipv6::Repr::new(
                Ipv6Addr::LOCALHOST,
                Ipv6Addr::UNSPECIFIED,
                Protocol::ESP,
                length,
            );
            let whole = [&head.bytes()[..], payload].concat();
            let packet = ipv6::Packet::new_checked(&whole).unwrap();
            let pieces = ipv6::fragments(packet, mtu, 77).unwrap();
            let cut = |piece: ipv6::Fragment| [piece.header(), &whole[piece.payload()]].concat();
            let pieces = pieces.map(cut).collect();
            (whole, pieces)
        } else {
            let (from, to) = (Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
            let head = ipv4::Repr {
                identification: 77,
                dont_fragment: false,
                ..ipv4::Repr::new(from, to, Protocol::ESP, length)
            };
            let whole = [&head.bytes()[..], payload].concat();
            let packet = ipv4::Packet::new_checked(&whole).unwrap();
            let pieces = ipv4::fragments(packet, mtu).unwrap();
            let cut = |piece: ipv4::Fragment| [piece.header(), &whole[piece.payload()]].concat();
            let pieces = pieces.map(cut).collect();
            (whole, pieces)
        }
    }

    proptest! {
        #[test]
        fn what_was_cut_is_put_together_in_any_order(
            six: bool, payload in prop::collection::vec(any::<u8>(), 500..2000), mtu in 200usize..480,
            order in any::<u64>(), again in any::<prop::sample::Index>(),
        ) {
            let (whole, mut pieces) = fragmented(six, &payload, mtu);
            let count = pieces.len();
            for at in (1..count).rev() {
                pieces.swap(at, (order.rotate_left(at as u32) % (at as u64 + 1)) as usize);
            }
            let repeated = again.index(count - 1);
            pieces.insert(count - 1, pieces[repeated].clone());
            let (mut known, mut bytes) = (Pieces::default(), vec![0; whole.len()]);
            for (number, fragment) in pieces.iter().enumerate() {
                let piece = Piece::of(&ip::Packet::new_checked(fragment).unwrap()).unwrap();
                prop_assert_eq!((piece.identification, piece.protocol), (77, Protocol::ESP));
                let added = known.add(piece.offset, piece.payload.len(), piece.more);
                prop_assert_eq!(added, match number {
                    last if last == count => Added::Whole(payload.len()),
                    repeated if repeated == count - 1 => Added::Again,
                    _ => Added::More,
                });
                let at = piece.header + piece.offset;
                bytes[at..at + piece.payload.len()].copy_from_slice(&fragment[piece.payload.clone()]);
                if piece.offset == 0 {
                    bytes[..piece.header].copy_from_slice(&fragment[..piece.header]);
                }
            }
            let header = if six { 40 } else { 20 };
            finish_header(&mut bytes, header, Protocol::ESP).unwrap();
            prop_assert_eq!(bytes, whole);
        }

        /// The oracle is a byte for every byte.
        #[test]
        fn nothing_is_whole_that_has_holes_or_was_written_twice(
            steps in prop::collection::vec((0usize..12, 1usize..6, any::<bool>()), 1..40),
        ) {
            let (mut pieces, mut covered, mut last) = (Pieces::default(), [false; 200], None);
            for (start, length, more) in steps {
                let (start, end) = (start * 8, (start + length) * 8);
                match pieces.add(start, end - start, more) {
                    added @ (Added::More | Added::Whole(_)) => {
                        prop_assert!(!covered[start..end].contains(&true));
                        covered[start..end].fill(true);
                        if !more {
                            last = Some(end);
                        }
                        let whole = last.is_some_and(|end| !covered[..end].contains(&false));
                        prop_assert_eq!(matches!(added, Added::Whole(_)), whole);
                        prop_assert!(last.is_none_or(|end| !covered[end..].contains(&true)));
                        if whole {
                            break;
                        }
                    }
                    Added::Again => prop_assert!(!covered[start..end].contains(&false)),
                    Added::Overlap => {
                        let over = covered[start..end].contains(&true);
                        let beyond = last.is_some_and(|last| !more || end >= last);
                        prop_assert!(over || beyond || (!more && covered[end..].contains(&true)));
                    }
                    Added::Refused => prop_assert!(covered.iter().filter(|byte| **byte).count() >= MAX_PIECES * 8),
                }
            }
        }
    }

    #[test]
    fn pieces_that_no_packet_has_are_refused() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.add(0, 0, false), Added::Refused);
        assert_eq!(pieces.add(0, 12, true), Added::Refused);
        assert_eq!(pieces.add(65_528, 16, false), Added::Refused);
        for n in 0..MAX_PIECES {
            assert_eq!(pieces.add(n * 8, 8, true), Added::More);
        }
        assert_eq!(pieces.add(MAX_PIECES * 8, 8, true), Added::Refused);
    }

    #[test]
    fn extension_headers_before_the_fragment_header_stay() {
        let head = ipv6::Repr::new(
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::UNSPECIFIED,
            Protocol::HOP_BY_HOP,
            24,
        );
        let options = [Protocol::FRAGMENT.0, 0, 1, 4, 0, 0, 0, 0];
        let fragment = [Protocol::ESP.0, 0, 0, 1, 0, 0, 0, 9];
        let bytes = [&head.bytes()[..], &options, &fragment, &[7; 8]].concat();
        let piece = Piece::of(&ip::Packet::new_checked(&bytes).unwrap()).unwrap();
        assert_eq!((piece.header, piece.payload.clone()), (48, 56..64));
        let mut whole = [&bytes[..48], &[7; 16]].concat();
        finish_header(&mut whole, 48, Protocol::ESP).unwrap();
        let packet = ipv6::Packet::new_checked(&whole).unwrap();
        let chain = packet.chain().unwrap();
        assert_eq!((chain.protocol, chain.offset), (Protocol::ESP, 48));
        assert_eq!(chain.fragment, None);
    }
}
