//! All IKE SAs of one gateway: the public face of the state machine.

mod commands;
mod configure;
mod cookies;
mod dispatch;
mod signals;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::children::{ChildState, ChildTable};
use crate::config::{Identity, Settings};
use crate::counters::Counters;
use crate::error::{CloseReason, RemovalReason};
use crate::event::{ChildSaView, Event, IkeSaView, Path, Transmit};
use crate::gateway::Gateway;
use crate::provider::Provider;

/// Gives out the SPIs of inbound ESP SAs: they are slots of the dataplane.
pub trait SpiAllocator: Send {
    /// A new SPI, or `None` when the dataplane is full.
    fn allocate(&mut self) -> Option<u32>;
    /// Gives an SPI back: its [`Event::ChildRemoved`] has been queued, or it was never installed.
    fn release(&mut self, spi: u32);
}

/// All IKE SAs of one gateway, without I/O.
pub struct Endpoint {
    gw: Gateway,
    sas: table::SaTable,
    cookies: cookies::Cookies,
    /// Set by [`Endpoint::shutdown`]: when those that do not answer are left.
    shutdown_by: Option<Instant>,
}

impl Endpoint {
    /// An endpoint without peers. The seed fixes schedule, nonces and SPIs of IKE SAs.
    pub fn new(
        settings: Settings,
        provider: Arc<dyn Provider>,
        spis: Box<dyn SpiAllocator>,
        seed: [u8; 32],
    ) -> Self {
        Self {
            gw: Gateway::new(settings, provider, spis, seed),
            sas: table::SaTable::default(),
            cookies: cookies::Cookies::default(),
            shutdown_by: None,
        }
    }

    /// Tells the time of day in seconds since 1970, by which the validity of certificates is judged:
    /// at first before any of them comes, and again now and then, since clocks are set.
    pub fn set_wall_clock(&mut self, now: Instant, seconds: u64) {
        self.gw.set_wall_clock(now, seconds);
    }

    /// Takes a datagram, without the non-ESP marker of port 4500.
    pub fn handle_datagram(&mut self, now: Instant, path: Path, data: &[u8]) {
        self.dispatch(now, path, data);
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.shutdown_by.is_some_and(|by| by <= now) {
            for key in self.sas.keys() {
                self.with(now, key, |sa, gw| sa.finish(gw, now, CloseReason::Shutdown));
            }
        }
        self.handle_child_timers(now);
        for key in self.sas.due(now) {
            self.with(now, key, |sa, gw| sa.handle_timeout(gw, now));
        }
        let retry = self.gw.peers.due(now);
        for name in &retry {
            if let Some(mut peer) = self.gw.peers.get_mut(name) {
                peer.retry_at = None;
                peer.deleted.clear();
            }
        }
        self.settle(now);
        for name in retry {
            self.bring_up(now, &name);
        }
        self.settle(now);
    }

    /// When [`Endpoint::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let shutdown = self
            .shutdown_by
            .filter(|_| self.sas.iter().any(|sa| !sa.is_over()));
        [
            self.sas.poll_timeout(),
            self.gw.children.poll_timeout(),
            self.gw.peers.poll_timeout(),
            shutdown,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.gw.transmits.pop_front()
    }

    /// The next event; all of them come before the transmits that were queued with them.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.gw.events.pop_front()
    }

    /// The first authenticated packet came in by this child SA: the peer has it, and a selection
    /// that waited for that is made.
    pub fn inbound_used(&mut self, now: Instant, inbound: u32) {
        self.gw.child_confirmed(now, inbound);
        self.settle(now);
    }

    /// Traffic leaves by this child SA, while nothing has come in by it for long.
    ///
    /// RFC 7296 2.4: "If there has only been outgoing traffic on all of the SAs associated with an
    /// IKE SA, it is essential to confirm liveness of the other endpoint to avoid black holes." So
    /// the peer is asked, unless it has just been heard or liveness checks are off.
    pub fn unanswered(&mut self, now: Instant, inbound: u32) {
        let child = self.gw.children.get(inbound);
        if let Some(owner) = child.and_then(|child| child.owner) {
            self.with(now, owner, |sa, gw| sa.unanswered(gw, now));
        }
        self.settle(now);
    }

    /// The dataplane has followed a peer behind a NAT: an authentic packet of this child SA, newer than
    /// all before it, came from here (RFC 7296 2.23). The IKE SA and its other child SAs follow.
    pub fn peer_moved(&mut self, now: Instant, inbound: u32, remote: SocketAddr) {
        let Some(child) = self.gw.children.get(inbound) else {
            return;
        };
        if let Some(owner) = child.owner.filter(|_| child.state == ChildState::Live) {
            self.with(now, owner, |sa, gw| sa.heard_from(gw, now, remote));
        } else if child.state == ChildState::Adopted {
            // Its peer will be called there.
            let peer = child.peer.to_string();
            let mut moved = false;
            self.gw
                .children
                .update(inbound, |child| moved = child.move_to(remote));
            if let Some(mut peer) = self.gw.peers.get_mut(&peer) {
                peer.last_remote = Some(remote);
            }
            self.gw.events.push_back(Event::PeerMoved {
                peer,
                remote,
                children: moved.then_some(inbound).into_iter().collect(),
            });
        }
        self.settle(now);
    }

    /// All child SAs are gone with the dataplane: fresh ones are negotiated in their place, the
    /// first [`Settings::lost_burst`] at once, the others paced.
    pub fn dataplane_lost(&mut self, now: Instant) {
        let mut lost: Vec<_> = self
            .gw
            .children
            .iter()
            .map(|child| {
                (
                    child.installed,
                    child.inbound,
                    child.state.clone(),
                    child.rekeying,
                )
            })
            .collect();
        lost.sort_by_key(|(installed, inbound, ..)| (*installed, *inbound));
        let mut rekeys = 0_usize;
        for (_, inbound, state, rekeying) in lost {
            match state {
                ChildState::Adopted => {
                    self.gw.children.update(inbound, |child| child.lost = true);
                    self.gw
                        .remove_child(now, inbound, RemovalReason::DataplaneLost);
                }
                ChildState::Lingering(_) => self.gw.forget_child(inbound),
                ChildState::Live if !rekeying => {
                    let beyond = rekeys.saturating_sub(self.gw.settings.lost_burst);
                    let wait = u32::try_from(beyond).unwrap_or(u32::MAX);
                    let at = now + self.gw.settings.lost_pace.saturating_mul(wait);
                    self.gw.children.update(inbound, |child| {
                        child.lost = true;
                        child.rekey_at = Some(at);
                    });
                    rekeys += 1;
                }
                _ => self.gw.children.update(inbound, |child| child.lost = true),
            }
        }
        self.handle_child_timers(now);
        self.settle(now);
    }

    /// Says goodbye to all peers; poll until [`Endpoint::is_idle`].
    pub fn shutdown(&mut self, now: Instant) {
        self.shutdown_by = Some(now + self.gw.settings.shutdown_patience);
        for name in self.gw.peers.names() {
            if let Some(mut peer) = self.gw.peers.get_mut(&name) {
                peer.wanted = false;
                peer.retry_at = None;
            }
        }
        for key in self.sas.keys() {
            self.close_sa(now, key, &CloseReason::Shutdown);
        }
        self.settle(now);
    }

    /// After [`Endpoint::shutdown`]: whether no IKE SA is left and nothing waits to be polled.
    pub fn is_idle(&self) -> bool {
        self.sas.iter().all(crate::sa::IkeSa::is_over)
            && self.gw.transmits.is_empty()
            && self.gw.events.is_empty()
    }

    /// All IKE SAs.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSaView> + '_ {
        self.sas
            .iter()
            .filter(|sa| !sa.is_over())
            .map(|sa| sa.view(&self.gw))
    }

    /// Who an instance of a peer that many may be is, by the instance's name.
    pub fn identity_of(&self, instance: &str) -> Option<&Identity> {
        let peer = self.gw.peers.get(instance)?;
        peer.template.as_ref().map(|_| &peer.config.remote_id)
    }

    /// All child SAs of the dataplane, adopted ones and those about to be removed included.
    pub fn child_sas(&self) -> impl Iterator<Item = ChildSaView> + '_ {
        let there = self.gw.children.iter().filter(|child| !child.shut);
        there.map(ChildTable::view)
    }

    /// The counters of messages.
    pub fn counters(&self) -> &Counters {
        &self.gw.counters
    }
}
