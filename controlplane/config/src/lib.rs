//! The configuration of a gateway: one YAML file, read in steps from text to tree to a [`Config`] in which nothing can
//! be wrong any more, and compared with another for a reload.
//!
//! A mistake is a [`Problem`]: file, line and column, what is wrong, and what would be right. All of a file's mistakes
//! are found in one go, except that text which is not YAML ends the reading.

#![forbid(unsafe_code)]

mod authentication;
mod check;
mod dataplane;
mod diff;
mod dscp;
mod eap;
mod files;
mod grammar;
mod identity;
mod model;
mod node;
mod pool;
mod problem;
mod quantity;
mod reader;
mod schema;
mod secret;
mod selector;
mod tunnel;

use std::path::Path;

pub use diff::{ChangedTunnel, Diff, diff};
pub use esplanade_ike::config::{EapClients, EapProof, Families, Uniqueness};
pub use files::{Disk, FileContext, Files, NoFiles, SecretFile};
pub use model::{
    Authentication, Child, Config, Dataplane, Df, Engine, Fragment, Identity, Ike, Lifetime, Mode,
    Polling, Pool, Port, Role, Start, Tfc, TfcSize, Tunnel, Vlan,
};
pub use problem::{Place, Problem, Severity};
pub use schema::schema;
pub use secret::Secret;
pub use selector::{Prefix, Selector};

use pool::PlacedPool;
use problem::{Mistake, Problems};
use reader::Reader;
use tunnel::Placed;

const START: Place = Place {
    line: 1,
    column: 1,
    width: 0,
};

impl Config {
    /// Reads the configuration in a file, and the secrets in the files that it names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the text; warnings are among it.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        let name = path.display().to_string();
        match files::read_text(path) {
            Ok((text, mode)) => {
                let context = FileContext {
                    path: path.to_owned(),
                    mode: Some(mode),
                    files: &Disk,
                };
                Self::parse(&text, &context)
            }
            Err(error) => {
                let mut problems = Problems::new(name, "");
                problems.in_file(
                    Severity::Error,
                    Mistake::new(format!("the configuration cannot be read: {error}")),
                );
                Err(problems.finish().err().unwrap_or_default())
            }
        }
    }

    /// Reads a configuration from its text. Never panics, whatever the text.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in the order of the text; warnings are among it.
    pub fn parse(text: &str, context: &FileContext<'_>) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::new(context.path.display().to_string(), text);
        let config = read(text, context, &mut problems);
        Ok(Self {
            warnings: problems.finish()?,
            ..config
        })
    }
}

/// Reads what can be read. The result is worth something only if no error is among the problems.
fn read(text: &str, context: &FileContext<'_>, problems: &mut Problems<'_>) -> Config {
    let mut config = Config {
        dataplane: dataplane::defaults(),
        tunnels: Vec::new(),
        pools: Vec::new(),
        warnings: Vec::new(),
    };
    let tree = match node::parse(text) {
        Ok(tree) => tree,
        Err((place, mistake)) => {
            problems.error(place.unwrap_or(START), mistake);
            return config;
        }
    };
    let Some(root) = Reader::open(&tree, START, &grammar::ROOT, problems) else {
        return config;
    };
    if let Some(section) = root.section("dataplane", problems) {
        config.dataplane = dataplane::read(&section, problems);
    }
    let tunnels: Vec<Placed> = root
        .named("tunnels", problems)
        .iter()
        .filter_map(|(key, section)| tunnel::read(key, section, context, problems))
        .collect();
    let pools: Vec<PlacedPool> = root
        .named("pools", problems)
        .iter()
        .filter_map(|(key, section)| pool::read(key, section, problems))
        .collect();
    pool::check(&pools, &tunnels, problems);
    config.pools = pools.into_iter().map(|placed| placed.pool).collect();
    check::check(&tunnels, config.dataplane.tap().is_some(), problems);
    config.tunnels = tunnels.into_iter().map(|placed| placed.tunnel).collect();
    check::check_capacity(&config, root.place("tunnels").unwrap_or(START), problems);
    config
}
