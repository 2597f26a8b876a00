//! A VLAN as inside port of gateway A. The frames are made by hand: the machine's kernel may have no VLANs.

mod common;

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use common::{UP, bed, eventually, ready};
use esplanade_bench::gateway::{Gateway, Site, write_config};
use esplanade_bench::testbed::{HOST, HOST_A, HOST_B, INSIDE, INSIDE_A, Testbed};
use esplanade_bpf::{Prefix, Role, Steering, Vlan};
use esplanade_dataplane::port::{Port, Settings, xdp::XdpPort};

const VLAN: u16 = 100;

/// Host A's wire, with its tags as they are.
struct Wire {
    port: XdpPort,
    _steering: Steering,
    /// Host A's link address, and gateway A's.
    addresses: ([u8; 6], [u8; 6]),
}

impl Wire {
    fn open(bed: &Testbed) -> Self {
        let interface = bed.host_a.interface(HOST).expect("host A");
        let router = bed.gateway_a.interface(INSIDE).expect("gateway A").mac;
        let addresses = (interface.mac, router);
        let (port, steering) = bed
            .host_a
            .enter(|| {
                let port = XdpPort::open(&Settings {
                    interface: interface.clone(),
                    queue: 0,
                    frames: 64,
                    force_copy: false,
                })?;
                let mut steering = Steering::load()?;
                steering.set_socket(0, 0, port.socket())?;
                steering.add_protected(Prefix::new(HOST_B, 16), Prefix::new(HOST_A, 16))?;
                let (index, name) = (interface.index, &interface.name);
                let vlan = Vlan {
                    outer: VLAN,
                    inner: 0,
                };
                steering.attach_in_vlan(index, name, 0, Role::Inside, vlan)?;
                Ok((port, steering))
            })
            .expect("host A's port");
        Self {
            port,
            _steering: steering,
            addresses,
        }
    }

    /// An echo request to host B in a VLAN.
    fn ask(&mut self, vlan: u16, number: u8) {
        let (from, to) = self.addresses;
        let mut frame = [&to[..], &from, &[0x81, 0x00], &vlan.to_be_bytes()].concat();
        frame.extend([0x08, 0x00]);
        let mut ip = vec![0x45, 0, 0, 20 + 8 + 32, 0, number, 0, 0, 64, 1, 0, 0];
        ip.extend(HOST_A.octets());
        ip.extend(HOST_B.octets());
        fill_checksum(&mut ip, 10);
        let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34, 0, number];
        icmp.extend([number; 32]);
        fill_checksum(&mut icmp, 2);
        frame.extend(ip);
        frame.extend(icmp);
        let mut out = self.port.allocate().expect("a frame");
        out[..frame.len()].copy_from_slice(&frame);
        out.set_len(frame.len());
        self.port.transmit(out).expect("room");
        self.port.flush();
    }

    /// The numbers of the echo replies that come within a time, all of which must be in the VLAN.
    fn answers(&mut self, within: Duration) -> Vec<u8> {
        let end = Instant::now() + within;
        let mut numbers = Vec::new();
        while Instant::now() < end {
            let mut burst = ArrayVec::new();
            self.port.receive(&mut burst);
            for frame in &burst {
                assert_eq!(frame[12..16], [0x81, 0x00, 0, VLAN as u8]);
                assert_eq!(frame[..6], self.addresses.0);
                assert_eq!(frame[18 + 20], 0, "an echo reply");
                numbers.push(frame[18 + 20 + 7]);
            }
            self.port.release(burst);
            self.port.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
        numbers
    }
}

/// The Internet checksum of some bytes, into its place within.
fn fill_checksum(bytes: &mut [u8], at: usize) {
    let words = bytes.chunks_exact(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Gives gateway A's kernel what it would have of a VLAN: an interface with its address, and its host's link address.
fn stand_in(bed: &Testbed) {
    let host = bed.host_a.interface(HOST).expect("host A").mac;
    let router = bed.gateway_a.interface(INSIDE).expect("gateway A").mac;
    let text = |mac: [u8; 6]| mac.map(|octet| format!("{octet:02x}")).join(":");
    bed.gateway_a
        .ip(&format!(
            "addr flush dev {INSIDE}\n\
             link add {INSIDE}.{VLAN} type veth peer name stand-in\n\
             link set {INSIDE}.{VLAN} address {} up\n\
             link set stand-in up\n\
             addr add {INSIDE_A}/16 dev {INSIDE}.{VLAN}\n\
             neigh add {HOST_A} lladdr {} dev {INSIDE}.{VLAN} nud permanent\n",
            text(router),
            text(host),
        ))
        .expect("a stand-in for the kernel's VLAN");
}

#[test]
fn hosts_in_a_vlan_go_through_the_tunnel_and_others_are_the_kernels() {
    if !ready() {
        return;
    }
    let bed = bed();
    stand_in(&bed);
    let site = Site::a();
    let plain = format!("interface: {INSIDE}, role: inside");
    let vlan = format!("interface: {INSIDE}, vlan: {VLAN}, role: inside");
    let yaml = site.yaml().replace(&plain, &vlan);
    assert!(yaml.contains("vlan: 100"), "{yaml}");
    let config = write_config(&bed.gateway_a, &yaml, &site.secret).expect("a configuration");
    let b = Gateway::start(&bed.gateway_b, &Site::b(), bed.log_dir()).expect("gateway B");
    let a = Gateway::run(&bed.gateway_a, &config, false, bed.log_dir()).expect("gateway A");
    a.wait_until_up(UP).expect("the tunnel at A");
    b.wait_until_up(UP).expect("the tunnel at B");
    let status = a.status().expect("status");
    let ports = status.dataplane.expect("a dataplane").ports;
    assert_eq!(ports[0].interface, "eth1.100");

    let mut wire = Wire::open(&bed);
    // The first one may wait for link addresses beyond.
    eventually("the first answer", || {
        wire.ask(VLAN, 1);
        !wire.answers(Duration::from_millis(100)).is_empty()
    });
    for number in 10..20 {
        wire.ask(VLAN, number);
    }
    let answered = wire.answers(Duration::from_millis(300));
    assert_eq!(answered, (10..20).collect::<Vec<u8>>());

    // What passes to the kernel its taps show, unlike what the dataplane takes.
    let mut command = bed.gateway_a.command("tcpdump");
    let other = (VLAN + 1).to_string();
    command.args(["-n", "-l", "-c", "10", "-i", INSIDE, "vlan", &other]);
    let spawned = bed.gateway_a.spawn("tcpdump", bed.log_dir(), command);
    let mut tap = spawned.expect("tcpdump");
    tap.wait_to_say("listening on", UP).expect("tcpdump");
    let sealed = a.counter("OutPackets").expect("a counter");
    for number in 20..30 {
        wire.ask(VLAN + 1, number);
    }
    assert_eq!(wire.answers(Duration::from_millis(200)), Vec::<u8>::new());
    let ended = tap.wait(UP).expect("ten frames at the kernel");
    assert!(ended.success(), "{}", tap.said());
    assert_eq!(a.counter("OutPackets").expect("a counter"), sealed);
    eventually("the steward to count them", || {
        a.counter("SteerPassNotOurs").expect("a counter") >= 10
            && a.counter("SteerTakeProtect").expect("a counter") >= 10
    });
}
