//! Refusals that speak for their own request alone.
//!
//! A bucket that is full and still refuses says that one request does not fit, and how long that one
//! shall wait. Others may go on, until a second one in a row is told the same: then something binds that
//! the buckets don't show, such as a workspace's own limit.

use std::time::Duration;

use tokio::time::Instant;

use super::later;

/// The refusals since something was accepted.
#[derive(Debug, Default)]
pub(super) struct LoneRefusals {
    /// Until when the last one was told to wait.
    until: Option<Instant>,
}

impl LoneRefusals {
    /// A request was told to wait for so long. Whether all others have to as well: the one before it
    /// was told to wait beyond now.
    pub(super) fn refused(&mut self, hint: Duration, now: Instant) -> bool {
        let in_a_row = self.until.is_some_and(|until| until > now);
        self.until = Some(later(now, hint));
        in_a_row
    }

    /// Something passes.
    pub(super) const fn accepted(&mut self) {
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINT: Duration = Duration::from_secs(30);

    #[test]
    fn the_second_refusal_within_the_hint_of_the_first_binds_everybody() {
        let (mut lone, now) = (LoneRefusals::default(), Instant::now());
        assert!(!lone.refused(HINT, now));
        assert!(lone.refused(HINT, now + HINT / 2));
        assert!(lone.refused(HINT, now + HINT));
    }

    #[test]
    fn one_that_waited_as_told_or_follows_an_answer_stays_alone() {
        let (mut lone, now) = (LoneRefusals::default(), Instant::now());
        assert!(!lone.refused(HINT, now));
        assert!(!lone.refused(HINT, now + HINT), "the same one again");
        lone.accepted();
        assert!(!lone.refused(HINT, now + HINT));
    }
}
