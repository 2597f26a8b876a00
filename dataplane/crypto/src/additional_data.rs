//! What is authenticated but not encrypted (RFC 4106 5).

/// The additional data of an ESP packet, by value: SPI and sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aad {
    /// With zeros behind it, as GHASH takes it: put together here, long before a kernel loads it in one piece.
    words: [[u8; 8]; 2],
    extended: bool,
}

impl Aad {
    /// With a sequence number of 64 bits if `extended`, of which the packet has the lower half, and with that half otherwise
    /// (RFC 4106 5, figures 2 and 3: the high half comes first).
    #[inline(always)]
    pub const fn new(spi: u32, sequence: u64, extended: bool) -> Self {
        // Whichever it is, both are words of a register.
        let (high, low) = if extended {
            (sequence >> 32, sequence << 32)
        } else {
            (sequence as u32 as u64, 0)
        };
        Self {
            words: [((spi as u64) << 32 | high).to_be_bytes(), low.to_be_bytes()],
            extended,
        }
    }

    /// With a sequence number of 32 bits.
    #[inline(always)]
    pub const fn plain(spi: u32, sequence: u32) -> Self {
        Self::new(spi, sequence as u64, false)
    }

    /// With a sequence number of 64 bits.
    #[inline(always)]
    pub const fn extended(spi: u32, sequence: u64) -> Self {
        Self::new(spi, sequence, true)
    }

    /// The 8 or 12 bytes.
    #[inline]
    pub const fn as_bytes(&self) -> &[u8] {
        let bytes = self.words.as_flattened();
        let (bytes, _) = bytes.split_at(if self.extended { 12 } else { 8 });
        bytes
    }
}

#[cfg(target_arch = "x86_64")]
impl Aad {
    /// With zeros behind it, as GHASH takes it, in two words as they lie in memory.
    #[inline]
    pub(crate) const fn words(&self) -> [u64; 2] {
        let [first, second] = self.words;
        [u64::from_ne_bytes(first), u64::from_ne_bytes(second)]
    }
}

/// The additional data of a job: an ESP packet's, or any bytes.
#[derive(Debug, Clone, Copy)]
pub enum AdditionalData<'a> {
    /// An ESP packet's.
    Esp(Aad),
    /// Any bytes.
    Bytes(&'a [u8]),
}

/// Additional data as an HMAC takes it: some before the text, and some behind.
pub(crate) struct Authenticated<'a> {
    pub(crate) before: [&'a [u8]; 2],
    pub(crate) behind: &'a [u8],
}

impl AdditionalData<'_> {
    /// RFC 4303 2.2.1: "the high-order 32 bits are maintained as part of the sequence number counter by both transmitter and
    /// receiver and are included in the computation of the ICV", at the end (2.8). Other bytes come first.
    pub(crate) fn authenticated(&self) -> Authenticated<'_> {
        let (before, behind) = match self {
            Self::Esp(aad) if aad.extended => {
                let (spi, number) = aad.as_bytes().split_at(4);
                let (high, low) = number.split_at(4);
                ([spi, low], high)
            }
            _ => ([self.as_bytes(), &[][..]], &[][..]),
        };
        Authenticated { before, behind }
    }

    #[inline]
    pub(crate) const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Esp(aad) => aad.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl From<Aad> for AdditionalData<'_> {
    #[inline]
    fn from(aad: Aad) -> Self {
        Self::Esp(aad)
    }
}

impl<'a> From<&'a [u8]> for AdditionalData<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_half_comes_first() {
        let plain = Aad::plain(0x0102_0304, 0x0506_0708);
        assert_eq!(plain.as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        let extended = Aad::extended(0x0102_0304, 0x0506_0708_090a_0b0c);
        assert_eq!(extended.as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }
}
