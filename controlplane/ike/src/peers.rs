//! The configured peers (the PAD of RFC 4301 4.4.3), who of them is wanted up, and when a failed
//! negotiation is tried again. There may be a hundred thousand: nothing here walks them all for a
//! message or a timer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::config::{Authentication, PeerConfig, Settings, TrafficSelector};
use crate::gateway::SaKey;
use crate::identity::Identity;
use crate::suite::IkeProposal;
use crate::wire::ts::narrow;

/// A peer and what is wanted of it.
pub(crate) struct Peer {
    pub(crate) config: Arc<PeerConfig>,
    /// It is to be up; failures are tried again.
    pub(crate) wanted: bool,
    /// The children that are to be up with it, by name: a list, since as a rule there is one.
    pub(crate) children: Vec<Arc<str>>,
    /// Where a peer without a fixed address was last known to be.
    pub(crate) last_remote: Option<SocketAddr>,
    /// Children that the peer has deleted, until they are tried again.
    pub(crate) deleted: BTreeSet<Arc<str>>,
    failures: u32,
    pub(crate) retry_at: Option<Instant>,
    /// The peer that it is an instance of.
    pub(crate) template: Option<Arc<str>>,
    /// Of a peer that comes from anywhere: its IKE SAs that stand, the oldest first, and from where.
    pub(crate) standing: Vec<(SaKey, SocketAddr)>,
    /// Addresses of a pool: of an instance those that it has, of a peer those that it gave us last.
    pub(crate) leased: Vec<IpAddr>,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig) -> Self {
        let config = Arc::new(config);
        let mut peer = Self {
            wanted: config.start,
            children: Vec::new(),
            last_remote: None,
            deleted: BTreeSet::new(),
            failures: 0,
            retry_at: None,
            template: None,
            standing: Vec::new(),
            leased: Vec::new(),
            config: config.clone(),
        };
        for child in config.children.iter().filter(|child| child.start) {
            peer.want(&child.name);
        }
        peer
    }

    /// This child is to be up with it, too.
    pub(crate) fn want(&mut self, child: &str) {
        if let Err(at) = self.children.binary_search_by(|other| (**other).cmp(child)) {
            self.children.reserve_exact(1);
            self.children.insert(at, child.into());
        }
    }

    /// Something failed: try again later, if that is wanted.
    pub(crate) fn failed(&mut self, now: Instant, settings: &Settings, jitter: Duration) {
        if self.wanted && self.config.keep_trying {
            let wait = settings
                .retry_initial
                .saturating_mul(1 << self.failures.min(16));
            self.failures += 1;
            self.retry_at = Some(now + wait.min(settings.retry_max) + jitter);
        } else {
            self.wanted &= self.config.start;
        }
    }

    /// Whether it is for us to bring this child up.
    pub(crate) fn starts(&self, child: &str) -> bool {
        self.children.iter().any(|wanted| **wanted == *child)
            && self.config.child(child).is_some_and(|c| c.start)
    }

    /// The next pause is the first again.
    pub(crate) fn relent(&mut self) {
        self.failures = 0;
    }

    /// All that was wanted stands.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.retry_at = None;
        self.wanted = self.config.start;
    }
}

/// What a stranger may be told before it has said who it is: what the peers have in common that it could be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Welcome {
    /// One of them, for the log.
    pub(crate) name: Arc<str>,
    /// The suites of all, without repetition.
    pub(crate) proposals: Vec<IkeProposal>,
    /// One of them pretends that there is a NAT.
    pub(crate) encapsulate: bool,
    /// Hashes of the keys of the authorities that they trust (RFC 7296 3.7).
    pub(crate) authorities: Vec<[u8; 20]>,
}

/// Authorities that one CERTREQ names.
const MAX_AUTHORITIES: usize = 32;

fn add<T: PartialEq + Copy>(list: &mut Vec<T>, more: &[T]) {
    for item in more {
        if !list.contains(item) {
            list.push(*item);
        }
    }
}

impl Welcome {
    pub(crate) fn of(peer: &PeerConfig) -> Self {
        let trusted = match &peer.authentication {
            Authentication::Certificate { trust, .. } | Authentication::EapClient { trust, .. } => {
                trust.authorities()
            }
            Authentication::Psk(_) | Authentication::EapServer { .. } => &[],
        };
        let hashes: Vec<_> = trusted
            .iter()
            .map(|authority| *authority.key_hash())
            .collect();
        let mut authorities = Vec::new();
        add(&mut authorities, &hashes);
        authorities.truncate(MAX_AUTHORITIES);
        Self {
            name: peer.name.clone(),
            proposals: peer.ike_proposals.clone(),
            encapsulate: peer.force_encapsulation,
            authorities,
        }
    }

    fn join(mut self, other: &Self) -> Self {
        add(&mut self.proposals, &other.proposals);
        add(&mut self.authorities, &other.authorities);
        self.authorities.truncate(MAX_AUTHORITIES);
        self.encapsulate |= other.encapsulate;
        self
    }
}

/// Those with the same addresses.
#[derive(Default)]
struct Group {
    names: BTreeSet<Arc<str>>,
    welcome: OnceLock<Welcome>,
}

/// All peers by name, with the indexes by which they are found.
#[derive(Default)]
pub(crate) struct Peers {
    all: BTreeMap<Arc<str>, Peer>,
    /// By our address and theirs, as configured.
    by_addresses: HashMap<(IpAddr, IpAddr), Group>,
    by_identity: HashMap<Identity, Vec<Arc<str>>>,
    /// Those whose identity has to be compared: distinguished names.
    compared: BTreeSet<Arc<str>>,
    /// Those that prove by EAP who they are: found by where they call, since IDi may be anything.
    eap: BTreeSet<Arc<str>>,
    by_retry: BTreeSet<(Instant, Arc<str>)>,
    /// Instances, the oldest first, by the peer that they are of and by who they are. They are in none of the indexes
    /// by which who calls is found.
    instances: BTreeMap<(Arc<str>, Identity), Vec<Arc<str>>>,
    /// How many instances there were.
    numbered: u32,
}

/// A peer that may be changed. When it is dropped, the indexes are right again.
pub(crate) struct PeerMut<'p> {
    peer: &'p mut Peer,
    before: Option<Instant>,
    by_retry: &'p mut BTreeSet<(Instant, Arc<str>)>,
}

impl Deref for PeerMut<'_> {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        self.peer
    }
}

impl DerefMut for PeerMut<'_> {
    fn deref_mut(&mut self) -> &mut Peer {
        self.peer
    }
}

impl Drop for PeerMut<'_> {
    fn drop(&mut self) {
        if self.before != self.peer.retry_at {
            let entry = |at| (at, self.peer.config.name.clone());
            if let Some(before) = self.before.map(entry) {
                self.by_retry.remove(&before);
            }
            self.by_retry.extend(self.peer.retry_at.map(entry));
        }
    }
}

/// A peer as it is for one identity, which has these addresses of a pool. We start nothing with who comes from
/// anywhere.
pub(crate) fn instance(
    template: &PeerConfig,
    name: Arc<str>,
    identity: Identity,
    leased: &[IpAddr],
) -> PeerConfig {
    let mut config = PeerConfig {
        name,
        remote_id: identity,
        start: false,
        keep_trying: false,
        ..template.clone()
    };
    for child in &mut config.children {
        child.start = false;
        if !leased.is_empty() {
            child.remote_ts = narrow(&selectors_of(leased), &child.remote_ts);
        }
    }
    config
}

/// All traffic of these addresses.
pub(crate) fn selectors_of(addresses: &[IpAddr]) -> Vec<TrafficSelector> {
    let one = |address: &IpAddr| TrafficSelector::range(*address, *address);
    addresses.iter().filter_map(one).collect()
}

fn matches(configured: IpAddr, actual: IpAddr) -> bool {
    configured == actual
        || (configured.is_unspecified() && configured.is_ipv4() == actual.is_ipv4())
}

/// What stands for every address of this one's family.
const fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

impl Peers {
    pub(crate) fn get(&self, name: &str) -> Option<&Peer> {
        self.all.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<PeerMut<'_>> {
        let peer = self.all.get_mut(name)?;
        Some(PeerMut {
            before: peer.retry_at,
            peer,
            by_retry: &mut self.by_retry,
        })
    }

    pub(crate) fn insert(&mut self, peer: Peer) {
        let config = peer.config.clone();
        let name = config.name.clone();
        self.remove(&name);
        let retry = peer.retry_at.map(|at| (at, name.clone()));
        self.by_retry.extend(retry);
        if let Some(template) = &peer.template {
            let key = (template.clone(), config.remote_id.clone());
            self.instances.entry(key).or_default().push(name.clone());
            self.all.insert(name, peer);
            return;
        }
        let addresses = (config.local, config.remote);
        let group = self.by_addresses.entry(addresses).or_default();
        group.names.insert(name.clone());
        group.welcome = OnceLock::new();
        if let Authentication::EapServer { .. } = config.authentication {
            self.eap.insert(name.clone());
        }
        match &config.remote_id {
            id if matches!(id, Identity::Dn(_)) || id.is_pattern() => {
                self.compared.insert(name.clone());
            }
            exact => {
                // As a rule there is one, and there are many of these lists.
                let only = || Vec::with_capacity(1);
                let names = self.by_identity.entry(exact.clone());
                names.or_insert_with(only).push(name.clone());
            }
        }
        self.all.insert(name, peer);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let Some(peer) = self.all.remove(name) else {
            return;
        };
        if let Some(at) = peer.retry_at {
            self.by_retry.remove(&(at, name.into()));
        }
        if let Some(template) = peer.template {
            let key = (template, peer.config.remote_id.clone());
            if let Some(names) = self.instances.get_mut(&key) {
                names.retain(|other| **other != *name);
                if names.is_empty() {
                    self.instances.remove(&key);
                }
            }
            return;
        }
        let addresses = (peer.config.local, peer.config.remote);
        if let Some(group) = self.by_addresses.get_mut(&addresses) {
            group.names.remove(name);
            group.welcome = OnceLock::new();
            if group.names.is_empty() {
                self.by_addresses.remove(&addresses);
            }
        }
        let identity = &peer.config.remote_id;
        if let Some(names) = self.by_identity.get_mut(identity) {
            names.retain(|other| **other != *name);
            if names.is_empty() {
                self.by_identity.remove(identity);
            }
        }
        self.compared.remove(name);
        self.eap.remove(name);
    }

    fn serving(&self, (local, remote): (IpAddr, IpAddr)) -> impl Iterator<Item = &Arc<PeerConfig>> {
        let peers = self.eap.iter().filter_map(|name| self.get(name));
        let peers = peers.map(|peer| &peer.config);
        peers.filter(move |p| matches(p.local, local) && matches(p.remote, remote))
    }

    /// A peer that proves by EAP who it is, calls from there, asks for `ours` and takes this suite.
    pub(crate) fn of_eap(
        &self,
        addresses: (IpAddr, IpAddr),
        ours: Option<&Identity>,
        suite: IkeProposal,
    ) -> Option<Arc<PeerConfig>> {
        self.serving(addresses)
            .filter(|p| ours.is_none_or(|ours| p.local_id == *ours))
            .find(|p| p.ike_proposals.contains(&suite))
            .cloned()
    }

    /// Of the peers that prove it in the same way as this one, the one that may be this identity: one that is named before
    /// one that is meant by a pattern.
    pub(crate) fn allowed(
        &self,
        addresses: (IpAddr, IpAddr),
        like: &PeerConfig,
        who: &Identity,
    ) -> Option<Arc<PeerConfig>> {
        self.serving(addresses)
            .filter(|p| p.remote_id.accepts(who) && p.local_id == like.local_id)
            .filter(|p| p.authentication == like.authentication)
            .min_by_key(|p| p.remote_id.is_pattern())
            .cloned()
    }

    /// The instances of a peer that are this identity, the oldest first.
    pub(crate) fn instances_of(&self, template: &Arc<str>, identity: &Identity) -> &[Arc<str>] {
        let names = self.instances.get(&(template.clone(), identity.clone()));
        names.map(Vec::as_slice).unwrap_or_default()
    }

    /// All instances of a peer.
    pub(crate) fn all_instances_of(&self, template: &str) -> Vec<Arc<str>> {
        let least = Identity::Ipv4(Ipv4Addr::UNSPECIFIED);
        let from = (Arc::<str>::from(template), least);
        self.instances
            .range(from..)
            .take_while(|((of, _), _)| **of == *template)
            .flat_map(|(_, names)| names)
            .cloned()
            .collect()
    }

    /// Makes an instance of a peer for an identity; `name` is that of one that an earlier life had.
    pub(crate) fn add_instance(
        &mut self,
        template: &PeerConfig,
        identity: Identity,
        name: Option<&str>,
    ) -> Arc<PeerConfig> {
        let before = name.and_then(|name| name.rsplit_once('#')?.1.parse().ok());
        self.numbered = match before {
            Some(number) => self.numbered.max(number),
            None => self.numbered.wrapping_add(1),
        };
        let name = match name {
            Some(name) => name.into(),
            None => format!("{}#{}", template.name, self.numbered).into(),
        };
        let config = instance(template, name, identity, &[]);
        let mut peer = Peer::new(config);
        peer.template = Some(template.name.clone());
        let config = peer.config.clone();
        self.insert(peer);
        config
    }

    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.all.keys().cloned().collect()
    }

    /// When the next failed negotiation is tried again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.by_retry.first().map(|&(at, _)| at)
    }

    /// The peers whose time has come to be tried again.
    pub(crate) fn due(&self, now: Instant) -> Vec<Arc<str>> {
        self.by_retry
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// What a stranger from this address is told; `None` if nobody may call from there. The peers with a
    /// fixed address come first.
    pub(crate) fn welcome(&self, local: IpAddr, remote: IpAddr) -> Option<Welcome> {
        [
            (local, remote),
            (any(local), remote),
            (local, any(remote)),
            (any(local), any(remote)),
        ]
        .iter()
        .filter_map(|addresses| self.by_addresses.get(addresses))
        .map(|group| {
            group.welcome.get_or_init(|| {
                let peers = group.names.iter().filter_map(|name| self.get(name));
                let each = peers.map(|peer| Welcome::of(&peer.config));
                each.reduce(|all, one| all.join(&one)).unwrap_or_default()
            })
        })
        .cloned()
        .reduce(|all, group| all.join(&group))
    }

    /// The peer that calls itself `theirs`, asks for `ours` and takes this suite; one with a fixed address
    /// before others.
    pub(crate) fn identified(
        &self,
        (local, remote): (IpAddr, IpAddr),
        theirs: &Identity,
        ours: Option<&Identity>,
        suite: IkeProposal,
    ) -> Option<Arc<PeerConfig>> {
        let equal = self.by_identity.get(theirs).into_iter().flatten();
        equal
            .chain(&self.compared)
            .filter_map(|name| self.get(name))
            .map(|peer| &peer.config)
            .filter(|p| matches(p.local, local) && matches(p.remote, remote))
            .filter(|p| p.remote_id.accepts(theirs))
            .filter(|p| ours.is_none_or(|ours| p.local_id == *ours))
            .filter(|p| p.ike_proposals.contains(&suite))
            .min_by_key(|p| {
                let eap = matches!(p.authentication, Authentication::EapServer { .. });
                (p.remote.is_unspecified(), p.local.is_unspecified(), eap)
            })
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Secret;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Box<PeerConfig>),
        Remove(usize),
        Retry(usize, Option<u64>),
    }

    const LOCAL: [&str; 3] = ["192.0.2.1", "192.0.2.2", "0.0.0.0"];
    const REMOTE: [&str; 4] = ["192.0.2.8", "192.0.2.9", "0.0.0.0", "::"];
    const IDENTITIES: [&str; 4] = [
        "a.example.org",
        "b.example.org",
        "O=Example, CN=*",
        "O=Example, CN=a",
    ];
    const SUITES: [&str; 2] = ["aes256gcm16-sha384-x25519", "aes128gcm16-sha256-x25519"];

    fn config() -> impl Strategy<Value = PeerConfig> {
        let numbers = (0..6_usize, 0..3_usize, 0..4_usize, 0..4_usize, 0..2_usize);
        numbers.prop_map(|(name, local, remote, identity, suite)| {
            let key = Secret::from(&b"a key"[..]);
            let (local, remote) = (
                LOCAL[local].parse().unwrap(),
                REMOTE[remote].parse().unwrap(),
            );
            let mut config = PeerConfig::new(&name.to_string(), local, remote, key);
            config.remote_id = IDENTITIES[identity].parse().unwrap();
            config.ike_proposals = vec![SUITES[suite].parse().unwrap()];
            config.force_encapsulation = name == 5;
            config
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => config().prop_map(|config| Step::Insert(Box::new(config))),
            1 => (0..6_usize).prop_map(Step::Remove),
            2 => (0..6_usize, proptest::option::of(0..9_u64)).prop_map(|(n, at)| Step::Retry(n, at)),
        ]
    }

    proptest! {
        /// The indexes find what a walk over all peers finds.
        #[test]
        fn nobody_is_lost_in_an_index(steps in proptest::collection::vec(step(), 0..30)) {
            let start = Instant::now();
            let mut peers = Peers::default();
            for step in steps {
                match step {
                    Step::Insert(config) => peers.insert(Peer::new(*config)),
                    Step::Remove(name) => peers.remove(&name.to_string()),
                    Step::Retry(name, at) => {
                        if let Some(mut peer) = peers.get_mut(&name.to_string()) {
                            peer.retry_at = at.map(|at| start + Duration::from_secs(at));
                        }
                    }
                }
                let all: Vec<&Peer> = peers.all.values().collect();
                let grouped: usize = peers.by_addresses.values().map(|group| group.names.len()).sum();
                let identified: usize = peers.by_identity.values().map(Vec::len).sum();
                prop_assert_eq!((grouped, identified + peers.compared.len()), (all.len(), all.len()));
                prop_assert_eq!(peers.by_retry.len(), all.iter().filter(|peer| peer.retry_at.is_some()).count());
                let retries = all.iter().filter_map(|peer| peer.retry_at);
                prop_assert_eq!(peers.poll_timeout(), retries.min());
                let now = start + Duration::from_secs(4);
                let mut due = peers.due(now);
                due.sort();
                let late = all.iter().filter(|peer| peer.retry_at.is_some_and(|at| at <= now));
                prop_assert_eq!(due, late.map(|peer| peer.config.name.clone()).collect::<Vec<Arc<str>>>());
                for (local, remote) in [(LOCAL[0], REMOTE[0]), (LOCAL[1], REMOTE[1]), (LOCAL[0], "198.51.100.7")] {
                    let addresses: (IpAddr, IpAddr) = (local.parse().unwrap(), remote.parse().unwrap());
                    let here = |p: &&&Peer| matches(p.config.local, addresses.0) && matches(p.config.remote, addresses.1);
                    let welcome = peers.welcome(addresses.0, addresses.1);
                    prop_assert_eq!(welcome.is_some(), all.iter().any(|p| here(&p)));
                    let welcome = welcome.unwrap_or_default();
                    for suite in SUITES {
                        let suite: IkeProposal = suite.parse().unwrap();
                        let takes = |p: &&&Peer| p.config.ike_proposals.contains(&suite);
                        prop_assert_eq!(
                            welcome.proposals.contains(&suite),
                            all.iter().filter(here).any(|p| takes(&p))
                        );
                        for identity in ["a.example.org", "c.example.org", "O=Example, CN=a", "O=Example, CN=b"] {
                            let theirs: Identity = identity.parse().unwrap();
                            let fits = |p: &&&Peer| p.config.remote_id.accepts(&theirs);
                            let vague = |p: &PeerConfig| (p.remote.is_unspecified(), p.local.is_unspecified());
                            let expected = all.iter().filter(here).filter(takes).filter(fits);
                            let found = peers.identified(addresses, &theirs, None, suite);
                            prop_assert_eq!(
                                found.as_deref().map(vague),
                                expected.map(|p| vague(&p.config)).min()
                            );
                            prop_assert!(found.is_none_or(|p| p.remote_id.accepts(&theirs) && p.ike_proposals.contains(&suite)));
                        }
                    }
                    let pretends = all.iter().filter(here).any(|p| p.config.force_encapsulation);
                    prop_assert_eq!(welcome.encapsulate, pretends);
                }
            }
        }
    }
}
