//! What a worker decides by, and the commands that change it: SAD, SPD and FIB, its own copy of each.

use super::transform;
use crate::fib::{Fib, PortFacts, Route, TableFull};
use esplanade_channel as channel;
use esplanade_channel::{Command, CommandError};
use esplanade_crypto::{
    Algorithm, EngineKind, Integrity, IntegrityKey, KeyError, OpeningKey, SealingKey,
};
use esplanade_ipsec::{
    ah,
    esp::Shape,
    id::SaId,
    peer_spis::PeerSpis,
    pmtu::PathMtus,
    replay::{MAX_WINDOW, ReplayWindow},
    sa::{
        Announced, ColdSa, DfPolicy, InboundSa, Lifetime, Mode, Opener, Original, OutboundSa,
        Protection, Sealer, Tfc, UdpPorts, Usage,
    },
    sad::{Sad, SadError, Whereabouts},
    selector::{AddressRange, PortRange, Selector},
    sequence::OutboundSequence,
    spd::{Action, Policy, PolicyId, Share, Spd, SpdFull, UnknownPolicy},
};
use esplanade_wire::{Dscp, ethernet::MacAddress, ip::Family, template::Template};
use std::net::IpAddr;

/// The policies that every worker has room for. Where there may be more SAs, there is one for each pair of them.
pub const MAX_POLICIES: usize = 16_384;
/// Flows whose policy is remembered: 8 MiB, in which 100,000 flows seldom meet more than one other.
const FLOWS: usize = 262_144;

/// A worker's tables.
#[derive(Debug)]
pub struct Tables {
    /// Inbound SAs by SPI.
    pub inbound: Sad<InboundSa, Opener>,
    /// Outbound SAs by identifier.
    pub outbound: Sad<OutboundSa, Sealer>,
    /// Policies.
    pub spd: Spd,
    /// Next hops.
    pub fib: Fib,
    /// Outbound SAs, whoever owns them, by what routers see of them.
    pub peer_spis: PeerSpis,
    /// What routers told of paths to peers.
    pub path_mtus: PathMtus,
    me: u16,
    engine: EngineKind,
}

impl Tables {
    /// Empty tables of worker `me`.
    pub fn new(me: u16, engine: EngineKind, ports: usize, sa_capacity: u32, seed: u64) -> Self {
        let policies = MAX_POLICIES.max(sa_capacity as usize / 2);
        Self {
            inbound: Sad::new(sa_capacity),
            outbound: Sad::new(sa_capacity),
            spd: Spd::new(policies, FLOWS, seed),
            fib: Fib::new(ports),
            peer_spis: PeerSpis::new(sa_capacity, seed),
            path_mtus: PathMtus::default(),
            me,
            engine,
        }
    }

    /// The worker whose tables these are.
    pub fn worker(&self) -> u16 {
        self.me
    }

    /// Obeys one command.
    ///
    /// # Errors
    ///
    /// Why not; the tables are as before.
    pub fn apply(&mut self, command: &Command) -> Result<(), CommandError> {
        match command {
            Command::InstallInbound(sa) => self.install_inbound(sa),
            Command::InstallOutbound(sa) => self.install_outbound(sa),
            Command::RemoveSa { sa } => {
                let sa = identifier(*sa)?;
                self.spd.deselect(sa.get());
                let known = self.inbound.remove(sa).is_some() | self.outbound.remove(sa).is_some();
                known.then_some(()).ok_or(CommandError::UnknownSa)
            }
            Command::MovePeer { sa, remote, port } => {
                self.move_peer(identifier(*sa)?, (*remote, *port))
            }
            Command::SelectOutbound { policy, sa, share } => {
                let sa = identifier(*sa)?;
                let Some(share) = self.share(*share) else {
                    return Ok(());
                };
                if let Whereabouts::Unknown { .. } = self.outbound.locate(sa) {
                    return Err(CommandError::UnknownSa);
                }
                self.spd
                    .select(PolicyId(policy.0), sa.get(), share)
                    .map_err(unknown_policy)
            }
            Command::SetPolicy(policy) => self.spd.set(convert_policy(policy)?).map_err(spd_full),
            Command::RemovePolicy { id } => self.spd.remove(PolicyId(id.0)).map_err(unknown_policy),
            Command::SetRoute {
                prefix,
                port,
                gateway,
                mtu,
                unreachable,
            } => {
                let route = Route {
                    port: port.map(|port| port.0),
                    gateway: *gateway,
                    mtu: *mtu,
                    unreachable: *unreachable,
                };
                self.fib
                    .set_route(prefix.address(), prefix.length(), route)
                    .map_err(fib_full)
            }
            Command::RemoveRoute { prefix } => {
                self.fib.remove_route(prefix.address(), prefix.length());
                Ok(())
            }
            Command::SetNeighbor { port, address, mac } => self
                .fib
                .set_neighbor(port.0, *address, MacAddress(*mac))
                .map_err(fib_full),
            Command::RemoveNeighbor { port, address } => {
                self.fib.remove_neighbor(port.0, *address);
                Ok(())
            }
            Command::SetPort {
                port,
                mac,
                mtu,
                address,
                address_v6,
                mss_clamp,
                udp_checksum,
                partial_checksums,
            } => {
                let facts = PortFacts {
                    mac: MacAddress(*mac),
                    mtu: *mtu,
                    ipv4: *address,
                    ipv6: *address_v6,
                    mss_clamp: *mss_clamp,
                    udp_checksum: *udp_checksum,
                    partial_checksums: *partial_checksums,
                };
                let known = self.fib.set_port(port.0, facts);
                known.then_some(()).ok_or(CommandError::NoSuchPort)
            }
            Command::BeginSync => {
                self.spd.begin_sync();
                self.fib.begin_sync();
                Ok(())
            }
            Command::EndSync => {
                self.spd.end_sync();
                self.fib.end_sync();
                Ok(())
            }
            // The worker's own business.
            Command::StartCapture(_) | Command::CaptureGroup { .. } | Command::StopCapture => {
                Ok(())
            }
            Command::SetLocalAddress { .. }
            | Command::RemoveLocalAddress { .. }
            | Command::SetProtected { .. }
            | Command::RemoveProtected { .. }
            | Command::SetInside { .. }
            | Command::RemoveInside { .. } => Err(CommandError::WrongRing),
        }
    }

    fn install_inbound(&mut self, sa: &channel::InboundSa) -> Result<(), CommandError> {
        let id = identifier(sa.sa)?;
        if self.outbound.locate(id) != (Whereabouts::Unknown { stale: false }) {
            return Err(CommandError::SlotTaken);
        }
        check_families(sa.local, sa.remote)?;
        if sa.window > MAX_WINDOW {
            return Err(CommandError::WindowTooLarge);
        }
        let record = if self.is_for_us(sa.owner.0, self.inbound.locate(id)) {
            let Keyed {
                key,
                protection,
                shape,
                ah,
            } = self.opener(sa)?;
            let lifetime = lifetime(&sa.lifetime);
            let record = InboundSa {
                window: ReplayWindow::new(sa.window, sa.esn),
                id,
                shape,
                ah,
                mode: mode(sa.mode),
                follows: sa.follow
                    && sa.window != 0
                    && sa.encapsulation.is_some()
                    && sa.mode == channel::Mode::Tunnel,
                local: sa.local,
                policy: PolicyId(sa.policy.0),
                exit_port: 0,
                expired: false,
                dirty: false,
                announced: Announced::default(),
                usage: Usage::new(&lifetime),
                used_ms: 0,
                cold: Box::new(ColdSa {
                    protection,
                    local: sa.local,
                    remote: sa.remote,
                    encapsulation: sa.encapsulation.map(udp_ports),
                    original: sa.original.map(|original| Original {
                        local: original.local,
                        remote: original.remote,
                    }),
                    lifetime,
                    label: *sa.label.bytes(),
                    replayed: 0,
                    forged: 0,
                    move_untold: false,
                }),
            };
            Some((record, key))
        } else {
            None
        };
        self.inbound
            .insert(id, sa.owner.0, record)
            .map_err(sad_refusal)?;
        Ok(())
    }

    fn install_outbound(&mut self, sa: &channel::OutboundSa) -> Result<(), CommandError> {
        let id = identifier(sa.sa)?;
        if self.inbound.locate(id) != (Whereabouts::Unknown { stale: false }) {
            return Err(CommandError::SlotTaken);
        }
        check_families(sa.local, sa.remote)?;
        let record = if self.is_for_us(sa.owner.0, self.outbound.locate(id)) {
            let Keyed {
                key,
                protection,
                shape,
                ah,
            } = self.sealer(sa)?;
            let lifetime = lifetime(&sa.lifetime);
            let record = OutboundSa {
                sequence: OutboundSequence::new(sa.esn),
                usage: Usage::new(&lifetime),
                local: sa.local,
                remote: sa.remote,
                policy: PolicyId(sa.policy.0),
                spi: sa.spi,
                id,
                shape,
                ah,
                mode: mode(sa.mode),
                tfc: tfc(sa.tfc),
                udp_checksum: false,
                template: Template::NONE,
                next_hop_generation: 0,
                next_hop: None,
                path_mtu: sa.path_mtu,
                inner_mtu: 0,
                extended: sa.esn,
                dscp: dscp(sa.dscp)?,
                fragment_sealed: sa.fragment_sealed,
                df: match sa.df {
                    channel::DfPolicy::Copy => DfPolicy::Copy,
                    channel::DfPolicy::Set => DfPolicy::Set,
                    channel::DfPolicy::Clear => DfPolicy::Clear,
                },
                expired: false,
                dirty: false,
                announced: Announced::default(),
                used_ms: 0,
                cold: Box::new(ColdSa {
                    protection,
                    local: sa.local,
                    remote: sa.remote,
                    encapsulation: sa.encapsulation.map(udp_ports),
                    original: None,
                    lifetime,
                    label: *sa.label.bytes(),
                    replayed: 0,
                    forged: 0,
                    move_untold: false,
                }),
            };
            Some((record, key))
        } else {
            None
        };
        let new = self
            .outbound
            .insert(id, sa.owner.0, record)
            .map_err(sad_refusal)?;
        if new {
            let sas = &self.outbound;
            let alive = |id| !matches!(sas.locate(id), Whereabouts::Unknown { .. });
            self.peer_spis.insert(sa.remote, sa.spi, id, alive);
        }
        Ok(())
    }

    /// What an inbound SA opens packets with.
    fn opener(&self, sa: &channel::InboundSa) -> Result<Keyed<Opener>, CommandError> {
        if sa.transform.is_authentication() {
            let (key, integrity, shape) = self.authenticator(sa.transform, &sa.key, sa.local)?;
            return Ok(Keyed::ah(Opener::Ah(key), integrity, shape));
        }
        let algorithm = transform::algorithm(sa.transform).ok_or(CommandError::NoSuchTransform)?;
        let engine = self.engine.or_best_for(algorithm);
        let key = OpeningKey::new(engine, algorithm, sa.key.as_bytes()).map_err(key_refusal)?;
        let shape = esp_shape(algorithm, sa.local, sa.encapsulation);
        Ok(Keyed::esp(Opener::Esp(key), algorithm, shape))
    }

    /// What an outbound SA seals packets with.
    fn sealer(&self, sa: &channel::OutboundSa) -> Result<Keyed<Sealer>, CommandError> {
        if sa.transform.is_authentication() {
            let (key, integrity, shape) = self.authenticator(sa.transform, &sa.key, sa.local)?;
            return Ok(Keyed::ah(Sealer::Ah(key), integrity, shape));
        }
        let algorithm = transform::algorithm(sa.transform).ok_or(CommandError::NoSuchTransform)?;
        let engine = self.engine.or_best_for(algorithm);
        let key = SealingKey::new(engine, algorithm, sa.key.as_bytes()).map_err(key_refusal)?;
        let shape = esp_shape(algorithm, sa.local, sa.encapsulation);
        Ok(Keyed::esp(Sealer::Esp(key), algorithm, shape))
    }

    /// The key of an SA of AH, and how its headers are laid out in the outer address's family.
    fn authenticator(
        &self,
        transform: channel::Transform,
        key: &channel::KeyMaterial,
        local: IpAddr,
    ) -> Result<(Box<IntegrityKey>, Integrity, ah::Shape), CommandError> {
        let integrity = transform::integrity(transform).ok_or(CommandError::NoSuchTransform)?;
        let key = IntegrityKey::new(self.engine, integrity, key.as_bytes()).map_err(key_refusal)?;
        let shape = ah::Shape::new(integrity, local.is_ipv6());
        Ok((Box::new(key), integrity, shape))
    }

    /// What a share is to this worker; `None` for another worker's.
    pub fn share(&self, share: channel::Share) -> Option<Share> {
        let own = match share.worker {
            None => false,
            Some(worker) if worker.0 == self.me => true,
            Some(_) => return None,
        };
        Some(Share {
            own,
            dscps: share.dscps,
        })
    }

    /// Whether an SA is new and ours, so that its key is of use here.
    fn is_for_us(&self, owner: u16, whereabouts: Whereabouts) -> bool {
        owner == self.me && !whereabouts.is_here()
    }
}

/// A key, and what an SA's packets are like with it.
struct Keyed<K> {
    key: K,
    protection: Protection,
    shape: Shape,
    ah: Option<ah::Shape>,
}

impl<K> Keyed<K> {
    fn esp(key: K, algorithm: Algorithm, shape: Shape) -> Self {
        Self {
            key,
            protection: Protection::Esp(algorithm),
            shape,
            ah: None,
        }
    }

    fn ah(key: K, integrity: Integrity, shape: ah::Shape) -> Self {
        Self {
            key,
            protection: Protection::Ah(integrity),
            shape: Shape::NONE,
            ah: Some(shape),
        }
    }
}

fn mode(mode: channel::Mode) -> Mode {
    match mode {
        channel::Mode::Tunnel => Mode::Tunnel,
        channel::Mode::Transport => Mode::Transport,
    }
}

/// Six bits, or those of each packet.
fn dscp(dscp: Option<u8>) -> Result<Option<Dscp>, CommandError> {
    let fixed = dscp.map(|dscp| Dscp::new(dscp).ok_or(CommandError::Malformed));
    fixed.transpose()
}

fn tfc(tfc: channel::Tfc) -> Tfc {
    Tfc {
        size: tfc.size,
        multiple: tfc.multiple,
        dummies: tfc.dummies,
    }
}

fn identifier(sa: channel::SaId) -> Result<SaId, CommandError> {
    SaId::new(sa.value()).ok_or(CommandError::Malformed)
}

/// Both outer addresses are of one family.
fn check_families(local: IpAddr, remote: IpAddr) -> Result<(), CommandError> {
    let same = Family::of(local) == Family::of(remote);
    same.then_some(()).ok_or(CommandError::AddressFamily)
}

fn esp_shape(
    algorithm: Algorithm,
    local: IpAddr,
    encapsulation: Option<channel::UdpPorts>,
) -> Shape {
    Shape::new(algorithm, Family::of(local), encapsulation.is_some())
}

fn key_refusal(error: KeyError) -> CommandError {
    match error {
        KeyError::Length { .. } => CommandError::KeyLength,
        KeyError::Refused { .. } => CommandError::NoSuchTransform,
    }
}

fn udp_ports(ports: channel::UdpPorts) -> UdpPorts {
    UdpPorts {
        local: ports.local,
        remote: ports.remote,
    }
}

fn lifetime(lifetime: &channel::Lifetime) -> Lifetime {
    Lifetime {
        soft_packets: lifetime.soft_packets,
        hard_packets: lifetime.hard_packets,
        soft_bytes: lifetime.soft_bytes,
        hard_bytes: lifetime.hard_bytes,
    }
}

fn convert_policy(policy: &channel::Policy) -> Result<Policy, CommandError> {
    let addresses = |side: &channel::Selector| AddressRange::new(side.first, side.last);
    let ports = |side: &channel::Selector| PortRange::new(side.ports.0, side.ports.1);
    let selector = || {
        Some(Selector {
            local: addresses(&policy.local)?,
            remote: addresses(&policy.remote)?,
            local_ports: ports(&policy.local)?,
            remote_ports: ports(&policy.remote)?,
            protocol: policy.protocol,
        })
    };
    Ok(Policy {
        id: PolicyId(policy.id.0),
        priority: policy.priority,
        action: match policy.action {
            channel::PolicyAction::Protect => Action::Protect,
            channel::PolicyAction::Bypass => Action::Bypass,
            channel::PolicyAction::Discard => Action::Discard,
        },
        selector: selector().ok_or(CommandError::Malformed)?,
    })
}

fn sad_refusal(error: SadError) -> CommandError {
    match error {
        SadError::NoSuchSlot { .. } => CommandError::NoSuchSlot,
        SadError::Taken { .. } => CommandError::SlotTaken,
    }
}

fn spd_full(_: SpdFull) -> CommandError {
    CommandError::TableFull
}

fn fib_full(_: TableFull) -> CommandError {
    CommandError::TableFull
}

fn unknown_policy(_: UnknownPolicy) -> CommandError {
    CommandError::UnknownPolicy
}
