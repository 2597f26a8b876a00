//! The XDP program that decides "dataplane or kernel", and its typed maps.
//!
//! One program serves all ports; the maps say which interface is which port, which addresses are
//! ours, and which plain packets are to be protected. The program is attached by links that go with this
//! process: nothing stays behind, not even after kill -9. The maps are reached through file
//! descriptors that are open already, so that updates go on after the privileges are gone.

mod error;
mod prefix;
mod verdict;

pub use error::{MissingCapabilities, SteerError};
pub use prefix::Prefix;
pub use verdict::{Action, Verdict};

use libbpf_rs::{
    MapCore, MapFlags, MapHandle, Object, ObjectBuilder, PrintLevel, ProgramInput, ProgramMut, Xdp,
    XdpFlags, query::ProgInfoIter,
};
use prefix::{PrefixOf, Trie, address_bytes, delete, update};
use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

/// The compiled program.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// The most ports that the maps hold (maps.bpf.h).
pub const MAX_PORTS: u32 = 16;

/// The most queues of one port that the maps hold (maps.bpf.h).
pub const QUEUES_PER_PORT: u32 = 64;

/// The groups whose packets no router at the edge of a site lets out: 239.255.0.0/16 (RFC 2365 6.1: "the Local Scope"), and
/// those of the scopes 3 to 5 of IPv6 (RFC 7346 2: realm, administration, site), well-known and transient ones.
fn local_scopes() -> Vec<Prefix> {
    const LOCAL: Ipv4Addr = Ipv4Addr::new(239, 255, 0, 0);
    let flags = [0x00, 0x10, 0x30, 0x70];
    let scopes = flags
        .iter()
        .flat_map(|flags| (3..=5).map(move |scope| flags | scope));
    let groups = scopes.map(|second| Ipv6Addr::new(0xff00 | second, 0, 0, 0, 0, 0, 0, 0));
    groups
        .map(|group| Prefix::new(group, 16))
        .chain([Prefix::new(LOCAL, 16)])
        .collect()
}

/// Which side of the gateway an interface is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Plain packets come from here, to be protected.
    Inside,
    /// ESP comes from here; plain packets of protected prefixes do not belong here.
    Outside,
}

/// The VLAN that a port is in: the identifiers of the outer and the inner tag, 0 for none. Frames with other tags are
/// not the port's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Vlan {
    /// Of the only tag, or of the outer one of two.
    pub outer: u16,
    /// Of the inner tag of two.
    pub inner: u16,
}

impl Vlan {
    /// None: untagged frames, and those whose tag is for their priority only.
    pub const NONE: Self = Self { outer: 0, inner: 0 };
}

/// How the program runs on an interface.
#[derive(Debug)]
pub enum Mode {
    /// In the driver, before the kernel has made anything of the packet.
    Native,
    /// In the kernel's stack, after it has: slow, and only for interfaces that offer no better.
    Generic {
        /// Why not natively.
        reason: io::Error,
    },
}

/// What became of an attachment.
#[derive(Debug)]
pub struct Attached {
    /// Native, or generic with the reason.
    pub mode: Mode,
}

/// The loaded program with its maps and attachments. Dropping it detaches.
#[derive(Debug)]
pub struct Steering {
    // Before the object: the links go first.
    links: Vec<OwnedFd>,
    object: Object,
    maps: Maps,
    /// What `local_addresses` holds.
    addresses: HashSet<IpAddr>,
    /// The protected pairs, and how often each was added.
    pairs: HashMap<(Prefix, Prefix), u32>,
}

#[derive(Debug)]
struct Maps {
    xsks: MapHandle,
    ports: MapHandle,
    local_addresses: MapHandle,
    protected_local: Trie<Prefix>,
    protected_remote: Trie<Prefix>,
    protected_own: Trie<PrefixOf>,
    inside: Trie<Prefix>,
    steer_counters: MapHandle,
}

impl Steering {
    /// Loads the program and makes its maps; nothing is attached yet.
    ///
    /// # Errors
    ///
    /// Missing capabilities, a kernel without BPF or AF_XDP, or a program that the kernel refuses.
    pub fn load() -> Result<Self, SteerError> {
        libbpf_rs::set_print(Some((PrintLevel::Warn, |_, line| {
            LOG.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&line);
        })));
        LOG.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let object = ObjectBuilder::default()
            .open_memory(OBJECT)
            .and_then(|object| object.load())
            .map_err(|error| load_error(into_io(error)))?;
        let map = |name: &'static str| {
            let map = object.maps().find(|map| map.name() == name);
            let map = map.ok_or(SteerError::Object { name })?;
            MapHandle::try_from(&map).map_err(|error| map_error(name, error))
        };
        let trie = |name| Ok(Trie::new(map(name)?, name));
        let mut maps = Maps {
            xsks: map("xsks")?,
            ports: map("ports")?,
            local_addresses: map("local_addresses")?,
            protected_local: trie("protected_local")?,
            protected_remote: trie("protected_remote")?,
            protected_own: Trie::new(map("protected_own")?, "protected_own"),
            inside: trie("inside")?,
            steer_counters: map("steer_counters")?,
        };
        maps.inside.add(&local_scopes())?;
        Ok(Self {
            links: Vec::new(),
            object,
            maps,
            addresses: HashSet::new(),
            pairs: HashMap::new(),
        })
    }

    /// Attaches the program to an interface and says which port it is: natively if the driver can, generically
    /// if not.
    ///
    /// # Errors
    ///
    /// Refuses when another program is there, and when neither mode works.
    pub fn attach(
        &mut self,
        ifindex: u32,
        interface: &str,
        port: u8,
        role: Role,
    ) -> Result<Attached, SteerError> {
        self.attach_in_vlan(ifindex, interface, port, role, Vlan::NONE)
    }

    /// As [`attach`](Self::attach), for a port that is a VLAN on the interface. The dataplane gets its frames with their last
    /// tag. Further VLANs of an interface are named by [`set_port`](Self::set_port).
    ///
    /// # Errors
    ///
    /// As those of [`attach`](Self::attach).
    pub fn attach_in_vlan(
        &mut self,
        ifindex: u32,
        interface: &str,
        port: u8,
        role: Role,
        vlan: Vlan,
    ) -> Result<Attached, SteerError> {
        if interface_index(interface) != Some(ifindex) {
            return Err(SteerError::NoInterface {
                interface: interface.to_owned(),
            });
        }
        self.refuse_occupied(ifindex, interface)?;
        self.set_port(ifindex, port, role, vlan)?;
        let (link, mode) = match self.link(ifindex, XdpFlags::DRV_MODE) {
            Ok(link) => (link, Mode::Native),
            Err(native) if native.kind() == io::ErrorKind::PermissionDenied => {
                return Err(capabilities("attaching the XDP program"));
            }
            Err(native) => {
                // It may have come between the look and the link.
                self.refuse_occupied(ifindex, interface)?;
                match self.link(ifindex, XdpFlags::SKB_MODE) {
                    Ok(link) => (link, Mode::Generic { reason: native }),
                    Err(generic) => {
                        return Err(SteerError::Attach {
                            interface: interface.to_owned(),
                            native,
                            generic,
                        });
                    }
                }
            }
        };
        self.links.push(link);
        Ok(Attached { mode })
    }

    /// Says which port and side an interface is, or a VLAN on it, without attaching anything.
    ///
    /// # Errors
    ///
    /// A port number out of range, or a kernel that refuses the entry.
    pub fn set_port(
        &self,
        ifindex: u32,
        port: u8,
        role: Role,
        vlan: Vlan,
    ) -> Result<(), SteerError> {
        if u32::from(port) >= MAX_PORTS {
            return Err(SteerError::OutOfRange { port, queue: 0 });
        }
        let role: u32 = match role {
            Role::Inside => 0,
            Role::Outside => 1,
        };
        let mut value = [0; 12];
        value[..4].copy_from_slice(&ifindex.to_ne_bytes());
        value[4..8].copy_from_slice(&role.to_ne_bytes());
        value[8..10].copy_from_slice(&vlan.outer.to_ne_bytes());
        value[10..].copy_from_slice(&vlan.inner.to_ne_bytes());
        let key = u32::from(port).to_ne_bytes();
        update(&self.maps.ports, "ports", &key, &value)
    }

    /// Sends what is ours on a queue to an AF_XDP socket. The entry goes when the socket is closed.
    ///
    /// # Errors
    ///
    /// A queue out of range, or a kernel that refuses the socket.
    pub fn set_socket(
        &self,
        port: u8,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), SteerError> {
        if u32::from(port) >= MAX_PORTS || queue >= QUEUES_PER_PORT {
            return Err(SteerError::OutOfRange { port, queue });
        }
        let key = u32::from(port) * QUEUES_PER_PORT + queue;
        let value = socket.as_raw_fd().to_ne_bytes();
        update(&self.maps.xsks, "xsks", &key.to_ne_bytes(), &value)
    }

    /// Takes ESP, AH and ESP in UDP to this address from now on, and on outside ports also what comes in the clear
    /// although a protected pair covers its sender and this address. Adding what is there is no error.
    ///
    /// # Errors
    ///
    /// A kernel that refuses an entry, as when the map is full; nothing has changed then.
    pub fn add_local(&mut self, address: impl Into<IpAddr>) -> Result<(), SteerError> {
        let address = address.into();
        if self.addresses.contains(&address) {
            return Ok(());
        }
        let remotes = self.remotes_of(address);
        let Maps {
            local_addresses,
            protected_own,
            ..
        } = &mut self.maps;
        protected_own.add(&remotes)?;
        let added = update(
            local_addresses,
            "local_addresses",
            &address_bytes(address),
            &[1],
        );
        match added {
            Ok(()) => self.addresses.insert(address),
            Err(error) => {
                protected_own.remove(&remotes)?;
                return Err(error);
            }
        };
        Ok(())
    }

    /// Leaves what is sent to this address to the kernel. Removing what is not there is no error.
    ///
    /// # Errors
    ///
    /// A kernel that refuses.
    pub fn remove_local(&mut self, address: impl Into<IpAddr>) -> Result<(), SteerError> {
        let address = address.into();
        if !self.addresses.remove(&address) {
            return Ok(());
        }
        let map = &self.maps.local_addresses;
        delete(map, "local_addresses", &address_bytes(address))?;
        let remotes = self.remotes_of(address);
        self.maps.protected_own.remove(&remotes)
    }

    /// The remote prefixes of the pairs whose local prefix covers an address.
    fn remotes_of(&self, ours: IpAddr) -> Vec<PrefixOf> {
        let pairs = self.pairs.keys().filter(|(local, _)| local.contains(ours));
        pairs
            .map(|(_, remote)| PrefixOf {
                ours,
                prefix: *remote,
            })
            .collect()
    }

    /// The same prefix at the other end of each of our addresses that a local prefix covers.
    fn own_of(&self, local: Prefix, remote: Prefix) -> Vec<PrefixOf> {
        let covered = self.addresses.iter().filter(|ours| local.contains(**ours));
        covered
            .map(|ours| PrefixOf {
                ours: *ours,
                prefix: remote,
            })
            .collect()
    }

    /// Takes plain packets between two prefixes. A prefix may be part of many pairs and goes with
    /// the last. What comes from the local prefix of one pair and goes to the remote prefix of another is taken
    /// too: the SPD decides. Only for our own addresses a pair has to cover both ends.
    ///
    /// # Errors
    ///
    /// A kernel that refuses an entry, as when the map is full; nothing has changed then.
    pub fn add_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), SteerError> {
        if let Some(count) = self.pairs.get_mut(&(local, remote)) {
            *count += 1;
            return Ok(());
        }
        let own = self.own_of(local, remote);
        let maps = &mut self.maps;
        maps.protected_local.add(&[local])?;
        if let Err(error) = maps.protected_remote.add(&[remote]) {
            maps.protected_local.remove(&[local])?;
            return Err(error);
        }
        if let Err(error) = maps.protected_own.add(&own) {
            maps.protected_local.remove(&[local])?;
            maps.protected_remote.remove(&[remote])?;
            return Err(error);
        }
        self.pairs.insert((local, remote), 1);
        Ok(())
    }

    /// Undoes one [`add_protected`](Self::add_protected).
    ///
    /// # Errors
    ///
    /// A kernel that refuses.
    pub fn remove_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), SteerError> {
        match self.pairs.get_mut(&(local, remote)) {
            None => return Ok(()),
            Some(count) if *count > 1 => {
                *count -= 1;
                return Ok(());
            }
            Some(_) => self.pairs.remove(&(local, remote)),
        };
        let own = self.own_of(local, remote);
        let maps = &mut self.maps;
        let outcomes = [
            maps.protected_local.remove(&[local]),
            maps.protected_remote.remove(&[remote]),
            maps.protected_own.remove(&own),
        ];
        outcomes.into_iter().collect()
    }

    /// Leaves plain packets from inside for this prefix to the kernel, though a protected pair may cover them: it is a
    /// network on an inside port, or the gateway itself. A protected remote prefix that is as long or longer counts more.
    ///
    /// The multicast groups of the local scope are inside from the start: a remote of 0.0.0.0/0 does not mean these.
    ///
    /// # Errors
    ///
    /// A kernel that refuses an entry, as when the map is full.
    pub fn add_inside(&mut self, prefix: Prefix) -> Result<(), SteerError> {
        self.maps.inside.add(&[prefix])
    }

    /// Undoes one [`add_inside`](Self::add_inside).
    ///
    /// # Errors
    ///
    /// A kernel that refuses.
    pub fn remove_inside(&mut self, prefix: Prefix) -> Result<(), SteerError> {
        self.maps.inside.remove(&[prefix])
    }

    /// How often each verdict was given since the program was loaded.
    ///
    /// # Errors
    ///
    /// A kernel that refuses to be read.
    pub fn counters(&self) -> Result<[(Verdict, u64); Verdict::COUNT], SteerError> {
        let mut counters = Verdict::ALL.map(|verdict| (verdict, 0));
        for (verdict, sum) in &mut counters {
            let key = (*verdict as u32).to_ne_bytes();
            let values = self
                .maps
                .steer_counters
                .lookup_percpu(&key, MapFlags::ANY)
                .map_err(|error| map_error("steer_counters", error))?
                .unwrap_or_default();
            *sum = values
                .iter()
                .filter_map(|value| value.first_chunk())
                .map(|value| u64::from_ne_bytes(*value))
                .sum();
        }
        Ok(counters)
    }

    /// Runs the program once on a packet as if the loopback interface (index 1) had received it
    /// on queue 0, and says what would become of it, and what it would look like.
    ///
    /// # Errors
    ///
    /// Missing capabilities.
    pub fn dry_run(&self, packet: &[u8]) -> Result<(Action, Vec<u8>), SteerError> {
        let mut room = packet.to_vec();
        let input = ProgramInput {
            data_in: Some(packet),
            data_out: Some(&mut room),
            repeat: 1,
            ..ProgramInput::default()
        };
        let output = self.program()?.test_run(input).map_err(|error| {
            let error = into_io(error);
            if error.kind() == io::ErrorKind::PermissionDenied {
                capabilities("running the XDP program")
            } else {
                load_error(error)
            }
        })?;
        let action = match output.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            4 => Action::Redirect,
            other => Action::Other(other),
        };
        let packet = output.data.unwrap_or_default().to_vec();
        Ok((action, packet))
    }

    fn program(&self) -> Result<ProgramMut<'_>, SteerError> {
        const NAME: &str = "esplanade_steer";
        let program = self
            .object
            .progs_mut()
            .find(|program| program.name() == NAME);
        program.ok_or(SteerError::Object { name: NAME })
    }

    /// The error that names the program on an interface, if there is one.
    fn refuse_occupied(&self, ifindex: u32, interface: &str) -> Result<(), SteerError> {
        let program = self.program()?;
        let query = Xdp::new(program.as_fd()).query(ifindex as i32, XdpFlags::NONE);
        let Ok(found) = query else {
            return Ok(()); // Let the attachment find out.
        };
        let ids = [
            found.drv_prog_id,
            found.skb_prog_id,
            found.hw_prog_id,
            found.prog_id,
        ];
        match ids.into_iter().find(|&id| id != 0) {
            None => Ok(()),
            Some(id) => Err(SteerError::Occupied {
                interface: interface.to_owned(),
                program: program_name(id),
                id,
            }),
        }
    }

    fn link(&self, ifindex: u32, mode: XdpFlags) -> io::Result<OwnedFd> {
        let program = self.program().map_err(io::Error::other)?;
        create_link(program.as_fd(), ifindex, mode)
    }
}

/// Attaches a program to an interface by a link that goes with its file descriptor.
#[allow(unsafe_code)]
fn create_link(program: BorrowedFd<'_>, ifindex: u32, mode: XdpFlags) -> io::Result<OwnedFd> {
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
        flags: mode.bits(),
        ..Default::default()
    };
    // SAFETY: the options live across the call and carry their size; the descriptor is open.
    let result = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_raw_fd(),
            ifindex as i32,
            libbpf_sys::BPF_XDP,
            &options,
        )
    };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// What libbpf says while it loads, kept for the error that may follow.
static LOG: Mutex<String> = Mutex::new(String::new());

fn interface_index(interface: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    netdevice::name_to_index(&any, interface).ok()
}

fn program_name(id: u32) -> String {
    ProgInfoIter::default()
        .find(|program| program.id == id)
        .map(|program| program.name.to_string_lossy().into_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "without a name".to_owned())
}

fn capabilities(what: &'static str) -> SteerError {
    SteerError::Capabilities {
        what,
        missing: MissingCapabilities::of_this_thread(),
    }
}

fn load_error(error: io::Error) -> SteerError {
    let log = std::mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner));
    match error.kind() {
        io::ErrorKind::PermissionDenied => capabilities("loading the XDP program"),
        io::ErrorKind::Unsupported => SteerError::KernelWithout {
            what: "it has no bpf() system call",
            error,
        },
        io::ErrorKind::InvalidInput if log.contains("'xsks'") => SteerError::KernelWithout {
            what: "it has no map of AF_XDP sockets",
            error,
        },
        _ => {
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(8)..].join("\n");
            SteerError::Load { error, log: tail }
        }
    }
}

/// libbpf-rs hides the kernel's error number and shows its kind.
fn into_io(error: libbpf_rs::Error) -> io::Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::NotFound => io::ErrorKind::NotFound,
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
        libbpf_rs::ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
        libbpf_rs::ErrorKind::Unsupported => io::ErrorKind::Unsupported,
        libbpf_rs::ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{error:#}"))
}

fn map_error(map: &'static str, error: libbpf_rs::Error) -> SteerError {
    SteerError::Map {
        map,
        error: into_io(error),
    }
}
