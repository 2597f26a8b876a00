//! Frames lent between workers.
//!
//! A NIC may bring a packet of one worker's SA to another. That one lends the frame to the owner, who gives it
//! back once the packet is sealed or opened into a frame of its own. Each pair of workers has a queue each
//! way, and a queue back; order is kept. What is out is bounded, so giving back never fails.

use super::core::Origin;
use crate::port::{BURST, RxFrame};
use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
    },
};

/// The most frames that one worker has out with another.
pub const MAX_LENT: usize = 1024;

/// A frame on its way between workers.
#[derive(Debug)]
pub struct Lent {
    /// The frame.
    pub frame: RxFrame,
    /// The port that it came from and goes back to.
    pub port: u8,
    /// Where its packet comes from, which says what kind of frame it is.
    pub origin: Origin,
}

/// One direction between two workers.
#[derive(Debug)]
struct Lane {
    out: ArrayQueue<Lent>,
    back: ArrayQueue<Lent>,
}

/// How a worker that may sleep is woken.
#[derive(Debug)]
struct Bell {
    asleep: AtomicBool,
    fd: OwnedFd,
}

impl Bell {
    fn ring(&self) {
        // Pairs with the fence in `Handoff::fall_asleep`: either we see the sleeper, or it sees our frames.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            // It fails only when the counter is full, and then the bell rings anyway.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }
}

#[derive(Debug)]
struct Peer {
    to: Arc<Lane>,
    from: Arc<Lane>,
    bell: Arc<Bell>,
    /// Frames of ours that it has.
    out: usize,
    /// Frames went to it since its bell was rung.
    expecting: bool,
}

/// One worker's ends of the queues between workers.
#[derive(Debug)]
pub struct Handoff {
    /// By number; none for the worker itself.
    peers: Vec<Option<Peer>>,
    bell: Arc<Bell>,
}

impl Handoff {
    /// The ends of `workers` workers, in order.
    ///
    /// # Errors
    ///
    /// When the system gives no eventfd.
    pub fn mesh(workers: usize) -> io::Result<Vec<Self>> {
        let bells = (0..workers)
            .map(|_| {
                let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                Ok(Arc::new(Bell {
                    asleep: AtomicBool::new(false),
                    fd,
                }))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let lane = || {
            Arc::new(Lane {
                out: ArrayQueue::new(MAX_LENT),
                back: ArrayQueue::new(MAX_LENT),
            })
        };
        let lanes: Vec<Vec<_>> = (0..workers)
            .map(|_| (0..workers).map(|_| lane()).collect())
            .collect();
        let peer = |me: usize, other: usize| {
            (me != other).then(|| Peer {
                to: lanes[me][other].clone(),
                from: lanes[other][me].clone(),
                bell: bells[other].clone(),
                out: 0,
                expecting: false,
            })
        };
        Ok((0..workers)
            .map(|me| Self {
                peers: (0..workers).map(|other| peer(me, other)).collect(),
                bell: bells[me].clone(),
            })
            .collect())
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.peers.len()
    }

    /// Lends a frame to another worker.
    ///
    /// # Errors
    ///
    /// Gives it back when too many are out already, or when there is no such worker.
    pub fn lend(&mut self, to: u16, lent: Lent) -> Result<(), Lent> {
        let Some(Some(peer)) = self.peers.get_mut(usize::from(to)) else {
            return Err(lent);
        };
        if peer.out >= MAX_LENT {
            return Err(lent);
        }
        peer.to.out.push(lent)?;
        peer.out += 1;
        peer.expecting = true;
        Ok(())
    }

    /// Takes what a worker lends, as much as there is room for.
    pub fn borrow(&mut self, from: usize, mut take: impl FnMut(Lent), room: usize) {
        if let Some(Some(peer)) = self.peers.get(from) {
            for _ in 0..room {
                match peer.from.out.pop() {
                    Some(lent) => take(lent),
                    None => return,
                }
            }
        }
    }

    /// Gives a borrowed frame back.
    pub fn give_back(&mut self, to: u16, lent: Lent) {
        if let Some(Some(peer)) = self.peers.get_mut(usize::from(to)) {
            // There is room for all that can be out. Were there none, the frame's port would count it as lost.
            drop(peer.from.back.push(lent));
        }
    }

    /// Takes back what others are done with, a burst at most.
    pub fn take_back(&mut self) -> ArrayVec<Lent, BURST> {
        let mut returned = ArrayVec::new();
        for peer in self.peers.iter_mut().flatten() {
            while !returned.is_full() {
                match peer.to.back.pop() {
                    Some(lent) => {
                        peer.out -= 1;
                        returned.push(lent);
                    }
                    None => break,
                }
            }
        }
        returned
    }

    /// Wakes the workers that were lent frames, if they sleep. Once a burst.
    pub fn ring(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            if peer.expecting {
                peer.expecting = false;
                peer.bell.ring();
            }
        }
    }

    /// Says that this worker is about to sleep. `false` when there is work after all.
    pub fn fall_asleep(&self) -> bool {
        self.bell.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = self
            .peers
            .iter()
            .flatten()
            .all(|peer| peer.from.out.is_empty() && peer.to.back.is_empty());
        if !idle {
            self.bell.asleep.store(false, Ordering::Relaxed);
        }
        idle
    }

    /// Says that this worker is awake, and silences the bell.
    pub fn awake(&self) {
        self.bell.asleep.store(false, Ordering::Relaxed);
        let _ = rustix::io::read(&self.bell.fd, &mut [0u8; 8]);
    }

    /// Readable when a frame came for a sleeping worker.
    pub fn bell_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{Losses, Port, memory};

    fn frame(sender: &mut impl Port, port: &mut memory::MemoryPort, byte: u8) -> RxFrame {
        let mut frame = sender.allocate().unwrap();
        frame[..60].fill(byte);
        frame.set_len(60);
        sender.transmit(frame).unwrap();
        let mut burst = ArrayVec::new();
        port.receive(&mut burst);
        sender.flush();
        burst.pop().unwrap()
    }

    #[test]
    fn frames_go_and_come_back_in_order() {
        let (mut sender, mut port) = memory::pair(8);
        let mut ends = Handoff::mesh(2).unwrap();
        let mut second = ends.pop().unwrap();
        let mut first = ends.pop().unwrap();
        for byte in 0..3 {
            let frame = frame(&mut sender, &mut port, byte);
            first
                .lend(
                    1,
                    Lent {
                        frame,
                        port: 5,
                        origin: Origin::Wire,
                    },
                )
                .unwrap();
        }
        assert!(!second.fall_asleep());
        let mut borrowed = Vec::new();
        second.borrow(0, |lent| borrowed.push(lent), 64);
        assert_eq!(
            borrowed.iter().map(|l| l.frame[0]).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert!(first.take_back().is_empty());
        for lent in borrowed {
            assert_eq!(lent.port, 5);
            second.give_back(0, lent);
        }
        assert!(second.fall_asleep());
        let returned = first.take_back();
        assert_eq!(returned.len(), 3);
        port.release(returned.into_iter().map(|lent| lent.frame));
        assert_eq!(port.losses(), Losses::default());
    }

    #[test]
    fn a_sleeper_is_woken() {
        let (mut sender, mut port) = memory::pair(8);
        let mut ends = Handoff::mesh(2).unwrap();
        let second = ends.pop().unwrap();
        let mut first = ends.pop().unwrap();
        assert!(second.fall_asleep());
        let frame = frame(&mut sender, &mut port, 1);
        first
            .lend(
                1,
                Lent {
                    frame,
                    port: 0,
                    origin: Origin::Wire,
                },
            )
            .unwrap();
        first.ring();
        let mut count = [0u8; 8];
        assert_eq!(rustix::io::read(second.bell_fd(), &mut count), Ok(8));
        second.awake();
    }

    #[test]
    fn a_worker_lends_to_no_stranger_and_not_to_itself() {
        let (mut sender, mut port) = memory::pair(8);
        let mut ends = Handoff::mesh(1).unwrap();
        for to in 0..2 {
            let frame = frame(&mut sender, &mut port, 1);
            let refused = ends[0]
                .lend(
                    to,
                    Lent {
                        frame,
                        port: 0,
                        origin: Origin::Wire,
                    },
                )
                .unwrap_err();
            port.release(Some(refused.frame));
        }
    }
}
