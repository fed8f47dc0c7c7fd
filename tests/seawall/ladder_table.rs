//! Every verdict on the first target, and every state of it, met with every kind of second rung in every
//! state, streamed and not. What must come of a cell is told by [`oracle`], which knows the rules and nothing of how the
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
use trouble::{Form, How, Trouble, all, kinds, states};

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

/// How a target is.
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

    /// How the first target is before the call comes.
    const fn of_first(&self) -> State {
        match self.trouble.how {
            How::Is(state) => state,
            _ => State::Healthy,
        }
    }

    /// Whether it can come to it: what the first target can't carry, it has not given for the cache.
    fn can_be(&self) -> bool {
        let holds = matches!(self.second, Second::CacheFresh | Second::CacheStale);
        !(holds && self.of_first() == State::Unfit)
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
                wrong.extend(misreported(&expected, &seen, error));
            }
            Got::Answer {
                text,
                declined,
                report,
            } if expected.by != By::Nobody => {
                if *declined != (expected.by == By::Declined) {
                    wrong.push("refusal");
                }
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

/// What is wrong with an error: it is to be the one that the rules say, with what the call took.
fn misreported(expected: &Expected, seen: &Seen, error: &Failed) -> Vec<&'static str> {
    let told = error.report.as_ref();
    // Without an attempt, or from a process that leaves, there is none to give.
    let untold = seen.first + seen.second == 0 || expected.error.label == label::DRAINING;
    let checks = [
        ("label", error.label == expected.error.label),
        ("status", error.status == expected.error.status),
        ("type", error.kind == expected.error.kind),
        (
            "report",
            told.map_or(untold, |told| {
                &*told.rung == "first"
                    && told.attempts == seen.first + seen.second
                    && (told.degraded, &told.cache) == (None, &None)
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
        By::First | By::Nobody => ("first", None, &*seen.of_first),
        By::Declined => ("first", None, seen.of_refusal),
        By::Second => {
            let other = cell.second == Second::OtherModel;
            ("second", other.then_some(Degraded::Model), &*seen.of_second)
        }
        By::Cache => (
            "cache",
            is_stale.then_some(Degraded::Cache),
            &*seen.of_cache,
        ),
        By::Static => ("static", Some(Degraded::Static), seen.of_static),
    };
    let badge = report.cache.as_deref();
    let is_badge =
        |badge: &str| badge.starts_with("hit; age=") && badge.ends_with("; stale") == is_stale;
    let skipped: Vec<String> = report.skipped.iter().map(ToString::to_string).collect();
    let unfit = [("first", cell.of_first()), ("second", cell.state)]
        .into_iter()
        .filter(|(_, state)| *state == State::Unfit)
        .map(|(name, _)| format!("{name}=cannot_images"));
    let checks = [
        ("text", text == of && !text.is_empty()),
        ("rung", &*report.rung == rung),
        ("degraded", report.degraded == degraded),
        ("cause", report.cause.map(Cause::as_str) == expected.cause),
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

/// Holds every kind of second rung in every state against the rules.
async fn play_all(troubles: Vec<Trouble>, stream: bool) {
    let kept = Kept::new().await;
    let mut table = Table::default();
    for trouble in troubles {
        if !forms(&trouble).contains(&stream) {
            continue;
        }
        for second in Second::ALL {
            for &state in second.states() {
                let mut cell = Cell::new(trouble.clone(), second, stream);
                cell.state = state;
                if !cell.can_be() {
                    continue;
                }
                table.play(&cell, &kept).await;
                if second.is_target() {
                    cell.ends_static = true;
                    table.play(&cell, &kept).await;
                }
            }
        }
    }
    table.finish();
}

#[tokio::test(start_paused = true)]
async fn every_verdict_meets_every_rung_in_every_state_streamed() {
    play_all(all(), true).await;
}

#[tokio::test(start_paused = true)]
async fn every_verdict_meets_every_rung_in_every_state_whole() {
    play_all(all(), false).await;
}

#[tokio::test(start_paused = true)]
async fn every_state_of_the_first_target_meets_every_rung_in_every_state() {
    play_all(states(), true).await;
    play_all(states(), false).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_fall_gets_the_first_targets_own_word() {
    let kept = Kept::new().await;
    let mut table = Table::default();
    for trouble in all().into_iter().chain(states()) {
        for &stream in forms(&trouble) {
            for second in Second::ALL {
                let mut cell = Cell::new(trouble.clone(), second, stream);
                cell.fallback = Fallback::Never;
                if cell.can_be() {
                    table.play(&cell, &kept).await;
                }
            }
        }
    }
    table.finish();
}

/// Holds rungs to which one cause alone leads against the rules.
async fn play_on(
    causes: &[&'static str],
    (seconds, states): (&[Second], &[State]),
    troubles: Vec<Trouble>,
) {
    let kept = Kept::new().await;
    let mut table = Table::default();
    for trouble in troubles {
        for &stream in forms(&trouble) {
            for &second in seconds {
                for &on in causes {
                    for &state in states {
                        let mut cell = Cell::new(trouble.clone(), second, stream);
                        (cell.on, cell.state) = (Some(on), state);
                        if cell.can_be() {
                            table.play(&cell, &kept).await;
                        }
                    }
                }
            }
        }
    }
    table.finish();
}

/// Every cause that a rung can name.
const CAUSES: [&str; 9] = [
    "breaker_open",
    "quota",
    "attempts_spent",
    "overloaded",
    "context_too_long",
    "refused",
    "credential",
    "not_found",
    "last_resort",
];

#[tokio::test(start_paused = true)]
async fn a_target_with_causes_of_its_own_is_come_to_by_them_alone() {
    let targets = [Second::OtherModel, Second::OtherKey];
    play_on(&CAUSES, (&targets, &[State::Healthy]), kinds()).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_handed_on_where_the_target_for_it_cannot_serve() {
    let mut refusals = all();
    refusals.retain(|trouble| trouble.label == label::REFUSED);
    let states = Second::OtherModel.states();
    play_on(&["refused"], (&[Second::OtherModel], states), refusals).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_hand_with_causes_of_its_own_is_come_to_by_them_alone() {
    let at_hand = [Second::CacheFresh, Second::Static];
    play_on(&CAUSES, (&at_hand, &[State::Healthy]), kinds()).await;
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
