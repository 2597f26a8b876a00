//! One worker of each of two gateways back to back, and the packets between them.

use std::mem::take;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use esplanade_dataplane::port::BURST;
use esplanade_dataplane::worker::Stage;
use esplanade_wire::{
    Protocol,
    ethernet::{self, EtherType, MacAddress},
    ipv4, udp,
};

use super::gateway::{Node, Site, Size};
use crate::timing::{Summary, ticks};

/// Bursts that one gateway has in a row, so that it is not in the caches by turns with the other.
const BURSTS: usize = 16;
/// The headers that change on the way end here: Ethernet and IPv4.
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// Packets that bring what caches can hold of many flows into them.
const ENOUGH_FLOWS: u32 = 20_000;

/// Ticks a packet by stage.
pub type Stages = Vec<(Stage, f64)>;

/// The two workers, and where their packets are between them.
pub struct Lane {
    a: Node,
    b: Node,
    number: u32,
    size: Size,
    /// Of this lane.
    flows: u32,
    /// Draws the order of the flows: a linear congruence, which needs no more than to jump about.
    state: u64,
    /// The packets of a pass, in buffers that serve all passes: an allocator between two rounds would cost them their caches.
    plain: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
}

/// Hosts and ports that speak with each other.
#[derive(Debug, Clone, Copy)]
struct Flow {
    network: u32,
    port: u16,
}

impl Lane {
    /// A lane of the workers of this number; all lanes together have so many flows.
    pub fn new(a: Node, b: Node, number: u16, size: Size, flows: u32) -> Self {
        Self {
            a,
            b,
            number: number.into(),
            size,
            flows: (flows / u32::from(size.workers)).max(1),
            state: 1,
            plain: vec![Vec::new(); BURST * BURSTS],
            sealed: vec![Vec::new(); BURST * BURSTS],
        }
    }

    /// Both gateways learn their flows and next hops.
    ///
    /// # Errors
    ///
    /// As of [`pass`](Self::pass).
    pub fn warm_up(&mut self) -> Result<()> {
        for _ in 0..4 + self.flows.min(ENOUGH_FLOWS) as usize / (BURST * BURSTS) {
            self.pass(&[64; BURST], true)?;
        }
        Ok(())
    }

    fn draw(&mut self) -> Flow {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let flow = ((self.state >> 33) % u64::from(self.flows)) as u32;
        let workers = u32::from(self.size.workers);
        let (tunnels, step, first) = if self.size.shared {
            (self.size.tunnels, 1, 0)
        } else {
            (self.size.tunnels / workers, workers, self.number)
        };
        let tunnel = flow % tunnels * step + first;
        let rest = flow / tunnels;
        Flow {
            network: tunnel * self.size.policies + rest % self.size.policies,
            port: (1024 + rest / self.size.policies) as u16,
        }
    }

    /// Passes until both workers were at it for so long, and what is to be done then. Nanoseconds a packet, outbound and inbound.
    ///
    /// # Errors
    ///
    /// As of [`pass`](Self::pass).
    pub fn turn(
        &mut self,
        lengths: &[usize],
        at_least: Duration,
        at_the_end: impl FnOnce(),
    ) -> Result<[f64; 2]> {
        let (mut taken, mut passes) = ([Duration::ZERO; 2], 0_u32);
        while passes == 0 || taken.iter().any(|taken| *taken < at_least) {
            let pass = self.pass(lengths, passes.is_multiple_of(16))?;
            for (taken, pass) in taken.iter_mut().zip(pass) {
                *taken += pass;
            }
            passes += 1;
        }
        at_the_end();
        let packets = f64::from(passes) * (BURST * BURSTS) as f64;
        Ok(taken.map(|taken| taken.as_nanos() as f64 / packets))
    }

    /// Ticks a packet by stage, outbound and inbound: the medians of some passes.
    ///
    /// # Errors
    ///
    /// As of [`pass`](Self::pass).
    pub fn stages(&mut self, lengths: &[usize], passes: usize) -> Result<[Stages; 2]> {
        let mut found = [const { [const { Vec::new() }; Stage::ALL.len()] }; 2];
        for _ in 0..passes {
            self.a.stopwatch().run_by(Some(ticks));
            self.b.stopwatch().run_by(Some(ticks));
            self.pass(lengths, false)?;
            for (found, node) in found.iter_mut().zip([&mut self.a, &mut self.b]) {
                for (found, (_, ticks)) in found.iter_mut().zip(node.stopwatch().spent()) {
                    found.push(ticks as f64 / (BURST * BURSTS) as f64);
                }
                node.stopwatch().run_by(None);
            }
        }
        Ok(found.map(|found| {
            let medians = found.iter().map(|ticks| Summary::of(ticks).median);
            Stage::ALL.into_iter().zip(medians).collect()
        }))
    }

    /// Some bursts through both gateways, and the time that each took; looks at every byte if asked to.
    ///
    /// # Errors
    ///
    /// A packet did not come out, or not as it went in.
    pub fn pass(&mut self, lengths: &[usize], look: bool) -> Result<[Duration; 2]> {
        let mut taken = [Duration::ZERO; 2];
        let (mut plain, mut sealed) = (take(&mut self.plain), take(&mut self.sealed));
        for (frame, length) in plain.iter_mut().zip(lengths.iter().cycle()) {
            packet(frame, self.draw(), *length)?;
        }
        for (plain, sealed) in plain.chunks(BURST).zip(sealed.chunks_mut(BURST)) {
            for packet in plain {
                ensure!(self.a.inside()?.lay_in(packet), "no room for a packet");
            }
            taken[0] += timed(&mut self.a)?;
            let mut room = sealed.iter_mut();
            let mut count = 0;
            self.a.outside()?.take_out(|packet| {
                if let Some(frame) = room.next() {
                    frame.clear();
                    frame.extend_from_slice(packet);
                }
                count += 1;
            });
            ensure!(
                count == plain.len(),
                "{count} of {} packets were sealed",
                plain.len()
            );
        }
        for (sealed, plain) in sealed.chunks(BURST).zip(plain.chunks(BURST)) {
            for packet in sealed {
                ensure!(self.b.outside()?.lay_in(packet), "no room for a packet");
            }
            taken[1] += timed(&mut self.b)?;
            let (mut opened, mut differ) = (0, 0);
            self.b.inside()?.take_out(|packet| {
                let same = |plain: &Vec<u8>| packet.get(HEADERS..) == plain.get(HEADERS..);
                if look && !plain.get(opened).is_some_and(same) {
                    differ += 1;
                }
                opened += 1;
            });
            ensure!(
                opened == plain.len() && differ == 0,
                "{opened} of {} packets were opened, {differ} of them are not what was sealed",
                plain.len()
            );
        }
        (self.plain, self.sealed) = (plain, sealed);
        Ok(taken)
    }
}

/// The time of one round.
fn timed(node: &mut Node) -> Result<Duration> {
    node.pass(Duration::from_micros(10));
    let start = Instant::now();
    let packets = node.round();
    let taken = start.elapsed();
    ensure!(
        packets == BURST,
        "{packets} of {BURST} packets were received"
    );
    Ok(taken)
}

/// Makes a frame from a host of one site to one of the other; its packet has this length.
fn packet(frame: &mut Vec<u8>, flow: Flow, length: usize) -> Result<()> {
    const UDP: usize = ipv4::HEADER_LEN + udp::HEADER_LEN;
    let payload = length
        .checked_sub(UDP)
        .context("a packet has 28 bytes at least")?;
    let ethernet = ethernet::Repr::untagged(
        MacAddress([2, 0, 0, 0, 0, 0]),
        MacAddress([2, 0, 0, 1, 0, 0]),
        EtherType::IPV4,
    );
    let udp = udp::Repr {
        source_port: flow.port,
        destination_port: 9,
        payload_len: u16::try_from(payload)?,
    };
    let ip = ipv4::Repr::new(
        Site::A.host(flow.network),
        Site::B.host(flow.network),
        Protocol::UDP,
        u16::try_from(payload + udp::HEADER_LEN)?,
    );
    frame.clear();
    frame.resize(ethernet::HEADER_LEN, 0);
    ethernet.emit(frame)?;
    frame.extend(ip.bytes());
    frame.extend(udp.bytes());
    frame.extend((0..payload).map(|at| at as u8));
    Ok(())
}
