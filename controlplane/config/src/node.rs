//! Text to tree: the YAML as scalars, lists and maps, each with its place, nothing interpreted yet.
//!
//! A scalar keeps the words that the operator wrote (`0x10`, `on`, `4h`), so that its meaning is decided by the
//! field it stands in and not by YAML's guesses.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, Spanned, options::NonFiniteFloatPolicy};

use crate::problem::{Mistake, Place};

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

/// A value of YAML.
#[derive(Debug)]
pub(crate) enum Value {
    Nothing,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl Value {
    /// What it is, for "expected a list, found ...".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a section with keys of its own",
        }
    }
}

/// A key of a map and where it stands.
#[derive(Debug)]
pub(crate) struct Key {
    pub place: Place,
    pub name: String,
}

/// Reads one YAML document.
pub(crate) fn parse(text: &str) -> Result<Node, (Option<Place>, Mistake)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 4_000_000,
            max_nodes: 2_000_000,
            max_depth: 32,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Ok(settle(raw, text)),
        Err(error) => Err(explain(error.without_snippet())),
    }
}

fn explain(error: &Error) -> (Option<Place>, Mistake) {
    let place = error.location().map(|location| place(location, 0));
    let mistake = match error {
        Error::DuplicateMappingKey { key, .. } => Mistake::new(match key {
            Some(key) => format!("the key `{key}` stands here for the second time"),
            None => "this key stands here for the second time".to_owned(),
        })
        .help("keep one of the two; names of ports, tunnels and children are unique within their section"),
        Error::MultipleDocuments { .. } => {
            Mistake::new("a second YAML document begins here").help("a configuration is one document: remove the `---`")
        }
        other => {
            let words = other.to_string();
            // The place is said already, in our own way.
            let words = words.split(" at line ").next().unwrap_or(&words);
            Mistake::new(format!("this is not YAML: {words}"))
        }
    };
    (place, mistake)
}

fn place(location: Location, width: usize) -> Place {
    let short = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Place {
        line: short(location.line()).max(1),
        column: short(location.column()).max(1),
        width: short(width as u64),
    }
}

/// The words of the text at a location.
fn words(location: Location, text: &str) -> Option<&str> {
    let span = location.span();
    let from = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    text.get(from..from.checked_add(length)?)
}

fn settle(raw: Spanned<Raw>, text: &str) -> Node {
    let words = words(raw.defined, text);
    let width = words.map_or(0, |words| {
        words.lines().next().unwrap_or_default().chars().count()
    });
    let value = match raw.value {
        Raw::Nothing => Value::Nothing,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Guessed(guess) => Value::Scalar(words.map_or(guess, str::to_owned)),
        Raw::List(items) => Value::List(items.into_iter().map(|item| settle(item, text)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let place = place(key.defined, key.value.chars().count());
                    (
                        Key {
                            place,
                            name: key.value,
                        },
                        settle(value, text),
                    )
                })
                .collect(),
        ),
    };
    Node {
        place: place(raw.defined, width),
        value,
    }
}

/// What serde sees: [`Value`] before the words of the text took the place of YAML's guess.
enum Raw {
    Nothing,
    Text(String),
    /// YAML took it for a number or a truth; the words themselves are in the text.
    Guessed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, guess: bool) -> Result<Raw, E> {
        Ok(Raw::Guessed(guess.to_string()))
    }

    fn visit_u64<E>(self, guess: u64) -> Result<Raw, E> {
        Ok(Raw::Guessed(guess.to_string()))
    }

    fn visit_i64<E>(self, guess: i64) -> Result<Raw, E> {
        Ok(Raw::Guessed(guess.to_string()))
    }

    fn visit_f64<E>(self, guess: f64) -> Result<Raw, E> {
        Ok(Raw::Guessed(guess.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalars(text: &str) -> Vec<(String, u32, u32)> {
        let Value::Map(entries) = parse(text).unwrap().value else {
            panic!("no map")
        };
        entries
            .into_iter()
            .map(|(_, node)| match node.value {
                Value::Scalar(words) => (words, node.place.line, node.place.column),
                other => (other.kind().to_owned(), node.place.line, node.place.column),
            })
            .collect()
    }

    #[test]
    fn a_scalar_keeps_the_words_of_the_operator() {
        let text = "a: 0x10 # sixteen\nb: 007\nc: on\nd: 'on'\ne: 1e999\nf: 10.1.0.0/16\ng:\nh: 99999999999999999999999\n";
        let words: Vec<String> = scalars(text).into_iter().map(|(words, ..)| words).collect();
        assert_eq!(
            words,
            [
                "0x10",
                "007",
                "on",
                "on",
                "1e999",
                "10.1.0.0/16",
                "nothing",
                "99999999999999999999999"
            ]
        );
    }

    #[test]
    fn places_count_characters_from_one() {
        assert_eq!(
            scalars("äö: 'x'\nb: y\n"),
            [("x".to_owned(), 1, 5), ("y".to_owned(), 2, 4)]
        );
    }

    #[test]
    fn what_is_not_yaml_is_placed() {
        let (place, mistake) = parse("a: 1\na: 2\n").unwrap_err();
        assert_eq!(place.map(|place| (place.line, place.column)), Some((2, 1)));
        assert!(mistake.what.contains("`a`"), "{mistake:?}");
        let (place, mistake) = parse("a: [1\nb: 2\n").unwrap_err();
        assert!(
            place.is_some() && !mistake.what.contains("at line"),
            "{mistake:?}"
        );
    }
}
