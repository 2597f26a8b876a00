//! What a worker tells of its SAs in the shared table: all of it when they come and go, the counts now and then.

use super::{Worker, reports::sa_id, transform};
use crate::port::Port;
use esplanade_channel::{
    Command, CommandError, Direction, Label, Mode, PolicyId, SaRecord, SaState, SaStatistics,
    UdpPorts,
};
use esplanade_ipsec::{
    id::SaId,
    sa::{self, ColdSa, InboundSa, OutboundSa},
    spd,
};

/// How long the counts of an SA may be behind.
const EVERY_MS: u64 = 20;
/// SAs published in one round: a burst of as many SAs as packets must not cost a record for each.
const A_ROUND: usize = 4;

fn state(expired: bool, soft_lifetime: bool) -> SaState {
    match (expired, soft_lifetime) {
        (true, _) => SaState::Dead,
        (_, true) => SaState::Dying,
        _ => SaState::Mature,
    }
}

fn mode(mode: sa::Mode) -> Mode {
    match mode {
        sa::Mode::Tunnel => Mode::Tunnel,
        sa::Mode::Transport => Mode::Transport,
    }
}

fn inbound_news(sa: &InboundSa) -> (SaState, SaStatistics) {
    let statistics = SaStatistics {
        packets: sa.usage.packets(),
        bytes: sa.usage.bytes(),
        sequence: sa.window.highest(),
        replays: sa.cold.replayed,
        forged: sa.cold.forged,
        last_used_ms: sa.used_ms,
        path_mtu: 0,
    };
    (state(sa.expired, sa.announced.soft_lifetime), statistics)
}

fn outbound_news(sa: &OutboundSa) -> (SaState, SaStatistics) {
    let statistics = SaStatistics {
        packets: sa.usage.packets(),
        bytes: sa.usage.bytes(),
        sequence: sa.sequence.next(),
        replays: 0,
        forged: 0,
        last_used_ms: sa.used_ms,
        path_mtu: sa.next_hop.map_or(0, |next_hop| next_hop.mtu),
    };
    let dying = sa.announced.soft_lifetime || sa.announced.near_end;
    (state(sa.expired, dying), statistics)
}

impl<P: Port> Worker<P> {
    /// Obeys a command, keeps the shared table of SAs in step, and lets go what has waited for it.
    pub(super) fn apply(&mut self, command: &Command) -> Result<(), CommandError> {
        let before = match command {
            Command::SelectOutbound { policy, share, .. } => {
                let tables = &self.core.tables;
                let share = tables.share(*share);
                share.and_then(|share| tables.spd.holder(spd::PolicyId(policy.0), share))
            }
            _ => None,
        };
        if let Command::RemoveSa { sa } = command
            && self.owns(*sa)
        {
            self.sa_table.clear(*sa);
            if let Some(sa) = SaId::new(sa.value()) {
                self.core.close_accounts(sa);
            }
        }
        self.core.tables.apply(command)?;
        self.core.order_capture(command)?;
        match command {
            Command::InstallInbound(sa) => self.publish(sa.sa),
            Command::MovePeer { sa, .. } => self.publish(*sa),
            Command::InstallOutbound(sa) => {
                if let Some(id) = SaId::new(sa.sa.value()).filter(|_| self.owns(sa.sa)) {
                    let now_ms = self.core.now_ms;
                    self.core.dummies.add(id, sa.tfc.dummies, now_ms);
                }
                self.publish(sa.sa);
            }
            Command::SelectOutbound { sa, .. } => {
                let old = before.and_then(esplanade_channel::SaId::new);
                if let Some(old) = old.filter(|old| old != sa && self.owns(*old)) {
                    self.sa_table.select(old, false);
                }
                if self.owns(*sa) {
                    self.sa_table.select(*sa, true);
                }
            }
            Command::SetNeighbor { port, address, .. } => self.release_held(port.0, *address),
            _ => {}
        }
        Ok(())
    }

    /// Whether the SA's record is here.
    fn owns(&self, sa: esplanade_channel::SaId) -> bool {
        SaId::new(sa.value()).is_some_and(|id| {
            self.core.tables.inbound.get(id).is_some()
                || self.core.tables.outbound.get(id).is_some()
        })
    }

    /// Writes the whole record of an SA that we own.
    fn publish(&mut self, sa: esplanade_channel::SaId) {
        let Some(id) = SaId::new(sa.value()) else {
            return;
        };
        if let Some(record) = self.core.tables.inbound.get(id) {
            let (state, statistics) = inbound_news(record);
            let Some(cold) = self.cold_record(sa, record.policy, &record.cold) else {
                return;
            };
            self.sa_table.publish(&SaRecord {
                spi: sa.value(),
                direction: Direction::Inbound,
                mode: mode(record.mode),
                esn: record.window.is_extended(),
                window: record.window.size(),
                selected: false,
                state,
                statistics,
                ..cold
            });
        } else if let Some(record) = self.core.tables.outbound.get(id) {
            let (state, statistics) = outbound_news(record);
            let policy = record.policy;
            let Some(cold) = self.cold_record(sa, policy, &record.cold) else {
                return;
            };
            self.sa_table.publish(&SaRecord {
                spi: record.spi,
                direction: Direction::Outbound,
                mode: mode(record.mode),
                esn: record.extended,
                window: 0,
                selected: self.core.tables.spd.is_selected(id.get()),
                state,
                statistics,
                ..cold
            });
        }
    }

    /// Writes the records of SAs whose peer has moved.
    #[cold]
    pub(super) fn publish_moved(&mut self) {
        for id in std::mem::take(&mut self.core.moved) {
            if let Some(sa) = sa_id(id) {
                self.publish(sa);
            }
        }
    }

    /// `None` for an algorithm without numbers, which nobody can have asked for.
    fn cold_record(
        &self,
        sa: esplanade_channel::SaId,
        policy: spd::PolicyId,
        cold: &ColdSa,
    ) -> Option<SaRecord> {
        Some(SaRecord {
            sa,
            spi: 0,
            direction: Direction::Inbound,
            policy: PolicyId(policy.0),
            owner: self.me,
            state: SaState::Mature,
            selected: false,
            label: Label::from_bytes(cold.label).unwrap_or(Label::new("")),
            transform: transform::numbers_of(cold.protection)?,
            local: cold.local,
            remote: cold.remote,
            encapsulation: cold.encapsulation.map(|ports| UdpPorts {
                local: ports.local,
                remote: ports.remote,
            }),
            mode: Mode::Tunnel,
            esn: false,
            window: 0,
            statistics: SaStatistics::default(),
        })
    }

    /// Writes the counts of SAs that carried packets, a few each round.
    pub(super) fn publish_dirty(&mut self) {
        let core = &mut self.core;
        if core.dirty.is_empty() || core.now_ms < self.published_ms + EVERY_MS {
            return;
        }
        for _ in 0..A_ROUND {
            let Some(id) = core.dirty.pop() else {
                self.published_ms = core.now_ms;
                return;
            };
            let news = if let Some(sa) = core.tables.inbound.get_mut(id) {
                sa.dirty = false;
                inbound_news(sa)
            } else if let Some(sa) = core.tables.outbound.get_mut(id) {
                sa.dirty = false;
                outbound_news(sa)
            } else {
                continue;
            };
            if let Some(sa) = sa_id(id) {
                self.sa_table.update(sa, news.0, &news.1);
            }
        }
    }
}
