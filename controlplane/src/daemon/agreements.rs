//! What peers agreed to where it is less than what is configured (RFC 7296 2.9), and who they are where many may be, on
//! file for the control plane's next life. The dataplane cannot tell it: its policies cannot be read back, and its SAs have but a digest of it.
//!
//! A file that is lost, old or wrong harms nobody: what it says is believed only of an SA whose digest confirms it.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use esplanade_ike::config::{Identity, TrafficSelector};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    file,
    policies::{ChildName, Selectors},
};

/// The file in the run directory.
const FILE: &str = "narrowed.json";

/// The file.
#[derive(Debug)]
pub(super) struct Agreements {
    path: PathBuf,
    /// What it says; nothing is known of it before the first time.
    written: Option<BTreeSet<Agreement>>,
    /// What is narrowed may be something else by now.
    changed: bool,
}

/// What the file says of one child SA or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) name: ChildName,
    /// Of an instance of a tunnel that many may be, who it is.
    pub(super) identity: Option<Identity>,
    pub(super) selectors: Selectors,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Agreement {
    tunnel: String,
    child: String,
    /// The type and the octets of an identity (RFC 7296 3.5).
    #[serde(default)]
    identity: Option<(u8, Vec<u8>)>,
    local: Vec<Range>,
    remote: Vec<Range>,
}

/// A traffic selector.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Range {
    protocol: Option<u8>,
    ports: (u16, u16),
    first: IpAddr,
    last: IpAddr,
}

impl Agreements {
    /// The file of a run directory.
    pub(super) fn in_directory(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(FILE),
            written: None,
            changed: false,
        }
    }

    /// Takes note that something else is narrowed now.
    pub(super) fn change(&mut self) {
        self.changed = true;
    }

    /// What an earlier control plane wrote down.
    pub(super) fn load(&self) -> Vec<Agreed> {
        let read = fs::read(&self.path)
            .and_then(|text| Ok(serde_json::from_slice::<Vec<Agreement>>(&text)?));
        match read {
            Ok(list) => list.into_iter().map(Agreement::into_agreed).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let path = self.path.display();
                warn!("{path}: {error}; child SAs that a peer narrowed are not taken over");
                Vec::new()
            }
        }
    }

    /// Writes down what is narrowed now, if that has [changed](Self::change).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn store<'n>(
        &mut self,
        agreed: impl Iterator<Item = (&'n ChildName, Option<&'n Identity>, &'n Selectors)>,
    ) -> io::Result<()> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        // Two SAs of a child, one of which takes the other's place, mostly are agreed alike.
        let list: BTreeSet<Agreement> = agreed
            .map(|(name, identity, selectors)| Agreement::new(name, identity, selectors))
            .collect();
        if self.written.as_ref() != Some(&list) {
            file::replace(&self.path, &serde_json::to_vec(&list)?)?;
            self.written = Some(list);
        }
        Ok(())
    }
}

impl Agreement {
    fn new(
        (tunnel, child): &ChildName,
        identity: Option<&Identity>,
        (local, remote): &Selectors,
    ) -> Self {
        Self {
            tunnel: tunnel.clone(),
            child: child.clone(),
            identity: identity.map(|identity| (identity.kind(), identity.data())),
            local: local.iter().map(Range::from).collect(),
            remote: remote.iter().map(Range::from).collect(),
        }
    }

    fn into_agreed(self) -> Agreed {
        let selectors = |list: Vec<Range>| list.into_iter().map(TrafficSelector::from).collect();
        let identity = self.identity;
        Agreed {
            name: (self.tunnel, self.child),
            identity: identity.map(|(kind, data)| Identity::from_wire(kind, &data)),
            selectors: (selectors(self.local), selectors(self.remote)),
        }
    }
}

impl From<&TrafficSelector> for Range {
    fn from(selector: &TrafficSelector) -> Self {
        Self {
            protocol: selector.protocol,
            ports: selector.ports,
            first: selector.first,
            last: selector.last,
        }
    }
}

impl From<Range> for TrafficSelector {
    fn from(range: Range) -> Self {
        Self {
            protocol: range.protocol,
            ports: range.ports,
            first: range.first,
            last: range.last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selectors(octet: u8) -> Selectors {
        let prefix = TrafficSelector::prefix([10, octet, 0, 0].into(), 16).unwrap();
        let one_port = TrafficSelector {
            protocol: Some(6),
            ports: (443, 443),
            ..prefix
        };
        (vec![prefix], vec![prefix, one_port])
    }

    #[test]
    fn the_next_life_reads_what_this_one_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let name = |child: &str| ("site-b".to_owned(), child.to_owned());
        let (lan, dmz) = (name("lan"), name("dmz"));
        let (one, other) = (selectors(1), selectors(2));
        let carol: Identity = "carol@example.org".parse().unwrap();
        let mut agreements = Agreements::in_directory(directory.path());
        assert_eq!(agreements.load(), []);
        let all = [
            (&lan, None, &one),
            (&lan, None, &one),
            (&dmz, Some(&carol), &other),
        ];
        let mut store = |count: usize, changed: bool| {
            let list = all.iter().take(count).copied();
            if changed {
                agreements.change();
            }
            agreements.store(list).unwrap();
            Agreements::in_directory(directory.path()).load()
        };
        let agreed =
            |name: &ChildName, identity: Option<&Identity>, selectors: &Selectors| Agreed {
                name: name.clone(),
                identity: identity.cloned(),
                selectors: selectors.clone(),
            };
        let written = [agreed(&dmz, Some(&carol), &other), agreed(&lan, None, &one)];
        assert_eq!(store(3, true), written);
        assert_eq!(store(0, false), written);
        assert_eq!(store(0, true), []);
    }

    #[test]
    fn a_file_that_makes_no_sense_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "[{").unwrap();
        assert_eq!(Agreements::in_directory(directory.path()).load(), []);
    }
}
