//! How fast the AF_XDP port is by itself: a forwarder on one core receives on one veth, copies, and sends on
//! another, while a generator and sink in another namespace use the other core. Needs root.
//!
//! `cargo run --release -p esplanade-dataplane --example port_rate -- [BYTES [SECONDS]]`

use arrayvec::ArrayVec;
use esplanade_bpf::{Prefix, Role, Steering};
use esplanade_dataplane::port::{BURST, Interface, Port, RxFrame, Settings, xdp::XdpPort};
use std::{
    env,
    net::Ipv4Addr,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

const FRAMES: u32 = 4096;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |at: usize, default: usize| match arguments.get(at) {
        Some(text) => text.parse().unwrap(),
        None => default,
    };
    match arguments.first().map(String::as_str) {
        Some("forward") => forward(number(1, 0)),
        Some("generate") => generate(number(1, 0), number(2, 0)),
        _ => orchestrate(number(0, 60), number(1, 3)),
    }
}

/// Two namespaces with two veth pairs between them; removed when dropped.
struct TestBed {
    gateway: String,
    hosts: String,
}

impl TestBed {
    fn new() -> Self {
        let pid = std::process::id();
        let bed = Self {
            gateway: format!("rate-gw-{pid}"),
            hosts: format!("rate-hosts-{pid}"),
        };
        for namespace in [&bed.gateway, &bed.hosts] {
            ip(&["netns", "add", namespace]);
        }
        for (here, there) in [("in", "source"), ("out", "sink")] {
            ip(&[
                "-n",
                &bed.gateway,
                "link",
                "add",
                here,
                "type",
                "veth",
                "peer",
                "name",
                there,
                "netns",
                &bed.hosts,
            ]);
            ip(&["-n", &bed.gateway, "link", "set", here, "up"]);
            ip(&["-n", &bed.hosts, "link", "set", there, "up"]);
        }
        bed
    }

    fn run(&self, namespace: &str, arguments: &[String]) -> Child {
        Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(env::current_exe().unwrap())
            .args(arguments)
            .spawn()
            .unwrap()
    }
}

impl Drop for TestBed {
    fn drop(&mut self) {
        for namespace in [&self.gateway, &self.hosts] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {}", arguments.join(" "));
}

fn orchestrate(bytes: usize, seconds: usize) {
    let bed = TestBed::new();
    let forward = ["forward".to_owned(), (seconds + 3).to_string()];
    let generate = [
        "generate".to_owned(),
        bytes.to_string(),
        seconds.to_string(),
    ];
    let mut forward = bed.run(&bed.gateway, &forward);
    thread::sleep(Duration::from_secs(1));
    let mut generate = bed.run(&bed.hosts, &generate);
    generate.wait().unwrap();
    forward.wait().unwrap();
}

fn open(steering: &mut Steering, number: u8, name: &str, role: Role) -> XdpPort {
    let settings = Settings {
        interface: Interface::find(name).unwrap(),
        queue: 0,
        frames: FRAMES,
        force_copy: false,
    };
    steering
        .attach(settings.interface.index, name, number, role)
        .unwrap();
    let port = XdpPort::open(&settings).unwrap();
    steering.set_socket(number, 0, port.socket()).unwrap();
    port
}

fn steering() -> Steering {
    let mut steering = Steering::load().unwrap();
    let prefix = |third| Prefix::new(Ipv4Addr::new(10, third, 0, 0), 16);
    steering.add_protected(prefix(1), prefix(2)).unwrap();
    steering
}

fn pin(core: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
}

fn forward(seconds: usize) {
    pin(1);
    let mut steering = steering();
    let mut from = open(&mut steering, 0, "in", Role::Inside);
    let mut to = open(&mut steering, 1, "out", Role::Outside);
    let end = Instant::now() + Duration::from_secs(seconds as u64);
    let mut burst: ArrayVec<RxFrame, BURST> = ArrayVec::new();
    let (mut packets, mut bursts, mut refused, mut busy) = (0u64, 0u64, 0u64, Duration::ZERO);
    let mut ours = Duration::ZERO;
    loop {
        let started = Instant::now();
        if started > end {
            break;
        }
        from.receive(&mut burst);
        if burst.is_empty() {
            to.flush();
            continue;
        }
        let count = burst.len() as u64;
        for received in &burst {
            let Some(mut copy) = to.allocate() else {
                refused += 1;
                continue;
            };
            copy[..received.len()].copy_from_slice(received);
            copy.set_len(received.len());
            if let Err(copy) = to.transmit(copy) {
                refused += 1;
                to.discard(copy);
            }
        }
        from.release(burst.drain(..));
        ours += started.elapsed();
        to.flush();
        from.flush();
        busy += started.elapsed();
        packets += count;
        bursts += 1;
    }
    let each = |time: Duration| time.as_nanos() / u128::from(packets.max(1));
    println!(
        "forward: {packets} packets in {bursts} bursts, {} ns a packet, {} ns of them without the flush, {refused} refused, \
         in {:?}, out {:?}",
        each(busy),
        each(ours),
        from.losses(),
        to.losses()
    );
}

fn generate(bytes: usize, seconds: usize) {
    pin(0);
    let mut steering = steering();
    let mut source = open(&mut steering, 0, "source", Role::Outside);
    let mut sink = open(&mut steering, 1, "sink", Role::Inside);
    let mut packet = vec![0x5a; bytes.max(60)];
    packet[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    packet[26..34].copy_from_slice(&[10, 1, 0, 1, 10, 2, 0, 1]);
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds as u64);
    let (mut sent, mut received) = (0u64, 0u64);
    let mut burst: ArrayVec<RxFrame, BURST> = ArrayVec::new();
    while Instant::now() < end {
        for _ in 0..32 {
            let Some(mut frame) = source.allocate() else {
                break;
            };
            frame[..packet.len()].copy_from_slice(&packet);
            frame.set_len(packet.len());
            match source.transmit(frame) {
                Ok(()) => sent += 1,
                Err(frame) => {
                    source.discard(frame);
                    break;
                }
            }
        }
        source.flush();
        sink.receive(&mut burst);
        received += burst.len() as u64;
        sink.release(burst.drain(..));
    }
    let rate = received as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!(
        "{bytes} bytes: sent {sent}, received {received}, {rate:.3} Mpps, {:?}",
        sink.losses()
    );
}
