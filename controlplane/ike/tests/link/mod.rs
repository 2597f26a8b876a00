//! Two endpoints joined by a virtual link that loses, delays, reorders and repeats datagrams, in
//! virtual time, after the manner of quinn-proto's test bench. Each side has a model of the
//! dataplane that obeys the events; traffic between the models shows what a rekey loses.

// Each test binary uses its own part of this bench.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esplanade_ike::config::Secret;
use esplanade_ike::{
    ChildConfig, ChildSa, Counter, Endpoint, Event, Path, PeerConfig, Settings, SpiAllocator,
    SystemProvider,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub const A: usize = 0;
pub const B: usize = 1;
pub const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// What the NAT before A shows to B.
pub const NAT_ADDRESS: &str = "198.51.100.7";

/// How bad the link is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss_percent: u32,
    pub repeat_percent: u32,
    pub delay: (Duration, Duration),
    pub nat: bool,
}

impl Weather {
    pub const fn fair() -> Self {
        let delay = Duration::from_millis(5);
        Self {
            loss_percent: 0,
            repeat_percent: 0,
            delay: (delay, delay),
            nat: false,
        }
    }

    pub const fn foul() -> Self {
        Self {
            loss_percent: 15,
            repeat_percent: 15,
            delay: (Duration::from_millis(1), Duration::from_millis(900)),
            nat: false,
        }
    }
}

#[derive(Default)]
struct Slots {
    next: u32,
    taken: HashSet<u32>,
    limit: Option<usize>,
}

#[derive(Clone, Default)]
pub struct Allocator(Arc<Mutex<Slots>>);

impl Allocator {
    pub fn taken(&self) -> usize {
        self.0.lock().unwrap().taken.len()
    }

    pub fn limit(&self, limit: usize) {
        self.0.lock().unwrap().limit = Some(limit);
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().taken.clear();
    }

    pub fn take(&self, spi: u32) {
        self.0.lock().unwrap().taken.insert(spi);
    }
}

impl SpiAllocator for Allocator {
    fn allocate(&mut self) -> Option<u32> {
        let mut slots = self.0.lock().unwrap();
        if slots.limit.is_some_and(|limit| slots.taken.len() >= limit) {
            return None;
        }
        slots.next += 1;
        let spi = 0x1000 * slots.next + 0x123;
        slots.taken.insert(spi);
        Some(spi)
    }

    fn release(&mut self, spi: u32) {
        assert!(
            self.0.lock().unwrap().taken.remove(&spi),
            "SPI {spi:#x} released twice"
        );
    }
}

/// What the dataplane of one side holds.
#[derive(Default)]
pub struct Dataplane {
    pub installed: BTreeMap<u32, ChildSa>,
    /// The SA of each child that outbound traffic uses, by [`child_key`].
    pub selected: HashMap<String, u32>,
    used: HashSet<u32>,
    pub ever_installed: usize,
}

pub struct Side {
    pub endpoint: Endpoint,
    pub spis: Allocator,
    pub dataplane: Dataplane,
    pub events: Vec<Event>,
    /// Datagrams that reach this side vanish.
    pub deaf: bool,
}

struct Flying {
    at: Instant,
    order: u64,
    to: usize,
    path: Path,
    data: Vec<u8>,
}

struct Packet {
    at: Instant,
    to: usize,
    spi: u32,
    key: Secret,
}

/// Makes something else of a datagram to a side, or leaves it alone.
pub type Tamper = fn(usize, &[u8]) -> Option<Vec<u8>>;

pub struct Link {
    pub now: Instant,
    pub sides: [Side; 2],
    pub weather: Weather,
    rng: ChaCha8Rng,
    flying: Vec<Flying>,
    packets: Vec<Packet>,
    order: u64,
    /// Packets of user traffic that found their SA, and those that did not.
    pub delivered: usize,
    pub lost: usize,
    pub keepalives: usize,
    pub datagrams: usize,
    /// What the NAT before A adds to its ports; what comes back to a port that it gave out before
    /// this was changed, gets lost.
    pub nat_offset: u16,
    /// What A sends from now on, to be replayed.
    pub capture: Option<Vec<Vec<u8>>>,
    /// The port from which what B sends seems to come; what A sends there reaches B.
    pub peer_port: Option<u16>,
    /// What somebody in between makes of a datagram to a side; `None`: nothing.
    pub tamper: Option<Tamper>,
}

/// A child by its name, and one of a peer that is not just `peer` by that peer's as well.
pub fn child_key(peer: &str, child: &str) -> String {
    match peer {
        "peer" => child.to_owned(),
        peer => format!("{peer}/{child}"),
    }
}

pub fn address(side: usize) -> IpAddr {
    ADDRESSES[side].parse().unwrap()
}

/// The child `lan` between 10.1.0.0/16 (A) and 10.2.0.0/16 (B), seen from `side`.
pub fn child(side: usize, name: &str, third: u8) -> ChildConfig {
    let net = |s: usize| format!("10.{}.{third}.0/24", s + 1).parse().unwrap();
    ChildConfig::new(name, vec![net(side)], vec![net(1 - side)])
}

/// The other side as a peer, called `peer`, with one child `lan`.
pub fn peer(side: usize) -> PeerConfig {
    let psk = Secret::from(&b"correct horse battery staple"[..]);
    let mut peer = PeerConfig::new("peer", address(side), address(1 - side), psk);
    let identity = |s: usize| format!("gw-{s}.example.org").parse().unwrap();
    peer.local_id = identity(side);
    peer.remote_id = identity(1 - side);
    peer.ike_proposals = vec!["aes256gcm16-sha384-x25519".parse().unwrap()];
    peer.children = vec![child(side, "lan", 1)];
    peer
}

pub fn endpoint(settings: &Settings, seed: u64) -> (Endpoint, Allocator) {
    let spis = Allocator::default();
    let mut octets = [0; 32];
    octets[..8].copy_from_slice(&seed.to_be_bytes());
    let provider = Arc::new(SystemProvider);
    (
        Endpoint::new(settings.clone(), provider, Box::new(spis.clone()), octets),
        spis,
    )
}

impl Link {
    pub fn new(seed: u64, weather: Weather, configs: [Vec<PeerConfig>; 2]) -> Self {
        Self::with_settings(seed, weather, configs, &Settings::default())
    }

    pub fn with_settings(
        seed: u64,
        weather: Weather,
        configs: [Vec<PeerConfig>; 2],
        settings: &Settings,
    ) -> Self {
        let now = Instant::now();
        let side = |index: u64, peers: Vec<PeerConfig>| {
            let (mut endpoint, spis) = endpoint(settings, seed * 2 + index);
            endpoint.configure(now, peers);
            let (dataplane, events) = (Dataplane::default(), Vec::new());
            Side {
                endpoint,
                spis,
                dataplane,
                events,
                deaf: false,
            }
        };
        let [a, b] = configs;
        let mut link = Self {
            now,
            sides: [side(0, a), side(1, b)],
            weather,
            rng: ChaCha8Rng::seed_from_u64(seed),
            flying: Vec::new(),
            packets: Vec::new(),
            order: 0,
            delivered: 0,
            lost: 0,
            keepalives: 0,
            datagrams: 0,
            nat_offset: 10_000,
            capture: None,
            peer_port: None,
            tamper: None,
        };
        link.drain();
        link
    }

    /// Two gateways with one child, connected by A.
    pub fn connected(seed: u64, weather: Weather) -> Self {
        let mut link = Self::new(seed, weather, [vec![peer(A)], vec![peer(B)]]);
        let now = link.now;
        link.at(A).initiate(now, "peer", None).unwrap();
        link.run(Duration::from_secs(60));
        link.agree(1);
        link
    }

    pub fn at(&mut self, side: usize) -> &mut Endpoint {
        &mut self.sides[side].endpoint
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.next_u32() % 100 < percent
    }

    pub fn random(&mut self, below: u32) -> u32 {
        self.rng.next_u32() % below
    }

    fn delay(&mut self) -> Duration {
        let (min, max) = self.weather.delay;
        let spread = u32::try_from((max - min).as_micros()).unwrap() + 1;
        min + Duration::from_micros(u64::from(self.random(spread)))
    }

    /// What the receiver sees of a path, and what a NAT makes of it.
    fn arrival(&self, to: usize, path: Path) -> Option<Path> {
        let mut path = Path {
            local: path.remote,
            remote: path.local,
        };
        if self.weather.nat && to == B {
            let port = path.remote.port() + self.nat_offset;
            path.remote = SocketAddr::new(NAT_ADDRESS.parse().unwrap(), port);
        }
        match self.peer_port {
            Some(port) if to == A => path.remote.set_port(port),
            Some(_) => path.local.set_port(4500),
            None => {}
        }
        if self.weather.nat && to == A {
            path.local = SocketAddr::new(address(A), self.behind_nat(path.local.port())?);
        }
        Some(path)
    }

    /// The port of A to which the NAT sends what comes to this one.
    fn behind_nat(&self, port: u16) -> Option<u16> {
        let port = port.checked_sub(self.nat_offset)?;
        [500, 4500].contains(&port).then_some(port)
    }

    /// Takes events and datagrams from both sides, the events first.
    pub fn drain(&mut self) {
        for side in [A, B] {
            while let Some(event) = self.sides[side].endpoint.poll_event() {
                self.obey(side, &event);
                self.sides[side].events.push(event);
            }
            while let Some(transmit) = self.sides[side].endpoint.poll_transmit() {
                assert_eq!(transmit.data.len() == 1, transmit.keepalive);
                if transmit.keepalive {
                    self.keepalives += 1;
                    continue;
                }
                self.datagrams += 1;
                self.send(1 - side, transmit.path, &transmit.data);
            }
        }
    }

    fn send(&mut self, to: usize, path: Path, data: &[u8]) {
        if let Some(capture) = self.capture.as_mut().filter(|_| to == B) {
            capture.push(data.to_vec());
        }
        let tampered = self.tamper.and_then(|tamper| tamper(to, data));
        let tampered = tampered.unwrap_or_else(|| data.to_vec());
        let copies = 1 + usize::from(self.chance(self.weather.repeat_percent));
        for _ in 0..copies {
            let at = self.now + self.delay();
            if self.chance(self.weather.loss_percent) {
                continue;
            }
            self.order += 1;
            let Some(path) = self.arrival(to, path) else {
                continue;
            };
            self.flying.push(Flying {
                at,
                order: self.order,
                to,
                path,
                data: tampered.clone(),
            });
        }
    }

    fn obey(&mut self, side: usize, event: &Event) {
        let dataplane = &mut self.sides[side].dataplane;
        match event {
            Event::ChildInstalled(sa) => {
                assert!(sa.inbound_key != sa.outbound_key);
                if sa.use_outbound_now {
                    let key = child_key(&sa.peer, &sa.child);
                    dataplane.selected.insert(key, sa.inbound);
                }
                dataplane.ever_installed += 1;
                let before = dataplane.installed.insert(sa.inbound, (**sa).clone());
                assert!(before.is_none(), "installed twice");
            }
            Event::PeerMoved {
                remote, children, ..
            } => {
                for inbound in children {
                    let sa = dataplane.installed.get_mut(inbound).expect("what moves");
                    sa.remote = remote.ip();
                    sa.encapsulation.as_mut().expect("ports").remote = remote.port();
                }
            }
            Event::OutboundSelected {
                peer,
                child,
                inbound,
            } => {
                assert!(
                    dataplane.installed.contains_key(inbound),
                    "selected what is not there"
                );
                let key = child_key(peer, child);
                dataplane.selected.insert(key, *inbound);
            }
            Event::ChildRemoved {
                peer,
                child,
                inbound,
                ..
            } => {
                assert!(
                    dataplane.installed.remove(inbound).is_some(),
                    "removed what is not there"
                );
                let key = child_key(peer, child);
                if dataplane.selected.get(&key) == Some(inbound) {
                    dataplane.selected.remove(&key);
                }
            }
            _ => {}
        }
    }

    /// One packet of user traffic of a child.
    pub fn packet(&mut self, from: usize, child: &str) {
        let dataplane = &self.sides[from].dataplane;
        let sa = dataplane
            .selected
            .get(child)
            .and_then(|i| dataplane.installed.get(i));
        let reachable = |sa: &&ChildSa| {
            let port = sa.encapsulation.map(|ports| ports.remote);
            !self.weather.nat || from == A || port.is_some_and(|p| self.behind_nat(p).is_some())
        };
        match sa.filter(reachable) {
            Some(sa) => {
                let (spi, key) = (sa.outbound, sa.outbound_key.clone());
                let at = self.now + self.delay();
                self.packets.push(Packet {
                    at,
                    to: 1 - from,
                    spi,
                    key,
                });
            }
            None => self.lost += 1,
        }
    }

    fn receive_packet(&mut self, packet: Packet) {
        let side = &mut self.sides[packet.to];
        match side.dataplane.installed.get(&packet.spi) {
            Some(sa) => {
                assert_eq!(sa.inbound_key, packet.key, "the keys of both ends differ");
                self.delivered += 1;
                if side.dataplane.used.insert(packet.spi) {
                    side.endpoint.inbound_used(self.now, packet.spi);
                }
            }
            None => self.lost += 1,
        }
    }

    fn next(&self) -> Option<Instant> {
        let flying = self.flying.iter().map(|f| f.at).min();
        let packet = self.packets.iter().map(|p| p.at).min();
        let timers = self.sides.iter().filter_map(|s| s.endpoint.poll_timeout());
        timers.chain(flying).chain(packet).min()
    }

    /// Lets `duration` pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut steps = 0;
        self.drain();
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            steps += 1;
            assert!(steps < 200_000, "the endpoints do not come to rest");
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        let now = self.now;
        let (mut due, flying): (Vec<_>, Vec<_>) = self.flying.drain(..).partition(|f| f.at <= now);
        self.flying = flying;
        due.sort_by_key(|f| (f.at, f.order));
        for datagram in due {
            let side = &mut self.sides[datagram.to];
            if !side.deaf {
                side.endpoint
                    .handle_datagram(now, datagram.path, &datagram.data);
            }
            self.drain();
        }
        let (due, packets): (Vec<_>, Vec<_>) = self.packets.drain(..).partition(|p| p.at <= now);
        self.packets = packets;
        for packet in due {
            self.receive_packet(packet);
            self.drain();
        }
        for side in [A, B] {
            if self.sides[side]
                .endpoint
                .poll_timeout()
                .is_some_and(|at| at <= now)
            {
                self.sides[side].endpoint.handle_timeout(now);
            }
        }
        self.drain();
    }

    /// Lets `duration` pass with a packet each way every 10 ms.
    pub fn run_with_traffic(&mut self, duration: Duration, child: &str) {
        let end = self.now + duration;
        while self.now < end {
            self.packet(A, child);
            self.packet(B, child);
            self.run(Duration::from_millis(10));
        }
    }

    /// Both sides hold the same `expected` child SAs, crosswise, and use one of each child.
    pub fn agree(&self, expected: usize) {
        let [a, b] = &self.sides;
        assert_eq!(
            (a.dataplane.installed.len(), b.dataplane.installed.len()),
            (expected, expected),
            "\nA: {:#?}\nB: {:#?}",
            story(a),
            story(b)
        );
        for (one, other) in [(a, b), (b, a)] {
            for sa in one.dataplane.installed.values() {
                let twin = other
                    .dataplane
                    .installed
                    .get(&sa.outbound)
                    .expect("the other half");
                assert_eq!(twin.outbound, sa.inbound);
                assert_eq!(twin.outbound_key, sa.inbound_key);
                assert_eq!(twin.inbound_key, sa.outbound_key);
                assert_eq!((twin.protection, twin.esn), (sa.protection, sa.esn));
                assert_eq!(twin.mode, sa.mode);
                assert_eq!(twin.remote_ts, sa.local_ts);
                assert_eq!(twin.encapsulation.is_some(), sa.encapsulation.is_some());
                assert!(
                    one.dataplane
                        .selected
                        .contains_key(&child_key(&sa.peer, &sa.child)),
                    "{:#?}",
                    story(one)
                );
            }
            assert_eq!(one.spis.taken(), expected, "SPIs leak");
        }
    }

    pub fn ike_sas(&self, side: usize) -> usize {
        self.sides[side].endpoint.ike_sas().count()
    }

    pub fn count(&self, side: usize, counter: Counter) -> u64 {
        self.sides[side].endpoint.counters().get(counter)
    }

    /// The refusals that a side told its operator, rendered.
    pub fn refusals(&self, side: usize) -> Vec<String> {
        let refusals = self.sides[side]
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Refused { reason, .. } => Some(reason.to_string()),
                _ => None,
            });
        refusals.collect()
    }

    /// Puts a fresh endpoint in the place of a side's: its control plane was restarted. The
    /// dataplane stays.
    pub fn restart(&mut self, side: usize, seed: u64, config: Vec<PeerConfig>) {
        let (mut fresh, spis) = endpoint(&Settings::default(), seed);
        // The dataplane's slots in use are not given out again, and no tag soon.
        let next = self.sides[side].spis.0.lock().unwrap().next + 1000;
        spis.0.lock().unwrap().next = next;
        for inbound in self.sides[side].dataplane.installed.keys() {
            spis.take(*inbound);
        }
        fresh.configure(self.now, config);
        self.sides[side].endpoint = fresh;
        self.sides[side].spis = spis;
    }
}

/// What happened on a side, without keys.
pub fn story(side: &Side) -> Vec<String> {
    side.events
        .iter()
        .map(|event| match event {
            Event::ChildInstalled(sa) => format!(
                "installed {:#x}, replaces {:x?}, now {}",
                sa.inbound, sa.replaces, sa.use_outbound_now
            ),
            Event::Refused { reason, .. } => format!("refused: {reason}"),
            other => format!("{other:x?}"),
        })
        .collect()
}
