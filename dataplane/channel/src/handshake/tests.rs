//! Both ends over a real socket in a directory of their own.

use super::{
    connect::receive,
    message::{decode_setup, encode_setup, encode_setup_as},
    *,
};
use crate::{
    Command, CommandError, ControlChannel, CopyMode, Counter, Epoch, Event, EventError, Facts,
    InboundSa, KeyMaterial, LAYOUT_HASH, Label, Lifetime, MapError, Mode, PolicyId, Polling,
    PortCounter, PortFacts, PortId, PortMode, PortSetup, PortVlan, Role, SaId, Segment, Sequence,
    Setup, SetupError, Transform, VERSION, WorkerEnd, WorkerId, WorkerSetup, layout::Layout,
    mapping::Mapping, words::Words,
};
use proptest::prelude::*;
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    net::{SendFlags, SocketAddrUnix},
};
use std::{
    net::Ipv4Addr, os::unix::fs::PermissionsExt, path::Path, sync::atomic::Ordering, thread,
};

const SOON: Duration = Duration::from_secs(10);
const STEWARD: WorkerId = WorkerId(2);

fn setup() -> Setup {
    let port = |interface: &str, role| PortSetup {
        vlan: None,
        interface: interface.to_owned(),
        role,
    };
    Setup {
        workers: vec![WorkerSetup { core: Some(1) }, WorkerSetup { core: None }],
        ports: vec![port("lan0", Role::Inside), port("wan0", Role::Outside)],
        polling: Polling::Adaptive,
        sa_capacity: 64,
        engine: None,
        ring_frames: 2048,
    }
}

fn vlan() -> impl Strategy<Value = Option<PortVlan>> {
    let vlan = ("[a-z0-9.]{1,15}", 1..=crate::MAX_VLAN);
    prop::option::of(vlan.prop_map(|(carrier, id)| PortVlan { carrier, id }))
}

/// The ports of one interface have VLANs of their own.
#[test]
fn no_frames_are_two_ports() {
    let port = |interface: &str, vlan| PortSetup {
        interface: interface.to_owned(),
        vlan,
        role: Role::Inside,
    };
    let on = |carrier: &str, id| {
        let carrier = carrier.to_owned();
        Some(PortVlan { carrier, id })
    };
    let check = |ports| Setup { ports, ..setup() }.check();
    let good = vec![
        port("lan", None),
        port("lan.5", on("lan", 5)),
        port("lan.6", on("lan", 6)),
        port("other", on("lan2", 5)),
    ];
    assert_eq!(check(good.clone()), Ok(()));
    for bad in [
        port("another", on("lan", 5)),
        port("lan.5", on("lan2", 7)),
        port("zero", on("lan", 0)),
        port("beyond", on("lan", 4095)),
        port("nowhere", on("", 5)),
    ] {
        let ports = good.iter().cloned().chain([bad.clone()]).collect();
        assert!(check(ports).is_err(), "{bad:?}");
    }
    let renumbered = |id| Setup {
        ports: vec![port("lan.5", on("lan", id))],
        ..setup()
    };
    let difference = renumbered(5).difference(&renumbered(6)).unwrap();
    assert_eq!(difference.running, "lan.5 (inside, VLAN 5 of lan)");
}

fn facts() -> Facts {
    Facts {
        epoch: Epoch(0x1234_5678_9abc_def0),
        engine: "portable".to_owned(),
        ports: vec![
            PortFacts {
                mode: PortMode::Native,
                copy: CopyMode::ZeroCopy,
                queues: 8,
            },
            PortFacts {
                mode: PortMode::Generic,
                copy: CopyMode::Copy,
                queues: 1,
            },
        ],
    }
}

fn segment() -> Segment {
    Segment::create(&setup(), &facts()).unwrap().0
}

fn install(key: u8) -> Command {
    Command::InstallInbound(InboundSa {
        sa: SaId::from_parts(5, 0x123).unwrap(),
        policy: PolicyId(256),
        transform: Transform::AES_256_GCM_16,
        key: KeyMaterial::new(&[key; 36]).unwrap(),
        esn: true,
        window: 1024,
        local: Ipv4Addr::new(192, 0, 2, 1).into(),
        remote: Ipv4Addr::new(192, 0, 2, 2).into(),
        encapsulation: None,
        mode: Mode::Tunnel,
        original: None,
        follow: false,
        owner: WorkerId(0),
        lifetime: Lifetime::default(),
        label: Label::new("site-b/lan"),
    })
}

/// What a client that asks for `wanted` and a dataplane that has `segment` come to.
fn meet(
    run_dir: &Path,
    listener: &Listener,
    segment: &Segment,
    wanted: &Setup,
) -> (
    Result<ControlChannel, ConnectError>,
    Result<Connection, GrantError>,
) {
    thread::scope(|scope| {
        let client = scope.spawn(|| ControlChannel::connect(run_dir, wanted));
        let pending = listener.accept(SOON).unwrap().unwrap();
        assert_eq!(pending.setup(), wanted);
        assert_eq!(pending.peer().pid, std::process::id());
        let granted = pending.grant(segment);
        let channel = client.join().unwrap().map(|(channel, _)| channel);
        (channel, granted)
    })
}

/// What a client hears that sends `message` instead of a setup.
fn say(run_dir: &Path, listener: &Listener, message: &[u8]) -> (ConnectError, AcceptError) {
    let socket = socket(SocketFlags::empty()).unwrap();
    let path = run_dir.join(SOCKET_NAME);
    rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::send(&socket, message, SendFlags::NOSIGNAL).unwrap();
    let refused = listener.accept(SOON).unwrap_err();
    (receive(&socket, &path).unwrap_err(), refused)
}

fn sequence_of(worker: &mut WorkerEnd) -> (Sequence, Result<Command, CommandError>) {
    let received = worker.commands.receive().unwrap();
    (received.sequence, received.command)
}

#[test]
fn commands_go_down_and_events_come_up() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(dir.path()).unwrap();
    let segment = segment();
    let mut worker = segment.worker(WorkerId(1)).unwrap();
    let mut steward = segment.worker(setup().steward()).unwrap();
    let (channel, connection) = meet(dir.path(), &listener, &segment, &setup());
    let (mut channel, connection) = (channel.unwrap(), connection.unwrap());
    assert_eq!(channel.facts(), &facts());
    assert_eq!(channel.dataplane_pid(), std::process::id());
    assert!(channel.is_open() && connection.is_open());

    let sender = channel.sender(WorkerId(1)).unwrap();
    let sequence = sender.push(&install(0xa5)).unwrap();
    sender.wake();
    assert_eq!(sequence_of(&mut worker), (sequence, Ok(install(0xa5))));
    assert!(worker.commands.receive().is_none());
    assert!(sender.applied() < sequence, "it was taken, not applied");
    worker.commands.applied();
    assert_eq!(sender.applied(), sequence);

    let missing = Event::NeighborMissing {
        port: PortId(1),
        address: Ipv4Addr::new(192, 0, 2, 254).into(),
    };
    assert_eq!(channel.next_event(), None);
    steward.events.push(&missing).unwrap();
    steward.events.flush();
    assert_eq!(channel.next_event(), Some((STEWARD, Ok(missing))));
    assert_eq!(channel.next_event(), None);

    worker.counters.add(Counter::InPackets, 3);
    steward.counters.set(Counter::InPackets, 4);
    worker.counters.add_port(PortId(1), PortCounter::RxBytes, 5);
    worker.heartbeat.beat(77);
    let counters = channel.counters();
    assert_eq!(counters.get(WorkerId(1), Counter::InPackets), 3);
    assert_eq!(counters.total(Counter::InPackets), 7);
    assert_eq!(counters.port_total(PortId(1), PortCounter::RxBytes), 5);
    assert_eq!(counters.port_total(PortId(0), PortCounter::RxBytes), 0);
    assert_eq!(channel.heartbeat(WorkerId(1)), 77);
}

#[test]
fn each_learns_that_the_other_is_gone() {
    let segment = segment();
    let (channel, connection) = segment.connect_locally().unwrap();
    drop(channel);
    assert!(!connection.is_open());
    let (channel, connection) = segment.connect_locally().unwrap();
    drop(connection);
    assert!(!channel.is_open());
}

#[test]
fn a_returning_control_plane_finds_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(dir.path()).unwrap();
    let segment = segment();
    let mut worker = segment.worker(WorkerId(0)).unwrap();
    let (first, _) = meet(dir.path(), &listener, &segment, &setup());
    let mut first = first.unwrap();
    let before = first
        .sender(WorkerId(0))
        .unwrap()
        .push(&install(1))
        .unwrap();
    drop(first);

    let (second, _) = meet(dir.path(), &listener, &segment, &setup());
    let mut second = second.unwrap();
    assert_eq!(second.epoch(), facts().epoch);
    let sender = second.sender(WorkerId(0)).unwrap();
    assert_eq!(
        sender.pushed(),
        before,
        "it goes on where the first stopped"
    );
    let after = sender.push(&Command::EndSync).unwrap();
    assert!(after > before);
    assert_eq!(sequence_of(&mut worker), (before, Ok(install(1))));
    assert_eq!(sequence_of(&mut worker), (after, Ok(Command::EndSync)));
}

#[test]
fn keys_are_wiped_once_taken() {
    let segment = segment();
    let (mut channel, _connection) = segment.connect_locally().unwrap();
    let mut worker = segment.worker(WorkerId(0)).unwrap();
    let memory = Mapping::open(segment.descriptors()[0], Layout::new(&setup()).words());
    let (memory, _) = memory.unwrap();
    let holds_key = || {
        let key = u64::from_ne_bytes([0xa5; 8]);
        let word = |word: &std::sync::atomic::AtomicU64| word.load(Ordering::Relaxed) == key;
        memory.words().iter().any(word)
    };
    channel
        .sender(WorkerId(0))
        .unwrap()
        .push(&install(0xa5))
        .unwrap();
    assert!(holds_key());
    assert!(worker.commands.receive().is_some());
    assert!(!holds_key());
}

#[test]
fn what_a_misbehaving_control_plane_writes_is_refused_and_counted() {
    let segment = segment();
    let layout = Layout::new(&setup());
    let memory = Mapping::open(segment.descriptors()[0], layout.words());
    let (memory, _) = memory.unwrap();
    let mut worker = segment.worker(WorkerId(0)).unwrap();
    let (channel, _connection) = segment.connect_locally().unwrap();
    let ring = layout.command_ring(&memory, WorkerId(0));
    let head = &ring.words()[0];
    head.store(1, Ordering::Release);
    let (_, command) = sequence_of(&mut worker);
    assert_eq!(command, Err(CommandError::Malformed));
    head.store(u64::MAX / 2, Ordering::Release);
    assert!(worker.commands.receive().is_none());
    assert!(worker.commands.receive().is_none());
    let counters = channel.counters();
    assert_eq!(counters.total(Counter::CommandsMalformed), 1);
    assert_eq!(counters.total(Counter::CommandRingCorrupt), 1, "said once");
}

#[test]
fn what_a_misbehaving_dataplane_writes_is_refused() {
    let segment = segment();
    let layout = Layout::new(&setup());
    let memory = Mapping::open(segment.descriptors()[0], layout.words());
    let (memory, _) = memory.unwrap();
    let (mut channel, _connection) = segment.connect_locally().unwrap();
    let ring = layout.event_ring(&memory, WorkerId(1));
    let words = ring.words();
    words[crate::ring::HEADER_WORDS].store(99, Ordering::Relaxed);
    words[0].store(2, Ordering::Release);
    let malformed = Err(EventError::Malformed { kind: 99 });
    assert_eq!(channel.next_event(), Some((WorkerId(1), malformed)));
    assert_eq!(channel.next_event(), None, "a wiped slot is passed over");
    words[0].store(u64::MAX, Ordering::Release);
    let corrupt = Err(EventError::Corrupt);
    assert_eq!(channel.next_event(), Some((WorkerId(1), corrupt)));
    assert_eq!(channel.next_event(), None, "said once");
}

#[test]
fn another_setup_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(dir.path()).unwrap();
    let segment = segment();
    type Change = fn(&mut Setup);
    let cases: [(Change, &str); 5] = [
        (|s| s.workers.truncate(1), "the number of workers is 2 in"),
        (
            |s| s.workers[1].core = Some(3),
            "the core of worker 1 is any in",
        ),
        (
            |s| s.ports[1].interface = "wan1".to_owned(),
            "port 1 is wan0 (outside) in the running dataplane and wan1 (outside) in what",
        ),
        (|s| s.polling = Polling::Busy, "polling is adaptive in"),
        (
            |s| s.engine = Some("portable".to_owned()),
            "the crypto engine is the fastest in",
        ),
    ];
    for (change, sentence) in cases {
        let mut wanted = setup();
        change(&mut wanted);
        let (refused, granted) = meet(dir.path(), &listener, &segment, &wanted);
        let refused = refused.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused(_)));
        assert!(refused.to_string().contains(sentence), "{refused}");
        assert!(matches!(granted, Err(GrantError::Different(_))));
    }
}

#[test]
fn another_build_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(dir.path()).unwrap();
    let message = encode_setup_as(&setup(), VERSION + 1, 0xfeed);
    let (heard, refused) = say(dir.path(), &listener, &message);
    let heard = heard.to_string();
    let ours = format!("version {VERSION} and layout {LAYOUT_HASH:016x}");
    let theirs = format!("version {} and layout 000000000000feed", VERSION + 1);
    assert!(heard.contains(&ours) && heard.contains(&theirs), "{heard}");
    assert!(heard.contains("restart both planes from the same build"));
    assert!(matches!(
        refused,
        AcceptError::Mismatch { hash: 0xfeed, .. }
    ));
}

#[test]
fn memory_of_another_build_is_refused() {
    let segment = segment();
    let layout = Layout::new(&setup());
    let memory = Mapping::open(segment.descriptors()[0], layout.words());
    let (memory, _) = memory.unwrap();
    memory.words()[crate::layout::header::HASH].store(0xfeed, Ordering::Relaxed);
    let error = segment.connect_locally().unwrap_err().to_string();
    assert!(error.contains("000000000000feed"), "{error}");
    memory.words()[0].store(1, Ordering::Relaxed);
    let error = segment.connect_locally().unwrap_err().to_string();
    assert!(error.contains("does not begin as it should"), "{error}");
}

#[test]
fn one_who_makes_no_sense_is_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(dir.path()).unwrap();
    let (heard, refused) = say(dir.path(), &listener, b"hello");
    assert!(matches!(heard, ConnectError::Refused(_)));
    assert!(matches!(refused, AcceptError::Garbage(_)));
    let mut long = encode_setup(&setup());
    long.extend([0; 4096]);
    let (_, refused) = say(dir.path(), &listener, &long);
    assert!(matches!(refused, AcceptError::Garbage(_)));
}

#[test]
fn memory_that_can_be_cut_is_refused() {
    let words = 512;
    let memfd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, words as u64 * 8).unwrap();
    let error = Mapping::open(&memfd, words).unwrap_err();
    assert!(matches!(error, MapError::Unsealed { found: 0, .. }));
    assert!(
        error
            .to_string()
            .contains("could cut it while it is in use")
    );
    let sealed = crate::mapping::create(words).unwrap();
    assert!(Mapping::open(&sealed, words).is_ok());
    let error = Mapping::open(&sealed, words * 2).unwrap_err();
    assert!(matches!(
        error,
        MapError::Size {
            found: 4096,
            wanted: 8192
        }
    ));
    assert!(ftruncate(&sealed, 0).is_err(), "the seals hold");
    let file = tempfile::tempfile().unwrap();
    let error = Mapping::open(&file, words).unwrap_err();
    assert!(matches!(
        error,
        MapError::NoMemfd { .. } | MapError::Unsealed { .. }
    ));
}

#[test]
fn too_few_descriptors_are_refused() {
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = ControlChannel::attach(one.into(), Vec::new(), &setup()).unwrap_err();
    assert!(matches!(
        error,
        ConnectError::Descriptors {
            found: 0,
            wanted: 5
        }
    ));
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let path = run_dir.join(SOCKET_NAME);
    let first = Listener::bind(&run_dir).unwrap();
    assert_eq!(
        run_dir.metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let error = Listener::bind(&run_dir).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("process {} listens on", std::process::id())),
        "{error}"
    );
    // Whoever only looks is nobody to answer.
    assert!(first.accept(SOON).unwrap().is_none());

    // As after kill -9: the socket is gone, its file is not.
    let stale = run_dir.join("aside");
    std::fs::hard_link(&path, &stale).unwrap();
    drop(first);
    assert!(!path.exists(), "a clean end removes the file");
    std::fs::rename(&stale, &path).unwrap();
    let second = Listener::bind(&run_dir).unwrap();
    assert!(second.accept(Duration::ZERO).unwrap().is_none());
}

#[test]
fn a_run_directory_for_everybody_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = Listener::bind(dir.path()).unwrap_err();
    assert!(matches!(error, BindError::Writable { mode: 0o777, .. }));
}

#[test]
fn a_dataplane_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = ControlChannel::connect(dir.path(), &setup()).unwrap_err();
    assert!(matches!(error, ConnectError::NotRunning { .. }));
    assert!(
        error
            .to_string()
            .contains("start `esplanade-dataplane --run-dir"),
        "{error}"
    );
}

#[test]
fn a_refusal_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(dir.path()).unwrap();
    let error = thread::scope(|scope| {
        let client = scope.spawn(|| ControlChannel::connect(dir.path(), &setup()));
        let pending = listener.accept(SOON).unwrap().unwrap();
        pending.refuse("there is no interface `lan0`\n");
        client.join().unwrap().unwrap_err()
    });
    let sentence = "the dataplane refused: there is no interface `lan0` ";
    assert_eq!(error.to_string(), sentence);
}

#[test]
fn an_end_can_be_had_once() {
    let segment = segment();
    assert!(segment.worker(WorkerId(0)).is_ok());
    assert!(segment.worker(WorkerId(0)).is_err());
    assert!(segment.worker(WorkerId(3)).is_err());
    assert!(segment.waker(STEWARD).is_some() && segment.waker(WorkerId(3)).is_none());
}

#[test]
fn a_setup_out_of_bounds_is_refused() {
    let refused = |change: fn(&mut Setup)| {
        let mut setup = setup();
        change(&mut setup);
        setup.check().unwrap_err().to_string()
    };
    assert!(setup().check().is_ok());
    assert_eq!(
        refused(|s| s.workers.clear()),
        "0 workers: there must be 1 to 64"
    );
    assert!(refused(|s| s.ring_frames = 1000).contains("power of two"));
    assert!(refused(|s| s.ports[0].interface = "x".repeat(16)).contains("1 to 15"));
    assert!(refused(|s| s.ports[1].interface = "lan0".to_owned()).contains("`lan0`"));
    let mut none = setup();
    none.sa_capacity = 0;
    assert!(matches!(
        Segment::create(&none, &facts()),
        Err(crate::SegmentError::Setup(SetupError::OutOfBounds { .. }))
    ));
}

proptest! {
    #[test]
    fn a_setup_is_read_as_it_was_written(
        cores in prop::collection::vec(any::<Option<u16>>(), 1..=64),
        names in prop::collection::vec(("[a-z0-9.]{1,15}", 0..3usize, vlan()), 1..=16),
        sizes in any::<(u32, u32)>(),
        busy in any::<bool>(),
        engine in prop::option::of("[a-z-]{1,31}"),
    ) {
        let setup = Setup {
            workers: cores.into_iter().map(|core| WorkerSetup { core }).collect(),
            ports: names
                .into_iter()
                .map(|(interface, role, vlan)| PortSetup {
                    vlan,
                    interface,
                    role: [Role::Inside, Role::Outside, Role::Host][role],
                })
                .collect(),
            polling: if busy { Polling::Busy } else { Polling::Adaptive },
            sa_capacity: sizes.0,
            ring_frames: sizes.1,
            engine,
        };
        let message = encode_setup(&setup);
        prop_assert!(message.len() <= message::MAX_MESSAGE);
        for end in 0..message.len() {
            prop_assert!(decode_setup(&message[..end]).is_err());
        }
        prop_assert_eq!(decode_setup(&message), Ok(setup));
    }

    #[test]
    fn any_message_is_read_or_refused(
        ours in any::<bool>(),
        tail in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let mut bytes = if ours { encode_setup(&setup())[..20].to_vec() } else { Vec::new() };
        bytes.extend(tail);
        let _ = decode_setup(&bytes);
        let _ = message::decode_answer(&bytes);
    }
}
