//! TCP headers (RFC 9293 3.1), and clamping the maximum segment size that a SYN announces, so that full-size segments
//! fit through the tunnel.

use crate::{Malformed, NoRoom, checksum::update, put, split_header};
use core::ops::BitOr;

/// The length of a header without options.
pub const HEADER_LEN: usize = 20;
/// Where the checksum lies.
pub(crate) const CHECKSUM_AT: usize = 16;

/// The control bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection.
    pub const SYN: Self = Self(0x02);
    /// Resets a connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A checked view of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    fixed: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Checks the lengths. The checksum is not looked at.
    ///
    /// # Errors
    ///
    /// The header is not whole, or its length makes no sense.
    #[inline]
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = split_header::<HEADER_LEN>(bytes)?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        let options_len = header_len
            .checked_sub(HEADER_LEN)
            .ok_or(Malformed::HeaderLength(header_len))?;
        let (options, payload) =
            rest.split_at_checked(options_len)
                .ok_or(Malformed::Truncated {
                    needed: header_len,
                    found: bytes.len(),
                })?;
        Ok(Self {
            fixed,
            options,
            payload,
        })
    }

    /// The source port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[0], self.fixed[1]])
    }

    /// The destination port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// The number of the first byte.
    #[inline]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// The number of the next byte that the sender expects.
    #[inline]
    pub fn acknowledgement(&self) -> u32 {
        u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]])
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.fixed[13])
    }

    /// The receive window, before scaling.
    #[inline]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.fixed[14], self.fixed[15]])
    }

    /// The checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[CHECKSUM_AT], self.fixed[CHECKSUM_AT + 1]])
    }

    /// The options, padding included.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The length of header and options.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The maximum segment size that the sender announces.
    #[inline]
    pub fn mss(&self) -> Option<u16> {
        let at = find_mss(self.options)?;
        let bytes = self.options.get(at..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }
}

/// A header without options as a value; the checksum is left to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// The source port.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
    /// The number of the first byte.
    pub sequence: u32,
    /// The number of the next byte that the sender expects.
    pub acknowledgement: u32,
    /// The control bits.
    pub flags: Flags,
    /// The receive window, before scaling.
    pub window: u16,
}

impl Repr {
    /// The header of a segment, without options.
    #[inline]
    pub fn parse(segment: &Segment<'_>) -> Self {
        Self {
            source_port: segment.source_port(),
            destination_port: segment.destination_port(),
            sequence: segment.sequence(),
            acknowledgement: segment.acknowledgement(),
            flags: segment.flags(),
            window: segment.window(),
        }
    }

    /// The header's bytes, with a checksum of zero.
    #[inline]
    pub const fn bytes(&self) -> [u8; HEADER_LEN] {
        let [a, b] = self.source_port.to_be_bytes();
        let [c, d] = self.destination_port.to_be_bytes();
        let [e, f, g, h] = self.sequence.to_be_bytes();
        let [i, j, k, l] = self.acknowledgement.to_be_bytes();
        let [m, n] = self.window.to_be_bytes();
        [
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            5 << 4,
            self.flags.0,
            m,
            n,
            0,
            0,
            0,
            0,
        ]
    }

    /// Writes the header at the start of `buffer`.
    ///
    /// # Errors
    ///
    /// The buffer is too short.
    #[inline]
    pub fn emit(&self, buffer: &mut [u8]) -> Result<(), NoRoom> {
        put(self.bytes(), buffer)
    }
}

/// Where in the options the value of the MSS option lies (RFC 9293 3.2: kind 2, length 4).
#[inline]
fn find_mss(options: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MSS: u8 = 2;
    let mut at = 0;
    loop {
        let length = match *options.get(at..)? {
            [] | [END, ..] => return None,
            [NO_OPERATION, ..] => 1,
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [_, length, ..] if length >= 2 => usize::from(length),
            _ => return None,
        };
        at += length;
    }
}

/// Lowers the maximum segment size that a SYN announces to `max`, in place, checksum included. Gives what it was before,
/// or `None` and changes nothing when there is nothing to lower.
#[inline]
pub fn clamp_mss(segment: &mut [u8], max: u16) -> Option<u16> {
    let view = Segment::new_checked(segment).ok()?;
    if !view.flags().contains(Flags::SYN) {
        return None;
    }
    let at = HEADER_LEN + find_mss(view.options())?;
    let checksum = view.checksum();
    let value = segment.get_mut(at..)?.first_chunk_mut::<2>()?;
    let old = u16::from_be_bytes(*value);
    if old <= max {
        return None;
    }
    *value = max.to_be_bytes();
    // A word across two aligned ones counts in the sum with its bytes swapped (RFC 1071 2 (B)).
    let changed = if at.is_multiple_of(2) {
        update(checksum, old, max)
    } else {
        update(checksum, old.swap_bytes(), max.swap_bytes())
    };
    let field = segment.get_mut(CHECKSUM_AT..)?.first_chunk_mut::<2>()?;
    *field = changed.to_be_bytes();
    Some(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, checksum::Sum};
    use proptest::prelude::*;

    fn repr() -> impl Strategy<Value = Repr> {
        (
            any::<u16>(),
            any::<u16>(),
            any::<u32>(),
            any::<u32>(),
            any::<u8>(),
            any::<u16>(),
        )
            .prop_map(
                |(source_port, destination_port, sequence, acknowledgement, flags, window)| Repr {
                    source_port,
                    destination_port,
                    sequence,
                    acknowledgement,
                    flags: Flags(flags),
                    window,
                },
            )
    }

    fn whole_checksum(segment: &[u8]) -> u16 {
        Sum::pseudo_header_v4(
            [10, 0, 0, 1].into(),
            [10, 0, 0, 2].into(),
            Protocol::TCP,
            segment.len() as u16,
        )
        .add_bytes(segment)
        .complement()
    }

    fn segment(repr: Repr, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut bytes = repr.bytes().to_vec();
        bytes.extend(options);
        let header_len = bytes.len().next_multiple_of(4);
        bytes.resize(header_len, 0);
        bytes[12] = ((header_len / 4) as u8) << 4;
        bytes.extend(payload);
        let checksum = whole_checksum(&bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80), max: u16) {
            let mut bytes = bytes;
            if let Some(flags) = bytes.get_mut(13) {
                *flags |= 2;
            }
            if let Ok(segment) = Segment::new_checked(&bytes) {
                prop_assert_eq!(segment.header_len() + segment.payload().len(), bytes.len());
                let _ = segment.mss();
            }
            let before = bytes.clone();
            if clamp_mss(&mut bytes, max).is_none() {
                prop_assert_eq!(bytes, before);
            }
        }

        #[test]
        fn any_options_are_survived(repr in repr(), options in prop::collection::vec(0u8..6, 0..=40), max: u16) {
            let mut bytes = segment(repr, &options, &[]);
            let announced = Segment::new_checked(&bytes).unwrap().mss();
            let clamped = clamp_mss(&mut bytes, max);
            if repr.flags.contains(Flags::SYN) && announced.is_some_and(|mss| mss > max) {
                prop_assert_eq!(clamped, announced);
                prop_assert_eq!(whole_checksum(&bytes), 0);
            } else {
                prop_assert_eq!(clamped, None);
            }
        }

        #[test]
        fn what_is_emitted_is_parsed(repr in repr(), payload in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut bytes = vec![0; HEADER_LEN];
            repr.emit(&mut bytes).unwrap();
            bytes.extend(&payload);
            let segment = Segment::new_checked(&bytes).unwrap();
            prop_assert_eq!(Repr::parse(&segment), repr);
            prop_assert_eq!(segment.payload(), &payload);
            prop_assert_eq!(segment.mss(), None);
        }

        #[test]
        fn a_clamped_segment_has_a_right_checksum(
            repr in repr(), before in 0usize..6, announced: u16, max: u16,
            payload in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let repr = Repr { flags: repr.flags | Flags::SYN, ..repr };
            let mut options = vec![1; before];
            options.extend([2, 4]);
            options.extend(announced.to_be_bytes());
            options.extend([3, 3, 7]);
            let mut bytes = segment(repr, &options, &payload);
            let clamped = clamp_mss(&mut bytes, max);
            prop_assert_eq!(clamped, (announced > max).then_some(announced));
            prop_assert_eq!(Segment::new_checked(&bytes).unwrap().mss(), Some(announced.min(max)));
            prop_assert_eq!(whole_checksum(&bytes), 0);
        }
    }

    #[test]
    fn only_a_syn_is_clamped() {
        let repr = Repr {
            source_port: 1,
            destination_port: 2,
            sequence: 3,
            acknowledgement: 4,
            flags: Flags::ACK,
            window: 5,
        };
        let mut bytes = segment(repr, &[2, 4, 0x05, 0xb4], &[]);
        assert_eq!(clamp_mss(&mut bytes, 1300), None);
        bytes[13] |= Flags::SYN.0;
        assert_eq!(clamp_mss(&mut bytes, 1300), Some(1460));
        assert_eq!(clamp_mss(&mut bytes, 1300), None);
    }
}
