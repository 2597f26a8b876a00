//! What IKE SAs want done to others and to their peers: replacement, duplicates, retries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Endpoint;
use crate::children::ChildState;
use crate::config::{PeerConfig, Uniqueness};
use crate::error::{CloseReason, RemovalReason};
use crate::event::Path;
use crate::gateway::{SaKey, Signal};
use crate::sa::{IkeSa, State, Task};

/// The port of IKE.
const IKE_PORT: u16 = 500;
/// The port of IKE behind NATs.
const NAT_T_PORT: u16 = 4500;

impl Endpoint {
    /// Works on one IKE SA, then lets it start what waits.
    pub(super) fn with<R>(
        &mut self,
        now: Instant,
        key: SaKey,
        work: impl FnOnce(&mut IkeSa, &mut crate::gateway::Gateway) -> R,
    ) -> Option<R> {
        let mut sa = self.sas.take(key)?;
        let result = work(&mut sa, &mut self.gw);
        sa.run_tasks(&mut self.gw, now);
        self.sas.put(sa);
        Some(result)
    }

    pub(super) fn enqueue(&mut self, now: Instant, key: SaKey, task: Task) -> bool {
        self.with(now, key, |sa, gw| sa.enqueue(gw, task))
            .unwrap_or(false)
    }

    /// Sees to all signals, and to those that they cause.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(signal) = self.gw.signals.pop_front() {
            match signal {
                Signal::Spawn(sa) => {
                    let key = sa.key;
                    self.sas.put(*sa);
                    self.with(now, key, |_, _| ());
                }
                Signal::Established(key) => self.on_established(now, key),
                Signal::InitialContact(key) => self.on_initial_contact(now, key),
                Signal::Alive(key) => self.on_alive(now, key),
                Signal::Proven(key) => self.on_proven(now, key),
                Signal::Superseded(key) => {
                    self.with(now, key, |sa, _| sa.superseded(now));
                }
                Signal::Hand(key, task) => {
                    self.enqueue(now, key, task);
                }
                Signal::Closed(key, peer, reason) => self.on_closed(now, key, &peer, &reason),
                Signal::ChildFailed(key) => self.on_child_failed(now, key),
                Signal::ChildDeleted(key, name, installed) => {
                    self.on_child_deleted(now, key, &name, installed);
                }
                Signal::ChildWanted(key, name) => {
                    self.enqueue(now, key, Task::NewChild(name));
                }
            }
        }
        self.forget_idle(now);
    }

    /// Forgets the instances that have neither an IKE SA nor a child SA any more.
    fn forget_idle(&mut self, now: Instant) {
        while let Some(name) = self.gw.idle.pop() {
            let of = self.gw.peers.get(&name);
            let is_instance = of.is_some_and(|peer| peer.template.is_some());
            let is_up = || {
                let keys = self.sas.of_peer(&name).into_iter();
                let mut sas = keys.filter_map(|key| self.sas.get(key));
                sas.any(|sa| !sa.is_over()) || self.gw.children.of_peer(&name).next().is_some()
            };
            if is_instance && !is_up() {
                self.gw.peers.remove(&name);
                self.gw.pools.let_go(now, &name);
            }
        }
    }

    fn peer_of(&self, key: SaKey) -> Option<String> {
        self.sas.get(key)?.peer_name().map(str::to_owned)
    }

    /// The peer's other IKE SAs.
    fn others(&self, key: SaKey, keep: impl Fn(&IkeSa) -> bool) -> Vec<SaKey> {
        let peer = self.peer_of(key);
        let keys = peer.map(|peer| self.sas.of_peer(&peer)).unwrap_or_default();
        keys.into_iter()
            .filter(|&other| other != key && self.sas.get(other).is_some_and(&keep))
            .collect()
    }

    fn on_established(&mut self, now: Instant, key: SaKey) {
        let (Some(name), Some(sa)) = (self.peer_of(key), self.sas.get(key)) else {
            return;
        };
        if !is_current(sa) {
            return;
        }
        let (initiator, proven, remote) = (sa.initiator, sa.proven, sa.path.remote);
        let adopted = self
            .gw
            .children
            .of_peer(&name)
            .any(|c| c.state == ChildState::Adopted);
        if let Some(mut peer) = self.gw.peers.get_mut(&name) {
            peer.last_remote = Some(remote);
            peer.succeeded();
            peer.wanted |= adopted;
        }
        if !initiator {
            // We were about to call: there is no need, and nothing has been proved yet.
            for other in self.others(key, |sa| matches!(sa.state, State::Initiating)) {
                self.with(now, other, |sa, gw| {
                    sa.finish(gw, now, CloseReason::Redundant)
                });
            }
        }
        // RFC 7296 2.4: an older IKE SA with the same peer may have lost its other end.
        let others = self.others(key, is_current);
        for &other in &others {
            self.with(now, other, |sa, gw| {
                sa.doubted = true;
                sa.enqueue(gw, Task::Liveness)
            });
        }
        if proven {
            return self.on_proven(now, key);
        }
        // Its peer may have died since it wrote its last message. What stood before stays in use
        // until it has shown that it has our answer.
        let awaiting = |inbound| self.gw.children.get(inbound).is_some_and(|c| c.awaiting);
        if !others.is_empty() || self.gw.children.of_owner(key).into_iter().any(awaiting) {
            self.enqueue(now, key, Task::Liveness);
        }
    }

    /// The peer lives and holds this IKE SA: those in doubt have few attempts left to show that it
    /// still holds them, too.
    fn on_proven(&mut self, now: Instant, key: SaKey) {
        for other in self.others(key, |sa| is_current(sa) && sa.doubted) {
            self.with(now, other, |sa, gw| sa.supplanted(gw, now, key));
        }
        self.displace(now, key);
    }

    /// Who comes from anywhere and is connected from elsewhere already has moved, or is two: the younger one stays. From
    /// the same place it authenticates anew, and ends the older one itself.
    fn displace(&mut self, now: Instant, key: SaKey) {
        let Some(sa) = self
            .sas
            .get(key)
            .filter(|sa| !sa.initiator && is_current(sa))
        else {
            return;
        };
        let replaces = |peer: &PeerConfig| {
            (peer.remote.is_unspecified() || peer.pool.is_some())
                && matches!(peer.uniqueness, Uniqueness::Limit(_))
        };
        if !sa.peer.as_deref().is_some_and(replaces) {
            return;
        }
        let here = sa.path.remote;
        let elsewhere = |sa: &IkeSa| is_current(sa) && sa.key < key && sa.path.remote != here;
        for other in self.others(key, elsewhere) {
            self.enqueue(now, other, Task::DeleteIke(CloseReason::Displaced));
        }
    }

    /// RFC 7296 2.4: "the recipient (...) MAY use this information to delete any other IKE SAs it
    /// has to the same authenticated identity without waiting for a timeout".
    fn on_initial_contact(&mut self, now: Instant, key: SaKey) {
        let stands = |sa: &IkeSa| sa.established.is_some() && !sa.is_over();
        let here = self.sas.get(key).map(|sa| sa.path.remote);
        for other in self.others(key, stands) {
            self.with(now, other, |sa, gw| {
                // Elsewhere there may be another with the same identity, who lives.
                let roams = sa
                    .peer
                    .as_ref()
                    .is_some_and(|peer| peer.remote.is_unspecified());
                if roams && here != Some(sa.path.remote) {
                    sa.part(gw, now, CloseReason::Displaced);
                } else {
                    sa.finish(gw, now, CloseReason::InitialContact);
                }
            });
        }
    }

    /// Two IKE SAs with one peer live. If each end has made one, both started at once: that with
    /// the lowest nonce is closed by its maker, as RFC 7296 2.8.1 does with crossing rekeys; later
    /// rekeys of either do not change the verdict.
    fn on_alive(&mut self, now: Instant, key: SaKey) {
        let Some(sa) = self.sas.get(key).filter(|sa| sa.is_established()) else {
            return;
        };
        let origin = sa.origin.clone();
        for other in self.others(key, |other| {
            other.is_established() && other.origin.called != origin.called
        }) {
            let other_is_lower = self
                .sas
                .get(other)
                .is_some_and(|other| other.origin.lowest_nonce < origin.lowest_nonce);
            let (loser, called) = if other_is_lower {
                (other, !origin.called)
            } else {
                (key, origin.called)
            };
            if called {
                self.enqueue(now, loser, Task::DeleteIke(CloseReason::Redundant));
            }
        }
    }

    fn on_closed(&mut self, now: Instant, key: SaKey, name: &str, reason: &CloseReason) {
        if self.shutdown_by.is_some() || matches!(reason, CloseReason::Rekeyed) {
            return;
        }
        let up = |sa: &IkeSa| is_current(sa) || is_coming(sa);
        let keys = self.sas.of_peer(name);
        if keys
            .iter()
            .any(|&k| k != key && self.sas.get(k).is_some_and(up))
        {
            return self.ensure_children(now, name);
        }
        let jitter = self.gw.jittered(self.gw.settings.retry_initial / 2);
        let Some(mut peer) = self.gw.peers.get_mut(name) else {
            return;
        };
        match reason {
            CloseReason::Terminated | CloseReason::Shutdown => {}
            CloseReason::Refused => peer.failed(now, &self.gw.settings, jitter),
            _ => {
                peer.wanted |= peer.config.start;
                peer.failed(now, &self.gw.settings, jitter);
            }
        }
    }

    fn on_child_failed(&mut self, now: Instant, key: SaKey) {
        let jitter = self.gw.jittered(self.gw.settings.retry_initial / 2);
        if let Some(name) = self.peer_of(key)
            && let Some(mut peer) = self.gw.peers.get_mut(&name)
        {
            peer.failed(now, &self.gw.settings, jitter);
        }
    }

    /// A child that we are to start is made anew after a pause, which grows with each that did not
    /// last. Another that stands by then, of a rekey or of the peer's own making, is enough.
    fn on_child_deleted(&mut self, now: Instant, key: SaKey, name: &Arc<str>, installed: Instant) {
        let jitter = self.gw.jittered(self.gw.settings.retry_initial / 2);
        let settings = &self.gw.settings;
        if let Some(peer) = self.peer_of(key)
            && !self.gw.child_stands(&peer.as_str().into(), name)
            && let Some(mut peer) = self.gw.peers.get_mut(&peer)
            && peer.starts(name)
        {
            if now.saturating_duration_since(installed) >= settings.retry_max {
                peer.relent();
            }
            peer.deleted.insert(name.clone());
            peer.failed(now, settings, jitter);
        }
    }

    /// The IKE SA on which new exchanges with a peer are made, the youngest that stands.
    pub(super) fn current_sa(&self, peer: &str) -> Option<SaKey> {
        let keys = self.sas.of_peer(peer);
        keys.into_iter()
            .rev()
            .find(|&key| self.sas.get(key).is_some_and(is_current))
    }

    pub(super) fn connecting_sa(&self, peer: &str) -> Option<SaKey> {
        let keys = self.sas.of_peer(peer);
        keys.into_iter()
            .rev()
            .find(|&key| self.sas.get(key).is_some_and(is_coming))
    }

    fn is_making(&self, peer: &str, child: &str) -> bool {
        let keys = self.sas.of_peer(peer);
        keys.into_iter()
            .any(|key| self.sas.get(key).is_some_and(|sa| sa.is_making(child)))
    }

    /// Asks for the wanted children of a peer that do not stand.
    pub(super) fn ensure_children(&mut self, now: Instant, name: &str) {
        let (Some(key), Some(peer)) = (self.current_sa(name), self.gw.peers.get(name)) else {
            return;
        };
        let peer_name: Arc<str> = name.into();
        let missing: Vec<_> = peer
            .children
            .iter()
            .filter(|child| peer.config.child(child).is_some())
            .filter(|child| !self.gw.child_stands(&peer_name, child))
            .filter(|child| !self.is_making(name, child))
            .cloned()
            .collect();
        for child in missing {
            self.enqueue(now, key, Task::NewChild(child));
        }
    }

    /// Brings a wanted peer up, or what it lacks.
    pub(super) fn bring_up(&mut self, now: Instant, name: &str) {
        if self.current_sa(name).is_some() {
            return self.ensure_children(now, name);
        }
        let Some(peer) = self
            .gw
            .peers
            .get(name)
            .filter(|peer| peer.template.is_none())
        else {
            return;
        };
        let children: Vec<_> = peer.children.clone();
        if let Some(key) = self.connecting_sa(name) {
            for child in children {
                if !self.is_making(name, &child) {
                    self.enqueue(now, key, Task::NewChild(child));
                }
            }
            return;
        }
        let config = peer.config.clone();
        let Some(path) = peer_path(&config, peer.last_remote) else {
            return;
        };
        if self.sas.len() >= self.gw.settings.ike_sa_limit {
            let reason = crate::error::Refusal::TooManyIkeSas;
            return self.gw.refused(Some(name), path, reason);
        }
        let sa = IkeSa::connect(&mut self.gw, now, config, path, &children);
        self.sas.put(sa);
    }

    /// What is due for child SAs.
    pub(super) fn handle_child_timers(&mut self, now: Instant) {
        for inbound in self.gw.children.due(now) {
            let Some(child) = self.gw.children.get(inbound).cloned() else {
                continue;
            };
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if due(child.select_at) {
                self.gw
                    .children
                    .update(inbound, |child| child.select_at = None);
                self.gw.child_confirmed(now, inbound);
            }
            let owner = child.owner.filter(|&owner| self.sas.get(owner).is_some());
            if due(child.end_at) {
                match (&child.state, owner) {
                    (ChildState::Lingering(_), _) => self.gw.forget_child(inbound),
                    (_, None) => self.gw.remove_child(now, inbound, RemovalReason::Expired),
                    (_, Some(owner)) => {
                        self.gw
                            .children
                            .update(inbound, |child| child.end_at = None);
                        let task = Task::DeleteChild(inbound, RemovalReason::Expired);
                        self.enqueue(now, owner, task);
                    }
                }
            } else if due(child.rekey_at) && child.state == ChildState::Live && !child.rekeying {
                self.begin_rekey(now, inbound, owner);
            }
        }
    }

    /// Queues the rekey of a child SA.
    pub(super) fn begin_rekey(&mut self, now: Instant, inbound: u32, owner: Option<SaKey>) -> bool {
        let retry = now + self.gw.settings.retry_max;
        self.gw.children.update(inbound, |child| {
            child.rekeying = true;
            child.rekey_at = Some(retry);
        });
        let queued = owner.is_some_and(|owner| self.enqueue(now, owner, Task::RekeyChild(inbound)));
        if !queued {
            self.gw
                .children
                .update(inbound, |child| child.rekeying = false);
        }
        queued
    }
}

/// Whether an IKE SA stands and is to stay.
fn is_current(sa: &IkeSa) -> bool {
    sa.is_established() && !sa.is_leaving()
}

/// Whether we are bringing an IKE SA up that is to stay.
fn is_coming(sa: &IkeSa) -> bool {
    sa.is_connecting() && !sa.is_leaving()
}

/// Where a peer is called: as configured, else where it was last seen.
fn peer_path(peer: &PeerConfig, last: Option<SocketAddr>) -> Option<Path> {
    let configured =
        (!peer.remote.is_unspecified()).then(|| SocketAddr::new(peer.remote, peer.remote_port));
    let remote = configured.or(last)?;
    let local_port = if remote.port() == IKE_PORT {
        IKE_PORT
    } else {
        NAT_T_PORT
    };
    Some(Path {
        local: SocketAddr::new(peer.local, local_port),
        remote,
    })
}
