//! How much may go out at once: found, not known.
//!
//! A provider says how much fits into a minute and not how unevenly it may be spent: 600 a minute may
//! be enforced as 10 a second. The search starts below one second's worth, grows by a step whenever a
//! full bucket was spent without a refusal, and takes at once what an accepted answer proves: that the
//! provider's bucket was that far down. A refusal halves it, and what was refused is remembered as a
//! ceiling. Failure mode: a provider that lowers its burst is found out by one round of refusals.

use super::LeaseId;

/// Part of the provider's burst that is used. The rest absorbs what a reservation can't know: how
/// long each request travels, and so how close together they arrive.
const SHARE: (u64, u64) = (4, 5);

/// Part of a minute's limit that is never spent as a burst, so that what remains never falls below a
/// tenth by this process's own doing.
const KEPT: (u64, u64) = (9, 10);

/// The burst of one axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    tokens: u64,
    /// Whether it may be changed by what is seen.
    found: bool,
    ceiling: u64,
    /// The bucket has been full since the last step.
    rested: bool,
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
            rested: false,
            halved: None,
        }
    }

    /// One that is searched, of an axis with this limit a minute.
    pub(super) fn search(per_minute: u64) -> Self {
        let ceiling = part(per_minute, KEPT).max(1);
        Self {
            tokens: part(per_minute / 60, SHARE).clamp(1, ceiling),
            found: true,
            ceiling,
            rested: true,
            halved: None,
        }
    }

    pub(super) const fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(super) const fn is_found(&self) -> bool {
        self.found
    }

    /// The bucket is full.
    pub(super) const fn rested(&mut self) {
        self.rested = true;
    }

    /// An answer was accepted of a request that found `level` tokens left of the burst.
    pub(super) fn accepted(&mut self, level: i64, per_minute: u64) {
        let spent = i128::from(level) <= i128::from(self.tokens / 10);
        if self.found && self.rested && spent {
            self.rested = false;
            let step = (self.tokens / 10).clamp(1, (per_minute / 60).max(1));
            self.raise(self.tokens.saturating_add(step));
        }
    }

    /// An answer was accepted while the provider's bucket was this far below its brim.
    pub(super) fn proven(&mut self, deficit: u64) {
        if self.found && deficit > self.tokens {
            self.raise(deficit);
        }
    }

    /// A request was refused with `level` tokens left of the burst. Says whether that halved it: what
    /// was sent before the last halving was sent by the old burst.
    pub(super) fn refused(&mut self, lease: LeaseId, last: LeaseId, level: i64) -> bool {
        if !self.found || self.halved.is_some_and(|halved| lease <= halved) {
            return false;
        }
        let spent = i128::from(self.tokens) - i128::from(level);
        let spent = u64::try_from(spent).unwrap_or(0).min(self.tokens);
        self.ceiling = part(spent, SHARE).clamp(1, self.ceiling);
        self.tokens = (self.tokens / 2).clamp(1, self.ceiling);
        self.rested = false;
        self.halved = Some(last);
        true
    }

    fn raise(&mut self, tokens: u64) {
        self.tokens = tokens.min(self.ceiling).max(self.tokens);
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
    fn it_starts_below_a_second_and_grows_once_a_rest() {
        let mut burst = Burst::search(600);
        assert_eq!(burst.tokens(), 8);
        burst.accepted(0, 600);
        burst.accepted(0, 600);
        assert_eq!(burst.tokens(), 9);
        burst.rested();
        burst.accepted(5, 600);
        assert_eq!(burst.tokens(), 9);
        burst.accepted(0, 600);
        assert_eq!(burst.tokens(), 10);
    }

    #[test]
    fn a_refusal_halves_it_once_a_round_and_is_remembered() {
        let mut burst = Burst::search(600);
        for _ in 0..60 {
            burst.rested();
            burst.accepted(0, 600);
        }
        let before = burst.tokens();
        assert!(before > 60, "{before}");
        assert!(burst.refused(LeaseId(7), LeaseId(9), 0));
        assert!(!burst.refused(LeaseId(8), LeaseId(9), 0));
        assert_eq!(burst.tokens(), before / 2);
        for _ in 0..100 {
            burst.rested();
            burst.accepted(0, 600);
        }
        assert_eq!(burst.tokens(), before * 4 / 5);
    }

    #[test]
    fn what_an_accepted_answer_proves_is_taken_at_once_but_not_the_last_tenth() {
        let mut burst = Burst::search(600);
        burst.proven(300);
        assert_eq!(burst.tokens(), 300);
        burst.proven(599);
        assert_eq!(burst.tokens(), 540);
        let mut fixed = Burst::fixed(10);
        fixed.proven(300);
        assert!(!fixed.refused(LeaseId(1), LeaseId(1), 0));
        assert_eq!(fixed.tokens(), 10);
    }

    #[test]
    fn the_smallest_limit_still_admits_one() {
        let mut burst = Burst::search(1);
        assert!(burst.refused(LeaseId(0), LeaseId(0), i64::MIN));
        assert_eq!(burst.tokens(), 1);
    }
}
