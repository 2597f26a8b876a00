//! Generator and receiver as commands of their own, for machines that have real network cards. Each ends with
//! one line of JSON.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result};
use esplanade_bpf::Prefix;
use esplanade_dataplane::port::{BURST, Interface, Settings, xdp::XdpPort};

use crate::testbed::parse_mac;
use crate::traffic::frame::{Route, Template};
use crate::traffic::tester::{Generator, Plain, Receiver, Wanted, now, steer};

/// 20 ms of what a 10 Gbit/s link carries at 64 bytes, rounded down to what a ring can be.
const RING_FRAMES: u32 = 32_768;

/// What to send.
#[derive(Debug)]
pub struct Generate {
    /// The interface to send by.
    pub interface: String,
    /// The hardware address of the next hop.
    pub via: String,
    /// Sender.
    pub from: SocketAddrV4,
    /// Receiver.
    pub to: SocketAddrV4,
    /// Bytes of a frame.
    pub bytes: usize,
    /// Packets a second; `None` sends as many as go.
    pub rate: Option<f64>,
    /// For how long.
    pub seconds: Duration,
    /// At most so many packets.
    pub count: Option<u64>,
    /// How many source ports take turns.
    pub flows: u16,
}

/// Sends, and prints how much it was.
pub fn generate(job: &Generate) -> Result<()> {
    let interface = Interface::find(&job.interface)?;
    let route = Route {
        source_mac: interface.mac,
        destination_mac: parse_mac(&job.via)?,
        source: job.from,
        destination: job.to,
        flows: job.flows,
    };
    let template = Template::new(&route, job.bytes)?;
    let port = open(interface)?;
    let mut generator = Generator::new(port, template);
    let most = job.count.unwrap_or(u64::MAX);
    let limit = job.seconds.as_nanos() as u64;
    let start = now();
    let mut elapsed = 0;
    while elapsed < limit && generator.sent() < most {
        let due = job.rate.map_or(BURST as u64, |rate| {
            ((elapsed as f64 / 1e9 * rate) as u64).saturating_sub(generator.sent())
        });
        generator.send(due.min(most - generator.sent()));
        elapsed = now() - start;
    }
    let seconds = elapsed as f64 / 1e9;
    let report = serde_json::json!({
        "sent": generator.sent(),
        "seconds": seconds,
        "mpps": generator.sent() as f64 / seconds / 1e6,
    });
    println!("{report}");
    Ok(())
}

/// What to receive.
#[derive(Debug)]
pub struct Receive {
    /// The interface to receive on.
    pub interface: String,
    /// The prefix that the packets come from.
    pub from: String,
    /// The prefix that they go to.
    pub to: String,
    /// Ends after so long without a packet.
    pub silence: Duration,
}

/// Receives until it is silent, and prints what came.
pub fn receive(job: &Receive) -> Result<()> {
    let interface = Interface::find(&job.interface)?;
    let wanted = Wanted {
        from: prefix(&job.from)?,
        to: prefix(&job.to)?,
        esp_to: None,
    };
    let port = open(interface.clone())?;
    let _steering = steer(&interface, port.socket(), wanted)?;
    let mut receiver = Receiver::new(port, Plain)?;
    eprintln!("receiving");
    let silence = job.silence.as_nanos() as u64;
    let mut last = now();
    while now() - last < silence {
        if receiver.receive() > 0 {
            last = now();
        }
    }
    let losses = receiver.losses();
    let tally = receiver.tally();
    let report = serde_json::json!({
        "received": tally.packets,
        "lost": tally.missing(),
        "reordered": tally.reordered,
        "foreign": tally.foreign,
        "mpps": tally.mpps(),
        "p50_us": tally.latency_us(50.0),
        "p90_us": tally.latency_us(90.0),
        "p99_us": tally.latency_us(99.0),
        "p999_us": tally.latency_us(99.9),
        "max_us": tally.latency_us(100.0),
        "receive_ring_full": losses.receive_ring_full,
        "fill_ring_empty": losses.fill_ring_empty,
    });
    println!("{report}");
    Ok(())
}

fn open(interface: Interface) -> Result<XdpPort> {
    Ok(XdpPort::open(&Settings {
        interface,
        queue: 0,
        frames: RING_FRAMES,
        force_copy: false,
    })?)
}

fn prefix(text: &str) -> Result<Prefix> {
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    let address: Ipv4Addr = address
        .parse()
        .with_context(|| format!("{text} is no prefix"))?;
    let length = length
        .parse()
        .with_context(|| format!("{text} is no prefix"))?;
    Ok(Prefix::new(address, length))
}
