//! Prefixes, and the maps that are looked up by the longest of them.

use crate::{SteerError, map_error};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A prefix of either family, in canonical form: no bit is set beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Clears what lies beyond `length` (which is cut to the address's own).
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Self {
        match address.into() {
            IpAddr::V4(address) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                let address = Ipv4Addr::from_bits(address.to_bits() & mask).into();
                Self { address, length }
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                let address = Ipv6Addr::from_bits(address.to_bits() & mask).into();
                Self { address, length }
            }
        }
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether an address lies within.
    pub fn contains(self, address: IpAddr) -> bool {
        Self::new(address, self.length) == self
    }
}

/// An address as the program has it (`struct address` in maps.bpf.h): its family, native, and its octets, behind
/// which zeros follow.
pub(crate) fn address_bytes(address: IpAddr) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    let (family, octets) = bytes.split_at_mut(FAMILY);
    match address {
        IpAddr::V4(address) => {
            family.copy_from_slice(&4_u32.to_ne_bytes());
            octets[..4].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            family.copy_from_slice(&6_u32.to_ne_bytes());
            octets.copy_from_slice(&address.octets());
        }
    }
    bytes
}

/// The bytes of an address's family, and of both.
const FAMILY: usize = 4;
const ADDRESS: usize = FAMILY + 16;

/// What an LPM trie is looked up by.
pub(crate) trait Key: Copy + Eq + Hash {
    /// The length, native, before the address, as on the wire.
    fn bytes(self) -> impl AsRef<[u8]>;

    /// What the program finds: one more than the length of the prefix.
    fn value(self) -> u8;
}

impl Key for Prefix {
    fn bytes(self) -> impl AsRef<[u8]> {
        let mut bytes = [0; 4 + ADDRESS];
        let length = 8 * FAMILY as u32 + u32::from(self.length);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..].copy_from_slice(&address_bytes(self.address));
        bytes
    }

    fn value(self) -> u8 {
        self.length + 1
    }
}

/// A prefix at the other end of one of our addresses, of the same family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PrefixOf {
    pub(crate) ours: IpAddr,
    pub(crate) prefix: Prefix,
}

impl Key for PrefixOf {
    fn bytes(self) -> impl AsRef<[u8]> {
        let mut bytes = [0; 4 + ADDRESS + 16];
        let length = 8 * ADDRESS as u32 + u32::from(self.prefix.length);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..4 + ADDRESS].copy_from_slice(&address_bytes(self.ours));
        bytes[4 + ADDRESS..].copy_from_slice(&address_bytes(self.prefix.address)[FAMILY..]);
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

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_is_canonical() {
        let prefix = Prefix::new(address("10.1.2.3"), 16);
        assert_eq!(prefix, Prefix::new(address("10.1.0.0"), 16));
        let one = Prefix::new(address("10.1.2.3"), 99);
        assert_eq!(one.bytes().as_ref()[8..12], [10, 1, 2, 3]);
        let prefix = Prefix::new(address("2001:db8:1:2::3"), 48);
        assert_eq!(prefix, Prefix::new(address("2001:db8:1::"), 48));
        let one = Prefix::new(address("::1"), 200);
        assert_eq!(one.value(), 129);
    }

    #[test]
    fn the_families_have_nothing_in_common() {
        let all = [
            Prefix::new(Ipv4Addr::UNSPECIFIED, 0),
            Prefix::new(Ipv6Addr::UNSPECIFIED, 0),
        ];
        assert_ne!(all[0].bytes().as_ref(), all[1].bytes().as_ref());
        for prefix in all {
            // The family always counts.
            assert_eq!(prefix.bytes().as_ref()[..4], 32_u32.to_ne_bytes());
        }
        assert!(!all[1].contains(address("10.1.2.3")) && !all[0].contains(address("::")));
    }

    #[test]
    fn a_prefix_contains_what_begins_with_it() {
        let prefix = Prefix::new(address("10.1.0.0"), 16);
        assert!(prefix.contains(address("10.1.255.255")));
        assert!(!prefix.contains(address("10.2.0.0")));
        let all = Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
        assert!(all.contains(Ipv4Addr::BROADCAST.into()));
        let prefix = Prefix::new(address("2001:db8::"), 33);
        assert!(prefix.contains(address("2001:db8:7fff::1")));
        assert!(!prefix.contains(address("2001:db8:8000::1")));
    }

    #[test]
    fn the_length_of_a_prefix_of_ours_counts_our_address() {
        let key = PrefixOf {
            ours: address("192.0.2.1"),
            prefix: Prefix::new(address("10.1.0.0"), 16),
        };
        let mut expected = (160_u32 + 16).to_ne_bytes().to_vec();
        expected.extend(4_u32.to_ne_bytes());
        expected.extend([192, 0, 2, 1]);
        expected.extend([0; 12]);
        expected.extend([10, 1, 0, 0]);
        expected.extend([0; 12]);
        assert_eq!(key.bytes().as_ref(), expected);
        assert_eq!(key.value(), 17);
    }
}
