//! The shared-memory contract between the two planes.
//!
//! The dataplane makes a [`Segment`] of sealed memory and listens in its run directory; the control plane connects
//! ([`ControlChannel::connect`]) with the [`Setup`] that it wants and is handed the segment. From then on each worker,
//! and the steward that looks after them, has a ring of [`Command`]s down, a ring of [`Event`]s up, a block of
//! [`Counter`]s and the records of its SAs.
//!
//! What is shared is words, each an atomic of its own. A record is copied out, then judged; neither side trusts a
//! count or a field that the other has written.

mod capture;
mod command;
mod control;
mod counter;
mod event;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod id;
mod layout;
mod ledger;
mod mapping;
mod record;
pub mod ring;
mod sa_record;
mod segment;
pub mod seqlock;
mod setup;
mod undumpable;
pub mod words;
mod worker;

pub use capture::{
    CAPTURE_SLOTS, CaptureOrder, Captured, Heading, MAX_SNAP, PacketSender, Sighting,
};
pub use command::{
    Command, CommandError, DfPolicy, InboundSa, KeyMaterial, Lifetime, Mode, Original, OutboundSa,
    Policy, PolicyAction, Selector, Share, Tfc, Transform, UdpPorts,
};
pub use control::{CommandSender, ControlChannel, Counters, EventError};
pub use counter::{Counter, PortCounter, Severity, Unit};
pub use event::Event;
pub use handshake::{
    AcceptError, BindError, ConnectError, Connection, GrantError, Listener, LocalError, Peer,
    Pending, SOCKET_NAME,
};
pub use id::{Epoch, Label, PolicyId, PortId, Prefix, SaId, WorkerId};
pub use layout::{COMMAND_SLOTS, EVENT_SLOTS, LAYOUT_HASH, VERSION};
pub use ledger::{Account, Ledger, Subject};
pub use mapping::{MapError, NotLocked};
pub use ring::{Full, Sequence};
pub use sa_record::{Direction, SaRecord, SaState, SaStatistics};
pub use segment::{Segment, SegmentError};
pub use setup::{
    CopyMode, Facts, MAX_ENGINE_NAME, MAX_INTERFACE_NAME, MAX_PORTS, MAX_RING_FRAMES,
    MAX_SA_CAPACITY, MAX_VLAN, MAX_WORKERS, Polling, PortFacts, PortMode, PortSetup, PortVlan,
    Role, Setup, SetupDifference, SetupError, WorkerSetup,
};
pub use undumpable::make_undumpable;
pub use worker::{
    CommandReceiver, CounterWriter, EventSender, Heartbeat, Received, SaWriter, WakeReceiver,
    Waker, WorkerEnd,
};
