//! What was counted lately: a sliding window of two halves.

use std::time::Duration;

use tokio::time::Instant;

/// A count in the current span of so many milliseconds, and in the one right before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lately<const MILLIS: u64> {
    /// End of the current span.
    until: Instant,
    current: u64,
    before: u64,
}

impl<const MILLIS: u64> Lately<MILLIS> {
    const SPAN: Duration = Duration::from_millis(MILLIS);

    pub(super) fn new(now: Instant) -> Self {
        Self {
            until: now + Self::SPAN,
            current: 0,
            before: 0,
        }
    }

    /// Counts, and says what had been counted before within the last span, or up to twice that.
    pub(super) fn add(&mut self, count: u64, now: Instant) -> u64 {
        if now >= self.until {
            (self.current, self.before) = self.halves(now);
            self.until = now + Self::SPAN;
        }
        let lately = self.current.saturating_add(self.before);
        self.current = self.current.saturating_add(count);
        lately
    }

    /// What was counted within a span, the older half by the part of it that is still inside.
    #[expect(clippy::cast_precision_loss, reason = "a rate follows from it")]
    pub(super) fn about(&self, now: Instant) -> f64 {
        let (current, before) = self.halves(now);
        let span = Self::SPAN.as_secs_f64();
        let inside = if now < self.until {
            let left = self.until.duration_since(now).as_secs_f64();
            left.min(span) / span
        } else {
            let over = now.duration_since(self.until).as_secs_f64();
            1.0 - (over % span) / span
        };
        current as f64 + before as f64 * inside
    }

    /// The current span's count and the one before it, as of `now`.
    fn halves(&self, now: Instant) -> (u64, u64) {
        if now < self.until {
            (self.current, self.before)
        } else if now < self.until + Self::SPAN {
            (0, self.current)
        } else {
            (0, 0)
        }
    }
}
