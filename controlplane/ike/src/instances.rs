//! Peers that many may be at a time: each identity that has proved itself is an *instance* of the peer, with a name, IKE
//! SAs and child SAs of its own. Here is decided which instance who calls is, and whether it may be one more.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::config::{PeerConfig, Uniqueness};
use crate::error::Refusal;
use crate::gateway::{Gateway, SaKey, Signal};
use crate::identity::Identity;
use crate::sa::{IkeSa, Task};
use crate::wire::configuration::{Given, Wish};

impl Gateway {
    /// The peer as it is for who has just proved to be `identity`, and calls from here. `first` is what
    /// INITIAL_CONTACT says: that it knows of no other IKE SA.
    pub(crate) fn admit(
        &mut self,
        peer: Arc<PeerConfig>,
        identity: &Identity,
        from: SocketAddr,
        first: bool,
    ) -> Result<Arc<PeerConfig>, Refusal> {
        if !peer.admits_many() {
            if !peer.remote.is_unspecified() {
                return Ok(peer);
            }
            let only = [peer.name.clone()];
            self.refuse_second(&peer, &only, identity, from, first)?;
            return Ok(peer);
        }
        let known = self.peers.instances_of(&peer.name, identity).to_vec();
        self.refuse_second(&peer, &known, identity, from, first)?;
        let standing = |name: &Arc<str>| {
            let instance = self.peers.get(name);
            instance
                .map(|one| one.standing.as_slice())
                .unwrap_or_default()
        };
        // From where it is connected already it authenticates anew (RFC 7296 2.8.3), and keeps what it has.
        let same = known.iter().find(|name| is_from(standing(name), from));
        let free = || known.iter().find(|name| standing(name).is_empty());
        let full = match peer.uniqueness {
            Uniqueness::Never => false,
            Uniqueness::Keep => true,
            Uniqueness::Limit(limit) => known.len() >= usize::from(limit),
        };
        let oldest = || known.first().filter(|_| full);
        let found = same.or_else(free).or_else(oldest);
        match found.and_then(|name| self.peers.get(name)) {
            Some(instance) => Ok(instance.config.clone()),
            None => Ok(self.peers.add_instance(&peer, identity.clone(), None)),
        }
    }

    /// Where the first stays, a second one is refused. The first is asked whether it lives: it may be gone when the
    /// second tries again.
    fn refuse_second(
        &mut self,
        peer: &PeerConfig,
        known: &[Arc<str>],
        identity: &Identity,
        from: SocketAddr,
        first: bool,
    ) -> Result<(), Refusal> {
        if peer.uniqueness != Uniqueness::Keep || first {
            return Ok(());
        }
        let instances = known.iter().filter_map(|name| self.peers.get(name));
        let elsewhere = instances
            .filter(|instance| !is_from(&instance.standing, from))
            .find_map(|instance| instance.standing.last().copied());
        let Some((key, address)) = elsewhere else {
            return Ok(());
        };
        self.signals.push_back(Signal::Hand(key, Task::Liveness));
        Err(Refusal::ConnectedAlready {
            theirs: identity.clone(),
            from: address,
        })
    }

    /// Takes note of where an IKE SA that stands has its peer.
    pub(crate) fn note_standing(&mut self, sa: &IkeSa) {
        let Some(peer) = &sa.peer else { return };
        if (peer.remote.is_unspecified() || peer.pool.is_some())
            && let Some(mut peer) = self.peers.get_mut(&peer.name)
        {
            let (key, from) = (sa.key, sa.path.remote);
            peer.standing.retain(|(other, _)| *other != key);
            peer.standing.push((key, from));
            peer.standing.sort_unstable_by_key(|(key, _)| *key);
        }
    }

    /// An IKE SA does not stand any more.
    pub(crate) fn forget_standing(&mut self, sa: &IkeSa) {
        let Some(peer) = &sa.peer else { return };
        if let Some(mut peer) = self.peers.get_mut(&peer.name) {
            peer.standing.retain(|(key, _)| *key != sa.key);
        }
        self.idle.push(peer.name.clone());
    }
}

impl Gateway {
    /// Gives an instance the addresses that it asks for; with it the peer as it is from now on, whose selectors on
    /// that side are these.
    pub(crate) fn lease(
        &mut self,
        now: Instant,
        instance: &PeerConfig,
        wish: &Wish,
    ) -> Result<(Given, Arc<PeerConfig>), Refusal> {
        let pool = instance.pool.as_deref().unwrap_or_default();
        let (who, holder) = (&instance.remote_id, &instance.name);
        let given = self.pools.lease(now, pool, who, holder, wish)?;
        let config = self.settle_in(instance, given.addresses.clone());
        Ok((given, config))
    }

    /// Notes which addresses an instance has.
    pub(crate) fn settle_in(
        &mut self,
        instance: &PeerConfig,
        leased: Vec<IpAddr>,
    ) -> Arc<PeerConfig> {
        let known = self.peers.get(&instance.name);
        let template = known.and_then(|known| self.peers.get(known.template.as_deref()?));
        let template = template.map_or(instance, |template| &template.config);
        let (name, who) = (instance.name.clone(), instance.remote_id.clone());
        let config = Arc::new(crate::peers::instance(template, name, who, &leased));
        if let Some(mut peer) = self.peers.get_mut(&instance.name) {
            (peer.config, peer.leased) = (config.clone(), leased);
        }
        config
    }
}

fn is_from(standing: &[(SaKey, SocketAddr)], from: SocketAddr) -> bool {
    standing.iter().any(|(_, address)| *address == from)
}
