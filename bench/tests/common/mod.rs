//! What the system tests share.

#![allow(dead_code)]

use std::time::Duration;

use esplanade_bench::gateway::{Gateway, Site};
use esplanade_bench::testbed::{self, Layout, Namespace, Testbed};

/// How long a tunnel may take to come up.
pub const UP: Duration = Duration::from_secs(10);

/// Whether a test-bed can be made; says why not in the words that deploy/test counts.
pub fn ready() -> bool {
    match testbed::unavailable() {
        None => true,
        Some(reason) => {
            println!("SKIPPED: {reason}");
            false
        }
    }
}

/// A test-bed with a bridge to listen on.
pub fn bed() -> Testbed {
    Testbed::new(&Layout::default()).expect("a test-bed")
}

/// Two gateways with their tunnel up; the first has initiated it.
pub fn two_gateways(bed: &Testbed) -> (Gateway<'_>, Gateway<'_>) {
    two_gateways_of(bed, &Site::a(), &Site::b())
}

/// As [`two_gateways`], of these configurations.
pub fn two_gateways_of<'a>(
    bed: &'a Testbed,
    site_a: &Site,
    site_b: &Site,
) -> (Gateway<'a>, Gateway<'a>) {
    let b = Gateway::start(&bed.gateway_b, site_b, bed.log_dir()).expect("gateway B");
    let a = Gateway::start(&bed.gateway_a, site_a, bed.log_dir()).expect("gateway A");
    a.wait_until_up(UP).expect("the tunnel at A");
    b.wait_until_up(UP).expect("the tunnel at B");
    bed.warm_up().expect("traffic");
    (a, b)
}

/// Has a gateway's `esplanade` do something.
pub fn tell(gateway: &Gateway<'_>, arguments: &[&str]) {
    let said = gateway.command(arguments).and_then(|said| said.ok());
    said.unwrap_or_else(|error| panic!("{arguments:?}: {error:#}"));
}

/// Waits as long as a thing that is on its way may take.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    testbed::wait_until(what, Duration::from_secs(10), holds).expect(what);
}

/// Gives an interface an address of IPv6 that can be used at once.
pub fn number(namespace: &Namespace, interface: &str, address: &str) {
    for name in ["all", interface] {
        let key = format!("net.ipv6.conf.{name}.disable_ipv6");
        namespace.sysctl(&key, "0").expect("IPv6");
    }
    let line = format!("addr add {address} dev {interface} nodad\n");
    namespace.ip(&line).expect("an address");
}
