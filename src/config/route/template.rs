//! The text of a static answer, with the places where it says what happened.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use seawall_actors::policy::ladder::Cause;
use toml::Spanned;

use crate::config::document::{Section, nearest};

/// Longer than any text that people read during an outage. It is sent to every caller then.
const LONGEST: usize = 64 << 10;

/// A text with variables: `{retry_after}`, `{route}`, `{model}`, `{call}` and `{reason}`. A brace
/// is written twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    RetryAfter,
    Route,
    Model,
    Call,
    Reason,
}

/// What the variables of a template stand for.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a variable that is left out would be a hole in a sentence"
)]
pub struct Variables<'v> {
    /// Until a target may answer again: whole seconds, with the unit; `a moment` where it is not
    /// known.
    pub retry_after: Option<Duration>,
    /// The route's name.
    pub route: &'v str,
    /// The model that was asked for; `the model` where none was.
    pub model: Option<&'v str>,
    /// The call's id.
    pub call: &'v str,
    /// Why there is no other answer.
    pub reason: Option<Cause>,
}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    ///
    /// A variable that there is not, or a single brace.
    pub fn parse(source: &str) -> Result<Self, InvalidTemplate> {
        let wrong = |at: usize, what: String| {
            let before = source.get(..at).unwrap_or(source);
            InvalidTemplate {
                line: before.matches('\n').count() + 1,
                column: before.rsplit('\n').next().unwrap_or(before).chars().count() + 1,
                what,
            }
        };
        let (mut parts, mut text, mut at) = (Vec::new(), String::new(), 0);
        while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
            let brace = rest.find(['{', '}']).unwrap_or(rest.len());
            let (plain, rest) = rest.split_at(brace);
            text.push_str(plain);
            at += brace;
            if let Some(doubled) = ["{{", "}}"].into_iter().find(|two| rest.starts_with(two)) {
                text.push_str(doubled.get(1..).unwrap_or_default());
                at += doubled.len();
            } else if rest.starts_with('}') {
                return Err(wrong(
                    at,
                    "`}` closes nothing: write `}}` for a brace".into(),
                ));
            } else if let Some(open) = rest.strip_prefix('{') {
                let name = open.split_once('}').map(|(name, _)| name);
                let name = name.ok_or_else(|| {
                    wrong(at, "`{` is never closed: write `{{` for a brace".into())
                })?;
                let variable = Variable::read(name).map_err(|why| wrong(at, why))?;
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Variable(variable));
                at += name.len() + "{}".len();
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self {
            source: source.to_owned(),
            parts,
        })
    }

    /// The text as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text for one call.
    #[must_use]
    pub fn render(&self, variables: &Variables<'_>) -> String {
        let mut text = String::with_capacity(self.source.len());
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Variable(variable) => variable.render(variables, &mut text),
            }
        }
        text
    }
}

impl Variable {
    const ALL: [(&'static str, Self); 5] = [
        ("retry_after", Self::RetryAfter),
        ("route", Self::Route),
        ("model", Self::Model),
        ("call", Self::Call),
        ("reason", Self::Reason),
    ];

    fn read(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, variable)| *variable).ok_or_else(|| {
            let known = || Self::ALL.iter().map(|(known, _)| *known);
            // A whole sentence between braces is no misspelt name.
            let shown: String = name.chars().take(40).collect();
            let advice = match nearest(name, known()) {
                Some(near) => format!("did you mean `{{{near}}}`?"),
                None => format!(
                    "known: {}; write `{{{{` and `}}}}` for braces",
                    known().collect::<Vec<_>>().join(", ")
                ),
            };
            format!("unknown variable `{{{shown}}}`; {advice}")
        })
    }

    fn render(self, variables: &Variables<'_>, text: &mut String) {
        match self {
            Self::RetryAfter => match variables.retry_after {
                Some(after) => {
                    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
                    let unit = if seconds == 1 { "second" } else { "seconds" };
                    let written = write!(text, "{seconds} {unit}");
                    debug_assert!(written.is_ok(), "writing to a String cannot fail");
                }
                None => text.push_str("a moment"),
            },
            Self::Route => text.push_str(variables.route),
            Self::Model => text.push_str(variables.model.unwrap_or("the model")),
            Self::Call => text.push_str(variables.call),
            Self::Reason => text.push_str(in_words(variables.reason)),
        }
    }
}

/// A cause as the reader of an answer understands it.
const fn in_words(cause: Option<Cause>) -> &'static str {
    match cause {
        Some(Cause::BreakerOpen) => "the model is down",
        Some(Cause::Quota) => "the quota is used up",
        Some(Cause::AttemptsSpent) => "every attempt failed",
        Some(Cause::Overloaded) => "the model has too much to do",
        Some(Cause::TooLarge) => "the request is too long",
        Some(Cause::Refused) => "the model declined to answer",
        Some(Cause::Credential) => "the credential was not accepted",
        Some(Cause::NotFound) => "the model does not exist",
        _ => "no model could answer in time",
    }
}

/// What is wrong with a template, and where; line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidTemplate {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub what: String,
}

impl fmt::Display for InvalidTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.what
        )
    }
}

impl std::error::Error for InvalidTemplate {}

/// Reads `static = { text = "…" }` or `{ file = "…" }`; a relative file is looked for beside the
/// config.
pub(super) fn read_static(route: &Section<'_>, beside: Option<&Path>) -> Option<Template> {
    let answer = route.section("static");
    let doc = answer.doc();
    let text = answer.parsed("text", |text| {
        check_length(text)?;
        Template::parse(text).map_err(|why| why.what)
    });
    let file = answer.parsed("file", |name| read_file(name, beside));
    if answer.has("text") && answer.has("file") {
        let what = format!(
            "`{}` has both text and file: keep one",
            route.name("static")
        );
        doc.refuse(answer.span(), what);
    } else if answer.is_present() && !answer.has("text") && !answer.has("file") {
        let what = format!(
            "`{}` needs its text: {{ text = \"…\" }} or {{ file = \"…\" }}",
            route.name("static")
        );
        doc.refuse(answer.span(), what);
    }
    answer.close();
    text.or(file).map(Spanned::into_inner)
}

fn read_file(name: &str, beside: Option<&Path>) -> Result<Template, String> {
    let path = beside.map_or_else(|| name.into(), |dir| dir.join(name));
    let shown = path.display();
    let cannot = |why: std::io::Error| format!("cannot read {shown}: {why}");
    let file = File::open(&path).map_err(cannot)?;
    let mut bytes = Vec::new();
    // One byte too many is enough to refuse it.
    let most = LONGEST as u64 + "\r\n".len() as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 == most {
        return Err(format!("{shown}: {}", too_long()));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is no UTF-8 text"))?;
    // An editor ends the last line.
    let text = text.trim_end_matches(['\r', '\n']);
    check_length(text).map_err(|why| format!("{shown}: {why}"))?;
    Template::parse(text)
        .map_err(|why| format!("{shown}:{}:{}: {}", why.line, why.column, why.what))
}

fn check_length(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        Err("an empty answer helps nobody: write what the reader should know".into())
    } else if text.len() > LONGEST {
        Err(too_long())
    } else {
        Ok(())
    }
}

fn too_long() -> String {
    format!("too long for an answer that every caller gets: write at most {LONGEST} bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    fn rendered(source: &str, variables: &Variables<'_>) -> String {
        Template::parse(source).unwrap().render(variables)
    }

    #[test]
    fn variables_stand_for_what_is_known_of_the_call() {
        let known = Variables {
            retry_after: Some(Duration::from_millis(29_001)),
            route: "chat",
            model: Some("claude-x"),
            call: "0199",
            reason: Some(Cause::Quota),
        };
        assert_eq!(
            rendered(
                "{model} on {route}: {reason}. Again in {retry_after} ({call})",
                &known
            ),
            "claude-x on chat: the quota is used up. Again in 30 seconds (0199)"
        );
        assert_eq!(
            rendered("{model}, {reason}: {retry_after}", &Variables::default()),
            "the model, no model could answer in time: a moment"
        );
        let soon = Variables {
            retry_after: Some(Duration::from_millis(1)),
            ..Variables::default()
        };
        assert_eq!(rendered("{retry_after}", &soon), "1 second");
    }

    #[test]
    fn every_cause_has_words_of_its_own() {
        let mut all: Vec<_> = Cause::ALL
            .iter()
            .map(|cause| in_words(Some(*cause)))
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), Cause::ALL.len());
    }

    #[test]
    fn a_brace_is_written_twice() {
        let none = Variables::default();
        assert_eq!(rendered("{{\"a\": {{}}}}", &none), "{\"a\": {}}");
        assert_eq!(rendered("{{{retry_after}}}", &none), "{a moment}");
        assert_eq!(rendered("é", &none), "é");
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_place() {
        for (source, place, words) in [
            (
                "a\nbé {retry_afer}",
                (2, 4),
                "did you mean `{retry_after}`?",
            ),
            (
                "{xyzzy}",
                (1, 1),
                "known: retry_after, route, model, call, reason",
            ),
            ("a { b", (1, 3), "never closed"),
            ("a } b", (1, 3), "closes nothing"),
            ("{}", (1, 1), "unknown variable `{}`"),
            ("{ route }", (1, 1), "did you mean `{route}`?"),
        ] {
            let why = Template::parse(source).unwrap_err();
            assert_eq!((why.line, why.column), place, "{why}");
            assert!(why.what.contains(words), "{why}");
        }
    }

    proptest! {
        #[test]
        fn text_whose_braces_are_doubled_comes_out_as_it_was(text in "\\PC*") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(rendered(&doubled, &Variables::default()), text);
        }

        #[test]
        fn no_text_makes_a_panic(text in "[{}a-z_é\n]{0,40}") {
            let _template = Template::parse(&text);
        }
    }
}
