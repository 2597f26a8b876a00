//! Security associations (RFC 4301 4.4.2.1) as the worker that owns them holds them.
//!
//! An SA is a run-time record on cache lines of its own, with only what a packet needs, and a cold record with
//! the rest, which events and statistics ask for.

use crate::{
    ah, esp::Shape, id::SaId, replay::ReplayWindow, sequence::OutboundSequence, spd::PolicyId,
};
use esplanade_crypto::{Algorithm, Integrity, IntegrityKey, OpeningKey, SealingKey};
use esplanade_wire::{Dscp, ethernet::MacAddress, ip::Family, template::Template};
use std::net::IpAddr;

/// When an SA has to be replaced and when it ends; 0 is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// Packets after which a successor is asked for.
    pub soft_packets: u64,
    /// Packets that it carries at most.
    pub hard_packets: u64,
    /// Bytes after which a successor is asked for.
    pub soft_bytes: u64,
    /// Bytes after which it carries no more packets.
    pub hard_bytes: u64,
}

/// How far an SA is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    /// Nothing to do yet.
    Fresh,
    /// Time for a successor.
    Soft,
    /// It carries no more packets.
    Hard,
}

/// What an SA has carried, and the counts at which its lifetime has to be looked at again.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    packets: u64,
    bytes: u64,
    packets_alarm: u64,
    bytes_alarm: u64,
}

impl Usage {
    /// Nothing carried yet.
    pub fn new(lifetime: &Lifetime) -> Self {
        let mut usage = Self {
            packets: 0,
            bytes: 0,
            packets_alarm: 0,
            bytes_alarm: 0,
        };
        usage.assess(lifetime);
        usage
    }

    /// Packets carried.
    #[inline]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes of inner packets carried.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts one packet. `true` when the lifetime has to be [assessed](Self::assess).
    #[inline]
    pub fn count(&mut self, bytes: usize) -> bool {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.packets >= self.packets_alarm || self.bytes >= self.bytes_alarm
    }

    /// Where in its lifetime the SA is; sets the alarm to the next limit.
    #[cold]
    pub fn assess(&mut self, lifetime: &Lifetime) -> Age {
        let reached = |count: u64, limit: u64| limit != 0 && count >= limit;
        let age = if reached(self.packets, lifetime.hard_packets)
            || reached(self.bytes, lifetime.hard_bytes)
        {
            Age::Hard
        } else if reached(self.packets, lifetime.soft_packets)
            || reached(self.bytes, lifetime.soft_bytes)
        {
            Age::Soft
        } else {
            Age::Fresh
        };
        let next = |soft: u64, hard: u64| {
            let limit = if age == Age::Fresh && soft != 0 {
                soft
            } else {
                hard
            };
            if limit == 0 { u64::MAX } else { limit }
        };
        self.packets_alarm = next(lifetime.soft_packets, lifetime.hard_packets);
        self.bytes_alarm = next(lifetime.soft_bytes, lifetime.hard_bytes);
        age
    }

    /// Sets the alarm for the next packet, when an announcement found no room.
    pub fn ring_again(&mut self) {
        self.packets_alarm = 0;
    }
}

/// UDP encapsulation (RFC 3948), seen from us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpPorts {
    /// Our port.
    pub local: u16,
    /// The peer's, or its NAT's.
    pub remote: u16,
}

/// What the packets of an SA hold (RFC 4301 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Whole packets.
    Tunnel,
    /// What packets between the SA's two ends carry behind their headers.
    Transport,
}

/// What is done to the packets of an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// ESP.
    Esp(Algorithm),
    /// AH.
    Ah(Integrity),
}

/// What an inbound SA opens packets with.
#[derive(Debug)]
pub enum Opener {
    /// ESP.
    Esp(OpeningKey),
    /// AH.
    Ah(Box<IntegrityKey>),
}

impl Opener {
    /// ESP's key; `None` for an SA of AH.
    #[inline]
    pub fn esp(&self) -> Option<&OpeningKey> {
        match self {
            Self::Esp(key) => Some(key),
            Self::Ah(_) => None,
        }
    }

    /// AH's key; `None` for an SA of ESP.
    #[inline]
    pub fn ah(&self) -> Option<&IntegrityKey> {
        match self {
            Self::Esp(_) => None,
            Self::Ah(key) => Some(key),
        }
    }
}

/// What an outbound SA seals packets with.
#[derive(Debug)]
pub enum Sealer {
    /// ESP.
    Esp(SealingKey),
    /// AH.
    Ah(Box<IntegrityKey>),
}

impl Sealer {
    /// ESP's key; `None` for an SA of AH.
    #[inline]
    pub fn esp(&self) -> Option<&SealingKey> {
        match self {
            Self::Esp(key) => Some(key),
            Self::Ah(_) => None,
        }
    }

    /// AH's key; `None` for an SA of ESP.
    #[inline]
    pub fn ah(&self) -> Option<&IntegrityKey> {
        match self {
            Self::Esp(_) => None,
            Self::Ah(key) => Some(key),
        }
    }
}

/// The addresses that the peer's packets in transport mode were made with, before a NAT changed them (RFC 3948 3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// Ours, as the peer knows it.
    pub local: IpAddr,
    /// The peer's own.
    pub remote: IpAddr,
}

/// Traffic flow confidentiality (RFC 4303 2.6, 2.7), in ESP's tunnel mode; all zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tfc {
    /// Inner packets have at least so many bytes, as far as the path allows.
    pub size: u16,
    /// Inner packets have a multiple of so many bytes, 0 any length.
    pub multiple: u16,
    /// Dummy packets a second.
    pub dummies: u16,
}

impl Tfc {
    /// The length of an inner packet with its padding, which `inner_mtu` bounds. The packet fits into that itself.
    #[inline]
    pub fn padded(self, length: usize, inner_mtu: u16) -> usize {
        let multiple = usize::from(self.multiple).max(1);
        let padded = length.max(self.size.into()).next_multiple_of(multiple);
        padded.min(inner_mtu.into()).max(length)
    }

    /// Whether inner packets are padded.
    #[inline]
    pub fn pads(self) -> bool {
        self.size != 0 || self.multiple != 0
    }
}

/// What packets that go their way do not need.
#[derive(Debug, Clone)]
pub struct ColdSa {
    /// The transform.
    pub protection: Protection,
    /// The outer address at our end.
    pub local: IpAddr,
    /// The outer address at the peer's end.
    pub remote: IpAddr,
    /// UDP encapsulation, when a NAT was found.
    pub encapsulation: Option<UdpPorts>,
    /// For an inbound SA in transport mode through a NAT, what its packets were before it.
    pub original: Option<Original>,
    /// Its limits.
    pub lifetime: Lifetime,
    /// The operator's name for it, as the control plane gave it.
    pub label: [u8; 64],
    /// Inbound packets refused as late or as duplicates.
    pub replayed: u64,
    /// Inbound packets that were not authentic.
    pub forged: u64,
    /// The control plane has not been told yet where the peer of an inbound SA is.
    pub move_untold: bool,
}

/// What was announced about an SA; each once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announced {
    /// The first authenticated packet.
    pub first_packet: bool,
    /// The soft lifetime.
    pub soft_lifetime: bool,
    /// The hard lifetime.
    pub hard_lifetime: bool,
    /// That sequence numbers run out.
    pub near_end: bool,
}

/// An inbound SA at run time.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct InboundSa {
    /// Which sequence numbers came.
    pub window: ReplayWindow,
    /// Its identifier and SPI.
    pub id: SaId,
    /// How its packets of ESP are laid out; of no use for AH.
    pub shape: Shape,
    /// The outer destination of its packets.
    pub local: IpAddr,
    /// How its headers of AH are laid out; `None` for an SA of ESP.
    pub ah: Option<ah::Shape>,
    /// The peer is followed where its NAT moves it (RFC 7296 2.23).
    pub follows: bool,
    /// The policy that the SA was made for; it serves the whole group.
    pub policy: PolicyId,
    /// Where its last packet left the gateway: a guess at where the next one will.
    pub exit_port: u8,
    /// It carries no more packets.
    pub expired: bool,
    /// Its statistics changed since they were last published.
    pub dirty: bool,
    /// What the control plane was told.
    pub announced: Announced,
    /// What its packets hold.
    pub mode: Mode,
    /// What it carried.
    pub usage: Usage,
    /// When it carried its last packet.
    pub used_ms: u64,
    /// The rest.
    pub cold: Box<ColdSa>,
}

const _: () = assert!(size_of::<InboundSa>() == 128);

/// What to do with the DF bit of the outer header (RFC 4301 8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DfPolicy {
    /// As in the inner header.
    Copy,
    /// Always set.
    Set,
    /// Always clear.
    Clear,
}

/// Where a packet leaves the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The neighbour's address.
    pub destination: MacAddress,
    /// The port's address.
    pub source: MacAddress,
    /// The largest IP packet on the way there.
    pub mtu: u16,
    /// The port.
    pub port: u8,
}

/// An outbound SA at run time. What each packet of plain ESP needs comes first.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct OutboundSa {
    /// The numbers not taken yet.
    pub sequence: OutboundSequence,
    /// What it carried.
    pub usage: Usage,
    /// When it carried its last packet.
    pub used_ms: u64,
    /// The peer's SPI.
    pub spi: u32,
    /// Its identifier.
    pub id: SaId,
    /// The headers of its packets, when the next hop is known.
    pub template: Template,
    /// What the next hop, when known, was resolved under.
    pub next_hop_generation: u32,
    /// Where its packets go next.
    pub next_hop: Option<NextHop>,
    /// The largest inner packet, by the path MTU, the next hop and the overhead.
    pub inner_mtu: u16,
    /// How its packets of ESP are laid out; of no use for AH.
    pub shape: Shape,
    /// 64-bit sequence numbers.
    pub extended: bool,
    /// The outer DSCP; `None` is the inner one (RFC 2983).
    pub dscp: Option<Dscp>,
    /// Whether packets that may be fragmented are so once they are sealed.
    pub fragment_sealed: bool,
    /// The outer DF bit.
    pub df: DfPolicy,
    /// It carries no more packets.
    pub expired: bool,
    /// Its statistics changed since they were last published.
    pub dirty: bool,
    /// Whether the outer UDP checksum over IPv6 is filled in, or zero as RFC 6935 allows.
    pub udp_checksum: bool,
    /// What its packets hold.
    pub mode: Mode,
    /// What hides their number and size.
    pub tfc: Tfc,
    /// How its headers of AH are laid out; `None` for an SA of ESP.
    pub ah: Option<ah::Shape>,
    /// What the control plane was told.
    pub announced: Announced,
    /// The outer source.
    pub local: IpAddr,
    /// The outer destination.
    pub remote: IpAddr,
    /// The configured path MTU, 0 if none is.
    pub path_mtu: u16,
    /// The policy that the SA was made for; it serves the whole group.
    pub policy: PolicyId,
    /// The rest.
    pub cold: Box<ColdSa>,
}

const _: () = assert!(size_of::<OutboundSa>() == 256);

impl OutboundSa {
    /// The largest packet that it carries over a path, header included; 0 when there is none.
    pub fn inner_mtu(&self, path_mtu: u16) -> u16 {
        let outer = Family::of(self.local).header_len();
        match (self.ah, self.mode) {
            (None, Mode::Tunnel) => self.shape.inner_mtu(path_mtu),
            // The header of the packet itself is in front.
            (None, Mode::Transport) => match self.shape.inner_mtu(path_mtu) {
                0 => 0,
                payload => payload.saturating_add(outer as u16),
            },
            (Some(ah), Mode::Tunnel) => ah.room(path_mtu, outer),
            (Some(ah), Mode::Transport) => ah.room(path_mtu, 0),
        }
    }

    /// Whether its packets go one by one: everything but ESP's tunnel mode without padding.
    #[inline]
    pub fn is_special(&self) -> bool {
        self.mode == Mode::Transport || self.tfc.pads() || self.ah.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_ring_once_for_each_limit() {
        let lifetime = Lifetime {
            soft_packets: 2,
            hard_packets: 4,
            ..Lifetime::default()
        };
        let mut usage = Usage::new(&lifetime);
        assert!(!usage.count(100));
        assert!(usage.count(100));
        assert_eq!(usage.assess(&lifetime), Age::Soft);
        assert!(!usage.count(100));
        assert!(usage.count(100));
        assert_eq!(usage.assess(&lifetime), Age::Hard);
        assert!(usage.count(100));
    }

    #[test]
    fn padding_grows_to_size_multiple_or_path_and_never_cuts() {
        let tfc = |size, multiple| Tfc {
            size,
            multiple,
            dummies: 0,
        };
        for (tfc, length, padded) in [
            (Tfc::default(), 100, 100),
            (tfc(500, 0), 100, 500),
            (tfc(500, 0), 600, 600),
            (tfc(0, 128), 100, 128),
            (tfc(0, 128), 128, 128),
            (tfc(500, 128), 1, 512),
            (tfc(u16::MAX, 0), 100, 1400),
            (tfc(0, 1000), 1100, 1400),
            (tfc(0, 1000), 1400, 1400),
        ] {
            assert_eq!(tfc.padded(length, 1400), padded, "{tfc:?} {length}");
        }
        assert!(!Tfc::default().pads());
    }

    #[test]
    fn no_limit_never_rings() {
        let mut usage = Usage::new(&Lifetime::default());
        assert!((0..1000).all(|_| !usage.count(usize::MAX >> 20)));
        assert_eq!(usage.assess(&Lifetime::default()), Age::Fresh);
    }

    #[test]
    fn bytes_count_too() {
        let lifetime = Lifetime {
            hard_bytes: 1000,
            ..Lifetime::default()
        };
        let mut usage = Usage::new(&lifetime);
        assert!(!usage.count(999));
        assert!(usage.count(1));
        assert_eq!(usage.assess(&lifetime), Age::Hard);
    }
}
