//! The usual latency of one target: the median of its latest successes.
//!
//! A ring of the last 256, sorted anew every 16th record. A median, since a heavy tail moves a mean
//! and one hang moves a maximum. Failure mode: a target that turned slow for good looks like a hang
//! until [`Latency::relearn`] is told otherwise.

use std::time::Duration;

use super::CircuitSettings;

const KEPT: usize = 256;
const EVERY: usize = 16;

#[derive(Debug, Clone)]
pub(super) struct Latency {
    /// Microseconds, oldest overwritten first.
    ring: Vec<u64>,
    next: usize,
    fresh: usize,
    median: Option<Duration>,
    slow_after: Duration,
}

impl Latency {
    pub(super) fn new(settings: &CircuitSettings) -> Self {
        let slow_after = settings.slow_default.max(settings.slow_floor);
        Self {
            ring: Vec::with_capacity(KEPT),
            next: 0,
            fresh: 0,
            median: None,
            slow_after,
        }
    }

    pub(super) fn record(&mut self, took: Duration, settings: &CircuitSettings) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        match self.ring.get_mut(self.next) {
            Some(oldest) => *oldest = micros,
            None => self.ring.push(micros),
        }
        self.next = (self.next + 1) % KEPT;
        self.fresh += 1;
        let known = self.ring.len() >= settings.slow_min_samples;
        if known && (self.median.is_none() || self.fresh >= EVERY) {
            self.fresh = 0;
            self.take_median(settings);
        }
    }

    /// Starts over with one latency that proved the old norm wrong.
    pub(super) fn relearn(&mut self, took: Duration, settings: &CircuitSettings) {
        *self = Self::new(settings);
        self.slow_after = self
            .slow_after
            .max(took.saturating_mul(settings.slow_multiple));
    }

    pub(super) const fn median(&self) -> Option<Duration> {
        self.median
    }

    pub(super) const fn slow_after(&self) -> Duration {
        self.slow_after
    }

    fn take_median(&mut self, settings: &CircuitSettings) {
        let mut sorted = self.ring.clone();
        let middle = sorted.len() / 2;
        let (_, median, _) = sorted.select_nth_unstable(middle);
        let median = Duration::from_micros(*median);
        self.median = Some(median);
        self.slow_after = median
            .saturating_mul(settings.slow_multiple)
            .max(settings.slow_floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_median_is_believed_from_the_hundredth_success_on() {
        let settings = CircuitSettings::default();
        let mut latency = Latency::new(&settings);
        for _ in 0..99 {
            latency.record(seconds(2), &settings);
        }
        assert_eq!(
            (latency.median(), latency.slow_after()),
            (None, seconds(30))
        );
        latency.record(seconds(2), &settings);
        assert_eq!(
            (latency.median(), latency.slow_after()),
            (Some(seconds(2)), seconds(6))
        );
    }

    #[test]
    fn the_median_follows_the_latest_and_ignores_a_tail() {
        let settings = CircuitSettings::default();
        let mut latency = Latency::new(&settings);
        for n in 0..256 {
            latency.record(seconds(if n % 10 == 0 { 600 } else { 2 }), &settings);
        }
        assert_eq!(latency.slow_after(), seconds(6));
        for _ in 0..256 {
            latency.record(seconds(5), &settings);
        }
        assert_eq!(latency.slow_after(), seconds(15));
    }

    #[test]
    fn a_very_fast_target_keeps_the_floor_and_the_longest_latency_saturates() {
        let settings = CircuitSettings::default();
        let mut latency = Latency::new(&settings);
        for _ in 0..100 {
            latency.record(Duration::from_micros(50), &settings);
        }
        assert_eq!(latency.slow_after(), settings.slow_floor);
        latency.relearn(Duration::MAX, &settings);
        assert_eq!(latency.slow_after(), Duration::MAX);
        for _ in 0..256 {
            latency.record(Duration::MAX, &settings);
        }
        assert!(latency.slow_after() > seconds(1 << 40));
    }
}
