//! Tells a person what happens, when it happens.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Prints steps with the time since the start, facts below them, and keeps the facts of the summary.
#[derive(Debug)]
pub struct Narrator {
    start: Instant,
    bold: bool,
    summary: Vec<(String, String)>,
    complaints: Vec<String>,
}

impl Narrator {
    /// A narrator whose clock starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            bold: std::io::stdout().is_terminal(),
            summary: Vec::new(),
            complaints: Vec::new(),
        }
    }

    /// Something begins.
    pub fn step(&self, what: &str) {
        let seconds = self.start.elapsed().as_secs_f32();
        let (on, off) = if self.bold {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        println!("\n{on}[{seconds:5.1} s] {what}{off}");
        let _ = std::io::stdout().flush();
    }

    /// Something was found out.
    pub fn fact(&self, what: &str) {
        for line in what.lines() {
            println!("          {line}");
        }
        let _ = std::io::stdout().flush();
    }

    /// Something was found out that belongs into the summary.
    pub fn result(&mut self, name: &str, what: &str) {
        self.fact(&format!("{name}: {what}"));
        self.summary.push((name.to_owned(), what.to_owned()));
    }

    /// Something is not as it must be.
    pub fn complain(&mut self, what: String) {
        self.fact(&format!("WRONG: {what}"));
        self.complaints.push(what);
    }

    /// A fact that must hold.
    pub fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.complain(otherwise());
        }
    }

    /// Prints the summary; returns whether all was as it must be.
    pub fn summarize(&self) -> bool {
        self.step("Summary");
        let width = self
            .summary
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, what) in &self.summary {
            self.fact(&format!("{name:width$}  {what}"));
        }
        for complaint in &self.complaints {
            self.fact(&format!("WRONG: {complaint}"));
        }
        self.complaints.is_empty()
    }
}

impl Default for Narrator {
    fn default() -> Self {
        Self::new()
    }
}
