//! One worker with a side inside and a side outside, both served by hand, commanded over the real channel.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use esplanade_channel::{
    Command, Connection, ControlChannel, CopyMode, DfPolicy, Epoch, Facts, InboundSa, KeyMaterial,
    Label, Lifetime, OutboundSa, Policy, PolicyAction, PolicyId, Polling, PortFacts, PortId,
    PortMode, PortSetup, Prefix, Role, SaId, Segment, Selector, Setup, Transform, WorkerId,
    WorkerSetup,
};
use esplanade_crypto::{EngineKind, IvGenerator};
use esplanade_dataplane::port::{BURST, staged::StagedPort};
use esplanade_dataplane::worker::{Handoff, Settings, Worker};

const INSIDE: PortId = PortId(0);
const OUTSIDE: PortId = PortId(1);
/// Frames of each port: a few bursts, so that they stay in the cache.
const FRAMES: u32 = 4 * BURST as u32;
/// The one worker.
const WORKER: WorkerId = WorkerId(0);

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

    /// The host that speaks through a tunnel.
    pub fn host(self, tunnel: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.inside().to_bits() | tunnel << 8 | 1)
    }

    /// The network behind a tunnel.
    fn network(self, tunnel: u32) -> Selector {
        let first = self.inside().to_bits() | tunnel << 8;
        Selector {
            first: Ipv4Addr::from(first).into(),
            last: Ipv4Addr::from(first | 0xff).into(),
            ports: (0, u16::MAX),
        }
    }

    /// The link address of the gateway.
    fn mac(self, port: PortId) -> [u8; 6] {
        [2, 0, 0, 0, self as u8, port.0]
    }
}

/// The most tunnels: the networks of a half of 10.0.0.0/8.
pub const MAX_TUNNELS: u32 = 1 << 15;

/// The SAs of a tunnel, which both ends call the same.
fn inbound(tunnel: u32) -> Option<SaId> {
    SaId::from_parts(2 * tunnel + 1, 0x300)
}

fn outbound(tunnel: u32) -> Option<SaId> {
    SaId::from_parts(2 * tunnel + 2, 0x300)
}

/// The two keys of a tunnel, by who seals with them.
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

/// A gateway.
pub struct Gateway {
    site: Site,
    worker: Worker<StagedPort>,
    channel: ControlChannel,
    now: Duration,
    _connection: Connection,
    _segment: Segment,
}

impl Gateway {
    /// A gateway that knows the ways in and out, with room for so many tunnels.
    ///
    /// # Errors
    ///
    /// There is no shared memory to be had, or the worker refuses a command.
    pub fn new(site: Site, engine: EngineKind, tunnels: u32) -> Result<Self> {
        let port = |name: &str, role| PortSetup {
            interface: name.to_owned(),
            role,
        };
        let setup = Setup {
            workers: vec![WorkerSetup { core: None }],
            ports: vec![port("inside", Role::Inside), port("outside", Role::Outside)],
            polling: Polling::Busy,
            sa_capacity: 2 * tunnels + 3,
            engine: Some(engine.to_string()),
            ring_frames: FRAMES,
        };
        let fact = PortFacts {
            mode: PortMode::Native,
            copy: CopyMode::Copy,
            queues: 1,
        };
        let facts = Facts {
            epoch: Epoch(1),
            engine: engine.to_string(),
            ports: vec![fact; 2],
        };
        let (segment, _) = Segment::create(&setup, &facts)?;
        let (channel, connection) = segment.connect_locally()?;
        let handoff = Handoff::mesh(1)?;
        let settings = Settings {
            id: WORKER,
            roles: vec![Role::Inside, Role::Outside],
            polling: setup.polling,
            engine,
            sa_capacity: setup.sa_capacity,
        };
        let ports = vec![StagedPort::new(FRAMES), StagedPort::new(FRAMES)];
        let handoff = handoff.into_iter().next().context("no worker")?;
        let end = segment.worker(WORKER)?;
        // Only CBC would draw from it.
        let ivs = IvGenerator::new([0; 32]);
        let worker = Worker::new(settings, ports, end, handoff, ivs);
        let mut gateway = Self {
            site,
            worker,
            channel,
            now: Duration::from_secs(1),
            _connection: connection,
            _segment: segment,
        };
        gateway.tell(gateway.network())?;
        Ok(gateway)
    }

    fn network(&self) -> Vec<Command> {
        let router = Ipv4Addr::new(198, 18, 0, 2);
        let port = |port| Command::SetPort {
            port,
            mac: self.site.mac(port),
            mtu: 1500,
            address: None,
            mss_clamp: false,
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

    /// Adds a tunnel, with its policy.
    ///
    /// # Errors
    ///
    /// The worker refuses it.
    pub fn add_tunnel(&mut self, tunnel: u32, transform: Transform, keys: &Keys) -> Result<()> {
        let policy = PolicyId(u64::from(tunnel) << 8);
        let (Some(receiving), Some(sending)) = (inbound(tunnel), outbound(tunnel)) else {
            bail!("there is no SA of number {tunnel}");
        };
        let (site, peer) = (self.site, self.site.peer());
        let (local, remote) = (site.outer().into(), peer.outer().into());
        self.tell(vec![
            Command::SetPolicy(Policy {
                id: policy,
                priority: tunnel,
                action: PolicyAction::Protect,
                local: site.network(tunnel),
                remote: peer.network(tunnel),
                protocol: None,
            }),
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
                owner: WORKER,
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
                owner: WORKER,
                lifetime: Lifetime::default(),
                copy_dscp: false,
                df: DfPolicy::Copy,
                path_mtu: 0,
                label: Label::new("pipeline"),
            }),
            Command::SelectOutbound {
                policy,
                sa: sending,
            },
        ])
    }

    /// Tells the worker, and has it obey.
    fn tell(&mut self, commands: Vec<Command>) -> Result<()> {
        for command in &commands {
            let sender = self.channel.sender(WORKER).context("no command ring")?;
            sender.push(command)?;
        }
        while self.round() > 0 {}
        match self.channel.next_event() {
            None => Ok(()),
            Some((_, event)) => bail!("the worker says {event:?}"),
        }
    }

    /// One round of the worker: this is what is measured. Gives how many packets and commands there were.
    #[inline]
    pub fn round(&mut self) -> usize {
        self.worker.round(self.now)
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
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
