//! Three gateways: a hub between two spokes, whose hosts speak to each other through it.

mod common;

use std::net::Ipv4Addr;

use common::{UP, bed, eventually, ready};
use esplanade_bench::gateway::{Gateway, Site, write_config};
use esplanade_bench::testbed::{
    self, HOST, HOST_B, INSIDE, Layout, Namespace, OUTSIDE, PREFIX_A, PREFIX_B, Testbed,
};
use esplanade_bench::traffic::transfer::{noise, transfer};
use esplanade_bench::wire_tap::{Depth, WireTap};

const PREFIX_C: &str = "10.3.0.0/16";
const HOST_C: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);

/// A third gateway on the bridge, with a host behind it. Gateway B is the hub: all ways from spoke to spoke lead by it.
fn third(bed: &Testbed) -> (Namespace, Namespace) {
    let wire = bed.wire.as_ref().expect("a bridge");
    let gateway = Namespace::new("gw-c").expect("a gateway");
    let host = Namespace::new("host-c").expect("a host");
    let layout = Layout::default();
    testbed::link((&host, HOST), (&gateway, INSIDE), &layout).expect("a link");
    testbed::link((&gateway, OUTSIDE), (wire, "to-c"), &layout).expect("a link");
    for (namespace, lines) in [
        (wire, "link set to-c master wire\n".to_owned()),
        (
            &host,
            format!("addr add {HOST_C}/16 dev {HOST}\nroute add default via 10.3.0.1\n"),
        ),
        (
            &gateway,
            format!(
                "addr add 10.3.0.1/16 dev {INSIDE}\naddr add 192.0.2.3/24 dev {OUTSIDE}\n\
                 route add {PREFIX_A} via 192.0.2.2\nroute add {PREFIX_B} via 192.0.2.2\n"
            ),
        ),
        (
            &bed.gateway_a,
            format!("route add {PREFIX_C} via 192.0.2.2\n"),
        ),
        (
            &bed.gateway_b,
            format!("route add {PREFIX_C} via 192.0.2.3\n"),
        ),
    ] {
        namespace.ip(&lines).expect("addresses and routes");
    }
    gateway
        .sysctl("net.ipv4.ip_forward", "1")
        .expect("forwarding");
    (gateway, host)
}

/// The hub's configuration: gateway B's, with what is behind C on our side of A's tunnel, and the other way round.
fn hub() -> (String, Site) {
    let site = Site {
        local_prefix: format!("{PREFIX_B}, {PREFIX_C}"),
        ..Site::b()
    };
    let to_c = Site {
        remote: Ipv4Addr::new(192, 0, 2, 3).into(),
        remote_id: "gw-c.example.org".to_owned(),
        local_prefix: format!("{PREFIX_A}, {PREFIX_B}"),
        remote_prefix: PREFIX_C.to_owned(),
        ..Site::b()
    };
    let tunnels = to_c.yaml();
    let (_, tunnel) = tunnels.split_once("tunnels:\n").expect("tunnels");
    let yaml = site.yaml() + &tunnel.replacen("  peer:", "  spoke-c:", 1);
    (yaml, site)
}

#[test]
fn spokes_speak_through_the_hub_and_nothing_goes_in_the_clear() {
    if !ready() {
        return;
    }
    let bed = bed();
    let (gateway_c, host_c) = third(&bed);
    let (yaml, site) = hub();
    let config = write_config(&bed.gateway_b, &yaml, &site.secret).expect("a configuration");
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Headers, b"").expect("a listener");
    let hub = Gateway::run(&bed.gateway_b, &config, false, bed.log_dir()).expect("the hub");
    let a = Site {
        remote_prefix: format!("{PREFIX_B}, {PREFIX_C}"),
        ..Site::a()
    };
    let c = Site {
        local: Ipv4Addr::new(192, 0, 2, 3).into(),
        local_id: "gw-c.example.org".to_owned(),
        local_prefix: PREFIX_C.to_owned(),
        remote_prefix: format!("{PREFIX_A}, {PREFIX_B}"),
        ..Site::a()
    };
    let a = Gateway::start(&bed.gateway_a, &a, bed.log_dir()).expect("spoke A");
    let c = Gateway::start(&gateway_c, &c, bed.log_dir()).expect("spoke C");
    for gateway in [&a, &c, &hub] {
        gateway.wait_until_up(UP).expect("its tunnels");
    }
    eventually("an answer from spoke to spoke", || {
        bed.host_a
            .ping(HOST_C, 1)
            .is_ok_and(|answered| answered == 1)
    });
    assert_eq!(bed.host_a.ping(HOST_C, 5).expect("ping"), 5);
    assert_eq!(bed.host_a.ping(HOST_B, 5).expect("ping"), 5);
    let bytes = noise(300_000, 7);
    let delivery = transfer(&bed.host_a, (&host_c, HOST_C), &bytes).expect("a transfer");
    assert!(delivery.bytes == bytes, "what arrives is what was sent");
    assert!(hub.counter("InRelayed").expect("a counter") > 200);
    assert_eq!(hub.counter("InHairpin").expect("a counter"), 0);
    let seen = tap.stop().expect("what was seen");
    assert!(seen.only_protected(), "{seen:?}");
}
