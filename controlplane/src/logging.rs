//! The log: one line an event, on standard error, for a person or a journal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts the log. `ESPLANADE_LOG` chooses what is shown, e.g. `debug` or `esplanade_ike=trace`; default `info`.
pub fn start() {
    let filter =
        EnvFilter::try_from_env("ESPLANADE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
