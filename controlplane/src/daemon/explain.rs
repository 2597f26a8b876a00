//! Gathers what is known of a tunnel, for who asks why it is not up or carries nothing.

use std::time::Instant;

use esplanade_config::{Role, Tunnel};
use esplanade_ike::IkeSaView;

use super::{gateway::Gateway, links, policies, report};
use crate::{
    api::{Explanation, Sa, Target},
    explain::{Child, Facts, Route, explain},
    netlink::Tables,
};

impl Gateway {
    /// Why a tunnel, or one child of it, is as it is.
    pub(super) async fn explain(
        &mut self,
        target: &Target,
        now: Instant,
    ) -> Result<Explanation, String> {
        let names = self.children_of(target)?;
        let guard = report::guard(self).await;
        let sas = report::sas(self);
        let counters = report::counters(self);
        let tunnel = self
            .config
            .tunnels
            .iter()
            .find(|tunnel| tunnel.name == policies::tunnel_of(&target.tunnel))
            .ok_or_else(|| format!("no tunnel is called `{}`", target.tunnel))?;
        let ike = self
            .endpoint
            .ike_sas()
            .filter(|sa| sa.peer.as_ref() == Some(&target.tunnel))
            .max_by_key(|sa| sa.established);
        let children = tunnel
            .children
            .iter()
            .filter(|child| names.contains(&child.name))
            .map(|child| {
                let name = (target.tunnel.clone(), child.name.clone());
                let is_of = |sa: &&Sa| {
                    let label = sa.label.split_once('/');
                    label.is_some_and(|(peer, name)| {
                        policies::is_meant(peer, &target.tunnel) && name == child.name
                    })
                };
                let narrowed = self.children.narrowed();
                let mut narrowed = narrowed.filter(|(of, _, one)| **of == name && one.sends);
                Child {
                    config: child,
                    taken_down: self.taken_down.contains(&name),
                    sas: sas.iter().filter(is_of).cloned().collect(),
                    narrowed: narrowed.next().map(|(_, _, one)| one.selectors.clone()),
                }
            })
            .collect();
        let tables = self.monitor.tables();
        let ports = self.config.dataplane.ports.iter();
        let facts = Facts {
            tunnel,
            now,
            dataplane_away: self.dataplane.is_none().then(|| {
                let why = self.dataplane_trouble.as_deref();
                why.unwrap_or("it is not connected").to_owned()
            }),
            children,
            refusal: self.refusals.of(&tunnel.name),
            stranger: self.refusals.of_stranger(tunnel.remote),
            trouble: self.troubles.get(&tunnel.name).map(String::as_str),
            ports: ports
                .map(|port| {
                    let interface = port.interface.clone();
                    let link = links::state(tables, &interface);
                    (interface, link)
                })
                .collect(),
            route: self.route_to(tunnel, ike.as_ref(), tables),
            guard,
            counters: counters
                .into_iter()
                .filter(|row| row.plane == "dataplane")
                .collect(),
            ike,
        };
        Ok(explain(&facts, target.to_string()))
    }

    fn route_to(&self, tunnel: &Tunnel, ike: Option<&IkeSaView>, tables: &Tables) -> Route {
        let address = ike.map(|ike| ike.path.remote.ip()).or(tunnel.remote);
        let Some(address) = address else {
            return Route::Fine;
        };
        let Some(route) = tables.route_to(address).filter(|route| !route.unreachable) else {
            return Route::Missing(address);
        };
        // What the kernel keeps for itself has no interface.
        let Some(link) = route.interface.and_then(|index| tables.links.get(&index)) else {
            return Route::Fine;
        };
        let mut ports = self.config.dataplane.ports.iter();
        let is_port = ports.any(|port| port.interface == link.name && port.role != Role::Inside);
        match is_port {
            true => Route::Fine,
            false => Route::Elsewhere(address, link.name.clone()),
        }
    }
}
