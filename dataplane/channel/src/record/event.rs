//! Events as words: the first says which, the others carry a record.

use super::{RawAddress, RawMove, get, put, raw, sa_id};
use crate::{CommandError, Event, PolicyId, PortId, Sequence};

/// The words of a slot.
pub const EVENT_WORDS: usize = 8;

/// The first word of a slot; 0 is a wiped one.
mod kind {
    pub const FIRST_PACKET: u64 = 1;
    pub const SOFT_LIFETIME: u64 = 2;
    pub const HARD_LIFETIME: u64 = 3;
    pub const SEQUENCE_NEAR_END: u64 = 4;
    pub const ACQUIRE: u64 = 5;
    pub const NEIGHBOR_MISSING: u64 = 6;
    pub const COMMAND_FAILED: u64 = 7;
    pub const PEER_MOVED: u64 = 8;
}

raw! {
    /// A packet that wants something: an SA or a neighbour.
    RawAcquire {
        policy: u64,
        source: RawAddress,
        destination: RawAddress,
        source_port: u16,
        destination_port: u16,
        protocol: u8,
        port: u8,
        reserved: [u8; 2],
    }
}

raw! {
    /// A command that was not obeyed.
    RawFailure { sequence: u64, reason: u64, }
}

const _: () = assert!(size_of::<RawAcquire>() <= (EVENT_WORDS - 1) * 8);

/// Writes an event into the words of a slot, which were zero.
pub fn encode_event(event: &Event, words: &mut [u64; EVENT_WORDS]) {
    words[0] = match event {
        Event::FirstPacket { sa } => {
            words[1] = sa.value().into();
            kind::FIRST_PACKET
        }
        Event::SoftLifetime { sa } => {
            words[1] = sa.value().into();
            kind::SOFT_LIFETIME
        }
        Event::HardLifetime { sa } => {
            words[1] = sa.value().into();
            kind::HARD_LIFETIME
        }
        Event::SequenceNearEnd { sa } => {
            words[1] = sa.value().into();
            kind::SEQUENCE_NEAR_END
        }
        Event::PeerMoved { sa, remote, port } => {
            put(words, &RawMove::new(*sa, *remote, *port));
            kind::PEER_MOVED
        }
        Event::Acquire {
            policy,
            source,
            destination,
            protocol,
            ports,
        } => {
            let record = RawAcquire {
                policy: policy.0,
                source: RawAddress::new(*source),
                destination: RawAddress::new(*destination),
                source_port: ports.0,
                destination_port: ports.1,
                protocol: *protocol,
                port: 0,
                reserved: [0; 2],
            };
            put(words, &record);
            kind::ACQUIRE
        }
        Event::NeighborMissing { port, address } => {
            let record = RawAcquire {
                policy: 0,
                source: RawAddress::optional(None),
                destination: RawAddress::new(*address),
                source_port: 0,
                destination_port: 0,
                protocol: 0,
                port: port.0,
                reserved: [0; 2],
            };
            put(words, &record);
            kind::NEIGHBOR_MISSING
        }
        Event::CommandFailed { sequence, reason } => {
            let record = RawFailure {
                sequence: sequence.0,
                reason: *reason as u64,
            };
            put(words, &record);
            kind::COMMAND_FAILED
        }
    };
}

/// Makes an event of the words of a slot; `None` when they make no sense.
pub fn decode_event(words: &[u64; EVENT_WORDS]) -> Option<Event> {
    Some(match words[0] {
        kind::FIRST_PACKET => Event::FirstPacket {
            sa: sa_id(words[1])?,
        },
        kind::SOFT_LIFETIME => Event::SoftLifetime {
            sa: sa_id(words[1])?,
        },
        kind::HARD_LIFETIME => Event::HardLifetime {
            sa: sa_id(words[1])?,
        },
        kind::SEQUENCE_NEAR_END => Event::SequenceNearEnd {
            sa: sa_id(words[1])?,
        },
        kind::PEER_MOVED => {
            let (sa, remote, port) = get::<RawMove>(words)?.parts()?;
            Event::PeerMoved { sa, remote, port }
        }
        kind::ACQUIRE => {
            let raw: RawAcquire = get(words)?;
            Event::Acquire {
                policy: PolicyId(raw.policy),
                source: raw.source.get()?,
                destination: raw.destination.get()?,
                protocol: raw.protocol,
                ports: (raw.source_port, raw.destination_port),
            }
        }
        kind::NEIGHBOR_MISSING => {
            let raw: RawAcquire = get(words)?;
            Event::NeighborMissing {
                port: PortId(raw.port),
                address: raw.destination.get()?,
            }
        }
        kind::COMMAND_FAILED => {
            let raw: RawFailure = get(words)?;
            Event::CommandFailed {
                sequence: Sequence(raw.sequence),
                reason: CommandError::ALL
                    .into_iter()
                    .find(|reason| *reason as u64 == raw.reason)?,
            }
        }
        _ => return None,
    })
}
