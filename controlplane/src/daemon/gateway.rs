//! The gateway: what the endpoint, the dataplane, the kernel and the operator have to do with each other.
//!
//! Everything in here happens on one task and blocks nowhere. Inputs are `on_*` methods; after each input
//! [`Gateway::work`] carries the consequences on, and [`Gateway::deadline`] says when to call it without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use esplanade_channel::{
    self as channel, Command, ControlChannel, Epoch, PolicyId, SaId, Setup, WorkerId,
};
use esplanade_config::{Config, Start};
use esplanade_ike::{ChildSaView, Endpoint, Settings, SystemProvider};
use tracing::{debug, info, warn};

use super::{
    agreements::Agreements,
    captures::Running,
    children::{self, Children},
    dataplane::Dataplane,
    ike_io::{Datagram, Sockets},
    intent,
    leases::Journal,
    links::Links,
    next_hops,
    outbox::Outbox,
    picture::Picture,
    policies::{self, ChildName},
    protected::{PrefixPair, guarded, wanted_guard},
    refusals::Refusals,
    report,
    slots::{Slots, random},
    waiters::Waiters,
};
use crate::{
    guard::{Guard, Standing, Wanted},
    netlink::{self, Monitor},
};

/// How often the outbox and full rings are looked at while something waits in them.
const TICK: Duration = Duration::from_millis(1);
/// How often next hops are asked for again and unused sockets are closed.
const HOUSEKEEPING: Duration = Duration::from_secs(15);
/// How often child SAs are looked at that send and hear nothing.
const WATCH: Duration = Duration::from_secs(5);
/// How long peers have to answer a goodbye.
pub(super) const GOODBYE: Duration = Duration::from_secs(2);

/// Tells the endpoint the time of day, by which it judges certificates; again now and then, since clocks are set.
fn tell_time(endpoint: &mut Endpoint, now: Instant) {
    if let Ok(since) = SystemTime::now().duration_since(UNIX_EPOCH) {
        endpoint.set_wall_clock(now, since.as_secs());
    }
}

/// All state of the daemon.
pub(super) struct Gateway {
    pub(super) started: Instant,
    pub(super) config_path: PathBuf,
    pub(super) config: Config,
    /// The dataplane's section as the dataplane that runs was given it.
    pub(super) running: esplanade_config::Dataplane,
    pub(super) endpoint: Endpoint,
    /// Whether the endpoint knows its peers: not before there is a dataplane to carry their traffic.
    awake: bool,
    pub(super) dataplane: Option<Dataplane>,
    /// Why there is no dataplane.
    pub(super) dataplane_trouble: Option<String>,
    epoch: Option<Epoch>,
    pub(super) slots: Slots,
    pub(super) children: Children,
    /// The configuration's children, by the groups of their policies.
    pub(super) groups: BTreeMap<u64, ChildName>,
    /// What peers narrowed, on file.
    pub(super) agreements: Agreements,
    /// Which client has which address, on file.
    leases: Journal,
    /// The addresses that peers have given us, by tunnel.
    pub(super) given: BTreeMap<String, Vec<IpAddr>>,
    /// Those of them that are on the TAP.
    on_tap: BTreeSet<IpAddr>,
    /// What the dataplane was told last.
    picture: Picture,
    pub(super) monitor: Monitor,
    links: Links,
    guard: Guard,
    /// What the guard was told last.
    guarded: Option<Wanted>,
    /// Time to look whether the guard still stands.
    guard_due: bool,
    pub(super) sockets: Sockets,
    outbox: Outbox,
    pub(super) waiters: Waiters,
    /// Children that the operator took down: traffic does not bring them up again.
    pub(super) taken_down: BTreeSet<ChildName>,
    /// The capture that runs.
    pub(super) capture: Option<Running>,
    /// How many there were.
    pub(super) captures: u64,
    /// What went wrong last, by tunnel.
    pub(super) troubles: BTreeMap<String, String>,
    /// What was refused last.
    pub(super) refusals: Refusals,
    housekeeping: Instant,
    /// When child SAs are looked at again.
    watch: Instant,
}

impl Gateway {
    /// A gateway that waits for its dataplane.
    pub(super) fn new(
        config_path: PathBuf,
        run_dir: &Path,
        config: Config,
        sockets: Sockets,
        monitor: Monitor,
        guard: Guard,
    ) -> Self {
        let now = Instant::now();
        let slots = Slots::new(
            config.dataplane.sa_capacity,
            || u32::from_ne_bytes(random()),
        );
        let settings = Settings {
            shutdown_patience: GOODBYE,
            ..Settings::default()
        };
        let mut endpoint = Endpoint::new(
            settings,
            Arc::new(SystemProvider),
            Box::new(slots.clone()),
            random(),
        );
        tell_time(&mut endpoint, now);
        Self {
            started: now,
            running: config.dataplane.clone(),
            config_path,
            endpoint,
            awake: false,
            dataplane: None,
            dataplane_trouble: None,
            epoch: None,
            slots,
            children: Children::default(),
            groups: policies::groups(&config),
            agreements: Agreements::in_directory(run_dir),
            leases: Journal::in_directory(run_dir),
            given: BTreeMap::new(),
            on_tap: BTreeSet::new(),
            config,
            picture: Picture::default(),
            monitor,
            links: Links::default(),
            guard,
            guarded: None,
            guard_due: false,
            sockets,
            outbox: Outbox::default(),
            waiters: Waiters::default(),
            taken_down: BTreeSet::new(),
            capture: None,
            captures: 0,
            troubles: BTreeMap::new(),
            refusals: Refusals::default(),
            housekeeping: now,
            watch: now + WATCH,
        }
    }

    /// The setups to offer to a dataplane: the wanted one, and the one it may have been started with.
    pub(super) fn setups(&self) -> Vec<Setup> {
        let mut setups = vec![intent::setup(&self.config.dataplane)];
        let running = intent::setup(&self.running);
        if !setups.contains(&running) {
            setups.push(running);
        }
        setups
    }

    /// A dataplane is here.
    pub(super) fn on_dataplane(&mut self, channel: ControlChannel, now: Instant) {
        let mut dataplane = match Dataplane::new(channel) {
            Ok(dataplane) => dataplane,
            Err(error) => {
                self.dataplane_trouble =
                    Some(format!("its descriptors cannot be watched: {error}"));
                return;
            }
        };
        if *dataplane.channel().setup() == intent::setup(&self.config.dataplane) {
            self.running = self.config.dataplane.clone();
        }
        self.follow_links();
        let epoch = dataplane.epoch();
        let records: Vec<_> = dataplane.channel().sa_records().collect();
        let touched = dataplane.channel().touched_slots();
        let pid = dataplane.channel().dataplane_pid();
        info!(
            "connected to the dataplane (process {pid}), which has {} SAs",
            records.len()
        );
        let workers = dataplane.courier.workers();
        let before = self.epoch.replace(epoch);
        self.dataplane = Some(dataplane);
        self.dataplane_trouble = None;
        if before != Some(epoch) {
            self.forget_children(workers);
        }
        if !self.awake {
            self.awake = true;
            // Their slots are taken before the endpoint can ask for any, and no policy of today's is served by an SA
            // that is nobody's.
            self.slots.rest_below(touched, now);
            let agreed = self.agreements.load();
            let (adopted, commands) =
                self.children
                    .adopt(&records, &self.config, &agreed, &self.slots);
            self.tell_workers(&commands);
            self.synchronize();
            self.endpoint.configure(now, intent::peers(&self.config));
            self.endpoint
                .configure_pools(now, intent::pools(&self.config));
            self.endpoint.restore_leases(now, self.leases.load());
            if !adopted.is_empty() {
                let count = adopted.len();
                info!("{count} child SAs are in place and carry traffic until fresh ones do");
                self.endpoint.adopt(now, adopted);
            }
        } else if before != Some(epoch) {
            self.synchronize();
            warn!("the dataplane started anew: all child SAs are negotiated afresh");
            self.endpoint.dataplane_lost(now);
        } else {
            self.reconcile(&records, now);
        }
    }

    /// Makes up for what a dataplane could not be told while it was out of reach: it loses what nobody knows any more,
    /// sends by what was selected, and what it lacks is rekeyed.
    fn reconcile(&mut self, records: &[channel::SaRecord], now: Instant) {
        let commands = self.children.clear_orphans(records);
        self.tell_workers(&commands);
        self.synchronize();
        let there: BTreeSet<SaId> = records.iter().map(|record| record.sa).collect();
        let agreed: Vec<ChildSaView> = self.endpoint.child_sas().collect();
        for sa in agreed {
            let pair = self.children.get(sa.inbound);
            let is_whole = pair.is_some_and(|pair| {
                let mut halves = std::iter::once(pair.inbound).chain(pair.outbound);
                halves.all(|half| there.contains(&half))
            });
            if !is_whole {
                let _ = self.endpoint.rekey_sa(now, sa.inbound);
            } else if sa.selected {
                self.select(sa.inbound);
            }
        }
    }

    fn forget_children(&mut self, workers: usize) {
        let now = Instant::now();
        for sa in self.children.iter().filter_map(|pair| pair.outbound) {
            self.slots.free(sa, now);
        }
        self.slots.resize(self.running.sa_capacity);
        self.children.reset(workers);
    }

    /// The dataplane's socket has closed.
    pub(super) fn on_dataplane_gone(&mut self) {
        warn!("the dataplane is gone; the kernel's guard keeps protected traffic in");
        self.dataplane = None;
        self.capture = None;
    }

    /// A datagram came.
    pub(super) fn on_datagram(&mut self, datagram: &Datagram, now: Instant) {
        if self.awake {
            self.endpoint
                .handle_datagram(now, datagram.path, &datagram.data);
        }
    }

    /// The dataplane has something to tell.
    pub(super) fn on_dataplane_events(&mut self, now: Instant) {
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.channel().drain_event_fd();
        }
        while let Some((ring, event)) = self.dataplane.as_mut().and_then(Dataplane::next_event) {
            match event {
                Ok(event) => self.on_dataplane_event(ring, event, now),
                Err(error) => {
                    warn!("ring {}: {error}", ring.0);
                    self.dataplane = None;
                }
            }
        }
    }

    fn on_dataplane_event(&mut self, ring: WorkerId, event: channel::Event, now: Instant) {
        use channel::Event;
        match event {
            Event::FirstPacket { sa } => self.endpoint.inbound_used(now, sa.value()),
            Event::SoftLifetime { sa } | Event::SequenceNearEnd { sa } => {
                if let Some(inbound) = self.inbound_of(sa) {
                    let _ = self.endpoint.rekey_sa(now, inbound);
                }
            }
            Event::HardLifetime { sa } => {
                if let Some(inbound) = self.inbound_of(sa) {
                    let _ = self.endpoint.expire_sa(now, inbound);
                }
            }
            Event::PeerMoved { sa, remote, port } => {
                let remote = SocketAddr::new(remote, port);
                self.endpoint.peer_moved(now, sa.value(), remote);
            }
            Event::Acquire { policy, .. } => self.acquire(policy, now),
            Event::NeighborMissing { port, address } => {
                let ports = next_hops::ports(self.monitor.tables(), &self.running.ports);
                if let Some((index, _)) = ports.iter().find(|(_, candidate)| **candidate == port) {
                    self.monitor.ask_neighbor(*index, address);
                }
            }
            Event::CommandFailed { sequence, reason } => {
                self.on_disobeyed(ring, sequence, reason, now);
            }
        }
    }

    fn inbound_of(&self, sa: SaId) -> Option<u32> {
        self.children.of(sa).map(|pair| pair.inbound.value())
    }

    /// A packet waits for an SA (RFC 4301 5.1): who is to start at once starts now, not at its next attempt.
    fn acquire(&mut self, policy: PolicyId, now: Instant) {
        let starts = |(tunnel, child): &&ChildName| {
            let found = children::find(&self.config, tunnel, child);
            found.is_some_and(|(_, child)| child.start == Start::AtOnce)
        };
        let wanted = self.groups.get(&policy.group()).filter(starts).cloned();
        if let Some(name) = wanted
            && !self.is_up(&name.0, &name.1)
            && !self.taken_down.contains(&name)
        {
            let (tunnel, child) = name;
            debug!("{tunnel}/{child}: traffic waits for it");
            let _ = self.endpoint.acquire(now, &tunnel, &child);
        }
    }

    /// Whether a child has SAs.
    pub(super) fn is_up(&self, tunnel: &str, child: &str) -> bool {
        self.children
            .iter()
            .any(|pair| pair.name.0 == tunnel && pair.name.1 == child)
    }

    /// The kernel's tables have changed.
    pub(super) async fn on_network(&mut self) {
        self.raise_tap().await;
        self.settle_addresses().await;
        self.follow_links();
        self.refresh();
        self.ask_next_hops();
        if let Err(error) = self.guard().await {
            warn!("the kernel's guard does not follow the networks of the inside ports: {error}");
        }
    }

    /// Has the kernel use the TAP that a dataplane has made. It asks nobody for link addresses there.
    async fn raise_tap(&self) {
        let tap = self.running.tap().map(|tap| tap.interface.as_str());
        let mut links = self.monitor.tables().links.iter();
        let down = links.find(|(_, link)| Some(link.name.as_str()) == tap && !link.up);
        if let Some((index, link)) = down
            && let Err(error) = self.guard.raise(*index, &link.name).await
        {
            warn!("{error}");
        }
    }

    /// Has the TAP have the addresses that peers have given us, and no others of theirs.
    pub(super) async fn settle_addresses(&mut self) {
        let given: BTreeSet<IpAddr> = self.given.values().flatten().copied().collect();
        let tap = self.running.tap().map(|tap| tap.interface.as_str());
        let mut links = self.monitor.tables().links.iter();
        let Some((index, link)) = links.find(|(_, link)| Some(link.name.as_str()) == tap) else {
            // It comes with the dataplane, and its addresses went with the one before.
            self.on_tap.clear();
            return;
        };
        for address in given.difference(&self.on_tap) {
            if let Err(error) = self.guard.add_address(*index, &link.name, *address).await {
                warn!("{error}");
            }
        }
        for address in self.on_tap.difference(&given) {
            if let Err(error) = self
                .guard
                .remove_address(*index, &link.name, *address)
                .await
            {
                warn!("{error}");
            }
        }
        self.on_tap = given;
    }

    /// Whether what peers have given us is not what the TAP has.
    pub(super) fn is_unsettled(&self) -> bool {
        let mut given = self.given.values().flatten();
        let missing = given.any(|address| !self.on_tap.contains(address));
        missing || self.given.values().map(Vec::len).sum::<usize>() < self.on_tap.len()
    }

    fn follow_links(&mut self) {
        self.links
            .follow(self.monitor.tables(), &self.running.ports);
    }

    /// Has the kernel's guard hold what the configuration protects.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) async fn guard(&mut self) -> Result<(), netlink::Error> {
        let pairs = guarded(&self.config);
        self.apply_guard(pairs).await
    }

    /// Has the kernel's guard hold these pairs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) async fn apply_guard(
        &mut self,
        pairs: BTreeSet<PrefixPair>,
    ) -> Result<(), netlink::Error> {
        let wanted = self.wanted_guard(pairs);
        if self.guarded.as_ref() != Some(&wanted) {
            self.guard.apply(&wanted).await?;
            self.guarded = Some(wanted);
        }
        Ok(())
    }

    fn wanted_guard(&self, pairs: BTreeSet<PrefixPair>) -> Wanted {
        let mut wanted = wanted_guard(pairs, self.monitor.tables(), &self.running);
        // The ports that the next dataplane opens are guarded before it does.
        let next = wanted_guard(
            BTreeSet::new(),
            self.monitor.tables(),
            &self.config.dataplane,
        );
        wanted.outside.extend(next.outside);
        wanted
    }

    /// How the kernel's guard stands at this moment.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) async fn look_at_guard(&self) -> Result<Standing, netlink::Error> {
        let wanted = self.wanted_guard(guarded(&self.config));
        self.guard.look(&wanted).await
    }

    /// Whether it is time to look after the guard; once each time.
    pub(super) fn is_guard_due(&mut self) -> bool {
        std::mem::take(&mut self.guard_due)
    }

    /// Puts back what somebody took away of the kernel's guard.
    pub(super) async fn restore_guard(&mut self) {
        self.guarded = None;
        if let Err(error) = self.guard().await {
            warn!("the kernel's guard cannot be looked after: {error}");
        }
    }

    fn ask_next_hops(&mut self) {
        let tables = self.monitor.tables();
        let ports = next_hops::ports(tables, &self.running.ports);
        let peers: BTreeSet<IpAddr> = self
            .config
            .tunnels
            .iter()
            .filter_map(|tunnel| tunnel.remote)
            .collect();
        for (index, address) in next_hops::neighbors_to(tables, &ports, &peers) {
            self.monitor.ask_neighbor(index, address);
        }
    }

    /// What the dataplane is to know now.
    fn current_picture(&self) -> Picture {
        let mut picture = Picture::default();
        policies::add(&mut picture, &self.config, self.children.narrowed());
        next_hops::add(&mut picture, self.monitor.tables(), &self.running.ports);
        picture
    }

    /// Tells a dataplane in any state all that it is to know.
    fn synchronize(&mut self) {
        self.picture = self.current_picture();
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.courier.tell(&self.picture.sync());
        }
    }

    /// Tells the dataplane what has changed.
    pub(super) fn refresh(&mut self) {
        let picture = self.current_picture();
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.courier.tell(&picture.since(&self.picture));
        }
        self.picture = picture;
    }

    /// Has the policies of one group be what a peer has narrowed a child to, and those of the rest what they are.
    pub(super) fn regroup(&mut self, group: PolicyId) {
        let policies = policies::of_group(&self.config, self.children.narrowed_to(group));
        let commands = self.picture.set_group(group, policies);
        self.tell_workers(&commands);
    }

    pub(super) fn tell_workers(&mut self, commands: &[Command]) {
        if let Some(dataplane) = &mut self.dataplane {
            for command in commands {
                dataplane.courier.tell_workers(command);
            }
        }
    }

    /// Carries on whatever an input brought about, or time.
    pub(super) fn work(&mut self, now: Instant) {
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now);
        }
        if now >= self.housekeeping {
            self.housekeeping = now + HOUSEKEEPING;
            self.keep_house();
            tell_time(&mut self.endpoint, now);
        }
        if now >= self.watch {
            self.watch = now + WATCH;
            self.watch_traffic(now);
            self.even_out(now);
        }
        while let Some(event) = self.endpoint.poll_event() {
            self.on_event(&event, now);
            self.waiters.observe(&event);
        }
        if let Err(error) = self.agreements.store(self.children.agreed()) {
            warn!("what peers narrowed cannot be written down: {error}");
        }
        if self.awake
            && let Err(error) = self.leases.store(&self.endpoint)
        {
            warn!("who has which address cannot be written down: {error}");
        }
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.courier.pump();
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let mark = self
                .dataplane
                .as_ref()
                .map(|dataplane| dataplane.courier.mark());
            self.outbox.hold(transmit, mark, now);
        }
        self.release(now);
        self.waiters.expire(now);
        self.look_after_capture(now);
    }

    fn release(&mut self, now: Instant) {
        let dataplane = &mut self.dataplane;
        while let Some(transmit) = self.outbox.release(now, |mark| {
            dataplane
                .as_mut()
                .is_none_or(|dataplane| dataplane.courier.reached(mark))
        }) {
            self.sockets.send(&transmit);
        }
    }

    /// Has peers asked whether they live that leave our traffic without an answer (RFC 7296 2.4).
    fn watch_traffic(&mut self, now: Instant) {
        let Some(dataplane) = &mut self.dataplane else {
            return;
        };
        let (channel, now_ms) = (dataplane.channel(), report::monotonic_ms());
        let pairs = self.children.iter();
        let unanswered: Vec<u32> = pairs
            .filter(|pair| {
                let outbound = pair.outbound.and_then(|sa| channel.sa_record(sa));
                let inbound = channel.sa_record(pair.inbound);
                outbound
                    .zip(inbound)
                    .is_some_and(|(out, inward)| children::is_unanswered(&out, &inward, now_ms))
            })
            .map(|pair| pair.inbound.value())
            .collect();
        for inbound in unanswered {
            self.endpoint.unanswered(now, inbound);
        }
    }

    fn keep_house(&mut self) {
        self.guard_due = true;
        self.ask_next_hops();
        let configured = self.config.tunnels.iter().map(|tunnel| tunnel.local);
        let used = self.endpoint.ike_sas().map(|sa| sa.path.local.ip());
        let addresses: BTreeSet<IpAddr> = configured.chain(used).collect();
        self.sockets.keep(&addresses);
    }

    /// When [`Gateway::work`] is due without any input.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        let waiting = !self.outbox.is_empty()
            || self
                .dataplane
                .as_ref()
                .is_some_and(|dataplane| dataplane.courier.is_waiting());
        let tick = waiting.then(|| now + TICK);
        let capture = self.capture.as_ref().map(Running::deadline);
        let others = [
            self.endpoint.poll_timeout(),
            self.waiters.deadline(),
            capture,
        ];
        [tick]
            .into_iter()
            .chain(others)
            .flatten()
            .fold(self.housekeeping.min(self.watch), Instant::min)
    }

    /// Whether [`Gateway::work`] is worth calling again at once.
    pub(super) fn is_impatient(&self, now: Instant) -> bool {
        self.outbox.is_imminent(now)
    }

    /// Says goodbye to all peers.
    pub(super) fn shutdown(&mut self, now: Instant) {
        self.endpoint.shutdown(now);
    }

    /// Whether all peers have been left and all messages have gone.
    pub(super) fn is_idle(&self) -> bool {
        self.endpoint.is_idle() && self.outbox.is_empty()
    }

    /// Removes from the dataplane what peers that did not answer left there.
    pub(super) fn remove_all_children(&mut self) {
        let inbound: Vec<u32> = self
            .children
            .iter()
            .map(|pair| pair.inbound.value())
            .collect();
        for inbound in inbound {
            if let Some((_, commands)) = self.children.remove(inbound) {
                self.tell_workers(&commands);
            }
        }
    }

    /// Whether the dataplane has applied everything that it was told.
    pub(super) fn is_applied(&mut self) -> bool {
        let Some(dataplane) = &mut self.dataplane else {
            return true;
        };
        dataplane.courier.pump();
        let mark = dataplane.courier.mark();
        dataplane.courier.reached(&mark)
    }
}
