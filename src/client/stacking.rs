//! Which layer tries a call again: seawall, or the client that has a retry loop of its own.
//!
//! Loops that know nothing of each other multiply: 3 requests of an SDK, 5 attempts each, are 15
//! on a provider that is already failing. So a call belongs to one loop at a time. The first
//! request is seawall's: it makes the attempts, and its last word tells the client to stop. A
//! request that the client itself sends again is the client's: one attempt a rung, and its failure
//! is left to the client to judge. A client that sends a call `n` times more thus causes at most
//! `attempts + n` attempts on a rung.

use seawall_actors::caller::{CallReport, Rung};
use seawall_actors::error::CallError;
use seawall_actors::policy::ladder::Kind;
use seawall_actors::verdict::Again;

use super::attempt::Failure;

/// Leaves each rung one attempt. Returns how many these are.
pub(super) fn one_a_rung(rungs: &mut [Rung]) -> u32 {
    for rung in &mut *rungs {
        rung.rules.attempts = Some(1);
    }
    let fit = rungs.iter().map(|rung| &rung.rules);
    let targets = fit.filter(|rules| rules.kind == Kind::Target && rules.unfit.is_none());
    u32::try_from(targets.count()).unwrap_or(u32::MAX).max(1)
}

/// Whether a failed call is over for the client too: it can't succeed, it has been tried again, or
/// trying again was declined here, as by a spent retry budget.
///
/// What was tried once and could still succeed is not: such a call is the client's own retry, or
/// stands on a route of one attempt, or was told to come back after its deadline.
pub(super) fn is_settled(error: &CallError<Failure>, report: &CallReport) -> bool {
    match error {
        CallError::Failed { verdict, .. } => {
            verdict.again != Again::Here || report.attempts > 1 || report.rejected.is_some()
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use seawall_actors::caller::Place;
    use seawall_actors::error::{Rejected, Rejection};
    use seawall_actors::policy::ladder::Rules;
    use seawall_actors::verdict::{Blame, Verdict};

    use super::*;
    use crate::verdict::judge_truncated;

    fn failed(again: Again) -> CallError<Failure> {
        CallError::Failed {
            error: Failure {
                judged: judge_truncated(),
                answer: None,
                rung: 0,
            },
            verdict: Verdict::new("test", Blame::Target, again),
        }
    }

    fn report(attempts: u32, rejected: Option<Rejection>) -> CallReport {
        let mut report = CallReport::default();
        report.attempts = attempts;
        report.rejected = rejected.map(|why| Rejected {
            why,
            by: None,
            retry_after: None,
        });
        report
    }

    #[test]
    fn what_was_tried_once_and_could_succeed_is_left_to_the_client() {
        assert!(!is_settled(&failed(Again::Here), &report(1, None)));
    }

    #[test]
    fn what_was_tried_again_is_over() {
        assert!(is_settled(&failed(Again::Here), &report(2, None)));
    }

    #[test]
    fn what_can_not_succeed_is_over_at_once() {
        for again in [Again::Never, Again::Elsewhere] {
            assert!(is_settled(&failed(again), &report(1, None)), "{again:?}");
        }
    }

    #[test]
    fn a_retry_that_was_declined_here_is_declined_for_the_client_too() {
        for why in [
            Rejection::RetryBudget,
            Rejection::BreakerOpen,
            Rejection::QuotaExhausted,
        ] {
            assert!(is_settled(&failed(Again::Here), &report(1, Some(why))));
        }
    }

    #[test]
    fn a_clients_own_retry_makes_one_attempt_on_each_rung_that_is_for_it() {
        let mut rules = Rules::TARGET;
        rules.attempts = Some(4);
        let target = Rung {
            place: Place::Later("a".into()),
            rules,
        };
        let mut unfit = target.clone();
        unfit.rules.unfit = Some("images");
        let mut rungs = [target.clone(), Rung::stand_in("cache"), unfit, target];
        assert_eq!(one_a_rung(&mut rungs), 2);
        assert!(rungs.iter().all(|rung| rung.rules.attempts == Some(1)));
        assert_eq!(one_a_rung(&mut []), 1);
    }
}
