//! Ports whose interfaces are down or missing. A dataplane goes on with these and waits for packets that cannot come, so
//! somebody has to say it.

use std::collections::BTreeMap;

use esplanade_config::Port;
use tracing::{info, warn};

use crate::{api::Link, netlink::Tables};

/// How the interfaces were told to be; one that was never told of is up.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<String, Link>);

impl Links {
    /// Logs which of these ports are otherwise than the last time.
    pub(super) fn follow(&mut self, tables: &Tables, ports: &[Port]) {
        for interface in ports.iter().map(|port| &port.interface) {
            let link = state(tables, interface);
            let before = self.0.insert(interface.clone(), link);
            if before.unwrap_or(Link::Up) == link {
                continue;
            }
            match link.trouble(interface) {
                Some(trouble) => warn!("{trouble}"),
                None => info!("{interface} is up"),
            }
        }
    }
}

/// How an interface is.
pub(super) fn state(tables: &Tables, interface: &str) -> Link {
    let mut links = tables.links.values();
    match links.find(|link| link.name == interface) {
        Some(link) if link.up => Link::Up,
        Some(_) => Link::Down,
        None => Link::Missing,
    }
}
