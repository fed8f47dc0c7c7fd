//! How much longer a wait turns out than the queue in front says, because others overtake.
//!
//! What waits ahead is known; what will still come and go first, in a higher class or another tenant's
//! turn, is not. The ratio of the two waits is learned by class from those who were served, so that a
//! call that can't be served in time hears so when it asks and not when its time is up. Failure mode: a
//! rush that has just ended is still expected for the next few dozen calls.

use std::time::Duration;

use super::wait_queue::Priority;

/// Weight of the newest wait: about the last twenty count.
const WEIGHT: f64 = 0.05;

/// Most that a wait is expected to stretch.
const MOST: f64 = 20.0;

/// Shorter predictions say nothing: a millisecond late would be a multiple.
const LEAST: Duration = Duration::from_millis(200);

/// What waits were multiplied by lately, by class.
#[derive(Debug, Clone, Copy)]
pub struct Overtaking {
    ratios: [f64; 3],
}

impl Default for Overtaking {
    fn default() -> Self {
        Self { ratios: [1.0; 3] }
    }
}

impl Overtaking {
    /// The wait to expect where `ahead` is what the queue in front takes.
    #[must_use]
    pub fn expect(&self, priority: Priority, ahead: Duration) -> Duration {
        let seconds = ahead.as_secs_f64() * self.ratios[priority.index()];
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Learns from a wait for which the queue in front took `ahead` and that lasted `waited`, or was
    /// given up after that.
    pub fn learn(&mut self, priority: Priority, ahead: Duration, waited: Duration) {
        if ahead < LEAST {
            return;
        }
        let seen = (waited.as_secs_f64() / ahead.as_secs_f64()).clamp(1.0, MOST);
        let ratio = &mut self.ratios[priority.index()];
        *ratio += WEIGHT * (seen - *ratio);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_that_stretch_are_expected_and_forgotten_again() {
        let mut overtaking = Overtaking::default();
        assert_eq!(overtaking.expect(Priority::Low, SECOND * 10), SECOND * 10);
        for _ in 0..100 {
            overtaking.learn(Priority::Low, SECOND * 10, SECOND * 50);
        }
        let expected = overtaking.expect(Priority::Low, SECOND * 10);
        assert!(
            expected > SECOND * 48 && expected < SECOND * 51,
            "{expected:?}"
        );
        assert_eq!(overtaking.expect(Priority::High, SECOND * 10), SECOND * 10);
        for _ in 0..200 {
            overtaking.learn(Priority::Low, SECOND * 10, SECOND * 10);
        }
        assert!(overtaking.expect(Priority::Low, SECOND * 10) < SECOND * 11);
    }

    #[test]
    fn no_wait_makes_it_shorter_or_absurd() {
        let mut overtaking = Overtaking::default();
        for _ in 0..1_000 {
            overtaking.learn(Priority::Normal, Duration::MAX, Duration::ZERO);
            overtaking.learn(Priority::Normal, Duration::from_nanos(1), Duration::MAX);
            overtaking.learn(Priority::High, SECOND, Duration::MAX);
        }
        assert_eq!(overtaking.expect(Priority::Normal, SECOND), SECOND);
        assert!(overtaking.expect(Priority::High, SECOND) <= SECOND * 20);
        assert_eq!(
            overtaking.expect(Priority::High, Duration::MAX),
            Duration::MAX
        );
    }
}
