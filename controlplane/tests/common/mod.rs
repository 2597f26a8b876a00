//! What the tests of whole daemons share: a network of their own, daemons in it, and dataplanes that only write down
//! what they are told.

#![allow(dead_code)]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use esplanade_channel::{
    Command as Order, CommandError, Connection, CopyMode, Direction, Epoch, Event, Facts,
    InboundSa, Listener, OutboundSa, Pending, PortFacts, PortMode, SaRecord, SaState, SaStatistics,
    Segment, WorkerEnd, WorkerId,
};
use esplanade_controlplane::api::Status;

/// How long a thing that is on its way may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The pre-shared key of [`peer_config`].
pub const PSK: &str = "correct horse battery staple";

/// The network of two daemons that are each other's peers.
pub const PEERS: &str = "ip link set lo up
ip link add eth1 type veth peer name eth1p
ip link add eth2 type veth peer name eth2p
for i in eth1 eth1p eth2 eth2p; do ip link set $i up; done
ip address add 192.0.2.1/24 dev eth2
ip address add 192.0.2.2/24 dev eth2
";

/// Daemon 1, which calls, or daemon 2, which waits.
pub fn peer_config(own: u8) -> String {
    let other = 3 - own;
    let start = if own == 1 { "at-once" } else { "wait" };
    format!(
        "dataplane:
  workers: [0]
  guard: off
  ports:
    lan: {{ interface: eth1, role: inside }}
    wan: {{ interface: eth2, role: outside }}
tunnels:
  peer:
    local: {{ address: 192.0.2.{own}, identity: gw{own}.example.org }}
    remote: {{ address: 192.0.2.{other}, identity: gw{other}.example.org }}
    authentication: {{ psk: {{ secret: \"{PSK}\" }} }}
    start: {start}
    children:
      net: {{ local: [10.{own}.0.0/16], remote: [10.{other}.0.0/16] }}
"
    )
}

/// Writes a file that only its owner reads.
pub fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs `esplanade` against a daemon, or against none.
pub fn esplanade(arguments: &[&str]) -> (String, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esplanade"));
    let output = command.args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (text(output.stdout), text(output.stderr), code)
}

/// A network namespace and a directory. Both go when this is dropped.
pub struct Bed {
    directory: tempfile::TempDir,
    holder: Child,
}

impl Bed {
    /// A namespace in which this script has run; `None`, and a line on standard error, where there can be none.
    pub fn new(network: &str) -> Option<Self> {
        let made = Command::new("unshare").args(["--net", "true"]).output();
        if !made.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let script = format!("{network}echo ready; exec cat");
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-e", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(holder.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "the network cannot be made");
        Some(Self { directory, holder })
    }

    /// A file or directory of ours.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A process whose namespace is this one.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// A command in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.holder.id().to_string();
        command.args(["--net", "--target", &target, program]);
        command
    }

    /// What a line of shell prints in the namespace.
    pub fn shell(&self, line: &str) -> String {
        let output = self.command("sh").args(["-c", line]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The command that runs a daemon of this name with this configuration.
    pub fn daemon(&self, name: &str, config: &str) -> Command {
        let path = self.path(&format!("{name}.yaml"));
        write(&path, config);
        let mut command = self.command(env!("CARGO_BIN_EXE_esplanade-controlplane"));
        command.arg("--config").arg(path);
        command.arg("--run-dir").arg(self.path(name));
        command
    }

    /// Runs such a daemon.
    pub fn start(&self, name: &str, config: &str) -> Daemon {
        Daemon::start(self.daemon(name, config), self.path(name))
    }

    /// Runs daemons 2 and 1 of [`peer_config`], each with its dataplane. They log as much as `level` says to `2.log`
    /// and `1.log`. The one that waits comes first, so that the other finds it awake.
    pub fn peers(&self, level: &str) -> [(Daemon, Scribe); 2] {
        [2, 1].map(|own| {
            let name = own.to_string();
            let log = fs::File::create(self.path(&format!("{name}.log"))).unwrap();
            let mut command = self.daemon(&name, &peer_config(own));
            command.env("ESPLANADE_LOG", level).stderr(log);
            let daemon = Daemon::start(command, self.path(&name));
            let scribe = Scribe::grant(accept(&daemon.listener()));
            (daemon, scribe)
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A running daemon; it is killed when this is dropped.
pub struct Daemon {
    process: Child,
    run_dir: PathBuf,
}

impl Daemon {
    /// Runs what [`Bed::daemon`] made.
    pub fn start(mut command: Command, run_dir: PathBuf) -> Self {
        command.arg("--supervised").stdin(Stdio::piped());
        let process = command.spawn().unwrap();
        Self { process, run_dir }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its run directory, where it looks for a dataplane.
    pub fn listener(&self) -> Listener {
        Listener::bind(&self.run_dir).unwrap()
    }

    /// Runs `esplanade` against it.
    pub fn esplanade(&self, arguments: &[&str]) -> (String, String, i32) {
        let run_dir = self.run_dir.to_str().unwrap();
        esplanade(&[arguments, &["--run-dir", run_dir]].concat())
    }

    /// As [`Daemon::esplanade`], without waiting for it.
    pub fn ask(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esplanade"));
        command.args(arguments).arg("--run-dir").arg(&self.run_dir);
        command.stdout(Stdio::null()).spawn().unwrap()
    }

    /// `esplanade status`.
    pub fn status(&self) -> Status {
        let (text, error, _) = self.esplanade(&["status", "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{error}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The next control plane that connects.
pub fn accept(listener: &Listener) -> Pending {
    let accepted = listener.accept(PATIENCE).unwrap();
    accepted.expect("nobody connected in time")
}

/// A dataplane that obeys everything, shows its SAs, and forwards nothing.
pub struct Scribe {
    segment: Segment,
    connection: Option<Connection>,
    pub worker: WorkerEnd,
    /// Workers beyond the first, which shows what all of them have.
    others: Vec<WorkerEnd>,
    pub steward: WorkerEnd,
}

impl Scribe {
    /// Begins its life with this control plane.
    pub fn grant(pending: Pending) -> Self {
        let setup = pending.setup().clone();
        let port = PortFacts {
            mode: PortMode::Native,
            copy: CopyMode::Copy,
            queues: 1,
        };
        let facts = Facts {
            epoch: Epoch::draw().unwrap(),
            engine: "none".into(),
            ports: vec![port; setup.ports.len()],
        };
        let (segment, _) = Segment::create(&setup, &facts).unwrap();
        let worker = segment.worker(WorkerId(0)).unwrap();
        let others = (1..setup.workers.len() as u16).map(WorkerId);
        let others = others
            .map(|worker| segment.worker(worker).unwrap())
            .collect();
        let steward = segment.worker(setup.steward()).unwrap();
        let connection = Some(pending.grant(&segment).unwrap());
        Self {
            segment,
            connection,
            worker,
            others,
            steward,
        }
    }

    /// Goes out of reach, and lives on.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Goes on with this control plane.
    pub fn go_on(&mut self, pending: Pending) {
        self.connection = Some(pending.grant(&self.segment).unwrap());
    }

    /// Obeys what has come; returns what came to the worker and to the steward.
    pub fn obey(&mut self) -> (Vec<Order>, Vec<Order>) {
        self.obey_unless(|_| false)
    }

    /// As [`Scribe::obey`], but what the worker `refuses` there is no room for.
    pub fn obey_unless(
        &mut self,
        mut refuses: impl FnMut(&Order) -> bool,
    ) -> (Vec<Order>, Vec<Order>) {
        let mut steward = Vec::new();
        while let Some(received) = self.steward.commands.receive() {
            self.steward.commands.applied();
            steward.push(received.command.unwrap());
        }
        for other in &mut self.others {
            while other.commands.receive().is_some() {
                other.commands.applied();
            }
        }
        let mut worker = Vec::new();
        while let Some(received) = self.worker.commands.receive() {
            let order = received.command.unwrap();
            if refuses(&order) {
                let failed = Event::CommandFailed {
                    sequence: received.sequence,
                    reason: CommandError::TableFull,
                };
                self.worker.events.push(&failed).unwrap();
                self.worker.events.flush();
            } else {
                self.show(&order);
            }
            self.worker.commands.applied();
            worker.push(order);
        }
        (worker, steward)
    }

    fn show(&self, order: &Order) {
        let table = &self.worker.sa_table;
        match order {
            Order::InstallInbound(sa) => table.publish(&inbound_record(sa)),
            Order::InstallOutbound(sa) => table.publish(&outbound_record(sa)),
            Order::RemoveSa { sa } => table.clear(*sa),
            Order::SelectOutbound { sa, .. } => table.select(*sa, true),
            _ => {}
        }
    }

    /// Obeys until `last` has come to the worker or time is up; returns what came.
    pub fn obey_until(&mut self, last: impl Fn(&Order) -> bool) -> (Vec<Order>, Vec<Order>) {
        let deadline = Instant::now() + PATIENCE;
        let (mut worker, mut steward) = (Vec::new(), Vec::new());
        while Instant::now() < deadline {
            let (more, more_steward) = self.obey();
            worker.extend(more);
            steward.extend(more_steward);
            if worker.iter().any(&last) {
                return (worker, steward);
            }
            sleep(Duration::from_millis(2));
        }
        panic!("not told in time; told so far: {worker:#?}");
    }
}

fn inbound_record(sa: &InboundSa) -> SaRecord {
    SaRecord {
        sa: sa.sa,
        spi: sa.sa.value(),
        direction: Direction::Inbound,
        policy: sa.policy,
        owner: sa.owner,
        state: SaState::Mature,
        selected: false,
        label: sa.label,
        transform: sa.transform,
        local: sa.local,
        remote: sa.remote,
        mode: sa.mode,
        encapsulation: sa.encapsulation,
        esn: sa.esn,
        window: sa.window,
        statistics: SaStatistics::default(),
    }
}

fn outbound_record(sa: &OutboundSa) -> SaRecord {
    SaRecord {
        sa: sa.sa,
        spi: sa.spi,
        direction: Direction::Outbound,
        policy: sa.policy,
        owner: sa.owner,
        state: SaState::Mature,
        selected: false,
        label: sa.label,
        transform: sa.transform,
        local: sa.local,
        remote: sa.remote,
        mode: sa.mode,
        encapsulation: sa.encapsulation,
        esn: sa.esn,
        window: 0,
        statistics: SaStatistics::default(),
    }
}

/// The last order of a whole picture.
pub fn is_end(order: &Order) -> bool {
    matches!(order, Order::EndSync)
}
