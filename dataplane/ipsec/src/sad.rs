//! The security association database (RFC 4301 4.4.2), one worker's copy for one direction.
//!
//! We choose the identifiers ourselves: a slot number and a random tag, so a lookup is one indexed load and one
//! compare. Every worker indexes every SA; the record is with the one that owns it, and the others
//! know who that is.

use crate::id::SaId;
use thiserror::Error;

/// What a worker knows of one slot.
#[derive(Debug)]
struct Slot<R> {
    /// The SA that has the slot, `None` when it is free.
    id: Option<SaId>,
    owner: u16,
    /// The record, when we own it.
    record: Option<Box<R>>,
}

const _: () = assert!(size_of::<Slot<[u64; 16]>>() == 16);

/// Where an SA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Its record is here.
    Here,
    /// Another worker owns it.
    Owned {
        /// That worker's number.
        by: u16,
    },
    /// There is none of this identifier; `stale` when its slot has another one.
    Unknown {
        /// The slot is taken by an SA with another tag.
        stale: bool,
    },
}

/// Why an SA cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SadError {
    /// The slot lies beyond the table.
    #[error("slot {slot} lies beyond the {slots} slots of the SAD")]
    NoSuchSlot {
        /// The slot asked for.
        slot: u32,
        /// How many there are.
        slots: u32,
    },
    /// Another SA has the slot.
    #[error("the slot is taken by SA {by}")]
    Taken {
        /// The SA that has it.
        by: SaId,
    },
}

/// The table.
#[derive(Debug)]
pub struct Sad<R> {
    slots: Box<[Slot<R>]>,
}

impl<R> Sad<R> {
    /// An empty table of `slots` slots.
    pub fn new(slots: u32) -> Self {
        Self {
            slots: (0..slots)
                .map(|_| Slot {
                    id: None,
                    owner: 0,
                    record: None,
                })
                .collect(),
        }
    }

    /// Adds an SA: with its record if we own it, without if another worker does. Adding an SA that is
    /// there changes nothing but the owner of one that is not ours: an SA is never installed again, or its window
    /// and counters would start over.
    ///
    /// Gives whether it was new.
    ///
    /// # Errors
    ///
    /// When the slot is another SA's or does not exist.
    pub fn insert(
        &mut self,
        id: SaId,
        owner: u16,
        record: Option<Box<R>>,
    ) -> Result<bool, SadError> {
        let slots = self.slots.len() as u32;
        let Some(slot) = self.slots.get_mut(id.slot() as usize) else {
            return Err(SadError::NoSuchSlot {
                slot: id.slot(),
                slots,
            });
        };
        match slot.id {
            Some(by) if by != id => Err(SadError::Taken { by }),
            Some(_) => {
                if slot.record.is_none() {
                    slot.owner = owner;
                }
                Ok(false)
            }
            None => {
                *slot = Slot {
                    id: Some(id),
                    owner,
                    record,
                };
                Ok(true)
            }
        }
    }

    /// Removes an SA; its record is given back if it was here. `None` when it is not known.
    pub fn remove(&mut self, id: SaId) -> Option<Option<Box<R>>> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        (slot.id == Some(id)).then(|| {
            slot.id = None;
            slot.record.take()
        })
    }

    /// Where the SA of this identifier is.
    #[inline]
    pub fn locate(&self, id: SaId) -> Whereabouts {
        let Some(slot) = self.slots.get(id.slot() as usize) else {
            return Whereabouts::Unknown { stale: false };
        };
        match slot.id {
            Some(known) if known == id => match slot.record {
                Some(_) => Whereabouts::Here,
                None => Whereabouts::Owned { by: slot.owner },
            },
            other => Whereabouts::Unknown {
                stale: other.is_some(),
            },
        }
    }

    /// The record of an SA that is here.
    #[inline]
    pub fn get(&self, id: SaId) -> Option<&R> {
        let slot = self.slots.get(id.slot() as usize)?;
        slot.record.as_deref().filter(|_| slot.id == Some(id))
    }

    /// The record of an SA that is here, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: SaId) -> Option<&mut R> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        slot.record.as_deref_mut().filter(|_| slot.id == Some(id))
    }

    /// Every record that is here.
    pub fn iter(&self) -> impl Iterator<Item = (SaId, &R)> {
        self.slots
            .iter()
            .filter_map(|slot| Some((slot.id?, slot.record.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(slot: u32, tag: u32) -> SaId {
        SaId::new(slot << 12 | tag).unwrap()
    }

    proptest! {
        #[test]
        fn behaves_as_a_list(steps in prop::collection::vec((0u8..4, 0u32..5, 0u32..3, 0u16..2), 1..60)) {
            let mut sad = Sad::new(4);
            let mut list: Vec<(SaId, u16, Option<u32>)> = Vec::new();
            for (number, (kind, slot, tag, owner)) in steps.into_iter().enumerate() {
                let id = id(slot, 256 + tag);
                let known = list.iter().position(|(other, ..)| *other == id);
                let taken = list.iter().any(|(other, ..)| other.slot() == slot && *other != id);
                match kind {
                    0 | 1 => {
                        let record = (owner == 0).then_some(number as u32);
                        let result = sad.insert(id, owner, record.map(Box::new));
                        prop_assert_eq!(result.is_err(), slot >= 4 || taken);
                        match known {
                            Some(at) if list[at].2.is_none() => list[at].1 = owner,
                            Some(_) => {}
                            None if result.is_ok() => list.push((id, owner, record)),
                            None => {}
                        }
                    }
                    2 => {
                        let removed = sad.remove(id);
                        prop_assert_eq!(removed.is_some(), known.is_some());
                        if let Some(at) = known {
                            prop_assert_eq!(removed.unwrap().map(|record| *record), list[at].2);
                            list.remove(at);
                        }
                    }
                    _ => {
                        let expected = match known.map(|at| list[at]) {
                            Some((_, _, Some(_))) => Whereabouts::Here,
                            Some((_, by, None)) => Whereabouts::Owned { by },
                            None => Whereabouts::Unknown { stale: taken },
                        };
                        prop_assert_eq!(sad.locate(id), expected);
                        let record = known.and_then(|at| list[at].2);
                        prop_assert_eq!(sad.get(id).copied(), record);
                        prop_assert_eq!(sad.get_mut(id).copied(), record);
                    }
                }
            }
            prop_assert_eq!(sad.iter().count(), list.iter().filter(|(.., record)| record.is_some()).count());
        }
    }
}
