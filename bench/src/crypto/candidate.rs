//! Who is measured: our engines and their peers.

use std::time::Duration;

use anyhow::Result;
use esplanade_crypto::{Algorithm, EngineKind};

use super::engine::Engine;
use super::peers::{self, Peers};
use super::workload::Packets;

/// Seals and opens batches, and says how long that took: from keys, numbers and texts to the last ICV.
pub trait Candidate {
    fn name(&self) -> &'static str;
    fn seal(&mut self, packets: &mut Packets<'_>) -> Result<Duration>;
    /// An error if a packet is not authentic.
    fn open(&mut self, packets: &mut Packets<'_>) -> Result<Duration>;
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Encrypt.
    Seal,
    /// Decrypt.
    Open,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
        }
    }
}

/// All that do the algorithm, with a key for each SA and direction. `engines` are their names; all when there is none.
/// `batch_only` leaves the building of our jobs out of their time.
pub fn candidates(
    algorithm: Algorithm,
    sas: usize,
    engines: &[String],
    batch_only: bool,
    peers: &Peers,
) -> Result<Vec<Box<dyn Candidate>>> {
    let wanted = |name: &str| engines.is_empty() || engines.iter().any(|engine| engine == name);
    let mut all: Vec<Box<dyn Candidate>> = Vec::new();
    for engine in EngineKind::available() {
        if engine.does(algorithm) && wanted(engine.name()) {
            all.push(Box::new(Engine::new(*engine, algorithm, sas, batch_only)?));
        }
    }
    all.extend(peers.candidates(algorithm, sas, wanted));
    Ok(all)
}

/// A candidate's name.
pub fn engine(name: &str) -> Result<String, String> {
    let ours = EngineKind::available().iter().map(|engine| engine.name());
    let names: Vec<_> = ours.chain(peers::NAMES).collect();
    if names.contains(&name) {
        Ok(name.to_owned())
    } else {
        Err(format!("there are {}", names.join(", ")))
    }
}

/// A key for each SA. All have the same salt, which spares the peers a place to keep it.
pub fn key_material(algorithm: Algorithm, sa: usize) -> Vec<u8> {
    let mut material = vec![0x42; algorithm.key_material_len()];
    for (byte, number) in material.iter_mut().zip(sa.to_le_bytes()) {
        *byte ^= number;
    }
    material
}

/// The last bytes of the key material of an AEAD.
pub const SALT: u32 = 0x4242_4242;
/// What all packets carry.
pub const SPI: u32 = 0x1000_0001;
