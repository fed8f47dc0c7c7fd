//! What was counted lately: a sliding window of two halves.

use std::time::Duration;

use tokio::time::Instant;

/// A count in the current span, and in the one right before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lately {
    span: Duration,
    since: Instant,
    current: u64,
    before: u64,
}

impl Lately {
    pub(super) const fn new(span: Duration, now: Instant) -> Self {
        Self {
            span,
            since: now,
            current: 0,
            before: 0,
        }
    }

    pub(super) fn add(&mut self, count: u64, now: Instant) {
        let (current, before) = self.halves(now);
        if now.saturating_duration_since(self.since) >= self.span {
            self.since = now;
        }
        self.current = current.saturating_add(count);
        self.before = before;
    }

    /// What was counted within the last span, or up to twice that.
    pub(super) fn at_most(&self, now: Instant) -> u64 {
        let (current, before) = self.halves(now);
        current.saturating_add(before)
    }

    /// What was counted within a span, the older half by the part of it that is still inside.
    #[expect(clippy::cast_precision_loss, reason = "a rate follows from it")]
    pub(super) fn about(&self, now: Instant) -> f64 {
        let (current, before) = self.halves(now);
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        let span = self.span.as_secs_f64();
        let inside = 1.0 - (passed % span) / span;
        current as f64 + before as f64 * inside
    }

    /// The current span's count and the one before it, as of `now`.
    fn halves(&self, now: Instant) -> (u64, u64) {
        let passed = now.saturating_duration_since(self.since);
        if passed < self.span {
            (self.current, self.before)
        } else if passed < self.span * 2 {
            (0, self.current)
        } else {
            (0, 0)
        }
    }
}
