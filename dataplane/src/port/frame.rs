//! Owned tokens for packet frames, and the memory that they point into.
//!
//! A frame is a fixed-size buffer in memory that may be shared with the kernel (an AF_XDP UMEM).
//! At any moment it belongs to exactly one of: the port's free list, a ring that the kernel
//! consumes, or one token ([`RxFrame`] or [`TxFrame`]). Whoever holds the token may touch the bytes;
//! nobody else does. This module and `xdp.rs` are the only places where that rule is kept by hand.

#![allow(unsafe_code)]

use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicIsize, Ordering},
};

/// The part of a [`FrameMemory`] that outlives the port for as long as a token does.
struct Shared {
    /// Zero minus the tokens dropped instead of returned; once the port is gone, the tokens that
    /// are still out. See [`FrameMemory`] for why it reaches zero once only.
    balance: AtomicIsize,
    /// Owns the mapping; dropped with this record.
    _mapping: Box<dyn Send>,
}

/// The frames of one port: where they are, and how many tokens are out.
///
/// # Invariants
///
/// - `base..base + frames * frame_size` stays mapped, readable and writable for as long as the
///   `Shared` record lives, because the record owns the mapping.
/// - The record lives until the port and every token are gone. Tokens are not counted one by one
///   with an atomic (that would cost some 40 cycles a packet): the port counts in `out` what it hands
///   out and takes back, and only a token that is dropped instead of returned touches `balance`.
///   Before the port is dropped `balance` is at most zero and only sinks, so no token sees it *become*
///   zero. The port's drop adds `out`, which includes the tokens already dropped, so from then on
///   `balance` is the number of tokens alive; whoever brings it to zero frees the record.
#[derive(Debug)]
pub(super) struct FrameMemory {
    shared: NonNull<Shared>,
    base: NonNull<u8>,
    frame_size: usize,
    headroom: usize,
    /// Which bits of a frame's number, in cache lines, say where in its headroom it begins.
    spread: usize,
    frames: u32,
    out: isize,
}

/// A cache line.
const LINE: usize = 64;

// SAFETY: the pointers are to memory that is owned together with this value; nothing in it is
// bound to a thread (`Shared` holds an atomic and a `Send` box).
unsafe impl Send for FrameMemory {}

impl FrameMemory {
    /// Takes charge of `frames` frames of `frame_size` bytes (a power of two) that begin at `base`.
    /// A frame that we fill begins at `headroom` within its buffer.
    ///
    /// # Safety
    ///
    /// `base` must point at `frames * frame_size` initialised bytes which stay mapped and writable until
    /// `mapping` is dropped, and which no Rust reference covers.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        frames: u32,
        frame_size: usize,
        headroom: usize,
        mapping: Box<dyn Send>,
    ) -> Self {
        assert!(frame_size.is_power_of_two() && headroom < frame_size);
        assert!(u16::try_from(frame_size).is_ok() && frames > 0);
        let shared = Box::new(Shared {
            balance: AtomicIsize::new(0),
            _mapping: mapping,
        });
        Self {
            shared: NonNull::from(Box::leak(shared)),
            base,
            frame_size,
            headroom,
            spread: 0,
            frames,
            out: 0,
        }
    }

    /// `frames` frames of `frame_size` bytes on the heap, for ports without a kernel behind them.
    pub(super) fn on_heap(frames: u32, frame_size: usize) -> Self {
        /// Owns a leaked slice by pointer, so that no reference covers the frames.
        struct Heap(NonNull<[u8]>);
        // SAFETY: the slice belongs to this value alone.
        unsafe impl Send for Heap {}
        impl Drop for Heap {
            fn drop(&mut self) {
                // SAFETY: the pointer came from `Box::leak` and is given back once.
                drop(unsafe { Box::from_raw(self.0.as_ptr()) });
            }
        }
        let bytes = vec![0u8; frames as usize * frame_size].into_boxed_slice();
        let heap = Heap(NonNull::from(Box::leak(bytes)));
        let base = heap.0.cast::<u8>();
        // SAFETY: the heap slice has this length, is initialised, and lives until `heap` is dropped.
        unsafe { Self::new(base, frames, frame_size, 0, Box::new(heap)) }
    }

    /// The same, where frames begin at different places: lines that are a multiple of 4 KiB apart compete for the same few
    /// places of the first cache, and the headers of a burst have no room there.
    pub(super) fn spread_on_heap(frames: u32, frame_size: usize) -> Self {
        let mut memory = Self::on_heap(frames, 2 * frame_size);
        memory.headroom = frame_size;
        memory.spread = frame_size - LINE;
        memory
    }

    /// How many bytes a frame that we fill can hold.
    pub(super) fn capacity(&self) -> usize {
        self.frame_size - self.headroom
    }

    /// How many frames were dropped instead of returned: a leak in the caller.
    pub(super) fn lost(&self) -> u64 {
        // SAFETY: the record lives at least as long as this value.
        let balance = unsafe { self.shared.as_ref() }
            .balance
            .load(Ordering::Relaxed);
        balance.unsigned_abs() as u64
    }

    /// Makes the token of an empty frame, to be filled.
    ///
    /// # Safety
    ///
    /// `index` must be a frame of this memory that no token, ring or kernel holds.
    #[inline(always)]
    pub(super) unsafe fn claim_empty(&mut self, index: u32) -> TxFrame {
        debug_assert!(index < self.frames);
        // What is spread over the headroom has as much behind it as the rest.
        let begin = match self.spread {
            0 => self.headroom,
            spread => (index as usize * LINE) & spread,
        };
        // SAFETY: the frame lies within the mapping: it begins within or just behind its headroom.
        let data = unsafe { self.base.add(index as usize * self.frame_size + begin) };
        self.out += 1;
        TxFrame(Token {
            data,
            shared: self.shared,
            length: 0,
            capacity: self.capacity() as u16,
            indent: 0,
        })
    }

    /// Makes the token of a received packet that lies at `offset` and is `length` bytes long; `None` if it
    /// does not lie within one frame.
    ///
    /// # Safety
    ///
    /// The frame around `offset` must be one that no other token, ring or kernel holds.
    #[inline(always)]
    pub(super) unsafe fn claim_received(
        &mut self,
        offset: usize,
        length: usize,
    ) -> Option<RxFrame> {
        let within = offset & (self.frame_size - 1);
        let capacity = self.frame_size - within;
        if offset >= self.frames as usize * self.frame_size || length > capacity {
            return None;
        }
        // SAFETY: checked just now to lie within the mapping.
        let data = unsafe { self.base.add(offset) };
        self.out += 1;
        Some(RxFrame(Token {
            data,
            shared: self.shared,
            length: length as u32,
            capacity: capacity as u16,
            indent: 0,
        }))
    }

    /// Whether a frame is of this memory.
    #[inline(always)]
    pub(super) fn owns(&self, frame: &TxFrame) -> bool {
        frame.0.shared == self.shared
    }

    /// Takes a token back and gives the index of its frame. A token of other memory is dropped
    /// (its own memory counts it as lost) and gives `None`.
    #[inline(always)]
    pub(super) fn reclaim(&mut self, token: impl Into<Token>) -> Option<u32> {
        let token = token.into();
        if token.shared != self.shared {
            return None;
        }
        let offset = token.data.as_ptr() as usize - self.base.as_ptr() as usize;
        self.out -= 1;
        mem::forget(token);
        // A power of two.
        Some((offset >> self.frame_size.trailing_zeros()) as u32)
    }
}

impl Drop for FrameMemory {
    fn drop(&mut self) {
        // SAFETY: the record lives until the balance reaches zero below or at the last token.
        let balance = &unsafe { self.shared.as_ref() }.balance;
        let before = balance.fetch_add(self.out, Ordering::AcqRel);
        if before + self.out == 0 {
            // SAFETY: no token is left, and this is the only value that could make one.
            drop(unsafe { Box::from_raw(self.shared.as_ptr()) });
        }
    }
}

/// Frames on the heap with a last-in first-out list of those at home: an index leaves the list with
/// its token and comes back with it.
#[derive(Debug)]
pub(super) struct HeapPool {
    memory: FrameMemory,
    free: Vec<u32>,
}

impl HeapPool {
    /// A pool of `frames` frames of `frame_size` bytes.
    pub(super) fn new(frames: u32, frame_size: usize) -> Self {
        Self {
            memory: FrameMemory::spread_on_heap(frames, frame_size),
            free: (0..frames).rev().collect(),
        }
    }

    /// The frame returned last, empty.
    #[inline(always)]
    pub(super) fn take(&mut self) -> Option<TxFrame> {
        let index = self.free.pop()?;
        // SAFETY: the index was in the list, so nobody else holds the frame.
        Some(unsafe { self.memory.claim_empty(index) })
    }

    /// Takes a frame back, unless it is another pool's.
    #[inline(always)]
    pub(super) fn give(&mut self, token: impl Into<Token>) {
        if let Some(index) = self.memory.reclaim(token) {
            self.free.push(index);
        }
    }

    /// Whether a frame is this pool's.
    #[inline(always)]
    pub(super) fn owns(&self, frame: &TxFrame) -> bool {
        self.memory.owns(frame)
    }

    /// How many frames were dropped instead of returned.
    pub(super) fn lost(&self) -> u64 {
        self.memory.lost()
    }
}

/// What both kinds of frames are made of. Exclusive access to the bytes from `data - indent` to
/// `data + capacity`; `length <= capacity`.
pub(super) struct Token {
    data: NonNull<u8>,
    shared: NonNull<Shared>,
    length: u32,
    capacity: u16,
    indent: u16,
}

impl Token {
    /// Has the buffer begin `octets` later; `false` when it has not so many.
    #[inline]
    fn advance(&mut self, octets: u16) -> bool {
        let (Some(capacity), Some(indent)) = (
            self.capacity.checked_sub(octets),
            self.indent.checked_add(octets),
        ) else {
            return false;
        };
        // SAFETY: the octets in front of the new beginning are of this token, which has at least so many.
        self.data = unsafe { self.data.add(octets.into()) };
        (self.capacity, self.indent) = (capacity, indent);
        self.length = self.length.saturating_sub(octets.into());
        true
    }

    /// Has the buffer begin `octets` earlier, packet included; `false` when it was not advanced so far.
    #[inline]
    fn retreat(&mut self, octets: u16) -> bool {
        let (Some(indent), Some(capacity)) = (
            self.indent.checked_sub(octets),
            self.capacity.checked_add(octets),
        ) else {
            return false;
        };
        // SAFETY: `indent` octets in front of `data` are of this token, and there are at least so many.
        self.data = unsafe { self.data.sub(octets.into()) };
        (self.capacity, self.indent) = (capacity, indent);
        self.length += u32::from(octets);
        true
    }
}

/// The octets of a VLAN tag (IEEE 802.1Q 9.3), and of the addresses in front of it.
const TAG: usize = 4;
const ADDRESSES: usize = 12;
/// Its type.
const TAG_TYPE: [u8; 2] = [0x81, 0x00];
const TAG_TYPE_OUTER: [u8; 2] = [0x88, 0xa8];
/// The bits of its second half that are the VLAN's identifier.
const TAG_IDENTIFIER: u16 = 0x0fff;

// SAFETY: a token is the only way to its bytes, and `Shared` is touched through its atomic only,
// or freed by the one thread that brought the balance to zero.
unsafe impl Send for Token {}
// SAFETY: a shared token gives shared access to bytes and nothing else.
unsafe impl Sync for Token {}

impl Drop for Token {
    /// The cold path: the frame is lost to its port, and counted so.
    #[cold]
    fn drop(&mut self) {
        // SAFETY: the record outlives every token.
        let balance = &unsafe { self.shared.as_ref() }.balance;
        if balance.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: the port is gone (only its drop makes the balance positive), and this was the
            // last token.
            drop(unsafe { Box::from_raw(self.shared.as_ptr()) });
        }
    }
}

/// A received packet, owned: its bytes from the Ethernet header on, which may be rewritten. Give it back with
/// [`Port::release`](super::Port::release) of the port that it came from; one that is dropped instead
/// is lost to that port, and counted.
pub struct RxFrame(Token);

/// An empty buffer to be filled and sent, owned. It dereferences to the *whole* buffer;
/// [`set_len`](Self::set_len) says how much of it is the packet. Give it back with
/// [`Port::transmit`](super::Port::transmit) or [`Port::discard`](super::Port::discard) of the port that it
/// came from; one that is dropped instead is lost to that port, and counted.
pub struct TxFrame(Token);

impl TxFrame {
    /// Says that the packet is the first `length` bytes of the buffer (cut to its capacity).
    #[inline(always)]
    pub fn set_len(&mut self, length: usize) {
        self.0.length = length.min(self.0.capacity as usize) as u32;
    }

    /// Leaves room for a VLAN tag in front of an empty frame, which then is a little shorter.
    #[inline]
    pub fn leave_room_for_tag(&mut self) {
        self.0.advance(TAG as u16);
    }

    /// Puts a packet that room was [left](Self::leave_room_for_tag) for into a VLAN. `false` when there is none.
    #[inline]
    pub fn tag(&mut self, vlan: u16) -> bool {
        if !self.0.retreat(TAG as u16) {
            return false;
        }
        self.copy_within(TAG..TAG + ADDRESSES, 0);
        if let Some(tag) = self.get_mut(ADDRESSES..ADDRESSES + TAG) {
            let [high, low] = vlan.to_be_bytes();
            tag.copy_from_slice(&[TAG_TYPE[0], TAG_TYPE[1], high, low]);
        }
        true
    }

    /// The length of the packet as set, 0 in a fresh frame.
    #[inline]
    pub fn packet_len(&self) -> usize {
        self.0.length as usize
    }

    /// Makes the packet a received one: for ports that copy packets themselves, and for a worker that treats what it has opened
    /// as if it had come so. It is given back as what it was ([`RxFrame::into_built`]).
    #[inline]
    pub(crate) fn into_received(self) -> RxFrame {
        RxFrame(self.0)
    }

    /// Fills a packet shorter than `length` with zeros up to it (or to the end of the buffer).
    #[inline(always)]
    pub(super) fn pad(&mut self, length: usize) {
        if self.packet_len() < length {
            self.pad_with_zeros(length);
        }
    }

    #[cold]
    fn pad_with_zeros(&mut self, length: usize) {
        let from = self.packet_len();
        self.set_len(length);
        let to = self.packet_len();
        if let Some(padding) = self.get_mut(from..to) {
            padding.fill(0);
        }
    }

    /// The packet: the part of the buffer that [`set_len`](Self::set_len) chose.
    #[inline]
    pub fn packet(&self) -> &[u8] {
        // SAFETY: the token owns these bytes, and `length <= capacity`.
        unsafe { slice::from_raw_parts(self.0.data.as_ptr(), self.0.length as usize) }
    }
}

impl RxFrame {
    /// The VLAN of a tagged frame; 0 when it is in none.
    #[inline]
    pub fn vlan(&self) -> u16 {
        match self.get(ADDRESSES..ADDRESSES + TAG) {
            Some(&[a, b, high, low]) if [a, b] == TAG_TYPE || [a, b] == TAG_TYPE_OUTER => {
                u16::from_be_bytes([high, low]) & TAG_IDENTIFIER
            }
            _ => 0,
        }
    }

    /// Takes the tag of a tagged frame away.
    #[inline]
    pub fn untag(&mut self) {
        if self.len() >= ADDRESSES + TAG {
            self.copy_within(..ADDRESSES, TAG);
            self.0.advance(TAG as u16);
        }
    }

    /// Takes [`TxFrame::into_received`] back.
    #[inline]
    pub(crate) fn into_built(self) -> TxFrame {
        TxFrame(self.0)
    }
}

impl Deref for RxFrame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the token owns these bytes, and `length <= capacity`.
        unsafe { slice::from_raw_parts(self.0.data.as_ptr(), self.0.length as usize) }
    }
}

impl DerefMut for RxFrame {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the token owns these bytes, `length <= capacity`, and `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.0.data.as_ptr(), self.0.length as usize) }
    }
}

impl Deref for TxFrame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the token owns these bytes.
        unsafe { slice::from_raw_parts(self.0.data.as_ptr(), self.0.capacity as usize) }
    }
}

impl DerefMut for TxFrame {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the token owns these bytes, and `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.0.data.as_ptr(), self.0.capacity as usize) }
    }
}

impl From<RxFrame> for Token {
    #[inline]
    fn from(frame: RxFrame) -> Self {
        frame.0
    }
}

impl From<TxFrame> for Token {
    #[inline]
    fn from(frame: TxFrame) -> Self {
        frame.0
    }
}

impl fmt::Debug for RxFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RxFrame({} bytes)", self.0.length)
    }
}

impl fmt::Debug for TxFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxFrame({} of {} bytes)", self.0.length, self.0.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    };

    /// Memory whose end can be seen.
    fn watched(frames: u32) -> (FrameMemory, Arc<AtomicBool>) {
        struct Watch(Arc<AtomicBool>, #[allow(dead_code)] Vec<u8>);
        impl Drop for Watch {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let gone = Arc::new(AtomicBool::new(false));
        let mut bytes = vec![0u8; frames as usize * 2048];
        let base = NonNull::new(bytes.as_mut_ptr()).unwrap();
        let watch = Watch(gone.clone(), bytes);
        // SAFETY: the vector is not touched again and lives in the watch.
        let memory = unsafe { FrameMemory::new(base, frames, 2048, 0, Box::new(watch)) };
        (memory, gone)
    }

    #[test]
    fn memory_goes_with_the_port_when_all_came_back() {
        let (mut memory, gone) = watched(2);
        // SAFETY: frame 1 is claimed once.
        let frame = unsafe { memory.claim_empty(1) };
        assert_eq!(memory.reclaim(frame), Some(1));
        drop(memory);
        assert!(gone.load(Ordering::SeqCst));
    }

    #[test]
    fn memory_stays_until_the_last_token() {
        let (mut memory, gone) = watched(3);
        // SAFETY: each frame is claimed once.
        let mut frames: Vec<_> = (0..3).map(|i| unsafe { memory.claim_empty(i) }).collect();
        drop(frames.pop());
        assert_eq!(memory.lost(), 1);
        drop(memory);
        assert!(!gone.load(Ordering::SeqCst));
        drop(frames.pop());
        frames[0][0] = 7;
        assert!(!gone.load(Ordering::SeqCst));
        drop(frames);
        assert!(gone.load(Ordering::SeqCst));
    }

    #[test]
    fn tokens_dropped_on_other_threads_free_once() {
        for _ in 0..200 {
            let (mut memory, gone) = watched(4);
            let left = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..4)
                .map(|i| {
                    // SAFETY: each frame is claimed once.
                    let frame = unsafe { memory.claim_empty(i) };
                    let left = left.clone();
                    std::thread::spawn(move || {
                        drop(frame);
                        left.fetch_add(1, Ordering::SeqCst);
                    })
                })
                .collect();
            drop(memory);
            threads.into_iter().for_each(|t| t.join().unwrap());
            assert_eq!(left.load(Ordering::SeqCst), 4);
            assert!(gone.load(Ordering::SeqCst));
        }
    }

    #[test]
    fn a_stranger_is_not_taken_back() {
        let mut here = FrameMemory::on_heap(1, 2048);
        let mut there = FrameMemory::on_heap(1, 2048);
        // SAFETY: claimed once.
        let frame = unsafe { there.claim_empty(0) };
        assert_eq!(here.reclaim(frame), None);
        assert_eq!(there.lost(), 1);
        assert_eq!(here.lost(), 0);
    }

    #[test]
    fn a_descriptor_that_lies_is_refused() {
        let mut memory = FrameMemory::on_heap(2, 2048);
        // SAFETY: none of these frames is held; two are refused.
        unsafe {
            assert!(memory.claim_received(4096, 1).is_none());
            assert!(memory.claim_received(2048 + 256, 1793).is_none());
            let frame = memory.claim_received(2048 + 256, 1792).unwrap();
            assert_eq!(frame.len(), 1792);
            assert_eq!(memory.reclaim(frame), Some(1));
        }
    }

    #[test]
    fn frames_that_are_spread_lie_apart_and_do_not_share_a_set() {
        let mut memory = FrameMemory::spread_on_heap(70, 4096);
        // SAFETY: each is claimed once.
        let frames: Vec<_> = (0..70)
            .map(|index| unsafe { memory.claim_empty(index) })
            .collect();
        let begins: Vec<_> = frames.iter().map(|frame| frame.as_ptr() as usize).collect();
        for pair in begins.windows(2) {
            assert!(pair[0] + 4096 <= pair[1]);
        }
        let mut sets: Vec<_> = begins.iter().take(64).map(|at| at / LINE % 64).collect();
        sets.sort_unstable();
        sets.dedup();
        assert_eq!(sets.len(), 64);
        for (index, frame) in frames.into_iter().enumerate() {
            assert_eq!(frame.len(), 4096);
            assert_eq!(memory.reclaim(frame), Some(index as u32));
        }
    }

    #[test]
    fn tags_come_and_go_within_the_frame() {
        let mut memory = FrameMemory::on_heap(2, 2048);
        // SAFETY: each is claimed once.
        let mut frame = unsafe { memory.claim_empty(1) };
        assert!(!frame.tag(7), "no room was left");
        frame.leave_room_for_tag();
        assert_eq!(frame.len(), 2044);
        let packet: Vec<u8> = (0..100).collect();
        frame[..100].copy_from_slice(&packet);
        frame.set_len(100);
        assert!(frame.tag(0x123));
        let mut tagged = packet.clone();
        tagged.splice(12..12, [0x81, 0, 1, 0x23]);
        assert_eq!(frame.packet(), tagged);
        assert_eq!(frame.len(), 2048);
        assert!(!frame.tag(0x124), "nor for a second");
        let mut received = frame.into_received();
        assert_eq!(received.vlan(), 0x123);
        received.untag();
        assert_eq!(received[..], packet);
        assert_eq!(received.vlan(), 0);
        assert_eq!(memory.reclaim(received), Some(1));
        // SAFETY: claimed once.
        let mut short = unsafe { memory.claim_received(0, 15) }.unwrap();
        short.untag();
        assert_eq!((short.len(), short.vlan()), (15, 0));
        assert_eq!(memory.reclaim(short), Some(0));
    }

    #[test]
    fn tokens_are_small() {
        assert_eq!(size_of::<RxFrame>(), 24);
        assert_eq!(size_of::<Option<TxFrame>>(), 24);
    }
}
