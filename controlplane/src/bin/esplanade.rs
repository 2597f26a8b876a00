//! The command line of an Esplanade gateway.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    esplanade_controlplane::cli::Cli::parse().run()
}
