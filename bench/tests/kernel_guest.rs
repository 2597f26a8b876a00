//! Our gateway and the IPsec of a Linux kernel, with strongSwan to negotiate: every algorithm, mode, family and
//! encapsulation that both know.

mod common;
#[path = "common/guest_sa.rs"]
mod guest_sa;
#[path = "common/plan.rs"]
mod plan;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};

use common::{UP, bed, eventually, number, ready, tell};
use esplanade_bench::gateway::{Gateway, write_config};
use esplanade_bench::peer::guest::Guest;
use esplanade_bench::testbed::{HOST, HOST_A, INSIDE, Namespace, OUTSIDE, Testbed};
use esplanade_bench::traffic::echo::exchange;
use esplanade_bench::traffic::stream::Stream;
use esplanade_bench::traffic::transfer::{noise, transfer};
use esplanade_controlplane::api::{Sa, Severity};
use plan::{Child, SECRET, SUITES, Tunnel, between, outer, tunnel};

const HOST_A_V6: &str = "2001:db8:1::2";
/// Where the guest sends back what it gets.
const ECHO: u16 = 7;

fn ready_for_a_guest() -> bool {
    match Guest::unavailable() {
        _ if !ready() => false,
        None => true,
        Some(reason) => {
            println!("SKIPPED: {reason}");
            false
        }
    }
}

fn plan() -> Vec<Tunnel> {
    let few = &SUITES[..6];
    let udp = |tunnel: Tunnel| Tunnel {
        encapsulated: true,
        ..tunnel
    };
    let mut tunnels = vec![
        tunnel(2, false, &SUITES),
        tunnel(3, true, &SUITES),
        udp(tunnel(4, false, few)),
        udp(tunnel(5, true, few)),
    ];
    for tunnel in &mut tunnels[..2] {
        // This one's packets are cut once they are sealed, as the kernel's are.
        let lines = ["df: clear", "fragment: after"];
        tunnel.children[1].lines.0 = lines.map(str::to_owned).to_vec();
    }
    // Of every kind of algorithm one, by families in turns, in UDP and not.
    for (number, index) in (100..).zip([0, 2, 3, 5, 12, 14]) {
        for (number, six) in [(number, false), (number + 50, true)] {
            tunnels.push(between(number, six, SUITES[index]));
        }
    }
    tunnels.push(udp(between(200, false, SUITES[0])));
    tunnels.push(udp(between(201, true, SUITES[3])));
    tunnels
}

/// IPv6 beside IPv4, and on host B addresses in each child's networks.
fn with_networks(bed: &Testbed, tunnels: &[Tunnel]) {
    number(&bed.host_a, HOST, &format!("{HOST_A_V6}/64"));
    number(&bed.gateway_a, INSIDE, "2001:db8:1::1/64");
    number(&bed.gateway_a, OUTSIDE, "2001:db8:ff::1/64");
    number(&bed.host_b, HOST, "2001:db8:2::2/64");
    let routes = [
        (&bed.host_a, "route add default via 2001:db8:1::1\n"),
        (
            &bed.gateway_a,
            "route add 2001:db8:2::/64 via 2001:db8:ff::2\n",
        ),
        (&bed.host_b, "route add default via 2001:db8:2::1\n"),
    ];
    for (namespace, route) in routes {
        namespace.ip(route).expect("a route");
    }
    let forwarding = bed.gateway_a.sysctl("net.ipv6.conf.all.forwarding", "1");
    forwarding.expect("forwarding");
    // What the hosts send may be fragmented on its way.
    learn_sizes(bed, false);
    let children = tunnels.iter().flat_map(|tunnel| &tunnel.children);
    for host in children.flat_map(|child| &child.hosts) {
        let line = match host {
            IpAddr::V4(host) => format!("addr add {host}/16 dev {HOST}\n"),
            IpAddr::V6(host) => format!("addr add {host}/64 dev {HOST} nodad\n"),
        };
        bed.host_b.ip(&line).expect("an address");
    }
}

/// Whether the hosts learn what size a path takes.
fn learn_sizes(bed: &Testbed, learn: bool) {
    let value = if learn { "0" } else { "1" };
    for host in [&bed.host_a, &bed.host_b] {
        let set = host.sysctl("net.ipv4.ip_no_pmtu_disc", value);
        set.expect("a setting");
    }
}

/// A guest with its addresses, and strongSwan in it.
fn guest<'b>(bed: &'b Testbed, tunnels: &[Tunnel]) -> Guest<'b> {
    let guest = Guest::boot(&bed.gateway_b, bed.log_dir()).expect("a guest");
    let mut script = format!(
        "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip addr add 10.2.0.1/16 dev {INSIDE}
ip addr add 2001:db8:2::1/64 dev {INSIDE} nodad
"
    );
    let mut outers: BTreeSet<IpAddr> = tunnels.iter().map(|tunnel| tunnel.outer.1).collect();
    outers.extend([outer(false, 2), outer(true, 2)]);
    for address in outers {
        script.push_str(&match address {
            IpAddr::V4(_) => format!("ip addr add {address}/24 dev {OUTSIDE}\n"),
            IpAddr::V6(_) => format!("ip addr add {address}/64 dev {OUTSIDE} nodad\n"),
        });
    }
    script.push_str(&format!(
        "ip route add 10.1.0.0/16 via {}\nip route add 2001:db8:1::/64 via {}\n",
        outer(false, 1),
        outer(true, 1)
    ));
    script.push_str(&format!("nc -ll -p {ECHO} -e /bin/cat >/dev/null 2>&1 &\n"));
    guest.run(&script).expect("addresses");
    guest.start_charon(&plan::swanctl(tunnels)).expect("charon");
    guest
}

/// Every link address is known before anything is counted.
fn warm_up(bed: &Testbed, guest: &Guest<'_>) {
    for address in ["10.1.0.1", "2001:db8:1::1"] {
        let address: IpAddr = address.parse().expect("an address");
        assert_eq!(bed.host_a.ping(address, 1).expect("ping"), 1, "{address}");
    }
    for address in ["10.2.0.1", "2001:db8:2::1"] {
        let address: IpAddr = address.parse().expect("an address");
        assert_eq!(bed.host_b.ping(address, 1).expect("ping"), 1, "{address}");
    }
    for six in [false, true] {
        let ping = format!("ping -n -c 1 -W 2 {}", outer(six, 1));
        guest.run(&ping).expect("a way to our gateway");
    }
}

/// Each tunnel comes up, by whose it is to start.
fn initiate(gateway: &Gateway<'_>, guest: &Guest<'_>, tunnels: &[Tunnel]) {
    let mut script = String::new();
    for tunnel in tunnels {
        if tunnel.ours_to_start {
            tell(gateway, &["initiate", &tunnel.name]);
            continue;
        }
        for child in &tunnel.children {
            script.push_str(&format!(
                "swanctl --initiate --child {} --timeout 10 --uri unix:///run/charon.vici >/tmp/said || cat /tmp/said\n",
                child.name
            ));
        }
    }
    let said = guest.run(&script).expect("swanctl");
    if let Err(error) = gateway.wait_until_up(UP) {
        panic!("{error:#}\nthe guest said: {said}\n{}", guest.charon_log());
    }
}

/// Datagrams of every length up to five blocks of a cipher and some about the size of the link, both ways, and a stream each way.
fn carries(bed: &Testbed, child: &Child) {
    for far in &child.hosts {
        let (near, longest) = match far {
            IpAddr::V4(_) => (HOST_A.into(), 2800),
            IpAddr::V6(_) => (HOST_A_V6.parse().expect("an address"), 1200),
        };
        let lengths = (0..=80).chain((200..=longest).step_by(131)).collect();
        let exchanged = exchange((&bed.host_a, near), (&bed.host_b, *far), &lengths);
        exchanged.unwrap_or_else(|error| panic!("{child:#?}: {error:#}"));
        let bytes = noise(100_000, 7);
        for (from, to) in [
            (&bed.host_a, (&bed.host_b, *far)),
            (&bed.host_b, (&bed.host_a, near)),
        ] {
            let delivery = transfer(from, to, &bytes);
            let delivery = delivery.unwrap_or_else(|error| panic!("{child:#?}: {error:#}"));
            assert!(delivery.bytes == bytes, "{child:#?}");
        }
    }
}

/// Packets of the two ends themselves, also of more than the link carries, and a stream there and back.
fn carries_between(bed: &Testbed, gateway: &Gateway<'_>, guest: &Guest<'_>, tunnel: &Tunnel) {
    let what = || {
        let losses = gateway.losses().expect("counters");
        format!("{tunnel:#?}\n{losses:#?}\n{:?}", guest.errors())
    };
    let (ours, theirs) = tunnel.outer;
    for length in ["0", "61", "1500"] {
        let line = [
            "ping", "-n", "-q", "-c", "3", "-i", "0.02", "-w", "4", "-s", length,
        ];
        let address = theirs.to_string();
        let there: Vec<&str> = line.into_iter().chain([address.as_str()]).collect();
        let said = bed.gateway_a.run(&there).expect("ping").stdout;
        assert!(said.contains(" 3 received"), "{length}: {}\n{said}", what());
        let back = format!("{} -I {theirs} {ours} || true", line.join(" "));
        let said = guest.run(&back).expect("ping");
        assert!(said.contains(" 3 received"), "{length}: {}\n{said}", what());
    }
    let bytes = noise(60_000, 9);
    let connect = || Ok(TcpStream::connect_timeout(&(theirs, ECHO).into(), UP)?);
    let mut stream = bed.gateway_a.enter(connect).expect("a connection");
    stream.set_read_timeout(Some(UP)).expect("a limit");
    stream.write_all(&bytes).expect("a stream");
    stream.shutdown(Shutdown::Write).expect("its end");
    let mut came_back = Vec::new();
    let read = stream.read_to_end(&mut came_back);
    read.unwrap_or_else(|error| panic!("{error}: {}", what()));
    assert!(came_back == bytes, "{}", what());
}

/// Both ends tell hosts the same of the size that a tunnel takes, and take it.
fn sizes_agree(bed: &Testbed, child: &Child) {
    let far = child.hosts[0].to_string();
    let near = HOST_A.to_string();
    let told = |host: &Namespace, from: &str, to: &str, length: u16| {
        let flush = host.run(&["ip", "route", "flush", "cache"]);
        flush.and_then(|said| said.ok()).expect("a fresh start");
        let length = length.to_string();
        let ping = [
            "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", &length,
        ];
        let ends = ["-I", from, to];
        let line: Vec<&str> = ping.into_iter().chain(ends).collect();
        host.run(&line).expect("ping").stdout
    };
    let mut found = Vec::new();
    for (host, from, to) in [(&bed.host_a, &near, &far), (&bed.host_b, &far, &near)] {
        let said = told(host, from, to, 1472);
        let mtu = said
            .split("(mtu = ")
            .nth(1)
            .and_then(|rest| rest.split(')').next());
        let mtu = mtu
            .and_then(|mtu| mtu.parse::<u16>().ok())
            .filter(|mtu| *mtu > 1000);
        let mtu = mtu.unwrap_or_else(|| panic!("{child:#?}\n{said}"));
        let said = told(host, from, to, mtu - 28);
        assert!(said.contains(" 1 received"), "{child:#?}\n{said}");
        found.push(mtu);
    }
    assert_eq!(found[0], found[1], "{child:#?}");
}

/// Nothing is lost while each end makes new SAs for a child.
fn is_rekeyed_without_loss(bed: &Testbed, gateway: &Gateway<'_>, guest: &Guest<'_>, child: &Child) {
    let IpAddr::V4(far) = child.hosts[0] else {
        panic!("{child:#?}");
    };
    let spis = || {
        let sas = gateway.sas().expect("sas");
        let of_child = sas.iter().filter(|sa| sa.label.ends_with(&child.name));
        let selected = of_child.filter(|sa| sa.selected).map(|sa| sa.spi.clone());
        selected.collect::<Vec<_>>()
    };
    let there = Stream::start(&bed.host_a, (&bed.host_b, far), 400, 500).expect("a stream");
    let back = Stream::start(&bed.host_b, (&bed.host_a, HOST_A), 400, 500).expect("a stream");
    let tunnel_and_child = |sa: &Sa| sa.label.ends_with(&child.name).then(|| sa.label.clone());
    let sas = gateway.sas().expect("sas");
    let label = sas.iter().find_map(tunnel_and_child).expect("a label");
    for ours in [true, false] {
        let before = spis();
        if ours {
            tell(gateway, &["rekey", "--child", &label]);
        } else {
            let rekey = format!("--rekey --child {}", child.name);
            guest.swanctl(&rekey).expect("a rekey");
        }
        eventually("another outbound SA", || {
            let now = spis();
            now.len() == 1 && now != before
        });
    }
    for stream in [there, back] {
        let outcome = stream.stop().expect("an outcome");
        let bad = (outcome.lost(), outcome.repeated, outcome.reordered);
        assert!(
            bad == (0, 0, 0) && outcome.sent > 100,
            "{child:#?}\n{outcome:?}"
        );
    }
}

/// The kernel's sequence numbers pass 2^32, of which the upper half is not sent (RFC 4303 2.2.1).
fn passes_four_billion(bed: &Testbed, gateway: &Gateway<'_>, guest: &Guest<'_>, child: &Child) {
    let inbound = || {
        let sas = gateway.sas().expect("sas");
        let mut of_child = sas.into_iter().filter(|sa| sa.label.ends_with(&child.name));
        of_child.find(|sa| sa.direction == "in").expect("an SA")
    };
    let spi = inbound().spi;
    for last in [0x7fff_0000, u32::MAX - 3] {
        guest_sa::has_sent(guest, &spi, last);
        let answered = bed.host_a.ping(child.hosts[0], 8).expect("ping");
        assert_eq!(answered, 8, "{last}: {child:#?}");
    }
    let sa = inbound();
    assert!(sa.esn && sa.sequence > 1 << 32, "{sa:#?}");
}

/// Neither end has anything to complain about.
fn no_errors(gateway: &Gateway<'_>, guest: &Guest<'_>) {
    let mut losses = gateway.losses().expect("counters");
    losses.retain(|row| row.severity < Severity::Notice);
    assert_eq!(losses, []);
    assert_eq!(guest.errors().expect("xfrm_stat"), [""; 0]);
}

/// Both ends have the SAs that were asked for, have used each, and neither has anything to complain about.
fn nothing_is_wrong(gateway: &Gateway<'_>, guest: &Guest<'_>, tunnels: &[Tunnel]) {
    no_errors(gateway, guest);
    let sas = gateway.sas().expect("sas");
    let states = guest.states().expect("states");
    let mut expected = 0;
    for tunnel in tunnels {
        for child in &tunnel.children {
            let label = format!("{}/{}", tunnel.name, child.name);
            let pair: Vec<&Sa> = sas.iter().filter(|sa| sa.label == label).collect();
            assert_eq!(pair.len(), 2, "{label}");
            for sa in pair {
                expected += 1;
                let spi = format!("spi 0x{}", sa.spi.trim_start_matches("0x"));
                let state = states.iter().find(|state| state.contains(&spi));
                let state = state.unwrap_or_else(|| panic!("{sa:#?}: {states:#?}"));
                is_as_agreed(tunnel, child, sa, state);
            }
        }
    }
    assert_eq!(states.len(), expected, "{states:#?}");
}

fn is_as_agreed(tunnel: &Tunnel, child: &Child, sa: &Sa, state: &str) {
    let suite = child.suite;
    let (protocol, algorithm) = match suite.ah {
        true => ("ah", format!("ah-{}", suite.name)),
        false => ("esp", suite.name.to_owned()),
    };
    let mode = if child.transport {
        "transport"
    } else {
        "tunnel"
    };
    let both = format!("{sa:#?}\n{state}");
    assert_eq!(
        (sa.protocol.as_str(), sa.mode.as_str()),
        (protocol, mode),
        "{both}"
    );
    assert_eq!((&sa.algorithm, sa.esn), (&algorithm, suite.esn), "{both}");
    assert_eq!((sa.replay_drops, sa.auth_failures), (0, 0), "{both}");
    assert!(sa.packets > 0 && sa.drops.is_empty(), "{both}");
    for wanted in [
        &format!("proto {protocol} "),
        &format!("mode {mode}"),
        suite.kernel,
        "replay-window 0 replay 0 failed 0",
    ] {
        assert!(state.contains(wanted), "{wanted}: {both}");
    }
    let flags = state.lines().find(|line| line.contains("flag "));
    let extended = flags.is_some_and(|line| line.split_whitespace().any(|word| word == "esn"));
    assert_eq!(extended, suite.esn, "{both}");
    assert_eq!(
        state.contains("encap type espinudp"),
        tunnel.encapsulated,
        "{both}"
    );
}

#[test]
fn a_kernel_and_we_open_what_the_other_seals() {
    if !ready_for_a_guest() {
        return;
    }
    let bed = bed();
    let tunnels = plan();
    with_networks(&bed, &tunnels);
    let guest = guest(&bed, &tunnels);
    println!("the guest runs {}", guest.release().expect("a release"));
    warm_up(&bed, &guest);
    let config = write_config(&bed.gateway_a, &plan::yaml(&tunnels), SECRET).expect("a file");
    let gateway = Gateway::run(&bed.gateway_a, &config, false, bed.log_dir()).expect("gateway A");
    initiate(&gateway, &guest, &tunnels);
    for tunnel in &tunnels {
        if tunnel.is_between() {
            carries_between(&bed, &gateway, &guest, tunnel);
        } else {
            for child in &tunnel.children {
                let cut = || gateway.counter("OutFragmented").expect("a counter");
                let before = cut();
                carries(&bed, child);
                let is_cut_sealed = !child.lines.0.is_empty();
                assert_eq!(cut() > before, is_cut_sealed, "{child:#?}");
            }
        }
    }
    nothing_is_wrong(&gateway, &guest, &tunnels);
    learn_sizes(&bed, true);
    let children = &tunnels[0].children;
    for child in children {
        sizes_agree(&bed, child);
    }
    // One of each way in which the half that is not sent is authenticated.
    for index in [0, 2, 4, 14] {
        passes_four_billion(&bed, &gateway, &guest, &children[index]);
    }
    is_rekeyed_without_loss(&bed, &gateway, &guest, &children[1]);
    no_errors(&gateway, &guest);
    gateway.stop().expect("an orderly end");
}
