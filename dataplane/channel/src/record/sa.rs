//! SAs as words of the SA table: the seqlock's count, what traffic changes, the state, and the identity.

use super::{RawAddress, RawTransform, flag, get, mode, put, raw};
use crate::{
    Direction, Label, PolicyId, SaId, SaRecord, SaState, SaStatistics, UdpPorts, WorkerId,
};

/// The words of a record; word 0 is the seqlock's count.
pub const SA_WORDS: usize = 32;
/// Where the statistics are.
pub const STATISTICS_AT: usize = 1;
/// The words of the statistics.
const STATISTICS_WORDS: usize = 6;
/// Where state and selection are.
pub const STATE_AT: usize = STATISTICS_AT + STATISTICS_WORDS;
/// Where the identity is. Its first word is the SA's id, 0 for a free slot.
pub const SA_ID_AT: usize = STATE_AT + 1;

/// The word of state, selection and path MTU.
const STATE: u64 = 0xff;
const SELECTED: u64 = 1 << 8;
const PATH_MTU_SHIFT: u32 = 16;

raw! {
    /// What never changes.
    RawIdentity {
        sa: u32,
        zero: u32,
        policy: u64,
        spi: u32,
        window: u32,
        owner: u16,
        local_port: u16,
        remote_port: u16,
        transform: RawTransform,
        direction: u8,
        esn: u8,
        encapsulated: u8,
        mode: u8,
        local: RawAddress,
        remote: RawAddress,
        label: [u8; 64],
    }
}

const _: () = assert!(size_of::<RawIdentity>() <= (SA_WORDS - SA_ID_AT) * 8);

/// The words after the count.
pub fn encode_sa(record: &SaRecord) -> [u64; SA_WORDS - 1] {
    let ports = record.encapsulation;
    let identity = RawIdentity {
        sa: record.sa.value(),
        zero: 0,
        policy: record.policy.0,
        spi: record.spi,
        window: record.window,
        owner: record.owner.0,
        local_port: ports.map_or(0, |ports| ports.local),
        remote_port: ports.map_or(0, |ports| ports.remote),
        transform: RawTransform::new(record.transform),
        direction: record.direction as u8,
        esn: record.esn.into(),
        encapsulated: ports.is_some().into(),
        mode: record.mode as u8,
        local: RawAddress::new(record.local),
        remote: RawAddress::new(record.remote),
        label: *record.label.bytes(),
    };
    let mut words = [0; SA_WORDS - 1];
    let [a, b, c, d, e, f, state, rest @ ..] = &mut words;
    let statistics = encode_statistics(&record.statistics);
    [*a, *b, *c, *d, *e, *f] = statistics;
    *state = encode_state(record.state, record.selected, record.statistics.path_mtu);
    // `put` leaves out the first word that it is given, as in a slot of a ring.
    let mut slot = [0; SA_WORDS - SA_ID_AT + 1];
    put(&mut slot, &identity);
    for (to, from) in rest.iter_mut().zip(slot.iter().skip(1)) {
        *to = *from;
    }
    words
}

/// The words of the statistics.
pub fn encode_statistics(statistics: &SaStatistics) -> [u64; STATISTICS_WORDS] {
    [
        statistics.packets,
        statistics.bytes,
        statistics.sequence,
        statistics.replays,
        statistics.forged,
        statistics.last_used_ms,
    ]
}

/// The word of state, selection and path MTU.
pub fn encode_state(state: SaState, selected: bool, path_mtu: u16) -> u64 {
    let selected = if selected { SELECTED } else { 0 };
    state as u64 | selected | u64::from(path_mtu) << PATH_MTU_SHIFT
}

/// Whether a word of state says selected.
pub fn is_selected(word: u64) -> bool {
    word & SELECTED != 0
}

/// A word of state with another selection.
pub fn with_selected(word: u64, selected: bool) -> u64 {
    word & !SELECTED | if selected { SELECTED } else { 0 }
}

/// Makes a record of words; `None` for a free slot, or when they make no sense.
pub fn decode_sa(words: &[u64; SA_WORDS]) -> Option<SaRecord> {
    let [
        _,
        packets,
        bytes,
        sequence,
        replays,
        forged,
        last_used_ms,
        state,
        ..,
    ] = *words;
    let raw: RawIdentity = get(words.get(SA_ID_AT - 1..)?)?;
    let directions = [Direction::Inbound, Direction::Outbound];
    let states = [SaState::Mature, SaState::Dying, SaState::Dead];
    let ports = UdpPorts {
        local: raw.local_port,
        remote: raw.remote_port,
    };
    Some(SaRecord {
        sa: SaId::new(raw.sa)?,
        spi: raw.spi,
        direction: directions.into_iter().find(|d| *d as u8 == raw.direction)?,
        policy: PolicyId(raw.policy),
        owner: WorkerId(raw.owner),
        state: states.into_iter().find(|s| *s as u64 == state & STATE)?,
        selected: is_selected(state),
        label: Label::from_bytes(raw.label)?,
        transform: raw.transform.get(),
        local: raw.local.get()?,
        remote: raw.remote.get()?,
        encapsulation: flag(raw.encapsulated)?.then_some(ports),
        mode: mode(raw.mode)?,
        esn: flag(raw.esn)?,
        window: raw.window,
        statistics: SaStatistics {
            packets,
            bytes,
            sequence,
            replays,
            forged,
            last_used_ms,
            path_mtu: (state >> PATH_MTU_SHIFT) as u16,
        },
    })
}
