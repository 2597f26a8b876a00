//! Packets, and what the kernel says of them.

use esplanade_bpf::{Action, Role, Steering, Verdict, Vlan};
use rustix::net::{AddressFamily, SocketType, socket};
use std::{
    net::IpAddr,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, OwnedFd},
};

/// The interface that BPF_PROG_TEST_RUN pretends to receive on.
pub const LOOPBACK: u32 = 1;

/// The number of the port that it is.
const PORT: u8 = 3;

pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// The program with a socket that takes what it sends to the dataplane.
pub struct Live {
    steering: Steering,
    _socket: Option<OwnedFd>,
}

impl Live {
    /// With nothing in its maps but the one port.
    pub fn new(role: Role) -> Self {
        Self::in_vlan(role, Vlan::NONE)
    }

    pub fn in_vlan(role: Role, vlan: Vlan) -> Self {
        let mut live = Self::deaf(role);
        live.set_port(LOOPBACK, PORT, role, vlan).unwrap();
        // What the map wants of a socket is its family; nothing is ever sent to this one.
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        live.set_socket(PORT, 0, socket.as_fd()).unwrap();
        live._socket = Some(socket);
        live
    }

    /// Without any socket.
    pub fn deaf(role: Role) -> Self {
        let steering = Steering::load().unwrap();
        steering.set_port(LOOPBACK, PORT, role, Vlan::NONE).unwrap();
        Self {
            steering,
            _socket: None,
        }
    }
}

impl Deref for Live {
    type Target = Steering;

    fn deref(&self) -> &Steering {
        &self.steering
    }
}

impl DerefMut for Live {
    fn deref_mut(&mut self) -> &mut Steering {
        &mut self.steering
    }
}

/// An Ethernet frame with an IP packet.
#[derive(Clone)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub hop_limit: u8,
    /// The fragment field as in an IPv4 header; in IPv6 it becomes a fragment header if it makes a fragment.
    pub fragment: u16,
    pub id: u32,
    /// The control fields of the VLAN tags, the outer first.
    pub tags: Vec<u16>,
    /// Octets of IPv4 options.
    pub options: usize,
    /// IPv6 extension headers in front of a fragment header, and behind it.
    pub before: Vec<u8>,
    pub behind: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn new(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        protocol: u8,
        payload: &[u8],
    ) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            protocol,
            hop_limit: 64,
            fragment: 0,
            id: 1,
            tags: Vec::new(),
            options: 0,
            before: Vec::new(),
            behind: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    pub fn udp(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        port: u16,
        payload: &[u8],
    ) -> Self {
        let mut udp = vec![0x11, 0x94];
        udp.extend(port.to_be_bytes());
        udp.extend((8 + payload.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        Self::new(source, destination, 17, &udp)
    }

    pub fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    pub fn id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }

    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// Behind these extension headers of IPv6.
    pub fn behind(mut self, headers: &[u8]) -> Self {
        self.behind = headers.to_vec();
        self
    }

    pub fn before(mut self, headers: &[u8]) -> Self {
        self.before = headers.to_vec();
        self
    }

    pub fn tagged(mut self, tags: &[u16]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + self.options;
                let mut bytes = vec![0x40 | (header / 4) as u8, 0];
                bytes.extend(((header + self.payload.len()) as u16).to_be_bytes());
                bytes.extend((self.id as u16).to_be_bytes());
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([self.hop_limit, self.protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(vec![1; self.options]);
                bytes.extend(&self.payload);
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (first, extensions) = self.extensions();
                let mut bytes = vec![0x60, 0, 0, 0];
                let length = extensions.len() + self.payload.len();
                bytes.extend((length as u16).to_be_bytes());
                bytes.extend([first, self.hop_limit]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(extensions);
                bytes.extend(&self.payload);
                bytes
            }
            _ => panic!("two families"),
        }
    }

    /// The first header behind that of IPv6, and all that are in front of the payload.
    fn extensions(&self) -> (u8, Vec<u8>) {
        const FRAGMENT: u8 = 44;
        let is_fragment = self.fragment & 0x3fff != 0;
        let is_later = self.fragment & 0x1fff != 0;
        let mut order = self.before.clone();
        order.extend(is_fragment.then_some(FRAGMENT));
        // A later fragment begins behind these headers, but still names the first of them.
        if !is_later {
            order.extend(&self.behind);
        }
        let last = match self.behind.first() {
            Some(first) if is_later => *first,
            _ => self.protocol,
        };
        order.push(last);
        let mut bytes = Vec::new();
        for pair in order.windows(2) {
            if pair[0] == FRAGMENT {
                let more = u16::from(self.fragment & 0x2000 != 0);
                bytes.extend([pair[1], 0]);
                bytes.extend(((self.fragment & 0x1fff) << 3 | more).to_be_bytes());
                bytes.extend(self.id.to_be_bytes());
            } else {
                // 16 octets each: one unit of 8 more than the first.
                bytes.extend([pair[1], 1]);
                bytes.extend([0; 14]);
            }
        }
        (order[0], bytes)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        for (at, tag) in self.tags.iter().enumerate() {
            let is_outer = at == 0 && self.tags.len() == 2;
            let ether_type: u16 = if is_outer { 0x88a8 } else { 0x8100 };
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(match self.source {
            IpAddr::V4(_) => [0x08, 0x00],
            IpAddr::V6(_) => [0x86, 0xdd],
        });
        bytes.extend(self.ip());
        // As the wire does: short frames are padded, here with bytes that are not zero.
        bytes.resize(bytes.len().max(60), 0xa5);
        bytes
    }
}

/// What a packet is expected to become of.
pub enum Expected {
    /// Exactly this.
    Verdict(Verdict),
    /// Taken, as whatever.
    Taken,
}

pub const TAKEN: Expected = Expected::Taken;

impl From<Verdict> for Expected {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// Runs the program on a packet, and gives what it looks like then.
#[track_caller]
pub fn expect(live: &Live, packet: &[u8], expected: impl Into<Expected>) -> Vec<u8> {
    let before = live.counters().unwrap();
    let (action, left) = live.dry_run(packet).unwrap();
    let after = live.counters().unwrap();
    let counted: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before.1 != after.1)
        .map(|(before, after)| (before.0, after.1 - before.1))
        .collect();
    let [(verdict, 1)] = counted[..] else {
        panic!("counted {counted:?}");
    };
    let is_taken = verdict.name().starts_with("steer_take");
    match expected.into() {
        Expected::Verdict(expected) => assert_eq!(verdict, expected),
        Expected::Taken => assert!(is_taken, "{verdict:?}"),
    }
    let expected = match verdict {
        Verdict::DropNoSocket => Action::Drop,
        _ if is_taken => Action::Redirect,
        _ => Action::Pass,
    };
    assert_eq!(action, expected);
    left
}
