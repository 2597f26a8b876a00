//! Intel's multi-buffer library and ChaCha20-Poly1305, by the interface that takes a batch of one key's packets: the fastest
//! that it has for them.
#![allow(
    unsafe_code,
    reason = "a library in C, with kernels that take pointers"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use arrayvec::ArrayVec;
use esplanade_crypto::Algorithm;
use libloading::Library;

use super::candidate::{BATCH, Batch, Candidate, ICV, key_material};
use super::ipsec_mb::{AAD, NAME};

/// `IMB_MGR`, of which only the library knows the shape.
#[repr(C)]
struct Manager([u8; 0]);

/// `imb_quic_chacha20_poly1305` of versions 2.0.x: manager, key, direction, destinations, sources, their lengths, IVs,
/// additional data and its length, tags, and the number of packets.
type Crypt = unsafe extern "C" fn(
    *mut Manager,
    *const u8,
    u32,
    *const *mut u8,
    *const *const u8,
    *const u64,
    *const *const u8,
    *const *const u8,
    u64,
    *const *mut u8,
    u64,
);

/// `IMB_CIPHER_DIRECTION`.
const ENCRYPT: u32 = 1;
const DECRYPT: u32 = 2;

type Key = [u8; 32];

/// The library with keys.
pub struct IpsecMb {
    crypt: Crypt,
    /// Each direction has its own, as an SA has.
    sealing: Vec<Key>,
    opening: Vec<Key>,
    manager: *mut Manager,
    free: unsafe extern "C" fn(*mut Manager),
    next: usize,
    _library: Library,
}

impl IpsecMb {
    /// Finds the library, which takes its kernels for AVX-512 with IFMA.
    ///
    /// # Errors
    ///
    /// The library, or the CPU's instructions, are not there.
    pub fn load(path: &Path, sas: usize) -> Result<Self> {
        if !is_x86_feature_detected!("avx512ifma") {
            bail!("its fastest kernels need AVX-512 with IFMA");
        }
        // SAFETY: the library's initializers have no preconditions but the CPU's instructions, and the types are those of
        // its header.
        unsafe {
            let library =
                Library::new(path).with_context(|| format!("cannot load {}", path.display()))?;
            let crypt: Crypt = *library.get(b"imb_quic_chacha20_poly1305")?;
            let allocate: unsafe extern "C" fn(u64) -> *mut Manager =
                *library.get(b"alloc_mb_mgr")?;
            let initialize: unsafe extern "C" fn(*mut Manager) =
                *library.get(b"init_mb_mgr_avx512")?;
            let free = *library.get(b"free_mb_mgr")?;
            let manager = allocate(0);
            if manager.is_null() {
                bail!("it has no memory");
            }
            initialize(manager);
            let keys: Vec<Key> = (0..sas)
                .map(|sa| {
                    let material = key_material(Algorithm::CHACHA20_POLY1305, sa);
                    *material.first_chunk().expect("long enough")
                })
                .collect();
            Ok(Self {
                crypt,
                opening: keys.clone(),
                sealing: keys,
                manager,
                free,
                next: 0,
                _library: library,
            })
        }
    }

    /// Runs a batch, from its first SA on: under one SA in one call, or else packet by packet.
    fn run(
        &self,
        keys: &[Key],
        direction: u32,
        lengths: &[usize],
        starts: &[usize],
        (sources, outs): (*const u8, *mut u8),
        tags: &mut [[u8; ICV]],
    ) -> Duration {
        type Pointers<T> = ArrayVec<T, BATCH>;
        let ivs: Pointers<[u8; 12]> = (0..lengths.len()).map(|at| [at as u8; 12]).collect();
        let iv_pointers: Pointers<_> = ivs.iter().map(|iv| iv.as_ptr()).collect();
        let aads: Pointers<_> = ivs.iter().map(|_| AAD.as_ptr()).collect();
        let tags: Pointers<_> = tags.iter_mut().map(|tag| tag.as_mut_ptr()).collect();
        let sources: Pointers<_> = starts.iter().map(|at| sources.wrapping_add(*at)).collect();
        let outs: Pointers<_> = starts.iter().map(|at| outs.wrapping_add(*at)).collect();
        let lengths: Pointers<_> = lengths.iter().map(|length| *length as u64).collect();
        let together = if keys.len() == 1 { lengths.len() } else { 1 };
        let start = Instant::now();
        for first in (0..lengths.len()).step_by(together) {
            // SAFETY: the buffers have room for each packet, and there are as many of each as packets.
            unsafe {
                (self.crypt)(
                    self.manager,
                    keys[(self.next + first) % keys.len()].as_ptr(),
                    direction,
                    outs[first..].as_ptr(),
                    sources[first..].as_ptr(),
                    lengths[first..].as_ptr(),
                    iv_pointers[first..].as_ptr(),
                    aads[first..].as_ptr(),
                    AAD.len() as u64,
                    tags[first..].as_ptr(),
                    together as u64,
                );
            }
        }
        start.elapsed()
    }
}

impl Drop for IpsecMb {
    fn drop(&mut self) {
        // SAFETY: it is the library's, and used no more.
        unsafe { (self.free)(self.manager) };
    }
}

impl Candidate for IpsecMb {
    fn name(&self) -> &'static str {
        NAME
    }

    fn seal(&mut self, batch: &mut Batch<'_>) -> Duration {
        let buffers = &mut *batch.buffers;
        let mut tags = [[0; ICV]; BATCH];
        let texts = (buffers.plain.as_ptr(), buffers.sealed.as_mut_ptr());
        let tags = &mut tags[..batch.lengths.len()];
        let starts = &buffers.starts;
        let taken = self.run(&self.sealing, ENCRYPT, batch.lengths, starts, texts, tags);
        for ((at, length), tag) in buffers.starts.iter().zip(batch.lengths).zip(tags) {
            buffers.sealed[at + length..][..ICV].copy_from_slice(tag);
        }
        self.next = (self.next + batch.lengths.len()) % self.sealing.len();
        taken
    }

    fn open(&mut self, batch: &mut Batch<'_>) -> Duration {
        let first = self.next;
        self.seal(batch);
        let after = std::mem::replace(&mut self.next, first);
        let buffers = &mut *batch.buffers;
        let mut tags = [[0; ICV]; BATCH];
        let texts = (buffers.sealed.as_ptr(), buffers.opened.as_mut_ptr());
        let tags = &mut tags[..batch.lengths.len()];
        let starts = &buffers.starts;
        let mut taken = self.run(&self.opening, DECRYPT, batch.lengths, starts, texts, tags);
        let start = Instant::now();
        let mut differ = 0;
        for ((at, length), tag) in buffers.starts.iter().zip(batch.lengths).zip(tags) {
            let expected = &buffers.sealed[at + length..];
            let expected = expected.first_chunk::<ICV>().expect("there is room for it");
            differ |= u128::from_ne_bytes(*tag) ^ u128::from_ne_bytes(*expected);
        }
        taken += start.elapsed();
        assert_eq!(differ, 0, "{NAME} does not open what it sealed");
        self.next = after;
        taken
    }
}
