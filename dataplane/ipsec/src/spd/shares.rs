//! Several outbound SAs of one policy: by the worker that has the packet (RFC 9611) and by the packet's DSCP (RFC 4301 4.1:
//! "the sender SHOULD put traffic of different classes, but with the same selector values, on different SAs").
//!
//! Most groups have one SA for everything and nothing in here. Of the others this knows every selection, and what follows from
//! them for each DSCP, so that a packet asks one word.

use super::NONE;
use std::collections::HashMap;

/// The packets of a policy that an outbound SA is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Those of this worker alone; otherwise of every worker that has no SA of its own.
    pub own: bool,
    /// The DSCPs, a bit each.
    pub dscps: u64,
}

impl Share {
    /// Everything that no other share is for: the fallback (RFC 9611 3: the first one, "to ensure there is at least one Child SA that
    /// can be used for any resource").
    pub const ALL: Self = Self {
        own: false,
        dscps: u64::MAX,
    };

    /// How this share and that of an older selection stand for a DSCP that both are for: a class before everything, and one's own
    /// SA before that of all.
    fn precedence(self) -> (u32, bool) {
        (u64::MAX.count_ones() - self.dscps.count_ones(), self.own)
    }
}

/// The SA for each DSCP: of packets that this worker got, and of those that another lends it because it has none of its own.
#[derive(Debug)]
struct Row {
    own: [Option<u32>; 64],
    shared: [Option<u32>; 64],
}

/// The groups that have more than one SA for everything.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By the place of the group, the older selection first.
    selections: HashMap<u32, Vec<(Share, u32)>>,
    rows: Vec<Row>,
    free_rows: Vec<u32>,
}

/// What a group's selections come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The SA of packets of no class.
    pub(super) outbound: Option<u32>,
    /// The row of its SAs by DSCP, [`NONE`] when one SA is for everything.
    pub(super) row: u32,
}

impl Shares {
    /// The SA of a DSCP, of a group that has several.
    #[inline]
    pub(super) fn by_dscp(&self, row: u32, dscp: u8, borrowed: bool) -> Option<u32> {
        let row = self.rows.get(row as usize)?;
        let side = if borrowed { &row.shared } else { &row.own };
        *side.get(usize::from(dscp))?
    }

    /// The SA that a group has for exactly this share. `plain` is what it has for everything while it has nothing in here.
    pub(super) fn holder(&self, group: u32, share: Share, plain: Option<u32>) -> Option<u32> {
        match self.selections.get(&group) {
            Some(list) => list
                .iter()
                .find(|(other, _)| *other == share)
                .map(|(_, sa)| *sa),
            None => plain.filter(|_| share == Share::ALL),
        }
    }

    /// All SAs of a group.
    pub(super) fn all(&self, group: u32, plain: Option<u32>) -> impl Iterator<Item = u32> + '_ {
        let list = self.selections.get(&group);
        let plain = plain.filter(|_| list.is_none());
        list.into_iter().flatten().map(|(_, sa)| *sa).chain(plain)
    }

    /// Puts an SA in the place of the one that had this share.
    pub(super) fn select(&mut self, group: u32, sa: u32, share: Share, before: Outcome) -> Outcome {
        if share == Share::ALL && !self.selections.contains_key(&group) {
            return Outcome {
                outbound: Some(sa),
                row: NONE,
            };
        }
        let list = self.selections.entry(group).or_insert_with(|| {
            let plain = before.outbound.map(|sa| (Share::ALL, sa));
            plain.into_iter().collect()
        });
        list.retain(|(other, _)| *other != share);
        list.push((share, sa));
        self.settle(group, before.row)
    }

    /// An SA is gone.
    pub(super) fn deselect(&mut self, group: u32, sa: u32, before: Outcome) -> Outcome {
        let Some(list) = self.selections.get_mut(&group) else {
            let outbound = before.outbound.filter(|outbound| *outbound != sa);
            return Outcome {
                outbound,
                row: before.row,
            };
        };
        list.retain(|(_, other)| *other != sa);
        self.settle(group, before.row)
    }

    /// A group is gone, with all its SAs.
    pub(super) fn forget(&mut self, group: u32, row: u32) {
        self.selections.remove(&group);
        self.give_back(row);
    }

    fn give_back(&mut self, row: u32) {
        if row != NONE {
            self.free_rows.push(row);
        }
    }

    /// What a group's selections come to by now.
    fn settle(&mut self, group: u32, row: u32) -> Outcome {
        let list = self.selections.get(&group).map_or(&[][..], Vec::as_slice);
        let best = |fits: &dyn Fn(&Share) -> bool| {
            let list = list.iter().filter(|(share, _)| fits(share));
            let best = list.max_by_key(|(share, _)| share.precedence());
            best.map(|(_, sa)| *sa)
        };
        let is_of = |share: &Share, dscp: usize| share.dscps >> dscp & 1 != 0;
        let outbound = best(&|share| share.dscps == u64::MAX);
        let is_plain = list.iter().all(|(share, _)| *share == Share::ALL);
        let chosen = (!is_plain).then(|| Row {
            own: std::array::from_fn(|dscp| best(&|share| is_of(share, dscp))),
            shared: std::array::from_fn(|dscp| best(&|share| is_of(share, dscp) && !share.own)),
        });
        let row = match chosen {
            None => {
                self.selections.remove(&group);
                self.give_back(row);
                NONE
            }
            Some(chosen) if row != NONE => self.write(row, chosen),
            Some(chosen) => match self.free_rows.pop() {
                Some(free) => self.write(free, chosen),
                None => {
                    self.rows.push(chosen);
                    self.rows.len() as u32 - 1
                }
            },
        };
        Outcome { outbound, row }
    }

    fn write(&mut self, at: u32, chosen: Row) -> u32 {
        if let Some(row) = self.rows.get_mut(at as usize) {
            *row = chosen;
        }
        at
    }

    /// How many rows are in use.
    #[cfg(test)]
    pub(super) fn rows(&self) -> usize {
        self.rows.len() - self.free_rows.len()
    }
}
