//! A link on the way between two Esplanade gateways that is narrower than theirs.

mod common;

use common::{bed, eventually, ready, two_gateways, two_gateways_of};
use esplanade_bench::gateway::Site;
use esplanade_bench::testbed::{HOST_B, OUTSIDE_A, OUTSIDE_B, Testbed};
use esplanade_bench::traffic::transfer::{noise, transfer};

/// What the link to gateway B takes.
const NARROW: u16 = 1400;
/// What of it AES-GCM's ESP in tunnel mode leaves for the inner packet.
const INNER: u16 = 1346;

/// Makes the bridge between the gateways a router that answers for both sides of it. What is too long for its link to gateway B
/// it says so.
fn route_between(bed: &Testbed) {
    let wire = bed.wire.as_ref().expect("a bridge");
    wire.ip(&format!(
        "link set dev {tap} nomaster\n\
         link set dev to-b nomaster\n\
         addr add 192.0.2.254/32 dev {tap}\n\
         route add {OUTSIDE_A}/32 dev {tap}\n\
         route add {OUTSIDE_B}/32 dev to-b mtu {NARROW}\n",
        tap = Testbed::TAP,
    ))
    .expect("a router");
    wire.sysctl("net.ipv4.ip_forward", "1").expect("forwarding");
    for interface in [Testbed::TAP, "to-b"] {
        let key = format!("net.ipv4.conf.{interface}.proxy_arp");
        wire.sysctl(&key, "1").expect("proxy ARP");
    }
}

#[test]
fn a_narrow_link_on_the_way_is_found_and_connections_fit_it() {
    if !ready() {
        return;
    }
    let bed = bed();
    route_between(&bed);
    let (a, _b) = two_gateways(&bed);
    let length = (INNER - 28 + 20).to_string();
    let to = HOST_B.to_string();
    let ping = |bytes: &str| {
        let line = [
            "ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", bytes, &to,
        ];
        let said = bed.host_a.run(&line).expect("ping");
        said.stdout + &said.stderr
    };
    // The first is lost on the way and has the router speak; a later one our gateway answers.
    eventually("the host to hear of the narrow link", || {
        ping(&length).contains(&format!("mtu = {INNER}"))
            || ping(&length).contains(&format!("mtu={INNER}"))
    });
    let fitting = ping(&(INNER - 28).to_string());
    assert!(fitting.contains(" 1 received"), "{fitting}");
    assert!(a.counter("PathMtuLowered").expect("a counter") >= 1);
    let sas = a.sas().expect("sas");
    let sending = sas.iter().find(|sa| sa.selected).expect("an SA in use");
    assert_eq!(sending.path_mtu, Some(NARROW), "{sending:?}");

    let bytes = noise(500_000, 5);
    let delivery = transfer(&bed.host_a, (&bed.host_b, HOST_B), &bytes).expect("a transfer");
    assert!(delivery.bytes == bytes, "what arrives is what was sent");
    assert_eq!(a.counter("PathMtuRefused").expect("a counter"), 0);
}

#[test]
fn esp_that_is_fragmented_by_us_or_on_the_way_is_put_together() {
    if !ready() {
        return;
    }
    let bed = bed();
    route_between(&bed);
    // Gateway A cuts what exceeds its own link, and the router what exceeds the next one.
    let site = |site: Site| Site {
        child: vec!["df: clear".to_owned(), "fragment: after".to_owned()],
        ..site
    };
    let (a, b) = two_gateways_of(&bed, &site(Site::a()), &site(Site::b()));
    let to = HOST_B.to_string();
    for length in [1372, 1472] {
        let length = length.to_string();
        let line = [
            "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-M", "dont", "-s", &length, &to,
        ];
        let said = bed.host_a.run(&line).expect("ping").stdout;
        assert!(said.contains(" 3 received"), "{said}");
    }
    assert!(b.counter("InReassembled").expect("a counter") >= 6);
    assert!(a.counter("OutFragmented").expect("a counter") >= 3);
    for name in ["InFragment", "InFragmentOverlap", "InFragmentTimeout"] {
        assert_eq!(b.counter(name).expect("a counter"), 0, "{name}");
    }
}
