//! Loading the configuration file, with its mistakes in words.

use std::path::Path;

use esplanade_config::{Config, Problem};

/// Loads a configuration file.
///
/// # Errors
///
/// Every mistake, as the operator is to read it.
pub(crate) fn load(path: &Path) -> Result<Config, String> {
    Config::load(path).map_err(|problems| words(&problems))
}

/// Problems with an empty line between each two.
pub(crate) fn words(problems: &[Problem]) -> String {
    let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
    words.join("\n\n")
}
