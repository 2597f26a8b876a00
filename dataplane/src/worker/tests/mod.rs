//! Whole gateways in one process: workers on memory ports, commanded over the real channel, back to back on one wire.

mod algorithms;
mod capture;
mod checksums;
mod commands;
mod extensions;
mod families;
mod foreign;
mod handoff;
mod held;
mod hostile;
mod ledger;
mod model;
mod modes;
mod moving;
mod pmtu;
mod reassembly;
mod relay;
mod shares;
mod sizes;
mod tunnel;
mod vlan;

use super::*;
use crate::port::memory::{self, MemoryPort};
use esplanade_channel::{
    Command, Connection, ControlChannel, CopyMode, DfPolicy, Epoch, Facts, InboundSa, KeyMaterial,
    Label, Lifetime, Mode, Original, OutboundSa, Policy, PolicyAction, PolicyId, PortFacts,
    PortMode, PortSetup, Prefix, SaId, Segment, Selector, Setup, Share, Tfc, UdpPorts, WorkerSetup,
};
use esplanade_crypto::{Algorithm, Integrity};
use esplanade_ipsec::sa::Protection;
use esplanade_wire::{
    Protocol,
    ethernet::{self, MacAddress},
    ip::Family,
    ipv4, tcp, udp,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const FRAMES: u32 = 256;
pub const INSIDE: u8 = 0;
pub const OUTSIDE: u8 = 1;
pub const MARKER: &[u8] = b"PLAINTEXT-MARKER-PLAINTEXT-MARKER";

/// The two ends.
pub const A: u8 = 1;
pub const B: u8 = 2;

/// A host behind a site.
pub fn host(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, site, 0, 1)
}

/// A site's address on the wire.
pub fn outer(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, site)
}

/// A host behind a site, by its address in IPv6.
pub fn host_v6(site: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, site.into(), 0, 0, 0, 0, 1)
}

/// A site's address on the wire, of either family.
pub fn outer_of(family: Family, site: u8) -> IpAddr {
    match family {
        Family::V4 => outer(site).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, site.into()).into(),
    }
}

/// The source of a gateway's errors in IPv6.
pub fn gateway_v6(site: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, site.into(), 0, 0, 0, 0, 0xfe)
}

pub fn gateway_mac(site: u8, port: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, site, port])
}

pub fn host_mac(site: u8) -> MacAddress {
    MacAddress([2, 0, 0, 1, site, 0])
}

/// What the tunnel between the sites is like.
#[derive(Debug, Clone)]
pub struct Tunnel {
    pub algorithm: Algorithm,
    /// AH instead of ESP.
    pub ah: Option<Integrity>,
    pub mode: Mode,
    pub tfc: Tfc,
    pub original: Option<Original>,
    pub follow: bool,
    pub esn: bool,
    /// The family of the outer addresses; inside are both.
    pub outer: Family,
    pub udp: bool,
    pub window: u32,
    pub lifetime: Lifetime,
    pub dscp: Option<u8>,
    pub fragment_sealed: bool,
    pub df: DfPolicy,
    pub path_mtu: u16,
    pub owner: u16,
    /// What A and what B send by; a pattern where it does not matter.
    pub keys: Option<[Vec<u8>; 2]>,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::AES_128_GCM_16,
            ah: None,
            mode: Mode::Tunnel,
            tfc: Tfc::default(),
            original: None,
            follow: false,
            esn: true,
            outer: Family::V4,
            udp: false,
            window: 1024,
            lifetime: Lifetime::default(),
            dscp: Some(0),
            fragment_sealed: false,
            df: DfPolicy::Copy,
            path_mtu: 0,
            owner: 0,
            keys: None,
        }
    }
}

/// One gateway: its workers, the far ends of their ports, and the control plane's end of its channel.
pub struct Gateway {
    pub site: u8,
    pub workers: Vec<Worker<MemoryPort>>,
    pub inside: Vec<MemoryPort>,
    pub outside: Vec<MemoryPort>,
    pub channel: ControlChannel,
    pub now: Duration,
    _connection: Connection,
    _segment: Segment,
}

pub fn inbound_id(site: u8) -> SaId {
    SaId::from_parts(3 + u32::from(site), 0x300).unwrap()
}

pub fn outbound_id(site: u8) -> SaId {
    SaId::from_parts(13 + u32::from(site), 0x300).unwrap()
}

pub const POLICY: PolicyId = PolicyId(7 << 8);
/// The same child's pair of IPv6 prefixes.
pub const POLICY_V6: PolicyId = PolicyId(POLICY.0 + 0x60);

pub fn prefix_v6(site: u8) -> Selector {
    let net = Ipv6Addr::new(0x2001, 0xdb8, site.into(), 0, 0, 0, 0, 0);
    Selector {
        first: net.into(),
        last: Ipv6Addr::from(net.to_bits() | u128::MAX >> 48).into(),
        ports: (0, u16::MAX),
    }
}

pub fn protect_v6(site: u8, peer: u8) -> Policy {
    Policy {
        id: POLICY_V6,
        local: prefix_v6(site),
        remote: prefix_v6(peer),
        ..protect(site, peer)
    }
}

pub fn prefix(site: u8) -> Selector {
    Selector {
        first: Ipv4Addr::new(10, site, 0, 0).into(),
        last: Ipv4Addr::new(10, site, 255, 255).into(),
        ports: (0, u16::MAX),
    }
}

pub fn protect(site: u8, peer: u8) -> Policy {
    Policy {
        id: POLICY,
        priority: 10,
        action: PolicyAction::Protect,
        local: prefix(site),
        remote: prefix(peer),
        protocol: None,
    }
}

impl Gateway {
    /// A gateway that knows its ports, routes and neighbours, and nothing of tunnels.
    pub fn new(site: u8, workers: u16) -> Self {
        Self::with_links(site, workers, &[Role::Inside, Role::Outside], &[])
    }

    /// As [`Gateway::new`], with these ports on its two interfaces.
    pub fn with_links(site: u8, workers: u16, roles: &[Role], links: &[Link]) -> Self {
        let port = |name: &str, role| PortSetup {
            vlan: None,
            interface: name.to_owned(),
            role,
        };
        let setup = Setup {
            workers: vec![WorkerSetup { core: None }; workers.into()],
            ports: (0..)
                .zip(roles)
                .map(|(number, role): (u8, _)| port(&format!("port-{number}"), *role))
                .collect(),
            polling: Polling::Adaptive,
            sa_capacity: 64,
            engine: None,
            ring_frames: FRAMES,
        };
        let fact = PortFacts {
            mode: PortMode::Native,
            copy: CopyMode::Copy,
            queues: workers,
        };
        let facts = Facts {
            epoch: Epoch(9),
            engine: "portable".to_owned(),
            ports: vec![fact; roles.len()],
        };
        let (segment, _) = Segment::create(&setup, &facts).unwrap();
        let (channel, connection) = segment.connect_locally().unwrap();
        let mut gateway = Self {
            site,
            workers: Vec::new(),
            inside: Vec::new(),
            outside: Vec::new(),
            channel,
            now: Duration::from_secs(100),
            _connection: connection,
            _segment: segment,
        };
        for (number, handoff) in (0..).zip(Handoff::mesh(workers.into()).unwrap()) {
            let (near_inside, inside) = memory::pair(FRAMES);
            let (near_outside, outside) = memory::pair(FRAMES);
            let settings = Settings {
                id: WorkerId(number),
                roles: roles.to_vec(),
                links: links.to_vec(),
                polling: Polling::Adaptive,
                engine: EngineKind::Portable,
                sa_capacity: 64,
            };
            let end = gateway._segment.worker(WorkerId(number)).unwrap();
            let ports = vec![near_inside, near_outside];
            let ivs = IvGenerator::new([site; 32]);
            gateway
                .workers
                .push(Worker::new(settings, ports, end, handoff, ivs));
            gateway.inside.push(inside);
            gateway.outside.push(outside);
        }
        gateway.tell_all(&gateway.network());
        gateway
    }

    pub fn network(&self) -> Vec<Command> {
        let site = self.site;
        let mut commands: Vec<_> = [INSIDE, OUTSIDE]
            .map(|port| Command::SetPort {
                port: PortId(port),
                mac: gateway_mac(site, port).0,
                mtu: 1500,
                address: Some(Ipv4Addr::new(10, site, 0, 254)),
                address_v6: Some(gateway_v6(site)),
                mss_clamp: true,
                udp_checksum: true,
                partial_checksums: false,
            })
            .into();
        let route = |net: IpAddr, length, port| Command::SetRoute {
            prefix: Prefix::new(net, length).unwrap(),
            port: Some(PortId(port)),
            gateway: None,
            mtu: 0,
            unreachable: false,
        };
        commands.push(route(host(site).into(), 16, INSIDE));
        commands.push(route(host_v6(site).into(), 48, INSIDE));
        commands.push(route(outer(0).into(), 24, OUTSIDE));
        commands.push(route(outer_of(Family::V6, 0), 64, OUTSIDE));
        let neighbor = |port, address, mac: MacAddress| Command::SetNeighbor {
            port: PortId(port),
            address,
            mac: mac.0,
        };
        commands.push(neighbor(INSIDE, host(site).into(), host_mac(site)));
        commands.push(neighbor(INSIDE, host_v6(site).into(), host_mac(site)));
        for peer in [A, B] {
            for family in Family::ALL {
                let address = outer_of(family, peer);
                commands.push(neighbor(OUTSIDE, address, gateway_mac(peer, OUTSIDE)));
            }
        }
        commands
    }

    /// The commands of a tunnel to `peer`; `turn` numbers its successive SAs.
    pub fn tunnel(&self, peer: u8, tunnel: &Tunnel, turn: u8) -> Vec<Command> {
        let shift =
            |id: SaId| SaId::from_parts(id.slot() + u32::from(turn) * 20, id.tag()).unwrap();
        let key = |from: u8| {
            let length = tunnel.algorithm.key_material_len();
            let length = tunnel.ah.map_or(length, Integrity::key_material_len);
            let pattern = vec![from ^ turn << 4; length];
            let drawn = tunnel
                .keys
                .as_ref()
                .map(|keys| &keys[usize::from(from) - 1]);
            KeyMaterial::new(drawn.unwrap_or(&pattern)).unwrap()
        };
        let encapsulation = tunnel.udp.then_some(UdpPorts {
            local: 4500,
            remote: 4500,
        });
        let protection = match tunnel.ah {
            Some(integrity) => Protection::Ah(integrity),
            None => Protection::Esp(tunnel.algorithm),
        };
        let transform = transform::numbers_of(protection).unwrap();
        let sa = shift(outbound_id(self.site));
        vec![
            Command::SetPolicy(protect(self.site, peer)),
            Command::InstallInbound(InboundSa {
                sa: shift(inbound_id(self.site)),
                policy: POLICY,
                transform,
                key: key(peer),
                esn: tunnel.esn,
                window: tunnel.window,
                local: outer_of(tunnel.outer, self.site),
                remote: outer_of(tunnel.outer, peer),
                encapsulation,
                mode: tunnel.mode,
                original: tunnel.original,
                follow: tunnel.follow,
                owner: WorkerId(tunnel.owner),
                lifetime: tunnel.lifetime,
                label: Label::new("site/lan"),
            }),
            Command::InstallOutbound(OutboundSa {
                sa,
                spi: shift(inbound_id(peer)).value(),
                policy: POLICY,
                transform,
                key: key(self.site),
                esn: tunnel.esn,
                local: outer_of(tunnel.outer, self.site),
                remote: outer_of(tunnel.outer, peer),
                encapsulation,
                mode: tunnel.mode,
                tfc: tunnel.tfc,
                owner: WorkerId(tunnel.owner),
                lifetime: tunnel.lifetime,
                dscp: tunnel.dscp,
                fragment_sealed: tunnel.fragment_sealed,
                df: tunnel.df,
                path_mtu: tunnel.path_mtu,
                label: Label::new("site/lan"),
            }),
            Command::SelectOutbound {
                policy: POLICY,
                sa,
                share: Share::ALL,
            },
            Command::SetPolicy(protect_v6(self.site, peer)),
        ]
    }

    /// Tells every worker, and has them obey.
    pub fn tell_all(&mut self, commands: &[Command]) {
        for command in commands {
            for worker in 0..self.workers.len() {
                let sender = self.channel.sender(WorkerId(worker as u16)).unwrap();
                sender.push(command).unwrap();
            }
        }
        for _ in 0..commands.len().div_ceil(COMMANDS_A_ROUND) {
            self.round();
        }
    }

    /// One round of every worker, a millisecond later.
    pub fn round(&mut self) {
        self.now += Duration::from_millis(1);
        for worker in &mut self.workers {
            worker.round(self.now);
        }
    }

    /// Puts packets from the host on the inside wire and gives what leaves outside.
    pub fn protect(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        for packet in packets {
            let frame = frame(host_mac(self.site), gateway_mac(self.site, INSIDE), packet);
            assert!(self.inside[0].send(&frame));
        }
        self.round();
        drain(&mut self.outside[0])
    }

    /// Puts frames on the outside wire and gives what leaves inside.
    pub fn unprotect(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        for frame in frames {
            assert!(self.outside[0].send(frame));
        }
        self.round();
        drain(&mut self.inside[0])
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.channel.counters().total(counter)
    }

    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((_, event)) = self.channel.next_event() {
            events.push(event.unwrap());
        }
        events
    }

    /// Every frame is at home: as many can be had from each port as there are.
    pub fn audit(&mut self) {
        // What waits for the rest of its fragments waits no longer.
        self.now += Duration::from_millis(super::reassembly::PATIENCE_MS + 1);
        self.round();
        self.inside.iter_mut().chain(&mut self.outside).for_each(
            |far| {
                while !drain(far).is_empty() {}
            },
        );
        self.round();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let fars = [&mut self.inside[number], &mut self.outside[number]];
            for (port, far) in worker.core.ports.iter_mut().zip(fars) {
                far.flush();
                assert_eq!(port.losses(), Losses::default());
                let held: Vec<_> = std::iter::from_fn(|| port.allocate()).collect();
                assert_eq!(held.len(), FRAMES as usize, "frames to send");
                held.into_iter().for_each(|frame| port.discard(frame));

                let mut received = Vec::new();
                while far.send(&[0; 60]) {
                    let mut burst = ArrayVec::new();
                    port.receive(&mut burst);
                    received.extend(burst);
                    far.flush();
                    if received.len() == FRAMES as usize {
                        break;
                    }
                }
                assert_eq!(received.len(), FRAMES as usize, "frames to receive into");
                port.release(received);
            }
        }
    }
}

/// Everything that waits at a far end.
pub fn drain(port: &mut MemoryPort) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let some = port.drain();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// Two gateways with a tunnel between them.
pub fn pair(tunnel: &Tunnel) -> (Gateway, Gateway) {
    let (mut a, mut b) = (Gateway::new(A, 1), Gateway::new(B, 1));
    a.tell_all(&a.tunnel(B, tunnel, 0));
    b.tell_all(&b.tunnel(A, tunnel, 0));
    assert_eq!(a.events(), []);
    assert_eq!(b.events(), []);
    (a, b)
}

/// A frame with a packet of either family.
pub fn frame(from: MacAddress, to: MacAddress, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    let family = Family::of_packet(packet).unwrap_or(Family::V4);
    ethernet::Repr::untagged(to, from, family.ethertype())
        .emit(&mut frame)
        .unwrap();
    frame.extend(packet);
    frame
}

/// The IPv4 packet of a frame, without Ethernet's padding.
pub fn ip(frame: &[u8]) -> ipv4::Packet<'_> {
    let packet = ipv4::Packet::new_checked(&frame[14..]).unwrap();
    assert!(packet.checksum_is_right());
    packet
}

/// A packet with this header and payload.
pub fn packet(header: ipv4::Repr, payload: &[u8]) -> Vec<u8> {
    let header = ipv4::Repr {
        payload_len: payload.len() as u16,
        ..header
    };
    let mut packet = header.bytes().to_vec();
    packet.extend(payload);
    packet
}

pub fn header(from: u8, to: u8) -> ipv4::Repr {
    ipv4::Repr::new(host(from), host(to), Protocol::UDP, 0)
}

/// A datagram of the marker, again and again up to `length` bytes of payload.
pub fn datagram(length: usize) -> Vec<u8> {
    let head = udp::Repr {
        source_port: 1000,
        destination_port: 2000,
        payload_len: length as u16,
    };
    let mut bytes = head.bytes().to_vec();
    bytes.extend(MARKER.iter().cycle().take(length));
    bytes
}

/// A datagram from a host behind one site to one behind the other.
pub fn greeting(from: u8, to: u8, length: usize) -> Vec<u8> {
    packet(header(from, to), &datagram(length))
}

/// A SYN that announces this MSS.
pub fn syn(from: u8, to: u8, mss: u16) -> Vec<u8> {
    let head = tcp::Repr {
        source_port: 40_000,
        destination_port: 80,
        sequence: 1,
        acknowledgement: 0,
        flags: tcp::Flags::SYN,
        window: 1000,
    };
    let mut segment = head.bytes().to_vec();
    segment[12] = 6 << 4;
    segment.extend([2, 4]);
    segment.extend(mss.to_be_bytes());
    let header = ipv4::Repr {
        protocol: Protocol::TCP,
        ..header(from, to)
    };
    packet(header, &segment)
}

pub fn shows_marker(frame: &[u8]) -> bool {
    frame.windows(16).any(|window| window == &MARKER[..16])
}
