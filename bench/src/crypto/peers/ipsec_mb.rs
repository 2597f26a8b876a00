//! Intel's multi-buffer library by its direct interface.
#![allow(
    unsafe_code,
    reason = "a library in C, with kernels that take pointers"
)]

use core::arch::x86_64::{_mm_set_epi64x, _mm_storeu_si128};
use core::ffi::{CStr, c_char, c_int, c_void};
use std::hint::black_box;
use std::path::Path;
use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arrayvec::ArrayVec;
use esplanade_crypto::{Algorithm, EngineKind, IvForm};

use super::{ICV, Library, Pointers, SALT, aad};
use crate::crypto::candidate::{Candidate, Direction, key_material};
use crate::crypto::workload::{BATCH, Packets, Text};

/// The name in the report.
pub const NAME: &str = "ipsec-mb";

/// `struct gcm_key_data` of versions 2.0.x: 15 round keys and 64 powers.
#[repr(C, align(64))]
pub struct KeyData([u8; 1280]);

/// `struct gcm_context_data`, with room to spare.
#[repr(C, align(64))]
struct State([u8; 256]);

/// `aes_gcm_enc_dec_t`: key, context, out, in, length, IV, AAD, its length, tag, its length.
type Crypt = unsafe extern "C" fn(
    *const KeyData,
    *mut State,
    *mut u8,
    *const u8,
    u64,
    *const u8,
    *const u8,
    u64,
    *mut u8,
    u64,
);
/// `aes_gcm_pre_t`: key, key data.
type Prepare = unsafe extern "C" fn(*const u8, *mut KeyData);
/// `imb_quic_chacha20_poly1305`: manager, key, direction, out, in, lengths, IVs, AADs, their length, tags, packets.
type ChaCha = unsafe extern "C" fn(
    *mut c_void,
    *const u8,
    c_int,
    *const *mut u8,
    *const *const u8,
    *const u64,
    *const *const u8,
    *const *const u8,
    u64,
    *const *mut u8,
    u64,
);

/// The library.
pub struct Functions {
    /// The kernels for this CPU.
    kernels: &'static str,
    version: String,
    chacha: ChaCha,
    /// Its `IMB_MGR`, which stays until the end of the process.
    manager: *mut c_void,
    library: libloading::Library,
}

impl Functions {
    /// Finds it, and the kernels with VAES.
    ///
    /// # Errors
    ///
    /// The library, or the CPU's instructions, are not there.
    pub fn load(path: &Path) -> Result<Self> {
        let there = EngineKind::available();
        let kernels = if there.contains(&EngineKind::Vaes512) {
            "vaes_avx512"
        } else if there.contains(&EngineKind::Vaes256) {
            "vaes_avx2"
        } else {
            bail!("its fast kernels need VAES")
        };
        // SAFETY: the library's initializers have no preconditions, the types are those of its header, and the manager is
        // made before it is used.
        unsafe {
            let library = libloading::Library::new(path)
                .with_context(|| format!("cannot load {}", path.display()))?;
            let version: unsafe extern "C" fn() -> *const c_char =
                *library.get(b"imb_get_version_str")?;
            let version = CStr::from_ptr(version()).to_string_lossy().into_owned();
            ensure!(
                version.trim_start_matches('v').starts_with("2.0."),
                "version {version} may lay out its keys otherwise than 2.0 does"
            );
            let allocate: unsafe extern "C" fn(u64) -> *mut c_void =
                *library.get(b"alloc_mb_mgr")?;
            let initialize: unsafe extern "C" fn(*mut c_void, *mut c_int) =
                *library.get(b"init_mb_mgr_auto")?;
            let manager = allocate(0);
            ensure!(!manager.is_null(), "there is no memory for its manager");
            initialize(manager, ptr::null_mut());
            Ok(Self {
                kernels,
                version,
                chacha: *library.get(b"imb_quic_chacha20_poly1305")?,
                manager,
                library,
            })
        }
    }

    /// Version and kernels.
    pub fn version(&self) -> String {
        format!("{}, {}", self.version, self.kernels)
    }
}

/// Its AES-GCM.
pub struct Gcm {
    prepare: Prepare,
    encrypt: Crypt,
    decrypt: Crypt,
    context: Box<State>,
    /// Keeps the library.
    _functions: Rc<Functions>,
}

impl Gcm {
    /// `None` for another algorithm.
    pub fn new(functions: &Rc<Functions>, algorithm: Algorithm) -> Option<Self> {
        let Algorithm::AesGcm(key, IvForm::Explicit) = algorithm else {
            return None;
        };
        let name = |what: &str| format!("aes_gcm_{what}_{}_{}", key.bits(), functions.kernels);
        let library = &functions.library;
        // SAFETY: the types are those of its header.
        unsafe {
            Some(Self {
                prepare: *library.get(name("pre").as_bytes()).ok()?,
                encrypt: *library.get(name("enc").as_bytes()).ok()?,
                decrypt: *library.get(name("dec").as_bytes()).ok()?,
                context: Box::new(State([0; 256])),
                _functions: Rc::clone(functions),
            })
        }
    }
}

/// A nonce and the count 1, written by one store: two narrow ones would hold up the kernel's wide load.
#[inline]
fn iv(number: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    let number = number.swap_bytes();
    let high = 1 << 56 | (number >> 32) as i64;
    let low = (number << 32) as i64 | i64::from(SALT);
    // SAFETY: writes the 16 bytes of the array.
    unsafe { _mm_storeu_si128(iv.as_mut_ptr().cast(), _mm_set_epi64x(high, low)) };
    black_box(&mut iv);
    iv
}

/// Whether two tags are the same.
fn same(tag: [u8; ICV], text: &Pointers) -> Option<()> {
    // SAFETY: there are that many bytes.
    let expected = unsafe { text.icv.cast::<[u8; ICV]>().read_unaligned() };
    (u128::from_ne_bytes(tag) == u128::from_ne_bytes(expected)).then_some(())
}

impl Gcm {
    #[inline]
    fn crypt(&mut self, kernel: Crypt, key: &KeyData, number: u64, text: &Pointers, tag: *mut u8) {
        let (iv, aad) = (iv(number), aad(number));
        let Pointers {
            from, to, length, ..
        } = *text;
        // SAFETY: the frames have room for the text, and the tag for itself.
        unsafe {
            kernel(
                key,
                &raw mut *self.context,
                to,
                from,
                length as u64,
                iv.as_ptr(),
                aad.as_ptr(),
                aad.len() as u64,
                tag,
                ICV as u64,
            );
        }
    }
}

impl Library for Gcm {
    const NAME: &'static str = NAME;
    type Key = KeyData;

    fn key(&self, _: Algorithm, key: &[u8], _: Direction) -> Option<KeyData> {
        let mut data = KeyData([0; 1280]);
        // SAFETY: the key is as long as the algorithm's that the kernels were chosen for.
        unsafe { (self.prepare)(key.as_ptr(), &raw mut data) };
        Some(data)
    }

    #[inline]
    fn seal(&mut self, key: &mut KeyData, number: u64, text: &mut Text<'_>) -> Option<()> {
        let text = Pointers::to_seal(text)?;
        self.crypt(self.encrypt, key, number, &text, text.icv);
        Some(())
    }

    #[inline]
    fn open(&mut self, key: &mut KeyData, number: u64, text: &mut Text<'_>) -> Option<()> {
        let text = Pointers::to_open(text)?;
        let mut tag = [0; ICV];
        self.crypt(self.decrypt, key, number, &text, tag.as_mut_ptr());
        same(tag, &text)
    }
}

/// Its ChaCha20-Poly1305 with keys. It takes many packets at once, but all under one key.
pub struct ChaCha20Poly1305 {
    functions: Rc<Functions>,
    /// Each direction has its own, as an SA has.
    sealing: Vec<[u8; 32]>,
    opening: Vec<[u8; 32]>,
}

/// `IMB_CIPHER_DIRECTION`.
const ENCRYPT: c_int = 1;
const DECRYPT: c_int = 2;

/// The packets of a batch as the library takes them.
#[derive(Default)]
struct Columns {
    texts: ArrayVec<Pointers, BATCH>,
    from: ArrayVec<*const u8, BATCH>,
    to: ArrayVec<*mut u8, BATCH>,
    lengths: ArrayVec<u64, BATCH>,
    ivs: ArrayVec<[u8; 16], BATCH>,
    iv_pointers: ArrayVec<*const u8, BATCH>,
    aads: ArrayVec<[u8; 8], BATCH>,
    aad_pointers: ArrayVec<*const u8, BATCH>,
    tags: ArrayVec<*mut u8, BATCH>,
}

impl Columns {
    /// The tags go where `tag` says.
    #[inline]
    fn push(&mut self, number: u64, text: Pointers, tag: *mut u8) {
        self.from.push(text.from);
        self.to.push(text.to);
        self.lengths.push(text.length as u64);
        self.texts.push(text);
        self.ivs.push(iv(number));
        self.aads.push(aad(number));
        self.tags.push(tag);
    }

    /// Packets that follow each other under one key go together.
    #[inline]
    fn run(&mut self, functions: &Functions, way: c_int, keys: &[[u8; 32]], packets: &Packets<'_>) {
        self.iv_pointers = self.ivs.iter().map(|iv| iv.as_ptr()).collect();
        self.aad_pointers = self.aads.iter().map(|aad| aad.as_ptr()).collect();
        let mut first = 0;
        for together in packets.chunk_by(|packet, next| packet.sa == next.sa) {
            // SAFETY: the frames have room for the texts, there are as many of each pointer as packets, and IVs and
            // additional data stay where they are.
            unsafe {
                (functions.chacha)(
                    functions.manager,
                    keys[together[0].sa].as_ptr(),
                    way,
                    self.to[first..].as_ptr(),
                    self.from[first..].as_ptr(),
                    self.lengths[first..].as_ptr(),
                    self.iv_pointers[first..].as_ptr(),
                    self.aad_pointers[first..].as_ptr(),
                    8,
                    self.tags[first..].as_ptr(),
                    together.len() as u64,
                );
            }
            first += together.len();
        }
    }
}

impl ChaCha20Poly1305 {
    /// `None` for another algorithm.
    pub fn new(functions: &Rc<Functions>, algorithm: Algorithm, sas: usize) -> Option<Self> {
        if algorithm != Algorithm::CHACHA20_POLY1305 {
            return None;
        }
        let key = |sa| key_material(algorithm, sa).first_chunk().copied();
        let keys: Vec<_> = (0..sas).map(key).collect::<Option<_>>()?;
        Some(Self {
            functions: Rc::clone(functions),
            opening: keys.clone(),
            sealing: keys,
        })
    }
}

impl Candidate for ChaCha20Poly1305 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn seal(&mut self, packets: &mut Packets<'_>) -> Result<Duration> {
        let start = Instant::now();
        let mut columns = Columns::default();
        for packet in packets.iter_mut() {
            let text = Pointers::to_seal(&mut packet.text).context("no room for a tag")?;
            let tag = text.icv;
            columns.push(packet.number, text, tag);
        }
        columns.run(&self.functions, ENCRYPT, &self.sealing, packets);
        Ok(start.elapsed())
    }

    fn open(&mut self, packets: &mut Packets<'_>) -> Result<Duration> {
        let start = Instant::now();
        let mut columns = Columns::default();
        let mut tags = [[0; ICV]; BATCH];
        for (packet, tag) in packets.iter_mut().zip(&mut tags) {
            let text = Pointers::to_open(&mut packet.text).context("there is no tag")?;
            columns.push(packet.number, text, tag.as_mut_ptr());
        }
        columns.run(&self.functions, DECRYPT, &self.opening, packets);
        let mut texts = columns.texts.iter().zip(tags);
        let authentic = texts.all(|(text, tag)| same(tag, text).is_some());
        let taken = start.elapsed();
        ensure!(authentic, "{NAME} refuses what it sealed");
        Ok(taken)
    }
}
