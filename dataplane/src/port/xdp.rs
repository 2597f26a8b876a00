//! The AF_XDP port: one socket on one queue of one interface, with a UMEM of its own.
//!
//! The kernel's side of every ring is behind `xsk-rs`, whose calls are unsafe because it cannot know who
//! holds a frame. We know: a frame's index is in exactly one place, the list of free frames,
//! a token, or a ring, and each function below moves it from one to the next.

#![allow(unsafe_code)]

use super::{
    BURST, Losses, MIN_FRAME, Port, RxFrame, TxFrame,
    frame::FrameMemory,
    open::{self, CopyMode, OpenError, Settings},
};
use arrayvec::ArrayVec;
use rustix::net::{SendFlags, send, sockopt};
use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

/// How often one flush asks the kernel to send. One kick sends a whole budget; more are needed only when
/// the kernel stopped early.
const KICKS: usize = 4;

/// How many bursts of sent frames one flush takes back.
const REAPS: usize = 8;

/// What is left before a packet in a frame: XDP's own headroom (XDP_PACKET_HEADROOM).
pub(super) const HEADROOM: usize = 256;

/// One queue of one interface through AF_XDP.
///
/// # Invariants
///
/// A frame's index is below `rx_frames` if it serves receiving and at or above if it serves sending,
/// for ever. A receiving frame is in the fill ring, with the kernel, in the receive ring, in `to_fill`, or in a
/// token; a sending frame is in `free`, in a token, in `to_send`, in the transmit ring, with the
/// kernel, or in the completion ring; never in two of these.
pub struct XdpPort {
    receive: RxQueue,
    transmit: TxQueue,
    fill: FillQueue,
    complete: CompQueue,
    memory: FrameMemory,
    umem: Umem,
    /// The descriptor of every frame, by index.
    descriptors: Box<[FrameDesc]>,
    free: Vec<u32>,
    to_fill: ArrayVec<FrameDesc, BURST>,
    to_send: ArrayVec<FrameDesc, BURST>,
    /// What a ring was read into last.
    scratch: Box<[FrameDesc; BURST]>,
    transmit_ring: u32,
    frame_shift: u32,
    mode: CopyMode,
    invalid: u64,
}

impl XdpPort {
    /// Fills a fill ring and binds a socket to a queue. It receives nothing until the XDP
    /// program sends it something. To be called on the main thread, with privileges; the port may then go to
    /// its worker.
    ///
    /// # Errors
    ///
    /// Each thing that can be missing has its own sentence, see [`OpenError`].
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let opened = open::open(settings)?;
        let frame_size = settings.frame_size();
        let descriptors = opened.descriptors.into_boxed_slice();
        let frames = descriptors.len() as u32;
        // SAFETY: the first frame is a frame of this UMEM, and nobody has got it yet.
        let first = unsafe { opened.umem.data(&descriptors[0]) };
        let base = first.contents().as_ptr().expose_provenance() - descriptors[0].addr();
        let base = ptr::NonNull::new(ptr::with_exposed_provenance_mut::<u8>(base))
            .ok_or(OpenError::NoMemory { bytes: 0 })?;
        // SAFETY: xsk-rs maps `frames` frames of this size in one piece (anonymous, so initialised), handed the
        // pointer to C, and keeps the mapping as long as a clone of the UMEM lives.
        let memory = unsafe {
            FrameMemory::new(
                base,
                frames,
                frame_size,
                HEADROOM,
                Box::new(opened.umem.clone()),
            )
        };
        let mut port = Self {
            receive: opened.receive,
            transmit: opened.transmit,
            fill: opened.fill,
            complete: opened.complete,
            memory,
            umem: opened.umem,
            free: (settings.frames..frames).rev().collect(),
            to_fill: ArrayVec::new(),
            to_send: ArrayVec::new(),
            scratch: Box::new([FrameDesc::default(); BURST]),
            transmit_ring: settings.frames,
            frame_shift: frame_size.trailing_zeros(),
            mode: opened.mode,
            invalid: 0,
            descriptors,
        };
        port.wake_filler();
        Ok(port)
    }

    /// Whether the driver copies or not, as the kernel reports it.
    pub fn copy_mode(&self) -> CopyMode {
        self.mode
    }

    /// The socket, to be put into the map of the XDP program.
    pub fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the queues live.
        unsafe { BorrowedFd::borrow_raw(self.receive.fd().as_raw_fd()) }
    }

    /// Hands the gathered frames to the fill ring, which has room for every receiving frame.
    #[inline]
    fn submit_fill(&mut self) {
        // SAFETY: `to_fill` holds receiving frames that came out of tokens, each once; they are
        // forgotten here as soon as the ring has them.
        let filled = unsafe { self.fill.produce(&self.to_fill) };
        self.invalid += (self.to_fill.len() - filled) as u64;
        self.to_fill.clear();
    }

    /// Hands the gathered frames to the transmit ring; `false` if it has no room for all of them.
    #[inline]
    fn submit_send(&mut self) -> bool {
        // SAFETY: `to_send` holds sending frames that came out of tokens, each once; they are
        // forgotten here as soon as the ring has them.
        let sent = unsafe { self.transmit.produce(&self.to_send) };
        if sent == self.to_send.len() {
            self.to_send.clear();
        }
        self.to_send.is_empty()
    }

    /// Takes back what the kernel has sent.
    fn reap(&mut self) {
        for _ in 0..REAPS {
            // SAFETY: the descriptors are overwritten with frames of this UMEM.
            let count = unsafe { self.complete.consume(&mut self.scratch[..]) };
            for descriptor in self.scratch.iter().take(count) {
                let index = descriptor.addr() >> self.frame_shift;
                if index < self.descriptors.len() && self.free.len() < self.free.capacity() {
                    self.free.push(index as u32);
                } else {
                    self.invalid += 1;
                }
            }
            if count < BURST {
                return;
            }
        }
    }

    /// How many packets the kernel has not taken from the transmit ring.
    #[inline]
    fn unsent(&mut self) -> u32 {
        self.transmit_ring
            .saturating_sub(self.transmit.nb_free_exact())
    }

    /// Asks the kernel to send until the ring is empty or it makes no progress: it answers EAGAIN also
    /// after having sent something, so the ring is what counts.
    fn kick(&mut self) {
        let mut unsent = self.unsent();
        for _ in 0..KICKS {
            if unsent == 0 || !self.transmit.needs_wakeup() {
                return;
            }
            let _ = send(self.socket(), &[], SendFlags::DONTWAIT);
            let left = self.unsent();
            if left == unsent {
                return;
            }
            unsent = left;
        }
    }

    /// Zero-copy drivers may sleep when the fill ring ran dry.
    #[inline]
    fn wake_filler(&mut self) {
        if self.fill.needs_wakeup() {
            let _ = self.fill.wakeup(self.receive.fd_mut(), 0);
        }
    }
}

impl fmt::Debug for XdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdpPort")
            .field("socket", &self.socket())
            .field("mode", &self.mode)
            .field("frames", &self.descriptors.len())
            .finish_non_exhaustive()
    }
}

impl Port for XdpPort {
    #[inline]
    fn receive(&mut self, burst: &mut ArrayVec<RxFrame, BURST>) {
        let room = burst.remaining_capacity();
        // SAFETY: the descriptors are overwritten with frames of this UMEM.
        let count = unsafe { self.receive.consume(&mut self.scratch[..room]) };
        for descriptor in self.scratch.iter().take(count) {
            let length = descriptor.lengths().data();
            // SAFETY: the kernel has just given this frame to us, and nobody else holds it.
            match unsafe { self.memory.claim_received(descriptor.addr(), length) } {
                Some(frame) => burst.push(frame),
                None => self.invalid += 1,
            }
        }
    }

    #[inline(always)]
    fn release(&mut self, frames: impl IntoIterator<Item = RxFrame>) {
        for frame in frames {
            let Some(index) = self.memory.reclaim(frame) else {
                continue;
            };
            if let Some(&descriptor) = self.descriptors.get(index as usize) {
                self.to_fill.push(descriptor);
            }
            if self.to_fill.is_full() {
                self.submit_fill();
            }
        }
    }

    #[inline(always)]
    fn allocate(&mut self) -> Option<TxFrame> {
        if self.free.is_empty() {
            self.reap();
        }
        let index = self.free.pop()?;
        // SAFETY: the index was in the free list, so nobody else holds the frame.
        Some(unsafe { self.memory.claim_empty(index) })
    }

    #[inline(always)]
    fn discard(&mut self, frame: TxFrame) {
        if let Some(index) = self.memory.reclaim(frame) {
            self.free.push(index);
        }
    }

    #[inline(always)]
    fn transmit(&mut self, mut frame: TxFrame) -> Result<(), TxFrame> {
        if !self.memory.owns(&frame) || (self.to_send.is_full() && !self.submit_send()) {
            return Err(frame);
        }
        frame.pad(MIN_FRAME);
        let length = frame.packet_len();
        let index = self.memory.reclaim(frame);
        let descriptor = index.and_then(|index| self.descriptors.get(index as usize));
        if let Some(&descriptor) = descriptor {
            let mut descriptor = descriptor;
            // SAFETY: the frame came out of its token just now, so nobody else touches it.
            let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
            data.cursor().set_pos(length);
            self.to_send.push(descriptor);
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.submit_fill();
        self.submit_send();
        self.kick();
        self.reap();
        self.wake_filler();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket())
    }

    fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    fn losses(&self) -> Losses {
        let mut losses = Losses {
            invalid_descriptors: self.invalid,
            frames_leaked: self.memory.lost(),
            ..Losses::default()
        };
        if let Ok(kernel) = sockopt::xdp_statistics(self.socket()) {
            losses.receive_ring_full = kernel.rx_ring_full.unwrap_or(0);
            losses.fill_ring_empty = kernel.rx_fill_ring_empty_descs.unwrap_or(0);
            losses.receive_dropped = kernel.rx_dropped;
            if self.mode == CopyMode::Copy {
                // The kernel counts a packet without a frame under both names.
                losses.receive_dropped -= losses.fill_ring_empty.min(kernel.rx_dropped);
            }
            losses.invalid_descriptors += kernel.rx_invalid_descs + kernel.tx_invalid_descs;
        }
        losses
    }
}
