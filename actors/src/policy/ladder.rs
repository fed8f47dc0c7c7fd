//! Which rung a call stands on, and how many attempts it may still make there.
//!
//! A call's attempts are shared by its rungs: a rung may use all but one for each rung below it, so
//! that the last rung always gets its turn. A probe that failed is the breaker's attempt and not
//! the call's; otherwise the call at the head of a queue would spend all of its attempts on finding
//! out that the target is still down.

use super::InvalidPolicy;

mod cause;

pub use cause::{Cause, Causes};

/// A ladder as one call walks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    rungs: usize,
    rung: usize,
    attempts: u32,
    attempts_left: u32,
}

impl Ladder {
    /// Stands on the first of `rungs` (1 to 16) with `attempts` (1 to 100) to make.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] when a number is out of range.
    pub fn new(rungs: usize, attempts: u32) -> Result<Self, InvalidPolicy> {
        if !(1..=16).contains(&rungs) {
            return Err(InvalidPolicy::new("ladder", rungs, "1 to 16 rungs"));
        }
        if !(1..=100).contains(&attempts) {
            return Err(InvalidPolicy::new("retry.attempts", attempts, "1 to 100"));
        }
        Ok(Self {
            rungs,
            rung: 0,
            attempts,
            attempts_left: attempts,
        })
    }

    /// The rung that the call stands on; `None` below the last.
    #[must_use]
    pub const fn rung(&self) -> Option<usize> {
        if self.rung < self.rungs {
            Some(self.rung)
        } else {
            None
        }
    }

    /// Whether there is another rung below.
    #[must_use]
    pub const fn has_next(&self) -> bool {
        self.rung + 1 < self.rungs
    }

    /// Whether the call may make one more attempt on this rung.
    #[must_use]
    pub fn may_attempt(&self) -> bool {
        let below = self.rungs.saturating_sub(self.rung + 1);
        // With fewer attempts than rungs the first rung still gets one.
        let kept = u32::try_from(below)
            .unwrap_or(u32::MAX)
            .min(self.attempts - 1);
        self.attempts_left > kept
    }

    /// Attempts that the whole call may still make.
    #[must_use]
    pub const fn attempts_left(&self) -> u32 {
        self.attempts_left
    }

    /// Counts an attempt that ended.
    pub const fn count_attempt(&mut self) {
        self.attempts_left = self.attempts_left.saturating_sub(1);
    }

    /// Steps down to the next rung.
    pub const fn step_down(&mut self) {
        self.rung = self.rung.saturating_add(1);
    }

    /// Goes back up to a rung that lets calls pass again.
    pub const fn stand_on(&mut self, rung: usize) {
        self.rung = rung;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_failing_first_rung_leaves_one_attempt_for_each_rung_below() {
        let mut ladder = Ladder::new(3, 5).unwrap();
        let mut on_rung = [0; 3];
        while let Some(rung) = ladder.rung() {
            while ladder.may_attempt() {
                on_rung[rung] += 1;
                ladder.count_attempt();
            }
            ladder.step_down();
        }
        assert_eq!(on_rung, [3, 1, 1]);
    }

    #[test]
    fn what_a_ladder_refuses_names_the_setting() {
        assert_eq!(Ladder::new(0, 5).unwrap_err().field, "ladder");
        assert_eq!(Ladder::new(1, 0).unwrap_err().field, "retry.attempts");
    }

    proptest! {
        #[test]
        fn attempts_never_exceed_the_calls_own(rungs in 1_usize..=16, attempts in 1_u32..=100) {
            let mut ladder = Ladder::new(rungs, attempts).unwrap();
            let mut made = 0;
            while ladder.rung().is_some() {
                while ladder.may_attempt() {
                    made += 1;
                    ladder.count_attempt();
                }
                ladder.step_down();
            }
            prop_assert_eq!(made, attempts);
        }
    }
}
