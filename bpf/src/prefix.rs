//! Prefixes, and the maps that are looked up by the longest of them.

use crate::{SteerError, map_error};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use std::{collections::HashMap, hash::Hash, net::Ipv4Addr};

/// An IPv4 prefix, in canonical form: no bit is set beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: Ipv4Addr,
    length: u8,
}

impl Prefix {
    /// Clears what lies beyond `length` (which is cut to 32).
    pub fn new(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Self {
            address: Ipv4Addr::from(u32::from(address) & mask(length)),
            length,
        }
    }

    /// Whether an address lies within.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        Self::new(address, self.length) == self
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

/// What an LPM trie is looked up by.
pub(crate) trait Key: Copy + Eq + Hash {
    /// The length, native, before the address, as on the wire.
    fn bytes(self) -> impl AsRef<[u8]>;

    /// What the program finds: one more than the length of the prefix.
    fn value(self) -> u8;
}

impl Key for Prefix {
    fn bytes(self) -> impl AsRef<[u8]> {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&u32::from(self.length).to_ne_bytes());
        bytes[4..].copy_from_slice(&self.address.octets());
        bytes
    }

    fn value(self) -> u8 {
        self.length + 1
    }
}

/// A prefix at the other end of one of our addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PrefixOf {
    pub(crate) ours: Ipv4Addr,
    pub(crate) prefix: Prefix,
}

impl Key for PrefixOf {
    fn bytes(self) -> impl AsRef<[u8]> {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&(32 + u32::from(self.prefix.length)).to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.ours.octets());
        bytes[8..].copy_from_slice(&self.prefix.address.octets());
        bytes
    }

    fn value(self) -> u8 {
        self.prefix.value()
    }
}

/// One of the program's tries, and how often each of its entries was added.
#[derive(Debug)]
pub(crate) struct Trie<K> {
    map: MapHandle,
    name: &'static str,
    counts: HashMap<K, u32>,
}

impl<K: Key> Trie<K> {
    pub(crate) fn new(map: MapHandle, name: &'static str) -> Self {
        Self {
            map,
            name,
            counts: HashMap::new(),
        }
    }

    /// Adds all of these, or none.
    ///
    /// # Errors
    ///
    /// A kernel that refuses an entry, as when the map is full.
    pub(crate) fn add(&mut self, keys: &[K]) -> Result<(), SteerError> {
        for (done, key) in keys.iter().enumerate() {
            if let Err(error) = self.add_one(*key) {
                self.remove(&keys[..done])?;
                return Err(error);
            }
        }
        Ok(())
    }

    fn add_one(&mut self, key: K) -> Result<(), SteerError> {
        if !self.counts.contains_key(&key) {
            update(&self.map, self.name, key.bytes().as_ref(), &[key.value()])?;
        }
        *self.counts.entry(key).or_default() += 1;
        Ok(())
    }

    /// Undoes one addition of each; what is not there is no error.
    ///
    /// # Errors
    ///
    /// A kernel that refuses.
    pub(crate) fn remove(&mut self, keys: &[K]) -> Result<(), SteerError> {
        let mut outcome = Ok(());
        for key in keys {
            outcome = outcome.and(self.remove_one(*key));
        }
        outcome
    }

    fn remove_one(&mut self, key: K) -> Result<(), SteerError> {
        match self.counts.get_mut(&key) {
            None => Ok(()),
            Some(count) if *count > 1 => {
                *count -= 1;
                Ok(())
            }
            Some(_) => {
                self.counts.remove(&key);
                delete(&self.map, self.name, key.bytes().as_ref())
            }
        }
    }
}

/// Sets an entry of a map.
///
/// # Errors
///
/// A kernel that refuses.
pub(crate) fn update(
    map: &MapHandle,
    name: &'static str,
    key: &[u8],
    value: &[u8],
) -> Result<(), SteerError> {
    map.update(key, value, MapFlags::ANY)
        .map_err(|error| map_error(name, error))
}

/// Deletes an entry of a map; one that is not there is no error.
///
/// # Errors
///
/// A kernel that refuses.
pub(crate) fn delete(map: &MapHandle, name: &'static str, key: &[u8]) -> Result<(), SteerError> {
    match map.delete(key) {
        Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => Err(map_error(name, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_canonical() {
        let prefix = Prefix::new(Ipv4Addr::new(10, 1, 2, 3), 16);
        assert_eq!(prefix, Prefix::new(Ipv4Addr::new(10, 1, 0, 0), 16));
        let all = Prefix::new(Ipv4Addr::new(10, 1, 2, 3), 0);
        assert_eq!(all.bytes().as_ref(), [0; 8]);
        let one = Prefix::new(Ipv4Addr::new(10, 1, 2, 3), 99);
        assert_eq!(one.bytes().as_ref()[4..], [10, 1, 2, 3]);
    }

    #[test]
    fn a_prefix_contains_what_begins_with_it() {
        let prefix = Prefix::new(Ipv4Addr::new(10, 1, 0, 0), 16);
        assert!(prefix.contains(Ipv4Addr::new(10, 1, 255, 255)));
        assert!(!prefix.contains(Ipv4Addr::new(10, 2, 0, 0)));
        let all = Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
        assert!(all.contains(Ipv4Addr::BROADCAST));
    }

    #[test]
    fn the_length_of_a_prefix_of_ours_counts_our_address() {
        let key = PrefixOf {
            ours: Ipv4Addr::new(192, 0, 2, 1),
            prefix: Prefix::new(Ipv4Addr::new(10, 1, 0, 0), 16),
        };
        let mut expected = 48_u32.to_ne_bytes().to_vec();
        expected.extend([192, 0, 2, 1, 10, 1, 0, 0]);
        assert_eq!(key.bytes().as_ref(), expected);
        assert_eq!(key.value(), 17);
    }
}
