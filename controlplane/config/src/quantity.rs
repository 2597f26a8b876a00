//! Durations, amounts of bytes and packets, numbers and switches as an operator writes them.

use std::time::Duration;

use crate::problem::Mistake;

/// `4h`, `90s`, `1h30m`, `2d`; a number alone counts seconds, as in strongSwan.
pub(crate) fn duration(words: &str) -> Result<Duration, Mistake> {
    let wrong = || {
        Mistake::new(format!("`{words}` is no duration"))
            .help("write it like `90s`, `30m`, `4h`, `1h30m` or `2d`")
    };
    let mut rest = words.trim();
    let mut seconds = 0u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest).ok_or_else(wrong)?;
        let (unit, after) = split_where(after, |c| c.is_ascii_digit());
        let factor = match unit.trim() {
            "" | "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        seconds = number
            .checked_mul(factor)
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(wrong)?;
        rest = after;
    }
    Ok(Duration::from_secs(seconds))
}

/// A duration in the words of [`duration`].
pub(crate) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => "0s".to_owned(),
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

/// `50GiB` (powers of 1024), `50GB` (powers of 1000), or bytes as a plain number.
pub(crate) fn bytes(words: &str) -> Result<u64, Mistake> {
    let wrong = || {
        Mistake::new(format!("`{words}` is no amount of bytes"))
            .help("write it like `500MiB`, `50GiB` or `1TB`")
    };
    let (number, unit) = leading_number(words.trim()).ok_or_else(wrong)?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// A whole number between two bounds. `_` may group digits.
pub(crate) fn number(words: &str, least: u64, most: u64) -> Result<u64, Mistake> {
    let digits: String = words.trim().chars().filter(|c| *c != '_').collect();
    let range = format!("write a whole number from {least} to {most}");
    match digits.parse::<u64>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        Ok(value) if value < least => {
            Err(Mistake::new(format!("{value} is too small")).help(range))
        }
        Ok(value) => Err(Mistake::new(format!("{value} is too large")).help(range)),
        Err(_) => Err(Mistake::new(format!("`{words}` is not a whole number")).help(range)),
    }
}

/// `on` or `off`, and what else means these in YAML.
pub(crate) fn switch(words: &str) -> Result<bool, Mistake> {
    match words.trim().to_ascii_lowercase().as_str() {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => {
            Err(Mistake::new(format!("`{words}` is neither on nor off"))
                .help("write `on` or `off`"))
        }
    }
}

fn leading_number(words: &str) -> Option<(u64, &str)> {
    let (digits, rest) = split_where(words, |c| !c.is_ascii_digit());
    Some((digits.parse().ok()?, rest))
}

fn split_where(words: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    words.split_at(words.find(end).unwrap_or(words.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |words| duration(words).map(|duration| duration.as_secs()).ok();
        assert_eq!(seconds("4h"), Some(14_400));
        assert_eq!(seconds("1h30m"), Some(5_400));
        assert_eq!(seconds("2d"), Some(172_800));
        assert_eq!(seconds("3600"), Some(3_600));
        for wrong in [
            "",
            "h",
            "4 hours",
            "-1s",
            "4x",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
        assert_eq!(in_words(Duration::from_secs(5_400)), "90m");
    }

    #[test]
    fn amounts() {
        assert_eq!(bytes("50GiB"), Ok(50 << 30));
        assert_eq!(bytes("1 TB"), Ok(1_000_000_000_000));
        assert_eq!(bytes("1500"), Ok(1500));
        assert!(bytes("50G").is_err() && bytes("99999999999TiB").is_err());
        assert_eq!(number("65_536", 32, 65_536), Ok(65_536));
        assert!(
            number("31", 32, 65_536)
                .unwrap_err()
                .help
                .unwrap()
                .contains("32 to 65536")
        );
    }
}
