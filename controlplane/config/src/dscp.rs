//! Differentiated services code points, by number or by name.

use crate::{problem::Mistake, quantity};

/// A code point: `46`, `ef`, `af41`, `cs6` (RFC 2474, RFC 2597, RFC 3246), or `copy` for that of the inner packet.
pub(crate) fn read(words: &str) -> Result<Option<u8>, Mistake> {
    let lower = words.to_ascii_lowercase();
    match lower.as_str() {
        "copy" => return Ok(None),
        "default" | "be" => return Ok(Some(0)),
        "ef" => return Ok(Some(46)),
        _ => {}
    }
    let by_name = class_selector(&lower).or_else(|| assured_forwarding(&lower));
    let number = || u8::try_from(quantity::number(words, 0, 63).ok()?).ok();
    by_name.or_else(number).map(Some).ok_or_else(|| {
        Mistake::new(format!("`{words}` is no DSCP"))
            .help("write `copy`, a number from 0 to 63, or a name: `ef`, `af11` to `af43`, `cs0` to `cs7`")
    })
}

/// RFC 2474 4.2.2.2.
fn class_selector(name: &str) -> Option<u8> {
    let class: u8 = name.strip_prefix("cs")?.parse().ok()?;
    (class < 8).then_some(class << 3)
}

/// RFC 2597 6: four classes, three drop precedences.
fn assured_forwarding(name: &str) -> Option<u8> {
    let digits: [u8; 2] = name.strip_prefix("af")?.as_bytes().try_into().ok()?;
    let [class @ b'1'..=b'4', drop @ b'1'..=b'3'] = digits else {
        return None;
    };
    Some((class - b'0') << 3 | (drop - b'0') << 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_known() {
        for (words, dscp) in [
            ("copy", None),
            ("0", Some(0)),
            ("63", Some(63)),
            ("EF", Some(46)),
            ("cs6", Some(48)),
            ("af11", Some(10)),
            ("AF43", Some(38)),
            ("default", Some(0)),
        ] {
            assert_eq!(read(words).ok(), Some(dscp), "{words}");
        }
        for words in ["64", "-1", "cs8", "af14", "af51", "af1", "on", ""] {
            let mistake = read(words).expect_err(words);
            assert!(
                mistake.help.is_some_and(|help| help.contains("af43")),
                "{words}"
            );
        }
    }
}
