//! Reports as text for a person. The same values go out as JSON with `--json`.

use std::collections::BTreeMap;

use crate::api::{
    Child, CounterRow, Explanation, Lease, Reloaded, Report, Sa, Severity, Status, Totals, Tunnel,
};

use super::table::{Align, Table};

/// A report as text.
#[must_use]
pub fn report(report: &Report) -> String {
    match report {
        Report::Status(report) => status(report),
        Report::Sas(list) => sas(list),
        Report::Leases(list) => leases(list),
        Report::Counters(list) => counters(list),
        Report::Done(what) => format!("{what}\n"),
        Report::Reloaded(changes) => reloaded(changes),
        Report::Capture(capture) => format!("capture {} has begun\n", capture.capture),
        Report::Packets(seen) => format!("{}\n", count(seen.packets.len() as u64, "packet")),
        Report::Explained(explanation) => explained(explanation),
    }
}

fn status(status: &Status) -> String {
    let own = &status.control_plane;
    let mut text = format!(
        "control plane  version {}, process {}, up {}, runs {}\nguard          {}\n",
        own.version,
        own.pid,
        duration(own.uptime_s),
        own.config,
        own.guard
    );
    text.push_str(&dataplane(status));
    text.push('\n');
    text.push_str(&tunnels(status));
    text
}

fn dataplane(status: &Status) -> String {
    let Some(plane) = &status.dataplane else {
        let trouble = status
            .dataplane_trouble
            .as_deref()
            .unwrap_or("it is not connected");
        return format!("dataplane      away: {trouble}\n");
    };
    let workers: Vec<String> = plane
        .workers
        .iter()
        .map(|worker| match worker.core {
            Some(core) => format!(
                "worker {} on core {core}: {}",
                worker.worker,
                count(worker.sas, "SA")
            ),
            None => format!("worker {}: {}", worker.worker, count(worker.sas, "SA")),
        })
        .collect();
    let mut text = format!(
        "dataplane      process {}, engine {}, {}\n",
        plane.pid,
        plane.engine,
        workers.join(", ")
    );
    let mut table = Table::new([
        ("port", Align::Left),
        ("role", Align::Left),
        ("link", Align::Left),
        ("xdp", Align::Left),
        ("buffers", Align::Left),
        ("queues", Align::Right),
        ("rx packets", Align::Right),
        ("tx packets", Align::Right),
    ]);
    for port in &plane.ports {
        table.row([
            port.interface.clone(),
            port.role.clone(),
            port.link.to_string(),
            port.mode.clone(),
            port.buffers.clone(),
            port.queues.to_string(),
            port.rx_packets.to_string(),
            port.tx_packets.to_string(),
        ]);
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render(0));
    }
    for port in &plane.ports {
        let trouble = port.link.trouble(&port.interface);
        text.extend(trouble.map(|trouble| trouble + "\n"));
    }
    text
}

fn tunnels(status: &Status) -> String {
    if status.tunnels.is_empty() {
        return "no tunnels are configured\n".to_owned();
    }
    let mut table = Table::new([
        ("tunnel", Align::Left),
        ("state", Align::Left),
        ("since", Align::Left),
        ("local", Align::Left),
        ("remote", Align::Left),
        ("child", Align::Left),
        ("selectors", Align::Left),
    ]);
    let mut troubles = String::new();
    for tunnel in &status.tunnels {
        if let Some(trouble) = &tunnel.trouble {
            troubles.push_str(&format!("{}: {trouble}\n", tunnel.name));
        }
        let state = match tunnel.instances {
            Some(0) => "nobody is connected".to_owned(),
            Some(instances) => format!("{instances} connected"),
            None => tunnel.state.clone(),
        };
        let remote = tunnel.remote.to_string();
        let mut head = [
            tunnel.name.clone(),
            state,
            tunnel.established_s.map(duration).unwrap_or_default(),
            tunnel.local.to_string(),
            match &tunnel.identity {
                Some(identity) => format!("{remote} {identity}"),
                None => remote,
            },
        ];
        let mut row = |child: String, selectors: String| {
            let [name, state, since, local, remote] = std::mem::take(&mut head);
            table.row([name, state, since, local, remote, child, selectors]);
        };
        if tunnel.children.is_empty() {
            row(String::new(), String::new());
        }
        for child in &tunnel.children {
            let state = match (child.up, tunnel.instances) {
                (true, _) => " up",
                (false, None) => " down",
                (false, Some(_)) => "",
            };
            row(
                format!("{}{state}", child.name),
                format!("{} <-> {}", child.local.join(","), child.remote.join(",")),
            );
        }
    }
    let mut text = table.render(0);
    let carried: String = status.tunnels.iter().map(totals).collect();
    if !carried.is_empty() {
        text.push('\n');
        text.push_str(&carried);
    }
    if !troubles.is_empty() {
        text.push('\n');
        text.push_str(&troubles);
    }
    text
}

/// A line for each child that has seen packets.
fn totals(tunnel: &Tunnel) -> String {
    let seen = |child: &&Child| child.totals != Totals::default();
    let lines = tunnel.children.iter().filter(seen).map(|child| {
        let name = format!("{}/{}", tunnel.name, child.name);
        let Totals {
            in_packets,
            in_bytes,
            out_packets,
            out_bytes,
            drops,
        } = &child.totals;
        let (came, left) = (count(*in_packets, "packet"), count(*out_packets, "packet"));
        let dropped = dropped(drops);
        format!("{name}: {came} in ({in_bytes} bytes), {left} out ({out_bytes} bytes){dropped}\n")
    });
    lines.collect()
}

/// Drops by reason, the most first.
fn dropped(drops: &BTreeMap<String, u64>) -> String {
    let mut drops: Vec<(&String, &u64)> = drops.iter().collect();
    drops.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
    let list: Vec<String> = drops
        .iter()
        .map(|(reason, packets)| format!("{packets} {reason}"))
        .collect();
    if list.is_empty() {
        return String::new();
    }
    format!("; dropped: {}", list.join(", "))
}

fn leases(list: &[Lease]) -> String {
    if list.is_empty() {
        return "nobody has an address of a pool\n".to_owned();
    }
    let mut table = Table::new([
        ("pool", Align::Left),
        ("address", Align::Left),
        ("identity", Align::Left),
        ("connected as", Align::Left),
    ]);
    for lease in list {
        let kept = lease
            .kept_s
            .map(|left| format!("kept for {} more", duration(left)));
        table.row([
            lease.pool.clone(),
            lease.address.to_string(),
            lease.identity.clone(),
            lease.client.clone().or(kept).unwrap_or_default(),
        ]);
    }
    table.render(0)
}

fn sas(list: &[Sa]) -> String {
    if list.is_empty() {
        return "no SAs are installed\n".to_owned();
    }
    let mut table = Table::new([
        ("child", Align::Left),
        ("", Align::Left),
        ("spi", Align::Left),
        ("state", Align::Left),
        ("local", Align::Left),
        ("remote", Align::Left),
        ("mode", Align::Left),
        ("algorithm", Align::Left),
        ("worker", Align::Right),
        ("packets", Align::Right),
        ("bytes", Align::Right),
        ("sequence", Align::Right),
        ("replayed", Align::Right),
        ("forged", Align::Right),
        ("path mtu", Align::Right),
        ("idle", Align::Right),
    ]);
    for sa in list {
        table.row([
            sa.label.clone(),
            sa.direction.clone(),
            sa.spi.clone(),
            if sa.selected {
                format!("{}, in use", sa.state)
            } else {
                sa.state.clone()
            },
            sa.local.clone(),
            sa.remote.clone(),
            format!("{} {}", sa.protocol, sa.mode),
            sa.algorithm.clone(),
            sa.worker.to_string(),
            sa.packets.to_string(),
            sa.bytes.to_string(),
            sa.sequence.to_string(),
            sa.replay_drops.to_string(),
            sa.auth_failures.to_string(),
            sa.path_mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
            sa.idle_ms
                .map_or_else(|| "never used".to_owned(), milliseconds),
        ]);
    }
    let mut text = table.render(0);
    for sa in list.iter().filter(|sa| !sa.drops.is_empty()) {
        let dropped = dropped(&sa.drops);
        text.push_str(&format!(
            "{} {} {}{dropped}\n",
            sa.label, sa.direction, sa.spi
        ));
    }
    text
}

/// Counters by severity, the gravest first.
fn counters(list: &[CounterRow]) -> String {
    let mut text = String::new();
    for (severity, heading) in [
        (Severity::Error, "errors"),
        (Severity::Warning, "warnings"),
        (Severity::Notice, "notices"),
        (Severity::Info, "traffic"),
    ] {
        let mut table = Table::new([
            ("value", Align::Right),
            ("unit", Align::Left),
            ("counter", Align::Left),
            ("where", Align::Left),
            ("meaning", Align::Left),
        ]);
        for row in list.iter().filter(|row| row.severity == severity) {
            table.row([
                row.value.to_string(),
                row.unit.clone(),
                row.name.clone(),
                row.plane.clone(),
                row.meaning.clone(),
            ]);
        }
        if !table.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("{heading}\n{}", table.render(2)));
        }
    }
    if text.is_empty() {
        text.push_str("every counter is at zero\n");
    }
    text
}

fn reloaded(changes: &Reloaded) -> String {
    let mut text = format!("{changes}\n");
    for what in &changes.needs_restart {
        text.push_str(&format!("needs a restart of the dataplane: {what}\n"));
    }
    text
}

fn explained(explanation: &Explanation) -> String {
    let mut text = format!("{}: {}\n", explanation.target, explanation.verdict);
    for finding in &explanation.findings {
        let child = finding.child.as_ref();
        let child = child.map(|child| format!("{child}: ")).unwrap_or_default();
        let ago = finding
            .ago_s
            .map(|seconds| format!(" ({} ago)", duration(seconds)));
        let ago = ago.unwrap_or_default();
        text.push_str(&format!("\n- {child}{}{ago}\n", finding.what));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("  what to do: {remedy}\n"));
        }
    }
    text
}

fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Seconds in the two units that a person would use.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    if days > 0 {
        format!("{days} d {hours} h")
    } else if hours > 0 {
        format!("{hours} h {minutes} min")
    } else if minutes > 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

fn milliseconds(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        duration(ms / 1000)
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
