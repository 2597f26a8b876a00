//! The engines: which there are, which is fastest, and what each must do.

mod aws_lc;
mod portable;

#[cfg(target_arch = "x86_64")]
use crate::vaes512;
use crate::{
    Algorithm,
    key::{NONCE_LEN, SALT_LEN},
};
use core::{fmt, str::FromStr};

/// An implementation of the algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// On the RustCrypto crates: every platform, the reference.
    Portable,
    /// On aws-lc: the fast portable one.
    AwsLc,
    /// Our kernels for AVX-512 with VAES and VPCLMULQDQ.
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
        if vaes512::is_available() {
            return &[Self::Vaes512, Self::AwsLc, Self::Portable];
        }
        &[Self::AwsLc, Self::Portable]
    }

    /// The name by which it is chosen and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::AwsLc => "aws-lc-rs",
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
    if name == EngineKind::Vaes512.name() {
        format!("this CPU lacks AVX-512, VAES or VPCLMULQDQ, which the crypto engine {name} needs")
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

/// One packet to seal: `out` is as long as plaintext, trailer and ICV.
pub(crate) struct Sealing<'a> {
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) aad: &'a [u8],
    pub(crate) plaintext: &'a [u8],
    pub(crate) trailer: &'a [u8],
    pub(crate) out: &'a mut [u8],
}

/// One packet to open: `out` is as long as the ciphertext without its ICV.
pub(crate) struct Opening<'a> {
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) aad: &'a [u8],
    pub(crate) ciphertext: &'a [u8],
    pub(crate) out: &'a mut [u8],
}

/// A key schedule of one of the engines.
pub(crate) enum Cipher {
    Portable(portable::Cipher),
    AwsLc(aws_lc::Cipher),
    #[cfg(target_arch = "x86_64")]
    Vaes512(Box<vaes512::Schedule>),
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
            EngineKind::Vaes512 => vaes512::Schedule::new(key, salt).map(Self::Vaes512),
            #[cfg(not(target_arch = "x86_64"))]
            EngineKind::Vaes512 => None,
        }
    }

    pub(crate) const fn engine(&self) -> EngineKind {
        match self {
            Self::Portable(_) => EngineKind::Portable,
            Self::AwsLc(_) => EngineKind::AwsLc,
            #[cfg(target_arch = "x86_64")]
            Self::Vaes512(_) => EngineKind::Vaes512,
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

    /// `None` leaves anything in the buffer.
    #[inline]
    pub(crate) fn seal(&self, packet: Sealing<'_>) -> Option<()> {
        match self {
            Self::Portable(cipher) => cipher.seal(packet),
            Self::AwsLc(cipher) => cipher.seal(packet),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes512(schedule) => vaes512::seal(schedule, packet),
        }
    }

    /// `None` is a forged packet, and leaves anything in the buffer.
    #[inline]
    pub(crate) fn open(&self, packet: Opening<'_>) -> Option<()> {
        match self {
            Self::Portable(cipher) => cipher.open(packet),
            Self::AwsLc(cipher) => cipher.open(packet),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes512(schedule) => vaes512::open(schedule, packet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
