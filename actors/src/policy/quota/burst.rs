//! How much may go out at once: found, not known.
//!
//! A provider says how much fits into a minute and not how unevenly it may be spent: 600 a minute may
//! be enforced as 10 a second. The search starts below one second's worth, grows by a step whenever
//! all of it was spent without a refusal, and takes what accepted answers prove, that the provider's bucket
//! was that far down, in larger steps. A refusal halves it, and what was refused is remembered as a
//! ceiling. Failure mode: a provider that lowers its burst is found out by one round of refusals.

use std::time::Duration;

use tokio::time::Instant;

use super::{Axis, LeaseId};

/// Part of the provider's burst that is used. The rest absorbs what a reservation can't know: how
/// long each request travels, and so how close together they arrive.
const SHARE: (u64, u64) = (4, 5);

/// Part of a minute's limit that may be spent as a burst, so that what remains never falls below the last
/// tenth by this process's own doing.
const SPENT: (u64, u64) = (9, 10);

/// A step is answered before the next one: a doubling takes about 20 s.
const BETWEEN_STEPS: Duration = Duration::from_secs(2);

/// The burst of one axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    tokens: u64,
    /// Whether it may be changed by what is seen.
    found: bool,
    ceiling: u64,
    stepped: Option<Instant>,
    /// Leases up to here were granted before the last halving.
    halved: Option<LeaseId>,
}

impl Burst {
    /// One that is set.
    pub(super) const fn fixed(tokens: u64) -> Self {
        Self {
            tokens,
            found: false,
            ceiling: tokens,
            stepped: None,
            halved: None,
        }
    }

    /// One that is searched, of an axis with this limit a minute.
    pub(super) fn search(per_minute: u64, axis: Axis) -> Self {
        let ceiling = part(per_minute, SPENT).max(1);
        Self {
            tokens: axis_part(axis, part(per_minute / 60, SHARE)).clamp(1, ceiling),
            found: true,
            ceiling,
            stepped: None,
            halved: None,
        }
    }

    pub(super) const fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(super) const fn is_found(&self) -> bool {
        self.found
    }

    /// An answer was accepted of a request that left `level` tokens of the burst.
    pub(super) fn accepted(&mut self, level: i64, per_minute: u64, now: Instant) {
        let spent = i128::from(level) <= i128::from(self.tokens / 10);
        let due = self
            .stepped
            .is_none_or(|last| now.saturating_duration_since(last) >= BETWEEN_STEPS);
        if self.found && spent && due {
            self.stepped = Some(now);
            let step = (self.tokens / 16).clamp(1, (per_minute / 60).max(1));
            self.raise(self.tokens.saturating_add(step));
        }
    }

    /// An answer was accepted while the provider's bucket was this far below its brim.
    pub(super) fn proven(&mut self, deficit: u64) {
        if self.found {
            let step = (self.tokens / 4).max(1);
            self.raise(part(deficit, SHARE).min(self.tokens.saturating_add(step)));
        }
    }

    /// A request was refused when `spent` tokens were missing from the brim. Says whether that halved
    /// the burst: what was sent before the last halving was sent by the old one.
    pub(super) fn refused(&mut self, lease: LeaseId, last: LeaseId, spent: u64) -> bool {
        if !self.found || self.halved.is_some_and(|halved| lease <= halved) {
            return false;
        }
        self.ceiling = part(spent, SHARE).clamp(1, self.ceiling);
        self.tokens = (self.tokens / 2).clamp(1, self.ceiling);
        self.halved = Some(last);
        true
    }

    fn raise(&mut self, tokens: u64) {
        self.tokens = tokens.min(self.ceiling).max(self.tokens);
    }
}

/// Output is charged here when a request goes out and there as it is produced: calls that were spread
/// here may come together there, so only half as much may go out at once.
const fn axis_part(axis: Axis, tokens: u64) -> u64 {
    match axis {
        Axis::Requests | Axis::Input => tokens,
        Axis::Output => tokens / 2,
    }
}

fn part(whole: u64, (of, parts): (u64, u64)) -> u64 {
    let part = u128::from(whole) * u128::from(of) / u128::from(parts);
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_below_a_second_and_grows_while_all_of_it_is_spent() {
        let now = Instant::now();
        let mut burst = Burst::search(600, Axis::Requests);
        assert_eq!(burst.tokens(), 8);
        burst.accepted(0, 600, now);
        burst.accepted(0, 600, now);
        assert_eq!(burst.tokens(), 9);
        burst.accepted(5, 600, now + BETWEEN_STEPS);
        assert_eq!(burst.tokens(), 9);
        burst.accepted(0, 600, now + BETWEEN_STEPS);
        assert_eq!(burst.tokens(), 10);
    }

    #[test]
    fn a_refusal_halves_it_once_a_round_and_is_remembered() {
        let mut now = Instant::now();
        let mut burst = Burst::search(600, Axis::Requests);
        let mut grow = |burst: &mut Burst| {
            for _ in 0..60 {
                now += BETWEEN_STEPS;
                burst.accepted(0, 600, now);
            }
        };
        grow(&mut burst);
        let before = burst.tokens();
        assert!(before > 60, "{before}");
        assert!(burst.refused(LeaseId::nth(7), LeaseId::nth(9), before));
        assert!(!burst.refused(LeaseId::nth(8), LeaseId::nth(9), before));
        assert_eq!(burst.tokens(), before / 2);
        grow(&mut burst);
        assert_eq!(burst.tokens(), before * 4 / 5);
    }

    #[test]
    fn what_accepted_answers_prove_is_taken_step_by_step_but_not_the_last_tenth() {
        let mut burst = Burst::search(600, Axis::Requests);
        burst.proven(10);
        assert_eq!(burst.tokens(), 8);
        burst.proven(300);
        assert_eq!(burst.tokens(), 10);
        for _ in 0..20 {
            burst.proven(300);
        }
        assert_eq!(burst.tokens(), 240);
        for _ in 0..20 {
            burst.proven(u64::MAX);
        }
        assert_eq!(burst.tokens(), 540);
        let mut fixed = Burst::fixed(10);
        fixed.proven(300);
        assert!(!fixed.refused(LeaseId::nth(1), LeaseId::nth(1), 10));
        assert_eq!(fixed.tokens(), 10);
    }

    #[test]
    fn the_smallest_limit_still_admits_one() {
        let mut burst = Burst::search(1, Axis::Requests);
        assert!(burst.refused(LeaseId::nth(0), LeaseId::nth(0), 0));
        assert_eq!(burst.tokens(), 1);
    }
}
