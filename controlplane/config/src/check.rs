//! What is right by itself and wrong together: tunnels that claim the same peer or the same traffic.

use crate::{
    Selector,
    model::{Authentication, Config, Identity, Mode, Tunnel},
    problem::{Mistake, Place, Problems},
    tunnel::Placed,
};

/// While a child rekeys, it has two pairs of SAs.
const SAS_PER_CHILD: usize = 4;

pub(crate) fn check(tunnels: &[Placed], tap: bool, problems: &mut Problems<'_>) {
    for placed in tunnels {
        check_own_addresses(placed, tap, problems);
        check_families(placed, problems);
        check_transport(placed, tap, problems);
        check_request(placed, tap, problems);
    }
    check_peers(tunnels, problems);
    check_eap(tunnels, problems);
    check_overlaps(tunnels, problems);
}

/// Is there room for the SAs of all children?
pub(crate) fn check_capacity(config: &Config, place: Place, problems: &mut Problems<'_>) {
    let children: usize = config
        .tunnels
        .iter()
        .map(|tunnel| tunnel.children.len())
        .sum();
    let needed = children.saturating_mul(SAS_PER_CHILD);
    if needed > config.dataplane.sa_capacity as usize {
        let what = format!(
            "{children} children need room for {needed} SAs, and there is room for {}",
            config.dataplane.sa_capacity
        );
        let enough = needed.next_power_of_two();
        problems.error(
            place,
            Mistake::new(what).help(format!("write `sa-capacity: {enough}` in `dataplane`")),
        );
    }
}

/// Transport mode is for what the two gateways themselves have to say to each other.
///
/// RFC 7296 2.23.1: "The TSi entries MUST have exactly one IP address, and that MUST match the source address of the IKE SA."
fn check_transport(placed: &Placed, tap: bool, problems: &mut Problems<'_>) {
    let tunnel = &placed.tunnel;
    let children = tunnel.children.iter().zip(&placed.selectors);
    for (child, places) in children.filter(|(child, _)| child.mode != Mode::Tunnel) {
        let Some(place) = places.first() else {
            continue;
        };
        let mut mistake = |what: String, help: String| {
            problems.error(*place, Mistake::new(what).help(help));
        };
        let Some(remote) = tunnel.remote else {
            let what = "transport mode needs the peer's address, and that is `any`".to_owned();
            mistake(what, "take `mode: tunnel`, or write the address".to_owned());
            continue;
        };
        let only = |selectors: &[Selector], address| {
            let one = |selector: &Selector| {
                (selector.prefix.address(), selector.prefix.last()) == (address, address)
            };
            selectors.iter().all(one)
        };
        if !only(&child.local, tunnel.local) || !only(&child.remote, remote) {
            let what = "transport mode protects packets between the two gateways only";
            let bits = if remote.is_ipv4() { 32 } else { 128 };
            let help = format!(
                "write `local: [{}/{bits}]` and `remote: [{remote}/{bits}]`, with `[tcp/443]` behind them if need be, or take `mode: tunnel`",
                tunnel.local
            );
            mistake(what.to_owned(), help);
        } else if !tap {
            let what =
                "in transport mode packets are the gateway's own, and it has no TAP for them";
            let help = "write `tap: esp0` in `dataplane`".to_owned();
            mistake(what.to_owned(), help);
        }
    }
}

/// The address that a peer gives us is the gateway's own.
fn check_request(placed: &Placed, tap: bool, problems: &mut Problems<'_>) {
    if placed.tunnel.request.is_some() && !tap {
        let what =
            "the address that the peer gives us is the gateway's own, and it has no TAP for it";
        let help = "write `tap: esp0` in `dataplane`";
        problems.error(placed.name, Mistake::new(what).help(help));
    }
}

fn check_own_addresses(placed: &Placed, tap: bool, problems: &mut Problems<'_>) {
    let Tunnel {
        local,
        remote: Some(remote),
        children,
        ..
    } = &placed.tunnel
    else {
        return;
    };
    if local == remote {
        let mistake = Mistake::new(format!("both ends of the tunnel are {local}"));
        problems.error(
            placed.remote_address,
            mistake.help("write the peer's address"),
        );
    }
    for (child, places) in children.iter().zip(&placed.selectors) {
        let ours = child
            .local
            .iter()
            .any(|selector| selector.prefix.contains(*local));
        let theirs = child
            .remote
            .iter()
            .zip(places)
            .find(|(selector, _)| selector.prefix.contains(*remote));
        if let (true, false, Some((selector, place))) =
            (ours, tap || child.mode != Mode::Tunnel, theirs)
        {
            let what = format!(
                "{selector} holds the peer itself ({remote}): IKE would be sent into its own tunnel"
            );
            problems.error(
                *place,
                Mistake::new(what)
                    .help("write `tap: esp0` in `dataplane`, which keeps the gateway's own traffic apart, or protect prefixes that hold at most one of the two gateways"),
            );
        }
    }
}

/// What is of two families has nothing to say to each other: the ends of the tunnel, and the two sides of a child.
fn check_families(placed: &Placed, problems: &mut Problems<'_>) {
    let family = |is_ipv4| if is_ipv4 { "IPv4" } else { "IPv6" };
    let tunnel = &placed.tunnel;
    if let Some(remote) = tunnel.remote
        && remote.is_ipv4() != tunnel.local.is_ipv4()
    {
        let what = format!(
            "the peer's address is {}, and ours, {}, is {}",
            family(remote.is_ipv4()),
            tunnel.local,
            family(tunnel.local.is_ipv4())
        );
        let help =
            "write two addresses of one family; what goes through the tunnel may be of the other";
        problems.error(placed.remote_address, Mistake::new(what).help(help));
    }
    for (child, places) in tunnel.children.iter().zip(&placed.selectors) {
        for (is_ipv4, side, others) in [
            (true, &child.local, &child.remote),
            (true, &child.remote, &child.local),
            (false, &child.local, &child.remote),
            (false, &child.remote, &child.local),
        ] {
            let of_family = |selector: &&Selector| selector.prefix.is_ipv4() == is_ipv4;
            if let (Some(alone), None) =
                (side.iter().find(of_family), others.iter().find(of_family))
                && let Some(place) = places.first()
            {
                let what = format!(
                    "{alone} is {}, and the other side of the child has nothing of it",
                    family(is_ipv4)
                );
                let help = "give both sides prefixes of the same families, or leave this one out";
                problems.error(*place, Mistake::new(what).help(help));
                break;
            }
        }
    }
}

/// A peer that knocks must fit one tunnel only, or the wrong key and the wrong traffic may be its.
fn check_peers(tunnels: &[Placed], problems: &mut Problems<'_>) {
    let mut known: std::collections::HashMap<
        (&Identity, &Identity, std::net::IpAddr),
        Vec<&Placed>,
    > = Default::default();
    for placed in tunnels {
        let tunnel = &placed.tunnel;
        let same = known
            .entry((
                &tunnel.local_identity,
                &tunnel.remote_identity,
                tunnel.local,
            ))
            .or_default();
        let twin = same
            .iter()
            .find(|other| match (other.tunnel.remote, tunnel.remote) {
                (Some(one), Some(two)) => one == two,
                _ => true,
            });
        if let Some(twin) = twin {
            let what = format!(
                "the tunnels `{}` and `{}` are with the same peer",
                twin.tunnel.name, tunnel.name
            );
            let help =
                "put the children of both into one tunnel, or give the ends different identities";
            problems.error(placed.name, Mistake::new(what).help(help));
        }
        // One of each is enough to compare with: more would be reported already.
        if twin.is_none() {
            same.push(placed);
        }
    }
}

/// Who a client of EAP is turns out last: how it proves that must be the same for all whom it may turn out to be. Only our
/// address, our identity and the proposal are known before.
fn check_eap(tunnels: &[Placed], problems: &mut Problems<'_>) {
    let serves =
        |tunnel: &Tunnel| matches!(tunnel.authentication, Authentication::EapServer { .. });
    let mut servers: Vec<&Tunnel> = Vec::new();
    for placed in tunnels.iter().filter(|placed| serves(&placed.tunnel)) {
        let tunnel = &placed.tunnel;
        let differs = |other: &&&Tunnel| {
            let mut proposals = tunnel.ike.proposals.iter();
            (other.local, &other.local_identity) == (tunnel.local, &tunnel.local_identity)
                && proposals.any(|one| other.ike.proposals.contains(one))
                && other.authentication != tunnel.authentication
        };
        if let Some(other) = servers.iter().find(differs) {
            let what = format!(
                "the clients of `{}` and `{}` find us at the same address under the same identity, and prove by EAP who they are in different ways",
                other.name, tunnel.name
            );
            let help = "write the same `authentication` in both, or give us different identities";
            problems.error(placed.name, Mistake::new(what).help(help));
        }
        servers.push(tunnel);
    }
}

/// One pair of selectors of one child.
struct Claim<'t> {
    tunnel: &'t str,
    child: &'t str,
    priority: u32,
    local: &'t Selector,
    remote: &'t Selector,
    place: Place,
}

/// Two children of the same priority must not claim the same traffic: which of them takes it would be chance.
fn check_overlaps(tunnels: &[Placed], problems: &mut Problems<'_>) {
    let mut claims = claims(tunnels);
    claims.sort_by_key(|claim| (claim.remote.prefix, claim.place.line, claim.place.column));
    for (index, first) in claims.iter().enumerate() {
        let end = first.remote.prefix.last();
        let rest = claims
            .iter()
            .skip(index + 1)
            .take_while(|other| other.remote.prefix.address() <= end);
        for second in rest {
            let same_child = first.tunnel == second.tunnel && first.child == second.child;
            let overlap =
                first.local.overlaps(second.local) && first.remote.overlaps(second.remote);
            if !same_child && overlap && first.priority == second.priority {
                report_overlap(first, second, problems);
                break;
            }
        }
    }
}

fn claims(tunnels: &[Placed]) -> Vec<Claim<'_>> {
    let mut claims = Vec::new();
    for Placed {
        tunnel, selectors, ..
    } in tunnels
    {
        for (child, places) in tunnel.children.iter().zip(selectors) {
            for (remote, place) in child.remote.iter().zip(places) {
                claims.extend(child.local.iter().map(|local| Claim {
                    tunnel: &tunnel.name,
                    child: &child.name,
                    priority: child.priority,
                    local,
                    remote,
                    place: *place,
                }));
            }
        }
    }
    claims
}

fn report_overlap(first: &Claim<'_>, second: &Claim<'_>, problems: &mut Problems<'_>) {
    let later = |claim: &Claim<'_>| (claim.place.line, claim.place.column);
    let (first, second) = if later(first) <= later(second) {
        (first, second)
    } else {
        (second, first)
    };
    let what = format!(
        "`{}/{}` ({} to {}) claims traffic of `{}/{}` ({} to {}, line {}) with the same priority",
        second.tunnel,
        second.child,
        second.local,
        second.remote,
        first.tunnel,
        first.child,
        first.local,
        first.remote,
        first.place.line,
    );
    let help = format!(
        "give the one that should take it a `priority` below {}, or separate the prefixes",
        first.priority
    );
    problems.error(second.place, Mistake::new(what).help(help));
}
