//! How long a circuit stays open: exponential by failed probes, capped by demand, floored by hints.
//!
//! The jitter only shortens, so that a cap stays a promise; it is drawn when an interval begins,
//! and a cap that changes in mid-course scales with the same draw.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::CircuitSettings;

#[derive(Debug, Clone)]
pub(super) struct OpenTimer {
    /// Interval by failed probes and the caps that held for them, before the cap by demand.
    interval: Duration,
    /// Share of the interval that the jitter leaves.
    kept: f64,
    pub(super) hinted: Option<Instant>,
    /// Calls wait for this target and nothing else serves them.
    pub(super) pressed: bool,
}

impl OpenTimer {
    pub(super) const fn new(settings: &CircuitSettings) -> Self {
        Self {
            interval: settings.open_first,
            kept: 1.0,
            hinted: None,
            pressed: false,
        }
    }

    pub(super) fn draw(&mut self, rng: &mut impl Rng, settings: &CircuitSettings) {
        self.kept = 1.0 - settings.open_jitter * rng.random::<f64>();
    }

    pub(super) const fn restart(&mut self, settings: &CircuitSettings) {
        self.interval = settings.open_first;
    }

    pub(super) fn grow(&mut self, settings: &CircuitSettings) {
        let longest = settings.open_cap_idle.max(settings.open_cap_waiting);
        // From the interval that was kept: the many probes of those who wait must not count as if each
        // had been waited for in full, or the target is forgotten for a minute once they are served.
        self.interval = self
            .interval
            .min(self.cap(settings))
            .mul_f64(settings.open_growth)
            .min(longest);
    }

    pub(super) fn until(&self, since: Instant, settings: &CircuitSettings) -> Instant {
        let interval = self.interval.min(self.cap(settings));
        let due = later(since, interval.mul_f64(self.kept));
        self.hinted.map_or(due, |hinted| hinted.max(due))
    }

    const fn cap(&self, settings: &CircuitSettings) -> Duration {
        if self.pressed {
            settings.open_cap_waiting
        } else {
            settings.open_cap_idle
        }
    }
}

/// `now + wait`, and `now` where the clock cannot say it.
pub(super) fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
