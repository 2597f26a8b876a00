//! The key exchanges that follow the first one (RFC 9370).

use std::fmt;

use super::algorithm::KeyExchangeMethod;

/// Additional key exchanges (RFC 9370): one method, or none, for each of ADDKE1 to ADDKE7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdditionalKex([Option<KeyExchangeMethod>; AdditionalKex::MOST]);

impl AdditionalKex {
    /// How many there can be.
    pub const MOST: usize = 7;

    /// A place, from 1 to 7.
    pub(super) fn place(&mut self, place: usize) -> Option<&mut Option<KeyExchangeMethod>> {
        self.0.get_mut(place.checked_sub(1)?)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.methods().next().is_none()
    }

    /// Each place with its method, if it has one.
    pub fn places(&self) -> impl Iterator<Item = Option<KeyExchangeMethod>> + '_ {
        self.0.iter().copied()
    }

    /// The methods in the order in which they are done.
    pub fn methods(&self) -> impl Iterator<Item = KeyExchangeMethod> + '_ {
        self.0.iter().copied().flatten()
    }

    /// The method that is named twice, the first key exchange included. RFC 9370 has the responder's
    /// choice refused then.
    pub(super) fn repeated(&self, kex: Option<KeyExchangeMethod>) -> Option<KeyExchangeMethod> {
        let all: Vec<_> = kex.into_iter().chain(self.methods()).collect();
        let twice = |m: &KeyExchangeMethod| all.iter().filter(|other| *other == m).count() > 1;
        all.iter().copied().find(twice)
    }
}

impl fmt::Display for AdditionalKex {
    /// `-ke1_mlkem768`, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, method) in (1..).zip(self.0) {
            if let Some(method) = method {
                write!(f, "-ke{place}_{method}")?;
            }
        }
        Ok(())
    }
}
