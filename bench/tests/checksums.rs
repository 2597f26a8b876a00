//! A host on a virtual link that leaves its transport checksums unfinished, as veth and virtio do by default.

mod common;

use common::{UP, bed, ready};
use esplanade_bench::gateway::{Gateway, Site, write_config};
use esplanade_bench::testbed::{HOST, HOST_B};
use esplanade_bench::traffic::transfer::{noise, transfer};

#[test]
fn a_hosts_unfinished_checksums_are_finished_before_sealing() {
    if !ready() {
        return;
    }
    let bed = bed();
    let line = [
        "ethtool", "-K", HOST, "tx", "on", "tso", "off", "gso", "off",
    ];
    let said = bed.host_a.run(&line).and_then(|said| said.ok());
    said.expect("checksums left to the link");
    let site = Site::a();
    let yaml = site
        .yaml()
        .replace("role: inside }", "role: inside, checksums: partial }");
    assert!(yaml.contains("partial"), "{yaml}");
    let b = Gateway::start(&bed.gateway_b, &Site::b(), bed.log_dir()).expect("gateway B");
    let config = write_config(&bed.gateway_a, &yaml, &site.secret).expect("a configuration");
    let a = Gateway::run(&bed.gateway_a, &config, false, bed.log_dir()).expect("gateway A");
    a.wait_until_up(UP).expect("the tunnel at A");
    b.wait_until_up(UP).expect("the tunnel at B");
    bed.warm_up().expect("traffic");
    let bytes = noise(300_000, 6);
    let delivery = transfer(&bed.host_a, (&bed.host_b, HOST_B), &bytes).expect("a transfer");
    assert!(delivery.bytes == bytes, "what arrives is what was sent");
    assert!(a.counter("ChecksumsFinished").expect("a counter") > 100);
}
