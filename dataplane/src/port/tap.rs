//! A queue of a TAP: the gateway's own packets come and go here, through the kernel's stack. The device lives as long as its
//! queues are open, and the routes that lead to it go with it.

#![allow(unsafe_code, reason = "the kernel's ioctl has no safe form")]

use super::{BURST, Losses, Port, RxFrame, TxFrame, frame::HeapPool};
use arrayvec::ArrayVec;
use rustix::{
    fs::{Mode, OFlags, open},
    ioctl::{Setter, ioctl, opcode},
};
use std::{
    ffi::{c_int, c_short},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The size of a frame's buffer.
const FRAME_SIZE: usize = 4096;
/// Frames in each direction.
const FRAMES: u32 = 512;
/// Rounds that leave the device alone after one that found nothing: each look is a system call.
const PAUSE: u32 = 32;

/// Of linux/if_tun.h.
const IFF_TAP: c_short = 0x0002;
const IFF_NO_PI: c_short = 0x1000;
const IFF_MULTI_QUEUE: c_short = 0x0100;
const TUNSETIFF: u32 = opcode::write::<c_int>(b'T', 202);

/// As much of `struct ifreq` as TUNSETIFF reads.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

/// Why a TAP cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no TUN/TAP driver, or keeps it from us.
    #[error("/dev/net/tun cannot be opened ({0}): load the module `tun`, or leave `tap` out")]
    Driver(io::Error),
    /// The device is not to be had.
    #[error(
        "the TAP `{name}` cannot be made ({error}): remove an interface of that name (`ip link del {name}`), or give `tap` \
         another"
    )]
    Device {
        /// Its name.
        name: String,
        /// What the kernel says.
        error: io::Error,
    },
}

/// The port.
#[derive(Debug)]
pub struct TapPort {
    device: OwnedFd,
    to_receive: HeapPool,
    to_send: HeapPool,
    /// Rounds until the device is looked at again.
    pause: u32,
    /// Frames that the kernel did not take.
    refused: u64,
}

impl TapPort {
    /// Opens another queue of the TAP of this name, which the first one makes.
    ///
    /// # Errors
    ///
    /// See [`TapError`].
    pub fn open(name: &str) -> Result<Self, TapError> {
        let device = open(
            "/dev/net/tun",
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| TapError::Driver(error.into()))?;
        let refused = |error: io::Error| TapError::Device {
            name: name.to_owned(),
            error,
        };
        let mut request = Request {
            name: [0; 16],
            flags: IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE,
            rest: [0; 22],
        };
        // The last byte stays zero.
        request
            .name
            .get_mut(..name.len())
            .filter(|space| space.len() < 16)
            .ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?
            .copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `Request` has the size and the shape of, and keeps no
        // pointer to it.
        unsafe { ioctl(&device, Setter::<TUNSETIFF, Request>::new(request)) }
            .map_err(|error| refused(error.into()))?;
        Ok(Self {
            device,
            to_receive: HeapPool::new(FRAMES, FRAME_SIZE),
            to_send: HeapPool::new(FRAMES, FRAME_SIZE),
            pause: 0,
            refused: 0,
        })
    }
}

impl Port for TapPort {
    fn receive(&mut self, burst: &mut ArrayVec<RxFrame, BURST>) {
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        while burst.remaining_capacity() > 0 {
            let Some(mut frame) = self.to_receive.take() else {
                return;
            };
            match rustix::io::read(&self.device, &mut *frame) {
                Ok(length) if length > 0 => {
                    frame.set_len(length);
                    burst.push(frame.into_received());
                }
                // Nothing there, or the device is down.
                _ => {
                    self.to_receive.give(frame);
                    self.pause = PAUSE;
                    return;
                }
            }
        }
    }

    fn release(&mut self, frames: impl IntoIterator<Item = RxFrame>) {
        for frame in frames {
            self.to_receive.give(frame);
        }
    }

    fn allocate(&mut self) -> Option<TxFrame> {
        self.to_send.take()
    }

    fn discard(&mut self, frame: TxFrame) {
        self.to_send.give(frame);
    }

    fn transmit(&mut self, frame: TxFrame) -> Result<(), TxFrame> {
        if !self.to_send.owns(&frame) {
            return Err(frame);
        }
        if rustix::io::write(&self.device, frame.packet()).is_err() {
            self.refused += 1;
        }
        self.to_send.give(frame);
        Ok(())
    }

    fn flush(&mut self) {}

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }

    fn capacity(&self) -> usize {
        FRAME_SIZE
    }

    fn losses(&self) -> Losses {
        Losses {
            receive_dropped: self.refused,
            frames_leaked: self.to_receive.lost() + self.to_send.lost(),
            ..Losses::default()
        }
    }
}
