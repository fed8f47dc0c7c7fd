//! How long a circuit stays open: exponential by failed probes, slower while nobody waits for it,
//! floored by hints.
//!
//! A probe is somebody's call. Where calls wait for this target they pay for it gladly; where
//! another target serves them, each failed probe only makes one of them late.
//!
//! The jitter only shortens, so that a cap stays a promise; it is drawn when an interval begins,
//! and a cap that changes in mid-course scales with the same draw.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

use super::CircuitSettings;

#[derive(Debug, Clone)]
pub(super) struct OpenTimer {
    /// Interval by failed probes while calls wait, before its cap.
    interval: Duration,
    /// The same while none does.
    idle: Duration,
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
            idle: settings.open_first_idle,
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
        self.idle = settings.open_first_idle;
    }

    pub(super) fn grow(&mut self, settings: &CircuitSettings) {
        let longest = settings.open_cap_idle.max(settings.open_cap_waiting);
        let grown = |interval: Duration, growth| interval.min(longest).mul_f64(growth).min(longest);
        self.interval = grown(self.interval, settings.open_growth);
        self.idle = grown(self.idle, settings.open_growth_idle);
    }

    pub(super) fn until(&self, since: Instant, settings: &CircuitSettings) -> Instant {
        let interval = if self.pressed {
            self.interval.min(settings.open_cap_waiting)
        } else {
            self.interval.max(self.idle).min(settings.open_cap_idle)
        };
        let due = later(since, interval.mul_f64(self.kept));
        self.hinted.map_or(due, |hinted| hinted.max(due))
    }
}

/// `now + wait`, and `now` where the clock cannot say it.
pub(super) fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}
