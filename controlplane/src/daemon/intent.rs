//! The configuration as the two machines want it: peers for the IKE endpoint, a setup for the dataplane.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use esplanade_channel::{self as channel, PortSetup, PortVlan, Setup, WorkerSetup};
use esplanade_config::{self as config, Config, Start};
use esplanade_ike::PoolConfig;
use esplanade_ike::config::{
    Authentication, ChildConfig, Identity, PeerConfig, Secret, TrafficSelector, WantedMode,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// What the dataplane is started with.
pub(super) fn setup(dataplane: &config::Dataplane) -> Setup {
    let role = |role| match role {
        config::Role::Inside => channel::Role::Inside,
        config::Role::Outside => channel::Role::Outside,
        config::Role::Host => channel::Role::Host,
    };
    Setup {
        workers: dataplane
            .workers
            .iter()
            .map(|core| WorkerSetup { core: *core })
            .collect(),
        ports: dataplane
            .ports
            .iter()
            .map(|port| PortSetup {
                interface: port.interface.clone(),
                vlan: port.vlan.as_ref().map(|vlan| PortVlan {
                    carrier: vlan.carrier.clone(),
                    id: vlan.id,
                }),
                role: role(port.role),
            })
            .collect(),
        polling: match dataplane.polling {
            config::Polling::Busy => channel::Polling::Busy,
            config::Polling::Adaptive => channel::Polling::Adaptive,
        },
        sa_capacity: dataplane.sa_capacity,
        engine: dataplane.engine.map(|engine| engine.to_string()),
        ring_frames: dataplane.ring_frames,
    }
}

/// The peers of the endpoint.
pub(super) fn peers(config: &Config) -> Vec<PeerConfig> {
    config.tunnels.iter().map(peer).collect()
}

/// The pools of the endpoint.
pub(super) fn pools(config: &Config) -> Vec<PoolConfig> {
    config
        .pools
        .iter()
        .map(|pool| self::pool(pool, config))
        .collect()
}

fn pool(pool: &config::Pool, config: &Config) -> PoolConfig {
    let prefix = |prefix: &config::Prefix| (prefix.address(), prefix.length());
    let tunnels = config.tunnels.iter();
    let users = tunnels.filter(|tunnel| tunnel.pool.as_ref() == Some(&pool.name));
    let ours = users
        .flat_map(|tunnel| &tunnel.children)
        .flat_map(|child| &child.local);
    let networks: BTreeSet<_> = match &pool.networks {
        Some(networks) => networks.iter().map(prefix).collect(),
        None => ours.map(|selector| prefix(&selector.prefix)).collect(),
    };
    // Where everything goes through the tunnel, there is nothing to tell.
    let all = networks.iter().any(|(_, length)| *length == 0);
    let fixed = pool.fixed.iter();
    PoolConfig {
        name: pool.name.as_str().into(),
        ranges: pool.ranges.clone(),
        dns: pool.dns.clone(),
        networks: networks.into_iter().filter(|_| !all).collect(),
        hold: pool.hold,
        fixed: fixed
            .map(|(who, address)| (identity(who), *address))
            .collect(),
    }
}

/// What stands for every address of the family of this one.
pub(super) fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn peer(tunnel: &config::Tunnel) -> PeerConfig {
    let children: Vec<ChildConfig> = tunnel.children.iter().map(child).collect();
    PeerConfig {
        name: tunnel.name.as_str().into(),
        local: tunnel.local,
        remote: tunnel.remote.unwrap_or(any(tunnel.local)),
        remote_port: tunnel.remote_port,
        local_id: identity(&tunnel.local_identity),
        remote_id: identity(&tunnel.remote_identity),
        authentication: authentication(tunnel),
        ike_proposals: tunnel.ike.proposals.clone(),
        start: tunnel.remote.is_some() && children.iter().any(|child| child.start),
        children,
        ike_lifetime: tunnel.ike.lifetime.rekey,
        dpd_delay: tunnel.ike.dpd_delay.unwrap_or(Duration::ZERO),
        fragment_size: tunnel.ike.fragment_size,
        force_encapsulation: false,
        keep_trying: tunnel.ike.keep_trying,
        uniqueness: tunnel.uniqueness,
        pool: tunnel.pool.as_deref().map(Into::into),
        request: tunnel.request,
    }
}

fn authentication(tunnel: &config::Tunnel) -> Authentication {
    match &tunnel.authentication {
        config::Authentication::Psk(psk) => Authentication::Psk(Secret::from(psk.expose())),
        config::Authentication::Certificate { ours, trust } => Authentication::Certificate {
            ours: ours.clone(),
            trust: trust.clone(),
        },
        config::Authentication::EapServer { ours, clients } => Authentication::EapServer {
            ours: ours.clone(),
            clients: clients.clone(),
        },
        config::Authentication::EapClient { trust, name, by } => {
            let ours = || tunnel.local_identity.to_string();
            Authentication::EapClient {
                trust: trust.clone(),
                name: name.clone().unwrap_or_else(ours),
                by: by.clone(),
            }
        }
    }
}

fn child(child: &config::Child) -> ChildConfig {
    ChildConfig {
        name: child.name.clone(),
        local_ts: child.local.iter().map(selector).collect(),
        remote_ts: child.remote.iter().map(selector).collect(),
        proposals: child.proposals.clone(),
        mode: match child.mode {
            config::Mode::Tunnel => WantedMode::Tunnel,
            config::Mode::Transport => WantedMode::Transport,
            config::Mode::TransportIfPossible => WantedMode::TransportIfPossible,
        },
        lifetime: child.lifetime.rekey,
        start: child.start == Start::AtOnce,
    }
}

/// A configured selector as IKE writes it.
pub(super) fn selector(selector: &config::Selector) -> TrafficSelector {
    TrafficSelector {
        protocol: selector.protocol,
        ports: selector.ports,
        first: selector.prefix.address(),
        last: selector.prefix.last(),
    }
}

fn identity(identity: &config::Identity) -> Identity {
    match identity {
        config::Identity::Address(address) => (*address).into(),
        config::Identity::Fqdn(name) => Identity::Fqdn(name.clone()),
        config::Identity::Dn(name) => Identity::Dn(name.clone()),
        config::Identity::Email(name) => Identity::Rfc822(name.clone()),
        config::Identity::KeyId(bytes) => Identity::KeyId(bytes.clone()),
    }
}
