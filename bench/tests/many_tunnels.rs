//! A hundred tunnels at once: how soon all of them carry traffic again after the dataplane was killed.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{bed, eventually, ready};
use esplanade_bench::gateway::{Gateway, write_config};
use esplanade_bench::testbed::{HOST, INSIDE, OUTSIDE, OUTSIDE_A, OUTSIDE_B, Testbed, kill};
use esplanade_bench::wire_tap::{Depth, WireTap};

/// How many flows there are, each protected by child SAs of its own.
const FLOWS: u8 = 100;
/// How often each flow sends.
const INTERVAL: Duration = Duration::from_millis(20);
const PORT: u16 = 40_001;
const SECRET: &str = "correct horse battery staple";
/// What is asked for is a second after the dataplane's restart; it is printed. What fails the test is
/// a time that no busy machine explains.
const HOPELESS: Duration = Duration::from_secs(5);

/// How the flows are spread over tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A tunnel for each flow, from an outer address of its own.
    Tunnels,
    /// One tunnel with a child for each flow: the rekeys follow each other on one IKE SA.
    Children,
}

/// The addresses of the hosts between which flow `n` runs.
fn ends(n: u8) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(10, 1, 1, n), Ipv4Addr::new(10, 2, 1, n))
}

fn flows() -> impl Iterator<Item = u8> {
    1..=FLOWS
}

impl Shape {
    /// A's outer address for flow `n`.
    fn outer(self, n: u8) -> Ipv4Addr {
        match self {
            Self::Tunnels => Ipv4Addr::new(192, 0, 2, 100 + n),
            Self::Children => OUTSIDE_A,
        }
    }

    fn yaml(self, at_a: bool) -> String {
        let core = if at_a { 1 } else { 0 };
        let mut yaml = format!(
            "dataplane:
  workers: [{core}]
  polling: adaptive
  ports:
    lan: {{ interface: {INSIDE}, role: inside }}
    wan: {{ interface: {OUTSIDE}, role: outside }}
tunnels:
"
        );
        match self {
            Self::Tunnels => flows().for_each(|n| {
                self.tunnel(&mut yaml, at_a, n);
                child(&mut yaml, at_a, n);
            }),
            Self::Children => {
                self.tunnel(&mut yaml, at_a, 1);
                flows().for_each(|n| child(&mut yaml, at_a, n));
            }
        }
        yaml
    }

    fn tunnel(self, yaml: &mut String, at_a: bool, n: u8) {
        let a = format!(
            "{{ address: {}, identity: a{n}.example.org }}",
            self.outer(n)
        );
        let b = format!("{{ address: {OUTSIDE_B}, identity: b{n}.example.org }}");
        let (local, remote, start) = if at_a {
            (a, b, "at-once")
        } else {
            (b, a, "wait")
        };
        writeln!(
            yaml,
            "  tunnel{n}:
    local: {local}
    remote: {remote}
    authentication: {{ psk: {{ file: psk }} }}
    ike: {{ proposals: [aes256gcm16-sha384-x25519] }}
    start: {start}
    children:"
        )
        .expect("a string takes it");
    }
}

fn child(yaml: &mut String, at_a: bool, n: u8) {
    let (a, b) = ends(n);
    let (local, remote) = if at_a { (a, b) } else { (b, a) };
    writeln!(
        yaml,
        "      flow{n}: {{ local: [{local}/32], remote: [{remote}/32], \
         proposals: [aes256gcm16-x25519] }}"
    )
    .expect("a string takes it");
}

fn give_addresses(bed: &Testbed, shape: Shape) {
    let lines = |address: &dyn Fn(u8) -> Ipv4Addr, length: u8, device: &str| -> String {
        flows()
            .map(|n| format!("addr add {}/{length} dev {device}\n", address(n)))
            .collect()
    };
    let hosts = [
        (&bed.host_a, lines(&|n| ends(n).0, 16, HOST)),
        (&bed.host_b, lines(&|n| ends(n).1, 16, HOST)),
    ];
    for (host, lines) in hosts {
        host.ip(&lines).expect("addresses");
    }
    if shape == Shape::Tunnels {
        let lines = lines(&|n| shape.outer(n), 24, OUTSIDE);
        bed.gateway_a.ip(&lines).expect("outer addresses");
    }
}

/// Every flow's sender and the one receiver of all.
struct Flows {
    sources: Vec<UdpSocket>,
    sink: UdpSocket,
    /// The moment when each flow last got through since it was cleared.
    first: Mutex<Vec<Option<Instant>>>,
    over: AtomicBool,
}

impl Flows {
    fn open(bed: &Testbed) -> Self {
        let sink = bed
            .host_b
            .enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?))
            .expect("a sink");
        sink.set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a limit");
        let open = |n| {
            let (from, to) = ends(n);
            let socket = UdpSocket::bind((from, 0))?;
            socket.connect((to, PORT))?;
            Ok(socket)
        };
        let sources = bed
            .host_a
            .enter(|| flows().map(open).collect())
            .expect("the sources");
        Self {
            sources,
            sink,
            first: Mutex::new(vec![None; usize::from(FLOWS)]),
            over: AtomicBool::new(false),
        }
    }

    fn send(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let next = Instant::now() + INTERVAL;
            for source in &self.sources {
                // What an ICMP error said of an earlier datagram; the receiver knows what came.
                let _ = source.send(&[0; 64]);
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn receive(&self) {
        let mut datagram = [0; 128];
        while !self.over.load(Ordering::Relaxed) {
            match self.sink.recv_from(&mut datagram) {
                Ok((_, from)) => self.note(from),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("the sink: {error}"),
            }
        }
    }

    fn note(&self, from: SocketAddr) {
        let now = Instant::now();
        let IpAddr::V4(from) = from.ip() else { return };
        let index = usize::from(from.octets()[3]).wrapping_sub(1);
        if let Some(first) = self.first.lock().expect("the moments").get_mut(index) {
            first.get_or_insert(now);
        }
    }

    fn forget(&self) {
        self.first.lock().expect("the moments").fill(None);
    }

    /// The moments when each flow got through for the first time since [`Flows::forget`], in order;
    /// waits until all have.
    fn all_through(&self, limit: Duration) -> Vec<Instant> {
        let start = Instant::now();
        loop {
            let first = self.first.lock().expect("the moments").clone();
            let mut through: Vec<Instant> = first.into_iter().flatten().collect();
            if through.len() == usize::from(FLOWS) {
                through.sort_unstable();
                return through;
            }
            assert!(
                start.elapsed() < limit,
                "only {} flows of {FLOWS} got through within {limit:?}",
                through.len()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends while `work` runs.
    fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        /// Ends the threads however `work` ends.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            let _end = End(&self.over);
            scope.spawn(|| self.send());
            scope.spawn(|| self.receive());
            work()
        })
    }
}

/// When a process was started, to a hundredth of a second.
fn started(process: u32) -> Instant {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("its stat");
    // The name, in parentheses, may hold spaces; the start is field 22 of proc_pid_stat(5).
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 = fields
        .split(' ')
        .nth(19)
        .and_then(|field| field.parse().ok())
        .expect("a start time");
    let uptime = fs::read_to_string("/proc/uptime").expect("the uptime");
    let uptime: f64 = uptime
        .split(' ')
        .next()
        .and_then(|field| field.parse().ok())
        .expect("the uptime");
    // USER_HZ is 100 on every architecture that we build for.
    Instant::now() - Duration::from_secs_f64((uptime - ticks / 100.0).max(0.0))
}

fn outbound_spis(gateway: &Gateway<'_>) -> BTreeSet<String> {
    let sas = gateway.sas().expect("sas");
    sas.iter()
        .filter(|sa| sa.direction == "out")
        .map(|sa| sa.spi.clone())
        .collect()
}

fn all_flow_again(shape: Shape) {
    if !ready() {
        return;
    }
    let bed = bed();
    give_addresses(&bed, shape);
    let start = |namespace, at_a| {
        let config = write_config(namespace, &shape.yaml(at_a), SECRET).expect("a file");
        Gateway::run(namespace, &config, false, bed.log_dir()).expect("a gateway")
    };
    let b = start(&bed.gateway_b, false);
    let a = start(&bed.gateway_a, true);
    let limit = Duration::from_secs(30);
    a.wait_until_up(limit).expect("the tunnels at A");
    b.wait_until_up(limit).expect("the tunnels at B");
    let wire = bed.wire.as_ref().expect("a bridge");
    let tap = WireTap::start(wire, Testbed::TAP, Depth::Headers, b"").expect("a listener");

    let flows = Flows::open(&bed);
    flows.during(|| {
        flows.all_through(Duration::from_secs(20));
        for round in 1..=3 {
            let (old, spis) = (a.dataplane_id().expect("an id"), outbound_spis(&a));
            let killed = Instant::now();
            kill(old);
            // What was on its way when it died has arrived by then; no successor is as quick.
            std::thread::sleep(Duration::from_millis(3));
            flows.forget();
            let through = flows.all_through(HOPELESS + Duration::from_secs(2));
            let new = a.dataplane_id().expect("an id");
            assert_ne!(new, old, "a new dataplane");
            let returned = started(new);
            let since = |moment: Option<&Instant>| {
                moment.map_or(Duration::ZERO, |moment| {
                    moment.saturating_duration_since(returned)
                })
            };
            println!(
                "{shape:?}, round {round}: the dataplane started {:?} after it was killed; after its start the \
                 first flow came at {:?}, the median at {:?}, the last of {FLOWS} at {:?}",
                returned.saturating_duration_since(killed),
                since(through.first()),
                since(through.get(through.len() / 2)),
                since(through.last()),
            );
            assert!(since(through.last()) < HOPELESS);
            let fresh = outbound_spis(&a);
            assert!(fresh.is_disjoint(&spis), "every child SA is a fresh one");
            eventually("the old SAs to go at the peer", || {
                b.sas().is_ok_and(|sas| sas.len() == 2 * usize::from(FLOWS))
            });
        }
    });
    let seen = tap.stop().expect("what was seen");
    assert!(seen.only_protected(), "{seen:?}");
    assert_eq!(
        seen.repeated_nonces, 0,
        "no sequence number twice under one key"
    );
}

#[test]
fn a_hundred_tunnels_flow_again_after_the_dataplane_died() {
    all_flow_again(Shape::Tunnels);
}

#[test]
fn a_hundred_children_of_one_tunnel_flow_again_after_the_dataplane_died() {
    all_flow_again(Shape::Children);
}
