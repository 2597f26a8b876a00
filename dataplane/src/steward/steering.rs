//! Keeps the XDP program's maps as the control plane wants them, through the commands of the steward's ring.

use esplanade_bpf::{Prefix, SteerError, Steering, Verdict};
use esplanade_channel::{self as channel, Command, CommandError, Counter, CounterWriter};
use std::{collections::HashMap, net::IpAddr};

/// The maps' entries with, for each, whether it was set since the last `BeginSync`.
#[derive(Debug)]
pub(super) struct SteeringTable<M = Steering> {
    maps: M,
    local: HashMap<IpAddr, bool>,
    protected: HashMap<(Prefix, Prefix), bool>,
    inside: HashMap<Prefix, bool>,
}

/// What the XDP program decided, and under which name that is counted.
const fn counter(verdict: Verdict) -> Counter {
    match verdict {
        Verdict::PassNotOurs => Counter::SteerPassNotOurs,
        Verdict::PassFragment => Counter::SteerPassFragment,
        Verdict::PassIke => Counter::SteerPassIke,
        Verdict::PassMalformed => Counter::SteerPassMalformed,
        Verdict::TakeEsp => Counter::SteerTakeEsp,
        Verdict::TakeAh => Counter::SteerTakeAh,
        Verdict::TakeEspInUdp => Counter::SteerTakeEspInUdp,
        Verdict::TakeProtect => Counter::SteerTakeProtect,
        Verdict::TakeUnprotected => Counter::SteerTakeUnprotected,
        Verdict::DropNoSocket => Counter::SteerDropNoSocket,
        Verdict::PassInside => Counter::SteerPassInside,
        Verdict::PassIcmpError => Counter::SteerPassIcmpError,
        Verdict::TakeIcmpError => Counter::SteerTakeIcmpError,
        Verdict::PassNeighbor => Counter::SteerPassNeighbor,
    }
}

impl SteeringTable<Steering> {
    /// Copies what the XDP program has counted. What the kernel does not let us read stays as it was.
    pub(super) fn count(&self, counters: &CounterWriter) {
        for (verdict, total) in self.maps.counters().into_iter().flatten() {
            counters.set(counter(verdict), total);
        }
    }
}

/// The part of [`Steering`] that this table drives.
pub(super) trait SteeringMaps {
    fn add_local(&mut self, address: IpAddr) -> Result<(), SteerError>;
    fn remove_local(&mut self, address: IpAddr) -> Result<(), SteerError>;
    fn add_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), SteerError>;
    fn remove_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), SteerError>;
    fn add_inside(&mut self, prefix: Prefix) -> Result<(), SteerError>;
    fn remove_inside(&mut self, prefix: Prefix) -> Result<(), SteerError>;
}

impl SteeringMaps for Steering {
    fn add_local(&mut self, address: IpAddr) -> Result<(), SteerError> {
        Self::add_local(self, address)
    }
    fn remove_local(&mut self, address: IpAddr) -> Result<(), SteerError> {
        Self::remove_local(self, address)
    }
    fn add_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), SteerError> {
        Self::add_protected(self, local, remote)
    }
    fn remove_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), SteerError> {
        Self::remove_protected(self, local, remote)
    }
    fn add_inside(&mut self, prefix: Prefix) -> Result<(), SteerError> {
        Self::add_inside(self, prefix)
    }
    fn remove_inside(&mut self, prefix: Prefix) -> Result<(), SteerError> {
        Self::remove_inside(self, prefix)
    }
}

impl<M: SteeringMaps> SteeringTable<M> {
    pub(super) fn new(maps: M) -> Self {
        Self {
            maps,
            local: HashMap::new(),
            protected: HashMap::new(),
            inside: HashMap::new(),
        }
    }

    /// Carries out one command. All of them are idempotent.
    ///
    /// # Errors
    ///
    /// What the control plane is told: a command of a worker's ring, a pair of two families, or a full map.
    pub(super) fn apply(&mut self, command: &Command) -> Result<(), CommandError> {
        match command {
            Command::SetLocalAddress { address } => self.set_local(*address),
            Command::RemoveLocalAddress { address } => self.remove_local(*address),
            Command::SetProtected { local, remote } => {
                self.set_protected(prefix(*local), prefix(*remote))
            }
            Command::RemoveProtected { local, remote } => {
                self.remove_protected(prefix(*local), prefix(*remote))
            }
            Command::SetInside { prefix: inside } => self.set_inside(prefix(*inside)),
            Command::RemoveInside { prefix: inside } => self.remove_inside(prefix(*inside)),
            Command::BeginSync => {
                self.local.values_mut().for_each(|fresh| *fresh = false);
                self.protected.values_mut().for_each(|fresh| *fresh = false);
                self.inside.values_mut().for_each(|fresh| *fresh = false);
                Ok(())
            }
            Command::EndSync => self.sweep(),
            _ => Err(CommandError::WrongRing),
        }
    }

    fn set_local(&mut self, address: IpAddr) -> Result<(), CommandError> {
        if self.local.insert(address, true).is_none() {
            self.maps.add_local(address).map_err(|error| {
                self.local.remove(&address);
                refused(&error)
            })?;
        }
        Ok(())
    }

    fn remove_local(&mut self, address: IpAddr) -> Result<(), CommandError> {
        if self.local.remove(&address).is_some() {
            self.maps
                .remove_local(address)
                .map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    fn set_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), CommandError> {
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(CommandError::AddressFamily);
        }
        let pair = (local, remote);
        if self.protected.insert(pair, true).is_none() {
            self.maps.add_protected(local, remote).map_err(|error| {
                self.protected.remove(&pair);
                refused(&error)
            })?;
        }
        Ok(())
    }

    fn remove_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), CommandError> {
        if self.protected.remove(&(local, remote)).is_some() {
            self.maps
                .remove_protected(local, remote)
                .map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    fn set_inside(&mut self, prefix: Prefix) -> Result<(), CommandError> {
        if self.inside.insert(prefix, true).is_none() {
            self.maps.add_inside(prefix).map_err(|error| {
                self.inside.remove(&prefix);
                refused(&error)
            })?;
        }
        Ok(())
    }

    fn remove_inside(&mut self, prefix: Prefix) -> Result<(), CommandError> {
        if self.inside.remove(&prefix).is_some() {
            self.maps
                .remove_inside(prefix)
                .map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// Removes what was not set since the last `BeginSync`.
    fn sweep(&mut self) -> Result<(), CommandError> {
        let local = stale(&self.local);
        let mut outcome = Ok(());
        for address in local {
            outcome = outcome.and(self.remove_local(address));
        }
        for (local, remote) in stale(&self.protected) {
            outcome = outcome.and(self.remove_protected(local, remote));
        }
        for prefix in stale(&self.inside) {
            outcome = outcome.and(self.remove_inside(prefix));
        }
        outcome
    }
}

fn stale<K: Copy>(entries: &HashMap<K, bool>) -> Vec<K> {
    let stale = entries.iter().filter(|(_, fresh)| !**fresh);
    stale.map(|(key, _)| *key).collect()
}

fn prefix(prefix: channel::Prefix) -> Prefix {
    Prefix::new(prefix.address(), prefix.length())
}

/// The operator reads the kernel's words in the log; the control plane is told that it refused.
fn refused(error: &SteerError) -> CommandError {
    eprintln!("esplanade-dataplane: {error}");
    CommandError::KernelRefused
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, net::Ipv4Addr};

    /// The maps as sets; `full` refuses every addition.
    #[derive(Default)]
    struct Sets {
        local: HashSet<IpAddr>,
        protected: HashSet<(Prefix, Prefix)>,
        inside: HashSet<Prefix>,
        full: bool,
    }

    impl SteeringMaps for Sets {
        fn add_local(&mut self, address: IpAddr) -> Result<(), SteerError> {
            if self.full {
                return Err(SteerError::OutOfRange { port: 0, queue: 0 });
            }
            assert!(self.local.insert(address), "added twice");
            Ok(())
        }
        fn remove_local(&mut self, address: IpAddr) -> Result<(), SteerError> {
            assert!(self.local.remove(&address), "removed what is not there");
            Ok(())
        }
        fn add_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), SteerError> {
            assert!(self.protected.insert((local, remote)), "added twice");
            Ok(())
        }
        fn remove_protected(&mut self, local: Prefix, remote: Prefix) -> Result<(), SteerError> {
            assert!(
                self.protected.remove(&(local, remote)),
                "removed what is not there"
            );
            Ok(())
        }
        fn add_inside(&mut self, prefix: Prefix) -> Result<(), SteerError> {
            assert!(self.inside.insert(prefix), "added twice");
            Ok(())
        }
        fn remove_inside(&mut self, prefix: Prefix) -> Result<(), SteerError> {
            assert!(self.inside.remove(&prefix), "removed what is not there");
            Ok(())
        }
    }

    fn local(last: u8) -> Command {
        Command::SetLocalAddress {
            address: Ipv4Addr::new(192, 0, 2, last).into(),
        }
    }

    fn protected(third: u8) -> Command {
        let prefix =
            |second| channel::Prefix::new(Ipv4Addr::new(10, second, third, 0).into(), 24).unwrap();
        Command::SetProtected {
            local: prefix(1),
            remote: prefix(2),
        }
    }

    fn inside(third: u8) -> Command {
        let address = Ipv4Addr::new(10, 1, third, 0).into();
        let prefix = channel::Prefix::new(address, 24).unwrap();
        Command::SetInside { prefix }
    }

    #[test]
    fn each_verdict_has_a_counter_of_its_name() {
        for verdict in Verdict::ALL {
            let words: String = verdict
                .name()
                .split('_')
                .map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]))
                .collect();
            assert_eq!(counter(verdict).name(), words);
        }
    }

    #[test]
    fn a_sync_keeps_what_is_set_again_and_sweeps_the_rest() {
        let mut table = SteeringTable::new(Sets::default());
        let before = [local(1), local(2), local(1), protected(1), protected(2)];
        for command in before.into_iter().chain([inside(1), inside(2), inside(1)]) {
            assert_eq!(table.apply(&command), Ok(()));
        }
        let again = [local(2), protected(2), inside(2), Command::EndSync];
        for command in [Command::BeginSync].into_iter().chain(again) {
            assert_eq!(table.apply(&command), Ok(()));
        }
        assert_eq!(
            table.maps.local,
            HashSet::from([IpAddr::from([192, 0, 2, 2])])
        );
        assert_eq!(table.maps.protected.len(), 1);
        let kept = Prefix::new(Ipv4Addr::new(10, 1, 2, 0), 24);
        assert_eq!(table.maps.inside, HashSet::from([kept]));
    }

    #[test]
    fn what_the_kernel_refused_can_be_tried_again() {
        let mut table = SteeringTable::new(Sets {
            full: true,
            ..Sets::default()
        });
        assert_eq!(table.apply(&local(1)), Err(CommandError::KernelRefused));
        table.maps.full = false;
        assert_eq!(table.apply(&local(1)), Ok(()));
        assert_eq!(table.maps.local.len(), 1);
    }

    #[test]
    fn both_families_are_steered_but_not_a_pair_of_the_two() {
        let mut table = SteeringTable::new(Sets::default());
        let prefix = |text: &str| channel::Prefix::new(text.parse().unwrap(), 48).unwrap();
        let (near, far) = (prefix("2001:db8:1::"), prefix("2001:db8:2::"));
        let commands = [
            Command::SetLocalAddress {
                address: "2001:db8::1".parse().unwrap(),
            },
            Command::SetProtected {
                local: near,
                remote: far,
            },
            Command::SetInside { prefix: near },
        ];
        for command in commands {
            assert_eq!(table.apply(&command), Ok(()));
        }
        assert!(table.maps.local.iter().all(IpAddr::is_ipv6));
        let mixed = Command::SetProtected {
            local: near,
            remote: channel::Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap(),
        };
        assert_eq!(table.apply(&mixed), Err(CommandError::AddressFamily));
        assert_eq!(table.maps.protected.len(), 1);
    }

    #[test]
    fn a_workers_command_is_refused() {
        let mut table = SteeringTable::new(Sets::default());
        let command = Command::RemovePolicy {
            id: channel::PolicyId(1),
        };
        assert_eq!(table.apply(&command), Err(CommandError::WrongRing));
    }
}
