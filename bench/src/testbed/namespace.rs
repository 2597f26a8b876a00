//! One network namespace, made and removed with `ip netns`.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use esplanade_dataplane::port::Interface;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::cleanup;
use super::process::{Finished, Process, run};

/// The limit of a command of which nobody said how long it may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// A network namespace that goes away with this value, with every process that still runs in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    role: String,
}

impl Namespace {
    /// Makes an empty namespace with its loopback up. The name carries our process id, so that
    /// a later run knows whose it was.
    pub fn new(role: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}-{role}", cleanup::PREFIX, std::process::id());
        cleanup::register_namespace(&name);
        let namespace = Self {
            name,
            role: role.to_owned(),
        };
        run(
            Command::new("ip").args(["netns", "add", &namespace.name]),
            COMMAND_LIMIT,
        )?
        .ok()?;
        // A quiet link: no router solicitations and no duplicate address detection among the
        // frames that a test counts. A kernel without IPv6 needs no silencing.
        let _ = namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        let _ = namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        namespace.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
        namespace.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is in the test-bed, such as `gw-a`.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// A command that will run in this namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program with its arguments and waits for it, 20 seconds at most.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        self.run_within(arguments, COMMAND_LIMIT)
    }

    /// Runs a program with its arguments and waits for it no longer than `limit`.
    pub fn run_within(&self, arguments: &[&str], limit: Duration) -> Result<Finished> {
        let (program, rest) = arguments.split_first().context("an empty command")?;
        run(self.command(program).args(rest), limit)
    }

    /// Starts a program that goes on running; its output goes to `LOG_DIR/ROLE-NAME.log`.
    pub fn spawn(&self, name: &str, log_dir: &Path, command: Command) -> Result<Process> {
        Process::spawn(
            name,
            &log_dir.join(format!("{}-{name}.log", self.role)),
            command,
        )
    }

    /// Carries out lines of `ip -batch`.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-netns", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("in namespace {}: ip refused\n{lines}{said}", self.role);
        }
        Ok(())
    }

    /// Sets a kernel parameter of this namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(&["sysctl", "-qw", &format!("{key}={value}")])?
            .ok()?;
        Ok(())
    }

    /// Sends pings 50 ms apart, waits a second for the last, and returns how many were answered.
    pub fn ping(&self, to: impl Into<IpAddr>, count: u32) -> Result<u32> {
        let limit = Duration::from_secs(5) + Duration::from_millis(60) * count;
        let said = self.run_within(
            &[
                "ping",
                "-n",
                "-i",
                "0.05",
                "-W",
                "1",
                "-c",
                &count.to_string(),
                &to.into().to_string(),
            ],
            limit,
        )?;
        // "3 packets transmitted, 2 received, 33.3333% packet loss, time 2003ms"
        said.stdout
            .split(", ")
            .find_map(|part| part.strip_suffix(" received"))
            .and_then(|number| number.trim().parse().ok())
            .with_context(|| format!("ping said: {}{}", said.stdout, said.stderr))
    }

    /// What an AF_XDP port must know of an interface.
    pub fn interface(&self, name: &str) -> Result<Interface> {
        let fact = |file: &str| {
            let said = self
                .run(&["cat", &format!("/sys/class/net/{name}/{file}")])?
                .ok()?;
            anyhow::Ok(said.stdout.trim().to_owned())
        };
        let queues = self
            .run(&["ls", &format!("/sys/class/net/{name}/queues")])?
            .ok()?;
        Ok(Interface {
            name: name.to_owned(),
            index: fact("ifindex")?.parse()?,
            mac: parse_mac(&fact("address")?)?,
            mtu: fact("mtu")?.parse()?,
            receive_queues: queues.stdout.matches("rx-").count().try_into()?,
        })
    }

    /// Runs `work` on a new thread inside this namespace. Sockets that it opens stay in the
    /// namespace when they are handed out.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let handle = File::open(format!("/run/netns/{}", self.name))
            .with_context(|| format!("cannot open namespace {}", self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    use std::os::fd::AsFd;
                    move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                        .context("cannot enter the namespace")?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Reads six bytes with colons between.
pub fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .with_context(|| format!("{text} has not six bytes"))?;
        *byte = u8::from_str_radix(part, 16).with_context(|| format!("{text} is no address"))?;
    }
    Ok(mac)
}

impl Drop for Namespace {
    fn drop(&mut self) {
        cleanup::remove_namespace(&self.name);
    }
}
