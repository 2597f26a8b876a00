//! What changed between two configurations, for a reload: tunnels can change while everything runs, most of the
//! dataplane's settings cannot.

use std::{collections::HashMap, fmt};

use serde::Serialize;

use crate::{Config, Port, Tunnel};

/// What a reload would do. Empty if the two configurations mean the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Tunnels that are new, by name.
    pub added: Vec<String>,
    /// Tunnels that are gone, by name.
    pub removed: Vec<String>,
    /// Tunnels that are not what they were.
    pub changed: Vec<ChangedTunnel>,
    /// Whether pools are others.
    pub pools: bool,
    /// The guard, if it is switched.
    pub guard: Option<bool>,
    /// Ports whose `mss-clamp` is switched, by name.
    pub mss_clamp: Vec<String>,
    /// Ports whose `udp-checksum` is switched, by name.
    pub udp_checksum: Vec<String>,
    /// Ports whose `checksums` is another, by name.
    pub partial_checksums: Vec<String>,
    /// Keys of `dataplane` that take effect only when the dataplane is started again.
    pub needs_restart: Vec<String>,
}

/// A tunnel that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangedTunnel {
    /// Its name.
    pub name: String,
    /// The keys that differ: `remote`, `authentication`, `children/lan`, ...
    pub keys: Vec<String>,
}

impl Diff {
    /// Do the two configurations mean the same?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let mut lines = Vec::new();
        lines.extend(self.added.iter().map(|name| format!("tunnel {name} added")));
        lines.extend(
            self.removed
                .iter()
                .map(|name| format!("tunnel {name} removed")),
        );
        lines.extend(
            self.changed.iter().map(|tunnel| {
                format!("tunnel {} changed: {}", tunnel.name, tunnel.keys.join(", "))
            }),
        );
        lines.extend(self.pools.then(|| "pools changed".to_owned()));
        lines.extend(
            self.guard
                .map(|on| format!("guard switched {}", if on { "on" } else { "off" })),
        );
        lines.extend(
            self.mss_clamp
                .iter()
                .map(|port| format!("MSS clamp of port {port} switched")),
        );
        lines.extend(
            self.udp_checksum
                .iter()
                .map(|port| format!("UDP checksum of port {port} switched")),
        );
        lines.extend(
            self.partial_checksums
                .iter()
                .map(|port| format!("checksums of port {port} switched")),
        );
        if !self.needs_restart.is_empty() {
            lines.push(format!(
                "needs a restart of the dataplane: {}",
                self.needs_restart.join(", ")
            ));
        }
        f.write_str(&lines.join("\n"))
    }
}

/// What changed from `old` to `new`.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Diff {
    let before: HashMap<&str, &Tunnel> = old
        .tunnels
        .iter()
        .map(|tunnel| (tunnel.name.as_str(), tunnel))
        .collect();
    let after: HashMap<&str, &Tunnel> = new
        .tunnels
        .iter()
        .map(|tunnel| (tunnel.name.as_str(), tunnel))
        .collect();
    let mut diff = Diff {
        removed: names(
            old.tunnels
                .iter()
                .filter(|tunnel| !after.contains_key(tunnel.name.as_str())),
        ),
        added: names(
            new.tunnels
                .iter()
                .filter(|tunnel| !before.contains_key(tunnel.name.as_str())),
        ),
        pools: old.pools != new.pools,
        ..Diff::default()
    };
    for tunnel in &new.tunnels {
        match before.get(tunnel.name.as_str()) {
            Some(before) if *before != tunnel => {
                diff.changed.push(ChangedTunnel {
                    name: tunnel.name.clone(),
                    keys: changed_keys(before, tunnel),
                });
            }
            _ => {}
        }
    }
    diff_dataplane(old, new, &mut diff);
    diff
}

fn names<'t>(tunnels: impl Iterator<Item = &'t Tunnel>) -> Vec<String> {
    tunnels.map(|tunnel| tunnel.name.clone()).collect()
}

fn changed_keys(old: &Tunnel, new: &Tunnel) -> Vec<String> {
    let ends = |tunnel: &Tunnel| {
        (
            tunnel.remote,
            tunnel.remote_port,
            tunnel.remote_identity.clone(),
        )
    };
    let sections = [
        (
            "local",
            (old.local, &old.local_identity, old.request)
                != (new.local, &new.local_identity, new.request),
        ),
        ("remote", ends(old) != ends(new)),
        ("authentication", old.authentication != new.authentication),
        ("pool", old.pool != new.pool),
        ("unique", old.uniqueness != new.uniqueness),
        ("ike", old.ike != new.ike),
    ];
    let mut keys: Vec<String> = sections
        .iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| (*key).to_owned())
        .collect();
    for child in old.children.iter().chain(&new.children) {
        let find = |tunnel: &Tunnel| {
            tunnel
                .children
                .iter()
                .position(|other| other.name == child.name)
        };
        let (before, after) = (find(old), find(new));
        let same =
            before.and_then(|at| old.children.get(at)) == after.and_then(|at| new.children.get(at));
        let key = format!("children/{}", child.name);
        if !same && !keys.contains(&key) {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        keys.push("the order of the children".to_owned());
    }
    keys
}

fn diff_dataplane(old: &Config, new: &Config, diff: &mut Diff) {
    let (old, new) = (&old.dataplane, &new.dataplane);
    diff.guard = (old.guard != new.guard).then_some(new.guard);
    let wiring = |dataplane: &crate::Dataplane| -> Vec<_> {
        dataplane
            .ports
            .iter()
            .map(|port| {
                let vlan = port.vlan.clone();
                (port.name.clone(), port.interface.clone(), vlan, port.role)
            })
            .collect()
    };
    let same_wiring = wiring(old) == wiring(new);
    if same_wiring {
        let switched = |setting: fn(&Port) -> bool| {
            let pairs = old.ports.iter().zip(&new.ports);
            pairs
                .filter(|(old, new)| setting(old) != setting(new))
                .map(|(_, new)| new.name.clone())
                .collect()
        };
        diff.mss_clamp = switched(|port| port.mss_clamp);
        diff.udp_checksum = switched(|port| port.udp_checksum);
        diff.partial_checksums = switched(|port| port.partial_checksums);
    }
    let settings = [
        ("ports", !same_wiring),
        ("workers", old.workers != new.workers),
        ("polling", old.polling != new.polling),
        ("engine", old.engine != new.engine),
        ("sa-capacity", old.sa_capacity != new.sa_capacity),
        ("ring-frames", old.ring_frames != new.ring_frames),
    ];
    diff.needs_restart = settings
        .iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| (*key).to_owned())
        .collect();
}
