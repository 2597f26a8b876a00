//! A port without a wire: packets are laid in by hand, and what is sent is taken out by hand. For benches that are to see
//! the worker's own time and nothing else.

use super::{BURST, Losses, MIN_FRAME, Port, RxFrame, TxFrame, frame::HeapPool};
use arrayvec::ArrayVec;
use std::os::fd::BorrowedFd;

/// The size of a frame's buffer.
const FRAME_SIZE: usize = 4096;

/// The port. It holds one burst of received packets and one of sent ones.
#[derive(Debug)]
pub struct StagedPort {
    to_receive: HeapPool,
    to_send: HeapPool,
    received: ArrayVec<RxFrame, BURST>,
    sent: ArrayVec<TxFrame, BURST>,
}

impl StagedPort {
    /// A port with `frames` frames to receive into and as many to send.
    pub fn new(frames: u32) -> Self {
        Self {
            to_receive: HeapPool::new(frames, FRAME_SIZE),
            to_send: HeapPool::new(frames, FRAME_SIZE),
            received: ArrayVec::new(),
            sent: ArrayVec::new(),
        }
    }

    /// Lays a packet in, to be received next. `false` when a burst lies there already, no frame is free, or the packet is
    /// longer than a frame.
    pub fn lay_in(&mut self, packet: &[u8]) -> bool {
        if self.received.is_full() {
            return false;
        }
        let Some(mut frame) = self.to_receive.take() else {
            return false;
        };
        let Some(space) = frame.get_mut(..packet.len()) else {
            self.to_receive.give(frame);
            return false;
        };
        space.copy_from_slice(packet);
        frame.set_len(packet.len());
        self.received.push(frame.into_received());
        true
    }

    /// Shows each packet that was sent, in order, and takes its frame back.
    pub fn take_out(&mut self, mut look: impl FnMut(&[u8])) {
        for frame in self.sent.drain(..) {
            look(frame.packet());
            self.to_send.give(frame);
        }
    }
}

impl Port for StagedPort {
    #[inline]
    fn receive(&mut self, burst: &mut ArrayVec<RxFrame, BURST>) {
        let room = burst.remaining_capacity().min(self.received.len());
        burst.extend(self.received.drain(..room));
    }

    #[inline(always)]
    fn release(&mut self, frames: impl IntoIterator<Item = RxFrame>) {
        for frame in frames {
            self.to_receive.give(frame);
        }
    }

    #[inline(always)]
    fn allocate(&mut self) -> Option<TxFrame> {
        self.to_send.take()
    }

    #[inline(always)]
    fn discard(&mut self, frame: TxFrame) {
        self.to_send.give(frame);
    }

    #[inline(always)]
    fn transmit(&mut self, mut frame: TxFrame) -> Result<(), TxFrame> {
        if !self.to_send.owns(&frame) {
            return Err(frame);
        }
        frame.pad(MIN_FRAME);
        self.sent.try_push(frame).map_err(|full| full.element())
    }

    fn flush(&mut self) {}

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn capacity(&self) -> usize {
        FRAME_SIZE
    }

    fn losses(&self) -> Losses {
        Losses {
            frames_leaked: self.to_receive.lost() + self.to_send.lost(),
            ..Losses::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_in_is_received_and_what_is_sent_taken_out() {
        let mut port = StagedPort::new(BURST as u32);
        for round in 0..3u8 {
            while port.lay_in(&[round; 100]) {}
            let mut burst = ArrayVec::new();
            port.receive(&mut burst);
            assert_eq!(burst.len(), BURST);
            assert!(burst.iter().all(|frame| **frame == [round; 100]));
            port.release(burst);
            let mut frame = port.allocate().unwrap();
            frame[..3].copy_from_slice(&[round; 3]);
            frame.set_len(3);
            port.transmit(frame).unwrap();
            let mut sent = Vec::new();
            port.take_out(|packet| sent.push(packet.to_vec()));
            assert_eq!(sent.len(), 1);
            assert_eq!((sent[0].len(), &sent[0][..3]), (MIN_FRAME, &[round; 3][..]));
        }
        assert_eq!(port.losses(), Losses::default());
    }

    #[test]
    fn a_full_port_gives_the_frame_back() {
        let mut port = StagedPort::new(2 * BURST as u32);
        for _ in 0..BURST {
            let frame = port.allocate().unwrap();
            port.transmit(frame).unwrap();
        }
        let frame = port.allocate().unwrap();
        let frame = port.transmit(frame).unwrap_err();
        port.discard(frame);
        assert!(!port.lay_in(&[0; FRAME_SIZE + 1]));
        port.take_out(|_| {});
        assert_eq!(port.losses(), Losses::default());
    }
}
