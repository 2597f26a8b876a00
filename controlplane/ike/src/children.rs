//! The child SAs of a gateway: who owns them, which one carries outbound traffic, and when
//! something is due. Make-before-break (RFC 7296 2.8) is decided here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Mode, TrafficSelector};
use crate::error::{CloseReason, RemovalReason};
use crate::event::{ChildSa, ChildSaView, Event, UdpPorts};
use crate::gateway::{Gateway, SaKey};
use crate::suite::ChildProposal;
use crate::wire::proposal::protocol;

/// What a child SA is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChildState {
    /// It stands.
    Live,
    /// Another has its place, or it has been shut; a DELETE is to follow.
    Replaced,
    /// Our DELETE is under way.
    Deleting,
    /// Gone for IKE; the dataplane keeps it for packets still on their way.
    Lingering(RemovalReason),
    /// Found in the dataplane after a restart.
    Adopted,
}

impl ChildState {
    const fn name(&self) -> &'static str {
        match self {
            Self::Live => "installed",
            Self::Replaced => "replaced",
            Self::Deleting => "deleting",
            Self::Lingering(_) => "lingering",
            Self::Adopted => "adopted",
        }
    }
}

/// A pair of SAs.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) peer: Arc<str>,
    pub(crate) name: Arc<str>,
    /// The IKE SA that it belongs to; none while adopted or lingering.
    pub(crate) owner: Option<SaKey>,
    pub(crate) inbound: u32,
    pub(crate) outbound: u32,
    pub(crate) suite: Option<ChildProposal>,
    pub(crate) mode: Mode,
    pub(crate) remote: IpAddr,
    pub(crate) encapsulation: Option<UdpPorts>,
    pub(crate) local_ts: Vec<TrafficSelector>,
    pub(crate) remote_ts: Vec<TrafficSelector>,
    pub(crate) state: ChildState,
    /// Outbound traffic uses it.
    pub(crate) selected: bool,
    /// Its selection waits for proof that the peer has it.
    pub(crate) awaiting: bool,
    /// A rekey is queued or under way.
    pub(crate) rekeying: bool,
    /// The dataplane that held it is gone.
    pub(crate) lost: bool,
    /// The dataplane was told to let go of it, before the peer has confirmed its end.
    pub(crate) shut: bool,
    pub(crate) installed: Instant,
    pub(crate) rekey_at: Option<Instant>,
    /// When it is deleted, or when a lingering one is removed.
    pub(crate) end_at: Option<Instant>,
    /// When it is selected even without proof that the peer has it.
    pub(crate) select_at: Option<Instant>,
}

impl Child {
    /// The Protocol ID of RFC 7296 3.3.1. Only an adopted child has no suite, and none of those has an
    /// IKE SA on which it would be named.
    pub(crate) fn protocol(&self) -> u8 {
        self.suite
            .map_or(protocol::ESP, |suite| suite.protection.protocol())
    }

    /// Has its packets go elsewhere; `false` when they cannot: not in UDP, or with the addresses in
    /// their selectors.
    pub(crate) fn move_to(&mut self, remote: SocketAddr) -> bool {
        let Some(ports) = self.encapsulation.as_mut() else {
            return false;
        };
        if self.mode != Mode::Tunnel {
            return false;
        }
        ports.remote = remote.port();
        self.remote = remote.ip();
        true
    }

    fn due(&self) -> Option<Instant> {
        let rekey = self
            .rekey_at
            .filter(|_| self.state == ChildState::Live && !self.rekeying);
        [rekey, self.end_at, self.select_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn is_usable(&self) -> bool {
        matches!(self.state, ChildState::Live) && !self.lost
    }
}

/// A peer that many may be, a child's name, the first address that an instance has behind it, and its inbound SPI.
type Claim = (Arc<str>, Arc<str>, IpAddr, u32);

/// All child SAs, by inbound SPI, with indexes.
#[derive(Default)]
pub(crate) struct ChildTable {
    all: HashMap<u32, Child>,
    by_owner: BTreeSet<(SaKey, u32)>,
    by_name: BTreeSet<(Arc<str>, Arc<str>, u32)>,
    /// Of instances: what each claims on its side, by the peer that they are of, the child and the first address.
    claims: BTreeMap<Claim, IpAddr>,
    by_time: BTreeSet<(Instant, u32)>,
}

impl ChildTable {
    pub(crate) fn get(&self, inbound: u32) -> Option<&Child> {
        self.all.get(&inbound)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Child> {
        self.all.values()
    }

    fn index(&mut self, child: &Child) {
        if let Some(owner) = child.owner {
            self.by_owner.insert((owner, child.inbound));
        }
        if let Some(due) = child.due() {
            self.by_time.insert((due, child.inbound));
        }
    }

    fn unindex(&mut self, child: &Child) {
        if let Some(owner) = child.owner {
            self.by_owner.remove(&(owner, child.inbound));
        }
        if let Some(due) = child.due() {
            self.by_time.remove(&(due, child.inbound));
        }
    }

    fn insert(&mut self, child: Child) {
        self.index(&child);
        self.by_name
            .insert((child.peer.clone(), child.name.clone(), child.inbound));
        for (key, last) in claims(&child) {
            let claimed = self.claims.entry(key).or_insert(last);
            *claimed = last.max(*claimed);
        }
        self.all.insert(child.inbound, child);
    }

    fn take(&mut self, inbound: u32) -> Option<Child> {
        let child = self.all.remove(&inbound)?;
        self.unindex(&child);
        self.by_name
            .remove(&(child.peer.clone(), child.name.clone(), inbound));
        for (key, _) in claims(&child) {
            self.claims.remove(&key);
        }
        Some(child)
    }

    /// The other instance of a peer that has some of these selectors for its child of this name. No two of
    /// them have, or the packets of one would go to the other.
    pub(crate) fn claimed(
        &self,
        (template, name): (&Arc<str>, &Arc<str>),
        peer: &str,
        selectors: &[TrafficSelector],
    ) -> Option<Arc<str>> {
        let least = IpAddr::from([0, 0, 0, 0]);
        let key = |address, spi| (template.clone(), name.clone(), address, spi);
        selectors.iter().find_map(|selector| {
            let claims = self
                .claims
                .range(key(least, 0)..=key(selector.last, u32::MAX));
            let others = claims.rev().filter_map(|((.., inbound), last)| {
                let child = self.get(*inbound)?;
                let stands = !matches!(child.state, ChildState::Lingering(_));
                (*child.peer != *peer && stands).then_some((last, &child.peer))
            });
            // Those of one instance may hold each other, those of two do not overlap: if none of the instance whose claim is the
            // last to begin before its end reaches it, none does.
            let mut others = others.peekable();
            let (_, nearest) = *others.peek()?;
            others
                .take_while(|(_, peer)| *peer == nearest)
                .find(|(last, _)| **last >= selector.first)
                .map(|(_, peer)| peer.clone())
        })
    }

    /// Changes a child and keeps the indexes right.
    pub(crate) fn update(&mut self, inbound: u32, change: impl FnOnce(&mut Child)) {
        if let Some(mut child) = self.all.remove(&inbound) {
            self.unindex(&child);
            change(&mut child);
            self.index(&child);
            self.all.insert(inbound, child);
        }
    }

    /// Another has this one's place.
    pub(crate) fn replaced(&mut self, inbound: u32) {
        self.update(inbound, |child| {
            if child.state == ChildState::Live {
                child.state = ChildState::Replaced;
            }
        });
    }

    /// The SPIs of the children of an IKE SA.
    pub(crate) fn of_owner(&self, owner: SaKey) -> Vec<u32> {
        self.by_owner
            .range((owner, 0)..=(owner, u32::MAX))
            .map(|&(_, inbound)| inbound)
            .collect()
    }

    /// All child SAs of one name, oldest SPI first.
    pub(crate) fn of_name(&self, peer: &Arc<str>, name: &Arc<str>) -> Vec<u32> {
        let key = |inbound| (peer.clone(), name.clone(), inbound);
        self.by_name
            .range(key(0)..=key(u32::MAX))
            .map(|&(_, _, inbound)| inbound)
            .collect()
    }

    /// All child SAs of a peer.
    pub(crate) fn of_peer<'a>(&'a self, peer: &'a str) -> impl Iterator<Item = &'a Child> {
        let from = (Arc::from(peer), Arc::from(""), 0);
        self.by_name
            .range(from..)
            .take_while(move |(p, _, _)| &**p == peer)
            .filter_map(|(_, _, inbound)| self.get(*inbound))
    }

    /// The child of an IKE SA with this SPI of the peer's.
    pub(crate) fn by_outbound(&self, owner: SaKey, protocol: u8, outbound: u32) -> Option<&Child> {
        self.by_owner
            .range((owner, 0)..=(owner, u32::MAX))
            .filter_map(|&(_, inbound)| self.get(inbound))
            .find(|child| child.outbound == outbound && child.protocol() == protocol)
    }

    /// Gives the children of one IKE SA to another (RFC 7296 2.8: it
    /// "inherits all of the original IKE SA's Child SAs").
    pub(crate) fn inherit(&mut self, from: SaKey, to: SaKey) {
        for inbound in self.of_owner(from) {
            self.update(inbound, |child| child.owner = Some(to));
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.by_time.first().map(|&(due, _)| due)
    }

    /// The SPIs of the children for which something is due.
    pub(crate) fn due(&self, now: Instant) -> Vec<u32> {
        self.by_time
            .iter()
            .take_while(|(due, _)| *due <= now)
            .map(|&(_, i)| i)
            .collect()
    }

    pub(crate) fn view(child: &Child) -> ChildSaView {
        ChildSaView {
            peer: child.peer.to_string(),
            child: child.name.to_string(),
            state: child.state.name(),
            inbound: child.inbound,
            outbound: child.outbound,
            suite: child.suite.map(|s| s.to_string()),
            mode: child.mode,
            remote: child.remote,
            encapsulation: child.encapsulation,
            local_ts: child.local_ts.clone(),
            remote_ts: child.remote_ts.clone(),
            selected: child.selected,
            installed: child.installed,
            rekey_at: child.rekey_at,
        }
    }
}

/// What the child of an instance claims.
fn claims(child: &Child) -> Vec<(Claim, IpAddr)> {
    let Some((template, _)) = child.peer.rsplit_once('#') else {
        return Vec::new();
    };
    let template: Arc<str> = template.into();
    let selectors = child.remote_ts.iter();
    selectors
        .map(|selector| {
            let key = (
                template.clone(),
                child.name.clone(),
                selector.first,
                child.inbound,
            );
            (key, selector.last)
        })
        .collect()
}

impl Gateway {
    /// Whether a usable child SA of this name stands.
    pub(crate) fn child_stands(&self, peer: &Arc<str>, name: &Arc<str>) -> bool {
        self.children
            .of_name(peer, name)
            .iter()
            .filter_map(|&inbound| self.children.get(inbound))
            .any(|child| child.state == ChildState::Live)
    }

    /// Puts a new child SA into the table and tells the dataplane.
    pub(crate) fn install_child(&mut self, now: Instant, child: Child, sa: ChildSa) {
        let (inbound, select) = (child.inbound, sa.use_outbound_now);
        self.children.insert(Child {
            selected: false,
            awaiting: !select,
            ..child
        });
        self.events.push_back(Event::ChildInstalled(Box::new(sa)));
        if select {
            self.mark_selected(now, inbound);
        }
    }

    /// Takes over a child SA that the dataplane holds already.
    pub(crate) fn adopt_child(&mut self, child: Child) {
        self.children.insert(child);
    }

    /// From now on outbound traffic uses this child SA.
    pub(crate) fn select_outbound(&mut self, now: Instant, inbound: u32) {
        let Some(child) = self.children.get(inbound) else {
            return;
        };
        if child.selected {
            return;
        }
        self.events.push_back(Event::OutboundSelected {
            peer: child.peer.to_string(),
            child: child.name.to_string(),
            inbound,
        });
        self.mark_selected(now, inbound);
    }

    /// The peer has shown that it holds this child SA: a selection that waited for it is made.
    pub(crate) fn child_confirmed(&mut self, now: Instant, inbound: u32) {
        if self
            .children
            .get(inbound)
            .is_some_and(|c| c.awaiting && c.state == ChildState::Live)
        {
            self.select_outbound(now, inbound);
        }
    }

    fn mark_selected(&mut self, now: Instant, inbound: u32) {
        let Some(child) = self.children.get(inbound) else {
            return;
        };
        let (peer, name, age) = (child.peer.clone(), child.name.clone(), child.installed);
        let mut adopted = Vec::new();
        for sibling in self.children.of_name(&peer, &name) {
            self.children.update(sibling, |child| {
                child.selected = sibling == inbound;
                if child.installed <= age {
                    child.awaiting = false;
                    child.select_at = None;
                }
                if !child.selected && child.state == ChildState::Adopted {
                    adopted.push(sibling);
                }
            });
        }
        for sibling in adopted {
            self.remove_child(now, sibling, RemovalReason::Replaced);
        }
    }

    /// The child SA that could carry this one's outbound traffic, the youngest first.
    fn successor(&self, child: &Child) -> Option<u32> {
        self.children
            .of_name(&child.peer, &child.name)
            .into_iter()
            .filter_map(|inbound| self.children.get(inbound))
            .filter(|other| other.inbound != child.inbound && other.is_usable())
            .max_by_key(|other| (other.installed, other.inbound))
            .map(|other| other.inbound)
    }

    /// Ends a child SA. If another one of its name stands, that one carries outbound traffic from
    /// now on, and the inbound half stays a while for packets on their way.
    pub(crate) fn remove_child(&mut self, now: Instant, inbound: u32, reason: RemovalReason) {
        let Some(child) = self.children.get(inbound) else {
            return;
        };
        if matches!(child.state, ChildState::Lingering(_)) {
            return;
        }
        if child.shut {
            return self.forget_child(inbound);
        }
        let (selected, lost) = (child.selected, child.lost);
        let successor = self.successor(child);
        let end = now + self.settings.inbound_grace;
        self.children.update(inbound, |child| {
            child.owner = None;
            child.selected = false;
            child.state = ChildState::Lingering(reason);
            (child.rekey_at, child.select_at, child.end_at) = (None, None, Some(end));
        });
        match successor {
            Some(successor) => {
                if selected {
                    self.select_outbound(now, successor);
                }
                if lost {
                    self.forget_child(inbound);
                }
            }
            None => self.forget_child(inbound),
        }
    }

    /// Ends a child SA whose configuration is gone: at once, whatever else stands.
    pub(crate) fn drop_child(&mut self, inbound: u32, why: &CloseReason) {
        self.children.update(inbound, |child| {
            let reason = match (&child.state, child.owner) {
                (ChildState::Lingering(reason), _) => reason.clone(),
                (_, Some(_)) => RemovalReason::IkeClosed(why.clone()),
                (_, None) => RemovalReason::Terminated,
            };
            child.state = ChildState::Lingering(reason);
        });
        self.forget_child(inbound);
    }

    /// Ends a child SA for traffic, though not yet for IKE: the peer is still to be told.
    ///
    /// RFC 7296 1.4.1: "A node MAY refuse to accept incoming data on half-closed connections but
    /// MUST NOT unilaterally close them and reuse the SPIs." So its SPI stays taken.
    pub(crate) fn shut_child(&mut self, inbound: u32, reason: RemovalReason) {
        let Some(child) = self.children.get(inbound).filter(|child| !child.shut) else {
            return;
        };
        self.events.push_back(removed(child, reason));
        self.children.update(inbound, |child| {
            child.shut = true;
            (child.selected, child.awaiting) = (false, false);
            child.select_at = None;
        });
        self.children.replaced(inbound);
    }

    /// Forgets a child SA; the dataplane is told to remove it, unless it was before.
    pub(crate) fn forget_child(&mut self, inbound: u32) {
        let Some(child) = self.children.take(inbound) else {
            return;
        };
        if !child.shut {
            let reason = match &child.state {
                ChildState::Lingering(reason) => reason.clone(),
                _ => RemovalReason::DataplaneLost,
            };
            self.events.push_back(removed(&child, reason));
        }
        self.spis.release(inbound);
        self.idle.push(child.peer);
    }
}

fn removed(child: &Child, reason: RemovalReason) -> Event {
    Event::ChildRemoved {
        peer: child.peer.to_string(),
        child: child.name.to_string(),
        inbound: child.inbound,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(peer: &str, inbound: u32, remote_ts: &[&str]) -> Child {
        Child {
            peer: peer.into(),
            name: "lan".into(),
            owner: None,
            inbound,
            outbound: 0,
            suite: None,
            mode: Mode::Tunnel,
            remote: [192, 0, 2, 1].into(),
            encapsulation: None,
            local_ts: Vec::new(),
            remote_ts: remote_ts.iter().map(|ts| ts.parse().unwrap()).collect(),
            state: ChildState::Live,
            selected: true,
            awaiting: false,
            rekeying: false,
            lost: false,
            shut: false,
            installed: Instant::now(),
            rekey_at: None,
            end_at: None,
            select_at: None,
        }
    }

    #[test]
    fn what_an_instance_claims_twice_is_claimed_whole() {
        let mut table = ChildTable::default();
        let names: (Arc<str>, Arc<str>) = ("clients".into(), "lan".into());
        let claimed = |table: &ChildTable, peer: &str, ts: &str| {
            let ts = [ts.parse().unwrap()];
            let who = table.claimed((&names.0, &names.1), peer, &ts);
            who.map(|who| who.to_string())
        };
        let nested = ["10.9.0.0/24", "10.9.0.0/30", "10.9.0.64/28", "10.9.0.72/32"];
        table.insert(child("clients#1", 1, &nested));
        table.insert(child("clients#2", 2, &["10.9.1.0/24"]));
        for taken in ["10.9.0.8/32", "10.9.0.100/32", "10.9.0.0/16"] {
            assert!(claimed(&table, "clients#3", taken).is_some(), "{taken}");
        }
        let owner = claimed(&table, "clients#3", "10.9.0.100/32");
        assert_eq!(owner.as_deref(), Some("clients#1"));
        assert_eq!(claimed(&table, "clients#1", "10.9.0.100/32"), None);
        assert_eq!(claimed(&table, "clients#3", "10.9.2.0/24"), None);
        table.take(1);
        assert_eq!(claimed(&table, "clients#3", "10.9.0.100/32"), None);
    }
}
