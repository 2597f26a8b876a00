//! The dataplane process alone, told what to do by us instead of a control plane: for measurements, which
//! want to switch between sealing and plain forwarding without a negotiation in between.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use esplanade_channel::{
    Command, ControlChannel, Counter, DfPolicy, Event, KeyMaterial, Label, Lifetime, Mode,
    OutboundSa, Policy, PolicyAction, PolicyId, Polling, PortId, PortSetup, Prefix, Role, SaId,
    Selector, Setup, Share, Tfc, Transform, WorkerId, WorkerSetup,
};
use esplanade_crypto::Algorithm;

use crate::gateway::{directory_of, program};
use crate::testbed::{INSIDE, Namespace, OUTSIDE, Process, wait_for};

/// How long the dataplane may take to open its ports, or to obey.
const LIMIT: Duration = Duration::from_secs(15);

/// The only worker, and the first ring.
const WORKER: WorkerId = WorkerId(0);
const INSIDE_PORT: PortId = PortId(0);
const OUTSIDE_PORT: PortId = PortId(1);
/// The length of key and salt of AES-128-GCM.
const KEY_MATERIAL: usize = Algorithm::AES_128_GCM_16.key_material_len();
/// The only policy.
const POLICY: PolicyId = PolicyId(0x100);

/// The place of a gateway between two prefixes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Our address on the inside port.
    pub inside: Ipv4Addr,
    /// The prefix behind the inside port.
    pub local: Prefix,
    /// The prefix beyond the peer.
    pub remote: Prefix,
    /// Our address on the outside port.
    pub outside: Ipv4Addr,
    /// The peer's address, the next hop to `remote`.
    pub peer: Ipv4Addr,
    /// Who is reached through the inside port, and by which hardware address.
    pub host: (Ipv4Addr, [u8; 6]),
    /// The peer's hardware address.
    pub peer_mac: [u8; 6],
}

/// A dataplane with one worker and two ports, of which we hold the channel.
#[derive(Debug)]
pub struct Driven {
    channel: ControlChannel,
    place: Place,
    next_sa: u32,
    current: Option<SaId>,
    process: Process,
}

impl Driven {
    /// Starts the process and gives it its ports; it forwards nothing yet.
    pub fn start(
        namespace: &Namespace,
        place: Place,
        core: Option<u16>,
        polling: Polling,
        ring_frames: u32,
        log_dir: &Path,
    ) -> Result<Self> {
        let run_dir = directory_of(namespace).join("driven");
        std::fs::create_dir_all(&run_dir)?;
        let mut command = program(namespace, "esplanade-dataplane")?;
        command.arg("--run-dir").arg(&run_dir);
        let mut process = namespace.spawn("dataplane", log_dir, command)?;
        let socket = run_dir.join(esplanade_channel::SOCKET_NAME);
        wait_for("the dataplane to listen", LIMIT, || {
            if let Some(status) = process.ended() {
                bail!("it ended with {status}:\n{}", process.last_words());
            }
            Ok(socket.exists().then_some(()))
        })?;
        let port = |interface: &str, role| PortSetup {
            vlan: None,
            interface: interface.to_owned(),
            role,
        };
        let setup = Setup {
            workers: vec![WorkerSetup { core }],
            ports: vec![port(INSIDE, Role::Inside), port(OUTSIDE, Role::Outside)],
            polling,
            sa_capacity: 1_024,
            engine: None,
            ring_frames,
        };
        let (channel, _not_locked) = ControlChannel::connect(&run_dir, &setup)
            .with_context(|| format!("the dataplane said:\n{}", process.last_words()))?;
        let mut driven = Self {
            channel,
            place,
            next_sa: 1,
            current: None,
            process,
        };
        driven.describe(namespace)?;
        Ok(driven)
    }

    /// Ports, routes, neighbours, and what XDP takes.
    fn describe(&mut self, namespace: &Namespace) -> Result<()> {
        let Place {
            inside,
            local,
            remote,
            outside,
            peer,
            host,
            peer_mac,
        } = self.place;
        for (port, interface, address) in [
            (INSIDE_PORT, INSIDE, inside),
            (OUTSIDE_PORT, OUTSIDE, outside),
        ] {
            let facts = namespace.interface(interface)?;
            self.tell(Command::SetPort {
                port,
                mac: facts.mac,
                mtu: u16::try_from(facts.mtu)?,
                address: Some(address),
                address_v6: None,
                mss_clamp: false,
                udp_checksum: true,
                partial_checksums: false,
            })?;
        }
        let link = Prefix::new(IpAddr::V4(outside), 24).context("a prefix")?;
        for (prefix, port, gateway) in [
            (local, INSIDE_PORT, None),
            (link, OUTSIDE_PORT, None),
            (remote, OUTSIDE_PORT, Some(IpAddr::V4(peer))),
        ] {
            let port = Some(port);
            self.tell(Command::SetRoute {
                prefix,
                port,
                gateway,
                mtu: 0,
                unreachable: false,
            })?;
        }
        for (port, address, mac) in [
            (INSIDE_PORT, host.0, host.1),
            (OUTSIDE_PORT, peer, peer_mac),
        ] {
            self.tell(Command::SetNeighbor {
                port,
                address: IpAddr::V4(address),
                mac,
            })?;
        }
        let steward = self.channel.setup().steward();
        let address = IpAddr::V4(outside);
        for command in [
            Command::SetLocalAddress { address },
            Command::SetProtected { local, remote },
        ] {
            self.push(steward, &command)?;
        }
        self.settle()
    }

    /// What passes from one prefix to the other is copied from port to port from now on.
    pub fn forward(&mut self) -> Result<()> {
        self.set_policy(PolicyAction::Bypass)
    }

    /// What passes to the remote prefix is sealed from now on.
    pub fn seal(&mut self) -> Result<Sa> {
        self.set_policy(PolicyAction::Protect)?;
        let sa = self.rekey()?;
        self.settle()?;
        Ok(sa)
    }

    fn set_policy(&mut self, action: PolicyAction) -> Result<()> {
        let Place { local, remote, .. } = self.place;
        let policy = Policy {
            id: POLICY,
            priority: 1,
            action,
            local: whole(local),
            remote: whole(remote),
            protocol: None,
        };
        self.tell(Command::SetPolicy(policy))?;
        self.settle()
    }

    /// Sends by a new outbound SA from now on, and removes the one before. Returns the SA's key
    /// and salt, and its SPI.
    pub fn rekey(&mut self) -> Result<Sa> {
        let number = self.next_sa;
        self.next_sa += 1;
        let mut key = [0; KEY_MATERIAL];
        rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
        let sa = SaId::from_parts(number, number & 0xfff).context("an SA's number")?;
        let spi = 0x1000_0000 + number;
        self.tell(Command::InstallOutbound(OutboundSa {
            sa,
            spi,
            policy: POLICY,
            transform: Transform::AES_128_GCM_16,
            key: KeyMaterial::new(&key).context("a key")?,
            esn: false,
            local: IpAddr::V4(self.place.outside),
            remote: IpAddr::V4(self.place.peer),
            encapsulation: None,
            mode: Mode::Tunnel,
            tfc: Tfc::default(),
            owner: WORKER,
            lifetime: Lifetime::default(),
            dscp: Some(0),
            fragment_sealed: false,
            df: DfPolicy::Copy,
            path_mtu: 0,
            label: Label::new("bench/bench"),
        }))?;
        self.tell(Command::SelectOutbound {
            policy: POLICY,
            sa,
            share: Share::ALL,
        })?;
        if let Some(old) = self.current.replace(sa) {
            self.tell(Command::RemoveSa { sa: old })?;
        }
        Ok(Sa { spi, key })
    }

    /// The share of its time that the worker had something to do since `before`, and now.
    pub fn load_since(&self, before: Times) -> f64 {
        let now = self.times();
        let busy = (now.busy - before.busy) as f64;
        let idle = (now.idle - before.idle) as f64;
        if busy + idle > 0.0 {
            busy / (busy + idle)
        } else {
            0.0
        }
    }

    /// How much time the worker has accounted for since `before`, in seconds.
    pub fn seconds_since(&self, before: Times) -> f64 {
        let now = self.times();
        ((now.busy + now.idle) - (before.busy + before.idle)) as f64 / 1e9
    }

    /// How the worker spent its time so far.
    pub fn times(&self) -> Times {
        let counters = self.channel.counters();
        Times {
            busy: counters.get(WORKER, Counter::TimeBusy),
            idle: counters.get(WORKER, Counter::TimeIdle),
        }
    }

    /// Every counter that stands for something lost, by name.
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        let counters = self.channel.counters();
        Counter::ALL
            .iter()
            .filter(|counter| counter.severity() > esplanade_channel::Severity::Info)
            .map(|counter| (counter.name(), counters.total(*counter)))
            .filter(|(_, value)| *value > 0)
            .collect()
    }

    /// The crypto engine that it chose.
    pub fn engine(&self) -> &str {
        &self.channel.facts().engine
    }

    /// How its ports came up, in words.
    pub fn ports(&self) -> String {
        let port = self.channel.facts().ports.first();
        port.map(|port| format!("{} XDP, {}", port.mode, port.copy))
            .unwrap_or_default()
    }

    fn tell(&mut self, command: Command) -> Result<()> {
        self.push(WORKER, &command)
    }

    fn push(&mut self, ring: WorkerId, command: &Command) -> Result<()> {
        let channel = &mut self.channel;
        wait_for("room in the command ring", LIMIT, || {
            let sender = channel.sender(ring).context("a ring")?;
            let pushed = sender.push(command).is_ok();
            sender.wake();
            Ok(pushed.then_some(()))
        })
    }

    /// Waits until all that was told is done; fails when something was not obeyed.
    pub fn settle(&mut self) -> Result<()> {
        let channel = &mut self.channel;
        wait_for("the dataplane to obey", LIMIT, || {
            let done = channel
                .senders()
                .iter()
                .all(|sender| sender.applied() == sender.pushed());
            Ok(done.then_some(()))
        })?;
        while let Some((_, event)) = channel.next_event() {
            if let Event::CommandFailed { reason, .. } = event? {
                bail!("the dataplane does not obey: {reason}");
            }
        }
        Ok(())
    }

    /// Ends the process.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate(LIMIT)?;
        Ok(())
    }
}

/// An outbound SA, as its receiver must know it.
#[derive(Debug, Clone, Copy)]
pub struct Sa {
    /// Its SPI.
    pub spi: u32,
    /// Key and salt of AES-128-GCM.
    pub key: [u8; KEY_MATERIAL],
}

/// See [`Driven::times`]; in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    busy: u64,
    idle: u64,
}

fn whole(prefix: Prefix) -> Selector {
    let IpAddr::V4(first) = prefix.address() else {
        return Selector {
            first: prefix.address(),
            last: prefix.address(),
            ports: (0, 65535),
        };
    };
    let hosts = u32::MAX
        .checked_shr(u32::from(prefix.length()))
        .unwrap_or(0);
    let last = Ipv4Addr::from_bits(first.to_bits() | hosts);
    Selector {
        first: IpAddr::V4(first),
        last: IpAddr::V4(last),
        ports: (0, 65535),
    }
}
