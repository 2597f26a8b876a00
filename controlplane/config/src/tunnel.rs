//! Reads a tunnel: its ends, its IKE SA and its children.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use esplanade_ike::config::{
    ChildProposal, ChildWords, Families, IkeProposal, Protection, Uniqueness,
};

use crate::{
    FileContext, Selector, authentication, dscp, identity,
    model::{
        Authentication, Child, Df, Fragment, Identity, Ike, Lifetime, Mode, Start, Tfc, TfcSize,
        Tunnel,
    },
    node::Key,
    problem::{Mistake, Place, Problems},
    quantity,
    reader::Reader,
    selector,
};

const IKE_REKEY: Duration = Duration::from_secs(4 * 3600);
const CHILD_REKEY: Duration = Duration::from_secs(3600);
/// A rekey every few seconds is for tests; one after a month is as good as none.
const REKEY_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(30 * 86_400);
const DPD_DELAY: Duration = Duration::from_secs(30);
const DPD_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// The least MTU of IPv6 (RFC 8200 5), which RFC 7383 2.5.1 recommends.
const FRAGMENT_SIZE: u16 = 1280;
const REPLAY_WINDOW: u32 = 1024;
/// RFC 8200 5.
const LEAST_MTU_V6: u64 = 1280;
const PRIORITY: u32 = 1000;

/// A tunnel and where the things stand that other tunnels may be at odds with.
pub(crate) struct Placed {
    pub tunnel: Tunnel,
    pub name: Place,
    pub remote_address: Place,
    pub pool: Option<Place>,
    /// For each child, the place of each of its remote selectors.
    pub selectors: Vec<Vec<Place>>,
}

/// Reads one tunnel; `None` if something of it is wrong beyond repair. Everything that is wrong is among the problems.
pub(crate) fn read(
    key: &Key,
    section: &Reader<'_>,
    context: &FileContext<'_>,
    problems: &mut Problems<'_>,
) -> Option<Placed> {
    let local = section
        .section("local", problems)
        .and_then(|local| read_local(&local, problems));
    let remote = section
        .section("remote", problems)
        .and_then(|remote| read_remote(&remote, problems));
    let anyone = remote
        .as_ref()
        .is_some_and(|remote| remote.address.is_none());
    let authentication = section
        .section("authentication", problems)
        .and_then(|section| authentication::read(&section, context, anyone, problems));
    let ike = match section.section("ike", problems) {
        Some(ike) => read_ike(&ike, problems),
        None => default_ike(),
    };
    let start = read_start(section, anyone, problems).unwrap_or(if anyone {
        Start::Wait
    } else {
        Start::AtOnce
    });
    let uniqueness = read_uniqueness(section, anyone, problems);
    let pool = section.value("pool", problems, |words| Ok(words.to_owned()));
    let request = local.as_ref().and_then(|local| local.request);
    check_request(request, anyone, problems);
    let six = local.as_ref().is_some_and(|local| local.address.is_ipv6());
    let outer = Outer { anyone, six };
    let (children, selectors) = read_children(section, start, outer, problems);
    let (local, remote) = (local?, remote?);
    let Local {
        address: local,
        identity: local_identity,
        ..
    } = local;
    let authentication = authentication?;
    check_eap(&authentication, remote.address.is_none(), section, problems);
    authentication::check_identities(
        &authentication,
        (&local_identity, &remote.identity),
        section,
        problems,
    );
    Some(Placed {
        name: key.place,
        remote_address: remote.place,
        pool: section.place("pool"),
        selectors,
        tunnel: Tunnel {
            name: key.name.clone(),
            local,
            local_identity,
            remote: remote.address,
            remote_port: remote.port,
            remote_identity: remote.identity,
            authentication,
            request: request.map(|(families, _)| families),
            pool,
            uniqueness,
            ike,
            children,
        },
    })
}

struct Local {
    address: IpAddr,
    identity: Identity,
    /// Of which families we ask for an address, and where that stands.
    request: Option<(Families, Place)>,
}

fn read_local(section: &Reader<'_>, problems: &mut Problems<'_>) -> Option<Local> {
    let families = section.word("request", problems).map(|word| match word {
        0 => Families::V4,
        1 => Families::V6,
        _ => Families::Both,
    });
    let address = section.value("address", problems, |words| {
        address(words).map_err(|mistake| match mistake.help {
            Some(_) => mistake,
            None => mistake.help("write it like `192.0.2.1` or `2001:db8::1`"),
        })
    });
    let named = section.value("identity", problems, |words| match identity::read(words)? {
        pattern if pattern.is_pattern() => {
            Err(Mistake::new("a pattern cannot be who we say we are")
                .help("write one identity; only the peer's may stand for several"))
        }
        identity => Ok(identity),
    });
    let address = address?;
    Some(Local {
        address,
        identity: named.unwrap_or(Identity::Address(address)),
        request: families.zip(section.place("request")),
    })
}

/// With EAP, clients call, and a gateway is called.
fn check_eap(
    authentication: &Authentication,
    anyone: bool,
    section: &Reader<'_>,
    problems: &mut Problems<'_>,
) {
    let (what, help) = match (authentication, anyone) {
        (Authentication::EapServer { .. }, false) => (
            "clients that prove by EAP who they are come from anywhere, and this peer has an address",
            "write `address: any` in `remote`",
        ),
        (Authentication::EapClient { .. }, true) => (
            "who proves by EAP who it is has to call, and this peer has no address",
            "write the gateway's address in `remote`",
        ),
        _ => return,
    };
    let place = section.place("remote").unwrap_or(section.here);
    problems.error(place, Mistake::new(what).help(help));
}

/// Only who calls can ask for an address.
fn check_request(request: Option<(Families, Place)>, anyone: bool, problems: &mut Problems<'_>) {
    if let (true, Some((_, place))) = (anyone, request) {
        let what = "a peer that comes from anywhere calls us, and who is called asks for nothing";
        let help = "leave it out, or write the peer's address";
        problems.error(place, Mistake::new(what).help(help));
    }
}

/// Reads how often an identity may be connected.
fn read_uniqueness(section: &Reader<'_>, anyone: bool, problems: &mut Problems<'_>) -> Uniqueness {
    let read = section.value("unique", problems, |words| match words {
        "never" => Ok(Uniqueness::Never),
        "keep" => Ok(Uniqueness::Keep),
        "replace" => Ok(Uniqueness::Limit(1)),
        words => {
            let limit = quantity::number(words, 1, u16::MAX.into());
            let limit = limit.ok().and_then(|limit| u16::try_from(limit).ok());
            limit.map(Uniqueness::Limit).ok_or_else(|| {
                Mistake::new(format!("`{words}` is no such policy"))
                    .help("write `replace`, `keep`, `never`, or a number from 1 to 65535")
            })
        }
    });
    if let (Some(_), Some(place), false) = (read, section.place("unique"), anyone) {
        let what = "`unique` is for peers that come from anywhere, and this one has an address";
        let help = "leave it out, or write `address: any` in `remote`";
        problems.error(place, Mistake::new(what).help(help));
    }
    read.unwrap_or_default()
}

struct Remote {
    /// `None` is anyone's.
    address: Option<IpAddr>,
    place: Place,
    port: u16,
    identity: Identity,
}

fn read_remote(section: &Reader<'_>, problems: &mut Problems<'_>) -> Option<Remote> {
    let place = section.item("address", problems)?.place;
    let address = section.value("address", problems, |words| match words {
        "any" | "%any" | "0.0.0.0" | "::" => Ok(None),
        words => address(words)
            .map(Some)
            .map_err(|mistake| match mistake.help {
                Some(_) => mistake,
                None => mistake.help("write its IP address, or `any`"),
            }),
    });
    let named = section.value("identity", problems, |words| match words {
        "any" | "%any" => Ok(Identity::Fqdn("*".to_owned())),
        words => identity::read(words),
    });
    let port = section
        .number("port", problems)
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(500);
    let address = address?;
    let identity = match (named, address) {
        (Some(identity), _) => identity,
        (None, Some(address)) => Identity::Address(address),
        (None, None) => {
            if section.place("identity").is_none() {
                let mistake = Mistake::new("a peer that comes from anywhere needs an identity");
                problems.error(
                    place,
                    mistake.help("add `identity: peer.example.org`, which it must prove to be"),
                );
            }
            return None;
        }
    };
    Some(Remote {
        address,
        place,
        port,
        identity,
    })
}

/// A gateway's address.
fn address(words: &str) -> Result<IpAddr, Mistake> {
    let address = selector::read_address(words)?;
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || is_broadcast || address.is_loopback() {
        return Err(
            Mistake::new(format!("{address} cannot be a gateway's address"))
                .help("write a unicast address of an outside interface"),
        );
    }
    Ok(address)
}

fn default_ike() -> Ike {
    Ike {
        proposals: IkeProposal::defaults(),
        lifetime: with_margin(IKE_REKEY),
        dpd_delay: Some(DPD_DELAY),
        fragment_size: FRAGMENT_SIZE,
        keep_trying: true,
    }
}

fn read_ike(section: &Reader<'_>, problems: &mut Problems<'_>) -> Ike {
    let proposals = section.values("proposals", problems, |words| Ok(words.parse()?));
    let dpd_delay = section.value("dpd-delay", problems, |words| match words {
        "off" | "no" | "false" | "0" => Ok(None),
        words => duration_within(words, &DPD_RANGE).map(Some),
    });
    Ike {
        proposals: proposals.map_or_else(IkeProposal::defaults, first_of_each),
        lifetime: read_lifetime(section, IKE_REKEY, problems),
        dpd_delay: dpd_delay.unwrap_or(Some(DPD_DELAY)),
        fragment_size: section
            .number("fragment-size", problems)
            .and_then(|size| u16::try_from(size).ok())
            .unwrap_or(FRAGMENT_SIZE),
        keep_trying: section.switch("keep-trying", problems).unwrap_or(true),
    }
}

/// The values without their places and without repetitions.
fn first_of_each<T: PartialEq>(values: Vec<(T, Place)>) -> Vec<T> {
    let mut kept = Vec::new();
    for (value, _) in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

fn read_start(section: &Reader<'_>, anyone: bool, problems: &mut Problems<'_>) -> Option<Start> {
    let start = if section.word("start", problems)? == 0 {
        Start::AtOnce
    } else {
        Start::Wait
    };
    if start == Start::AtOnce
        && anyone
        && let Some(place) = section.place("start")
    {
        let mistake = Mistake::new("nobody knows where to reach a peer whose address is `any`");
        problems.error(
            place,
            mistake.help("write `start: wait`, or the peer's address"),
        );
    }
    Some(start)
}

/// What of a tunnel's ends its children depend on.
#[derive(Clone, Copy)]
struct Outer {
    /// The peer may come from anywhere.
    anyone: bool,
    /// The addresses are of IPv6.
    six: bool,
}

fn read_children(
    section: &Reader<'_>,
    start: Start,
    outer: Outer,
    problems: &mut Problems<'_>,
) -> (Vec<Child>, Vec<Vec<Place>>) {
    let sections = section.named("children", problems);
    if sections.is_empty()
        && let Some(place) = section.place("children")
    {
        let help = "add a name, and below it `local:` and `remote:`, the prefixes of either side";
        problems.error(
            place,
            Mistake::new("a tunnel without children protects nothing").help(help),
        );
    }
    let read = sections
        .iter()
        .filter_map(|(key, child)| read_child(key, child, start, outer, problems));
    read.unzip()
}

fn read_child(
    key: &Key,
    section: &Reader<'_>,
    start: Start,
    outer: Outer,
    problems: &mut Problems<'_>,
) -> Option<(Child, Vec<Place>)> {
    let local = section.values("local", problems, selector::selector);
    let remote = section.values("remote", problems, selector::selector);
    let ah = section.word("protocol", problems) == Some(1);
    let child = Child {
        name: key.name.clone(),
        local: Vec::new(),
        remote: Vec::new(),
        proposals: read_proposals(section, ah, problems),
        mode: match section.word("mode", problems) {
            Some(1) => Mode::Transport,
            Some(2) => Mode::TransportIfPossible,
            _ => Mode::Tunnel,
        },
        tfc: read_tfc(section, ah, problems),
        lifetime: read_lifetime(section, CHILD_REKEY, problems),
        bytes: read_limit(
            section,
            ("rekey-bytes", "lifetime-bytes"),
            quantity::bytes,
            problems,
        ),
        packets: read_limit(
            section,
            ("rekey-packets", "lifetime-packets"),
            |words| quantity::number(words, 1, u64::MAX),
            problems,
        ),
        replay_window: number_or(section, "replay-window", REPLAY_WINDOW, problems),
        priority: number_or(section, "priority", PRIORITY, problems),
        dscp: section.value("dscp", problems, dscp::read).flatten(),
        df: match section.word("df", problems) {
            Some(1) => Df::Set,
            Some(2) => Df::Clear,
            _ => Df::Copy,
        },
        fragment: read_fragment(section, ah, problems),
        path_mtu: read_path_mtu(section, outer.six, problems),
        start: read_start(section, outer.anyone, problems).unwrap_or(start),
    };
    let (local, remote) = (first_of_each::<Selector>(local?), remote?);
    if local.is_empty() || remote.is_empty() {
        return None;
    }
    let (remote, places) = remote.into_iter().unzip();
    Some((
        Child {
            local,
            remote,
            ..child
        },
        places,
    ))
}

/// Reads when packets are fragmented, which only ESP's tunnel mode without padding can do once they are sealed.
fn read_fragment(section: &Reader<'_>, ah: bool, problems: &mut Problems<'_>) -> Fragment {
    if section.word("fragment", problems) != Some(1) {
        return Fragment::Before;
    }
    let transport = section.word("mode", problems).is_some_and(|mode| mode != 0);
    if (ah || transport || section.place("tfc").is_some())
        && let Some(place) = section.place("fragment")
    {
        let what =
            "only ESP in tunnel mode, without `tfc`, fragments packets after it has sealed them";
        let help = "leave `fragment` out, or take `protocol: esp` and `mode: tunnel` without `tfc`";
        problems.error(place, Mistake::new(what).help(help));
    }
    Fragment::After
}

/// Reads the path MTU, which no path of IPv6 has below 1280 (RFC 8200 5).
fn read_path_mtu(section: &Reader<'_>, six: bool, problems: &mut Problems<'_>) -> Option<u16> {
    let mtu = section.number("path-mtu", problems)?;
    if six
        && mtu < LEAST_MTU_V6
        && let Some(place) = section.place("path-mtu")
    {
        let what = format!("{mtu} is less than every path of IPv6 carries");
        let help = "write 1280 or more, or leave it out";
        problems.error(place, Mistake::new(what).help(help));
    }
    u16::try_from(mtu).ok()
}

fn number_or(section: &Reader<'_>, name: &str, otherwise: u32, problems: &mut Problems<'_>) -> u32 {
    section
        .number(name, problems)
        .and_then(|value| u32::try_from(value).ok())
        .unwrap_or(otherwise)
}

/// Reads what hides sizes and numbers, which only ESP's tunnel mode does.
///
/// RFC 4303 2.7: TFC padding needs "the (inner) packet's length", which a tunnelled packet's own header states.
fn read_tfc(section: &Reader<'_>, ah: bool, problems: &mut Problems<'_>) -> Tfc {
    let Some(tfc) = section.section("tfc", problems) else {
        return Tfc::default();
    };
    let transport = section.word("mode", problems).is_some_and(|mode| mode != 0);
    if (ah || transport)
        && let Some(place) = section.place("tfc")
    {
        let what = "only ESP in tunnel mode hides the size and the number of packets";
        let help = "leave `tfc` out, or take `protocol: esp` and `mode: tunnel`";
        problems.error(place, Mistake::new(what).help(help));
    }
    let number = |name, problems: &mut Problems<'_>| {
        let number = tfc.number(name, problems).unwrap_or(0);
        u16::try_from(number).unwrap_or(u16::MAX)
    };
    Tfc {
        size: tfc.value("size", problems, tfc_size),
        multiple: number("multiple", problems),
        dummies: number("dummies", problems),
    }
}

fn tfc_size(words: &str) -> Result<TfcSize, Mistake> {
    if words == "mtu" {
        return Ok(TfcSize::Mtu);
    }
    let bytes = quantity::number(words, 28, 65_000)
        .map_err(|mistake| mistake.help("write a number of bytes from 28 to 65000, or `mtu`"))?;
    Ok(TfcSize::Bytes(u16::try_from(bytes).unwrap_or(u16::MAX)))
}

fn read_proposals(
    section: &Reader<'_>,
    ah: bool,
    problems: &mut Problems<'_>,
) -> Vec<ChildProposal> {
    let esn = read_esn(section, problems);
    let (read, defaults): (fn(&str) -> _, fn() -> _) = if ah {
        (ChildWords::ah, ChildWords::default_ah)
    } else {
        (ChildWords::esp, ChildWords::default_esp)
    };
    let written = section.values("proposals", problems, |words| Ok(read(words)?));
    for (words, place) in written.iter().flatten() {
        if matches!(words.protection, Protection::Esp(esp) if !esp.encryption.hides()) {
            let what = "this proposal encrypts nothing: whoever is on the way can read all packets";
            let help = "leave it out, unless that is what the tunnel is for";
            problems.warning(*place, Mistake::new(what).help(help));
        }
    }
    let written = written.map_or_else(defaults, first_of_each);
    let written = written.into_iter();
    written.flat_map(|words| words.proposals(esn)).collect()
}

/// Extended sequence numbers, as they are offered by proposals that do not say.
fn read_esn(section: &Reader<'_>, problems: &mut Problems<'_>) -> &'static [bool] {
    match section.value("esn", problems, esn) {
        Some(Esn::Require) => &[true],
        Some(Esn::Off) => &[false],
        Some(Esn::Prefer) | None => &[true, false],
    }
}

enum Esn {
    Prefer,
    Require,
    Off,
}

/// A plain yes or no is understood too: who writes `on` wants them, who writes `off` does not.
fn esn(words: &str) -> Result<Esn, Mistake> {
    match words {
        "prefer" => Ok(Esn::Prefer),
        "require" => Ok(Esn::Require),
        other => match quantity::switch(other) {
            Ok(true) => Ok(Esn::Require),
            Ok(false) => Ok(Esn::Off),
            Err(_) => Err(Mistake::new(format!("`{words}` is not known for `esn`"))
                .help("write `prefer` (offer both), `require` or `off`")),
        },
    }
}

pub(crate) fn duration_within(
    words: &str,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, Mistake> {
    let duration = quantity::duration(words)?;
    if range.contains(&duration) {
        return Ok(duration);
    }
    let size = if duration < *range.start() {
        "short"
    } else {
        "long"
    };
    let (least, most) = (
        quantity::in_words(*range.start()),
        quantity::in_words(*range.end()),
    );
    Err(Mistake::new(format!("{words} is too {size}"))
        .help(format!("write a duration from {least} to {most}")))
}

fn with_margin(rekey: Duration) -> Lifetime<Duration> {
    let margin = (rekey / 10).max(Duration::from_secs(1));
    Lifetime {
        rekey,
        expire: rekey.saturating_add(margin),
    }
}

fn read_lifetime(
    section: &Reader<'_>,
    otherwise: Duration,
    problems: &mut Problems<'_>,
) -> Lifetime<Duration> {
    let rekey = section.value("rekey", problems, |words| {
        duration_within(words, &REKEY_RANGE)
    });
    let expire = section.value("lifetime", problems, |words| {
        duration_within(words, &REKEY_RANGE)
    });
    match (rekey, expire) {
        (None, None) => with_margin(otherwise),
        (Some(rekey), None) => with_margin(rekey),
        (None, Some(expire)) => Lifetime {
            rekey: otherwise.min(expire.mul_f64(0.9)),
            expire,
        },
        (Some(rekey), Some(expire)) => {
            if rekey >= expire {
                soft_above_hard(section, ("rekey", "lifetime"), problems);
            }
            Lifetime { rekey, expire }
        }
    }
}

fn read_limit(
    section: &Reader<'_>,
    (soft, hard): (&str, &str),
    read: impl Fn(&str) -> Result<u64, Mistake>,
    problems: &mut Problems<'_>,
) -> Option<Lifetime<u64>> {
    /// A rekey takes some round trips, in which more than this may pass.
    const LEAST: u64 = 1000;
    let enough = |words: &str| match read(words)? {
        amount if amount < LEAST => Err(Mistake::new(format!("{words} is too little"))
            .help("a rekey takes some round trips: write 1000 or more")),
        amount => Ok(amount),
    };
    let rekey = section.value(soft, problems, enough);
    let expire = section.value(hard, problems, enough);
    match (rekey, expire) {
        (None, None) => None,
        (Some(rekey), None) => Some(Lifetime {
            rekey,
            expire: rekey.saturating_add(rekey / 10),
        }),
        (None, Some(expire)) => Some(Lifetime {
            rekey: expire - expire / 10,
            expire,
        }),
        (Some(rekey), Some(expire)) => {
            if rekey >= expire {
                soft_above_hard(section, (soft, hard), problems);
            }
            Some(Lifetime { rekey, expire })
        }
    }
}

fn soft_above_hard(section: &Reader<'_>, (soft, hard): (&str, &str), problems: &mut Problems<'_>) {
    if let Some(item) = section.item(hard, problems) {
        let mistake = Mistake::new(format!(
            "`{hard}` is not above `{soft}`: the SA would end before it is rekeyed"
        ));
        problems.error(
            item.place,
            mistake.help(format!(
                "raise it, or leave it out: `{soft}` and a tenth is the default"
            )),
        );
    }
}
