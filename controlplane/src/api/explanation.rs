//! Why a tunnel is not up, or up and carrying nothing, and what to change.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is known about a tunnel's state and its causes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The tunnel, or the child of it that was asked about.
    pub target: String,
    /// How it is.
    pub verdict: Verdict,
    /// Why, the likeliest cause first.
    pub findings: Vec<Finding>,
}

/// How a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every child is up, and packets go and come.
    Carries,
    /// Every child is up, but packets do not go, or do not come.
    Silent,
    /// Some children are up.
    Partly,
    /// No child is up.
    Down,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Carries => "up, and it carries traffic both ways",
            Self::Silent => "up, but it does not carry traffic both ways",
            Self::Partly => "not all of it is up",
            Self::Down => "down",
        })
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing, for programs: `no-answer`, `proposals-differ`, ...
    pub code: String,
    /// The child that it is about; none: the tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// What was found.
    pub what: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// How long ago it happened, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ago_s: Option<u64>,
}
