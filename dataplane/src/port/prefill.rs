//! Filling the fill ring before the socket is bound.
//!
//! Some drivers (igb) take the frames for a whole hardware ring while they switch a queue to
//! zero-copy, and fail or stall if the fill ring is empty then. `xsk-rs` hands out the ring only after the bind, so
//! this maps the ring a second time, writes it, and unmaps it again.
//!
//! libxdp does not see what was written: it believes the ring empty and its own position 0. That holds together
//! because exactly the ring's size is written: position 0 and position `size` are the same slot, publishing adds
//! to the shared producer instead of setting it, and the room that it believes to be there beyond the
//! true one is never used, since no more frames exist than the ring has slots.

#![allow(unsafe_code)]

use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    net::{AddressFamily, sockopt, xdp::XDP_UMEM_PGOFF_FILL_RING},
};
use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{BorrowedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// The AF_XDP sockets that this process has open.
pub(super) fn sockets() -> BTreeSet<RawFd> {
    let open = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    open.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&fd| {
            // SAFETY: used for one question within this call; a descriptor that was closed
            // meanwhile answers with an error.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            sockopt::socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::XDP)
        })
        .collect()
}

/// Writes `addresses`, exactly as many as the ring has slots, into the fill ring of an unbound socket that has a
/// UMEM.
pub(super) fn prefill(
    socket: BorrowedFd<'_>,
    addresses: impl ExactSizeIterator<Item = u64>,
) -> io::Result<()> {
    let offsets = sockopt::xdp_mmap_offsets(socket)?.fr;
    let slots = addresses.len();
    let length = offsets.desc as usize + slots * size_of::<u64>();
    // SAFETY: the kernel chooses the place; nothing of ours is there.
    let ring = unsafe {
        mmap(
            ptr::null_mut(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::POPULATE,
            socket,
            XDP_UMEM_PGOFF_FILL_RING,
        )?
    };
    // SAFETY: the kernel says where in this mapping, aligned, the producer and the slots are; the
    // mapping ends after `slots` slots and lives until the unmapping below.
    unsafe {
        let slot = ring.byte_add(offsets.desc as usize).cast::<AtomicU64>();
        for (index, address) in addresses.enumerate().take(slots) {
            (*slot.add(index)).store(address, Ordering::Relaxed);
        }
        let producer = ring.byte_add(offsets.producer as usize).cast::<AtomicU32>();
        (*producer).store(slots as u32, Ordering::Release);
        munmap(ring, length)?;
    }
    Ok(())
}
