//! Jobs as the engines see them that work across packets.

use super::{Lengths, OpenJob, SealJob};
use crate::{AdditionalData, chacha512, vaes256, vaes512};

/// What GHASH takes besides the text, of a job of ESP: other additional data is no single block.
#[inline]
fn authenticated<'a>(
    aad: &'a AdditionalData<'_>,
    lengths: &'a Lengths,
) -> Option<vaes512::Authenticated<'a>> {
    match aad {
        AdditionalData::Esp(aad) => Some(vaes512::Authenticated {
            additional: aad.padded(),
            lengths,
        }),
        AdditionalData::Bytes(_) => None,
    }
}

impl vaes512::Job for SealJob<'_> {
    const SEAL: bool = true;

    #[inline]
    fn is_ours(&self) -> bool {
        self.key.vaes512().is_some()
            && !self.buffers.are_segments()
            && matches!(self.aad, AdditionalData::Esp(_))
    }

    #[inline]
    fn packet(&mut self) -> Option<vaes512::Packet<'_>> {
        let (key, text) = (self.key.vaes512()?, self.buffers.text()?);
        let (iv, trailer) = (self.iv.explicit(), self.trailer.as_bytes());
        let authenticated = authenticated(&self.aad, &self.lengths)?;
        vaes512::Packet::to_seal(key, iv, authenticated, trailer, text)
    }
}

impl vaes256::Job for SealJob<'_> {
    const SEAL: bool = true;

    #[inline]
    fn schedule(&self) -> Option<&vaes256::Schedule> {
        let schedule = self.key.vaes256()?;
        (!self.buffers.are_segments()).then_some(schedule)
    }

    #[inline]
    fn packet(&mut self) -> Option<vaes256::Packet<'_>> {
        let (key, text) = (self.key.vaes256()?, self.buffers.text()?);
        vaes256::Packet::to_seal(key, self.iv.explicit(), &self.aad, &self.trailer, text)
    }
}

impl chacha512::Job for SealJob<'_> {
    const SEAL: bool = true;

    #[inline]
    fn is_ours(&self) -> bool {
        self.key.chacha512().is_some() && !self.buffers.are_segments()
    }

    #[inline]
    fn packet(&mut self) -> Option<chacha512::Packet<'_>> {
        let (key, text) = (self.key.chacha512()?, self.buffers.text()?);
        let (iv, trailer) = (self.iv.explicit(), self.trailer.as_bytes());
        chacha512::Packet::to_seal(key, iv, self.aad.as_bytes(), trailer, text)
    }
}

impl vaes512::Job for OpenJob<'_> {
    const SEAL: bool = false;

    #[inline]
    fn is_ours(&self) -> bool {
        self.key.vaes512().is_some()
            && !self.buffers.are_segments()
            && matches!(self.aad, AdditionalData::Esp(_))
    }

    #[inline]
    fn packet(&mut self) -> Option<vaes512::Packet<'_>> {
        let (key, text) = (self.key.vaes512()?, self.buffers.text()?);
        let authenticated = authenticated(&self.aad, &self.lengths)?;
        vaes512::Packet::to_open(key, self.iv.bytes().number(), authenticated, text)
    }
}

impl vaes256::Job for OpenJob<'_> {
    const SEAL: bool = false;

    #[inline]
    fn schedule(&self) -> Option<&vaes256::Schedule> {
        let schedule = self.key.vaes256()?;
        (!self.buffers.are_segments()).then_some(schedule)
    }

    #[inline]
    fn packet(&mut self) -> Option<vaes256::Packet<'_>> {
        let (key, text) = (self.key.vaes256()?, self.buffers.text()?);
        vaes256::Packet::to_open(key, self.iv.bytes().number(), &self.aad, text)
    }
}

impl chacha512::Job for OpenJob<'_> {
    const SEAL: bool = false;

    #[inline]
    fn is_ours(&self) -> bool {
        self.key.chacha512().is_some() && !self.buffers.are_segments()
    }

    #[inline]
    fn packet(&mut self) -> Option<chacha512::Packet<'_>> {
        let (key, text) = (self.key.chacha512()?, self.buffers.text()?);
        chacha512::Packet::to_open(key, self.iv.bytes().number(), self.aad.as_bytes(), text)
    }
}
