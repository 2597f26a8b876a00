//! Two daemons in one network namespace that make a tunnel with each other, and the dataplanes that the tests play.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use esplanade_channel::{
    Command as Order, CommandError, Connection, CopyMode, Epoch, Event, Facts, Listener, PortFacts,
    PortMode, Segment, WorkerEnd, WorkerId,
};

pub const PSK: &str = "correct horse battery staple";

const NETWORK: &str = "ip link set lo up
ip link add eth1 type veth peer name eth1p
ip link add eth2 type veth peer name eth2p
for i in eth1 eth1p eth2 eth2p; do ip link set $i up; done
ip address add 192.0.2.1/24 dev eth2
ip address add 192.0.2.2/24 dev eth2
";

/// The daemon with this number. The first calls the second.
fn config(own: u8) -> String {
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

/// Two daemons in one network namespace, each with its own address. The first calls the second. They end when this is
/// dropped.
pub struct Pair {
    directory: tempfile::TempDir,
    process: Child,
}

impl Pair {
    /// Starts them; each logs so much into a file of its own. `None`, and a line on standard error, where namespaces
    /// cannot be made.
    pub fn start(log: &str) -> Option<Self> {
        let made = Command::new("unshare").args(["--net", "true"]).output();
        if !made.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut script = NETWORK.to_owned() + "exec 3<&0\n";
        for own in [1, 2] {
            let path = directory.path().join(format!("{own}.yaml"));
            fs::write(&path, config(own)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let daemon = env!("CARGO_BIN_EXE_esplanade-controlplane");
            let base = directory.path().join(own.to_string());
            script += &format!(
                "{daemon} --config {config} --run-dir {base} --supervised <&3 2>{base}.log &\n",
                config = path.display(),
                base = base.display(),
            );
        }
        script += "wait\n";
        // Both hold the read end of its standard input, and end when the other end is closed.
        let process = Command::new("unshare")
            .args(["--net", "sh", "-e", "-c", &script])
            .env("ESPLANADE_LOG", log)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self { directory, process })
    }

    /// A file: `1` and `2` are run directories, `1.yaml` and `1.log` are of the first daemon.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A dataplane that does nothing but take its orders, or refuse them.
pub struct Scribe {
    _segment: Segment,
    _connection: Connection,
    ends: [WorkerEnd; 2],
}

impl Scribe {
    /// The dataplane of the daemon with this run directory, which waits for it.
    pub fn wait_for(run_dir: &Path) -> Self {
        let listener = Listener::bind(run_dir).unwrap();
        let accepted = listener.accept(Duration::from_secs(20)).unwrap();
        let pending = accepted.expect("nobody connected in time");
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
        let ends = [WorkerId(0), setup.steward()].map(|id| segment.worker(id).unwrap());
        let connection = pending.grant(&segment).unwrap();
        Self {
            _segment: segment,
            _connection: connection,
            ends,
        }
    }

    /// Takes what orders there are, and returns them. For those that `refuses` there is no room.
    pub fn take(&mut self, mut refuses: impl FnMut(&Order) -> bool) -> Vec<Order> {
        let mut orders = Vec::new();
        for end in &mut self.ends {
            while let Some(received) = end.commands.receive() {
                let order = received.command.unwrap();
                if refuses(&order) {
                    let failed = Event::CommandFailed {
                        sequence: received.sequence,
                        reason: CommandError::TableFull,
                    };
                    end.events.push(&failed).unwrap();
                    end.events.flush();
                }
                end.commands.applied();
                orders.push(order);
            }
        }
        orders
    }
}
