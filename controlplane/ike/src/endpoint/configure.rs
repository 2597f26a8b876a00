//! Configuration and its changes, and what a restarted control plane takes over.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::Endpoint;
use crate::children::{Child, ChildState};
use crate::config::{Identity, PeerConfig};
use crate::error::{CloseReason, RemovalReason};
use crate::event::{AdoptedChild, Event};
use crate::peers::{Peer, instance};
use crate::pools::{Lease, PoolConfig, ReleaseError};
use crate::sa::Task;

impl Endpoint {
    /// Replaces the configuration. Unchanged peers are left alone; where only children changed,
    /// only these are; other changed peers start anew, missing ones are terminated,
    /// and the children of both are removed at once.
    pub fn configure(&mut self, now: Instant, peers: Vec<PeerConfig>) {
        let names: BTreeSet<&str> = peers.iter().map(|peer| &*peer.name).collect();
        let gone: Vec<Arc<str>> = self
            .gw
            .peers
            .names()
            .into_iter()
            .filter(|name| !names.contains(&**name))
            .filter(|name| {
                self.gw
                    .peers
                    .get(name)
                    .is_some_and(|p| p.template.is_none())
            })
            .collect();
        for name in gone {
            self.drop_peer(now, &name);
        }
        for config in peers {
            self.configure_peer(now, config);
        }
        self.settle(now);
    }

    /// Its children are removed before its IKE SAs, so that none of them takes the place of another
    /// or lingers; no IKE SA waits for a peer that may be dead.
    fn drop_peer(&mut self, now: Instant, name: &str) {
        for instance in self.gw.peers.all_instances_of(name) {
            self.drop_peer(now, &instance);
        }
        self.gw.peers.remove(name);
        let children: Vec<u32> = self.gw.children.of_peer(name).map(|c| c.inbound).collect();
        for inbound in children {
            self.gw.drop_child(inbound, &CloseReason::Terminated);
        }
        self.gw.pools.let_go(now, &name.into());
        for key in self.sas.of_peer(name) {
            self.with(now, key, |sa, gw| sa.part(gw, now, CloseReason::Terminated));
        }
    }

    fn configure_peer(&mut self, now: Instant, config: PeerConfig) {
        let name = config.name.clone();
        let Some(old) = self.gw.peers.get(&name).map(|peer| peer.config.clone()) else {
            return self.add_peer(now, config, false);
        };
        if *old == config {
            return;
        }
        let but_children = |peer: &PeerConfig| PeerConfig {
            children: Vec::new(),
            ..peer.clone()
        };
        if but_children(&old) == but_children(&config) {
            for name in self.gw.peers.all_instances_of(&name) {
                let Some(old) = self.gw.peers.get(&name).map(|peer| peer.config.clone()) else {
                    continue;
                };
                let leased = self.gw.peers.get(&name).map(|peer| peer.leased.clone());
                let leased = leased.unwrap_or_default();
                let new = instance(&config, name, old.remote_id.clone(), &leased);
                self.change_children(now, &old, new);
            }
            self.change_children(now, &old, config);
        } else {
            let was_up = self
                .current_sa(&name)
                .or_else(|| self.connecting_sa(&name))
                .is_some();
            self.drop_peer(now, &name);
            self.add_peer(now, config, was_up);
        }
    }

    fn add_peer(&mut self, now: Instant, config: PeerConfig, up: bool) {
        let name = config.name.clone();
        let can_call = !config.remote.is_unspecified();
        let mut peer = Peer::new(config);
        peer.wanted |= up && can_call;
        let wanted = peer.wanted;
        self.gw.peers.insert(peer);
        if wanted {
            self.bring_up(now, &name);
        }
    }

    fn change_children(&mut self, now: Instant, old: &PeerConfig, config: PeerConfig) {
        let (name, config) = (config.name.clone(), Arc::new(config));
        let Some(mut peer) = self.gw.peers.get_mut(&name) else {
            return;
        };
        peer.config = config.clone();
        peer.children.retain(|child| config.child(child).is_some());
        for child in config
            .children
            .iter()
            .filter(|c| c.start && old.child(&c.name).is_none())
        {
            peer.want(&child.name);
        }
        drop(peer);
        for key in self.sas.of_peer(&name) {
            self.with(now, key, |sa, _| sa.peer = Some(config.clone()));
        }
        let peer_name = name.clone();
        for child in old
            .children
            .iter()
            .filter(|c| config.child(&c.name) != Some(c))
        {
            let child_name: Arc<str> = child.name.as_str().into();
            let again = config.child(&child.name).is_some();
            // What is being made was offered as it was configured before: it is deleted when it comes.
            for key in self.sas.of_peer(&name) {
                self.with(now, key, |sa, gw| {
                    if sa.is_making(&child_name) {
                        sa.unwish(&child_name);
                        if again {
                            sa.enqueue(gw, Task::NewChild(child_name.clone()));
                        }
                    }
                });
            }
            for inbound in self.gw.children.of_name(&peer_name, &child_name) {
                let live = self
                    .gw
                    .children
                    .get(inbound)
                    .filter(|c| c.state == ChildState::Live);
                let Some(owner) = live.and_then(|c| c.owner) else {
                    continue;
                };
                let task = Task::DeleteChild(inbound, RemovalReason::Terminated);
                self.enqueue(now, owner, task);
                if again {
                    self.enqueue(now, owner, Task::NewChild(child_name.clone()));
                }
            }
        }
        // The end that made the IKE SA makes its children; both would cross.
        let current = self.current_sa(&name).and_then(|key| self.sas.get(key));
        if current.is_some_and(|sa| sa.initiator) {
            self.ensure_children(now, &name);
        }
    }

    /// Makes the instance again that a child SA is of: who it is may be that still.
    fn restore_instance(&mut self, found: &AdoptedChild) {
        let template = found.peer.rsplit_once('#').map(|(template, _)| template);
        let template = template.and_then(|name| self.gw.peers.get(name));
        if let (Some(template), Some(identity)) = (template, &found.identity)
            && template.config.admits_many()
            && template.config.remote_id.accepts(identity)
            && self.gw.peers.get(&found.peer).is_none()
        {
            let template = template.config.clone();
            let name = Some(found.peer.as_str());
            self.gw
                .peers
                .add_instance(&template, identity.clone(), name);
        }
        if let Some(instance) = self
            .gw
            .peers
            .get(&found.peer)
            .map(|peer| peer.config.clone())
            && let (Some(pool), Some(identity)) = (&instance.pool, &found.identity)
        {
            let pools = &mut self.gw.pools;
            let used = pools.occupy(pool, &instance.name, identity, &found.remote_ts);
            let known = self.gw.peers.get(&found.peer);
            let mut all = known.map(|peer| peer.leased.clone()).unwrap_or_default();
            all.extend(used);
            all.sort_unstable();
            all.dedup();
            self.gw.settle_in(&instance, all);
        }
    }

    /// Replaces the pools. Leases stay.
    pub fn configure_pools(&mut self, now: Instant, pools: Vec<PoolConfig>) {
        self.gw.pools.configure(now, pools);
    }

    /// Takes over the leases of an earlier life, by pool, address and owner, after [`Endpoint::configure_pools`] and
    /// before [`Endpoint::adopt`]: each is kept for its owner as if that had just left.
    pub fn restore_leases(&mut self, now: Instant, leases: Vec<(Arc<str>, IpAddr, Identity)>) {
        self.gw.pools.restore(now, leases);
    }

    /// Who has which address of which pool.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.gw.pools.leases()
    }

    /// A number that is another whenever leases have changed.
    pub const fn lease_changes(&self) -> u64 {
        self.gw.pools.changes()
    }

    /// Gives an address that is kept for a client that has left back to all.
    pub fn release_lease(&mut self, address: IpAddr) -> Result<(), ReleaseError> {
        self.gw.pools.release(address)
    }

    /// Takes over child SAs found in the dataplane after a restart, right after
    /// [`Endpoint::configure`]: they carry traffic until fresh ones do. Those whose peer or child
    /// is no longer configured are removed. The allocator must not give out their SPIs.
    pub fn adopt(&mut self, now: Instant, children: Vec<AdoptedChild>) {
        let mut peers = BTreeSet::new();
        for found in children {
            self.restore_instance(&found);
            // One of many whose identity is not known is nobody.
            let peer = self.gw.peers.get(&found.peer);
            let peer = peer.filter(|peer| peer.template.is_some() || !peer.config.admits_many());
            let config = peer.map(|peer| peer.config.clone());
            let lifetime = config.and_then(|peer| peer.child(&found.child).map(|c| c.lifetime));
            let Some(lifetime) = lifetime else {
                self.gw.events.push_back(Event::ChildRemoved {
                    peer: found.peer,
                    child: found.child,
                    inbound: found.inbound,
                    reason: RemovalReason::Terminated,
                });
                self.gw.spis.release(found.inbound);
                continue;
            };
            if let Some(mut peer) = self.gw.peers.get_mut(&found.peer) {
                peer.wanted = true;
                peer.want(&found.child);
                let port = found
                    .encapsulation
                    .map_or(peer.config.remote_port, |p| p.remote);
                peer.last_remote
                    .get_or_insert(SocketAddr::new(found.remote, port));
            }
            peers.insert(found.peer.clone());
            self.gw.adopt_child(Child {
                peer: found.peer.into(),
                name: found.child.into(),
                owner: None,
                inbound: found.inbound,
                outbound: found.outbound,
                suite: None,
                mode: found.mode,
                remote: found.remote,
                encapsulation: found.encapsulation,
                local_ts: Vec::new(),
                remote_ts: found.remote_ts,
                state: ChildState::Adopted,
                selected: found.selected,
                awaiting: false,
                rekeying: false,
                lost: false,
                shut: false,
                installed: now,
                rekey_at: None,
                end_at: Some(now + lifetime + lifetime / 10),
                select_at: None,
            });
        }
        for name in peers {
            self.bring_up(now, &name);
        }
        self.settle(now);
    }
}
