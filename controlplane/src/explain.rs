//! Why a tunnel is not up, or up and carrying nothing: what is known of it, turned into findings with what to change.
//! Pure, so that each cause has a test.

use std::{net::IpAddr, time::Instant};

use esplanade_config::{Start, Tunnel};
use esplanade_ike::{IkeSaView, config::TrafficSelector};

use crate::{
    api::{CounterRow, Explanation, Finding, Guard, Link, Sa, Severity, Verdict},
    daemon::Told,
};

mod refusal;

/// The lost packets' counters that are worth telling.
const MAX_LOSSES: usize = 5;
/// An inbound SA that was silent for so long, while its outbound half is in use, hears nothing.
const SILENCE_MS: u64 = 10_000;
/// One in so many packets that came in may be a repeated one.
const FEW: u64 = 100;

/// What is known of a tunnel.
pub(crate) struct Facts<'f> {
    pub(crate) tunnel: &'f Tunnel,
    pub(crate) now: Instant,
    /// Why there is no dataplane.
    pub(crate) dataplane_away: Option<String>,
    /// The IKE SA that stands, or else the one that is on its way.
    pub(crate) ike: Option<IkeSaView>,
    pub(crate) children: Vec<Child<'f>>,
    /// The last refusal of the tunnel.
    pub(crate) refusal: Option<&'f Told>,
    /// The last one of somebody unknown at the peer's address.
    pub(crate) stranger: Option<(IpAddr, &'f Told)>,
    /// What else went wrong last.
    pub(crate) trouble: Option<&'f str>,
    /// The interfaces of the ports.
    pub(crate) ports: Vec<(String, Link)>,
    pub(crate) route: Route,
    pub(crate) guard: Guard,
    /// The dataplane's counters.
    pub(crate) counters: Vec<CounterRow>,
}

/// What is known of one child.
pub(crate) struct Child<'f> {
    pub(crate) config: &'f esplanade_config::Child,
    /// The operator has taken it down.
    pub(crate) taken_down: bool,
    /// Its SAs in the dataplane.
    pub(crate) sas: Vec<Sa>,
    /// What its peer agreed to where that is less than what is configured.
    pub(crate) narrowed: Option<(Vec<TrafficSelector>, Vec<TrafficSelector>)>,
}

/// The kernel's route to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// It leads out by a port, or nobody knows where the peer is.
    Fine,
    /// There is none.
    Missing(IpAddr),
    /// It leads to an interface that is no port.
    Elsewhere(IpAddr, String),
}

impl Child<'_> {
    fn is_up(&self) -> bool {
        self.sas.iter().any(|sa| sa.direction == "in")
    }

    /// Packets and milliseconds since the last, of one direction.
    fn traffic(&self, direction: &str) -> (u64, Option<u64>) {
        let sas = self.sas.iter().filter(|sa| sa.direction == direction);
        let packets = sas.clone().map(|sa| sa.packets).sum();
        (packets, sas.filter_map(|sa| sa.idle_ms).min())
    }

    fn is_in_udp(&self) -> bool {
        let mut sas = self.sas.iter();
        sas.any(|sa| sa.direction == "out" && sa.remote.parse::<std::net::SocketAddr>().is_ok())
    }
}

/// What is to be told of a tunnel, or of the one child that was asked about.
pub(crate) fn explain(facts: &Facts<'_>, target: String) -> Explanation {
    let up = facts.children.iter().filter(|child| child.is_up()).count();
    let all = up == facts.children.len();
    let mut findings = Vec::new();
    findings.extend(dataplane(facts));
    if !all {
        findings.extend(absent(facts));
    }
    let traffic: Vec<Finding> = facts
        .children
        .iter()
        .filter(|child| child.is_up())
        .flat_map(traffic)
        .collect();
    let silent = traffic
        .iter()
        .any(|finding| SILENT.contains(&&*finding.code));
    findings.extend(traffic);
    if !all || silent {
        findings.extend(path(facts));
        findings.extend(losses(facts));
    }
    findings.extend(guard(facts));
    Explanation {
        target,
        verdict: match up {
            0 => Verdict::Down,
            _ if !all => Verdict::Partly,
            _ if silent => Verdict::Silent,
            _ => Verdict::Carries,
        },
        findings,
    }
}

fn finding(code: &str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding {
        code: code.to_owned(),
        child: None,
        what: what.into(),
        remedy: Some(remedy.into()),
        ago_s: None,
    }
}

fn dataplane(facts: &Facts<'_>) -> Option<Finding> {
    let why = facts.dataplane_away.as_ref()?;
    Some(finding(
        "dataplane-away",
        format!(
            "there is no dataplane to carry traffic, and no tunnel is negotiated without one: {why}"
        ),
        "start `esplanade-dataplane`, or see in its log why it ended",
    ))
}

/// Why something is not up, the likeliest cause first.
fn absent(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for child in facts.children.iter().filter(|child| child.taken_down) {
        let name = &child.config.name;
        let target = format!("{}/{name}", facts.tunnel.name);
        found.push(Finding {
            child: Some(name.clone()),
            ..finding(
                "taken-down",
                "it was taken down by `esplanade terminate`, and stays so",
                format!("`esplanade initiate {target}`"),
            )
        });
    }
    found.extend(facts.refusal.map(|told| refused(facts, told, "")));
    if let Some((address, told)) = facts.stranger {
        found.push(refused(
            facts,
            told,
            &format!("somebody at {address} was refused: "),
        ));
    }
    found.extend(unanswered(facts));
    if found.is_empty()
        && let Some(trouble) = facts.trouble
    {
        found.push(finding(
            "trouble",
            trouble,
            "see the log of the control plane, and that of the peer",
        ));
    }
    if found.is_empty() && facts.dataplane_away.is_none() {
        found.push(waits(facts));
    }
    found
}

fn refused(facts: &Facts<'_>, told: &Told, prefix: &str) -> Finding {
    let seconds = facts.now.saturating_duration_since(told.at).as_secs();
    let refusal = &told.refusal;
    let code = refusal::code(refusal);
    Finding {
        code: code.to_owned(),
        child: None,
        what: format!("{prefix}{refusal}"),
        remedy: match code {
            "no-answer" => Some(reach(facts)),
            _ => refusal::remedy(refusal),
        },
        ago_s: Some(seconds),
    }
}

/// A request that is sent again and again.
fn unanswered(facts: &Facts<'_>) -> Option<Finding> {
    let ike = facts.ike.as_ref()?;
    let outstanding = ike
        .outstanding
        .filter(|request| request.transmissions > 1)?;
    let seconds = facts.now.saturating_duration_since(outstanding.since);
    let what = format!(
        "{} has not answered {} transmissions of a request in {} s",
        ike.path.remote,
        outstanding.transmissions,
        seconds.as_secs()
    );
    Some(finding("no-answer", what, reach(facts)))
}

fn reach(facts: &Facts<'_>) -> String {
    let address = match &facts.ike {
        Some(ike) => ike.path.remote.ip().to_string(),
        None => {
            let address = facts.tunnel.remote;
            address.map_or_else(|| "the peer".to_owned(), |address| address.to_string())
        }
    };
    format!(
        "look whether {address} is the peer's address and can be reached, whether it runs, and whether UDP 500 and 4500 pass both ways"
    )
}

/// Nothing has failed; nobody has begun.
fn waits(facts: &Facts<'_>) -> Finding {
    let tunnel = facts.tunnel;
    let connecting = facts
        .ike
        .as_ref()
        .is_some_and(|ike| ike.established.is_none());
    if tunnel.remote.is_none() {
        let what = format!(
            "the peer's address is `any`: it has to call, and nobody has called who proves to be `{}`",
            tunnel.remote_identity
        );
        let remedy = format!("have the peer call {}", tunnel.local);
        return finding("waits", what, remedy);
    }
    if connecting {
        return finding(
            "connecting",
            "it is being negotiated",
            "ask again in some seconds",
        );
    }
    let absent = facts.children.iter().filter(|child| !child.is_up());
    let begins = absent
        .clone()
        .any(|child| child.config.start == Start::AtOnce);
    if begins {
        return finding(
            "retries",
            "it is ours to begin, and will be tried again",
            format!(
                "ask again in some seconds, or `esplanade initiate {}`",
                tunnel.name
            ),
        );
    }
    finding(
        "waits",
        "nobody has begun: `start: wait` leaves it to the peer, to traffic or to the operator",
        format!(
            "`esplanade initiate {}`, or write `start: at-once`",
            tunnel.name
        ),
    )
}

/// The codes of [`traffic`] that say that packets do not go, or do not come.
const SILENT: [&str; 4] = ["no-traffic", "nothing-comes", "nothing-goes", "forged"];

/// What a child that is up carries.
fn traffic(child: &Child<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let list = |list: &[esplanade_config::Selector]| -> String {
        let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    let (local, remote) = (list(&child.config.local), list(&child.config.remote));
    let ((sent, sent_idle), (received, received_idle)) =
        (child.traffic("out"), child.traffic("in"));
    let is_deaf = sent_idle.is_some_and(|idle| idle < SILENCE_MS)
        && received_idle.is_none_or(|idle| idle >= SILENCE_MS);
    let passes = if child.is_in_udp() {
        "UDP 4500"
    } else {
        "ESP and AH (IP protocols 50 and 51)"
    };
    if sent == 0 && received == 0 {
        found.push(finding(
            "no-traffic",
            "no packet has gone or come",
            format!(
                "send one from {local} to {remote}: hosts need a route to {remote} by this gateway, and their packets have to come in by an inside port"
            ),
        ));
    } else if received == 0 || is_deaf {
        let what = match received {
            0 => format!("{sent} packets have gone, and none has come"),
            _ => format!(
                "packets go, and none has come for {} s",
                received_idle.unwrap_or_default() / 1000
            ),
        };
        found.push(finding(
            "nothing-comes",
            what,
            format!(
                "look whether {passes} passes both ways between the gateways, whether the peer counts what it drops, and whether the hosts in {remote} answer and have a route to {local} by their gateway"
            ),
        ));
    } else if sent == 0 {
        found.push(finding(
            "nothing-goes",
            format!("{received} packets have come, and none has gone"),
            format!(
                "look whether the hosts in {local} answer, and whether their route to {remote} leads to this gateway and to an inside port"
            ),
        ));
    }
    let forged: u64 = child.sas.iter().map(|sa| sa.auth_failures).sum();
    if forged > 0 {
        found.push(finding(
            "forged",
            format!("{forged} packets were dropped since they are not authentic"),
            "something on the way changes packets, or somebody forges them; if none is authentic, `esplanade rekey` makes keys anew",
        ));
    }
    let replays: u64 = child.sas.iter().map(|sa| sa.replay_drops).sum();
    if replays > received / FEW {
        found.push(finding(
            "replays",
            format!("{replays} packets were dropped as repeated or too late"),
            "where the path reorders packets, a larger `replay-window` helps; otherwise somebody repeats them",
        ));
    }
    if let Some((ours, theirs)) = &child.narrowed {
        let list = |list: &[TrafficSelector]| -> String {
            let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        found.push(finding(
            "narrowed",
            format!(
                "the peer agreed to {} here and {} there only; what goes beyond is dropped",
                list(ours),
                list(theirs)
            ),
            "widen the selectors at the peer, or write these here",
        ));
    }
    for finding in &mut found {
        finding.child = Some(child.config.name.clone());
    }
    found
}

/// Interfaces and routes.
fn path(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = facts
        .ports
        .iter()
        .filter_map(|(interface, link)| {
            let trouble = link.trouble(interface)?;
            Some(Finding {
                remedy: None,
                ..finding("port-down", trouble, "")
            })
        })
        .collect();
    match &facts.route {
        Route::Fine => {}
        Route::Missing(address) => found.push(finding(
            "no-route",
            format!("the kernel has no route to {address}"),
            format!("`ip route get {address}` must name an outside port: add the route"),
        )),
        Route::Elsewhere(address, interface) => found.push(finding(
            "other-route",
            format!("the kernel's route to {address} leads to {interface}, which is no port of the dataplane"),
            format!("lead it to an outside port, or make {interface} one in `ports`"),
        )),
    }
    found
}

/// What the dataplane dropped, of this tunnel's and of others' packets.
fn losses(facts: &Facts<'_>) -> Vec<Finding> {
    let mut moved: Vec<&CounterRow> = facts
        .counters
        .iter()
        .filter(|row| row.value > 0 && matches!(row.severity, Severity::Error | Severity::Warning))
        .collect();
    moved.sort_by_key(|row| (row.severity, std::cmp::Reverse(row.value)));
    let told = moved.into_iter().take(MAX_LOSSES);
    told.map(|row| Finding {
        remedy: None,
        ..finding(
            "dropped",
            format!(
                "over all tunnels, {} is at {}: {}",
                row.name, row.value, row.meaning
            ),
            "",
        )
    })
    .collect()
}

fn guard(facts: &Facts<'_>) -> Option<Finding> {
    let guard = &facts.guard;
    let is_whole = !guard.on || (guard.missing.is_empty() && guard.trouble.is_none());
    (!is_whole).then(|| {
        finding(
            "guard",
            format!("the kernel's guard is {guard}"),
            "the control plane puts it back within 15 s; if it does not last, find who removes rules and routes",
        )
    })
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
