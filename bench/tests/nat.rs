//! A NAT before gateway A that gives it other mappings in mid-traffic (RFC 7296 2.23).

mod common;

use std::fs;

use common::{UP, bed, eventually, ready, tell};
use esplanade_bench::gateway::{Gateway, Site, TUNNEL, write_config};
use esplanade_bench::testbed::{HOST_A, HOST_B, OUTSIDE_A, OUTSIDE_B, Testbed};

/// What the NAT shows of gateway A: an address, and what it adds to ports.
#[derive(Clone, Copy)]
struct Mapping {
    address: &'static str,
    offset: u16,
}

const FIRST: Mapping = Mapping {
    address: "192.0.2.254",
    offset: 10_000,
};
/// After a restart of the NAT.
const SECOND: Mapping = Mapping {
    offset: 20_000,
    ..FIRST
};
/// And with another address of its provider's.
const THIRD: Mapping = Mapping {
    address: "192.0.2.253",
    offset: 30_000,
};

/// Makes the bridge between the gateways a router that answers for both sides of it.
fn route_between(bed: &Testbed) {
    let wire = bed.wire.as_ref().expect("a bridge");
    wire.ip(&format!(
        "link set dev {tap} nomaster\n\
         link set dev to-b nomaster\n\
         addr add {}/32 dev {tap}\n\
         addr add {}/32 dev {tap}\n\
         route add {OUTSIDE_A}/32 dev {tap}\n\
         route add {OUTSIDE_B}/32 dev to-b\n",
        FIRST.address,
        THIRD.address,
        tap = Testbed::TAP,
    ))
    .expect("a router");
    wire.sysctl("net.ipv4.ip_forward", "1").expect("forwarding");
    for interface in [Testbed::TAP, "to-b"] {
        let key = format!("net.ipv4.conf.{interface}.proxy_arp");
        wire.sysctl(&key, "1").expect("proxy ARP");
    }
}

/// Makes the router a NAT with this mapping instead of the one before. It keeps no state, so that a mapping is gone when it is.
fn translate(bed: &Testbed, Mapping { address, offset }: Mapping) {
    let mut there = String::from("type filter hook postrouting priority 300;\n");
    let mut back = String::from("type filter hook prerouting priority -300;\n");
    for port in [500, 4500] {
        let outer = port + offset;
        let ours = format!("oif to-b ip saddr {OUTSIDE_A} udp sport {port}");
        there += &format!("{ours} ip saddr set {address} udp sport set {outer}\n");
        let theirs = format!("iif to-b ip daddr {address} udp dport {outer}");
        back += &format!("{theirs} ip daddr set {OUTSIDE_A} udp dport set {port}\n");
    }
    let rules = format!(
        "flush ruleset\ntable ip nat {{\nchain there {{\n{there}}}\nchain back {{\n{back}}}\n}}\n"
    );
    let wire = bed.wire.as_ref().expect("a bridge");
    let file = bed.log_dir().join("nat.nft");
    fs::write(&file, rules).expect("the rules");
    let file = file.to_str().expect("a path");
    let said = wire.run(&["nft", "-f", file]).and_then(|said| said.ok());
    said.expect("nftables");
}

/// Where gateway B says that A is.
fn known(b: &Gateway<'_>) -> Vec<String> {
    let sas = b.command(&["sas"]).expect("sas").stdout;
    let known = [FIRST, SECOND, THIRD].map(|mapping| {
        let Mapping { address, offset } = mapping;
        format!("{address}:{}", 4500 + offset)
    });
    known
        .into_iter()
        .filter(|remote| sas.contains(remote))
        .collect()
}

#[test]
fn a_nat_that_forgets_its_mapping_stops_no_traffic() {
    if !ready() {
        return;
    }
    let bed = bed();
    route_between(&bed);
    translate(&bed, FIRST);
    let anywhere = Site::b().yaml().replace(
        &format!("remote: {{ address: {OUTSIDE_A}"),
        "remote: { address: any",
    );
    let secret = Site::b().secret;
    let config = write_config(&bed.gateway_b, &anywhere, &secret).expect("a configuration");
    let b = Gateway::run(&bed.gateway_b, &config, false, bed.log_dir()).expect("gateway B");
    let a = Gateway::start(&bed.gateway_a, &Site::a(), bed.log_dir()).expect("gateway A");
    a.wait_until_up(UP).expect("the tunnel at A");
    b.wait_until_up(UP).expect("the tunnel at B");
    bed.warm_up().expect("traffic");
    assert_eq!(known(&b), ["192.0.2.254:14500"]);
    let spi = b.outbound_spi().expect("an SA");

    // The dataplane hears of it first: the answer to the first packet finds the new mapping.
    translate(&bed, SECOND);
    assert_eq!(bed.ping(3).expect("pings"), 3);
    assert_eq!(b.counter("PeerMoved").expect("a counter"), 1);
    eventually("both SAs to be there", || {
        known(&b) == ["192.0.2.254:24500"]
    });
    assert_eq!(b.outbound_spi().expect("an SA"), spi, "no rekey was needed");
    tell(&b, &["rekey", TUNNEL, "--ike"]);
    bed.warm_up().expect("traffic");

    // IKE hears of it first: what B's host sends finds the new mapping.
    translate(&bed, THIRD);
    tell(&a, &["rekey", TUNNEL, "--ike"]);
    eventually("both SAs to be there", || {
        known(&b) == ["192.0.2.253:34500"]
    });
    let answered = bed.host_b.ping(HOST_A, 3).expect("pings");
    assert_eq!(answered, 3);
    assert_eq!(bed.host_a.ping(HOST_B, 3).expect("pings"), 3);
    assert_eq!(b.counter("PeerMoved").expect("a counter"), 1);
    // Who is behind the NAT has followed nobody.
    assert_eq!(a.counter("PeerMoved").expect("a counter"), 0);
}
