//! The control plane of an Esplanade gateway.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use esplanade_controlplane::daemon::{self, Options};

/// Negotiates keys by IKEv2 (RFC 7296) and hands them to the dataplane.
///
/// SIGHUP reads the configuration again; a bad file changes nothing. SIGTERM and SIGINT end it. ESPLANADE_LOG chooses
/// what is logged, e.g. `debug`.
///
/// Exit codes: 0 it was told to end; 1 it could not start, and the reason is printed; 2 wrong usage.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The YAML file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the planes keep their sockets.
    #[arg(
        long,
        env = "ESPLANADE_RUN_DIR",
        default_value = "/run/esplanade",
        value_name = "DIR"
    )]
    run_dir: PathBuf,
    /// Leave the tunnels up when ended, for an upgrade.
    #[arg(long)]
    keep: bool,
    /// End when standard input does: whoever started this holds its other end.
    #[arg(long)]
    supervised: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        // A reload reads it again, and `status` names it.
        config: std::path::absolute(&arguments.config).unwrap_or(arguments.config),
        run_dir: arguments.run_dir,
        keep: arguments.keep,
        supervised: arguments.supervised,
    };
    match daemon::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("esplanade-controlplane: {error}");
            ExitCode::FAILURE
        }
    }
}
