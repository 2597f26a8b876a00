//! Commands as words: the first says which, the others carry a record.

use super::{RawAddress, RawMove, RawTransform, df, flag, get, mode, put, raw, sa_id};
use crate::{
    CaptureOrder, Command, CommandError, InboundSa, KeyMaterial, Label, Lifetime, MAX_SNAP,
    Original, OutboundSa, Policy, PolicyAction, PolicyId, PortId, Prefix, SaId, Selector, Share,
    Tfc, UdpPorts, WorkerId,
};
use std::net::IpAddr;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::{Zeroize, Zeroizing};

/// The words of a slot.
pub const COMMAND_WORDS: usize = 48;

/// The first word of a slot; 0 is a wiped one.
mod kind {
    pub const INSTALL_INBOUND: u64 = 1;
    pub const INSTALL_OUTBOUND: u64 = 2;
    pub const REMOVE_SA: u64 = 3;
    pub const SELECT_OUTBOUND: u64 = 4;
    pub const SET_POLICY: u64 = 5;
    pub const REMOVE_POLICY: u64 = 6;
    pub const SET_ROUTE: u64 = 7;
    pub const REMOVE_ROUTE: u64 = 8;
    pub const SET_NEIGHBOR: u64 = 9;
    pub const REMOVE_NEIGHBOR: u64 = 10;
    pub const SET_PORT: u64 = 11;
    pub const BEGIN_SYNC: u64 = 12;
    pub const END_SYNC: u64 = 13;
    pub const SET_LOCAL_ADDRESS: u64 = 14;
    pub const REMOVE_LOCAL_ADDRESS: u64 = 15;
    pub const SET_PROTECTED: u64 = 16;
    pub const REMOVE_PROTECTED: u64 = 17;
    pub const SET_INSIDE: u64 = 18;
    pub const REMOVE_INSIDE: u64 = 19;
    pub const START_CAPTURE: u64 = 20;
    pub const CAPTURE_GROUP: u64 = 21;
    pub const STOP_CAPTURE: u64 = 22;
    pub const MOVE_PEER: u64 = 23;
}

raw! {
    /// An SA of either direction; what the other direction alone has is zero.
    RawSa {
        policy: u64,
        soft_packets: u64,
        hard_packets: u64,
        soft_bytes: u64,
        hard_bytes: u64,
        sa: u32,
        spi: u32,
        window: u32,
        local: RawAddress,
        remote: RawAddress,
        original_local: RawAddress,
        original_remote: RawAddress,
        tfc: [u16; 3],
        owner: u16,
        path_mtu: u16,
        local_port: u16,
        remote_port: u16,
        transform: RawTransform,
        esn: u8,
        dscp: u8,
        df: u8,
        encapsulated: u8,
        key_length: u8,
        mode: u8,
        fragment_sealed: u8,
        follow: u8,
        key: [u8; KeyMaterial::CAPACITY],
        label: [u8; 64],
    }
}

raw! {
    /// An outbound SA and the policy that is to use it.
    RawSelect {
        policy: u64,
        dscps: u64,
        sa: u32,
        worker: u16,
        one_worker: u8,
        reserved: u8,
    }
}

raw! {
    /// An entry of the SPD.
    RawPolicy {
        id: u64,
        priority: u32,
        action: u8,
        any_protocol: u8,
        protocol: u8,
        reserved: u8,
        local_first: RawAddress,
        local_last: RawAddress,
        remote_first: RawAddress,
        remote_last: RawAddress,
        local_ports: [u16; 2],
        remote_ports: [u16; 2],
    }
}

raw! {
    /// A route.
    RawRoute {
        prefix: RawAddress,
        gateway: RawAddress,
        mtu: u16,
        length: u8,
        ours: u8,
        port: u8,
        unreachable: u8,
        reserved: [u8; 2],
    }
}

raw! {
    /// A neighbour.
    RawNeighbor { address: RawAddress, mac: [u8; 6], port: u8, reserved: u8, }
}

raw! {
    /// A port.
    RawPort {
        address: RawAddress,
        address_v6: RawAddress,
        mtu: u16,
        mac: [u8; 6],
        port: u8,
        mss_clamp: u8,
        udp_checksum: u8,
        partial_checksums: u8,
    }
}

raw! {
    /// Two prefixes, or one address in the first of them.
    RawPair {
        local: RawAddress,
        remote: RawAddress,
        local_length: u8,
        remote_length: u8,
        reserved: [u8; 2],
    }
}

raw! {
    /// A capture.
    RawCapture {
        until_ms: u64,
        rate: u32,
        snap: u16,
        drops_only: u8,
        chosen: u8,
    }
}

/// Stands for the inner header's DSCP; no DSCP has more than six bits.
const COPY_DSCP: u8 = 0xff;

const _: () = assert!(size_of::<RawSa>() <= (COMMAND_WORDS - 1) * 8);

impl Zeroize for RawSa {
    fn zeroize(&mut self) {
        self.as_mut_bytes().zeroize();
    }
}

/// Writes a command into the words of a slot, which were zero.
pub fn encode_command(command: &Command, words: &mut [u64; COMMAND_WORDS]) {
    words[0] = match command {
        Command::InstallInbound(sa) => {
            put(words, &*inbound(sa));
            kind::INSTALL_INBOUND
        }
        Command::InstallOutbound(sa) => {
            put(words, &*outbound(sa));
            kind::INSTALL_OUTBOUND
        }
        Command::RemoveSa { sa } => {
            words[1] = sa.value().into();
            kind::REMOVE_SA
        }
        Command::MovePeer { sa, remote, port } => {
            put(words, &RawMove::new(*sa, *remote, *port));
            kind::MOVE_PEER
        }
        Command::SelectOutbound { policy, sa, share } => {
            let record = RawSelect {
                policy: policy.0,
                dscps: share.dscps,
                sa: sa.value(),
                worker: share.worker.map_or(0, |worker| worker.0),
                one_worker: share.worker.is_some().into(),
                reserved: 0,
            };
            put(words, &record);
            kind::SELECT_OUTBOUND
        }
        Command::SetPolicy(policy) => {
            put(words, &raw_policy(policy));
            kind::SET_POLICY
        }
        Command::RemovePolicy { id } => {
            words[1] = id.0;
            kind::REMOVE_POLICY
        }
        Command::SetRoute {
            prefix,
            port,
            gateway,
            mtu,
            unreachable,
        } => {
            let record = RawRoute {
                prefix: RawAddress::new(prefix.address()),
                gateway: RawAddress::optional(*gateway),
                mtu: *mtu,
                length: prefix.length(),
                ours: port.is_some().into(),
                port: port.map_or(0, |port| port.0),
                unreachable: (*unreachable).into(),
                reserved: [0; 2],
            };
            put(words, &record);
            kind::SET_ROUTE
        }
        Command::RemoveRoute { prefix } => {
            put(words, &pair(*prefix, None));
            kind::REMOVE_ROUTE
        }
        Command::SetNeighbor { port, address, mac } => {
            put(words, &neighbor(*port, *address, *mac));
            kind::SET_NEIGHBOR
        }
        Command::RemoveNeighbor { port, address } => {
            put(words, &neighbor(*port, *address, [0; 6]));
            kind::REMOVE_NEIGHBOR
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
            let record = RawPort {
                address: RawAddress::optional(address.map(IpAddr::V4)),
                address_v6: RawAddress::optional(address_v6.map(IpAddr::V6)),
                mtu: *mtu,
                mac: *mac,
                port: port.0,
                mss_clamp: (*mss_clamp).into(),
                udp_checksum: (*udp_checksum).into(),
                partial_checksums: (*partial_checksums).into(),
            };
            put(words, &record);
            kind::SET_PORT
        }
        Command::BeginSync => kind::BEGIN_SYNC,
        Command::EndSync => kind::END_SYNC,
        Command::SetLocalAddress { address } => {
            put(words, &RawAddress::new(*address));
            kind::SET_LOCAL_ADDRESS
        }
        Command::RemoveLocalAddress { address } => {
            put(words, &RawAddress::new(*address));
            kind::REMOVE_LOCAL_ADDRESS
        }
        Command::SetProtected { local, remote } => {
            put(words, &pair(*local, Some(*remote)));
            kind::SET_PROTECTED
        }
        Command::RemoveProtected { local, remote } => {
            put(words, &pair(*local, Some(*remote)));
            kind::REMOVE_PROTECTED
        }
        Command::SetInside { prefix } => {
            put(words, &pair(*prefix, None));
            kind::SET_INSIDE
        }
        Command::RemoveInside { prefix } => {
            put(words, &pair(*prefix, None));
            kind::REMOVE_INSIDE
        }
        Command::StartCapture(order) => {
            let record = RawCapture {
                until_ms: order.until_ms,
                rate: order.rate,
                snap: order.snap,
                drops_only: order.drops_only.into(),
                chosen: order.chosen.into(),
            };
            put(words, &record);
            kind::START_CAPTURE
        }
        Command::CaptureGroup { policy } => {
            words[1] = policy.0;
            kind::CAPTURE_GROUP
        }
        Command::StopCapture => kind::STOP_CAPTURE,
    };
}

/// Makes a command of the words of a slot, whatever they are.
pub fn decode_command(words: &[u64; COMMAND_WORDS]) -> Result<Command, CommandError> {
    match words[0] {
        kind::INSTALL_INBOUND | kind::INSTALL_OUTBOUND => decode_install(words),
        _ => decode_other(words).ok_or(CommandError::Malformed),
    }
}

fn decode_install(words: &[u64; COMMAND_WORDS]) -> Result<Command, CommandError> {
    let raw: Zeroizing<RawSa> = get(words)
        .map(Zeroizing::new)
        .ok_or(CommandError::Malformed)?;
    let command = if words[0] == kind::INSTALL_INBOUND {
        decode_inbound(&raw).map(Command::InstallInbound)
    } else {
        decode_outbound(&raw).map(Command::InstallOutbound)
    };
    command.ok_or(CommandError::Malformed)
}

fn decode_other(words: &[u64; COMMAND_WORDS]) -> Option<Command> {
    Some(match words[0] {
        kind::REMOVE_SA => Command::RemoveSa {
            sa: sa_id(words[1])?,
        },
        kind::MOVE_PEER => {
            let (sa, remote, port) = get::<RawMove>(words)?.parts()?;
            Command::MovePeer { sa, remote, port }
        }
        kind::SELECT_OUTBOUND => {
            let raw: RawSelect = get(words)?;
            Command::SelectOutbound {
                policy: PolicyId(raw.policy),
                sa: SaId::new(raw.sa)?,
                share: Share {
                    worker: flag(raw.one_worker)?.then_some(WorkerId(raw.worker)),
                    dscps: Some(raw.dscps).filter(|dscps| *dscps != 0)?,
                },
            }
        }
        kind::SET_POLICY => Command::SetPolicy(decode_policy(&get(words)?)?),
        kind::REMOVE_POLICY => Command::RemovePolicy {
            id: PolicyId(words[1]),
        },
        kind::SET_ROUTE => decode_route(&get(words)?)?,
        kind::REMOVE_ROUTE => Command::RemoveRoute {
            prefix: get::<RawPair>(words)?.local()?,
        },
        kind::SET_NEIGHBOR => {
            let raw: RawNeighbor = get(words)?;
            Command::SetNeighbor {
                port: PortId(raw.port),
                address: raw.address.get()?,
                mac: raw.mac,
            }
        }
        kind::REMOVE_NEIGHBOR => {
            let raw: RawNeighbor = get(words)?;
            Command::RemoveNeighbor {
                port: PortId(raw.port),
                address: raw.address.get()?,
            }
        }
        kind::SET_PORT => decode_port(&get(words)?)?,
        kind::BEGIN_SYNC => Command::BeginSync,
        kind::END_SYNC => Command::EndSync,
        kind::SET_LOCAL_ADDRESS => Command::SetLocalAddress {
            address: get::<RawAddress>(words)?.get()?,
        },
        kind::REMOVE_LOCAL_ADDRESS => Command::RemoveLocalAddress {
            address: get::<RawAddress>(words)?.get()?,
        },
        kind::SET_PROTECTED => {
            let raw: RawPair = get(words)?;
            Command::SetProtected {
                local: raw.local()?,
                remote: raw.remote()?,
            }
        }
        kind::REMOVE_PROTECTED => {
            let raw: RawPair = get(words)?;
            Command::RemoveProtected {
                local: raw.local()?,
                remote: raw.remote()?,
            }
        }
        kind::SET_INSIDE => Command::SetInside {
            prefix: get::<RawPair>(words)?.local()?,
        },
        kind::START_CAPTURE => Command::StartCapture(decode_capture(&get(words)?)?),
        kind::CAPTURE_GROUP => Command::CaptureGroup {
            policy: PolicyId(words[1]),
        },
        kind::STOP_CAPTURE => Command::StopCapture,
        kind::REMOVE_INSIDE => Command::RemoveInside {
            prefix: get::<RawPair>(words)?.local()?,
        },
        _ => return None,
    })
}

fn inbound(sa: &InboundSa) -> Zeroizing<RawSa> {
    let mut raw = common(&sa.key, sa.lifetime, &sa.label, sa.encapsulation);
    raw.policy = sa.policy.0;
    raw.sa = sa.sa.value();
    raw.window = sa.window;
    raw.local = RawAddress::new(sa.local);
    raw.remote = RawAddress::new(sa.remote);
    raw.owner = sa.owner.0;
    raw.transform = RawTransform::new(sa.transform);
    raw.esn = sa.esn.into();
    raw.mode = sa.mode as u8;
    raw.follow = sa.follow.into();
    if let Some(Original { local, remote }) = sa.original {
        raw.original_local = RawAddress::new(local);
        raw.original_remote = RawAddress::new(remote);
    }
    raw
}

fn outbound(sa: &OutboundSa) -> Zeroizing<RawSa> {
    let mut raw = common(&sa.key, sa.lifetime, &sa.label, sa.encapsulation);
    raw.policy = sa.policy.0;
    raw.sa = sa.sa.value();
    raw.spi = sa.spi;
    raw.local = RawAddress::new(sa.local);
    raw.remote = RawAddress::new(sa.remote);
    raw.owner = sa.owner.0;
    raw.path_mtu = sa.path_mtu;
    raw.transform = RawTransform::new(sa.transform);
    raw.esn = sa.esn.into();
    raw.dscp = sa.dscp.unwrap_or(COPY_DSCP);
    raw.fragment_sealed = sa.fragment_sealed.into();
    raw.df = sa.df as u8;
    raw.mode = sa.mode as u8;
    raw.tfc = [sa.tfc.size, sa.tfc.multiple, sa.tfc.dummies];
    raw
}

fn common(
    key: &KeyMaterial,
    lifetime: Lifetime,
    label: &Label,
    encapsulation: Option<UdpPorts>,
) -> Zeroizing<RawSa> {
    let mut raw = Zeroizing::new(RawSa::new_zeroed());
    raw.soft_packets = lifetime.soft_packets;
    raw.hard_packets = lifetime.hard_packets;
    raw.soft_bytes = lifetime.soft_bytes;
    raw.hard_bytes = lifetime.hard_bytes;
    raw.encapsulated = encapsulation.is_some().into();
    raw.local_port = encapsulation.map_or(0, |ports| ports.local);
    raw.remote_port = encapsulation.map_or(0, |ports| ports.remote);
    let octets = key.as_bytes();
    for (to, from) in raw.key.iter_mut().zip(octets) {
        *to = *from;
    }
    raw.key_length = octets.len() as u8;
    raw.label = *label.bytes();
    raw
}

fn decode_inbound(raw: &RawSa) -> Option<InboundSa> {
    let (local, remote) = raw.addresses()?;
    Some(InboundSa {
        sa: SaId::new(raw.sa)?,
        policy: PolicyId(raw.policy),
        transform: raw.transform.get(),
        key: raw.key()?,
        esn: flag(raw.esn)?,
        window: raw.window,
        local,
        remote,
        encapsulation: raw.encapsulation()?,
        mode: mode(raw.mode)?,
        original: raw.original()?,
        follow: flag(raw.follow)?,
        owner: WorkerId(raw.owner),
        lifetime: raw.lifetime(),
        label: Label::from_bytes(raw.label)?,
    })
}

fn decode_outbound(raw: &RawSa) -> Option<OutboundSa> {
    let (local, remote) = raw.addresses()?;
    Some(OutboundSa {
        sa: SaId::new(raw.sa)?,
        // RFC 4303 2.1: the peer's SPI is not one of the reserved ones either.
        spi: SaId::new(raw.spi)?.value(),
        policy: PolicyId(raw.policy),
        transform: raw.transform.get(),
        key: raw.key()?,
        esn: flag(raw.esn)?,
        local,
        remote,
        encapsulation: raw.encapsulation()?,
        mode: mode(raw.mode)?,
        tfc: raw.tfc(),
        owner: WorkerId(raw.owner),
        lifetime: raw.lifetime(),
        dscp: match raw.dscp {
            COPY_DSCP => None,
            dscp if dscp < 64 => Some(dscp),
            _ => return None,
        },
        fragment_sealed: flag(raw.fragment_sealed)?,
        df: df(raw.df)?,
        path_mtu: raw.path_mtu,
        label: Label::from_bytes(raw.label)?,
    })
}

impl RawSa {
    fn key(&self) -> Option<KeyMaterial> {
        KeyMaterial::new(self.key.get(..usize::from(self.key_length))?)
    }

    /// Both of one family.
    fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let (local, remote) = (self.local.get()?, self.remote.get()?);
        (local.is_ipv4() == remote.is_ipv4()).then_some((local, remote))
    }

    fn encapsulation(&self) -> Option<Option<UdpPorts>> {
        let ports = UdpPorts {
            local: self.local_port,
            remote: self.remote_port,
        };
        flag(self.encapsulated).map(|encapsulated| encapsulated.then_some(ports))
    }

    /// Both, of the outer addresses' family, or none.
    fn original(&self) -> Option<Option<Original>> {
        let local = self.original_local.get_optional()?;
        let remote = self.original_remote.get_optional()?;
        match (local, remote) {
            (None, None) => Some(None),
            (Some(local), Some(remote)) if local.is_ipv4() == remote.is_ipv4() => {
                Some(Some(Original { local, remote }))
            }
            _ => None,
        }
    }

    fn tfc(&self) -> Tfc {
        let [size, multiple, dummies] = self.tfc;
        Tfc {
            size,
            multiple,
            dummies,
        }
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime {
            soft_packets: self.soft_packets,
            hard_packets: self.hard_packets,
            soft_bytes: self.soft_bytes,
            hard_bytes: self.hard_bytes,
        }
    }
}

fn raw_policy(policy: &Policy) -> RawPolicy {
    let Selector { first, last, ports } = policy.local;
    let remote = policy.remote;
    RawPolicy {
        id: policy.id.0,
        priority: policy.priority,
        action: policy.action as u8,
        any_protocol: policy.protocol.is_none().into(),
        protocol: policy.protocol.unwrap_or(0),
        reserved: 0,
        local_first: RawAddress::new(first),
        local_last: RawAddress::new(last),
        remote_first: RawAddress::new(remote.first),
        remote_last: RawAddress::new(remote.last),
        local_ports: [ports.0, ports.1],
        remote_ports: [remote.ports.0, remote.ports.1],
    }
}

fn decode_policy(raw: &RawPolicy) -> Option<Policy> {
    let action = [
        PolicyAction::Protect,
        PolicyAction::Bypass,
        PolicyAction::Discard,
    ];
    let local = decode_selector(raw.local_first, raw.local_last, raw.local_ports)?;
    let remote = decode_selector(raw.remote_first, raw.remote_last, raw.remote_ports)?;
    if local.first.is_ipv4() != remote.first.is_ipv4() {
        return None;
    }
    Some(Policy {
        id: PolicyId(raw.id),
        priority: raw.priority,
        action: action.into_iter().find(|a| *a as u8 == raw.action)?,
        local,
        remote,
        protocol: (!flag(raw.any_protocol)?).then_some(raw.protocol),
    })
}

fn decode_selector(first: RawAddress, last: RawAddress, ports: [u16; 2]) -> Option<Selector> {
    let (first, last, [low, high]) = (first.get()?, last.get()?, ports);
    let ordered = first.is_ipv4() == last.is_ipv4() && first <= last && low <= high;
    ordered.then_some(Selector {
        first,
        last,
        ports: (low, high),
    })
}

fn decode_route(raw: &RawRoute) -> Option<Command> {
    Some(Command::SetRoute {
        prefix: raw.prefix.prefix(raw.length)?,
        port: flag(raw.ours)?.then_some(PortId(raw.port)),
        gateway: raw.gateway.get_optional()?,
        mtu: raw.mtu,
        unreachable: flag(raw.unreachable)?,
    })
}

fn neighbor(port: PortId, address: IpAddr, mac: [u8; 6]) -> RawNeighbor {
    RawNeighbor {
        address: RawAddress::new(address),
        mac,
        port: port.0,
        reserved: 0,
    }
}

fn decode_port(raw: &RawPort) -> Option<Command> {
    let address = match raw.address.get_optional()? {
        None => None,
        Some(IpAddr::V4(address)) => Some(address),
        Some(IpAddr::V6(_)) => return None,
    };
    let address_v6 = match raw.address_v6.get_optional()? {
        None => None,
        Some(IpAddr::V6(address)) => Some(address),
        Some(IpAddr::V4(_)) => return None,
    };
    Some(Command::SetPort {
        port: PortId(raw.port),
        mac: raw.mac,
        mtu: raw.mtu,
        address,
        address_v6,
        mss_clamp: flag(raw.mss_clamp)?,
        udp_checksum: flag(raw.udp_checksum)?,
        partial_checksums: flag(raw.partial_checksums)?,
    })
}

fn pair(local: Prefix, remote: Option<Prefix>) -> RawPair {
    RawPair {
        local: RawAddress::new(local.address()),
        remote: RawAddress::optional(remote.map(Prefix::address)),
        local_length: local.length(),
        remote_length: remote.map_or(0, Prefix::length),
        reserved: [0; 2],
    }
}

impl RawPair {
    fn local(&self) -> Option<Prefix> {
        self.local.prefix(self.local_length)
    }

    fn remote(&self) -> Option<Prefix> {
        self.remote.prefix(self.remote_length)
    }
}

fn decode_capture(raw: &RawCapture) -> Option<CaptureOrder> {
    let order = CaptureOrder {
        until_ms: raw.until_ms,
        rate: raw.rate,
        snap: raw.snap,
        drops_only: flag(raw.drops_only)?,
        chosen: flag(raw.chosen)?,
    };
    ((1..=MAX_SNAP).contains(&order.snap) && order.rate > 0).then_some(order)
}
