//! Outbound sequence numbers (RFC 4303 3.3.3): taken once each, in order, and never again under a key.
//!
//! The number is also the IV of the AEADs (RFC 4106 3.1, RFC 8750 3), so repeating one would give the key away. That is why
//! they live here: there is no other way to such an IV.

use crate::Iv;

/// A number that one packet may use. It cannot be copied, and only [`OutboundSequence::take`] makes it.
#[derive(Debug, PartialEq, Eq)]
pub struct SequenceNumber(u64);

impl SequenceNumber {
    /// The half that is sent.
    #[inline]
    pub fn low(&self) -> u32 {
        self.0 as u32
    }

    /// The half that only ESN knows, and authenticates.
    #[inline]
    pub fn high(&self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Both halves.
    #[inline]
    pub fn number(&self) -> u64 {
        self.0
    }

    /// Spends the number as the packet's IV.
    #[inline]
    pub fn into_iv(self) -> Iv {
        Iv::from_sequence(self.0)
    }
}

/// The counter of an outbound SA. It lives in the memory of the worker that owns the SA and nowhere else:
/// when that is gone, so is the SA.
#[derive(Debug)]
pub struct OutboundSequence {
    /// The next number, more than the last when all are spent.
    next: u64,
    last: u64,
}

impl OutboundSequence {
    /// A counter that starts at 1, with 64-bit numbers if `extended` and 32-bit ones otherwise.
    pub fn new(extended: bool) -> Self {
        Self::starting_at(1, extended)
    }

    /// A counter that starts elsewhere: no packet was sealed under the key with this number or a higher one. Of the 64-bit
    /// numbers the very last is not used.
    pub fn starting_at(next: u64, extended: bool) -> Self {
        let last = if extended {
            u64::MAX - 1
        } else {
            u32::MAX.into()
        };
        Self { next, last }
    }

    /// The next number, or `None` when all are spent.
    ///
    /// RFC 4303 3.3.3: "the sender MUST NOT send a packet on an SA if doing so would cause the sequence number
    /// to cycle."
    #[inline]
    pub fn take(&mut self) -> Option<SequenceNumber> {
        let number = self.next;
        if number > self.last {
            return None;
        }
        self.next = number + 1;
        Some(SequenceNumber(number))
    }

    /// The next number to be taken, one more than the last when all are spent.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether seven eighths of the numbers are spent: time for a successor. At 10 million packets
    /// a second the last eighth of 32 bits lasts 53 s.
    #[inline]
    pub fn is_near_end(&self) -> bool {
        self.next > self.last - self.last / 8
    }

    /// Skips numbers; never goes back.
    pub fn skip_to(&mut self, next: u64) {
        if next > self.next && next <= self.last {
            self.next = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_one_and_counts() {
        let mut sequence = OutboundSequence::new(false);
        assert_eq!(sequence.take(), Some(SequenceNumber(1)));
        assert_eq!(sequence.take(), Some(SequenceNumber(2)));
    }

    #[test]
    fn never_wraps() {
        for (extended, last) in [(false, u64::from(u32::MAX)), (true, u64::MAX - 1)] {
            let mut sequence = OutboundSequence::new(extended);
            sequence.skip_to(last);
            assert_eq!(sequence.take(), Some(SequenceNumber(last)));
            for _ in 0..3 {
                assert_eq!(sequence.take(), None);
                sequence.skip_to(5);
            }
        }
    }

    #[test]
    fn the_end_is_announced_early() {
        let mut sequence = OutboundSequence::new(false);
        assert!(!sequence.is_near_end());
        sequence.skip_to(u64::from(u32::MAX / 8 * 7));
        assert!(!sequence.is_near_end());
        sequence.skip_to(u64::from(u32::MAX / 8 * 7) + 100);
        assert!(sequence.is_near_end());
        let mut extended = OutboundSequence::new(true);
        extended.skip_to(1 << 40);
        assert!(!extended.is_near_end());
    }

    #[test]
    fn skipping_goes_forward_only() {
        let mut sequence = OutboundSequence::new(true);
        sequence.skip_to((1 << 32) - 1);
        sequence.skip_to(7);
        let number = sequence.take().unwrap();
        assert_eq!((number.high(), number.low()), (0, u32::MAX));
        let number = sequence.take().unwrap();
        assert_eq!((number.high(), number.low()), (1, 0));
    }
}
