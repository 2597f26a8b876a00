//! One of the two processes: an IKE endpoint and its socket.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use esplanade_ike::config::{Authentication, Identity, Secret};
use esplanade_ike::{
    ChildConfig, Endpoint, Event, Path, PeerConfig, Settings, SpiAllocator, SystemProvider,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

use super::Method;
use super::certificates::Registrar;
use crate::timing::{pin, resident};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    Caller,
    Called,
}

/// Not for people: what `ike` starts.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(long, value_enum)]
    pub role: Role,
    #[arg(long, value_enum)]
    pub method: Method,
    /// How many tunnels, each with a peer, an IKE SA and a child SA of its own.
    #[arg(long)]
    pub tunnels: u32,
    #[arg(long)]
    pub core: usize,
    /// Where certificates and addresses are exchanged.
    #[arg(long)]
    pub directory: PathBuf,
}

/// What a side has to tell, as a line of JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Told {
    /// From the first message to the last tunnel.
    pub seconds: f64,
    /// Seconds of the CPU meanwhile.
    pub cpu: f64,
    /// By how many bytes the resident memory has grown, configuration included.
    pub bytes: f64,
    /// Milliseconds that it takes to list all IKE SAs and child SAs.
    pub list_ms: f64,
}

/// The two ends as IKE sees them. The sockets have ports of their own, since 500 may be taken.
const CALLER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const CALLED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const GATEWAY: &str = "gateway.example.org";
/// Handshakes under way at a time: fewer than make the called side ask for cookies.
const WINDOW: usize = 24;
/// Without progress for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// SPIs without a dataplane.
struct Spis(u32);

impl SpiAllocator for Spis {
    fn allocate(&mut self) -> Option<u32> {
        self.0 = self.0.checked_add(1)?;
        Some(self.0)
    }

    fn release(&mut self, _spi: u32) {}
}

fn tunnel(number: u32) -> String {
    format!("tunnel-{number}")
}

fn caller(number: u32) -> String {
    format!("caller-{number}.example.org")
}

/// The peers of one side, one for each tunnel.
fn peers(options: &Options) -> Result<Vec<PeerConfig>> {
    let registrar = match options.method {
        Method::Psk | Method::Hybrid => None,
        Method::Ecdsa => Some(Registrar::open(&options.directory)?),
    };
    let shared = registrar.as_ref().map(|registrar| -> Result<_> {
        let own = match options.role {
            Role::Called => Some(Arc::new(registrar.issue(GATEWAY)?)),
            Role::Caller => None,
        };
        Ok((registrar, own, registrar.trust()))
    });
    let shared = shared.transpose()?;
    let peer = |number: u32| -> Result<PeerConfig> {
        let name = caller(number);
        let key = Secret::from(format!("the key of {name}").as_bytes());
        let (here, there) = match options.role {
            Role::Caller => (CALLER, CALLED),
            Role::Called => (CALLED, CALLER),
        };
        let mut peer = PeerConfig::new(&tunnel(number), here.into(), there.into(), key);
        let (client, gateway) = (Identity::Fqdn(name.clone()), Identity::Fqdn(GATEWAY.into()));
        let lan: esplanade_ike::config::TrafficSelector = "10.255.0.0/16".parse()?;
        let host = Ipv4Addr::from(0x0a00_0000 + number);
        let host = format!("{host}/32").parse()?;
        let ends = match options.role {
            Role::Caller => {
                (peer.local_id, peer.remote_id) = (client, gateway);
                (host, lan)
            }
            Role::Called => {
                (peer.local_id, peer.remote_id) = (gateway, client);
                (lan, host)
            }
        };
        peer.children = vec![ChildConfig::new("net", vec![ends.0], vec![ends.1])];
        peer.ike_proposals = vec![options.method.proposal().parse()?];
        peer.dpd_delay = Duration::ZERO;
        if let Some((registrar, own, trust)) = &shared {
            let ours = match own {
                Some(own) => own.clone(),
                None => Arc::new(registrar.issue(&name)?),
            };
            peer.authentication = Authentication::Certificate {
                ours,
                trust: trust.clone(),
            };
        }
        Ok(peer)
    };
    (0..options.tunnels).map(peer).collect()
}

/// An endpoint with its socket.
struct Side {
    endpoint: Endpoint,
    socket: UdpSocket,
    path: Path,
    installed: usize,
}

impl Side {
    /// Waits a while for something to come or to be due, and sees to it.
    fn turn(&mut self) -> Result<()> {
        let mut datagram = [0; 65_536];
        let mut received = false;
        loop {
            match self.socket.recv(&mut datagram) {
                Ok(octets) => {
                    let datagram = datagram.get(..octets).unwrap_or_default();
                    let now = Instant::now();
                    self.endpoint.handle_datagram(now, self.path, datagram);
                    self.drain()?;
                    received = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Nobody listens yet at the other end.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
                Err(error) => return Err(error.into()),
            }
        }
        let now = Instant::now();
        let due = self.endpoint.poll_timeout();
        if due.is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now);
            self.drain()?;
        }
        if !received {
            let millisecond = Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            poll(
                &mut [PollFd::new(&self.socket, PollFlags::IN)],
                Some(&millisecond),
            )?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::ChildInstalled(_) => self.installed += 1,
                Event::Refused { reason, .. } => bail!("a handshake failed: {reason}"),
                Event::IkeClosed { peer, reason } => bail!("{peer} is gone: {reason}"),
                _ => {}
            }
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            match self.socket.send(&transmit.data) {
                // A full queue loses datagrams, as a link does, and they are sent again.
                Err(error)
                    if ![ErrorKind::WouldBlock, ErrorKind::ConnectionRefused]
                        .contains(&error.kind()) =>
                {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes all tunnels, or waits until they are made.
    fn bring_up(&mut self, role: Role, tunnels: u32) -> Result<()> {
        let all = tunnels as usize;
        let mut called = 0;
        let (mut seen, mut progress) = (0, Instant::now());
        while self.installed < all {
            if role == Role::Caller {
                while called < all && called - self.installed < WINDOW {
                    let name = tunnel(u32::try_from(called)?);
                    self.endpoint.initiate(Instant::now(), &name, None)?;
                    called += 1;
                    self.drain()?;
                }
            }
            self.turn()?;
            if self.installed > seen {
                (seen, progress) = (self.installed, Instant::now());
            }
            ensure!(
                progress.elapsed() < PATIENCE,
                "{seen} of {all} tunnels came up, and then none for {PATIENCE:?}"
            );
        }
        Ok(())
    }
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Reads where the other side is, once it has said so.
fn meet(directory: &FilePath, role: Role, own: SocketAddr) -> Result<SocketAddr> {
    let file = |role| {
        directory.join(match role {
            Role::Caller => "caller",
            Role::Called => "called",
        })
    };
    let (ours, theirs) = match role {
        Role::Caller => (file(Role::Caller), file(Role::Called)),
        Role::Called => (file(Role::Called), file(Role::Caller)),
    };
    // Whoever reads it, reads all of it.
    let unfinished = ours.with_extension("new");
    fs::write(&unfinished, own.to_string())?;
    fs::rename(&unfinished, ours)?;
    let began = Instant::now();
    while began.elapsed() < 10 * PATIENCE {
        match fs::read_to_string(&theirs) {
            Ok(address) => return Ok(address.parse()?),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the other side is not there");
}

/// The endpoint of one side with its peers, joined to the other side's.
fn open(options: &Options) -> Result<Side> {
    let (own, other) = match options.role {
        Role::Caller => (CALLER, CALLED),
        Role::Called => (CALLED, CALLER),
    };
    let ike = |address: Ipv4Addr| SocketAddr::new(IpAddr::V4(address), 500);
    let path = Path {
        local: ike(own),
        remote: ike(other),
    };
    let settings = Settings {
        ike_sa_limit: usize::MAX,
        ..Settings::default()
    };
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| anyhow!("no random numbers"))?;
    let spis = Box::new(Spis(0x100));
    let mut endpoint = Endpoint::new(settings, Arc::new(SystemProvider), spis, seed);
    let now = Instant::now();
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    endpoint.set_wall_clock(now, wall.as_secs());
    endpoint.configure(now, peers(options)?);
    let socket = UdpSocket::bind((own, 0)).context("no socket")?;
    let other = meet(&options.directory, options.role, socket.local_addr()?)?;
    socket.connect(other)?;
    socket.set_nonblocking(true)?;
    Ok(Side {
        endpoint,
        socket,
        path,
        installed: 0,
    })
}

/// Is one of the two, until standard input ends.
///
/// # Errors
///
/// A handshake fails, or the other side is not to be had.
pub fn run(options: &Options) -> Result<()> {
    pin(options.core)?;
    let before = resident()?;
    let mut side = open(options)?;
    let (began, cpu_before) = (Instant::now(), cpu());
    side.bring_up(options.role, options.tunnels)?;
    let (seconds, cpu_spent) = (began.elapsed().as_secs_f64(), cpu() - cpu_before);
    let began = Instant::now();
    let listed = side.endpoint.ike_sas().count() + side.endpoint.child_sas().count();
    let list_ms = 1e3 * began.elapsed().as_secs_f64();
    ensure!(
        listed == 2 * options.tunnels as usize,
        "{listed} SAs are listed"
    );
    let told = Told {
        seconds,
        cpu: cpu_spent,
        bytes: resident()? - before,
        list_ms,
    };
    println!("{}", serde_json::to_string(&told)?);
    io::stdout().flush()?;
    // The last answer may have been lost.
    let input = io::stdin();
    let mut end = [PollFd::new(&input, PollFlags::IN)];
    let nothing = Timespec::default();
    while poll(&mut end, Some(&nothing))? == 0 {
        side.turn()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use clap::ValueEnum;

    use super::super::certificates;
    use super::*;

    #[test]
    fn all_tunnels_come_up_by_each_method() {
        for &method in Method::value_variants() {
            let directory = tempfile::tempdir().unwrap();
            certificates::make(directory.path()).unwrap();
            let tunnels = 2 * u32::try_from(WINDOW).unwrap();
            let side = |role| {
                let options = Options {
                    role,
                    method,
                    tunnels,
                    core: 0,
                    directory: directory.path().to_owned(),
                };
                thread::spawn(move || {
                    let mut side = open(&options)?;
                    side.bring_up(role, tunnels)?;
                    anyhow::Ok((
                        side.endpoint.ike_sas().count(),
                        side.endpoint.child_sas().count(),
                    ))
                })
            };
            let sides = [side(Role::Called), side(Role::Caller)];
            for side in sides {
                let all = tunnels as usize;
                assert_eq!(side.join().unwrap().unwrap(), (all, all), "{method:?}");
            }
        }
    }
}
