//! The configuration: any text gives a configuration or problems, each with its place.

#![no_main]

use esplanade_config::{Config, FileContext, NoFiles};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;

fuzz_target!(|text: &str| {
    let context = FileContext {
        path: PathBuf::from("fuzz.yaml"),
        mode: Some(0o600),
        files: &NoFiles,
    };
    if let Err(problems) = Config::parse(text, &context) {
        assert!(!problems.is_empty());
        for problem in problems {
            assert!(!problem.to_string().is_empty());
        }
    }
});
