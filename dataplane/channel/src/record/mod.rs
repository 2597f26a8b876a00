//! The shapes in which commands, events and SAs lie in shared memory. A record is copied out before it is looked
//! at, and becomes one of the public types or a refusal.

mod command;
mod event;
mod sa;
#[cfg(test)]
mod tests;

pub use command::{COMMAND_WORDS, decode_command, encode_command};
pub use event::{EVENT_WORDS, decode_event, encode_event};
pub use sa::{
    SA_ID_AT, SA_WORDS, STATE_AT, STATISTICS_AT, decode_sa, encode_sa, encode_state,
    encode_statistics, is_selected, with_selected,
};

use crate::{DfPolicy, Mode, Prefix, SaId, Transform};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The size of every record and the place of every field, for the layout hash.
pub const SHAPES: [&[usize]; 14] = [
    RawAddress::SHAPE,
    RawTransform::SHAPE,
    RawMove::SHAPE,
    command::RawSa::SHAPE,
    command::RawSelect::SHAPE,
    command::RawPolicy::SHAPE,
    command::RawRoute::SHAPE,
    command::RawNeighbor::SHAPE,
    command::RawPort::SHAPE,
    command::RawPair::SHAPE,
    command::RawCapture::SHAPE,
    event::RawAcquire::SHAPE,
    event::RawFailure::SHAPE,
    sa::RawIdentity::SHAPE,
];

/// Defines a record: plain data without padding, and its shape.
macro_rules! raw {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type,)+ }

        impl $name {
            /// Its size, and the place of each field.
            pub const SHAPE: &[usize] = &[size_of::<Self>(), $(std::mem::offset_of!(Self, $field)),+];
        }
    };
}
use raw;

raw! {
    /// An address of either family; family 0 is none.
    RawAddress {
        family: u32,
        octets: [u8; 16],
    }
}

impl RawAddress {
    fn new(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                let octets = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                Self { family: 4, octets }
            }
            IpAddr::V6(v6) => Self {
                family: 6,
                octets: v6.octets(),
            },
        }
    }

    fn optional(address: Option<IpAddr>) -> Self {
        address.map_or_else(FromZeros::new_zeroed, Self::new)
    }

    fn get(self) -> Option<IpAddr> {
        match self.family {
            4 => {
                let [a, b, c, d, ..] = self.octets;
                Some(Ipv4Addr::new(a, b, c, d).into())
            }
            6 => Some(Ipv6Addr::from(self.octets).into()),
            _ => None,
        }
    }

    /// As [`RawAddress::get`], with none being an answer too.
    fn get_optional(self) -> Option<Option<IpAddr>> {
        if self.family == 0 {
            return Some(None);
        }
        self.get().map(Some)
    }

    fn prefix(self, length: u8) -> Option<Prefix> {
        Prefix::new(self.get()?, length)
    }
}

raw! {
    /// A transform.
    RawTransform { encryption: u16, key_bits: u16, integrity: u16, }
}

impl RawTransform {
    fn new(transform: Transform) -> Self {
        Self {
            encryption: transform.encryption,
            key_bits: transform.key_bits,
            integrity: transform.integrity,
        }
    }

    fn get(self) -> Transform {
        Transform {
            encryption: self.encryption,
            key_bits: self.key_bits,
            integrity: self.integrity,
        }
    }
}

raw! {
    /// Where an SA's peer is from now on.
    RawMove { sa: u32, remote: RawAddress, port: u16, reserved: u16, }
}

impl RawMove {
    fn new(sa: SaId, remote: IpAddr, port: u16) -> Self {
        Self {
            sa: sa.value(),
            remote: RawAddress::new(remote),
            port,
            reserved: 0,
        }
    }

    fn parts(self) -> Option<(SaId, IpAddr, u16)> {
        Some((SaId::new(self.sa)?, self.remote.get()?, self.port))
    }
}

fn mode(value: u8) -> Option<Mode> {
    [Mode::Tunnel, Mode::Transport]
        .into_iter()
        .find(|mode| *mode as u8 == value)
}

fn df(value: u8) -> Option<DfPolicy> {
    [DfPolicy::Copy, DfPolicy::Set, DfPolicy::Clear]
        .into_iter()
        .find(|df| *df as u8 == value)
}

fn flag(value: u8) -> Option<bool> {
    match value {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn sa_id(word: u64) -> Option<SaId> {
    SaId::new(u32::try_from(word).ok()?)
}

/// Puts a record into the words after the first; compile-time checks see that each fits.
fn put<T: IntoBytes + Immutable>(words: &mut [u64], record: &T) {
    let bytes = words.as_mut_bytes();
    let record = record.as_bytes();
    if let Some(to) = bytes.get_mut(8..8 + record.len()) {
        to.copy_from_slice(record);
    }
}

/// Copies a record out of the words after the first.
fn get<T: FromBytes + KnownLayout + Immutable>(words: &[u64]) -> Option<T> {
    let bytes = words.as_bytes().get(8..)?;
    T::read_from_prefix(bytes).ok().map(|(record, _)| record)
}
