//! Jobs as the kernels see them that work across packets.

use super::{OpenJob, SealJob, ToOpen, ToSeal};
use crate::{chacha512, vaes256, vaes512};

impl vaes512::Job for SealJob<'_> {
    const SEAL: bool = true;

    #[inline(always)]
    fn packet(&self) -> Option<&vaes512::Packet<'_>> {
        match &self.0 {
            ToSeal::Vaes512(packet) => Some(packet),
            ToSeal::Other { .. } => None,
        }
    }
}

impl vaes256::Job for SealJob<'_> {
    const SEAL: bool = true;

    #[inline]
    fn schedule(&self) -> Option<&vaes256::Schedule> {
        match &self.0 {
            ToSeal::Other { key, buffers, .. } if !buffers.are_segments() => key.vaes256(),
            _ => None,
        }
    }

    #[inline]
    fn packet(&mut self) -> Option<vaes256::Packet<'_>> {
        let ToSeal::Other {
            key,
            iv,
            aad,
            trailer,
            buffers,
        } = &mut self.0
        else {
            return None;
        };
        let (key, text) = (key.vaes256()?, buffers.text()?);
        vaes256::Packet::to_seal(key, iv.explicit(), aad, trailer, text)
    }
}

impl chacha512::Job for SealJob<'_> {
    const SEAL: bool = true;

    #[inline]
    fn is_ours(&self) -> bool {
        matches!(&self.0, ToSeal::Other { key, buffers, .. } if key.chacha512().is_some() && !buffers.are_segments())
    }

    #[inline]
    fn packet(&mut self) -> Option<chacha512::Packet<'_>> {
        let ToSeal::Other {
            key,
            iv,
            aad,
            trailer,
            buffers,
        } = &mut self.0
        else {
            return None;
        };
        let (key, text) = (key.chacha512()?, buffers.text()?);
        chacha512::Packet::to_seal(key, iv.explicit(), aad.as_bytes(), trailer.as_bytes(), text)
    }
}

impl vaes512::Job for OpenJob<'_> {
    const SEAL: bool = false;

    #[inline(always)]
    fn packet(&self) -> Option<&vaes512::Packet<'_>> {
        match &self.0 {
            ToOpen::Vaes512(packet) => Some(packet),
            ToOpen::Other { .. } => None,
        }
    }
}

impl vaes256::Job for OpenJob<'_> {
    const SEAL: bool = false;

    #[inline]
    fn schedule(&self) -> Option<&vaes256::Schedule> {
        match &self.0 {
            ToOpen::Other { key, buffers, .. } if !buffers.are_segments() => key.vaes256(),
            _ => None,
        }
    }

    #[inline]
    fn packet(&mut self) -> Option<vaes256::Packet<'_>> {
        let ToOpen::Other {
            key,
            iv,
            aad,
            buffers,
        } = &mut self.0
        else {
            return None;
        };
        let (key, text) = (key.vaes256()?, buffers.text()?);
        vaes256::Packet::to_open(key, iv.bytes().number(), aad, text)
    }
}

impl chacha512::Job for OpenJob<'_> {
    const SEAL: bool = false;

    #[inline]
    fn is_ours(&self) -> bool {
        matches!(&self.0, ToOpen::Other { key, buffers, .. } if key.chacha512().is_some() && !buffers.are_segments())
    }

    #[inline]
    fn packet(&mut self) -> Option<chacha512::Packet<'_>> {
        let ToOpen::Other {
            key,
            iv,
            aad,
            buffers,
        } = &mut self.0
        else {
            return None;
        };
        let (key, text) = (key.chacha512()?, buffers.text()?);
        chacha512::Packet::to_open(key, iv.bytes().number(), aad.as_bytes(), text)
    }
}
