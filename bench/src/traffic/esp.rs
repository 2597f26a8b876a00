//! Reads marks out of ESP, with another implementation of the cipher than the gateway under test is likely
//! to use: what is measured is also known to be right.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Key, Nonce, Tag};
use anyhow::{Result, ensure};
use esplanade_wire::ethernet::Frame;
use esplanade_wire::{Protocol, esp, ipv4};

use super::frame::{Mark, mark_of_packet};
use super::tester::{Plain, Reader, Reading};
use crate::driven::Sa;

/// One of so many packets is opened: the cipher would otherwise be what is measured.
const SAMPLE: u64 = 16;

const SALT: usize = 4;
const ICV: usize = 16;
/// What a frame of ours can hold.
const LONGEST: usize = 2_048;

/// Reads plain frames, and ESP of the last two SAs that were announced.
#[derive(Default)]
pub struct Either {
    keys: [Option<Opener>; 2],
    seen: u64,
    broken: u64,
}

impl Either {
    /// Announces an SA; its packets may come from now on.
    pub fn expect(&mut self, sa: Sa) -> Result<()> {
        self.keys.swap(0, 1);
        self.keys[0] = Some(Opener::new(sa));
        ensure!(self.broken == 0, "{} ESP packets did not open", self.broken);
        Ok(())
    }

    #[inline]
    fn open(&mut self, packet: &esp::Packet<'_>) -> Reading {
        let key = self
            .keys
            .iter()
            .flatten()
            .find(|key| key.spi == packet.spi().0);
        let Some(key) = key else {
            return Reading::Foreign;
        };
        self.seen += 1;
        if !self.seen.is_multiple_of(SAMPLE) {
            return Reading::Counted;
        }
        match key.open(packet) {
            Some(mark) => Reading::Marked(mark),
            None => {
                self.broken += 1;
                Reading::Foreign
            }
        }
    }
}

impl Reader for Either {
    #[inline]
    fn read(&mut self, frame: &[u8]) -> Reading {
        let packet = Frame::new_checked(frame)
            .ok()
            .and_then(|frame| ipv4::Packet::new_checked(frame.payload()).ok())
            .filter(|packet| packet.protocol() == Protocol::ESP)
            .and_then(|packet| esp::Packet::new_checked(packet.payload()).ok());
        match packet {
            Some(packet) => self.open(&packet),
            None => Plain.read(frame),
        }
    }
}

/// The key of one SA without ESN.
struct Opener {
    spi: u32,
    cipher: Aes128Gcm,
    salt: [u8; SALT],
}

impl Opener {
    fn new(sa: Sa) -> Self {
        let [key @ .., a, b, c, d] = sa.key;
        Self {
            spi: sa.spi,
            cipher: Aes128Gcm::new(&Key::<Aes128Gcm>::from(key)),
            salt: [a, b, c, d],
        }
    }

    /// The mark inside, if the packet is authentic and one of ours (RFC 4106 3 to 5).
    fn open(&self, packet: &esp::Packet<'_>) -> Option<Mark> {
        let (iv, sealed) = packet.split_iv::<8>()?;
        let (ciphertext, icv) = sealed.split_at_checked(sealed.len().checked_sub(ICV)?)?;
        let mut nonce = [0; 12];
        nonce[..SALT].copy_from_slice(&self.salt);
        nonce[SALT..].copy_from_slice(iv);
        let mut buffer = [0; LONGEST];
        let plain = buffer.get_mut(..ciphertext.len())?;
        plain.copy_from_slice(ciphertext);
        let icv = Tag::try_from(icv).ok()?;
        self.cipher
            .decrypt_inout_detached(&Nonce::from(nonce), &packet.header(), plain.into(), &icv)
            .ok()?;
        // Padding and trailer follow the packet, whose own length leaves them out.
        mark_of_packet(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_open_is_noticed() {
        let sa = Sa {
            spi: 0x1000_0001,
            key: [7; 20],
        };
        let mut reader = Either::default();
        reader.expect(sa).expect("nothing yet");
        let repr = esp::Repr {
            spi: esp::Spi(sa.spi),
            sequence: 1,
        };
        let mut bytes = repr.bytes().to_vec();
        bytes.resize(100, 0);
        let packet = esp::Packet::new_checked(&bytes).expect("ESP");
        for _ in 1..SAMPLE {
            assert_eq!(reader.open(&packet), Reading::Counted);
        }
        assert_eq!(reader.open(&packet), Reading::Foreign);
        assert!(reader.expect(sa).is_err());
    }
}
