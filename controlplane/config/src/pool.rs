//! Reads pools of addresses for clients, and what is right by itself and wrong with the tunnels that use them.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use crate::{
    identity,
    model::{Identity, Pool},
    node::Key,
    problem::{Mistake, Place, Problems},
    reader::Reader,
    selector,
    tunnel::{Placed, duration_within},
};

const HOLD: Duration = Duration::from_secs(600);
const HOLD_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 86_400);

/// A pool, and where its addresses stand.
pub(crate) struct PlacedPool {
    pub pool: Pool,
    ranges: Vec<Place>,
    fixed: Vec<Place>,
}

/// Reads one pool; `None` if it has no addresses. Everything that is wrong is among the problems.
pub(crate) fn read(
    key: &Key,
    section: &Reader<'_>,
    problems: &mut Problems<'_>,
) -> Option<PlacedPool> {
    let ranges = section.values("addresses", problems, range);
    let dns = section.values("dns", problems, |words| {
        selector::read_address(words)
            .map_err(|mistake| mistake.or_help("write the address of a name server"))
    });
    let networks = section.values("networks", problems, selector::prefix);
    let hold = section.value("hold", problems, |words| match words {
        "0" => Ok(Duration::ZERO),
        words => duration_within(words, &HOLD_RANGE),
    });
    let fixed = section.values("fixed", problems, fixed).unwrap_or_default();
    check_fixed(&fixed, problems);
    let (ranges, places) = ranges?.into_iter().unzip();
    let (fixed, fixed_places) = fixed.into_iter().unzip();
    let first = |list: Vec<(_, Place)>| list.into_iter().map(|(value, _)| value).collect();
    Some(PlacedPool {
        pool: Pool {
            name: key.name.clone(),
            ranges,
            dns: dns
                .unwrap_or_default()
                .into_iter()
                .map(|(address, _)| address)
                .collect(),
            networks: networks.map(first),
            hold: hold.unwrap_or(HOLD),
            fixed,
        },
        ranges: places,
        fixed: fixed_places,
    })
}

/// A prefix without the addresses that name the network itself and all of it, or the first and the last address.
fn range(words: &str) -> Result<(IpAddr, IpAddr), Mistake> {
    let help = "write a prefix like `10.9.0.0/24`, or a range like `10.9.0.10-10.9.0.99`";
    if let Some((first, last)) = words.split_once('-') {
        let read = |words: &str| selector::read_address(words.trim());
        let (first, last) = (read(first), read(last));
        let (first, last) = (
            first.map_err(|mistake| mistake.or_help(help))?,
            last.map_err(|mistake| mistake.or_help(help))?,
        );
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(Mistake::new(format!("{words} is no range")).help(help));
        }
        return Ok((first, last));
    }
    let prefix = selector::prefix(words).map_err(|mistake| mistake.or_help(help))?;
    let (first, last) = (prefix.address(), prefix.last());
    Ok(match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if prefix.length() < 31 => (
            IpAddr::V4((first.to_bits() + 1).into()),
            IpAddr::V4((last.to_bits() - 1).into()),
        ),
        // RFC 4291 2.6.1: the first one is the routers' anycast address.
        (IpAddr::V6(first), last) if prefix.length() < 127 => {
            (IpAddr::V6((first.to_bits() + 1).into()), last)
        }
        whole => whole,
    })
}

/// `IDENTITY = ADDRESS`.
fn fixed(words: &str) -> Result<(Identity, IpAddr), Mistake> {
    let help = "write `carol@example.org = 10.9.0.5`";
    let (who, address) = words
        .rsplit_once('=')
        .ok_or_else(|| Mistake::new(format!("`{words}` gives nobody an address")).help(help))?;
    let address =
        selector::read_address(address.trim()).map_err(|mistake| mistake.or_help(help))?;
    match identity::read(who.trim())? {
        pattern if pattern.is_pattern() => {
            Err(Mistake::new(format!("`{pattern}` is not one identity")).help(help))
        }
        identity => Ok((identity, address)),
    }
}

fn check_fixed(fixed: &[((Identity, IpAddr), Place)], problems: &mut Problems<'_>) {
    for (at, ((who, address), place)) in fixed.iter().enumerate() {
        let before = fixed.iter().take(at).map(|(one, _)| one);
        let twin = before.clone().find(|(_, other)| other == address);
        if let Some((other, _)) = twin {
            let what = format!("{address} is {other}'s already");
            let mistake = Mistake::new(what).help("give each identity an address of its own");
            problems.error(*place, mistake);
        }
        let family = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
        let mut own = before.filter(|(other, _)| other == who);
        if own.any(|(_, other)| family(other)) {
            let what = format!("`{who}` has an address of this family already");
            let mistake = Mistake::new(what).help("a client gets one address of each family");
            problems.error(*place, mistake);
        }
    }
}

/// An address that is fixed in one pool is in no other.
fn check_fixed_of_others(pools: &[PlacedPool], problems: &mut Problems<'_>) {
    for (at, placed) in pools.iter().enumerate() {
        for ((_, address), place) in placed.pool.fixed.iter().zip(&placed.fixed) {
            let has = |(other, pool): &(usize, &Pool)| {
                let within = |range: &(IpAddr, IpAddr)| range.0 <= *address && *address <= range.1;
                let mut fixed = pool.fixed.iter();
                *other != at
                    && (pool.ranges.iter().any(within)
                        || *other < at && fixed.any(|(_, fixed)| fixed == address))
            };
            let mut all = pools.iter().map(|other| &other.pool).enumerate();
            if let Some((_, other)) = all.find(has) {
                let what = format!("{address} is in the pool `{}`, too", other.name);
                let mistake = Mistake::new(what).help("give out each address once");
                problems.error(*place, mistake);
            }
        }
    }
}

/// What pools and tunnels have to do with each other.
pub(crate) fn check(pools: &[PlacedPool], tunnels: &[Placed], problems: &mut Problems<'_>) {
    let all = pools.iter().flat_map(|pool| {
        let ranges = pool.pool.ranges.iter().zip(&pool.ranges);
        ranges.map(move |(range, place)| (pool, range, place))
    });
    let all: Vec<_> = all.collect();
    for (at, (pool, range, place)) in all.iter().enumerate() {
        let mut before = all.iter().take(at);
        let twin = before.find(|(_, other, _)| range.0 <= other.1 && other.0 <= range.1);
        if let Some((other, ..)) = twin {
            let other = &other.pool.name;
            let what = match pool.pool.name == *other {
                true => "these addresses are in the pool already".to_owned(),
                false => format!("some of these addresses are in the pool `{other}`, too"),
            };
            problems.error(
                **place,
                Mistake::new(what).help("give out each address once"),
            );
        }
    }
    check_fixed_of_others(pools, problems);
    for placed in tunnels {
        check_tunnel(pools, placed, problems);
    }
}

fn check_tunnel(pools: &[PlacedPool], placed: &Placed, problems: &mut Problems<'_>) {
    let tunnel = &placed.tunnel;
    let Some((name, place)) = tunnel.pool.as_ref().zip(placed.pool) else {
        return;
    };
    let Some(pool) = pools.iter().find(|pool| pool.pool.name == *name) else {
        let mistake = Mistake::new(format!("there is no pool `{name}`"));
        let help = match pools.first() {
            Some(pool) => format!("write one that is in `pools`, such as `{}`", pool.pool.name),
            None => {
                format!("add `pools: {{ {name}: {{ addresses: [10.9.0.0/24] }} }}` to the file")
            }
        };
        return problems.error(place, mistake.help(help));
    };
    if tunnel.remote.is_some() {
        let what = "a pool is for clients that come from anywhere, and this peer has an address";
        let help = "leave `pool` out, or write `address: any` in `remote`";
        problems.error(place, Mistake::new(what).help(help));
    }
    let mut addresses = pool.pool.ranges.clone();
    addresses.extend(
        pool.pool
            .fixed
            .iter()
            .map(|(_, address)| (*address, *address)),
    );
    for (child, places) in tunnel.children.iter().zip(&placed.selectors) {
        let covers = |selector: &crate::Selector| {
            let (first, last) = (selector.prefix.address(), selector.prefix.last());
            addresses
                .iter()
                .any(|range| range.0 <= last && first <= range.1)
        };
        if let (false, Some(place)) = (child.remote.iter().any(covers), places.first()) {
            let what =
                format!("no address of the pool `{name}` is in it, so no client could use it");
            let help = "write the pool's prefixes; each client gets those of its addresses";
            problems.error(*place, Mistake::new(what).help(help));
        }
    }
}
