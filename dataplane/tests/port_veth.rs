//! AF_XDP ports on a veth pair, in a network namespace of the test's own. Needs root.

use arrayvec::ArrayVec;
use esplanade_bpf::{Mode, Role, SteerError, Steering, Verdict};
use esplanade_dataplane::port::{
    CopyMode, Interface, InterfaceError, Losses, OpenError, Port, RxFrame, Settings, xdp::XdpPort,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use std::{
    env,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const INSIDE: &str = "veth-in";
const OUTSIDE: &str = "veth-out";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Set in the process that runs inside the namespace.
const MARK: &str = "ESPLANADE_TEST_NAMESPACE";

/// A network namespace with a veth pair; removed with everything in it when dropped.
struct Namespace(String);

impl Namespace {
    fn new(test: &str) -> Self {
        let name = format!("esp-{}-{test}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self(name);
        let inside: [&[&str]; 4] = [
            &[
                "link", "add", INSIDE, "type", "veth", "peer", "name", OUTSIDE,
            ],
            &["link", "set", INSIDE, "up"],
            &["link", "set", OUTSIDE, "up"],
            &["link", "set", "lo", "up"],
        ];
        for command in inside {
            ip(&[&["-n", &namespace.0], command].concat());
        }
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {}", arguments.join(" "));
}

/// Runs the calling test again in a namespace of its own; `true` in there.
fn inside_namespace(test: &str) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return false;
    }
    let namespace = Namespace::new(test);
    // Captured, so that nobody counts the inner run as a second test.
    let run = Command::new("ip")
        .args(["netns", "exec", &namespace.0])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MARK, &namespace.0)
        .output()
        .unwrap();
    let said = |stream| String::from_utf8_lossy(stream).into_owned();
    assert!(
        run.status.success(),
        "{}{}",
        said(&run.stdout),
        said(&run.stderr)
    );
    false
}

fn settings(name: &str) -> Settings {
    Settings {
        interface: Interface::find(name).unwrap(),
        queue: 0,
        frames: 512,
        force_copy: false,
    }
}

/// Both ends with the program attached and a port behind it.
struct Bench {
    inside: XdpPort,
    outside: XdpPort,
    steering: Steering,
}

impl Bench {
    fn start() -> Self {
        let mut steering = Steering::load().unwrap();
        let open = |number, name, role, steering: &mut Steering| {
            let settings = settings(name);
            let index = settings.interface.index;
            let attached = steering.attach(index, name, number, role).unwrap();
            assert!(matches!(attached.mode, Mode::Native), "{attached:?}");
            let port = XdpPort::open(&settings).unwrap();
            assert_eq!(port.copy_mode(), CopyMode::Copy);
            steering.set_socket(number, 0, port.socket()).unwrap();
            port
        };
        let inside = open(0, INSIDE, Role::Inside, &mut steering);
        let outside = open(1, OUTSIDE, Role::Outside, &mut steering);
        steering.add_local(GATEWAY).unwrap();
        Self {
            inside,
            outside,
            steering,
        }
    }
}

/// ESP to the gateway, with a number in it.
fn esp(number: u32) -> [u8; 200] {
    let mut packet = [0x5a; 200];
    packet[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 186, 0, 0, 0, 0, 64, 50]);
    packet[30..34].copy_from_slice(&GATEWAY.octets());
    packet[40..44].copy_from_slice(&number.to_be_bytes());
    packet
}

fn send(port: &mut impl Port, packet: &[u8]) -> bool {
    let Some(mut frame) = port.allocate() else {
        return false;
    };
    frame[..packet.len()].copy_from_slice(packet);
    frame.set_len(packet.len());
    match port.transmit(frame) {
        Ok(()) => true,
        Err(frame) => {
            port.discard(frame);
            false
        }
    }
}

/// Receives until `count` packets are there, or two seconds have passed.
fn receive(port: &mut impl Port, count: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let started = Instant::now();
    while packets.len() < count && started.elapsed() < Duration::from_secs(2) {
        let mut burst = ArrayVec::new();
        port.receive(&mut burst);
        packets.extend(burst.iter().map(|frame: &RxFrame| frame.to_vec()));
        port.release(burst);
        port.flush();
    }
    packets
}

#[test]
fn packets_cross_and_come_back() {
    if !inside_namespace("packets_cross_and_come_back") {
        return;
    }
    let mut bench = Bench::start();
    assert!(bench.inside.poll_fd().is_some());
    // More than any ring holds, so that every frame goes round several times.
    let mut sent = 0;
    for _ in 0..100 {
        let mut expected = Vec::new();
        for _ in 0..50 {
            assert!(send(&mut bench.inside, &esp(sent)));
            expected.push(esp(sent).to_vec());
            sent += 1;
        }
        bench.inside.flush();
        assert_eq!(receive(&mut bench.outside, 50), expected);
        assert!(send(&mut bench.outside, &esp(sent)));
        bench.outside.flush();
        assert_eq!(receive(&mut bench.inside, 1), [esp(sent).to_vec()]);
    }
    assert_eq!(bench.inside.losses(), Losses::default());
    assert_eq!(bench.outside.losses(), Losses::default());
    let counters = bench.steering.counters().unwrap();
    assert_eq!(counters[Verdict::TakeEsp as usize].1, 5100);
    assert_eq!(counters[Verdict::DropNoSocket as usize].1, 0);
}

#[test]
fn a_short_packet_is_padded_with_zeros() {
    if !inside_namespace("a_short_packet_is_padded_with_zeros") {
        return;
    }
    let mut bench = Bench::start();
    // A frame full of old secrets, used again for something short.
    for _ in 0..600 {
        assert!(send(&mut bench.inside, &esp(1)));
        bench.inside.flush();
        assert_eq!(receive(&mut bench.outside, 1).len(), 1);
    }
    assert!(send(&mut bench.inside, &esp(1)[..46]));
    bench.inside.flush();
    let mut padded = esp(1)[..46].to_vec();
    padded.resize(60, 0);
    assert_eq!(receive(&mut bench.outside, 1), [padded]);
}

#[test]
fn a_full_ring_is_a_drop_with_a_reason() {
    if !inside_namespace("a_full_ring_is_a_drop_with_a_reason") {
        return;
    }
    let mut bench = Bench::start();
    let mut sent = 0;
    let started = Instant::now();
    while sent < 1000 && started.elapsed() < Duration::from_secs(5) {
        if send(&mut bench.inside, &esp(sent)) {
            sent += 1;
        }
        bench.inside.flush();
    }
    assert_eq!(sent, 1000);
    let arrived = receive(&mut bench.outside, 512).len() as u64;
    let losses = bench.outside.losses();
    assert_eq!(arrived, 512);
    let accounted = losses.receive_ring_full + losses.fill_ring_empty + losses.receive_dropped;
    assert_eq!(accounted, 1000 - arrived, "{losses:?}");
}

#[test]
fn a_new_start_works_at_once() {
    if !inside_namespace("a_new_start_works_at_once") {
        return;
    }
    for number in 0..5 {
        let started = Instant::now();
        let mut bench = Bench::start();
        assert!(started.elapsed() < Duration::from_secs(1));
        assert!(send(&mut bench.outside, &esp(number)));
        bench.outside.flush();
        let mut burst = ArrayVec::new();
        while burst.is_empty() {
            bench.inside.receive(&mut burst);
        }
        assert_eq!(burst[0][..], esp(number));
        // The port goes before its frame: a worker may end in any order.
        drop(bench);
        assert_eq!(burst[0][..], esp(number));
    }
}

/// Not a test of its own: what `after_kill_nine_nothing_is_left` kills.
const HOLD: &str = "ESPLANADE_TEST_HOLD";

#[test]
fn after_kill_nine_nothing_is_left() {
    let name = "after_kill_nine_nothing_is_left";
    if env::var_os(HOLD).is_some() {
        let _bench = Bench::start();
        println!("\nholding");
        thread::sleep(Duration::from_secs(60));
        return;
    }
    if !inside_namespace(name) {
        return;
    }
    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let started = Instant::now();
    let mut bench = Bench::start();
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(send(&mut bench.inside, &esp(1)));
    bench.inside.flush();
    assert_eq!(receive(&mut bench.outside, 1).len(), 1);
}

#[test]
fn what_is_taken_is_refused_by_name() {
    if !inside_namespace("what_is_taken_is_refused_by_name") {
        return;
    }
    let bench = Bench::start();
    let error = XdpPort::open(&settings(INSIDE)).unwrap_err();
    assert!(
        matches!(error, OpenError::Taken { queue: 0, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("queue 0 of `veth-in` is taken"));

    let mut other = Steering::load().unwrap();
    let index = Interface::find(INSIDE).unwrap().index;
    let error = other.attach(index, INSIDE, 0, Role::Inside).unwrap_err();
    assert!(
        matches!(error, SteerError::Occupied { id: 1.., .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("`esplanade_steer` (id "),
        "{error}"
    );
    drop(bench);
    other.attach(index, INSIDE, 0, Role::Inside).unwrap();
}

#[test]
fn an_interface_without_native_mode_gets_the_generic_one() {
    if !inside_namespace("an_interface_without_native_mode_gets_the_generic_one") {
        return;
    }
    ip(&["link", "set", "lo", "mtu", "1500"]);
    let mut settings = settings("lo");
    let mut steering = Steering::load().unwrap();
    let attached = steering.attach(settings.interface.index, "lo", 0, Role::Outside);
    assert!(matches!(attached.unwrap().mode, Mode::Generic { .. }));
    settings.force_copy = true;
    let mut port = XdpPort::open(&settings).unwrap();
    steering.set_socket(0, 0, port.socket()).unwrap();
    steering.add_local(GATEWAY).unwrap();
    assert!(send(&mut port, &esp(7)));
    port.flush();
    assert_eq!(receive(&mut port, 1), [esp(7).to_vec()]);
}

#[test]
fn what_is_missing_has_its_sentence() {
    if !inside_namespace("what_is_missing_has_its_sentence") {
        return;
    }
    let error = Interface::find("nosuch0").unwrap_err();
    assert!(matches!(error, InterfaceError::Missing { .. }), "{error}");
    let mut steering = Steering::load().unwrap();
    let error = steering
        .attach(999, "nosuch0", 0, Role::Inside)
        .unwrap_err();
    assert!(matches!(error, SteerError::NoInterface { .. }), "{error}");

    let good = settings(INSIDE);
    let open = |change: &dyn Fn(&mut Settings)| {
        let mut bad = good.clone();
        change(&mut bad);
        XdpPort::open(&bad).unwrap_err()
    };
    let error = open(&|bad| bad.queue = 7);
    assert!(
        matches!(error, OpenError::NoQueue { queues: 1, .. }),
        "{error}"
    );
    let error = open(&|bad| bad.interface.name = "nosuch0".to_owned());
    assert!(matches!(error, OpenError::NoInterface { .. }), "{error}");
    let error = open(&|bad| bad.interface.mtu = 9000);
    assert!(matches!(error, OpenError::Mtu { .. }), "{error}");
    let error = open(&|bad| bad.frames = 100);
    assert!(matches!(error, OpenError::Frames { .. }), "{error}");
}

#[test]
fn without_privileges_a_socket_is_refused_and_an_open_one_works() {
    if !inside_namespace("without_privileges_a_socket_is_refused_and_an_open_one_works") {
        return;
    }
    let mut bench = Bench::start();
    thread::spawn(move || {
        become_nobody();
        let error = XdpPort::open(&settings(OUTSIDE)).unwrap_err();
        assert!(matches!(error, OpenError::Capabilities(_)), "{error}");
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
        // All that a running dataplane does: sockets into the map, packets out and in.
        let socket = bench.outside.socket();
        bench.steering.set_socket(1, 0, socket).unwrap();
        assert!(send(&mut bench.inside, &esp(1)));
        bench.inside.flush();
        assert_eq!(receive(&mut bench.outside, 1), [esp(1).to_vec()]);
    })
    .join()
    .unwrap();
}

#[test]
fn too_little_locked_memory_has_its_sentence() {
    if !inside_namespace("too_little_locked_memory_has_its_sentence") {
        return;
    }
    let low = Some(64 << 10);
    let limit = Rlimit {
        current: low,
        maximum: low,
    };
    setrlimit(Resource::Memlock, limit).unwrap();
    keep(CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN);
    let error = XdpPort::open(&settings(INSIDE)).unwrap_err();
    assert!(matches!(error, OpenError::LockedMemory { .. }), "{error}");
    let sentence = "port `veth-in` needs 2048 KiB of locked memory and the limit is 64 KiB";
    assert!(error.to_string().starts_with(sentence), "{error}");
}

/// Turns this thread (credentials belong to threads) into nobody, without any capability.
fn become_nobody() {
    let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
    keep(CapabilitySet::empty());
}

/// Drops all capabilities of this thread but these.
fn keep(capabilities: CapabilitySet) {
    let sets = CapabilitySets {
        effective: capabilities,
        permitted: capabilities,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).unwrap();
}
