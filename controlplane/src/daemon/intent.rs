//! The configuration as the two machines want it: peers for the IKE endpoint, a setup for the dataplane.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use esplanade_channel::{self as channel, PortSetup, Setup, WorkerSetup};
use esplanade_config::{self as config, Config, Start};
use esplanade_ike::config::{
    AdditionalKex, AhIntegrity, Authentication, ChildConfig, ChildProposal, Encryption, Esp,
    EspEncryption, EspIntegrity, Identity, IkeProposal, Integrity, KeyExchangeMethod, PeerConfig,
    Prf, Protection, Secret, TrafficSelector, WantedMode,
};
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
        name: tunnel.name.clone(),
        local: tunnel.local,
        remote: tunnel.remote.unwrap_or(any(tunnel.local)),
        remote_port: tunnel.remote_port,
        local_id: identity(&tunnel.local_identity),
        remote_id: identity(&tunnel.remote_identity),
        authentication: authentication(&tunnel.authentication),
        ike_proposals: tunnel.ike.proposals.iter().map(ike_proposal).collect(),
        start: tunnel.remote.is_some() && children.iter().any(|child| child.start),
        children,
        ike_lifetime: tunnel.ike.lifetime.rekey,
        dpd_delay: tunnel.ike.dpd_delay.unwrap_or(Duration::ZERO),
        fragment_size: tunnel.ike.fragment_size,
        force_encapsulation: false,
        keep_trying: tunnel.ike.keep_trying,
    }
}

fn authentication(authentication: &config::Authentication) -> Authentication {
    match authentication {
        config::Authentication::Psk(psk) => Authentication::Psk(Secret::from(psk.expose())),
        config::Authentication::Certificate { ours, trust } => Authentication::Certificate {
            ours: ours.clone(),
            trust: trust.clone(),
        },
    }
}

fn child(child: &config::Child) -> ChildConfig {
    ChildConfig {
        name: child.name.clone(),
        local_ts: child.local.iter().map(selector).collect(),
        remote_ts: child.remote.iter().map(selector).collect(),
        proposals: child.proposals.iter().map(child_proposal).collect(),
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

fn ike_proposal(proposal: &config::IkeProposal) -> IkeProposal {
    IkeProposal {
        encryption: match proposal.encryption {
            config::Encryption::Aes128Gcm16 => Encryption::Aes128Gcm16,
            config::Encryption::Aes256Gcm16 => Encryption::Aes256Gcm16,
            config::Encryption::Aes128Cbc => Encryption::Aes128Cbc,
            config::Encryption::Aes256Cbc => Encryption::Aes256Cbc,
        },
        integrity: proposal.integrity.map(|integrity| match integrity {
            config::Integrity::HmacSha256 => Integrity::HmacSha256,
            config::Integrity::HmacSha384 => Integrity::HmacSha384,
            config::Integrity::HmacSha512 => Integrity::HmacSha512,
        }),
        prf: match proposal.prf {
            config::Prf::HmacSha256 => Prf::HmacSha256,
            config::Prf::HmacSha384 => Prf::HmacSha384,
            config::Prf::HmacSha512 => Prf::HmacSha512,
        },
        kex: method(proposal.key_exchange),
        additional: additional(&proposal.additional),
    }
}

fn child_proposal(proposal: &config::ChildProposal) -> ChildProposal {
    match proposal {
        config::ChildProposal::Esp(proposal) => ChildProposal {
            protection: Protection::Esp(Esp {
                encryption: esp_encryption(proposal.encryption),
                integrity: proposal.integrity.map(esp_integrity),
            }),
            kex: proposal.key_exchange.map(method),
            additional: additional(&proposal.additional),
            esn: proposal.esn,
        },
        config::ChildProposal::Ah(proposal) => ChildProposal {
            protection: Protection::Ah(ah_integrity(proposal.integrity)),
            kex: proposal.key_exchange.map(method),
            additional: additional(&proposal.additional),
            esn: proposal.esn,
        },
    }
}

fn esp_integrity(integrity: config::EspIntegrity) -> EspIntegrity {
    match integrity {
        config::EspIntegrity::HmacSha1 => EspIntegrity::HmacSha1,
        config::EspIntegrity::HmacSha256 => EspIntegrity::HmacSha256,
        config::EspIntegrity::HmacSha384 => EspIntegrity::HmacSha384,
        config::EspIntegrity::HmacSha512 => EspIntegrity::HmacSha512,
    }
}

fn ah_integrity(integrity: config::AhIntegrity) -> AhIntegrity {
    use config::{AhIntegrity as Configured, EspIntegrity as Hmac};
    match integrity {
        Configured::Hmac(Hmac::HmacSha1) => AhIntegrity::HmacSha1,
        Configured::Hmac(Hmac::HmacSha256) => AhIntegrity::HmacSha256,
        Configured::Hmac(Hmac::HmacSha384) => AhIntegrity::HmacSha384,
        Configured::Hmac(Hmac::HmacSha512) => AhIntegrity::HmacSha512,
        Configured::Aes128Gmac => AhIntegrity::Aes128Gmac,
        Configured::Aes192Gmac => AhIntegrity::Aes192Gmac,
        Configured::Aes256Gmac => AhIntegrity::Aes256Gmac,
    }
}

fn esp_encryption(encryption: config::EspEncryption) -> EspEncryption {
    use config::EspEncryption as Configured;
    match encryption {
        Configured::Aes128Gcm16 => EspEncryption::Aes128Gcm16,
        Configured::Aes192Gcm16 => EspEncryption::Aes192Gcm16,
        Configured::Aes256Gcm16 => EspEncryption::Aes256Gcm16,
        Configured::ChaCha20Poly1305 => EspEncryption::ChaCha20Poly1305,
        Configured::Aes128Cbc => EspEncryption::Aes128Cbc,
        Configured::Aes192Cbc => EspEncryption::Aes192Cbc,
        Configured::Aes256Cbc => EspEncryption::Aes256Cbc,
        Configured::Aes128Ccm16 => EspEncryption::Aes128Ccm16,
        Configured::Aes192Ccm16 => EspEncryption::Aes192Ccm16,
        Configured::Aes256Ccm16 => EspEncryption::Aes256Ccm16,
        Configured::Aes128Gcm16Iiv => EspEncryption::Aes128Gcm16Iiv,
        Configured::Aes192Gcm16Iiv => EspEncryption::Aes192Gcm16Iiv,
        Configured::Aes256Gcm16Iiv => EspEncryption::Aes256Gcm16Iiv,
        Configured::ChaCha20Poly1305Iiv => EspEncryption::ChaCha20Poly1305Iiv,
        Configured::Aes128Gmac => EspEncryption::Aes128Gmac,
        Configured::Aes192Gmac => EspEncryption::Aes192Gmac,
        Configured::Aes256Gmac => EspEncryption::Aes256Gmac,
        Configured::Null => EspEncryption::Null,
    }
}

fn method(method: config::KeyExchange) -> KeyExchangeMethod {
    match method {
        config::KeyExchange::X25519 => KeyExchangeMethod::X25519,
        config::KeyExchange::Ecp256 => KeyExchangeMethod::P256,
        config::KeyExchange::Ecp384 => KeyExchangeMethod::P384,
        config::KeyExchange::Ecp521 => KeyExchangeMethod::P521,
        config::KeyExchange::Modp2048 => KeyExchangeMethod::Modp2048,
        config::KeyExchange::Modp3072 => KeyExchangeMethod::Modp3072,
        config::KeyExchange::Modp4096 => KeyExchangeMethod::Modp4096,
        config::KeyExchange::MlKem512 => KeyExchangeMethod::MlKem512,
        config::KeyExchange::MlKem768 => KeyExchangeMethod::MlKem768,
        config::KeyExchange::MlKem1024 => KeyExchangeMethod::MlKem1024,
    }
}

fn additional(exchanges: &config::AdditionalKeyExchanges) -> AdditionalKex {
    let mut additional = AdditionalKex::default();
    for (place, exchange) in exchanges.iter() {
        additional.put(place, method(exchange));
    }
    additional
}
