//! Loading the configuration file, with its mistakes in words.

use std::path::Path;

/// Loads a configuration file.
///
/// # Errors
///
/// Every mistake, as the operator is to read it.
pub(crate) fn load(path: &Path) -> Result<(), Vec<String>> {
    std::fs::read_to_string(path)
        .map(drop)
        .map_err(|error| vec![format!("{}: {error}", path.display())])
}
