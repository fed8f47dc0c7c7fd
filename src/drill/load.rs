//! Who asks what, when: the calls of a scenario, drawn once from the seed.
//!
//! An open load asks at its own pace, whatever the answers do: one call in each slot of `1 / rate`
//! seconds, at a random moment in it. So does a mix, at a rate that follows from the provider's
//! limits. The load is drawn before the first client runs, so every client meets the same calls at
//! the same moments.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

pub use self::mix::{Class, Mix, Stage, Tenant};
pub use self::repeated::Repeated;

pub(super) mod mix;
mod repeated;

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
    /// Single calls of several classes and tenants, at a share of the provider's limits.
    Mix(Mix),
}

/// One caller of a drill: a single call, or a run of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When it starts, since the drill's start.
    pub at: Duration,
    /// Calls that it makes, one after another.
    pub steps: u32,
    /// The place of its class in the mix, if the load is one.
    pub class: Option<usize>,
    /// Its tenant, if the load has any.
    pub tenant: Option<Tenant>,
    /// The question that others ask too, if it asks one.
    pub question: Option<u32>,
}

impl Load {
    /// Whether the callers are agent runs.
    #[must_use]
    pub const fn is_runs(&self) -> bool {
        matches!(self, Self::Runs { .. })
    }

    /// The classes and tenants, if there are any.
    #[must_use]
    pub const fn mix(&self) -> Option<&Mix> {
        match self {
            Self::Mix(mix) => Some(mix),
            Self::Open { .. } | Self::Runs { .. } => None,
        }
    }

    /// Calls made if all goes well, where the provider's limits allow `full` calls a second.
    #[must_use]
    pub fn calls(&self, full: f64) -> u64 {
        match self {
            Self::Open { .. } | Self::Mix(_) => {
                let slots = self.stretches(full).into_iter().map(|(slots, _)| slots);
                let slots = slots.fold(0, usize::saturating_add);
                u64::try_from(slots).unwrap_or(u64::MAX)
            }
            Self::Runs { runs, steps, .. } => u64::from(*runs) * u64::from(*steps),
        }
    }

    /// The time over which callers start.
    #[must_use]
    pub fn lasting(&self) -> Duration {
        match self {
            Self::Open { lasting, .. } => *lasting,
            Self::Runs { start_over, .. } => *start_over,
            Self::Mix(mix) => mix.lasting(),
        }
    }

    /// Every caller, by the time at which it starts, where the provider's limits allow `full` calls a
    /// second.
    #[must_use]
    pub fn draw(&self, seed: u64, full: f64) -> Vec<Arrival> {
        let mut rng = StdRng::seed_from_u64(seed);
        let steps = match self {
            Self::Open { .. } | Self::Mix(_) => 1,
            Self::Runs { steps, .. } => *steps,
        };
        let mut from = Duration::ZERO;
        let mut arrivals = Vec::new();
        for (slots, lasting) in self.stretches(full) {
            let slot = lasting
                .checked_div(u32::try_from(slots).unwrap_or(u32::MAX))
                .unwrap_or_default();
            let mut at = from;
            for _ in 0..slots {
                arrivals.push(Arrival {
                    at: at + slot.mul_f64(rng.random::<f64>()),
                    steps,
                    class: self.mix().map(|mix| mix.class(&mut rng)),
                    tenant: self.mix().map(|mix| mix.tenant(&mut rng)),
                    question: None,
                });
                at += slot;
            }
            from = from.saturating_add(lasting);
        }
        arrivals
    }

    /// Callers and the time over which they start, stretch after stretch.
    fn stretches(&self, full: f64) -> Vec<(usize, Duration)> {
        match self {
            Self::Open {
                calls_per_second,
                lasting,
            } => vec![(slots(*calls_per_second, *lasting), *lasting)],
            Self::Runs {
                runs, start_over, ..
            } => vec![(usize::try_from(*runs).unwrap_or(usize::MAX), *start_over)],
            Self::Mix(mix) => mix
                .stages
                .iter()
                .map(|stage| (slots(stage.of_quota * full, stage.lasting), stage.lasting))
                .collect(),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float-to-int casts saturate, and validation bounds the product"
)]
fn slots(calls_per_second: f64, lasting: Duration) -> usize {
    (calls_per_second * lasting.as_secs_f64()).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    #[test]
    fn an_open_load_asks_once_in_every_slot() {
        let load = Load::Open {
            calls_per_second: 20.0,
            lasting: Duration::from_secs(180),
        };
        let drawn = load.draw(1, 0.0);
        assert_eq!(drawn.len(), 3_600);
        assert_eq!(load.calls(0.0), 3_600);
        for (slot, arrival) in (0_u32..).zip(&drawn) {
            let from = Duration::from_millis(50) * slot;
            assert!(arrival.at >= from && arrival.at <= from + Duration::from_millis(50));
        }
        assert_eq!(drawn, load.draw(1, 0.0));
        assert_ne!(drawn, load.draw(2, 0.0));
    }

    #[test]
    fn runs_may_start_all_at_once() {
        let load = Load::Runs {
            runs: 300,
            steps: 3,
            start_over: Duration::ZERO,
        };
        let drawn = load.draw(1, 0.0);
        assert_eq!((drawn.len(), load.calls(0.0)), (300, 900));
        assert!(drawn.iter().all(|a| a.at.is_zero() && a.steps == 3));
    }

    #[test]
    fn a_mix_offers_its_shares_of_the_quota_to_classes_and_tenants() {
        let class = |profile, share| Class {
            profile,
            share,
            deadline: Duration::from_secs(30),
        };
        let stage = |of_quota, seconds| Stage {
            of_quota,
            lasting: Duration::from_secs(seconds),
        };
        let mix = Mix {
            stages: vec![stage(1.2, 100), stage(0.0, 50), stage(3.0, 100)],
            classes: vec![class(Profile::Interactive, 1.0), class(Profile::Batch, 3.0)],
            tenants: 4,
            flood: 0.2,
        };
        let load = Load::Mix(mix);
        let drawn = load.draw(7, 10.0);
        assert_eq!((drawn.len(), load.calls(10.0)), (4_200, 4_200));
        assert_eq!(drawn, load.draw(7, 10.0));
        let between = |from: u64, until: u64| {
            let stretch = Duration::from_secs(from)..Duration::from_secs(until);
            drawn.iter().filter(|a| stretch.contains(&a.at)).count()
        };
        assert_eq!(
            (between(0, 100), between(100, 150), between(150, 250)),
            (1_200, 0, 3_000)
        );
        let share = |chosen: &dyn Fn(&Arrival) -> bool| {
            let chosen = u32::try_from(drawn.iter().filter(|a| chosen(a)).count()).unwrap();
            f64::from(chosen) / 4_200.0
        };
        assert!((share(&|a| a.class == Some(0)) - 0.25).abs() < 0.03);
        assert!((share(&|a| a.tenant == Some(Tenant::Flooding)) - 0.2).abs() < 0.03);
        for number in 0..4 {
            let equal = share(&|a| a.tenant == Some(Tenant::Equal(number)));
            assert!((equal - 0.2).abs() < 0.03, "{number}: {equal}");
        }
    }
}
