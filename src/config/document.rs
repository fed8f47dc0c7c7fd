//! A TOML file read key by key, so that every problem is found at once and has a place.
//!
//! Each section notes the keys it was asked for; closing it refuses whatever is left, with the
//! nearest key that was asked for.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Position, Problem};
use crate::size::{self, Humane};

/// Names closer than this are offered as a correction (Damerau-Levenshtein, 1 is equal).
const NEAR: f64 = 0.5;

/// The file's text and what was found wrong with it so far.
pub(super) struct Document<'t> {
    file: String,
    text: &'t str,
    problems: RefCell<Vec<(usize, Problem)>>,
    warnings: RefCell<Vec<(usize, Problem)>>,
}

impl<'t> Document<'t> {
    pub(super) fn new(file: String, text: &'t str) -> Self {
        Self {
            file,
            text,
            problems: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// Notes a problem at a place of the file.
    pub(super) fn refuse(&self, span: &Range<usize>, what: impl Into<String>) {
        self.problems
            .borrow_mut()
            .push((span.start, self.problem(span, what)));
    }

    /// Notes a problem that lies in no line: a flag, or something that is missing.
    pub(super) fn refuse_all(&self, what: impl Into<String>) {
        let problem = Problem {
            place: None,
            what: what.into(),
        };
        self.problems.borrow_mut().push((usize::MAX, problem));
    }

    pub(super) fn warn(&self, span: Option<&Range<usize>>, what: impl Into<String>) {
        let entry = match span {
            Some(span) => (span.start, self.problem(span, what)),
            None => (
                usize::MAX,
                Problem {
                    place: None,
                    what: what.into(),
                },
            ),
        };
        self.warnings.borrow_mut().push(entry);
    }

    /// Returns the problems and the warnings, each in the order of the file.
    pub(super) fn into_findings(self) -> (Vec<Problem>, Vec<Problem>) {
        let sorted = |mut found: Vec<(usize, Problem)>| {
            found.sort_by_key(|(at, _)| *at);
            found.into_iter().map(|(_, problem)| problem).collect()
        };
        (
            sorted(self.problems.into_inner()),
            sorted(self.warnings.into_inner()),
        )
    }

    fn problem(&self, span: &Range<usize>, what: impl Into<String>) -> Problem {
        let before = self
            .text
            .get(..span.start.min(self.text.len()))
            .unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        Problem {
            place: Some(Position {
                file: self.file.clone(),
                line,
                column,
            }),
            what: what.into(),
        }
    }
}

/// One table of the file, or an absent one, in which every key is absent.
pub(super) struct Section<'d> {
    doc: &'d Document<'d>,
    /// As a reader would write it, without brackets: `targets.sonnet`; empty at the top.
    path: String,
    table: Option<&'d DeTable<'d>>,
    span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    pub(super) fn top(doc: &'d Document<'d>, table: Option<&'d DeTable<'d>>) -> Self {
        Self {
            doc,
            path: String::new(),
            table,
            span: 0..0,
            asked: RefCell::default(),
        }
    }

    pub(super) const fn doc(&self) -> &'d Document<'d> {
        self.doc
    }

    /// Returns the place of the section's heading.
    pub(super) const fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// Returns the place of a key's value, or else of the heading.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        let value = self.table.and_then(|table| table.get(key));
        value.map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Whether the section is in the file.
    pub(super) const fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Whether a key is in the file, whatever its value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Returns the full name of a key of this section.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether a key's value is this word. Its type and other values are not judged.
    pub(super) fn says(&self, key: &'static str, word: &str) -> bool {
        let said = self.value(key).map(Spanned::get_ref);
        matches!(said, Some(DeValue::String(text)) if text == word)
    }

    /// Whether a key's value is a text, where it may also be a table.
    pub(super) fn is_text(&self, key: &'static str) -> bool {
        let said = self.value(key).map(Spanned::get_ref);
        matches!(said, Some(DeValue::String(_)))
    }

    pub(super) fn string(&self, key: &'static str) -> Option<Spanned<String>> {
        self.text(key, "a text in quotes")
    }

    fn text(&self, key: &'static str, wanted: &str) -> Option<Spanned<String>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.clone().into_owned())),
            other => self.wrong(key, value.span(), other, wanted),
        }
    }

    /// A text that `read` understands.
    pub(super) fn parsed<T, E: Display>(
        &self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Spanned<T>> {
        self.read(key, self.string(key)?, read)
    }

    fn read<T, E: Display>(
        &self,
        key: &str,
        text: Spanned<String>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Spanned<T>> {
        match read(text.get_ref()) {
            Ok(value) => Some(Spanned::new(text.span(), value)),
            Err(why) => {
                self.doc
                    .refuse(&text.span(), format!("`{}`: {why}", self.name(key)));
                None
            }
        }
    }

    pub(super) fn flag(&self, key: &'static str) -> Option<Spanned<bool>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(Spanned::new(value.span(), *flag)),
            other => self.wrong(key, value.span(), other, "true or false"),
        }
    }

    pub(super) fn integer(
        &self,
        key: &'static str,
        allowed: RangeInclusive<u64>,
    ) -> Option<Spanned<u64>> {
        let value = self.value(key)?;
        let DeValue::Integer(digits) = value.get_ref() else {
            return self.wrong(
                key,
                value.span(),
                value.get_ref(),
                "a whole number, without quotes",
            );
        };
        match u64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) if allowed.contains(&number) => Some(Spanned::new(value.span(), number)),
            _ => self.outside(key, value.span(), digits, (allowed.start(), allowed.end())),
        }
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        allowed: RangeInclusive<f64>,
    ) -> Option<Spanned<f64>> {
        let value = self.value(key)?;
        let written = match value.get_ref() {
            DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str(),
            DeValue::Float(digits) => digits.as_str(),
            other => return self.wrong(key, value.span(), other, "a number, without quotes"),
        };
        match written.parse::<f64>() {
            Ok(number) if allowed.contains(&number) => Some(Spanned::new(value.span(), number)),
            _ => self.outside(key, value.span(), written, (allowed.start(), allowed.end())),
        }
    }

    pub(super) fn duration(
        &self,
        key: &'static str,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Spanned<Duration>> {
        let text = self.text(key, "a time with its unit in quotes, such as \"500ms\"")?;
        let value = self.read(key, text, crate::duration::parse)?;
        if allowed.contains(value.get_ref()) {
            return Some(value);
        }
        let (least, most) = (allowed.start(), allowed.end());
        let written = format!("{:?}", value.get_ref());
        self.outside(
            key,
            value.span(),
            written,
            (format!("{least:?}"), format!("{most:?}")),
        )
    }

    /// A size in bytes: a text with a unit, or a whole number.
    pub(super) fn size(
        &self,
        key: &'static str,
        allowed: RangeInclusive<u64>,
    ) -> Option<Spanned<u64>> {
        let value = self.value(key)?;
        let read = match value.get_ref() {
            DeValue::String(text) => size::parse(text),
            DeValue::Integer(digits) if digits.radix() == 10 => size::parse(digits.as_str()),
            other => {
                return self.wrong(
                    key,
                    value.span(),
                    other,
                    "a size with its unit, such as \"64MiB\"",
                );
            }
        };
        match read {
            Ok(bytes) if allowed.contains(&bytes) => Some(Spanned::new(value.span(), bytes)),
            Ok(bytes) => {
                let (least, most) = (Humane(*allowed.start()), Humane(*allowed.end()));
                self.outside(key, value.span(), Humane(bytes), (least, most))
            }
            Err(why) => {
                self.doc
                    .refuse(&value.span(), format!("`{}`: {why}", self.name(key)));
                None
            }
        }
    }

    pub(super) fn strings(&self, key: &'static str) -> Option<Vec<Spanned<String>>> {
        let value = self.value(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            return self.wrong(
                key,
                value.span(),
                value.get_ref(),
                "a list of texts: [\"…\", \"…\"]",
            );
        };
        let read = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
            DeValue::String(text) => Some(Spanned::new(item.span(), text.clone().into_owned())),
            other => self.wrong(key, item.span(), other, "a text in quotes for each entry"),
        };
        Some(items.iter().filter_map(read).collect())
    }

    /// A table under a fixed key.
    pub(super) fn section(&self, key: &'static str) -> Self {
        let found = self
            .value(key)
            .and_then(|value| self.sub(self.name(key), value));
        found.unwrap_or_else(|| Self {
            doc: self.doc,
            path: self.name(key),
            table: None,
            span: self.span.clone(),
            asked: RefCell::default(),
        })
    }

    /// The tables that users named themselves: `[targets.NAME]`.
    pub(super) fn named_sections(&self, key: &'static str) -> Vec<(String, Self)> {
        let parent = self.section(key);
        let Some(table) = parent.table else {
            return Vec::new();
        };
        table
            .iter()
            .filter_map(|(name, value)| {
                let section = parent.sub(parent.name(name.get_ref()), value)?;
                Some((
                    name.get_ref().clone().into_owned(),
                    section.headed(name.span()),
                ))
            })
            .collect()
    }

    /// A list of tables: `key = [{…}, {…}]` or `[[key]]`.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong::<()>(
                key,
                value.span(),
                value.get_ref(),
                "a list of tables: [{ … }, { … }]",
            );
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|item| self.sub(self.name(key), item))
            .collect()
    }

    /// A list of texts and tables: `key = ["…", { … }]`.
    pub(super) fn entries(&self, key: &'static str) -> Option<Vec<Entry<'d>>> {
        const WANTED: &str = "a text in quotes or a table for each entry";
        let value = self.value(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            return self.wrong(key, value.span(), value.get_ref(), "a list: [\"…\", \"…\"]");
        };
        let read = |item: &'d Spanned<DeValue<'d>>| match item.get_ref() {
            DeValue::String(text) => {
                let text = Spanned::new(item.span(), text.clone().into_owned());
                Some(Entry::Text(text))
            }
            DeValue::Table(_) => self.sub(self.name(key), item).map(Entry::Table),
            other => self.wrong(key, item.span(), other, WANTED),
        };
        Some(items.iter().filter_map(read).collect())
    }

    /// Refuses every key that nothing asked for.
    pub(super) fn close(self) {
        let asked = self.asked.borrow();
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            if asked.iter().any(|known| known == key.get_ref()) {
                continue;
            }
            let place = if self.path.is_empty() {
                "the file".into()
            } else {
                format!("[{}]", self.path)
            };
            let advice = match nearest(key.get_ref(), asked.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known there: {}", asked.join(", ")),
            };
            let what = format!("unknown key `{}` in {place}; {advice}", key.get_ref());
            self.doc.refuse(&key.span(), what);
        }
    }

    fn value(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.borrow_mut().push(key);
        self.table?.get(key)
    }

    fn sub(&self, path: String, value: &'d Spanned<DeValue<'d>>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            let what = format!(
                "`{path}` is {}; write a table: [{path}] with its keys below, or {{ key = value }}",
                kind(value.get_ref())
            );
            self.doc.refuse(&value.span(), what);
            return None;
        };
        let (doc, span) = (self.doc, value.span());
        Some(Self {
            doc,
            path,
            table: Some(table),
            span,
            asked: RefCell::default(),
        })
    }

    fn headed(self, span: Range<usize>) -> Self {
        Self { span, ..self }
    }

    fn wrong<T>(
        &self,
        key: &str,
        span: Range<usize>,
        value: &DeValue<'_>,
        wanted: &str,
    ) -> Option<T> {
        let what = format!("`{}` is {}; write {wanted}", self.name(key), kind(value));
        self.doc.refuse(&span, what);
        None
    }

    fn outside<T, B: Display>(
        &self,
        key: &str,
        span: Range<usize>,
        value: impl Display,
        (least, most): (B, B),
    ) -> Option<T> {
        let name = self.name(key);
        self.doc.refuse(
            &span,
            format!("`{name}` is {value}; write a value from {least} to {most}"),
        );
        None
    }
}

/// One entry of a list that holds both.
pub(super) enum Entry<'d> {
    Text(Spanned<String>),
    Table(Section<'d>),
}

/// Returns the known name that a mistyped one most likely means.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

const fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
