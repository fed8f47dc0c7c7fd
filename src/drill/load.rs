//! Who asks what, when: the calls of a scenario, drawn once from the seed.
//!
//! An open load asks at its own pace, whatever the answers do: one call in each slot of `1 / rate`
//! seconds, at a random moment in it. The load is drawn before the first client runs, so every
//! client meets the same calls at the same moments.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// The calls of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Load {
    /// Single calls at a steady rate.
    Open {
        /// Calls a second.
        calls_per_second: f64,
        /// For how long.
        #[serde(with = "crate::duration")]
        lasting: Duration,
    },
    /// Agent runs: the steps of one follow each other, and the first that fails ends it.
    Runs {
        /// Number of runs.
        runs: u32,
        /// Steps in each.
        steps: u32,
        /// Time over which the runs start; zero starts all at once.
        #[serde(with = "crate::duration")]
        start_over: Duration,
    },
}

/// One caller of a drill: a single call, or a run of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When it starts, since the drill's start.
    pub at: Duration,
    /// Calls that it makes, one after another.
    pub steps: u32,
}

impl Load {
    /// Whether the callers are agent runs.
    #[must_use]
    pub const fn is_runs(&self) -> bool {
        matches!(self, Self::Runs { .. })
    }

    /// Calls made if all goes well.
    #[must_use]
    pub fn calls(&self) -> u64 {
        match self {
            Self::Open { .. } => u64::try_from(self.slots()).unwrap_or(u64::MAX),
            Self::Runs { runs, steps, .. } => u64::from(*runs) * u64::from(*steps),
        }
    }

    /// The time over which callers start.
    #[must_use]
    pub const fn lasting(&self) -> Duration {
        match self {
            Self::Open { lasting, .. } => *lasting,
            Self::Runs { start_over, .. } => *start_over,
        }
    }

    /// Every caller, by the time at which it starts.
    #[must_use]
    pub fn draw(&self, seed: u64) -> Vec<Arrival> {
        let mut rng = StdRng::seed_from_u64(seed);
        let (slots, steps) = match self {
            Self::Open { .. } => (self.slots(), 1),
            Self::Runs { runs, steps, .. } => {
                (usize::try_from(*runs).unwrap_or(usize::MAX), *steps)
            }
        };
        let slot = self
            .lasting()
            .checked_div(u32::try_from(slots).unwrap_or(u32::MAX));
        let mut at = Duration::ZERO;
        let mut arrivals = Vec::with_capacity(slots);
        for _ in 0..slots {
            let slot = slot.unwrap_or_default();
            arrivals.push(Arrival {
                at: at + slot.mul_f64(rng.random::<f64>()),
                steps,
            });
            at += slot;
        }
        arrivals
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float-to-int casts saturate, and validation bounds the product"
    )]
    fn slots(&self) -> usize {
        match self {
            Self::Open {
                calls_per_second,
                lasting,
            } => (calls_per_second * lasting.as_secs_f64()).round() as usize,
            Self::Runs { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_load_asks_once_in_every_slot() {
        let load = Load::Open {
            calls_per_second: 20.0,
            lasting: Duration::from_secs(180),
        };
        let drawn = load.draw(1);
        assert_eq!(drawn.len(), 3_600);
        assert_eq!(load.calls(), 3_600);
        for (slot, arrival) in (0_u32..).zip(&drawn) {
            let from = Duration::from_millis(50) * slot;
            assert!(arrival.at >= from && arrival.at <= from + Duration::from_millis(50));
        }
        assert_eq!(drawn, load.draw(1));
        assert_ne!(drawn, load.draw(2));
    }

    #[test]
    fn runs_may_start_all_at_once() {
        let load = Load::Runs {
            runs: 300,
            steps: 3,
            start_over: Duration::ZERO,
        };
        let drawn = load.draw(1);
        assert_eq!((drawn.len(), load.calls()), (300, 900));
        assert!(drawn.iter().all(|a| a.at.is_zero() && a.steps == 3));
    }
}
