//! A generator at one host and a receiver at the other, with the test-bed's gateways between them.

use anyhow::{Context, Result};
use esplanade_bpf::{Prefix, Steering};
use esplanade_dataplane::port::{Settings, xdp::XdpPort};

use super::frame::{Route, Template};
use super::tester::{Generator, Plain, Receiver, Wanted, steer};
use crate::testbed::{HOST, HOST_A, HOST_B, INSIDE, Testbed};

/// A ring holds this many frames: 20 ms of the fastest that a veth carries.
const RING: u32 = 32_768;
const PORT: u16 = 9_000;

/// From host A to host B. While it lives, the receiving host's own kernel gets no packet from A.
pub struct Path {
    /// At host A.
    pub generator: Generator<XdpPort>,
    /// At host B.
    pub receiver: Receiver<XdpPort, Plain>,
    route: Route,
    _steering: Steering,
}

impl Path {
    /// Opens both ends.
    pub fn open(bed: &Testbed) -> Result<Self> {
        let source = bed.host_a.interface(HOST)?;
        let sink = bed.host_b.interface(HOST)?;
        let route = Route {
            source_mac: source.mac,
            destination_mac: bed.gateway_a.interface(INSIDE)?.mac,
            source: std::net::SocketAddrV4::new(HOST_A, PORT),
            destination: std::net::SocketAddrV4::new(HOST_B, PORT),
            flows: 16,
        };
        let settings = |interface| Settings {
            interface,
            queue: 0,
            frames: RING,
            force_copy: false,
        };
        let out = bed
            .host_a
            .enter(|| Ok(XdpPort::open(&settings(source))?))
            .context("the generator's port")?;
        let (into, steering) = bed
            .host_b
            .enter(|| {
                let port = XdpPort::open(&settings(sink.clone()))?;
                let wanted = Wanted {
                    from: Prefix::new(HOST_A, 16),
                    to: Prefix::new(HOST_B, 16),
                    esp_to: None,
                };
                let steering = steer(&sink, port.socket(), wanted)?;
                Ok((port, steering))
            })
            .context("the receiver's port")?;
        Ok(Self {
            generator: Generator::new(out, Template::new(&route, 512)?),
            receiver: Receiver::new(into, Plain)?,
            route,
            _steering: steering,
        })
    }

    /// Sends frames of this length from now on.
    pub fn set_frame(&mut self, length: usize) -> Result<()> {
        self.generator
            .set_template(Template::new(&self.route, length)?);
        Ok(())
    }
}
