//! An Esplanade gateway of the test-bed: the real programs, run in a namespace by `esplanade run` and
//! commanded by `esplanade`, as a user would.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use esplanade_controlplane::api::{CounterRow, Sa, Status, Tunnel};
use serde::de::DeserializeOwned;

use crate::testbed::{
    Finished, INSIDE, Namespace, OUTSIDE, OUTSIDE_A, OUTSIDE_B, PREFIX_A, PREFIX_B, Process, run,
    wait_for,
};

/// The name of the one tunnel of [`Site::yaml`].
pub const TUNNEL: &str = "peer";
/// The name of its one child.
pub const CHILD: &str = "net";

/// How long a gateway may take to open its ports and answer.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long a command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(40);

/// One side of a tunnel, as a test wants it.
#[derive(Debug, Clone)]
pub struct Site {
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// Our identity.
    pub local_id: String,
    /// The peer's identity.
    pub remote_id: String,
    /// The pre-shared key.
    pub secret: String,
    /// How both ends prove who they are, as it stands in the file.
    pub authentication: String,
    /// The prefix behind us.
    pub local_prefix: String,
    /// The prefix behind the peer.
    pub remote_prefix: String,
    /// Whether this side initiates.
    pub initiates: bool,
    /// `busy` or `adaptive`.
    pub polling: &'static str,
    /// The core that the worker runs on.
    pub core: u16,
    /// The IKE proposal.
    pub ike: String,
    /// The ESP proposal.
    pub esp: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Further lines of the children, each as it stands in the file.
    pub child: Vec<String>,
    /// The TAP for the gateway's own packets.
    pub tap: Option<&'static str>,
    /// Whether the kernel's guard is on.
    pub guard: bool,
    /// Further children, by the prefixes that they join, ours first.
    pub more: Vec<(String, String)>,
}

impl Site {
    /// Gateway A of the test-bed: the side that initiates.
    pub fn a() -> Self {
        Self {
            local: OUTSIDE_A.into(),
            remote: OUTSIDE_B.into(),
            local_id: "gw-a.example.org".to_owned(),
            remote_id: "gw-b.example.org".to_owned(),
            secret: "correct horse battery staple".to_owned(),
            authentication: "{ psk: { file: psk } }".to_owned(),
            local_prefix: PREFIX_A.to_owned(),
            remote_prefix: PREFIX_B.to_owned(),
            initiates: true,
            polling: "adaptive",
            core: 1,
            ike: "aes256gcm16-sha384-x25519".to_owned(),
            esp: "aes256gcm16-x25519".to_owned(),
            esn: true,
            child: Vec::new(),
            tap: None,
            guard: true,
            more: Vec::new(),
        }
    }

    /// Gateway B of the test-bed: the side that waits.
    pub fn b() -> Self {
        let a = Self::a();
        Self {
            local: a.remote,
            remote: a.local,
            local_id: a.remote_id.clone(),
            remote_id: a.local_id.clone(),
            local_prefix: a.remote_prefix.clone(),
            remote_prefix: a.local_prefix.clone(),
            initiates: false,
            core: 0,
            ..a
        }
    }

    /// The configuration file. The pre-shared key is in a file `psk` beside it.
    pub fn yaml(&self) -> String {
        let mut yaml = format!(
            "dataplane:
  workers: [{core}]
  polling: {polling}
  guard: {guard}
{tap}  ports:
    lan: {{ interface: {INSIDE}, role: inside }}
    wan: {{ interface: {OUTSIDE}, role: outside }}
tunnels:
  {TUNNEL}:
    local: {{ address: {local}, identity: {local_id} }}
    remote: {{ address: {remote}, identity: {remote_id} }}
    authentication: {authentication}
    ike: {{ proposals: [{ike}] }}
    start: {start}
    children:
",
            core = self.core,
            polling = self.polling,
            guard = if self.guard { "on" } else { "off" },
            tap = self
                .tap
                .map_or_else(String::new, |tap| format!("  tap: {tap}\n")),
            authentication = self.authentication,
            local = self.local,
            local_id = self.local_id,
            remote = self.remote,
            remote_id = self.remote_id,
            ike = self.ike,
            start = if self.initiates { "at-once" } else { "wait" },
        );
        self.add_child(&mut yaml, CHILD, &self.local_prefix, &self.remote_prefix);
        for (number, (local, remote)) in self.more.iter().enumerate() {
            self.add_child(&mut yaml, &format!("more-{number}"), local, remote);
        }
        yaml
    }

    fn add_child(&self, yaml: &mut String, name: &str, local: &str, remote: &str) {
        let Self { esp, esn, .. } = self;
        yaml.push_str(&format!(
            "      {name}:
        local: [{local}]
        remote: [{remote}]
        proposals: [{esp}]
        esn: {esn}
"
        ));
        for line in &self.child {
            yaml.push_str(&format!("        {line}\n"));
        }
    }
}

/// A gateway that runs. It ends, with both planes, when this value is dropped.
#[derive(Debug)]
pub struct Gateway<'a> {
    namespace: &'a Namespace,
    directory: PathBuf,
    config: PathBuf,
    log_dir: PathBuf,
    keep: bool,
    process: Process,
}

impl<'a> Gateway<'a> {
    /// Writes the configuration of a site and runs it; returns when the control plane answers and
    /// the dataplane has its ports.
    pub fn start(namespace: &'a Namespace, site: &Site, log_dir: &Path) -> Result<Self> {
        let config = write_site(namespace, site)?;
        Self::run(namespace, &config, false, log_dir)
    }

    /// As [`Gateway::start`], with `--keep`: its tunnels outlive its end.
    pub fn start_keeping(namespace: &'a Namespace, site: &Site, log_dir: &Path) -> Result<Self> {
        let config = write_site(namespace, site)?;
        Self::run(namespace, &config, true, log_dir)
    }

    /// Runs a configuration file; returns when the control plane answers and the dataplane has its
    /// ports.
    pub fn run(
        namespace: &'a Namespace,
        config: &Path,
        keep: bool,
        log_dir: &Path,
    ) -> Result<Self> {
        let mut gateway = Self::launch(namespace, config, &[], keep, log_dir)?;
        gateway.wait_until_ready()?;
        Ok(gateway)
    }

    /// Runs a configuration file and waits for nothing: for those that must fail. `prefix` is a
    /// program with arguments in front of `esplanade`, such as `setpriv`.
    pub fn launch(
        namespace: &'a Namespace,
        config: &Path,
        prefix: &[&str],
        keep: bool,
        log_dir: &Path,
    ) -> Result<Self> {
        let directory = directory_of(namespace);
        fs::create_dir_all(&directory)?;
        let esplanade = binary("esplanade")?;
        let mut command = match prefix.split_first() {
            None => namespace.command(esplanade),
            Some((program, arguments)) => {
                let mut command = namespace.command(program);
                command.args(arguments).arg(esplanade);
                command
            }
        };
        command
            .arg("run")
            .arg(config)
            .arg("--run-dir")
            .arg(directory.join("run"));
        if keep {
            command.arg("--keep");
        }
        let process = namespace.spawn("esplanade", log_dir, command)?;
        Ok(Self {
            namespace,
            directory,
            config: config.to_owned(),
            log_dir: log_dir.to_owned(),
            keep,
            process,
        })
    }

    /// Waits until the control plane answers and the dataplane has its ports.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let what = format!("the gateway in {} to be ready", self.namespace.role());
        let outcome = wait_for(&what, START_LIMIT, || {
            if let Some(status) = self.process.ended() {
                bail!("esplanade run ended with {status}");
            }
            Ok(self
                .status()
                .ok()
                .filter(|status| status.dataplane.is_some())
                .map(drop))
        });
        outcome.with_context(|| format!("it said:\n{}", self.process.last_words()))
    }

    /// Has it run the configuration of this site from now on.
    pub fn reload(&self, site: &Site) -> Result<()> {
        write_site(self.namespace, site)?;
        self.command(&["reload"])?.ok()?;
        Ok(())
    }

    /// The configuration file that it runs.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The `esplanade run` process.
    pub fn supervisor(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs `esplanade` with these arguments against this gateway.
    pub fn command(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.namespace.command(binary("esplanade")?);
        command
            .args(arguments)
            .arg("--run-dir")
            .arg(self.directory.join("run"));
        run(&mut command, COMMAND_LIMIT)
    }

    fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let said = self.command(&arguments)?.ok()?;
        serde_json::from_str(&said.stdout)
            .with_context(|| format!("esplanade {arguments:?} said {}", said.stdout))
    }

    /// `esplanade status`.
    pub fn status(&self) -> Result<Status> {
        self.ask(&["status"])
    }

    /// `esplanade sas`.
    pub fn sas(&self) -> Result<Vec<Sa>> {
        self.ask(&["sas"])
    }

    /// `esplanade counters`, those at zero too.
    pub fn counters(&self) -> Result<Vec<CounterRow>> {
        self.ask(&["counters", "--all"])
    }

    /// The value of one counter.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let counters = self.counters()?;
        let row = counters.iter().find(|row| row.name == name);
        Ok(row
            .with_context(|| format!("there is no counter {name}"))?
            .value)
    }

    /// The counters that count a loss, and moved.
    pub fn losses(&self) -> Result<Vec<CounterRow>> {
        use esplanade_controlplane::api::Severity;
        let mut counters = self.counters()?;
        counters.retain(|row| row.value > 0 && row.severity != Severity::Info);
        Ok(counters)
    }

    /// Waits until every child of every tunnel is up.
    pub fn wait_until_up(&self, limit: Duration) -> Result<()> {
        let mut last = None;
        let outcome = wait_for("the tunnel to come up", limit, || {
            let Ok(status) = self.status() else {
                return Ok(None);
            };
            let up = |tunnel: &Tunnel| tunnel.children.iter().all(|child| child.up);
            let all_up = status.tunnels.iter().all(up);
            last = Some(status);
            Ok(all_up.then_some(()))
        });
        outcome.with_context(|| format!("{last:#?}\nit said:\n{}", self.process.last_words()))
    }

    /// The SPI of the SA that [`TUNNEL`]'s child sends by, in hexadecimal.
    pub fn outbound_spi(&self) -> Result<String> {
        let sas = self.sas()?;
        let label = format!("{TUNNEL}/{CHILD}");
        let is_it = |sa: &&Sa| sa.direction == "out" && sa.selected && sa.label == label;
        let selected = sas.iter().find(is_it);
        Ok(selected.context("no outbound SA is selected")?.spi.clone())
    }

    /// The process id of the dataplane.
    pub fn dataplane_id(&self) -> Result<u32> {
        Ok(self
            .status()?
            .dataplane
            .context("the dataplane is away")?
            .pid)
    }

    /// The process id of the control plane.
    pub fn control_plane_id(&self) -> Result<u32> {
        Ok(self.status()?.control_plane.pid)
    }

    /// Ends the gateway with SIGTERM and waits for its orderly end.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(Duration::from_secs(15))?;
        if !status.success() {
            bail!(
                "esplanade run ended with {status}:\n{}",
                self.process.last_words()
            );
        }
        Ok(())
    }

    /// Runs the same configuration again after the supervisor ended.
    pub fn restart(&mut self) -> Result<()> {
        let again = Self::launch(self.namespace, &self.config, &[], self.keep, &self.log_dir)?;
        self.process = again.process;
        self.wait_until_ready()
    }
}

/// Writes the configuration of a site, and its secret, where its gateway will find them.
pub fn write_site(namespace: &Namespace, site: &Site) -> Result<PathBuf> {
    write_config(namespace, &site.yaml(), &site.secret)
}

/// Writes a configuration file and the pre-shared key beside it.
pub fn write_config(namespace: &Namespace, yaml: &str, secret: &str) -> Result<PathBuf> {
    write_file(namespace, "psk", &format!("{secret}\n"))?;
    write_file(namespace, "esplanade.yaml", yaml)
}

/// Writes a file beside the configuration, for its owner only.
pub fn write_file(namespace: &Namespace, name: &str, text: &str) -> Result<PathBuf> {
    let directory = directory_of(namespace);
    fs::create_dir_all(&directory)?;
    let path = directory.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

/// Short, because a Unix socket's path holds 107 bytes.
pub(crate) fn directory_of(namespace: &Namespace) -> PathBuf {
    Path::new("/run").join(namespace.name()).join("esplanade")
}

/// The path of one of our programs: in the directory that ESPLANADE_BINARIES names, or beside the
/// running program.
pub fn binary(name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe()?;
    let chosen = std::env::var_os("ESPLANADE_BINARIES").map(PathBuf::from);
    chosen
        .iter()
        .map(PathBuf::as_path)
        .chain(beside.ancestors().skip(1).take(2))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "the program {name} is not built: `cargo build -p esplanade-dataplane \
                 -p esplanade-controlplane -p esplanade-bench`"
            )
        })
}

/// A command that runs one of our programs in a namespace.
pub fn program(namespace: &Namespace, name: &str) -> Result<Command> {
    Ok(namespace.command(binary(name)?))
}
