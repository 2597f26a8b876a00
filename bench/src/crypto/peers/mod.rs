//! The peers, each by the fastest interface that its users have, under keys that are prepared.
//!
//! Those in Rust are built in; those in C are looked for when the bench runs, and nothing of them is needed to build.

mod ipsec_mb;
mod openssl;
mod rust;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use esplanade_crypto::Algorithm;

use super::candidate::{Candidate, Direction, SALT, SPI, key_material};
use super::workload::{Packets, Text};
pub use ipsec_mb::NAME as IPSEC_MB;

/// The names of all.
pub const NAMES: [&str; 5] = [
    IPSEC_MB,
    rust::AwsLc::NAME,
    rust::Ring::NAME,
    openssl::NAME,
    rust::RustCrypto::NAME,
];

/// The length of the ICV of all that the peers do.
const ICV: usize = 16;

/// Where the libraries in C are.
#[derive(Debug, clap::Args)]
pub struct Libraries {
    /// Intel's multi-buffer library 2.0 (Debian's libipsec-mb-dev from trixie on), left out when it is not there.
    #[arg(long, default_value = "libIPSec_MB.so.2", value_name = "FILE")]
    pub ipsec_mb: PathBuf,
    /// OpenSSL 3 (Debian's libssl3), left out when it is not there.
    #[arg(long, default_value = "libcrypto.so.3", value_name = "FILE")]
    pub openssl: PathBuf,
}

/// The libraries in C that are there.
pub struct Peers {
    ipsec_mb: Option<Rc<ipsec_mb::Functions>>,
    openssl: Option<Rc<openssl::Functions>>,
}

impl Peers {
    /// Tells of each what was found, or why it is left out.
    pub fn load(libraries: &Libraries) -> Self {
        Self {
            ipsec_mb: told(
                "Intel's multi-buffer library",
                ipsec_mb::Functions::load(&libraries.ipsec_mb),
                ipsec_mb::Functions::version,
            ),
            openssl: told(
                "OpenSSL",
                openssl::Functions::load(&libraries.openssl),
                openssl::Functions::version,
            ),
        }
    }

    /// Those that do the algorithm and are wanted.
    pub fn candidates(
        &self,
        algorithm: Algorithm,
        sas: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Vec<Box<dyn Candidate>> {
        let ipsec_mb = || self.ipsec_mb.as_ref().filter(|_| wanted(IPSEC_MB));
        let openssl = self.openssl.as_ref().filter(|_| wanted(openssl::NAME));
        let gcm = ipsec_mb().and_then(|functions| ipsec_mb::Gcm::new(functions, algorithm));
        let chacha = ipsec_mb()
            .and_then(|functions| ipsec_mb::ChaCha20Poly1305::new(functions, algorithm, sas));
        let chacha = chacha.map(|peer| Box::new(peer) as Box<dyn Candidate>);
        let rust = |name| wanted(name).then_some(());
        let all = [
            peer(gcm, algorithm, sas),
            chacha,
            peer(
                rust(rust::AwsLc::NAME).map(|()| rust::AwsLc),
                algorithm,
                sas,
            ),
            peer(rust(rust::Ring::NAME).map(|()| rust::Ring), algorithm, sas),
            peer(openssl.map(openssl::OpenSsl::new), algorithm, sas),
            peer(
                rust(rust::RustCrypto::NAME).map(|()| rust::RustCrypto),
                algorithm,
                sas,
            ),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Says whether a library is there.
fn told<F>(name: &str, found: Result<F>, version: impl Fn(&F) -> String) -> Option<Rc<F>> {
    match found {
        Ok(functions) => {
            println!("{name}: {}", version(&functions));
            Some(Rc::new(functions))
        }
        Err(reason) => {
            println!("Without {name}: {reason:#}");
            None
        }
    }
}

/// A library that takes packets one by one.
trait Library {
    const NAME: &'static str;
    type Key;
    /// `None` when it does not do the algorithm. Does everything that can be done before there is a packet.
    fn key(&self, algorithm: Algorithm, key: &[u8], direction: Direction) -> Option<Self::Key>;
    fn seal(&mut self, key: &mut Self::Key, number: u64, text: &mut Text<'_>) -> Option<()>;
    /// `None` when it is not authentic.
    fn open(&mut self, key: &mut Self::Key, number: u64, text: &mut Text<'_>) -> Option<()>;
}

/// A library with a key for each SA.
struct Peer<L: Library> {
    library: L,
    sealing: Vec<L::Key>,
    opening: Vec<L::Key>,
}

/// `None` without the library, or when it does not do the algorithm.
fn peer<L: Library<Key: 'static> + 'static>(
    library: Option<L>,
    algorithm: Algorithm,
    sas: usize,
) -> Option<Box<dyn Candidate>> {
    let library = library?;
    let keys = |direction| {
        (0..sas)
            .map(|sa| {
                let material = key_material(algorithm, sa);
                let (key, _) = material.split_at(algorithm.key_len());
                library.key(algorithm, key, direction)
            })
            .collect::<Option<Vec<_>>>()
    };
    let (sealing, opening) = (keys(Direction::Seal)?, keys(Direction::Open)?);
    Some(Box::new(Peer {
        library,
        sealing,
        opening,
    }))
}

impl<L: Library> Candidate for Peer<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn seal(&mut self, packets: &mut Packets<'_>) -> Result<Duration> {
        let mut done = true;
        let start = Instant::now();
        for packet in packets {
            let key = &mut self.sealing[packet.sa];
            let sealed = self.library.seal(key, packet.number, &mut packet.text);
            done &= sealed.is_some();
        }
        let taken = start.elapsed();
        ensure!(done, "{} does not seal", L::NAME);
        Ok(taken)
    }

    fn open(&mut self, packets: &mut Packets<'_>) -> Result<Duration> {
        let mut done = true;
        let start = Instant::now();
        for packet in packets {
            let key = &mut self.opening[packet.sa];
            let opened = self.library.open(key, packet.number, &mut packet.text);
            done &= opened.is_some();
        }
        let taken = start.elapsed();
        ensure!(done, "{} refuses what it sealed", L::NAME);
        Ok(taken)
    }
}

/// SPI and sequence number (RFC 4106 5), in one store.
#[inline]
fn aad(number: u64) -> [u8; 8] {
    (u64::from(SPI) << 32 | number & 0xffff_ffff).to_be_bytes()
}

/// Salt and sequence number (RFC 4106 4).
#[inline]
fn nonce(number: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    let (salt, iv) = nonce.split_at_mut(4);
    salt.copy_from_slice(&SALT.to_le_bytes());
    iv.copy_from_slice(&number.to_be_bytes());
    nonce
}

/// Where a library in C takes a text from and puts it, how long it is, and its ICV.
struct Pointers {
    from: *const u8,
    to: *mut u8,
    length: usize,
    /// Where the ICV is or will be.
    icv: *mut u8,
}

impl Pointers {
    fn to_seal(text: &mut Text<'_>) -> Option<Self> {
        let (from, out) = match text {
            Text::Apart { source, out } => (Some(source.as_ptr()), &mut **out),
            Text::InPlace(frame) => (None, &mut **frame),
        };
        let length = out.len().checked_sub(ICV)?;
        let (body, icv) = out.split_at_mut(length);
        let to = body.as_mut_ptr();
        Some(Self {
            from: from.unwrap_or(to),
            to,
            length,
            icv: icv.as_mut_ptr(),
        })
    }

    /// The ICV is only to be read.
    fn to_open(text: &mut Text<'_>) -> Option<Self> {
        match text {
            Text::Apart { source, out } => {
                let (body, icv) = source.split_last_chunk::<ICV>()?;
                Some(Self {
                    from: body.as_ptr(),
                    to: out.as_mut_ptr(),
                    length: body.len(),
                    icv: icv.as_ptr().cast_mut(),
                })
            }
            Text::InPlace(frame) => {
                let (body, icv) = frame.split_last_chunk_mut::<ICV>()?;
                let to = body.as_mut_ptr();
                Some(Self {
                    from: to,
                    to,
                    length: body.len(),
                    icv: icv.as_mut_ptr(),
                })
            }
        }
    }
}
