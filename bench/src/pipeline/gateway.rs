//! Gateways whose workers have a side inside and a side outside, both served by hand, commanded over the real channel.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use esplanade_channel::{
    Command, Connection, ControlChannel, CopyMode, DfPolicy, Epoch, Facts, InboundSa, KeyMaterial,
    Label, Lifetime, Mode, OutboundSa, Policy, PolicyAction, PolicyId, Polling, PortFacts, PortId,
    PortMode, PortSetup, Prefix, Role, SaId, Segment, Selector, Setup, Share, Tfc, Transform,
    WorkerId, WorkerSetup,
};
use esplanade_crypto::{EngineKind, IvGenerator};
use esplanade_dataplane::port::{BURST, staged::StagedPort};
use esplanade_dataplane::worker::{Handoff, Settings, Stopwatch, Worker};

const INSIDE: PortId = PortId(0);
const OUTSIDE: PortId = PortId(1);
/// Frames of each port: a few bursts, so that they stay in the cache.
const FRAMES: u32 = 4 * BURST as u32;

/// Which end of the tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    A,
    B,
}

impl Site {
    fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The gateway's address between the two.
    fn outer(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(192, 0, 2, 1),
            Self::B => Ipv4Addr::new(192, 0, 2, 2),
        }
    }

    /// The upper or the lower half of 10.0.0.0/8.
    fn inside(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(10, 0, 0, 0),
            Self::B => Ipv4Addr::new(10, 128, 0, 0),
        }
    }

    /// A host of the network of a policy.
    pub fn host(self, network: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.inside().to_bits() | network << HOST_BITS | 1)
    }

    /// The network of a policy.
    fn network(self, network: u32) -> Selector {
        let first = self.inside().to_bits() | network << HOST_BITS;
        Selector {
            first: Ipv4Addr::from(first).into(),
            last: Ipv4Addr::from(first | ((1 << HOST_BITS) - 1)).into(),
            ports: (0, u16::MAX),
        }
    }

    /// The link address of the gateway.
    fn mac(self, port: PortId) -> [u8; 6] {
        [2, 0, 0, 0, self as u8, port.0]
    }
}

/// The bits of an address that a network's hosts differ in.
const HOST_BITS: u32 = 3;
/// The most networks: a half of 10.0.0.0/8 has 23 bits.
pub const MAX_NETWORKS: u32 = 1 << (23 - HOST_BITS);
/// The most policies that use one SA: those that are one child SA's.
pub const MAX_POLICIES_OF_SA: u32 = 256;
/// The most pairs of SAs that there are names for.
pub const MAX_PAIRS: u32 = (SaId::SLOTS - 2) / 2;

/// The SAs of a pair, which both ends call the same.
fn inbound(pair: u32) -> Option<SaId> {
    SaId::from_parts(2 * pair + 1, 0x300)
}

fn outbound(pair: u32) -> Option<SaId> {
    SaId::from_parts(2 * pair + 2, 0x300)
}

/// The two keys of a pair of SAs, by who seals with them.
pub struct Keys {
    a: KeyMaterial,
    b: KeyMaterial,
}

impl Keys {
    /// Of bytes that the caller drew.
    pub fn new(a: &[u8], b: &[u8]) -> Result<Self> {
        let key = |bytes| KeyMaterial::new(bytes).context("no room for the key");
        Ok(Self {
            a: key(a)?,
            b: key(b)?,
        })
    }

    fn of(&self, site: Site) -> KeyMaterial {
        match site {
            Site::A => self.a.clone(),
            Site::B => self.b.clone(),
        }
    }
}

/// What a gateway has.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Tunnels; each has a pair of SAs, or, when workers share it, one for each worker (RFC 9611).
    pub tunnels: u32,
    /// The policies of each tunnel.
    pub policies: u32,
    /// Workers; tunnels belong to them in turn.
    pub workers: u16,
    /// Whether all workers share each tunnel.
    pub shared: bool,
}

impl Size {
    /// Pairs of SAs.
    pub fn pairs(&self) -> u32 {
        if self.shared {
            self.tunnels * u32::from(self.workers)
        } else {
            self.tunnels
        }
    }

    /// The worker that a pair of SAs belongs to.
    fn owner(&self, pair: u32) -> WorkerId {
        WorkerId((pair % u32::from(self.workers)) as u16)
    }

    /// The tunnel of a pair of SAs.
    fn tunnel(&self, pair: u32) -> u32 {
        if self.shared {
            pair / u32::from(self.workers)
        } else {
            pair
        }
    }
}

/// A gateway.
pub struct Gateway {
    site: Site,
    size: Size,
    /// Until each goes to a thread of its own.
    pub workers: Vec<Node>,
    channel: ControlChannel,
    _connection: Connection,
    _segment: Segment,
}

/// One worker, with its queues of both ports.
pub struct Node {
    worker: Worker<StagedPort>,
    now: Duration,
}

impl Gateway {
    /// A gateway that knows the ways in and out.
    ///
    /// # Errors
    ///
    /// There is no shared memory to be had, or a worker refuses a command.
    pub fn new(site: Site, engine: EngineKind, size: Size) -> Result<Self> {
        let port = |name: &str, role| PortSetup {
            vlan: None,
            interface: name.to_owned(),
            role,
        };
        let setup = Setup {
            workers: vec![WorkerSetup { core: None }; size.workers.into()],
            ports: vec![port("inside", Role::Inside), port("outside", Role::Outside)],
            polling: Polling::Busy,
            sa_capacity: 2 * size.pairs() + 2,
            engine: Some(engine.to_string()),
            ring_frames: FRAMES,
        };
        let fact = PortFacts {
            mode: PortMode::Native,
            copy: CopyMode::Copy,
            queues: size.workers,
        };
        let facts = Facts {
            epoch: Epoch(1),
            engine: engine.to_string(),
            ports: vec![fact; 2],
        };
        let (segment, _) = Segment::create(&setup, &facts)?;
        let (channel, connection) = segment.connect_locally()?;
        let handoffs = Handoff::mesh(size.workers.into())?;
        let workers = (0..size.workers).zip(handoffs).map(|(number, handoff)| {
            let id = WorkerId(number);
            let settings = Settings {
                id,
                roles: vec![Role::Inside, Role::Outside],
                links: Vec::new(),
                polling: setup.polling,
                engine,
                sa_capacity: setup.sa_capacity,
            };
            let ports = vec![StagedPort::new(FRAMES), StagedPort::new(FRAMES)];
            // Only CBC would draw from it.
            let ivs = IvGenerator::new([0; 32]);
            let end = segment.worker(id)?;
            Ok(Node {
                worker: Worker::new(settings, ports, end, handoff, ivs),
                now: Duration::from_secs(1),
            })
        });
        let workers = workers.collect::<Result<_>>()?;
        let mut gateway = Self {
            site,
            size,
            workers,
            channel,
            _connection: connection,
            _segment: segment,
        };
        let network = gateway.network();
        gateway.tell_all(&network)?;
        Ok(gateway)
    }

    fn network(&self) -> Vec<Command> {
        let router = Ipv4Addr::new(198, 18, 0, 2);
        let port = |port| Command::SetPort {
            port,
            mac: self.site.mac(port),
            mtu: 1500,
            address: None,
            address_v6: None,
            mss_clamp: false,
            udp_checksum: true,
            partial_checksums: false,
        };
        let route = |net: Ipv4Addr, length, port, gateway: Option<Ipv4Addr>| {
            let prefix = Prefix::new(net.into(), length)?;
            Some(Command::SetRoute {
                prefix,
                port: Some(port),
                gateway: gateway.map(Into::into),
                mtu: 0,
                unreachable: false,
            })
        };
        let neighbor = |port, address: Ipv4Addr, mac| Command::SetNeighbor {
            port,
            address: address.into(),
            mac,
        };
        let peer = self.site.peer();
        [port(INSIDE), port(OUTSIDE)]
            .into_iter()
            .chain(route(self.site.inside(), 9, INSIDE, Some(router)))
            .chain(route(peer.outer(), 24, OUTSIDE, None))
            .chain([
                neighbor(INSIDE, router, [2, 0, 0, 1, 0, 0]),
                neighbor(OUTSIDE, peer.outer(), peer.mac(OUTSIDE)),
            ])
            .collect()
    }

    /// Adds the policies of a tunnel. Those of one network each way have the tunnel's number.
    ///
    /// # Errors
    ///
    /// A worker refuses one.
    pub fn add_policies(&mut self, tunnel: u32) -> Result<()> {
        let (site, peer, count) = (self.site, self.site.peer(), self.size.policies);
        let policies: Vec<_> = (0..count)
            .map(|policy| {
                let network = tunnel * count + policy;
                Command::SetPolicy(Policy {
                    id: PolicyId(u64::from(tunnel) << 8 | u64::from(policy)),
                    priority: network,
                    action: PolicyAction::Protect,
                    local: site.network(network),
                    remote: peer.network(network),
                    protocol: None,
                })
            })
            .collect();
        self.tell_all(&policies)
    }

    /// Adds a pair of SAs; the policies of its tunnel use it from now on, in a shared tunnel those of its worker.
    ///
    /// # Errors
    ///
    /// A worker refuses it.
    pub fn add_pair(&mut self, pair: u32, transform: Transform, keys: &Keys) -> Result<()> {
        let (Some(receiving), Some(sending)) = (inbound(pair), outbound(pair)) else {
            bail!("there is no SA of number {pair}");
        };
        let policy = PolicyId(u64::from(self.size.tunnel(pair)) << 8);
        let owner = self.size.owner(pair);
        let (site, peer) = (self.site, self.site.peer());
        let (local, remote) = (site.outer().into(), peer.outer().into());
        self.tell_all(&[
            Command::InstallInbound(InboundSa {
                sa: receiving,
                policy,
                transform,
                key: keys.of(peer),
                esn: true,
                window: 1024,
                local,
                remote,
                encapsulation: None,
                mode: Mode::Tunnel,
                original: None,
                follow: false,
                owner,
                lifetime: Lifetime::default(),
                label: Label::new("pipeline"),
            }),
            Command::InstallOutbound(OutboundSa {
                sa: sending,
                // The peer has it under the same number.
                spi: receiving.value(),
                policy,
                transform,
                key: keys.of(site),
                esn: true,
                local,
                remote,
                encapsulation: None,
                mode: Mode::Tunnel,
                tfc: Tfc::default(),
                owner,
                lifetime: Lifetime::default(),
                dscp: Some(0),
                fragment_sealed: false,
                df: DfPolicy::Copy,
                path_mtu: 0,
                label: Label::new("pipeline"),
            }),
        ])?;
        let select = Command::SelectOutbound {
            policy,
            sa: sending,
            share: Share {
                worker: self.size.shared.then_some(owner),
                ..Share::ALL
            },
        };
        self.tell_all(&[select])
    }

    fn tell_all(&mut self, commands: &[Command]) -> Result<()> {
        (0..self.size.workers).try_for_each(|worker| self.tell(WorkerId(worker), commands))
    }

    /// Tells a worker, and has it obey.
    fn tell(&mut self, to: WorkerId, commands: &[Command]) -> Result<()> {
        let node = self.workers.get_mut(usize::from(to.0));
        let node = node.context("no such worker")?;
        let sender = self.channel.sender(to).context("no command ring")?;
        for command in commands {
            sender.push(command)?;
        }
        while node.round() > 0 {}
        match self.channel.next_event() {
            None => Ok(()),
            Some((_, event)) => bail!("worker {} says {event:?}", to.0),
        }
    }
}

impl Node {
    /// One round of the worker: this is what is measured. Gives how many packets and commands there were.
    #[inline]
    pub fn round(&mut self) -> usize {
        self.worker.round(self.now)
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// What its stages cost.
    pub fn stopwatch(&mut self) -> &mut Stopwatch {
        self.worker.stopwatch_mut()
    }

    /// The side of the hosts.
    pub fn inside(&mut self) -> Result<&mut StagedPort> {
        self.port(INSIDE)
    }

    /// The side of the other gateway.
    pub fn outside(&mut self) -> Result<&mut StagedPort> {
        self.port(OUTSIDE)
    }

    fn port(&mut self, port: PortId) -> Result<&mut StagedPort> {
        let ports = self.worker.ports_mut();
        ports.get_mut(usize::from(port.0)).context("no such port")
    }
}
