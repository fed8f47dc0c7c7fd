//! Whether a call's failed attempt is followed by another one here, and when.
//!
//! Bounded attempts with full-jitter backoff, under the call's deadline: a wait that would leave no
//! time for a useful attempt is not begun, the call goes to the next rung at once instead.
//!
//! Failure mode: it sees one call only. Many calls that each stay inside their own bound still
//! multiply the load on a failing target, so whoever acts on [`Decision::After`] asks the target's
//! [`RetryBudget`](super::retry_budget::RetryBudget) at the moment of sending.

use std::time::Duration;

use rand::Rng;

use super::InvalidPolicy;
use super::backoff::Backoff;
use crate::verdict::{Again, Verdict};

/// Decides what follows a failed attempt. It holds no state, so calls never share any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    backoff: Backoff,
    min_useful: Duration,
}

/// What follows a finished attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Another attempt on the same target, not before this much time has passed.
    After(Duration),
    /// The call's next rung, at once.
    MoveOn(MoveOn),
    /// Nothing: the verdict stands wherever the call is sent.
    GiveUp,
}

/// Why a call leaves its target for the next rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MoveOn {
    /// Every attempt that the target was to get has been made.
    AttemptsSpent,
    /// After the wait too little of the deadline would be left for an attempt.
    NoTimeForWait,
    /// This target will not answer the call differently; another one may.
    NotHere,
}

impl MoveOn {
    /// Stable lower-case word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsSpent => "attempts_spent",
            Self::NoTimeForWait => "no_time_for_wait",
            Self::NotHere => "not_here",
        }
    }
}

impl Retry {
    /// Most attempts that may be set.
    pub const MAX_ATTEMPTS: u32 = 100;
    /// Longest useful attempt that may be set.
    pub const MAX_MIN_USEFUL: Duration = Duration::from_hours(24);

    /// Makes a retry of `attempts` in all, the first included, spaced by `backoff`.
    ///
    /// `min_useful` is the time an attempt needs to have any chance; no wait eats into it.
    ///
    /// # Errors
    ///
    /// Refuses `attempts` outside 1 to 100, and a `min_useful` above 24 h.
    pub fn new(
        attempts: u32,
        backoff: Backoff,
        min_useful: Duration,
    ) -> Result<Self, InvalidPolicy> {
        if !(1..=Self::MAX_ATTEMPTS).contains(&attempts) {
            return Err(InvalidPolicy::new(
                "retry.attempts",
                attempts,
                "from 1 to 100",
            ));
        }
        if min_useful > Self::MAX_MIN_USEFUL {
            let value = format!("{min_useful:?}");
            return Err(InvalidPolicy::new("retry.min_useful", value, "up to 24h"));
        }
        Ok(Self {
            attempts,
            backoff,
            min_useful,
        })
    }

    /// Returns how many attempts a target gets for one call, the first included.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns the time an attempt needs to have any chance.
    #[must_use]
    pub const fn min_useful(&self) -> Duration {
        self.min_useful
    }

    /// Decides what follows an attempt that ended with `verdict`, `attempts_made` of them so far.
    ///
    /// `left` is the time to the call's deadline. A server hint that does not fit into it moves the
    /// call on; it is never shortened.
    #[must_use]
    pub fn decide(
        &self,
        verdict: &Verdict,
        attempts_made: u32,
        left: Duration,
        rng: &mut impl Rng,
    ) -> Decision {
        match verdict.again {
            Again::Never => return Decision::GiveUp,
            Again::Elsewhere => return Decision::MoveOn(MoveOn::NotHere),
            Again::Here => {}
        }
        if attempts_made >= self.attempts {
            return Decision::MoveOn(MoveOn::AttemptsSpent);
        }
        let retry = attempts_made.saturating_sub(1);
        let wait = self.backoff.delay_after(retry, verdict.not_before, rng);
        if wait.saturating_add(self.min_useful) > left {
            return Decision::MoveOn(MoveOn::NoTimeForWait);
        }
        Decision::After(wait)
    }
}

impl Default for Retry {
    /// 5 attempts, the default backoff, 100 ms as the least useful attempt.
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff: Backoff::default(),
            min_useful: Duration::from_millis(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::verdict::Blame;

    const OVERLOADED: Verdict = Verdict::new("overloaded", Blame::Target, Again::Here);
    const MINUTE: Duration = Duration::from_mins(1);

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    #[test]
    fn a_verdict_that_stands_everywhere_ends_the_call() {
        let malformed = Verdict::new("bad_request", Blame::Caller, Again::Never);
        assert_eq!(
            Retry::default().decide(&malformed, 1, MINUTE, &mut rng()),
            Decision::GiveUp
        );
        assert_eq!(
            Retry::default().decide(&Verdict::DEPARTED, 1, MINUTE, &mut rng()),
            Decision::GiveUp
        );
    }

    #[test]
    fn trap_23_a_call_whose_effect_is_unknown_is_not_sent_again_however_much_is_left() {
        let perhaps_done = Verdict::new("broken_after_send", Blame::Network, Again::Never)
            .not_before(Some(Duration::ZERO));
        let decision = Retry::default().decide(&perhaps_done, 1, MINUTE, &mut rng());
        assert_eq!(decision, Decision::GiveUp);
    }

    #[test]
    fn a_target_that_will_not_answer_differently_is_left_without_a_wait() {
        let missing = Verdict::new("model_not_found", Blame::Target, Again::Elsewhere);
        assert_eq!(
            Retry::default().decide(&missing, 1, MINUTE, &mut rng()),
            Decision::MoveOn(MoveOn::NotHere)
        );
    }

    #[test]
    fn five_attempts_are_made_and_no_sixth() {
        let retry = Retry::default();
        for made in 1..5 {
            let decision = retry.decide(&OVERLOADED, made, MINUTE, &mut rng());
            assert!(
                matches!(decision, Decision::After(_)),
                "after {made}: {decision:?}"
            );
        }
        for made in [5, 6, u32::MAX] {
            assert_eq!(
                retry.decide(&OVERLOADED, made, MINUTE, &mut rng()),
                Decision::MoveOn(MoveOn::AttemptsSpent)
            );
        }
    }

    #[test]
    fn a_hint_beyond_the_deadline_moves_on_at_once() {
        let told = OVERLOADED.not_before(Some(MINUTE));
        assert_eq!(
            Retry::default().decide(&told, 1, MINUTE, &mut rng()),
            Decision::MoveOn(MoveOn::NoTimeForWait)
        );
        let forever = OVERLOADED.not_before(Some(Duration::MAX));
        assert_eq!(
            Retry::default().decide(&forever, 1, Duration::from_hours(24), &mut rng()),
            Decision::MoveOn(MoveOn::NoTimeForWait)
        );
    }

    #[test]
    fn a_hint_within_the_deadline_is_waited_out() {
        let told = OVERLOADED.not_before(Some(Duration::from_secs(20)));
        let Decision::After(wait) = Retry::default().decide(&told, 1, MINUTE, &mut rng()) else {
            panic!("20 s and a tenth fit into a minute");
        };
        assert!(wait >= Duration::from_secs(20) && wait <= Duration::from_secs(22));
    }

    #[test]
    fn trap_29_what_one_call_has_used_up_is_no_loss_to_another() {
        let retry = Retry::default();
        let spent = retry.decide(&OVERLOADED, 5, MINUTE, &mut rng());
        assert_eq!(spent, Decision::MoveOn(MoveOn::AttemptsSpent));
        let fresh = retry.decide(&OVERLOADED, 1, MINUTE, &mut rng());
        assert!(matches!(fresh, Decision::After(_)));
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        for attempts in [0, 101] {
            let refused = Retry::new(attempts, Backoff::default(), Duration::ZERO).unwrap_err();
            assert_eq!(refused.field, "retry.attempts");
        }
        let refused = Retry::new(1, Backoff::default(), Duration::from_hours(25)).unwrap_err();
        assert_eq!(refused.field, "retry.min_useful");
        assert_eq!(
            Retry::new(1, Backoff::default(), Duration::ZERO)
                .unwrap()
                .attempts(),
            1
        );
    }

    proptest! {
        #[test]
        fn a_wait_always_leaves_room_for_a_useful_attempt(
            seed: u64,
            made in 0_u32..200,
            left_ms in 0_u64..120_000,
            hint_ms in proptest::option::of(0_u64..120_000),
        ) {
            let retry = Retry::default();
            let left = Duration::from_millis(left_ms);
            let verdict = OVERLOADED.not_before(hint_ms.map(Duration::from_millis));
            let mut rng = StdRng::seed_from_u64(seed);
            match retry.decide(&verdict, made, left, &mut rng) {
                Decision::After(wait) => {
                    prop_assert!(made < retry.attempts());
                    prop_assert!(wait + Duration::from_millis(100) <= left);
                    prop_assert!(wait >= verdict.not_before.unwrap_or_default());
                }
                Decision::MoveOn(MoveOn::AttemptsSpent) => {
                    prop_assert!(made >= retry.attempts());
                }
                other => prop_assert_eq!(other, Decision::MoveOn(MoveOn::NoTimeForWait)),
            }
        }
    }
}
