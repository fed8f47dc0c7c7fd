//! What the provider of a scenario could serve at best: the measure that a client is held to.
//!
//! It reads the provider's own settings, which no client knows, and the mean size of a call. A client
//! that knew the provider perfectly would come close; none can do better for long.

use std::time::Duration;

use super::Scenario;
use crate::sim::{Delay, QuotaSettings, TokenRange};

/// What the limits on a scenario's first model allow.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Ideal {
    /// Calls a second, by the limit that binds.
    pub calls_per_second: f64,
    /// Calls that may come at once, before that rate counts.
    pub at_once: f64,
    /// How long a call takes that waits for nothing.
    pub own_time: Duration,
}

impl Ideal {
    /// For the calls that a scenario makes; none without a limit.
    pub(super) fn of(scenario: &Scenario) -> Option<Self> {
        let settings = &scenario.provider;
        let primary = scenario.primary();
        let model = settings.model(primary)?;
        let quota = settings.quotas.iter().find(|q| q.covers(primary))?;
        let output = mean_output(model.output_tokens, scenario.request.max_tokens);
        let service = mean(model.ttft) + output / model.tokens_per_second;
        let axes = [
            (quota.requests_per_minute, 1.0),
            (
                quota.input_tokens_per_minute,
                float(scenario.request.input_tokens),
            ),
            (quota.output_tokens_per_minute, output),
        ];
        let burst = quota.burst.as_secs_f64();
        let bounds = axes.into_iter().filter_map(|(limit, each)| {
            let calls_per_second = float(limit?) / 60.0 / each.max(1.0);
            Some((calls_per_second, (calls_per_second * burst).max(1.0)))
        });
        let (calls_per_second, at_once) = bounds
            .chain(concurrent(quota, service))
            .min_by(|one, other| one.0.total_cmp(&other.0))?;
        Some(Self {
            calls_per_second,
            at_once,
            own_time: seconds(2.0 * mean(settings.network) + service),
        })
    }

    /// The time in which so many calls that all come at once can be served.
    #[must_use]
    pub fn time_for(&self, calls: u64) -> Duration {
        let waiting = (float(calls) - self.at_once).max(0.0) / self.calls_per_second;
        seconds(waiting).saturating_add(self.own_time)
    }

    /// The calls that can be served in so much time: the inverse of [`Ideal::time_for`].
    #[must_use]
    pub fn calls_in(&self, time: Duration) -> f64 {
        let serving = time.saturating_sub(self.own_time).as_secs_f64();
        self.at_once + self.calls_per_second * serving
    }
}

/// Little's law: so many at a time, each for so long.
fn concurrent(quota: &QuotaSettings, service: f64) -> Option<(f64, f64)> {
    let most = f64::from(quota.concurrency?.limit);
    (service > 0.0).then(|| (most / service, most))
}

fn mean(delay: Delay) -> f64 {
    f64::midpoint(delay.from.as_secs_f64(), delay.to.as_secs_f64())
}

/// The mean of a uniform draw that `max_tokens` cuts.
fn mean_output(range: TokenRange, max_tokens: u64) -> f64 {
    let (from, to, most) = (float(range.from), float(range.to), float(max_tokens));
    if most >= to {
        return f64::midpoint(from, to);
    }
    if most <= from {
        return most;
    }
    let below = (most - from) / (to - from);
    below * f64::midpoint(from, most) + (1.0 - below) * most
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_binds_says_what_is_ideal() {
        let launch = Scenario::find("launch").unwrap();
        let ideal = launch.ideal().unwrap();
        assert_eq!((ideal.calls_per_second, ideal.at_once), (10.0, 10.0));
        // 300 calls: 10 at once, 29 s for the rest, and a call of 0.55 s + 45 tokens at 80 a second,
        // over a network of 10 ms each way.
        let time = ideal.time_for(300).as_secs_f64();
        assert!(
            (time - (29.0 + 0.02 + 0.55 + 45.0 / 80.0)).abs() < 1e-6,
            "{time}"
        );
        assert!((ideal.calls_in(ideal.time_for(300)) - 300.0).abs() < 1e-6);
        let mut wordy = launch;
        wordy.provider.quotas[0].output_tokens_per_minute = Some(6_000);
        assert!((wordy.ideal().unwrap().calls_per_second - 100.0 / 45.0).abs() < 1e-9);
        wordy.provider.quotas.clear();
        assert_eq!(wordy.ideal(), None);
    }

    #[test]
    fn an_answer_that_max_tokens_cuts_counts_as_cut() {
        let range = TokenRange { from: 100, to: 300 };
        assert_eq!(mean_output(range, 4_000), 200.0);
        assert_eq!(mean_output(range, 50), 50.0);
        assert_eq!(mean_output(range, 200), 175.0);
    }
}
