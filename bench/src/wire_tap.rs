//! A listener on the wire between the gateways: what went by, whether any nonce was used twice,
//! and whether a marker that only plaintext holds was seen.
//!
//! tcpdump does the listening and writes the pcap format (draft-ietf-opsawg-pcap) into a pipe;
//! the frames are looked at as they come and nothing is kept of them.

mod pcap;

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, kill_process};

use esplanade_wire::ethernet::{EtherType, Frame};
use esplanade_wire::udp::{self, Datagram};
use esplanade_wire::{Protocol, esp, ipv4};

use crate::testbed::{Namespace, wait_until};

/// The network that the gateways' outer addresses are of: 192.0.2.0/24.
const OUTER_NETWORK: [u8; 3] = [192, 0, 2];

/// How much of each frame is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Headers only: SPIs and IVs at a high rate.
    Headers,
    /// Whole frames, to search for a marker.
    Whole,
}

/// What went by, by kind. Fragments after the first count as what their IP header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// ESP packets, plain or in UDP 4500.
    pub esp: u64,
    /// ESP packets of those that came in UDP 4500.
    pub esp_in_udp: u64,
    /// IKE messages on UDP 500 and, behind the non-ESP marker, on UDP 4500.
    pub ike: u64,
    /// ARP and other frames that carry no IP.
    pub link: u64,
    /// NAT keepalives.
    pub keepalives: u64,
    /// ICMP between the gateways' own addresses.
    pub icmp: u64,
    /// Everything else: plaintext of somebody.
    pub other: u64,
    /// A description of the first of the others.
    pub first_other: Option<String>,
    /// Frames that held the marker.
    pub marked: u64,
    /// Pairs of SPI and IV that were seen more than once.
    pub repeated_nonces: u64,
    /// ESP packets of each SPI.
    pub packets_by_spi: BTreeMap<u32, u64>,
    /// The first few ESP packets, plain or out of UDP, to be replayed or forged.
    pub samples: Vec<Sample>,
    /// Frames that the listener was too slow for. With any, an absence proves nothing.
    pub missed: u64,
}

/// An ESP packet as it was on the wire, from the SPI on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its outer source address.
    pub source: Ipv4Addr,
    /// Its SPI.
    pub spi: u32,
    /// The packet without its outer headers.
    pub bytes: Vec<u8>,
}

/// How many packets are kept as samples.
const SAMPLES: usize = 32;

impl Seen {
    /// Whether nothing but ESP, IKE and what a link needs went by.
    pub fn only_protected(&self) -> bool {
        self.other == 0 && self.marked == 0 && self.missed == 0
    }
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    nonces: HashSet<(u32, u64)>,
    marker: Vec<u8>,
}

/// A running listener.
#[derive(Debug)]
pub struct WireTap {
    tcpdump: Child,
    state: Arc<Mutex<State>>,
    frames: Option<std::thread::JoinHandle<Result<()>>>,
    words: Option<std::thread::JoinHandle<String>>,
}

impl WireTap {
    /// Listens on an interface of a namespace from now on. An empty marker is never found.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        depth: Depth,
        marker: &[u8],
    ) -> Result<Self> {
        let snap_length = match depth {
            Depth::Headers => "96",
            // The kernel's buffer is made of slots of this length: with longer ones there are too few.
            Depth::Whole => "2048",
        };
        let mut command = namespace.command("tcpdump");
        // Without immediate mode the kernel hands over a block only when it is full or a second old.
        command.args(["-i", interface, "-n", "-U", "--immediate-mode", "-w", "-"]);
        command.args(["-s", snap_length, "-B", "65536"]);
        let mut tcpdump = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start tcpdump")?;
        let output = tcpdump.stdout.take().context("tcpdump's output")?;
        let errors = tcpdump.stderr.take().context("tcpdump's messages")?;
        let state = Arc::new(Mutex::new(State {
            marker: marker.to_owned(),
            ..State::default()
        }));
        let listening = Arc::new(Mutex::new(false));
        let frames = std::thread::spawn({
            let (state, listening) = (state.clone(), listening.clone());
            move || {
                let mut reader = pcap::Reader::new(std::io::BufReader::new(output))?;
                *listening.lock().unwrap_or_else(PoisonError::into_inner) = true;
                while let Some(frame) = reader.next()? {
                    look(&mut locked(&state), frame);
                }
                Ok(())
            }
        });
        let words = std::thread::spawn(move || {
            let mut text = String::new();
            let mut errors = errors;
            let _ = errors.read_to_string(&mut text);
            text
        });
        let tap = Self {
            tcpdump,
            state,
            frames: Some(frames),
            words: Some(words),
        };
        // tcpdump writes the file's header once its socket is open.
        wait_until("tcpdump to listen", Duration::from_secs(10), || {
            *listening.lock().unwrap_or_else(PoisonError::into_inner)
        })?;
        Ok(tap)
    }

    /// What has gone by so far. What was missed is known only at [`WireTap::stop`].
    pub fn so_far(&self) -> Seen {
        locked(&self.state).seen.clone()
    }

    /// Ends the listening, after what is still in tcpdump's buffer has been looked at.
    pub fn stop(mut self) -> Result<Seen> {
        std::thread::sleep(Duration::from_millis(200));
        self.interrupt();
        let _ = self.tcpdump.wait();
        if let Some(frames) = self.frames.take() {
            frames
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let said = self
            .words
            .take()
            .and_then(|words| words.join().ok())
            .unwrap_or_default();
        let Some(missed) = dropped_by_kernel(&said) else {
            bail!("tcpdump did not say what it missed: {said}");
        };
        let mut seen = locked(&self.state).seen.clone();
        seen.missed = missed;
        Ok(seen)
    }

    fn interrupt(&self) {
        let id = i32::try_from(self.tcpdump.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = id {
            let _ = kill_process(pid, Signal::INT);
        }
    }
}

impl Drop for WireTap {
    fn drop(&mut self) {
        if let Ok(None) = self.tcpdump.try_wait() {
            let _ = self.tcpdump.kill();
            let _ = self.tcpdump.wait();
        }
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// "3 packets dropped by kernel"
fn dropped_by_kernel(said: &str) -> Option<u64> {
    said.lines()
        .find_map(|line| line.strip_suffix(" dropped by kernel"))
        .and_then(|line| line.split(' ').next())
        .and_then(|number| number.parse().ok())
}

fn look(state: &mut State, frame: &[u8]) {
    if holds(frame, &state.marker) {
        state.seen.marked += 1;
    }
    match classify(frame) {
        Kind::Link => state.seen.link += 1,
        Kind::Ike => state.seen.ike += 1,
        Kind::Keepalive => state.seen.keepalives += 1,
        Kind::Icmp => state.seen.icmp += 1,
        Kind::Esp { spi, iv, in_udp } => {
            state.seen.esp += 1;
            state.seen.esp_in_udp += u64::from(in_udp);
            *state.seen.packets_by_spi.entry(spi).or_default() += 1;
            if state.seen.samples.len() < SAMPLES {
                state.seen.samples.extend(sample(frame, spi, in_udp));
            }
            if !state.nonces.insert((spi, iv)) {
                state.seen.repeated_nonces += 1;
            }
        }
        Kind::Other => {
            state.seen.other += 1;
            state
                .seen
                .first_other
                .get_or_insert_with(|| describe(frame));
        }
    }
}

/// Whether the marker, which is not empty, is somewhere in the frame.
fn holds(frame: &[u8], marker: &[u8]) -> bool {
    let Some((first, rest)) = marker.split_first() else {
        return false;
    };
    let mut left = frame;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = left.get(at + 1..).unwrap_or_default();
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Link,
    Ike,
    Keepalive,
    Icmp,
    Esp { spi: u32, iv: u64, in_udp: bool },
    Other,
}

fn classify(frame: &[u8]) -> Kind {
    let Some(packet) = packet_of(frame) else {
        return Kind::Link;
    };
    let ours = |address: Ipv4Addr| address.octets().starts_with(&OUTER_NETWORK);
    match packet.protocol() {
        Protocol::ESP => esp(packet.payload(), false),
        Protocol::ICMP if ours(packet.source()) && ours(packet.destination()) => Kind::Icmp,
        Protocol::UDP => match packet.ports() {
            Some((500, _) | (_, 500)) => Kind::Ike,
            Some((4500, _) | (_, 4500)) => nat_traversal(packet.payload()),
            _ => Kind::Other,
        },
        _ => Kind::Other,
    }
}

/// The IPv4 packet of a frame, of which a listener to headers has only the beginning.
fn packet_of(frame: &[u8]) -> Option<ipv4::Packet<'_>> {
    let frame = Frame::new_checked(frame).ok()?;
    if frame.ethertype() != EtherType::IPV4 {
        return None;
    }
    ipv4::Packet::new_quoted(frame.payload()).ok()
}

/// RFC 3948 2.2 and 2.3: IKE comes behind a word of zeros, which no SPI is, and a keepalive is one byte.
fn nat_traversal(datagram: &[u8]) -> Kind {
    if Datagram::new_checked(datagram).is_ok_and(|datagram| datagram.payload() == [0xff]) {
        return Kind::Keepalive;
    }
    let data = datagram.get(udp::HEADER_LEN..).unwrap_or_default();
    if data.starts_with(&[0; 4]) {
        Kind::Ike
    } else {
        esp(data, true)
    }
}

fn esp(data: &[u8], in_udp: bool) -> Kind {
    let Ok(packet) = esp::Packet::new_checked(data) else {
        return Kind::Other;
    };
    match packet.split_iv() {
        Some((iv, _)) => Kind::Esp {
            spi: packet.spi().0,
            iv: u64::from_be_bytes(*iv),
            in_udp,
        },
        None => Kind::Other,
    }
}

fn sample(frame: &[u8], spi: u32, in_udp: bool) -> Option<Sample> {
    let packet = packet_of(frame)?;
    let bytes = packet
        .payload()
        .get(if in_udp { udp::HEADER_LEN } else { 0 }..)?;
    Some(Sample {
        source: packet.source(),
        spi,
        bytes: bytes.to_vec(),
    })
}

fn describe(frame: &[u8]) -> String {
    match packet_of(frame) {
        Some(packet) => format!(
            "{} from {} to {}",
            packet.protocol(),
            packet.source(),
            packet.destination()
        ),
        None => format!("a frame of {} bytes", frame.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        let length = u16::try_from(20 + payload.len())
            .expect("short")
            .to_be_bytes();
        frame.extend([
            8, 0, 0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0,
        ]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(payload);
        frame
    }

    const A: [u8; 4] = [192, 0, 2, 1];
    const B: [u8; 4] = [192, 0, 2, 2];

    #[test]
    fn each_kind_is_known() {
        let packet = [0, 0, 1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(
            classify(&ipv4(50, A, B, &packet)),
            Kind::Esp {
                spi: 0x102,
                iv: 7,
                in_udp: false
            }
        );
        let udp = |port: u16, data: &[u8]| {
            let length = u16::try_from(8 + data.len()).expect("short").to_be_bytes();
            let mut datagram = Vec::new();
            datagram.extend(port.to_be_bytes());
            datagram.extend(port.to_be_bytes());
            datagram.extend(length);
            datagram.extend([0, 0]);
            datagram.extend(data);
            ipv4(17, A, B, &datagram)
        };
        assert_eq!(classify(&udp(500, &[1; 28])), Kind::Ike);
        assert_eq!(classify(&udp(4500, &[0; 28])), Kind::Ike);
        assert_eq!(classify(&udp(4500, &[0xff])), Kind::Keepalive);
        assert_eq!(
            classify(&udp(4500, &packet)),
            Kind::Esp {
                spi: 0x102,
                iv: 7,
                in_udp: true
            }
        );
        assert_eq!(classify(&udp(5001, &packet)), Kind::Other);
        assert_eq!(classify(&ipv4(1, A, B, &[8])), Kind::Icmp);
        assert_eq!(
            classify(&ipv4(1, [10, 1, 0, 2], [10, 2, 0, 2], &[8])),
            Kind::Other
        );
        assert_eq!(classify(&[0; 20]), Kind::Link);
    }

    #[test]
    fn a_nonce_that_comes_twice_is_counted_and_the_marker_is_found() {
        let mut state = State {
            marker: b"secret".to_vec(),
            ..State::default()
        };
        let packet = [0, 0, 1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7];
        look(&mut state, &ipv4(50, A, B, &packet));
        look(&mut state, &ipv4(50, A, B, &packet));
        look(
            &mut state,
            &ipv4(17, [10, 1, 0, 2], B, b"12345678 a secret"),
        );
        assert_eq!((state.seen.esp, state.seen.repeated_nonces), (2, 1));
        assert_eq!((state.seen.other, state.seen.marked), (1, 1));
        assert_eq!(
            state.seen.first_other.as_deref(),
            Some("UDP from 10.1.0.2 to 192.0.2.2")
        );
        assert!(!state.seen.only_protected());
    }
}
