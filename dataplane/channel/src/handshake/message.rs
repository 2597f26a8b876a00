//! The two messages of the handshake, each with the version and the layout hash of who sends it, and each bounded.

use crate::{
    MAX_ENGINE_NAME, MAX_INTERFACE_NAME, MAX_PORTS, MAX_WORKERS, Polling, PortSetup, PortVlan,
    Role, Setup, WorkerSetup,
    layout::{LAYOUT_HASH, MAGIC, VERSION},
};

/// No message is longer.
pub const MAX_MESSAGE: usize = 2048;
/// No refusal is longer.
const MAX_SENTENCE: usize = 1024;

const _: () = assert!(
    64 + MAX_WORKERS * 3 + MAX_PORTS * (2 * MAX_INTERFACE_NAME + 5) + MAX_ENGINE_NAME < MAX_MESSAGE
);

/// Why a message is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It does not begin with our magic word, or it ends too early or too late, or a field is out of bounds.
    Garbage,
    /// It is of another build.
    Mismatch {
        /// Its version.
        version: u32,
        /// Its layout hash.
        hash: u64,
    },
}

/// What the dataplane answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Yes; the descriptors come with it.
    Granted,
    /// No, and why.
    Refused {
        /// For an operator.
        sentence: String,
    },
}

const GRANTED: u8 = 1;
const REFUSED: u8 = 2;

/// A message that begins as every message does.
fn begin(version: u32, hash: u64) -> Vec<u8> {
    let mut message = Vec::with_capacity(MAX_MESSAGE);
    message.extend(MAGIC.to_le_bytes());
    message.extend(version.to_le_bytes());
    message.extend(hash.to_le_bytes());
    message
}

/// The setup, which a control plane sends. It must be one that [`Setup::check`] passes.
pub fn encode_setup(setup: &Setup) -> Vec<u8> {
    encode_setup_as(setup, VERSION, LAYOUT_HASH)
}

/// As [`encode_setup`], of another build.
pub fn encode_setup_as(setup: &Setup, version: u32, hash: u64) -> Vec<u8> {
    let mut message = begin(version, hash);
    message.push(setup.workers.len() as u8);
    for worker in &setup.workers {
        message.push(worker.core.is_some().into());
        message.extend(worker.core.unwrap_or(0).to_le_bytes());
    }
    message.push(setup.ports.len() as u8);
    for port in &setup.ports {
        message.push(port.role as u8);
        push_text(&mut message, &port.interface);
        let vlan = port.vlan.as_ref();
        message.extend(vlan.map_or(0, |vlan| vlan.id).to_le_bytes());
        push_text(&mut message, vlan.map_or("", |vlan| &vlan.carrier));
    }
    message.push(setup.polling as u8);
    message.extend(setup.sa_capacity.to_le_bytes());
    message.extend(setup.ring_frames.to_le_bytes());
    message.push(setup.engine.is_some().into());
    push_text(&mut message, setup.engine.as_deref().unwrap_or_default());
    message
}

fn push_text(message: &mut Vec<u8>, text: &str) {
    message.push(text.len() as u8);
    message.extend(text.as_bytes());
}

/// Reads a setup, which need not pass [`Setup::check`].
pub fn decode_setup(message: &[u8]) -> Result<Setup, Unreadable> {
    let mut reader = Reader::open(message)?;
    let setup = reader.setup().ok_or(Unreadable::Garbage)?;
    if reader.rest.is_empty() {
        Ok(setup)
    } else {
        Err(Unreadable::Garbage)
    }
}

/// The answer, which a dataplane sends.
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    let mut message = begin(VERSION, LAYOUT_HASH);
    match answer {
        Answer::Granted => message.push(GRANTED),
        Answer::Refused { sentence } => {
            message.push(REFUSED);
            let end = sentence.floor_char_boundary(MAX_SENTENCE);
            message.extend(sentence.bytes().take(end));
        }
    }
    message
}

/// Reads an answer. A refusal is read from whatever build it comes: it may say that the builds differ.
pub fn decode_answer(message: &[u8]) -> Result<Answer, Unreadable> {
    let mut reader = Reader { rest: message };
    let (version, hash) = reader.begin().ok_or(Unreadable::Garbage)?;
    match reader.byte() {
        Some(REFUSED) => {
            let end = reader.rest.len().min(MAX_SENTENCE);
            let text = reader.rest.get(..end).unwrap_or_default();
            let printable = |c: char| if c.is_control() { ' ' } else { c };
            Ok(Answer::Refused {
                sentence: String::from_utf8_lossy(text)
                    .chars()
                    .map(printable)
                    .collect(),
            })
        }
        _ if (version, hash) != (VERSION, LAYOUT_HASH) => {
            Err(Unreadable::Mismatch { version, hash })
        }
        Some(GRANTED) if reader.rest.is_empty() => Ok(Answer::Granted),
        _ => Err(Unreadable::Garbage),
    }
}

/// What is left of a message.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Past the beginning of a message of our own build.
    fn open(message: &'a [u8]) -> Result<Self, Unreadable> {
        let mut reader = Self { rest: message };
        match reader.begin() {
            None => Err(Unreadable::Garbage),
            Some((VERSION, LAYOUT_HASH)) => Ok(reader),
            Some((version, hash)) => Err(Unreadable::Mismatch { version, hash }),
        }
    }

    /// The version and the hash.
    fn begin(&mut self) -> Option<(u32, u64)> {
        if u64::from_le_bytes(self.array()?) != MAGIC {
            return None;
        }
        let version = u32::from_le_bytes(self.array()?);
        Some((version, u64::from_le_bytes(self.array()?)))
    }

    fn setup(&mut self) -> Option<Setup> {
        let mut workers = Vec::new();
        for _ in 0..self.count(MAX_WORKERS)? {
            let pinned = self.flag()?;
            let core = u16::from_le_bytes(self.array()?);
            workers.push(WorkerSetup {
                core: pinned.then_some(core),
            });
        }
        let mut ports = Vec::new();
        for _ in 0..self.count(MAX_PORTS)? {
            let roles = [Role::Inside, Role::Outside, Role::Host];
            let role = self.one_of(roles, |role| role as u8)?;
            let interface = self.text(MAX_INTERFACE_NAME)?;
            let id = u16::from_le_bytes(self.array()?);
            let carrier = self.text(MAX_INTERFACE_NAME)?;
            let vlan = (id != 0).then_some(PortVlan { carrier, id });
            ports.push(PortSetup {
                interface,
                vlan,
                role,
            });
        }
        let polling = self.one_of([Polling::Busy, Polling::Adaptive], |polling| polling as u8)?;
        let sa_capacity = u32::from_le_bytes(self.array()?);
        let ring_frames = u32::from_le_bytes(self.array()?);
        let chosen = self.flag()?;
        let engine = self.text(MAX_ENGINE_NAME)?;
        Some(Setup {
            workers,
            ports,
            polling,
            sa_capacity,
            engine: chosen.then_some(engine),
            ring_frames,
        })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        self.one_of([false, true], u8::from)
    }

    fn one_of<T: Copy, const N: usize>(
        &mut self,
        all: [T; N],
        value: impl Fn(T) -> u8,
    ) -> Option<T> {
        let byte = self.byte()?;
        all.into_iter().find(|one| value(*one) == byte)
    }

    fn count(&mut self, highest: usize) -> Option<usize> {
        self.byte().map(usize::from).filter(|n| *n <= highest)
    }

    fn text(&mut self, longest: usize) -> Option<String> {
        let length = self.count(longest)?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}
