//! How often and how soon a failed child may be started again.

use std::collections::VecDeque;
use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::InvalidPolicy;

/// Restart intensity of one child, with its failures inside the window.
#[derive(Debug, Clone)]
pub struct Restart {
    max: u32,
    within: Duration,
    base: Duration,
    cap: Duration,
    failures: VecDeque<Instant>,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartDecision {
    /// Start again after this much time.
    After(Duration),
    /// The intensity is spent.
    GiveUp,
}

impl Restart {
    /// Validates the intensity.
    ///
    /// # Errors
    /// Names the refused setting.
    pub fn new(
        max: u32,
        within: Duration,
        base: Duration,
        cap: Duration,
    ) -> Result<Self, InvalidPolicy> {
        if within.is_zero() {
            return Err(InvalidPolicy::new("restart.within", "0s", "more than 0 s"));
        }
        if base > cap {
            return Err(InvalidPolicy::new(
                "restart.base",
                format!("{base:?}"),
                "at most the cap",
            ));
        }
        Ok(Self {
            max,
            within,
            base,
            cap,
            failures: VecDeque::new(),
        })
    }

    /// Counts a failure and decides.
    pub fn record(&mut self, now: Instant, rng: &mut impl Rng) -> RestartDecision {
        while let Some(first) = self.failures.front() {
            if now.saturating_duration_since(*first) < self.within {
                break;
            }
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        let count = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        if count > self.max {
            return RestartDecision::GiveUp;
        }
        if count == 1 {
            return RestartDecision::After(Duration::ZERO);
        }
        let full = self
            .base
            .saturating_mul(2u32.saturating_pow(count - 2))
            .min(self.cap);
        let half = full / 2;
        RestartDecision::After(half + rng.random_range(Duration::ZERO..=half))
    }

    /// Forgets every failure.
    pub fn forget(&mut self) {
        self.failures.clear();
    }
}
