//! The SPD and what XDP takes, computed from the configuration and from what peers narrowed (RFC 4301 4.4.1).
//!
//! A *group* of policies, one for each pair of selectors, is what an SA serves, and its name is a digest of the child
//! and of the selectors that the peer agreed to. So an SA that a restarted control plane finds says itself what it was
//! agreed for, and under whatever configuration it carries that or nothing. The group of what is configured always
//! stands. Where a peer narrowed it (RFC 7296 2.9), the group of what was agreed stands in front of it, and packets
//! beyond are dropped and counted, never sent in clear.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aws_lc_rs::digest;
use esplanade_channel::{Policy, PolicyAction, PolicyId, Prefix, Selector};
use esplanade_config::{Child, Config, Identity, Tunnel};
use esplanade_ike::config::TrafficSelector;

use super::{children::find, intent, picture::Picture};

/// The bits of a policy's name that number it within its group.
pub(super) const NUMBERS: u64 = u8::MAX as u64;

/// A child by the names of its tunnel and its own.
pub(super) type ChildName = (String, String);

/// A child's selectors, ours and the peer's.
pub(super) type Selectors = (Vec<TrafficSelector>, Vec<TrafficSelector>);

/// What an SA was agreed for that is less than what its child is configured for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Narrowed {
    /// What its peer agreed to.
    pub(super) selectors: Selectors,
    /// Whether packets leave by it; until then, and once it is replaced, it only receives.
    pub(super) sends: bool,
}

/// The tunnel that a peer's name means: an instance of one that many may be has a number behind it.
pub(super) fn tunnel_of(peer: &str) -> &str {
    peer.split_once('#').map_or(peer, |(tunnel, _)| tunnel)
}

/// Whether a peer is what is meant: itself, or an instance of the tunnel that is meant.
pub(super) fn is_meant(peer: &str, meant: &str) -> bool {
    peer == meant || tunnel_of(peer) == meant
}

/// What the dataplane calls a child, and the operator too.
pub(super) fn label(tunnel: &str, child: &str) -> String {
    format!("{tunnel}/{child}")
}

/// The first policy of the group that SAs of a child are installed for, where the peer agreed to all that is
/// configured or to this.
///
/// It has to be the same in every life of every version: the first 56 bits of SHA-256 over
/// 1. the names of the tunnel and of the child,
/// 2. our identity and the peer's, each after the octet of its type (RFC 7296 3.5),
/// 3. the selectors that are configured, ours and the peer's,
/// 4. the selectors that were agreed, ours and the peer's.
///
/// A text comes after its length, selectors come sorted after their number; each is its protocol (256 for any), its
/// first and its last port, and its first and its last address as one of IPv6. Numbers are big-endian, lengths of
/// eight octets, the others of two. The mode is left out, for there is but one, the tunnel's; the outer addresses,
/// which an SA tells itself; and the pre-shared key, which nobody should be able to guess at with a digest.
pub(super) fn group(tunnel: &Tunnel, child: &Child, agreed: Option<&Selectors>) -> PolicyId {
    let mut digest = Digest::default();
    digest.text(tunnel.name.as_bytes());
    digest.text(child.name.as_bytes());
    digest.identity(&tunnel.local_identity);
    digest.identity(&tunnel.remote_identity);
    let configured = configured(child);
    for (local, remote) in [&configured, agreed.unwrap_or(&configured)] {
        digest.selectors(local);
        digest.selectors(remote);
    }
    digest.group()
}

/// The children of a configuration, by the groups of what they are configured for.
pub(super) fn groups(config: &Config) -> BTreeMap<u64, ChildName> {
    let children = config
        .tunnels
        .iter()
        .flat_map(|tunnel| tunnel.children.iter().map(move |child| (tunnel, child)));
    children
        .map(|(tunnel, child)| {
            let name = (tunnel.name.clone(), child.name.clone());
            (group(tunnel, child, None).group(), name)
        })
        .collect()
}

/// What a peer agreed to, unless it is all that is configured, in whatever order.
pub(super) fn narrowing(child: &Child, agreed: Selectors) -> Option<Selectors> {
    let configured = configured(child);
    let all = canonical(&agreed.0) == canonical(&configured.0)
        && canonical(&agreed.1) == canonical(&configured.1);
    (!all).then_some(agreed)
}

/// A selector as it is digested.
type Canonical = [u8; 2 * 3 + 2 * 16];

fn canonical(selectors: &[TrafficSelector]) -> Vec<Canonical> {
    let mut list: Vec<Canonical> = selectors.iter().map(canonical_selector).collect();
    list.sort_unstable();
    list
}

fn canonical_selector(selector: &TrafficSelector) -> Canonical {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let protocol = selector.protocol.map_or(256, u16::from);
    let numbers = [protocol, selector.ports.0, selector.ports.1].map(u16::to_be_bytes);
    let addresses = [address(selector.first), address(selector.last)];
    let octets = numbers
        .as_flattened()
        .iter()
        .chain(addresses.as_flattened());
    let mut canonical = [0; size_of::<Canonical>()];
    for (to, from) in canonical.iter_mut().zip(octets) {
        *to = *from;
    }
    canonical
}

/// SHA-256 over what [`group`] says.
struct Digest(digest::Context);

impl Default for Digest {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Digest {
    fn octets(&mut self, octets: &[u8]) {
        self.0.update(octets);
    }

    fn text(&mut self, text: &[u8]) {
        self.octets(&(text.len() as u64).to_be_bytes());
        self.octets(text);
    }

    fn identity(&mut self, identity: &Identity) {
        let mut typed = |kind: u8, data: &[u8]| {
            self.octets(&[kind]);
            self.text(data);
        };
        match identity {
            Identity::Address(IpAddr::V4(address)) => typed(1, &address.octets()),
            Identity::Fqdn(name) => typed(2, name.as_bytes()),
            Identity::Email(name) => typed(3, name.as_bytes()),
            Identity::Address(IpAddr::V6(address)) => typed(5, &address.octets()),
            Identity::Dn(name) => typed(9, name.der()),
            Identity::KeyId(octets) => typed(11, octets),
        }
    }

    fn selectors(&mut self, selectors: &[TrafficSelector]) {
        let list = canonical(selectors);
        self.octets(&(list.len() as u64).to_be_bytes());
        self.octets(list.as_flattened());
    }

    fn group(self) -> PolicyId {
        let digest = self.0.finish();
        let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
        PolicyId(u64::from_be_bytes(first) & !NUMBERS)
    }
}

/// Adds the policies, local addresses and protected prefixes of a configuration to a picture. `narrowed` are the SAs
/// that a peer narrowed, with the group that each was installed for.
pub(super) fn add<'n>(
    picture: &mut Picture,
    config: &Config,
    narrowed: impl Iterator<Item = (&'n ChildName, PolicyId, &'n Narrowed)>,
) {
    let mut by_name: BTreeMap<(&str, &str), Vec<(PolicyId, &Narrowed)>> = BTreeMap::new();
    for ((peer, child), policy, narrowed) in narrowed {
        let name = (tunnel_of(peer), child.as_str());
        by_name.entry(name).or_default().push((policy, narrowed));
    }
    for tunnel in &config.tunnels {
        picture.addresses.insert(tunnel.local);
        for child in &tunnel.children {
            let name = (tunnel.name.as_str(), child.name.as_str());
            let narrowed = by_name.remove(&name).unwrap_or_default();
            let policies = child_policies(tunnel, child, &narrowed);
            picture.policies.extend(policies);
            picture.protected.extend(protected(child));
        }
    }
}

fn protected(child: &Child) -> BTreeSet<(Prefix, Prefix)> {
    let prefix = |selector: &esplanade_config::Selector| {
        Prefix::new(selector.prefix.address(), selector.prefix.length())
    };
    child
        .pairs()
        .filter_map(|(local, remote)| Some((prefix(local)?, prefix(remote)?)))
        .collect()
}

/// A child's selectors as IKE offers them.
fn configured(child: &Child) -> Selectors {
    (
        child.local.iter().map(intent::selector).collect(),
        child.remote.iter().map(intent::selector).collect(),
    )
}

/// What is configured, and in front of it what a peer narrowed it to and packets leave by. What only receives comes
/// last: it is found by its group, never by a packet that leaves.
fn child_policies(
    tunnel: &Tunnel,
    child: &Child,
    narrowed: &[(PolicyId, &Narrowed)],
) -> BTreeMap<PolicyId, Policy> {
    let own = group(tunnel, child, None);
    let mut policies = pairs(own, priority(child, 1), &configured(child));
    for sends in [false, true] {
        for (policy, narrowed) in narrowed.iter().filter(|(_, one)| one.sends == sends) {
            policies.extend(narrowed_policies(tunnel, child, *policy, narrowed));
        }
    }
    policies
}

/// The policies of one group that peers narrowed a child to, where these are the SAs of that group.
pub(super) fn of_group<'n>(
    config: &Config,
    narrowed: impl Iterator<Item = (&'n ChildName, PolicyId, &'n Narrowed)>,
) -> BTreeMap<PolicyId, Policy> {
    let first = narrowed.max_by_key(|(_, _, narrowed)| narrowed.sends);
    let found = first.and_then(|((tunnel, child), policy, narrowed)| {
        let (tunnel, child) = find(config, tunnel, child)?;
        Some(narrowed_policies(tunnel, child, policy, narrowed))
    });
    found.unwrap_or_default()
}

/// What was agreed under another configuration of the child carries nothing under this one.
fn narrowed_policies(
    tunnel: &Tunnel,
    child: &Child,
    policy: PolicyId,
    narrowed: &Narrowed,
) -> BTreeMap<PolicyId, Policy> {
    if group(tunnel, child, Some(&narrowed.selectors)) != policy {
        return BTreeMap::new();
    }
    let place = if narrowed.sends { 0 } else { 2 };
    pairs(policy, priority(child, place), &narrowed.selectors)
}

/// A child's priority in the SPD, where its policies have three places.
fn priority(child: &Child, place: u32) -> u32 {
    child.priority.saturating_mul(3).saturating_add(place)
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
        if local.first.is_ipv4() != remote.first.is_ipv4() {
            return None;
        }
        let protocol = match (local.protocol, remote.protocol) {
            (Some(ours), Some(theirs)) if ours != theirs => return None,
            (ours, theirs) => ours.or(theirs),
        };
        Some((protocol, selector(local), selector(remote)))
    });
    (0..=NUMBERS)
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
