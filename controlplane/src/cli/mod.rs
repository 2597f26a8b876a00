//! The command line `esplanade`: asks the running control plane, checks configurations, and runs both planes.
//!
//! Exit codes: 0 when all went well; 1 when the answer is no (a refusal, a mistake in a configuration, a plane that
//! cannot start); 2 when the command line itself is wrong; 3 when no control plane answers.

use std::{
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use esplanade_config::Config;

use crate::{
    api::{Layer, Report, Request, Response, Target},
    configuration, supervisor,
};

mod capture;
mod client;
mod render;
mod table;

pub use client::ClientError;

/// The answer is no.
const REFUSED: u8 = 1;
/// No control plane answers.
const UNREACHABLE: u8 = 3;

/// Commands an Esplanade IPsec gateway.
///
/// Exit codes: 0 all went well; 1 refused or failed, and the reason is printed; 2 wrong usage; 3 no control plane
/// answers.
#[derive(Debug, Parser)]
#[command(name = "esplanade", version)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Where the planes keep their sockets.
    #[arg(
        long,
        global = true,
        env = "ESPLANADE_RUN_DIR",
        default_value = "/run/esplanade",
        value_name = "DIR"
    )]
    run_dir: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file and change nothing.
    Check {
        /// The YAML file.
        config: PathBuf,
    },
    /// Show both planes and every tunnel.
    Status,
    /// Show every SA in the dataplane with its traffic.
    Sas,
    /// Show who has which address of which pool, or release one that is kept for a client that has left.
    Leases {
        #[command(subcommand)]
        action: Option<LeaseAction>,
    },
    /// Show the counters that moved, with what each means.
    Counters {
        /// Show those at zero too.
        #[arg(long)]
        all: bool,
    },
    /// Tell why a tunnel is not up, or up and carrying nothing, and what to change.
    Explain {
        /// The tunnel, or one child of it.
        #[arg(value_name = "NAME[/CHILD]")]
        target: Target,
    },
    /// Bring up a tunnel or a child, and wait for the outcome.
    Initiate(Wait),
    /// Take down a tunnel or a child, and wait for the outcome.
    Terminate(Wait),
    /// Negotiate fresh keys for the children of a tunnel, or for its IKE SA, and wait for the outcome.
    Rekey {
        /// The IKE SA's keys.
        #[arg(long, conflicts_with = "child")]
        ike: bool,
        /// The child SAs' keys (the default).
        #[arg(long)]
        child: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Read the configuration file again and apply what changed; a bad file changes nothing.
    Reload,
    /// Copy packets before and after ESP, and those that are dropped with the reason, into a file of pcapng.
    Capture(capture::Options),
    /// Run both planes here, restart the one that crashes, end both on SIGTERM.
    Run {
        /// The YAML file.
        config: PathBuf,
        /// Leave the tunnels up and the dataplane running when ended; the next run takes them over.
        #[arg(long)]
        keep: bool,
    },
}

#[derive(Debug, Subcommand)]
enum LeaseAction {
    /// Give this address back to all.
    Release {
        /// The address.
        address: IpAddr,
    },
}

#[derive(Debug, Args)]
struct Wait {
    /// The tunnel, or one child of it.
    #[arg(value_name = "NAME[/CHILD]")]
    target: Target,
    /// How long to wait for the outcome, in seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Wait {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    fn timeout_ms(&self) -> u64 {
        self.timeout * 1000
    }
}

impl Cli {
    /// Does what the command line says.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Common { run_dir, json } = self.common;
        match self.command {
            Command::Check { config } => check(&config, json),
            Command::Run { config, keep } => run(config, run_dir, keep),
            Command::Capture(options) => self::capture(&run_dir, json, &options),
            Command::Status => ask(
                &run_dir,
                json,
                &Request::Status,
                Duration::ZERO,
                render::report,
            ),
            Command::Sas => ask(
                &run_dir,
                json,
                &Request::Sas,
                Duration::ZERO,
                render::report,
            ),
            Command::Leases { action } => {
                let request = match action {
                    None => Request::Leases,
                    Some(LeaseAction::Release { address }) => Request::ReleaseLease { address },
                };
                ask(&run_dir, json, &request, Duration::ZERO, render::report)
            }
            Command::Counters { all } => {
                let request = Request::Counters { all };
                ask(&run_dir, json, &request, Duration::ZERO, render::report)
            }
            Command::Explain { target } => {
                let request = Request::Explain { target };
                ask(&run_dir, json, &request, Duration::ZERO, render::report)
            }
            Command::Reload => ask(
                &run_dir,
                json,
                &Request::Reload,
                Duration::ZERO,
                render::report,
            ),
            Command::Initiate(wait) => {
                let (patience, timeout_ms) = (wait.duration(), wait.timeout_ms());
                let target = wait.target;
                let request = Request::Initiate { target, timeout_ms };
                ask(&run_dir, json, &request, patience, render::report)
            }
            Command::Terminate(wait) => {
                let (patience, timeout_ms) = (wait.duration(), wait.timeout_ms());
                let target = wait.target;
                let request = Request::Terminate { target, timeout_ms };
                ask(&run_dir, json, &request, patience, render::report)
            }
            Command::Rekey { ike, wait, .. } => {
                let (patience, timeout_ms) = (wait.duration(), wait.timeout_ms());
                let request = Request::Rekey {
                    target: wait.target,
                    layer: if ike { Layer::Ike } else { Layer::Child },
                    timeout_ms,
                };
                ask(&run_dir, json, &request, patience, render::report)
            }
        }
    }
}

fn ask(
    run_dir: &Path,
    json: bool,
    request: &Request,
    extra: Duration,
    render: impl Fn(&Report) -> String,
) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(why) => return failure(json, &why, REFUSED),
    };
    match runtime.block_on(client::ask(run_dir, request, extra)) {
        Ok(Response::Ok(report)) if json => print(&json_of(&report)),
        Ok(Response::Ok(report)) => print(&render(&report)),
        Ok(Response::Error(why)) => failure(json, &why, REFUSED),
        Err(error) => failure(json, &error.to_string(), UNREACHABLE),
    }
}

fn capture(run_dir: &Path, json: bool, options: &capture::Options) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(why) => return failure(json, &why, REFUSED),
    };
    match runtime.block_on(options.capture(run_dir)) {
        Ok(outcome) if options.to_stdout() => {
            eprint!("esplanade: {}", outcome.words());
            ExitCode::SUCCESS
        }
        Ok(outcome) if json => print(&format!("{}\n", serde_json::json!(outcome))),
        Ok(outcome) => print(&outcome.words()),
        Err(capture::Failure::Client(error)) => failure(json, &error.to_string(), UNREACHABLE),
        Err(why) => failure(json, &why.to_string(), REFUSED),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime does not start: {error}"))
}

fn check(config: &Path, json: bool) -> ExitCode {
    let (valid, problems) = match Config::load(config) {
        Ok(config) => (true, config.warnings),
        Err(problems) => (false, problems),
    };
    if json {
        let value = serde_json::json!({ "valid": valid, "problems": problems });
        let _ = print(&format!("{value}\n"));
    } else {
        if !problems.is_empty() {
            eprintln!("{}\n", configuration::words(&problems));
        }
        if valid {
            let _ = print(&format!("{} is valid\n", config.display()));
        }
    }
    ExitCode::from(if valid { 0 } else { REFUSED })
}

fn run(config: PathBuf, run_dir: PathBuf, keep: bool) -> ExitCode {
    let plan = match supervisor::Plan::new(config, run_dir, keep) {
        Ok(plan) => plan,
        Err(error) => return failure(false, &error.to_string(), REFUSED),
    };
    match supervisor::run(plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(false, &error.to_string(), REFUSED),
    }
}

/// The report without the tag that the protocol puts around it.
fn json_of(report: &Report) -> String {
    let value = match report {
        Report::Status(status) => serde_json::to_string_pretty(status),
        Report::Sas(list) => serde_json::to_string_pretty(list),
        Report::Leases(list) => serde_json::to_string_pretty(list),
        Report::Counters(list) => serde_json::to_string_pretty(list),
        Report::Done(done) => serde_json::to_string(&serde_json::json!({ "done": done })),
        Report::Reloaded(changes) => serde_json::to_string_pretty(changes),
        Report::Capture(capture) => serde_json::to_string(capture),
        Report::Packets(packets) => serde_json::to_string(packets),
        Report::Explained(explanation) => serde_json::to_string_pretty(explanation),
    };
    value.unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")) + "\n"
}

/// Prints to standard output; a reader that went away (`| head`) is no failure of ours.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn failure(json: bool, why: &str, code: u8) -> ExitCode {
    if json {
        let _ = print(&format!("{}\n", serde_json::json!({ "error": why })));
    } else {
        eprintln!("esplanade: {why}");
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_follow_the_command() {
        let line = [
            "esplanade",
            "rekey",
            "--ike",
            "site-b",
            "--timeout",
            "5",
            "--json",
            "--run-dir",
            "/tmp/x",
        ];
        let cli = Cli::try_parse_from(line).unwrap();
        assert!(cli.common.json);
        assert_eq!(cli.common.run_dir, Path::new("/tmp/x"));
        assert!(matches!(cli.command, Command::Rekey { ike: true, .. }));
    }

    #[test]
    fn a_rekey_of_both_layers_is_refused() {
        assert!(Cli::try_parse_from(["esplanade", "rekey", "--ike", "--child", "a"]).is_err());
    }
}
