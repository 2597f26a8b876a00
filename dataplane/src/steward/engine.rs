//! Which crypto engine the workers use.

use esplanade_crypto::{EngineKind, UnknownEngine};
use std::ffi::OsStr;

/// Names the engine, whatever the setup says.
pub(super) const VARIABLE: &str = "ESPLANADE_CRYPTO_ENGINE";

/// Why there is no engine: the name is wrong, or the CPU lacks what it needs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoEngine {
    /// As the environment has it.
    #[error("{VARIABLE}: {0}")]
    Forced(UnknownEngine),
    /// As the setup has it.
    #[error(transparent)]
    Wanted(UnknownEngine),
}

/// The engine that the environment forces, or that the setup wants, or else the fastest that runs here. What it does not do,
/// the fastest does that can.
pub(super) fn choose(forced: Option<&OsStr>, wanted: Option<&str>) -> Result<EngineKind, NoEngine> {
    match (forced.filter(|name| !name.is_empty()), wanted) {
        (Some(name), _) => name.to_string_lossy().parse().map_err(NoEngine::Forced),
        (None, Some(name)) => name.parse().map_err(NoEngine::Wanted),
        (None, None) => Ok(EngineKind::best()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides_the_setup() {
        let portable = Ok(EngineKind::Portable);
        let aws_lc = Some("aws-lc-rs");
        assert_eq!(choose(Some(OsStr::new("portable")), aws_lc), portable);
        assert_eq!(choose(None, Some("portable")), portable);
        assert_eq!(choose(None, None), Ok(EngineKind::best()));
        let unset = Some(OsStr::new(""));
        assert_eq!(choose(unset, aws_lc), Ok(EngineKind::AwsLc));
    }

    #[test]
    fn what_does_not_run_here_is_refused_by_name() {
        let error = choose(Some(OsStr::new("fast")), Some("portable")).unwrap_err();
        let error = error.to_string();
        let (start, end) = (
            "ESPLANADE_CRYPTO_ENGINE: no crypto engine is called \"fast\"; there are ",
            "aws-lc-rs, portable",
        );
        assert!(error.starts_with(start) && error.ends_with(end), "{error}");
        for engine in [EngineKind::Vaes256, EngineKind::Vaes512] {
            let chosen = choose(None, Some(engine.name()));
            if EngineKind::available().contains(&engine) {
                assert_eq!(chosen, Ok(engine));
            } else {
                let error = chosen.unwrap_err().to_string();
                assert!(error.starts_with("this CPU lacks AVX"), "{error}");
            }
        }
    }
}
