//! Nothing beyond a packet's buffers is read or written, in place or not: they lie at the edges of memory that must not be
//! touched, one packet of a burst at its lower edge and one at its upper.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "such memory comes from mmap")]

mod common;

use common::{kernels, pattern, seal};
use core::{ffi::c_void, ptr};
use esplanade_crypto::{
    Aad, Algorithm, EngineKind, OpenJob, OpeningKey, SealJob, SealingKey, Trailer, Verdict,
    open_batch, seal_batch,
};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// At least a page of every machine.
const EDGE: usize = 1 << 16;
/// The longest buffer.
const ROOM: usize = EDGE;

/// Memory between two edges.
struct Edged(*mut u8);

impl Edged {
    fn new() -> Self {
        // SAFETY: nothing else knows the memory.
        unsafe {
            let none = ProtFlags::empty();
            let all = 2 * EDGE + ROOM;
            let start = mmap_anonymous(ptr::null_mut(), all, none, MapFlags::PRIVATE).unwrap();
            let room = start.byte_add(EDGE);
            mprotect(room, ROOM, MprotectFlags::READ | MprotectFlags::WRITE).unwrap();
            Self(room.cast())
        }
    }

    /// So many bytes that begin so far from the lower edge.
    fn bytes(&mut self, start: usize, length: usize) -> &mut [u8] {
        assert!(start + length <= ROOM);
        // SAFETY: within the room, and borrowed as the whole is.
        unsafe { core::slice::from_raw_parts_mut(self.0.add(start), length) }
    }
}

impl Drop for Edged {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nothing is borrowed.
        let unmapped = unsafe { munmap(self.0.sub(EDGE).cast::<c_void>(), 2 * EDGE + ROOM) };
        unmapped.unwrap();
    }
}

/// So many packets are enough for kernels that are for bursts.
const PACKETS: usize = 4;

/// The buffers of packets, at a lower edge and at an upper by turns.
struct Buffers([Edged; PACKETS]);

impl Buffers {
    fn new() -> Self {
        Self([(); PACKETS].map(|()| Edged::new()))
    }

    fn of(&mut self, length: usize) -> [&mut [u8]; PACKETS] {
        let mut starts = [0, ROOM - length].into_iter().cycle();
        self.0.each_mut().map(|edged| {
            let start = starts.next().expect("it goes round");
            edged.bytes(start, length)
        })
    }

    /// The same, which begin with `content`.
    fn holding(&mut self, content: &[u8], length: usize) -> [&mut [u8]; PACKETS] {
        let buffers = self.of(length);
        buffers.map(|buffer| {
            buffer[..content.len()].copy_from_slice(content);
            buffer
        })
    }
}

const AAD: Aad = Aad::plain(0x1000_0001, 7);

/// What a packet is made of, and what it becomes.
struct Packet {
    material: Vec<u8>,
    plaintext: Vec<u8>,
    trailer: Trailer,
    sealed: Vec<u8>,
}

impl Packet {
    fn new(algorithm: Algorithm, length: usize) -> Self {
        let material = pattern(algorithm.key_material_len(), 1);
        let plaintext = pattern(length, 2);
        let trailer = Trailer::new(&pattern(length % 19, 3)).unwrap();
        let oracle = EngineKind::AwsLc;
        let sealed = seal(oracle, algorithm, &material, 9, AAD, &plaintext, trailer);
        Self {
            material,
            plaintext,
            trailer,
            sealed,
        }
    }

    fn text(&self) -> Vec<u8> {
        [&self.plaintext, self.trailer.as_bytes()].concat()
    }
}

fn check_seal(engine: EngineKind, algorithm: Algorithm, packet: &Packet) {
    let key = SealingKey::new(engine, algorithm, &packet.material).unwrap();
    let (iv, plaintext, length) = (
        || common::numbered(9),
        &packet.plaintext,
        packet.sealed.len(),
    );
    let (mut sources, mut outs) = (Buffers::new(), Buffers::new());
    let buffers = sources
        .holding(plaintext, plaintext.len())
        .into_iter()
        .zip(outs.of(length));
    let mut jobs: Vec<_> = buffers
        .map(|(source, out)| SealJob::new(&key, iv(), AAD, source, packet.trailer, out).unwrap())
        .collect();
    seal_batch(&mut jobs);
    drop(jobs);
    assert_eq!(outs.of(length), [&packet.sealed[..]; PACKETS]);

    let buffers = outs.holding(plaintext, length).into_iter();
    let mut jobs: Vec<_> = buffers
        .map(|buffer| SealJob::in_place(&key, iv(), AAD, buffer, packet.trailer).unwrap())
        .collect();
    seal_batch(&mut jobs);
    drop(jobs);
    assert_eq!(outs.of(length), [&packet.sealed[..]; PACKETS], "in place");
}

fn check_open(engine: EngineKind, algorithm: Algorithm, packet: &Packet) {
    let key = OpeningKey::new(engine, algorithm, &packet.material).unwrap();
    let (iv, sealed, text) = (9_u64.to_be_bytes(), &packet.sealed, packet.text());
    let (mut sources, mut outs) = (Buffers::new(), Buffers::new());
    let buffers = sources
        .holding(sealed, sealed.len())
        .into_iter()
        .zip(outs.of(text.len()));
    let mut jobs: Vec<_> = buffers
        .map(|(source, out)| OpenJob::new(&key, iv, AAD, source, out).unwrap())
        .collect();
    let mut verdicts = [Verdict::Forged; PACKETS];
    open_batch(&mut jobs, &mut verdicts);
    drop(jobs);
    assert_eq!(verdicts, [Verdict::Authentic; PACKETS]);
    assert_eq!(outs.of(text.len()), [&text[..]; PACKETS]);

    let buffers = sources.of(sealed.len()).into_iter();
    let mut jobs: Vec<_> = buffers
        .map(|buffer| OpenJob::in_place(&key, iv, AAD, buffer).unwrap())
        .collect();
    let mut verdicts = [Verdict::Forged; PACKETS];
    open_batch(&mut jobs, &mut verdicts);
    drop(jobs);
    assert_eq!(verdicts, [Verdict::Authentic; PACKETS], "in place");
    for opened in sources.of(sealed.len()) {
        assert_eq!(opened[..text.len()], text, "in place");
    }
}

#[test]
fn nothing_beyond_the_buffers_is_touched() {
    for (engine, algorithm) in kernels() {
        for length in (0..=300).chain((300..1700).step_by(97)) {
            let packet = Packet::new(algorithm, length);
            check_seal(engine, algorithm, &packet);
            check_open(engine, algorithm, &packet);
        }
    }
}
