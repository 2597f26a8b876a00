//! All IKE SAs of one gateway.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{PeerConfig, Settings};
use crate::counters::Counters;
use crate::error::CommandError;
use crate::event::{AdoptedChild, ChildSaView, Event, IkeSaView, Path, Transmit};
use crate::provider::Provider;

/// Gives out the SPIs of inbound ESP SAs: they are slots of the dataplane.
pub trait SpiAllocator: Send {
    /// A new SPI, or `None` when the dataplane is full.
    fn allocate(&mut self) -> Option<u32>;
    /// Gives an SPI back, after its [`Event::ChildRemoved`](crate::Event::ChildRemoved).
    fn release(&mut self, spi: u32);
}

/// All IKE SAs of one gateway, without I/O.
pub struct Endpoint {
    counters: Counters,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Endpoint {
    /// An endpoint without peers. The seed fixes schedule, nonces and SPIs.
    pub fn new(
        _settings: Settings,
        _provider: Arc<dyn Provider>,
        _spis: Box<dyn SpiAllocator>,
        _seed: [u8; 32],
    ) -> Self {
        Self { counters: Counters::default(), transmits: VecDeque::new(), events: VecDeque::new() }
    }

    /// Replaces the configuration. Unchanged peers are left alone, changed ones start anew,
    /// missing ones are terminated.
    pub fn configure(&mut self, _now: Instant, _peers: Vec<PeerConfig>) {}

    /// Takes a datagram, without the non-ESP marker of port 4500.
    pub fn handle_datagram(&mut self, _now: Instant, _path: Path, _data: &[u8]) {}

    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`Endpoint::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event; all of them come before the transmits that were queued with them.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Brings a peer up with all its children, or one child.
    pub fn initiate(
        &mut self,
        _now: Instant,
        _peer: &str,
        _child: Option<&str>,
    ) -> Result<(), CommandError> {
        Ok(())
    }

    /// Deletes a peer's IKE SAs, or one child.
    pub fn terminate(
        &mut self,
        _now: Instant,
        _peer: &str,
        _child: Option<&str>,
    ) -> Result<(), CommandError> {
        Ok(())
    }

    /// Rekeys the IKE SA.
    pub fn rekey_ike(&mut self, _now: Instant, _peer: &str) -> Result<(), CommandError> {
        Ok(())
    }

    /// Rekeys all children of a peer, or one.
    pub fn rekey_child(
        &mut self,
        _now: Instant,
        _peer: &str,
        _child: Option<&str>,
    ) -> Result<(), CommandError> {
        Ok(())
    }

    /// Rekeys one child SA, by its inbound SPI: its soft lifetime has ended or its sequence
    /// numbers near theirs. An SA that is being replaced already is left alone.
    pub fn rekey_sa(&mut self, _now: Instant, _inbound: u32) -> Result<(), CommandError> {
        Ok(())
    }

    /// Deletes one child SA, by its inbound SPI: its hard lifetime has ended.
    pub fn expire_sa(&mut self, _now: Instant, _inbound: u32) -> Result<(), CommandError> {
        Ok(())
    }

    /// The first authenticated packet came in by this SA: the peer has it.
    pub fn inbound_used(&mut self, _now: Instant, _inbound: u32) {}

    /// All child SAs are gone with the dataplane: fresh ones are negotiated for all.
    pub fn dataplane_lost(&mut self, _now: Instant) {}

    /// Takes over child SAs found in the dataplane after a restart: they carry traffic until
    /// fresh ones do. Their SPIs must not be given out by the allocator.
    pub fn adopt(&mut self, _now: Instant, _children: Vec<AdoptedChild>) {}

    /// Says goodbye to all peers; poll until [`Endpoint::is_idle`].
    pub fn shutdown(&mut self, _now: Instant) {}

    /// Whether no IKE SA is left and nothing waits to be polled.
    pub fn is_idle(&self) -> bool {
        true
    }

    /// All IKE SAs.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSaView> + '_ {
        std::iter::empty()
    }

    /// All child SAs, adopted ones included.
    pub fn child_sas(&self) -> impl Iterator<Item = ChildSaView> + '_ {
        std::iter::empty()
    }

    /// The counters of messages.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
