//! An in-process pair of ports: what one end sends, the other receives. For tests.

use super::{BURST, Losses, MIN_FRAME, Port, RxFrame, TxFrame, frame::HeapPool};
use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use std::{os::fd::BorrowedFd, sync::Arc};

/// The size of a frame's buffer.
const FRAME_SIZE: usize = 4096;

/// One direction between two ends. The sender's frames travel to the receiver, which copies
/// (as the kernel does in copy mode), and travel back.
#[derive(Debug)]
struct Wire {
    sent: ArrayQueue<TxFrame>,
    done: ArrayQueue<TxFrame>,
}

impl Wire {
    fn new(frames: u32) -> Arc<Self> {
        Arc::new(Self {
            sent: ArrayQueue::new(frames as usize),
            done: ArrayQueue::new(frames as usize),
        })
    }
}

/// One end of a pair made by [`pair`].
#[derive(Debug)]
pub struct MemoryPort {
    to_receive: HeapPool,
    to_send: HeapPool,
    outgoing: Arc<Wire>,
    incoming: Arc<Wire>,
}

/// Two ports joined by a wire, each with `frames` frames to receive into and as many to send.
/// Either end may go to another thread.
pub fn pair(frames: u32) -> (MemoryPort, MemoryPort) {
    let (there, back) = (Wire::new(frames), Wire::new(frames));
    let end = |outgoing: &Arc<Wire>, incoming: &Arc<Wire>| MemoryPort {
        to_receive: HeapPool::new(frames, FRAME_SIZE),
        to_send: HeapPool::new(frames, FRAME_SIZE),
        outgoing: outgoing.clone(),
        incoming: incoming.clone(),
    };
    (end(&there, &back), end(&back, &there))
}

impl MemoryPort {
    /// Sends one packet, for tests: allocates, copies, transmits and flushes. `false` when no frame
    /// is free, the wire is full, or the packet is too long.
    pub fn send(&mut self, packet: &[u8]) -> bool {
        let Some(mut frame) = self.allocate() else {
            return false;
        };
        let Some(space) = frame.get_mut(..packet.len()) else {
            self.discard(frame);
            return false;
        };
        space.copy_from_slice(packet);
        frame.set_len(packet.len());
        let sent = self.transmit(frame).map_err(|frame| self.discard(frame));
        self.flush();
        sent.is_ok()
    }

    /// Receives every waiting packet (up to a burst) as a copy and releases the frames, for tests.
    pub fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut burst = ArrayVec::new();
        self.receive(&mut burst);
        let packets = burst.iter().map(|frame: &RxFrame| frame.to_vec()).collect();
        self.release(burst);
        packets
    }
}

impl Port for MemoryPort {
    fn receive(&mut self, burst: &mut ArrayVec<RxFrame, BURST>) {
        while !burst.is_full() {
            let Some(mut copy) = self.to_receive.take() else {
                return;
            };
            let Some(sent) = self.incoming.sent.pop() else {
                self.to_receive.give(copy);
                return;
            };
            if let Some(to) = copy.get_mut(..sent.packet_len()) {
                to.copy_from_slice(sent.packet());
            }
            copy.set_len(sent.packet_len());
            burst.push(copy.into_received());
            // The queue has room for every frame of the sender's pool.
            drop(self.incoming.done.push(sent));
        }
    }

    fn release(&mut self, frames: impl IntoIterator<Item = RxFrame>) {
        for frame in frames {
            self.to_receive.give(frame);
        }
    }

    #[inline(always)]
    fn allocate(&mut self) -> Option<TxFrame> {
        self.to_send.take()
    }

    fn discard(&mut self, frame: TxFrame) {
        self.to_send.give(frame);
    }

    fn transmit(&mut self, mut frame: TxFrame) -> Result<(), TxFrame> {
        if !self.to_send.owns(&frame) {
            return Err(frame);
        }
        frame.pad(MIN_FRAME);
        self.outgoing.sent.push(frame)
    }

    fn flush(&mut self) {
        while let Some(frame) = self.outgoing.done.pop() {
            self.to_send.give(frame);
        }
    }

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
    fn a_packet_arrives_at_the_other_end() {
        let (mut a, mut b) = pair(8);
        assert!(a.send(&[7; 100]));
        assert!(b.send(&[9; 3]));
        assert_eq!(b.drain(), [vec![7; 100]]);
        let mut padded = vec![9; 3];
        padded.resize(MIN_FRAME, 0);
        assert_eq!(a.drain(), [padded]);
    }

    #[test]
    fn frames_come_round() {
        let (mut a, mut b) = pair(4);
        for round in 0..100u8 {
            for _ in 0..4 {
                assert!(a.send(&[round; 60]));
            }
            assert!(!a.send(&[round; 60]), "all four are on the wire");
            assert_eq!(b.drain().len(), 4);
            a.flush();
        }
        assert_eq!(a.losses(), Losses::default());
        assert_eq!(b.losses(), Losses::default());
    }

    #[test]
    fn the_frame_returned_last_comes_first() {
        let (mut a, _b) = pair(4);
        let first = a.allocate().unwrap();
        let second = a.allocate().unwrap();
        let at = first.as_ptr();
        a.discard(second);
        a.discard(first);
        assert_eq!(a.allocate().unwrap().as_ptr(), at);
    }

    #[test]
    fn a_frame_of_another_port_is_handed_back() {
        let (mut a, mut b) = pair(4);
        let frame = a.allocate().unwrap();
        let frame = b.transmit(frame).unwrap_err();
        a.discard(frame);
        assert_eq!(a.losses(), Losses::default());
    }

    #[test]
    fn a_dropped_frame_is_counted() {
        let (mut a, _b) = pair(4);
        drop(a.allocate());
        assert_eq!(a.losses().frames_leaked, 1);
    }
}
