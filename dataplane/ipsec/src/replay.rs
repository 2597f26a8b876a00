//! The anti-replay window (RFC 4303 3.4.3 and appendix A2), as the bitmap without shifting of RFC 6479.
//!
//! A number is checked before authentication, with no change of state, and committed after it. Two copies
//! in one burst both pass the check, and the second one fails at its commit.

use esplanade_crypto::prefetch;

/// The smallest window (RFC 4303 3.4.3: "A minimum window size of 32 packets MUST be supported").
pub const MIN_WINDOW: u32 = 32;
/// The largest window.
pub const MAX_WINDOW: u32 = 65_536;

/// Why a sequence number was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// Left of the window, or zero: whether it was seen before is no longer known.
    Late,
    /// Within the window and seen before.
    Duplicate,
}

/// The full number that a packet claims, not authenticated yet. Move-only: one packet, one commit.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidate(u64);

impl Candidate {
    /// The high half, which ESN authenticates though it is not sent.
    #[inline]
    pub fn high(&self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The full number.
    #[inline]
    pub fn number(&self) -> u64 {
        self.0
    }
}

/// Which sequence numbers of an inbound SA were received.
///
/// Bit `n % (64 * words)` tells whether `n` was seen, for each `n` of the window. There is at least one word
/// more than the window needs, so a word is cleared before any of its bits come to stand for a new number.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    highest: u64,
    words: Box<[u64]>,
    size: u32,
    extended: bool,
    enabled: bool,
}

impl ReplayWindow {
    /// A window of `size` numbers (brought within [`MIN_WINDOW`] and [`MAX_WINDOW`]), for 64-bit numbers if
    /// `extended`. A size of 0 lets every number pass, and only infers the high half.
    pub fn new(size: u32, extended: bool) -> Self {
        let enabled = size != 0;
        let size = if enabled {
            size.clamp(MIN_WINDOW, MAX_WINDOW)
        } else {
            MAX_WINDOW
        };
        let words = if enabled {
            (size.div_ceil(64) + 1).next_power_of_two()
        } else {
            1
        };
        Self {
            enabled,
            highest: 0,
            words: vec![0; words as usize].into_boxed_slice(),
            size,
            extended,
        }
    }

    /// The highest number committed, 0 before the first.
    #[inline]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// How many numbers the window spans, 0 when it lets every one pass.
    pub fn size(&self) -> u32 {
        if self.enabled { self.size } else { 0 }
    }

    /// Whether numbers have 64 bits.
    #[inline]
    pub fn is_extended(&self) -> bool {
        self.extended
    }

    /// Moves the right edge forward without having seen anything; never back.
    pub fn skip_to(&mut self, highest: u64) {
        if highest > self.highest {
            self.advance(highest);
        }
    }

    /// Infers the number behind the 32 bits of the wire and looks whether it could be new.
    ///
    /// # Errors
    ///
    /// Late or duplicate; the packet need not be decrypted.
    #[inline]
    pub fn check(&self, wire: u32) -> Result<Candidate, Replayed> {
        let number = if self.extended {
            self.infer(wire).ok_or(Replayed::Late)?
        } else {
            u64::from(wire)
        };
        if !self.enabled {
            return Ok(Candidate(number));
        }
        // RFC 4303 3.3.3: "the first packet sent using a given SA will contain a sequence number of 1"
        if number == 0 {
            return Err(Replayed::Late);
        }
        if number <= self.highest {
            if self.highest - number >= u64::from(self.size) {
                return Err(Replayed::Late);
            }
            if self.is_set(number) {
                return Err(Replayed::Duplicate);
            }
        }
        Ok(Candidate(number))
    }

    /// Asks for the memory that the commit of a number looks at.
    #[inline]
    pub fn prefetch(&self, candidate: &Candidate) {
        let mask = self.words.len() - 1;
        if let Some(word) = self.words.get((candidate.0 / 64) as usize & mask) {
            prefetch(word);
        }
    }

    /// Marks an authenticated number as seen.
    ///
    /// # Errors
    ///
    /// Late or duplicate: a packet of the same burst came between check and commit.
    #[inline]
    pub fn commit(&mut self, candidate: Candidate) -> Result<(), Replayed> {
        let number = candidate.0;
        if number > self.highest {
            self.advance(number);
        }
        if !self.enabled {
            return Ok(());
        }
        if self.highest - number >= u64::from(self.size) {
            return Err(Replayed::Late);
        }
        let mask = self.words.len() - 1;
        if let Some(word) = self.words.get_mut((number / 64) as usize & mask) {
            let bit = 1 << (number % 64);
            if *word & bit != 0 {
                return Err(Replayed::Duplicate);
            }
            *word |= bit;
        }
        Ok(())
    }

    /// RFC 4303 A2.2: the high half is the one that puts the number within the window, or else just right of it.
    /// `None` when that would be before zero.
    #[inline]
    fn infer(&self, low: u32) -> Option<u64> {
        let (top_high, top_low) = ((self.highest >> 32) as u32, self.highest as u32);
        let bottom_low = top_low.wrapping_sub(self.size - 1);
        let high = if top_low >= self.size - 1 {
            if low >= bottom_low {
                top_high
            } else {
                top_high.checked_add(1)?
            }
        } else if low >= bottom_low {
            top_high.checked_sub(1)?
        } else {
            top_high
        };
        Some(u64::from(high) << 32 | u64::from(low))
    }

    #[inline]
    fn is_set(&self, number: u64) -> bool {
        let mask = self.words.len() - 1;
        self.words
            .get((number / 64) as usize & mask)
            .is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// Moves the right edge to `number`, clearing the words that it enters.
    #[inline]
    fn advance(&mut self, number: u64) {
        let mask = self.words.len() - 1;
        let (from, to) = (self.highest / 64, number / 64);
        let entered = (to - from).min(self.words.len() as u64);
        for step in 1..=entered {
            if let Some(word) = self.words.get_mut((from + step) as usize & mask) {
                *word = 0;
            }
        }
        self.highest = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// The plainest possible window: a set of all numbers seen.
    struct Model {
        seen: HashSet<u64>,
        highest: u64,
        size: u64,
        extended: bool,
    }

    impl Model {
        /// The number nearest to the window among those with these low bits: within it or right of it.
        fn infer(&self, wire: u32) -> Option<u64> {
            if !self.extended {
                return Some(wire.into());
            }
            let bottom = self.highest as i128 - (self.size as i128 - 1);
            let high = (self.highest >> 32) as i128;
            let number = (high - 1..=high + 1)
                .map(|high| (high << 32) + i128::from(wire))
                .find(|number| *number >= bottom)?;
            u64::try_from(number).ok()
        }

        fn receive(&mut self, wire: u32) -> Result<u64, Replayed> {
            let number = self.infer(wire).ok_or(Replayed::Late)?;
            if number == 0 || number + self.size <= self.highest {
                return Err(Replayed::Late);
            }
            if !self.seen.insert(number) {
                return Err(Replayed::Duplicate);
            }
            self.highest = self.highest.max(number);
            Ok(number)
        }
    }

    fn receive(window: &mut ReplayWindow, wire: u32) -> Result<u64, Replayed> {
        let candidate = window.check(wire)?;
        let number = candidate.number();
        window.commit(candidate).map(|()| number)
    }

    proptest! {
        #[test]
        fn behaves_as_the_model(
            size in prop_oneof![Just(32u32), Just(33), Just(64), Just(100), Just(1024), 32..5000u32],
            extended: bool,
            start in prop_oneof![Just(0u64), Just((1 << 32) - 50), Just((7 << 32) - 3000), 0..u64::from(u32::MAX)],
            steps in prop::collection::vec(
                prop_oneof![8 => -80i64..80, 2 => -6000i64..6000, 1 => Just(1i64 << 31)], 1..300),
        ) {
            let start = if extended { start } else { start & 0x7fff_ffff };
            let mut window = ReplayWindow::new(size, extended);
            window.skip_to(start);
            let mut model = Model { seen: HashSet::new(), highest: start, size: size.into(), extended };
            let mut at = start;
            for step in steps {
                at = at.saturating_add_signed(step);
                if !extended {
                    at = at.min(u32::MAX.into());
                }
                prop_assert_eq!(receive(&mut window, at as u32), model.receive(at as u32));
                prop_assert_eq!(window.highest(), model.highest);
            }
        }
    }

    #[test]
    fn late_and_duplicate_are_told_apart() {
        let mut window = ReplayWindow::new(64, false);
        assert_eq!(receive(&mut window, 0), Err(Replayed::Late));
        assert_eq!(receive(&mut window, 100), Ok(100));
        assert_eq!(receive(&mut window, 100), Err(Replayed::Duplicate));
        assert_eq!(receive(&mut window, 37), Ok(37));
        assert_eq!(receive(&mut window, 36), Err(Replayed::Late));
    }

    #[test]
    fn the_second_copy_of_a_burst_fails_at_commit() {
        let mut window = ReplayWindow::new(1024, true);
        let (first, second) = (window.check(5).unwrap(), window.check(5).unwrap());
        assert_eq!(window.commit(first), Ok(()));
        assert_eq!(window.commit(second), Err(Replayed::Duplicate));
    }

    #[test]
    fn the_high_half_follows_the_low_one() {
        let mut window = ReplayWindow::new(1024, true);
        window.skip_to((1 << 32) - 2);
        assert_eq!(receive(&mut window, u32::MAX), Ok((1 << 32) - 1));
        assert_eq!(receive(&mut window, 0), Ok(1 << 32));
        assert_eq!(receive(&mut window, 3), Ok((1 << 32) + 3));
        assert_eq!(receive(&mut window, u32::MAX - 4), Ok((1 << 32) - 5));
        assert_eq!(receive(&mut window, u32::MAX - 4), Err(Replayed::Duplicate));
    }

    #[test]
    fn without_a_window_everything_passes() {
        let mut window = ReplayWindow::new(0, false);
        for number in [7, 7, 1_000_000, 1, 0] {
            assert_eq!(receive(&mut window, number), Ok(number.into()));
        }
        assert_eq!((window.size(), window.highest()), (0, 1_000_000));
    }

    #[test]
    fn a_number_before_the_first_is_late() {
        assert_eq!(
            ReplayWindow::new(1024, true).check(u32::MAX),
            Err(Replayed::Late)
        );
    }
}
