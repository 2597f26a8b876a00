//! Whatever the text, reading it ends, and ends without a panic.

#![forbid(unsafe_code)]

mod common;

use common::{minimal, parse};
use esplanade_config::{Config, FileContext};
use proptest::prelude::*;

/// Text made of what a configuration is made of.
fn likely_text() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "dataplane",
        "tunnels",
        "ports",
        "workers",
        "children",
        "local",
        "remote",
        "address",
        "psk",
        "file",
        "secret",
        ":",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "any",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "[tcp/80]",
        "4h",
        "-1",
        "aes256gcm16-sha384-x25519",
        "&a",
        "*a",
        "<<",
        "!!int",
        "'",
        "\"",
        "|",
        ">",
        "#",
        "\t",
        "é",
        "0x",
        "~",
        "99999999999999999999",
        "---",
        "...",
        "? ",
        "rekey",
        "lifetime",
        "replay-window",
        "esn",
        "off",
        "on",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = parse(&text).map_err(|problems| problems.iter().map(ToString::to_string).collect::<String>());
    }

    #[test]
    fn likely_text_never_panics(text in likely_text()) {
        let _ = Config::parse(&text, &FileContext::detached("x.yaml"))
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<String>());
    }

    /// A valid file with one part overwritten reads or is refused with a place; it never panics.
    #[test]
    fn a_damaged_file_is_refused_with_a_place(at in 0usize..400, length in 0usize..20, patch in "\\PC{0,12}") {
        let mut text = minimal();
        let at = at.min(text.len());
        let end = (at + length).min(text.len());
        text.replace_range(at..end, &patch);
        if let Err(problems) = parse(&text) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.place.is_some());
                prop_assert!(!problem.to_string().is_empty());
            }
        }
    }
}
