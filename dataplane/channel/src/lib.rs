//! The shared-memory contract between the two planes.

mod command;
mod counter;
mod event;
mod id;
pub mod ring;
mod sa_record;
mod setup;
pub mod words;

pub use command::{
    Aead, Command, CommandError, DfPolicy, InboundSa, KeyMaterial, Lifetime, OutboundSa, Policy,
    PolicyAction, Selector, UdpPorts,
};
pub use counter::{Counter, PortCounter, Severity, Unit};
pub use event::Event;
pub use id::{Epoch, Label, PolicyId, PortId, Prefix, SaId, WorkerId};
pub use ring::{Full, Sequence};
pub use sa_record::{Direction, SaRecord, SaState, SaStatistics};
pub use setup::{
    CopyMode, Facts, MAX_ENGINE_NAME, MAX_INTERFACE_NAME, MAX_PORTS, MAX_RING_FRAMES,
    MAX_SA_CAPACITY, MAX_WORKERS, Polling, PortFacts, PortMode, PortSetup, Role, Setup,
    WorkerSetup,
};
