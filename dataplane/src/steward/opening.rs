//! From a setup to open ports: find the interfaces, attach the XDP program, bind a socket for each worker and
//! port. What was opened closes again when a later step fails.

use crate::port::{
    self, Interface, InterfaceError, OpenError, RealPort, Settings,
    tap::{TapError, TapPort},
    xdp::XdpPort,
};
use crate::worker::Link;
use esplanade_bpf::{Mode, SteerError, Steering, Vlan};
use esplanade_channel as channel;

/// Everything that needs privileges, open.
pub(super) struct Opened {
    /// The XDP program on its interfaces; dropping it detaches.
    pub steering: Steering,
    /// The queues of each worker.
    pub ports: Vec<Vec<RealPort>>,
    /// Which of them each port is, in the setup's order.
    pub links: Vec<Link>,
    /// How each port came up, in the setup's order.
    pub facts: Vec<channel::PortFacts>,
}

/// Why the ports could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// No such interface, or not as it must be.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The XDP program.
    #[error(transparent)]
    Steer(#[from] SteerError),
    /// A socket.
    #[error(transparent)]
    Socket(#[from] OpenError),
    /// The TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Packets would arrive on queues that nobody owns, or workers would have nothing to do.
    #[error(
        "`{interface}` has {queues} receive queues and there are {workers} workers, each of which owns one queue of every \
         port: make them equal with `ethtool -L {interface} combined {workers}` (or `rx {workers} tx {workers}`), or \
         list {queues} cores under `workers`"
    )]
    Queues {
        /// The interface.
        interface: String,
        /// Its receive queues.
        queues: u32,
        /// The workers of the setup.
        workers: usize,
    },
}

/// Opens all ports of a setup.
///
/// # Errors
///
/// The first thing that is in the way, in words for the operator.
pub(super) fn open(setup: &channel::Setup) -> Result<Opened, OpeningError> {
    let interfaces = interfaces(setup)?;
    let mut steering = Steering::load()?;
    let mut ports: Vec<Vec<RealPort>> = setup.workers.iter().map(|_| Vec::new()).collect();
    let mut facts: Vec<channel::PortFacts> = Vec::with_capacity(interfaces.len());
    let mut links: Vec<Link> = Vec::with_capacity(interfaces.len());
    let mut queues = 0;
    for (index, (interface, asked)) in interfaces.iter().zip(&setup.ports).enumerate() {
        let port = index as u8;
        let role = match asked.role {
            channel::Role::Inside => esplanade_bpf::Role::Inside,
            channel::Role::Outside => esplanade_bpf::Role::Outside,
            channel::Role::Host => {
                facts.push(open_tap(&asked.interface, &mut ports)?);
                links.push(Link {
                    queue: queues,
                    vlan: 0,
                });
                queues += 1;
                continue;
            }
        };
        let Some(interface) = interface else { continue };
        let vlan = asked.vlan.as_ref().map_or(0, |vlan| vlan.id);
        let tags = Vlan {
            outer: vlan,
            inner: 0,
        };
        let earlier = interfaces.iter().zip(&facts).zip(&links);
        let earlier = earlier
            .filter(|((other, _), _)| other.as_ref() == Some(interface))
            .map(|((_, facts), link)| (*facts, *link))
            .next();
        if let Some((fact, link)) = earlier {
            // The sockets of the interface's queues are there.
            steering.set_port(interface.index, port, role, tags)?;
            for (queue, worker) in (0..).zip(&ports) {
                if let Some(RealPort::Xdp(socket)) = worker.get(usize::from(link.queue)) {
                    steering.set_socket(port, queue, socket.socket())?;
                }
            }
            facts.push(fact);
            links.push(Link { vlan, ..link });
            continue;
        }
        let attached =
            steering.attach_in_vlan(interface.index, &interface.name, port, role, tags)?;
        let generic = warn_if_generic(&interface.name, &attached.mode);
        let mut copy = channel::CopyMode::ZeroCopy;
        for (queue, worker) in (0..).zip(&mut ports) {
            let socket = XdpPort::open(&Settings {
                interface: interface.clone(),
                queue,
                frames: setup.ring_frames,
                force_copy: generic,
            })?;
            steering.set_socket(port, queue, socket.socket())?;
            if socket.copy_mode() == port::CopyMode::Copy {
                copy = channel::CopyMode::Copy;
            }
            worker.push(RealPort::Xdp(socket));
        }
        facts.push(channel::PortFacts {
            mode: if generic {
                channel::PortMode::Generic
            } else {
                channel::PortMode::Native
            },
            copy,
            queues: interface.receive_queues as u16,
        });
        links.push(Link {
            queue: queues,
            vlan,
        });
        queues += 1;
    }
    Ok(Opened {
        steering,
        ports,
        links,
        facts,
    })
}

/// Opens a queue of the TAP for each worker.
fn open_tap(name: &str, ports: &mut [Vec<RealPort>]) -> Result<channel::PortFacts, OpeningError> {
    for worker in &mut *ports {
        worker.push(RealPort::Tap(TapPort::open(name)?));
    }
    Ok(channel::PortFacts {
        mode: channel::PortMode::Tap,
        copy: channel::CopyMode::Copy,
        queues: ports.len() as u16,
    })
}

/// Looks up every interface but the TAP's, which is not there yet, and checks that each of its queues will have a worker.
fn interfaces(setup: &channel::Setup) -> Result<Vec<Option<Interface>>, OpeningError> {
    let workers = setup.workers.len();
    setup
        .ports
        .iter()
        .map(|port| {
            if port.role == channel::Role::Host {
                return Ok(None);
            }
            let interface = Interface::find(port.carrier())?;
            if interface.receive_queues as usize == workers {
                Ok(Some(interface))
            } else {
                Err(OpeningError::Queues {
                    interface: interface.name,
                    queues: interface.receive_queues,
                    workers,
                })
            }
        })
        .collect()
}

/// Whether the program runs generically, of which the operator is warned.
fn warn_if_generic(interface: &str, mode: &Mode) -> bool {
    match mode {
        Mode::Native => false,
        Mode::Generic { reason } => {
            eprintln!(
                "esplanade-dataplane: warning: the driver of `{interface}` runs no XDP programs ({reason}); generic mode \
                 works but is several times slower"
            );
            true
        }
    }
}
