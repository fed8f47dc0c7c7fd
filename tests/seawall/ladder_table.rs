//! Every verdict on the first target, met with every kind of second rung in every state, streamed and
//! not. What must come of a cell is told by [`oracle`], which knows the rules and nothing of how the
//! ladder is walked.

mod oracle;
mod rig;
mod trouble;

use std::collections::BTreeSet;

use seawall::client::ask::{Degraded, Fallback, Report};
use seawall::verdict::label;
use seawall_actors::policy::ladder::Cause;

use oracle::{By, Expected, expected};
use rig::{Failed, Got, Kept, Seen, play};
use trouble::{Form, Trouble, all};

/// What is below the first target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    /// Nothing.
    None,
    /// Another model, with a larger context, and the same credential.
    OtherModel,
    /// The same model with another credential.
    OtherKey,
    CacheFresh,
    CacheStale,
    CacheEmpty,
    Static,
}

impl Second {
    const ALL: [Self; 7] = [
        Self::None,
        Self::OtherModel,
        Self::OtherKey,
        Self::CacheFresh,
        Self::CacheStale,
        Self::CacheEmpty,
        Self::Static,
    ];

    const fn is_target(self) -> bool {
        matches!(self, Self::OtherModel | Self::OtherKey)
    }

    /// Those in which it can be: only a target has a breaker, a quota and a capability.
    const fn states(self) -> &'static [State] {
        if self.is_target() {
            &[State::Healthy, State::Open, State::Exhausted, State::Unfit]
        } else {
            &[State::Healthy]
        }
    }
}

/// How the second target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Healthy,
    /// Its breaker is open.
    Open,
    /// Its quota has nothing left for an hour.
    Exhausted,
    /// It can't carry the request.
    Unfit,
}

/// One cell of the table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) trouble: Trouble,
    pub(crate) second: Second,
    pub(crate) state: State,
    /// Whether the static answer is below the second rung.
    pub(crate) ends_static: bool,
    pub(crate) stream: bool,
    pub(crate) fallback: Fallback,
    /// What leads to the second rung, where that is not as usual.
    pub(crate) on: Option<&'static str>,
}

impl Cell {
    const fn new(trouble: Trouble, second: Second, stream: bool) -> Self {
        Self {
            trouble,
            second,
            state: State::Healthy,
            ends_static: false,
            stream,
            fallback: Fallback::Allowed,
            on: None,
        }
    }
}

/// Every wrong cell, so that a failure shows its pattern.
#[derive(Default)]
struct Table {
    cells: usize,
    wrong: Vec<String>,
}

impl Table {
    /// Plays a cell and holds it against the rules.
    async fn play(&mut self, cell: &Cell, kept: &Kept) {
        let expected = expected(cell);
        let seen = play(cell, kept).await;
        self.cells += 1;
        let mut wrong = Vec::new();
        if !expected.first.contains(&seen.first) || seen.second != expected.second {
            wrong.push("attempts");
        }
        match &seen.got {
            Got::Error(error) if expected.by == By::Nobody => {
                wrong.extend(misreported(cell, &seen, error));
            }
            Got::Answer { text, report } if expected.by != By::Nobody => {
                wrong.extend(mismarked(cell, &expected, &seen, (text, report)));
            }
            _ => wrong.push("who answers"),
        }
        if !wrong.is_empty() {
            let what = wrong.join(", ");
            self.wrong.push(format!(
                "{what}: {cell:?}\n  expected {expected:?}\n  {seen:?}"
            ));
        }
    }

    fn finish(self) {
        println!("{} cells", self.cells);
        assert!(
            self.wrong.is_empty(),
            "{} of {}:\n{}",
            self.wrong.len(),
            self.cells,
            self.wrong.join("\n")
        );
    }
}

/// What is wrong with an error: it is to be the first target's own last word.
fn misreported(cell: &Cell, seen: &Seen, error: &Failed) -> Vec<&'static str> {
    let trouble = &cell.trouble;
    let report = error.report.as_ref();
    let checks = [
        ("label", error.label == trouble.label),
        ("status", error.status == trouble.status),
        ("type", error.kind == trouble.kind),
        (
            "report",
            // A process that leaves has no report to give.
            report.map_or(trouble.label == label::DRAINING, |report| {
                &*report.rung == "first"
                    && report.attempts == seen.first + seen.second
                    && (report.degraded, &report.cache) == (None, &None)
            }),
        ),
    ];
    failed(&checks)
}

/// What is wrong with an answer: it is to be whole, and to say what it is.
fn mismarked(
    cell: &Cell,
    expected: &Expected,
    seen: &Seen,
    (text, report): (&str, &Report),
) -> Vec<&'static str> {
    let is_stale = cell.second == Second::CacheStale;
    let (rung, degraded, of) = match expected.by {
        By::First | By::Nobody => ("first", None, &seen.of_first),
        By::Second => {
            let other = cell.second == Second::OtherModel;
            ("second", other.then_some(Degraded::Model), &seen.of_second)
        }
        By::Cache => ("cache", is_stale.then_some(Degraded::Cache), &seen.of_cache),
        By::Static => ("static", Some(Degraded::Static), &seen.of_static),
    };
    let badge = report.cache.as_deref();
    let is_badge =
        |badge: &str| badge.starts_with("hit; age=") && badge.ends_with("; stale") == is_stale;
    let skipped: Vec<String> = report.skipped.iter().map(ToString::to_string).collect();
    let unfit = (cell.state == State::Unfit).then(|| "second=cannot_images".to_owned());
    let checks = [
        ("text", text == of && !text.is_empty()),
        ("rung", &*report.rung == rung),
        ("degraded", report.degraded == degraded),
        (
            "cause",
            report.cause.map(|cause| cause.as_str()) == expected.cause,
        ),
        ("attempts told", report.attempts == seen.first + seen.second),
        (
            "cache",
            badge.is_some() == (expected.by == By::Cache) && badge.is_none_or(is_badge),
        ),
        ("skipped", skipped == Vec::from_iter(unfit)),
    ];
    failed(&checks)
}

fn failed(checks: &[(&'static str, bool)]) -> Vec<&'static str> {
    let failed = checks.iter().filter(|(_, holds)| !holds);
    failed.map(|(name, _)| *name).collect()
}

/// The forms of a trouble: whether to stream.
fn forms(trouble: &Trouble) -> &'static [bool] {
    match trouble.form {
        Form::Both => &[true, false],
        Form::Streamed => &[true],
        Form::Whole => &[false],
    }
}

#[tokio::test(start_paused = true)]
async fn every_verdict_meets_every_rung_in_every_state() {
    let kept = Kept::new().await;
    let mut table = Table::default();
    for trouble in all() {
        for &stream in forms(&trouble) {
            for second in Second::ALL {
                for &state in second.states() {
                    let mut cell = Cell::new(trouble.clone(), second, stream);
                    cell.state = state;
                    table.play(&cell, &kept).await;
                    if second.is_target() {
                        cell.ends_static = true;
                        table.play(&cell, &kept).await;
                    }
                }
            }
        }
    }
    table.finish();
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_fall_gets_the_first_targets_own_word() {
    let kept = Kept::new().await;
    let mut table = Table::default();
    for trouble in all() {
        for &stream in forms(&trouble) {
            for second in Second::ALL {
                let mut cell = Cell::new(trouble.clone(), second, stream);
                cell.fallback = Fallback::Never;
                table.play(&cell, &kept).await;
            }
        }
    }
    table.finish();
}

#[tokio::test(start_paused = true)]
async fn a_rung_with_causes_of_its_own_is_come_to_by_them_alone() {
    let kept = Kept::new().await;
    let mut table = Table::default();
    for on in ["refused", "overloaded"] {
        for trouble in all() {
            for &stream in forms(&trouble) {
                for second in [Second::OtherModel, Second::OtherKey] {
                    let mut cell = Cell::new(trouble.clone(), second, stream);
                    cell.on = Some(on);
                    table.play(&cell, &kept).await;
                }
            }
        }
    }
    table.finish();
}

#[test]
fn the_table_has_every_verdict() {
    let played: BTreeSet<&str> = all().iter().map(|trouble| trouble.label).collect();
    assert_eq!(played, BTreeSet::from(label::ALL));
}

#[test]
fn every_cause_is_documented_by_its_word() {
    let page = include_str!("../../docs/ladder.md");
    for cause in Cause::ALL.into_iter().chain([Cause::Hedge]) {
        assert!(page.contains(&format!(" | `{cause}` | ")), "{cause}");
    }
}
