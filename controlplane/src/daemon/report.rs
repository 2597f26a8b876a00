//! The gateway's state as the API reports it.

use std::{collections::BTreeMap, time::Instant};

use esplanade_channel::{
    self as channel, ControlChannel, Counter, Direction, PortCounter, PortId, SaRecord, SaState,
    Unit,
};
use esplanade_ike::{
    ChildSaView, IkeSaView,
    config::{Protection, TrafficSelector},
};

use super::{gateway::Gateway, links, totals};
use crate::api::{
    Child, ControlPlane, CounterRow, Dataplane, Guard, Lease, Port, Sa, Severity, Status, Totals,
    Tunnel, Worker,
};
use crate::netlink::Tables;

/// The state of both planes and every tunnel, and of the kernel's guard at this moment.
pub(super) async fn status(gateway: &mut Gateway, now: Instant) -> Status {
    let guard = guard(gateway).await;
    let tables = gateway.monitor.tables();
    let dataplane = gateway
        .dataplane
        .as_mut()
        .map(|dataplane| self::dataplane(dataplane.channel(), tables));
    let ike_sas: Vec<IkeSaView> = gateway.endpoint.ike_sas().collect();
    let child_sas: Vec<ChildSaView> = gateway.endpoint.child_sas().collect();
    let ledgers = totals::read(gateway);
    let by_peer = ByPeer::new(&ike_sas, &child_sas);
    let tunnels = &gateway.config.tunnels;
    Status {
        control_plane: ControlPlane {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.saturating_duration_since(gateway.started).as_secs(),
            guard,
            config: gateway.config_path.display().to_string(),
        },
        dataplane_trouble: dataplane
            .is_none()
            .then(|| gateway.dataplane_trouble.clone())
            .flatten(),
        dataplane,
        tunnels: tunnels
            .iter()
            .flat_map(|configured| {
                let trouble = gateway.troubles.get(&configured.name).cloned();
                with_instances(configured, &by_peer, &ledgers, trouble, now)
            })
            .collect(),
    }
}

/// IKE SAs and child SAs by the names of their peers.
#[derive(Default)]
struct ByPeer<'v>(BTreeMap<&'v str, (Vec<&'v IkeSaView>, Vec<&'v ChildSaView>)>);

impl<'v> ByPeer<'v> {
    fn new(ike_sas: &'v [IkeSaView], child_sas: &'v [ChildSaView]) -> Self {
        let mut all = Self::default();
        for sa in ike_sas {
            if let Some(peer) = &sa.peer {
                all.0.entry(peer).or_default().0.push(sa);
            }
        }
        for sa in child_sas {
            all.0.entry(&sa.peer).or_default().1.push(sa);
        }
        all
    }

    fn of(&self, peer: &str) -> (&[&'v IkeSaView], &[&'v ChildSaView]) {
        let found = self.0.get(peer);
        found.map_or((&[], &[]), |(ike, children)| (ike, children))
    }

    /// The names of a tunnel's instances, by their numbers.
    fn instances(&self, tunnel: &str) -> Vec<&'v str> {
        let from = format!("{tunnel}#");
        let names = self.0.keys().skip_while(|name| **name < from.as_str());
        let names = names.take_while(|name| name.starts_with(&from));
        let mut names: Vec<&str> = names.copied().collect();
        names.sort_by_key(|name| (name.len(), *name));
        names
    }
}

/// A tunnel, and behind it the instances of one that many may be.
fn with_instances(
    configured: &esplanade_config::Tunnel,
    by_peer: &ByPeer<'_>,
    ledgers: &totals::Ledgers,
    trouble: Option<String>,
    now: Instant,
) -> Vec<Tunnel> {
    let line = |name: &str, trouble| {
        let mut line = tunnel(configured, name, by_peer.of(name), trouble, now);
        for child in &mut line.children {
            child.totals = ledgers.child(name, &child.name);
            line.totals.add(&child.totals);
        }
        line
    };
    let instances: Vec<Tunnel> = by_peer
        .instances(&configured.name)
        .into_iter()
        .map(|name| line(name, None))
        .collect();
    let mut own = line(&configured.name, trouble);
    if configured.admits_many() {
        own.instances = Some(instances.len());
        if instances.iter().any(|one| one.state == "established") {
            own.state = "established".to_owned();
        }
        for one in &instances {
            own.totals.add(&one.totals);
        }
    }
    std::iter::once(own).chain(instances).collect()
}

pub(super) async fn guard(gateway: &Gateway) -> Guard {
    let on = gateway.config.dataplane.guard;
    match gateway.look_at_guard().await {
        Ok(standing) => Guard {
            on,
            missing: standing.missing,
            foreign: standing.foreign,
            trouble: None,
        },
        Err(error) => Guard {
            on,
            trouble: Some(error.to_string()),
            ..Guard::default()
        },
    }
}

/// The dataplane, with its interfaces as the kernel has them.
fn dataplane(channel: &ControlChannel, tables: &Tables) -> Dataplane {
    let counters = channel.counters();
    let mut owned = vec![0; channel.setup().workers.len()];
    for record in channel.sa_records() {
        if let Some(owned) = owned.get_mut(usize::from(record.owner.0)) {
            *owned += 1;
        }
    }
    let workers = channel.setup().workers.iter().zip(&owned).zip(0..);
    let ports = channel
        .setup()
        .ports
        .iter()
        .zip(&channel.facts().ports)
        .zip(0..);
    Dataplane {
        pid: channel.dataplane_pid(),
        epoch: channel.epoch().to_string(),
        engine: channel.facts().engine.clone(),
        workers: workers
            .map(|((setup, owned), worker)| Worker {
                worker,
                core: setup.core,
                sas: *owned,
            })
            .collect(),
        ports: ports
            .map(|((setup, facts), number)| {
                let count = |counter| counters.port_total(PortId(number), counter);
                Port {
                    interface: setup.interface.clone(),
                    role: setup.role.to_string(),
                    link: links::state(tables, &setup.interface),
                    mode: facts.mode.to_string(),
                    buffers: facts.copy.to_string(),
                    queues: facts.queues.into(),
                    rx_packets: count(PortCounter::RxPackets),
                    rx_bytes: count(PortCounter::RxBytes),
                    tx_packets: count(PortCounter::TxPackets),
                    tx_bytes: count(PortCounter::TxBytes),
                }
            })
            .collect(),
    }
}

fn tunnel(
    configured: &esplanade_config::Tunnel,
    name: &str,
    (ike_sas, child_sas): (&[&IkeSaView], &[&ChildSaView]),
    trouble: Option<String>,
    now: Instant,
) -> Tunnel {
    // The one that is up, or else the one that is on its way.
    let ike = ike_sas.iter().max_by_key(|sa| sa.established);
    let instance = name != configured.name;
    let identity = ike.and_then(|sa| sa.identity.as_ref()).filter(|_| instance);
    let established = ike.and_then(|sa| sa.established);
    let remote = ike.map(|sa| sa.path.remote.ip());
    let any = super::intent::any(configured.local);
    let configured_remote = configured.remote.unwrap_or(any);
    Tunnel {
        name: name.to_owned(),
        identity: identity.map(ToString::to_string),
        addresses: ike.map(|sa| sa.addresses.clone()).unwrap_or_default(),
        instances: None,
        state: ike.map_or("down", |sa| sa.state).to_owned(),
        local: configured.local,
        remote: remote.unwrap_or(configured_remote),
        suite: ike.and_then(|sa| sa.suite.clone()),
        established_s: established.map(|since| now.saturating_duration_since(since).as_secs()),
        children: configured
            .children
            .iter()
            .map(|child| self::child(child, child_sas, instance))
            .filter(|child| child.up || !instance)
            .collect(),
        totals: Totals::default(),
        trouble,
    }
}

/// A child as it is configured; one of an instance as it was agreed.
fn child(
    configured: &esplanade_config::Child,
    child_sas: &[&ChildSaView],
    instance: bool,
) -> Child {
    let own = |sa: &&&ChildSaView| sa.child == configured.name;
    let newest = child_sas
        .iter()
        .filter(own)
        .max_by_key(|sa| (sa.selected, sa.installed));
    let agreed = newest.filter(|_| instance);
    let texts = |list: &[esplanade_config::Selector], agreed: Option<&Vec<TrafficSelector>>| {
        let agreed = agreed.filter(|agreed| !agreed.is_empty());
        agreed.map_or_else(
            || list.iter().map(ToString::to_string).collect(),
            |agreed| agreed.iter().map(ToString::to_string).collect(),
        )
    };
    Child {
        name: configured.name.clone(),
        up: newest.is_some(),
        local: texts(&configured.local, agreed.map(|sa| &sa.local_ts)),
        remote: texts(&configured.remote, agreed.map(|sa| &sa.remote_ts)),
        spi_in: newest.map(|sa| format!("{:08x}", sa.inbound)),
        spi_out: newest.map(|sa| format!("{:08x}", sa.outbound)),
        totals: Totals::default(),
    }
}

/// Who has which address of which pool, by pool and address.
pub(super) fn leases(gateway: &Gateway, now: Instant) -> Vec<Lease> {
    let leases = gateway.endpoint.leases();
    leases
        .map(|lease| Lease {
            pool: lease.pool.to_string(),
            address: lease.address,
            identity: lease.identity.to_string(),
            client: lease.holder.as_ref().map(ToString::to_string),
            kept_s: lease
                .until
                .map(|until| until.saturating_duration_since(now).as_secs()),
        })
        .collect()
}

/// Every SA in the dataplane.
pub(super) fn sas(gateway: &mut Gateway) -> Vec<Sa> {
    let mut drops = totals::read(gateway).sas;
    let Some(dataplane) = &mut gateway.dataplane else {
        return Vec::new();
    };
    let now_ms = monotonic_ms();
    let mut list: Vec<Sa> = dataplane
        .channel()
        .sa_records()
        .map(|record| Sa {
            drops: drops.remove(&record.sa).unwrap_or_default(),
            ..sa(&record, now_ms)
        })
        .collect();
    list.sort_by(|one, other| (&one.label, &one.direction).cmp(&(&other.label, &other.direction)));
    list
}

fn sa(record: &SaRecord, now_ms: u64) -> Sa {
    let end = |address: std::net::IpAddr, port: Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let statistics = &record.statistics;
    Sa {
        label: record.label.to_string(),
        direction: match record.direction {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        }
        .to_owned(),
        spi: format!("{:08x}", record.spi),
        state: match record.state {
            SaState::Mature => "live",
            SaState::Dying => "near its end",
            SaState::Dead => "dead",
        }
        .to_owned(),
        local: end(record.local, record.encapsulation.map(|ports| ports.local)),
        remote: end(
            record.remote,
            record.encapsulation.map(|ports| ports.remote),
        ),
        selected: record.selected,
        worker: record.owner.0,
        protocol: if record.transform.is_authentication() {
            "ah"
        } else {
            "esp"
        }
        .to_owned(),
        mode: record.mode.to_string(),
        algorithm: algorithm(record.transform),
        packets: statistics.packets,
        bytes: statistics.bytes,
        sequence: statistics.sequence,
        window: record.window,
        esn: record.esn,
        replay_drops: statistics.replays,
        auth_failures: statistics.forged,
        drops: BTreeMap::new(),
        path_mtu: (statistics.path_mtu != 0).then_some(statistics.path_mtu),
        idle_ms: (statistics.last_used_ms != 0)
            .then(|| now_ms.saturating_sub(statistics.last_used_ms)),
    }
}

/// What an SA does to its packets, by the name that a proposal has for it.
fn algorithm(transform: channel::Transform) -> String {
    let channel::Transform {
        encryption,
        key_bits,
        integrity,
    } = transform;
    let known = Protection::from_numbers((encryption, key_bits, integrity));
    known.map_or_else(
        || format!("encryption({encryption}/{key_bits})-integrity({integrity})"),
        |known| known.to_string(),
    )
}

/// The clock that the dataplane stamps packets with.
pub(super) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// The clock that the dataplane stamps its records with.
pub(super) fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// Every counter of both planes.
pub(super) fn counters(gateway: &mut Gateway) -> Vec<CounterRow> {
    let mut rows: Vec<CounterRow> = Vec::new();
    if let Some(dataplane) = &mut gateway.dataplane {
        let counters = dataplane.channel().counters();
        rows.extend(Counter::ALL.iter().map(|counter| CounterRow {
            name: counter.name().to_owned(),
            plane: "dataplane".to_owned(),
            severity: severity(counter.severity()),
            unit: unit(counter.unit()),
            value: counters.total(*counter),
            meaning: counter.sentence().to_owned(),
        }));
        let ports: Vec<String> = dataplane
            .channel()
            .setup()
            .ports
            .iter()
            .map(|port| port.interface.clone())
            .collect();
        for (number, interface) in (0..).zip(ports) {
            rows.extend(PortCounter::ALL.iter().map(|counter| CounterRow {
                name: counter.name().to_owned(),
                plane: interface.clone(),
                severity: severity(counter.severity()),
                unit: unit(counter.unit()),
                value: counters.port_total(PortId(number), *counter),
                meaning: counter.sentence().to_owned(),
            }));
        }
    }
    let ike = gateway.endpoint.counters();
    rows.extend(
        esplanade_ike::Counter::ALL
            .iter()
            .map(|counter| CounterRow {
                name: counter.name().to_owned(),
                plane: "ike".to_owned(),
                severity: ike_severity(*counter),
                unit: "messages".to_owned(),
                value: ike.get(*counter),
                meaning: counter.sentence().to_owned(),
            }),
    );
    let balance = &gateway.children.balance;
    let of_owners = [
        (
            "OwnersUneven",
            Severity::Notice,
            balance.uneven,
            "Looks at the workers, one every five seconds, that found one with more than twice the traffic of another.",
        ),
        (
            "OwnersMoved",
            Severity::Info,
            balance.moved,
            "Child SAs rekeyed so that a worker with less to do gets them.",
        ),
    ];
    rows.extend(
        of_owners.map(|(name, severity, value, meaning)| CounterRow {
            name: name.to_owned(),
            plane: "controlplane".to_owned(),
            severity,
            unit: "times".to_owned(),
            value,
            meaning: meaning.to_owned(),
        }),
    );
    rows
}

fn severity(severity: channel::Severity) -> Severity {
    match severity {
        channel::Severity::Info => Severity::Info,
        channel::Severity::Notice => Severity::Notice,
        channel::Severity::Warning => Severity::Warning,
        channel::Severity::Error => Severity::Error,
    }
}

fn unit(unit: Unit) -> String {
    unit.to_string()
}

/// How much a counter of the endpoint matters; the endpoint knows no operators.
fn ike_severity(counter: esplanade_ike::Counter) -> Severity {
    use esplanade_ike::Counter;
    match counter {
        Counter::Received | Counter::Sent => Severity::Info,
        Counter::AuthenticationFailed
        | Counter::NoProposalChosen
        | Counter::SelectorsUnacceptable
        | Counter::NotAuthentic
        | Counter::Vanished
        | Counter::HalfOpenLimit
        | Counter::SaLimit => Severity::Warning,
        _ => Severity::Notice,
    }
}
