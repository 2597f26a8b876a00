//! OpenSSL by EVP: a context for each key, made before; for each packet an IV, the additional data and the text in one piece.
#![allow(unsafe_code, reason = "a library in C")]

use core::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::rc::Rc;

use anyhow::{Context, Result};
use esplanade_crypto::{Algorithm, IvForm};

use super::{ICV, Library, Pointers, aad, nonce};
use crate::crypto::candidate::Direction;
use crate::crypto::workload::Text;

/// The name in the report.
pub const NAME: &str = "openssl";

/// `EVP_CTRL_AEAD_GET_TAG` and `EVP_CTRL_AEAD_SET_TAG`.
const GET_TAG: c_int = 0x10;
const SET_TAG: c_int = 0x11;

/// `EVP_EncryptInit_ex` and its like: context, cipher, engine, key, IV.
type Init =
    unsafe extern "C" fn(*mut c_void, *const c_void, *mut c_void, *const u8, *const u8) -> c_int;
/// `EVP_EncryptUpdate` and its like: context, out, its length, in, its length.
type Update = unsafe extern "C" fn(*mut c_void, *mut u8, *mut c_int, *const u8, c_int) -> c_int;
/// `EVP_EncryptFinal_ex` and its like: context, out, its length.
type Final = unsafe extern "C" fn(*mut c_void, *mut u8, *mut c_int) -> c_int;

/// The three steps of one direction.
#[derive(Clone, Copy)]
struct Steps {
    init: Init,
    update: Update,
    end: Final,
}

/// What is used of the library.
pub struct Functions {
    version: String,
    fetch: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void,
    free_cipher: unsafe extern "C" fn(*mut c_void),
    new_context: unsafe extern "C" fn() -> *mut c_void,
    free_context: unsafe extern "C" fn(*mut c_void),
    control: unsafe extern "C" fn(*mut c_void, c_int, c_int, *mut c_void) -> c_int,
    encrypt: Steps,
    decrypt: Steps,
    _library: libloading::Library,
}

impl Functions {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// The library is not there, or is older than 3.0.
    pub fn load(path: &Path) -> Result<Self> {
        // SAFETY: the library's initializers have no preconditions, and the types are those of its headers.
        unsafe {
            let library = libloading::Library::new(path)
                .with_context(|| format!("cannot load {}", path.display()))?;
            let version: unsafe extern "C" fn(c_int) -> *const c_char =
                *library.get(b"OpenSSL_version")?;
            Ok(Self {
                version: CStr::from_ptr(version(0)).to_string_lossy().into_owned(),
                fetch: *library.get(b"EVP_CIPHER_fetch")?,
                free_cipher: *library.get(b"EVP_CIPHER_free")?,
                new_context: *library.get(b"EVP_CIPHER_CTX_new")?,
                free_context: *library.get(b"EVP_CIPHER_CTX_free")?,
                control: *library.get(b"EVP_CIPHER_CTX_ctrl")?,
                encrypt: Steps {
                    init: *library.get(b"EVP_EncryptInit_ex")?,
                    update: *library.get(b"EVP_EncryptUpdate")?,
                    end: *library.get(b"EVP_EncryptFinal_ex")?,
                },
                decrypt: Steps {
                    init: *library.get(b"EVP_DecryptInit_ex")?,
                    update: *library.get(b"EVP_DecryptUpdate")?,
                    end: *library.get(b"EVP_DecryptFinal_ex")?,
                },
                _library: library,
            })
        }
    }

    /// As it says itself.
    pub fn version(&self) -> String {
        self.version.clone()
    }
}

/// OpenSSL.
pub struct OpenSsl(Rc<Functions>);

impl OpenSsl {
    pub fn new(functions: &Rc<Functions>) -> Self {
        Self(Rc::clone(functions))
    }

    /// IV, additional data and text. The pointers must be good.
    #[inline]
    unsafe fn begin(&self, steps: Steps, key: &Key, number: u64, text: &Pointers) -> bool {
        let (nonce, aad) = (nonce(number), aad(number));
        let mut out = 0;
        let length = text.length as c_int;
        // SAFETY: a null cipher and key mean those of the context; a null output, that this is additional data.
        unsafe {
            (steps.init)(key.context, null(), null_mut(), null(), nonce.as_ptr()) == 1
                && (steps.update)(
                    key.context,
                    null_mut(),
                    &raw mut out,
                    aad.as_ptr(),
                    aad.len() as c_int,
                ) == 1
                && (steps.update)(key.context, text.to, &raw mut out, text.from, length) == 1
        }
    }

    /// Gets or sets the tag of a packet, whose pointers must be good.
    #[inline]
    unsafe fn tag(&self, what: c_int, key: &Key, text: &Pointers) -> bool {
        // SAFETY: there are so many bytes.
        unsafe { (self.0.control)(key.context, what, ICV as c_int, text.icv.cast()) == 1 }
    }
}

/// A context with a key.
pub struct Key {
    context: *mut c_void,
    functions: Rc<Functions>,
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: it was made by this library, and nobody else has it.
        unsafe { (self.functions.free_context)(self.context) };
    }
}

impl Library for OpenSsl {
    const NAME: &'static str = NAME;
    type Key = Key;

    fn key(&self, algorithm: Algorithm, key: &[u8], direction: Direction) -> Option<Key> {
        let name = match algorithm {
            Algorithm::AesGcm(aes, IvForm::Explicit) => format!("AES-{}-GCM\0", aes.bits()),
            Algorithm::ChaCha20Poly1305(IvForm::Explicit) => "ChaCha20-Poly1305\0".to_owned(),
            _ => return None,
        };
        let steps = match direction {
            Direction::Seal => self.0.encrypt,
            Direction::Open => self.0.decrypt,
        };
        // SAFETY: the name ends with a zero, the key is as long as the cipher's, and the context keeps the cipher.
        unsafe {
            let cipher = (self.0.fetch)(null_mut(), name.as_ptr().cast(), null());
            if cipher.is_null() {
                return None;
            }
            let made = Key {
                context: (self.0.new_context)(),
                functions: Rc::clone(&self.0),
            };
            let ready = !made.context.is_null()
                && (steps.init)(made.context, cipher, null_mut(), key.as_ptr(), null()) == 1;
            (self.0.free_cipher)(cipher);
            ready.then_some(made)
        }
    }

    #[inline]
    fn seal(&mut self, key: &mut Key, number: u64, text: &mut Text<'_>) -> Option<()> {
        let (steps, text) = (self.0.encrypt, Pointers::to_seal(text)?);
        let mut out = 0;
        // SAFETY: the frames have room for the text and its tag; a counter mode has nothing left to write at the end.
        unsafe {
            let done = self.begin(steps, key, number, &text)
                && (steps.end)(key.context, text.icv, &raw mut out) == 1
                && self.tag(GET_TAG, key, &text);
            done.then_some(())
        }
    }

    #[inline]
    fn open(&mut self, key: &mut Key, number: u64, text: &mut Text<'_>) -> Option<()> {
        let (steps, text) = (self.0.decrypt, Pointers::to_open(text)?);
        let (mut rest, mut out) = ([0; ICV], 0);
        // SAFETY: the frames have room for the text, and the tag is only read.
        unsafe {
            let done = self.begin(steps, key, number, &text)
                && self.tag(SET_TAG, key, &text)
                && (steps.end)(key.context, rest.as_mut_ptr(), &raw mut out) == 1;
            done.then_some(())
        }
    }
}
