//! What the rules say of a cell.

use std::ops::RangeInclusive;

use seawall::client::ask::Fallback;
use seawall::verdict::label;

use super::trouble::Fate;
use super::{Cell, Second, State};

/// Attempts of a call.
pub(crate) const ATTEMPTS: u32 = 3;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    First,
    Second,
    Cache,
    Static,
    /// The first target's own word is handed on.
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
}

pub(crate) fn expected(cell: &Cell) -> Expected {
    let (by, cause) = ending(cell);
    // The last attempt is kept for a target below that can carry the request.
    let alone =
        !cell.second.is_target() || cell.state == State::Unfit || cell.fallback == Fallback::Never;
    // Attempts are kept for a target that takes over when they were in vain.
    let most = if alone || cell.on.is_some() {
        ATTEMPTS
    } else {
        ATTEMPTS - 1
    };
    let leaves_at_once = cell.on == Some("overloaded") && cell.trouble.overloaded;
    let first = match cell.trouble.fate {
        Fate::Heals => 2..=2,
        Fate::Passes | Fate::Refills if leaves_at_once => 1..=1,
        // Each takes most of the time that is left.
        Fate::Passes if cell.trouble.label == label::TOTAL_TIMEOUT => 1..=most,
        Fate::Passes | Fate::Refills => most..=most,
        _ => 1..=1,
    };
    Expected {
        by,
        cause,
        first,
        second: u32::from(by == By::Second),
    }
}

fn ending(cell: &Cell) -> (By, Option<&'static str>) {
    let why = match cell.trouble.fate {
        Fate::Heals => return (By::First, None),
        Fate::Stands => return (By::Nobody, None),
        Fate::Passes if cell.on == Some("overloaded") && cell.trouble.overloaded => "overloaded",
        Fate::Passes | Fate::NotHere => "attempts_spent",
        Fate::Refills | Fate::NoQuota => "quota",
        Fate::Credential => "credential",
        Fate::TooLong => "context_too_long",
        Fate::Missing => "not_found",
        Fate::Refused => "refused",
    };
    if cell.fallback == Fallback::Never {
        return (By::Nobody, None);
    }
    let passing = matches!(why, "attempts_spent" | "quota");
    let at_hand = |by| {
        if passing {
            (by, Some(why))
        } else {
            (By::Nobody, None)
        }
    };
    let last = |why| {
        if cell.ends_static {
            (By::Static, Some(why))
        } else {
            (By::Nobody, None)
        }
    };
    match (cell.second, cell.state) {
        (Second::None | Second::CacheEmpty, _) => (By::Nobody, None),
        (Second::CacheFresh | Second::CacheStale, _) => at_hand(By::Cache),
        (Second::Static, _) => at_hand(By::Static),
        (_, State::Unfit) if passing => last(why),
        (_, State::Unfit) => (By::Nobody, None),
        _ if !leads(cell, why) => (By::Nobody, None),
        (_, State::Healthy) => (By::Second, Some(why)),
        // It is waited for until the time is over.
        (_, State::Open) => last("last_resort"),
        (_, State::Exhausted) => last("quota"),
    }
}

/// Whether a cause leads to the second target.
fn leads(cell: &Cell, why: &str) -> bool {
    let helps = match why {
        "credential" => cell.second == Second::OtherKey,
        "context_too_long" => cell.second == Second::OtherModel,
        _ => true,
    };
    let usual = !matches!(why, "refused" | "overloaded");
    helps && cell.on.map_or(usual, |on| on == why)
}
