//! The two kinds of port that a real gateway has: an interface's queue, and the TAP's.

use super::{BURST, Losses, Port, RxFrame, TxFrame, tap::TapPort, xdp::XdpPort};
use arrayvec::ArrayVec;
use std::os::fd::BorrowedFd;

/// A port with a kernel behind it.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a worker has a few, in one vector"
)]
pub enum RealPort {
    /// AF_XDP.
    Xdp(XdpPort),
    /// The gateway's own packets.
    Tap(TapPort),
}

impl Port for RealPort {
    #[inline]
    fn receive(&mut self, burst: &mut ArrayVec<RxFrame, BURST>) {
        match self {
            Self::Xdp(port) => port.receive(burst),
            Self::Tap(port) => port.receive(burst),
        }
    }

    #[inline(always)]
    fn release(&mut self, frames: impl IntoIterator<Item = RxFrame>) {
        match self {
            Self::Xdp(port) => port.release(frames),
            Self::Tap(port) => port.release(frames),
        }
    }

    #[inline(always)]
    fn allocate(&mut self) -> Option<TxFrame> {
        match self {
            Self::Xdp(port) => port.allocate(),
            Self::Tap(port) => port.allocate(),
        }
    }

    #[inline(always)]
    fn discard(&mut self, frame: TxFrame) {
        match self {
            Self::Xdp(port) => port.discard(frame),
            Self::Tap(port) => port.discard(frame),
        }
    }

    #[inline(always)]
    fn transmit(&mut self, frame: TxFrame) -> Result<(), TxFrame> {
        match self {
            Self::Xdp(port) => port.transmit(frame),
            Self::Tap(port) => port.transmit(frame),
        }
    }

    #[inline]
    fn flush(&mut self) {
        match self {
            Self::Xdp(port) => port.flush(),
            Self::Tap(port) => port.flush(),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Xdp(port) => port.poll_fd(),
            Self::Tap(port) => port.poll_fd(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Self::Xdp(port) => port.capacity(),
            Self::Tap(port) => port.capacity(),
        }
    }

    fn losses(&self) -> Losses {
        match self {
            Self::Xdp(port) => port.losses(),
            Self::Tap(port) => port.losses(),
        }
    }
}
