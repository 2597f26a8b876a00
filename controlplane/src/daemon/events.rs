//! What the endpoint tells, carried out: child SAs into and out of the dataplane, news to the log and to `status`.
//! And what the dataplane did not obey, in words.

use std::{net::SocketAddr, time::Instant};

use esplanade_channel::{Command, CommandError, PolicyId, SaId, Sequence, WorkerId};
use esplanade_ike::{ChildSa, CloseReason, Event, Refusal, RemovalReason};
use tracing::{debug, info, warn};

use super::{
    children,
    concern::Concern,
    gateway::Gateway,
    policies::{self, ChildName},
};

impl Gateway {
    /// Carries out what an event says.
    pub(super) fn on_event(&mut self, event: &Event, now: Instant) {
        match event {
            Event::IkeEstablished {
                peer,
                path,
                suite,
                rekeyed,
                ..
            } => {
                let what = if *rekeyed { "rekeyed" } else { "established" };
                info!("{peer}: IKE SA {what} with {} ({suite})", path.remote);
                self.troubles.remove(peer);
            }
            Event::IkeClosed { peer, reason } => self.on_ike_closed(peer, reason),
            Event::ChildInstalled(sa) => self.on_child_installed(sa, now),
            Event::OutboundSelected { inbound, .. } => self.select(*inbound),
            Event::ChildRemoved {
                peer,
                child,
                inbound,
                reason,
            } => self.on_child_removed(peer, child, *inbound, reason),
            Event::Refused {
                peer,
                remote,
                reason,
            } => self.on_refused(peer.as_deref(), *remote, reason),
        }
    }

    fn on_ike_closed(&mut self, peer: &str, reason: &CloseReason) {
        match reason {
            CloseReason::Rekeyed | CloseReason::Redundant | CloseReason::Refused => {
                debug!("{peer}: an IKE SA is gone: {reason}");
            }
            CloseReason::Terminated | CloseReason::Shutdown => info!("{peer}: IKE SA {reason}"),
            CloseReason::Supplanted => info!("{peer}: an old IKE SA is gone: {reason}"),
            _ => {
                warn!("{peer}: the IKE SA is gone: {reason}");
                self.troubles
                    .insert(peer.to_owned(), format!("the IKE SA is gone: {reason}"));
            }
        }
    }

    fn on_refused(&mut self, peer: Option<&str>, remote: SocketAddr, reason: &Refusal) {
        match peer {
            Some(peer) => {
                warn!("{peer} ({remote}): {reason}");
                self.troubles.insert(peer.to_owned(), reason.to_string());
            }
            None => warn!("{remote}: {reason}"),
        }
    }

    fn on_child_installed(&mut self, sa: &ChildSa, now: Instant) {
        let (tunnel, child) = (&sa.peer, &sa.child);
        if self.dataplane.is_none() {
            // Its successor comes with the dataplane's next life.
            debug!("{tunnel}/{child}: agreed, but the dataplane is away");
            return;
        }
        let commands = match self.children.install(sa, &self.config, &self.slots, now) {
            Ok(commands) => commands,
            Err(error) => {
                warn!("{tunnel}/{child}: cannot be installed: {error}");
                self.troubles.insert(
                    tunnel.clone(),
                    format!("{child} cannot be installed: {error}"),
                );
                let _ = self.endpoint.expire_sa(now, sa.inbound);
                return;
            }
        };
        let what = if sa.replaces.is_some() {
            "rekeyed"
        } else {
            "up"
        };
        let (inbound, outbound) = (sa.inbound, sa.outbound);
        info!(
            "{tunnel}/{child}: {what}, SPI {inbound:08x} in, {outbound:08x} out, {}",
            sa.aead
        );
        self.tell_workers(&commands);
        self.troubles.remove(tunnel);
        self.on_selectors(sa);
        if sa.use_outbound_now {
            self.select(sa.inbound);
        }
    }

    /// Has a child's policies be what its peer agreed to.
    fn on_selectors(&mut self, sa: &ChildSa) {
        let name = (sa.peer.clone(), sa.child.clone());
        let agreed = (sa.local_ts.clone(), sa.remote_ts.clone());
        let configured = children::find(&self.config, &name.0, &name.1).map(policies::configured);
        let before = if configured.as_ref() == Some(&agreed) {
            self.narrowed.remove(&name)
        } else {
            self.narrowed.insert(name.clone(), agreed)
        };
        if self.narrowed.get(&name) != before.as_ref() {
            self.refresh();
        }
    }

    /// Has a child's policies send by this SA from now on.
    fn select(&mut self, inbound: u32) {
        let Some(pair) = self.children.get(inbound) else {
            return;
        };
        let Some(sa) = pair.outbound else { return };
        let policy = policies::group(&pair.name.0, &pair.name.1);
        self.tell_workers(&[Command::SelectOutbound { policy, sa }]);
    }

    fn on_child_removed(
        &mut self,
        tunnel: &str,
        child: &str,
        inbound: u32,
        reason: &RemovalReason,
    ) {
        match reason {
            RemovalReason::Replaced | RemovalReason::Redundant => {
                debug!("{tunnel}/{child}: SPI {inbound:08x} removed: {reason}");
            }
            _ => info!("{tunnel}/{child}: SPI {inbound:08x} removed: {reason}"),
        }
        if let Some((pair, commands)) = self.children.remove(inbound) {
            self.tell_workers(&commands);
            if let Some(outbound) = pair.outbound {
                self.slots.free(outbound, Instant::now());
            }
        }
        if !self.is_up(tunnel, child)
            && self
                .narrowed
                .remove(&(tunnel.to_owned(), child.to_owned()))
                .is_some()
        {
            self.refresh();
        }
    }

    /// The dataplane has refused a command.
    pub(super) fn on_disobeyed(
        &mut self,
        ring: WorkerId,
        sequence: Sequence,
        reason: CommandError,
        now: Instant,
    ) {
        let dataplane = self.dataplane.as_ref();
        let concern =
            dataplane.and_then(|dataplane| dataplane.courier.concern(ring.0.into(), sequence));
        let Some(concern) = concern else {
            let number = sequence.0;
            warn!(
                "the dataplane did not obey command {number} of ring {}: {reason}",
                ring.0
            );
            return;
        };
        let name = match concern {
            Concern::Install(sa) | Concern::Remove(sa) => self.child_of_sa(sa),
            Concern::Select(policy) | Concern::Policy(policy) => self.child_of_policy(policy),
            _ => None,
        };
        let refused = self.refused(concern);
        match name {
            Some((tunnel, child)) => {
                warn!("{tunnel}/{child}: the dataplane did not {refused}: {reason}");
                let trouble = format!("{child}: the dataplane did not {refused}: {reason}");
                self.troubles.insert(tunnel, trouble);
            }
            None => warn!("the dataplane did not {refused}: {reason}"),
        }
        // An SA that is not there would swallow its traffic until it is rekeyed.
        if let Concern::Install(sa) = concern
            && let Some(inbound) = self.children.of(sa).map(|pair| pair.inbound.value())
        {
            let _ = self.endpoint.expire_sa(now, inbound);
        }
    }

    fn child_of_sa(&self, sa: SaId) -> Option<ChildName> {
        self.children.of(sa).map(|pair| pair.name.clone())
    }

    fn child_of_policy(&self, policy: PolicyId) -> Option<ChildName> {
        let tunnels = self.config.tunnels.iter();
        let names = tunnels.flat_map(|tunnel| {
            let children = tunnel.children.iter();
            children.map(|child| (tunnel.name.as_str(), child.name.as_str()))
        });
        let mut owners = names.filter(|(tunnel, child)| policies::belongs(policy, tunnel, child));
        let (tunnel, child) = owners.next()?;
        Some((tunnel.to_owned(), child.to_owned()))
    }

    /// What was not done.
    fn refused(&self, concern: Concern) -> String {
        match concern {
            Concern::Install(sa) => format!("install SA {:08x}", sa.value()),
            Concern::Remove(sa) => format!("remove SA {:08x}", sa.value()),
            Concern::Select(_) => "change the SA that it sends by".to_owned(),
            Concern::Policy(_) => "change its policy".to_owned(),
            Concern::Route(prefix) => format!("change the route to {prefix}"),
            Concern::Neighbor(address) => format!("change the link address of {address}"),
            Concern::Port(port) => {
                let port = self.running.ports.get(usize::from(port.0));
                let interface = port.map_or("of no name", |port| &port.interface);
                format!("change the facts of port {interface}")
            }
            Concern::Picture => "take the whole picture of policies and routes".to_owned(),
            Concern::Address(address) => format!("change whether XDP takes ESP to {address}"),
            Concern::Protected(local, remote) => {
                format!("change whether XDP takes packets between {local} and {remote}")
            }
            Concern::Inside(prefix) => {
                format!("change whether XDP leaves packets from inside to {prefix} to the kernel")
            }
        }
    }
}
