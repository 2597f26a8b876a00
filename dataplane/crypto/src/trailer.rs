//! The ESP trailer (RFC 4303 2.4 to 2.6), by value, so that it need not be written behind the received packet.

/// The longest trailer: 16 bytes of padding, pad length and next header.
pub const MAX_TRAILER: usize = 18;

/// What is encrypted after the plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// With zeros behind it. In words, so that it can be put together and moved in registers.
    words: [[u8; 8]; 3],
    length: u8,
}

const _: () = assert!(MAX_TRAILER <= size_of::<[[u8; 8]; 3]>());

impl Trailer {
    /// No trailer.
    pub const NONE: Self = Self {
        words: [[0; 8]; 3],
        length: 0,
    };

    /// These bytes, `None` when they are more than [`MAX_TRAILER`].
    #[inline]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut trailer = Self::NONE;
        let space = trailer.words.as_flattened_mut().get_mut(..bytes.len())?;
        if bytes.len() > MAX_TRAILER {
            return None;
        }
        space.copy_from_slice(bytes);
        trailer.length = bytes.len() as u8;
        Some(trailer)
    }

    /// The shortest trailer behind a payload of ESP.
    ///
    /// RFC 4303 2.4: "the first padding byte appended to the plaintext is numbered 1, with subsequent padding bytes making
    /// up a monotonically increasing sequence", and "the resulting ciphertext terminates on a 4-byte boundary".
    #[inline(always)]
    pub const fn for_payload(payload_len: usize, next_header: u8) -> Self {
        Self::to_align(payload_len, next_header, 4)
    }

    /// The shortest trailer that makes payload and trailer end on [so many bytes](crate::Algorithm::alignment), a power of two
    /// up to 16; on 4 if that is less (RFC 4303 2.4).
    ///
    /// It is put together in registers, without a branch that would depend on the length.
    #[inline(always)]
    pub const fn to_align(payload_len: usize, next_header: u8, alignment: usize) -> Self {
        const NUMBERED: u128 = 0x100f_0e0d_0c0b_0a09_0807_0605_0403_0201;
        let alignment = if alignment < 4 { 4 } else { alignment };
        let padding = (payload_len + 2).wrapping_neg() & (alignment - 1) & 15;
        let end = 8 * padding as u32;
        let before = NUMBERED & ((1 << end) - 1);
        let tail = (next_header as u128) << 8 | padding as u128;
        let whole = before | tail << end;
        // The last byte of the longest lies beyond 16.
        let last = if padding == 15 { next_header } else { 0 };
        Self {
            words: [
                (whole as u64).to_le_bytes(),
                ((whole >> 64) as u64).to_le_bytes(),
                (last as u64).to_le_bytes(),
            ],
            length: padding as u8 + 2,
        }
    }

    /// How long it is.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "it is not a collection")]
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// Its bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        let bytes = self.words.as_flattened();
        bytes.get(..self.len()).unwrap_or_default()
    }

    /// The same, put together from its words: whoever goes on with this one may have it in memory, and the first need not.
    #[inline(always)]
    pub(crate) const fn apart(&self) -> Self {
        let [first, second, third] = self.words;
        Self {
            words: [first, second, third],
            length: self.length,
        }
    }

    /// Its bytes and zeros behind them.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) const fn padded(&self) -> &[u8] {
        self.words.as_flattened()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_and_trailer_end_as_they_should() {
        for (payload, alignment) in (0..100).flat_map(|payload| [(payload, 4), (payload, 16)]) {
            let trailer = Trailer::to_align(payload, 4, alignment);
            assert_eq!((payload + trailer.len()) % alignment, 0);
            let [padding @ .., pad_length, next_header] = trailer.as_bytes() else {
                panic!("too short");
            };
            assert_eq!(*next_header, 4);
            assert_eq!(usize::from(*pad_length), padding.len());
            assert!(padding.len() < alignment);
            assert!(
                padding
                    .iter()
                    .zip(1..)
                    .all(|(byte, number)| *byte == number)
            );
        }
    }

    #[test]
    fn long_trailers_are_refused() {
        assert_eq!(
            Trailer::new(&[7; MAX_TRAILER]).unwrap().as_bytes(),
            [7; MAX_TRAILER]
        );
        assert_eq!(Trailer::new(&[7; MAX_TRAILER + 1]), None);
        assert_eq!(Trailer::new(&[]), Some(Trailer::NONE));
    }
}
