//! Intel's multi-buffer library and AES-GCM by its direct interface, found when the bench runs: nothing of it is needed to build.
#![allow(
    unsafe_code,
    reason = "a library in C, with kernels that take pointers"
)]

use core::arch::x86_64::{_mm_set_epi64x, _mm_storeu_si128};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use esplanade_crypto::{Algorithm, EngineKind};
use libloading::Library;

use super::candidate::{Batch, Candidate, ICV, key_material};

/// The name in the report.
pub const NAME: &str = "ipsec-mb";

/// `struct gcm_key_data` of versions 2.0.x: 15 round keys and 64 powers.
#[repr(C, align(64))]
#[derive(Clone)]
struct KeyData([u8; 1280]);

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

/// The library with keys.
pub struct IpsecMb {
    encrypt: Crypt,
    decrypt: Crypt,
    /// Each direction has its own, as an SA has.
    sealing: Vec<KeyData>,
    opening: Vec<KeyData>,
    context: Box<State>,
    next: usize,
    _library: Library,
}

/// SPI and sequence number.
pub const AAD: [u8; 8] = [0x10, 0, 0, 1, 0, 0, 0, 1];
/// What the key material's last four bytes are, unless an SA's number reaches so far.
const SALT: u32 = 0x4242_4242;

impl IpsecMb {
    /// Finds the kernels for AVX-512 with VAES.
    ///
    /// # Errors
    ///
    /// The library, or the CPU's instructions, are not there.
    pub fn load(path: &Path, algorithm: Algorithm, sas: usize) -> Result<Self> {
        if !EngineKind::available().contains(&EngineKind::Vaes512) {
            bail!("its fastest kernels need AVX-512 and VAES");
        }
        let Algorithm::AesGcm(key, _) = algorithm else {
            bail!("its direct interface does not do {algorithm}");
        };
        let bits = key.bits();
        // SAFETY: the library's initializers have no preconditions, and the types are those of its header.
        unsafe {
            let library =
                Library::new(path).with_context(|| format!("cannot load {}", path.display()))?;
            let crypt = |what: &str| -> Result<Crypt> {
                Ok(*library.get(format!("aes_gcm_{what}_{bits}_vaes_avx512").as_bytes())?)
            };
            let prepare: Prepare =
                *library.get(format!("aes_gcm_pre_{bits}_vaes_avx512").as_bytes())?;
            let keys: Vec<_> = (0..sas)
                .map(|sa| {
                    let mut data = KeyData([0; 1280]);
                    prepare(key_material(algorithm, sa).as_ptr(), &raw mut data);
                    data
                })
                .collect();
            Ok(Self {
                encrypt: crypt("enc")?,
                decrypt: crypt("dec")?,
                opening: keys.clone(),
                sealing: keys,
                context: Box::new(State([0; 256])),
                next: 0,
                _library: library,
            })
        }
    }

    /// A nonce and the count 1, written by one store: two narrow ones would hold up the kernel's wide load.
    #[inline]
    fn iv(number: u64) -> [u8; 16] {
        let mut iv = [0; 16];
        let high = i64::from_le_bytes([0, 0, 0, 0, 0, 0, 0, 1]) | (number >> 32) as i64;
        let low = (number << 32) as i64 | i64::from(SALT);
        // SAFETY: writes the 16 bytes of the array.
        unsafe { _mm_storeu_si128(iv.as_mut_ptr().cast(), _mm_set_epi64x(high, low)) };
        black_box(&mut iv);
        iv
    }
}

impl Candidate for IpsecMb {
    fn name(&self) -> &'static str {
        NAME
    }

    fn seal(&mut self, batch: &mut Batch<'_>) -> Duration {
        let (plain, sealed) = (
            batch.buffers.plain.as_ptr(),
            batch.buffers.sealed.as_mut_ptr(),
        );
        let start = Instant::now();
        for (number, (at, length)) in (0..).zip(batch.buffers.starts.iter().zip(batch.lengths)) {
            let key = &raw const self.sealing[(self.next + number) % self.sealing.len()];
            let iv = Self::iv(number as u64);
            // SAFETY: the buffers have room for each packet and its tag.
            unsafe {
                let out = sealed.add(*at);
                let tag = out.add(*length);
                let (length, aad) = (*length as u64, AAD.as_ptr());
                (self.encrypt)(
                    key,
                    &raw mut *self.context,
                    out,
                    plain.add(*at),
                    length,
                    iv.as_ptr(),
                    aad,
                    8,
                    tag,
                    16,
                );
            }
        }
        let taken = start.elapsed();
        self.next = (self.next + batch.lengths.len()) % self.sealing.len();
        taken
    }

    fn open(&mut self, batch: &mut Batch<'_>) -> Duration {
        let first = self.next;
        self.seal(batch);
        let (sealed, opened) = (
            batch.buffers.sealed.as_ptr(),
            batch.buffers.opened.as_mut_ptr(),
        );
        let mut differ = 0;
        let start = Instant::now();
        for (number, (at, length)) in (0..).zip(batch.buffers.starts.iter().zip(batch.lengths)) {
            let key = &raw const self.opening[(first + number) % self.opening.len()];
            let iv = Self::iv(number as u64);
            let mut tag = [0; ICV];
            // SAFETY: the buffers have room for each packet and its tag.
            let expected = unsafe {
                let (taken, length, aad) = (sealed.add(*at), *length as u64, AAD.as_ptr());
                let context = &raw mut *self.context;
                (self.decrypt)(
                    key,
                    context,
                    opened.add(*at),
                    taken,
                    length,
                    iv.as_ptr(),
                    aad,
                    8,
                    tag.as_mut_ptr(),
                    16,
                );
                taken
                    .add(length as usize)
                    .cast::<[u8; ICV]>()
                    .read_unaligned()
            };
            differ |= u128::from_ne_bytes(tag) ^ u128::from_ne_bytes(expected);
        }
        let taken = start.elapsed();
        assert_eq!(differ, 0, "{NAME} does not open what it sealed");
        taken
    }
}
