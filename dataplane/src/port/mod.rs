//! Ports: where a worker's packets come from and go to, one queue of one interface each.
//!
//! Every kind of port hands out the same [`RxFrame`] and [`TxFrame`], so that the pipeline knows no
//! drivers. [`XdpPort`](xdp::XdpPort) is the real thing, [`MemoryPort`](memory::MemoryPort) joins
//! two ends inside one process for tests, a [`TapPort`](tap::TapPort) is the way to the gateway itself, and a [`StagedPort`](staged::StagedPort) is served by hand for benches.

mod frame;
mod interface;
pub mod memory;
mod open;
mod prefill;
mod real;
pub mod staged;
pub mod tap;
pub mod xdp;

use arrayvec::ArrayVec;
use std::os::fd::BorrowedFd;

pub use frame::{RxFrame, TxFrame};
pub use interface::{Interface, InterfaceError};
pub use open::{CopyMode, OpenError, Settings};
pub use real::RealPort;

/// The most packets that one burst holds.
pub const BURST: usize = 64;

/// The shortest Ethernet frame, without its check sequence; shorter ones are padded with zeros when sent.
pub const MIN_FRAME: usize = 60;

/// One queue of one interface, owned by one worker. No call blocks, allocates or panics.
pub trait Port: Send {
    /// Appends received packets to `burst`, as many as are there and as it has room for.
    fn receive(&mut self, burst: &mut ArrayVec<RxFrame, BURST>);

    /// Gives received frames back, to be received into again at the latest after the next [`flush`](Self::flush). Frames of
    /// another port are dropped and counted as lost by that port.
    fn release(&mut self, frames: impl IntoIterator<Item = RxFrame>);

    /// An empty frame to fill; `None` when all are out or on their way to the wire. The one
    /// returned last comes first, since it is still in the cache.
    fn allocate(&mut self) -> Option<TxFrame>;

    /// Gives an allocated frame back unsent.
    fn discard(&mut self, frame: TxFrame);

    /// Queues a frame for sending, at the latest at the next [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// Gives the frame back when the queue is full, or when the frame is another port's.
    fn transmit(&mut self, frame: TxFrame) -> Result<(), TxFrame>;

    /// Sends what is queued and takes back what was sent. Bounded: what the kernel does not take now
    /// stays queued for the next call.
    fn flush(&mut self);

    /// Becomes readable when packets arrive; for a worker that sleeps. Call
    /// [`flush`](Self::flush) before sleeping.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// How many bytes a frame to be sent can hold; at least 1792.
    fn capacity(&self) -> usize;

    /// What was lost below or beside the worker since the port was opened. This may cost a system call:
    /// for once a second, not once a burst.
    fn losses(&self) -> Losses;
}

/// Packets lost outside the pipeline, each since the port was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// Dropped by the kernel because the worker did not empty the receive ring in time.
    pub receive_ring_full: u64,
    /// Dropped by the kernel because no empty frame was there to receive into.
    pub fill_ring_empty: u64,
    /// Dropped by the kernel for other reasons, such as a packet that no frame can hold.
    pub receive_dropped: u64,
    /// Descriptors that the kernel refused or that made no sense; always 0 unless there is a bug.
    pub invalid_descriptors: u64,
    /// Frames that were dropped instead of returned; always 0 unless there is a bug.
    pub frames_leaked: u64,
}
