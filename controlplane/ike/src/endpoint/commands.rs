//! What an operator, or the dataplane's lifetimes, ask for.

use std::time::Instant;

use super::Endpoint;
use crate::children::ChildState;
use crate::error::{CloseReason, CommandError, RemovalReason};
use crate::gateway::SaKey;
use crate::peers::Peer;
use crate::sa::{State, Task};

impl Endpoint {
    /// Brings a peer up with all its children, or with one. What stands already is left alone.
    pub fn initiate(
        &mut self,
        now: Instant,
        peer: &str,
        child: Option<&str>,
    ) -> Result<(), CommandError> {
        if self.shutdown_by.is_some() {
            return Err(CommandError::ShuttingDown);
        }
        self.check_names(peer, child)?;
        let up = self
            .current_sa(peer)
            .or_else(|| self.connecting_sa(peer))
            .is_some();
        let unknown = || CommandError::UnknownPeer(peer.to_owned());
        let mut state = self.gw.peers.get_mut(peer).ok_or_else(unknown)?;
        let known = state.template.is_none() && state.last_remote.is_some();
        if state.config.remote.is_unspecified() && !known && !up {
            return Err(CommandError::RespondOnly(peer.to_owned()));
        }
        state.wanted = true;
        state.retry_at = None;
        state.deleted.clear();
        match child {
            Some(child) => {
                state.want(child);
            }
            None => {
                let config = state.config.clone();
                config
                    .children
                    .iter()
                    .for_each(|child| state.want(&child.name));
            }
        }
        drop(state);
        self.bring_up(now, peer);
        self.settle(now);
        Ok(())
    }

    /// Brings a child up because traffic waits for it (RFC 4301 4.4.1), and does not wait for the
    /// next attempt. But a peer that has deleted the child is left in peace until then.
    pub fn acquire(&mut self, now: Instant, peer: &str, child: &str) -> Result<(), CommandError> {
        let pauses = |peer: &Peer| peer.retry_at.is_some() && peer.deleted.contains(child);
        if self.gw.peers.get(peer).is_some_and(pauses) {
            return Ok(());
        }
        self.initiate(now, peer, Some(child))
    }

    /// Deletes a peer's IKE SAs, or one child. Their child SAs are removed at once; the peer is told
    /// when it is its turn, which is not waited for longer than it takes to send a request
    /// [`Settings::few_transmissions`](crate::Settings::few_transmissions) times.
    pub fn terminate(
        &mut self,
        now: Instant,
        peer: &str,
        child: Option<&str>,
    ) -> Result<(), CommandError> {
        self.check_names(peer, child)?;
        let instances = self.gw.peers.all_instances_of(peer);
        if instances.is_empty() {
            self.terminate_one(now, peer, child)?;
        }
        for instance in instances {
            // One that has nothing of it is as it should be.
            let _ = self.terminate_one(now, &instance, child);
        }
        self.settle(now);
        Ok(())
    }

    fn terminate_one(
        &mut self,
        now: Instant,
        peer: &str,
        child: Option<&str>,
    ) -> Result<(), CommandError> {
        match child {
            Some(child) => self.terminate_child(now, peer, child),
            None => self.terminate_peer(now, peer),
        }
    }

    fn terminate_child(
        &mut self,
        now: Instant,
        peer: &str,
        child: &str,
    ) -> Result<(), CommandError> {
        if let Some(mut state) = self.gw.peers.get_mut(peer) {
            state.children.retain(|wanted| **wanted != *child);
        }
        let mut found = false;
        for key in self.sas.of_peer(peer) {
            if self.sas.get(key).is_some_and(|sa| sa.is_making(child)) {
                found = true;
                self.with(now, key, |sa, _| sa.unwish(child));
            }
        }
        for inbound in self.gw.children.of_name(&peer.into(), &child.into()) {
            let Some(sa) = self.gw.children.get(inbound) else {
                continue;
            };
            found |= matches!(sa.state, ChildState::Live | ChildState::Adopted);
            match sa.owner {
                Some(owner) => {
                    self.gw.shut_child(inbound, RemovalReason::Terminated);
                    let task = Task::DeleteChild(inbound, RemovalReason::Terminated);
                    self.enqueue(now, owner, task);
                }
                None => self.gw.drop_child(inbound, &CloseReason::Terminated),
            }
        }
        let down = || CommandError::ChildDown {
            peer: peer.to_owned(),
            child: child.to_owned(),
        };
        found.then_some(()).ok_or_else(down)
    }

    fn terminate_peer(&mut self, now: Instant, peer: &str) -> Result<(), CommandError> {
        let waiting = self.gw.peers.get_mut(peer).is_some_and(|mut state| {
            state.wanted = false;
            state.retry_at.take().is_some()
        });
        let children: Vec<_> = self
            .gw
            .children
            .of_peer(peer)
            .map(|child| (child.inbound, child.state == ChildState::Adopted))
            .collect();
        let mut found = waiting;
        for (inbound, adopted) in children {
            found |= adopted;
            self.gw.drop_child(inbound, &CloseReason::Terminated);
        }
        for key in self.sas.of_peer(peer) {
            found |= self.close_sa(now, key, &CloseReason::Terminated);
        }
        found
            .then_some(())
            .ok_or_else(|| CommandError::PeerDown(peer.to_owned()))
    }

    /// Says goodbye on an IKE SA that stands; drops one that nobody has proved yet.
    pub(super) fn close_sa(&mut self, now: Instant, key: SaKey, reason: &CloseReason) -> bool {
        let reason = reason.clone();
        self.with(now, key, |sa, gw| match sa.state {
            // One that is being authenticated may stand at the peer's end already.
            State::Established | State::Authenticating(_) => {
                if sa.is_leaving() {
                    // Each more counted anew would put its end off.
                    return true;
                }
                sa.hasten(gw, now);
                sa.enqueue(gw, Task::DeleteIke(reason))
            }
            State::Initiating | State::HalfOpen(_) | State::Superseded => {
                sa.finish(gw, now, reason);
                true
            }
            _ => false,
        })
        .unwrap_or(false)
    }

    /// Rekeys the IKE SA.
    pub fn rekey_ike(&mut self, now: Instant, peer: &str) -> Result<(), CommandError> {
        self.check_names(peer, None)?;
        let key = self
            .current_sa(peer)
            .ok_or_else(|| CommandError::PeerDown(peer.to_owned()))?;
        let queued = self.enqueue(now, key, Task::RekeyIke);
        self.settle(now);
        queued
            .then_some(())
            .ok_or_else(|| CommandError::Busy(peer.to_owned()))
    }

    /// Rekeys all children of a peer, or one.
    pub fn rekey_child(
        &mut self,
        now: Instant,
        peer: &str,
        child: Option<&str>,
    ) -> Result<(), CommandError> {
        self.check_names(peer, child)?;
        let live: Vec<u32> = self
            .gw
            .children
            .of_peer(peer)
            .filter(|c| c.state == ChildState::Live && child.is_none_or(|name| *c.name == *name))
            .map(|c| c.inbound)
            .collect();
        if live.is_empty() {
            return Err(match child {
                Some(child) => CommandError::ChildDown {
                    peer: peer.to_owned(),
                    child: child.to_owned(),
                },
                None => CommandError::PeerDown(peer.to_owned()),
            });
        }
        for inbound in live {
            self.rekey_sa(now, inbound)?;
        }
        Ok(())
    }

    /// Rekeys one child SA, by its inbound SPI: its soft lifetime has ended or its sequence
    /// numbers near theirs. An SA that is being replaced already is left alone.
    pub fn rekey_sa(&mut self, now: Instant, inbound: u32) -> Result<(), CommandError> {
        let child = self
            .gw
            .children
            .get(inbound)
            .ok_or(CommandError::UnknownSa(inbound))?;
        let (owner, peer) = (child.owner, child.peer.to_string());
        if child.state != ChildState::Live || child.rekeying {
            return Ok(());
        }
        let queued = self.begin_rekey(now, inbound, owner);
        self.settle(now);
        queued.then_some(()).ok_or(CommandError::Busy(peer))
    }

    /// Deletes one child SA, by its inbound SPI: its hard lifetime has ended.
    pub fn expire_sa(&mut self, now: Instant, inbound: u32) -> Result<(), CommandError> {
        let child = self
            .gw
            .children
            .get(inbound)
            .ok_or(CommandError::UnknownSa(inbound))?;
        let name = child.peer.to_string();
        let lingers = matches!(child.state, ChildState::Lingering(_) | ChildState::Deleting);
        match child.owner {
            _ if lingers => {}
            Some(owner) => {
                let task = Task::DeleteChild(inbound, RemovalReason::Expired);
                self.enqueue(now, owner, task);
                let jitter = self.gw.settings.retry_initial;
                if let Some(mut peer) = self.gw.peers.get_mut(&name) {
                    // A child that ends without a successor is made anew.
                    peer.failed(now, &self.gw.settings, jitter);
                }
            }
            None => self.gw.remove_child(now, inbound, RemovalReason::Expired),
        }
        self.settle(now);
        Ok(())
    }

    fn check_names(&self, peer: &str, child: Option<&str>) -> Result<(), CommandError> {
        let known = self
            .gw
            .peers
            .get(peer)
            .ok_or_else(|| CommandError::UnknownPeer(peer.to_owned()))?;
        match child {
            Some(child) if known.config.child(child).is_none() => Err(CommandError::UnknownChild {
                peer: peer.to_owned(),
                child: child.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}
