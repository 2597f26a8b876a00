//! The SPD and what XDP takes, computed from the configuration and from what peers narrowed (RFC 4301 4.4.1).
//!
//! A child has a *group* of policies, one for each pair of its selectors; the group's name depends on the child's name
//! only, so the outbound SA that serves it survives a restart of the control plane. Where a peer narrowed a child's
//! selectors (RFC 7296 2.9), the group is what was agreed, and a second group, behind it and without an SA, holds on to
//! what was configured: its packets are dropped and counted, never sent in clear.

use std::collections::{BTreeMap, BTreeSet};

use esplanade_channel::{Policy, PolicyAction, PolicyId, Prefix, Selector};
use esplanade_config::{Child, Config, Tunnel};
use esplanade_ike::config::TrafficSelector;

use super::{intent, picture::Picture};

/// A child by the names of its tunnel and its own.
pub(super) type ChildName = (String, String);

/// A child's selectors, ours and the peer's.
pub(super) type Selectors = (Vec<TrafficSelector>, Vec<TrafficSelector>);

/// What the dataplane calls a child, and the operator too.
pub(super) fn label(tunnel: &str, child: &str) -> String {
    format!("{tunnel}/{child}")
}

/// The first policy of a child's group, for which its SAs are installed.
pub(super) fn group(tunnel: &str, child: &str) -> PolicyId {
    name(&[tunnel.as_bytes(), b"/", child.as_bytes()])
}

/// The group that holds on to what a peer narrowed away.
fn remainder(tunnel: &str, child: &str) -> PolicyId {
    name(&[tunnel.as_bytes(), b"/", child.as_bytes(), b"/remainder"])
}

/// Whether a policy is one of a child's.
pub(super) fn belongs(policy: PolicyId, tunnel: &str, child: &str) -> bool {
    [group(tunnel, child), remainder(tunnel, child)]
        .iter()
        .any(|group| group.group() == policy.group())
}

/// FNV-1a, whose upper 56 bits name a group. It has to be the same in every life of every version.
fn name(parts: &[&[u8]]) -> PolicyId {
    let bytes = parts.iter().copied().flatten();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    PolicyId(hash << 8)
}

/// Adds the policies, local addresses and protected prefixes of a configuration to a picture.
pub(super) fn add(
    picture: &mut Picture,
    config: &Config,
    narrowed: &BTreeMap<ChildName, Selectors>,
) {
    for tunnel in &config.tunnels {
        picture.addresses.insert(tunnel.local.into());
        for child in &tunnel.children {
            let agreed = narrowed.get(&(tunnel.name.clone(), child.name.clone()));
            picture
                .policies
                .extend(child_policies(tunnel, child, agreed));
            picture.protected.extend(protected(child));
        }
    }
}

fn protected(child: &Child) -> BTreeSet<(Prefix, Prefix)> {
    let prefix = |selector: &esplanade_config::Selector| {
        Prefix::new(selector.prefix.address().into(), selector.prefix.length())
    };
    let pairs = child
        .local
        .iter()
        .flat_map(|local| child.remote.iter().map(move |remote| (local, remote)));
    pairs
        .filter_map(|(local, remote)| Some((prefix(local)?, prefix(remote)?)))
        .collect()
}

/// A child's selectors as IKE offers them.
pub(super) fn configured(child: &Child) -> Selectors {
    (
        child.local.iter().map(intent::selector).collect(),
        child.remote.iter().map(intent::selector).collect(),
    )
}

fn child_policies(
    tunnel: &Tunnel,
    child: &Child,
    agreed: Option<&Selectors>,
) -> BTreeMap<PolicyId, Policy> {
    let configured = configured(child);
    let own = group(&tunnel.name, &child.name);
    let priority = child.priority.saturating_mul(2);
    match agreed {
        Some(agreed) if *agreed != configured => {
            let rest = remainder(&tunnel.name, &child.name);
            let mut policies = pairs(own, priority, agreed);
            policies.extend(pairs(rest, priority.saturating_add(1), &configured));
            policies
        }
        _ => pairs(own, priority, &configured),
    }
}

/// One policy for each pair of selectors that can have traffic; at most the 256 that a group can number.
fn pairs(
    group: PolicyId,
    priority: u32,
    (local, remote): &Selectors,
) -> BTreeMap<PolicyId, Policy> {
    let pairs = local
        .iter()
        .flat_map(|local| remote.iter().map(move |remote| (local, remote)));
    let policies = pairs.filter_map(|(local, remote)| {
        let protocol = match (local.protocol, remote.protocol) {
            (Some(ours), Some(theirs)) if ours != theirs => return None,
            (ours, theirs) => ours.or(theirs),
        };
        Some((protocol, selector(local), selector(remote)))
    });
    (0..=u64::from(u8::MAX))
        .zip(policies)
        .map(|(number, (protocol, local, remote))| {
            let id = PolicyId(group.0 | number);
            let action = PolicyAction::Protect;
            (
                id,
                Policy {
                    id,
                    priority,
                    action,
                    local,
                    remote,
                    protocol,
                },
            )
        })
        .collect()
}

fn selector(selector: &TrafficSelector) -> Selector {
    // OPAQUE (RFC 7296 3.13.1: first above last) is for packets whose ports cannot be seen; the dataplane asks all.
    let (low, high) = selector.ports;
    Selector {
        first: selector.first,
        last: selector.last,
        ports: if low <= high {
            (low, high)
        } else {
            (0, u16::MAX)
        },
    }
}

#[cfg(test)]
#[path = "policies_tests.rs"]
mod tests;
