//! Everything goes through the tunnel: one gateway with a remote of 0.0.0.0/0, whose peer has a local of 0.0.0.0/0. What
//! stays inside stays with the kernel, and what comes in the clear from outside is let in nowhere.

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use common::{UP, bed, eventually, ready, two_gateways_of};
use esplanade_bench::gateway::{Gateway, Site, write_config};
use esplanade_bench::testbed::{
    HOST, HOST_A, HOST_B, INSIDE_A, Layout, Namespace, OUTSIDE, OUTSIDE_A, OUTSIDE_B, Testbed, link,
};
use esplanade_bench::traffic::transfer::{noise, transfer};
use esplanade_bench::wire_tap::{Depth, WireTap};

const EVERYTHING: &str = "0.0.0.0/0";

fn site_a() -> Site {
    Site {
        remote_prefix: EVERYTHING.to_owned(),
        ..Site::a()
    }
}

fn site_b() -> Site {
    Site {
        local_prefix: EVERYTHING.to_owned(),
        ..Site::b()
    }
}

fn counter(gateway: &Gateway<'_>, name: &str) -> u64 {
    gateway.counter(name).expect("a counter")
}

#[test]
fn a_lan_reaches_its_gateway_and_through_it_the_far_end() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, _b) = two_gateways_of(&bed, &site_a(), &site_b());
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Headers, b"").expect("a listener");

    let sealed = counter(&a, "OutPackets");
    let bytes = noise(100_000, 3);
    for address in [INSIDE_A, OUTSIDE_A] {
        assert_eq!(bed.host_a.ping(address, 5).expect("ping"), 5, "{address}");
        let to = (&bed.gateway_a, address);
        let there = transfer(&bed.host_a, to, &bytes).expect("a transfer");
        assert!(there.bytes == bytes, "what arrives is what was sent");
    }
    let back = transfer(&bed.gateway_a, (&bed.host_a, HOST_A), &bytes).expect("a transfer");
    assert!(back.bytes == bytes, "what arrives is what was sent");
    assert_eq!(counter(&a, "OutPackets"), sealed, "none took the tunnel");

    assert_eq!(bed.ping(5).expect("ping"), 5);
    let there = transfer(&bed.host_a, (&bed.host_b, HOST_B), &bytes).expect("a transfer");
    assert!(there.bytes == bytes, "what arrives is what was sent");
    let seen = tap.stop().expect("what was seen");
    assert!(seen.only_protected() && seen.esp > 100, "{seen:?}");
}

#[test]
fn an_address_that_the_gateway_gets_later_is_known() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (_a, _b) = two_gateways_of(&bed, &site_a(), &site_b());
    let later = Ipv4Addr::new(10, 99, 0, 1);
    assert_eq!(bed.host_a.ping(later, 1).expect("ping"), 0);
    let address = |verb: &str| {
        let line = format!("addr {verb} {later}/32 dev lo\n");
        bed.gateway_a.ip(&line).expect("an address");
    };
    address("add");
    eventually("the new address to answer", || {
        bed.host_a.ping(later, 1).is_ok_and(|count| count == 1)
    });
    // When it goes, packets for it are for the far end again.
    address("del");
    bed.host_b
        .ip(&format!("addr add {later}/32 dev lo\n"))
        .expect("an address");
    bed.gateway_b
        .ip(&format!("route add {later}/32 via {HOST_B}\n"))
        .expect("a route");
    eventually("the far end to answer", || {
        bed.host_a.ping(later, 1).is_ok_and(|count| count == 1)
    });
}

#[test]
fn hosts_on_two_inside_ports_reach_each_other() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 1, 128, 2);
    if !ready() {
        return;
    }
    let bed = bed();
    let host_c = Namespace::new("host-c").expect("a namespace");
    link(
        (&host_c, HOST),
        (&bed.gateway_a, "eth3"),
        &Layout::default(),
    )
    .expect("a link");
    let lines = format!("addr add {OTHER}/24 dev {HOST}\nroute add default via 10.1.128.1\n");
    host_c.ip(&lines).expect("an address");
    bed.gateway_a
        .ip("addr add 10.1.128.1/24 dev eth3\n")
        .expect("an address");
    bed.host_a
        .ip(&format!("route add 10.1.128.0/24 via {INSIDE_A}\n"))
        .expect("a route");

    let b = Gateway::start(&bed.gateway_b, &site_b(), bed.log_dir()).expect("gateway B");
    let yaml = site_a().yaml().replace(
        "    wan:",
        "    lan-2: { interface: eth3, role: inside }\n    wan:",
    );
    let config = write_config(&bed.gateway_a, &yaml, &site_a().secret).expect("a configuration");
    let a = Gateway::run(&bed.gateway_a, &config, false, bed.log_dir()).expect("gateway A");
    a.wait_until_up(UP).expect("the tunnel at A");
    b.wait_until_up(UP).expect("the tunnel at B");
    eventually("the far end to answer both", || {
        let answers = |host: &Namespace| host.ping(HOST_B, 1).is_ok_and(|count| count == 1);
        answers(&bed.host_a) && answers(&host_c)
    });

    let sealed = counter(&a, "OutPackets");
    assert_eq!(bed.host_a.ping(OTHER, 5).expect("ping"), 5);
    let bytes = noise(100_000, 4);
    let there = transfer(&host_c, (&bed.host_a, HOST_A), &bytes).expect("a transfer");
    assert!(there.bytes == bytes, "what arrives is what was sent");
    assert_eq!(counter(&a, "OutPackets"), sealed, "none took the tunnel");
}

/// Lets a machine on the wire send plaintext from an address to a neighbour, whatever its own guard says.
fn forge(machine: &Namespace, source: Ipv4Addr, to: &str, via: &str) {
    let lines = format!(
        "addr add {source}/32 dev lo\n\
         route add {to} {via} dev {OUTSIDE} table 99\n\
         rule add from {source} lookup 99 pref 1\n"
    );
    machine.ip(&lines).expect("a way around the tunnel");
}

/// A datagram from one address to another.
fn say(machine: &Namespace, from: Ipv4Addr, to: (Ipv4Addr, u16), what: &str) {
    let socket = machine.enter(|| Ok(UdpSocket::bind((from, 0))?));
    let sent = socket.expect("a socket").send_to(what.as_bytes(), to);
    assert_eq!(sent.expect("a datagram"), what.len());
}

/// Who listens on a port of any address.
fn listen(machine: &Namespace, port: u16) -> UdpSocket {
    let socket = machine
        .enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))
        .expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    socket
}

/// The next datagram.
fn heard(socket: &UdpSocket) -> String {
    let mut bytes = [0; 100];
    let length = socket.recv(&mut bytes).expect("a datagram");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[test]
fn plaintext_from_afar_reaches_neither_the_lan_nor_its_gateway() {
    const PORT: u16 = 9;
    if !ready() {
        return;
    }
    let bed = bed();
    let (a, _b) = two_gateways_of(&bed, &site_a(), &site_b());
    let stranger = Ipv4Addr::new(203, 0, 113, 9);
    let via = format!("via {OUTSIDE_A}");
    forge(&bed.gateway_b, stranger, "10.1.0.0/16", &via);

    let (host, gateway) = (listen(&bed.host_a, PORT), listen(&bed.gateway_a, PORT));
    let before = counter(&a, "InNoPols");
    for to in [HOST_A, INSIDE_A] {
        say(&bed.gateway_b, stranger, (to, PORT), "forged");
    }
    eventually("both to be counted", || {
        a.counter("InNoPols").is_ok_and(|now| now == before + 2)
    });
    // What comes next is the first that either hears.
    say(&bed.host_b, HOST_B, (HOST_A, PORT), "through the tunnel");
    assert_eq!(heard(&host), "through the tunnel");
    // No pair covers A's outer address: there nothing has changed.
    say(&bed.gateway_b, OUTSIDE_B, (OUTSIDE_A, PORT), "not covered");
    assert_eq!(heard(&gateway), "not covered");
    assert_eq!(bed.gateway_b.ping(OUTSIDE_A, 3).expect("ping"), 3);
}

#[test]
fn plaintext_to_an_outer_address_that_a_pair_covers_is_counted_and_dropped() {
    const PORT: u16 = 9;
    if !ready() {
        return;
    }
    let bed = bed();
    let (_a, b) = two_gateways_of(&bed, &site_a(), &site_b());
    // B protects everything towards 10.1.0.0/16, its own outer address included.
    let forged = Ipv4Addr::new(10, 1, 0, 66);
    forge(&bed.gateway_a, forged, &format!("{OUTSIDE_B}/32"), "");

    let socket = listen(&bed.gateway_b, PORT);
    let before = counter(&b, "InNoPols");
    for _ in 0..3 {
        say(&bed.gateway_a, forged, (OUTSIDE_B, PORT), "forged");
    }
    eventually("it to be counted", || {
        b.counter("InNoPols").is_ok_and(|now| now == before + 3)
    });
    say(&bed.gateway_a, OUTSIDE_A, (OUTSIDE_B, PORT), "not covered");
    assert_eq!(heard(&socket), "not covered");

    // The peer is reached as before: IKE by a rekey, ESP by a ping.
    b.command(&["rekey", "--ike", esplanade_bench::gateway::TUNNEL])
        .and_then(|said| said.ok())
        .expect("a rekey");
    assert_eq!(bed.ping(5).expect("ping"), 5);
}
