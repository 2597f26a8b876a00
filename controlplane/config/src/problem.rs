//! What is wrong with a configuration, where, and what would be right: one [`Problem`] a mistake, rendered the way
//! rustc renders its own.

use std::fmt;

use esplanade_ike::config::ProposalError;
use serde::Serialize;

/// Where something stands in the text. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// How many characters the thing is wide; 0 where that is not known.
    pub width: u32,
}

/// Does a problem stop the gateway?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration works, but somebody should look.
    Warning,
}

/// One mistake. Its [`Display`](fmt::Display) is what the operator reads: several lines, no newline at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Does it stop the gateway?
    pub severity: Severity,
    /// The file, as the operator named it.
    pub file: String,
    /// Where in the file; `None` if the file as a whole is meant.
    pub place: Option<Place>,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub help: Option<String>,
    /// The line of the text that the problem stands on, secrets left out.
    pub excerpt: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.what)?;
        let Some(Place {
            line,
            column,
            width,
        }) = self.place
        else {
            write!(f, "\n --> {}", self.file)?;
            return self
                .help
                .iter()
                .try_for_each(|help| write!(f, "\n  = help: {help}"));
        };
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        write!(f, "\n{margin}--> {}:{line}:{column}", self.file)?;
        if let Some(excerpt) = &self.excerpt {
            let before = (column as usize).saturating_sub(1);
            // A mark never runs past its line: a value may go on over several.
            let room = excerpt.chars().count().saturating_sub(before).max(1);
            let indent: String = excerpt
                .chars()
                .chain(std::iter::repeat(' '))
                .take(before)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let mark = "^".repeat((width as usize).clamp(1, room));
            write!(
                f,
                "\n{margin} |\n{number} | {excerpt}\n{margin} | {indent}{mark}"
            )?;
        }
        self.help
            .iter()
            .try_for_each(|help| write!(f, "\n{margin} = help: {help}"))
    }
}

/// What is wrong with one value, before anybody knows where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub what: String,
    pub help: Option<String>,
}

impl Mistake {
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            help: None,
        }
    }

    /// Says what would be right, unless that is said already.
    pub fn or_help(self, help: &str) -> Self {
        match self.help {
            Some(_) => self,
            None => self.help(help),
        }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<ProposalError> for Mistake {
    fn from(error: ProposalError) -> Self {
        let help = match &error {
            ProposalError::Unknown { word, known } => nearest(word, known.iter().copied())
                .map(|near| format!("did you mean `{near}`? Known here are {}", known.join(", "))),
            _ => None,
        };
        Self::new(error.to_string()).help(help.unwrap_or_else(|| error.help()))
    }
}

/// The problems found in one text so far.
pub(crate) struct Problems<'t> {
    file: String,
    text: &'t str,
    found: Vec<Problem>,
}

impl<'t> Problems<'t> {
    /// More than these are not collected: nobody reads them, and a hostile text could hold millions.
    const MOST: usize = 200;

    pub fn new(file: String, text: &'t str) -> Self {
        Self {
            file,
            text,
            found: Vec::new(),
        }
    }

    pub fn error(&mut self, place: Place, mistake: Mistake) {
        self.add(Severity::Error, Some(place), mistake);
    }

    pub fn warning(&mut self, place: Place, mistake: Mistake) {
        self.add(Severity::Warning, Some(place), mistake);
    }

    pub fn in_file(&mut self, severity: Severity, mistake: Mistake) {
        self.add(severity, None, mistake);
    }

    fn add(&mut self, severity: Severity, place: Option<Place>, Mistake { what, help }: Mistake) {
        if self.found.len() == Self::MOST {
            return;
        }
        self.found.push(Problem {
            severity,
            file: self.file.clone(),
            place,
            what,
            help,
            excerpt: place.and_then(|place| excerpt(self.text, place.line)),
        });
    }

    /// The warnings if there is nothing worse, else everything, in the order of the text.
    pub fn finish(mut self) -> Result<Vec<Problem>, Vec<Problem>> {
        self.found
            .sort_by_key(|problem| problem.place.map(|place| (place.line, place.column)));
        if self
            .found
            .iter()
            .any(|problem| problem.severity == Severity::Error)
        {
            Err(self.found)
        } else {
            Ok(self.found)
        }
    }
}

/// The given line, without what would put a secret on a terminal or into a log, and not endlessly long.
fn excerpt(text: &str, line: u32) -> Option<String> {
    const LONGEST: usize = 160;
    let line = text
        .lines()
        .nth((line as usize).checked_sub(1)?)?
        .trim_end();
    let shown = match line.find("secret") {
        Some(at) => format!("{}secret: …", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    };
    Some(
        shown
            .chars()
            .take(LONGEST)
            .map(|c| if c.is_control() && c != '\t' { ' ' } else { c })
            .collect(),
    )
}

/// The candidate nearest to what was written, if any is near enough to be meant.
pub(crate) fn nearest<'c>(
    written: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    const NEAR_ENOUGH: f64 = 0.72;
    let written = plain(written);
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&written, &plain(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= NEAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn plain(word: &str) -> String {
    word.chars()
        .take(64)
        .map(|c| {
            if c == '_' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_points_at_its_place() {
        let text = "dataplane:\n  pollin: busy\n";
        let mut problems = Problems::new("a.yaml".into(), text);
        let place = Place {
            line: 2,
            column: 3,
            width: 6,
        };
        problems.error(
            place,
            Mistake::new("unknown key `pollin`").help("did you mean `polling`?"),
        );
        assert_eq!(
            problems.finish().unwrap_err()[0].to_string(),
            "error: unknown key `pollin`\n --> a.yaml:2:3\n  |\n2 |   pollin: busy\n  |   ^^^^^^\n  = help: did you mean `polling`?"
        );
    }

    #[test]
    fn a_secret_is_never_quoted() {
        let text = "psk: { secret: hunter2hunter2 }";
        assert_eq!(excerpt(text, 1).unwrap(), "psk: { secret: …");
    }

    #[test]
    fn a_suggestion_must_be_near() {
        assert_eq!(nearest("adress", ["address", "identity"]), Some("address"));
        assert_eq!(
            nearest("replay_window", ["replay-window", "rekey"]),
            Some("replay-window")
        );
        assert_eq!(nearest("xyz", ["address", "identity"]), None);
    }
}
