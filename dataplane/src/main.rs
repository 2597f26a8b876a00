//! `esplanade-dataplane`: the poll-mode ESP dataplane as a process.

use clap::Parser;
use esplanade_dataplane::{
    huge_pages,
    steward::{self, Options},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    huge_pages::ask();
    match steward::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("esplanade-dataplane: {error}");
            ExitCode::FAILURE
        }
    }
}
