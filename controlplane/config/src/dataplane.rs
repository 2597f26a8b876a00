//! Reads what the dataplane runs on: ports, cores and limits.

use crate::{
    model::{Dataplane, Engine, Polling, Port, Role, Vlan},
    node::Key,
    problem::{Mistake, Place, Problems},
    quantity,
    reader::Reader,
};

const MOST_PORTS: usize = 16;
const MOST_WORKERS: usize = 64;
/// IFNAMSIZ without its zero.
const LONGEST_INTERFACE: usize = 15;

/// What holds unless the file says otherwise. There is no default for the ports.
pub(crate) fn defaults() -> Dataplane {
    Dataplane {
        workers: vec![None],
        polling: Polling::Busy,
        ports: Vec::new(),
        guard: true,
        engine: None,
        sa_capacity: 4096,
        ring_frames: 4096,
    }
}

/// Reads the section. What is wrong in it is among the problems.
pub(crate) fn read(section: &Reader<'_>, problems: &mut Problems<'_>) -> Dataplane {
    let defaults = defaults();
    let number = |name, otherwise, problems: &mut Problems<'_>| {
        section
            .number(name, problems)
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or(otherwise)
    };
    let ring_frames = number("ring-frames", defaults.ring_frames, problems);
    if !ring_frames.is_power_of_two()
        && let Some(item) = section.item("ring-frames", problems)
    {
        let below = 1u32 << ring_frames.ilog2();
        let mistake = Mistake::new(format!("{ring_frames} is no power of two"));
        problems.error(
            item.place,
            mistake.help(format!(
                "the nearest are {below} and {}",
                below.saturating_mul(2)
            )),
        );
    }
    Dataplane {
        workers: read_workers(section, problems).unwrap_or(defaults.workers),
        polling: match section.word("polling", problems) {
            Some(0) => Polling::Busy,
            Some(_) => Polling::Adaptive,
            None => defaults.polling,
        },
        ports: read_ports(section, problems),
        guard: section.switch("guard", problems).unwrap_or(defaults.guard),
        engine: match section.word("engine", problems) {
            Some(1) => Some(Engine::Portable),
            Some(2) => Some(Engine::AwsLc),
            Some(3) => Some(Engine::Vaes256),
            Some(4) => Some(Engine::Vaes512),
            _ => defaults.engine,
        },
        sa_capacity: number("sa-capacity", defaults.sa_capacity, problems),
        ring_frames,
    }
}

fn read_ports(section: &Reader<'_>, problems: &mut Problems<'_>) -> Vec<Port> {
    let sections = section.named("ports", problems);
    let mut ports: Vec<Port> = Vec::new();
    // A port whose role could not be read may well have the one that seems missing.
    let mut roles_known = true;
    for (key, port) in &sections {
        let read = read_port(key, port, problems);
        if let (Some(read), Some(item)) = (&read, port.item("interface", problems))
            && let Some(other) = ports.iter().find(|other| meets(other, read))
        {
            let name = match &read.vlan {
                Some(vlan) if other.interface != read.interface => {
                    format!("VLAN {} of {}", vlan.id, vlan.carrier)
                }
                _ => format!("interface {}", read.interface),
            };
            let what = format!("the {name} is the port `{}` already", other.name);
            problems.error(
                item.place,
                Mistake::new(what)
                    .help("every port needs an interface of its own, or a VLAN of one"),
            );
        }
        roles_known &= read.is_some();
        ports.extend(read);
    }
    let tap = read_tap(section, &ports, problems);
    ports.extend(tap);
    if let Some(place) = section.place("ports") {
        check_ports(&ports, roles_known, place, problems);
    }
    ports
}

/// Reads the name of the TAP, which is no port's.
fn read_tap(section: &Reader<'_>, ports: &[Port], problems: &mut Problems<'_>) -> Option<Port> {
    let tap = section.value("tap", problems, interface)?;
    let port = ports.iter().find(|port| {
        let carrier = port.vlan.as_ref().map(|vlan| &vlan.carrier);
        port.interface == tap || carrier == Some(&tap)
    });
    if let (Some(port), Some(item)) = (port, section.item("tap", problems)) {
        let what = format!("the interface {tap} is the port `{}` already", port.name);
        let help = "the TAP is made by the dataplane: give it a name that no interface has";
        problems.error(item.place, Mistake::new(what).help(help));
    }
    Some(Port {
        name: "tap".to_owned(),
        interface: tap,
        vlan: None,
        role: Role::Host,
        mss_clamp: true,
        udp_checksum: true,
        partial_checksums: false,
    })
}

/// Whether two ports would get the same frames, or be the same interface to the kernel.
fn meets(one: &Port, other: &Port) -> bool {
    one.interface == other.interface || (one.vlan.is_some() && one.vlan == other.vlan)
}

fn read_port(key: &Key, port: &Reader<'_>, problems: &mut Problems<'_>) -> Option<Port> {
    let interface = port.value("interface", problems, interface);
    let role = port.word("role", problems);
    let mss_clamp = port.switch("mss-clamp", problems).unwrap_or(true);
    let udp_checksum = port.switch("udp-checksum", problems).unwrap_or(true);
    let (interface, vlan) = read_vlan(interface, port, problems)?;
    Some(Port {
        name: key.name.clone(),
        interface,
        vlan,
        role: if role? == 0 {
            Role::Inside
        } else {
            Role::Outside
        },
        mss_clamp,
        udp_checksum,
        partial_checksums: port.word("checksums", problems) == Some(1),
    })
}

/// The VLAN that a port is on its interface, and the kernel's interface for it.
fn read_vlan(
    carrier: Option<String>,
    port: &Reader<'_>,
    problems: &mut Problems<'_>,
) -> Option<(String, Option<Vlan>)> {
    let id = port
        .number("vlan", problems)
        .and_then(|id| u16::try_from(id).ok());
    let device = port.value("device", problems, interface);
    let carrier = carrier?;
    let Some(id) = id else {
        if port.item("vlan", problems).is_some() {
            return None;
        }
        if let Some(item) = port.item("device", problems) {
            let mistake = Mistake::new("a port that is no VLAN has no other device");
            let help = "name the VLAN, like `vlan: 100`, or the interface alone";
            problems.error(item.place, mistake.help(help));
        }
        return Some((carrier, None));
    };
    let usual = format!("{carrier}.{id}");
    if device.is_none()
        && usual.len() > LONGEST_INTERFACE
        && let Some(item) = port.item("vlan", problems)
    {
        let mistake = Mistake::new(format!("`{usual}` is too long for an interface"));
        let help = "say which interface the kernel has for this VLAN, like `device: vlan100`";
        problems.error(item.place, mistake.help(help));
    }
    let vlan = Vlan { carrier, id };
    Some((device.unwrap_or(usual), Some(vlan)))
}

fn check_ports(ports: &[Port], roles_known: bool, place: Place, problems: &mut Problems<'_>) {
    if ports.len() > MOST_PORTS {
        let mistake = Mistake::new(format!("{} ports are too many", ports.len()));
        problems.error(
            place,
            mistake.help(format!("a dataplane takes up to {MOST_PORTS} ports")),
        );
    }
    for (role, name) in [(Role::Inside, "inside"), (Role::Outside, "outside")] {
        if roles_known && !ports.iter().any(|port| port.role == role) {
            let mistake = Mistake::new(format!("no port has the role {name}"));
            problems.error(
                place,
                mistake.help(
                    "a gateway needs one port `role: inside` (its hosts) and one `role: outside` (its peers) at least",
                ),
            );
        }
    }
}

fn interface(words: &str) -> Result<String, Mistake> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '@');
    if words.is_empty() || words.len() > LONGEST_INTERFACE || words.contains(bad) {
        return Err(Mistake::new(format!("`{words}` is no name of an interface"))
            .help(format!("write it as `ip link` shows it, without `@` and what follows; {LONGEST_INTERFACE} bytes at most")));
    }
    Ok(words.to_owned())
}

fn read_workers(section: &Reader<'_>, problems: &mut Problems<'_>) -> Option<Vec<Option<u16>>> {
    let ranges = section.values("workers", problems, cores)?;
    if section.is_single("workers")
        && let [((first, last), place)] = ranges.as_slice()
        && first == last
    {
        problems.error(
            *place,
            Mistake::new(format!(
                "`workers: {first}` can mean the core {first} or a number of workers"
            ))
            .help(format!(
                "`workers: [{first}]` is one worker on core {first}; name the core of each worker"
            )),
        );
    }
    let mut cores: Vec<u16> = Vec::new();
    for ((first, last), place) in ranges {
        for core in first..=last {
            if cores.contains(&core) {
                let mistake = Mistake::new(format!("core {core} has a worker already"));
                problems.error(place, mistake.help("give every worker a core of its own"));
            } else {
                cores.push(core);
            }
            if cores.len() > MOST_WORKERS {
                let mistake = Mistake::new(format!("these are more than {MOST_WORKERS} workers"));
                problems.error(
                    place,
                    mistake.help(format!("{MOST_WORKERS} workers are the most")),
                );
                return None;
            }
        }
    }
    Some(cores.into_iter().map(Some).collect())
}

/// One core or a range of them, both ends included.
fn cores(words: &str) -> Result<(u16, u16), Mistake> {
    let (first, last) = words.split_once('-').unwrap_or((words, words));
    let core = |words| {
        quantity::number(words, 0, 4095)
            .ok()
            .and_then(|core| u16::try_from(core).ok())
    };
    match (core(first), core(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(Mistake::new(format!("`{words}` is no core"))
            .help("write the cores' numbers, like `[2, 3]` or `[2-5]`")),
    }
}
