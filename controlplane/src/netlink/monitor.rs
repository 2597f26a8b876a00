//! Follows the kernel: a dump to begin with, then messages, and a new dump whenever messages were lost or the kernel
//! changed more than it says.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures_util::{Stream, StreamExt, TryStream, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage},
    proto::sys::AsyncSocket,
};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    Error, Tables, connect, neighbor,
    state::{Effect, State, neglected},
};

/// Changes come in flocks; this long we wait for the rest of one.
const FLOCK: Duration = Duration::from_millis(5);
/// This long we wait before a dump: it costs more.
const BEFORE_DUMP: Duration = Duration::from_millis(20);
/// How often we ask for the same neighbour at most.
const BETWEEN_ASKS: Duration = Duration::from_secs(1);
/// How many neighbours we look after at most.
const MOST_ASKED: usize = 16_384;
/// What the kernel may queue for us before it drops messages (and we dump again); it grants less to those without
/// privileges.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// A current picture of the kernel's links, addresses, routes and neighbours, in the network namespace of the thread
/// that started it.
pub struct Monitor {
    state: State,
    events: Events,
    requests: Handle,
    /// The tables differ from what `changed` told last.
    dirty: bool,
    /// Only a dump can tell what the kernel's tables are.
    stale: bool,
    /// The kernel dropped messages.
    overrun: bool,
    /// When to tell or to dump.
    due: Option<Instant>,
    /// The neighbours that we look after, and when we asked for each.
    asked: HashMap<(u32, IpAddr), Instant>,
    /// Those of them to ask for again, and when.
    neglected: BTreeSet<(u32, IpAddr)>,
    ask_again: Option<Instant>,
}

impl Monitor {
    /// Begins to follow the kernel; the tables are complete at once.
    ///
    /// # Errors
    ///
    /// If there is no netlink socket to be had, or the kernel does not tell its tables.
    pub async fn start() -> Result<Self, Error> {
        // Subscribed first: what changes during the dump is told afterwards.
        let events = Events::subscribe()?;
        let requests = connect()?;
        let state = dump(&requests).await?;
        Ok(Self {
            state,
            events,
            requests,
            dirty: false,
            stale: false,
            overrun: false,
            due: None,
            asked: HashMap::new(),
            neglected: BTreeSet::new(),
            ask_again: None,
        })
    }

    /// The kernel's tables as far as its messages were taken in, which [`changed`](Self::changed) does.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.state.tables
    }

    /// Waits until the tables differ from what they were when this last returned. Changes that come together are told
    /// together. May be dropped at any point and called again.
    ///
    /// # Errors
    ///
    /// If the netlink socket failed; the monitor is of no use then, start another.
    pub async fn changed(&mut self) -> Result<(), Error> {
        loop {
            let (due, ask_again) = (self.due, self.ask_again);
            tokio::select! {
                event = self.events.messages.next() => self.take(event.ok_or(Error::Closed)?),
                () = until(ask_again), if ask_again.is_some() => {
                    self.ask_again = None;
                    for (link, address) in std::mem::take(&mut self.neglected) {
                        self.ask_neighbor(link, address);
                    }
                }
                () = until(due), if due.is_some() => {
                    if self.stale {
                        self.dump_again().await?;
                    }
                    self.due = None;
                    if std::mem::take(&mut self.dirty) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Has the kernel resolve a neighbour and keep it fresh. Returns at once; the answer is a change of the tables.
    /// Asking again is free: an address is asked for once a second at most.
    pub fn ask_neighbor(&mut self, link: u32, address: IpAddr) {
        let now = Instant::now();
        let key = (link, address);
        if self.asked.len() >= MOST_ASKED && !self.asked.contains_key(&key) {
            // The kernel goes on managing those that are forgotten here.
            self.asked
                .retain(|_, asked| now.duration_since(*asked) < BETWEEN_ASKS);
        }
        let recently = self
            .asked
            .get(&key)
            .is_some_and(|asked| now.duration_since(*asked) < BETWEEN_ASKS);
        if recently || self.asked.len() >= MOST_ASKED || self.state.is_fixed(link, address) {
            return;
        }
        self.asked.insert(key, now);
        let request = neighbor::ask(self.requests.clone(), link, address);
        tokio::spawn(async move {
            if let Err(error) = request.await {
                tracing::debug!(%error, link, "a neighbour cannot be asked for");
            }
        });
    }

    fn take(&mut self, event: NetlinkMessage<RouteNetlinkMessage>) {
        let effect = match &event.payload {
            NetlinkPayload::InnerMessage(message) => {
                let effect = self.state.apply(message, event.header.flags);
                if let Some(neighbor) = neglected(message)
                    && let Some(asked) = self.asked.get(&neighbor)
                {
                    self.neglected.insert(neighbor);
                    self.ask_again.get_or_insert(*asked + BETWEEN_ASKS);
                }
                effect
            }
            NetlinkPayload::Overrun(_) => {
                self.overrun = true;
                Effect::Stale
            }
            _ => Effect::None,
        };
        match effect {
            Effect::None => return,
            Effect::Changed => self.dirty = true,
            Effect::Stale => self.stale = true,
        }
        let wait = if self.stale { BEFORE_DUMP } else { FLOCK };
        self.due.get_or_insert_with(|| Instant::now() + wait);
    }

    async fn dump_again(&mut self) -> Result<(), Error> {
        if self.overrun {
            // After ENOBUFS the kernel drops messages without a word until the socket's queue was empty once, which
            // nobody tells us. A new socket drops none.
            self.events = Events::subscribe()?;
            self.overrun = false;
        }
        let state = dump(&self.requests).await?;
        // Whether the messages of before have told all of it already does not matter.
        self.dirty |= state.tables != self.state.tables;
        self.state = state;
        self.stale = false;
        Ok(())
    }
}

/// The kernel's messages on what changes.
struct Events {
    messages: Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send + Unpin>,
    task: AbortHandle,
}

impl Events {
    fn subscribe() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let (mut connection, _, events) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::Open)?;
        // A smaller buffer works too: what overflows is dumped.
        let _ = connection
            .socket_mut()
            .socket_mut()
            .set_rx_buf_sz(RECEIVE_BUFFER);
        Ok(Self {
            messages: Box::new(events.map(|(message, _)| message)),
            task: tokio::spawn(connection).abort_handle(),
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn until(deadline: Option<Instant>) {
    sleep_until(deadline.unwrap_or_else(Instant::now)).await;
}

/// Reads all tables. Links come first: addresses belong to them.
async fn dump(handle: &Handle) -> Result<State, Error> {
    let mut state = State::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links
        .try_next()
        .await
        .map_err(Error::refused("tell its links"))?
    {
        state.apply(&RouteNetlinkMessage::NewLink(link), 0);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses
        .try_next()
        .await
        .map_err(Error::refused("tell its addresses"))?
    {
        state.apply(&RouteNetlinkMessage::NewAddress(address), 0);
    }
    let all = [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ];
    for request in all {
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = next_of_family(&mut routes, "tell its routes").await? {
            // Of equal routes, the kernel tells the one that counts first.
            state.apply(
                &RouteNetlinkMessage::NewRoute(route),
                rtnetlink::packet_core::NLM_F_APPEND,
            );
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let request = handle.neighbours().get().set_address_family(family);
        let mut neighbors = request.execute();
        while let Some(neighbor) = next_of_family(&mut neighbors, "tell its neighbours").await? {
            state.apply(&RouteNetlinkMessage::NewNeighbour(neighbor), 0);
        }
    }
    Ok(state)
}

/// The next entry of a table; a kernel without IPv6 has none of that family.
async fn next_of_family<T>(
    entries: &mut (impl TryStream<Ok = T, Error = rtnetlink::Error> + Unpin),
    what: &str,
) -> Result<Option<T>, Error> {
    let next = entries.try_next().await.map_err(Error::refused(what));
    next.or_else(|error| {
        if error.is_without_family() {
            Ok(None)
        } else {
            Err(error)
        }
    })
}
