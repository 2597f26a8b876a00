//! The IP headers before AH as the ICV covers them: what routers may change is zero, what they change in a way that can be
//! foreseen is as the receiver sees it (RFC 4302 3.3.3.1 and appendix A).

use crate::{Protocol, ip::Family, ipv4, ipv6};

/// The most bytes of headers before AH; a packet with more is not covered.
pub const MAX_COVERED: usize = 512;

/// Headers as the ICV covers them.
#[derive(Debug, Clone)]
pub struct Covered {
    bytes: [u8; MAX_COVERED],
    length: usize,
}

/// Why headers cannot be covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCovered {
    /// More than [`MAX_COVERED`] bytes.
    TooLong,
    /// An option or an extension header that does not end where it should.
    Malformed,
    /// An extension header, of this number, that nobody says how to cover.
    Unforeseen(u8),
    /// A fragment: AH is applied to whole packets only (RFC 4302 3.3.4).
    Fragment,
}

mod option {
    pub const END: u8 = 0;
    pub const NOP: u8 = 1;
    pub const SECURITY: u8 = 130;
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub const EXTENDED_SECURITY: u8 = 133;
    pub const COMMERCIAL_SECURITY: u8 = 134;
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
    pub const ROUTER_ALERT: u8 = 148;
    pub const SENDER_DIRECTED: u8 = 149;
}

/// RFC 8200 4.2: "0 - Option Data does not change en route, 1 - Option Data may change en route".
const CHANGES_EN_ROUTE: u8 = 0x20;
const PAD1: u8 = 0;
/// Types of routing headers whose addresses swap places with the destination, one at each stop: RFC 2460 4.4, RFC 6275 6.4.
const SWAPPING: [u8; 2] = [0, 2];

impl Covered {
    /// Of the headers of either family.
    ///
    /// # Errors
    ///
    /// As for [`ipv4`](Self::ipv4) and [`ipv6`](Self::ipv6).
    #[inline]
    pub fn of(headers: &[u8]) -> Result<Self, NotCovered> {
        match Family::of_packet(headers) {
            Some(Family::V6) => Self::ipv6(headers),
            _ => Self::ipv4(headers),
        }
    }

    /// An IPv4 header with its options, as it is sent or as it came.
    ///
    /// # Errors
    ///
    /// An option runs over the header's end, or this is no header.
    #[inline]
    pub fn ipv4(header: &[u8]) -> Result<Self, NotCovered> {
        let mut covered = Self::copy(header)?;
        let (fixed, options) = covered
            .rest(0)
            .split_first_chunk_mut::<{ ipv4::HEADER_LEN }>()
            .ok_or(NotCovered::Malformed)?;
        // "Flags - This field is excluded because an intermediate router might set the DF bit, even if the source did
        // not select it." DSCP and ECN, flags and offset, TTL, checksum:
        fixed[1] = 0;
        (fixed[6], fixed[7]) = (0, 0);
        fixed[8] = 0;
        (fixed[10], fixed[11]) = (0, 0);
        if !options.is_empty()
            && let Some(last_stop) = cover_options(options)?
        {
            [fixed[16], fixed[17], fixed[18], fixed[19]] = last_stop;
        }
        Ok(covered)
    }

    /// An IPv6 header and the extension headers between it and AH, as they are sent or as they came.
    ///
    /// # Errors
    ///
    /// The extension headers do not lead to AH, or one of them cannot be covered.
    pub fn ipv6(headers: &[u8]) -> Result<Self, NotCovered> {
        let mut covered = Self::copy(headers)?;
        let fixed = covered
            .rest(0)
            .first_chunk_mut::<{ ipv6::HEADER_LEN }>()
            .ok_or(NotCovered::Malformed)?;
        // Class, flow label and hop limit.
        [fixed[0], fixed[1], fixed[2], fixed[3], ..] = [0x60, 0, 0, 0];
        fixed[7] = 0;
        let (mut next, mut next_at, mut at) = (Protocol(fixed[6]), 6, ipv6::HEADER_LEN);
        while next != Protocol::AH {
            let (length, following) = match next {
                Protocol::HOP_BY_HOP | Protocol::DESTINATION_OPTIONS => {
                    let header = extension(covered.rest(at))?;
                    cover_ipv6_options(header.get_mut(2..).unwrap_or_default())?;
                    (header.len(), header.first())
                }
                Protocol::ROUTING => {
                    let length = extension(covered.rest(at))?.len();
                    covered.arrive(at, length)?;
                    (length, covered.bytes.get(at))
                }
                Protocol::FRAGMENT => {
                    covered.take_out_fragment(at, next_at)?;
                    (0, covered.bytes.get(next_at))
                }
                Protocol(other) => return Err(NotCovered::Unforeseen(other)),
            };
            next = following.map_or(Protocol::NONE, |next| Protocol(*next));
            if length > 0 {
                next_at = at;
            }
            at += length;
        }
        if at == covered.length {
            Ok(covered)
        } else {
            Err(NotCovered::Malformed)
        }
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    #[inline]
    fn copy(headers: &[u8]) -> Result<Self, NotCovered> {
        let mut bytes = [0; MAX_COVERED];
        bytes
            .get_mut(..headers.len())
            .ok_or(NotCovered::TooLong)?
            .copy_from_slice(headers);
        Ok(Self {
            bytes,
            length: headers.len(),
        })
    }

    #[inline]
    fn rest(&mut self, from: usize) -> &mut [u8] {
        self.bytes.get_mut(from..self.length).unwrap_or_default()
    }

    /// RFC 4302 A2: "The sender must order the field so that it appears as it will at the receiver, prior to performing the
    /// ICV computation."
    #[cold]
    fn arrive(&mut self, at: usize, length: usize) -> Result<(), NotCovered> {
        let (before, rest) = self
            .bytes
            .split_at_mut_checked(at)
            .ok_or(NotCovered::Malformed)?;
        let destination = before
            .get_mut(24..ipv6::HEADER_LEN)
            .ok_or(NotCovered::Malformed)?;
        let header = rest.get_mut(..length).ok_or(NotCovered::Malformed)?;
        let [_, _, kind, left, _, _, _, _, addresses @ ..] = header else {
            return Err(NotCovered::Malformed);
        };
        if *left == 0 {
            return Ok(());
        }
        if !SWAPPING.contains(kind) {
            return Err(NotCovered::Unforeseen(Protocol::ROUTING.0));
        }
        let (addresses, _) = addresses.as_chunks_mut::<16>();
        let first = addresses
            .len()
            .checked_sub(usize::from(*left))
            .ok_or(NotCovered::Malformed)?;
        for stop in addresses.iter_mut().skip(first) {
            stop.swap_with_slice(destination);
        }
        *left = 0;
        Ok(())
    }

    /// RFC 4302 A2: "AH MUST "remove" (or skip over) this header and change the previous header's "Next Header" field to be
    /// the "Next Header" field in the Fragmentation Extension Header." The payload is shorter by as much.
    #[cold]
    fn take_out_fragment(&mut self, at: usize, next_at: usize) -> Result<(), NotCovered> {
        let header = self
            .rest(at)
            .first_chunk::<FRAGMENT_LEN>()
            .ok_or(NotCovered::Malformed)?;
        // The offset and the M flag; between them lie two reserved bits.
        if (header[2], header[3] & 0xf9) != (0, 0) {
            return Err(NotCovered::Fragment);
        }
        let next = header[0];
        let end = self.length;
        self.bytes
            .get_mut(at..end)
            .ok_or(NotCovered::Malformed)?
            .rotate_left(FRAGMENT_LEN);
        self.length -= FRAGMENT_LEN;
        *self.bytes.get_mut(next_at).ok_or(NotCovered::Malformed)? = next;
        let stated = u16::from_be_bytes([self.bytes[4], self.bytes[5]]);
        [self.bytes[4], self.bytes[5]] = stated.saturating_sub(FRAGMENT_LEN as u16).to_be_bytes();
        Ok(())
    }
}

/// The length of the fragment header (RFC 8200 4.5).
const FRAGMENT_LEN: usize = 8;

/// Zeroes mutable options of IPv4, each as a whole, and gives the end of a source route that was not yet reached.
///
/// RFC 4302 3.3.3.1: "If the IPsec implementation encounters an IPv4 option that it does not recognize, it should zero the
/// whole option, using the second byte of the option as the length."
#[cold]
fn cover_options(mut options: &mut [u8]) -> Result<Option<[u8; 4]>, NotCovered> {
    let mut last_stop = None;
    while let [kind, ..] = *options {
        let length = match kind {
            // A1 has it among the immutable ones, with what pads the header behind it.
            option::END => break,
            option::NOP => 1,
            _ => match *options {
                [_, length, ..] if length >= 2 => usize::from(length),
                _ => return Err(NotCovered::Malformed),
            },
        };
        let (this, behind) = options
            .split_at_mut_checked(length)
            .ok_or(NotCovered::Malformed)?;
        match kind {
            option::NOP
            | option::SECURITY
            | option::EXTENDED_SECURITY
            | option::COMMERCIAL_SECURITY
            | option::ROUTER_ALERT
            | option::SENDER_DIRECTED => {}
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => {
                // RFC 791 3.1: "If the pointer is greater than the length, the source route is empty".
                if let [_, length, pointer, ..] = *this
                    && pointer <= length
                {
                    last_stop = this.last_chunk().copied();
                }
                this.fill(0);
            }
            _ => this.fill(0),
        }
        options = behind;
    }
    Ok(last_stop)
}

/// The extension header at the start of these bytes.
fn extension(bytes: &mut [u8]) -> Result<&mut [u8], NotCovered> {
    let [_, words, ..] = *bytes else {
        return Err(NotCovered::Malformed);
    };
    bytes
        .get_mut(..(usize::from(words) + 1) * 8)
        .ok_or(NotCovered::Malformed)
}

/// RFC 4302 3.3.3.1.2.2: "For any option for which contents may change en-route, the entire "Option Data" field must be
/// treated as zero-valued octets when computing or verifying the ICV."
fn cover_ipv6_options(mut options: &mut [u8]) -> Result<(), NotCovered> {
    while let [kind, ..] = *options {
        let length = match *options {
            _ if kind == PAD1 => 1,
            [_, length, ..] => 2 + usize::from(length),
            _ => return Err(NotCovered::Malformed),
        };
        let (this, behind) = options
            .split_at_mut_checked(length)
            .ok_or(NotCovered::Malformed)?;
        if kind & CHANGES_EN_ROUTE != 0 {
            this.get_mut(2..).unwrap_or_default().fill(0);
        }
        options = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(options: &[u8]) -> Vec<u8> {
        let words = 5 + options.len() as u8 / 4;
        let mut header = vec![
            0x40 | words,
            0xb9,
            0,
            84,
            0x12,
            0x34,
            0x40,
            0,
            61,
            51,
            0xaa,
            0xbb,
            192,
            0,
            2,
            1,
            192,
            0,
            2,
            2,
        ];
        header.extend(options);
        header
    }

    #[test]
    fn what_routers_change_in_ipv4_is_zero() {
        let covered = Covered::ipv4(&v4(&[])).unwrap();
        let expected = [
            0x45, 0, 0, 84, 0x12, 0x34, 0, 0, 0, 51, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ];
        assert_eq!(covered.as_bytes(), expected);
    }

    #[test]
    fn options_of_ipv4_are_covered_as_appendix_a1_says() {
        for (options, expected) in [
            // Router alert, NOP, end and padding.
            (
                &[148, 4, 0, 0, 1, 0, 9, 9][..],
                &[148, 4, 0, 0, 1, 0, 9, 9][..],
            ),
            (&[130, 4, 7, 7, 134, 3, 5, 0], &[130, 4, 7, 7, 134, 3, 5, 0]),
            // Record route, a timestamp, and one that nobody knows.
            (&[7, 7, 4, 1, 2, 3, 4, 1], &[0, 0, 0, 0, 0, 0, 0, 1]),
            (&[68, 4, 5, 0, 222, 3, 9, 1], &[0, 0, 0, 0, 0, 0, 0, 1]),
        ] {
            let covered = Covered::ipv4(&v4(options)).unwrap();
            assert_eq!(&covered.as_bytes()[20..], expected, "{options:?}");
            assert_eq!(&covered.as_bytes()[16..20], [192, 0, 2, 2]);
        }
        for options in [[7, 0, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
            let error = Covered::ipv4(&v4(&options)).unwrap_err();
            assert_eq!(error, NotCovered::Malformed, "{options:?}");
        }
    }

    #[test]
    fn a_source_route_leads_to_its_last_stop() {
        for kind in [131, 137] {
            let under_way = [kind, 11, 4, 10, 0, 0, 1, 10, 0, 0, 2, 1];
            let covered = Covered::ipv4(&v4(&under_way)).unwrap();
            assert_eq!(&covered.as_bytes()[16..20], [10, 0, 0, 2]);
            assert_eq!(
                &covered.as_bytes()[20..],
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
            );
            let arrived = [kind, 11, 12, 10, 0, 0, 1, 10, 0, 0, 2, 1];
            let covered = Covered::ipv4(&v4(&arrived)).unwrap();
            assert_eq!(&covered.as_bytes()[16..20], [192, 0, 2, 2]);
        }
    }

    fn v6(next: u8, destination: u8, extensions: &[u8]) -> Vec<u8> {
        let mut header = vec![0x6b, 0x91, 0x23, 0x45, 0, 100, next, 63];
        header.extend([0x20; 16]);
        header.extend([destination; 16]);
        header.extend(extensions);
        header
    }

    #[test]
    fn what_routers_change_in_ipv6_is_zero() {
        let covered = Covered::ipv6(&v6(51, 3, &[])).unwrap();
        assert_eq!(covered.as_bytes()[..8], [0x60, 0, 0, 0, 0, 100, 51, 0]);
        assert_eq!(covered.as_bytes()[8..], v6(51, 3, &[])[8..]);
    }

    #[test]
    fn options_of_ipv6_say_themselves_whether_they_change() {
        // Hop-by-hop with an immutable and a mutable option, Pad1 and PadN; destination options with a mutable one.
        let extensions = [
            60, 1, 0x05, 2, 9, 9, 0x3e, 2, 8, 8, 0, 1, 3, 0, 0, 0, //
            51, 0, 0xe7, 4, 1, 2, 3, 4,
        ];
        let expected = [
            60, 1, 0x05, 2, 9, 9, 0x3e, 2, 0, 0, 0, 1, 3, 0, 0, 0, //
            51, 0, 0xe7, 4, 0, 0, 0, 0,
        ];
        let covered = Covered::ipv6(&v6(0, 3, &extensions)).unwrap();
        assert_eq!(covered.as_bytes()[40..], expected);
    }

    #[test]
    fn a_routing_header_is_as_the_receiver_sees_it() {
        let routing = |left, first, second| {
            let mut header = vec![51, 4, 0, left, 0, 0, 0, 0];
            header.extend([first; 16]);
            header.extend([second; 16]);
            header
        };
        // RFC 2460 4.4: from S over I1 = 1 and I2 = 2 to D = 3.
        let arrived = v6(43, 3, &routing(0, 1, 2));
        let covered = Covered::ipv6(&arrived).unwrap();
        for under_way in [v6(43, 2, &routing(1, 1, 3)), v6(43, 1, &routing(2, 2, 3))] {
            let foreseen = Covered::ipv6(&under_way).unwrap();
            assert_eq!(foreseen.as_bytes(), covered.as_bytes());
        }
        let mut unknown = v6(43, 2, &routing(1, 1, 3));
        unknown[42] = 4;
        assert_eq!(
            Covered::ipv6(&unknown).unwrap_err(),
            NotCovered::Unforeseen(43)
        );
        let mut beyond = v6(43, 2, &routing(3, 1, 3));
        assert_eq!(Covered::ipv6(&beyond).unwrap_err(), NotCovered::Malformed);
        beyond[43] = 0;
        assert!(Covered::ipv6(&beyond).is_ok());
    }

    #[test]
    fn a_fragment_header_of_a_whole_packet_is_taken_out() {
        let with = v6(0, 3, &[44, 0, 1, 4, 0, 0, 0, 0, 51, 0, 0, 0, 1, 2, 3, 4]);
        let mut without = v6(0, 3, &[51, 0, 1, 4, 0, 0, 0, 0]);
        without[5] -= 8;
        let expected = Covered::ipv6(&without).unwrap();
        let covered = Covered::ipv6(&with).unwrap();
        assert_eq!(covered.as_bytes(), expected.as_bytes());
        for (high, low) in [(0, 1), (0, 8), (1, 0)] {
            let mut part = with.clone();
            (part[50], part[51]) = (high, low);
            assert_eq!(Covered::ipv6(&part).unwrap_err(), NotCovered::Fragment);
        }
    }

    #[test]
    fn what_does_not_lead_to_ah_is_refused() {
        assert_eq!(
            Covered::ipv6(&v6(6, 3, &[])).unwrap_err(),
            NotCovered::Unforeseen(6)
        );
        let past_the_end = v6(0, 3, &[51, 1, 1, 4, 0, 0, 0, 0]);
        assert_eq!(
            Covered::ipv6(&past_the_end).unwrap_err(),
            NotCovered::Malformed
        );
        let before_the_end = v6(51, 3, &[0; 8]);
        assert_eq!(
            Covered::ipv6(&before_the_end).unwrap_err(),
            NotCovered::Malformed
        );
        assert_eq!(
            Covered::ipv6(&v6(51, 3, &[0; 600])).unwrap_err(),
            NotCovered::TooLong
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), next in prop::sample::select(vec![0u8, 43, 44, 60, 51])) {
            let _ = Covered::ipv4(&bytes);
            let mut bytes = bytes;
            let _ = Covered::ipv6(&bytes);
            if let Some(byte) = bytes.get_mut(6) {
                *byte = next;
            }
            if let Ok(covered) = Covered::ipv6(&bytes) {
                prop_assert!(covered.as_bytes().len() <= bytes.len());
            }
        }
    }
}
