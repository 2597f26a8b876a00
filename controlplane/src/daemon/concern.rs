//! What a command is about, without its keys: so that one that fails can be told in words long after it was sent.

use std::{collections::VecDeque, net::IpAddr};

use esplanade_channel::{Command, PolicyId, PortId, Prefix, SaId};

/// How many commands of each ring are remembered. A ring holds fewer, and what failed is told within moments.
const REMEMBERED: usize = 4096;

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concern {
    /// The SA that it brings.
    Install(SaId),
    /// The SA that it removes.
    Remove(SaId),
    /// The SA whose peer is elsewhere.
    Move(SaId),
    /// The policies that it has send by an SA.
    Select(PolicyId),
    /// An entry of the SPD.
    Policy(PolicyId),
    /// A route.
    Route(Prefix),
    /// A neighbour.
    Neighbor(IpAddr),
    /// A port's facts.
    Port(PortId),
    /// The picture as a whole.
    Picture,
    /// An outer address of ours.
    Address(IpAddr),
    /// What XDP takes: our side and the peer's.
    Protected(Prefix, Prefix),
    /// What stays inside.
    Inside(Prefix),
    /// A capture.
    Capture,
}

impl From<&Command> for Concern {
    fn from(command: &Command) -> Self {
        match command {
            Command::InstallInbound(sa) => Self::Install(sa.sa),
            Command::InstallOutbound(sa) => Self::Install(sa.sa),
            Command::RemoveSa { sa } => Self::Remove(*sa),
            Command::MovePeer { sa, .. } => Self::Move(*sa),
            Command::SelectOutbound { policy, .. } => Self::Select(*policy),
            Command::SetPolicy(policy) => Self::Policy(policy.id),
            Command::RemovePolicy { id } => Self::Policy(*id),
            Command::SetRoute { prefix, .. } | Command::RemoveRoute { prefix } => {
                Self::Route(*prefix)
            }
            Command::SetNeighbor { address, .. } | Command::RemoveNeighbor { address, .. } => {
                Self::Neighbor(*address)
            }
            Command::SetPort { port, .. } => Self::Port(*port),
            Command::BeginSync | Command::EndSync => Self::Picture,
            Command::StartCapture(_) | Command::CaptureGroup { .. } | Command::StopCapture => {
                Self::Capture
            }
            Command::SetLocalAddress { address } | Command::RemoveLocalAddress { address } => {
                Self::Address(*address)
            }
            Command::SetProtected { local, remote }
            | Command::RemoveProtected { local, remote } => Self::Protected(*local, *remote),
            Command::SetInside { prefix } | Command::RemoveInside { prefix } => {
                Self::Inside(*prefix)
            }
        }
    }
}

/// The last commands of a ring, by their sequence numbers.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(u64, Concern)>);

impl History {
    /// Remembers the ring's newest command.
    pub(super) fn remember(&mut self, sequence: u64, concern: Concern) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((sequence, concern));
    }

    /// What a command was about; `None` when it is too long ago, or another control plane sent it.
    pub(super) fn find(&self, sequence: u64) -> Option<Concern> {
        let at = self.0.partition_point(|(number, _)| *number < sequence);
        let (number, concern) = self.0.get(at)?;
        (*number == sequence).then_some(*concern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_commands_are_remembered_and_no_more() {
        let mut history = History::default();
        for sequence in 10..10 + REMEMBERED as u64 + 1 {
            let port = PortId(u8::from(sequence == 12));
            history.remember(sequence, Concern::Port(port));
        }
        assert_eq!(history.find(12), Some(Concern::Port(PortId(1))));
        assert_eq!(history.find(10), None);
        assert_eq!(history.find(10 + REMEMBERED as u64 + 1), None);
        assert_eq!(history.0.len(), REMEMBERED);
    }
}
