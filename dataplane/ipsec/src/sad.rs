//! The security association database (RFC 4301 4.4.2), one worker's copy for one direction.
//!
//! We choose the identifiers ourselves: a slot number and a random tag, so a lookup is one indexed load and one
//! compare. Every worker indexes every SA; the record is with the one that owns it, and the others
//! know who that is.

use crate::id::SaId;
use esplanade_crypto::prefetch;
use thiserror::Error;

/// What a worker knows of one slot.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The SA that has the slot, `None` when it is free.
    id: Option<SaId>,
    /// The place of its record when we own it, or [`ELSEWHERE`] and its owner.
    place: u32,
}

const _: () = assert!(size_of::<Slot>() == 8);

/// Marks an owner among places.
const ELSEWHERE: u32 = 1 << 31;

impl Slot {
    const FREE: Self = Self {
        id: None,
        place: ELSEWHERE,
    };

    #[inline]
    fn whereabouts(self) -> Whereabouts {
        match self.place {
            place if place < ELSEWHERE => Whereabouts::Here(Place(place)),
            owner => Whereabouts::Owned { by: owner as u16 },
        }
    }
}

/// The place of an SA's record and key; good until SAs are next added or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

/// Where an SA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Its record is here.
    Here(Place),
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

impl Whereabouts {
    /// Whether the record is here.
    #[inline]
    pub fn is_here(self) -> bool {
        matches!(self, Self::Here(_))
    }
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

/// One part of all SAs that are here, side by side.
#[derive(Debug)]
pub struct Arena<T>(Vec<Option<T>>);

impl<T> Arena<T> {
    fn new(places: usize) -> Self {
        Self(Vec::with_capacity(places))
    }

    /// The part at a place.
    #[inline]
    pub fn get(&self, place: Place) -> Option<&T> {
        self.0.get(place.0 as usize)?.as_ref()
    }

    /// The part at a place, to be changed.
    #[inline]
    pub fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        self.0.get_mut(place.0 as usize)?.as_mut()
    }

    #[inline]
    fn prefetch(&self, place: Place) {
        if let Some(part) = self.0.get(place.0 as usize) {
            prefetch(part);
        }
    }

    fn put(&mut self, place: Place, part: T) {
        match self.0.get_mut(place.0 as usize) {
            Some(free) => *free = Some(part),
            None => self.0.push(Some(part)),
        }
    }

    fn take(&mut self, place: Place) -> Option<T> {
        self.0.get_mut(place.0 as usize)?.take()
    }
}

/// The table. Records change with packets and keys do not, so a burst may hold on to the keys while it changes records.
#[derive(Debug)]
pub struct Sad<R, K> {
    slots: Box<[Slot]>,
    /// The records of the SAs that are here.
    pub records: Arena<R>,
    /// Their keys.
    pub keys: Arena<K>,
    /// Places that were left; the latest is taken first, for it is the warmest.
    free: Vec<Place>,
}

impl<R, K> Sad<R, K> {
    /// An empty table of `slots` slots.
    pub fn new(slots: u32) -> Self {
        Self {
            slots: vec![Slot::FREE; slots as usize].into_boxed_slice(),
            records: Arena::new(slots as usize),
            keys: Arena::new(slots as usize),
            free: Vec::with_capacity(slots as usize),
        }
    }

    /// Adds an SA: with its record and key if we own it, without if another worker does. Adding an SA that is
    /// there changes nothing but the owner of one that is not ours: an SA is never installed again, or its window
    /// and counters would start over.
    ///
    /// Gives whether it was new.
    ///
    /// # Errors
    ///
    /// When the slot is another SA's or does not exist.
    pub fn insert(&mut self, id: SaId, owner: u16, ours: Option<(R, K)>) -> Result<bool, SadError> {
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
                if !slot.whereabouts().is_here() {
                    slot.place = ELSEWHERE | u32::from(owner);
                }
                Ok(false)
            }
            None => {
                slot.id = Some(id);
                slot.place = ELSEWHERE | u32::from(owner);
                if let Some((record, key)) = ours {
                    let next = Place(self.records.0.len() as u32);
                    let place = self.free.pop().unwrap_or(next);
                    slot.place = place.0;
                    self.records.put(place, record);
                    self.keys.put(place, key);
                }
                Ok(true)
            }
        }
    }

    /// Removes an SA and gives its record, if it was here. `None` when it is not known.
    pub fn remove(&mut self, id: SaId) -> Option<Option<R>> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        if slot.id != Some(id) {
            return None;
        }
        let whereabouts = slot.whereabouts();
        *slot = Slot::FREE;
        let Whereabouts::Here(place) = whereabouts else {
            return Some(None);
        };
        self.free.push(place);
        drop(self.keys.take(place));
        Some(self.records.take(place))
    }

    /// Asks for the memory that [`locate`](Self::locate) looks at.
    #[inline]
    pub fn prefetch_slot(&self, id: SaId) {
        if let Some(slot) = self.slots.get(id.slot() as usize) {
            prefetch(slot);
        }
    }

    /// Asks for the memory of a record and its key.
    #[inline]
    pub fn prefetch(&self, place: Place) {
        self.records.prefetch(place);
        self.keys.prefetch(place);
    }

    /// Where the SA of this identifier is.
    #[inline]
    pub fn locate(&self, id: SaId) -> Whereabouts {
        match self.slots.get(id.slot() as usize) {
            Some(slot) if slot.id == Some(id) => slot.whereabouts(),
            slot => Whereabouts::Unknown {
                stale: slot.is_some_and(|slot| slot.id.is_some()),
            },
        }
    }

    /// The record of an SA that is here.
    #[inline]
    pub fn get(&self, id: SaId) -> Option<&R> {
        match self.locate(id) {
            Whereabouts::Here(place) => self.records.get(place),
            _ => None,
        }
    }

    /// The record of an SA that is here, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: SaId) -> Option<&mut R> {
        match self.locate(id) {
            Whereabouts::Here(place) => self.records.get_mut(place),
            _ => None,
        }
    }

    /// Every record that is here.
    pub fn iter(&self) -> impl Iterator<Item = (SaId, &R)> {
        self.slots
            .iter()
            .filter_map(|slot| Some((slot.id?, self.get(slot.id?)?)))
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
                        let result = sad.insert(id, owner, record.map(|record| (record, !record)));
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
                            prop_assert_eq!(removed.unwrap(), list[at].2);
                            list.remove(at);
                        }
                    }
                    _ => {
                        let found = sad.locate(id);
                        match known.map(|at| list[at]) {
                            Some((_, _, Some(record))) => {
                                let Whereabouts::Here(place) = found else {
                                    panic!("{found:?}");
                                };
                                prop_assert_eq!(sad.records.get(place), Some(&record));
                                prop_assert_eq!(sad.keys.get(place), Some(&!record));
                            }
                            Some((_, by, None)) => prop_assert_eq!(found, Whereabouts::Owned { by }),
                            None => prop_assert_eq!(found, Whereabouts::Unknown { stale: taken }),
                        }
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
