//! Copies of packets for somebody who watches, on request only: AF_XDP hides packets from tcpdump.
//!
//! While nobody watches, this is one branch that is never taken wherever packets come, go or are dropped. The copies go into a
//! ring of the channel and nowhere else, no faster than ordered, and end at the moment that the order names.

use super::{
    core::Core,
    limit::TokenBucket,
    packet::{self, ETHERNET, Ip},
    reports::EventSink,
};
use crate::port::{Port, TxFrame};
use esplanade_channel::{
    CaptureOrder, Command, CommandError, Counter, Heading, PacketSender, PortId, Role, Sighting,
};
use esplanade_ipsec::{id::SaId, sa::OutboundSa, sa::Sealer, sad::Sad, spd};
use esplanade_wire::{Protocol, ah, ethernet, ip::Family};
use std::{net::IpAddr, time::Duration};

/// The policy groups that one capture is after, at most.
const GROUPS: usize = 256;
/// Outbound SAs of these groups that are remembered, at most.
const SENDING: usize = 4096;

/// What is being copied.
#[derive(Debug)]
pub struct Capture {
    on: bool,
    ring: Option<PacketSender>,
    now: Duration,
    order: CaptureOrder,
    limit: TokenBucket,
    /// With [`CaptureOrder::chosen`], the groups of policies whose packets are meant.
    groups: Vec<u64>,
    /// The outbound SAs of these groups, by the peer's SPI and address.
    sending: Vec<(u32, IpAddr)>,
    /// Why the last packet found no frame or no sequence number.
    refused: Option<Counter>,
}

impl Capture {
    /// Off, with the ring that copies would go to.
    pub fn new(ring: Option<PacketSender>) -> Self {
        Self {
            on: false,
            ring,
            now: Duration::ZERO,
            order: CaptureOrder {
                until_ms: 0,
                rate: 1,
                snap: 1,
                drops_only: false,
                chosen: false,
            },
            limit: TokenBucket::new(1, 1),
            groups: Vec::with_capacity(GROUPS),
            sending: Vec::with_capacity(SENDING),
            refused: None,
        }
    }

    /// Whether anybody watches.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Takes note of the time, and of the order's end.
    #[inline]
    pub fn tick(&mut self, now: Duration) {
        if self.on {
            self.now = now;
            self.on = (now.as_millis() as u64) < self.order.until_ms;
        }
    }

    /// Says why the packet at hand found no frame or no sequence number, for [`Core::see_refused`].
    #[cold]
    pub fn because(&mut self, reason: Counter) {
        self.refused = Some(reason);
    }

    fn start(&mut self, order: &CaptureOrder, now_ms: u64) {
        let rate = u64::from(order.rate);
        self.order = *order;
        self.limit = TokenBucket::new(rate, (rate / 10).max(1));
        self.now = Duration::from_millis(now_ms);
        self.groups.clear();
        self.sending.clear();
        self.refused = None;
        self.on = self.ring.is_some() && now_ms < order.until_ms;
    }

    fn add_group(
        &mut self,
        group: u64,
        outbound: &Sad<OutboundSa, Sealer>,
    ) -> Result<(), CommandError> {
        if self.groups.contains(&group) {
            return Ok(());
        }
        if self.groups.len() == GROUPS {
            return Err(CommandError::TableFull);
        }
        self.groups.push(group);
        outbound.iter().for_each(|(_, sa)| self.follow(sa));
        Ok(())
    }

    /// Remembers an outbound SA, if its packets are meant.
    fn follow(&mut self, sa: &OutboundSa) {
        let sending = (sa.spi, sa.remote);
        if self.groups.contains(&sa.policy.group())
            && self.sending.len() < SENDING
            && !self.sending.contains(&sending)
        {
            self.sending.push(sending);
        }
    }
}

/// What packets go by that are not plain.
fn spi_of(frame: &[u8], ip: &Ip) -> Option<u32> {
    if ip.protocol == Protocol::AH {
        let packet = frame.get(ETHERNET + ip.header..ETHERNET + ip.length)?;
        return Some(ah::Packet::new_checked(packet).ok()?.spi().0);
    }
    let esp = packet::find_esp(frame, ip).ok()??;
    Some(esp.spi)
}

impl<P: Port, E: EventSink> Core<P, E> {
    /// Obeys a command about captures.
    ///
    /// # Errors
    ///
    /// [`CommandError::TableFull`]: a capture is not after so many groups.
    pub fn order_capture(&mut self, command: &Command) -> Result<(), CommandError> {
        let capture = &mut self.capture;
        match command {
            Command::StartCapture(order) => capture.start(order, self.now_ms),
            Command::CaptureGroup { policy } => {
                let group = spd::PolicyId(policy.0).group();
                capture.add_group(group, &self.tables.outbound)?;
            }
            Command::StopCapture => capture.on = false,
            Command::InstallOutbound(sa) if capture.on => {
                let id = SaId::new(sa.sa.value());
                if let Some(sa) = id.and_then(|id| self.tables.outbound.get(id)) {
                    capture.follow(sa);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A packet came in by a port, or leaves by it.
    #[inline(always)]
    pub fn see(&mut self, port: u8, heading: Heading, frame: &[u8]) {
        if self.capture.on {
            self.copy(port, heading, None, [frame, &[]]);
        }
    }

    /// A packet was lent by another worker, which could not tell whether it is meant.
    #[inline(always)]
    pub fn see_borrowed(&mut self, port: u8, frame: &[u8]) {
        if self.capture.on && self.capture.order.chosen {
            self.copy(port, Heading::In, None, [frame, &[]]);
        }
    }

    /// A packet that came in by a port is dropped.
    #[inline]
    pub fn see_drop(&mut self, port: u8, reason: Counter, frame: &[u8]) {
        if self.capture.on {
            self.copy(port, Heading::In, Some(reason), [frame, &[]]);
        }
    }

    /// A packet whose Ethernet header is yet to be written is dropped before it leaves by a port. It is `length` bytes
    /// of IP behind that header's place.
    #[inline(always)]
    pub fn see_unsent(&mut self, port: u8, reason: Counter, frame: &TxFrame, length: usize) {
        if self.capture.on {
            let bytes = frame.get(ETHERNET..ETHERNET + length).unwrap_or_default();
            self.see_plain(port, reason, bytes);
        }
    }

    /// As [`Core::see_unsent`], of a packet by itself.
    #[cold]
    pub fn see_plain(&mut self, port: u8, reason: Counter, bytes: &[u8]) {
        if !self.capture.on {
            return;
        }
        let family = Family::of_packet(bytes).unwrap_or(Family::V4);
        let mut header = [0; ETHERNET];
        let unknown = ethernet::MacAddress([0; 6]);
        // The array has room for it.
        let _ = ethernet::Repr::untagged(unknown, unknown, family.ethertype()).emit(&mut header);
        self.copy(port, Heading::Out, Some(reason), [&header, bytes]);
    }

    /// A packet that came in by a port found no frame or no sequence number.
    #[cold]
    pub fn see_refused(&mut self, port: u8, frame: &[u8]) {
        if let Some(reason) = self.capture.refused.take() {
            self.see_drop(port, reason, frame);
        }
    }

    /// As [`Core::see_unsent`], of a packet that found no frame of the port.
    #[cold]
    pub fn see_unplaced(&mut self, port: u8, frame: &TxFrame, total: usize) {
        if let Some(reason) = self.capture.refused.take() {
            self.see_unsent(port, reason, frame, total.saturating_sub(ETHERNET));
        }
    }

    /// As [`Core::see_plain`], of a packet that found no frame or no sequence number.
    #[cold]
    pub fn see_plain_refused(&mut self, port: u8, bytes: &[u8]) {
        if let Some(reason) = self.capture.refused.take() {
            self.see_plain(port, reason, bytes);
        }
    }

    #[cold]
    fn copy(&mut self, port: u8, heading: Heading, dropped: Option<Counter>, parts: [&[u8]; 2]) {
        if self.capture.order.drops_only && dropped.is_none() {
            return;
        }
        let [front, back] = parts;
        if self.capture.order.chosen && !self.is_meant(port, heading, front, back) {
            return;
        }
        let Capture {
            ring,
            limit,
            order,
            now,
            ..
        } = &mut self.capture;
        let sighting = Sighting {
            at_ns: now.as_nanos() as u64,
            port: PortId(port),
            heading,
            dropped,
            length: (front.len() + back.len()) as u32,
        };
        let copied = limit.take(now.as_millis() as u64)
            && ring
                .as_mut()
                .is_some_and(|ring| ring.push(&sighting, parts, order.snap).is_ok());
        self.tally.one(if copied {
            Counter::Captured
        } else {
            Counter::CaptureLost
        });
    }

    /// Whether a packet is one of the groups that were chosen.
    fn is_meant(&mut self, port: u8, heading: Heading, front: &[u8], back: &[u8]) -> bool {
        let read = match back {
            [] => packet::read_frame(front),
            // Its Ethernet header stands apart.
            bytes => packet::read(Family::of_packet(bytes).unwrap_or(Family::V4), bytes),
        };
        let Ok(ip) = read else {
            return false;
        };
        let outside = self.role(port) == Some(Role::Outside);
        let spi = if outside { spi_of(front, &ip) } else { None };
        let group = match (spi, heading) {
            (Some(spi), Heading::Out) => {
                return self.capture.sending.contains(&(spi, ip.destination()));
            }
            (Some(spi), Heading::In) => SaId::new(spi)
                .and_then(|id| self.tables.inbound.get(id))
                .map(|sa| sa.policy.group()),
            (None, heading) => {
                let leaving = outside == (heading == Heading::Out);
                let flow = if leaving { ip.flow_out() } else { ip.flow_in() };
                let decision = self.tables.spd.lookup(&flow);
                decision.map(|decision| decision.policy.group())
            }
        };
        group.is_some_and(|group| self.capture.groups.contains(&group))
    }
}
