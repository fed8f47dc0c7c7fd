//! What the rules of `docs/ladder.md` say of a cell.

use std::ops::RangeInclusive;

use seawall::client::ask::Fallback;
use seawall::verdict::label;

use super::trouble::{Ending, Fate};
use super::{Cell, Second, State};

/// Attempts of a call.
pub(crate) const ATTEMPTS: u32 = 3;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    First,
    /// The first target's own refusal to answer, which is an answer.
    Declined,
    Second,
    Cache,
    Static,
    /// An error is handed on.
    Nobody,
}

#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) by: By,
    /// Why the call left the rung above.
    pub(crate) cause: Option<&'static str>,
    /// Attempts on the first target and on the second.
    pub(crate) first: RangeInclusive<u32>,
    pub(crate) second: u32,
    /// The error, where nobody answers.
    pub(crate) error: Ending,
}

pub(crate) fn expected(cell: &Cell) -> Expected {
    let (by, cause) = ending(cell);
    Expected {
        by,
        cause,
        first: attempts(cell),
        second: u32::from(by == By::Second),
        error: error(cell),
    }
}

/// The rungs below the first that a call may come to.
fn below(cell: &Cell) -> Vec<Second> {
    if cell.fallback == Fallback::Never {
        return Vec::new();
    }
    let fits = cell.state != State::Unfit && cell.second != Second::None;
    let mut below: Vec<Second> = fits.then_some(cell.second).into_iter().collect();
    below.extend(cell.ends_static.then_some(Second::Static));
    below
}

/// Whether a cause leads to a rung.
fn leads(cell: &Cell, rung: Second, why: &str) -> bool {
    // To more room, and to another credential.
    let helps = !matches!(
        (why, rung),
        ("context_too_long", Second::OtherKey) | ("credential", Second::OtherModel)
    );
    let led = match cell.on {
        Some(on) if rung == cell.second => on == why,
        _ => match rung {
            Second::None => false,
            Second::OtherModel | Second::OtherKey => matches!(
                why,
                "breaker_open"
                    | "quota"
                    | "attempts_spent"
                    | "context_too_long"
                    | "credential"
                    | "not_found"
            ),
            Second::CacheFresh | Second::CacheStale | Second::CacheEmpty => matches!(
                why,
                "breaker_open" | "quota" | "attempts_spent" | "last_resort"
            ),
            Second::Static => matches!(why, "quota" | "attempts_spent" | "last_resort"),
        },
    };
    helps && led
}

/// Whether a call leaves a target at once that has too much to do: only for whoever can answer it.
fn leaves_at_once(cell: &Cell) -> bool {
    cell.trouble.overloaded && below_for(cell, "overloaded").0.is_some()
}

fn attempts(cell: &Cell) -> RangeInclusive<u32> {
    // One is kept for a target that takes over when they were in vain.
    let takes_over = |rung: Second| {
        rung.is_target() && (leads(cell, rung, "attempts_spent") || leads(cell, rung, "quota"))
    };
    let kept = below(cell).into_iter().any(takes_over);
    let most = ATTEMPTS - u32::from(kept);
    match cell.trouble.fate {
        Fate::Heals => 2..=2,
        Fate::Passes | Fate::Refills if leaves_at_once(cell) => 1..=1,
        // Each takes most of the time that is left.
        Fate::Passes if cell.trouble.label == label::TOTAL_TIMEOUT => 1..=most,
        Fate::Passes | Fate::Refills => most..=most,
        Fate::Barred | Fate::UsedUp | Fate::Unfit => 0..=0,
        _ => 1..=1,
    }
}

/// Who answers, and why the call came there.
fn ending(cell: &Cell) -> (By, Option<&'static str>) {
    let why = match cell.trouble.fate {
        Fate::Heals => return (By::First, None),
        Fate::Stands => return (By::Nobody, None),
        Fate::Unfit => return without_the_first(cell),
        Fate::Passes if leaves_at_once(cell) => "overloaded",
        Fate::Passes | Fate::NotHere => "attempts_spent",
        Fate::Refills | Fate::NoQuota | Fate::UsedUp => "quota",
        Fate::Barred => "breaker_open",
        Fate::Credential => "credential",
        Fate::TooLong => "context_too_long",
        Fate::Missing => "not_found",
        Fate::Refused | Fate::Declined => "refused",
    };
    // The first target may be waited for, or every attempt was made: either ends in time.
    let mut is_over = matches!(
        why,
        "breaker_open" | "quota" | "attempts_spent" | "overloaded"
    );
    let (answers, why) = below_for(cell, why);
    if let Some(by) = answers {
        return (by, Some(why));
    }
    is_over |= matches!(why, "breaker_open" | "quota");
    if is_over && let Some(by) = last_resort(cell) {
        return (by, Some("last_resort"));
    }
    match cell.trouble.fate {
        Fate::Declined => (By::Declined, None),
        _ => (By::Nobody, None),
    }
}

/// Whoever below answers a call that leaves the first target for `why`, and what led there; or why the
/// last of them could not.
fn below_for(cell: &Cell, mut why: &'static str) -> (Option<By>, &'static str) {
    for rung in below(cell) {
        if !leads(cell, rung, why) {
            continue;
        }
        let state = if rung.is_target() {
            cell.state
        } else {
            State::Healthy
        };
        match (rung, state) {
            (Second::CacheEmpty, _) => {}
            (_, State::Open) => why = "breaker_open",
            (_, State::Exhausted) => why = "quota",
            _ => return (Some(by(rung)), why),
        }
    }
    (None, why)
}

/// Whoever answers when every wait is over.
fn last_resort(cell: &Cell) -> Option<By> {
    let at_hand = |rung: &Second| !rung.is_target() && *rung != Second::CacheEmpty;
    let mut below = below(cell).into_iter().filter(at_hand);
    below.find(|rung| leads(cell, *rung, "last_resort")).map(by)
}

/// The call begins on the second target, since the first can't carry it.
fn without_the_first(cell: &Cell) -> (By, Option<&'static str>) {
    if !below(cell).into_iter().any(Second::is_target) {
        // Whoever can be asked at all can't carry it: no stand-in hides that.
        return (By::Nobody, None);
    }
    match (cell.state, cell.ends_static) {
        (State::Healthy, _) => (By::Second, None),
        (State::Open, true) => (By::Static, Some("last_resort")),
        (State::Exhausted, true) => (By::Static, Some("quota")),
        _ => (By::Nobody, None),
    }
}

/// The first target's own last word, unless it was never to be asked.
fn error(cell: &Cell) -> Ending {
    let second = match (cell.trouble.fate, cell.state) {
        _ if !below(cell).into_iter().any(Second::is_target) => None,
        // The wait that ends last is the second's.
        (Fate::Unfit | Fate::UsedUp, State::Open) => Some(Ending::BARRED),
        (Fate::Unfit, State::Exhausted) => Some(Ending::USED_UP),
        _ => None,
    };
    second.unwrap_or_else(|| cell.trouble.ending())
}

const fn by(rung: Second) -> By {
    match rung {
        Second::None => By::Nobody,
        Second::OtherModel | Second::OtherKey => By::Second,
        Second::CacheFresh | Second::CacheStale | Second::CacheEmpty => By::Cache,
        Second::Static => By::Static,
    }
}
