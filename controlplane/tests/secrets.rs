//! Two daemons that agree on keys while they log all that they can: neither the pre-shared key nor any key of an SA is
//! in a log or in what the command line prints. Needs root; without it the test is skipped, loudly.

#![forbid(unsafe_code)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use esplanade_channel::{
    Command as Order, Connection, CopyMode, Epoch, Facts, Listener, PortFacts, PortMode, Segment,
    WorkerEnd, WorkerId,
};

const PSK: &str = "correct horse battery staple";

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

/// Two daemons in one network namespace, each with its own address. They end when this is dropped.
struct Pair {
    directory: tempfile::TempDir,
    process: Child,
}

impl Pair {
    /// `None`, and a line on standard error, where namespaces cannot be made.
    fn start() -> Option<Self> {
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
            .env("ESPLANADE_LOG", "trace")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self { directory, process })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn said(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esplanade"));
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        [output.stdout, output.stderr].concat()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A dataplane that obeys everything, does nothing and remembers keys.
struct Scribe {
    _segment: Segment,
    _connection: Connection,
    ends: [WorkerEnd; 2],
    keys: Vec<Vec<u8>>,
}

impl Scribe {
    fn wait_for(run_dir: &Path) -> Self {
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
            keys: Vec::new(),
        }
    }

    fn obey(&mut self) {
        for end in &mut self.ends {
            while let Some(received) = end.commands.receive() {
                end.commands.applied();
                match received.command.unwrap() {
                    Order::InstallInbound(sa) => self.keys.push(sa.key.as_bytes().to_vec()),
                    Order::InstallOutbound(sa) => self.keys.push(sa.key.as_bytes().to_vec()),
                    _ => {}
                }
            }
        }
    }
}

/// The ways in which octets get into a text: as they are, in hexadecimal, as a list of numbers.
fn writings(secret: &[u8]) -> Vec<Vec<u8>> {
    let hexadecimal: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let decimal: Vec<String> = secret.iter().map(u8::to_string).collect();
    vec![
        secret.to_vec(),
        hexadecimal.to_uppercase().into_bytes(),
        hexadecimal.into_bytes(),
        decimal.join(", ").into_bytes(),
        decimal.join(",").into_bytes(),
    ]
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn no_secret_is_logged_or_printed() {
    let Some(pair) = Pair::start() else {
        return;
    };
    // The one that waits comes first, so that the other finds it awake.
    let mut scribes = [2, 1].map(|own| Scribe::wait_for(&pair.path(&own.to_string())));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut rekey = None;
    while scribes.iter().any(|scribe| scribe.keys.len() < 4) {
        assert!(Instant::now() < deadline, "no keys in time: {rekey:?}");
        scribes.iter_mut().for_each(Scribe::obey);
        if rekey.is_none() && scribes.iter().all(|scribe| scribe.keys.len() == 2) {
            let mut command = Command::new(env!("CARGO_BIN_EXE_esplanade"));
            command.args(["rekey", "peer", "--run-dir"]);
            rekey = Some(command.arg(pair.path("1")).spawn().unwrap());
        }
        sleep(Duration::from_millis(2));
    }
    let rekeyed = rekey.expect("a rekey").wait().unwrap();
    assert!(rekeyed.success(), "{rekeyed}");

    let mut texts = Vec::new();
    for own in ["1", "2"] {
        let (run_dir, config) = (pair.path(own), pair.path(&format!("{own}.yaml")));
        let (run_dir, config) = (run_dir.to_str().unwrap(), config.to_str().unwrap());
        for command in [&["status"][..], &["sas"], &["counters", "--all"]] {
            let line = [command, &["--run-dir", run_dir]].concat();
            texts.push(pair.said(&line));
            texts.push(pair.said(&[&line[..], &["--json"]].concat()));
        }
        texts.push(pair.said(&["check", config, "--json"]));
        let log = fs::read(pair.path(&format!("{own}.log"))).unwrap();
        assert!(
            contains(&log, b"peer/net: rekeyed"),
            "{}",
            String::from_utf8_lossy(&log)
        );
        texts.push(log);
    }
    // Half a key is too much already.
    let keys = scribes.iter().flat_map(|scribe| &scribe.keys);
    let parts = keys.flat_map(|key| key.chunks_exact(8));
    for part in parts.chain([PSK.as_bytes()]) {
        for writing in writings(part) {
            let tells = texts.iter().find(|text| contains(text, &writing));
            let tells = tells.map(|text| String::from_utf8_lossy(text));
            assert_eq!(
                tells,
                None,
                "it tells {}",
                String::from_utf8_lossy(&writing)
            );
        }
    }
}
