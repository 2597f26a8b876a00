//! What is asked of a job before it is one.

use super::{JobError, MAX_PLAINTEXT};
use crate::{
    AdditionalData, Algorithm,
    buffers::{Buffers, MAX_SEGMENTED},
    iv,
};

/// What decides whether a job can be.
pub(super) struct Facts {
    algorithm: Algorithm,
    /// Whether a generator drew the IV.
    drawn: bool,
    /// Bytes of additional data,
    aad: usize,
    /// of the source, and of the destination.
    source: usize,
    found: usize,
    in_place: bool,
    /// Not in segments.
    whole: bool,
}

impl Facts {
    pub(super) fn new(
        algorithm: Algorithm,
        iv: &iv::Bytes,
        aad: &AdditionalData<'_>,
        buffers: &Buffers<'_>,
    ) -> Self {
        let (source, found) = buffers.lengths();
        Self {
            algorithm,
            drawn: iv.is_drawn(),
            aad: aad.as_bytes().len(),
            source,
            found,
            in_place: buffers.are_one(),
            whole: !buffers.are_segments(),
        }
    }

    /// The lengths of a packet to be sealed.
    pub(super) fn check_seal(self, trailer: usize) -> Result<(), JobError> {
        self.check_iv()?;
        let (found, behind) = (self.found, trailer + self.algorithm.icv_len());
        let plaintext = if self.in_place {
            self.source
                .checked_sub(behind)
                .ok_or(JobError::TooShort { found, behind })?
        } else {
            self.source
        };
        let expected = plaintext + behind;
        check_text(plaintext, MAX_PLAINTEXT)?;
        self.check_gathered(expected)?;
        self.check_blocks(plaintext + trailer)?;
        if found != expected {
            return Err(JobError::OutLength { expected, found });
        }
        Ok(())
    }

    /// The lengths of a packet to be opened.
    pub(super) fn check_open(self) -> Result<(), JobError> {
        self.check_iv()?;
        let (source, found, behind) = (self.source, self.found, self.algorithm.icv_len());
        let plaintext = source.checked_sub(behind).ok_or(JobError::TooShort {
            found: source,
            behind,
        })?;
        check_text(plaintext, MAX_PLAINTEXT + crate::MAX_TRAILER)?;
        self.check_gathered(source)?;
        self.check_blocks(plaintext)?;
        let expected = if self.in_place { source } else { plaintext };
        if found != expected {
            return Err(JobError::OutLength { expected, found });
        }
        Ok(())
    }

    fn check_iv(&self) -> Result<(), JobError> {
        let algorithm = self.algorithm;
        if self.drawn == algorithm.has_unpredictable_iv() {
            Ok(())
        } else {
            Err(JobError::WrongIv { algorithm })
        }
    }

    /// What is put together on the stack has to have room there.
    fn check_gathered(&self, text: usize) -> Result<(), JobError> {
        let gathered = match self.algorithm {
            Algorithm::AesGmac(_) => text + self.aad,
            _ if !self.whole => text,
            _ => 0,
        };
        check_text(gathered, MAX_SEGMENTED)
    }

    fn check_blocks(&self, found: usize) -> Result<(), JobError> {
        let algorithm = self.algorithm;
        if algorithm.has_unpredictable_iv() && !found.is_multiple_of(algorithm.alignment()) {
            return Err(JobError::NotInBlocks { algorithm, found });
        }
        Ok(())
    }
}

fn check_text(found: usize, most: usize) -> Result<(), JobError> {
    if found > most {
        return Err(too_long(found, most));
    }
    Ok(())
}

pub(super) fn too_long(found: usize, most: usize) -> JobError {
    JobError::TooLong { found, most }
}
