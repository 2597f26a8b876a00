//! Walks the tree by the grammar: what is unknown, missing or of the wrong kind is reported here, once, so that what
//! reads the values can think about their meaning only.

use crate::{
    grammar::{Field, Kind, Section},
    node::{Key, Node, Value},
    problem::{Mistake, Place, Problems, nearest},
    quantity,
};

/// A section of the file whose keys are known and whose required keys are there.
pub(crate) struct Reader<'n> {
    entries: &'n [(Key, Node)],
    grammar: &'static Section,
    /// Where the section's own key stands.
    pub here: Place,
}

/// One value of a list: its words and its place.
#[derive(Clone, Copy)]
pub(crate) struct Item<'n> {
    pub words: &'n str,
    pub place: Place,
}

impl<'n> Reader<'n> {
    /// Opens a section. `named` is where its key stands, which is what a missing key is reported at.
    pub fn open(
        node: &'n Node,
        named: Place,
        grammar: &'static Section,
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Nothing => &[],
            other => {
                problems.error(
                    node.place,
                    wrong_kind("a section with keys of its own", other).help(keys(grammar)),
                );
                return None;
            }
        };
        for (key, _) in entries {
            if !grammar.fields.iter().any(|field| field.key == key.name) {
                problems.error(key.place, unknown(&key.name, grammar));
            }
        }
        for field in grammar.fields.iter().filter(|field| field.required) {
            if !entries
                .iter()
                .any(|(key, node)| key.name == field.key && !matches!(node.value, Value::Nothing))
            {
                problems.error(
                    named,
                    Mistake::new(format!("{} lacks `{}`", grammar.what, field.key))
                        .help(example(field)),
                );
            }
        }
        // What is there is read even so: the operator should learn of all mistakes at once.
        Some(Self {
            entries,
            grammar,
            here: named,
        })
    }

    fn entry(&self, name: &str) -> Option<(&'n Key, &'n Node)> {
        debug_assert!(
            self.grammar.fields.iter().any(|field| field.key == name),
            "{name} is not in the grammar"
        );
        self.entries
            .iter()
            .find(|(key, node)| key.name == name && !matches!(node.value, Value::Nothing))
            .map(|(key, node)| (key, node))
    }

    /// Where the key stands, if it is there.
    pub fn place(&self, name: &str) -> Option<Place> {
        self.entry(name).map(|(key, _)| key.place)
    }

    /// The section under a key.
    pub fn section(&self, name: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let (key, node) = self.entry(name)?;
        let Kind::Section(grammar) = &self.field(name)?.kind else {
            return None;
        };
        Self::open(node, key.place, grammar, problems)
    }

    /// The named sections under a key.
    pub fn named(&self, name: &str, problems: &mut Problems<'_>) -> Vec<(&'n Key, Self)> {
        let Some((_, node)) = self.entry(name) else {
            return Vec::new();
        };
        let Some(Field {
            kind: Kind::Named(grammar),
            ..
        }) = self.field(name)
        else {
            return Vec::new();
        };
        let Value::Map(entries) = &node.value else {
            let mistake = wrong_kind("names with a section below each", &node.value);
            problems.error(
                node.place,
                mistake.help(format!(
                    "give {} a name, and its keys below it",
                    grammar.what
                )),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (key, node) in entries {
            if let Err(mistake) = name_is_good(&key.name) {
                problems.error(key.place, mistake);
            }
            sections.extend(
                Self::open(node, key.place, grammar, problems).map(|section| (key, section)),
            );
        }
        sections
    }

    /// The words under a key and their place.
    pub fn item(&self, name: &str, problems: &mut Problems<'_>) -> Option<Item<'n>> {
        let (_, node) = self.entry(name)?;
        match &node.value {
            Value::Scalar(words) => Some(Item {
                words,
                place: node.place,
            }),
            other => {
                let mistake = wrong_kind(&format!("a single value for `{name}`"), other);
                problems.error(node.place, mistake);
                None
            }
        }
    }

    /// The value under a key, as `read` understands its words.
    pub fn value<T>(
        &self,
        name: &str,
        problems: &mut Problems<'_>,
        read: impl FnOnce(&str) -> Result<T, Mistake>,
    ) -> Option<T> {
        let item = self.item(name, problems)?;
        read(item.words)
            .map_err(|mistake| problems.error(item.place, mistake))
            .ok()
    }

    /// The number under a key, within the bounds that the grammar names.
    pub fn number(&self, name: &str, problems: &mut Problems<'_>) -> Option<u64> {
        let Some(Field {
            kind: Kind::Number(least, most),
            ..
        }) = self.field(name)
        else {
            return None;
        };
        self.value(name, problems, |words| {
            quantity::number(words, *least, *most)
        })
    }

    /// The switch under a key.
    pub fn switch(&self, name: &str, problems: &mut Problems<'_>) -> Option<bool> {
        self.value(name, problems, quantity::switch)
    }

    /// The word under a key, as its position among those that the grammar allows.
    pub fn word(&self, name: &str, problems: &mut Problems<'_>) -> Option<usize> {
        let Some(Field {
            kind: Kind::Word(allowed),
            ..
        }) = self.field(name)
        else {
            return None;
        };
        self.value(name, problems, |words| {
            let position = allowed
                .iter()
                .position(|word| words.trim().eq_ignore_ascii_case(word));
            position.ok_or_else(|| {
                let all = allowed
                    .iter()
                    .map(|word| format!("`{word}`"))
                    .collect::<Vec<_>>()
                    .join(" or ");
                Mistake::new(format!("`{words}` is not known for `{name}`"))
                    .help(format!("write {all}"))
            })
        })
    }

    /// The values of the list under a key; one value alone is a list of one, and an empty list is a mistake.
    pub fn list(&self, name: &str, problems: &mut Problems<'_>) -> Option<Vec<Item<'n>>> {
        let (key, node) = self.entry(name)?;
        let nodes = match &node.value {
            Value::Scalar(words) => {
                return Some(vec![Item {
                    words,
                    place: node.place,
                }]);
            }
            Value::List(nodes) => nodes,
            other => {
                problems.error(
                    node.place,
                    wrong_kind(&format!("a list for `{name}`"), other),
                );
                return None;
            }
        };
        if nodes.is_empty() {
            let help = self.field(name).map_or_else(String::new, example);
            problems.error(
                key.place,
                Mistake::new(format!("the list `{name}` is empty")).help(help),
            );
            return None;
        }
        let mut items = Vec::new();
        for node in nodes {
            match &node.value {
                Value::Scalar(words) => items.push(Item {
                    words,
                    place: node.place,
                }),
                other => problems.error(
                    node.place,
                    wrong_kind(&format!("single values in `{name}`"), other),
                ),
            }
        }
        Some(items)
    }

    /// The values of the list under a key, as `read` understands each.
    pub fn values<T>(
        &self,
        name: &str,
        problems: &mut Problems<'_>,
        mut read: impl FnMut(&str) -> Result<T, Mistake>,
    ) -> Option<Vec<(T, Place)>> {
        let mut values = Vec::new();
        for item in self.list(name, problems)? {
            match read(item.words) {
                Ok(value) => values.push((value, item.place)),
                Err(mistake) => problems.error(item.place, mistake),
            }
        }
        Some(values)
    }

    /// Is there one value alone where a list may stand?
    pub fn is_single(&self, name: &str) -> bool {
        self.entry(name)
            .is_some_and(|(_, node)| matches!(node.value, Value::Scalar(_)))
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.grammar.fields.iter().find(|field| field.key == name)
    }
}

fn wrong_kind(expected: &str, found: &Value) -> Mistake {
    Mistake::new(format!("expected {expected}, found {}", found.kind()))
}

fn unknown(name: &str, grammar: &Section) -> Mistake {
    let mistake = Mistake::new(format!("unknown key `{name}` for {}", grammar.what));
    let lower = name.to_ascii_lowercase();
    let meant = grammar
        .fields
        .iter()
        .find(|field| field.known_as.contains(&lower.as_str()))
        .map(|field| field.key);
    let meant = meant.or_else(|| nearest(name, grammar.fields.iter().map(|field| field.key)));
    match meant {
        Some(key) => mistake.help(format!("did you mean `{key}`?")),
        None => mistake.help(keys(grammar)),
    }
}

fn keys(grammar: &Section) -> String {
    let keys: Vec<&str> = grammar.fields.iter().map(|field| field.key).collect();
    format!("{} has the keys {}", grammar.what, keys.join(", "))
}

fn example(field: &Field) -> String {
    match &field.kind {
        Kind::Word(words) => format!("write `{}: {}`", field.key, words.join("` or `")),
        Kind::Text(example) | Kind::Texts(example) => {
            format!("write `{}: {example}`, for example", field.key)
        }
        Kind::Number(least, most) => {
            format!("write `{}:` and a number from {least} to {most}", field.key)
        }
        Kind::Switch => format!("write `{}: on` or `off`", field.key),
        Kind::Section(inner) => format!(
            "add `{}:` with {} below it",
            field.key,
            required_keys(inner)
        ),
        Kind::Named(inner) => format!(
            "add `{}:`, below it a name, and below that {}",
            field.key,
            required_keys(inner)
        ),
    }
}

fn required_keys(grammar: &Section) -> String {
    let mut fields = grammar
        .fields
        .iter()
        .filter(|field| field.required)
        .peekable();
    if fields.peek().is_none() {
        return grammar
            .fields
            .iter()
            .map(|field| format!("`{}`", field.key))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    fields
        .map(|field| format!("`{}`", field.key))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Names go into labels of 64 bytes ("tunnel/child") and onto the command line.
fn name_is_good(name: &str) -> Result<(), Mistake> {
    const LONGEST: usize = 31;
    let help = format!(
        "a name is 1 to {LONGEST} letters, digits, `-`, `_` or `.`, and does not begin with `-`"
    );
    let bad = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if name.is_empty() || name.len() > LONGEST || name.starts_with('-') || name.contains(bad) {
        let shown: String = name.chars().take(40).collect();
        return Err(Mistake::new(format!("`{shown}` cannot be a name")).help(help));
    }
    Ok(())
}
