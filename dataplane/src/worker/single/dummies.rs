//! Dummy packets at a configured rate, so that silence does not show (RFC 4303 2.6).

use super::{
    super::{
        core::Core,
        outbound::{draw_iv, take_number},
        packet::{self, ETHERNET},
        reports::EventSink,
        way::{Way, way},
    },
    outbound::encrypt_into,
};
use crate::port::Port;
use esplanade_channel::Counter;
use esplanade_ipsec::{id::SaId, sad::Whereabouts};
use esplanade_wire::{Protocol, ip::Family};

/// Dummy packets sent in one round at most: after a sleep a worker does not make up for more.
const A_ROUND: usize = 32;
/// The shortest inner packet that a dummy may stand for.
const SHORTEST: u16 = 40;

/// One SA's next dummy.
#[derive(Debug)]
struct Due {
    /// On the worker's clock, in microseconds.
    at_us: u64,
    every_us: u64,
    sa: SaId,
}

/// The SAs that send dummy packets.
#[derive(Debug, Default)]
pub struct Dummies {
    due: Vec<Due>,
    /// Before this there is nothing to do.
    next_us: u64,
}

impl Dummies {
    /// Has an SA send so many dummy packets a second.
    pub fn add(&mut self, sa: SaId, a_second: u16, now_ms: u64) {
        self.remove(sa);
        if a_second == 0 {
            return;
        }
        let every_us = 1_000_000 / u64::from(a_second);
        self.due.push(Due {
            at_us: now_ms * 1000 + every_us,
            every_us,
            sa,
        });
        self.next_us = 0;
    }

    /// Has an SA send none any more.
    pub fn remove(&mut self, sa: SaId) {
        self.due.retain(|due| due.sa != sa);
    }

    /// How long a worker may sleep, in milliseconds; `None` when nothing is to be done.
    pub fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        let next = self.due.iter().map(|due| due.at_us).min()?;
        Some((next / 1000).saturating_sub(now_ms))
    }

    /// The SA whose dummy is to be sent now.
    fn take(&mut self, now_us: u64) -> Option<SaId> {
        if self.due.is_empty() || now_us < self.next_us {
            return None;
        }
        let Some(due) = self.due.iter_mut().find(|due| due.at_us <= now_us) else {
            self.next_us = self.due.iter().map(|due| due.at_us).min().unwrap_or(0);
            return None;
        };
        // What was missed is not made up for.
        due.at_us = (due.at_us + due.every_us).max(now_us);
        Some(due.sa)
    }
}

/// Sends the dummy packets that are due.
#[inline]
pub fn send_due<P: Port, E: EventSink>(core: &mut Core<P, E>) {
    let now_us = core.now_ms * 1000;
    for _ in 0..A_ROUND {
        let Some(id) = core.dummies.take(now_us) else {
            return;
        };
        send(core, id);
    }
}

/// Only an SA in use sends: a peer has no need of dummies by one that is replaced.
#[cold]
fn send<P: Port, E: EventSink>(core: &mut Core<P, E>, id: SaId) {
    let Whereabouts::Here(place) = core.tables.outbound.locate(id) else {
        return core.dummies.remove(id);
    };
    let in_use = core.tables.spd.is_selected(id.get());
    // Where there is no way for a packet, there is none for a dummy, and nobody misses it.
    if let (true, Ok(way)) = (in_use, way(core, place))
        && way.inner_mtu >= SHORTEST
    {
        emit(core, way);
    }
}

fn emit<P: Port, E: EventSink>(core: &mut Core<P, E>, way: Way) {
    let Some(sa) = core.tables.outbound.records.get(way.place) else {
        return;
    };
    let (tfc, shape) = (sa.tfc, sa.shape);
    let drawn = u64::from_be_bytes(draw_iv(&mut core.ivs).explicit());
    let range = u64::from(way.inner_mtu - SHORTEST) + 1;
    // As long as any packet might be; with padding, as long as all are.
    let length = usize::from(SHORTEST) + (drawn % range) as usize;
    let length = if tfc.size == 0 {
        tfc.padded(length, way.inner_mtu)
    } else {
        tfc.padded(SHORTEST.into(), way.inner_mtu)
    };
    let total = ETHERNET + shape.outer_len(length);
    let port = way.next_hop.port;
    let identification = core.next_identification();
    let Some(mut payload) = core.allocate(port, ETHERNET + length) else {
        return;
    };
    let Some(mut target) = core.allocate(port, total) else {
        return core.discard(port, payload);
    };
    let sent = take_number(core, way.place, length).and_then(|number| {
        // RFC 4303 2.6: "the plaintext need not be well-formed".
        let plaintext = payload.get_mut(..length)?;
        plaintext.fill(0);
        let ip = packet::Ip::dummy();
        let outbound = &core.tables.outbound;
        let (sa, key) = (
            outbound.records.get(way.place)?,
            outbound.keys.get(way.place)?.esp()?,
        );
        let drawn = key
            .algorithm()
            .has_unpredictable_iv()
            .then(|| draw_iv(&mut core.ivs));
        let written =
            packet::write_outer(sa, &ip, length, identification, number.low(), &mut target)?;
        let space = target.get_mut(ETHERNET + shape.head() - shape.iv()..written)?;
        encrypt_into(sa, key, drawn, number, plaintext, Protocol::NONE, space)?;
        if way.udp_checksum {
            let packet = target.get_mut(ETHERNET..written)?;
            packet::fill_udp_checksum(packet, Family::V6.header_len());
        }
        Some(written)
    });
    core.discard(port, payload);
    match sent {
        Some(written) => {
            target.set_len(written);
            if core.transmit(port, target) {
                core.tally.one(Counter::OutDummies);
                core.tally
                    .add(Counter::OutEspBytes, (written - ETHERNET) as u64);
            }
        }
        None => core.discard(port, target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_at_their_rate_and_misses_are_not_made_up_for() {
        let sa = |tag: u32| SaId::new(0x1000 + tag).unwrap();
        let mut dummies = Dummies::default();
        assert_eq!(dummies.wait_ms(0), None);
        dummies.add(sa(1), 100, 1000);
        dummies.add(sa(2), 0, 1000);
        assert_eq!(dummies.wait_ms(1000), Some(10));
        let count = |dummies: &mut Dummies, from_ms: u64, to_ms: u64| {
            let mut sent = 0;
            for now_ms in from_ms..to_ms {
                while let Some(id) = dummies.take(now_ms * 1000) {
                    assert_eq!(id, sa(1));
                    sent += 1;
                }
            }
            sent
        };
        assert_eq!(count(&mut dummies, 1000, 2001), 100);
        // A second and a half of sleep.
        assert!(count(&mut dummies, 3500, 3501) <= 2);
        dummies.remove(sa(1));
        assert_eq!(dummies.take(9_000_000), None);
    }
}
