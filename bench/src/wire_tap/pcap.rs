//! Reads the classic pcap format, as tcpdump writes it into a pipe.

use std::io::{ErrorKind, Read};

use anyhow::{Context, Result, bail};

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
/// tcpdump never takes more of a frame than this.
const LONGEST: u32 = 262_144;

/// The frames of a pcap stream, one after the other.
pub(super) struct Reader<R> {
    input: R,
    frame: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the header of the stream.
    pub(super) fn new(mut input: R) -> Result<Self> {
        let mut header = [0; 24];
        input
            .read_exact(&mut header)
            .context("tcpdump ended before it listened")?;
        let (magic, link_type) = (word(&header, 0), word(&header, 20));
        if magic != Some(MAGIC) || link_type != Some(ETHERNET) {
            bail!("not a capture of Ethernet frames in this machine's byte order");
        }
        Ok(Self {
            input,
            frame: Vec::new(),
        })
    }

    /// The next frame, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>> {
        let mut header = [0; 16];
        if let Err(error) = self.input.read_exact(&mut header) {
            // A capture that is broken off ends anywhere.
            return if error.kind() == ErrorKind::UnexpectedEof {
                Ok(None)
            } else {
                Err(error.into())
            };
        }
        let length = word(&header, 8)
            .filter(|length| *length <= LONGEST)
            .context("a broken capture")?;
        self.frame.resize(length as usize, 0);
        match self.input.read_exact(&mut self.frame) {
            Ok(()) => Ok(Some(&self.frame)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut stream = Vec::new();
        for word in [MAGIC, 4 << 16 | 2, 0, 0, 65_535, ETHERNET] {
            stream.extend(word.to_ne_bytes());
        }
        for frame in [&b"first"[..], b"second"] {
            let length = u32::try_from(frame.len()).expect("short");
            for word in [0, 0, length, length] {
                stream.extend(word.to_ne_bytes());
            }
            stream.extend(frame);
        }
        stream.extend([0; 7]);
        let mut reader = Reader::new(&stream[..]).expect("a header");
        assert_eq!(reader.next().expect("a frame"), Some(&b"first"[..]));
        assert_eq!(reader.next().expect("a frame"), Some(&b"second"[..]));
        assert_eq!(reader.next().expect("the end"), None);
    }
}
