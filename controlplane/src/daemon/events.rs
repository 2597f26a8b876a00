//! What the endpoint tells, carried out: child SAs into and out of the dataplane, news to the log and to `status`.
//! And what the dataplane did not obey, in words.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use esplanade_channel::{CommandError, PolicyId, SaId, Sequence, WorkerId};
use esplanade_ike::{
    ChildSa, CloseReason, Event, IkeSaView, Refusal, RemovalReason, wire::configuration::Given,
};
use tracing::{debug, info, warn};

use super::{
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
                let who = self.endpoint.identity_of(peer);
                let who = who.map_or_else(String::new, |who| format!("{who} at "));
                info!("{peer}: IKE SA {what} with {who}{} ({suite})", path.remote);
                self.recovered(peer);
            }
            Event::IkeClosed { peer, reason } => self.on_ike_closed(peer, reason),
            Event::AddressesGiven { peer, given } => self.on_addresses_given(peer, given),
            Event::ChildInstalled(sa) => self.on_child_installed(sa, now),
            Event::OutboundSelected { inbound, .. } => self.select(*inbound),
            Event::PeerMoved {
                peer,
                remote,
                children,
            } => {
                info!("{peer}: behind its NAT it is at {remote} now");
                for inbound in children {
                    self.tell_workers(&self.children.move_to(*inbound, *remote));
                }
            }
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
            } => self.on_refused(peer.as_deref(), *remote, reason, now),
        }
    }

    /// What went wrong with a tunnel is past.
    fn recovered(&mut self, peer: &str) {
        let tunnel = policies::tunnel_of(peer);
        self.troubles.remove(tunnel);
        self.refusals.forget(tunnel);
    }

    /// They are ours, and go on the TAP.
    fn on_addresses_given(&mut self, peer: &str, given: &Given) {
        let list = |list: &[IpAddr]| {
            let words: Vec<String> = list.iter().map(ToString::to_string).collect();
            words.join(", ")
        };
        info!(
            "{peer}: gives us {} (name servers: {})",
            list(&given.addresses),
            if given.dns.is_empty() {
                "none".to_owned()
            } else {
                list(&given.dns)
            }
        );
        self.given.insert(peer.to_owned(), given.addresses.clone());
    }

    fn on_ike_closed(&mut self, peer: &str, reason: &CloseReason) {
        let stands = |sa: &IkeSaView| sa.peer.as_deref() == Some(peer) && sa.established.is_some();
        if self.given.contains_key(peer) && !self.endpoint.ike_sas().any(|sa| stands(&sa)) {
            self.given.remove(peer);
        }
        match reason {
            CloseReason::Rekeyed | CloseReason::Redundant | CloseReason::Refused => {
                debug!("{peer}: an IKE SA is gone: {reason}");
            }
            CloseReason::Terminated | CloseReason::Shutdown => info!("{peer}: IKE SA {reason}"),
            CloseReason::Supplanted | CloseReason::Displaced => {
                info!("{peer}: an old IKE SA is gone: {reason}")
            }
            _ => {
                warn!("{peer}: the IKE SA is gone: {reason}");
                // Of many, one that leaves is no trouble of theirs.
                if policies::tunnel_of(peer) == peer {
                    self.troubles
                        .insert(peer.to_owned(), format!("the IKE SA is gone: {reason}"));
                }
            }
        }
    }

    fn on_refused(
        &mut self,
        peer: Option<&str>,
        remote: SocketAddr,
        reason: &Refusal,
        now: Instant,
    ) {
        let tunnel = peer.map(policies::tunnel_of);
        self.refusals.note(tunnel, remote.ip(), reason, now);
        match (peer, tunnel) {
            (Some(peer), Some(tunnel)) => {
                warn!("{peer} ({remote}): {reason}");
                self.troubles.insert(tunnel.to_owned(), reason.to_string());
            }
            _ => warn!("{remote}: {reason}"),
        }
    }

    fn on_child_installed(&mut self, sa: &ChildSa, now: Instant) {
        let (tunnel, child) = (&sa.peer, &sa.child);
        if self.dataplane.is_none() {
            // Its successor comes with the dataplane's next life.
            debug!("{tunnel}/{child}: agreed, but the dataplane is away");
            return;
        }
        let (config, groups) = (&self.config, &self.groups);
        let outcome = self.children.install(sa, config, groups, &self.slots, now);
        let commands = match outcome {
            Ok(commands) => commands,
            Err(error) => {
                warn!("{tunnel}/{child}: cannot be installed: {error}");
                self.troubles.insert(
                    policies::tunnel_of(tunnel).to_owned(),
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
            "{tunnel}/{child}: {what}, SPI {inbound:08x} in, {outbound:08x} out, {} mode, {}",
            sa.mode, sa.protection
        );
        self.tell_workers(&commands);
        self.recovered(tunnel);
        if let Some(pair) = self.children.get(sa.inbound)
            && pair.is_of_note()
        {
            let (group, narrowed) = (pair.policy, pair.narrowed.is_some());
            if narrowed {
                self.regroup(group);
            }
            self.agreements.change();
        }
        if sa.use_outbound_now {
            self.select(sa.inbound);
        }
    }

    /// Has a child's policies send by this SA from now on.
    pub(super) fn select(&mut self, inbound: u32) {
        let Some((command, reordered)) = self.children.select(inbound) else {
            return;
        };
        self.tell_workers(&[command]);
        for group in reordered {
            self.regroup(group);
        }
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
            if pair.narrowed.is_some() {
                self.regroup(pair.policy);
            }
            if pair.is_of_note() {
                self.agreements.change();
            }
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
        if matches!(concern, Concern::Remove(_) | Concern::Move(_))
            && reason == CommandError::UnknownSa
        {
            // It had not come before the dataplane was out of reach.
            return;
        }
        let name = match concern {
            Concern::Install(sa) | Concern::Remove(sa) | Concern::Move(sa) => self.child_of_sa(sa),
            Concern::Select(policy) | Concern::Policy(policy) => self.child_of_policy(policy),
            _ => None,
        };
        let refused = self.refused(concern);
        match name {
            Some((tunnel, child)) => {
                warn!("{tunnel}/{child}: the dataplane did not {refused}: {reason}");
                let trouble = format!("{child}: the dataplane did not {refused}: {reason}");
                let tunnel = policies::tunnel_of(&tunnel);
                self.troubles.insert(tunnel.to_owned(), trouble);
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

    pub(super) fn child_of_policy(&self, policy: PolicyId) -> Option<ChildName> {
        let group = policy.group();
        let narrowed = || self.children.of_group(group).next();
        let name = self.groups.get(&group);
        name.or_else(|| narrowed().map(|pair| &pair.name)).cloned()
    }

    /// What was not done.
    fn refused(&self, concern: Concern) -> String {
        match concern {
            Concern::Install(sa) => format!("install SA {:08x}", sa.value()),
            Concern::Remove(sa) => format!("remove SA {:08x}", sa.value()),
            Concern::Move(sa) => format!("send by SA {:08x} to where its peer is now", sa.value()),
            Concern::Select(_) => "change the SA that it sends by".to_owned(),
            Concern::Policy(_) => "change its policy".to_owned(),
            Concern::Route(prefix) => format!("change the route to {prefix}"),
            Concern::Neighbor(address) => format!("change the link address of {address}"),
            Concern::Port(port) => {
                let port = self.running.ports.get(usize::from(port.0));
                let interface = port.map_or("of no name", |port| &port.interface);
                format!("change the facts of port {interface}")
            }
            Concern::Capture => "copy packets for `esplanade capture`".to_owned(),
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
