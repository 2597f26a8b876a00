//! Which client has which address, on file for the control plane's next life: who comes back gets the same again.
//!
//! A file that is lost costs clients their addresses, not their connection.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use esplanade_ike::{Endpoint, config::Identity};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::file;

/// The file in the run directory.
const FILE: &str = "leases.json";

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// The state of the leases that it says.
    written: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    pool: String,
    address: IpAddr,
    /// The type and the octets of the owner's identity (RFC 7296 3.5).
    identity: (u8, Vec<u8>),
}

impl Journal {
    /// The file of a run directory.
    pub(super) fn in_directory(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join(FILE),
            written: None,
        }
    }

    /// What an earlier control plane wrote down: pools, addresses and owners.
    pub(super) fn load(&self) -> Vec<(Arc<str>, IpAddr, Identity)> {
        let read =
            fs::read(&self.path).and_then(|text| Ok(serde_json::from_slice::<Vec<Entry>>(&text)?));
        match read {
            Ok(list) => list.into_iter().map(Entry::into_lease).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let path = self.path.display();
                warn!("{path}: {error}; clients get other addresses than before");
                Vec::new()
            }
        }
    }

    /// Writes down who has which address, if that has changed.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn store(&mut self, endpoint: &Endpoint) -> io::Result<()> {
        let changes = endpoint.lease_changes();
        if self.written.replace(changes) == Some(changes) {
            return Ok(());
        }
        let entry = |lease: &esplanade_ike::Lease| Entry {
            pool: lease.pool.to_string(),
            address: lease.address,
            identity: (lease.identity.kind(), lease.identity.data()),
        };
        let list: Vec<Entry> = endpoint.leases().map(entry).collect();
        if list.is_empty() && !self.path.exists() {
            return Ok(());
        }
        file::replace(&self.path, &serde_json::to_vec(&list)?)
    }
}

impl Entry {
    fn into_lease(self) -> (Arc<str>, IpAddr, Identity) {
        let (kind, data) = self.identity;
        let identity = Identity::from_wire(kind, &data);
        (self.pool.into(), self.address, identity)
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Instant};

    use esplanade_ike::{Settings, SystemProvider};

    use super::super::slots::Slots;
    use super::*;

    fn endpoint() -> Endpoint {
        let slots = Box::new(Slots::new(8, || 0x300));
        Endpoint::new(
            Settings::default(),
            Arc::new(SystemProvider),
            slots,
            [0; 32],
        )
    }

    #[test]
    fn the_next_life_reads_who_had_which_address() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::in_directory(directory.path());
        let (mut first, now) = (endpoint(), Instant::now());
        journal.store(&first).unwrap();
        assert!(!directory.path().join(FILE).exists());
        let pool = esplanade_ike::PoolConfig {
            name: "staff".into(),
            ranges: vec![([10, 9, 0, 1].into(), [10, 9, 0, 9].into())],
            dns: Vec::new(),
            networks: Vec::new(),
            hold: std::time::Duration::from_secs(60),
            fixed: Vec::new(),
        };
        first.configure_pools(now, vec![pool]);
        let name: Identity = "O=Example, CN=carol".parse().unwrap();
        let lease = ("staff".into(), IpAddr::from([10, 9, 0, 3]), name);
        first.restore_leases(now, vec![lease.clone()]);
        journal.store(&first).unwrap();
        assert_eq!(Journal::in_directory(directory.path()).load(), [lease]);
        let mode = fs::metadata(directory.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        first.release_lease([10, 9, 0, 3].into()).unwrap();
        journal.store(&first).unwrap();
        assert_eq!(journal.load(), []);
        fs::write(directory.path().join(FILE), "[{").unwrap();
        assert_eq!(journal.load(), []);
    }
}
