//! The engines: which there are, which is fastest, and what each must do.

mod aws_lc;
mod cbc;
mod encrypt_then_mac;
pub(crate) mod gmac;
mod mac;
mod portable;

pub(crate) use encrypt_then_mac::EncryptThenMac;
pub(crate) use mac::Mac;

use crate::{
    Algorithm,
    key::{NONCE_LEN, SALT_LEN},
};
#[cfg(target_arch = "x86_64")]
use crate::{chacha512, vaes256, vaes512};
use core::{fmt, str::FromStr};

/// An implementation of the algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// On the RustCrypto crates: every platform, the reference.
    Portable,
    /// On aws-lc: the fast portable one.
    AwsLc,
    /// Our kernels for AVX2 with VAES and VPCLMULQDQ.
    Vaes256,
    /// Our kernels for AVX-512 with VAES and VPCLMULQDQ, and for ChaCha20-Poly1305 with IFMA.
    Vaes512,
}

impl EngineKind {
    /// The fastest on this machine.
    pub fn best() -> Self {
        Self::available().first().copied().unwrap_or(Self::Portable)
    }

    /// Those that run on this machine, the fastest first.
    pub fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            if vaes512::is_available() {
                return &[Self::Vaes512, Self::Vaes256, Self::AwsLc, Self::Portable];
            }
            if vaes256::is_available() {
                return &[Self::Vaes256, Self::AwsLc, Self::Portable];
            }
        }
        &[Self::AwsLc, Self::Portable]
    }

    /// Whether it does the algorithm, on a machine that it runs on.
    pub fn does(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Portable => true,
            Self::AwsLc => !matches!(algorithm, Algorithm::AesCcm(..)),
            Self::Vaes256 => matches!(algorithm, Algorithm::AesGcm(..) | Algorithm::AesGmac(_)),
            Self::Vaes512 => match algorithm {
                Algorithm::AesGcm(..) | Algorithm::AesGmac(_) => true,
                #[cfg(target_arch = "x86_64")]
                Algorithm::ChaCha20Poly1305(_) => chacha512::is_available(),
                _ => false,
            },
        }
    }

    /// The fastest on this machine that does the algorithm.
    pub fn best_for(algorithm: Algorithm) -> Self {
        let mut able = Self::available()
            .iter()
            .filter(|engine| engine.does(algorithm));
        able.next().copied().unwrap_or(Self::Portable)
    }

    /// Itself if it does the algorithm, or the fastest that does.
    pub fn or_best_for(self, algorithm: Algorithm) -> Self {
        if self.does(algorithm) {
            self
        } else {
            Self::best_for(algorithm)
        }
    }

    /// The name by which it is chosen and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::AwsLc => "aws-lc-rs",
            Self::Vaes256 => "vaes256",
            Self::Vaes512 => "vaes512",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no engine of this name here, or the CPU does not run it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; there are {}", what_is_wrong(name), names())]
pub struct UnknownEngine {
    /// What was asked for.
    pub name: String,
}

fn what_is_wrong(name: &str) -> String {
    let lacks = |vectors: &str| {
        format!(
            "this CPU lacks {vectors}, VAES or VPCLMULQDQ, which the crypto engine {name} needs"
        )
    };
    if name == EngineKind::Vaes512.name() {
        lacks("AVX-512")
    } else if name == EngineKind::Vaes256.name() {
        lacks("AVX2")
    } else {
        format!("no crypto engine is called {name:?}")
    }
}

fn names() -> String {
    let names: Vec<_> = EngineKind::available()
        .iter()
        .map(|engine| engine.name())
        .collect();
    names.join(", ")
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        Self::available()
            .iter()
            .find(|engine| engine.name() == name)
            .copied()
            .ok_or_else(|| UnknownEngine { name: name.into() })
    }
}

/// Where the text of a packet lies.
pub(crate) enum Text<'a> {
    /// From one buffer into another. When sealing, `source` is the plaintext, and `out` is as long as it, the trailer and the
    /// ICV; when opening, `source` is ciphertext and ICV, and `out` is as long as the ciphertext.
    Apart { source: &'a [u8], out: &'a mut [u8] },
    /// In one buffer, as long as ciphertext and ICV: the plaintext is or will be at its start.
    InPlace(&'a mut [u8]),
}

impl<'a> Text<'a> {
    /// The same once more, for a while.
    #[inline(always)]
    pub(crate) fn again(&mut self) -> Text<'_> {
        match self {
            Self::Apart { source, out } => Text::Apart { source, out },
            Self::InPlace(buffer) => Text::InPlace(buffer),
        }
    }

    /// The length of the source.
    #[inline(always)]
    pub(crate) fn source_len(&self) -> usize {
        match self {
            Self::Apart { source, .. } => source.len(),
            Self::InPlace(buffer) => buffer.len(),
        }
    }

    /// The length of the destination.
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        match self {
            Self::Apart { out, .. } => out.len(),
            Self::InPlace(buffer) => buffer.len(),
        }
    }

    /// Plaintext and trailer where the ciphertext will be, with the room for the ICV behind them.
    pub(crate) fn assemble(self, trailer: &[u8], icv: usize) -> Option<&'a mut [u8]> {
        let out = match self {
            Self::Apart { source, out } => {
                out.get_mut(..source.len())?.copy_from_slice(source);
                out
            }
            Self::InPlace(buffer) => buffer,
        };
        let body = out.len().checked_sub(trailer.len() + icv)?;
        out.get_mut(body..body + trailer.len())?
            .copy_from_slice(trailer);
        Some(out)
    }
}

/// One packet to seal.
pub(crate) struct Sealing<'a> {
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) aad: &'a [u8],
    pub(crate) trailer: &'a [u8],
    pub(crate) text: Text<'a>,
}

/// One packet to open.
pub(crate) struct Opening<'a> {
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) aad: &'a [u8],
    pub(crate) text: Text<'a>,
}

/// The key schedule of an AEAD, by one of the engines.
pub(crate) enum Cipher {
    Portable(portable::Cipher),
    AwsLc(aws_lc::Cipher),
    #[cfg(target_arch = "x86_64")]
    Vaes256(Box<vaes256::Schedule>),
    #[cfg(target_arch = "x86_64")]
    Vaes512(Box<vaes512::Schedule>),
    #[cfg(target_arch = "x86_64")]
    ChaCha512 {
        burst: Box<chacha512::Schedule>,
        alone: Box<aws_lc::Cipher>,
    },
}

impl Cipher {
    /// `None` when the engine does not do the algorithm.
    pub(crate) fn new(
        engine: EngineKind,
        algorithm: Algorithm,
        key: &[u8],
        salt: [u8; SALT_LEN],
    ) -> Option<Self> {
        match engine {
            EngineKind::Portable => portable::Cipher::new(algorithm, key).map(Self::Portable),
            EngineKind::AwsLc => aws_lc::Cipher::new(algorithm, key).map(Self::AwsLc),
            #[cfg(target_arch = "x86_64")]
            EngineKind::Vaes256 => match algorithm {
                Algorithm::AesGcm(..) => vaes256::Schedule::new(key, salt).map(Self::Vaes256),
                _ => None,
            },
            #[cfg(target_arch = "x86_64")]
            EngineKind::Vaes512 => match algorithm {
                Algorithm::AesGcm(..) => vaes512::Schedule::new(key, salt).map(Self::Vaes512),
                Algorithm::ChaCha20Poly1305(_) => Some(Self::ChaCha512 {
                    burst: chacha512::Schedule::new(key, salt)?,
                    alone: aws_lc::Cipher::new(algorithm, key).map(Box::new)?,
                }),
                _ => None,
            },
            #[cfg(not(target_arch = "x86_64"))]
            EngineKind::Vaes256 | EngineKind::Vaes512 => {
                // Only their schedules take the salt.
                let _ = salt;
                None
            }
        }
    }

    pub(crate) const fn engine(&self) -> EngineKind {
        match self {
            Self::Portable(_) => EngineKind::Portable,
            Self::AwsLc(_) => EngineKind::AwsLc,
            #[cfg(target_arch = "x86_64")]
            Self::Vaes256(_) => EngineKind::Vaes256,
            #[cfg(target_arch = "x86_64")]
            Self::Vaes512(_) | Self::ChaCha512 { .. } => EngineKind::Vaes512,
        }
    }

    /// The key schedule of the AVX-512 kernels, when it is theirs.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn vaes512(&self) -> Option<&vaes512::Schedule> {
        match self {
            Self::Vaes512(schedule) => Some(schedule),
            _ => None,
        }
    }

    /// The key schedule of the AVX2 kernels, when it is theirs.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn vaes256(&self) -> Option<&vaes256::Schedule> {
        match self {
            Self::Vaes256(schedule) => Some(schedule),
            _ => None,
        }
    }

    /// What the kernels of ChaCha20-Poly1305 need, when it is theirs.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn chacha512(&self) -> Option<&chacha512::Schedule> {
        match self {
            Self::ChaCha512 { burst, .. } => Some(burst),
            _ => None,
        }
    }

    /// `None` leaves anything in the buffer.
    #[inline]
    pub(crate) fn seal(&self, packet: Sealing<'_>) -> Option<()> {
        match self {
            Self::Portable(cipher) => cipher.seal(packet),
            Self::AwsLc(cipher) => cipher.seal(packet),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes256(schedule) => vaes256::seal(schedule, packet),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes512(schedule) => vaes512::seal(schedule, packet),
            #[cfg(target_arch = "x86_64")]
            Self::ChaCha512 { alone, .. } => alone.seal(packet),
        }
    }

    /// `None` is a forged packet, and leaves anything in the buffer.
    #[inline]
    pub(crate) fn open(&self, packet: Opening<'_>) -> Option<()> {
        match self {
            Self::Portable(cipher) => cipher.open(packet),
            Self::AwsLc(cipher) => cipher.open(packet),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes256(schedule) => vaes256::open(schedule, packet),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes512(schedule) => vaes512::open(schedule, packet),
            #[cfg(target_arch = "x86_64")]
            Self::ChaCha512 { alone, .. } => alone.open(packet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AesKey, IvForm, SealingKey};

    #[test]
    fn an_engine_does_what_it_says() {
        for engine in EngineKind::available() {
            for algorithm in Algorithm::ALL {
                let material = vec![1; algorithm.key_material_len()];
                let key = SealingKey::new(*engine, algorithm, &material);
                assert_eq!(key.is_ok(), engine.does(algorithm), "{engine} {algorithm}");
                assert!(engine.or_best_for(algorithm).does(algorithm));
            }
        }
        let vaes512 = EngineKind::Vaes512;
        assert_eq!(vaes512.or_best_for(Algorithm::AES_128_GCM_16), vaes512);
        const CCM: Algorithm = Algorithm::AesCcm(AesKey::Bits128, IvForm::Explicit);
        let other = vaes512.or_best_for(CCM);
        assert_eq!(other, EngineKind::best_for(CCM));
        assert!(SealingKey::new(other, CCM, &[1; 19]).is_ok());
    }

    #[test]
    fn names_are_read_as_they_are_shown() {
        for engine in EngineKind::available() {
            assert_eq!(engine.to_string().parse(), Ok(*engine));
        }
        assert!(EngineKind::available().contains(&EngineKind::best()));
        let error = "fastest".parse::<EngineKind>().unwrap_err().to_string();
        let (start, end) = (
            "no crypto engine is called \"fastest\"; there are ",
            "aws-lc-rs, portable",
        );
        assert!(error.starts_with(start) && error.ends_with(end), "{error}");
    }

    #[test]
    fn an_engine_that_the_cpu_lacks_says_what_it_needs() {
        for (engine, vectors) in [
            (EngineKind::Vaes512, "AVX-512"),
            (EngineKind::Vaes256, "AVX2"),
        ] {
            let expected = format!(
                "this CPU lacks {vectors}, VAES or VPCLMULQDQ, which the crypto engine {engine} needs"
            );
            assert_eq!(what_is_wrong(engine.name()), expected);
        }
    }
}
