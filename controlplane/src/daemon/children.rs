//! Child SAs on their way into the dataplane: which worker owns them, under which names, with which limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use esplanade_channel::{
    self as channel, Command, DfPolicy, Direction, InboundSa, KeyMaterial, Label, Lifetime,
    OutboundSa, PolicyId, SaId, SaRecord, Share, WorkerId,
};
use esplanade_config::{Child, Config, Df, Fragment, TfcSize, Tunnel};
use esplanade_ike::{
    AdoptedChild, ChildSa, Mode, UdpPorts,
    config::{Identity, Protection},
};

use super::{
    agreements::Agreed,
    balance::Balance,
    policies::{self, ChildName, Narrowed, Selectors},
    slots::Slots,
};

/// An outbound SA that was used in this time is in use.
const SENDING_MS: u64 = 5_000;
/// An inbound SA that was not used for this time is silent.
const SILENCE_MS: u64 = 10_000;

/// A pair of SAs in the dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// Tunnel and child.
    pub(super) name: ChildName,
    /// The policies that both serve.
    pub(super) policy: PolicyId,
    /// What they were agreed for, where the peer narrowed it.
    pub(super) narrowed: Option<Narrowed>,
    /// Of an instance of a tunnel that many may be: who it is, and what was agreed with it.
    pub(super) instance: Option<Box<(Identity, Selectors)>>,
    /// Our name of the inbound half, and its SPI.
    pub(super) inbound: SaId,
    /// Our name of the outbound half; none for an adopted SA whose other half was not found.
    pub(super) outbound: Option<SaId>,
    /// The worker that has both.
    pub(super) owner: WorkerId,
}

impl Pair {
    /// Whether it says more than the configuration does.
    pub(super) const fn is_of_note(&self) -> bool {
        self.narrowed.is_some() || self.instance.is_some()
    }
}

impl Pair {
    /// The inbound half, and the outbound one.
    fn halves(&self) -> impl Iterator<Item = SaId> + use<> {
        std::iter::once(self.inbound).chain(self.outbound)
    }
}

/// Why an SA cannot be installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InstallError {
    /// Not an SPI of ours.
    #[error("the SPI {0:#010x} is none of the dataplane's")]
    Spi(u32),
    /// No slot.
    #[error("the dataplane has no room for another SA: raise dataplane.sa-capacity")]
    Full,
    /// Not in the configuration.
    #[error("the configuration has no such child")]
    Unknown,
    /// Too long a key.
    #[error("the dataplane takes no keys of {0} bytes")]
    Key(usize),
    /// Its policies would have the name of another child's.
    #[error("the selectors that its peer narrowed it to give its policies the name of {0}'s")]
    Alike(String),
}

/// Every pair, by the SPI of its inbound half.
#[derive(Debug, Default)]
pub(super) struct Children {
    pairs: BTreeMap<u32, Pair>,
    /// The same, by child.
    by_name: BTreeMap<ChildName, BTreeSet<u32>>,
    /// The same, by the group of their policies.
    by_group: BTreeSet<(u64, u32)>,
    /// What each worker has to do.
    pub(super) balance: Balance,
    /// How many pairs a peer narrowed, or are of an instance.
    narrowed: usize,
}

impl Children {
    /// Prepares for a dataplane of so many workers that holds nothing.
    pub(super) fn reset(&mut self, workers: usize) {
        let mut balance = std::mem::take(&mut self.balance);
        balance.reset(workers);
        *self = Self {
            balance,
            ..Self::default()
        };
    }

    /// The pair of an inbound SPI.
    pub(super) fn get(&self, inbound: u32) -> Option<&Pair> {
        self.pairs.get(&inbound)
    }

    /// The pair that an SA of either direction belongs to.
    pub(super) fn of(&self, sa: SaId) -> Option<&Pair> {
        let half = |pair: &&Pair| pair.outbound == Some(sa);
        self.pairs
            .get(&sa.value())
            .or_else(|| self.pairs.values().find(half))
    }

    /// Every pair.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.values()
    }

    /// The pairs whose policies are of one group.
    pub(super) fn of_group(&self, group: u64) -> impl Iterator<Item = &Pair> {
        let members = self.by_group.range((group, 0)..=(group, u32::MAX));
        members.filter_map(|(_, inbound)| self.pairs.get(inbound))
    }

    /// The commands that install a child SA on the least loaded worker. `groups` are those of the configuration.
    ///
    /// # Errors
    ///
    /// See [`InstallError`]; nothing has changed then.
    pub(super) fn install(
        &mut self,
        sa: &ChildSa,
        config: &Config,
        groups: &BTreeMap<u64, ChildName>,
        slots: &Slots,
        now: Instant,
    ) -> Result<[Command; 2], InstallError> {
        let (tunnel, child) = find(config, &sa.peer, &sa.child).ok_or(InstallError::Unknown)?;
        let inbound = SaId::new(sa.inbound).ok_or(InstallError::Spi(sa.inbound))?;
        let key = |secret: &esplanade_ike::config::Secret| {
            let octets = secret.expose();
            KeyMaterial::new(octets).ok_or(InstallError::Key(octets.len()))
        };
        let (inbound_key, outbound_key) = (key(&sa.inbound_key)?, key(&sa.outbound_key)?);
        let name = (sa.peer.clone(), sa.child.clone());
        let agreed = (sa.local_ts.clone(), sa.remote_ts.clone());
        let instance = sa.identity.clone();
        let instance = instance.map(|identity| Box::new((identity, agreed.clone())));
        let narrowed = policies::narrowing(child, agreed);
        let policy = policies::group(tunnel, child, narrowed.as_ref());
        if narrowed.is_some() {
            self.refuse_alike(policy, &name, groups)?;
        }
        let outbound = slots.take_partner(inbound, now).ok_or(InstallError::Full)?;
        let owner = self.owner_for(sa.replaces, inbound, now);
        let label = Label::new(&policies::label(&sa.peer, &sa.child));
        let encapsulation = sa.encapsulation.map(ports);
        let commands = [
            Command::InstallInbound(InboundSa {
                sa: inbound,
                policy,
                transform: transform(sa.protection),
                key: inbound_key,
                esn: sa.esn,
                window: child.replay_window,
                local: sa.local,
                remote: sa.remote,
                encapsulation,
                mode: mode(sa.mode),
                original: sa.original.map(|original| channel::Original {
                    local: original.local,
                    remote: original.remote,
                }),
                follow: sa.follow,
                owner,
                lifetime: lifetime(child),
                label,
            }),
            Command::InstallOutbound(OutboundSa {
                sa: outbound,
                spi: sa.outbound,
                policy,
                transform: transform(sa.protection),
                key: outbound_key,
                esn: sa.esn,
                local: sa.local,
                remote: sa.remote,
                encapsulation,
                mode: mode(sa.mode),
                tfc: tfc(child, sa),
                owner,
                lifetime: lifetime(child),
                dscp: child.dscp,
                fragment_sealed: child.fragment == Fragment::After,
                df: df(child.df),
                path_mtu: child.path_mtu.unwrap_or(0),
                label,
            }),
        ];
        self.insert(Pair {
            name,
            policy,
            narrowed: narrowed.map(|selectors| Narrowed {
                selectors,
                sends: false,
            }),
            instance,
            inbound,
            outbound: Some(outbound),
            owner,
        });
        Ok(commands)
    }

    /// The commands that have both halves of a pair send to and expect a peer elsewhere.
    pub(super) fn move_to(&self, inbound: u32, remote: SocketAddr) -> Vec<Command> {
        let pair = self.pairs.get(&inbound);
        let halves = pair.map(Pair::halves);
        let command = |sa| Command::MovePeer {
            sa,
            remote: remote.ip(),
            port: remote.port(),
        };
        halves.into_iter().flatten().map(command).collect()
    }

    /// Refuses the group of another child. The 56 bits of a digest are a name and no proof, and of an SA that was narrowed
    /// the peer has had its say in what is digested: with much work it could choose selectors that have another tunnel's
    /// packets leave by its own SA.
    fn refuse_alike(
        &self,
        policy: PolicyId,
        name: &ChildName,
        groups: &BTreeMap<u64, ChildName>,
    ) -> Result<(), InstallError> {
        let group = policy.group();
        let names = self.of_group(group).map(|pair| &pair.name);
        let mut others = groups.get(&group).into_iter().chain(names);
        let alike = |(tunnel, child): &ChildName| {
            (policies::tunnel_of(tunnel), child) == (policies::tunnel_of(&name.0), &name.1)
        };
        match others.find(|other| !alike(other)) {
            Some((tunnel, child)) => Err(InstallError::Alike(policies::label(tunnel, child))),
            None => Ok(()),
        }
    }

    fn insert(&mut self, pair: Pair) {
        let halves = 1 + usize::from(pair.outbound.is_some());
        self.balance.add(pair.owner, halves);
        let inbound = pair.inbound.value();
        self.narrowed += usize::from(pair.is_of_note());
        self.by_group.insert((pair.policy.group(), inbound));
        let alike = self.by_name.entry(pair.name.clone()).or_default();
        alike.insert(inbound);
        self.pairs.insert(inbound, pair);
    }

    /// The worker for a new pair, perhaps in the place of another.
    fn owner_for(&mut self, replaces: Option<u32>, inbound: SaId, now: Instant) -> WorkerId {
        let before = replaces.and_then(|before| self.pairs.get(&before));
        let before = before.map(|pair| (pair.owner, pair.halves().collect::<Vec<_>>()));
        let replaced = before.as_ref();
        let owner = self
            .balance
            .choose(replaced.map(|(owner, halves)| (*owner, halves.as_slice())));
        if let Some(before) = replaces {
            self.balance.replaced(before, inbound, now);
        }
        owner
    }

    /// The pair whose successor is to be another worker's, where one has much more to do than another.
    pub(super) fn choose_to_move(&mut self, now: Instant) -> Option<SaId> {
        let pairs = self.pairs.values();
        let pairs = pairs.map(|pair| (pair.inbound, pair.outbound, pair.owner));
        self.balance.even_out(pairs, now)
    }

    /// Forgets a pair; the commands remove it from the dataplane.
    pub(super) fn remove(&mut self, inbound: u32) -> Option<(Pair, Vec<Command>)> {
        let pair = self.pairs.remove(&inbound)?;
        let halves: Vec<SaId> = pair.halves().collect();
        self.balance.take(pair.owner, halves.len());
        self.narrowed -= usize::from(pair.is_of_note());
        self.by_group.remove(&(pair.policy.group(), inbound));
        if let Some(alike) = self.by_name.get_mut(&pair.name) {
            alike.remove(&inbound);
            if alike.is_empty() {
                self.by_name.remove(&pair.name);
            }
        }
        Some((
            pair,
            halves
                .into_iter()
                .map(|sa| Command::RemoveSa { sa })
                .collect(),
        ))
    }

    /// The pairs that a peer narrowed: child, policies, and to what.
    pub(super) fn narrowed(&self) -> impl Iterator<Item = (&ChildName, PolicyId, &Narrowed)> {
        let pairs = (self.narrowed > 0).then(|| self.pairs.values());
        narrowed(pairs.into_iter().flatten())
    }

    /// What was agreed that the configuration does not tell: with which child, who it is where many may be, and the
    /// selectors.
    pub(super) fn agreed(
        &self,
    ) -> impl Iterator<Item = (&ChildName, Option<&Identity>, &Selectors)> {
        let pairs = (self.narrowed > 0).then(|| self.pairs.values());
        pairs.into_iter().flatten().filter_map(|pair| {
            let (who, selectors) = match (&pair.instance, &pair.narrowed) {
                (Some(instance), _) => (Some(&instance.0), &instance.1),
                (None, Some(narrowed)) => (None, &narrowed.selectors),
                (None, None) => return None,
            };
            Some((&pair.name, who, selectors))
        })
    }

    /// Those whose policies are of this group.
    pub(super) fn narrowed_to(
        &self,
        group: PolicyId,
    ) -> impl Iterator<Item = (&ChildName, PolicyId, &Narrowed)> {
        narrowed(self.of_group(group.group()))
    }

    /// From now on packets leave by this pair. Returns the command, and the groups whose policies change their order by
    /// it, this pair's first.
    pub(super) fn select(&mut self, inbound: u32) -> Option<(Command, Vec<PolicyId>)> {
        let pair = self.pairs.get(&inbound)?;
        let (policy, sa) = (pair.policy, pair.outbound?);
        let mut reordered = Vec::new();
        for sibling in self.by_name.get(&pair.name).into_iter().flatten() {
            let selected = *sibling == inbound;
            if let Some(pair) = self.pairs.get_mut(sibling)
                && let Some(narrowed) = &mut pair.narrowed
                && narrowed.sends != selected
            {
                narrowed.sends = selected;
                reordered.push(pair.policy);
            }
        }
        reordered.sort_by_key(|group| *group != policy);
        let share = Share::ALL;
        Some((Command::SelectOutbound { policy, sa, share }, reordered))
    }

    /// Takes over what an earlier control plane left in the dataplane. `agreed` is what it wrote down of selectors
    /// that peers narrowed; an SA's policy tells whether it was installed for them.
    ///
    /// Returns what the endpoint is to adopt, and the commands that remove what belongs to nothing any more.
    pub(super) fn adopt(
        &mut self,
        records: &[SaRecord],
        config: &Config,
        agreed: &[Agreed],
        slots: &Slots,
    ) -> (Vec<AdoptedChild>, Vec<Command>) {
        let known = Known::new(config, agreed);
        slots.reserve(records.iter().map(|record| record.sa), Instant::now());
        let found = known.pairs(records);
        let sending = sending(&found);
        let mut adopted = Vec::new();
        for Found {
            name,
            narrowed,
            instance,
            inbound,
            outbound,
        } in found
        {
            let selected = outbound.is_some_and(|record| sending.get(name) == Some(&record.sa));
            self.insert(Pair {
                name: name.clone(),
                policy: inbound.policy,
                narrowed: narrowed.map(|selectors| Narrowed {
                    selectors: selectors.clone(),
                    sends: selected,
                }),
                instance: instance
                    .map(|(who, selectors)| Box::new((who.clone(), selectors.clone()))),
                inbound: inbound.sa,
                outbound: outbound.map(|record| record.sa),
                owner: inbound.owner,
            });
            adopted.push(AdoptedChild {
                peer: name.0.clone(),
                identity: instance.map(|(who, _)| who.clone()),
                remote_ts: instance
                    .map(|(_, agreed)| agreed.1.clone())
                    .unwrap_or_default(),
                child: name.1.clone(),
                inbound: inbound.spi,
                outbound: outbound.map_or(0, |record| record.spi),
                mode: match inbound.mode {
                    channel::Mode::Tunnel => Mode::Tunnel,
                    channel::Mode::Transport => Mode::Transport,
                },
                remote: inbound.remote,
                encapsulation: inbound.encapsulation.map(|ports| UdpPorts {
                    local: ports.local,
                    remote: ports.remote,
                }),
                selected,
            });
        }
        let orphans = self.orphans(records);
        for sa in &orphans {
            slots.free(*sa, Instant::now());
        }
        (adopted, removals(orphans))
    }

    /// The commands that remove from the dataplane what no pair knows.
    pub(super) fn clear_orphans(&self, records: &[SaRecord]) -> Vec<Command> {
        removals(self.orphans(records))
    }

    fn orphans(&self, records: &[SaRecord]) -> Vec<SaId> {
        let halves = |pair: &Pair| std::iter::once(pair.inbound).chain(pair.outbound);
        let known: BTreeSet<SaId> = self.pairs.values().flat_map(halves).collect();
        let found = records.iter().map(|record| record.sa);
        found.filter(|sa| !known.contains(sa)).collect()
    }
}

fn removals(sas: Vec<SaId>) -> Vec<Command> {
    sas.into_iter().map(|sa| Command::RemoveSa { sa }).collect()
}

/// What SAs may have been agreed for.
struct Agreement<'c> {
    tunnel: &'c Tunnel,
    name: ChildName,
    narrowed: Option<&'c Selectors>,
    instance: Option<(&'c Identity, &'c Selectors)>,
}

/// The same, by the group of the policies that they were installed for.
struct Known<'c>(BTreeMap<u64, Agreement<'c>>);

impl<'c> Known<'c> {
    fn new(config: &'c Config, agreed: &'c [Agreed]) -> Self {
        let mut known = BTreeMap::new();
        let all = config.tunnels.iter().flat_map(|tunnel| {
            tunnel
                .children
                .iter()
                .map(move |child| (tunnel, child, None))
        });
        let narrowed = agreed.iter().filter_map(|agreed| {
            let (tunnel, child) = find(config, &agreed.name.0, &agreed.name.1)?;
            Some((tunnel, child, Some(agreed)))
        });
        for (tunnel, child, agreed) in all.chain(narrowed) {
            let selectors = agreed.map(|agreed| &agreed.selectors);
            let whole = selectors
                .is_none_or(|selectors| policies::narrowing(child, selectors.clone()).is_none());
            let group = policies::group(tunnel, child, selectors).group();
            let name = (tunnel.name.clone(), child.name.clone());
            // A digest is no proof: what is configured is never taken for what a peer narrowed.
            if !whole && known.contains_key(&group) {
                continue;
            }
            let agreement = Agreement {
                tunnel,
                name: agreed.map_or(name, |agreed| agreed.name.clone()),
                narrowed: selectors.filter(|_| !whole),
                instance: agreed
                    .and_then(|agreed| Some((agreed.identity.as_ref()?, &agreed.selectors))),
            };
            known.insert(group, agreement);
        }
        Self(known)
    }

    /// The pairs of known children among all SAs.
    fn pairs<'s>(&'s self, records: &'s [SaRecord]) -> Vec<Found<'s>> {
        // What the halves of a pair have in common.
        let common = |record: &SaRecord| (record.sa.tag(), record.policy, record.owner);
        let all = |direction| {
            let records = records.iter();
            records.filter(move |record| record.direction == direction)
        };
        let outbound = all(Direction::Outbound).filter(|record| self.find(record).is_some());
        let outbound: BTreeMap<_, &SaRecord> =
            outbound.map(|record| (common(record), record)).collect();
        let pairs = all(Direction::Inbound).filter_map(|inbound| {
            let agreement = self.find(inbound)?;
            Some(Found {
                name: &agreement.name,
                narrowed: agreement.narrowed,
                instance: agreement.instance,
                inbound,
                outbound: outbound.get(&common(inbound)).copied(),
            })
        });
        pairs.collect()
    }

    /// What an SA was agreed for.
    fn find(&self, record: &SaRecord) -> Option<&Agreement<'c>> {
        let agreement = self.0.get(&record.policy.group())?;
        // A tunnel that has moved while nobody watched has nothing to do with an SA between its old addresses.
        is_between(record, agreement.tunnel).then_some(agreement)
    }
}

/// A pair that an earlier control plane left.
struct Found<'s> {
    name: &'s ChildName,
    narrowed: Option<&'s Selectors>,
    instance: Option<(&'s Identity, &'s Selectors)>,
    inbound: &'s SaRecord,
    outbound: Option<&'s SaRecord>,
}

/// The outbound SA that packets of each child leave by. Every group has one that was selected; a child that has SAs in
/// several leaves by what covers all that is configured, otherwise by what was in use last.
fn sending<'s>(found: &[Found<'s>]) -> BTreeMap<&'s ChildName, SaId> {
    let mut selected: Vec<(bool, u64, &ChildName, SaId)> = found
        .iter()
        .filter_map(|pair| {
            let sa = pair.outbound.filter(|record| record.selected)?;
            let used_ms = sa.statistics.last_used_ms;
            Some((pair.narrowed.is_none(), used_ms, pair.name, sa.sa))
        })
        .collect();
    selected.sort_unstable();
    // The last of a name stays.
    selected
        .into_iter()
        .map(|(_, _, name, sa)| (name, sa))
        .collect()
}

/// Those of some pairs that a peer narrowed: child, policies, and to what.
fn narrowed<'p>(
    pairs: impl Iterator<Item = &'p Pair>,
) -> impl Iterator<Item = (&'p ChildName, PolicyId, &'p Narrowed)> {
    pairs.filter_map(|pair| Some((&pair.name, pair.policy, pair.narrowed.as_ref()?)))
}

/// Whether a child SA sends and hears nothing: its outbound half is in use, its inbound half has not been for long.
pub(super) fn is_unanswered(outbound: &SaRecord, inbound: &SaRecord, now_ms: u64) -> bool {
    let idle_ms = |sa: &SaRecord| now_ms.saturating_sub(sa.statistics.last_used_ms);
    outbound.selected
        && outbound.statistics.last_used_ms != 0
        && idle_ms(outbound) < SENDING_MS
        && idle_ms(inbound) >= SILENCE_MS
}

/// Whether an SA is between the addresses that a tunnel is configured to have; a peer without one has any.
fn is_between(record: &SaRecord, tunnel: &Tunnel) -> bool {
    record.local == tunnel.local && tunnel.remote.is_none_or(|remote| record.remote == remote)
}

/// A child of the configuration, and its tunnel, which many may be.
pub(super) fn find<'c>(
    config: &'c Config,
    tunnel: &str,
    child: &str,
) -> Option<(&'c Tunnel, &'c Child)> {
    let tunnel = config
        .tunnels
        .iter()
        .find(|candidate| candidate.name == policies::tunnel_of(tunnel))?;
    let mut children = tunnel.children.iter();
    let child = children.find(|candidate| candidate.name == child)?;
    Some((tunnel, child))
}

fn transform(protection: Protection) -> channel::Transform {
    let (encryption, key_bits, integrity) = protection.numbers();
    channel::Transform {
        encryption,
        key_bits,
        integrity,
    }
}

fn mode(mode: Mode) -> channel::Mode {
    match mode {
        Mode::Tunnel => channel::Mode::Tunnel,
        Mode::Transport => channel::Mode::Transport,
    }
}

/// What a child's configuration wants of traffic flow confidentiality and its peer allows: dummy packets need no leave (RFC
/// 4303 2.6: "a receiver MUST be prepared to discard").
fn tfc(child: &Child, sa: &ChildSa) -> channel::Tfc {
    let esplanade_config::Tfc {
        size,
        multiple,
        dummies,
    } = child.tfc;
    if !sa.peer_takes_tfc_padding {
        return channel::Tfc {
            dummies,
            ..channel::Tfc::default()
        };
    }
    channel::Tfc {
        size: match size {
            None => 0,
            Some(TfcSize::Bytes(bytes)) => bytes,
            Some(TfcSize::Mtu) => channel::Tfc::MTU,
        },
        multiple,
        dummies,
    }
}

fn ports(ports: UdpPorts) -> channel::UdpPorts {
    channel::UdpPorts {
        local: ports.local,
        remote: ports.remote,
    }
}

fn lifetime(child: &Child) -> Lifetime {
    let soft =
        |limit: &Option<esplanade_config::Lifetime<u64>>| limit.map_or(0, |limit| limit.rekey);
    let hard =
        |limit: &Option<esplanade_config::Lifetime<u64>>| limit.map_or(0, |limit| limit.expire);
    Lifetime {
        soft_packets: soft(&child.packets),
        hard_packets: hard(&child.packets),
        soft_bytes: soft(&child.bytes),
        hard_bytes: hard(&child.bytes),
    }
}

fn df(df: Df) -> DfPolicy {
    match df {
        Df::Copy => DfPolicy::Copy,
        Df::Set => DfPolicy::Set,
        Df::Clear => DfPolicy::Clear,
    }
}

#[cfg(test)]
#[path = "children_tests.rs"]
mod tests;
