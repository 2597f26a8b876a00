//! IKE by itself: full handshakes (IKE_SA_INIT and IKE_AUTH with a child SA) between two processes over UDP on loopback, a
//! core each, and what the tunnels take that they leave behind.
//!
//! The endpoint is the one of the control plane, in a process that has nothing but its socket: no dataplane takes the keys,
//! and nobody writes a log.

mod certificates;
mod side;

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

pub use side::Options as SideOptions;
pub use side::run as run_side;

use crate::timing::{JsonLines, Machine, Summary};
use side::{Role, Told};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How the two sides prove who they are, and agree on a secret.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "psk,ecdsa,hybrid"
    )]
    method: Vec<Method>,
    /// Handshakes of a round.
    #[arg(long, default_value_t = 6_000)]
    handshakes: u32,
    /// How often each method has its turn; all take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// So many tunnels are made at the end with each of `psk` and `ecdsa`, and what they take is told; 0 leaves it out.
    #[arg(long, default_value_t = 100_000)]
    tunnels: u32,
    /// The core of the side that is called; the caller's is the one behind it.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Write the results as JSON lines as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A kind of handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Pre-shared keys and X25519.
    Psk,
    /// ECDSA on P-256 with an authority below the root, revocation lists and X25519.
    Ecdsa,
    /// Pre-shared keys, X25519 and ML-KEM-768.
    Hybrid,
}

impl Method {
    const fn auth(self) -> &'static str {
        match self {
            Self::Psk | Self::Hybrid => "psk",
            Self::Ecdsa => "ecdsa-p256",
        }
    }

    const fn kex(self) -> &'static str {
        match self {
            Self::Psk | Self::Ecdsa => "x25519",
            Self::Hybrid => "x25519-mlkem768",
        }
    }

    const fn proposal(self) -> &'static str {
        match self {
            Self::Psk | Self::Ecdsa => "aes256gcm16-sha384-x25519",
            Self::Hybrid => "aes256gcm16-sha384-x25519-ke1_mlkem768",
        }
    }
}

/// Handshakes a second.
#[derive(Debug, Serialize)]
struct Row<'a> {
    bench: &'static str,
    auth: &'static str,
    kex: &'static str,
    handshakes_per_s: f64,
    /// Of the side that is called.
    cpu_s_per_handshake: f64,
    caller_cpu_s_per_handshake: f64,
    /// The distance of the quartiles, as a share of the median.
    spread: f64,
    machine: &'a str,
}

/// What many tunnels take on the side that was called.
#[derive(Debug, Serialize)]
struct ScaleRow<'a> {
    bench: &'static str,
    auth: &'static str,
    tunnels: u32,
    bytes_per_tunnel: f64,
    /// To list all SAs, without writing them down.
    list_ms: f64,
    handshakes_per_s: f64,
    machine: &'a str,
}

/// Measures, and tells.
///
/// # Errors
///
/// A handshake fails, or there are not two cores.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        options.rounds > 0 && options.handshakes > 0,
        "there is at least one handshake and one round"
    );
    let machine = Machine::measure();
    println!("{machine}\n");
    let mut json = JsonLines::create(options.json.as_deref())?;
    let mut turns: Vec<_> = options.method.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (method, turns) in options.method.iter().zip(&mut turns) {
            turns.push(turn(*method, options.handshakes, options.core)?);
        }
    }
    for (method, turns) in options.method.iter().zip(&turns) {
        let of = |value: fn(&[Told; 2]) -> f64| {
            let all: Vec<f64> = turns.iter().map(value).collect();
            Summary::of(&all)
        };
        let handshakes = f64::from(options.handshakes);
        let seconds = of(|[caller, _]| caller.seconds);
        let row = Row {
            bench: "ike",
            auth: method.auth(),
            kex: method.kex(),
            handshakes_per_s: handshakes / seconds.median,
            cpu_s_per_handshake: of(|[_, called]| called.cpu).median / handshakes,
            caller_cpu_s_per_handshake: of(|[caller, _]| caller.cpu).median / handshakes,
            spread: seconds.spread,
            machine: &machine.name,
        };
        println!(
            "{:<10} {:<15} {:>6.0} handshakes/s +-{:2.0} %  CPU a handshake: called {:4.0} us, caller {:4.0} us",
            row.auth,
            row.kex,
            row.handshakes_per_s,
            50.0 * row.spread,
            1e6 * row.cpu_s_per_handshake,
            1e6 * row.caller_cpu_s_per_handshake,
        );
        json.write(&row)?;
    }
    let scaled = [Method::Psk, Method::Ecdsa].into_iter();
    let scaled = scaled.filter(|method| options.tunnels > 0 && options.method.contains(method));
    for method in scaled {
        let [caller, called] = turn(method, options.tunnels, options.core)?;
        let row = ScaleRow {
            bench: "ike-scale",
            auth: method.auth(),
            tunnels: options.tunnels,
            bytes_per_tunnel: called.bytes / f64::from(options.tunnels),
            list_ms: called.list_ms,
            handshakes_per_s: f64::from(options.tunnels) / caller.seconds,
            machine: &machine.name,
        };
        println!(
            "{:<10} {} tunnels: {:.0} bytes each, listed in {:.0} ms, made at {:.0} a second",
            row.auth, row.tunnels, row.bytes_per_tunnel, row.list_ms, row.handshakes_per_s,
        );
        json.write(&row)?;
    }
    json.finish()
}

/// A side at work; it is ended when this is dropped.
struct Running(Child);

impl Running {
    fn start(
        role: Role,
        method: Method,
        tunnels: u32,
        core: usize,
        directory: &Path,
    ) -> Result<Self> {
        let value = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned())
        };
        let role = value(role.to_possible_value()).unwrap_or_default();
        let method = value(method.to_possible_value()).unwrap_or_default();
        let process = Command::new(env::current_exe()?)
            .args(["ike-side", "--role", &role, "--method", &method])
            .args(["--tunnels", &tunnels.to_string()])
            .args(["--core", &core.to_string()])
            .arg("--directory")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(process))
    }

    fn told(&mut self) -> Result<Told> {
        let output = self.0.stdout.take().context("it has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        serde_json::from_str(&line).context("a side of the handshakes has ended early")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has so many tunnels made; what the caller and the called side tell.
fn turn(method: Method, tunnels: u32, core: usize) -> Result<[Told; 2]> {
    let directory = tempfile::tempdir()?;
    if method == Method::Ecdsa {
        certificates::make(directory.path())?;
    }
    let start = |role, core| Running::start(role, method, tunnels, core, directory.path());
    let mut called = start(Role::Called, core)?;
    let mut caller = start(Role::Caller, core + 1)?;
    Ok([caller.told()?, called.told()?])
}
