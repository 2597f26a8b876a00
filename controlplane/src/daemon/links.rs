//! Ports whose interfaces are down. A dataplane opens these like any others and waits for packets that cannot come, so
//! somebody has to say it.

use std::collections::BTreeSet;

use esplanade_config::Port;
use tracing::{info, warn};

use crate::{api::link_is_down, netlink::Tables};

/// The interfaces that were told to be down.
#[derive(Debug, Default)]
pub(super) struct Links {
    down: BTreeSet<String>,
}

impl Links {
    /// Logs which of these ports have gone down or come up since the last time.
    pub(super) fn follow(&mut self, tables: &Tables, ports: &[Port]) {
        let now = down(tables, ports);
        for interface in now.difference(&self.down) {
            warn!("{}", link_is_down(interface));
        }
        for interface in self.down.difference(&now) {
            info!("{interface} is up");
        }
        self.down = now;
    }
}

/// The interfaces of these ports that exist and are switched off or without a carrier.
pub(super) fn down(tables: &Tables, ports: &[Port]) -> BTreeSet<String> {
    let is_down = |port: &&Port| {
        let mut links = tables.links.values();
        links.any(|link| link.name == port.interface && !link.up)
    };
    let down = ports.iter().filter(is_down);
    down.map(|port| port.interface.clone()).collect()
}
