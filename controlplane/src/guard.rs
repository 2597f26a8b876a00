//! The kernel's guard: routes and rules for what the tunnels protect, so that no plaintext of it passes the gateway when
//! the dataplane is dead and the kernel forwards. RFC 4301 3.1: what is to be protected is never sent in the clear; RFC
//! 4301 5.2: what comes in the clear although it ought to be protected is discarded.
//!
//! All of this stands once for each address family that the tunnels protect.
//!
//! *Out.* A table of our own, 4301, holds an `unreachable` route for every protected remote prefix; for every protected
//! local prefix a rule of preference 4301 `from PREFIX lookup 4301` precedes the main table. This is stricter than the
//! pairs that are protected: with two tunnels, it also stops what goes from the one's local prefix to the other's remote
//! one. Where a remote prefix covers a network that is attached to the gateway itself (a remote of 0.0.0.0/0 covers all
//! of them), a `throw` route for that network sends the lookup on to the main table: otherwise the gateway could not
//! answer the hosts of its own LAN; so does one for fe80::/10 where ::/0 or the like covers it. Parts of it that are routed elsewhere stay unreachable: the kernel would forward to
//! them in the clear.
//!
//! *In.* For every protected pair and every outside interface a rule of the same preference `from REMOTE to LOCAL iif
//! INTERFACE blackhole` drops what claims to come from behind the peer and did not come through the tunnel, whatever
//! `rp_filter` is. It answers nothing: an ICMP error would go to whom the sender claimed to be. What the dataplane has
//! decrypted never passes the kernel, and what of this it gets in the clear it drops itself, so the rules hold while it
//! lives, too. What is for the gateway's own addresses arrives, also from within a remote of 0.0.0.0/0 (IKE, ESP, SSH):
//! the rule for the table `local` has preference 0 and precedes ours. So the guard does not hold plaintext to an address of
//! the gateway itself, which the XDP program takes while the dataplane lives; nor what comes in by an interface that is
//! no port.
//!
//! *The gateway's own.* With a TAP, a table 4302 leads what the gateway itself sends to a protected remote prefix there, from an
//! address of its own within the local one; rules of preference 4300 consult it for packets that come from no interface. A
//! socket without an address is to get one of these, which for IPv4 a rule `from 0.0.0.0` sees to. In IPv6 no rule with a source
//! fits a lookup without one, so one for all sources does it (4299), and two before it, for half of all sources each, have
//! everything else go on at 4300 (4298). The TAP and its routes go with the dataplane, and behind each stands an unreachable one.
//! Sockets with our mark, which are IKE's, skip both tables.
//!
//! The guard outlives both planes and is adopted at the next start. Nothing outside that table, and no rule that is not
//! of that preference and for that table, is touched. The kernel goes through rules one by one wherever it looks a route
//! up, some nanoseconds each: tens of thousands of pairs are felt by what the kernel itself sends and forwards, which the
//! tunnels' traffic is not.

mod message;
mod part;

use std::{
    collections::BTreeSet,
    future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use esplanade_config::Prefix;
use futures_util::TryStreamExt;
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder, packet_route::route::RouteMessage};
use rustix::io::Errno;

use crate::netlink::{self, Error};
use message::{Message, is_our_route, is_our_rule};
use part::Part;
use rtnetlink::LinkUnspec;

/// The routing table that is ours, and the preference of our rules.
pub const TABLE: u32 = 4301;

/// The table of the gateway's own traffic, and the preference of its rules, which come before the guard's.
pub const OWN_TABLE: u32 = 4302;
const OWN_PREFERENCE: u32 = 4300;
/// The rule for what the gateway sends over IPv6 without a source address, and those before it that spare what has one.
const UNCHOSEN_PREFERENCE: u32 = 4299;
const CHOSEN_PREFERENCE: u32 = 4298;
/// The bit of a socket's mark that skips both tables: IKE must not go into its own tunnel.
pub const MARK: u32 = 0x0400_0000;

/// The gateway's own traffic that is to be protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The TAP's index, while it is up.
    pub tap: Option<u32>,
    /// Protected pairs of which the gateway has an address in the local prefix: local, remote, and that address.
    pub traffic: BTreeSet<(Prefix, Prefix, IpAddr)>,
}

/// What the guard shall protect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The protected traffic: a local and a remote prefix each.
    pub pairs: BTreeSet<(Prefix, Prefix)>,
    /// The networks that are directly on the gateway's inside ports.
    pub attached: BTreeSet<Prefix>,
    /// The parts of these that routes of the kernel's lead to by other interfaces.
    pub elsewhere: BTreeSet<Prefix>,
    /// What of it is the gateway's own, where there is a TAP.
    pub own: Option<Own>,
    /// The interfaces of the gateway's outside ports, by name, whether they exist or not.
    pub outside: BTreeSet<String>,
}

/// How the guard was found to stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What the kernel lacks of it, in the words of `ip route` and `ip rule`.
    pub missing: Vec<String>,
    /// What is in its table and among its rules besides, in the same words.
    pub foreign: Vec<String>,
}

/// The guard of the network namespace in which it was opened.
pub struct Guard {
    handle: Handle,
}

impl Guard {
    /// Opens the way to the kernel. Changes nothing.
    ///
    /// # Errors
    ///
    /// If there is no netlink socket to be had. Needs a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            handle: netlink::connect()?,
        })
    }

    /// Makes the guard exactly this. What is there already is adopted; what is new stands before what is no longer wanted
    /// goes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a part of it; what was there before stays then.
    pub async fn apply(&self, wanted: &Wanted) -> Result<(), Error> {
        /// The kernel takes away the first rule that fits: a wide one of a stranger in our table can make it one of ours.
        /// And it refuses a rule beside a narrower one of a stranger. So what was done is looked at again.
        const ROUNDS: usize = 4;
        let parts = Part::all(wanted);
        for _ in 0..ROUNDS {
            let found = self.found().await?;
            let mut acted = false;
            for part in missing(&parts, &found) {
                self.add(part).await.or_else(unless(&[Errno::EXIST]))?;
                acted = true;
            }
            for message in surplus(&parts, found) {
                let gone = [Errno::NOENT, Errno::SRCH];
                self.remove(message).await.or_else(unless(&gone))?;
                acted = true;
            }
            if !acted {
                return Ok(());
            }
        }
        // Whatever else is there: nothing that is wanted is missing in the end.
        let found = self.found().await?;
        for part in missing(&parts, &found) {
            self.add(part).await?;
        }
        Ok(())
    }

    /// Takes the guard away.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub async fn clear(&self) -> Result<(), Error> {
        self.apply(&Wanted::default()).await
    }

    /// Looks how the guard stands. Changes nothing.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub async fn look(&self, wanted: &Wanted) -> Result<Standing, Error> {
        let parts = Part::all(wanted);
        let found = self.found().await?;
        let missing = missing(&parts, &found).map(Part::to_string).collect();
        let describe = |message: Message| match (message.part(), message) {
            (Some(part), _) => part.to_string(),
            (None, Message::Route(route)) => {
                format!("another route in table {}", message::table(&route))
            }
            (None, Message::Rule(rule)) => {
                format!("another rule of preference {}", message::preference(&rule))
            }
        };
        let foreign = surplus(&parts, found).map(describe).collect();
        Ok(Standing { missing, foreign })
    }

    /// Everything that is in our table, and among our rules.
    async fn found(&self) -> Result<Vec<Message>, Error> {
        let ipv4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut found = self.found_of(ipv4, IpVersion::V4).await?;
        match self.found_of(ipv6, IpVersion::V6).await {
            Ok(more) => found.extend(more),
            // A kernel without IPv6 has no table of it and forwards none.
            Err(error) if error.is_without_family() => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }

    async fn found_of(&self, all: RouteMessage, family: IpVersion) -> Result<Vec<Message>, Error> {
        let routes = self.handle.route().get(all).execute();
        let routes = routes
            .try_filter(|route| future::ready(is_our_route(route)))
            .map_ok(Message::Route);
        let mut found: Vec<Message> = routes
            .try_collect()
            .await
            .map_err(Error::refused("tell its routes"))?;
        let rules = self.handle.rule().get(family).execute();
        let rules: Vec<Message> = rules
            .try_filter(|rule| future::ready(is_our_rule(rule)))
            .map_ok(Message::Rule)
            .try_collect()
            .await
            .map_err(Error::refused("tell its rules"))?;
        found.extend(rules);
        Ok(found)
    }

    /// Sets an interface up that needs no link addresses.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub async fn raise(&self, index: u32, name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).up().arp(false).build();
        let refused = Error::refused(format!("set {name} up"));
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(refused)
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub async fn add_address(&self, index: u32, name: &str, address: IpAddr) -> Result<(), Error> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let request = self.handle.address().add(index, address, length).replace();
        let refused = Error::refused(format!("give {name} the address {address}"));
        request.execute().await.map_err(refused)
    }

    /// Takes an address from an interface; one that it does not have is gone already.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub async fn remove_address(
        &self,
        index: u32,
        name: &str,
        address: IpAddr,
    ) -> Result<(), Error> {
        let refused = Error::refused(format!("take the address {address} from {name}"));
        let addresses = self.handle.address().get().set_link_index_filter(index);
        let mut found = addresses.set_address_filter(address).execute();
        match found.try_next().await {
            Ok(Some(message)) => {
                let request = self.handle.address().del(message);
                request.execute().await.map_err(refused)
            }
            _ => Ok(()),
        }
    }

    async fn add(&self, part: &Part) -> Result<(), Error> {
        let refused = Error::refused(format!("guard by `{part}`"));
        match Message::new(part) {
            // A route of another kind to the same prefix makes room.
            Message::Route(route) => self.handle.route().add(route).replace().execute().await,
            Message::Rule(rule) => {
                let mut request = self.handle.rule().add();
                *request.message_mut() = rule;
                request.execute().await
            }
        }
        .map_err(refused)
    }

    async fn remove(&self, message: Message) -> Result<(), Error> {
        match message {
            Message::Route(mut route) => {
                route.header.flags = Default::default();
                let refused = Error::refused(format!(
                    "take away a route of table {}",
                    message::table(&route)
                ));
                let request = self.handle.route().del(route);
                request.execute().await.map_err(refused)
            }
            Message::Rule(rule) => {
                let refused = Error::refused(format!(
                    "take away a rule of preference {}",
                    message::preference(&rule)
                ));
                let request = self.handle.rule().del(rule);
                request.execute().await.map_err(refused)
            }
        }
    }
}

/// The parts that were not found.
fn missing<'a>(
    parts: &'a BTreeSet<Part>,
    found: &[Message],
) -> impl Iterator<Item = &'a Part> + use<'a> {
    let there: BTreeSet<Part> = found.iter().filter_map(Message::part).collect();
    parts.iter().filter(move |part| !there.contains(part))
}

/// What was found and is no part, or the second of its kind.
fn surplus(parts: &BTreeSet<Part>, found: Vec<Message>) -> impl Iterator<Item = Message> {
    let mut kept = BTreeSet::new();
    found.into_iter().filter(move |message| {
        let wanted = message.part().filter(|part| parts.contains(part));
        !wanted.is_some_and(|part| kept.insert(part))
    })
}

/// Turns a refusal of these kinds into a success.
fn unless(kinds: &[Errno]) -> impl FnOnce(Error) -> Result<(), Error> {
    move |error| match error.errno() {
        Some(errno) if kinds.contains(&errno) => Ok(()),
        _ => Err(error),
    }
}
