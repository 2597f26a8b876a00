//! The generator and the receiver over one veth pair, with nothing in between that could lose a frame.

use std::time::Duration;

use esplanade_bench::testbed::{self, Layout, Namespace, link};
use esplanade_bench::traffic::frame::{Route, Template};
use esplanade_bench::traffic::tester::{Generator, Load, Plain, Receiver, Wanted, run, steer};
use esplanade_bpf::Prefix;
use esplanade_dataplane::port::Settings;
use esplanade_dataplane::port::xdp::XdpPort;

#[test]
fn every_frame_that_is_sent_is_received_in_order() {
    if let Some(reason) = testbed::unavailable() {
        println!("SKIPPED: {reason}");
        return;
    }
    testbed::cleanup::install();
    let tester = Namespace::new("tester").expect("a namespace");
    link((&tester, "out"), (&tester, "in"), &Layout::default()).expect("a link");
    let source = tester.interface("out").expect("an interface");
    let sink = tester.interface("in").expect("an interface");
    let route = Route {
        source_mac: source.mac,
        destination_mac: sink.mac,
        source: "10.1.0.2:9000".parse().expect("an address"),
        destination: "10.2.0.2:9000".parse().expect("an address"),
        flows: 8,
    };
    let prefix =
        |address: &str| Prefix::new(address.parse::<std::net::IpAddr>().expect("an address"), 16);
    let settings = |interface| Settings {
        interface,
        queue: 0,
        frames: 4096,
        force_copy: false,
    };
    tester
        .enter(|| {
            let out = XdpPort::open(&settings(source))?;
            let into = XdpPort::open(&settings(sink.clone()))?;
            let wanted = Wanted {
                from: prefix("10.1.0.0"),
                to: prefix("10.2.0.0"),
                esp_to: None,
            };
            let _steering = steer(&sink, into.socket(), wanted)?;
            let mut receiver = Receiver::new(into, Plain)?;
            let mut generator = Generator::new(out, Template::new(&route, 64)?);
            for rate in [Some(10_000.0), None] {
                let load = Load {
                    rate,
                    duration: Duration::from_millis(300),
                };
                let (sent, tally) = run(&mut generator, &mut receiver, load, |_, _| {})?;
                println!(
                    "sent {sent}, {:.3} Mpps, p50 {:.1} us, p99 {:.1} us",
                    tally.mpps(),
                    tally.latency_us(50.0),
                    tally.latency_us(99.0)
                );
                assert!(sent > 2_900, "{sent}");
                assert_eq!(tally.packets, sent, "{:?}", receiver.losses());
                assert_eq!((tally.reordered, tally.foreign), (0, 0));
            }
            Ok(())
        })
        .expect("a measurement");
}
