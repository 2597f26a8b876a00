//! Which queue each port is: one of its own, or one that the VLANs of an interface share.

use crate::port::RxFrame;
use arrayvec::ArrayVec;
use esplanade_channel::MAX_PORTS;

/// What a port is to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Which of the worker's queues.
    pub queue: u8,
    /// The VLAN that it is on it; 0 for frames without a tag.
    pub vlan: u16,
}

/// All ports, by number.
#[derive(Debug, Clone)]
pub struct Links {
    links: ArrayVec<Link, MAX_PORTS>,
    /// By queue: the one port that all of its frames are of, if there is but one and it has no tags.
    sole: ArrayVec<Option<u8>, MAX_PORTS>,
}

impl Links {
    /// What the numbers of ports mean; a queue of its own for each, when nothing is said.
    pub fn new(links: &[Link], ports: usize) -> Self {
        let own = (0..ports.min(MAX_PORTS) as u8).map(|queue| Link { queue, vlan: 0 });
        let links: ArrayVec<Link, MAX_PORTS> = match links {
            [] => own.collect(),
            links => links.iter().copied().take(MAX_PORTS).collect(),
        };
        let sole = |queue: u8| {
            let mut of = (0u8..).zip(&links).filter(|(_, link)| link.queue == queue);
            match (of.next(), of.next()) {
                (Some((port, Link { vlan: 0, .. })), None) => Some(port),
                _ => None,
            }
        };
        let queues = links.iter().map(|link| link.queue + 1).max().unwrap_or(0);
        let sole = (0..queues).map(sole).collect();
        Self { links, sole }
    }

    /// How many ports there are.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// A port's queue and VLAN. One that is not there has no queue either.
    #[inline(always)]
    pub fn of(&self, port: u8) -> Link {
        let nowhere = Link {
            queue: u8::MAX,
            vlan: 0,
        };
        self.links
            .get(usize::from(port))
            .copied()
            .unwrap_or(nowhere)
    }

    /// The port of all frames of a queue; `None` where their tags say.
    #[inline(always)]
    pub fn sole(&self, queue: usize) -> Option<u8> {
        *self.sole.get(queue)?
    }

    /// The port of a frame of a queue by its tag, which it loses; `None` when that is no port's.
    #[inline]
    pub fn sort(&self, queue: u8, frame: &mut RxFrame) -> Option<u8> {
        let wanted = Link {
            queue,
            vlan: frame.vlan(),
        };
        let port = self.links.iter().position(|link| *link == wanted)?;
        if wanted.vlan != 0 {
            frame.untag();
        }
        Some(port as u8)
    }
}
