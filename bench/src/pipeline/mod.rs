//! The whole worker by itself, without a wire: from a received frame through parsing, SPD or SPI lookup, SA, crypto, outer
//! header and next hop to a frame that is ready to be sent.
//!
//! Two gateways stand back to back in one thread: a burst of plain packets goes into the first, what comes out into the
//! second, and what comes out there is what went in. Only the two workers' own rounds are timed, the copying between them
//! is not; every packet is counted, and a sample is compared byte by byte.

mod gateway;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use esplanade_channel as channel;
use esplanade_crypto::{Algorithm, EngineKind};
use esplanade_dataplane::port::BURST;
use esplanade_wire::{
    Protocol,
    ethernet::{self, EtherType, MacAddress},
    ipv4, udp,
};
use serde::Serialize;

use crate::timing::{Bytes, JsonLines, Machine, Summary, mean, pin};
use gateway::{Gateway, Keys, MAX_TUNNELS, Site};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Bytes of the inner IP packets; `imix` is 7:4:1 of 64, 570 and 1420.
    #[arg(long, value_delimiter = ',', default_value = "64,512,1420,imix")]
    bytes: Vec<Bytes>,
    /// How many tunnels take turns, in random order; each has a policy and two SAs.
    #[arg(long, value_delimiter = ',', default_value = "1,10000")]
    sas: Vec<u32>,
    /// The transforms.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "aes-128-gcm")]
    algorithm: Vec<Transform>,
    /// How often each measurement has its turn.
    #[arg(long, default_value_t = 101)]
    rounds: usize,
    /// The crypto engine; without it the fastest.
    #[arg(long)]
    engine: Option<EngineKind>,
    /// The core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Write the results as JSON lines as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A transform of ESP.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Transform {
    #[value(name = "aes-128-gcm")]
    Aes128Gcm,
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
}

impl Transform {
    fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }

    /// As the channel and as the crypto engines know it.
    fn known_as(self) -> (channel::Transform, Algorithm) {
        match self {
            Self::Aes128Gcm => (
                channel::Transform::AES_128_GCM_16,
                Algorithm::AES_128_GCM_16,
            ),
            Self::Aes256Gcm => (
                channel::Transform::AES_256_GCM_16,
                Algorithm::AES_256_GCM_16,
            ),
        }
    }
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Row<'a> {
    bench: &'static str,
    direction: &'static str,
    engine: &'static str,
    algorithm: &'static str,
    bytes: Bytes,
    sas: u32,
    policies: u32,
    workers: u32,
    mpps: f64,
    gbps: f64,
    cycles_per_packet: f64,
    /// The distance of the quartiles, as a share of the median.
    spread: f64,
    machine: &'a str,
}

/// How long a turn is, at least.
const TURN: Duration = Duration::from_micros(200);
/// The headers that stay as they are on the whole way end here: Ethernet and IPv4.
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// Measures, and tells.
///
/// # Errors
///
/// Something asked for is not to be had, or a packet did not come out as it went in.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        options.rounds > 0
            && options
                .sas
                .iter()
                .all(|sas| (1..=MAX_TUNNELS).contains(sas)),
        "there is at least one round, and there are 1 to {MAX_TUNNELS} tunnels"
    );
    pin(options.core)?;
    let engine = options.engine.unwrap_or_else(EngineKind::best);
    let machine = Machine::measure();
    println!("{machine}; engine {engine}\n");
    let mut json = JsonLines::create(options.json.as_deref())?;
    for algorithm in &options.algorithm {
        for sas in &options.sas {
            let mut pair = Pair::new(engine, *algorithm, *sas)?;
            for bytes in &options.bytes {
                let mean = mean(&bytes.lengths(BURST));
                let times = pair.measure(*bytes, options.rounds)?;
                for (direction, times) in ["outbound", "inbound"].into_iter().zip(times) {
                    let Summary { median, spread } = Summary::of(&times);
                    let row = Row {
                        bench: "pipeline",
                        direction,
                        engine: engine.name(),
                        algorithm: algorithm.name(),
                        bytes: *bytes,
                        sas: *sas,
                        policies: *sas,
                        workers: 1,
                        mpps: 1e3 / median,
                        gbps: 8.0 * mean / median,
                        cycles_per_packet: median / machine.cycle,
                        spread,
                        machine: &machine.name,
                    };
                    row.print();
                    json.write(&row)?;
                }
            }
        }
    }
    json.finish()
}

impl Row<'_> {
    fn print(&self) {
        println!(
            "{:<8} {} {:>5} B {:>6} SAs  {:6.2} Mpps +-{:2.0} %  {:6.1} Gbit/s  {:6.0} cycles a packet",
            self.direction,
            self.algorithm,
            self.bytes,
            self.sas,
            self.mpps,
            50.0 * self.spread,
            self.gbps,
            self.cycles_per_packet,
        );
    }
}

/// Two gateways back to back.
struct Pair {
    a: Gateway,
    b: Gateway,
    tunnels: u32,
    /// Draws the order of the tunnels: a linear congruence, which needs no more than to jump about.
    state: u64,
}

impl Pair {
    fn new(engine: EngineKind, algorithm: Transform, tunnels: u32) -> Result<Self> {
        let mut a = Gateway::new(Site::A, engine, tunnels)?;
        let mut b = Gateway::new(Site::B, engine, tunnels)?;
        let mut random = File::open("/dev/urandom").context("no random numbers")?;
        let (transform, algorithm) = algorithm.known_as();
        for tunnel in 0..tunnels {
            let mut bytes = vec![0; 2 * algorithm.key_material_len()];
            random.read_exact(&mut bytes)?;
            let (first, second) = bytes.split_at(algorithm.key_material_len());
            let keys = Keys::new(first, second)?;
            a.add_tunnel(tunnel, transform, &keys)?;
            b.add_tunnel(tunnel, transform, &keys)?;
        }
        Ok(Self {
            a,
            b,
            tunnels,
            state: 1,
        })
    }

    fn draw(&mut self) -> u32 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 33) % u64::from(self.tunnels)) as u32
    }

    /// Nanoseconds a packet of each turn, outbound and inbound.
    fn measure(&mut self, bytes: Bytes, rounds: usize) -> Result<[Vec<f64>; 2]> {
        let lengths = bytes.lengths(BURST);
        // Both gateways learn their next hops, and the frames come into the cache.
        for _ in 0..4 {
            self.burst(&lengths, true)?;
        }
        let mut times = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
        for _ in 0..rounds {
            let (mut taken, mut bursts) = ([Duration::ZERO; 2], 0_u32);
            while taken.iter().any(|taken| *taken < TURN) {
                let burst = self.burst(&lengths, bursts.is_multiple_of(64))?;
                for (taken, burst) in taken.iter_mut().zip(burst) {
                    *taken += burst;
                }
                bursts += 1;
            }
            for (times, taken) in times.iter_mut().zip(taken) {
                times.push(taken.as_nanos() as f64 / (f64::from(bursts) * BURST as f64));
            }
        }
        Ok(times)
    }

    /// One burst through both gateways, and the time that each took; looks at every byte if asked to.
    fn burst(&mut self, lengths: &[usize], look: bool) -> Result<[Duration; 2]> {
        let mut plain = Vec::with_capacity(BURST);
        for length in lengths {
            let packet = packet(self.draw(), *length)?;
            ensure!(self.a.inside()?.lay_in(&packet), "no room for a packet");
            plain.push(packet);
        }
        let outbound = timed(&mut self.a)?;
        let (mut sealed, mut full) = (0, false);
        let outside = self.b.outside()?;
        self.a.outside()?.take_out(|packet| {
            full |= !outside.lay_in(packet);
            sealed += 1;
        });
        ensure!(
            sealed == BURST && !full,
            "{sealed} of {BURST} packets were sealed"
        );
        let inbound = timed(&mut self.b)?;
        let (mut opened, mut differ) = (0, 0);
        self.b.inside()?.take_out(|packet| {
            let same = |plain: &Vec<u8>| packet.get(HEADERS..) == plain.get(HEADERS..);
            if look && !plain.get(opened).is_some_and(same) {
                differ += 1;
            }
            opened += 1;
        });
        ensure!(
            opened == BURST && differ == 0,
            "{opened} of {BURST} packets were opened, {differ} of them are not what was sealed"
        );
        Ok([outbound, inbound])
    }
}

/// The time of one round.
fn timed(gateway: &mut Gateway) -> Result<Duration> {
    gateway.pass(Duration::from_micros(10));
    let start = Instant::now();
    let packets = gateway.round();
    let taken = start.elapsed();
    ensure!(
        packets == BURST,
        "{packets} of {BURST} packets were received"
    );
    Ok(taken)
}

/// A frame from a host of one site to one of the other; its packet has this length.
fn packet(tunnel: u32, length: usize) -> Result<Vec<u8>> {
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
        source_port: 7,
        destination_port: 9,
        payload_len: u16::try_from(payload)?,
    };
    let ip = ipv4::Repr::new(
        Site::A.host(tunnel),
        Site::B.host(tunnel),
        Protocol::UDP,
        u16::try_from(payload + udp::HEADER_LEN)?,
    );
    let mut frame = vec![0; ethernet::HEADER_LEN];
    ethernet.emit(&mut frame)?;
    frame.extend(ip.bytes());
    frame.extend(udp.bytes());
    frame.extend((0..payload).map(|at| at as u8));
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_go_through_both_gateways_as_they_are() {
        for algorithm in [Transform::Aes128Gcm, Transform::Aes256Gcm] {
            let mut pair = Pair::new(EngineKind::best(), algorithm, 100).unwrap();
            for bytes in [Bytes::Length(64), Bytes::Length(1420), Bytes::IMIX] {
                pair.burst(&bytes.lengths(BURST), true).unwrap();
            }
        }
    }
}
